"""Bounds of subproblems with decided neurons: planes (alpha) and multipliers of the decisions (beta) climb together.

beta-CROWN (Wang et al. 2021, theorem 3.2; for any non-linear operator GenBaB, Shi et al. 2024, section 3.2): on the
points where the decided neurons keep their side, s (z - p) >= 0 with s = 1 or -1 and p the split point, every

    row . y - sum_d beta_d s_d (z_d - p_d),    beta >= 0,

bounds the row from below. p is 0 for a ReLU. Intermediate intervals are those of the whole box, computed once per
query, with the decided neurons' clamped at their split points; so one walk back over one row is all that an iterate
costs, and the gradients come from one walk forward: with x the minimiser of the row over the box and z, y the values of
the *relaxed* network at x (every neuron on the plane that its coefficient a picked),

    d bound / d alpha_i = max(a_i, 0) z_i,   d bound / d beta_d = -s_d (z_d - p_d),
    d bound / d weight_k = row_k . y - rhs_k.

(Danskin's theorem; the paper uses automatic differentiation, which is the same numbers at a higher price.) The first is
for a ReLU; of any other operator both planes have a parameter, and alone the value of its own planes at z and a is
differentiated automatically. A clause of
several rows is bounded by their best convex combination: `weight`.

The search runs in the network's own precision, and any iterate may be wrong by rounding. `prove` evaluates one walk
again, in float64 at fixed parameters, with everything that rounding can cost taken off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.adjustable import Adjustable, relaxed_value
from verifier.bounds.ascend import Adam
from verifier.bounds.backward import Kinks, concretise, linear_head, of_groups, slopes_back, walk_back
from verifier.bounds.decided import Decided, of_others, of_relus
from verifier.bounds.network import Network
from verifier.bounds.rounding import Allowance
from verifier.bounds.sweep import Sweep
from verifier.ops.kinds import Interval, LinearOp, Op, Relaxation, RelaxedOp
from verifier.tolerance import gamma, lost, tiny

RATE = 0.12, 0.95
"""First step of alpha in units of its range, of beta in units of the coefficient at its neuron; and their decay."""

LOOK = {"cpu": 1, "cuda": 5}
"""Iterates between two looks at which subproblems go on: each look waits for the device."""

TREND, LENIENT = 10, 3.0
"""A climb is hopeless where `LENIENT` times what the last `TREND` iterates gained on average is not enough. What a
subproblem finds is where its children start: after 3 or 6 iterates it is too little, and a network of 60 ReLUs that
19 000 subproblems settle was open after 87 000. (With 15 iterates sri_resnet_b 4909 takes 1.15 times as long.)"""


@dataclass(frozen=True, eq=False)
class Ground:
    """What all subproblems of Q queries share, in one precision: the network, the intervals `pre[i]` of the arguments
    of every non-linear operator, (Q, *S) each, the default planes of those that are no ReLUs, the flat positions
    `loose[i]` (U,) of the elements of operator i that are not affine for some query, and what rounding costs (float64).
    Of operators that are no ReLUs only those in `loose` have parameters and can be split: all, or none if `plain`."""

    network: Network
    pre: Mapping[int, tuple[Interval, ...]]
    others: Mapping[int, Relaxation]
    loose: Mapping[int, Tensor]
    allowance: Allowance | None
    plain: bool = False

    @property
    def curved(self) -> bool:
        """Whether operators that are no ReLUs can be split."""
        return bool(self.others) and not self.plain

    @cached_property
    def ends(self) -> Tensor:
        """The intervals of the arguments of all ReLUs side by side, as `Network.relus` numbers them: (2, Q, N)."""
        return torch.cat([torch.stack([t.flatten(1) for t in self.pre[i][0]]) for i in self.network.relus], 2)

    @cached_property
    def places(self) -> Tensor:
        """The numbers of the loose neurons of all ReLUs: (U,)."""
        return torch.cat([first + self.loose[i] for i, first in self.network.relus.items()])

    def layers(self, slot: int) -> dict[int, slice]:
        """Where the neurons of each ReLU operator before `slot` lie, side by side."""
        network = self.network
        return {i: slice(first, first + network.size(i + 1)) for i, first in network.relus.items() if i < slot}

    @staticmethod
    def of(network: Network, known: Sweep, plain: bool = False) -> Ground:
        """From a sweep over one box per query, in the same order."""
        return Ground.at(network, known.pre, known.allowance, plain)

    @staticmethod
    def at(
        network: Network, pre: Mapping[int, tuple[Interval, ...]], allowance: Allowance | None, plain: bool = False
    ) -> Ground:
        """From intervals."""
        others, loose = {}, {}
        for i in network.relaxed:
            op = _relaxed(network, i)
            if i in network.relus:
                x = pre[i][0]
                loose[i] = ((x.lower < 0) & (x.upper > 0)).flatten(1).any(0).nonzero()[:, 0]
                continue
            others[i] = op.relax(*pre[i])
            if not plain:
                bent = op.spread(op.unstable(*pre[i])[:, None].to(network.dtype), 0)
                loose[i] = (bent > 0).flatten(1).any(0).nonzero()[:, 0]
        return Ground(network, pre, others, loose, allowance, plain)

    def cast(self, network: Network) -> Ground:
        """The same for a network in another precision; intervals are rounded outwards."""
        inf = torch.tensor(torch.inf, dtype=network.dtype, device=network.device)
        pre = {
            i: tuple(
                Interval(
                    torch.nextafter(x.lower.to(network.dtype), -inf), torch.nextafter(x.upper.to(network.dtype), inf)
                )
                for x in bounds
            )
            for i, bounds in self.pre.items()
        }
        return replace(Ground.at(network, pre, None, self.plain), loose=self.loose)  # not what rounding makes unstable


@dataclass(frozen=True, eq=False)
class Task:
    """B subproblems with one clause each: box `lower`, `upper` (B, n), `query` (B,), decided neurons `signs` (B, D) and
    their split points `points` (B, D), or (B, 0) where all are 0, and the clause as rows over the output, `rows` (B, J,
    m), `rhs` (B, J) (-inf in padding), `mixed` (B, J, n) or None. With `slot` each clause is one row over the value
    there instead, that selects one element or its negative (B, 1, size): no rounding of a combination of rows is
    allowed for."""

    lower: Tensor
    upper: Tensor
    query: Tensor
    signs: Tensor
    points: Tensor
    rows: Tensor
    rhs: Tensor
    mixed: Tensor | None
    slot: int | None = None

    def __len__(self) -> int:
        return len(self.query)

    def select(self, index: Tensor) -> Task:
        """The subproblems at `index`."""
        mixed = None if self.mixed is None else self.mixed.index_select(0, index)
        lower, upper, query, signs, points, rows, rhs = (
            t.index_select(0, index)
            for t in (self.lower, self.upper, self.query, self.signs, self.points, self.rows, self.rhs)
        )
        return Task(lower, upper, query, signs, points, rows, rhs, mixed, self.slot)

    def to(self, dtype: torch.dtype) -> Task:
        """The same in another precision; boxes are rounded outwards."""
        if dtype == self.lower.dtype:
            return self
        lower, upper = self.lower.to(dtype), self.upper.to(dtype)
        if dtype == torch.float32:
            inf = torch.tensor(torch.inf, dtype=dtype, device=lower.device)
            lower = torch.where(lower.double() > self.lower, torch.nextafter(lower, -inf), lower)
            upper = torch.where(upper.double() < self.upper, torch.nextafter(upper, inf), upper)
        mixed = None if self.mixed is None else self.mixed.to(dtype)
        points, rows, rhs = (t.to(dtype) for t in (self.points, self.rows, self.rhs))
        return Task(lower, upper, self.query, self.signs, points, rows, rhs, mixed, self.slot)


@dataclass(frozen=True, eq=False)
class Parameters:
    """`alpha` (B, A): the slopes of the loose neurons of all ReLUs before the rows' slot, then for each other operator
    the parameters of the lower and of the upper planes of its loose elements; `beta` (B, D) >= 0; `weight` (B, J) >= 0
    of the clause's rows."""

    alpha: Tensor
    beta: Tensor
    weight: Tensor

    def select(self, index: Tensor) -> Parameters:
        """Those of the subproblems at `index`."""
        return Parameters(*(t.index_select(0, index) for t in (self.alpha, self.beta, self.weight)))

    def to(self, dtype: torch.dtype) -> Parameters:
        """The same numbers in another precision."""
        return Parameters(self.alpha.to(dtype), self.beta.to(dtype), self.weight.to(dtype))


