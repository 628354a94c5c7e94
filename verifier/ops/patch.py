"""Parts of values: the elements that a row over a few neighbouring elements of a picture can reach further back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.graph.ir import Shape

Spans = tuple[tuple[int, int], ...]
"""First element and the one after the last, on each axis."""


@dataclass(frozen=True, eq=False)
class Patch:
    """Some elements of a value of shape `whole`: those of a `box`, or, where that is None, those at the flat places
    `listed` (m,), each once. A tensor over the part has the shape `shape` behind its leading axes."""

    whole: Shape
    box: Spans | None
    listed: Tensor | None = None

    @staticmethod
    def of_all(whole: Shape) -> Patch:
        """Every element."""
        return Patch(whole, tuple((0, size) for size in whole))

    @cached_property
    def shape(self) -> Shape:
        """(m,) where the places are listed."""
        if self.box is None:
            assert self.listed is not None
            return (len(self.listed),)
        return tuple(stop - start for start, stop in self.box)

    @property
    def size(self) -> int:
        """Its number of elements."""
        return math.prod(self.shape)

    @cached_property
    def full(self) -> bool:
        """Whether it is a box of all elements."""
        return self.box is not None and self.shape == self.whole

    @cached_property
    def places(self) -> Tensor:
        """The flat places of its elements in the value, (m,), on the host."""
        if self.listed is not None:
            return self.listed
        return torch.arange(math.prod(self.whole)).view(self.whole)[self._slices].flatten()

    @cached_property
    def ranges(self) -> Spans:
        """The smallest box around it."""
        if self.box is not None or not self.whole:
            return self.box or ()
        at = np.unravel_index(self.places.cpu().numpy(), self.whole)  # PyTorch's imports sympy
        return tuple((int(axis.min()), int(axis.max()) + 1) for axis in at)

    @property
    def _slices(self) -> tuple[slice, ...]:
        return tuple(slice(start, stop) for start, stop in self.ranges)

    def select(self, flat: Tensor) -> Tensor:
        """Of tensors (.., size of the value) the elements of the part: (.., m)."""
        if self.full:
            return flat
        if self.box is None:
            return flat.index_select(-1, self.places.to(flat.device))
        return flat.unflatten(-1, self.whole)[..., *self._slices].flatten(-len(self.whole))

    def within(self, outer: Patch, rows: Tensor) -> Tensor:
        """Rows (.., *shape) over this part as rows over one that it lies in, with zeros."""
        if self is outer or (self.box is not None and self.box == outer.box):
            return rows
        lead = rows.shape[: rows.dim() - len(self.shape)]
        if self.box is None or outer.box is None:
            at = torch.full((math.prod(self.whole),), -1)
            at[outer.places] = torch.arange(outer.size)
            wide = rows.new_zeros(*lead, outer.size)
            wide.index_copy_(-1, at[self.places].to(rows.device), rows.flatten(len(lead)))
            return wide.view(*lead, *outer.shape)
        ends = zip(self.box, outer.box, strict=True)
        beside = [(start - first, last - stop) for (start, stop), (first, last) in ends]
        return F.pad(rows, [size for pair in reversed(beside) for size in pair])

    def everywhere(self, rows: Tensor) -> Tensor:
        """Rows (.., *shape) as rows over all of the value, with zeros: (.., *whole)."""
        return self.within(Patch.of_all(self.whole), rows)

    def union(self, other: Patch) -> Patch:
        """One that both lie in: the smallest box around them, if they are not the same."""
        if self is other or (self.box is not None and self.box == other.box):
            return self
        ends = zip(self.ranges, other.ranges, strict=True)
        return Patch(self.whole, tuple((min(a, c), max(b, d)) for (a, b), (c, d) in ends))


FILLED = 8
"""A chunk of few rows costs as much as one that is filled to this part."""


class Tiling(NamedTuple):
    """Parts that make up a value; multiply-adds of a row over one of them, about; the most elements it has anywhere."""

    parts: tuple[Patch, ...]
    work: float
    widest: int

    def chunk(self, elements: int) -> int:
        """How many elements' rows, both sides of each, have about as many as `elements` elements."""
        return max(1, elements // (4 * self.widest))

    def cost(self, rows: int, elements: int) -> float:
        """Of `rows` rows, in multiply-adds, about."""
        chunk = self.chunk(elements)
        chunks = max(len(self.parts), rows / chunk)
        return self.work * (rows + chunks * chunk / FILLED)


def clipped(rows: Tensor, ranges: Spans, whole: Shape) -> tuple[Tensor, Patch]:
    """Rows (M, *T) over a box that may reach out of a value of shape `whole`, without what lies outside; at least one
    element is left on each axis."""
    inside = tuple((min(max(a, 0), size - 1), max(min(b, size), 1)) for (a, b), size in zip(ranges, whole, strict=True))
    kept = tuple((a, max(a + 1, b)) for a, b in inside)
    part = Patch(whole, kept)
    if any(a >= size or b <= 0 for (a, b), size in zip(ranges, whole, strict=True)):
        return rows.new_zeros(len(rows), *part.shape), part
    cut = (slice(k - a, m - a) for (k, m), (a, _) in zip(kept, ranges, strict=True))
    return rows[(slice(None), *cut)], part
