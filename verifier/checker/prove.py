"""Leaves: whether the rows that a leaf names cannot all hold on its part of the box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from verifier.checker.bounds import CHUNK, Enclosures, most_rows, packs, sweep, walk
from verifier.checker.format import FORMS, ROOT, ROWS, SYMBOLS
from verifier.checker.network import CheckedNetwork
from verifier.checker.ops import TINY, UNIT, Array, Piecewise, gamma
from verifier.checker.query import Queries

Picked = tuple[tuple[int, float], ...]
Slab = tuple[int, int, float]
ClauseTask = tuple[int, int, Picked]


@dataclass(frozen=True)
class Part:
    """A node of the tree: the query, the clause that is asked for (-1: all), the inputs that were cut, (coordinate,
    lower, upper), and the decided neurons, (value of the Relu, neuron, side)."""

    query: int
    clause: int = -1
    cuts: tuple[tuple[int, float, float], ...] = ()
    signs: tuple[tuple[int, int, int], ...] = ()

    @property
    def size(self) -> int:
        """What it takes of memory, in cut inputs and decided neurons."""
        return len(self.cuts) + len(self.signs)


@dataclass(frozen=True, eq=False)
class Claim:
    """That a part holds no violation, or some `slabs` of it do not (see `format.InputClip`): in each slab, every clause
    has one of the `rows`, (clause, rows and weights), that cannot hold there. `beta` is a multiplier for every decided
    neuron, `slopes` are bytes per Relu, (*S), 255 for a slope of 1; `intervals` says where intervals come from
    (`format.FORMS`, ..)."""

    part: Part
    rows: tuple[tuple[int, Picked], ...]
    beta: tuple[float, ...] = ()
    slopes: Mapping[int, Array] = field(default_factory=dict)
    intervals: int = FORMS
    slabs: tuple[Slab, ...] = ()


class Prover:
    """Bounds leaves of one network and specification."""

    def __init__(self, network: CheckedNetwork, queries: Queries) -> None:
        self.network, self.queries = network, queries
        self.relus = {v: op for v, op in enumerate(network.nodes) if isinstance(op, Piecewise) and op.is_relu}
        self.largest = max(math.prod(s) for s in network.shapes)
        self.rows = _dense(queries.outputs, network.outputs)
        self.inputs = _dense(queries.inputs, network.inputs if any(len(p) for p, _ in queries.inputs) else 0)
        self.rhs = np.array(queries.rhs)
        self._roots: tuple[int, Enclosures] | None = None

    def box(self, part: Part) -> tuple[Array, Array]:
        """The inputs of a part, (n,) each."""
        lower, upper = self.queries.lower[part.query].copy(), self.queries.upper[part.query].copy()
        for coordinate, low, high in part.cuts:
            lower[coordinate], upper[coordinate] = low, high
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
        whole = self.root(parts[0].query)
        low, high = list(whole.low), list(whole.high)
        low[0], high[0] = lower, upper
        empty = np.repeat(whole.empty, len(parts))
        for v in {at for p in parts for at, _, _ in p.signs}:
            s = self.network.nodes[v].sources[0]  # type: ignore[union-attr]
            low[s], high[s] = (np.repeat(t[s], len(parts), 0) for t in (whole.low, whole.high))
            flat_low, flat_high = low[s].reshape(len(parts), -1), high[s].reshape(len(parts), -1)
            for b, p in enumerate(parts):
                for at, k, side in p.signs:
                    if at == v and side > 0:
                        flat_low[b, k] = max(flat_low[b, k], 0.0)
                    elif at == v:
                        flat_high[b, k] = min(flat_high[b, k], 0.0)
            crossed = flat_low > flat_high
            empty |= crossed.any(1)
            flat_low[crossed] = flat_high[crossed] = 0.0
        floor = np.repeat(whole.floor, len(parts))
        found = replace(whole, low=low, high=high, empty=empty, floor=floor, planes=dict(whole.planes), form=None)
        found.planes.update({v: found.plane(v) for p in parts for v in {at for at, _, _ in p.signs}})
        return found

    def root(self, query: int) -> Enclosures:
        """Intervals of a query's whole box by backward rows; kept for the last query that asked."""
        if self._roots is None or self._roots[0] != query:
            lower, upper = self.queries.lower[query], self.queries.upper[query]
            self._roots = query, sweep(self.network, lower[None], upper[None], rows=True)
        return self._roots[1]

    def groups(self, claims: Sequence[Claim]) -> list[list[int]]:
        """Positions of claims that can be bounded together: the same kind of intervals, a bounded size."""
        kinds: dict[tuple[int, int, bool], list[int]] = {}
        for i, claim in enumerate(claims):
            kind = claim.intervals, claim.part.query if claim.intervals == ROOT else -1, bool(claim.slopes)
            kinds.setdefault(kind, []).append(i)
        most = max(1, 8 * CHUNK // self.largest)
        sizes = {kind: 1 if kind[0] == SYMBOLS else most for kind in kinds}
        return [group[i : i + sizes[k]] for k, group in kinds.items() for i in range(0, len(group), sizes[k])]

    def prove(self, claims: Sequence[Claim]) -> Array:
        """How far every leaf is from a violation, rigorously: positive is proven, and so is +inf (no point there)."""
        margin = np.full(len(claims), math.inf)
        for group in self.groups(claims):
            margin[group] = self._group([claims[i] for i in group])
        return margin

    def _group(self, claims: list[Claim]) -> Array:
        swept, planes = self.prepare(claims)
        tasks = [(b, c, rows) for b, claim in enumerate(claims) if not swept.empty[b] for c, rows in claim.rows]
        found: list[list[tuple[int, float, Array]]] = [[] for _ in claims]
        margin, _, coefficients = self.walk(swept, planes, claims, tasks)
        for (b, c, _), value, row in zip(tasks, margin, coefficients, strict=True):
            found[b].append((c, value, row))
        least = np.full(len(claims), math.inf)
        for b, claim in enumerate(claims):
            if not swept.empty[b]:
                low, high = swept.low[0][b], swept.high[0][b]
                count = len(self.clauses(claim.part))
                least[b] = min(_weakest(found[b], count, low, high, slab) for slab in claim.slabs or (None,))
        return least

    def prepare(self, claims: Sequence[Claim]) -> tuple[Enclosures, dict[int, tuple[Array, ...]]]:
        """Intervals and linear bounds for claims of one group."""
        swept = self.intervals([c.part for c in claims], claims[0].intervals)
        moved = {v: swept.plane(v, np.stack([c.slopes[v] for c in claims]) / 255.0) for v in claims[0].slopes}
        return swept, {**swept.planes, **moved}

    def walk(
        self,
        swept: Enclosures,
        planes: Mapping[int, tuple[Array, ...]],
        claims: Sequence[Claim],
        tasks: Sequence[ClauseTask],
    ) -> tuple[Array, Array, Array]:
        """For (claim, clause, rows and weights), (P,): by how much the weighted rows exceed their limits everywhere on
        the claim's part, rounded down with an exact sign; what rounding took off; and the coefficients (P, n) of the
        linear function whose least value that is (0 where something cheaper was enough)."""
        margin, error = np.full(len(tasks), -np.inf), np.zeros(len(tasks))
        coefficients = np.zeros((len(tasks), self.network.inputs))
        owner = np.array([b for b, _, _ in tasks], np.int64)
        for boxes, index in packs(owner, most_rows(self.network)):
            b, k = np.nonzero(index >= 0)
            part = index[b, k]
            bounded = self._rows(swept, planes, claims, [tasks[p] for p in part], boxes, (b, k))
            margin[part], error[part], coefficients[part] = bounded
        return margin, error, coefficients

    def _rows(
        self,
        swept: Enclosures,
        planes: Mapping[int, tuple[Array, ...]],
        claims: Sequence[Claim],
        tasks: Sequence[ClauseTask],
        boxes: Array,
        place: tuple[Array, Array],
    ) -> tuple[Array, Array, Array]:
        """The same for tasks that stand at `place` (b, k) of a batch of `boxes`."""
        shape = len(boxes), int(place[1].max()) + 1
        picks = [(p, self.clauses(claims[b].part)[c][k], w) for p, (b, c, own) in enumerate(tasks) for k, w in own]
        task, row = (np.array([pick[i] for pick in picks], np.int64) for i in (0, 1))
        weight = np.array([pick[2] for pick in picks])
        m, n = self.network.outputs, self.network.inputs
        at = place[0][task], place[1][task]

        def combined(values: Array) -> tuple[Array, Array]:
            """The weighted sums of the rows' `values`, and of their magnitudes."""
            total, size = (np.zeros((*shape, *values.shape[1:])) for _ in range(2))
            part = weight.reshape(-1, *(1,) * (values.ndim - 1)) * values[row]
            np.add.at(total, at, part)
            np.add.at(size, at, np.abs(part))
            return total, size

        (rows, sizes), (inputs, size_in), (rhs, rhs_size) = map(combined, (self.rows, self.inputs, self.rhs))
        terms, plain = np.zeros(shape, np.int64), np.ones(shape, bool)
        np.add.at(terms, at, 1)
        np.logical_and.at(plain, at, weight == 1)
        # the combination of the rows was rounded, too
        size_y, size_x = (swept.size(v) for v in (self.network.output, 0))
        size_y = size_y if len(size_y) == 1 else size_y[boxes]
        total = np.matmul(sizes, size_y[:, :, None])[:, :, 0] + rhs_size
        if inputs.shape[2]:
            total = total + np.matmul(size_in, size_x[boxes][:, :, None])[:, :, 0]
        lost = np.where(plain & (terms == 1), 0.0, total * gamma(int(terms.max(initial=0)) + m + n))
        low, error = np.full(shape, -np.inf), np.zeros(shape)
        coefficients = np.zeros((*shape, n))
        if swept.form is not None:  # the output's own form may be enough
            found, error = swept.form.least(rows, boxes)
            low = np.where(inputs.any(2), -np.inf, found)
        enough = np.zeros(shape, bool)
        enough[place] = (self._over(low, rhs, lost) > error)[place]
        missing = np.ones(shape, bool)
        missing[place] = False
        open_ = np.flatnonzero(~(enough | missing).all(1))
        if len(open_):
            pulls: dict[int, list[tuple[int, int, int, float]]] = {}
            for b in range(len(open_)):
                claim = claims[boxes[open_[b]]]
                for (v, neuron, side), beta in zip(claim.part.signs, claim.beta, strict=False):
                    if beta:
                        pulls.setdefault(v, []).extend((b, k, neuron, -side * beta) for k in range(shape[1]))
            extra = inputs[open_] if inputs.shape[2] else None
            walked = walk(swept, planes, rows[open_], boxes[open_], self.network.output, extra, pulls)
            early = self._over(walked.early, rhs[open_], lost[open_]) > walked.error
            better = ~enough[open_]
            low[open_] = np.where(better, np.where(early, walked.early, walked.low), low[open_])
            error[open_] = np.where(better, walked.error, error[open_])
            coefficients[open_] = np.where((better & ~early)[:, :, None], walked.coefficients, 0.0)
        return self._over(low, rhs, lost)[place], error[place], coefficients[place]

    @staticmethod
    def _over(bound: Array, rhs: Array, lost: Array) -> Array:
        """low - lost - rhs, rounded down; its sign is exact where nothing was lost."""
        low = np.where(lost > 0, np.nextafter(bound - lost, -np.inf), bound)
        return np.where(low > rhs, np.maximum(low - rhs, np.nextafter(0, 1)), np.minimum(low - rhs, 0.0))


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
