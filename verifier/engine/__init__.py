"""From model and specification to a result: assemble, cross-check, attack, search.

`strategy` chooses how a problem is searched and says why, `points` tests concrete points, `methods` makes what the
search works with, `outcome` says what its ending means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import vnnlib
from verifier.attack.replay import Replay
from verifier.bounds.single import full_precision
from verifier.budget import Budget, OutOfTime
from verifier.engine import sampling
from verifier.engine.going_on import AnyPath, with_checkpoint
from verifier.engine.in_groups import decide_in_groups
from verifier.engine.on_device import OnDevice
from verifier.engine.one_search import decide
from verifier.engine.outcome import Answer, admitting
from verifier.engine.strategy import may_group, wants_relus
from verifier.errors import OptionsError, ProofError
from verifier.graph.onnx_import import Model
from verifier.options import Options
from verifier.passes.maxima_as_relus import maxima_as_relus
from verifier.passes.simplify import simplify
from verifier.problem.assemble import assemble, check_fit, empty_set
from verifier.problem.problem import Problem
from verifier.problem.query_groups import by_free_inputs
from verifier.problem.runtime import Session, compare, compare_index, compare_problem
from verifier.progress import Progress
from verifier.result import Result, Verdict
from verifier.search.checkpoint import Checkpoint
from verifier.search.memory import attempt

if TYPE_CHECKING:  # it brings the checker, which a run without a proof does without
    from verifier.proof.writer import ProofWriter


@full_precision()
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
        try:
            result, _ = attempt(partial(_solve, model, spec, options, answer, proof, kept))
        except OutOfTime:
            return answer.out_of_time()
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
        return answer.out_of_time()
    problem = assemble(model, spec, splines=proof is None)  # a proof names the ReLUs of the file
    if proof is not None and problem.first is not None:
        raise ProofError(
            "no proof can be written where rows set inputs equal; leave it out, or write one input for both"
        )
    session = Session(model)
    replay = Replay.of(model, spec, problem.full, session)
    if problem.graph.opaque:
        if checkpoint is not None:
            raise OptionsError("no checkpoint of random points: a node has no bound rule; run without a checkpoint")
        return sampling.solve(problem, replay, options, answer)
    on = OnDevice.of(problem, options)
    if proof is None and wants_relus(on, options.bounds.method):  # as above
        problem = replace(problem, graph=simplify(maxima_as_relus(problem.graph)))
        on = OnDevice.of(problem, options)
    cross_check(model, problem, replay, session, options.seed, answer.budget.expired)
    whole = proof is not None or checkpoint is not None or not may_group(on, options)
    groups = [] if whole else by_free_inputs(problem, answer.budget.expired)
    if groups:
        return decide_in_groups(model, problem, groups, replay, session, options, answer)
    return decide(on, replay, options, answer, problem.queries, proof, checkpoint)


def cross_check(
    model: Model, problem: Problem, replay: Replay, session: Session, seed: int, stop: Callable[[], bool]
) -> None:
    """Runs the imported graphs and ONNX Runtime at random points of the set.

    Raises:
        UnsoundError: they disagree.
        OutOfTime: `stop()` said so before all was compared.
    """
    points = sampling.inside(problem, replay, seed)
    if model.final is not None and model.final.kind == "argmax":  # the graph up to the logits is what is bounded
        compare_index(model, points, session, stop)
    else:
        compare(model, model.graph, points, session, stop)
    compare_problem(model, problem, points, session, stop)
