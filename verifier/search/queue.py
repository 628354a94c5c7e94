"""The open set: a stack of batches. The only place that keeps boxes that are not being worked on."""

from __future__ import annotations

import torch

from verifier.domains import DomainBatch, join


class OpenSet:
    """Boxes still to be settled, last in first out by batch; inside a batch the least hopeful ones come out first.

    Depth first keeps the set small (its size grows with depth, not with the number of boxes); the order inside the
    batch sends the search for counterexamples where the bound is worst.
    """

    def __init__(self, first: DomainBatch, device: torch.device) -> None:
        self._stack: list[DomainBatch] = [first.to(device)] if len(first) else []
        self._device = device
        self._count = len(first)

    def __len__(self) -> int:
        return self._count

    def push(self, batch: DomainBatch) -> None:
        """Adds boxes."""
        if len(batch):
            self._stack.append(batch.select(batch.score.argsort(descending=True)))
            self._count += len(batch)

    def pop(self, size: int) -> DomainBatch:
        """Takes up to `size` boxes."""
        parts, taken = [], 0
        while self._stack and taken < size:
            top = self._stack.pop()
            room = size - taken
            if len(top) > room:
                self._stack.append(top.select(slice(0, len(top) - room)))
                top = top.select(slice(len(top) - room, len(top)))
            parts.append(top)
            taken += len(top)
        self._count -= taken
        return join(parts)

    def rest(self) -> DomainBatch | None:
        """Everything that is left, or None."""
        return join(self._stack) if self._stack else None
