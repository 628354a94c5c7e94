"""Branch and bound: pick, bound, settle, clip, try points, split, push."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from verifier.bounds.bounder import OutOfTime
from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch, join
from verifier.search.memory import CPU, Memory, attempt
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
    boxes that were still to be looked at (None: no box), `no_room` that memory for the next step was missing."""

    found: object | None
    open_share: float
    tally: Tally
    rest: DomainBatch | None
    no_room: bool = False

    @property
    def out_of_time(self) -> bool:
        """Whether boxes are left."""
        return self.rest is not None


def none_lost(boxes: DomainBatch, bounded: Bounded) -> tuple[Tensor, object | None]:
    """No box is given up early."""
    return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.query.device), None


class Record(Protocol):
    """What a search tells about its tree: see `proof.writer.ProofWriter`."""

    def inputs(self, boxes: DomainBatch, dimension: Tensor, at: Tensor, children: DomainBatch) -> DomainBatch:
        """The children of input splits, numbered."""

    def neurons(self, boxes: DomainBatch, neuron: Tensor, children: DomainBatch) -> DomainBatch:
        """The children of neuron splits, numbered."""

    def settle(self, batch: DomainBatch, settled: Tensor) -> tuple[Tensor, DomainBatch, Tensor, Tensor]:
        """Which boxes are open in the proof (only `settled` ones need be asked), the batch, clipped where that is worth
        it, scores of its inputs to split it by, and neurons (-1: none) to split instead."""

    def commit(self) -> None:
        """The step has happened."""

    def rollback(self) -> None:
        """The step has not happened."""


@dataclass(frozen=True)
class Strategy:
    """The seams of the search: how boxes are bounded, points tested, and when to stop. `attack` gets open boxes after
    every step and looks for a counterexample in them when it thinks that time has come.

    With `record` every split, clip and leaf is written to a proof: boxes are clipped as the proof can, and what does
    not hold there is split.
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
    hopeless: Callable[[DomainBatch, Bounded], tuple[Tensor, object | None]] = none_lost
    record: Record | None = None
    device: torch.device = CPU
    memory: Memory = field(default_factory=Memory)


AFTER_STUCK = 4
"""Times the boxes that it took to find one that cannot be settled: so many more are looked at."""

ATTACKED = 1024
"""Open boxes that one round of sampling and gradient descent looks at; whether one is due is the attack's to say."""


@dataclass(frozen=True, eq=False)
class _Step:
    """What one batch came to: a hit, or its children and the boxes given up (`stuck`)."""

    found: object | None
    boxes: DomainBatch
    children: DomainBatch
    stuck: DomainBatch


def search(first: DomainBatch, strategy: Strategy) -> Outcome:
    """Settles every box of `first`, or stops with what is open.

    A box leaves the open set only when it is proven, when clipping leaves nothing of it, or when it cannot be split any
    further (`stuck`: its volume stays open and the answer can no longer be `unsat`). A step that runs out of time or
    memory has not happened: its boxes go back.
    """
    memory = strategy.memory
    open_set = OpenSet(first, strategy.device, memory.device_share)
    tally = Tally(open_boxes=len(first))
    stuck_share = 0.0
    no_room = False
    most = math.inf
    while len(open_set) and not no_room and not strategy.stop() and tally.boxes < most:
        waiting = open_set.stored + (open_set.on_device if memory.shared else 0)
        size = min(strategy.batch, len(open_set), memory.boxes(waiting, open_set.on_device))
        if size == 0:
            no_room = True
            break
        try:
            done, fits = attempt(partial(_advance, open_set, size, strategy))
        except OutOfTime:
            break
        if not fits or done is None:
            no_room = not memory.halve(size)
            continue
        batch, step = done
        memory.learn(len(batch), waiting)
        tally.boxes += len(batch)
        tally.steps += 1
        if step.found is not None:
            return Outcome(step.found, 1.0, tally, None)
        children, stuck = step.children, step.stuck
        tally.stuck += len(stuck)
        if tally.stuck and math.isinf(most):
            # nothing can be proven any more; what is left may hold a counterexample, and gets a fair share of work
            most = AFTER_STUCK * tally.boxes + ATTACKED
        share, left, given_up, lower, depth = _figures(batch, step)
        stuck_share += given_up
        tally.settled += (share - left - given_up) / max(1, strategy.queries)
        tally.open_boxes = len(open_set)
        if len(children):
            found, _ = attempt(partial(strategy.attack, children.select(slice(0, ATTACKED))))
            if found is not None:
                return Outcome(found, 1.0, tally, None)
        if len(step.boxes):
            tally.lower, tally.deepest = lower, max(tally.deepest, int(depth))
        strategy.report(tally)
    rest = open_set.rest()
    if rest is not None and tally.boxes >= most:  # given up, not out of time
        tally.stuck += len(rest)
        stuck_share, rest = stuck_share + float(rest.share.sum()), None
    share = stuck_share + (float(rest.share.sum()) if rest is not None else 0.0)
    return Outcome(None, share / max(1, strategy.queries), tally, rest, no_room)


def _figures(batch: DomainBatch, step: _Step) -> list[float]:
    """Shares of a batch, its children and its stuck boxes, least score and greatest depth of what is open: the one
    read-back of a step's counters."""
    shares = [boxes.share.sum() for boxes in (batch, step.children, step.stuck)]
    open_boxes = step.boxes if len(step.boxes) else batch
    return torch.stack([*shares, open_boxes.score.min().double(), open_boxes.depth.max().double()]).tolist()


