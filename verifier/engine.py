"""From model and specification to a result: assemble, cross-check, attack, bound, search."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import vnnlib
from verifier.assemble import assemble, check_fit
from verifier.attack.pgd import clause_loss, pgd, row_values
from verifier.attack.replay import Replay
from verifier.bounds.bounder import Method, OutOfTime
from verifier.bounds.network import Network, build
from verifier.bounds.rounded import Twin
from verifier.budget import Budget
from verifier.domains import DomainBatch
from verifier.graph.onnx_import import Model
from verifier.inputs import IdentityMap, InputMap
from verifier.options import Options
from verifier.problem import Problem
from verifier.progress import Progress
from verifier.result import Result, Verdict, Witness
from verifier.runtime import Session, compare
from verifier.search import zonotope
from verifier.search.bab import Outcome, Strategy, Tally, cut, search
from verifier.search.bounding import Bounded, bound_boxes
from verifier.search.choose import Chooser, predicted_ratio
from verifier.search.leaf import settle_affine
from verifier.rows import RowTable

AFFINE_INPUTS = 32
"""Up to this many free inputs per query, affine forms are carried along (their cost grows with the number)."""


def solve(
    model: Model,
    spec: vnnlib.NormalForm,
    options: Options,
    budget: Budget,
    progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Decides the property.

    Raises:
        ProblemError: model and specification do not fit.
        ModelError, UnsupportedOperator: the network cannot be used.
        UnsoundError: the imported graph and ONNX Runtime disagree.
    """
    start = time.monotonic()
    check_fit(model, spec)
    if spec.n_cases == 0:
        return _result(Verdict.UNSAT, "the input set is empty", start, {})
    if budget.expired():
        return _result(Verdict.TIMEOUT, "no time was given", start, {})
    problem = assemble(model, spec)
    session = Session(model)
    replay = Replay(model, spec, problem, session)
    if problem.graph.opaque:
        return _only_attack(problem, replay, budget, options, start)
    compare(model, model.graph, _sample_points(problem, replay, options.seed))
    return _Run(problem, replay, options, budget, progress, start).solve()


