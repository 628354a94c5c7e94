"""What a settled or violated box means: the first counterexample ends the search, every query has a verdict of its own,
or every box is kept with what it is."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verifier.result import Verdict, Witness
from verifier.search.domains import DomainBatch
from verifier.search.memory import CPU


@dataclass
class Tally:
    """What a search has done so far: the loop's own counters, read by the progress line and kept in a checkpoint.
    `settled` is a share of all queries' volume, `stuck_share` the volume (of `queries`) of the `stuck` boxes, the first
    of which was found when `stuck_since` boxes had been looked at."""

    boxes: int = 0
    steps: int = 0
    settled: float = 0.0
    lower: float = -float("inf")
    stuck: int = 0
    stuck_share: float = 0.0
    stuck_since: int = 0
    open_boxes: int = 0
    deepest: int = 0

    def add(self, part: Tally) -> None:
        """What was done to some of the boxes elsewhere."""
        self.boxes, self.steps = self.boxes + part.boxes, self.steps + part.steps
        self.settled += part.settled
        if part.stuck and not self.stuck:
            self.stuck_since = self.boxes
        self.stuck, self.stuck_share = self.stuck + part.stuck, self.stuck_share + part.stuck_share
        self.deepest = max(self.deepest, part.deepest)


@dataclass(frozen=True, eq=False)
class Parts:
    """What became of a batch: `children` to look at, `stuck` boxes that cannot be split any further; `certified` and
    `refuted` parts where these are to be kept. `inputs` and `neurons` (int64) are the numbers of what was split, one
    for each split box, where that is told."""

    children: DomainBatch
    stuck: DomainBatch
    certified: DomainBatch | None = None
    refuted: DomainBatch | None = None
    inputs: Tensor | None = None
    neurons: Tensor | None = None


class Policy(ABC):
    """`queries` is the number of queries whose volume is searched."""

    queries: int

    def wanted(self) -> Tensor | None:
        """The queries (Q,) that are searched on; None: all."""
        return None

    def enough(self, tally: Tally) -> bool:
        """Whether it is useless to go on: what is left counts as stuck."""
        return False

    def try_points(self, points: Tensor, query: Tensor) -> object | None:
        """Tests points (M, n) of queries (M,); what it returns ends the search."""
        return None

    def attack(self, boxes: DomainBatch) -> object | None:
        """Looks for a counterexample in open boxes when it thinks that time has come; what it returns ends the
        search."""
        return None

    def apart(self) -> Proposals | None:
        """The policy of boxes that are searched in another process; None where they cannot be."""
        return None

    @abstractmethod
    def stepped(self, batch: DomainBatch, parts: Parts, tally: Tally, seconds: float) -> None:
        """A step has happened, in so many seconds."""


@dataclass(eq=False)
class Proposals(Policy):
    """Keeps `points` (M, n) of queries (M,) that violate by `loss` (<= 0), for another process to test."""

    loss: Callable[[Tensor, Tensor], Tensor]
    queries: int
    points: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def try_points(self, points: Tensor, query: Tensor) -> object | None:
        """See `Policy`: the search goes on."""
        if len(points):
            hits = (self.loss(points, query) <= 0).nonzero()[:, 0]
            self.points += [(points[hits], query[hits])] if len(hits) else []
        return None

    def stepped(self, batch: DomainBatch, parts: Parts, tally: Tally, seconds: float) -> None:
        """See `Policy`."""


def no_attack(boxes: DomainBatch) -> object | None:
    """Bounds and their points are all there is."""
    return None


AFTER_STUCK = 4
"""Times the boxes that it took to find one that cannot be settled: so many more are looked at."""

ATTACKED = 1024
"""Open boxes that one round of sampling and gradient descent looks at; whether one is due is the attack's to say."""