def _advance(open_set: OpenSet, size: int, strategy: Strategy) -> tuple[DomainBatch, _Step]:
    """Takes `size` boxes and puts their children back; whatever is raised, the open set holds the same boxes after."""
    batch = open_set.pop(size)
    try:
        step = _work(batch, strategy)
        if step.found is None:
            open_set.push(step.children)
    except BaseException:
        open_set.put_back(batch)
        if strategy.record is not None:
            strategy.record.rollback()
        raise
    if strategy.record is not None:
        strategy.record.commit()
    return batch, step


def _work(batch: DomainBatch, strategy: Strategy) -> _Step:
    """Bounds a batch, settles what it can, and splits the rest."""
    bounded = strategy.bound(batch)
    boxes = batch.select(bounded.alive)
    none = batch.select(slice(0, 0))
    found = strategy.try_points(*suggest(boxes, bounded))
    if found is not None:
        return _Step(found, boxes, none, none)
    if strategy.record is not None:
        settled = torch.ones(len(batch), dtype=torch.bool, device=batch.query.device)
        settled[bounded.alive] = False
        open_, cut_down, scores, neuron = strategy.record.settle(batch, settled)
        lost = (settled & open_).nonzero()[:, 0]
        again = _again(cut_down.select(lost), scores[lost], neuron[lost], strategy, strategy.record)
        keep = open_[bounded.alive]
        alive, bounded = bounded.alive[keep], bounded.select(keep)
        boxes = replace(cut_down.select(alive), score=bounded.value)
    else:
        boxes, bounded = clip(boxes, bounded)
        keep, found = strategy.settle_affine(boxes, bounded)
        if found is not None:
            return _Step(found, boxes, none, none)
        boxes, bounded = boxes.select(keep), bounded.select(keep)
    lost, found = strategy.hopeless(boxes, bounded)
    if found is not None:
        return _Step(found, boxes, none, none)
    kept = (~lost).nonzero()[:, 0]
    if len(kept) == len(boxes):
        children, stuck = divide(boxes, bounded, strategy)
    else:
        children, stuck = divide(boxes.select(kept), bounded.select(kept), strategy)
        stuck = join([stuck, boxes.select(lost)])
    if strategy.record is not None:
        children, stuck = join([children, again[0]]), join([stuck, again[1]])
    return _Step(None, boxes, children, stuck)


def _again(
    boxes: DomainBatch, scores: Tensor, neuron: Tensor, strategy: Strategy, record: Record
) -> tuple[DomainBatch, DomainBatch]:
    """The children of settled boxes that do not hold in the proof, and those that are stuck."""
    deep = boxes.depth >= strategy.max_depth
    by_neuron = (neuron >= 0) & ~deep
    chosen = boxes.select(by_neuron)
    parts = [record.neurons(chosen, neuron[by_neuron], chosen.split_neuron(neuron[by_neuron]))] if len(chosen) else []
    usable, dimension, at = cut(boxes, scores)
    usable &= ~deep & ~by_neuron
    chosen = boxes.select(usable)
    parts.append(record.inputs(chosen, dimension[usable], at[usable], chosen.split(dimension[usable], at[usable])))
    return join(parts), boxes.select(~usable & ~by_neuron)


def divide(boxes: DomainBatch, bounded: Bounded, strategy: Strategy) -> tuple[DomainBatch, DomainBatch]:
    """The children of the boxes, and the boxes that cannot be split any further.

    Neurons are split where the strategy says so and one is undecided, inputs otherwise.
    """
    boxes = replace(boxes, known=bounded.known)
    if bounded.alpha is not None and bounded.beta is not None:
        boxes = replace(boxes, alpha=bounded.alpha, beta=bounded.beta)
    deep = boxes.depth >= strategy.max_depth
    parts, rest, branch = [], boxes, bounded.branch
    record = strategy.record
    if strategy.neurons:
        by_neuron = (bounded.neuron >= 0) & ~deep
        if bool(by_neuron.any()):
            chosen, neuron = boxes.select(by_neuron), bounded.neuron[by_neuron]
            halves = chosen.split_neuron(neuron)
            parts.append(halves if record is None else record.neurons(chosen, neuron, halves))
            rest, branch, deep = boxes.select(~by_neuron), branch[~by_neuron], deep[~by_neuron]
    splittable, dimension, at = cut(rest, branch)
    splittable &= ~deep
    kept = splittable.nonzero()[:, 0]
    chosen, dimension, at = rest.select(kept), dimension.index_select(0, kept), at.index_select(0, kept)
    halves = chosen.split(dimension, at)
    parts.append(halves if record is None else record.inputs(chosen, dimension, at, halves))
    stuck = rest.select(slice(0, 0)) if len(kept) == len(rest) else rest.select(~splittable)
    return join(parts), stuck


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

    A box is split in the middle of the input with the highest score among those with a number strictly inside, and of
    the widest of several with that score: where a bound says nothing at all, all have the same.
    """
    width = boxes.upper - boxes.lower
    middle = boxes.lower + width / 2
    inside = (middle > boxes.lower) & (middle < boxes.upper)
    usable = inside.any(1)
    score = torch.nan_to_num(branch, nan=0.0).masked_fill(~inside, -1.0)
    best = score == score.amax(1, keepdim=True)
    dimension = width.masked_fill(~best, -1.0).argmax(1)
    return usable, dimension, middle.gather(1, dimension[:, None])[:, 0]
