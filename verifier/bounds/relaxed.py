"""Subproblems of a search over neurons, and the relaxed network that a choice of planes and multipliers makes of one.

Every operator that is not affine on a subproblem has a lower and an upper plane, each neuron takes the one that its
coefficient asks for (`alpha` moves planes, `beta` weighs decisions: Wang et al. 2021; Shi et al. 2024), and what is
left is linear: one walk back gives the bound of a row and its minimiser, one walk forward from there the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.adjustable import Adjustable, relaxed_value
from verifier.bounds.backward import Kinks, linear_head, of_groups, slopes_back, walk_back
from verifier.bounds.decided import Decided, of_others, of_relus
from verifier.bounds.network import Network
from verifier.bounds.rounding import Allowance
from verifier.bounds.sweep import Sweep
from verifier.ops.kinds import Interval, LinearOp, Op, Relaxation, RelaxedOp
from verifier.tolerance import tiny


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
            op = relaxed_op(network, i)
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


class ClippedEnds(NamedTuple):
    """Intervals `ends` (2, B, K) of the ReLU neurons `places` (K,), as `Network.relus` numbers them, in B subproblems:
    wherever the clause can be violated."""

    places: Tensor
    ends: Tensor

    def select(self, index: Tensor) -> ClippedEnds:
        """Those of the subproblems at `index`."""
        return ClippedEnds(self.places, self.ends.index_select(1, index))

    def to(self, dtype: torch.dtype) -> ClippedEnds:
        """The same in another precision, rounded outwards."""
        inf = torch.tensor(torch.inf, dtype=dtype, device=self.ends.device)
        low, high = self.ends.to(dtype)
        return ClippedEnds(self.places, torch.stack([torch.nextafter(low, -inf), torch.nextafter(high, inf)]))

    def clamp(self, ends: Tensor) -> Tensor:
        """Cuts intervals `ends` (2, B, N) of all neurons down, in place; where nothing is left (B, N)."""
        for end, mine, cut in zip(ends, self.ends, (torch.maximum, torch.minimum), strict=True):
            end.index_copy_(1, self.places, cut(end.index_select(1, self.places), mine))
        return ends[0] > ends[1]


@dataclass(frozen=True, eq=False)
class Task:
    """B subproblems with one clause each: box `lower`, `upper` (B, n), `query` (B,), decided neurons `signs` (B, D) and
    their split points `points` (B, D), or (B, 0) where all are 0, and the clause as rows over the output, `rows` (B, J,
    m), `rhs` (B, J) (-inf in padding), `mixed` (B, J, n) or None. With `slot` each clause is one row over the value
    there instead, that selects one element or its negative (B, 1, size): no rounding of a combination of rows is
    allowed for. `within` are tighter intervals where the clause can be violated: what is bounded then is the clause
    there."""

    lower: Tensor
    upper: Tensor
    query: Tensor
    signs: Tensor
    points: Tensor
    rows: Tensor
    rhs: Tensor
    mixed: Tensor | None
    slot: int | None = None
    within: ClippedEnds | None = None

    def __len__(self) -> int:
        return len(self.query)

    def select(self, index: Tensor) -> Task:
        """The subproblems at `index`."""
        mixed = None if self.mixed is None else self.mixed.index_select(0, index)
        lower, upper, query, signs, points, rows, rhs = (
            t.index_select(0, index)
            for t in (self.lower, self.upper, self.query, self.signs, self.points, self.rows, self.rhs)
        )
        within = None if self.within is None else self.within.select(index)
        return Task(lower, upper, query, signs, points, rows, rhs, mixed, self.slot, within)

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
        within = None if self.within is None else self.within.to(dtype)
        return Task(lower, upper, self.query, self.signs, points, rows, rhs, mixed, self.slot, within)


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

    def put(self, index: Tensor, part: Parameters) -> Parameters:
        """With those of `part` for the subproblems at `index`."""
        both = (self.alpha, part.alpha), (self.beta, part.beta), (self.weight, part.weight)
        return Parameters(*(whole.index_copy(0, index, mine) for whole, mine in both))

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
            for cut in (self.decided, task.within):
                if cut is None:
                    continue
                crossed = cut.clamp(self.ends)
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
                self.curves[i] = Adjustable(relaxed_op(network, i), bounds, ground.loose[i])
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
            op = relaxed_op(self.ground.network, i)
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

    def used(self, p: Parameters) -> dict[int, Tensor]:
        """The slopes of all neurons (B, *S) by ReLU operator, 0 where the row does not take the lower plane."""
        takes = self.at_loose(self.walk(p).at) > 0
        slopes = torch.zeros_like(self.ends[0])
        slopes.index_copy_(1, self.places, torch.where(takes, p.alpha[:, : len(self.places)], 0.0))
        shapes = self.ground.network.shapes
        return {i: slopes[:, part].reshape(len(slopes), *shapes[i + 1]) for i, part in self.layers.items()}

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


def relaxed_op(network: Network, i: int) -> RelaxedOp:
    """Operator i of the network, which has planes."""
    op = network.ops[i]
    assert isinstance(op, RelaxedOp)
    return op
