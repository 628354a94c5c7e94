"""Several specifications of one network in one search: a verdict for each, told the moment it is settled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

import vnnlib
from verifier.attack.replay import Replay
from verifier.bounds.cores import single_operations
from verifier.bounds.single import full_precision
from verifier.budget import Budget, OutOfTime, never
from verifier.engine.methods import prepare
from verifier.engine.on_device import OnDevice
from verifier.engine.outcome import Answer, admitting
from verifier.engine.points import Points
from verifier.engine.strategy import MANY_QUERIES, Kind, choose
from verifier.graph.onnx_import import Model
from verifier.options import Options
from verifier.problem.assemble import assemble, check_fit, empty_set
from verifier.problem.problem import Problem
from verifier.problem.runtime import Session
from verifier.result import Result, Verdict, Witness
from verifier.search.bab import search
from verifier.search.domains import whole
from verifier.search.memory import attempt
from verifier.search.policy import VerdictPerQuery

SMALL = 200_000
"""Multiply-adds of the largest network: a step of many boxes is still short then, against the time limits, and what the
questions share (calls, not arithmetic) is worth it. (ACAS Xu has 13 000.)"""


@dataclass(frozen=True, eq=False)
class Question:
    """A specification, and the seconds that its answer may take (None: no limit)."""

    spec: vnnlib.NormalForm
    seconds: float | None = None


@full_precision()
@single_operations()
def solve_together(
    model: Model,
    questions: Sequence[Question],
    options: Options,
    budget: Budget,
    tell: Callable[[int, Result], None],
) -> bool:
    """Tells each question's result the moment it is settled; a question is charged its part of the common steps.

    False, and perhaps not everything told, where the questions do not suit a common search (a large network, say, or
    neurons are what is split) or memory did not suffice: they are to be asked one by one.

    Raises:
        ProblemError, ModelError, UnsupportedOperator, UnsoundError: see `engine.solve`.
    """
    try:
        done, _ = attempt(partial(_solve, model, questions, options, budget, tell))
    except OutOfTime:
        return False
    return done is True


def _solve(
    model: Model, questions: Sequence[Question], options: Options, budget: Budget, tell: Callable[[int, Result], None]
) -> bool:
    from verifier.engine import cross_check

    for question in questions:
        if question.spec.products or question.spec.unbounded:
            return False
        check_fit(model, question.spec)
        if empty_set(model, question.spec):
            return False
    form = vnnlib.joined([question.spec for question in questions])
    problem = assemble(model, form)
    if problem.graph.opaque:
        return False
    answer, session = Answer(budget), Session(model)
    cross_check(
        model, problem, Replay.of(model, form, problem.full, session), session, options.seed, never
    )  # small ones
    on = OnDevice.of(problem, options)
    strategy = choose(on, options)
    work = on.network.multiply_adds
    if strategy.kind is not Kind.INPUTS or on.queries > MANY_QUERIES or work > SMALL:
        return False
    judges = _Judges(model, problem, session, questions, on.device)
    answer.explain(on, strategy, lambda: judges.tried)
    points = Points(on, strategy, judges, options, budget)
    searched = prepare(on, strategy, answer, None)
    limits = torch.tensor([np.inf if q.seconds is None else q.seconds for q in questions], dtype=torch.float64)
    policy = VerdictPerQuery(
        partial(_violations, points, judges), len(questions), limits, on.device, judges.owner, give_up=True
    )
    policy.strike = lambda boxes: judges.during(lambda: points.again(boxes, searched.work()))
    policy.seconds += (time.monotonic() - answer.start) / len(questions)

    def settled(i: int, verdict: Verdict, reason: str, open_share: float = 0.0) -> None:
        result = Result(
            verdict,
            reason,
            policy.witness.get(i),
            float(policy.seconds[i]),
            {"boxes": int(policy.boxes[i]), "steps": answer.tally.steps},
            open_share,
            answer.settings,
        )
        tell(i, admitting(result, options))

    policy.told = settled
    for i in range(len(questions)):
        clock = time.monotonic()
        mine = whole(on.lower, on.upper).select(judges.owner == i)
        found = judges.during(partial(points.campaign.first, mine))
        points.campaign.spent = 0.0  # each has a first round of its own; later ones are paid by the common search
        policy.seconds[i] += time.monotonic() - clock
        policy.found(found)
    policy.begin(searched.first)
    ending = search(searched.first, searched.method, policy, searched.limits)
    if ending.no_room:
        return False
    policy.finish(ending.rest, budget.stopped)
    return True


class _Judges:
    """ONNX Runtime and each question's own specification: who says that a point of a query violates it."""

    def __init__(
        self, model: Model, problem: Problem, session: Session, questions: Sequence[Question], device: torch.device
    ) -> None:
        counts = torch.tensor([q.spec.n_cases for q in questions])
        self.owner = torch.arange(len(questions)).repeat_interleave(counts).to(device)
        self._first = (counts.cumsum(0) - counts).tolist()
        self._owner = self.owner.cpu().numpy()
        self._replays = [
            Replay.of(model, q.spec, problem.full, session, first=first)
            for q, first in zip(questions, self._first, strict=True)
        ]
        self._found: dict[int, Witness] = {}

    @property
    def tried(self) -> int:
        """Points replayed so far."""
        return sum(replay.tried for replay in self._replays)

    def __call__(self, p: np.ndarray, query: np.ndarray) -> Witness | None:
        """The first point (M, n) of a question that violates it; of every question one is kept."""
        last = None
        for i in np.unique(self._owner[query]).tolist():
            mine = self._owner[query] == i
            witness = self._replays[i](p[mine], query[mine])
            if witness is not None:
                last = self._found.setdefault(i, witness)
        return last

    def during(self, work: Callable[[], object]) -> dict[int, Witness]:
        """What was found by question while `work` ran."""
        self._found = {}
        work()
        return self._found


def _violations(points: Points, judges: _Judges, at: Tensor, query: Tensor) -> dict[int, Witness]:
    """Points of a search step that violate in our arithmetic, replayed for every question."""
    if not len(at):
        return {}
    loss = points.loss(at, query)
    hits = (loss <= 0).nonzero()[:, 0]
    if not len(hits):
        return {}
    owner = judges.owner[query[hits]]

    def each() -> None:
        for i in owner.unique().tolist():
            mine = hits[owner == i]
            points.replayed(at[mine], loss[mine], query[mine])

    return judges.during(each)