@dataclass(eq=False)
class FirstSat(Policy):
    """One question: a counterexample of any query ends the search; `unsat` needs every box. Queries with a stuck box
    are noted in `tied`, where that is given, for another search. `loss` tells what points miss a violation by."""

    test: Callable[[Tensor, Tensor], object | None]
    strike: Callable[[DomainBatch], object | None] = no_attack
    queries: int = 1
    tied: set[int] | None = None
    loss: Callable[[Tensor, Tensor], Tensor] | None = None

    def apart(self) -> Proposals | None:
        """See `Policy`; ties are noted here."""
        return None if self.loss is None or self.tied is not None else Proposals(self.loss, self.queries)

    def enough(self, tally: Tally) -> bool:
        """Where nothing can be proven any more, what is left may hold a counterexample, and gets a fair share of
        work."""
        return self.tied is None and tally.stuck > 0 and tally.boxes >= AFTER_STUCK * tally.stuck_since + ATTACKED

    def try_points(self, points: Tensor, query: Tensor) -> object | None:
        """See `Policy`."""
        return self.test(points, query)

    def attack(self, boxes: DomainBatch) -> object | None:
        """See `Policy`."""
        return self.strike(boxes.select(slice(0, ATTACKED)))

    def stepped(self, batch: DomainBatch, parts: Parts, tally: Tally, seconds: float) -> None:
        """See `Policy`."""
        if self.tied is not None and len(parts.stuck):
            self.tied.update(parts.stuck.query.tolist())


Told = Callable[[int, Verdict, str, float], None]
"""Hears a question's number, verdict, reason and open share."""


