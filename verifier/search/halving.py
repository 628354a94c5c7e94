"""The usual way to work on boxes: rows of the property cut them down and say where to split; affine ones are settled
by linear programs, ties in fractions. With a proof to write, boxes are kept whole and every split is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from verifier.problem.rows import RowTable
from verifier.search.bab import SearchMethod, TryPoints
from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch, join
from verifier.search.leaf import settle_affine
from verifier.search.policy import Parts
from verifier.search.settle import shrink, shrink_all
from verifier.search.ties import Exactly, Why, hopeless, ties


@dataclass(eq=False)
class Halving(SearchMethod[Bounded]):
    """Boxes bounded by `bounds`, and halved at an input or a neuron up to `max_depth` times; ties are settled by
    `fractions`. Where only the first `own` inputs are the network's, and the others what was computed of it beforehand,
    these alone are halved, and a tie that fractions leave open is given up."""

    bounds: Callable[[DomainBatch], Bounded]
    table: RowTable
    fractions: Exactly
    max_depth: int
    own: int | None = field(default=None, kw_only=True)

    def bound(self, batch: DomainBatch) -> Bounded:
        """See `SearchMethod`."""
        return self.bounds(batch)

    def points(self, boxes: DomainBatch, known: Bounded) -> tuple[Tensor, Tensor]:
        """See `SearchMethod`."""
        return suggest(boxes, known)

    def clip(self, boxes: DomainBatch, known: Bounded) -> tuple[DomainBatch, Bounded]:
        """See `SearchMethod`."""
        return clip(boxes, known)

    def settle(
        self, boxes: DomainBatch, known: Bounded, try_points: TryPoints
    ) -> tuple[DomainBatch, Bounded, object | None]:
        """See `SearchMethod`."""
        affine, tied = self._rare(boxes, known)
        due = self.fractions.due()
        if not affine and tied is None and not due:
            return boxes, known, None
        keep, found = settle_affine(boxes, known, try_points)
        if found is not None:
            return boxes, known, found
        asked = keep & self._undecided(known, tied)
        why, points = self.fractions.refutations(boxes, known, self.table, asked, due)
        keep[list(why)] = False
        found = try_points(*points) if len(points[1]) else None
        if found is not None:
            return boxes, known, found
        kept = keep.nonzero()[:, 0]
        boxes, known = boxes.select(kept), known.select(kept)
        known, found = self._without_hope(boxes, known, try_points)
        if self.own is not None and tied is not None and known.lost is not None:
            known = replace(known, lost=known.lost | tied[kept])
        return boxes, known, found

    def _rare(self, boxes: DomainBatch, known: Bounded) -> tuple[bool, Tensor | None]:
        """Whether there are affine boxes, and which are ties, None for none: most steps have neither, and one read-back
        says so."""
        tied = ties(boxes, known, self.own)
        found = torch.stack([(known.unstable == 0).any(), tied.any()]).tolist()
        return found[0], tied if found[1] else None

    @staticmethod
    def _undecided(known: Bounded, tied: Tensor | None) -> Tensor:
        """Ties, and affine boxes: those that a linear program leaves open."""
        affine = known.unstable == 0
        return affine if tied is None else affine | tied

    def _without_hope(self, boxes: DomainBatch, known: Bounded, try_points: TryPoints) -> tuple[Bounded, object | None]:
        """What is known, with boxes that nothing can settle marked as such."""
        lost, found = hopeless(boxes, known, self.table, try_points)
        return replace(known, lost=lost), found

    def split(self, batch: DomainBatch, boxes: DomainBatch, known: Bounded) -> Parts:
        """See `SearchMethod`."""
        return divide(boxes, known, self.max_depth, own=self.own)


class Record(Protocol):
    """What a search tells about its tree: see `proof.writer.ProofWriter`."""

    def tie(self, box: DomainBatch, why: Why) -> bool:
        """Whether the proof holds what fractions prove of one box, in which these clauses are tied."""

    def inputs(self, boxes: DomainBatch, dimension: Tensor, at: Tensor, children: DomainBatch) -> DomainBatch:
        """The children of input splits, numbered."""

    def neurons(self, boxes: DomainBatch, neuron: Tensor, children: DomainBatch) -> DomainBatch:
        """The children of neuron splits, numbered."""

    def settle(self, batch: DomainBatch, asked: Tensor) -> tuple[Tensor, DomainBatch, Tensor, Tensor]:
        """Which boxes are open in the proof (only `asked` ones, which should hold, need be tried), the batch, clipped
        where that is worth it, scores of its inputs to split it by, and neurons (-1: none) to split instead."""

    def commit(self) -> None:
        """The step has happened."""

    def rollback(self) -> None:
        """The step has not happened."""


@dataclass(eq=False)
class Recorded(Halving):
    """The same, with every split, clip and leaf written to the proof `record`: boxes are clipped as the proof can, and
    what does not hold there is split."""

    record: Record
    _batch: DomainBatch = field(init=False)
    _again: tuple[DomainBatch, Tensor, Tensor] = field(init=False)
    """Settled boxes that do not hold in the proof, with scores of their inputs and neurons to split."""

    def bound(self, batch: DomainBatch) -> Bounded:
        """See `SearchMethod`."""
        self._batch = batch
        return self.bounds(batch)

    def clip(self, boxes: DomainBatch, known: Bounded) -> tuple[DomainBatch, Bounded]:
        """Writes the leaves of the batch."""
        settled = torch.ones(len(self._batch), dtype=torch.bool, device=boxes.query.device)
        settled[known.alive] = False
        asked = settled.clone()
        asked[known.alive[known.unstable == 0]] = True  # affine: a linear program decides
        open_, clipped, scores, neuron = self.record.settle(self._batch, asked)
        lost = (settled & open_).nonzero()[:, 0]
        self._again = clipped.select(lost), scores[lost], neuron[lost]
        known = known.select(open_[known.alive])
        return replace(clipped.select(known.alive), score=known.value), known

    def settle(
        self, boxes: DomainBatch, known: Bounded, try_points: TryPoints
    ) -> tuple[DomainBatch, Bounded, object | None]:
        """The linear programs of affine boxes are the proof's own."""
        affine, tied = self._rare(boxes, known)
        due = self.fractions.due()
        if affine or tied is not None or due:
            asked = self._undecided(known, tied)
            found, points = self.fractions.refutations(boxes, known, self.table, asked, due)
            keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.query.device)
            for b, why in found.items():
                keep[b] = not self.record.tie(boxes.select(slice(b, b + 1)), why)
            hit = try_points(*points) if len(points[1]) else None
            if hit is not None:
                return boxes, known, hit
            boxes, known = boxes.select(keep), known.select(keep)
        if not affine:
            return boxes, known, None
        return boxes, *self._without_hope(boxes, known, try_points)

    def split(self, batch: DomainBatch, boxes: DomainBatch, known: Bounded) -> Parts:
        """Writes the splits."""
        again, scores, neuron = self._again
        parts = [
            _halves(again, scores, neuron, again.depth >= self.max_depth, self.record),
            divide(boxes, known, self.max_depth, self.record),
        ]
        return Parts(
            join([p.children for p in parts]),
            join([p.stuck for p in parts]),
            inputs=torch.cat([p.inputs for p in parts if p.inputs is not None]),
            neurons=torch.cat([boxes.query[:0], *(p.neurons for p in parts if p.neurons is not None)]),
        )

    def commit(self) -> None:
        """See `SearchMethod`."""
        self.record.commit()

    def rollback(self) -> None:
        """See `SearchMethod`."""
        self.record.rollback()


