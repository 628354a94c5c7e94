"""Branch and bound: pick, bound, settle, clip, try points, split, push."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from verifier.domains import DomainBatch, join
from verifier.search.bounding import Bounded
from verifier.search.queue import OpenSet
from verifier.search.settle import shrink, shrink_all


@dataclass
class Tally:
    """What a search has done so far: the loop's own counters, read by the progress line."""

    boxes: int = 0
    steps: int = 0
    settled: float = 0.0
    lower: float = -float("inf")
    stuck: int = 0
    open_boxes: int = 0
    deepest: int = 0


@dataclass(frozen=True)
class Outcome:
    """How a search ended: `found` is what the point test returned, `open_share` the volume share still open, `rest` the
    boxes that were still to be looked at (None: no box)."""

    found: object | None
    open_share: float
    tally: Tally
    rest: DomainBatch | None

    @property
    def out_of_time(self) -> bool:
        """Whether boxes are left."""
        return self.rest is not None


@dataclass(frozen=True)
class Strategy:
    """The seams of the search: how boxes are bounded, points tested, and when to stop.

    With `proven` the search only proposes: it hands over every box that its bounds prove, whole, and neither clips
    boxes
    nor settles affine ones, so that another search can prove the proposals in a more precise arithmetic.
    """

    bound: Callable[[DomainBatch], Bounded]
    try_points: Callable[[Tensor, Tensor], object | None]
    attack: Callable[[DomainBatch], object | None]
    settle_affine: Callable[[DomainBatch, Bounded], tuple[Tensor, object | None]]
    stop: Callable[[], bool]
    report: Callable[[Tally], None]
    batch: int
    max_depth: int
    neurons: bool
    queries: int
    proven: Callable[[DomainBatch], None] | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


ATTACKED = 1024
"""Open boxes that one round of sampling and gradient descent looks at; rounds come when the number of boxes has
doubled."""


def search(first: DomainBatch, strategy: Strategy) -> Outcome:
    """Settles every box of `first`, or stops with what is open.

    A box leaves the open set only when it is proven, when clipping leaves nothing of it, or when it cannot be split any
    further (`stuck`: its volume stays open and the answer can no longer be `unsat`).
    """
    open_set = OpenSet(first, strategy.device)
    tally = Tally(open_boxes=len(first))
    stuck_share = 0.0
    next_attack = 32
    while len(open_set):
        if strategy.stop():
            break
        batch = open_set.pop(strategy.batch)
        bounded = strategy.bound(batch)
        tally.boxes += len(batch)
        tally.steps += 1
        before = float(batch.share.sum())
        boxes = batch.select(bounded.alive)
        found = strategy.try_points(*suggest(boxes, bounded))
        if found is not None:
            return Outcome(found, 1.0, tally, None)
        if strategy.proven is not None:
            settled = torch.ones(len(batch), dtype=torch.bool, device=batch.query.device)
            settled[bounded.alive] = False
            strategy.proven(batch.select(settled))
            boxes = boxes.narrowed(boxes.lower, boxes.upper, boxes.share, bounded.value)
        else:
            boxes, bounded = clip(boxes, bounded)
            keep, found = strategy.settle_affine(boxes, bounded)
            if found is not None:
                return Outcome(found, 1.0, tally, None)
            boxes, bounded = boxes.select(keep), bounded.select(keep)
        children, stuck = divide(boxes, bounded, strategy)
        tally.stuck += len(stuck)
        stuck_share += float(stuck.share.sum())
        open_set.push(children)
        tally.settled += (before - float(children.share.sum()) - float(stuck.share.sum())) / max(1, strategy.queries)
        tally.open_boxes = len(open_set)
        if len(children) and tally.boxes >= next_attack:
            next_attack = 2 * tally.boxes
            found = strategy.attack(children.select(slice(0, ATTACKED)))
            if found is not None:
                return Outcome(found, 1.0, tally, None)
        if len(boxes):
            tally.lower = float(boxes.score.min())
            tally.deepest = max(tally.deepest, int(boxes.depth.max()))
        strategy.report(tally)
    rest = open_set.rest()
    share = stuck_share + (float(rest.share.sum()) if rest is not None else 0.0)
    return Outcome(None, share / max(1, strategy.queries), tally, rest)


def divide(boxes: DomainBatch, bounded: Bounded, strategy: Strategy) -> tuple[DomainBatch, DomainBatch]:
    """The children of the boxes, and the boxes that cannot be split any further.

    Neurons are split where the strategy says so and one is undecided, inputs otherwise.
    """
    boxes = replace(boxes, known=bounded.known)
    deep = boxes.depth >= strategy.max_depth
    by_neuron = (bounded.neuron >= 0) & ~deep if strategy.neurons else torch.zeros_like(deep)
    parts = []
    if bool(by_neuron.any()):
        parts.append(boxes.select(by_neuron).split_neuron(bounded.neuron[by_neuron]))
    rest = boxes.select(~by_neuron)
    splittable, dimension, at = cut(rest, bounded.branch[~by_neuron])
    splittable &= ~deep[~by_neuron]
    parts.append(rest.select(splittable).split(dimension[splittable], at[splittable]))
    return join(parts), rest.select(~splittable)


def suggest(boxes: DomainBatch, bounded: Bounded) -> tuple[Tensor, Tensor]:
    """Points worth a try: where the linear row of the worst clause is least, and the centre; with their queries."""
    worst = bounded.scores.argmin(1) if len(boxes) else bounded.scores.new_zeros(0, dtype=torch.int64)
    column = bounded.low.masked_fill(bounded.clause != worst[:, None], -torch.inf).argmax(1)
    row = bounded.coefficients.gather(1, column[:, None, None].expand(-1, 1, boxes.lower.shape[1]))[:, 0]
    lowest = torch.where(row > 0, boxes.lower, boxes.upper)
    return torch.cat([lowest, (boxes.lower + boxes.upper) / 2]), boxes.query.repeat(2)


def clip(boxes: DomainBatch, bounded: Bounded) -> tuple[DomainBatch, Bounded]:
    """Boxes cut down to the hull of what the linear rows leave possible; boxes that vanish are proven."""
    lower, upper = shrink(bounded.clause, bounded.scores, bounded.low, bounded.coefficients, boxes.lower, boxes.upper)
    if bounded.sign_constant.shape[1]:
        lower, upper = shrink_all(bounded.sign_coefficients, bounded.sign_constant, lower, upper)
    keep = ~(lower > upper).any(1)
    old, new = (boxes.upper - boxes.lower), (upper - lower).clamp(min=0)
    part = torch.where(old > 0, new / old.clamp(min=torch.finfo(old.dtype).tiny), 1.0).prod(1)
    cut_down = boxes.narrowed(lower, upper, boxes.share * part, bounded.value)
    return cut_down.select(keep), bounded.select(keep)


def cut(boxes: DomainBatch, branch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where to split: (can be split (B,), dimension (B,), coordinate (B,)).

    A box is split in the middle of the input with the highest score, or of its widest input where that one has become
    too
    thin for a number to lie strictly inside.
    """
    width = boxes.upper - boxes.lower
    middle = boxes.lower + width / 2
    inside = (middle > boxes.lower) & (middle < boxes.upper)
    usable = inside.any(1)
    dimension = branch.masked_fill(~inside, -1.0).argmax(1)
    return usable, dimension, middle.gather(1, dimension[:, None])[:, 0]
