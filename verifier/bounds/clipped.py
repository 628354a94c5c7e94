"""Intervals of neurons where a clause can still be violated.

Where a clause's linear bound holds, a . x + c <= row . y - rhs, a violation lies in the half-space a . x + c <= 0. With
r . x + d a lower bound of a neuron's argument z (or of -z) on the whole box, every gamma >= 0 gives on that part

    z >= r . x + d >= (r + gamma a) . x + d + gamma c,

whose least value on the box is concave in gamma (Clip-and-Verify, Zhou et al. 2025, theorem on direct improvement; with
one constraint a search along gamma takes the place of sorting; compare INVPROP, Kotha et al. 2023). Intervals that are
tightened so make the relaxation tighter, and what that proves is that no *violation* is there: enough for `unsat`.

Over a box with centre x0 and radii r the least value is that at x0 less the sum of |slope| r. Values at the centre, in
which all cancels, are float64; sums of magnitudes are float32, and what their rounding can have added is taken off:
they are known to a few parts in 10 000.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.alpha_beta import prove
from verifier.bounds.network import Network
from verifier.bounds.refine import RowBound
from verifier.bounds.relaxed import Ground, Parameters, Task
from verifier.bounds.sizes import size_on
from verifier.tolerance import LEAST, gamma, lost, tiny, ulp

OCTAVES, HALVINGS = (-4.0, 6.0), 6
"""Where gamma is searched for, in octaves of |r| / |a| (both as they vary on the box), and bisections of that."""

ELEMENTS = {"cpu": 1 << 18, "cuda": 1 << 26}
"""Coefficients that are worked on at once: what a core's cache holds. (That of devices has not been timed on one.)"""