def divide(
    boxes: DomainBatch, known: Bounded, max_depth: int, record: Record | None = None, own: int | None = None
) -> Parts:
    """The children of the boxes, and the boxes that cannot be split any further.

    Neurons are split where the bounds name one, inputs (the first `own` of them) otherwise.
    """
    if known.alpha is not None and known.beta is not None:
        boxes = replace(boxes, alpha=known.alpha, beta=known.beta)
    if known.state is not None:
        boxes = replace(boxes, state=known.state)
    deep = boxes.depth >= max_depth
    deep = deep if known.lost is None else deep | known.lost
    return _halves(boxes, known.branch, known.neuron, deep, record, known.at, own)


def _halves(
    boxes: DomainBatch,
    branch: Tensor,
    neuron: Tensor | None,
    deep: Tensor,
    record: Record | None = None,
    at: Tensor | None = None,
    own: int | None = None,
) -> Parts:
    parts, number = [], None
    if neuron is not None:
        by_neuron = (neuron >= 0) & ~deep
        mine = by_neuron.nonzero()[:, 0]
        if len(mine):
            chosen, number = boxes.select(mine), neuron.index_select(0, mine)
            halves = chosen.split_neuron(number, None if at is None else at.index_select(0, mine))
            parts.append(halves if record is None else record.neurons(chosen, number, halves))
            if len(mine) == len(boxes):
                return Parts(parts[0], boxes.select(slice(0, 0)), inputs=mine[:0], neurons=number)
            rest = (~by_neuron).nonzero()[:, 0]
            boxes, branch, deep = boxes.select(rest), branch.index_select(0, rest), deep.index_select(0, rest)
    splittable, dimension, where = cut(boxes, branch, own)
    splittable &= ~deep
    kept, chosen, stuck = splittable.nonzero()[:, 0], boxes, boxes.select(slice(0, 0))
    if len(kept) < len(boxes):
        chosen, dimension, where = boxes.select(kept), dimension.index_select(0, kept), where.index_select(0, kept)
        stuck = boxes.select(~splittable)
    halves = chosen.split(dimension, where)
    parts.append(halves if record is None else record.inputs(chosen, dimension, where, halves))
    return Parts(join(parts), stuck, inputs=dimension, neurons=number)


