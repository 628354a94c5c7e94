"""Lower bounds of subproblems by Lagrangian duality, and what a bound's linear row says about the rest.

A subproblem decides the signs of some neurons and carries its own box and intervals. For any weights lambda of the
functions (>= 0, sum 1), slopes alpha in [0, 1] of the convex neurons and multipliers beta >= 0 of the decided signs,

    row . x + constant  <=  sum_k lambda_k g_k(x)   on the subproblem,

so its minimum over the box bounds the clause from below (the dual of the triangle relaxation; beta-CROWN, Wang et al.
2021, eq. 8, is the same for one hidden layer). A violation can only lie where the row is <= 0: a half-space, which cuts
the box and the neurons' intervals (as Clip-and-Verify, Zhou et al. 2025, does), so that chords become tighter. That
makes the tree small.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Self, TypeVar

import torch
from torch import Tensor

from verifier.bounds.ascend import Adam
from verifier.search.shallow.form import Clause
from verifier.tolerance import UNSCALED, ulp

CUTS = (0.15, 0.35, 0.7, 1.2, 2.5)
"""Multipliers of the row that are tried when a neuron's interval is cut, times the ratio of their spreads. (Exact ones
need a sort per neuron; these lose a few percent.)"""

PUSHES = (1.0, 1.3, 2.0, 4.0)
"""Multipliers of a sign that are tried when a split is looked at ahead, in units of the neuron's gain."""


@dataclass(frozen=True, eq=False)
class TensorRecord:
    """Tensors with the same leading dimension."""

    def select(self, index: Tensor | slice) -> Self:
        """The entries at `index`."""
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

    def put(self, index: Tensor, other: Self) -> Self:
        """The same with the entries of `other` at `index`."""
        parts = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return type(self)(*(mine.index_copy(0, index, theirs) for mine, theirs in parts))


@dataclass(frozen=True, eq=False)
class Nodes(TensorRecord):
    """B subproblems: boxes `lower`, `upper` (B, n); intervals `low`, `high` (B, N) of the neurons' arguments; decided
    `sign` (B, N) -1, 0 or 1; multipliers `weights` (B, K), `alpha`, `beta` (B, N); `place` (B,) in the batch of the
    search, `node` (B, 1) in the tree of a proof, or (B, 0).
    """

    lower: Tensor
    upper: Tensor
    low: Tensor
    high: Tensor
    sign: Tensor
    weights: Tensor
    alpha: Tensor
    beta: Tensor
    place: Tensor
    node: Tensor

    def __len__(self) -> int:
        return len(self.place)


def root(clause: Clause) -> Nodes:
    """The whole box, no sign decided."""
    k, n = clause.gain.shape
    zero = clause.gain.new_zeros(1, n)
    weights, place = zero.new_full((1, k), 1 / max(1, k)), torch.zeros(1, dtype=torch.int64, device=zero.device)
    lower, upper, low, high = (t[None] for t in (clause.lower, clause.upper, clause.low, clause.high))
    return Nodes(lower, upper, low, high, zero, weights, zero + 0.5, zero, place, place[:, None][:, :0])


Kind = TypeVar("Kind", bound=TensorRecord)


def join(parts: list[Kind]) -> Kind:
    """All in one batch."""
    kind = type(parts[0])
    return kind(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(kind)))


@dataclass(frozen=True, eq=False)
class DualRows(TensorRecord):
    """Linear lower bounds `row` (B, n), `constant` (B,) of the weighted functions, the allowance for rounding taken
    off; their minima `value` (B,), and a point `x` (B, n) where each is attained."""

    row: Tensor
    constant: Tensor
    value: Tensor
    x: Tensor


def ascend(clause: Clause, nodes: Nodes, steps: int, frozen: bool = False) -> tuple[Nodes, DualRows]:
    """The subproblems with the best multipliers found by `steps` of Adam (Kingma & Ba 2015), and their rows.

    Every iterate is a valid bound; more steps only tighten.
    """
    planes = LayerRelaxation(clause, nodes)
    names = ("weights", "alpha", "beta")
    now = kept = [nodes.weights, nodes.alpha, nodes.beta]
    rows = best = planes.rows(*now)
    adam = Adam((0.8, 0.95))
    for step in range(1, steps + 1):
        rate = 0.5 * 0.1 ** (step / steps)
        slopes = dict(zip(names, planes.slopes(rows.x, *now), strict=True))
        if frozen:
            slopes["alpha"] = torch.zeros_like(slopes["alpha"])
        moves = adam.step(slopes)
        now = planes.admissible(*(t + rate * moves[n] * u for t, n, u in zip(now, names, planes.units, strict=True)))
        rows = planes.rows(*now)
        better = rows.value > best.value
        best = DualRows(
            *(
                torch.where(better.view(-1, *([1] * (a.dim() - 1))), a, b)
                for a, b in zip(_parts(rows), _parts(best), strict=True)
            )
        )
        kept = [torch.where(better[:, None], a, b) for a, b in zip(now, kept, strict=True)]
    return replace(nodes, weights=kept[0], alpha=kept[1], beta=kept[2]), best


