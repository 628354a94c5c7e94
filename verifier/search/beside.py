"""Parts of the open set that are searched in processes beside this one.

Threads gain little: between two operations they wait for the interpreter's lock (two threads that share steps of
`sri_resnet_b` 4909: 1.05 times the pace of one). So the loop hands open boxes to copies of its own process, for a few
seconds each time, and gets back those that are still open. Boxes that were handed out are kept until then: of a process
that fails or dies nothing is believed, and they are open as before.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.copies import alone
from verifier.executors.executor import Done, Emit, Failed, Lost, Said, Servant
from verifier.executors.processes import Processes
from verifier.search.domains import DomainBatch
from verifier.search.policy import Tally

FIRST, LONGEST = 0.5, 8.0
"""Seconds of a part, the first time and at most: each takes twice as long as the last. What comes back is read between
two steps, and one that is back waits for that."""

PATIENCE = 60.0
"""Seconds after which a process that is waited for counts as lost: one step of a large network may take some."""

SOON, FEWEST = 1.0, 8
"""Seconds of a search after which it pays to copy the process (0.06 s of 1.2 GB), and open boxes that are worth another
one."""


@dataclass(frozen=True)
class Handed:
    """Boxes as arrays, the seconds after which to stop, and what this process has learned since it was copied."""

    boxes: tuple[np.ndarray, ...]
    seconds: float
    learned: Any


@dataclass(frozen=True)
class Explored:
    """What came of a part: its counters and multiply-adds, the boxes that are still open, the numbers of inputs and
    neurons that were split, and points (M, n) of queries (M,) that seem to violate."""

    tally: Tally
    work: float
    rest: tuple[np.ndarray, ...] | None
    inputs: np.ndarray
    neurons: np.ndarray
    points: np.ndarray
    query: np.ndarray


@runtime_checkable
class Sharing(Protocol):
    """What a search finds out besides its boxes. `work` are its multiply-adds so far, those of other processes
    included."""

    work: float

    def learned(self) -> Any:
        """What is of use for copies of this search; it goes through a pipe."""

    def learn(self, learned: Any) -> None:
        """In such a copy: from here on it knows that, and finds out no more itself."""


SearchPart = Callable[[DomainBatch, Callable[[], bool]], Explored]
"""Searches boxes until it is told to stop."""


@dataclass(frozen=True, eq=False)
class _Searcher(Servant[Handed]):
    search: SearchPart
    sharing: Sharing | None
    hurry: mmap.mmap

    def prepare(self, beside: int) -> None:
        """See `Servant`."""
        alone()

    def do(self, task: Handed, emit: Emit) -> None:
        """See `Servant`."""
        assert self.sharing is not None
        self.sharing.learn(task.learned)
        until = time.monotonic() + task.seconds
        emit(self.search(unpacked(task.boxes), lambda: time.monotonic() >= until or self.hurry[0] > 0))


@dataclass(eq=False)
class Beside:
    """At most `count` processes beside this one, copied when they are first needed; `search` is what they do. Without
    anything `sharing` what they find there are none."""

    count: int
    search: SearchPart
    sharing: Sharing | None
    began: float = field(default_factory=time.monotonic)
    lost: str = ""
    """Why a process was given up, and others not asked any more; empty if none was."""

    _given: dict[int, DomainBatch] = field(default_factory=dict)
    _running: set[int] = field(default_factory=set)
    _until: dict[int, float] = field(default_factory=dict)
    _seconds: float = FIRST

    def __post_init__(self) -> None:
        self.count = 0 if self.sharing is None else self.count
        self._hurry = mmap.mmap(-1, 1)  # a byte that copies of this process see
        self._processes = Processes(self.count, _Searcher(self.search, self.sharing, self._hurry), "fork")

    @property
    def given(self) -> list[DomainBatch]:
        """The boxes that are out."""
        return list(self._given.values())

    def wanted(self, open_boxes: int) -> int:
        """How many of so many open boxes are to be handed out now; 0 for none."""
        free = self.count - len(self._running)
        if free <= 0 or open_boxes < 2 * FEWEST or time.monotonic() < self.began + SOON:
            return 0
        return open_boxes // (free + 1)

    def give(self, boxes: DomainBatch) -> None:
        """Hands boxes out."""
        assert self.sharing is not None
        self._hurry[0] = 0
        number = self._processes.give(Handed(packed(boxes), self._seconds, self.sharing.learned()))
        self._given[number] = boxes
        self._running.add(number)
        self._until[number] = time.monotonic() + self._seconds
        self._seconds = min(LONGEST, 2 * self._seconds)

    def back(self, seconds: float) -> list[tuple[DomainBatch, Explored | None]]:
        """Those that came back within so many seconds, with what came of them; None where that is nothing: no more are
        handed out then. Where they are waited for, they are asked to hurry: their next step is the last."""
        found: list[tuple[DomainBatch, Explored | None]] = []
        if seconds > 0:
            self._hurry[0] = 1
        while self._running and (events := self._processes.wait(seconds)):
            for number, event in events:
                if isinstance(event, Said):
                    found.append((self._given.pop(number), event.message))
                elif isinstance(event, Failed | Lost):
                    self._give_up(event.why if isinstance(event, Lost) else f"it ended in {event.error!r}")
                    if number in self._given:
                        found.append((self._given.pop(number), None))
                if isinstance(event, Done | Failed | Lost):
                    self._running.discard(number)
            seconds = 0.0
        late = [n for n in self._running if time.monotonic() > self._until[n] + PATIENCE]
        for number in late if self._hurry[0] else ():
            self._processes.kill(number)
            self._running.discard(number)
            self._give_up(f"it did not come back within {PATIENCE:g} s")
            found.append((self._given.pop(number), None))
        return found

    def _give_up(self, why: str) -> None:
        self.count, self.lost = 0, self.lost or why

    def close(self) -> None:
        """Ends the processes; what is out stays open."""
        self._processes.__exit__(None, None, None)


def packed(boxes: DomainBatch) -> tuple[np.ndarray, ...]:
    """The fields of a batch, as a pipe takes them."""
    return tuple(getattr(boxes, f.name).cpu().numpy() for f in fields(DomainBatch))


def unpacked(arrays: tuple[np.ndarray, ...]) -> DomainBatch:
    """The batch with these fields."""
    return DomainBatch(*map(torch.from_numpy, arrays))


def numbers(parts: Sequence[Tensor | None]) -> np.ndarray:
    """Those of several steps, int64."""
    return np.concatenate([np.zeros(0, np.int64), *(p.cpu().numpy() for p in parts if p is not None)])
