"""Intervals of neurons by all earlier ReLUs together, and the signs of neurons by splits of these.

`quadratic` bounds a row by all that earlier ReLUs can do together. Where that leaves a sign open, the box is split at
the sign of an earlier neuron and both parts are bounded in the same way. (A split says more there than where every ReLU
is relaxed alone: what it decides of one neuron is felt by all that share its inputs.) A row is split only until it is
positive: a neuron with one sign is affine, and costs later layers nothing. One that is not positive at some point that
has been looked at is not split at all.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.affine import intersect
from verifier.bounds.copies import in_use, on_copies
from verifier.bounds.network import Network
from verifier.bounds.quadratic import (
    EVERY,
    Forms,
    JointClimbed,
    Least,
    Multipliers,
    ReluSymbols,
    both_sides,
    climb,
    forms_of,
    least,
    prove,
    symbols_before,
)
from verifier.bounds.relaxed import Ground
from verifier.budget import never
from verifier.ops.kinds import Interval

WORK = 4e12
"""Multiply-adds that all climbs may take: some 200 s of a core. What usually ends them is the clock (`JointBudget`)."""

ELEMENTS = 4_000_000
"""Elements of the largest tensor of a climb: rows are taken so many at a time."""

SPLIT_STEPS, SPLIT_RATE = 30, 0.15
"""Iterates of a part's climb, which starts from its parent's multipliers, and its first step."""

PARTS, TRIAL = 256, 16
"""Splits of a row at most, as the share of the box that is positive after so many foretells, and the number that every
row may take to show it."""

PAYING = 0.25
"""Share of the signs asked for last that has to be found where the time for it has run out already. (256x4 property 6
of mnist_fc: 173 of 178 in the last layer; 256x6 property 2: 6 of 237 there, 252 of 256 in the one before.)"""


class _Parts(NamedTuple):
    """Parts of the box: whose `row` (P,) they are, the neurons' `signs` (P, K), multipliers to start from and L's least
    value (P,) there."""

    row: Tensor
    signs: Tensor
    multipliers: Multipliers
    value: Tensor

    def select(self, index: Tensor | slice) -> _Parts:
        """The parts at `index`."""
        return _Parts(self.row[index], self.signs[index], self.multipliers.select(index), self.value[index])

    def joined(self, other: _Parts) -> _Parts:
        """These, and then the others."""
        multipliers = Multipliers(*map(torch.cat, zip(self.multipliers, other.multipliers, strict=True)))
        row, signs, value = (torch.cat([getattr(p, name) for p in (self, other)]) for name in ("row", "signs", "value"))
        return _Parts(row, signs, multipliers, value)


@dataclass(eq=False)
class JointBudget:
    """Multiply-adds that are left, and the clock: `stop` ends all, `late` says that there is better use of the time
    unless signs are found. Of the operator that was asked last `known` signs are, of `asked` that are or were given up;
    those that differ between points do not count."""

    stop: Callable[[], bool]
    work: float = WORK
    late: Callable[[], bool] = never
    asked: int = 1
    known: int = 0

    def spent(self) -> bool:
        """Whether there is nothing left, or what is left is spent better elsewhere."""
        return self.work <= 0 or self.stop() or (self.late() and self.known < PAYING * self.asked)


@dataclass(eq=False)
class JointRows:
    """Bounds of rows `matrix` (R, size) over the value in `slot` on the box of a query; `fast` is the network in the
    precision of climbs."""

    ground: Ground
    fast: Network
    slot: int
    query: int
    symbols: ReluSymbols
    matrix: Tensor
    budget: JointBudget
    rows: Forms = field(init=False)
    lowest: Tensor = field(init=False)
    """The least value (R,) that each row has at the points that were looked at, not rigorous."""

    def __post_init__(self) -> None:
        self.rows = forms_of(self.ground, self.slot, self.query, self.symbols.level, self.matrix)
        self.lowest = torch.full_like(self.rows.constant, torch.inf)
        self._symbols = self.symbols.scaled(self.fast.dtype)
        self._rows = self.symbols.unit(self.rows, self.fast.dtype)
        self._sizes = torch.zeros_like(self._rows.y)
        k, n = len(self.symbols.level), len(self.symbols.lower)
        self._each = k * k * (n / EVERY) + float(k) ** 3
        self._many = max(1, ELEMENTS // (2 * k * max(n, k)))

    def shared(self, index: Tensor, counted: bool) -> Tensor:
        """`bound`, in copies of this process where there are some: each part of the rows has its share of the work that
        is left, and goes by the signs that it finds itself."""
        parts = index.split(self._many) if in_use() > 1 else (index,)
        if len(parts) == 1:
            return self.bound(index, counted)

        def part(some: Tensor) -> tuple[Tensor, Tensor, float, int, int]:
            mine, work = copy(self), self.budget.work / len(parts)
            mine.budget = replace(self.budget, work=work, asked=0, known=0)
            mine.lowest, mine._sizes = self.lowest.clone(), self._sizes.clone()
            low = mine.bound(some, counted)
            return low, mine.lowest, work - mine.budget.work, mine.budget.asked, mine.budget.known

        low, lowest, work, asked, known = zip(*on_copies(part, parts), strict=True)
        self.lowest = torch.stack(lowest).amin(0)
        self.budget.work -= sum(work)
        if counted:
            self.budget.asked, self.budget.known = sum(asked), sum(known)
        return torch.cat(low)

    def bound(self, index: Tensor, counted: bool) -> Tensor:
        """Proven lower bounds of the rows at `index` (M,), without splits where these would not make them positive;
        -inf where the budget is spent, by which those that are `counted` are signs asked for."""
        low, roots = torch.full_like(self.lowest, -torch.inf), []
        for start in range(0, len(index), self._many):
            if self.budget.spent():
                break
            some = index[start : start + self._many]
            found = self._climb(self._symbols, some, None)
            self._sizes[some] = found.size
            low[some] = prove(self.symbols, self.rows.select(some), found.best)
            self._look(least(self._symbols, self._rows.select(some), found.best))
            signs = torch.zeros(found.size.shape, dtype=torch.int8, device=some.device)
            roots.append(_Parts(some, signs, found.best, found.value))
        if roots:
            every = reduce(_Parts.joined, roots)
            every = every.select((~(low[every.row] > 0) & (self.lowest[every.row] > 0)).nonzero()[:, 0])
            if counted:
                self.budget.known = self.budget.asked = int((low > 0).sum())
            low = torch.maximum(low, self._split(every.select(every.value.argsort())))  # the last one is split first
        return low[index]

    def _split(self, parts: _Parts) -> Tensor:
        """Positive bounds (R,) of the rows that splits of these parts decide; -inf of others."""
        least_, count = torch.full_like(self.lowest, torch.inf), torch.zeros_like(self.lowest)
        asked = torch.zeros_like(self.lowest, dtype=torch.bool).index_fill(0, parts.row, True)
        done = torch.zeros_like(self.lowest)
        half = max(1, self._many // 2)
        while len(parts.row) and not self.budget.spent():
            rest, some = parts.select(slice(0, -half)), parts.select(slice(-half, None))
            symbols = self._symbols.decided(some.signs)
            at = least(symbols, self._rows.select(some.row), some.multipliers)
            self._look(at)
            gain, neuron = gains(symbols, some.multipliers, at).max(1)
            count.index_add_(0, some.row, torch.ones_like(count[some.row]))
            worth = count <= (PARTS * done).clamp(min=TRIAL)
            worth[some.row[~(gain > 0)]] = False
            self.budget.asked += int((asked & (self.lowest > 0) & ~worth).sum())
            asked &= (self.lowest > 0) & worth
            rest, keep = rest.select(asked[rest.row].nonzero()[:, 0]), asked[some.row].nonzero()[:, 0]
            some, neuron = some.select(keep.repeat(2)), neuron[keep]
            if not len(neuron):
                parts = rest
                continue
            place = torch.arange(len(neuron), device=neuron.device)
            some.signs[place, neuron], some.signs[place + len(neuron), neuron] = 1, -1
            found = self._climb(self._symbols.decided(some.signs), some.row, some.multipliers)
            proven = torch.full_like(least_[some.row], -torch.inf)
            hopeful = (found.value > 0).nonzero()[:, 0]
            if len(hopeful):
                row = some.row[hopeful]
                proven[hopeful] = prove(
                    self.symbols.decided(some.signs[hopeful]), self.rows.select(row), found.best.select(hopeful)
                )
            closed, open_ = (proven > 0).nonzero()[:, 0], (~(proven > 0)).nonzero()[:, 0]
            least_.scatter_reduce_(0, some.row[closed], proven[closed], "amin")
            before = int((done == 1).sum())
            done.index_add_(0, some.row[closed], 0.5 ** (some.signs[closed] != 0).sum(1).to(done.dtype))
            found_ = int((done == 1).sum()) - before
            self.budget.known, self.budget.asked = self.budget.known + found_, self.budget.asked + found_
            parts = rest.joined(some._replace(multipliers=found.best, value=found.value).select(open_))
        asked[parts.row] = False
        return torch.where(asked & torch.isfinite(least_), least_, -torch.inf)

    def _climb(self, symbols: ReluSymbols, row: Tensor, start: Multipliers | None) -> JointClimbed:
        """From a parent's multipliers, or the first ones; only signs are asked for."""
        rows, stop = self._rows.select(row), self.budget.spent
        if start is None:
            found = climb(symbols, rows, stop, sign=True)
        else:
            found = climb(symbols, rows, stop, (start, self._sizes[row]), SPLIT_STEPS, SPLIT_RATE, sign=True)
        self.budget.work -= 2 * self._each * found.iterates
        return found

    def _look(self, at: Least) -> None:
        """What all rows are at the points where L is least."""
        lower, upper, network = self.symbols.lower, self.symbols.upper, self.fast
        centre, radius = (lower + upper) / 2, (upper - lower) / 2
        x = (centre + radius * torch.nan_to_num(at.x).clamp(-1, 1)).clamp(lower, upper).to(network.dtype)
        value = network.forward(x, self.slot).flatten(1) @ self.matrix.to(network.dtype).T
        self.lowest = torch.minimum(self.lowest, torch.nan_to_num(value, nan=torch.inf).amin(0))


