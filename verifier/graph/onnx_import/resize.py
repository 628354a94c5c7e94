"""Resize and Upsample: a Take per axis where elements are picked, a small matrix per axis where they are weighted.

Which elements, and with which weights, is asked from ONNX Runtime: it runs the node, one axis at a time, on ramps or
on unit vectors. Positions that tie, sizes that are kept although a scale says otherwise, regions, rounding of sizes
under a policy, antialias and the coefficients of cubic interpolation are then what it computes, in its version on this
machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verifier.graph.onnx_import.context import Context, Operand, Var
from verifier.graph.onnx_import.kernel import Kernel
from verifier.graph.onnx_import.registry import lowers

_EXACT_IN_FLOAT32 = 2**24
_MOST_WORK = 2**31
"""Elements that all probes of one node may compute together."""


@dataclass(frozen=True, eq=False)
class _Node:
    """The node on an input of shape `shape`. `scales` and `sizes` are per axis of the input; one of them is None."""

    c: Context
    shape: tuple[int, ...]
    scales: tuple[float, ...] | None
    sizes: tuple[int, ...] | None
    roi: np.ndarray | None
    attributes: dict[str, Any]

    def kernel(self, outside: float = 0.0) -> Kernel:
        """Ready to be run; `outside` is the value of elements outside the region."""
        attributes = self.attributes
        if self.c.op == "Resize" and self.c.opset > 10:
            attributes = attributes | {"extrapolation_value": outside}
        return Kernel(self.c, self.arguments(np.zeros(self.shape, np.float32)), attributes)

    def arguments(self, x: np.ndarray) -> list[np.ndarray | None]:
        """The inputs of the node, in the order of its version."""
        scales = None if self.scales is None else np.asarray(self.scales, np.float32)
        sizes = None if self.sizes is None else np.asarray(self.sizes, np.int64)
        if self.c.op == "Resize" and self.c.opset > 10:
            absent = np.zeros(0, np.float32) if self.c.opset < 13 else None  # the older form of "not given"
            roi = absent if self.roi is None else self.roi
            return [x, roi, absent, sizes] if scales is None else [x, roi, scales]
        return [x] if self.c.opset < 9 else [x, scales]

    def __call__(self, kernel: Kernel, x: np.ndarray) -> np.ndarray:
        return kernel(*self.arguments(x))[0]

    def only(self, axes: Sequence[int]) -> _Node:
        """The same with one element on every other axis, left as it is."""
        kept = set(axes)
        pick = lambda values, other: tuple(v if a in kept else other for a, v in enumerate(values))  # noqa: E731
        scales = None if self.scales is None else pick(self.scales, 1.0)
        sizes = None if self.sizes is None else pick(self.sizes, 1)
        attributes = self.attributes
        if "scales" in attributes:
            attributes = attributes | {"scales": list(scales or ())}
        return replace(self, shape=pick(self.shape, 1), scales=scales, sizes=sizes, attributes=attributes)

    def scaled(self, axis: int) -> bool:
        """Whether positions on the axis may move."""
        if self.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            return True
        if self.scales is not None:
            return self.scales[axis] != 1
        assert self.sizes is not None
        return self.sizes[axis] != self.shape[axis]


@lowers("Upsample", since=7)
@lowers("Resize", since=10)
def resize(c: Context) -> Operand:
    """Every mode, as ONNX Runtime computes it; what it refuses is refused."""
    x = c.x()
    node = _read(c, x.shape)
    rng = np.random.default_rng(0)
    sample = rng.uniform(-1.0, 1.0, x.shape).astype(np.float32)
    expected = node(node.kernel(), sample)
    if expected.shape == x.shape and np.array_equal(expected, sample):
        return x
    outside = node(node.kernel(1.0), np.zeros(x.shape, np.float32)) - node(node.kernel(), np.zeros(x.shape, np.float32))
    nearest = c.attr("mode", "nearest") == "nearest"
    found: np.ndarray = sample.astype(np.float64)
    for axis in range(x.rank):
        if not node.scaled(axis):
            continue
        one = _alone(c, node, axis, expected.shape)
        if nearest:
            indices = _picked(one, axis)
            x, found = c.take(x, axis, indices), np.take(found, indices, axis)
        else:
            weight = _weights(c, one, axis)
            x, found = _weighted(c, x, axis, weight), np.moveaxis(np.moveaxis(found, axis, -1) @ weight.T, -1, axis)
    found = found * (1 - outside)
    if found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=1e-4):
        raise c.refuse("a combination of attributes that does not act on one axis at a time")
    if not outside.any():
        return x
    return c.shift(c.scale(x, 1.0 - outside), outside * float(c.attr("extrapolation_value", 0.0)))


def _read(c: Context, shape: tuple[int, ...]) -> _Node:
    """The node with everything spelled out per axis, and sizes that are within limits."""
    rank = len(shape)
    attributes = dict(c.attributes)
    if c.op == "Upsample" or c.opset == 10:
        given = c.const(1, "scales").reshape(-1).tolist() if c.has(1) else c.attr("scales")
        node = _Node(c, shape, tuple(_numbers(c, given, rank)), None, None, attributes)
    else:
        axes = [c.axis(int(axis), rank) for axis in attributes.pop("axes", None) or range(rank)]
        policy = c.attr("keep_aspect_ratio_policy", "stretch") != "stretch"
        if policy and len(axes) < rank:
            attributes["axes"] = axes
        roi = _region(c, axes, rank)
        sizes = c.ints(3, "sizes") if c.has(3) else None
        if sizes:
            full = dict(zip(axes, _numbers(c, sizes, len(axes)), strict=True))
            each = axes if policy else range(rank)
            made = tuple(int(full.get(axis, shape[axis])) for axis in each)
            node = _Node(c, shape, None, made, roi, attributes)
            most = max((full[a] / shape[a] for a in axes), default=1.0)
            c.guard([int(most * n) + 1 if policy else int(full.get(a, n)) for a, n in enumerate(shape)])
            return node
        given = c.const(2, "scales").reshape(-1).tolist() if c.has(2) else []
        full = dict(zip(axes, _numbers(c, given, len(axes)), strict=True))
        node = _Node(c, shape, tuple(float(full.get(axis, 1.0)) for axis in range(rank)), None, roi, attributes)
    assert node.scales is not None
    out = c.guard([int(np.float32(n) * np.float32(scale)) for n, scale in zip(shape, node.scales, strict=True)])
    if min(out) < 1:
        raise c.wrong(f"{c.op} of {shape} to {out}")
    return node


def _region(c: Context, axes: Sequence[int], rank: int) -> np.ndarray | None:
    """Starts and ends of the region for all axes, where it is given."""
    given = c.const(1, "roi").reshape(-1) if c.has(1) else np.zeros(0)
    if c.attr("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize":
        return None
    if len(given) != 2 * len(axes):
        raise c.wrong(f"roi has {len(given)} entries, expected {2 * len(axes)}")
    roi = np.concatenate([np.zeros(rank), np.ones(rank)]).astype(np.float32)
    for index, axis in enumerate(axes):
        roi[axis], roi[rank + axis] = given[index], given[index + len(axes)]
    return roi


def _numbers(c: Context, values: Any, count: int) -> list[Any]:
    if values is None or len(values) != count or any(not (one > 0 and np.isfinite(one)) for one in values):
        raise c.wrong(f"{values} are not {count} positive numbers")
    return list(values)


def _alone(c: Context, node: _Node, axis: int, out: Sequence[int]) -> _Node:
    """The node reduced to one axis, where positions on the axis do not depend on the others.

    They do under a policy, and where the axis keeps its size: ONNX Runtime copies what keeps all sizes.
    """
    if node.attributes.get("keep_aspect_ratio_policy", "stretch") == "stretch":
        other = [] if out[axis] != node.shape[axis] else [a for a in range(len(out)) if out[a] != node.shape[a]][:1]
        return node.only([axis, *other])
    if c.attr("mode", "nearest") != "nearest" and node.shape[axis] * int(np.prod(out)) > _MOST_WORK:
        raise c.refuse(f"keep_aspect_ratio_policy with weights for {tuple(out)}, which is too large here")
    return node


def _slice(y: np.ndarray, axis: int, at: Sequence[int]) -> np.ndarray:
    """The values along `axis` through the position `at`."""
    return y[tuple(slice(None) if a == axis else p for a, p in enumerate(at))]


def _inside(node: _Node, axis: int) -> list[int]:
    """A position whose values along `axis` are not outside on another axis."""
    zeros = np.zeros(node.shape, np.float32)
    outside = node(node.kernel(1.0), zeros) - node(node.kernel(), zeros)
    at = np.unravel_index(int(outside.argmin()), outside.shape)
    return [int(p) for p in at]


def _picked(node: _Node, axis: int) -> np.ndarray:
    """Index of the element that each output element along `axis` is."""
    size = node.shape[axis]
    if size > _EXACT_IN_FLOAT32:
        raise node.c.refuse(f"an axis of {size} elements")
    ramp = np.arange(size, dtype=np.float32).reshape([size if a == axis else 1 for a in range(len(node.shape))])
    y = node(node.kernel(), np.broadcast_to(ramp, node.shape).copy())
    return _slice(y, axis, _inside(node, axis)).astype(np.int64)


def _weights(c: Context, node: _Node, axis: int) -> np.ndarray:
    """Weights (out, in) along `axis`: the weights on all other axes sum to 1 and drop out."""
    kernel, at, rows = node.kernel(), _inside(node, axis), []
    for j in range(node.shape[axis]):
        unit = np.zeros(node.shape, np.float32)
        unit[tuple(j if a == axis else slice(None) for a in range(len(node.shape)))] = 1.0
        rows.append(_slice(node(kernel, unit), axis, at))
        c.guard((len(rows), len(rows[0])))
    return np.stack(rows, 1).astype(np.float64)


def _weighted(c: Context, x: Var, axis: int, weight: np.ndarray) -> Var:
    """A Dense along one axis."""
    perm = [*range(axis), *range(axis + 1, x.rank), axis]
    back = [*range(axis), x.rank - 1, *range(axis, x.rank - 1)]
    return c.transpose(c.dense(c.transpose(x, perm), weight), back)
