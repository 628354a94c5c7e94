"""Every operator with random attributes and constants: what `operators` chains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import helper

if TYPE_CHECKING:
    from benchmarks.fuzz.operators import RandomOperators

Shape = tuple[int, ...]
KINDS = {
    np.dtype(one): helper.np_dtype_to_tensor_dtype(np.dtype(one))
    for one in (
        np.float32, np.float64, np.float16, np.int64, np.int32, np.int16, np.int8, np.uint8, np.uint16, np.uint32,
        np.bool_,
    )
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    name: str
    shape: Shape
    kind: np.dtype

    @property
    def real(self) -> bool:
        return self.kind.kind == "f"


Made = tuple[str, list[str], dict[str, Any], int] | None
"""Operator, inputs, attributes, how many outputs; None where it does not fit."""
MAKERS: dict[str, Callable[[RandomOperators, Value], Made]] = {}


def makes(*names: str) -> Callable[[Callable[..., Made]], Callable[..., Made]]:
    def enter(function: Callable[..., Made]) -> Callable[..., Made]:
        for name in names:
            MAKERS[name] = partial(function, op=name)
        return function

    return enter


@makes(
    "Relu",
    "Abs",
    "Neg",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Identity",
    "Not",
    "Sigmoid",
    "Tanh",
    "Exp",
    "Sin",
    "Cos",
    "Erf",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Reciprocal",
    "Log",
    "Mish",
    "HardSwish",
    "Sinh",
    "Cosh",
    "Tan",
    "Atan",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Size",
    "IsNaN",
    "Asin",
    "Acos",
    "Asinh",
    "Acosh",
    "Atanh",
)
def plain(r: RandomOperators, v: Value, op: str) -> Made:
    return op, [v.name], {}, 1


@makes("LeakyRelu", "Elu", "Celu", "ThresholdedRelu")
def alpha(r: RandomOperators, v: Value, op: str) -> Made:
    return (
        op,
        [v.name],
        r.pick(
            [
                {},
                {"alpha": 0.5},
                {"alpha": 2.0},
                {"alpha": -1.0},
                {"alpha": 1.0},
                *([{"alpha": 0.0}] if op != "Celu" else []),
            ]
        ),
        1,
    )


@makes("Selu")
def selu(r: RandomOperators, v: Value, op: str) -> Made:
    return op, [v.name], r.pick([{}, {"alpha": 0.5}, {"gamma": 2.0}, {"alpha": -1.0, "gamma": -0.5}]), 1


@makes("HardSigmoid")
def hard_sigmoid(r: RandomOperators, v: Value, op: str) -> Made:
    return op, [v.name], r.pick([{}, {"alpha": 0.5}, {"beta": 0.25}, {"alpha": -0.5, "beta": 0.0}, {"alpha": 0.0}]), 1


@makes("Shrink")
def shrink(r: RandomOperators, v: Value, op: str) -> Made:
    return (
        op,
        [v.name],
        r.pick([{}, {"lambd": 1.0}, {"lambd": 0.0, "bias": 0.5}, {"lambd": 1.0, "bias": -1.0}, {"bias": 0.25}]),
        1,
    )


@makes("Gelu")
def gelu(r: RandomOperators, v: Value, op: str) -> Made:
    return op, [v.name], r.pick([{}, {"approximate": "tanh"}]), 1


@makes("PRelu")
def prelu(r: RandomOperators, v: Value, op: str) -> Made:
    return op, [v.name, r.weight(r.numbers(r.broadcastable(v.shape, True), v.kind))], {}, 1


@makes("Clip")
def clip(r: RandomOperators, v: Value, op: str) -> Made:
    low, high = r.pick([(-1, 1), (0, 2), (1, -1), (None, 1), (0, None), (None, None), (1, 1), (-2, 0)])
    if r.opset < 11:
        return op, [v.name], {k: float(x) for k, x in (("min", low), ("max", high)) if x is not None}, 1
    names = [
        "" if one is None or (one < 0 and v.kind.kind == "u") else r.weight(np.array(one, v.kind))
        for one in (low, high)
    ]
    return op, [v.name, *names], {}, 1


@makes(
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Max",
    "Min",
    "Sum",
    "Mean",
    "Equal",
    "Greater",
    "Less",
    "GreaterOrEqual",
    "LessOrEqual",
    "And",
    "Or",
    "Xor",
    "Mod",
    "Pow",
    "BitShift",
)
def binary(r: RandomOperators, v: Value, op: str) -> Made:
    constant = r.weight(r.numbers(r.broadcastable(v.shape), v.kind))
    others = [one.name for one in (v, *r.last) if one.kind == v.kind]
    names = r.pick(
        [
            [v.name, constant],
            [constant, v.name],
            [v.name, r.pick(others)],
            [v.name, constant, r.pick(others)] if op in ("Sum", "Max", "Min", "Mean") else [v.name, constant],
        ]
    )
    attributes: dict[str, Any] = {}
    if op == "Div" and names[1] == constant:
        divisor = r.tensors[constant]
        r.tensors[constant] = np.where(divisor == 0, np.ones_like(divisor), divisor)
    if op == "Mod" and v.real:
        attributes = {"fmod": 1}
    if op == "BitShift":
        attributes = {"direction": r.pick(["LEFT", "RIGHT"])}
    if op == "Pow":
        names = [v.name, r.weight(np.array(r.pick([2, 3, 1, 0, -1, 0.5, 1.5, -2]), v.kind))]
    return op, names, attributes, 1


@makes("Where")
def where(r: RandomOperators, v: Value, op: str) -> Made:
    other = r.weight(r.numbers(r.broadcastable(v.shape), v.kind))
    if v.kind.kind == "b":
        kind = r.pick([np.float32, np.int64, np.uint8])
        parts = [r.weight(r.numbers(r.broadcastable(v.shape), kind)) for _ in range(2)]
        return op, [v.name, *parts], {}, 1
    mask = r.weight(r.numbers(r.broadcastable(v.shape), bool))
    return op, [mask, *r.pick([[v.name, other], [other, v.name], [v.name, v.name]])], {}, 1


@makes("Cast")
def cast(r: RandomOperators, v: Value, op: str) -> Made:
    to = r.pick(
        [np.float32, np.float32, np.float64, np.int64, np.int32, np.int8, np.uint8, np.uint16, np.bool_, np.float16]
    )
    return op, [v.name], {"to": KINDS[np.dtype(to)]}, 1


@makes("MatMul")
def matmul(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape:
        return None
    if r.pick([True, False]):
        shape = r.pick([(v.shape[-1], 2), (v.shape[-1],), (2, v.shape[-1], 3), (1, 1, v.shape[-1], 2)])
        return op, [v.name, r.weight(r.numbers(shape, v.kind))], {}, 1
    inner = v.shape[-2] if len(v.shape) > 1 else v.shape[-1]
    shape = r.pick([(2, inner), (inner,), (2, 3, inner)])
    return op, [r.weight(r.numbers(shape, v.kind)), v.name], {}, 1


@makes("Gemm")
def gemm(r: RandomOperators, v: Value, op: str) -> Made:
    if len(v.shape) != 2:
        return None
    a, b = r.pick([0, 1]), r.pick([0, 1])
    first = r.pick([True, True, False])
    m = 2
    attributes: dict[str, Any] = {k: x for k, x in (("transA", a), ("transB", b)) if x or r.pick([True, False])}
    attributes |= r.pick([{}, {"alpha": 0.5}, {"beta": 2.0}, {"alpha": -2.0, "beta": 0.0}, {"alpha": 0.0}])
    if first:
        rows, inner = v.shape[::-1] if a else v.shape
        other = (m, inner) if b else (inner, m)
        names, out = [v.name, r.weight(r.numbers(other, v.kind))], (rows, m)
    else:
        inner, columns = v.shape[::-1] if b else v.shape
        other = (inner, m) if a else (m, inner)
        names, out = [r.weight(r.numbers(other, v.kind)), v.name], (m, columns)
    if r.opset < 11 or r.pick([True, False]):
        names.append(r.weight(r.numbers(r.broadcastable(out, True), v.kind)))
    return op, names, attributes, 1


@makes("Conv", "ConvTranspose", "ConvInteger")
def conv(r: RandomOperators, v: Value, op: str) -> Made:
    rank = len(v.shape) - 2
    if rank < 1:
        return None
    group = r.pick([1, 1, v.shape[1]])
    kernel = [int(r.rng.integers(1, min(4, n + 2))) for n in v.shape[2:]]
    each = r.pick([1, 2])
    kind = v.kind
    if op == "ConvTranspose":
        shape = (v.shape[1], each, *kernel)
    else:
        shape = (each * group, v.shape[1] // group, *kernel)
    attributes: dict[str, Any] = {"group": group} if group > 1 or r.pick([True, False]) else {}
    if r.pick([True, False]):
        attributes["strides"] = r.rng.integers(1, 4, rank).tolist()
    if r.pick([True, False, False]):
        attributes["dilations"] = r.rng.integers(1, 3, rank).tolist()
    if r.pick([True, False]):
        attributes["kernel_shape"] = kernel
    padding = r.pick(["none", "pads", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if padding == "pads":
        attributes["pads"] = r.rng.integers(0, 3, 2 * rank).tolist()
    elif padding != "none":
        attributes["auto_pad"] = padding
    if op == "ConvTranspose" and r.pick([True, False]):
        attributes["output_padding"] = r.rng.integers(0, 2, rank).tolist()
    names = [v.name, r.weight(r.numbers(shape, kind))]
    if op == "ConvInteger":
        if r.pick([True, False]):
            names.append(r.weight(np.array(r.rng.integers(0, 4), v.kind)))
            if r.pick([True, False]):
                names.append(r.weight(r.pick([np.array(r.rng.integers(0, 4), v.kind), r.numbers((shape[0],), v.kind)])))
    elif r.pick([True, False]):
        names.append(r.weight(r.numbers((shape[0] if op == "Conv" else each * group,), kind)))
    return op, names, attributes, 1


@makes("MaxPool", "AveragePool", "LpPool")
def pool(r: RandomOperators, v: Value, op: str) -> Made:
    rank = len(v.shape) - 2
    if rank < 1:
        return None
    attributes: dict[str, Any] = {"kernel_shape": [int(r.rng.integers(1, 4)) for _ in range(rank)]}
    if r.pick([True, False]):
        attributes["strides"] = r.rng.integers(1, 4, rank).tolist()
    padding = r.pick(["none", "pads", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if padding == "pads":
        attributes["pads"] = [
            int(r.rng.integers(0, k)) for k in (*attributes["kernel_shape"], *attributes["kernel_shape"])
        ]
    elif padding != "none":
        attributes["auto_pad"] = padding
    if r.opset >= 10 and r.pick([True, False]):
        attributes["ceil_mode"] = 1
    if r.opset >= {"MaxPool": 10, "AveragePool": 19}.get(op, 99) and r.pick([True, False]):
        attributes["dilations"] = r.rng.integers(1, 3, rank).tolist()
    if op == "AveragePool" and r.pick([True, False]):
        attributes["count_include_pad"] = 1
    if op == "MaxPool" and r.pick([False, True]):
        attributes["storage_order"] = r.pick([0, 1])
    return op, [v.name], attributes, 1


@makes("BatchNormalization")
def batch_norm(r: RandomOperators, v: Value, op: str) -> Made:
    if len(v.shape) < 2:
        return None
    parts = [r.numbers((v.shape[1],), v.kind) for _ in range(4)]
    parts[3] = np.abs(parts[3])
    return op, [v.name, *map(r.weight, parts)], r.pick([{}, {"epsilon": 0.25}, {"epsilon": 1.0, "momentum": 0.5}]), 1


@makes("InstanceNormalization")
def instance_norm(r: RandomOperators, v: Value, op: str) -> Made:
    if len(v.shape) < 3:
        return None
    return (
        op,
        [v.name, *(r.weight(r.numbers((v.shape[1],), v.kind)) for _ in range(2))],
        r.pick([{}, {"epsilon": 0.25}]),
        1,
    )


@makes("LayerNormalization")
def layer_norm(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape:
        return None
    axis = int(r.rng.integers(-len(v.shape), len(v.shape)))
    names = [v.name, r.weight(r.numbers(v.shape[axis:], v.kind))]
    if r.pick([True, False]):
        names.append(r.weight(r.numbers(v.shape[axis:], v.kind)))
    return op, names, {"axis": axis, **r.pick([{}, {"epsilon": 0.25}])}, 1


@makes("LpNormalization", "Softmax", "LogSoftmax", "Hardmax")
def along(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape:
        return None
    attributes = {} if r.pick([True, False]) else {"axis": int(r.rng.integers(-len(v.shape), len(v.shape)))}
    if op == "LpNormalization" and r.pick([True, False]):
        attributes["p"] = 1
    return op, [v.name], attributes, 1


@makes("ArgMax", "ArgMin")
def arg(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape:
        return None
    attributes: dict[str, Any] = (
        {} if r.pick([True, False]) else {"axis": int(r.rng.integers(-len(v.shape), len(v.shape)))}
    )
    if r.pick([True, False]):
        attributes["keepdims"] = r.pick([0, 1])
    if r.opset >= 12 and r.pick([True, False]):
        attributes["select_last_index"] = r.pick([0, 1])
    return op, [v.name], attributes, 1


@makes("TopK")
def top_k(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape or r.opset < 10:
        return None
    attributes: dict[str, Any] = {"axis": int(r.rng.integers(-len(v.shape), len(v.shape)))}
    if r.opset >= 11:
        attributes |= r.pick([{}, {"largest": 0}, {"sorted": 0}, {"largest": 0, "sorted": 1}])
    return op, [v.name, r.weight(np.array([1]))], attributes, 2


@makes(
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceProd",
    "ReduceLogSum",
    "ReduceLogSumExp",
)
def reduce(r: RandomOperators, v: Value, op: str) -> Made:
    rank = len(v.shape)
    count = int(r.rng.integers(0, rank + 1))
    axes = [int(a) - (rank if r.rng.random() < 0.5 else 0) for a in r.rng.permutation(rank)[:count]]
    attributes: dict[str, Any] = {} if r.pick([True, False]) else {"keepdims": r.pick([0, 1])}
    as_input = r.opset >= (13 if op == "ReduceSum" else 18)
    names = [v.name]
    if as_input:
        if axes or r.pick([True, False]):
            names.append(r.weight(np.array(axes, np.int64)))
        if r.pick([True, False, False]):
            attributes["noop_with_empty_axes"] = r.pick([0, 1])
    elif axes:
        attributes["axes"] = axes
    return op, names, attributes, 1


@makes("CumSum")
def cum_sum(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape:
        return None
    axis = r.weight(np.array(r.rng.integers(-len(v.shape), len(v.shape)), np.int64))
    return op, [v.name, axis], r.pick([{}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}]), 1


@makes("Reshape")
def reshape(r: RandomOperators, v: Value, op: str) -> Made:
    size = math.prod(v.shape)
    target = r.pick([[-1], [1, -1], [size, 1], [0, -1], [-1, 1, size], [size], [1, 1, size, 1], [0, 0, -1]])
    return (
        op,
        [v.name, r.weight(np.array(target, np.int64))],
        {"allowzero": 1} if r.opset >= 14 and r.pick([True, False]) else {},
        1,
    )


@makes("Flatten")
def flatten(r: RandomOperators, v: Value, op: str) -> Made:
    return op, [v.name], r.pick([{}, {"axis": int(r.rng.integers(-len(v.shape), len(v.shape) + 1))}]), 1


@makes("Transpose")
def transpose(r: RandomOperators, v: Value, op: str) -> Made:
    return op, [v.name], r.pick([{}, {"perm": r.rng.permutation(len(v.shape)).tolist()}]), 1


@makes("Squeeze", "Unsqueeze")
def squeeze(r: RandomOperators, v: Value, op: str) -> Made:
    rank = len(v.shape)
    if op == "Squeeze":
        ones = [a for a, n in enumerate(v.shape) if n == 1]
        axes: list[int] = [a - rank if r.rng.random() < 0.5 else a for a in ones if r.rng.random() < 0.6]
        if not axes and r.pick([True, False]):
            return op, [v.name], {}, 1
    else:
        count = int(r.rng.integers(1, 3))
        axes = [int(a) for a in r.rng.permutation(rank + count)[:count]]
        axes = [a - rank - count if r.opset >= 11 and r.rng.random() < 0.5 else a for a in axes]
    if r.opset >= 13:
        return op, [v.name, r.weight(np.array(axes, np.int64))], {}, 1
    return op, [v.name], {"axes": axes}, 1


@makes("Concat")
def concat(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape:
        return None
    axis = int(r.rng.integers(-len(v.shape), len(v.shape)))
    shape = list(v.shape)
    shape[axis] = int(r.rng.integers(0, 3))
    parts = [v.name, r.weight(r.numbers(shape, v.kind)), v.name][: r.pick([1, 2, 3])]
    return op, [parts[k] for k in r.rng.permutation(len(parts))], {"axis": axis}, 1


@makes("Split")
def split(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape:
        return None
    axis = int(r.rng.integers(-len(v.shape), len(v.shape)))
    n = v.shape[axis]
    count = int(r.rng.integers(1, 4))
    attributes: dict[str, Any] = {"axis": axis} if axis or r.pick([True, False]) else {}
    if r.pick([True, False]):
        cuts = np.sort(r.rng.integers(0, n + 1, count - 1))
        sizes = np.diff([0, *cuts, n]).tolist()
        if r.opset >= 13:
            return op, [v.name, r.weight(np.array(sizes, np.int64))], attributes, count
        return op, [v.name], attributes | {"split": sizes}, count
    if r.opset >= 18:
        attributes["num_outputs"] = count
    return op, [v.name], attributes, count


@makes("Slice")
def slice_(r: RandomOperators, v: Value, op: str) -> Made:
    rank = len(v.shape)
    if not rank:
        return None
    axes = [
        int(a) - (rank if r.rng.random() < 0.5 else 0)
        for a in r.rng.permutation(rank)[: int(r.rng.integers(1, rank + 1))]
    ]
    starts, ends, steps = [], [], []
    for axis in axes:
        n = v.shape[axis]
        step = int(r.rng.choice([1, 1, 2, -1, -2, 3])) if r.opset >= 10 else 1
        a, b = int(r.rng.integers(-n - 2, n + 3)), int(r.rng.integers(-n - 2, n + 3))
        a, b = r.pick(
            [(a, b), (0, 2**31 - 1), (-1, -(2**31)), (a, 2**63 - 1 if r.opset >= 10 else 2**31 - 1), (n - 1, -n - 1)]
        )
        starts.append(a)
        ends.append(b)
        steps.append(step)
    if r.opset < 10:
        return op, [v.name], {"starts": starts, "ends": ends, "axes": axes}, 1
    kind = np.int64
    names = [v.name, r.weight(np.array(starts, kind)), r.weight(np.array(ends, kind)), r.weight(np.array(axes, kind))]
    return (
        op,
        [*names, r.weight(np.array(steps, kind))] if any(s != 1 for s in steps) or r.pick([True, False]) else names,
        {},
        1,
    )


@makes("Gather", "GatherElements")
def gather(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape:
        return None
    axis = int(r.rng.integers(-len(v.shape), len(v.shape)))
    n = v.shape[axis]
    shape = r.pick([(), (1,), (3,), (2, 2), (1, 1)])
    if op == "GatherElements":
        shape = [int(r.rng.integers(1, size + 1)) for size in v.shape]
        shape[axis] = int(r.rng.integers(1, 4))
    indices = r.rng.integers(0 if op == "Gather" and r.opset < 11 else -n, n, shape)
    kind = r.pick([np.int64, np.int32])
    return (
        op,
        [v.name, r.weight(np.asarray(indices).astype(kind))],
        r.pick([{"axis": axis}, {"axis": axis}] if axis else [{"axis": 0}, {}]),
        1,
    )


@makes("GatherND")
def gather_nd(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape:
        return None
    shared = r.pick([0, 0, 1]) if r.opset >= 12 and len(v.shape) > 1 else 0
    depth = int(r.rng.integers(1, len(v.shape) - shared + 1))
    lead = (*v.shape[:shared], *r.pick([(), (2,), (2, 1)] if not shared else [(), (2,)]))
    indices = np.stack([r.rng.integers(-n, n, lead) for n in v.shape[shared : shared + depth]], -1)
    return op, [v.name, r.weight(indices)], {"batch_dims": shared} if shared else {}, 1


@makes("ScatterND", "ScatterElements")
def scatter(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.shape:
        return None
    attributes: dict[str, Any] = {}
    if r.opset >= 18:
        attributes = r.pick(
            [{}, {"reduction": "add"}, {"reduction": "mul"}, {"reduction": "max"}, {"reduction": "min"}]
        )
    elif r.opset >= 16:
        attributes = r.pick([{}, {"reduction": "add"}, {"reduction": "mul"}])
    if op == "ScatterND":
        depth = int(r.rng.integers(1, len(v.shape) + 1))
        lead = r.pick([(1,), (2,), (3,)])
        indices = np.stack([r.rng.integers(-n, n, lead) for n in v.shape[:depth]], -1)
        shape = (*lead, *v.shape[depth:])
    else:
        axis = int(r.rng.integers(-len(v.shape), len(v.shape)))
        attributes["axis"] = axis
        shape = tuple(int(r.rng.integers(1, size + 1)) for size in v.shape)
        indices = r.rng.integers(-v.shape[axis], v.shape[axis], shape)
    if not attributes.get("reduction"):  # twice the same place without a rule is not defined
        flat = [tuple(one) for one in indices.reshape(-1, indices.shape[-1])] if op == "ScatterND" else None
        if op == "ScatterElements" and indices.size > 1:
            indices = indices.reshape(-1)[:1].reshape([1] * len(v.shape))
            shape = indices.shape
        if flat is not None and len(flat) > 1:
            indices, shape = indices[:1], (1, *shape[1:])
    updates = r.numbers(shape, v.kind)
    if r.pick([True, True, False]):
        return op, [v.name, r.weight(indices), r.weight(updates)], attributes, 1
    data = r.weight(r.numbers(v.shape, v.kind))
    if tuple(shape) != v.shape:
        return None
    return op, [data, r.weight(indices), v.name], attributes, 1


@makes("Pad")
def pad(r: RandomOperators, v: Value, op: str) -> Made:
    rank = len(v.shape)
    if not rank:
        return None
    counts = r.rng.integers(-1, 3, 2 * rank).tolist()
    mode = r.pick([None, "constant", "reflect", "edge", *(["wrap"] if r.opset >= 19 else [])])
    attributes: dict[str, Any] = {} if mode is None else {"mode": mode}
    value = r.pick([0, 1, -2])
    if r.opset < 11:
        if r.pick([True, False]):
            attributes["value"] = float(value)
        return op, [v.name], attributes | {"pads": counts}, 1
    names = [v.name]
    if r.opset >= 18 and r.pick([True, False]):
        axes = [int(a) for a in r.rng.permutation(rank)[: int(r.rng.integers(1, rank + 1))]]
        counts = r.rng.integers(-1, 3, 2 * len(axes)).tolist()
        return (
            op,
            [v.name, r.weight(np.array(counts)), r.weight(np.array(abs(value), v.kind)), r.weight(np.array(axes))],
            attributes,
            1,
        )
    names.append(r.weight(np.array(counts)))
    if r.pick([True, False]):
        names.append(r.weight(np.array(abs(value), v.kind)))
    return op, names, attributes, 1


@makes("Trilu")
def trilu(r: RandomOperators, v: Value, op: str) -> Made:
    names = [v.name]
    if r.pick([True, False]):
        names.append(r.weight(np.array(r.rng.integers(-3, 4))))
    return op, names, r.pick([{}, {"upper": 0}, {"upper": 1}]), 1


@makes("Tile", "Expand")
def tile(r: RandomOperators, v: Value, op: str) -> Made:
    if op == "Tile":
        if not v.shape:
            return None
        return op, [v.name, r.weight(r.rng.integers(1, 3, len(v.shape)))], {}, 1
    return (
        op,
        [
            v.name,
            r.weight(
                np.array(r.pick([(2, *v.shape), v.shape, tuple(2 if n == 1 else n for n in v.shape), (1,)]), np.int64)
            ),
        ],
        {},
        1,
    )


@makes("DepthToSpace", "SpaceToDepth")
def blocks(r: RandomOperators, v: Value, op: str) -> Made:
    attributes: dict[str, Any] = {"blocksize": r.pick([1, 2])}
    if op == "DepthToSpace" and r.opset >= 11:
        attributes |= r.pick([{}, {"mode": "CRD"}, {"mode": "DCR"}])
    return op, [v.name], attributes, 1


@makes("Resize", "Upsample")
def resize(r: RandomOperators, v: Value, op: str) -> Made:
    rank = len(v.shape)
    if rank < 3 or not v.real:
        return None
    scales = [1.0, 1.0, *r.rng.choice([0.5, 2.0, 1.5, 1.3, 1.0, 3.0], rank - 2).tolist()]
    if op == "Upsample":
        scales = [max(1.0, s) for s in scales]
        attributes: dict[str, Any] = r.pick([{}, {"mode": "nearest"}, {"mode": "linear"}])
        if r.opset < 9:
            return op, [v.name], attributes | {"scales": scales}, 1
        return op, [v.name, r.weight(np.array(scales, np.float32))], attributes, 1
    attributes = r.pick([{}, {"mode": "nearest"}, {"mode": "linear"}, {"mode": "cubic"}])
    if r.opset < 11:
        return (
            op,
            [v.name, r.weight(np.array(scales, np.float32))],
            {} if attributes.get("mode") == "cubic" else attributes,
            1,
        )
    if r.pick([True, True, False]):
        attributes = attributes | {
            "coordinate_transformation_mode": r.pick(
                [
                    "half_pixel",
                    "pytorch_half_pixel",
                    "align_corners",
                    "asymmetric",
                    *(["half_pixel_symmetric"] if r.opset >= 19 else []),
                ]
            )
        }
    if attributes.get("mode", "nearest") == "nearest" and r.pick([True, False]):
        attributes = attributes | {"nearest_mode": r.pick(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])}
    if attributes.get("mode") == "cubic":
        attributes = attributes | r.pick([{}, {"cubic_coeff_a": -0.5}, {"exclude_outside": 1}])
    if r.opset >= 18 and attributes.get("mode") in ("linear", "cubic") and r.pick([True, False, False]):
        attributes = attributes | {"antialias": 1}
    empty = r.weight(np.zeros(0, np.float32))
    if r.pick([True, False]):
        return op, [v.name, empty, r.weight(np.array(scales, np.float32))], attributes, 1
    sizes = [n if k < 2 else int(r.rng.integers(1, 7)) for k, n in enumerate(v.shape)]
    return op, [v.name, empty, empty if r.opset < 13 else "", r.weight(np.array(sizes, np.int64))], attributes, 1


@makes("Einsum")
def einsum(r: RandomOperators, v: Value, op: str) -> Made:
    letters = "abcde"[: len(v.shape)]
    if not letters:
        return None
    if r.pick([True, False]):
        kept = "".join(r.rng.permutation(list(letters))[: int(r.rng.integers(0, len(letters) + 1))])
        return op, [v.name], {"equation": f"{letters}->{kept}"}, 1
    shared = r.pick(list(letters))
    other = r.pick([f"{shared}z", f"z{shared}", f"{shared}", letters])
    sizes = dict(zip(letters, v.shape, strict=True)) | {"z": 2}
    weight = r.weight(r.numbers([sizes[one] for one in other], v.kind))
    both = [one for one in dict.fromkeys(letters + other)]
    kept = "".join(r.rng.permutation(both)[: int(r.rng.integers(0, len(both) + 1))])
    first = r.pick([True, False])
    left = f"{letters},{other}" if first else f"{other},{letters}"
    return (
        op,
        [v.name, weight] if first else [weight, v.name],
        {"equation": r.pick([f"{left}->{kept}", f"{left} -> {kept}", left])},
        1,
    )


@makes("Shape")
def shape(r: RandomOperators, v: Value, op: str) -> Made:
    return (
        op,
        [v.name],
        r.pick([{}, {"start": 1}, {"start": -1}, {"end": -1}, {"start": 0, "end": 1}]) if r.opset >= 15 else {},
        1,
    )


@makes("QuantizeLinear")
def quantize(r: RandomOperators, v: Value, op: str) -> Made:
    if not v.real:
        return None
    kind = r.pick([np.uint8, np.int8])
    if r.opset >= 13 and v.shape and r.pick([True, False]):
        axis = int(r.rng.integers(-len(v.shape), len(v.shape)))
        n = v.shape[axis]
        scale = np.abs(r.numbers((n,), v.kind)) + np.array(0.5, v.kind)
        return op, [v.name, r.weight(scale), r.weight(r.numbers((n,), kind))], {"axis": axis}, 1
    names = [v.name, r.weight(np.array(r.pick([0.5, 1.0, 2.0, 0.25]), v.kind))]
    if r.pick([True, True, False]):
        names.append(r.weight(np.array(r.rng.integers(0, 9), kind)))
    return op, names, {}, 1


@makes("DequantizeLinear")
def dequantize(r: RandomOperators, v: Value, op: str) -> Made:
    if v.kind not in (np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.int32)):
        return None
    if r.opset >= 13 and v.shape and r.pick([True, False]):
        axis = int(r.rng.integers(-len(v.shape), len(v.shape)))
        n = v.shape[axis]
        zero = np.zeros(n, v.kind) if v.kind == np.int32 else r.numbers((n,), v.kind)
        return op, [v.name, r.weight(np.abs(r.numbers((n,))) + np.float32(0.5)), r.weight(zero)], {"axis": axis}, 1
    names = [v.name, r.weight(np.array(r.pick([0.5, 1.0, 2.0]), np.float32))]
    if v.kind != np.int32 and r.pick([True, True, False]):
        names.append(r.weight(np.array(r.rng.integers(0, 9), v.kind)))
    return op, names, {}, 1


@makes("MatMulInteger")
def matmul_integer(r: RandomOperators, v: Value, op: str) -> Made:
    if v.kind not in (np.dtype(np.uint8), np.dtype(np.int8)) or not v.shape:
        return None
    kind = r.pick([np.uint8, np.int8])
    weight = r.numbers((v.shape[-1], 2), kind)
    zeros = [
        r.weight(np.array(r.rng.integers(0, 5), v.kind)),
        r.weight(r.pick([np.array(r.rng.integers(0, 5), kind), r.numbers((2,), kind)])),
    ]
    return op, [v.name, r.weight(weight), *zeros[: r.pick([0, 1, 2])]], {}, 1


def _factor(r: RandomOperators, x: float) -> str:
    """The scale of a quantised value."""
    return r.weight(np.array(x, np.float32))


def _zero_point(r: RandomOperators, kind: np.dtype) -> str:
    """The number that stands for 0."""
    return r.weight(np.array(r.rng.integers(0, 5), kind))


@makes("QLinearMatMul")
def q_matmul(r: RandomOperators, v: Value, op: str) -> Made:
    if v.kind not in (np.dtype(np.uint8), np.dtype(np.int8)) or not v.shape:
        return None
    one, zero = partial(_factor, r), partial(_zero_point, r, v.kind)
    weight = r.numbers((v.shape[-1], 2), v.kind)
    return (
        op,
        [
            v.name,
            one(0.5),
            zero(),
            r.weight(weight),
            one(r.pick([0.5, 1.0])),
            zero(),
            one(r.pick([0.5, 1.0, 2.0])),
            zero(),
        ],
        {},
        1,
    )


@makes("QLinearConv")
def q_conv(r: RandomOperators, v: Value, op: str) -> Made:
    if v.kind not in (np.dtype(np.uint8), np.dtype(np.int8)) or len(v.shape) < 3:
        return None
    one, zero = partial(_factor, r), partial(_zero_point, r, v.kind)
    weight = r.numbers((2, v.shape[1], *[2] * (len(v.shape) - 2)), v.kind)
    attributes: dict[str, Any] = r.pick([{}, {"pads": [1] * (2 * (len(v.shape) - 2))}])
    names = [v.name, one(0.5), zero(), r.weight(weight), one(0.5), zero(), one(r.pick([0.5, 1.0])), zero()]
    if r.pick([True, False]):
        names.append(r.weight(r.rng.integers(-5, 6, 2).astype(np.int32)))
    return op, names, attributes, 1


@makes("Dropout")
def dropout(r: RandomOperators, v: Value, op: str) -> Made:
    return op, [v.name], {"ratio": 0.3} if r.opset < 12 else {}, r.pick([1, 2])


@makes("GroupNormalization")
def group_norm(r: RandomOperators, v: Value, op: str) -> Made:
    if len(v.shape) < 3 or r.opset < 18:
        return None
    n = r.pick([1, v.shape[1]])
    each = v.shape[1] if r.opset >= 21 else n
    return op, [v.name, *(r.weight(r.numbers((each,), v.kind)) for _ in range(2))], {"num_groups": n}, 1


@makes("MeanVarianceNormalization")
def mvn(r: RandomOperators, v: Value, op: str) -> Made:
    return op, [v.name], r.pick([{}, {"axes": [0]}, {"axes": list(range(len(v.shape)))}]), 1
