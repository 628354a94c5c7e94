"""The violations of a family's members as tensors: judged at points, and bounded on boxes of zonotopes.

`LinearRows` states them as an OR of clauses, each an AND of rows  z[row] <= rhs ; the ones about heatmaps, which have
too many rows for that, are in `map_conditions`. What a search sees of a batch of boxes is always a `CellBounds`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from verifier.bounds.inputs import centre_radius
from verifier.bounds.zonotope import Symbols, Zonotope
from verifier.problem.rows import RowTable
from verifier.search.settle import shrink
from verifier.tolerance import EXACT, FLOOR, NARROWEST


def clause_best(values: Tensor, clause: Tensor, start: Tensor) -> Tensor:
    """The best row of every clause: `values`, `clause` (B, K) and `start` (B, C) -> (B, C).

    `start` is -inf for a clause whose rows are all listed and +inf for one that is impossible (or not asked about);
    rows of a clause number >= C belong to none.
    """
    most = start.shape[1]
    room = torch.cat([start, start.new_full((len(start), 1), torch.inf)], 1)
    return room.scatter_reduce(1, clause.clamp(max=most), values, "amax")[:, :most]


@dataclass(frozen=True, eq=False)
class CellBounds:
    """What is proven about B boxes. For row k:  low <= row <= high  everywhere on the box, float64 (B, K).

    `slopes` (B, K, d) and `noise` (B, K): the row is  middle + sum_i slopes[i] e_i  within noise, e in [-1, 1]^d, with
    `middle` (B, K). A row that is positive cannot hold. `clause` (B, K) is the clause of each row; `floor` and
    `ceiling` (B, C) say which clauses can be refuted and which can be proven to hold by their rows here (see
    `clause_best`). `worst` (B,): positive proves the box safe. `reached` (B,): negative where a violation is certain
    at every point. `critical` (B,) is the row that decides, `blame` (B, d) how much of its variation and noise is due
    to each input, `unstable` (B,) the number of neurons that are not affine on the box.
    """

    low: Tensor
    middle: Tensor
    slopes: Tensor
    noise: Tensor
    clause: Tensor
    floor: Tensor
    ceiling: Tensor
    worst: Tensor
    reached: Tensor
    critical: Tensor
    blame: Tensor
    unstable: Tensor

    def select(self, which: Tensor) -> CellBounds:
        """The boxes named by a mask or indices."""
        return self._each(lambda t: t[which])

    def to(self, device: torch.device) -> CellBounds:
        """The same on another device."""
        return self._each(lambda t: t.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> CellBounds:
        return type(self)(*(change(getattr(self, item.name)) for item in fields(self)))

    def settled(self, low: Tensor, high: Tensor, parent: Tensor) -> tuple[Tensor, Tensor]:
        """`worst` and `reached` (N,) for parts of boxes `parent` (N,) on which the rows lie in low .. high (N, K)."""
        clause = self.clause[parent]
        scores = clause_best(low, clause, self.floor[parent])
        return scores.amin(1), clause_best(high, clause, self.ceiling[parent]).amin(1)

    def decisive(self, low: Tensor, high: Tensor, parent: Tensor) -> Tensor:
        """The row (N,) that decides on parts of boxes, see `settled`: that of the whole box, unless something better
        is known.
        """
        return self.critical[parent]

    def clip(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The part of each box (B, d) where the rows leave a violation possible."""
        radius = around(lower, upper)[1].clamp(min=NARROWEST)
        scores = clause_best(self.low, self.clause, self.floor)
        return shrink(self.clause, scores, self.low, self.slopes / radius[:, None], lower, upper)


