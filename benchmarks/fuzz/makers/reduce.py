"""Reductions, indices of extremes and running sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fuzz.makers.table import Made, Value, makes

if TYPE_CHECKING:
    from benchmarks.fuzz.operators import RandomOperators


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