@dataclass(frozen=True, eq=False)
class Walked:
    """One walk: the linear bound `coefficients` (B, n), `constant` (B,) (right-hand side taken off) of the combined
    row, its minimum `low` (B,) at `point` (B, n), and the coefficients `at[i]` (B, *T) that arrived at operator i, of
    which ReLUs took the planes `kinks[i]`. Constants and minima are NaN where they were not asked for."""

    coefficients: Tensor
    constant: Tensor
    low: Tensor
    point: Tensor
    at: Mapping[int, Tensor]
    kinks: Mapping[int, Kinks]


class Reached(NamedTuple):
    """The relaxed network at the minimiser of a walk: the `arguments` of the non-linear operators, those of ReLUs side
    by side, `z` (B, N), by how much each decision is broken there, `excess` (B, D), and the clause's rows less their
    right-hand sides, `value` (B, J)."""

    arguments: dict[int, list[Tensor]]
    z: Tensor
    excess: Tensor
    value: Tensor


class Relaxed:
    """The relaxation of a batch of subproblems: intervals with the decided neurons clamped, and where alpha plays.

    What belongs to ReLUs before the rows' slot lies side by side, so that it is worked on in one operation: `ends`
    (2, B, N) of the intervals of all their arguments, `layers` says whose; `bounds` (2, B, U) at the loose `places`
    (U,), and which of these are `open_` (B, U).
    """

    def __init__(self, ground: Ground, task: Task) -> None:
        self.ground, self.task = ground, task
        network, q = ground.network, task.query
        self.slot = network.output if task.slot is None else task.slot
        self.layers = ground.layers(self.slot)
        self.empty = torch.zeros(len(task), dtype=torch.bool, device=q.device)
        self.decided = of_relus(network, self.slot, task.signs, task.points)
        self.others = of_others(network, self.slot, task.signs, task.points)
        if self.layers:
            self.places = ground.places[: sum(len(ground.loose[i]) for i in self.layers)]
            self.ends = ground.ends[:, :, : max(s.stop for s in self.layers.values())].index_select(1, q)
            if self.decided is not None:
                crossed = self.decided.clamp(self.ends)
                self.empty |= crossed.any(1)
                self.ends.masked_fill_(crossed, 0.0)  # an empty one is replaced: its subproblem has no points
        else:
            self.places, self.ends = q[:0], task.lower.new_zeros(2, len(task), 0)
        self.bounds = self.ends.index_select(2, self.places)
        self.open_ = (self.bounds[0] < 0) & (self.bounds[1] > 0)
        self.curves: dict[int, Adjustable] = {}
        self.fixed: dict[int, Relaxation] = {}
        for i, planes in ground.others.items():
            if i >= self.slot:
                continue
            if i in ground.loose:
                bounds = tuple(self._clamped(i, k) for k in range(len(network.sources[i])))
                self.curves[i] = Adjustable(_relaxed(network, i), bounds, ground.loose[i])
            else:
                self.fixed[i] = of_groups(planes, q)

    def _clamped(self, i: int, k: int) -> Interval:
        """The intervals of argument k of operator i, no ReLU. One that is empty is replaced by the whole one: its
        subproblem has no points."""
        x, q = self.ground.pre[i][k], self.task.query
        whole = Interval(x.lower.index_select(0, q), x.upper.index_select(0, q))
        place = self.others.get((i, k))
        if place is None:
            return whole
        ends = torch.stack([t.flatten(1) for t in whole])
        crossed = place.clamp(ends)
        self.empty |= crossed.any(1)
        crossed = crossed.view_as(whole.lower)
        return Interval(*(torch.where(crossed, end, t.view_as(end)) for t, end in zip(ends, whole, strict=True)))

    @property
    def lean(self) -> bool:
        """Whether all operators are ReLUs: the bound of a walk is then the relaxed network's value at its minimiser
        (NaN if anything overflowed), and no constants need to be walked back."""
        return not self.ground.others

    def select(self, index: Tensor, task: Task) -> Relaxed:
        """That of the subproblems at `index`, which are `task`."""
        if not self.lean:
            return Relaxed(self.ground, task)
        part = copy(self)
        part.task, part.empty, part.open_ = task, self.empty[index], self.open_.index_select(0, index)
        part.ends, part.bounds = self.ends.index_select(1, index), self.bounds.index_select(1, index)
        part.decided = None if self.decided is None else self.decided.select(index)
        part._planes = tuple(t.index_select(t.dim() - 2, index) for t in self._planes)
        rows, constant = self._head
        part._head = {slot: t.index_select(0, index) for slot, t in rows.items()}, constant.index_select(0, index)
        return part

    def side_by_side(self, parts: Mapping[int, Tensor]) -> Tensor:
        """Values (B, *S) by ReLU operator as one tensor (B, N); 0 where there are none."""
        if not self.layers:
            return self.task.lower.new_zeros(len(self.task), 0)
        none = self.task.lower.new_zeros(1, 1)
        every = (
            parts[i].flatten(1) if i in parts else none.expand(len(self.task), s.stop - s.start)
            for i, s in self.layers.items()
        )
        return torch.cat(list(every), 1)

    def at_loose(self, parts: Mapping[int, Tensor]) -> Tensor:
        """The same at the loose neurons: (B, U)."""
        return self.side_by_side(parts).index_select(1, self.places)

    def by_operator(self, mine: Tensor) -> dict[int, Tensor]:
        """What lies side by side at the loose neurons, (B, U), by ReLU operator."""
        return dict(zip(self.layers, mine.split([len(self.ground.loose[i]) for i in self.layers], 1), strict=True))

    def decisions(self) -> Iterator[tuple[int, int, int, int, Decided]]:
        """Every argument k of an operator i with decisions: i, k, from and up to which column they are its, and all."""
        if self.decided is not None:
            for i, part in self.layers.items():
                yield i, 0, part.start, part.stop, self.decided
        for (i, k), place in self.others.items():
            yield i, k, 0, self.ground.network.size(self.ground.network.sources[i][k]), place

    def undecided(self) -> Tensor:
        """How many elements of non-linear operators are not affine (B,)."""
        total = self.open_.sum(1)
        for curve in self.curves.values():
            total = total + curve.op.unstable(*curve.bounds).flatten(1).sum(1)
        return total + len(self.fixed)

    def default(self) -> Parameters:
        """CROWN's slopes (1 where u >= -l) and planes, no multipliers, equal weights."""
        task, (low, high) = self.task, self.bounds
        parts = [(high >= -low).to(low.dtype), *(curve.default() for curve in self.curves.values())]
        used = torch.isfinite(task.rhs)
        weight = used.to(task.rhs.dtype) / used.sum(1, keepdim=True).clamp(min=1)
        return Parameters(torch.cat(parts, 1), task.rhs.new_zeros(task.signs.shape), weight)

    def planes(self, p: Parameters) -> dict[int, Relaxation]:
        """All planes at the given parameters."""
        result = self._others(p)
        alpha = torch.ones_like(self.ends[0]).index_copy_(1, self.places, p.alpha[:, : len(self.places)])
        for i, part in self.layers.items():
            op = _relaxed(self.ground.network, i)
            low, high, mine = (t[:, part].reshape(len(t), *op.out_shape) for t in (*self.ends, alpha))
            result[i] = op.relax_at(Interval(low, high), alpha_lower=mine, alpha_upper=mine)
        return result

    def curved(self, alpha: Tensor) -> dict[int, Tensor]:
        """Those of parameters (B, A) that belong to operators that are no ReLUs."""
        sizes = [2 * len(curve.loose) for curve in self.curves.values()]
        parts = alpha[:, len(self.places) :].split(sizes, 1) if sizes else ()
        return dict(zip(self.curves, parts, strict=True))

    def _others(self, p: Parameters) -> dict[int, Relaxation]:
        """The planes of operators that are no ReLUs."""
        return {**self.fixed, **{i: self.curves[i].planes(a) for i, a in self.curved(p.alpha).items()}}

    def everywhere(self, p: Parameters) -> dict[int, Tensor]:
        """The slopes of all neurons (B, *S) by ReLU operator: CROWN's where none are chosen."""
        network, (low, high) = self.ground.network, self.ends
        slopes = (high >= -low).to(p.alpha.dtype).index_copy_(1, self.places, p.alpha[:, : len(self.places)])
        return {i: slopes[:, part].reshape(len(low), *network.shapes[i + 1]) for i, part in self.layers.items()}

    @cached_property
    def _planes(self) -> tuple[Tensor, ...]:
        """Slopes and offsets (2, B, N) of the ReLUs' lower planes, CROWN's, and of the upper ones, and the slopes of
        these at the loose neurons (B, U): without what rounding costs."""
        lower, upper = self.ends
        below, above = lower.clamp_max(0), upper.clamp_min(0)
        slope = above / (above - below).clamp_min_(tiny(lower.dtype))
        high = torch.stack([slope, below.mul_(slope).neg_()])
        steep = (upper >= -lower).to(lower.dtype)
        return torch.stack([steep, torch.zeros_like(steep)]), high, slope.index_select(1, self.places)

    @cached_property
    def _head(self) -> tuple[dict[int, Tensor], Tensor]:
        """The clause's rows, by slot, over the values that non-linear operators and the input make (B, J, *S), and
        their constants less right-hand sides (B, J)."""
        task, network = self.task, self.ground.network
        rows = task.rows.reshape(*task.rows.shape[:2], *network.shapes[self.slot])
        head, constant = linear_head(network, self.slot, rows)
        if task.mixed is not None:
            mixed = task.mixed.reshape(*task.mixed.shape[:2], *network.shapes[0])
            head[0] = head[0] + mixed if 0 in head else mixed
        return head, constant - torch.where(torch.isfinite(task.rhs), task.rhs, 0.0)

    def _kinks(self, alpha: Tensor) -> dict[int, Kinks]:
        """The planes of ReLUs at the slopes `alpha` (B, A)."""
        low, high, steep = self._planes
        mine = torch.where(self.open_, alpha[:, : len(self.places)], steep)
        low[0].index_copy_(1, self.places, mine)  # of one walk at a time: what it picks is copied
        shapes = self.ground.network.shapes
        return {
            i: Kinks(*(t[:, :, part].reshape(2, len(mine), *shapes[i + 1]) for t in (low, high)))
            for i, part in self.layers.items()
        }

    def _added(
        self, beta: Tensor, allowance: Allowance | None
    ) -> tuple[dict[tuple[int, int], tuple[Tensor, Tensor | None]], Tensor | None]:
        """What the multipliers add to the rows over each argument, with its part of the bias (others than ReLUs), and
        to the bias of the walk (B, 1) (ReLUs); None for nothing."""
        network = self.ground.network
        added: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}
        total = None
        if self.decided is not None:
            every = self.decided.rows(beta, self.ends.shape[2])
            for i, part in self.layers.items():
                added[i, 0] = every[:, part].reshape(len(every), 1, *network.shapes[i + 1]), None
            if self.task.points.shape[1]:
                total = self.decided.shift(beta)[:, None]
            if allowance is not None:
                size = self.side_by_side({i: allowance.sizes[i][0] for i in self.layers})
                cost = self.decided.rounding(beta, size)[:, None]
                total = -cost if total is None else total - cost
        for (i, k), place in self.others.items():
            shape = network.shapes[network.sources[i][k]]
            shift = place.shift(beta)
            if allowance is not None:
                shift = shift - place.rounding(beta, allowance.sizes[i][k].flatten(1))
            added[i, k] = place.rows(beta, math.prod(shape)).view(len(beta), 1, *shape), shift[:, None]
        return added, total

    def walk(self, p: Parameters) -> Walked:
        """The combined row walked back."""
        trace: dict[int, Tensor] = {}
        (rows, constant), kinks = self._head, self._kinks(p.alpha)
        added, shift = self._added(p.beta, None)
        bias = (p.weight * constant).sum(1, keepdim=True)
        coefficients, bias = walk_back(
            self.ground.network,
            self.slot,
            {slot: _combined(p.weight, t) for slot, t in rows.items()},
            bias if shift is None else bias + shift,
            {**self._others(p), **kinks},
            trace=trace,
            added=added,
        )
        point = torch.where(coefficients[:, 0] > 0, self.task.lower, self.task.upper)
        low = torch.baddbmm(bias[:, :, None], coefficients, point[:, :, None])[:, 0, 0]
        return Walked(coefficients[:, 0], bias[:, 0], low, point, {i: row[:, 0] for i, row in trace.items()}, kinks)

    def proven(self, p: Parameters, allowance: Allowance) -> tuple[Tensor, Tensor]:
        """The combined row walked back, coefficients (B, n) and constant (B,), less what rounding may have cost."""
        network, task = self.ground.network, self.task
        added, shift = self._added(p.beta, allowance)
        row = _combined(p.weight, task.rows).reshape(len(task), 1, *network.shapes[self.slot])
        bias = row.new_zeros(len(task), 1) if shift is None else shift
        coefficients, bias = walk_back(network, self.slot, row, bias, self.planes(p), allowance=allowance, added=added)
        if task.mixed is not None:
            coefficients = coefficients + _combined(p.weight, task.mixed)
        rhs = (p.weight * torch.where(torch.isfinite(task.rhs), task.rhs, 0.0)).sum(1)
        return coefficients[:, 0], bias[:, 0] - rhs

    def slopes(self, p: Parameters) -> Walked:
        """The same without constants, where that is enough (`lean`): `low` of `values` tells the bound."""
        trace: dict[int, Tensor] = {}
        rows, kinks = {slot: _combined(p.weight, t) for slot, t in self._head[0].items()}, self._kinks(p.alpha)
        added, _ = self._added(p.beta, None)
        coefficients = slopes_back(self.ground.network, self.slot, rows, kinks, trace, added)[:, 0]
        point = torch.where(coefficients > 0, self.task.lower, self.task.upper)
        unknown = point.new_full((), torch.nan)
        return Walked(coefficients, unknown, unknown, point, {i: row[:, 0] for i, row in trace.items()}, kinks)

    def values(self, p: Parameters, walked: Walked) -> Reached:
        """The relaxed network at the minimiser of a walk without allowance."""
        arguments: dict[int, list[Tensor]] = {}
        others, (head, value), ends = self._others(p), self._head, {0: walked.point}

        def step(i: int, op: Op, xs: list[Tensor]) -> Tensor:
            if isinstance(op, LinearOp):
                return op.forward(*xs) if xs else op.forward().expand(len(walked.point), *op.out_shape)
            assert isinstance(op, RelaxedOp)
            arguments[i] = xs
            planes = walked.kinks.get(i)
            y = relaxed_value(op, xs, others[i], walked.at.get(i)) if planes is None else planes.value(xs[0])
            if i + 1 in head:
                ends[i + 1] = y
            return y

        self.ground.network.walk(walked.point, step, max(head))
        for slot, rows in head.items():
            value = torch.baddbmm(value[:, :, None], rows.flatten(2), ends[slot].flatten(1)[:, :, None])[:, :, 0]
        z = self.side_by_side({i: arguments[i][0] for i in self.layers if i in arguments})
        excess = self.decided.excess(z) if self.decided is not None else torch.zeros_like(p.beta)
        for (i, k), place in self.others.items():
            if i in arguments:
                excess = excess + place.placed(place.excess(arguments[i][k].flatten(1)), p.beta)
        return Reached(arguments, z, excess, value)

    @staticmethod
    def low(p: Parameters, reached: Reached) -> Tensor:
        """The bound (B,) of a walk that reached this."""
        low = (p.weight * reached.value).sum(1)
        return low + (p.beta * reached.excess).sum(1) if p.beta.shape[1] else low

    def gradients(self, p: Parameters, walked: Walked, reached: Reached) -> Parameters:
        """d bound / d parameters, with 0 where a parameter plays no part."""
        at, z = self.at_loose(walked.at), reached.z.index_select(1, self.places)
        parts = [at.clamp_min_(0).mul_(z).masked_fill_(~self.open_, 0.0)]
        for i, mine in self.curved(p.alpha).items():
            row = walked.at.get(i)
            parts.append(
                torch.zeros_like(mine) if row is None else self.curves[i].gradient(mine, row, reached.arguments[i])
            )
        return Parameters(torch.cat(parts, 1) if len(parts) > 1 else parts[0], reached.excess, reached.value)


