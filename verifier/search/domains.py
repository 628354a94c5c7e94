"""`DomainBatch`: B open subproblems as one frozen value of tensors, each with the query it belongs to.

A subproblem is a box, and possibly a list of neurons that have been decided by splitting: entry +(k + 1) says that
the argument of neuron k (see `Network.arguments`) is >= its split point there, -(k + 1) that it is <= it, and 0 is
padding. The split point of a ReLU is 0. The points of the subproblem are the points of the box where all of that holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DomainBatch:
    """`lower`, `upper` (B, n); `query` (B,) int64; `share` (B,) the part of its query's volume (a neuron split counts
    as half); `score` (B,) the best known lower bound of the property (positive would be proven), -inf before the
    first bound; `depth` (B,); `signs` (B, D) int64, the decided neurons; `points` (B, D) float64 their split points, or
    (B, 0) where all are 0. What not every search needs is (B, 0)
    elsewhere: where neurons are split (`search/neurons.py`), `clause` (B, 1) is the one clause asked for, `alpha`
    (B, U) uint8 and `beta` (B, D') are the parent's slopes and multipliers, to start from; `state` (B, S) float64 is
    what children inherit: in networks of one hidden layer (`search/shallow`), and where neurons are split, the lower,
    then the upper ends of clipped intervals (all subproblems have them, or none: they must not be padded); `cell` (B,
    2 n) are the dyadic levels and indices of a cell whose area is to be exact (`semantic/grid`); `node` (B, 1) is the
    number of the subproblem in a proof's tree, where one is written (see `proof/`)."""

    lower: Tensor
    upper: Tensor
    query: Tensor
    share: Tensor
    score: Tensor
    depth: Tensor
    signs: Tensor
    points: Tensor
    clause: Tensor
    alpha: Tensor
    beta: Tensor
    node: Tensor
    state: Tensor
    cell: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def _fields(self) -> tuple[Tensor, ...]:
        return tuple(getattr(self, f.name) for f in fields(self))

    @property
    def bytes(self) -> int:
        """What the boxes take in memory; a part of a larger batch counts as if it stood alone."""
        return sum(min(t.numel() * t.element_size(), t.untyped_storage().nbytes()) for t in self._fields())

    def compact(self) -> DomainBatch:
        """The same boxes, copied where they keep more than twice their size in memory."""
        used = self.lower.numel() * self.lower.element_size()
        if 2 * used >= self.lower.untyped_storage().nbytes():
            return self
        return DomainBatch(*(t.clone() for t in self._fields()))

    def select(self, index: Tensor | slice) -> DomainBatch:
        """The boxes named by a mask, an index tensor or a slice."""
        return DomainBatch(*pick(self._fields(), index))

    def to(self, device: torch.device) -> DomainBatch:
        """The same boxes on another device."""
        return DomainBatch(*(t.to(device) for t in self._fields()))

    def split(self, dimension: Tensor, at: Tensor) -> DomainBatch:
        """Two children each, (2 B): box b is cut at `at[b]` in coordinate `dimension[b]`, lower halves first."""
        index = dimension[:, None]
        low, high = self.lower.gather(1, index)[:, 0], self.upper.gather(1, index)[:, 0]
        part = ((at - low) / (high - low)).clamp(0, 1)
        none = torch.empty(len(self), 0, dtype=self.lower.dtype, device=self.lower.device)
        return replace(
            replace(self, lower=none, upper=none)._twice(),
            lower=torch.cat([self.lower, self.lower.scatter(1, index, at[:, None])]),
            upper=torch.cat([self.upper.scatter(1, index, at[:, None]), self.upper]),
            share=torch.cat([self.share * part, self.share * (1 - part)]),
        )

    def split_neuron(self, neuron: Tensor, at: Tensor | None = None) -> DomainBatch:
        """Two children each, (2 B): neuron `neuron[b]` decided to be <= `at[b]` in the first half, >= in the second;
        without `at` the split point is 0."""
        both, entry = self._twice(), torch.cat([-(neuron + 1), neuron + 1])[:, None]
        points = both.points
        if at is not None:
            points = F.pad(points, (0, both.signs.shape[1] - points.shape[1]))
            points = torch.cat([points, at.repeat(2)[:, None]], 1)
        return replace(both, share=both.share / 2, signs=torch.cat([both.signs, entry], 1), points=points)

    def _twice(self) -> DomainBatch:
        """Two of each, one level deeper: all first ones, then all second ones."""
        both = join([self, self])
        return replace(both, depth=both.depth + 1)


def pick(fields: Iterable[Tensor], index: Tensor | slice) -> tuple[Tensor, ...]:
    """Rows of several tensors, named by a mask, an index tensor or a slice; a mask is read once for all of them."""
    if isinstance(index, slice):
        return tuple(t[index] for t in fields)
    rows = index.nonzero()[:, 0] if index.dtype == torch.bool else index
    return tuple(t.new_empty(len(rows), 0) if _empty(t) else t.index_select(0, rows) for t in fields)


def _empty(t: Tensor) -> bool:
    """Whether a field is one that this search does not use: nothing is to be copied then."""
    return t.dim() == 2 and t.shape[1] == 0


def join(parts: list[DomainBatch]) -> DomainBatch:
    """Batches one after the other; lists of signs and multipliers are padded with 0 to the longest.

    Raises:
        ValueError: some inherit what others do not have: where intervals are inherited, 0 is an end.
    """
    if len(parts) == 1:
        return parts[0]
    widths = {part.state.shape[1] for part in parts}
    if len(widths) > 1 and min(widths) == 0:
        raise ValueError(f"states of boxes of one search: found widths {sorted(widths)}, expected all empty or none")
    count = sum(map(len, parts))
    return DomainBatch(
        *(
            same[0].new_empty(count, 0) if all(map(_empty, same)) else torch.cat(padded(list(same)))
            for same in zip(*(p._fields() for p in parts), strict=True)
        )
    )


def padded(parts: list[Tensor]) -> list[Tensor]:
    """Tensors (B,) or (B, D) with the same D."""
    if parts[0].dim() == 1 or len({p.shape[1] for p in parts}) == 1:
        return parts
    most = max(p.shape[1] for p in parts)
    return [F.pad(p, (0, most - p.shape[1])) for p in parts]


def whole(lower: Tensor, upper: Tensor) -> DomainBatch:
    """One undivided box per query: `lower`, `upper` (Q, n)."""
    q, device = len(lower), lower.device
    none = torch.zeros(q, 0, dtype=torch.int64, device=device)
    return DomainBatch(
        lower=lower,
        upper=upper,
        query=torch.arange(q, device=device),
        share=torch.ones(q, dtype=torch.float64, device=device),
        score=torch.full((q,), -torch.inf, dtype=lower.dtype, device=device),
        depth=torch.zeros(q, dtype=torch.int64, device=device),
        signs=none,
        points=none.double(),
        clause=none,
        alpha=none.to(torch.uint8),
        beta=none.float(),
        node=none,
        state=none.double(),
        cell=none,
    )
