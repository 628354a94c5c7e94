"""Tasks that are run elsewhere: what an executor takes, what it tells of them, and the loop over many.

An executor starts tasks, passes on what they say, and notices what was lost. It decides neither what runs next nor what
a loss means: those who give it tasks do.
"""

from __future__ import annotations

import copy
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from verifier.errors import SecateurError

T = TypeVar("T")
Emit = Callable[[object], None]


class Servant(Generic[T]):
    """What does the tasks, in a process of its own. It is copied there, and kept for the next task."""

    def prepare(self, beside: int) -> None:
        """Called once in every process, before its first task: slow imports. `beside`: how many such processes the
        machine runs at once."""

    def do(self, task: T, emit: Emit) -> None:
        """One task; hands what it finds to `emit` the moment it is there."""
        raise NotImplementedError

    def files(self, task: T) -> Mapping[Path, tuple[Path, ...]]:
        """Files that the task reads, each with those beside it that it names."""
        return {}

    def moved(self, task: T, places: Mapping[Path, Path], folder: Path) -> T:
        """The task on a machine that has its files at other places, and `folder` for what it writes."""
        return task

    def back(self, message: Any, task: T, moved: T) -> object:
        """A message of the moved task as the task itself would have said it."""
        return message


@dataclass(frozen=True)
class Began:
    """A process has begun with the task."""


@dataclass(frozen=True)
class Said:
    """The task emitted a message."""

    message: Any


@dataclass(frozen=True)
class Done:
    """The task came to its end."""


@dataclass(frozen=True)
class Failed:
    """The task raised an exception; its process goes on."""

    error: Exception


@dataclass(frozen=True)
class Lost:
    """The task ended without an end: its process died, or the machine."""

    why: str


TaskEvent = Began | Said | Done | Failed | Lost


class Executor(AbstractContextManager["Executor[T]"], Protocol[T]):
    """Runs tasks while its context lasts; what runs at its end is stopped."""

    servant: Servant[T]

    @property
    def retries(self) -> int:
        """How often a task whose process was lost is tried again by itself: not at all where only the task can be to
        blame."""
        ...

    @property
    def start_limit(self) -> float:
        """Seconds within which a task has begun, unless something is wrong."""
        ...

    def width(self) -> int:
        """How many tasks are worth giving at a time."""
        ...

    def facts(self) -> list[tuple[str, str]]:
        """Where it runs, for a report."""
        ...

    def give(self, task: T) -> int:
        """Starts a task, or queues it; returns its number."""
        ...

    def wait(self, seconds: float) -> list[tuple[int, TaskEvent]]:
        """What has happened, after at most that many seconds; of one task in the order in which it did."""
        ...

    def kill(self, number: int) -> None:
        """Stops a task and what runs it; nothing is told of it after."""
        ...


class LostError(SecateurError):
    """A task was lost with its process or machine, and its retry, too."""


def perform(servant: Servant[T], task: T, emit: Emit) -> None:
    """One task, its begin and its end; for the other side of an executor."""
    emit(Began())
    try:
        servant.do(task, lambda message: emit(Said(message)))
    except Exception as error:
        emit(Failed(_portable(error)))
    else:
        emit(Done())


def _portable(error: Exception) -> Exception:
    """The error itself where it can be made again from its arguments, as on the way to another process."""
    try:
        copy.deepcopy(error)
    except Exception:  # its constructor wants something else than its arguments, say
        kind = SecateurError if isinstance(error, SecateurError) else RuntimeError
        return kind(f"{type(error).__name__}: {error}")
    return error


def run_each(
    executor: Executor[T],
    count: int,
    make: Callable[[int], T],
    stopped: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> Iterator[tuple[int, Any]]:
    """Runs `count` tasks; (task, message) in the order in which they come. `make` is asked for a task when there is
    room for it, and again when it was lost, which `tell` hears.

    Raises:
        LostError: a task was lost more often than it is tried again.
        Exception: whatever a task raised.
    """
    waiting, lost, running = deque(range(count)), Counter[int](), dict[int, int]()
    while (waiting or running) and not stopped():
        while waiting and len(running) < executor.width():
            i = waiting.popleft()
            running[executor.give(make(i))] = i
        for number, event in executor.wait(0.2):
            i = running[number]
            match event:
                case Said(message):
                    yield i, message
                case Done():
                    del running[number]
                case Failed(error):
                    raise error
                case Lost(why):
                    del running[number]
                    lost[i] += 1
                    if lost[i] > executor.retries:
                        raise LostError(f"{why}, and so did its retry" if executor.retries else why)
                    tell(f"{why}: its task is tried again")
                    waiting.appendleft(i)
