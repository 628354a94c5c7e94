"""Branch and bound, the one loop: pick, bound, try points, clip, settle, split, push.

What it searches is a `SearchMethod`: how boxes are bounded, cut and split. What a result means is a `Policy`: the first
counterexample ends the search, every query has a verdict of its own, or every box is kept with what it is.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from verifier.bounds.copies import in_copies
from verifier.budget import OutOfTime
from verifier.search.beside import Beside, Explored, Sharing, numbers, packed, unpacked
from verifier.search.domains import DomainBatch, join
from verifier.search.memory import CPU, Memory, attempt
from verifier.search.policy import Parts, Policy, Tally
from verifier.search.queue import LargestFirst, OpenSet

IDLE = 0.05
"""Seconds between two looks at the clock while only other processes have boxes."""

TryPoints = Callable[[Tensor, Tensor], object | None]
"""Gets points (M, n) and their queries (M,); what it returns, if anything, ends the search."""


class Known(Protocol):
    """What a bounding step says: `alive` are the positions in the batch of the boxes that it did not settle."""

    @property
    def alive(self) -> Tensor:
        """(A,) int64."""


K = TypeVar("K", bound=Known)


class SearchMethod(ABC, Generic[K]):
    """How boxes are worked on. Everything about `boxes` (B,) has B entries; nothing keeps state that a step that fails
    for want of memory would leave wrong."""

    @abstractmethod
    def bound(self, batch: DomainBatch) -> K:
        """Bounds a batch.

        Raises:
            OutOfTime: the clock said so in the middle; nothing that was computed may be used.
        """

    def points(self, boxes: DomainBatch, known: K) -> tuple[Tensor, Tensor]:
        """Points of the open boxes that are worth a try, and their queries."""
        return boxes.lower[:0], boxes.query[:0]

    def clip(self, boxes: DomainBatch, known: K) -> tuple[DomainBatch, K]:
        """The open boxes, cut down to where a violation can still be; those that vanish are settled."""
        return boxes, known

    def settle(self, boxes: DomainBatch, known: K, try_points: TryPoints) -> tuple[DomainBatch, K, object | None]:
        """The boxes that are still open after a closer look at some, and what a point test of it found."""
        return boxes, known, None

    @abstractmethod
    def split(self, batch: DomainBatch, boxes: DomainBatch, known: K) -> Parts:
        """What becomes of the batch, `boxes` of which are still open."""

    def commit(self) -> None:
        """The step has happened."""

    def rollback(self) -> None:
        """The step has not happened: its boxes will be looked at again."""


@dataclass(frozen=True)
class SearchLimits:
    """How much a search may take: `batch` boxes per step and `memory`, on `device`; `stop` ends it, `report` hears of
    every step, `parted` of what it made of its boxes, `checkpoint` gets the counters and what tells the boxes that are
    left. As many `processes` search at the same time, where the policy allows it and something is
    `sharing` what they find (`search.beside`). With
    `largest_first` (a depth) boxes are taken shallowest first, up to that depth."""

    stop: Callable[[], bool]
    report: Callable[[Tally], None]
    batch: int
    device: torch.device = CPU
    memory: Memory = field(default_factory=Memory)
    largest_first: int | None = None
    parted: Callable[[Parts], None] | None = None
    processes: int = 1
    sharing: Sharing | None = None
    checkpoint: Callable[[Tally, Callable[[], DomainBatch | None]], None] | None = None


@dataclass(frozen=True)
class Ending:
    """How a search ended: `found` is what the point test returned, `open_share` the volume share still open, `rest` the
    boxes that were still to be looked at (None: no box), `no_room` that memory for the next step was missing; `lost`
    says why processes beside this one were given up, if they were."""

    found: object | None
    open_share: float
    tally: Tally
    rest: DomainBatch | None
    no_room: bool = False
    lost: str = ""

    @property
    def out_of_time(self) -> bool:
        """Whether boxes are left."""
        return self.rest is not None


@dataclass(frozen=True, eq=False)
class _Step:
    """What one batch came to: a hit, or what became of it; the `boxes` that were open after bounds and clipping."""

    found: object | None
    batch: DomainBatch
    boxes: DomainBatch
    parts: Parts | None


def search(
    first: DomainBatch, method: SearchMethod[K], policy: Policy, limits: SearchLimits, tally: Tally | None = None
) -> Ending:
    """Settles every box of `first` as far as the `policy` wants it, or stops with what is open. `tally` is what an
    earlier search had done that left these boxes.

    A box leaves the open set only when it is proven, when clipping leaves nothing of it, or when it cannot be split any
    further (`stuck`: its volume stays open and the answer can no longer be `unsat`). A step that runs out of time or
    memory has not happened: its boxes go back.
    """
    memory = limits.memory
    open_set: OpenSet | LargestFirst = (
        OpenSet(first, limits.device, memory.device_share)
        if limits.largest_first is None
        else LargestFirst(first, limits.device, limits.largest_first)
    )
    tally = Tally() if tally is None else tally
    tally.open_boxes = len(first)
    count = 0 if policy.apart() is None else limits.processes - 1
    beside = Beside(count, partial(_explored, method, policy, limits), limits.sharing)
    try:
        found, no_room = _steps(open_set, method, policy, limits, tally, beside)
    finally:
        beside.close()
    if found is not None:
        return Ending(found, 1.0, tally, None)
    for boxes in beside.given:
        open_set.put_back(boxes)
    rest = open_set.rest()
    if rest is not None and policy.enough(tally):  # given up, not out of time
        tally.stuck += len(rest)
        tally.stuck_share, rest = tally.stuck_share + float(rest.share.sum()), None
    share = tally.stuck_share + (float(rest.share.sum()) if rest is not None else 0.0)
    return Ending(None, share / policy.queries, tally, rest, no_room, beside.lost)


def _steps(
    open_set: OpenSet | LargestFirst,
    method: SearchMethod[K],
    policy: Policy,
    limits: SearchLimits,
    tally: Tally,
    beside: Beside,
) -> tuple[object | None, bool]:
    """Steps until there is a hit, nothing is left, or one has to stop: the hit, and whether memory is missing."""
    memory = limits.memory
    while True:
        found = _exchange(open_set, policy, limits, tally, beside)
        if found is not None:
            return found, False
        if not len(open_set) and beside.given and not limits.stop():
            continue
        if not len(open_set) or limits.stop() or policy.enough(tally):
            return None, False
        waiting = open_set.stored + (open_set.on_device if memory.shared else 0)
        size = min(limits.batch, len(open_set), memory.boxes(waiting, open_set.on_device))
        if size == 0:
            return None, True
        began = time.monotonic()
        try:
            with in_copies(1) if beside.given else nullcontext():  # other cores are busy
                step, fits = attempt(partial(_advance, open_set, size, method, policy))
        except OutOfTime:
            return None, False
        if not fits or step is None:
            if not memory.halve(size):
                return None, True
            continue
        if not len(step.batch):
            return None, False  # nothing that waits is wanted any more
        memory.learn(len(step.batch), waiting)
        tally.boxes += len(step.batch)
        tally.steps += 1
        if step.parts is None:
            return step.found, False
        if limits.parted is not None:
            limits.parted(step.parts)
        share, left, given_up, lower, depth = _figures(step, step.parts)
        if len(step.parts.stuck) and not tally.stuck:
            tally.stuck_since = tally.boxes
        tally.stuck += len(step.parts.stuck)
        tally.stuck_share += given_up
        tally.settled += (share - left - given_up) / policy.queries
        tally.open_boxes = len(open_set) + sum(map(len, beside.given))
        policy.stepped(step.batch, step.parts, tally, time.monotonic() - began)
        if len(step.parts.children):
            found, _ = attempt(partial(policy.attack, step.parts.children))
            if found is not None:
                return found, False
        if len(step.boxes):
            tally.lower, tally.deepest = lower, max(tally.deepest, int(depth))
        limits.report(tally)
        if limits.checkpoint is not None:
            limits.checkpoint(tally, partial(_everything, open_set, beside.given))


def _everything(open_set: OpenSet | LargestFirst, away: list[DomainBatch]) -> DomainBatch | None:
    """What is left, those that are with other processes included."""
    rest = open_set.rest()
    return join([*away, *([] if rest is None else [rest])]) if away else rest


def _exchange(
    open_set: OpenSet | LargestFirst, policy: Policy, limits: SearchLimits, tally: Tally, beside: Beside
) -> object | None:
    """Takes back what has come back from other processes, and hands boxes out to those that are free; what a point test
    of their proposals found."""
    for boxes, done in beside.back(0.0 if len(open_set) else IDLE):
        if done is None:
            open_set.put_back(boxes)
            continue
        rest = None if done.rest is None else unpacked(done.rest)
        if rest is not None:
            open_set.push(rest)
        tally.add(done.tally)
        if limits.sharing is not None:
            limits.sharing.work += done.work
        if limits.parted is not None:
            none, split = boxes.select(slice(0, 0)), (torch.from_numpy(t) for t in (done.inputs, done.neurons))
            limits.parted(Parts(none, none, None, None, *split))
        found = policy.try_points(torch.from_numpy(done.points), torch.from_numpy(done.query))
        if found is not None:
            return found
    while count := beside.wanted(len(open_set)):
        beside.give(open_set.pop(count))
    return None


def _explored(
    method: SearchMethod[K], policy: Policy, limits: SearchLimits, boxes: DomainBatch, late: Callable[[], bool]
) -> Explored:
    """What comes of boxes in another process, which leaves attacks and ONNX Runtime to this one."""
    own, split, sharing = policy.apart(), list[tuple[Tensor | None, Tensor | None]](), limits.sharing
    assert own is not None and sharing is not None
    before = sharing.work

    def stop() -> bool:
        return late() or bool(own.points) or limits.stop()

    def parted(parts: Parts) -> None:
        split.append((parts.inputs, parts.neurons))

    alone = replace(limits, stop=stop, report=_nobody, parted=parted, processes=1, checkpoint=None)
    ending = search(boxes, method, own, alone)
    points = torch.cat([boxes.lower[:0], *(points for points, _ in own.points)])
    query = torch.cat([boxes.query[:0], *(query for _, query in own.points)])
    inputs, neurons = (numbers([both[k] for both in split]) for k in (0, 1))
    rest = None if ending.rest is None else packed(ending.rest)
    return Explored(
        ending.tally, sharing.work - before, rest, inputs, neurons, points.cpu().numpy(), query.cpu().numpy()
    )


def _nobody(tally: Tally) -> None:
    """Hears of steps in another process."""


def _figures(step: _Step, parts: Parts) -> list[float]:
    """Shares of a batch, its children and its stuck boxes, least score and greatest depth of what is open: the one
    read-back of a step's counters."""
    shares = [boxes.share.sum() for boxes in (step.batch, parts.children, parts.stuck)]
    open_boxes = step.boxes if len(step.boxes) else step.batch
    return torch.stack([*shares, open_boxes.score.min().double(), open_boxes.depth.max().double()]).tolist()


def _advance(open_set: OpenSet | LargestFirst, size: int, method: SearchMethod[K], policy: Policy) -> _Step:
    """Takes `size` boxes and puts their children back; whatever is raised, the open set holds the same boxes after."""
    batch = open_set.pop(size, policy.wanted())
    try:
        step = _work(batch, method, policy) if len(batch) else _Step(None, batch, batch, None)
        if step.parts is not None:
            open_set.push(step.parts.children)
    except BaseException:
        open_set.put_back(batch)
        method.rollback()
        raise
    method.commit()
    return step


def _work(batch: DomainBatch, method: SearchMethod[K], policy: Policy) -> _Step:
    """Bounds a batch, settles what it can, and splits the rest."""
    known = method.bound(batch)
    boxes = batch.select(known.alive)
    found = policy.try_points(*method.points(boxes, known))
    if found is None:
        boxes, known = method.clip(boxes, known)
        boxes, known, found = method.settle(boxes, known, policy.try_points)
    if found is not None:
        return _Step(found, batch, boxes, None)
    return _Step(None, batch, boxes, method.split(batch, boxes, known))
