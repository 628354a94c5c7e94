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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.adjustable import Adjustable, relaxed_value
from verifier.bounds.ascend import Adam
from verifier.bounds.backward import Kinks, concretise, of_groups, walk_back
from verifier.bounds.decided import decided
from verifier.bounds.network import Network
from verifier.bounds.rounding import Allowance
from verifier.bounds.sweep import Sweep
from verifier.ops.kinds import Interval, LinearOp, Op, Relaxation, RelaxedOp
from verifier.tolerance import gamma, lost

RATE = 0.12, 0.95
"""First step of alpha in units of its range, of beta in units of the coefficient at its neuron; and their decay."""

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
        mixed = None if self.mixed is None else self.mixed[index]
        lower, upper, query = self.lower[index], self.upper[index], self.query[index]
        signs, points, rows, rhs = (t[index] for t in (self.signs, self.points, self.rows, self.rhs))
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
    """`alpha[i]` (B, U) slopes of the loose neurons of ReLU operator i, or (B, 2 U) parameters of the lower and then of
    the upper planes of another operator's loose elements; `beta` (B, D) >= 0; `weight` (B, J) >= 0 of the clause's
    rows."""

    alpha: Mapping[int, Tensor]
    beta: Tensor
    weight: Tensor

    def select(self, index: Tensor) -> Parameters:
        """Those of the subproblems at `index`."""
        return Parameters({i: a[index] for i, a in self.alpha.items()}, self.beta[index], self.weight[index])

    def to(self, dtype: torch.dtype) -> Parameters:
        """The same numbers in another precision."""
        return Parameters({i: a.to(dtype) for i, a in self.alpha.items()}, self.beta.to(dtype), self.weight.to(dtype))

    def better(self, mask: Tensor, other: Parameters) -> Parameters:
        """Those of `other` where the mask (B,) is set."""

        def pick(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(mask.view(-1, *[1] * (a.dim() - 1)), b, a)

        alpha = {i: pick(a, other.alpha[i]) for i, a in self.alpha.items()}
        return Parameters(alpha, pick(self.beta, other.beta), pick(self.weight, other.weight))

    def put(self, index: Tensor, other: Parameters) -> Parameters:
        """Those of `other` at the places `index`."""
        alpha = {i: a.index_copy(0, index, other.alpha[i]) for i, a in self.alpha.items()}
        return Parameters(
            alpha, self.beta.index_copy(0, index, other.beta), self.weight.index_copy(0, index, other.weight)
        )


@dataclass(frozen=True, eq=False)
class Walked:
    """One walk: the linear bound `coefficients` (B, n), `constant` (B,) (right-hand side taken off) of the combined
    row, its minimum `low` (B,) at `point` (B, n), and the coefficients `at[i]` (B, *T) that arrived at operator i."""

    coefficients: Tensor
    constant: Tensor
    low: Tensor
    point: Tensor
    at: Mapping[int, Tensor]


class Relaxed:
    """The relaxation of a batch of subproblems: intervals with the decided neurons clamped, and where alpha plays."""

    def __init__(self, ground: Ground, task: Task) -> None:
        self.ground, self.task = ground, task
        network, q = ground.network, task.query
        self.slot = network.output if task.slot is None else task.slot
        self.places = decided(network, self.slot, task.signs, task.points)
        self.lower: dict[int, Tensor] = {}
        self.upper: dict[int, Tensor] = {}
        self.empty = torch.zeros(len(task), dtype=torch.bool, device=q.device)
        for i in network.relus:
            if i < self.slot:
                (self.lower[i], self.upper[i]) = self._clamped(i, 0)
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
        self.loose = {i: ground.loose[i] for i in self.lower}
        self.bounds = {
            i: Interval(*(t.flatten(1).index_select(1, index) for t in (self.lower[i], self.upper[i])))
            for i, index in self.loose.items()
        }
        self.unstable = {i: (x.lower < 0) & (x.upper > 0) for i, x in self.bounds.items()}
        self._kinks: dict[int, Kinks] = {}

    def _clamped(self, i: int, k: int) -> Interval:
        """The intervals of argument k of operator i. One that is empty is replaced (its subproblem has no points): by 0
        for a ReLU, by the whole one for others."""
        x, q = self.ground.pre[i][k], self.task.query
        low, high = x.lower.index_select(0, q), x.upper.index_select(0, q)
        place = self.places.get((i, k))
        if place is None:
            return Interval(low, high)
        shape = low.shape
        found, crossed = place.clamp(Interval(low.flatten(1), high.flatten(1)))
        self.empty |= crossed.any(1)
        zero = low.new_zeros(())
        ends = (zero, zero) if i in self.ground.network.relus else (low.flatten(1), high.flatten(1))
        return Interval(*(torch.where(crossed, end, t).view(shape) for t, end in zip(found, ends, strict=True)))

    def undecided(self) -> Tensor:
        """How many elements of non-linear operators are not affine (B,)."""
        total = torch.zeros_like(self.task.query)
        for u in self.unstable.values():
            total = total + u.sum(1)
        for curve in self.curves.values():
            total = total + curve.op.unstable(*curve.bounds).flatten(1).sum(1)
        return total + len(self.fixed)

    def default(self) -> Parameters:
        """CROWN's slopes (1 where u >= -l) and planes, no multipliers, equal weights."""
        task = self.task
        alpha = {i: (x.upper >= -x.lower).to(x.lower.dtype) for i, x in self.bounds.items()}
        alpha.update({i: curve.default() for i, curve in self.curves.items()})
        used = torch.isfinite(task.rhs)
        weight = used.to(task.rhs.dtype) / used.sum(1, keepdim=True).clamp(min=1)
        return Parameters(alpha, task.rhs.new_zeros(task.signs.shape), weight)

    def planes(self, p: Parameters) -> dict[int, Relaxation]:
        """All planes at the given parameters."""
        result = self._others(p)
        for i, low in self.lower.items():
            op = _relaxed(self.ground.network, i)
            one = torch.ones_like(low)
            fixed = op.relax_at(Interval(low, self.upper[i]), alpha_lower=one, alpha_upper=one)
            below = fixed.lower_slopes[0].flatten(1)
            mine = torch.where(self.unstable[i], p.alpha[i], below.index_select(1, self.loose[i]))
            below = below.index_copy(1, self.loose[i], mine).view_as(low)
            result[i] = Relaxation((below,), fixed.lower_offset, fixed.upper_slopes, fixed.upper_offset)
        return result

    def _others(self, p: Parameters) -> dict[int, Relaxation]:
        """The planes of operators that are no ReLUs."""
        return {**self.fixed, **{i: curve.planes(p.alpha[i]) for i, curve in self.curves.items()}}

    def everywhere(self, p: Parameters) -> dict[int, Tensor]:
        """The slopes of all neurons (B, *S) by ReLU operator: CROWN's where none are chosen."""
        return {
            i: (self.upper[i] >= -low)
            .to(p.alpha[i].dtype)
            .flatten(1)
            .index_copy(1, self.loose[i], p.alpha[i])
            .view_as(low)
            for i, low in self.lower.items()
        }

    def kinks(self, i: int, alpha: Tensor) -> Kinks:
        """The planes of ReLU operator i at the slopes `alpha` (B, U) as a walk without allowance uses them."""
        known = self._kinks.get(i)
        x, open_ = self.bounds[i], self.unstable[i]
        if known is None:
            active = (self.lower[i] >= 0).to(alpha.dtype)
            high = torch.where(open_, x.upper / (x.upper - x.lower), (x.lower >= 0).to(alpha.dtype))
            offset = torch.where(open_, -high * x.lower, 0.0)
            known = self._kinks[i] = Kinks(active, self.loose[i], high, high, offset)
        return known._replace(low=torch.where(open_, alpha, known.high))

    def walk(self, p: Parameters, allowance: Allowance | None = None) -> Walked:
        """The combined row walked back; with `allowance` less what rounding may have cost."""
        network, task = self.ground.network, self.task
        trace: dict[int, Tensor] = {}
        rows = torch.bmm(p.weight[:, None], task.rows).view(len(task), 1, *network.shapes[self.slot])
        added: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}
        for (i, k), place in self.places.items():
            shape = network.shapes[network.sources[i][k]]
            row, shift = place.rows(p.beta, math.prod(shape))
            if allowance is not None:
                shift = shift - place.rounding(p.beta, allowance.sizes[i][k].flatten(1))
            added[i, k] = row.view(len(row), 1, *shape), shift[:, None] if task.points.shape[1] else None
        bias = rows.new_zeros(len(task), 1)
        used: Mapping[int, Relaxation | Kinks]
        if allowance is None:
            used = {**self._others(p), **{i: self.kinks(i, p.alpha[i]) for i in self.loose}}
        else:
            used = self.planes(p)
        coefficients, bias = walk_back(
            network, self.slot, rows, bias, used, trace=trace, allowance=allowance, added=added
        )
        if task.mixed is not None:
            coefficients = coefficients + torch.bmm(p.weight[:, None], task.mixed)
        rhs = (p.weight * torch.where(torch.isfinite(task.rhs), task.rhs, 0.0)).sum(1)
        low = concretise(coefficients, bias - rhs[:, None], task.lower, task.upper, rigorous=False)
        coefficients = coefficients[:, 0]
        point = torch.where(coefficients > 0, task.lower, task.upper)
        return Walked(coefficients, bias[:, 0] - rhs, low[:, 0], point, {i: row[:, 0] for i, row in trace.items()})

    def values(self, p: Parameters, walked: Walked) -> tuple[dict[int, list[Tensor]], Tensor]:
        """The relaxed network at the minimiser: the arguments of the non-linear operators and the output (B, m)."""
        arguments: dict[int, list[Tensor]] = {}
        others = self._others(p)

        def step(i: int, op: Op, xs: list[Tensor]) -> Tensor:
            if isinstance(op, LinearOp):
                return op.forward(*xs) if xs else op.forward().expand(len(walked.point), *op.out_shape)
            assert isinstance(op, RelaxedOp)
            arguments[i] = xs
            if i in self.lower:
                return self.kinks(i, p.alpha[i]).value(xs[0], walked.at.get(i))
            return relaxed_value(op, xs, others[i], walked.at.get(i))

        output = self.ground.network.walk(walked.point, step, self.slot)
        return arguments, output.flatten(1)

    def gradients(self, p: Parameters, walked: Walked) -> dict[str, Tensor]:
        """d bound / d parameters, with 0 where a parameter plays no part."""
        arguments, output = self.values(p, walked)
        found: dict[str, Tensor] = {}
        for i, xs in arguments.items():
            at = walked.at.get(i)
            if at is None:
                continue
            if i in self.curves:
                found[f"alpha{i}"] = self.curves[i].gradient(p.alpha[i], at, xs)
            elif i in self.loose:
                mine, z = (t.flatten(1).index_select(1, self.loose[i]) for t in (at, xs[0]))
                found[f"alpha{i}"] = torch.where(self.unstable[i], mine.clamp(min=0) * z, 0.0)
        if p.beta.shape[1]:
            beta = torch.zeros_like(p.beta)
            for (i, k), place in self.places.items():
                beta.scatter_add_(1, place.entry, -place.slack(arguments[i][k].flatten(1)))
            found["beta"] = beta
        if p.weight.shape[1] > 1:
            task = self.task
            value = torch.bmm(task.rows, output[:, :, None])[:, :, 0] - torch.where(
                torch.isfinite(task.rhs), task.rhs, 0.0
            )
            if task.mixed is not None:
                value = value + torch.bmm(task.mixed, walked.point[:, :, None])[:, :, 0]
            found["weight"] = value
        return found


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
    would not get there at several times the pace of the last iterates (`TREND`, `LENIENT`).
    """
    index = torch.arange(len(task), device=task.query.device)
    relaxed = Relaxed(ground, task)
    now = start or relaxed.default()
    best, value = now, task.lower.new_full((len(task),), -torch.inf)
    adam, unit, past = Adam((0.9, 0.99)), None, [value]
    walks = 0
    for step in range(steps + 1):
        walks += len(index)
        walked = relaxed.walk(now)
        low = torch.where(relaxed.empty, torch.inf, torch.nan_to_num(walked.low, nan=-torch.inf))
        better = low > value[index]
        value = value.index_copy(0, index, torch.maximum(low, value[index]))
        if len(index) == len(value):
            best = best.better(better, now)
        else:
            best = best.put(index[better], now.select(better.nonzero()[:, 0]))
        if step == steps or stop():
            break
        open_ = ~(low > 0)
        past.append(value)
        if sign and step >= TREND:
            reached = value[index]
            open_ &= reached + (reached - past[-1 - TREND][index]) * (LENIENT * (steps - step) / TREND) > 0
        count = int(open_.sum())
        if count == 0:
            break
        walks += len(index)
        gradients = relaxed.gradients(now, walked)
        if unit is None:
            unit = _unit(relaxed, walked)
        moves = adam.step(gradients)
        now = _moved(now, moves, unit, rate[0] * rate[1] ** step)
        if count <= 0.75 * len(index):
            keep = open_.nonzero()[:, 0]
            index, task, now, unit = index[keep], task.select(keep), now.select(keep), unit[keep]
            adam.select(keep)
            relaxed = Relaxed(ground, task)
    return Climbed(best, value, walks)


def _unit(relaxed: Relaxed, walked: Walked) -> Tensor:
    """Step size of each multiplier: the coefficient at its neuron, or the layer's usual one, (B, D)."""
    signs = relaxed.task.signs
    unit = torch.zeros(signs.shape, dtype=walked.low.dtype, device=signs.device)
    for (i, k), place in relaxed.places.items():
        at = walked.at.get(i)
        if at is None:
            continue
        flat = _relaxed(relaxed.ground.network, i).spread(at[:, None], k)[:, 0].flatten(1).abs()
        mine = torch.cat([flat, flat.new_zeros(len(flat), 1)], 1).gather(1, place.column)
        unit.scatter_add_(1, place.entry, torch.where(place.side != 0, mine + flat.mean(1, keepdim=True), 0.0))
    return unit


