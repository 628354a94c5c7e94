"""Parts of one piece of work in copies of this process: where it takes so long that copying pays.

Unlike threads (`cores`) copies do not wait for each other's interpreter lock. They are made for one piece of work and
end with it, so they know all that this process knows; what they come to goes through a pipe.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.cores import one_core
from verifier.executors.executor import Emit, Failed, Lost, Said, Servant
from verifier.executors.processes import Processes

Part = TypeVar("Part")
Done = TypeVar("Done")

WORTH = 0.3
"""Seconds that the rest has to take for copies to be made (of a process of 0.3 GB 0.02 s each, of 1.2 GB 0.06), and a
third of that to find out."""

PATIENCE = 10.0
"""Seconds after which a copy counts as lost, and three times as long as this process took for as much."""

_count: ContextVar[int] = ContextVar("copies", default=1)


@contextmanager
def in_copies(count: int) -> Iterator[None]:
    """Inside `with`, `on_copies` may use so many processes, this one included."""
    before = _count.set(count)
    try:
        yield
    finally:
        _count.reset(before)


def in_use() -> int:
    """How many processes `on_copies` may use."""
    return _count.get()


def alone() -> None:
    """In a copy, first of all: it has one core, and makes no copies itself."""
    one_core()
    _count.set(1)


def on_copies(work: Callable[[Part], Done], parts: Sequence[Part]) -> list[Done]:
    """`work` of every part, in order; of parts that take about equally long.

    What `work` changes may be lost: it is to say all in what it returns, numbers, tensors and tuples of such. Where a
    copy fails or does not come back, its parts are worked on here.
    """
    began, done = time.monotonic(), list[Done]()
    count = in_use()
    for k, part in enumerate(parts):
        taken, left = time.monotonic() - began, len(parts) - k
        if count > 1 and left > 1 and taken > WORTH / 3 and taken * left > WORTH * k:
            return done + _shared(work, parts[k:], min(count, left))
        done.append(work(part))
    return done


def _shared(work: Callable[[Part], Done], parts: Sequence[Part], count: int) -> list[Done]:
    found, began = dict[int, Done](), time.monotonic()
    with in_copies(1), Processes(count - 1, _Worker(work, parts), "fork") as processes:
        running = {processes.give(range(k, len(parts), count)) for k in range(1, count)}
        for k in range(0, len(parts), count):
            found[k] = work(parts[k])
        until = time.monotonic() + PATIENCE + 3 * (time.monotonic() - began)
        while running and time.monotonic() < until:
            for number, event in processes.wait(min(1.0, PATIENCE)):
                if isinstance(event, Said):
                    found.update({k: _made(value, np.ndarray, torch.from_numpy) for k, value in event.message})
                if isinstance(event, Said | Failed | Lost):
                    running.discard(number)
    return [found[k] if k in found else work(part) for k, part in enumerate(parts)]


@dataclass(frozen=True, eq=False)
class _Worker(Servant[range], Generic[Part, Done]):
    work: Callable[[Part], Done]
    parts: Sequence[Part]

    def prepare(self, beside: int) -> None:
        """See `Servant`."""
        alone()

    def do(self, task: range, emit: Emit) -> None:
        """See `Servant`."""
        emit([(k, _made(self.work(self.parts[k]), Tensor, lambda t: t.cpu().numpy())) for k in task])


def _made(value: Any, kind: type, of: Callable[[Any], object]) -> Any:
    """The value, a number, an array or a tuple of such, with each array that is of this kind made into another."""
    if isinstance(value, tuple):
        parts = [_made(part, kind, of) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return of(value) if isinstance(value, kind) else value
