"""Attack, then branch and bound."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from verifier.attack.replay import Replay
from verifier.bounds.copies import in_copies
from verifier.bounds.cores import single_operations
from verifier.budget import OutOfTime
from verifier.engine.methods import prepare
from verifier.engine.on_device import OnDevice
from verifier.engine.outcome import Answer
from verifier.engine.points import Points
from verifier.engine.strategy import MANY_QUERIES, SOON, Kind, choose, later
from verifier.options import Options
from verifier.result import Result, Verdict
from verifier.search.bab import search
from verifier.search.checkpoint import Checkpoint
from verifier.search.memory import attempt
from verifier.search.policy import FirstSat
from verifier.search.splits import SplitCounts

if TYPE_CHECKING:  # it brings the checker, which a run without a proof does without
    from verifier.proof.writer import ProofWriter

WITHOUT = "quadratic intervals are off; functions written with ReLUs, and maxima, stay what the file has"
"""What a search with a proof does without, because the checker knows linear rows and the neurons of the file only."""


def decide(
    on: OnDevice,
    replay: Replay,
    options: Options,
    answer: Answer,
    total: int,
    proof: ProofWriter | None = None,
    checkpoint: Checkpoint | None = None,
    tied: set[int] | None = None,
) -> Result:
    """The answer to the queries of `on`, some or all of `total`. Where `tied` is given, queries of which something
    cannot be settled are noted there if, and only if, the others are searched to their end.

    Raises:
        OptionsError, ProofError: see `engine.solve`.
    """
    asked = "a proof" if proof is not None else "a checkpoint" if checkpoint is not None else ""
    strategy = choose(on, options, asked)
    answer.explain(on, strategy, lambda: replay.tried)
    if proof is not None:
        answer.settings["proof"] = WITHOUT
    points = Points(on, strategy, replay, options, answer.budget)
    witness = attempt(points.first)[0] if total <= MANY_QUERIES else None
    if witness is not None:
        return answer.of(Verdict.SAT, "found by sampling and projected gradient descent", witness=witness)
    counts = SplitCounts.of(on.network)
    answer.splits = partial(counts.named, on.network, on.problem)
    second = later(on, options, strategy, asked or ("ties" if tied is not None else ""))
    before, tally = replace(answer.tally), answer.tally
    try:
        # zonotopes of few boxes are large values: there a second thread pays
        own = nullcontext() if strategy.kind is Kind.ZONOTOPE else single_operations()
        with in_copies(strategy.processes if proof is None else 1), own:
            searched = prepare(on, strategy, answer, proof)
            policy = FirstSat(points.test, lambda boxes: points.again(boxes, searched.work()), total, tied, points.loss)
            first, limits = searched.first, replace(searched.limits, parted=counts.add)
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
                limits = replace(searched.limits, parted=counts.add)
                tally = replace(before, boxes=tally.boxes, steps=tally.steps)
                ending = search(searched.first, searched.method, policy, limits, tally)
    except OutOfTime:
        return answer.out_of_time(on.queries / total)
    if tied is not None and ending.rest is not None:
        tied.clear()  # other queries may be among what is left
    return answer.ending(ending, searched.limits.memory)