def _moved(now: Parameters, moves: Mapping[str, Tensor], unit: Tensor, rate: float) -> Parameters:
    alpha = {
        i: (a + rate * moves[f"alpha{i}"]).clamp_(0, 1) if f"alpha{i}" in moves else a for i, a in now.alpha.items()
    }
    beta, weight = now.beta, now.weight
    if "beta" in moves:
        beta = (beta + rate * 4 * unit * moves["beta"]).clamp_(min=0)
    if "weight" in moves:
        weight = weight * torch.exp(rate * 4 * moves["weight"])
        weight = weight / weight.sum(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    return Parameters(alpha, beta, weight)


def prove(ground: Ground, task: Task, parameters: Parameters) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rigorous lower bounds in float64 at fixed parameters: the minimum (B,), coefficients (B, n) and constant (B,) of
    the linear bound of the combined row (right-hand side taken off), and which subproblems have no points (B,).

    `parameters` may be rounded to anything: slopes in [0, 1], multipliers and weights >= 0 are all that is asked.
    """
    assert ground.allowance is not None and task.lower.dtype == torch.float64
    relaxed = Relaxed(ground, task)
    p = parameters.to(torch.float64)
    p = replace(p, alpha={i: a.clamp(0, 1) for i, a in p.alpha.items()})
    p = replace(p, beta=p.beta.clamp(min=0), weight=p.weight.clamp(min=0))
    walked = relaxed.walk(p, ground.allowance.of(task.query))
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
    constant = walked.constant - 4 * gamma(j + n, torch.float64) * size - underflow
    low = concretise(walked.coefficients[:, None], constant[:, None], task.lower, task.upper)[:, 0]
    return torch.where(relaxed.empty, torch.inf, low), walked.coefficients, constant, relaxed.empty


def _relaxed(network: Network, i: int) -> RelaxedOp:
    op = network.ops[i]
    assert isinstance(op, RelaxedOp)
    return op