@dataclass(frozen=True, eq=False)
class NeuronPlanes:
    """Lower bounds of z and of -z, the arguments of the K ReLU neurons `places` (K,) as `Network.relus` numbers them,
    linear over the inputs, on the boxes `centre` and `radius` (Q, n) of Q queries, all z first: `slopes` (Q, 2 K, n) in
    units of the radius, float32 and so rounded, and values at the centre `middle` (Q, 2 K), rounded down; -inf where
    there is no bound. `swing` (Q, 2 K) are sums of |slopes|."""

    places: Tensor
    centre: Tensor
    radius: Tensor
    slopes: Tensor
    middle: Tensor

    @cached_property
    def swing(self) -> Tensor:
        """Sums of |slopes|."""
        return self.slopes.abs().sum(2).double()

    @property
    def cost(self) -> float:
        """What `within` costs for a subproblem, as multiply-adds."""
        return 3.0 * (HALVINGS + 1) * self.slopes[0].numel()

    @property
    def nothing(self) -> Tensor:
        """The intervals of a subproblem of which nothing is known: (2, 1, K)."""
        ends = self.middle.new_full((2, 1, len(self.places)), torch.inf)
        ends[0].neg_()
        return ends

    def share(self, query: Tensor, row: Tensor, low: Tensor) -> Tensor:
        """How much of what clauses' linear bounds `row` (B, n) vary by on the box is below 0, their minima being `low`
        (B,)."""
        swing = (row.abs() * self.radius[query]).sum(1)
        return torch.nan_to_num(-low / (2 * swing).clamp(min=LEAST), nan=torch.inf)

    def within(self, query: Tensor, row: Tensor, constant: Tensor, known: Tensor) -> Tensor:
        """Intervals (2, B, K) of the neurons where clauses' linear bounds `row` (B, n), `constant` (B,), float64, are
        <= 0; no looser than the `known` ones."""
        n = row.shape[1]
        slope, middle = _scaled(row, constant, self.centre, self.radius, query)
        swing = slope.abs().sum(1, keepdim=True)
        usable = torch.isfinite(middle) & torch.isfinite(swing[:, 0])
        slope, middle = slope.masked_fill(~usable[:, None], 0.0), middle.masked_fill(~usable, 0.0)[:, None]
        unit = self.swing[query].float() / swing.clamp(min=LEAST)
        weight, least = torch.zeros_like(unit), torch.empty_like(unit, dtype=torch.float64)
        each = self.slopes.shape[1]
        room = max(1, size_on(row.device, ELEMENTS) // max(1, n))  # rows
        for b in range(0, len(query), max(1, room // max(1, each))):
            some = slice(b, b + max(1, room // max(1, each)))
            for start in range(0, each, room):
                part = slice(start, start + room)
                rows = self.slopes[:, part].index_select(0, query[some])
                weight[some, part], least[some, part] = _best(rows, slope[some], middle[some].float(), unit[some, part])
        gammas = weight.double()
        # float32: slopes are rounded, their combination and its sum
        wrong = 2 * gamma(n + 16, torch.float32) * (self.swing[query] + gammas * swing.double())
        offset = self.middle[query] + gammas * middle
        wrong = wrong + gamma(16, torch.float64) * (self.middle[query].abs() + gammas * middle.abs())
        low = offset - least - wrong - 4 * n * tiny(torch.float32) * (1 + gammas)
        low = torch.nan_to_num(low, nan=-torch.inf, posinf=-torch.inf).masked_fill(~usable[:, None], -torch.inf)
        below, above = low.unflatten(1, (2, -1)).unbind(1)
        return torch.stack([torch.maximum(known[0], below), torch.minimum(known[1], -above)])


class _Kept(NamedTuple):
    """Rows z (`side` 0) or -z (1) of the neurons that are wanted as number `column`, (M,) each: their slopes (M, n) and
    values at the centre (M,)."""

    query: Tensor
    side: Tensor
    column: Tensor
    slopes: Tensor
    middle: Tensor


@dataclass(eq=False)
class PlaneRows(RowBound):
    """Bounds rows over arguments of ReLUs, and keeps the linear bounds of the neurons `wanted[i]`
    (M,), flat positions in ascending order at operator i, on the queries' boxes `lower`, `upper` (Q, n). Where a proof
    is written, bounds are what it `recorded`, and told which rows are kept (M,)."""

    wanted: Mapping[int, Tensor]
    lower: Tensor
    upper: Tensor
    recorded: Callable[[Ground, int, Task, Parameters, Tensor], Tensor] | None = None
    _found: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def bound(self, exact: Ground, i: int, task: Task, parameters: Parameters) -> tuple[Tensor, _Kept | None]:
        """See `RowBound`; with the linear bounds of those that are wanted."""
        low, row, constant, empty = prove(exact, task, parameters)
        mine, kept = self._wanted(i, task, row, constant.masked_fill(empty, -torch.inf))
        if self.recorded is not None:
            return self.recorded(exact, i, task, parameters, mine), kept
        return low.masked_fill(empty, -torch.inf), kept

    def _wanted(self, i: int, task: Task, row: Tensor, constant: Tensor) -> tuple[Tensor, _Kept | None]:
        """Which rows (M,) are kept, and what of them."""
        picked = task.rows[:, 0]
        neuron, side = picked.abs().argmax(1), (picked.sum(1) < 0).long()
        if i not in self.wanted:
            return torch.zeros_like(neuron, dtype=torch.bool), None
        column = torch.searchsorted(self.wanted[i], neuron).clamp_(max=len(self.wanted[i]) - 1)
        mine = self.wanted[i][column] == neuron
        around = _around(self.lower, self.upper)
        slopes, middle = _scaled(row[mine], constant[mine], *around, task.query[mine])
        return mine, _Kept(task.query[mine], side[mine], column[mine], slopes, middle)

    def keep(self, i: int, kept: _Kept | None) -> None:
        """See `RowBound`."""
        if kept is None:
            return
        if i not in self._found:
            count, (queries, n) = len(self.wanted[i]), self.lower.shape
            none = self.lower.new_full((queries, 2, count), -torch.inf)
            self._found[i] = none.new_zeros(queries, 2, count, n, dtype=torch.float32), none
        place = kept.query, kept.side, kept.column
        self._found[i][0][place], self._found[i][1][place] = kept.slopes, kept.middle

    def planes(self, network: Network) -> NeuronPlanes | None:
        """What was kept; None for nothing."""
        if not self._found:
            return None
        places = torch.cat([self.wanted[i] + network.relus[i] for i in self._found])
        parts = zip(*self._found.values(), strict=True)
        slopes, middle = (torch.cat(part, 2).flatten(1, 2) for part in parts)
        return NeuronPlanes(places, *_around(self.lower, self.upper), slopes, middle)


def _around(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and radii (Q, n) of boxes, the radii rounded up so that the boxes lie within."""
    centre = lower / 2 + upper / 2
    radius = torch.maximum(upper - centre, centre - lower)
    return centre, radius + radius * (2 * ulp(torch.float64)) + tiny(torch.float64)


def _scaled(row: Tensor, constant: Tensor, centre: Tensor, radius: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Linear lower bounds (M, n), (M,) as slopes in units of the radius (float32) and values at the centre, rounded
    down; -inf, with slopes 0, where there is none."""
    fine = torch.isfinite(constant) & torch.isfinite(row).all(1)
    row, constant = row.masked_fill(~fine[:, None], 0.0), constant.masked_fill(~fine, 0.0)
    at, n = centre[query], row.shape[1]
    size = (row.abs() * at.abs()).sum(1) + constant.abs()
    middle = (row * at).sum(1) + constant - 4 * gamma(n + 4, row.dtype) * size - lost(4 * n, row.dtype)
    return (row * radius[query]).float(), middle.masked_fill(~fine, -torch.inf)


def _best(rows: Tensor, slope: Tensor, middle: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """For rows (B, M, n) and the slopes (B, n) and values at the centre (B, 1) of clauses: the gammas (B, M) with about
    the largest least values, by bisection, and the sums of |row + gamma slope| there (B, M)."""
    low, high = (torch.full_like(unit, end) for end in OCTAVES)
    both = torch.empty_like(rows)
    for _ in range(HALVINGS):
        half = (low + high) / 2
        torch.addcmul(rows, (unit * half.exp2())[:, :, None], slope[:, None], out=both)
        rising = middle > torch.bmm(both.sign_(), slope[:, :, None])[:, :, 0]
        low, high = torch.where(rising, half, low), torch.where(rising, high, half)
    best = torch.nan_to_num(unit * ((low + high) / 2).exp2(), nan=0.0, posinf=0.0)
    torch.addcmul(rows, best[:, :, None], slope[:, None], out=both)
    return best, both.abs_().sum(2).double()
