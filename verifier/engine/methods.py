"""What the search works with: for each strategy its bounds and splits, its first boxes, and what it may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from verifier.bounds.bound import OUTPUT_ELEMENTS
from verifier.bounds.centred import Centred
from verifier.bounds.pieces import of_a_piece
from verifier.bounds.rational import Rational
from verifier.bounds.relaxed import Ground
from verifier.bounds.sizes import size_on
from verifier.bounds.sweep import LARGE_ROWS, Method, sweep
from verifier.budget import Budget, never
from verifier.engine.on_device import OnDevice
from verifier.engine.outcome import Answer
from verifier.engine.strategy import Kind, Strategy
from verifier.search import zonotope
from verifier.search.bab import SearchLimits, SearchMethod
from verifier.search.beside import Sharing
from verifier.search.bounding import Bounded, bound_boxes
from verifier.search.choose import Chooser, Cost
from verifier.search.domains import DomainBatch, whole
from verifier.search.halving import Halving, Recorded, cut
from verifier.search.memory import Memory, Unmeasured, attempt, step_bytes
from verifier.search.neuron_rules import RULES
from verifier.search.neurons import NeuronBounding
from verifier.search.row_trees import RowProof
from verifier.search.shallow import form
from verifier.search.shallow.step import OneLayer
from verifier.search.ties import Exactly

if TYPE_CHECKING:
    from verifier.proof.writer import ProofWriter

ROWS_SHARE = 0.6
"""Share of the time left after which intermediate values get no more rows, and then the output none: bounds that are
looser than they could be are bounds, and a first step that is not there at the end of the time decides nothing."""

REFINE_SHARE = 0.2
"""Share of the time left that tighter intervals at the root may take."""

SIGNS_SHARE = 0.8
"""The same while they find signs of neurons (`bounds.joint.JointBudget`)."""


@dataclass(frozen=True)
class Searched:
    """A search that is ready to run. `work` tells the multiply-adds of its bounds so far, which the attack is paid
    by."""

    first: DomainBatch
    method: SearchMethod[Any]
    work: Callable[[], float]
    limits: SearchLimits


def prepare(on: OnDevice, strategy: Strategy, answer: Answer, proof: ProofWriter | None) -> Searched:
    """The search of a strategy.

    Raises:
        OutOfTime: before the first bound.
        ProofError: no proof can be written of it.
    """
    stop, first = answer.budget.expired, whole(on.lower, on.upper)
    if not strategy.neurons:
        # queries with equally many free inputs side by side: the affine forms of a step have as many as its most
        first = first.select((on.inputs.columns(first.query) < 0).sum(1).argsort(stable=True))
    count, room = strategy.processes if proof is None else 1, answer.budget.memory_bytes
    room = None if room is None else max(1, room // count)
    limits = SearchLimits(stop, answer.report, strategy.batch, on.device, memory(on, strategy, room), processes=count)
    if strategy.kind is Kind.ONE_LAYER:
        one_layer, _ = attempt(partial(_one_layer, on, stop))
        if one_layer is not None:
            limits = replace(limits, batch=min(limits.batch, one_layer.batch))
            if proof is not None:
                one_layer.record = proof.one_layer(on.problem, on.network, stop)
            return Searched(one_layer.roots(first), one_layer, lambda: one_layer.work, limits)
    split = _neuron_split(on, strategy, first, answer.budget, proof is not None) if strategy.neurons else None
    if proof is not None:
        first = replace(first, node=first.query[:, None])
        found = None if split is None else lambda: split.last
        proof.begin(on.problem, on.network, stop, found, rows=strategy.kind is not Kind.ZONOTOPE)
    if split is not None:
        _refine(split, strategy, first, answer.budget, None if proof is None else proof.rows())
    if strategy.kind is Kind.ZONOTOPE:
        first = zonotope.halved(first, proof)
    if split is not None:
        parts = split.roots(first)
        first = parts if proof is None else proof.clauses(first, parts)
    bound, work = (
        (split, lambda: split.work) if split is not None else _bounding(on, strategy, answer, proof is not None)
    )
    # the network is written down when the first tie asks (0.1 s for ACAS Xu's)
    piece = of_a_piece(on.network.multiply_adds, on.network.n)
    fractions = Exactly(cache(partial(Rational.of, on.network)), piece, stop)
    how = bound, on.table, fractions, strategy.max_depth
    method = Halving(*how, own=on.own) if proof is None else Recorded(*how, proof)
    sharing = bound if isinstance(bound, Sharing) else None
    return Searched(first, method, work, replace(limits, sharing=sharing))


def memory(on: OnDevice, strategy: Strategy, limit: int | None) -> Memory:
    """What the search may take, and an estimate of what a box takes."""
    values, widest = (on.free if strategy.bounds.affine else 0) + 2, on.network.widest
    rows = min(on.table.row.shape[1] * widest, max(widest, size_on(on.device, OUTPUT_ELEMENTS)))
    found = Memory.of(on.device, limit, step_bytes(widest * values + rows, on.network.dtype))
    if strategy.deterministic:  # what waits is limited, but no step is made smaller by what was measured
        return replace(found, limit=None, meter=Unmeasured())
    return found


def _one_layer(on: OnDevice, stop: Callable[[], bool]) -> OneLayer:
    layer = form.formulate(on.network)
    boxes = zip(on.lower, on.upper, strict=True)
    return OneLayer([form.clauses(layer, on.table, q, *box) for q, box in enumerate(boxes)], stop)


def _neuron_split(on: OnDevice, strategy: Strategy, boxes: DomainBatch, budget: Budget, proof: bool) -> NeuronBounding:
    """The roots of all queries: intermediate intervals by backward rows; as a proof can, if one is written.

    Raises:
        OutOfTime: before the first bound.
    """
    method, centred = Method(affine=False, rows=True, row_elements=size_on(on.device, LARGE_ROWS)), None
    if not proof:  # a checker bounds by rows alone
        method = replace(method, affine=strategy.bounds.affine, attribute=False)
        around = on.deviating
        centred = None if around is None else Centred(on.network, around, boxes.lower, boxes.upper)
    where = boxes.lower, boxes.upper, boxes.query, on.inputs
    enough = _turn(budget, strategy, proof)
    known = sweep(on.network, *where, method, budget.expired, centred=centred, enough=enough)
    exact = Ground.of(on.network, known, plain=proof)  # a proof knows only the splits of ReLUs
    fast, rule = exact.cast(on.float32), RULES[strategy.neuron_rule]
    return NeuronBounding(exact, fast, on.table, budget.expired, rule=rule, rigorous=strategy.bounds.rigorous)


def _turn(budget: Budget, strategy: Strategy, proof: bool) -> Callable[[], bool]:
    """Whether rows that begin now have taken their share of the time left: never where runs are to be the same, or what
    is computed is written down."""
    spare = (1 - ROWS_SHARE) * budget.remaining()
    return never if strategy.deterministic or proof else lambda: budget.remaining() < spare


def _refine(
    split: NeuronBounding, strategy: Strategy, boxes: DomainBatch, budget: Budget, proof: RowProof | None
) -> None:
    """Tightens the intervals of the roots."""
    now = budget.remaining()

    def spent(share: float) -> Callable[[], bool]:
        # where runs are to be the same, work (`neurons.REFINED`, `bounds.joint.WORK`) is the only limit
        return budget.expired if strategy.deterministic else lambda: budget.remaining() < (1 - share) * now

    split.refine(boxes, strategy.batch, spent(REFINE_SHARE), spent(SIGNS_SHARE), proof)


def _bounding(
    on: OnDevice, strategy: Strategy, answer: Answer, proof: bool
) -> tuple[Callable[[DomainBatch], Bounded], Callable[[], float]]:
    """The bounding step where inputs are split: zonotopes for few inputs and many neurons (their points are all the
    attack there is: no work is counted), what was asked for by name, or cheap and tight bounds, measured."""
    cost = Cost(on.network, on.free)
    stop, turn = answer.budget.expired, partial(_turn, answer.budget, strategy, proof)

    def bound(batch: DomainBatch, bounds: Method) -> Bounded:
        return bound_boxes(on, batch, bounds, stop, strategy.branching, turn)

    if strategy.bounds.kind != "crown":
        each = 0.0 if strategy.kind is Kind.ZONOTOPE else cost.sweep()
        return lambda batch: bound(batch, strategy.bounds), lambda: each * (answer.tally.boxes - answer.earlier)
    chooser = Chooser(bound, partial(_halves, own=on.own), strategy.bounds, strategy.fixed, cost)
    if strategy.deterministic:
        chooser.clock = lambda: chooser.work
    return chooser, lambda: chooser.work


def _halves(boxes: DomainBatch, bounded: Bounded, own: int | None) -> DomainBatch:
    """The children that the search would make of these boxes, without clipping."""
    usable, dimension, at = cut(boxes, bounded.branch, own)
    return boxes.select(usable).split(dimension[usable], at[usable])