def _combined(weight: Tensor, rows: Tensor) -> Tensor:
    """The combination of rows (B, J, *S) with weights (B, J): (B, 1, *S)."""
    return torch.bmm(weight[:, None], rows.flatten(2)).reshape(len(rows), 1, *rows.shape[2:])


class Climbed(NamedTuple):
    """The `best` parameters of B subproblems, their bounds `value` (B,), and how many `walks` of one row through the
    network that took, back or forward."""

    best: Parameters
    value: Tensor
    walks: int


def climb(
    ground: Ground,
    task: Task,
    start: Parameters | None,
    steps: int,
    stop: Callable[[], bool],
    rate: tuple[float, float] = RATE,
    sign: bool = False,
) -> Climbed:
    """The best parameters that `steps` iterates find: every iterate is a bound, none is rigorous.

    Subproblems whose bound is positive leave the batch; where only its sign is asked for (`sign`) so do those that
    would not get there at several times the pace of the last iterates (`TREND`, `LENIENT`). Both are looked for at
    every so manieth iterate (`LOOK`).
    """
    look = LOOK.get(task.query.device.type, LOOK["cuda"])
    relaxed, total, walks = Relaxed(ground, task), len(task), 0
    now = start or relaxed.default()
    adjustable, several = now.alpha.shape[1], now.weight.shape[1] > 1
    # slopes and multipliers move together; `bounds` are their limits, `scale` the units of their steps
    moving, weight = torch.cat([now.alpha, now.beta], 1), now.weight
    limits = torch.zeros_like(moving[0]), torch.full_like(moving[0], torch.inf)
    limits[1][:adjustable] = 1
    index = torch.arange(total, device=task.query.device)
    best, value, final = (moving, weight), task.lower.new_full((total,), -torch.inf), None
    adam, scale, past = Adam((0.9, 0.99)), None, [value]
    for step in range(steps + 1):
        now = Parameters(moving[:, :adjustable], moving[:, adjustable:], weight)
        walks += len(index)
        if relaxed.lean and step < steps:
            walks += len(index)
            walked = relaxed.slopes(now)
            reached = relaxed.values(now, walked)
            low = relaxed.low(now, reached)
        else:
            walked, reached = relaxed.walk(now), None
            low = walked.low
        low = torch.nan_to_num(low, nan=-torch.inf, posinf=-torch.inf).masked_fill_(relaxed.empty, torch.inf)
        if step:
            better = (low > value)[:, None]
            best = torch.where(better, moving, best[0]), torch.where(better, weight, best[1]) if several else weight
        value = torch.maximum(low, value)
        if step == steps or stop():
            break
        past = [*past[-TREND:], value]
        if asked := step % look == 0:
            open_ = ~(low > 0)
            if sign and step >= TREND:
                open_ &= value + (value - past[0]) * (LENIENT * (steps - step) / TREND) > 0
            keep = open_.nonzero()[:, 0]
            if not len(keep):
                break
        if reached is None:
            walks += len(index)
            reached = relaxed.values(now, walked)
        found = relaxed.gradients(now, walked, reached)
        scale = torch.cat([torch.ones_like(found.alpha), 4 * _unit(relaxed, walked)], 1) if scale is None else scale
        every = torch.cat([found.alpha, found.beta, *([found.weight] if several else [])], 1)
        moves, length = adam.step({"": every})[""], rate[0] * rate[1] ** step
        moving = torch.addcmul(moving, scale, moves[:, : moving.shape[1]], value=length).clamp_(*limits)
        if several:
            weight = weight * torch.exp(moves[:, moving.shape[1] :] * (4 * length))
            weight = weight / weight.sum(1, keepdim=True).clamp_min_(tiny(weight.dtype))
        if asked and len(keep) <= 0.75 * len(index):
            final = _put(final, index, (*best, value))
            index, task = index[keep], task.select(keep)
            moving, weight, scale, value, *parts = (
                t.index_select(0, keep) for t in (moving, weight, scale, value, *best)
            )
            best, past = (parts[0], parts[1]), list(torch.stack(past).index_select(1, keep))
            adam.select(keep)
            relaxed = relaxed.select(keep, task)
    moving, weight, value = _put(final, index, (*best, value))
    return Climbed(Parameters(moving[:, :adjustable], moving[:, adjustable:], weight), value, walks)


