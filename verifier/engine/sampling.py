"""Networks with operators that cannot be bounded: the same search, whose bounds know nothing, over random points.

Counterexamples can be found, nothing can be proven.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verifier.attack.replay import Replay
from verifier.engine.outcome import Answer
from verifier.options import Options
from verifier.problem.problem import Problem
from verifier.result import Result, Verdict, Witness
from verifier.search.bab import SearchLimits, SearchMethod, search
from verifier.search.domains import DomainBatch, whole
from verifier.search.policy import FirstSat, Parts

POINTS = 16
"""Points per step: the only work there is."""

STEPS = 12.5
"""Steps per restart of the attack."""


def between(problem: Problem, query: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The points (M, n) of the queries' boxes at `share` (M, n) of the way; no width that overflows."""
    return problem.lower[query] * (1 - share) + problem.upper[query] * share


def inside(problem: Problem, replay: Replay, seed: int) -> np.ndarray:
    """A few full inputs in the boxes of random queries that ask something: of the others, a set may be empty."""
    rng = np.random.default_rng(seed)
    asked = np.flatnonzero(problem.rows.clauses)
    query = rng.choice(asked if len(asked) else problem.queries, size=3)
    return replay.snap(between(problem, query, rng.random((3, problem.lower.shape[1]))), query)


@dataclass(frozen=True, eq=False)
class _Nothing:
    """Every box is open."""

    alive: Tensor


@dataclass(eq=False)
class _Blind(SearchMethod[_Nothing]):
    """The method (see `bab.SearchMethod`) that knows no bounds: boxes stay as they are."""

    problem: Problem
    rng: np.random.Generator
    steps: int = 0

    def bound(self, batch: DomainBatch) -> _Nothing:
        """Nothing."""
        return _Nothing(torch.arange(len(batch)))

    def points(self, boxes: DomainBatch, known: _Nothing) -> tuple[Tensor, Tensor]:
        """Random points of all queries' boxes; every fourth time corners."""
        query = self.rng.integers(self.problem.queries, size=POINTS)
        share = self.rng.random((POINTS, self.problem.lower.shape[1]))
        share = np.round(share) if self.steps % 4 == 0 else share
        self.steps += 1
        return torch.from_numpy(between(self.problem, query, share)), torch.from_numpy(query)

    def split(self, batch: DomainBatch, boxes: DomainBatch, known: _Nothing) -> Parts:
        """Smaller boxes would be no better."""
        return Parts(boxes, boxes.select(slice(0, 0)))


def solve(problem: Problem, replay: Replay, options: Options, answer: Answer) -> Result:
    """Samples the set until a point violates the property, the budget is used up, or enough points were tried."""
    node = problem.graph.opaque[0]
    why = (
        f"node '{node.source or node.output}' ({node.attrs.get('op_type')}) has no bound rule, so nothing can be proven"
    )
    blind = _Blind(problem, np.random.default_rng(options.seed))
    most = STEPS * max(1, options.attack.restarts)

    def test(points: Tensor, query: Tensor) -> Witness | None:
        return replay(points.cpu().numpy(), query.cpu().numpy())

    def stop() -> bool:
        return blind.steps >= most or answer.budget.expired()

    first = whole(*(torch.from_numpy(t) for t in (problem.lower, problem.upper)))
    ending = search(
        first, blind, FirstSat(test, queries=problem.queries), SearchLimits(stop, answer.report, len(first))
    )
    answer.counters = lambda: {"points": POINTS * blind.steps}
    if isinstance(ending.found, Witness):
        return answer.of(Verdict.SAT, "a sampled input violates the property", witness=ending.found)
    budget = answer.budget
    verdict = Verdict.TIMEOUT if budget.expired() and not budget.stopped else Verdict.UNKNOWN
    reason = f"{why}; {POINTS * blind.steps} sampled inputs show no violation"
    return answer.of(verdict, reason, open_fraction=1.0)