class Conditions(ABC):
    """The violations of all members over the output z (m,) that the members share."""

    measure = "amount of violation"
    """What minus the margin is, for people."""

    @abstractmethod
    def span(self, z: Tensor, query: Tensor, leeway: float) -> tuple[Tensor, Tensor]:
        """Least and largest margin (M,) over outputs within `leeway` of z (M, m); <= 0 is a violation."""

    @abstractmethod
    def bound(self, out: Zonotope, symbols: Symbols, unstable: Tensor, query: Tensor) -> CellBounds:
        """Bounds on the boxes whose outputs are `out`."""

    @abstractmethod
    def scale(self, q: int) -> float:
        """Size of the numbers that a margin of member q is a difference of, at least 1."""

    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """All numbers that verdicts depend on."""


@dataclass(frozen=True, eq=False)
class LinearRows(Conditions):
    """An OR of clauses, each an AND of rows  z[row] <= rhs ; the rows are the outputs of the family's network."""

    table: RowTable

    def span(self, z: Tensor, query: Tensor, leeway: float) -> tuple[Tensor, Tensor]:
        """See `Conditions`; the margin is that of the worst clause's best row."""
        rows = z.gather(1, self.table.row[query]) - self.table.rhs[query]
        margin = self.table.at(query).scores(rows).amin(1)
        return margin - leeway, margin + leeway

    def scale(self, q: int) -> float:
        """See `Conditions`."""
        rhs = self.table.rhs[q]
        return max(1.0, float(rhs[torch.isfinite(rhs)].abs().max())) if torch.isfinite(rhs).any() else 1.0

    def tensors(self) -> list[Tensor]:
        """See `Conditions`."""
        return [self.table.row, self.table.rhs, self.table.clause, self.table.clauses]

    def bound(self, out: Zonotope, symbols: Symbols, unstable: Tensor, query: Tensor) -> CellBounds:
        """See `Conditions`."""
        table = self.table
        row, rhs, d = table.row[query], table.rhs[query], symbols.inputs
        value = out.core[:, 0].gather(1, row)
        slopes = out.core[:, 1:].gather(2, row[:, None].expand(-1, d, -1)).transpose(1, 2)
        rest, owner, ids = out.noises()
        noise = out.radius.double().index_add_(0, owner, rest)
        noise = (noise * (1 + (len(rest) + 4) * EXACT)).gather(1, row)
        spread = slopes.abs().sum(2) + noise
        margin = 16 * EXACT * (value.abs() + spread + torch.where(torch.isinf(rhs), 0.0, rhs.abs())) + FLOOR
        middle = value - rhs
        low, high = between(middle, spread + margin)
        clause = table.clause[query]
        beyond = torch.arange(table.most, device=row.device)[None] >= table.clauses[query][:, None]
        floor = torch.where(beyond, torch.inf, -torch.inf).double()
        scores = clause_best(low, clause, floor)
        critical = low.masked_fill(clause != scores.argmin(1)[:, None], -torch.inf).argmax(1)
        at_row = rest.gather(1, row.gather(1, critical[:, None])[owner])[:, 0]
        return CellBounds(
            low,
            middle,
            slopes,
            noise + margin,
            clause,
            floor,
            floor,
            scores.amin(1),
            clause_best(high, clause, floor).amin(1),
            critical,
            blame(slopes, critical, at_row, symbols.share()[ids], owner),
            unstable,
        )


def around(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and radii (B, d) of boxes, whose e in [-1, 1]^d rows are linear in: the same for all who read a row."""
    centre, radius = centre_radius(lower, upper)
    return centre, radius * (1 + 4 * EXACT)


def between(middle: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """middle -+ spread; what is not a number proves nothing."""
    return (
        torch.nan_to_num(middle - spread, nan=-torch.inf),
        torch.nan_to_num(middle + spread, nan=torch.inf),
    )


def blame(slopes: Tensor, critical: Tensor, at_row: Tensor, share: Tensor, owner: Tensor) -> Tensor:
    """How much of the critical row's variation is due to each input, (B, d).

    `at_row` (M,): size of every symbol of box `owner` in that row; `share` (M, d): whose doing it is.
    """
    index = critical[:, None, None].expand(-1, 1, slopes.shape[2])
    return slopes.abs().gather(1, index)[:, 0].index_add(0, owner, at_row[:, None] * share.to(at_row))
