"""Whole numbers that stand for reals."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fuzz.makers.table import Made, Value, makes

if TYPE_CHECKING:
    from benchmarks.fuzz.operators import RandomOperators


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
