"""`DomainBatch`: B open sub-boxes as one frozen value of tensors, each with the query it belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DomainBatch:
    """`lower`, `upper` (B, n); `query` (B,) int64; `share` (B,) the part of its query's volume; `score` (B,) the best
    known lower bound of the property (positive would be proven), -inf before the first bound; `depth` (B,)."""

    lower: Tensor
    upper: Tensor
    query: Tensor
    share: Tensor
    score: Tensor
    depth: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def _fields(self) -> tuple[Tensor, ...]:
        return self.lower, self.upper, self.query, self.share, self.score, self.depth

    def select(self, index: Tensor | slice) -> DomainBatch:
        """The boxes named by a mask, an index tensor or a slice."""
        return DomainBatch(*(t[index] for t in self._fields()))

    def to(self, device: torch.device) -> DomainBatch:
        """The same boxes on another device."""
        return DomainBatch(*(t.to(device) for t in self._fields()))

    def narrowed(self, lower: Tensor, upper: Tensor, share: Tensor, score: Tensor) -> DomainBatch:
        """Same boxes with other bounds, volume shares and scores."""
        return DomainBatch(lower, upper, self.query, share, score, self.depth)

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
        )


def join(parts: list[DomainBatch]) -> DomainBatch:
    """Batches one after the other."""
    if len(parts) == 1:
        return parts[0]
    return DomainBatch(*(torch.cat(fields) for fields in zip(*(p._fields() for p in parts), strict=True)))
