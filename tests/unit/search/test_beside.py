"""Parts of the open set in other processes: the same answers, and nothing is believed of one that fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import get_all_start_methods
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.unit.search.tables import domains
from verifier.search import beside
from verifier.search.bab import Ending, SearchLimits, SearchMethod, search
from verifier.search.domains import DomainBatch
from verifier.search.policy import FirstSat, Parts, Tally

pytestmark = pytest.mark.skipif("fork" not in get_all_start_methods(), reason="processes are copied by fork")

SIZE = 1.0 / 64
"""Intervals of [0, 1] that are no wider hold the claim, if no `violated` point lies in them."""


@dataclass(frozen=True, eq=False)
class Known:
    alive: Tensor


@dataclass(eq=False)
class Counting:
    """What a search with `Halves` shares."""

    work: float = 0.0
    heard: int = 0

    def learned(self) -> Any:
        return 7

    def learn(self, learned: Any) -> None:
        assert learned == 7
        self.heard += 1


@dataclass(eq=False)
class Halves(SearchMethod[Known]):
    """Cuts [0, 1] into intervals of `SIZE`; in another process than that of the test it does what `there` says."""

    sharing: Counting
    violated: float = 2.0
    there: str = ""
    parent: int = 0

    def __post_init__(self) -> None:
        self.parent = os.getpid()

    def bound(self, batch: DomainBatch) -> Known:
        time.sleep(0.002)
        if os.getpid() != self.parent:
            assert self.sharing.heard
            if self.there == "raises":
                raise ArithmeticError("elsewhere")
            if self.there == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.there == "hangs":
                time.sleep(60)
        self.sharing.work += len(batch)
        wide = (batch.upper - batch.lower)[:, 0] > SIZE
        inside = (batch.lower[:, 0] <= self.violated) & (self.violated <= batch.upper[:, 0])
        return Known((wide | inside).nonzero()[:, 0])

    def points(self, boxes: DomainBatch, known: Known) -> tuple[Tensor, Tensor]:
        narrow = (boxes.upper - boxes.lower)[:, 0] <= SIZE
        return torch.full_like(boxes.lower[narrow], self.violated), boxes.query[narrow]

    def split(self, batch: DomainBatch, boxes: DomainBatch, known: Known) -> Parts:
        dimension = torch.zeros(len(boxes), dtype=torch.int64)
        children = boxes.split(dimension, ((boxes.lower + boxes.upper) / 2)[:, 0])
        return Parts(children, boxes.select(slice(0, 0)), inputs=dimension)


def run(
    method: Halves, monkeypatch: pytest.MonkeyPatch, seconds: float = 60.0, processes: int = 3
) -> tuple[Ending, int]:
    """The ending of a search in steps of one box, and how many splits it told of."""
    monkeypatch.setattr(beside, "SOON", 0.0)
    monkeypatch.setattr(beside, "FIRST", 0.05)
    monkeypatch.setattr(beside, "FEWEST", 2)
    given: list[int] = []
    give = beside.Beside.give
    monkeypatch.setattr(beside.Beside, "give", lambda self, boxes: (given.append(len(boxes)), give(self, boxes))[1])
    until, split = time.monotonic() + seconds, []

    def test(points: Tensor, query: Tensor) -> object | None:
        assert os.getpid() == method.parent
        return "witness" if len(points) and method.violated <= 1 else None

    def whole(tally: Tally, rest: Callable[[], DomainBatch | None]) -> None:
        """What is out is in a checkpoint as well."""
        left = rest()
        assert tally.settled + (0.0 if left is None else float(left.share.sum())) == pytest.approx(1.0)

    policy = FirstSat(test, loss=lambda points, query: points[:, 0] - method.violated)
    limits = SearchLimits(
        lambda: time.monotonic() >= until,
        lambda tally: None,
        1,
        parted=lambda parts: split.append(len(parts.inputs)),
        processes=processes,
        sharing=method.sharing,
        checkpoint=whole,
    )
    ending = search(domains(torch.zeros(1, 1).double(), torch.ones(1, 1).double()), method, policy, limits)
    assert bool(given) is (processes > 1)
    return ending, sum(split)


def test_the_tree_is_the_same_as_in_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, split = run(Halves(Counting()), monkeypatch, processes=1)
    shared = Halves(Counting())
    ending, told = run(shared, monkeypatch)
    assert alone.rest is None and ending.rest is None and ending.found is None and not ending.lost
    assert ending.tally.boxes == alone.tally.boxes == 127 and told == split == 63
    assert ending.tally.settled == pytest.approx(1.0) and ending.tally.deepest == alone.tally.deepest
    assert shared.sharing.work == 127 and shared.sharing.heard == 0


@pytest.mark.parametrize("there", ["raises", "dies"])
def test_of_a_process_that_fails_nothing_is_believed(there: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ending, told = run(Halves(Counting(), there=there), monkeypatch)
    assert ending.rest is None and ending.tally.boxes == 127 and told == 63
    assert ending.tally.settled == pytest.approx(1.0)
    assert {"raises": "elsewhere", "dies": "SIGKILL"}[there] in ending.lost


def test_a_point_of_another_process_is_tested_here(monkeypatch: pytest.MonkeyPatch) -> None:
    ending, _ = run(Halves(Counting(), violated=0.3), monkeypatch)
    assert ending.found == "witness"


def test_what_is_out_at_the_end_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the other process does not come back."""
    began = time.monotonic()
    ending, _ = run(Halves(Counting(), there="hangs"), monkeypatch, seconds=1.0)
    assert time.monotonic() - began < 30 and ending.out_of_time and ending.rest is not None
    assert ending.open_share > 0
    assert ending.open_share + ending.tally.settled == pytest.approx(1.0)


def test_a_process_that_does_not_come_back_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "PATIENCE", 0.2)
    ending, told = run(Halves(Counting(), there="hangs"), monkeypatch)
    assert "0.2 s" in ending.lost and ending.rest is None and ending.tally.boxes == 127 and told == 63


def test_counters_of_a_part_are_added() -> None:
    whole = Tally(10, 2, 0.25, stuck=0, deepest=5)
    whole.add(Tally(7, 3, 0.5, stuck=2, stuck_share=0.125, stuck_since=1, deepest=9))
    assert whole == Tally(17, 5, 0.75, stuck=2, stuck_share=0.125, stuck_since=17, deepest=9)
    whole.add(Tally(1, 1, 0.0, stuck=1, stuck_share=0.125, stuck_since=1, deepest=1))
    assert (whole.stuck, whole.stuck_since, whole.stuck_share, whole.deepest) == (3, 17, 0.25, 9)


def test_boxes_survive_the_way() -> None:
    boxes = domains(torch.rand(5, 3).double(), 1 + torch.rand(5, 3).double())
    boxes = replace(boxes, signs=torch.randint(-3, 3, (5, 4)), state=torch.rand(5, 2).double())
    back = beside.unpacked(beside.packed(boxes))
    for name in ("lower", "upper", "signs", "state", "share", "alpha", "node"):
        assert torch.equal(getattr(back, name), getattr(boxes, name))
