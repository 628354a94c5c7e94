"""Operators that pick, join and surround elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from verifier.graph.onnx_import.context import Context, Operand, Var
from verifier.graph.onnx_import.registry import lowers


@lowers("Concat", since=4)
def concat(c: Context) -> Operand:
    """Constants among the inputs become Constant nodes; empty ones vanish."""
    values = [c.value(i) for i in range(len(c.inputs))]
    rank = len(values[0].shape)
    axis = c.axis(int(c.attr("axis", 0)), rank)
    if any(len(v.shape) != rank or _without(v.shape, axis) != _without(values[0].shape, axis) for v in values):
        raise c.wrong(f"Concat along axis {axis} of shapes {[tuple(v.shape) for v in values]}")
    return c.concat([c.x(i) for i, value in enumerate(values) if value.shape[axis] > 0] or [c.x()], axis)


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


@lowers("Split")
def split(c: Context) -> Operand | tuple[Operand, ...]:
    """One Slice per output."""
    x = c.x()
    axis = c.axis(int(c.attr("axis", 0)), x.rank)
    sizes = c.ints(1, "split")
    if sizes is None:
        count = int(c.attr("num_outputs", c.n_outputs))
        each = -(-x.shape[axis] // count)
        sizes = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    if sum(sizes) != x.shape[axis] or min(sizes) < 0 or len(sizes) != c.n_outputs:
        raise c.wrong(f"Split of {x.shape[axis]} elements into {sizes} for {c.n_outputs} outputs")
    ends = np.cumsum(sizes).tolist()
    return tuple(_range(c, x, axis, range(end - size, end)) for size, end in zip(sizes, ends, strict=True))


def _range(c: Context, x: Var, axis: int, positions: range) -> Operand:
    if not positions:
        return np.zeros([0 if a == axis else size for a, size in enumerate(x.shape)])
    return c.take(x, axis, np.asarray(positions))


@lowers("Slice")
def slice_(c: Context) -> Operand:
    """Python slices, clamped the same way, but that going backwards a start before the first element is that element; a
    negative step becomes a Take."""
    if c.opset < 10:
        starts, ends, axes, steps = c.ints(9, "starts"), c.ints(9, "ends"), c.ints(9, "axes"), None
    else:
        starts, ends, axes, steps = (c.ints(i, n) for i, n in enumerate(("starts", "ends", "axes", "steps"), start=1))
    x = c.value(0)
    if starts is None or ends is None or len(starts) != len(ends):
        raise c.wrong("starts and ends differ in length or are missing")
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if len(axes) != len(starts) or len(steps) != len(starts) or 0 in steps:
        raise c.wrong(f"axes {axes} and steps {steps} for {len(starts)} starts")
    y = x
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        axis = c.axis(axis, len(x.shape))
        first = max(start, -y.shape[axis]) if step < 0 else start
        positions = range(y.shape[axis])[slice(first, end, step)]
        if isinstance(y, Var):
            y = _range(c, y, axis, positions)
        else:
            y = np.take(y, np.asarray(positions, dtype=np.int64), axis=axis)
    return y


@lowers("Gather")
def gather(c: Context) -> Operand:
    """Constant indices of any rank: one Take, then a Reshape."""
    x = c.x()
    axis = c.axis(int(c.attr("axis", 0)), x.rank)
    indices = wrap(c, c.const(1, "indices"), x.shape[axis])
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    if indices.size == 0:
        return np.zeros(shape)
    c.guard(shape)
    return c.reshape(c.take(x, axis, indices.reshape(-1)), shape)


def wrap(c: Context, indices: np.ndarray, size: int) -> np.ndarray:
    """Indices with the negative ones counted from the end."""
    indices = indices.astype(np.int64)
    if ((indices < -size) | (indices >= size)).any():
        raise c.wrong(f"an index is out of range for {size} elements")
    return np.where(indices < 0, indices + size, indices)


def _moved(c: Context, sources: Sequence[Var], positions: np.ndarray) -> Var:
    """Elements at `positions` of all sources laid out one after the other."""
    flat = c.concat([c.reshape(x, (int(np.prod(x.shape)),)) for x in sources], 0)
    c.guard(positions.shape)
    return c.reshape(c.take(flat, 0, positions.reshape(-1)), positions.shape)


def _positions(shape: Sequence[int]) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)


@lowers("GatherElements", since=11)
def gather_elements(c: Context) -> Operand:
    """Constant indices: a Take of the flattened input."""
    x = c.x()
    axis = c.axis(int(c.attr("axis", 0)), x.rank)
    indices = wrap(c, c.const(1, "indices"), x.shape[axis])
    within = zip(indices.shape, x.shape, range(x.rank), strict=True)  # the index may be smaller off the axis
    if indices.ndim != x.rank or any(size > limit for size, limit, a in within if a != axis):
        raise c.wrong(f"indices of shape {indices.shape} for data of shape {x.shape}")
    off_axis = tuple(slice(None) if a == axis else slice(size) for a, size in enumerate(indices.shape))
    return _moved(c, [x], np.take_along_axis(_positions(x.shape)[off_axis], indices, axis))


@lowers("GatherND", since=11)
def gather_nd(c: Context) -> Operand:
    """Constant indices: a Take of the flattened input."""
    x, indices, shared = c.x(), c.const(1, "indices"), int(c.attr("batch_dims", 0))
    if not 0 <= shared < min(x.rank, indices.ndim) or indices.shape[:shared] != x.shape[:shared]:
        raise c.wrong(f"batch_dims {shared} for data of shape {x.shape} and indices of shape {indices.shape}")
    positions, lead = _positions(x.shape), x.shape[:shared]
    if not shared:
        return _moved(c, [x], positions[_tuple_index(c, indices, x.shape)])
    rows = positions.reshape(-1, *x.shape[shared:])
    each = indices.reshape(-1, *indices.shape[shared:])
    found = np.stack([row[_tuple_index(c, one, row.shape)] for row, one in zip(rows, each, strict=True)])
    return _moved(c, [x], found.reshape(*lead, *found.shape[1:]))


@lowers("ScatterND", since=11)
def scatter_nd(c: Context) -> Operand:
    """Constant indices: each update meets, or replaces, what is at its place."""
    x, indices, updates = c.x(), c.const(1, "indices"), c.x(2)
    return _scattered(c, x, _positions(x.shape)[_tuple_index(c, indices, x.shape)], updates)


@lowers("Scatter", since=9)
@lowers("ScatterElements", since=11)
def scatter_elements(c: Context) -> Operand:
    """As ScatterND, with indices along one axis."""
    x, updates = c.x(), c.x(2)
    axis = c.axis(int(c.attr("axis", 0)), x.rank)
    indices = wrap(c, c.const(1, "indices"), x.shape[axis])
    if indices.shape != updates.shape or indices.ndim != x.rank:
        raise c.wrong(f"indices of shape {indices.shape} for updates of shape {updates.shape}")
    off_axis = tuple(slice(None) if a == axis else slice(size) for a, size in enumerate(indices.shape))
    return _scattered(c, x, np.take_along_axis(_positions(x.shape)[off_axis], indices, axis), updates)


def _scattered(c: Context, x: Var, targets: np.ndarray, updates: Var) -> Operand:
    """x with `updates` at the positions `targets`, one round for each time that a place is met again."""
    if targets.shape != updates.shape:
        raise c.wrong(f"updates of shape {updates.shape}, expected {targets.shape}")
    reduction = c.attr("reduction", "none")
    flat, rank = targets.reshape(-1), np.zeros(targets.size, np.int64)
    order = np.argsort(flat, kind="stable")
    same = np.concatenate([[False], flat[order][1:] == flat[order][:-1]]) if flat.size else np.zeros(0, bool)
    count = np.arange(len(same)) - np.maximum.accumulate(np.where(same, 0, np.arange(len(same))))
    rank[order] = count
    rounds = int(rank.max(initial=-1)) + 1
    if reduction not in _MEETS and reduction != "none":
        raise c.wrong(f"reduction {reduction!r} is unknown")
    if rounds > _ROUNDS:
        raise c.refuse(f"an element that is met {rounds} times; supported are {_ROUNDS}")
    new = c.reshape(updates, (updates.size,))
    for turn in range(rounds):
        here = np.flatnonzero(rank == turn)
        part = c.take(new, 0, here)
        if reduction != "none":
            old = c.take(c.reshape(x, (x.size,)), 0, flat[here])
            part = _MEETS[reduction](c, old, part)
        positions = _positions(x.shape)
        positions.reshape(-1)[flat[here]] = np.arange(len(here)) + positions.size
        x = _moved(c, [x, part], positions)
    return x


_ROUNDS = 64
_MEETS: dict[str, Callable[[Context, Var, Var], Var]] = {
    "add": lambda c, old, new: c.binary("Add", old, new),
    "mul": lambda c, old, new: c.product(old, new),
    "max": lambda c, old, new: c.binary("Add", old, c.unary("Relu", c.binary("Sub", new, old))),
    "min": lambda c, old, new: c.binary("Sub", old, c.unary("Relu", c.binary("Sub", old, new))),
}


def _tuple_index(c: Context, indices: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, ...]:
    if indices.ndim == 0 or not 1 <= indices.shape[-1] <= len(shape):
        raise c.wrong(f"indices of shape {indices.shape} for data of shape {tuple(shape)}")
    return tuple(wrap(c, indices[..., axis], shape[axis]) for axis in range(indices.shape[-1]))


@lowers("Pad", since=2)
def pad(c: Context) -> Operand:
    """Constant padding as Pad and Shift; reflect, edge and wrap as Take."""
    x = c.x()
    mode, value = c.attr("mode", "constant"), c.scalar(2, "value", 0.0)
    before, after = _pad_counts(c, x.rank)
    if mode == "constant":
        y = c.pad(x, before, after)
        if value == 0 or y is x:
            return y
        inside = [np.zeros(max(0, n + min(b, 0) + min(a, 0))) for n, b, a in zip(x.shape, before, after, strict=True)]
        border = np.zeros([len(one) for one in inside])
        counts = [(max(0, b), max(0, a)) for b, a in zip(before, after, strict=True)]
        return c.shift(y, np.pad(border, counts, constant_values=value))
    if mode not in ("reflect", "edge", "wrap"):
        raise c.refuse(f"mode {mode!r}")
    for axis, (b, a) in enumerate(zip(before, after, strict=True)):
        positions = np.arange(x.shape[axis])[max(0, -b) : x.shape[axis] - max(0, -a)]
        if len(positions) == 0 or (mode == "reflect" and max(a, b) >= len(positions)):
            raise c.refuse(f"{mode} padding by {b} and {a} of {x.shape[axis]} elements")
        c.guard((*x.shape[:axis], len(positions) + max(b, 0) + max(a, 0), *x.shape[axis + 1 :]))
        if b or a:
            x = c.take(x, axis, np.pad(positions, (max(0, b), max(0, a)), mode=mode))
    return x


def _pad_counts(c: Context, rank: int) -> tuple[list[int], list[int]]:
    counts = c.ints(1, "pads")
    axes = c.ints(3, "axes") if c.has(3) else list(range(rank))
    if counts is None or axes is None or len(counts) != 2 * len(axes):
        raise c.wrong(f"pads {counts} for {rank} axes")
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        axis = c.axis(axis, rank)
        before[axis], after[axis] = counts[index], counts[index + len(axes)]
    return before, after


@lowers("Trilu", since=14)
def trilu(c: Context) -> Operand:
    """Multiplication with a mask."""
    x = c.x()
    if x.rank < 2:
        raise c.wrong("Trilu needs a matrix")
    k = int(c.scalar(1, "k", 0))
    mask = np.ones(x.shape[-2:])
    return c.scale(x, np.triu(mask, k) if c.flag("upper", True) else np.tril(mask, k))