def _put(whole: tuple[Tensor, ...] | None, index: Tensor, part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The rows of `part` at the places `index` of the `whole` (None: it is all)."""
    return part if whole is None else tuple(t.index_copy(0, index, p) for t, p in zip(whole, part, strict=True))


def _unit(relaxed: Relaxed, walked: Walked) -> Tensor:
    """Step size of each multiplier: the coefficient at its neuron, or the layer's usual one, (B, D)."""
    network, signs = relaxed.ground.network, relaxed.task.signs
    unit = torch.zeros(signs.shape, dtype=walked.point.dtype, device=signs.device)
    if relaxed.decided is not None:
        at, column = relaxed.side_by_side(walked.at).abs_(), relaxed.decided.column
        usual = torch.cat([at[:, part].mean(1, keepdim=True) for part in relaxed.layers.values()], 1)
        ends = torch.tensor([part.stop for part in relaxed.layers.values()], device=signs.device)
        layer = torch.bucketize(column, ends, right=True)
        unit += (at.gather(1, column) + usual.gather(1, layer)) * relaxed.decided.against.abs()
    for (i, k), place in relaxed.others.items():
        row = walked.at.get(i)
        if row is None:
            continue
        at = _relaxed(network, i).spread(row[:, None], k)[:, 0].flatten(1).abs()
        mine = (at.gather(1, place.column) + at.mean(1, keepdim=True)) * place.against.abs()
        unit += place.placed(mine, unit)
    return unit


def prove(ground: Ground, task: Task, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rigorous lower bounds in float64 at fixed parameters: the minimum (B,), coefficients (B, n) and constant (B,) of
    the linear bound of the combined row (right-hand side taken off), and which subproblems have no points (B,).

    `parameters` may be rounded to anything: slopes in [0, 1], multipliers and weights >= 0 are all that is asked.
    """
    assert ground.allowance is not None and task.lower.dtype == torch.float64
    relaxed = Relaxed(ground, task)
    p = parameters.to(torch.float64)
    p = Parameters(p.alpha.clamp(0, 1), p.beta.clamp(min=0), p.weight.clamp(min=0))
    coefficients, constant = relaxed.proven(p, ground.allowance.of(task.query))
    j, n = task.rhs.shape[1], task.lower.shape[1]
    rhs = torch.where(torch.isfinite(task.rhs), task.rhs, 0.0)
    # the combination of rows is rounded once per row: at the outputs, at the mixed inputs and in the right-hand sides
    size = (p.weight * rhs.abs()).sum(1)
    if task.mixed is not None:
        reach = torch.maximum(task.lower.abs(), task.upper.abs())
        size = size + (p.weight * torch.bmm(task.mixed.abs(), reach[:, :, None])[:, :, 0]).sum(1)
    out = ground.allowance.output
    assert out is not None
    underflow = torch.zeros_like(size)
    if task.slot is None:
        reach = out.index_select(0, task.query)[:, :, None]
        size = size + (p.weight * torch.bmm(task.rows.abs(), reach)[:, :, 0]).sum(1)
        underflow = lost(j, torch.float64) * reach.sum((1, 2))  # of a weight times a row, at outputs of any size
    constant = constant - 4 * gamma(j + n, torch.float64) * size - underflow
    low = concretise(coefficients[:, None], constant[:, None], task.lower, task.upper)[:, 0]
    return torch.where(relaxed.empty, torch.inf, low), coefficients, constant, relaxed.empty


def _relaxed(network: Network, i: int) -> RelaxedOp:
    op = network.ops[i]
    assert isinstance(op, RelaxedOp)
    return op
