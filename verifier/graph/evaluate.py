"""The meaning of a graph, in plain numpy: the reference that importer, passes and engine are tested against.

Clarity before speed; float64 unless told otherwise. Every value carries a leading axis M of independent points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from verifier.errors import ModelError
from verifier.graph.ir import Graph, Node, Shape

Rule = Callable[..., np.ndarray]
_RULES: dict[str, Rule] = {}


def evaluate(graph: Graph, inputs: Mapping[str, np.ndarray], dtype: type = np.float64) -> dict[str, np.ndarray]:
    """All values of the graph: `inputs[name]` is (M, *S), and so is every entry of the result.

    Raises:
        ModelError: an input is missing or has another shape; an Opaque node was met.
    """
    values: dict[str, np.ndarray] = {}
    for name in graph.inputs:
        array: np.ndarray = np.asarray(inputs[name], dtype=dtype)
        if array.shape[1:] != tuple(graph.shapes[name]):
            raise ModelError(f"input '{name}' has shape {array.shape[1:]}, expected {graph.shapes[name]}")
        values[name] = array
    points = len(values[graph.inputs[0]]) if graph.inputs else 1
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            _step(node, values, graph.shapes, points, dtype)
    return values


def evaluate_nodes(nodes: Iterable[Node], shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    """Values, without a leading axis, of nodes that depend on nothing but each other."""
    values: dict[str, np.ndarray] = {}
    for node in nodes:
        _step(node, values, shapes, 1, np.float64)
    return {name: value[0] for name, value in values.items()}


def apply(node: Node, xs: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    """What one node makes of its inputs (M, *S) each, float64: (M, *shape)."""
    points = len(xs[0]) if xs else 1
    values = dict(zip(node.inputs, xs, strict=True))
    with np.errstate(all="ignore"):
        _step(node, values, {node.output: shape}, points, np.float64)
    return values[node.output]


def _step(node: Node, values: dict[str, np.ndarray], shapes: Mapping[str, Shape], points: int, dtype: type) -> None:
    rule = _RULES.get(node.op)
    if rule is None:
        raise ModelError(f"{node.source or node.output}: {node.attrs.get('op_type', node.op)} cannot be evaluated")
    params = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in node.params.items()}
    xs = [values[name] for name in node.inputs]
    shape = (points, *shapes[node.output])
    result = rule(node, params, shape, *xs)
    values[node.output] = np.broadcast_to(np.asarray(result, dtype=dtype), shape)


def _rule(*ops: str) -> Callable[[Rule], Rule]:
    def enter(function: Rule) -> Rule:
        for op in ops:
            _RULES[op] = function
        return function

    return enter


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


_UNARY: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Relu": lambda x: np.maximum(x, 0), "Abs": np.abs, "Sign": np.sign, "Floor": np.floor, "Sigmoid": sigmoid,
    "Tanh": np.tanh, "Sin": np.sin, "Cos": np.cos, "Exp": np.exp, "Log": np.log, "Sqrt": np.sqrt,
    "Reciprocal": lambda x: 1 / x, "Softplus": lambda x: np.logaddexp(x, x.dtype.type(0)), "Atan": np.arctan,
    "Erf": np.vectorize(math.erf, otypes=[np.float64]),
}  # fmt: skip
for _op, _function in _UNARY.items():
    _rule(_op)(lambda node, params, shape, x, function=_function: function(x))

_BINARY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply}
for _op, _two in _BINARY.items():
    _rule(_op)(lambda node, params, shape, x, y, function=_two: function(x, y))

_rule("LeakyRelu")(lambda node, params, shape, x: np.where(x >= 0, x, x * x.dtype.type(node.number("alpha"))))
_rule("PRelu")(lambda node, params, shape, x: np.where(x >= 0, x, x * params["slope"]))
_rule("Clip")(lambda node, params, shape, x: np.clip(x, node.number("min"), node.number("max")))
_rule("Pow")(lambda node, params, shape, x: x ** node.integer("exponent"))
_rule("Scale")(lambda node, params, shape, x: x * params["factor"])
_rule("Shift")(lambda node, params, shape, x: x + params["offset"])
_rule("Constant")(lambda node, params, shape: params["value"])
_rule("Reshape")(lambda node, params, shape, x: x.reshape(shape))
_rule("Expand")(lambda node, params, shape, x: np.broadcast_to(x, shape))
_rule("Concat")(lambda node, params, shape, *xs: np.concatenate(xs, axis=node.integer("axis") + 1))
_rule("Take")(lambda node, params, shape, x: np.take(x, params["indices"], axis=node.integer("axis") + 1))
_rule("ReduceMax")(lambda node, params, shape, x: x.max(axis=node.integer("axis") + 1))
_rule("ReduceSum")(lambda node, params, shape, x: x.sum(axis=tuple(axis + 1 for axis in node.integers("axes"))))
_rule("Transpose")(lambda node, params, shape, x: x.transpose(0, *(axis + 1 for axis in node.integers("perm"))))


@_rule("LogSumExp")
def _log_sum_exp(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    axis = node.integer("axis") + 1
    top = x.max(axis, keepdims=True)
    base = np.where(np.isfinite(top), top, x.dtype.type(0))
    return np.log(np.exp(x - base).sum(axis)) + base.squeeze(axis)


@_rule("Dense")
def _dense(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    y = x @ params["weight"].T
    return y + params["bias"] if "bias" in params else y


@_rule("Slice")
def _slice(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    axis, start, stop, step = (node.integer(name) for name in ("axis", "start", "stop", "step"))
    return x[(slice(None),) * (axis + 1) + (slice(start, stop, step),)]


@_rule("Pad")
def _pad(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    counts = zip(node.integers("before"), node.integers("after"), strict=True)
    return np.pad(x, ((0, 0), *counts))


def _last(*index: Any) -> Any:
    """An index of the last axes."""
    return (Ellipsis, *index)


def _patches(x: np.ndarray, kernel: Shape, stride: Shape, dilation: Shape) -> np.ndarray:
    """(.., *spatial) -> (.., *out, *kernel): every window of every position."""
    rank = len(kernel)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(-rank, 0)))
    steps = tuple(slice(None, None, s) for s in stride) + tuple(slice(None, None, d) for d in dilation)
    return windows[_last(*steps)]


@_rule("Conv")
def _conv(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    weight, groups = params["weight"], node.integer("groups")
    kernel = weight.shape[2:]
    rank = len(kernel)
    padding = node.integers("padding")
    x = np.pad(x, [(0, 0)] * (x.ndim - rank) + [(p, p) for p in padding])
    lead = x.shape[:2]
    x = x.reshape(math.prod(lead), *x.shape[2:])
    windows = _patches(x, kernel, node.integers("stride"), node.integers("dilation"))
    out = windows.shape[2 : 2 + rank]
    windows = np.moveaxis(windows, 1, 1 + rank)  # (B, *out, C, *kernel)
    windows = windows.reshape(len(x), math.prod(out), groups, math.prod(weight.shape[1:]))
    rows = weight.reshape(groups, -1, math.prod(weight.shape[1:]))
    y = np.matmul(windows.transpose(2, 0, 1, 3), rows.transpose(0, 2, 1)[:, None])  # (g, B, P, O/g)
    y = y.transpose(1, 0, 3, 2).reshape(*lead, weight.shape[0], *out)
    return y + params["bias"].reshape(-1, *[1] * rank) if "bias" in params else y


@_rule("ConvTranspose")
def _conv_transpose(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    """Every input element paints its kernel into the output."""
    weight, groups = params["weight"], node.integer("groups")
    stride, dilation, padding = (node.integers(name) for name in ("stride", "dilation", "padding"))
    kernel, rank = weight.shape[2:], weight.ndim - 2
    size = x.shape[3:]
    grouped = x.reshape(*x.shape[:2], groups, -1, *size)
    kernels = weight.reshape(groups, -1, *weight.shape[1:])
    channels = weight.shape[1] * groups
    room = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(size, stride, dilation, kernel, strict=True)]
    room = [max(r, o + p) for r, o, p in zip(room, shape[3:], padding, strict=True)]
    full = np.zeros((*x.shape[:2], channels, *room), dtype=x.dtype)
    for offset in np.ndindex(*kernel):
        part = np.einsum("mngi...,gio->mngo...", grouped, kernels[_last(*offset)])
        part = part.reshape(*x.shape[:2], channels, *size)
        at = tuple(
            slice(d * o, d * o + (n - 1) * s + 1, s) for d, o, n, s in zip(dilation, offset, size, stride, strict=True)
        )
        full[_last(*at)] += part
    window = [slice(p, p + n) for p, n in zip(padding, shape[3:], strict=True)]
    y = full[_last(*window)]
    return y + params["bias"].reshape(-1, *[1] * rank) if "bias" in params else y