def _parts(rows: DualRows) -> tuple[Tensor, ...]:
    return rows.row, rows.constant, rows.value, rows.x


class LayerRelaxation:
    """The relaxation of a batch of subproblems for given intervals."""

    def __init__(self, clause: Clause, nodes: Nodes) -> None:
        self.clause, self.nodes = clause, nodes
        self.centre, self.radius = (nodes.lower + nodes.upper) / 2, (nodes.upper - nodes.lower) / 2
        self.on, off = nodes.low >= 0, nodes.high <= 0
        self.open = ~self.on & ~off
        width = (nodes.high - nodes.low).clamp(min=torch.finfo(torch.float64).tiny)
        self.chord = torch.where(self.open, nodes.high / width, 0.0)
        self.lift = torch.where(self.open, -self.chord * nodes.low, 0.0)
        self.spread = (self.radius @ clause.weight.abs().T).clamp(min=torch.finfo(torch.float64).tiny)
        row_spread = (nodes.weights @ clause.linear).abs().mul(self.radius).sum(1, keepdim=True)
        self.units = [
            0.5,
            1.0,
            (row_spread + ((nodes.weights @ clause.gain).abs() * self.spread).sum(1, keepdim=True) * 0.1) / self.spread,
        ]

    def planes(self, gain: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes and shifts (B, N) of the plane that replaces each ReLU, from above where its gain is negative."""
        above = gain < 0
        slope = torch.where(self.open, torch.where(above, self.chord, alpha), self.on.double())
        return slope, torch.where(above, self.lift, 0.0)

    def rows(self, weights: Tensor, alpha: Tensor, beta: Tensor) -> DualRows:
        """The linear bounds for given multipliers."""
        clause, nodes = self.clause, self.nodes
        gain = weights @ clause.gain
        slope, shift = self.planes(gain, alpha)
        along = gain * slope - beta * nodes.sign
        row = weights @ clause.linear + along @ clause.weight
        offset = weights @ clause.constant + along @ clause.bias + (gain * shift).sum(1)
        error = weights @ clause.row_error + beta @ clause.argument_error
        constant = offset - error - 4 * clause.unit * (gain * shift).abs().sum(1)
        value = (row * self.centre).sum(1) + constant - (row.abs() * self.radius).sum(1)
        return DualRows(row, constant, value, self.centre - self.radius * row.sign())

    def slopes(self, x: Tensor, weights: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the bound with respect to the multipliers, in units of each neuron's spread."""
        clause = self.clause
        z = x @ clause.weight.T + clause.bias
        share = z / self.spread
        d_alpha = torch.where(self.open, share, 0.0)
        d_beta = -self.nodes.sign * share
        if weights.shape[1] == 1:
            return torch.zeros_like(weights), d_alpha, d_beta
        slope, shift = self.planes(weights @ clause.gain, alpha)
        functions = x @ clause.linear.T + clause.constant + (slope * z + shift) @ clause.gain.T
        return functions - functions.mean(1, keepdim=True), d_alpha, d_beta

    def admissible(self, weights: Tensor, alpha: Tensor, beta: Tensor) -> list[Tensor]:
        """The multipliers moved into their ranges."""
        if weights.shape[1] > 1:
            weights = weights.clamp(min=UNSCALED)
            weights = weights / weights.sum(1, keepdim=True)
        return [weights, alpha.clamp(0, 1), torch.where(self.nodes.sign != 0, beta.clamp(min=0), 0.0)]


def stiffness(clause: Clause, nodes: Nodes, rows: DualRows) -> Tensor:
    """How many times (B,) the variation of the steepest neuron, of those that have a multiplier, is that of the row on
    the box."""
    radius = (nodes.upper - nodes.lower) / 2
    gain = (nodes.weights @ clause.gain).abs() * (radius @ clause.weight.abs().T)
    steep = torch.where(((nodes.low < 0) & (nodes.high > 0)) | (nodes.sign != 0), gain, 0.0)
    largest = steep.amax(1) if steep.shape[1] else steep.new_zeros(len(steep))
    return largest / (rows.row.abs() * radius).sum(1).clamp(min=torch.finfo(torch.float64).tiny)


def cut(clause: Clause, nodes: Nodes, rows: DualRows) -> tuple[Nodes, Tensor]:
    """Boxes and intervals cut to where the rows are <= 0, and which subproblems (B,) that leaves without a point."""
    width = nodes.upper - nodes.lower
    reach = -rows.value[:, None] / rows.row.abs().clamp(min=torch.finfo(torch.float64).tiny)
    slack = 8 * ulp(torch.float64) * (nodes.lower.abs() + nodes.upper.abs())
    short = (reach < width) & (rows.row != 0)
    upper = torch.where(short & (rows.row > 0), nodes.lower + reach + slack, nodes.upper)
    lower = torch.where(short & (rows.row < 0), nodes.upper - reach - slack, nodes.lower)
    lower, upper = torch.maximum(lower, nodes.lower), torch.minimum(upper, nodes.upper)
    m = clause.loose
    weight, bias = clause.weight[:m], clause.bias[:m]
    slack = clause.argument_error[:m]
    least = _least(weight, bias, rows, lower, upper, clause.unit) - slack
    most = -_least(-weight, -bias, rows, lower, upper, clause.unit) + slack
    low, high = nodes.low.clone(), nodes.high.clone()
    low[:, :m], high[:, :m] = torch.fmax(low[:, :m], least), torch.fmin(high[:, :m], most)
    empty = (low > high).any(1) | (lower > upper).any(1)
    return replace(nodes, lower=lower, upper=upper, low=low, high=high), empty


def _least(weight: Tensor, bias: Tensor, rows: DualRows, lower: Tensor, upper: Tensor, unit: float) -> Tensor:
    """Lower bounds (B, M) of weight . x + bias where the row is <= 0: any multiplier of the row gives one. The rounding
    of weight . x + bias itself is left to the caller, that of the row's share is allowed for."""
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    reach = torch.maximum(lower.abs(), upper.abs())
    row_error = 4 * unit * ((rows.row.abs() * reach).sum(1, keepdim=True) + rows.constant.abs()[:, None])
    at = centre @ weight.T + bias
    spread = radius @ weight.abs().T
    best = at - spread
    row_at = (rows.row * centre).sum(1, keepdim=True) + rows.constant[:, None]
    scale = spread / (rows.row.abs() * radius).sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    for share in CUTS:
        g = share * scale
        sum_ = (weight + g[:, :, None] * rows.row[:, None]).abs_()
        best = torch.fmax(best, at + g * (row_at - row_error) - torch.bmm(sum_, radius[:, :, None])[:, :, 0])
    return best


def look_ahead(clause: Clause, nodes: Nodes, rows: DualRows, most: int) -> tuple[Tensor, Tensor]:
    """The loose neuron (B,) whose two sides raise the bound most, -1 where none is open; and estimates (B, 2) of the
    bound on its positive and negative side.

    For each of up to `most` neurons with the largest chord gaps, the neuron's plane is taken out of the row and put
    back as on either side, with a few multipliers of its sign.
    """
    m = clause.loose
    low, high = nodes.low[:, :m], nodes.high[:, :m]
    open_ = (low < 0) & (high > 0)
    gain = (nodes.weights @ clause.gain)[:, :m].clamp(max=0)
    if m == 0:
        return torch.full((len(nodes),), -1, device=low.device), low.new_zeros(len(nodes), 2)
    z = rows.x @ clause.weight[:m].T + clause.bias[:m]
    chord = high / (high - low).clamp(min=torch.finfo(torch.float64).tiny)
    gap = -gain * (chord * (z - low) - z.clamp(min=0)).clamp(min=0) - 0.3 * gain * (-chord * low)
    value, pick = torch.where(open_, gap, -1.0).topk(min(most, m), 1)
    weight, bias = clause.weight[:m][pick], clause.bias[:m][pick]
    gain, chord, low = gain.gather(1, pick), chord.gather(1, pick), low.gather(1, pick)
    centre, radius = (nodes.lower + nodes.upper) / 2, (nodes.upper - nodes.lower) / 2
    without = rows.row[:, None] - (gain * chord)[:, :, None] * weight
    offset = rows.constant[:, None] - gain * chord * (bias - low)

    def bound(push: Tensor) -> Tensor:
        row = without + push[:, :, None] * weight
        at = torch.bmm(row, centre[:, :, None])[:, :, 0] + offset + push * bias
        return at - torch.bmm(row.abs_(), radius[:, :, None])[:, :, 0]

    positive, negative = bound(gain), bound(torch.zeros_like(gain))
    for push in PUSHES[1:]:
        positive = torch.maximum(positive, bound(push * gain))
        negative = torch.maximum(negative, bound((1 - push) * gain))
    now = ((rows.row * centre).sum(1) + rows.constant - (rows.row.abs() * radius).sum(1))[:, None]
    rises = [torch.minimum((side - now).clamp(min=0), -now) - 0.003 * now for side in (positive, negative)]
    score = torch.where(value >= 0, rises[0] * rises[1], -1.0)
    best = score.argmax(1, keepdim=True)
    neuron = torch.where(value.gather(1, best) >= 0, pick.gather(1, best), -1)[:, 0]
    return neuron, torch.cat([positive.gather(1, best), negative.gather(1, best)], 1)


def split(nodes: Nodes, neuron: Tensor) -> Nodes:
    """Both sides of each subproblem's neuron (B,)."""
    index = torch.arange(len(nodes), device=neuron.device)
    parts = []
    for side in (1.0, -1.0):
        sign, low, high = nodes.sign.clone(), nodes.low.clone(), nodes.high.clone()
        sign[index, neuron] = side
        if side > 0:
            low[index, neuron] = low[index, neuron].clamp(min=0)
        else:
            high[index, neuron] = high[index, neuron].clamp(max=0)
        parts.append(replace(nodes, sign=sign, low=low, high=high))
    return join(parts)
