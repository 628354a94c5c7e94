"""`DomainBatch`: B open subproblems as one frozen value of tensors, each with the query it belongs to.

A subproblem is a box, and possibly a list of neurons whose sign has been decided by splitting: entry +(k + 1) says
that the argument of ReLU neuron k is >= 0 there, -(k + 1) that it is <= 0, and 0 is padding. The points of the
subproblem are the points of the box where all of that holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DomainBatch:
    """`lower`, `upper` (B, n); `query` (B,) int64; `share` (B,) the part of its query's volume (a neuron split counts
    as half); `score` (B,) the best known lower bound of the property (positive would be proven), -inf before the
    first bound; `depth` (B,); `signs` (B, D) int64, the decided neurons; `known` (B, N, 2) the best interval so far
    of every ReLU neuron's argument, which children inherit (N = 0 where that is not kept). Where neurons are split by
    alpha/beta-CROWN (`search/neurons.py`): `clause` (B, 1) the one clause asked for (else (B, 0)), `alpha` (B, U)
    uint8 and `beta` (B, D') the parent's slopes and multipliers, to start from. `node` (B, 1) is the number
    of the subproblem in a proof's tree, where one is written (see `proof/`; else (B, 0))."""

    lower: Tensor
    upper: Tensor
    query: Tensor
    share: Tensor
    score: Tensor
    depth: Tensor
    signs: Tensor
    known: Tensor
    clause: Tensor
    alpha: Tensor
    beta: Tensor
    node: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def _fields(self) -> tuple[Tensor, ...]:
        boxes = self.lower, self.upper, self.query, self.share, self.score, self.depth
        return *boxes, self.signs, self.known, self.clause, self.alpha, self.beta, self.node

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

    def narrowed(self, lower: Tensor, upper: Tensor, share: Tensor, score: Tensor) -> DomainBatch:
        """Same boxes with other bounds, volume shares and scores."""
        return replace(self, lower=lower, upper=upper, share=share, score=score)

    def split(self, dimension: Tensor, at: Tensor) -> DomainBatch:
        """Two children each, (2 B): box b is cut at `at[b]` in coordinate `dimension[b]`, lower halves first."""
        index = dimension[:, None]
        low, high = self.lower.gather(1, index)[:, 0], self.upper.gather(1, index)[:, 0]
        part = ((at - low) / (high - low)).clamp(0, 1)
        return DomainBatch(
            torch.cat([self.lower, self.lower.scatter(1, index, at[:, None])]),
            torch.cat([self.upper.scatter(1, index, at[:, None]), self.upper]),
            self.query.repeat(2),
            torch.cat([self.share * part, self.share * (1 - part)]),
            self.score.repeat(2),
            (self.depth + 1).repeat(2),
            self.signs.repeat(2, 1),
            self.known.repeat(2, 1, 1),
            self.clause.repeat(2, 1),
            self.alpha.repeat(2, 1),
            self.beta.repeat(2, 1),
            self.node.repeat(2, 1),
        )

    def split_neuron(self, neuron: Tensor) -> DomainBatch:
        """Two children each, (2 B): neuron `neuron[b]` decided to be <= 0 in the first half, >= 0 in the second."""
        entry = torch.cat([-(neuron + 1), neuron + 1])[:, None]
        return DomainBatch(
            self.lower.repeat(2, 1),
            self.upper.repeat(2, 1),
            self.query.repeat(2),
            self.share.repeat(2) / 2,
            self.score.repeat(2),
            (self.depth + 1).repeat(2),
            torch.cat([self.signs.repeat(2, 1), entry], 1),
            self.known.repeat(2, 1, 1),
            self.clause.repeat(2, 1),
            self.alpha.repeat(2, 1),
            self.beta.repeat(2, 1),
            self.node.repeat(2, 1),
        )


def pick(fields: Iterable[Tensor], index: Tensor | slice) -> tuple[Tensor, ...]:
    """Rows of several tensors, named by a mask, an index tensor or a slice; a mask is read once for all of them."""
    if isinstance(index, slice):
        return tuple(t[index] for t in fields)
    rows = index.nonzero()[:, 0] if index.dtype == torch.bool else index
    return tuple(t.index_select(0, rows) for t in fields)


def join(parts: list[DomainBatch]) -> DomainBatch:
    """Batches one after the other."""
    if len(parts) == 1:
        return parts[0]
    most = max(p.signs.shape[1] for p in parts)
    betas = max(p.beta.shape[1] for p in parts)
    padded = [
        replace(
            p,
            signs=F.pad(p.signs, (0, most - p.signs.shape[1])),
            beta=F.pad(p.beta, (0, betas - p.beta.shape[1])),
        )
        for p in parts
    ]
    return DomainBatch(*(torch.cat(fields) for fields in zip(*(p._fields() for p in padded), strict=True)))


def whole(lower: Tensor, upper: Tensor, neurons: int = 0) -> DomainBatch:
    """One undivided box per query: `lower`, `upper` (Q, n); intervals of `neurons` neurons are kept."""
    q, device = len(lower), lower.device
    return DomainBatch(
        lower,
        upper,
        torch.arange(q, device=device),
        torch.ones(q, dtype=torch.float64, device=device),
        torch.full((q,), -torch.inf, dtype=lower.dtype, device=device),
        torch.zeros(q, dtype=torch.int64, device=device),
        torch.zeros(q, 0, dtype=torch.int64, device=device),
        lower.new_tensor([-torch.inf, torch.inf]).expand(q, neurons, 2),
        torch.zeros(q, 0, dtype=torch.int64, device=device),
        torch.zeros(q, 0, dtype=torch.uint8, device=device),
        torch.zeros(q, 0, dtype=torch.float32, device=device),
        torch.zeros(q, 0, dtype=torch.int64, device=device),
    )


def outward(lower: np.ndarray, upper: np.ndarray, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Float64 boxes in another dtype, rounded so that nothing of them is lost."""
    low, high = torch.from_numpy(lower), torch.from_numpy(upper)
    if dtype == torch.float64:
        return low, high
    inf = torch.tensor(torch.inf, dtype=dtype)
    low_r, high_r = low.to(dtype), high.to(dtype)
    return (
        torch.where(low_r.double() > low, torch.nextafter(low_r, -inf), low_r),
        torch.where(high_r.double() < high, torch.nextafter(high_r, inf), high_r),
    )
