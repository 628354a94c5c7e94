"""Operators that move elements, and constants."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from verifier.graph.ir import Node, Shape
from verifier.graph.operators.row import axis_of, declare, need, same_size

_move = partial(declare, linear=True, moves=True)


def _transpose_shape(node: Node, shape: Shape) -> Shape:
    perm = node.integers("perm")
    need(sorted(perm) == list(range(len(shape))), "perm")
    return tuple(shape[axis] for axis in perm)


def _slice_shape(node: Node, shape: Shape) -> Shape:
    axis = axis_of(node, shape)
    start, stop, step = (node.integer(name) for name in ("start", "stop", "step"))
    need(0 <= start < stop <= shape[axis] and step >= 1, "range")
    return (*shape[:axis], len(range(start, stop, step)), *shape[axis + 1 :])


def _slice(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    axis, start, stop, step = (node.integer(name) for name in ("axis", "start", "stop", "step"))
    return x[(slice(None),) * (axis + 1) + (slice(start, stop, step),)]


def _take_shape(node: Node, shape: Shape) -> Shape:
    axis, indices = axis_of(node, shape), node.params["indices"]
    need(indices.ndim == 1 and indices.size > 0 and indices.min() >= 0 and indices.max() < shape[axis], "indices")
    return (*shape[:axis], len(indices), *shape[axis + 1 :])


def _pad_shape(node: Node, shape: Shape) -> Shape:
    before, after = node.integers("before"), node.integers("after")
    need(min((*before, *after, 0)) >= 0, "negative count")
    return tuple(b + n + a for n, b, a in zip(shape, before, after, strict=True))


def _pad(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    counts = zip(node.integers("before"), node.integers("after"), strict=True)
    return np.pad(x, ((0, 0), *counts))


def _concat_shape(node: Node, shape: Shape, *others: Shape) -> Shape:
    axis = axis_of(node, shape)
    rest = (*shape[:axis], *shape[axis + 1 :])
    need(all((*other[:axis], *other[axis + 1 :]) == rest for other in others), "inputs differ off the axis")
    return (*shape[:axis], shape[axis] + sum(other[axis] for other in others), *shape[axis + 1 :])


def _repeats(before: Shape, after: Shape) -> bool:
    return len(before) == len(after) and all(a in (1, b) for a, b in zip(before, after, strict=True))


def _transpose(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    return x.transpose(0, *(axis + 1 for axis in node.integers("perm")))


def _take(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    return np.take(x, params["indices"], axis=node.integer("axis") + 1)


def _concat(node: Node, params: Mapping[str, np.ndarray], shape: Shape, *xs: np.ndarray) -> np.ndarray:
    return np.concatenate(xs, axis=node.integer("axis") + 1)


def _in_place(node: Node, shape: Shape) -> bool:
    return node.integers("perm") == tuple(range(len(shape)))


def _all_in_order(node: Node, shape: Shape) -> bool:
    return bool((node.params["indices"] == np.arange(shape[node.integer("axis")])).all())


_move("Reshape", lambda node, params, shape, x: x.reshape(shape), fits=same_size)
_move("Expand", lambda node, params, shape, x: np.broadcast_to(x, shape), fits=_repeats)
_move("Transpose", _transpose, shape=_transpose_shape, attrs=("perm",), identity=_in_place)
_move("Slice", _slice, shape=_slice_shape, attrs=("axis", "start", "stop", "step"))
_move("Take", _take, shape=_take_shape, needs=("indices",), attrs=("axis",), inner=True, identity=_all_in_order)
_move("Pad", _pad, shape=_pad_shape, attrs=("before", "after"))
_move("Concat", _concat, inputs=None, shape=_concat_shape, attrs=("axis",))
declare(
    "Constant",
    lambda node, params, shape: params["value"],
    inputs=0,
    needs=("value",),
    may=("bias_error",),
    shape=lambda node: node.params["value"].shape,
    linear=True,
    picks=True,
)
