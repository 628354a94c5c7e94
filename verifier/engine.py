"""From model and specification to a result: assemble, cross-check, attack, bound, search."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vnnlib
from verifier.attack.campaign import Campaign
from verifier.attack.pgd import clause_loss, row_values
from verifier.attack.replay import Replay
from verifier.bounds.alpha_beta import Ground
from verifier.bounds.bounder import Method, OutOfTime, sweep
from verifier.bounds.centred import Centred
from verifier.bounds.inputs import IdentityMap, InputMap
from verifier.bounds.lumped import Prepared
from verifier.bounds.network import Network, build, narrowed
from verifier.bounds.rational import Rational
from verifier.bounds.rounded import Twin
from verifier.budget import Budget
from verifier.errors import OptionsError, ProofError
from verifier.graph.onnx_import import Model
from verifier.options import Options
from verifier.problem.assemble import assemble, check_fit, empty_set
from verifier.problem.problem import Problem
from verifier.problem.rows import RowTable
from verifier.problem.runtime import Session, compare, compare_index, compare_problem
from verifier.progress import Progress
from verifier.proof.writer import ProofWriter
from verifier.result import Result, Verdict, Witness
from verifier.search import zonotope
from verifier.search.bab import Outcome, Strategy, Tally, cut, search
from verifier.search.bounding import Bounded, bound_boxes
from verifier.search.choose import Chooser, Cost
from verifier.search.domains import DomainBatch, outward, whole
from verifier.search.leaf import settle_affine
from verifier.search.memory import Memory, attempt, step_bytes
from verifier.search.neurons import NeuronSplit
from verifier.search.shallow import form as shallow_form
from verifier.search.shallow.tree import Counts
from verifier.search.shallow.tree import search as shallow_search
from verifier.search.ties import hopeless, settle_ties

AFFINE_INPUTS = 32
"""Up to this many free inputs per query, affine forms are carried along (their cost grows with the number)."""

FEW_QUERIES = 4
"""Networks of one hidden layer are searched query by query for at most this many queries."""

HALVINGS = 30
"""Halvings per free input, and as many more, after which a box counts as unsplittable: 10^-9 of the width and less."""

KEPT_NEURONS = 8192
"""Up to this many ReLU neurons, open boxes of a neuron split carry the neurons' intervals along (16 bytes each)."""

ROOT_ELEMENTS = 2_000_000
"""Elements of the temporaries of a chunk of backward rows at the root (see `Method`): few large convolutions."""

REFINE_SHARE = 0.2
"""Share of the time left that tighter intervals at the root may take."""

SPLIT_ELEMENTS = 400_000
"""Neurons times subproblems of a step where neurons are split: a larger step only makes the caches useless."""

MANY_QUERIES = 256
"""With more queries than this, bounds come first: most queries are settled by them in one batch."""

INPUT_SPLIT = 20
"""With more free inputs than this, neurons are split instead (where there are ReLUs)."""

FEW_INPUTS = 8
"""Up to so many free inputs, inputs are split whatever the network; in between, networks of nothing but ReLUs have
their neurons split (16 inputs, 64 ReLUs: 501 subproblems where 10^6 boxes were not enough)."""


def solve(
    model: Model,
    spec: vnnlib.NormalForm,
    options: Options,
    budget: Budget,
    progress: Callable[[Progress], None] | None = None,
    proof: ProofWriter | None = None,
) -> Result:
    """Decides the property. Where memory runs out outside the search, which helps itself, the answer is `unknown`.
    `proof` writes the tree of the search down.

    Raises:
        ProofError: a proof is asked for, and the search for this problem cannot write one.
        ProblemError: model and specification do not fit.
        ModelError, UnsupportedOperator: the network cannot be used.
        UnsoundError: the imported graph and ONNX Runtime disagree.
    """
    start = time.monotonic()
    result, _ = attempt(partial(_solve, model, spec, options, budget, progress, start, proof))
    return result or _result(Verdict.UNKNOWN, "memory: not enough for the network itself", start, {}, open_fraction=1.0)


