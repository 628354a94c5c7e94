"""Leaves: whether the rows that a leaf names cannot all hold on its part of the box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from verifier.checker.bounds import CHUNK, MOST_NUMBERS, Enclosures, bound_rows, dense_rows, sweep, unit_rows
from verifier.checker.curves import Piecewise
from verifier.checker.errors import Unreadable
from verifier.checker.exact import InFractions, fractions
from verifier.checker.format import FORMS, ROOT, ROWS, SYMBOLS
from verifier.checker.linear import TINY, UNIT, Array, gamma
from verifier.checker.network import CheckedNetwork
from verifier.checker.query import Queries

Picked = tuple[tuple[int, float], ...]
Slab = tuple[int, int, float]
ClauseTask = tuple[int, int, Picked]


@dataclass(eq=False)
class Narrowed:
    """Where violations can lie on a part: in `box`, lower and upper (n,), and with the arguments of Relu v in
    `ends[v]`, low and high, flat; `size` numbers in all. None until the prover says so. `slopes` are those of the row
    that narrowed it."""

    size: int
    slopes: Mapping[int, Array]
    box: tuple[Array, Array] | None = None
    ends: dict[int, tuple[Array, Array]] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """A node of the tree: the query, the clause that is asked for (-1: all), the inputs that were cut, (coordinate,
    lower, upper), the decided neurons, (value of the Relu, neuron, side), and where it was `narrowed` to."""

    query: int
    clause: int = -1
    cuts: tuple[tuple[int, float, float], ...] = ()
    signs: tuple[tuple[int, int, int], ...] = ()
    narrowed: Narrowed | None = None

    @property
    def size(self) -> int:
        """What it takes of memory, in cut inputs, decided neurons, and numbers."""
        return len(self.cuts) + len(self.signs) + (self.narrowed.size if self.narrowed else 0)

    @property
    def pending(self) -> bool:
        """Whether the prover has not narrowed it yet."""
        return self.narrowed is not None and self.narrowed.box is None


@dataclass(frozen=True, eq=False)
class Claim:
    """That a part holds no violation, or some `slabs` of it do not (see `format.InputClip`): in each slab, every clause
    has one of the `rows`, (clause, rows and weights), that cannot hold there. `beta` is a multiplier for every decided
    neuron, `slopes` are bytes per Relu, (*S), 255 for a slope of 1; `intervals` says where intervals come from
    (`format.FORMS`, ..). With `narrows` nothing is claimed: that is where it is said to what its one row narrows the
    part. An `exact` claim is bounded in fractions."""

    part: Part
    rows: tuple[tuple[int, Picked], ...]
    beta: tuple[float, ...] = ()
    slopes: Mapping[int, Array] = field(default_factory=dict)
    intervals: int = FORMS
    slabs: tuple[Slab, ...] = ()
    narrows: Narrowed | None = None
    exact: bool = False


class Prover:
    """Bounds leaves of one network and specification."""

    def __init__(self, network: CheckedNetwork, queries: Queries) -> None:
        self.network, self.queries = network, queries
        self.relus = {v: op for v, op in enumerate(network.nodes) if isinstance(op, Piecewise) and op.is_relu}
        self.neurons = sum(math.prod(op.shape) for op in self.relus.values())
        self.largest = max(math.prod(s) for s in network.shapes)
        self.rows = _dense(queries.outputs, network.outputs)
        self.inputs = _dense(queries.inputs, network.inputs if any(len(p) for p, _ in queries.inputs) else 0)
        self.rhs = np.array(queries.rhs)
        self._exact: InFractions | None = None
        self._roots: tuple[int, Enclosures, dict[int, tuple[Array, Array]]] | None = None

    def box(self, part: Part) -> tuple[Array, Array]:
        """The inputs of a part, (n,) each."""
        lower, upper = self.queries.lower[part.query].copy(), self.queries.upper[part.query].copy()
        for coordinate, low, high in part.cuts:
            lower[coordinate], upper[coordinate] = low, high
        if part.narrowed is not None and part.narrowed.box is not None:
            lower, upper = np.maximum(lower, part.narrowed.box[0]), np.minimum(upper, part.narrowed.box[1])
            lower, upper = np.minimum(lower, upper), np.maximum(lower, upper)  # crossed: no violation there
        return lower, upper

    def share(self, part: Part) -> Fraction:
        """What its inputs take of the volume of the query's box."""
        total = Fraction(1)
        for j, low, high in part.cuts:
            ends = (Fraction(float(t[part.query, j])) for t in (self.queries.lower, self.queries.upper))
            whole = -next(ends) + next(ends)
            total *= (Fraction(high) - Fraction(low)) / whole if whole else 1
        return total

    def clauses(self, part: Part) -> list[list[int]]:
        """Row numbers of the clauses that a part is asked for."""
        clauses = self.queries.clauses[part.query]
        return clauses if part.clause < 0 else [clauses[part.clause]]

    def intervals(self, parts: Sequence[Part], kind: int) -> Enclosures:
        """Intervals for parts (of one query, where they are the root's)."""
        boxes = [self.box(p) for p in parts]
        lower, upper = np.stack([b[0] for b in boxes]), np.stack([b[1] for b in boxes])
        if kind != ROOT:
            return sweep(self.network, lower, upper, [p.signs for p in parts], kind == ROWS, kind == SYMBOLS)
        whole, count = self.root(parts[0].query), len(parts)
        low, high = list(whole.low), list(whole.high)
        low[0], high[0] = lower, upper
        empty, floor = np.repeat(whole.empty, count), np.repeat(whole.floor, count)
        found = replace(whole, low=low, high=high, empty=empty, floor=floor, planes=dict(whole.planes), form=None)
        ends = [p.narrowed.ends if p.narrowed is not None else {} for p in parts]
        for v in {at for p in parts for at, _, _ in p.signs} | {at for own in ends for at in own}:
            source = self.network.argument(v)
            low[source], high[source] = (np.repeat(t[source], count, 0) for t in (whole.low, whole.high))
            found.clamp(v, [p.signs for p in parts], [own.get(v) for own in ends])
            found.planes[v] = found.new_plane(v)
        return found

    def root(self, query: int) -> Enclosures:
        """Intervals of a query's whole box by backward rows; kept for the last query that asked."""
        if self._roots is None or self._roots[0] != query:
            lower, upper = self.queries.lower[query], self.queries.upper[query]
            whole = sweep(self.network, lower[None], upper[None], rows=True)
            self._roots = query, whole, {}
            for v in self.relus:  # parts share them
                whole.plane(v)
        return self._roots[1]

    def lines(self, query: int, v: int) -> tuple[Array, Array]:
        """Linear functions below z and below -z, z the arguments of Relu v, on a query's whole box: coefficients
        (2, N, n) and least values (2, N).

        Raises:
            Unreadable: they are too many.
        """
        whole, kept = self.root(query), self._roots[2]  # type: ignore[index]
        if v not in kept:
            source = self.network.argument(v)
            count = math.prod(self.network.shapes[source])
            if count * self.network.inputs > MOST_NUMBERS:
                raise Unreadable(f"{count} neurons over {self.network.inputs} inputs are too many to narrow")
            owner, elements = np.zeros(count, np.int64), np.arange(count)
            sides = [bound_rows(whole, owner, unit_rows(elements, side), source, linear=True) for side in (1.0, -1.0)]
            kept[v] = np.stack([s.coefficients for s in sides]), np.stack([s.low for s in sides])
        return kept[v]

    def groups(self, claims: Sequence[Claim]) -> list[list[int]]:
        """Positions of claims that can be bounded together: the same kind of intervals, a bounded size."""
        kinds: dict[tuple[int, int, bool, bool], list[int]] = {}
        for i, claim in enumerate(claims):
            query = claim.part.query if claim.intervals == ROOT else -1
            kind = claim.intervals, query, bool(claim.slopes), claim.exact
            kinds.setdefault(kind, []).append(i)
        most = max(1, 8 * CHUNK // self.largest)
        sizes = {kind: 1 if kind[0] == SYMBOLS else most for kind in kinds}
        return [group[i : i + sizes[k]] for k, group in kinds.items() for i in range(0, len(group), sizes[k])]

    def prove(self, claims: Sequence[Claim]) -> Array:
        """How far every leaf is from a violation, rigorously: positive is proven, and so is +inf (no point there).
        Claims that narrow are told to what."""
        return self.margins(claims)[0]

    def margins(self, claims: Sequence[Claim]) -> tuple[Array, Array]:
        """The same, and what was taken off for rounding."""
        margin, error = np.full(len(claims), math.inf), np.zeros(len(claims))
        for group in self.groups(claims):
            margin[group], error[group] = self._group([claims[i] for i in group])
        return margin, error

    def _group(self, claims: list[Claim]) -> tuple[Array, Array]:
        swept = self.prepare(claims)
        if claims[0].exact:
            return np.array([self.touched(swept, b, c) for b, c in enumerate(claims)]), np.zeros(len(claims))
        tasks = [(b, c, rows) for b, claim in enumerate(claims) if not swept.empty[b] for c, rows in claim.rows]
        found: list[list[tuple[int, float, Array]]] = [[] for _ in claims]
        margin, lost, coefficients = self.walk(swept, claims, tasks)
        least, error = np.full(len(claims), math.inf), np.zeros(len(claims))
        for (b, c, _), value, off, row in zip(tasks, margin, lost, coefficients, strict=True):
            found[b].append((c, value, row))
            error[b] = max(error[b], off)
        for b, claim in enumerate(claims):
            if not swept.empty[b]:
                low, high = swept.low[0][b], swept.high[0][b]
                count = len(self.clauses(claim.part))
                least[b] = min(_weakest(found[b], count, low, high, slab) for slab in claim.slabs or (None,))
            if claim.narrows is not None:
                self.narrow(swept, b, claim, least[b], found[b][0][2] if found[b] else np.zeros(self.network.inputs))
        return least, error

    def in_fractions(self) -> InFractions:
        """The network in fractions.

        Raises:
            Unreadable: it has none.
        """
        self._exact = self._exact or InFractions(self.network)
        return self._exact

    def touched(self, swept: Enclosures, b: int, claim: Claim) -> float:
        """Whether fractions prove claim b of a sweep, +inf or 0: the weighted rows of every clause are positive
        everywhere, or at least 0 with a strict one among them.

        Raises:
            Unreadable: the network cannot be walked in fractions.
        """
        if swept.empty[b]:
            return math.inf
        signs = claim.part.signs if claim.beta else ()
        decided = [(v, k, -side * Fraction(w)) for (v, k, side), w in zip(signs, claim.beta, strict=True)]
        for clause, (_, picked) in zip(self.clauses(claim.part), claim.rows, strict=True):
            row, inputs = (fractions(np.zeros(n)) for n in (self.network.outputs, self.network.inputs))
            limit, strict = Fraction(0), False
            for k, w in picked:
                r, weight = clause[k], Fraction(w)
                row = row + weight * fractions(self.rows[r])
                if self.inputs.shape[1]:
                    inputs = inputs + weight * fractions(self.inputs[r])
                limit += weight * Fraction(self.rhs[r].item())
                strict |= w > 0 and bool(self.queries.form.row_strict[r])
            least = self.in_fractions().least(swept, b, row, inputs, decided)
            if not (least is None or least > limit or (strict and least == limit)):
                return 0.0
        return math.inf

    def narrow(self, swept: Enclosures, b: int, claim: Claim, margin: float, row: Array) -> None:
        """Says where violations can lie on part b of the sweep: a row that exceeds its limit by  margin + sum_j |row_j|
        d_j,  d_j the distance of input j from the end where the row is least, leaves  sum_j |row_j| d_j <= -margin."""
        low, high = swept.low[0][b], swept.high[0][b]
        most, where = max(0.0, -margin), claim.narrows
        assert where is not None
        if swept.empty[b] or not math.isfinite(margin):  # nothing lies there, or nothing is known
            where.box = low, high
            return
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            reach = most / np.abs(row) * (1 + 4 * UNIT)
            top = np.where(row > 0, np.nextafter(low + reach, np.inf), np.inf)
            bottom = np.where(row < 0, np.nextafter(high - reach, -np.inf), -np.inf)
        where.box = np.fmax(low, bottom), np.fmin(high, top)
        whole = self.queries.lower[claim.part.query], self.queries.upper[claim.part.query]
        for v in self.relus:
            source = self.network.argument(v)
            own = [t[b if len(t) > 1 else 0].reshape(-1).copy() for t in (swept.low[source], swept.high[source])]
            open_ = np.flatnonzero((own[0] < 0) & (own[1] > 0))
            rows, least = (t[:, open_] for t in self.lines(claim.part.query, v))
            # from the whole box to the part's, and to where violations can lie
            moved = np.maximum(rows, 0) @ (low - whole[0]) + np.maximum(-rows, 0) @ (whole[1] - high)
            tighter = np.nextafter(least + _risen(rows, row, high - low, most, moved), -np.inf)
            own[0][open_] = np.fmax(own[0][open_], tighter[0])
            own[1][open_] = np.fmin(own[1][open_], -tighter[1])
            where.ends[v] = own[0], own[1]

    def prepare(self, claims: Sequence[Claim]) -> Enclosures:
        """Intervals and linear bounds for claims of one group."""
        swept = self.intervals([c.part for c in claims], claims[0].intervals)
        moved = {v: swept.new_plane(v, np.stack([c.slopes[v] for c in claims]) / 255.0) for v in claims[0].slopes}
        return replace(swept, planes={**swept.planes, **moved})

    def walk(
        self, swept: Enclosures, claims: Sequence[Claim], tasks: Sequence[ClauseTask]
    ) -> tuple[Array, Array, Array]:
        """For (claim, clause, rows and weights), (P,): by how much the weighted rows exceed their limits everywhere on
        the claim's part, rounded down with an exact sign; what rounding took off; and the coefficients (P, n) of the
        linear function whose least value that is (0 where something cheaper was enough)."""
        picks = [(p, self.clauses(claims[b].part)[c][k], w) for p, (b, c, own) in enumerate(tasks) for k, w in own]
        task, row = (np.array([pick[i] for pick in picks], np.int64) for i in (0, 1))
        weight = np.array([pick[2] for pick in picks])
        owner = np.array([b for b, _, _ in tasks], np.int64)

        def combined(values: Array) -> tuple[Array, Array]:
            """The weighted sums of the rows' `values` (R, m), and of their magnitudes: (P, m)."""
            total, size = (np.zeros((len(tasks), values.shape[1])) for _ in range(2))
            part = weight[:, None] * values[row]
            np.add.at(total, task, part)
            np.add.at(size, task, np.abs(part))
            return total, size

        (rows, sizes), (inputs, size_in), (rhs, rhs_size) = map(combined, (self.rows, self.inputs, self.rhs[:, None]))
        # the combination of the rows was rounded, too
        size_y, size_x = (swept.size(v) for v in (self.network.output, 0))
        total = rhs_size[:, 0] + (sizes * (size_y if len(size_y) == 1 else size_y[owner])).sum(1)
        if inputs.shape[1]:
            total = total + (size_in * size_x[owner]).sum(1)
        terms, plain = np.bincount(task, minlength=len(tasks)), np.ones(len(tasks), bool)
        plain[task[weight != 1]] = False
        count = int(terms.max(initial=0)) + self.network.outputs + self.network.inputs
        lost = np.where(plain & (terms == 1), 0.0, total * gamma(count) + count * TINY)
        pulls: dict[int, dict[int, list[tuple[int, float]]]] = {}
        for b, claim in enumerate(claims):
            for (v, neuron, side), beta in zip(claim.part.signs, claim.beta, strict=False):
                if beta:
                    pulls.setdefault(v, {}).setdefault(b, []).append((neuron, -side * beta))
        found = bound_rows(
            swept,
            owner,
            dense_rows(rows),
            self.network.output,
            inputs=inputs if inputs.shape[1] else None,
            pulls=pulls,
            target=rhs[:, 0] + lost,
            linear=True,
        )
        # low - lost - rhs, rounded down; its sign is exact where nothing was lost
        low = np.where(lost == 0, found.low, np.nextafter(found.low - lost, -np.inf))
        over = np.where(
            low > rhs[:, 0], np.maximum(low - rhs[:, 0], np.nextafter(0, 1)), np.minimum(low - rhs[:, 0], 0.0)
        )
        return over, found.error, found.coefficients


def _risen(rows: Array, row: Array, width: Array, most: float, moved: Array) -> Array:
    """By how much the least values (..) of linear functions `rows` (.., n) over a box rise, at least, `moved` (..) >= 0
    included, where  sum_j |row_j| d_j <= most,  d_j the distance from the end of input j where `row` (n,) is least.

    For any g >= 0 a function is not below its sum with  g (sum_j |row_j| d_j - most).  Where the two have coefficients
    of different signs they are least at different ends, and the sum gains  min(g |row_j|, |rows_j|)  times the width.
    The best g is a quotient |rows_j| / |row_j|: that where the inputs of larger ones have used `most` up.
    """
    size = np.abs(row)
    against = np.where(rows * row < 0, np.abs(rows), 0.0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = np.nan_to_num(against / size, nan=0.0, posinf=0.0)
        order = np.argsort(-quotient, -1)
        used = np.cumsum((size * width)[order], -1)
        at = np.minimum((used < most).sum(-1, keepdims=True), len(row) - 1)
        g = np.take_along_axis(np.take_along_axis(quotient, order, -1), at, -1)
        g = np.where(used[..., -1:] < most, 0.0, g)
        gained = np.minimum(g * size, against) @ width
        paid = g[..., 0] * most * (1 + 4 * UNIT) + TINY
        risen = (gained + moved) * (1 - gamma(3 * len(row))) - paid
        return risen - (np.abs(risen) + paid) * (4 * UNIT) - TINY


def _dense(rows: Sequence[tuple[Array, Array]], width: int) -> Array:
    """Sparse rows, (positions, values) each, as a matrix (R, width)."""
    out = np.zeros((len(rows), width))
    for r, (places, values) in enumerate(rows):
        out[r, places] = values
    return out


def _weakest(
    found: Sequence[tuple[int, float, Array]], clauses: int, low: Array, high: Array, slab: Slab | None
) -> float:
    """The least margin over the clauses of the best row in a slab of the box `low`, `high` (n,) (None: the box);
    `found` lists (clause, margin on the box, coefficients of the row).

    Beyond `at`, a row is larger than its minimum over the box by |coefficient| times the distance from the end where it
    has that. Three roundings, and a margin that was rounded once.
    """
    best = [-math.inf] * clauses
    for c, margin, row in found:
        if slab is not None and not margin > 0:
            j, side, at = slab
            distance = (at - low[j]) if side > 0 else (high[j] - at)
            rise = max(side * row[j], 0.0) * max(distance, 0.0) * (1 - 8 * UNIT) - TINY
            margin = rise + margin if rise > -margin * (1 + 4 * UNIT) else min(margin, 0.0)
        best[c] = max(best[c], margin)
    return min(best, default=math.inf)