def gains(symbols: ReluSymbols, m: Multipliers, at: Least) -> Tensor:
    """What a split of each neuron promises (P, K): by how much L rises at its least point `at` by the facts of either
    side, with the same multipliers; the smaller rise and a tenth of the larger. 0 where nothing is left to decide."""
    above = (m.chord * (symbols.slope * (at.z - symbols.low))).clamp(min=0)
    on = (above - m.chord * at.z).clamp(min=0)
    off = above + m.top * symbols.high * at.y.clamp(min=0)
    open_ = (symbols.low < 0) & (symbols.high > 0)
    return torch.where(open_, torch.minimum(on, off) + 0.1 * torch.maximum(on, off), 0.0)


@dataclass(eq=False)
class Joint:
    """Tightens neurons' intervals on the boxes `lower`, `upper` (Q, n) of a network that consists of dense layers and
    ReLUs, within a budget; climbs are in the search's precision, that of the network `fast`."""

    fast: Network
    lower: Tensor
    upper: Tensor
    budget: JointBudget

    @staticmethod
    def suits(ground: Ground) -> bool:
        """Whether neurons share inputs enough: those of a convolution that are far from each other share none."""
        network = ground.network
        plain = set(network.relaxed) == set(network.relus) and ground.allowance is not None
        return plain and not any(op.node.op.startswith("Conv") for op in network.ops)

    def tighten(self, ground: Ground, i: int, pairs: Tensor) -> Interval:
        """The interval of ReLU operator i's argument, with those in `pairs` (M, 2), query and neuron, tightened that
        `ground` has as unstable."""
        x, slot = ground.pre[i][0], ground.network.sources[i][0]
        low, high = (t.flatten(1).clone() for t in x)
        for query in pairs[:, 0].unique().tolist():
            neuron = pairs[pairs[:, 0] == query, 1]
            neuron = neuron[(low[query, neuron] < 0) & (high[query, neuron] > 0)]
            if not len(neuron) or self.budget.spent():
                continue
            symbols = symbols_before(ground, i, query, self.lower[query], self.upper[query])
            if symbols is None:
                continue
            matrix, m = both_sides(ground, slot, neuron), len(neuron)
            rows = JointRows(ground, self.fast, slot, query, symbols, matrix, self.budget)
            # the end that is nearer to 0 first: the other one of a neuron with one sign does not matter
            place = torch.arange(m, device=neuron.device)
            near = torch.where(-low[query, neuron] <= high[query, neuron], place, place + m)
            ends = torch.full_like(rows.lowest, -torch.inf)
            ends[near] = rows.shared(near, counted=True)
            other = (place + m + place - near)[~(ends[near] > 0)]
            ends[other] = rows.shared(other, counted=False)
            low[query, neuron] = torch.maximum(low[query, neuron], ends[:m])
            high[query, neuron] = torch.minimum(high[query, neuron], -ends[m:])
        return intersect(Interval(low.view_as(x.lower), high.view_as(x.lower)), x)
