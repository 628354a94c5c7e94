"""A search for exact areas whose members are divided among the tasks of an executor.

A task is a few members of the family with what is known of them. What it finds comes back every few seconds, so a task
that is lost goes on from there, and so does a run from its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from verifier.budget import Budget, memory_limit
from verifier.console import process
from verifier.executors.executor import Emit, Executor, Servant, run_each
from verifier.progress import Progress
from verifier.semantic import grid
from verifier.semantic.coverage_search import OPEN, CoverageLimits, State, cover
from verifier.semantic.family import Family

TELL_EVERY = 2.0
"""Seconds after which a task says what it knows."""

GROUP = 8
"""Most members of a task: those that share steps, which saves calls; a few suffice for that."""

GRACE = 10.0
"""Seconds after the time limit in which tasks may still say what they found."""


@dataclass(frozen=True, eq=False)
class CoverageTask:
    """Some members: the state has cells of no others. `seconds`: until the time limit, None without one."""

    state: State
    seconds: float | None


class Covering(Servant[CoverageTask]):
    """Searches parts of a family; `memory`: GB that each search may take."""

    def __init__(self, family: Family, limits: CoverageLimits, memory: float | None, batch: int | None = None) -> None:
        self.family = replace(family, judges=())  # the last word on points is spoken where the parts come together
        self.limits, self.memory, self.batch, self._beside = limits, memory, batch, 1

    def prepare(self, beside: int) -> None:
        """See `Servant`."""
        self._beside = beside
        process.keep_freed_memory()

    def do(self, task: CoverageTask, emit: Emit) -> None:
        """See `Servant`: the state, again and again, at last the final one."""
        budget = Budget.of(task.seconds, memory_limit(self.memory, self._beside))
        cover(self.family, self.limits, budget, task.state, emit, batch=self.batch, save_every=TELL_EVERY)


def cover_spread(
    executor: Executor[CoverageTask],
    family: Family,
    limits: CoverageLimits,
    budget: Budget,
    state: State | None = None,
    save: Callable[[State], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    save_every: float = 10.0,
) -> State:
    """As `coverage_search.cover`, with the members divided among tasks of `executor`, whose context has been entered
    and whose servant is a `Covering`.

    Raises:
        LostError: the process of a task was lost twice.
        UnsoundError: see `cover`.
    """
    began = saved = time.monotonic()
    state = state or State.new(family)
    left = np.flatnonzero(state.shares(OPEN) > limits.open_share)
    size = int(min(GROUP, max(1, -(-len(left) // executor.width()))))
    groups = [left[i : i + size] for i in range(0, len(left), size)]
    known = state

    def part(i: int) -> CoverageTask:
        mine = np.isin(known.cells.query, groups[i])
        seconds = None if np.isinf(budget.deadline) else budget.remaining()
        return CoverageTask(
            replace(known, cells=known.cells.select(mine), status=known.status[mine], ended=""), seconds
        )

    def over() -> bool:
        return bool(budget.stopped) or budget.clock() > budget.deadline + GRACE

    for i, found in run_each(executor, len(groups), part, over):
        known = merged(known, found, groups[i])
        if progress is not None:
            boxes, settled = int(known.boxes.sum()), float(1 - known.shares(OPEN).mean())
            progress(Progress(boxes, len(known.of(OPEN)), time.monotonic() - began, None, settled, budget.remaining()))
        if save is not None and time.monotonic() - saved > save_every:
            save(known)
            saved = time.monotonic()
    if save is not None:
        save(known)
    return known


def merged(state: State, found: State, members: np.ndarray) -> State:
    """The state, with what was found of some members in the place of what was known of them."""
    old, new = (~np.isin(state.cells.query, members), np.isin(found.cells.query, members))
    seconds, boxes = state.seconds.copy(), state.boxes.copy()
    seconds[members], boxes[members] = found.seconds[members], found.boxes[members]
    return State(
        grid.join([state.cells.select(old), found.cells.select(new)]),
        np.concatenate([state.status[old], found.status[new]]),
        seconds,
        boxes,
        state.ended or found.ended,
    )
