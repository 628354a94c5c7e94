"""Violations about heatmaps on boxes: differences of cells of one map are formed where they are needed.

Over maps of P cells an argmax property has a row for every pair of a cell inside and one outside its window: 50 000
for 23 maps of 16 x 16. On a box, P of them decide. Let a be the cell inside that is highest at the centre of the box,
r the one outside. Then

    for every q outside    z_a - z_q > 0                      refutes the clause of q        (P rows, `outer`)
    for every p inside     z_p - z_r < 0, all of them         is a violation                 (P rows, `inner`)

and both become exact as boxes shrink. Rows of clauses that are refuted on the whole box are dropped, so that parts of a
box look only at the cells that still compete. A budget needs the cells that can be the argmax at all: those p with no
proof of  z_a - z_p > 0, a being the highest cell of the map at the centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.zonotope import Symbols, Zonotope
from verifier.semantic.conditions import CellBounds, Conditions, between, blame, clause_best
from verifier.semantic.maps import MapBudget, Windows
from verifier.tolerance import EXACT, FLOOR, NARROWEST, UNSCALED, ulp


@dataclass(frozen=True, eq=False)
class _Differences:
    """Rows  sign (z_ref - z_j) of cells j = index: low, high, middle, noise (B, K), slopes (B, K, d).

    `real` (B, K): columns that are no padding. `easy` (B, N): cells whose row is positive already when the noise of
    both cells is added up; they are not among the columns.
    """

    index: Tensor
    real: Tensor
    easy: Tensor
    low: Tensor
    high: Tensor
    middle: Tensor
    noise: Tensor
    slopes: Tensor

    def kept(self, alive: Tensor) -> _Differences:
        """The rows of the cells `alive` (B, N) only; padding has zeros."""
        column, real = _compact(alive.gather(1, self.index) & self.real)
        low, high, middle, noise = (
            t.gather(1, column).masked_fill(~real, 0.0) for t in (self.low, self.high, self.middle, self.noise)
        )
        d = self.slopes.shape[2]
        slopes = self.slopes.gather(1, column[:, :, None].expand(-1, -1, d)).masked_fill(~real[:, :, None], 0.0)
        return _Differences(self.index.gather(1, column), real, self.easy, low, high, middle, noise, slopes)


def _differences(out: Zonotope, ref: Tensor, sign: Tensor, wanted: Tensor) -> _Differences:
    """`ref` (B, N): the cell each cell is compared with; `sign`, `wanted` (B, N).

    First without the symbols, which most cells do not need; the symbols of two cells cancel in what is left.
    """
    d = out.core.shape[1] - 1
    centre, inputs, lumped = out.core[:, 0], out.core[:, 1:], out.lumped().double()
    other = centre.gather(1, ref)
    slopes = (inputs.gather(2, ref[:, None].expand(-1, d, -1)) - inputs).mul_(sign[:, None]).transpose(1, 2)
    middle, swing = sign * (other - centre), slopes.abs().sum(2)
    size = centre.abs() + other.abs()
    noise = (lumped + lumped.gather(1, ref)) * (1 + 8 * EXACT)
    low, _ = between(middle, swing + noise + 16 * EXACT * (size + swing + noise) + FLOOR)
    easy = low > 0
    index, real = _compact(wanted & ~easy)
    noise = _noise(out, index, ref.gather(1, index))
    middle, swing, size = (t.gather(1, index) for t in (middle, swing, size))
    margin = 16 * EXACT * (size + swing + noise) + FLOOR
    low, high = between(middle, swing + noise + margin)
    slopes = slopes.gather(1, index[:, :, None].expand(-1, -1, d))
    return _Differences(index, real, easy, low, high, middle, noise + margin, slopes)


def _noise(out: Zonotope, cell: Tensor, ref: Tensor) -> Tensor:
    """At least what the difference of two cells, (B, K) each, moves beside its linear part."""
    noise = out.radius.gather(1, cell).double() + out.radius.gather(1, ref).double()
    for owner, maps in zip(out.owner, out.maps, strict=True):
        here, there = (maps.gather(1, cells[owner]) for cells in (cell, ref))
        noise.index_add_(0, owner, (there - here).abs_().double())
    # one rounding in the fast type per difference, one in float64 per term of the sum
    return noise * (1 + (out.count + 8) * EXACT + 2 * ulp(out.radius.dtype))


def _compact(alive: Tensor) -> tuple[Tensor, Tensor]:
    """Columns of the rows that matter, (B, K) with padding, and which are real."""
    count = alive.sum(1)
    width = max(1, int(count.amax()))
    index = alive.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :width]
    return index, torch.arange(width, device=alive.device)[None] < count[:, None]


def _blame(out: Zonotope, symbols: Symbols, ref: Tensor, cell: Tensor, slopes: Tensor, critical: Tensor) -> Tensor:
    """Blame of the critical rows; `cell`, `ref` (B,) are the two cells each compares."""
    owner, ids = (torch.cat([cell[:0], *parts]) for parts in (out.owner, out.ids))
    sizes = [
        (maps.gather(1, ref[who][:, None]) - maps.gather(1, cell[who][:, None]))[:, 0].abs().double()
        for who, maps in zip(out.owner, out.maps, strict=True)
    ]
    return blame(slopes, critical, torch.cat([slopes.new_zeros(0), *sizes]), symbols.share()[ids], owner)


class WindowBounds(CellBounds):
    """Bounds of windows: which cell competes differs from part to part."""

    def decisive(self, low: Tensor, high: Tensor, parent: Tensor) -> Tensor:
        """See `CellBounds`: the best row of the worst clause."""
        clause = self.clause[parent]
        return _best_of_worst(low, clause, clause_best(low, clause, self.floor[parent]))


def _best_of_worst(low: Tensor, clause: Tensor, scores: Tensor) -> Tensor:
    return low.masked_fill(clause != scores.argmin(1)[:, None], -torch.inf).argmax(1)


@dataclass(frozen=True, eq=False)
class WindowConditions(Conditions):
    """`inside` (Q, K, P) and `used` (Q, K), bool: see `maps.Windows`. The margin is the least lead of the window."""

    inside: Tensor
    used: Tensor
    measure = "highest score outside the window minus highest inside"

    @staticmethod
    def of(windows: Sequence[Windows], device: torch.device) -> WindowConditions:
        """One member each."""
        inside, used = (np.stack([getattr(w, name) for w in windows]) for name in ("inside", "used"))
        return WindowConditions(torch.from_numpy(inside).to(device), torch.from_numpy(used).to(device))

    def span(self, z: Tensor, query: Tensor, leeway: float) -> tuple[Tensor, Tensor]:
        """See `Conditions`."""
        inside = self.inside[query]
        z = z.reshape(inside.shape)
        best, rival = (z.masked_fill(hidden, -torch.inf).amax(2) for hidden in (~inside, inside))
        margin = (best - rival).masked_fill(~self.used[query], torch.inf).amin(1)
        return margin - 2 * leeway, margin + 2 * leeway

    def scale(self, q: int) -> float:
        """See `Conditions`: scores have no scale of their own."""
        return 1.0

    def tensors(self) -> list[Tensor]:
        """See `Conditions`."""
        return [self.inside, self.used]

    def bound(self, out: Zonotope, symbols: Symbols, unstable: Tensor, query: Tensor) -> CellBounds:
        """See `Conditions`."""
        inside, used = self.inside[query], self.used[query]
        b, k, p = inside.shape
        centre = out.core[:, 0].reshape(b, k, p)
        base = p * torch.arange(k, device=centre.device)[None, :, None]
        anchor, rival = (
            centre.masked_fill(hidden, -torch.inf).argmax(2, keepdim=True) + base for hidden in (~inside, inside)
        )
        ref = torch.where(inside, rival, anchor).flatten(1)
        flat = inside.flatten(1)
        rows = _differences(
            out, ref, torch.where(flat, -1.0, 1.0).double(), used[:, :, None].expand(-1, -1, p).flatten(1)
        )
        proven = (rows.low > 0) & rows.real
        positive = (rows.easy | torch.zeros_like(flat).scatter(1, rows.index, proven)).reshape(b, k, p)
        possible = used & ~(positive & inside).any(2)  # maps whose inner clause may hold
        alive = torch.where(inside, possible[:, :, None], used[:, :, None] & ~positive).flatten(1)
        rows = rows.kept(alive)
        index, real, width = rows.index, rows.real, rows.index.shape[1]
        outer = real & ~flat.gather(1, index)
        number = torch.arange(width, device=centre.device).expand(b, -1)
        clause = torch.where(outer, number, width + index // p).masked_fill(~real, width + k)
        floor, ceiling = (
            torch.where(torch.cat([left, possible], 1), -torch.inf, torch.inf).double()
            for left in (outer, torch.zeros_like(outer))
        )
        scores = clause_best(rows.low, clause, floor)
        critical = _best_of_worst(rows.low, clause, scores)
        cell = index.gather(1, critical[:, None])
        return WindowBounds(
            rows.low,
            rows.middle,
            rows.slopes,
            rows.noise,
            clause,
            floor,
            ceiling,
            scores.amin(1),
            clause_best(rows.high, clause, ceiling).amin(1),
            critical,
            _blame(out, symbols, ref.gather(1, cell)[:, 0], cell[:, 0], rows.slopes, critical),
            unstable,
        )


@dataclass(frozen=True, eq=False)
class BudgetBounds(CellBounds):
    """Rows  z_a - z_p  of the cells that may be the argmax of their map, which is their `clause`.

    `value` (B, K): what cell p costs; `base` (B, maps): what the anchor a costs; `limit` (B,).
    """

    value: Tensor
    base: Tensor
    limit: Tensor

    def settled(self, low: Tensor, high: Tensor, parent: Tensor) -> tuple[Tensor, Tensor]:
        """See `CellBounds`: the dearest and the cheapest choice of cells that are not ruled out."""
        return _settled(low, high, self.clause[parent], self.value[parent], self.base[parent], self.limit[parent])

    def decisive(self, low: Tensor, high: Tensor, parent: Tensor) -> Tensor:
        """See `CellBounds`."""
        return _largest_stake(low, high, self.clause[parent], self.value[parent], self.base[parent])

    def clip(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """See `CellBounds`; no single row rules out a violation."""
        return lower, upper


def _settled(
    low: Tensor, high: Tensor, clause: Tensor, value: Tensor, base: Tensor, limit: Tensor
) -> tuple[Tensor, Tensor]:
    maps = base.shape[1]
    beaten = high < 0  # somebody is higher than the anchor everywhere
    room = torch.cat([base, base.new_zeros(len(base), 1)], 1)
    alive = low <= 0
    most = room.scatter_reduce(1, clause, value.masked_fill(~alive, -torch.inf), "amax")[:, :maps].sum(1)
    lost = torch.zeros_like(room).scatter_reduce(1, clause, beaten.to(room), "amax") > 0
    least = room.masked_fill(lost, torch.inf)
    least = least.scatter_reduce(1, clause, value.masked_fill(~alive, torch.inf), "amin")[:, :maps].sum(1)
    rounding = 4 * (maps + 8) * EXACT
    return limit - most * (1 + rounding), limit - least * (1 - rounding)


def _largest_stake(low: Tensor, high: Tensor, clause: Tensor, value: Tensor, base: Tensor) -> Tensor:
    """The row whose sign changes the sum most and most evenly divides the box: |value - base| min(share, 1 - share)."""
    anchor = torch.cat([base, base.new_zeros(len(base), 1)], 1).gather(1, clause)
    share = (-low / (high - low).clamp(min=NARROWEST)).clamp(0.0, 1.0)
    stake = (value - anchor).abs() * (torch.minimum(share, 1 - share) + UNSCALED)
    return stake.masked_fill((clause == base.shape[1]) | (low > 0) | (high < 0), -1.0).argmax(1)


@dataclass(frozen=True, eq=False)
class BudgetConditions(Conditions):
    """`weight` (Q, K, P) and `limit` (Q,), float64: see `maps.MapBudget`. The margin is what is left of the limit."""

    weight: Tensor
    limit: Tensor
    measure = "weighted sum of key point errors, px"

    @staticmethod
    def of(budgets: Sequence[MapBudget], device: torch.device) -> BudgetConditions:
        """One member each."""
        weight = torch.from_numpy(np.stack([b.weight for b in budgets])).to(device, torch.float64)
        return BudgetConditions(weight, torch.tensor([b.bound for b in budgets], dtype=torch.float64, device=device))

    def span(self, z: Tensor, query: Tensor, leeway: float) -> tuple[Tensor, Tensor]:
        """See `Conditions`: the margin jumps where the argmax does."""
        weight = self.weight[query]
        z = z.reshape(weight.shape)
        beaten = z < z.amax(2, keepdim=True) - 2 * leeway
        most = weight.masked_fill(beaten, -torch.inf).amax(2).sum(1)
        least = weight.masked_fill(beaten, torch.inf).amin(2).sum(1) if leeway else most
        return self.limit[query] - most, self.limit[query] - least

    def scale(self, q: int) -> float:
        """See `Conditions`: the leeway is one of scores."""
        return 1.0

    def tensors(self) -> list[Tensor]:
        """See `Conditions`."""
        return [self.weight, self.limit]

    def bound(self, out: Zonotope, symbols: Symbols, unstable: Tensor, query: Tensor) -> CellBounds:
        """See `Conditions`."""
        weight = self.weight[query]
        b, k, p = weight.shape
        anchor = out.core[:, 0].reshape(b, k, p).argmax(2, keepdim=True)
        base = weight.gather(2, anchor)[:, :, 0]
        start = p * torch.arange(k, device=weight.device)[None, :, None]
        ref = (anchor + start).expand(-1, -1, p).flatten(1)
        cells = torch.arange(k * p, device=weight.device)[None]
        matters = (weight != weight[:, :, :1]).any(2)[:, :, None].expand(-1, -1, p).flatten(1)
        rows = _differences(out, ref, torch.ones_like(out.core[:, 0]), matters & (cells != ref))
        beaten = torch.zeros_like(matters).scatter(1, rows.index, (rows.low > 0) & rows.real)
        rows = rows.kept(~beaten)
        index, real = rows.index, rows.real
        clause = (index // p).masked_fill(~real, k)
        value = weight.flatten(1).gather(1, index).masked_fill(~real, 0.0)
        limit = self.limit[query]
        worst, reached = _settled(rows.low, rows.high, clause, value, base, limit)
        critical = _largest_stake(rows.low, rows.high, clause, value, base)
        cell = index.gather(1, critical[:, None])
        none = rows.low.new_zeros(b, 0)
        return BudgetBounds(
            rows.low,
            rows.middle,
            rows.slopes,
            rows.noise,
            clause,
            none,
            none,
            worst,
            reached,
            critical,
            _blame(out, symbols, ref.gather(1, cell)[:, 0], cell[:, 0], rows.slopes, critical),
            unstable,
            value,
            base,
            limit,
        )
