"""How boxes of a family are bounded and split: zonotopes, and as many halvings at once as the bound says are needed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.sizes import size_on
from verifier.search.bab import SearchMethod
from verifier.search.domains import DomainBatch, join
from verifier.search.halving import narrowed
from verifier.search.memory import Memory, step_bytes
from verifier.search.policy import Parts
from verifier.search.zonotope import BATCH
from verifier.semantic.conditions import CellBounds
from verifier.semantic.family import Family, bound_cells
from verifier.tolerance import LEAST, NARROWEST

MOST_HALVINGS = 4
"""Most halvings of a box at once."""

MAX_DEPTH = 48


def batch_size(family: Family, given: int | None) -> int:
    """Boxes per step: what was asked for, or what suits the device."""
    return given or size_on(family.device, BATCH)


def memory_of(family: Family, limit: int | None) -> Memory:
    """What a search may take, and an estimate of what a box takes."""
    values = family.twin.exact.widest * (family.inputs + 3)
    return Memory.of(family.device, limit, step_bytes(values, family.twin.fast.dtype))


@dataclass(frozen=True, eq=False)
class KnownCells:
    """What is known about the boxes `alive` (A,) of a batch: `cells`."""

    alive: Tensor
    cells: CellBounds

    def select(self, keep: Tensor) -> KnownCells:
        """The boxes named by a mask."""
        return KnownCells(self.alive[keep], self.cells.select(keep))


@dataclass(eq=False)
class Verdicts(SearchMethod[KnownCells]):
    """See `bab.SearchMethod`: a search for verdicts."""

    family: Family

    def bound(self, batch: DomainBatch) -> KnownCells:
        """See `SearchMethod`."""
        cells = bound_cells(self.family, batch.lower, batch.upper, batch.query)
        open_ = (~(cells.worst > 0)).nonzero()[:, 0]
        return KnownCells(open_, cells.select(open_))

    def points(self, boxes: DomainBatch, known: KnownCells) -> tuple[Tensor, Tensor]:
        """The corner where the linear part of the critical row is least, and the centre."""
        cells = known.cells
        row = cells.slopes.gather(1, cells.critical[:, None, None].expand(-1, 1, boxes.lower.shape[1]))[:, 0]
        corner = torch.where(row > 0, boxes.lower, boxes.upper)
        return torch.cat([corner, (boxes.lower + boxes.upper) / 2]), boxes.query.repeat(2)

    def clip(self, boxes: DomainBatch, known: KnownCells) -> tuple[DomainBatch, KnownCells]:
        """See `SearchMethod`."""
        lower, upper = known.cells.clip(boxes.lower, boxes.upper)
        keep = (lower <= upper).all(1)
        return narrowed(boxes, lower, upper, known.cells.worst).select(keep), known.select(keep)

    def split(self, batch: DomainBatch, boxes: DomainBatch, known: KnownCells) -> Parts:
        """Halves the boxes; those that have become too thin for that are given up."""
        count = halvings(known.cells, boxes.upper - boxes.lower)
        stuck = [boxes.select(slice(0, 0))]
        while len(boxes) and bool((count > 0).any()):
            due = count.amax(1) > 0
            dimension = count.argmax(1)
            index = dimension[:, None]
            low, high = boxes.lower.gather(1, index)[:, 0], boxes.upper.gather(1, index)[:, 0]
            middle = low + (high - low) / 2
            thick = (middle > low) & (middle < high) & (boxes.depth < MAX_DEPTH)
            stuck.append(boxes.select(due & ~thick))
            cut, rest = due & thick, ~due
            left = count.scatter_add(1, index, torch.full_like(index, -1))[cut]
            boxes = join([boxes.select(rest), boxes.select(cut).split(dimension[cut], middle[cut])])
            count = torch.cat([count[rest], left, left])
        return Parts(boxes, join(stuck))


def halvings(bounds: CellBounds, width: Tensor) -> Tensor:
    """How often to halve each input of B boxes, (B, d): as often as the critical row seems to need.

    Halving every input once divides its noise by about four and its linear part by two. Let m be the row's value at the
    centre, v its linear variation, n its noise: with |m| > v the noise alone has to fall below |m| - v; otherwise the
    sign changes somewhere in the box, and it is split until noise is no longer what decides.
    """
    pick = bounds.critical[:, None]
    noise = bounds.noise.gather(1, pick)[:, 0]
    middle = bounds.middle.gather(1, pick)[:, 0]
    d = width.shape[1]
    swing = bounds.slopes.abs().gather(1, pick[:, :, None].expand(-1, 1, d))[:, 0].sum(1)
    target = torch.where(middle.abs() > swing, middle.abs() - swing, 0.5 * (middle.abs() + swing)).clamp(min=LEAST)
    rounds = torch.log2((noise / target).clamp(min=1.0, max=1e6)) / 2
    count = (rounds * d).ceil().clamp(1, MOST_HALVINGS).nan_to_num(nan=1.0, posinf=MOST_HALVINGS).to(torch.int64)
    # the next halving always goes to the input with the most blame left
    blame = torch.nan_to_num(bounds.blame, nan=0.0, posinf=1e300) * (width > 0) + NARROWEST * width
    result = torch.zeros(len(count), d, dtype=torch.int64, device=width.device)
    for step in range(int(count.max()) if len(count) else 0):
        most = blame.argmax(1, keepdim=True)
        more = (count > step)[:, None]
        result.scatter_add_(1, most, more.to(torch.int64))
        blame = blame.scatter(1, most, blame.gather(1, most) * 0.4)
    return result
