"""The bounding step where neurons are split: alpha/beta-CROWN, branching with one step of look-ahead, proofs.

A subproblem asks for one clause of one query and carries what its parent found: slopes (one byte each, at neurons that
can be unstable at all) and multipliers. All intermediate intervals are the root's, with decided neurons clamped at
their split points: 0 for a ReLU, elsewhere what the operator says (`RelaxedOp.split_point`; GenBaB, Shi et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.bounds.alpha_beta import climb, prove
from verifier.bounds.backward import neuron_rows, of_groups, walk_back
from verifier.bounds.clipped import NeuronPlanes, PlaneRows
from verifier.bounds.joint import Joint, JointBudget
from verifier.bounds.refine import STEPS as REFINE_STEPS
from verifier.bounds.refine import refine
from verifier.bounds.relaxed import ClippedEnds, Ground, Parameters, Relaxed, Task, Walked
from verifier.budget import OutOfTime
from verifier.ops.kinds import Interval
from verifier.problem.rows import RowTable
from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch
from verifier.search.neuron_rules import RULES, NeuronRule, open_splits
from verifier.search.row_trees import RowProof, RowTrees
from verifier.search.slopes import pack, unpack
from verifier.search.triangles import charge, optimal
from verifier.tolerance import subtract_down

ROOT_STEPS, STEPS = 30, 20
"""Most iterates at the root and at later subproblems. These start from their parent's parameters, and end when they
are settled or will not be. (With 5 for all a network of 54 ReLUs had 78 000 open subproblems where 355 with 30 decide
it.)"""

CLIPPED, MOST_CLIPPED, CLIPPED_BYTES = 1.5, 512, 1 << 27
"""Neurons whose intervals are clipped, in multiply-adds of the network for each input: about what a subproblem costs
besides. How many at most, and the most bytes of their rows. (60, 150 and 400 neurons of img4168: 243, 139 and 115
subproblems, 8.2, 7.2 and 9.8 s.)"""

NEAR, CLIPPED_STEPS = 0.3, 10
"""Share of a clause's linear bound below 0 up to which its subproblem is clipped, and iterates after that. (With 0.1,
above which hardly one is settled at once, img4168 takes 147 subproblems instead of 113, 4909 743 instead of 561.)"""

FEW = 200
"""Slopes up to which all subproblems climb to the end: such trees are deep, and what is climbed for is inherited. (One
of 54 ReLUs takes 15 000 subproblems so, and is open after 56 000 otherwise.)"""

CANDIDATES = 8
"""Neurons per subproblem that the look-ahead compares; each costs two walks, an iterate costs two as well. (Measured:
`benchmarks/README.md`.)"""

REFINED = 1e12
"""Multiply-adds that tighter intervals may cost at the root: 10 to 20 s on a core, and more for large activations."""

TIGHTENING = 0.25
"""Share of all work that goes into the intervals."""

ALMOST, PROGRAMS = 0.01, 0.25
"""Where at most `FEW` slopes are climbed for: share of what a linear bound varies by up to which below 0 the subproblem
is solved as a linear program, and the share of all work that goes there. (`benchmarks/README.md`.)"""


class FoundWith(NamedTuple):
    """What bounds of B subproblems were found with, and the slopes (B, *S) that they use by ReLU operator."""

    best: Parameters
    slopes: dict[int, Tensor]


@dataclass(eq=False)
class NeuronBounding:
    """Bounds and branching for subproblems with decided neurons.

    `exact` and `fast` are the roots of all queries in float64 and in the precision of the search; `table` the rows.
    Without `rigorous` what `fast` finds counts as proven.
    """

    exact: Ground
    fast: Ground
    table: RowTable
    stop: Callable[[], bool]
    rule: NeuronRule = RULES["auto"]
    """Which neuron to split."""

    work: float = 0.0
    """Multiply-adds so far."""

    rigorous: bool = True
    trees: RowTrees | None = None
    """Tightens the intervals as the search goes on."""

    spent: float = 0.0
    """Multiply-adds of that, part of `work`."""

    programs: float = 0.0
    """Multiply-adds that linear programs count for, part of `work`."""

    planes: NeuronPlanes | None = None
    """Tightens intervals to where a subproblem's clause can be violated."""

    _last: tuple[tuple[Task, Parameters], Tensor, tuple[Task, Parameters]] = field(init=False)

    def __post_init__(self) -> None:
        self.cost = float(self.exact.network.multiply_adds)

    @property
    def count(self) -> int:
        """Parameters of a subproblem's planes."""
        relus = self.exact.network.relus
        return sum(len(t) * (1 if i in relus else 2) for i, t in self.exact.loose.items())

    @property
    def last(self) -> tuple[FoundWith, Tensor, FoundWith]:
        """What the last batch's bounds were proven with, for all its subproblems; which (C,) were clipped, and with
        what before: a proof of them needs it."""
        found, clipped, (task, best) = self._last
        before = task.select(clipped), best.select(clipped)
        shown, narrowed = (FoundWith(p, Relaxed(self.fast, t).used(p)) for t, p in (found, before))
        return shown, clipped, narrowed

    def learned(self) -> dict[int, np.ndarray]:
        """See `beside.Sharing`: the intervals of the arguments of ReLUs, (2, Q, *S) by operator."""
        pre = self.exact.pre
        return {i: torch.stack(tuple(pre[i][0])).cpu().numpy() for i in self.exact.network.relus} if self.trees else {}

    def learn(self, learned: dict[int, np.ndarray]) -> None:
        """See `beside.Sharing`."""
        found = {i: (Interval(*torch.from_numpy(ends)),) for i, ends in learned.items()}
        self.exact = replace(self.exact, pre={**self.exact.pre, **found})
        self.fast, self.trees = self.exact.cast(self.fast.network), None

    def roots(self, boxes: DomainBatch) -> DomainBatch:
        """One subproblem for every clause of every box, with nothing found yet."""
        clauses = self.table.clauses[boxes.query]
        index = torch.arange(len(boxes), device=clauses.device).repeat_interleave(clauses)
        first = torch.cumsum(clauses, 0) - clauses
        number = torch.arange(len(index), device=clauses.device) - first[index]
        parts = boxes.select(index)
        alpha = torch.zeros(len(parts), self.count, dtype=torch.uint8, device=clauses.device)
        state = parts.state if self.planes is None else self.planes.nothing.flatten()[None].repeat(len(parts), 1)
        return replace(parts, share=parts.share / clauses[index], clause=number[:, None], alpha=alpha, state=state)

    def refine(
        self,
        boxes: DomainBatch,
        batch: int,
        late: Callable[[], bool],
        stop: Callable[[], bool],
        proof: RowProof | None = None,
    ) -> None:
        """Tightens the intervals of neurons that matter to the clauses that the roots leave open, those that cost them
        most first; `batch` subproblems at a time, until it is `late`, or, while neurons' signs are found, until
        `stop()` says so. What tightens is written to the `proof`."""
        network = self.exact.network
        if not self._later():
            return
        lower, upper = boxes.lower.double(), boxes.upper.double()
        roots = self.roots(boxes)
        losses: dict[int, Tensor] = {}
        for start in range(0, len(roots), batch):
            if late():
                return
            part = roots.select(slice(start, start + batch))
            task = self.task(part).to(self.fast.network.dtype)
            best, value, _ = climb(self.fast, task, None, ROOT_STEPS, late)
            open_ = (~(value > 0)).nonzero()[:, 0]
            relaxed = Relaxed(self.fast, task.select(open_))
            best = best.select(open_)
            walked = relaxed.walk(best)
            low, high = relaxed.bounds
            every = (relaxed.at_loose(walked.at).abs_() * (low * high / (low - high))).masked_fill_(~relaxed.open_, 0.0)
            for i, cost in relaxed.by_operator(every).items():
                lost = losses.setdefault(i, cost.new_zeros(len(boxes), cost.shape[1]))
                lost.scatter_reduce_(0, relaxed.task.query[:, None].expand_as(cost), cost, "amax")
        if not self.exact.curved:  # rows know no split points
            self.trees = RowTrees(lower, upper, max(1, batch // 2), proof)
        chosen = self._affordable(losses)
        if not chosen:
            return
        kept = PlaneRows(self._clippable(chosen, losses), lower, upper, None if proof is None else proof.climbed)
        quadratic = proof is None and Joint.suits(self.exact)  # a checker knows linear rows only
        joint = Joint(self.fast.network, lower, upper, JointBudget(stop, late=late)) if quadratic else None
        pre = refine(self.exact, self.fast.network, lower, upper, chosen, batch, late, kept, joint)
        self.exact = Ground.at(network, pre, self.exact.allowance, self.exact.plain)
        self.fast = self.exact.cast(self.fast.network)
        self.planes = kept.planes(network)

    def _clippable(self, chosen: dict[int, Tensor], losses: dict[int, Tensor]) -> dict[int, Tensor]:
        """Of `chosen` pairs of query and neuron, the neurons whose intervals a clause tightens: the late layers' first,
        which depend on many inputs, and the largest losses of a layer. Flat positions by operator."""
        network, wanted = self.exact.network, {}
        free = min(MOST_CLIPPED, int(CLIPPED * self.cost / network.n))
        free = min(free, CLIPPED_BYTES // (8 * network.n * len(self.table.clauses)))
        for i in sorted(chosen, reverse=True):
            neurons = chosen[i][:, 1].unique()
            loss = losses[i].amax(0)[torch.searchsorted(self.exact.loose[i], neurons)]
            if free > 0:
                wanted[i] = neurons[loss.topk(min(free, len(neurons))).indices].sort().values
            free -= len(neurons)
        return dict(sorted(wanted.items()))

    def _later(self) -> list[int]:
        """The ReLU operators with open neurons whose arguments are not affine (intervals of affine ones are exact)."""
        network = self.exact.network
        return [i for i in network.relus if len(self.exact.loose[i]) and any(k < i for k in network.relaxed)]

    def _affordable(self, losses: dict[int, Tensor]) -> dict[int, Tensor]:
        """Pairs of query and neuron (M, 2) by operator, the largest losses first, until `REFINED` is spent."""
        network = self.exact.network
        before = torch.tensor([float(op.multiply_adds) for op in network.ops]).cumsum(0)
        later = [i for i in self._later() if i in losses]
        if not later:
            return {}
        every = torch.cat([losses[i].flatten() for i in later])
        price = torch.cat([torch.full((losses[i].numel(),), 4.0 * REFINE_STEPS * float(before[i])) for i in later])
        order = every.argsort(descending=True)
        spent = price.to(every.device)[order].cumsum(0)
        bought = torch.zeros_like(every, dtype=torch.bool)
        bought[order] = (spent <= REFINED) & (every[order] > 0)
        parts = bought.split([losses[i].numel() for i in later])
        chosen = {i: part.view_as(losses[i]).nonzero() for i, part in zip(later, parts, strict=True)}
        return {
            i: torch.stack([query, self.exact.loose[i][place]], 1)
            for i, pairs in chosen.items()
            for query, place in [pairs.unbind(1)]
        }

    def task(self, batch: DomainBatch) -> Task:
        """The subproblems with their clause's rows, in float64."""
        table = self.table
        picked = (table.clause[batch.query] == batch.clause) & torch.isfinite(table.rhs[batch.query])
        most = max(1, int(picked.sum(1).max()))
        column = picked.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :most]
        used = picked.gather(1, column)
        row = table.row[batch.query].gather(1, column)
        m = self.exact.network.m
        rows = torch.zeros(len(batch), most, m, dtype=torch.float64, device=row.device)
        rows.scatter_(2, row[:, :, None], used.double()[:, :, None])
        rhs = torch.where(used, table.rhs[batch.query].gather(1, column).double(), -torch.inf)
        mixed = None if table.mixed is None else table.mixed[row].double() * used[:, :, None]
        points = batch.points
        if self.exact.curved:
            points = F.pad(points, (0, batch.signs.shape[1] - points.shape[1]))
        task = Task(batch.lower.double(), batch.upper.double(), batch.query, batch.signs, points, rows, rhs, mixed)
        if self.planes is None:
            return task
        return replace(task, within=ClippedEnds(self.planes.places, torch.stack(batch.state.chunk(2, 1))))

    def __call__(self, batch: DomainBatch) -> Bounded:
        """Bounds a batch: climbs in the search's precision, proves in float64 what looks proven, and looks ahead.

        Raises:
            OutOfTime: the clock said so in the middle.
        """
        dtype = self.fast.network.dtype
        exact_task = self.task(batch)
        task = exact_task.to(dtype)
        first = bool(_fresh(batch).any())
        start = self.unpack(batch, Relaxed(self.fast, task).default())
        steps = ROOT_STEPS if first else STEPS
        best, value, walks = climb(self.fast, task, start, steps, self.stop, sign=not first and self.count > FEW)
        before = task, best
        self._last = before, batch.query[:0], before
        self.work += walks * self.cost
        if self.stop():
            raise OutOfTime
        if self.planes is not None:
            exact_task, task, best, value, clipped = self._clip(exact_task, task, best, value)
            self._last = (task, best), clipped, before
            if self.stop():
                raise OutOfTime
        value = value.double()
        if self.count <= FEW and not self.exact.others:
            best, value = self._solve(exact_task, best, value)
            self._last = (task, best), *self._last[1:]
        proven = torch.zeros(len(batch), dtype=torch.bool, device=value.device)
        hopeful = (value > 0).nonzero()[:, 0]
        if not self.rigorous:
            proven[hopeful] = True
        elif len(hopeful):
            low, _, _, _ = prove(self.exact, exact_task.select(hopeful), best.select(hopeful))
            proven[hopeful] = low > 0
            value[hopeful] = low
        if self.stop():
            raise OutOfTime
        alive = (~proven).nonzero()[:, 0]
        self.work += (2 * len(hopeful) + (2 * CANDIDATES + 2) * len(alive)) * self.cost  # a walk in float64 costs two
        return self._open(batch, alive, exact_task.select(alive), best.select(alive), value)

    def _clip(
        self, exact: Task, task: Task, best: Parameters, value: Tensor
    ) -> tuple[Task, Task, Parameters, Tensor, Tensor]:
        """Intervals of what is open are tightened to where a violation can be, and the climb goes on with them. Also
        which ones (C,)."""
        assert self.planes is not None and exact.within is not None
        open_ = (~(value > 0)).nonzero()[:, 0]
        if not len(open_):
            return exact, task, best, value, open_
        part = exact.select(open_)
        low, row, constant, _ = prove(self.exact, part, best.select(open_))
        share = self.planes.share(part.query, row, low)
        near = (share < NEAR).nonzero()[:, 0]
        self.work += 2 * len(open_) * self.cost
        if not len(near):
            return exact, task, best, value, near
        open_, part = open_[near], part.select(near)
        ends = self.planes.within(part.query, row[near], constant[near], exact.within.ends[:, open_])
        exact = replace(exact, within=exact.within._replace(ends=exact.within.ends.index_copy(1, open_, ends)))
        task = exact.to(task.lower.dtype)
        found, high, walks = climb(
            self.fast, task.select(open_), best.select(open_), CLIPPED_STEPS, self.stop, sign=True
        )
        self.work += walks * self.cost + len(open_) * self.planes.cost
        return exact, task, best.put(open_, found), value.index_copy(0, open_, high), open_

    def _solve(self, exact: Task, best: Parameters, value: Tensor) -> tuple[Parameters, Tensor]:
        """Parameters and bounds of what is almost settled, by linear programs as far as their share of work goes: those
        nearest to 0 first."""
        open_ = (~(value > 0)).nonzero()[:, 0]
        each = charge(self.exact, exact)
        paid = (PROGRAMS * self.work - self.programs) / each
        if paid < 1 or not len(open_):
            return best, value
        task = exact.select(open_)
        walked = Relaxed(self.fast, task.to(self.fast.network.dtype)).walk(best.select(open_))
        self.work += len(open_) * self.cost
        missing = -walked.low.double() / (walked.coefficients.double().abs() * (task.upper - task.lower)).sum(1)
        near = missing.argsort(stable=True)[: int(min(paid, len(open_)))]
        near = near[missing[near] < ALMOST]
        if not len(near):
            return best, value
        self.programs, self.work = self.programs + each * len(near), self.work + each * len(near)
        solved, found = optimal(self.exact, task.select(near), self.stop)
        if not len(solved):
            return best, value
        at = open_[near[solved]]
        found = found.to(best.alpha.dtype)
        low, _, _, _ = prove(self.exact, exact.select(at), found)
        self.work += 2 * len(at) * self.cost
        better = low > value[at]
        at, low, found = at[better], low[better], found.select(better.nonzero()[:, 0])
        return best.put(at, found), value.index_copy(0, at, low)

    def _open(self, batch: DomainBatch, alive: Tensor, exact: Task, best: Parameters, value: Tensor) -> Bounded:
        relaxed = Relaxed(self.fast, exact.to(self.fast.network.dtype))
        if exact.within is not None and self.planes is not None:
            # a linear program needs every sign: none that only clipping tells
            done = (relaxed.undecided() == 0)[:, None]
            if bool(done.any()):
                ends = torch.where(done, self.planes.nothing, exact.within.ends)
                exact = replace(exact, within=exact.within._replace(ends=ends))
                relaxed = Relaxed(self.fast, exact.to(self.fast.network.dtype))
        walked = relaxed.walk(best)
        arguments = relaxed.values(best, walked).arguments
        least = value.index_select(0, alive)
        neuron, at = self._branch(relaxed, best, walked, arguments, least)
        self._tighten(relaxed, walked)
        b, n = exact.lower.shape
        undecided = relaxed.undecided()
        signs = value.new_zeros(b, 0, n), value.new_zeros(b, 0)
        low = value.new_full((b, 1), -torch.inf)  # not rigorous: nothing may be cut off by it
        coefficients, constant = walked.coefficients.double(), walked.constant.double()
        settled = (undecided == 0).nonzero()[:, 0]
        if len(settled):
            signs, found = self._leaves(exact, settled, best, b)
            low[settled, 0], coefficients[settled], constant[settled] = found
        scores = value.new_full((b, self.table.most), torch.inf)
        clause = batch.clause.index_select(0, alive)
        scores.scatter_(1, clause, least[:, None])
        width = (batch.upper - batch.lower).index_select(0, alive)
        return Bounded(
            alive=alive,
            value=least,
            scores=scores,
            low=low,
            clause=clause,
            coefficients=coefficients[:, None],
            constant=constant[:, None],
            unstable=undecided,
            branch=coefficients.abs() * width + width * torch.finfo(torch.float64).tiny,
            neuron=neuron,
            at=at if self.exact.curved else None,
            sign_coefficients=signs[0],
            sign_constant=signs[1],
            values=value,
            unstable_at={},
            alpha=pack(best),
            beta=best.beta.float(),
            cuts=len(settled) > 0,
            state=None if exact.within is None else exact.within.ends.transpose(0, 1).flatten(1),
        )

    def _tighten(self, relaxed: Relaxed, walked: Walked) -> None:
        """Spends a share of the search's work on the intervals that cost the open subproblems most."""
        if self.trees is None or self.spent >= TIGHTENING * self.work or not len(relaxed.task):
            return
        every = relaxed.at_loose(walked.at).clamp_max_(0).neg_().masked_fill_(~relaxed.open_, 0.0).double()
        every = every.new_zeros(len(self.trees.lower), every.shape[1]).index_add_(0, relaxed.task.query, every)
        costs, later = relaxed.by_operator(every), self._later()
        weight = {i: costs[i] for i in later if i in walked.at}
        exact = self.exact
        while self.spent < TIGHTENING * self.work and not self.stop():
            exact, work = self.trees.step(exact, self.fast, weight, self.stop)
            if exact is self.exact:  # nothing is left to split there
                break
            self.exact, self.fast = exact, exact.cast(self.fast.network)
            self.spent, self.work = self.spent + work, self.work + work

    def _leaves(
        self, task: Task, settled: Tensor, best: Parameters, count: int
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """For subproblems in which every neuron is decided: rows (<= 0) of the decisions, and the row of the clause."""
        part, p = task.select(settled), best.select(settled)
        p = replace(p, beta=torch.zeros_like(p.beta))
        low, coefficients, constant, _ = prove(self.exact, part, p)
        network = self.exact.network
        relaxed = Relaxed(self.exact, part)
        planes = relaxed.planes(p.to(torch.float64))
        d, n = part.signs.shape[1], part.lower.shape[1]
        rows = part.lower.new_zeros(count, d, n)
        constants = part.lower.new_full((count, d), -torch.inf)
        assert self.exact.allowance is not None
        for i, k, first, last, place in relaxed.decisions():
            box, at = ((place.against != 0) & (place.column >= first) & (place.column < last)).nonzero(as_tuple=True)
            if not len(box):
                continue
            sign = place.against[box, at]
            start, row, bias = neuron_rows(network, network.sources[i][k], place.column[box, at] - first)
            row = row * sign.view(-1, *[1] * (row.dim() - 1))
            allowance = self.exact.allowance.of(part.query[box])
            of_box = {k: of_groups(q, box) for k, q in planes.items()}
            found, shift = walk_back(network, start, row, bias * sign[:, None], of_box, allowance=allowance)
            entry = at if place.entry is None else place.entry[box, at]
            rows[settled[box], entry] = found[:, 0]
            constants[settled[box], entry] = subtract_down(shift[:, 0], sign * place.point[box, at])
        return (rows, constants), (low, coefficients, constant)

    def _branch(
        self, relaxed: Relaxed, p: Parameters, walked: Walked, arguments: dict[int, list[Tensor]], value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The neuron to split (B,), -1 where none is undecided, and its split point (B,)."""
        splits, numbers = open_splits(relaxed, p, walked, arguments)
        points, open_ = splits.point, splits.loss > 0
        if not open_.numel():
            return torch.full((len(value),), -1, dtype=torch.int64, device=value.device), value.new_zeros(len(value))
        tiny = torch.finfo(points.dtype).tiny
        scores = torch.where(open_, torch.nan_to_num(self.rule.score(splits), nan=0.0).clamp(min=tiny), 0.0)
        k = min(CANDIDATES if self.rule.look_ahead else 1, scores.shape[1])
        score, column = scores.topk(k, 1)
        candidates, points = numbers[column], points.gather(1, column)
        if k > 1 and not self.stop():
            now = value.to(score.dtype)[:, None]
            low = self._children(relaxed, p, candidates, points)
            rise = [torch.minimum((side - now).clamp(min=0), (-now).clamp(min=0)) for side in low]
            gain = torch.where(score > 0, torch.minimum(*rise) + 0.1 * torch.maximum(*rise), -1.0)
            gain = gain + 1e-6 * score / score[:, :1].clamp(min=torch.finfo(score.dtype).tiny)
            pick = gain.argmax(1, keepdim=True)
        else:
            pick = torch.zeros_like(column[:, :1])
        neuron, point = candidates.gather(1, pick)[:, 0], points.gather(1, pick)[:, 0]
        return torch.where(score.gather(1, pick)[:, 0] > 0, neuron, -1), point.double()

    def _children(self, relaxed: Relaxed, p: Parameters, candidates: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds (B, k) of both sides of each candidate, by one walk each at the parent's parameters."""
        b, k = candidates.shape
        index = torch.arange(b, device=candidates.device).repeat_interleave(2 * k)
        entry = torch.stack([-(candidates + 1), candidates + 1], 2).flatten()
        task = relaxed.task.select(index)
        task = replace(task, signs=torch.cat([task.signs, entry[:, None]], 1))
        if self.exact.curved:
            task = replace(task, points=torch.cat([task.points, points.repeat_interleave(2, 1).flatten()[:, None]], 1))
        child = p.select(index)
        child = replace(child, beta=torch.cat([child.beta, child.beta.new_zeros(len(index), 1)], 1))
        both = Relaxed(relaxed.ground, task)
        low = both.walk(child).low
        low = torch.where(both.empty, torch.inf, torch.nan_to_num(low, nan=-torch.inf)).view(b, k, 2)
        return low[:, :, 0], low[:, :, 1]

    def unpack(self, batch: DomainBatch, default: Parameters) -> Parameters:
        """The parameters that a batch carries; those of one that was never bounded are the default ones."""
        fresh = _fresh(batch)
        alpha = torch.where(fresh[:, None], default.alpha, unpack(batch.alpha, default))
        beta = torch.zeros_like(default.beta)
        beta[:, : batch.beta.shape[1]] = batch.beta
        return Parameters(alpha, beta, default.weight)


def _fresh(batch: DomainBatch) -> Tensor:
    """Subproblems (B,) that carry nothing to start from: roots, and those of a checkpoint."""
    return batch.score.isneginf()
