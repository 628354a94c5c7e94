"""Leaves: whether the rows that a leaf names cannot all hold on its part of the box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from verifier.checker.bounds import CHUNK, Planes, Sweep, Walked, sweep, walk
from verifier.checker.format import ROOT, ROWS
from verifier.checker.network import Network
from verifier.checker.ops import Array, Linear, Piecewise, gamma
from verifier.checker.query import Queries

Picked = tuple[tuple[int, float], ...]
Rows = tuple[Picked, ...]
Task = tuple[int, int, Picked]


@dataclass(frozen=True)
class Part:
    """A node of the tree: the query, the clause that is asked for (-1: all), the inputs that were cut, (coordinate,
    lower, upper), and the decided neurons, (value of the Relu, neuron, side)."""

    query: int
    clause: int = -1
    cuts: tuple[tuple[int, float, float], ...] = ()
    signs: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, eq=False)
class Claim:
    """A leaf: per clause of the part the rows and weights (see `format.Leaf`), a multiplier for every decided neuron,
    slopes per Relu, (*S) in [0, 1], and where the intervals come
    from (`format.FORMS`, ..)."""

    part: Part
    rows: Rows
    beta: tuple[float, ...]
    slopes: Mapping[int, Array]
    intervals: int


class Prover:
    """Bounds leaves of one network and specification."""

    def __init__(self, network: Network, queries: Queries) -> None:
        self.network, self.queries = network, queries
        self.relus = {v: op for v, op in enumerate(network.nodes) if isinstance(op, Piecewise) and op.is_relu}
        self.neurons = sum(math.prod(op.shape) for op in network.nodes if op is not None and not isinstance(op, Linear))
        self.largest = max(math.prod(s) for s in network.shapes)
        self._roots: tuple[int, Sweep] | None = None

    def box(self, part: Part) -> tuple[Array, Array]:
        """The inputs of a part, (n,) each."""
        lower, upper = self.queries.lower[part.query].copy(), self.queries.upper[part.query].copy()
        for coordinate, low, high in part.cuts:
            lower[coordinate], upper[coordinate] = low, high
        return lower, upper

    def clauses(self, part: Part) -> list[list[int]]:
        """Row numbers of the clauses that a part is asked for."""
        clauses = self.queries.clauses[part.query]
        return clauses if part.clause < 0 else [clauses[part.clause]]

    def intervals(self, parts: Sequence[Part], kind: int) -> Sweep:
        """Intervals for parts (of one query, where they are the root's)."""
        boxes = [self.box(p) for p in parts]
        lower, upper = np.stack([b[0] for b in boxes]), np.stack([b[1] for b in boxes])
        if kind != ROOT:
            return sweep(self.network, lower, upper, [p.signs for p in parts], rows=kind == ROWS)
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
        return replace(whole, low=low, high=high, empty=empty, floor=np.repeat(whole.floor, len(parts)), form=None)

    def root(self, query: int) -> Sweep:
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
        most = max(1, CHUNK // (4 * self.largest))
        return [group[i : i + most] for group in kinds.values() for i in range(0, len(group), most)]

    def prove(self, claims: Sequence[Claim]) -> Array:
        """How far every leaf is from a violation, rigorously: positive is proven, and so is +inf (no point there)."""
        margin = np.full(len(claims), math.inf)
        for group in self.groups(claims):
            margin[group] = self._group([claims[i] for i in group])
        return margin

    def _group(self, claims: list[Claim]) -> Array:
        swept, planes = self.prepare(claims)
        tasks = [
            (b, c, rows) for b, claim in enumerate(claims) if not swept.empty[b] for c, rows in enumerate(claim.rows)
        ]
        margin = np.full(len(claims), math.inf)
        for part in self.chunks(tasks):
            found = self.walk(swept, planes, claims, part)[0]
            np.minimum.at(margin, [b for b, _, _ in part], found)
        return margin

    def prepare(self, claims: Sequence[Claim]) -> tuple[Sweep, Planes]:
        """Intervals and linear bounds for claims of one group."""
        swept = self.intervals([c.part for c in claims], claims[0].intervals)
        slopes = {v: np.stack([c.slopes[v] for c in claims]) for v in claims[0].slopes}
        return swept, Planes.of(swept, slopes)

    def chunks(self, tasks: list[Task]) -> list[list[Task]]:
        """The tasks in parts of a bounded size."""
        most = max(1, CHUNK // self.largest)
        return [tasks[at : at + most] for at in range(0, len(tasks), most)]

    def walk(
        self, swept: Sweep, planes: Planes, claims: Sequence[Claim], tasks: Sequence[Task]
    ) -> tuple[Array, Walked]:
        """For (claim, clause, rows and weights): by how much the weighted rows exceed their limits everywhere on the
        claim's part, rounded down with an exact sign; and the walk."""
        owner = np.array([b for b, _, _ in tasks], np.int64)
        m, n = self.network.outputs, self.network.inputs
        rows, inputs = np.zeros((len(tasks), m)), np.zeros((len(tasks), n))
        sizes, size_in = np.zeros((len(tasks), m)), np.zeros((len(tasks), n))
        rhs, rhs_size, terms = np.zeros(len(tasks)), np.zeros(len(tasks)), np.zeros(len(tasks), np.int64)
        queries = self.queries
        pulls: dict[int, list[tuple[int, int, float]]] = {}
        for p, (b, c, picked) in enumerate(tasks):
            claim = claims[b]
            clause = self.clauses(claim.part)[c]
            for k, weight in picked:
                r = clause[k]
                (columns, values), (places, numbers) = queries.outputs[r], queries.inputs[r]
                rows[p, columns] += weight * values
                sizes[p, columns] += abs(weight) * np.abs(values)
                inputs[p, places] += weight * numbers
                size_in[p, places] += abs(weight) * np.abs(numbers)
                rhs[p] += weight * queries.rhs[r]
                rhs_size[p] += abs(weight * queries.rhs[r])
            terms[p] = 0 if len(picked) == 1 and picked[0][1] == 1 else len(picked)
            for (v, neuron, side), beta in zip(claim.part.signs, claim.beta, strict=False):
                if beta:
                    pulls.setdefault(v, []).append((p, neuron, -side * beta))
        lost = np.zeros(len(tasks))
        mixed = np.flatnonzero(terms)
        if len(mixed):  # the combination of the rows was rounded, too
            of = owner[mixed]
            size_y, size_x = swept.size(self.network.output), swept.size(0)
            size_y = size_y if len(size_y) == 1 else size_y[of]
            total = (sizes[mixed] * size_y).sum(1) + (size_in[mixed] * size_x[of]).sum(1) + rhs_size[mixed]
            lost[mixed] = total * np.array([gamma(int(t) + m + n) for t in terms[mixed]])
        low, error, coefficients = np.full(len(tasks), -np.inf), np.zeros(len(tasks)), np.zeros_like(inputs)
        direct = np.flatnonzero(~inputs.any(1)) if swept.form is not None else np.zeros(0, np.int64)
        if swept.form is not None and len(direct):  # the output's own form may be enough
            low[direct], error[direct] = swept.form.least(rows[direct], owner[direct])
        open_ = np.flatnonzero(~(self._over(low, rhs, lost) > error))
        if len(open_):
            place = {int(p): i for i, p in enumerate(open_)}
            moved = {v: [(place[p], k, c) for p, k, c in pull if p in place] for v, pull in pulls.items()}
            found = walk(swept, planes, rows[open_], owner[open_], self.network.output, inputs[open_], moved)
            low[open_], error[open_], coefficients[open_] = found.low, found.error, found.coefficients
        return self._over(low, rhs, lost), Walked(low, error, coefficients)

    @staticmethod
    def _over(bound: Array, rhs: Array, lost: Array) -> Array:
        """low - lost - rhs, rounded down; its sign is exact where nothing was lost."""
        low = np.where(lost > 0, np.nextafter(bound - lost, -np.inf), bound)
        return np.where(low > rhs, np.maximum(low - rhs, np.nextafter(0, 1)), np.minimum(low - rhs, 0.0))