def _sample_points(problem: Problem, replay: Replay, seed: int, count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    query = rng.integers(problem.queries, size=count)
    width = problem.upper[query] - problem.lower[query]
    return replay.snap(problem.lower[query] + width * rng.random(width.shape), query)


def _result(verdict: Verdict, reason: str, start: float, counters: dict[str, int | float], **more: object) -> Result:
    return Result(verdict=verdict, reason=reason, seconds=time.monotonic() - start, counters=counters, **more)  # type: ignore[arg-type]


def _only_attack(problem: Problem, replay: Replay, budget: Budget, options: Options, start: float) -> Result:
    """A network with operators that cannot be bounded: counterexamples can be found, nothing can be proven."""
    node = problem.graph.opaque[0]
    why = f"node '{node.source or node.output}' ({node.attrs.get('op_type')}) has no bound rule, so nothing can be proven"
    rng = np.random.default_rng(options.seed)
    tried = 0
    limit = 200 * max(1, options.attack.restarts)
    while not budget.expired() and tried < limit:
        query = rng.integers(problem.queries, size=16)
        width = problem.upper[query] - problem.lower[query]
        share = rng.random(width.shape)
        if tried % 64 == 0:
            share = np.round(share)
        witness = replay(problem.lower[query] + width * share, query)
        tried += 16
        if witness is not None:
            return _result(Verdict.SAT, "a sampled input violates the property", start, {"points": tried}, witness=witness)
    verdict = Verdict.TIMEOUT if budget.expired() and not budget.stopped else Verdict.UNKNOWN
    return _result(verdict, f"{why}; {tried} sampled inputs show no violation", start, {"points": tried}, open_fraction=1.0)


@dataclass(frozen=True)
class _Plan:
    """What was chosen from the problem; goes into the result."""

    method: Method
    batch: int
    dtype: torch.dtype
    device: torch.device
    free_inputs: int


class _Run:
    """One problem on one device."""

    def __init__(self, problem: Problem, replay: Replay, options: Options, budget: Budget,
                 progress: Callable[[Progress], None] | None, start: float) -> None:
        self.problem, self.replay, self.options, self.budget = problem, replay, options, budget
        self.progress, self.start = progress, start
        device = _device(options.device)
        dtype = torch.float32 if options.dtype == "float32" else torch.float64
        self.network: Network = build(problem.graph, dtype, device)
        self.table = RowTable.from_rows(problem.rows, dtype, device)
        self.lower = torch.from_numpy(problem.lower).to(device, dtype)
        self.upper = torch.from_numpy(problem.upper).to(device, dtype)
        self.inputs: InputMap = IdentityMap(torch.from_numpy(problem.free).to(device))
        self.zonotope = options.bounds.method == "auto" and zonotope.suits(self.network, self.table)
        self.plan = self._choose()
        self.tally = Tally()
        self.points = 0

    def _choose(self) -> _Plan:
        d, method = self.inputs.generators, self.options.bounds.method
        affine = d <= AFFINE_INPUTS
        rows = method in ("crown", "alpha") or method == "auto"
        size = self.network.widest * (d + 2 if affine else 2)
        fitting = zonotope.BATCH if self.zonotope else int(min(4096, max(8, 4_000_000 // max(1, size))))
        batch = self.options.search.batch or fitting
        return _Plan(Method(interval=True, affine=affine, rows=rows), batch, self.network.dtype, self.network.device, d)

    def solve(self) -> Result:
        witness = self.attack()
        if witness is not None:
            return self.finish(Verdict.SAT, "found by projected gradient descent", witness=witness)
        first = self.boxes()
        strategy = Strategy(
            bound=self.zonotopes() if self.zonotope else self.chooser(),
            try_points=self.try_points,
            settle_affine=lambda boxes, bounded: settle_affine(boxes, bounded, self.try_points),
            stop=self.budget.expired,
            report=self.report,
            batch=self.plan.batch,
            max_depth=self.options.search.max_depth,
            queries=self.problem.queries,
            device=self.network.device,
        )
        try:
            outcome = search(first, strategy)
        except OutOfTime:
            outcome = Outcome(None, 1.0 - self.tally.settled, self.tally, True)
        self.tally = outcome.tally
        if isinstance(outcome.found, Witness):
            return self.finish(Verdict.SAT, "found by branch and bound", witness=outcome.found)
        if outcome.out_of_time:
            verdict = Verdict.UNKNOWN if self.budget.stopped else Verdict.TIMEOUT
            return self.finish(verdict, self.budget.stopped or "the time limit was reached", open_fraction=outcome.open_share)
        if outcome.tally.stuck:
            return self.finish(Verdict.UNKNOWN, f"{outcome.tally.stuck} boxes cannot be split any further: rounding decides there",
                               open_fraction=outcome.open_share)
        return self.finish(Verdict.UNSAT, "every box is proven", open_fraction=0.0)

    def bound(self, batch: DomainBatch, method: Method) -> Bounded:
        return bound_boxes(self.network, self.table, batch, self.inputs, method, self.budget.expired)

    def zonotopes(self) -> Callable[[DomainBatch], Bounded]:
        """Bounds for few inputs and many neurons."""
        twin = Twin.of(self.problem.graph, self.network.device)
        return lambda batch: zonotope.bound_zonotope(twin, self.table, batch)

    def chooser(self) -> Chooser:
        """Cheap or tight bounds, measured, unless the options or the problem leave no choice."""
        fixed = self.options.bounds.method != "auto" or not self.plan.method.affine
        return Chooser(self.bound, self.halves, self.plan.method, fixed,
                       lambda counts: predicted_ratio(self.network, counts, self.plan.free_inputs))

    def halves(self, boxes: DomainBatch, bounded: Bounded) -> DomainBatch:
        """The children that the search would make of these boxes, without clipping."""
        usable, dimension, at = cut(boxes, bounded.branch, self.options.search.max_depth)
        return boxes.select(usable).split(dimension[usable], at[usable])

    def boxes(self) -> DomainBatch:
        q, device = self.problem.queries, self.network.device
        return DomainBatch(
            self.lower, self.upper, torch.arange(q, device=device), torch.ones(q, dtype=torch.float64, device=device),
            torch.full((q,), -torch.inf, dtype=self.network.dtype, device=device), torch.zeros(q, dtype=torch.int64, device=device),
        )

    def attack(self) -> Witness | None:
        """Projected gradient descent over all queries, in rounds, within a small part of the budget."""
        restarts, steps = self.options.attack.restarts, self.options.attack.steps
        if restarts == 0:
            return None
        generator = torch.Generator(device=self.network.device).manual_seed(self.options.seed)
        until = self.budget.clock() + 0.1 * min(self.budget.remaining(), 100.0)
        many = max(restarts, min(self.problem.queries, 4096))
        query = torch.arange(self.problem.queries, device=self.network.device).repeat(-(-many // self.problem.queries))[:many]
        points, loss = pgd(self.network, self.inputs, self.table, self.lower[query], self.upper[query], query, steps, generator,
                           lambda: self.budget.expired() or self.budget.clock() > until)
        order = loss.argsort()[:8]
        order = order[loss[order] <= 0]
        return self.replay(points[order].double().cpu().numpy(), query[order].cpu().numpy())

    def try_points(self, points: Tensor, query: Tensor) -> Witness | None:
        """Concrete points of a search step: those that violate in our arithmetic are replayed."""
        if len(points) == 0:
            return None
        loss = clause_loss(self.table, row_values(self.network, self.inputs, self.table, points, query), query).amin(1)
        hits = (loss <= 0).nonzero()[:, 0]
        if len(hits) == 0:
            return None
        hits = hits[loss[hits].argsort()[:8]]
        return self.replay(points[hits].double().cpu().numpy(), query[hits].cpu().numpy())

    def report(self, tally: Tally) -> None:
        self.tally = tally
        if self.progress is not None:
            self.progress(Progress(boxes=tally.boxes, open_boxes=tally.open_boxes, seconds=time.monotonic() - self.start,
                                   lower=tally.lower, settled=tally.settled, remaining=self.budget.remaining()))

    def finish(self, verdict: Verdict, reason: str, **more: object) -> Result:
        counters: dict[str, int | float] = {"boxes": self.tally.boxes, "steps": self.tally.steps, "deepest": self.tally.deepest,
                    "queries": self.problem.queries, "replays": self.replay.tried}
        settings = {"method": "zonotope" if self.zonotope else "crown" if self.plan.method.rows else "forward", "batch": self.plan.batch,
                    "dtype": str(self.plan.dtype).removeprefix("torch."), "device": str(self.plan.device),
                    "free_inputs": self.plan.free_inputs, "neurons": self.network.neurons}
        return _result(verdict, reason, self.start, counters, settings=settings, **more)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        from verifier.errors import OptionsError

        raise OptionsError("device cuda: this PyTorch finds no CUDA device; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
