"""Functions of one value, and of several side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fuzz.makers.table import KINDS, Made, Value, makes
from benchmarks.fuzz.models import ARITHMETIC

if TYPE_CHECKING:
    from benchmarks.fuzz.operators import RandomOperators


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
    *ARITHMETIC,
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
        exponent = np.full(r.pick([(), (), (1,), (1, 1), (1, 1, 1)]), r.pick([2, 2, 3, 1, 0, -1, 0.5, 1.5, -2]), v.kind)
        names = [v.name, r.weight(exponent)]
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


@makes("Dropout")
def dropout(r: RandomOperators, v: Value, op: str) -> Made:
    return op, [v.name], {"ratio": 0.3} if r.opset < 12 else {}, r.pick([1, 2])
