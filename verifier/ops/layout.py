"""Operators that only move or copy elements: Reshape, Transpose, Slice, Take, Expand, Pad, Concat."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.ops.kinds import Interval, LinearOp
from verifier.ops.patch import Patch, clipped
from verifier.ops.registry import register


class Move(LinearOp):
    """All weights are 0 or 1, so |W| = W and intervals pass through bound by bound, without rounding."""

    @property
    def terms(self) -> int:
        return 0

    @property
    def adjoint_terms(self) -> int:
        return 0

    def absolute(self, *xs: Tensor) -> Tensor:
        return self.linear(*xs)

    def interval(self, *xs: Interval) -> Interval:
        return Interval(self.linear(*(x.lower for x in xs)), self.linear(*(x.upper for x in xs)))

    @cached_property
    def source(self) -> Tensor:
        """Where in the only input each element of the result is from, (|T|,), on the host (not for Pad, whose zeros
        are from nowhere)."""
        (shape,) = self.in_shapes
        device = next(iter(self.params.values())).device if self.params else None
        return self.linear(torch.arange(math.prod(shape), device=device).view(1, *shape)).flatten().cpu()

    def through(self, y: Tensor, part: Patch) -> tuple[tuple[Tensor, Patch], ...] | None:
        if len(self.in_shapes) != 1:
            return None
        (shape,), rows, places = self.in_shapes, y.reshape(len(y), part.size), self.source[part.places]
        if self.adjoint_terms:  # some results are copies of one element
            places, place = places.unique(return_inverse=True)
            rows = y.new_zeros(len(y), len(places)).index_add_(1, place.to(y.device), rows)
        return ((rows, Patch(shape, None, places)),)


@register("Reshape")
class Reshape(Move):
    """Row-major reshape to the output's shape."""

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0].reshape(xs[0].shape[0], *self.out_shape)

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return (y.reshape(y.shape[0], *self.in_shapes[0]),)


@register("Transpose")
class Transpose(Move):
    """Axes permuted by attrs perm."""

    def linear(self, *xs: Tensor) -> Tensor:
        perm = self.node.integers("perm")
        return xs[0].permute(0, *(p + 1 for p in perm))

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        perm = self.node.integers("perm")
        inverse = sorted(range(len(perm)), key=perm.__getitem__)
        return (y.permute(0, *(p + 1 for p in inverse)),)


@register("Slice")
class Slice(Move):
    """x[start:stop:step] on one axis."""

    def _index(self) -> tuple[slice, ...]:
        part = slice(*(self.node.integer(name) for name in ("start", "stop", "step")))
        return (slice(None),) * (1 + self.node.integer("axis")) + (part,)

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0][self._index()]

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        x = y.new_zeros(y.shape[0], *self.in_shapes[0])
        x[self._index()] = y
        return (x,)


@register("Take")
class Take(Move):
    """x.index_select on one axis; repeated indices add up in the adjoint."""

    @property
    def adjoint_terms(self) -> int:
        most = int(np.bincount(self.node.params["indices"]).max())
        return most if most > 1 else 0

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0].index_select(1 + self.node.integer("axis"), self.params["indices"])

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        x = y.new_zeros(y.shape[0], *self.in_shapes[0])
        return (x.index_add(1 + self.node.integer("axis"), self.params["indices"], y),)


@register("Expand")
class Expand(Move):
    """Axes of size 1 repeated to the output's shape."""

    @property
    def adjoint_terms(self) -> int:
        copies = math.prod(self.out_shape) // max(1, math.prod(self.in_shapes[0]))
        return copies if copies > 1 else 0

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0].expand(xs[0].shape[0], *self.out_shape)

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        axes = [i + 1 for i, (s, t) in enumerate(zip(self.in_shapes[0], self.out_shape, strict=True)) if s != t]
        return (y.sum(axes, keepdim=True) if axes else y,)


@register("Pad")
class Pad(Move):
    """Zeros around x; attrs before, after per axis."""

    def linear(self, *xs: Tensor) -> Tensor:
        before = self.node.integers("before")
        after = self.node.integers("after")
        flat = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
        return F.pad(xs[0], flat)

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        before = self.node.integers("before")
        inner = (slice(b, b + s) for b, s in zip(before, self.in_shapes[0], strict=True))
        return (y[(slice(None), *inner)],)

    def through(self, y: Tensor, part: Patch) -> tuple[tuple[Tensor, Patch], ...] | None:
        (shape,), outer = self.in_shapes, Patch(part.whole, part.ranges)
        before = self.node.integers("before")
        ranges = tuple((start - b, stop - b) for (start, stop), b in zip(part.ranges, before, strict=True))
        return (clipped(part.within(outer, y), ranges, shape),)


@register("Concat")
class Concat(Move):
    """Inputs side by side on attrs axis."""

    def linear(self, *xs: Tensor) -> Tensor:
        lead = max(x.shape[0] for x in xs)  # constants come with a leading axis of 1
        return torch.cat(
            [x.expand(lead, *x.shape[1:]) for x in xs],
            dim=1 + self.node.integer("axis"),
        )

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        axis = self.node.integer("axis")
        return torch.split(y, [shape[axis] for shape in self.in_shapes], dim=1 + axis)
