"""Queries that fix most inputs, group by group, each in a network of what varies (see `problem.query_groups`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from verifier.attack.replay import Replay
from verifier.engine import sampling
from verifier.engine.on_device import OnDevice
from verifier.engine.one_search import decide
from verifier.engine.outcome import Answer
from verifier.graph.onnx_import import Model
from verifier.options import Options
from verifier.problem.problem import Problem
from verifier.problem.query_groups import QueryGroup
from verifier.problem.runtime import Session, compare_problem
from verifier.result import Result, Verdict
from verifier.search.splits import joined


def decide_in_groups(
    model: Model,
    problem: Problem,
    groups: Sequence[QueryGroup],
    replay: Replay,
    session: Session,
    options: Options,
    answer: Answer,
) -> Result:
    """The answer to a problem: one group after the other, until one is not `unsat`.

    Raises:
        UnsoundError: what a group computes is not what ONNX Runtime does.
        OptionsError: see `engine.solve`.
        OutOfTime: before a group has been compared.
    """
    results: list[Result] = []
    replays: list[Replay] = []
    begun, total = 0, problem.queries

    def found(own: Problem, queries: np.ndarray, tied: set[int] | None = None) -> Verdict:
        judge = replay.of_group(own.full, queries)
        replays.append(judge)
        compare_problem(model, own, sampling.inside(own, judge, options.seed), session, answer.budget.expired)
        results.append(decide(OnDevice.of(own, options), judge, options, answer, total, tied=tied))
        return results[-1].verdict

    for group in groups:
        tied: set[int] = set()
        verdict = found(group.problem, group.queries, tied)
        begun += len(group.queries)
        if tied and verdict is Verdict.UNKNOWN and not answer.budget.expired():
            # fractions may decide ties in the whole network, whose inputs are exact
            answer.over((begun - len(tied)) / total)
            rest = group.queries[sorted(tied)]
            verdict = found(problem.of(rest), rest)
        if verdict is not Verdict.UNSAT:
            break
        answer.over(begun / total)
    last = results[-1]
    share, how = last.open_fraction, f"{last.settings['strategy']}; queries by what they vary, in {len(groups)} groups"
    return replace(
        last,
        counters={**last.counters, "queries": total, "replays": sum(judge.tried for judge in replays)},
        open_fraction=None if share is None else share + (total - begun) / total,
        settings={**last.settings, "free_inputs": problem.free.shape[1], "strategy": how},
        splits=joined([result.splits for result in results]),
    )
