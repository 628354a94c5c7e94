"""Operators that rename, pick, join and surround elements."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.fuzz.makers.table import Made, Value, makes

if TYPE_CHECKING:
    from benchmarks.fuzz.operators import RandomOperators


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
            [
                (a, b),
                (0, 2**31 - 1),
                (-1, -(2**31)),
                (a, 2**63 - 1 if r.opset >= 10 else 2**31 - 1),
                (n - 1, -n - 1),
                (-n - 2, -(2**31)),
            ]
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


@makes("Shape")
def shape(r: RandomOperators, v: Value, op: str) -> Made:
    return (
        op,
        [v.name],
        r.pick([{}, {"start": 1}, {"start": -1}, {"end": -1}, {"start": 0, "end": 1}]) if r.opset >= 15 else {},
        1,
    )
