"""Normalizations and Softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks.fuzz.makers.table import Made, Value, makes

if TYPE_CHECKING:
    from benchmarks.fuzz.operators import RandomOperators


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