def suggest(boxes: DomainBatch, bounded: Bounded) -> tuple[Tensor, Tensor]:
    """Points worth a try: where the linear row of the worst clause is least, and the centre; with their queries."""
    worst = bounded.scores.argmin(1) if len(boxes) else bounded.scores.new_zeros(0, dtype=torch.int64)
    column = bounded.low.masked_fill(bounded.clause != worst[:, None], -torch.inf).argmax(1)
    row = bounded.coefficients.gather(1, column[:, None, None].expand(-1, 1, boxes.lower.shape[1]))[:, 0]
    lowest = torch.where(row > 0, boxes.lower, boxes.upper)
    return torch.cat([lowest, (boxes.lower + boxes.upper) / 2]), boxes.query.repeat(2)


def clip(boxes: DomainBatch, bounded: Bounded) -> tuple[DomainBatch, Bounded]:
    """Boxes cut down to the hull of what the linear rows leave possible; boxes that vanish are proven."""
    if not bounded.cuts:
        return replace(boxes, score=bounded.value), bounded
    lower, upper = shrink(bounded.clause, bounded.scores, bounded.low, bounded.coefficients, boxes.lower, boxes.upper)
    if bounded.sign_coefficients is not None and bounded.sign_constant is not None and bounded.sign_constant.shape[1]:
        lower, upper = shrink_all(bounded.sign_coefficients, bounded.sign_constant, lower, upper)
    cut_down = narrowed(boxes, lower, upper, bounded.value)
    kept = (lower <= upper).all(1).nonzero()[:, 0]
    return (cut_down, bounded) if len(kept) == len(boxes) else (cut_down.select(kept), bounded.select(kept))


def narrowed(boxes: DomainBatch, lower: Tensor, upper: Tensor, score: Tensor) -> DomainBatch:
    """Boxes with other bounds and the share of the volume that these leave."""
    old, new = (boxes.upper - boxes.lower), (upper - lower).clamp(min=0)
    part = torch.where(old > 0, new / old.clamp(min=torch.finfo(old.dtype).tiny), 1.0).prod(1)
    return replace(boxes, lower=lower, upper=upper, share=boxes.share * part, score=score)


def cut(boxes: DomainBatch, branch: Tensor, own: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Where to split: (can be split (B,), dimension (B,), coordinate (B,)).

    A box is split in the middle of the input with the highest score among those with a number strictly inside, and of
    the widest of several with that score: where a bound says nothing at all, all have the same. Only the first `own`
    inputs are looked at (None: all).
    """
    lower, upper, branch = boxes.lower[:, :own], boxes.upper[:, :own], branch[:, :own]
    width = upper - lower
    middle = lower + width / 2
    inside = (middle > lower) & (middle < upper)
    usable = inside.any(1)
    score = torch.nan_to_num(branch, nan=0.0).masked_fill(~inside, -1.0)
    best = score == score.amax(1, keepdim=True)
    dimension = width.masked_fill(~best, -1.0).argmax(1)
    return usable, dimension, middle.gather(1, dimension[:, None])[:, 0]