@dataclass(eq=False)
class VerdictPerQuery(Policy):
    """A verdict for each of `asked` questions: one that is settled, or whose seconds (its part of the common steps) are
    up, leaves the search, not the search when one is.

    `test` returns witnesses by question for those points that violate, `strike` is the attack. `limit` are seconds
    (asked,), inf for none. `owner` (Q,) is the question that a query belongs to (None: each is one). With `give_up`, a
    question of which a box is stuck gets a fair share of work, for a counterexample, and no more.
    `seconds`, `boxes`, `open` (asked,) are what each has cost, and its boxes that wait; `verdicts` the answers.
    """

    test: Callable[[Tensor, Tensor], dict[int, Witness]]
    asked: int
    limit: Tensor
    device: torch.device = CPU
    owner: Tensor | None = None
    give_up: bool = False
    strike: Callable[[DomainBatch], dict[int, Witness]] | None = None
    told: Told | None = None
    witness: dict[int, Witness] = field(default_factory=dict)
    stuck: set[int] = field(default_factory=set)
    verdicts: dict[int, tuple[Verdict, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.owner is None:
            self.owner = torch.arange(self.asked, device=self.device)
        self.queries = len(self.owner)
        self.seconds = torch.zeros(self.asked, dtype=torch.float64)
        self.boxes = torch.zeros(self.asked, dtype=torch.int64)
        self.most = torch.full((self.asked,), torch.inf, dtype=torch.float64)
        self._wanted = torch.ones(self.queries, dtype=torch.bool, device=self.device)

    def begin(self, first: DomainBatch) -> None:
        """The boxes that the search starts from."""
        self.open = self._count(first)

    def wanted(self) -> Tensor | None:
        """See `Policy`."""
        return self._wanted if self.verdicts else None

    def try_points(self, points: Tensor, query: Tensor) -> object | None:
        """Keeps what is found."""
        self.found(self.test(points, query))
        return None

    def attack(self, boxes: DomainBatch) -> object | None:
        """See `Policy`."""
        if self.strike is not None:
            self.found(self.strike(boxes.select(slice(0, ATTACKED))))
        return None

    def found(self, witnesses: dict[int, Witness]) -> None:
        """Counterexamples by question."""
        for i, witness in witnesses.items():
            if i not in self.verdicts:
                self.witness[i] = witness
                self._settle(i, Verdict.SAT, "a point of the search violates the property")

    def stepped(self, batch: DomainBatch, parts: Parts, tally: Tally, seconds: float) -> None:
        """Shares a step's time out among the questions in it, by boxes, and settles those that have none left."""
        count = self._count(batch)
        self.boxes += count
        self.seconds += seconds * count / len(batch)
        self.open += self._count(parts.children) - count
        assert self.owner is not None
        self.stuck.update(self.owner[parts.stuck.query].tolist())
        for i in (i for i in count.nonzero()[:, 0].tolist() if i not in self.verdicts):
            if i in self.stuck and self.give_up and math.isinf(self.most[i]):
                self.most[i] = AFTER_STUCK * self.boxes[i] + ATTACKED
            if self.seconds[i] > self.limit[i]:
                self._settle(i, Verdict.TIMEOUT, "its time limit was reached", 1.0)
            elif self.open[i] == 0 or self.boxes[i] >= self.most[i]:
                self._closed(i)

    def finish(self, rest: DomainBatch | None, stopped: str) -> Tensor:
        """Settles what the search left, whose boxes are the `rest`; the open share of every question (asked,)."""
        open_ = torch.zeros(self.asked, dtype=torch.float64)
        left: set[int] = set()
        if rest is not None:
            assert self.owner is not None
            owner = self.owner[rest.query.to(self.device)].cpu()
            open_.index_add_(0, owner, rest.share.cpu())
            left = set(owner.tolist())
        for i in range(self.asked):
            if i not in self.verdicts and i in left:
                late = (Verdict.UNKNOWN, stopped) if stopped else (Verdict.TIMEOUT, "the time limit was reached")
                self._settle(i, *late, float(open_[i]))
            elif i not in self.verdicts:
                self._closed(i)
        return open_

    def _count(self, boxes: DomainBatch) -> Tensor:
        assert self.owner is not None
        return torch.bincount(self.owner[boxes.query], minlength=self.asked).cpu()

    def _closed(self, i: int) -> None:
        """No box waits any more, or nothing is to be hoped of those that do."""
        if i in self.stuck or self.open[i] != 0:
            self._settle(i, Verdict.UNKNOWN, "some boxes cannot be split any further: rounding decides there", 1.0)
        else:
            self._settle(i, Verdict.UNSAT, "every box is proven")

    def _settle(self, i: int, verdict: Verdict, reason: str, open_share: float = 0.0) -> None:
        self.verdicts[i] = verdict, reason
        self._wanted[self.owner == i] = False
        if self.told is not None:
            self.told(i, verdict, reason, open_share)


@dataclass(eq=False)
class ExactCoverage(Policy):
    """Every box is kept with what it is; a query is done when no more than `open_share` of it is open, or after
    `limit` seconds.

    `certified` and `refuted` are the boxes so far, `open` (Q,) exact shares (sums of powers of 2), `seconds` and
    `boxes` (Q,) what each query has cost.
    """

    open: Tensor
    open_share: float
    limit: float | None
    seconds: Tensor
    boxes: Tensor
    certified: list[DomainBatch] = field(default_factory=list)
    refuted: list[DomainBatch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.queries = len(self.open)

    @property
    def certified_share(self) -> float:
        """Mean over queries of the share that this search has certified."""
        return sum(float(boxes.share.sum()) for boxes in self.certified) / max(1, self.queries)

    def wanted(self) -> Tensor | None:
        """See `Policy`."""
        wanted = self.open > self.open_share
        return wanted if self.limit is None else wanted & (self.seconds < self.limit)

    def stepped(self, batch: DomainBatch, parts: Parts, tally: Tally, seconds: float) -> None:
        """See `Policy`."""
        count = torch.bincount(batch.query, minlength=self.queries).cpu()
        self.boxes = self.boxes + count
        self.seconds = self.seconds + seconds * count / len(batch)
        for found, kept in ((parts.certified, self.certified), (parts.refuted, self.refuted)):
            if found is not None and len(found):
                boxes = found.to(CPU)
                kept.append(boxes)
                self.open.index_add_(0, boxes.query, boxes.share, alpha=-1)
        tally.settled = 1.0 - float(self.open.mean())
