"""The open set: batches of boxes. The only place that keeps boxes that are not being worked on, or moves them."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.search.domains import DomainBatch, join
from verifier.search.memory import CPU


class OpenSet:
    """Boxes still to be settled, last in first out by batch; inside a batch the least hopeful ones come out first.

    Depth first keeps the set small (its size grows with depth, not with the number of boxes); the order inside the
    batch sends the search for counterexamples where the bound is worst.

    Boxes lie on `device`, where they are computed with. Where that has memory of its own, of which open boxes may take
    `share` bytes (None: no limit), the oldest batches, which will be needed last, move to `storage` when the share is
    full, and come back when they are popped. Where both are the same, nothing moves. (The moves between a GPU and the
    host are the same `DomainBatch.to`, but were not run where the tests run: there both ends are host memory.)
    """

    def __init__(
        self,
        first: DomainBatch,
        device: torch.device,
        share: int | None = None,
        storage: torch.device | None = None,
    ) -> None:
        self._device = device
        self._storage = torch.device("cpu") if storage is None else storage
        self._share = share if self._storage != device else None
        self._stack: list[DomainBatch] = []
        self._aside: list[DomainBatch] = []
        self._empty = first.select(slice(0, 0)).to(device)
        self._count = 0
        self._moved = 0  # batches at the bottom of the stack that lie in `storage`
        self._bytes = [0, 0]  # on the device, in storage
        if len(first):
            away = self._share is not None and first.bytes > self._share
            self._stack, self._count, self._moved = [first.to(self._storage if away else device)], len(first), int(away)
            self._bytes[away] = first.bytes

    def __len__(self) -> int:
        return self._count

    @property
    def on_device(self) -> int:
        """Bytes of the boxes that lie on the device."""
        return self._bytes[0]

    @property
    def stored(self) -> int:
        """Bytes of the boxes that have moved to host memory."""
        return self._bytes[1]

    def push(self, batch: DomainBatch) -> None:
        """Adds boxes. Where memory runs out, the set is as it was."""
        if len(batch):
            batch = batch.select(batch.score.argsort(descending=True))
            self._make_room(batch.bytes)
            self.put_back(batch)

    def put_back(self, batch: DomainBatch) -> None:
        """Adds boxes that were popped; needs no memory."""
        if len(batch):
            self._stack.append(batch)
            self._count += len(batch)
            self._bytes[0] += batch.bytes

    def pop(self, size: int, wanted: Tensor | None = None) -> DomainBatch:
        """Takes up to `size` boxes, onto the device; of queries that are not `wanted` (Q,) none, they are laid aside:
        what is not wanted is not wanted later. Where memory runs out, the set is as it was."""
        while self._count:
            batch = self._pop(size)
            if wanted is None:
                return batch
            try:
                mask = wanted[batch.query]
                if bool(mask.all()):
                    return batch
                mine, other = batch.select(mask), batch.select(~mask).to(self._storage)
            except BaseException:
                self.put_back(batch)
                raise
            self._aside.append(other)
            if len(mine):
                return mine
        return self._empty

    def _pop(self, size: int) -> DomainBatch:
        parts, taken, position = [], 0, len(self._stack)
        rest = None
        while position and taken < size:
            position -= 1
            top = self._stack[position]
            room = size - taken
            if len(top) > room:
                rest = top.select(slice(0, len(top) - room)).compact()
                top = top.select(slice(len(top) - room, len(top)))
            parts.append(top.to(self._device))
            taken += len(top)
        batch = join(parts)
        gone = self._stack[position:]
        away = max(0, self._moved - position)
        kept = [] if rest is None else [rest]
        self._stack[position:] = kept
        self._count -= taken
        self._bytes[1] -= sum(part.bytes for part in gone[:away])
        self._bytes[0] -= sum(part.bytes for part in gone[away:])
        self._moved = min(self._moved, position + len(kept))
        for part in kept:
            self._bytes[self._moved > position] += part.bytes
        return batch

    def rest(self) -> DomainBatch | None:
        """Everything that is left, what was laid aside included, or None; in host memory where part of it is there."""
        held = self._aside + self._stack
        if not held:
            return None
        return join([part.to(self._storage) for part in held] if self._moved or self._aside else held)

    def _make_room(self, more: int) -> None:
        while self._share is not None and self._bytes[0] + more > self._share and self._moved < len(self._stack):
            part = self._stack[self._moved]
            self._stack[self._moved] = part.to(self._storage)
            self._moved += 1
            self._bytes[0] -= part.bytes
            self._bytes[1] += part.bytes


class LargestFirst:
    """Boxes still to be settled, the shallowest first, in the order in which they came: any moment is a good one to
    stop. Boxes of `deepest` splits stay. Otherwise like an `OpenSet` that lies in host memory."""

    on_device = 0

    def __init__(self, first: DomainBatch, device: torch.device, deepest: int) -> None:
        self._device, self._deepest, self._boxes = device, deepest, first.to(CPU)

    def __len__(self) -> int:
        return len(self._boxes)

    @property
    def stored(self) -> int:
        """Bytes of the boxes."""
        return self._boxes.bytes

    def push(self, batch: DomainBatch) -> None:
        """Adds boxes."""
        self._boxes = join([self._boxes, batch.to(CPU)])

    def put_back(self, batch: DomainBatch) -> None:
        """Adds boxes that were popped, in front of all others."""
        self._boxes = join([batch.to(CPU), self._boxes])

    def pop(self, size: int, wanted: Tensor | None = None) -> DomainBatch:
        """Takes up to `size` boxes of the least depth, of queries that are `wanted` (Q,); see `OpenSet.pop`."""
        held = self._boxes
        usable = held.depth < self._deepest
        if wanted is not None:
            usable &= wanted.to(CPU)[held.query]
        usable &= held.depth == (held.depth[usable].min() if bool(usable.any()) else -1)
        usable &= usable.cumsum(0) <= size
        batch = held.select(usable).to(self._device)
        self._boxes = held.select(~usable)
        return batch

    def rest(self) -> DomainBatch | None:
        """Everything that is left, or None."""
        return self._boxes if len(self._boxes) else None
