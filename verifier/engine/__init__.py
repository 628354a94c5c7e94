"""From model and specification to a result: assemble, cross-check, attack, search.

`strategy` chooses how a problem is searched and says why, `points` tests concrete points, `methods` makes what the
search works with, `outcome` says what its ending means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import vnnlib
from verifier.attack.replay import Replay
from verifier.bounds.sweep import OutOfTime
from verifier.budget import Budget
from verifier.engine import sampling
from verifier.engine.going_on import AnyPath, with_checkpoint
from verifier.engine.methods import prepare
from verifier.engine.on_device import OnDevice
from verifier.engine.outcome import Answer, admitting
from verifier.engine.points import Points
from verifier.engine.strategy import MANY_QUERIES, SOON, choose, later, wants_relus
from verifier.errors import OptionsError, ProofError
from verifier.graph.onnx_import import Model
from verifier.options import Options
from verifier.passes.maxima_as_relus import maxima_as_relus
from verifier.passes.simplify import simplify
from verifier.problem.assemble import assemble, check_fit, empty_set
from verifier.problem.problem import Problem
from verifier.problem.runtime import Session, compare, compare_index, compare_problem
from verifier.progress import Progress
from verifier.result import Result, Verdict
from verifier.search.bab import search
from verifier.search.checkpoint import Checkpoint
from verifier.search.memory import attempt
from verifier.search.policy import FirstSat, Tally
from verifier.search.splits import SplitCounts

if TYPE_CHECKING:  # it brings the checker, which a run without a proof does without
    from verifier.proof.writer import ProofWriter


def solve(
    model: Model,
    spec: vnnlib.NormalForm,
    options: Options,
    budget: Budget,
    progress: Callable[[Progress], None] | None = None,
    proof: ProofWriter | None = None,
    checkpoint: tuple[AnyPath, AnyPath, AnyPath] | None = None,
) -> Result:
    """Decides the property. Where memory runs out outside the search, which helps itself, the answer is `unknown`.
    `proof` writes the tree of the search down, its open boxes go to a `checkpoint` (its path, those of model
    and specification), from which a later run goes on.

    Raises:
        OptionsError: the options name what does not fit the problem; a checkpoint, where nothing is searched.
        ProofError: a proof is asked for, and the search for this problem cannot write one.
        ProblemError: model and specification do not fit.
        ModelError, UnsupportedOperator: the network cannot be used.
        UnsoundError: the imported graph and ONNX Runtime disagree.
    """

    def run(kept: Checkpoint | None) -> Result:
        answer = Answer(budget, progress)
        result, _ = attempt(partial(_solve, model, spec, options, answer, proof, kept))
        return admitting(result or answer.without_room(), options)

    return run(None) if checkpoint is None else with_checkpoint(checkpoint, options, run)


def _solve(
    model: Model,
    spec: vnnlib.NormalForm,
    options: Options,
    answer: Answer,
    proof: ProofWriter | None,
    checkpoint: Checkpoint | None,
) -> Result:
    check_fit(model, spec)
    if proof is not None and (options.dtype == "float32" or options.bounds.method == "lumped"):
        raise ProofError("no proof can be written with dtype float32 or bounds.method lumped; leave these at auto")
    if proof is not None and options.bounds.rounding == "ignored":
        raise ProofError("no proof can be written with bounds.rounding ignored; leave it at rigorous")
    if proof is not None:
        options = replace(options, dtype="float64")
    if nothing := empty_set(model, spec):
        if proof is not None:
            proof.header()
        return answer.of(Verdict.UNSAT, nothing)
    if answer.budget.expired():
        return answer.of(Verdict.TIMEOUT, "no time was given")
    problem = assemble(model, spec)
    session = Session(model)
    replay = Replay.of(model, spec, problem.full, session)
    if problem.graph.opaque:
        if checkpoint is not None:
            raise OptionsError("no checkpoint of random points: a node has no bound rule; run without a checkpoint")
        return sampling.solve(problem, replay, options, answer)
    on = OnDevice.of(problem, options)
    if proof is None and wants_relus(on, options.bounds.method):  # a proof names the neurons of the file
        problem = replace(problem, graph=simplify(maxima_as_relus(problem.graph)))
        on = OnDevice.of(problem, options)
    cross_check(model, problem, replay, session, options.seed)
    return _searched(on, replay, options, answer, proof, checkpoint)


def cross_check(model: Model, problem: Problem, replay: Replay, session: Session, seed: int) -> None:
    """Runs the imported graphs and ONNX Runtime at random points of the set.

    Raises:
        UnsoundError: they disagree.
    """
    rng = np.random.default_rng(seed)
    query = rng.integers(problem.queries, size=3)
    points = replay.snap(sampling.between(problem, query, rng.random((3, problem.lower.shape[1]))), query)
    if model.final is not None and model.final.kind == "argmax":  # the graph up to the logits is what is bounded
        compare_index(model, points, session)
    else:
        compare(model, model.graph, points, session)
    compare_problem(model, problem, points, session)


def _searched(
    on: OnDevice,
    replay: Replay,
    options: Options,
    answer: Answer,
    proof: ProofWriter | None,
    checkpoint: Checkpoint | None,
) -> Result:
    """Attack, then branch and bound."""
    asked = "a proof" if proof is not None else "a checkpoint" if checkpoint is not None else ""
    strategy = choose(on, options, asked)
    answer.explain(on, strategy, lambda: replay.tried)
    points = Points(on, strategy, replay, options, answer.budget)
    witness = attempt(points.first)[0] if on.queries <= MANY_QUERIES else None
    if witness is not None:
        return answer.of(Verdict.SAT, "found by sampling and projected gradient descent", witness=witness)
    counts = SplitCounts.of(on.network)
    answer.splits = partial(counts.named, on.network, on.problem)
    second = later(on, options, strategy, asked)
    try:
        searched = prepare(on, strategy, answer, proof)
        policy = FirstSat(points.test, lambda boxes: points.again(boxes, searched.work()), on.queries)
        first, limits, tally = searched.first, replace(searched.limits, parted=counts.add), Tally()
        if checkpoint is not None:
            first, tally = checkpoint.start(strategy.kind.value, first, on.queries, on.network.neurons)
            answer.resume(tally)
            limits = replace(limits, checkpoint=checkpoint.step)
        if second is not None:
            limits = replace(limits, stop=lambda: answer.budget.expired() or tally.boxes >= SOON)
        ending = search(first, searched.method, policy, limits, tally)
        if checkpoint is not None:
            checkpoint.ended(ending)
        if second is not None and ending.out_of_time and not ending.no_room and not answer.budget.expired():
            answer.explain(on, second, lambda: replay.tried)
            searched = prepare(on, second, answer, None)
            tally = Tally(boxes=tally.boxes, steps=tally.steps)
            ending = search(searched.first, searched.method, policy, replace(searched.limits, parted=counts.add), tally)
    except OutOfTime:
        return answer.of(Verdict.TIMEOUT, "the time limit was reached", open_fraction=1.0)
    return answer.ending(ending, searched.limits.memory)