def _solve(
    model: Model,
    spec: vnnlib.NormalForm,
    options: Options,
    budget: Budget,
    progress: Callable[[Progress], None] | None,
    start: float,
    proof: ProofWriter | None,
) -> Result:
    check_fit(model, spec)
    if proof is not None and (options.dtype == "float32" or options.bounds.method == "lumped"):
        raise ProofError("no proof can be written with dtype float32 or bounds.method lumped; leave these at auto")
    if nothing := empty_set(model, spec):
        if proof is not None:
            proof.header()
        return _result(Verdict.UNSAT, nothing, start, {})
    if budget.expired():
        return _result(Verdict.TIMEOUT, "no time was given", start, {})
    problem = assemble(model, spec)
    session = Session(model)
    replay = Replay(model, spec, problem, session)
    if problem.graph.opaque:
        return _only_attack(problem, replay, budget, options, start)
    points = _sample_points(problem, replay, options.seed)
    if model.final is not None and model.final.kind == "argmax":  # the graph up to the logits is what is bounded
        compare_index(model, points, session)
    else:
        compare(model, model.graph, points, session)
    compare_problem(model, problem, points, session)
    return _Run(problem, replay, options, budget, progress, start, proof).solve()


def _sample_points(problem: Problem, replay: Replay, seed: int, count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    query = rng.integers(problem.queries, size=count)
    return replay.snap(_between(problem, query, rng.random((count, problem.lower.shape[1]))), query)


def _between(problem: Problem, query: np.ndarray, share: np.ndarray) -> np.ndarray:
    """The points (M, n) of the queries' boxes at `share` (M, n) of the way; no width that overflows."""
    return problem.lower[query] * (1 - share) + problem.upper[query] * share


def _result(verdict: Verdict, reason: str, start: float, counters: dict[str, int | float], **more: Any) -> Result:
    return Result(verdict=verdict, reason=reason, seconds=time.monotonic() - start, counters=counters, **more)


def _only_attack(problem: Problem, replay: Replay, budget: Budget, options: Options, start: float) -> Result:
    """A network with operators that cannot be bounded: counterexamples can be found, nothing can be proven."""
    node = problem.graph.opaque[0]
    why = (
        f"node '{node.source or node.output}' ({node.attrs.get('op_type')}) has no bound rule, so nothing can be proven"
    )
    rng = np.random.default_rng(options.seed)
    tried = 0
    limit = 200 * max(1, options.attack.restarts)
    while not budget.expired() and tried < limit:
        query = rng.integers(problem.queries, size=16)
        share = rng.random((len(query), problem.lower.shape[1]))
        if tried % 64 == 0:
            share = np.round(share)
        witness = replay(_between(problem, query, share), query)
        tried += 16
        if witness is not None:
            return _result(
                Verdict.SAT, "a sampled input violates the property", start, {"points": tried}, witness=witness
            )
    verdict = Verdict.TIMEOUT if budget.expired() and not budget.stopped else Verdict.UNKNOWN
    return _result(
        verdict, f"{why}; {tried} sampled inputs show no violation", start, {"points": tried}, open_fraction=1.0
    )


@dataclass(frozen=True)
class _Plan:
    """What was chosen from the problem; goes into the result."""

    method: Method
    batch: int
    dtype: torch.dtype
    device: torch.device
    free_inputs: int
    neurons: bool


class _Run:
    """One problem on one device."""

    def __init__(
        self,
        problem: Problem,
        replay: Replay,
        options: Options,
        budget: Budget,
        progress: Callable[[Progress], None] | None,
        start: float,
        proof: ProofWriter | None = None,
    ) -> None:
        self.proof = proof
        self.problem, self.replay, self.options, self.budget = problem, replay, options, budget
        self.progress, self.start = progress, start
        device, dtype = _device(options.device), torch.float64
        self.network: Network = build(problem.graph, dtype, device)
        self.single = narrowed(self.network, problem.graph) if options.dtype == "float32" else None
        self.table = RowTable.from_rows(problem.rows, dtype, device)
        self.lower, self.upper = (t.to(device) for t in outward(problem.lower, problem.upper, dtype))
        self.inputs: InputMap = IdentityMap(torch.from_numpy(problem.free).to(device))
        self.zonotope = options.bounds.method == "auto" and zonotope.suits(self.network, self.table)
        self.lumped = options.bounds.method == "lumped"
        if self.lumped and not zonotope.lumps(self.network, self.table):
            raise OptionsError(
                f"bounds.method lumped: found {self.network.n} varying inputs,"
                f" rows over {'inputs too' if self.table.mixed is not None else 'outputs only'};"
                f" expected at most {zonotope.MOST_LUMPED} inputs and rows over outputs only"
            )
        self.plan = self._choose()
        self.tally = Tally()
        self.campaign = self._attack()

    def _choose(self) -> _Plan:
        d, method = self.inputs.generators, self.options.bounds.method
        affine = d <= AFFINE_INPUTS
        rows = method in ("crown", "alpha") or method == "auto"
        size = self.network.widest * (d + 2 if affine else 2)
        fitting = zonotope.BATCH if self.zonotope else int(min(4096, max(8, 4_000_000 // max(1, size))))
        if self._neurons(d) and self.network.relus:
            fitting = int(min(512, max(4, SPLIT_ELEMENTS // max(1, self.network.neurons))))
        batch = self.options.search.batch or fitting
        alpha = self.options.bounds.alpha_steps if method == "alpha" or (method == "auto" and not affine) else 0
        return _Plan(
            Method(interval=True, affine=affine, rows=rows, alpha_steps=alpha),
            batch,
            self.network.dtype,
            self.network.device,
            d,
            self._neurons(d),
        )

    def _attack(self) -> Campaign:
        generator = torch.Generator(device=self.network.device).manual_seed(self.options.seed)
        how, room = self.options.attack, self.budget.memory_bytes
        most = None if room is None else int(room / step_bytes(self.network.widest, self.network.dtype))
        where = self.network, self.inputs, self.table
        return Campaign(*where, how.restarts, how.steps, generator, self.replay_hits, self.budget.expired, most)

    def _neurons(self, inputs: int) -> bool:
        """Whether neurons are split rather than inputs."""
        plain = set(self.network.relaxed) == set(self.network.relus)
        return inputs > (FEW_INPUTS if plain else INPUT_SPLIT) and not self.lumped

    def solve(self) -> Result:
        """Settles all queries."""
        few = self.problem.queries <= MANY_QUERIES
        witness = attempt(self.first_look)[0] if few else None
        if witness is not None:
            return self.finish(Verdict.SAT, "found by sampling and projected gradient descent", witness=witness)
        self.split: NeuronSplit | None = None
        first = whole(self.lower, self.upper, self.kept_neurons())
        if self.plan.neurons and not self.shallow_suits() and self.network.relus:
            try:
                self.split = self.neuron_split(first)
            except OutOfTime:
                return self.finish(Verdict.TIMEOUT, "the time limit was reached", open_fraction=1.0)
        if self.proof is not None:
            split = self.split
            found = None if split is None else lambda: split.last
            first = replace(first, node=torch.arange(len(first), device=first.query.device)[:, None])
            self.proof.begin(self.problem, self.network, self.budget.expired, found, rows=not self.zonotope)
        if self.zonotope:
            first = zonotope.halved(first, self.proof)
        if self.split is not None:
            parts = self.split.roots(first)
            first = parts if self.proof is None else self.proof.clauses(first, parts)
        bound, work = self.bounding()
        strategy = Strategy(
            bound=bound,
            try_points=self.try_points,
            settle_affine=self.settle,
            hopeless=lambda boxes, bounded: hopeless(boxes, bounded, self.table, self.try_points),
            attack=lambda boxes: self.campaign.again(boxes, work()),
            stop=self.budget.expired,
            report=self.report,
            batch=self.plan.batch,
            max_depth=self.options.search.max_depth
            if self.plan.neurons
            else min(self.options.search.max_depth, HALVINGS * (self.plan.free_inputs + 1)),
            neurons=self.plan.neurons,
            queries=self.problem.queries,
            record=self.proof,
            device=self.network.device,
            memory=self.memory(),
        )
        outcome = self.search(first, strategy)
        self.tally = outcome.tally
        if isinstance(outcome.found, Witness):
            return self.finish(Verdict.SAT, "found by branch and bound", witness=outcome.found)
        if outcome.no_room:
            return self.finish(Verdict.UNKNOWN, strategy.memory.reason, open_fraction=outcome.open_share)
        if outcome.out_of_time:
            verdict = Verdict.UNKNOWN if self.budget.stopped else Verdict.TIMEOUT
            return self.finish(
                verdict, self.budget.stopped or "the time limit was reached", open_fraction=outcome.open_share
            )
        if outcome.tally.stuck:
            return self.finish(
                Verdict.UNKNOWN,
                f"a tie: {outcome.tally.stuck} boxes cannot be split any further: rounding decides there",
                open_fraction=outcome.open_share,
            )
        return self.finish(Verdict.UNSAT, "every box is proven", open_fraction=0.0)

    @cached_property
    def rational(self) -> Rational | None:
        """The network in fractions, written down when the first tie asks for it (0.1 s for ACAS Xu's size)."""
        return Rational.of(self.network)

    def settle(self, boxes: DomainBatch, bounded: Bounded) -> tuple[Tensor, object | None]:
        """Affine boxes by linear programs, ties by fractions."""
        keep, found = settle_affine(boxes, bounded, self.try_points)
        return (keep & ~settle_ties(boxes, bounded, lambda: self.rational, self.table)), found

    def search(self, first: DomainBatch, strategy: Strategy) -> Outcome:
        """Branch and bound; a network of one hidden layer with many inputs has a search of its own."""
        shallow = self.plan.neurons and self.shallow_suits()
        if not shallow or self.problem.queries > FEW_QUERIES:
            return search(first, strategy)
        outcome, _ = attempt(self.shallow)
        return search(first, strategy) if outcome is None else outcome

    def shallow_suits(self) -> bool:
        """Whether the search for one hidden layer is the right one; it cannot write proofs."""
        return self.proof is None and shallow_form.suits(self.network)

    def shallow(self) -> Outcome:
        """All clauses of all queries, one after the other."""
        tally, open_share, rest = Tally(), 0.0, None
        layer = shallow_form.formulate(self.network)
        for q in range(self.problem.queries):
            box = whole(self.lower, self.upper).select(slice(q, q + 1))
            lower, upper = box.lower[0].double(), box.upper[0].double()
            clauses = shallow_form.clauses(layer, self.table, q, lower, upper)
            tries = partial(self.try_points_of, query=box.query)
            for clause in clauses:
                counts = partial(
                    self.count, tally=tally, before=(tally.boxes, tally.steps, tally.settled), parts=len(clauses)
                )
                end = shallow_search(clause, tries, self.budget.expired, counts)
                if end.found is not None:
                    return Outcome(end.found, 1.0, tally, None)
                tally.stuck += end.stuck
                open_share += end.open_share / (len(clauses) * self.problem.queries)
                rest = box if end.out_of_time else rest
        return Outcome(None, min(1.0, open_share), tally, rest)

    def count(self, counts: Counts, tally: Tally, before: tuple[int, int, float], parts: int) -> None:
        """The counters of a search in a shallow network, as the tally that is reported."""
        tally.boxes, tally.steps = before[0] + counts.nodes, before[1] + counts.steps
        tally.open_boxes, tally.lower = counts.open, counts.lower
        tally.settled = before[2] + counts.settled / (parts * self.problem.queries)
        self.report(tally)

    def try_points_of(self, points: Tensor, query: Tensor) -> Witness | None:
        """Points (M, n) of one query (1,)."""
        return self.try_points(points.to(self.plan.dtype), query.expand(len(points)))

    def memory(self) -> Memory:
        """What the search may take, and an estimate of what a box takes."""
        values = (self.plan.free_inputs if self.plan.method.affine else 0) + 2 + self.table.row.shape[1]
        per_box = step_bytes(self.network.widest * values, self.network.dtype)
        return Memory.of(self.network.device, self.budget.memory_bytes, per_box)

    def bound(self, batch: DomainBatch, method: Method) -> Bounded:
        return bound_boxes(self.network, self.table, batch, self.inputs, method, self.budget.expired, self.single)

    def kept_neurons(self) -> int:
        """How many neurons' intervals the open boxes carry along: all, where neurons are split and there are few."""
        count = sum(self.network.ops[i].multiply_adds for i in self.network.relus)
        return count if self.plan.neurons and count <= KEPT_NEURONS else 0

    def bounding(self) -> tuple[Callable[[DomainBatch], Bounded], Callable[[], float]]:
        """The bounding step, and the multiply-adds that it has come to so far.

        Zonotopes for few inputs and many neurons (their points are all the attack there is: no work is counted),
        lumped ones where asked for, neuron splits for many inputs, or the chooser.
        """
        if (split := self.split) is not None:
            return split, lambda: split.work
        cost = Cost(self.network, self.plan.free_inputs)
        if not self.zonotope and not self.lumped:
            # cheap or tight bounds, measured, unless the options or the problem leave no choice
            fixed = self.options.bounds.method != "auto" or not self.plan.method.affine
            chooser = Chooser(self.bound, self.halves, self.plan.method, fixed, cost)
            return chooser, lambda: chooser.work
        twin = Twin.of(self.problem.graph, self.network.device)
        if self.zonotope:
            return lambda batch: zonotope.bound_zonotope(twin, self.table, batch), lambda: 0.0
        prepared = Prepared.of(twin)
        return lambda batch: zonotope.bound_lumped(prepared, self.table, batch), lambda: cost.sweep() * self.tally.boxes

    def neuron_split(self, boxes: DomainBatch) -> NeuronSplit:
        """The roots of all queries: intermediate intervals by backward rows.

        Raises:
            OutOfTime: before the first bound.
        """
        method = Method(affine=False, rows=True, row_elements=ROOT_ELEMENTS)
        centred = None
        if self.proof is None:  # a checker bounds by rows alone
            method = replace(method, affine=self.plan.method.affine, attribute=False)
            # convolutions of float64 take five times as long on a CPU; elsewhere those of float32 may not be plain sums
            if self.network.device.type == "cpu" and any(op.node.op.startswith("Conv") for op in self.network.ops):
                centred = Centred.of(self.network, self.problem.graph, boxes.lower, boxes.upper)
        where = boxes.lower, boxes.upper, boxes.query, self.inputs
        known = sweep(self.network, *where, method, self.budget.expired, centred=centred)
        exact = Ground.of(self.network, known)
        fast = exact.cast(build(self.problem.graph, torch.float32, self.network.device))
        split = NeuronSplit(exact, fast, self.table, self.budget.expired)
        if self.proof is not None:
            return split
        rest = (1 - REFINE_SHARE) * self.budget.remaining()
        return split.refined(boxes, self.plan.batch, lambda: self.budget.remaining() < rest)

    def halves(self, boxes: DomainBatch, bounded: Bounded) -> DomainBatch:
        """The children that the search would make of these boxes, without clipping."""
        usable, dimension, at = cut(boxes, bounded.branch)
        return boxes.select(usable).split(dimension[usable], at[usable])

    def first_look(self) -> Witness | None:
        """The attack before the search."""
        if self.zonotope:
            # with so few inputs the search's own points are as good as a descent, and cost next to nothing
            return self.try_points(*zonotope.grid(self.lower, self.upper)) if self.options.attack.restarts else None
        return self.campaign.first(whole(self.lower, self.upper))

    def replay_hits(self, points: Tensor, loss: Tensor, query: Tensor) -> Witness | None:
        """The points that violate in our arithmetic, worst first, replayed in ONNX Runtime."""
        hits = (loss <= 0).nonzero()[:, 0]
        if len(hits) == 0:
            return None
        hits = hits[loss[hits].argsort()[:8]]
        return self.replay(points[hits].double().cpu().numpy(), query[hits].cpu().numpy())

    def try_points(self, points: Tensor, query: Tensor) -> Witness | None:
        """Concrete points of a search step: those that violate in our arithmetic are replayed."""
        if len(points) == 0:
            return None
        loss = clause_loss(self.table, row_values(self.network, self.inputs, self.table, points, query), query).amin(1)
        return self.replay_hits(points, loss, query)

    def report(self, tally: Tally) -> None:
        self.tally = tally
        if self.progress is not None:
            self.progress(
                Progress(
                    boxes=tally.boxes,
                    open_boxes=tally.open_boxes,
                    seconds=time.monotonic() - self.start,
                    lower=tally.lower,
                    settled=tally.settled,
                    remaining=self.budget.remaining(),
                )
            )

    def finish(self, verdict: Verdict, reason: str, **more: object) -> Result:
        counters: dict[str, int | float] = {
            "boxes": self.tally.boxes,
            "steps": self.tally.steps,
            "deepest": self.tally.deepest,
            "queries": self.problem.queries,
            "replays": self.replay.tried,
        }
        settings = {
            "method": "zonotope" if self.zonotope else "lumped" if self.lumped else self.plan.method.name,
            "batch": self.plan.batch,
            "dtype": "float64" if self.single is None or self.lumped or self.zonotope else "float32",
            "device": str(self.plan.device),
            "free_inputs": self.plan.free_inputs,
            "split": "neurons" if self.plan.neurons else "inputs",
            "neurons": self.network.neurons,
        }
        return _result(verdict, reason, self.start, counters, settings=settings, **more)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise OptionsError("device cuda: this PyTorch finds no CUDA device; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
