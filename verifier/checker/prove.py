"""Leaves: whether the rows that a leaf names cannot all hold on its part of the box."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np

from verifier.checker.bounds import Enclosures, RowBounds, bound_rows, cuts, decided, sweep, unit_rows
from verifier.checker.curves import Relu
from verifier.checker.errors import Unreadable
from verifier.checker.format import FORMS, ROOT, ROWS, SYMBOLS, Picked
from verifier.checker.linear import CHUNK, FLOATS, MOST_NUMBERS, TINY, UNIT, Array, Gather, Linear, fractions
from verifier.checker.network import CheckedNetwork
from verifier.checker.query import Queries

FIRST: tuple[tuple[int, Picked], ...] = ((0, ((0, 1.0),)),)
"""The first row of the first clause, as it is."""

ROW_NODE = 64
"""What a node in the tree of a row takes of memory beside its decided neurons, in numbers."""

ClauseTask = tuple[int, int, Picked]
"""Claim, clause, rows and weights."""


@dataclass(eq=False)
class TreeRow:
    """`side` z, z the argument of a `neuron` of the Relu that makes `value`, on the whole box of a query: what is known
    below it on the parts of its tree, by their `nodes`; at `least` how much it is; and a linear function below it, if
    one is kept: n coefficients, and its least value."""

    query: int
    value: int
    neuron: int
    side: int
    nodes: dict[int, float] = field(default_factory=dict)
    least: float = -math.inf
    line: Array | None = None


RowLines = tuple[Array, Array, Array]
"""Neurons (K,) and sides (K,); linear functions below the rows, `side` z, z the argument of a Relu, on the whole box of
a query: their coefficients, and least values last, (K, n + 1)."""


@dataclass(frozen=True, eq=False)
class Part:
    """A node of the tree: the query, the clause that is asked for (-1: all), the box of the inputs that vary, lower and
    upper (2, f), where it is not the query's; the decided neurons, (value of the Relu, neuron, side); and where it was
    narrowed: the `ends` of arguments of Relus, (neurons, sides, least values of side z), and the slopes that said so.
    One in the tree of a `row` asks for this alone, which is at least `least` there."""

    query: int
    clause: int = -1
    box: Array | None = None
    signs: tuple[tuple[int, int, int], ...] = ()
    ends: Mapping[int, tuple[Array, Array, Array]] = field(default_factory=dict)
    slopes: Mapping[int, Array] = field(default_factory=dict)
    row: TreeRow | None = None
    least: float = -math.inf

    @property
    def size(self) -> int:
        """What it takes of memory, in numbers and decided neurons."""
        own = (0 if self.box is None else self.box.size) + (0 if self.row is None else ROW_NODE)
        narrowed = [*(least for _, _, least in self.ends.values()), *self.slopes.values()]
        return own + len(self.signs) + sum(t.size for t in narrowed)


@dataclass(frozen=True, eq=False)
class Claim:
    """That a part holds no violation: every clause has one of the `rows`, (clause, rows and weights), that cannot hold.
    `beta` is a multiplier for every decided neuron, `slopes` are bytes per Relu, 255 for a slope of 1; `intervals` says
    where intervals come from (`format.FORMS`, ..), `kind` what it is for (`format.Leaf`): of "narrow" nothing is
    claimed, but asked where the rows can hold; "exact" is bounded in fractions; a "bound", on a part in the tree of a
    row, is that it exceeds `least`, and a "line" that the linear function of that bound does."""

    part: Part
    rows: tuple[tuple[int, Picked], ...]
    beta: tuple[float, ...] = ()
    slopes: Mapping[int, Array] = field(default_factory=dict)
    intervals: str = FORMS
    kind: str = "leaf"
    least: float = 0.0


@dataclass(frozen=True, eq=False)
class Margin:
    """How far a claim is from a violation, rigorously: positive is proven, and so is +inf (no point there); what was
    taken off for rounding; what becomes of the part: where violations can lie, if it was asked for, or that with
    what is known of its row; and the coefficients (n,) of the linear function below its first row, if it was made."""

    least: float
    error: float = 0.0
    part: Part | None = None
    line: Array | None = None


class Prover:
    """Bounds leaves of one network and specification."""

    def __init__(self, network: CheckedNetwork, queries: Queries) -> None:
        self.network, self.queries = network, queries
        self.relus = {v: op for v, op in enumerate(network.nodes) if isinstance(op, Relu) and not op.leak}
        self.neurons = sum(op.size for op in self.relus.values())
        self._exact: Prover | None = None
        self._roots: tuple[int, Enclosures] | None = None
        self._known: dict[int, dict[TreeRow, None]] = {}  # by query, in the order of the file
        self._lines: dict[int, dict[int, RowLines]] = {}  # of one query, by Relu
        self._kept = 0

    def box(self, part: Part) -> Array:
        """The inputs of a part, lower and upper (2, n)."""
        box = np.stack([self.queries.lower[part.query], self.queries.upper[part.query]])
        if part.box is not None:
            box[:, box[0] < box[1]] = part.box
        return box

    def cut(self, part: Part, box: Array) -> Part:
        """A part with these inputs (2, n); of those that vary on the query's box alone they are kept."""
        return replace(part, box=box[:, self.queries.lower[part.query] < self.queries.upper[part.query]])

    def share(self, part: Part) -> Fraction:
        """What its inputs take of the volume of the query's box."""
        (low, high), (least, most) = fractions(self.box(part)), fractions(self.box(Part(part.query)))
        varies = most > least
        return math.prod(((high - low)[varies] / (most - least)[varies]).tolist(), start=Fraction(1))

    def clauses(self, part: Part) -> list[list[int]]:
        """Row numbers of the clauses that a part is asked for (in the tree of a row: one, of that alone)."""
        clauses = self.queries.clauses[part.query] if part.row is None else [[0]]
        return clauses if part.clause < 0 else [clauses[part.clause]]

    def intervals(self, parts: Sequence[Part], kind: str) -> Enclosures:
        """Intervals for parts (of one query, where they are the root's)."""
        (lower, upper), signs = np.stack([self.box(p) for p in parts], 1), [p.signs for p in parts]
        if kind != ROOT:
            return sweep(self.network, lower, upper, signs, kind)
        whole, count = self.root(parts[0].query), len(parts)
        low, high = [lower, *whole.low[1:]], [upper, *whole.high[1:]]
        found = replace(whole, low=low, high=high, planes=dict(whole.planes), forms=[None] * len(low))
        found.empty, found.floor = np.repeat(whole.empty, count), np.repeat(whole.floor, count)
        for v in {at for p in parts for at in (*p.ends, *(at for at, _, _ in p.signs))}:
            source = self.network.argument(v)
            low[source], high[source] = (np.repeat(t[source], count, 0) for t in (whole.low, whole.high))
            ends = [(np.full(len(p.ends[v][0]), b), *p.ends[v]) for b, p in enumerate(parts) if v in p.ends]
            found.clamp(v, [*decided(signs, v), *ends])
            found.planes[v] = found.new_plane(v)
        return found

    def root(self, query: int) -> Enclosures:
        """Intervals of a query's whole box by backward rows, and by the trees of rows; kept for the last query that
        asked."""
        if self._roots is None or self._roots[0] != query:
            lower, upper = self.queries.lower[query], self.queries.upper[query]
            self._roots = query, sweep(self.network, lower[None], upper[None], kind=ROWS)
            self._meet(query)
        return self._roots[1]

    def _meet(self, query: int) -> None:
        """Makes the kept intervals those that are known, and the planes that parts share."""
        if self._roots is not None and self._roots[0] == query:
            whole, known = self._roots[1], self._known.get(query, {})
            for v in self.relus:
                found = [(0, row.neuron, row.side, row.least) for row in known if row.value == v]
                whole.clamp(v, cuts(found))
                whole.planes[v] = whole.new_plane(v)

    def tighten(self, rows: Mapping[TreeRow, float]) -> None:
        """From now on these rows are at least so large, and what is kept of them is known."""
        for row, least in rows.items():
            row.least = max(row.least, least)
            self._known.setdefault(row.query, {})[row] = None
        self._lines.clear()
        for query in {row.query for row in rows}:
            self._meet(query)

    def keep(self, claim: Claim, found: Margin) -> None:
        """The line below a row that a claim has proven, for what is narrowed after the next `tighten`.

        Raises:
            Unreadable: they are too many.
        """
        if claim.part.row is None or found.line is None:  # there is no point
            return
        self._kept += found.line.size
        if self._kept > MOST_NUMBERS:
            raise Unreadable(f"{self._kept} coefficients of lines below rows, this checker holds {MOST_NUMBERS}")
        claim.part.row.line = np.append(found.line, claim.least)

    def lines(self, query: int) -> dict[int, RowLines]:
        """Lines below arguments of Relus on a query's whole box: those that are kept, or where none is those of all
        neurons.

        Raises:
            Unreadable: they are too many.
        """
        if query not in self._lines:
            whole, known = self.root(query), [row for row in self._known.get(query, {}) if row.line is not None]
            if not known and 2 * self.neurons * self.network.inputs > MOST_NUMBERS:
                raise Unreadable(f"{self.neurons} neurons over {self.network.inputs} inputs are too many to narrow")
            found = {}
            for v, op in self.relus.items():
                mine = [row for row in known if row.value == v]
                neuron, side = (np.array([getattr(row, name) for row in mine], np.int64) for name in ("neuron", "side"))
                lines = np.array([row.line for row in mine])
                if not known:
                    neuron, side = np.tile(np.arange(op.size), 2), np.repeat((1, -1), op.size)
                    rows, owner = unit_rows(neuron, side, op.size), np.zeros(2 * op.size, np.int64)
                    bound = bound_rows(whole, owner, rows, self.network.argument(v), linear=True)
                    lines = np.column_stack([bound.coefficients, bound.low])
                if len(neuron):
                    found[v] = neuron, side, lines
            self._lines = {query: found}
        return self._lines[query]

    def groups(self, claims: Sequence[Claim]) -> list[list[int]]:
        """Positions of claims that can be bounded together: the same kind of intervals, a bounded size."""
        kinds: dict[tuple[str, int, bool, bool, int], list[int]] = {}
        for i, claim in enumerate(claims):
            query = claim.part.query if claim.intervals == ROOT else -1
            over = -1 if claim.part.row is None else claim.part.row.value
            kinds.setdefault((claim.intervals, query, bool(claim.slopes), claim.kind == "exact", over), []).append(i)
        most = max(1, 8 * CHUNK // max(self.network.sizes))
        named = max((sum(len(picked) for _, picked in claim.rows) for claim in claims), default=0)
        most = min(most, 1 + math.isqrt(8 * CHUNK // (1 + named)))  # every row that one names is bounded on all boxes
        sizes = {kind: 1 if kind[0] == SYMBOLS or kind[3] else most for kind in kinds}
        return [group[i : i + sizes[k]] for k, group in kinds.items() for i in range(0, len(group), sizes[k])]

    def prove(self, claims: Sequence[Claim]) -> list[Margin]:
        """Bounds claims.

        Raises:
            Unreadable: the network is too large for intervals of a kind, or has no fractions.
        """
        found: dict[int, Margin] = {}
        for group in self.groups(claims):
            found.update(zip(group, self._group([claims[i] for i in group]), strict=True))
        return [found[i] for i in range(len(claims))]

    def _group(self, claims: list[Claim]) -> list[Margin]:
        swept, prover = self.prepare(claims), self
        if claims[0].kind == "exact":
            prover = self.in_fractions()
            swept = prover.prepare(claims, swept)
        tasks = [(b, c, rows) for b, claim in enumerate(claims) if not swept.empty[b] for c, rows in claim.rows]
        margin, lost, coefficients = prover.walk(swept, claims, tasks)
        owner, clause = (np.array([t[i] for t in tasks], np.int64) for i in (0, 1))
        found = []
        for b, claim in enumerate(claims):
            mine, part = np.flatnonzero(owner == b), None
            best = np.full(len(self.clauses(claim.part)), -math.inf)  # of each clause the best row
            np.maximum.at(best, clause[mine], margin[mine])
            least = math.inf if swept.empty[b] else float(best.min(initial=math.inf))
            if claim.kind == "narrow":
                part = self.narrowed(swept, b, claim, clause[mine], margin[mine], coefficients[mine])
            elif claim.part.row is not None:
                part = replace(claim.part, least=max(claim.part.least, claim.least))
            found.append(Margin(least, float(lost[mine].max(initial=0)), part, *coefficients[mine[:1]]))
        return found

    def in_fractions(self) -> Prover:
        """The same in fractions.

        Raises:
            Unreadable: the network cannot be walked in fractions.
        """
        self._exact = self._exact or Prover(self.network.in_fractions(), self.queries)
        return self._exact

    def narrowed(self, swept: Enclosures, b: int, claim: Claim, clause: Array, margin: Array, rows: Array) -> Part:
        """Where violations can lie on part b of the sweep: a row that exceeds its limit by  margin + sum_j |row_j| d_j,
        d_j the distance of input j from the end where the row is least, leaves  sum_j |row_j| d_j <= -margin.  Of a
        clause all rows hold, of the part one clause."""
        part, low, high = claim.part, swept.low[0][b], swept.high[0][b]
        if swept.empty[b]:
            return replace(part, slopes=claim.slopes)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            reach = np.maximum(-margin, 0.0)[:, None] / np.abs(rows) * (1 + 4 * UNIT)
            top = np.where(rows > 0, np.nextafter(low + reach, np.inf), np.inf)
            bottom = np.where(rows < 0, np.nextafter(high - reach, -np.inf), -np.inf)
        box, refuted = np.stack([high, low]), [(margin[clause == c] > 0).any() for c in range(len(self.clauses(part)))]
        for c, holds_nowhere in enumerate(refuted):
            mine = clause == c
            if not holds_nowhere or all(refuted):  # any box is right then: least where bounds a hair worse leave little
                box[0] = np.minimum(box[0], np.fmax.reduce(bottom[mine], 0, initial=-np.inf))
                box[1] = np.maximum(box[1], np.fmin.reduce(top[mine], 0, initial=np.inf))
        box = np.clip(box, low, high)
        box = np.stack([box.min(0), box.max(0)])  # crossed: no violation there
        narrower = dict(part.ends)
        if claim.intervals == ROOT and len(self.clauses(part)) == len(margin) == 1 and math.isfinite(margin[0]):
            most = max(0.0, -float(margin[0]))
            inwards = low - self.queries.lower[part.query], self.queries.upper[part.query] - high
            for v, (neuron, side, lines) in self.lines(part.query).items():
                source = self.network.argument(v)
                below, above = (t[source][b if len(t[source]) > 1 else 0, neuron] for t in (swept.low, swept.high))
                open_ = np.flatnonzero((below < 0) & (above > 0))
                own, known = lines[open_, :-1], lines[open_, -1]
                moved = np.maximum(own, 0) @ inwards[0] + np.maximum(-own, 0) @ inwards[1]  # from the whole box
                risen = _risen(own, rows[0], high - low, most, moved)
                least = np.where(side > 0, below, -above)
                least[open_] = np.fmax(least[open_], np.nextafter(known + risen, -np.inf))
                narrower[v] = neuron, side, least
        part = part if np.array_equal(box, (low, high)) else self.cut(part, box)
        return replace(part, ends=narrower, slopes=claim.slopes)

    def prepare(self, claims: Sequence[Claim], around: Enclosures | None = None) -> Enclosures:
        """Intervals and linear bounds for claims of one group; in fractions for one, met with those `around` it.

        Raises:
            Unreadable: those are not finite.
        """
        if around is None:
            swept = self.intervals([c.part for c in claims], claims[0].intervals)
        else:
            if not all(np.isfinite(t).all() for t in (*around.low, *around.high)):
                raise Unreadable("bounds that are not finite, in a leaf that fractions are to decide")
            low, high = ([self.network.arithmetic.of(t) for t in ends] for ends in (around.low, around.high))
            swept = sweep(self.network, low[0], high[0], [claims[0].part.signs], known=lambda v: (low[v], high[v]))
            swept.empty = swept.empty | around.empty
        for v in claims[0].slopes:
            alpha = self.network.arithmetic.of(np.stack([c.slopes[v] for c in claims]) / 255.0)
            swept.planes[v] = swept.new_plane(v, alpha)
        return swept

    def walk(self, swept: Enclosures, claims: Sequence[Claim], tasks: Sequence[ClauseTask]) -> RowBounds:
        """For (claim, clause, rows and weights), (P,): by how much the weighted rows exceed their limits everywhere on
        the claim's part, rounded down with an exact sign, which is positive also where they meet them and a row is
        strict."""
        numbers, trees = self.network.arithmetic, claims[0].part.row is not None
        names = [self.clauses(claim.part) for claim in claims]
        picks = [(p, b if trees else names[b][c][k], w) for p, (b, c, own) in enumerate(tasks) for k, w in own]
        task, row = (np.array([pick[i] for pick in picks], np.int64) for i in (0, 1))
        weight, (used, place) = numbers.of(np.array([pick[2] for pick in picks])), np.unique(row, return_inverse=True)
        strict = np.zeros(len(tasks), bool)
        if not trees:
            strict[task[(weight > 0) & self.queries.form.row_strict[row]]] = True

        def rows(part: Array) -> Array:
            mine, out = (task >= part[0]) & (task <= part[-1]), numbers.zeros(len(part), len(used))
            np.add.at(out, (task[mine] - part[0], place[mine]), weight[mine])
            return out

        swept = swept.then(self.tree_rows([claims[b] for b in used.tolist()]) if trees else self.asked(used))
        owner = np.array([b for b, _, _ in tasks], np.int64)
        target = np.array([math.inf if claims[b].kind == "line" else 0.0 for b in owner.tolist()])
        swept.pulls = self._pulls(claims)
        found = bound_rows(swept, owner, rows, swept.network.output, target, linear=True)
        over = np.array([_sign(v) for v in found.low.tolist()]) if numbers.exact else found.low
        return found._replace(low=np.where((over == 0) & strict, TINY, over))

    def asked(self, rows: Array) -> Linear:
        """These rows of the specification less their limits, as an operator."""
        weight, values = self.queries.outputs[rows], [self.network.output]
        if self.queries.inputs[rows].any():
            weight, values = np.concatenate([weight, self.queries.inputs[rows]], 1), [*values, 0]
        return self._last(values, weight, -self.queries.rhs[rows])

    def tree_rows(self, claims: Sequence[Claim]) -> Linear:
        """The rows of trees that claims are about, less what they are to be at least."""
        trees = [c.part.row for c in claims if c.part.row is not None]
        weight = np.zeros((len(trees), self.relus[trees[0].value].size))
        weight[np.arange(len(trees)), [t.neuron for t in trees]] = [t.side for t in trees]
        return self._last([self.network.argument(trees[0].value)], weight, np.array([-c.least for c in claims]))

    def _last(self, values: list[int], weight: Array, offset: Array) -> Linear:
        numbers, parts = self.network.arithmetic, tuple((v, self.network.sizes[v]) for v in values)
        argument = Gather(parts, np.arange(weight.shape[1]))
        return Linear(argument, len(weight), "rows", numbers.of(weight)[None], offset=numbers.of(offset))

    def _pulls(self, claims: Sequence[Claim]) -> dict[int, Array]:
        """How the decided neurons of the claims' parts help."""
        pulls: dict[int, Array] = {}
        for b, claim in enumerate(claims):
            for (v, neuron, side), beta in zip(claim.part.signs, claim.beta, strict=False):
                if beta and v not in pulls:
                    pulls[v] = self.network.arithmetic.zeros(len(claims), self.relus[v].size)
                if beta:
                    pulls[v][b, neuron] += self.network.arithmetic.of(-side * beta)[()]
        return pulls


def _sign(v: object) -> float:
    """-inf, 0 or +inf by the sign of an exact number; what is none has been rounded, and says nothing."""
    if not isinstance(v, Fraction | int) or v < 0:
        return -math.inf
    return math.inf if v > 0 else 0.0


def _risen(rows: Array, row: Array, width: Array, most: float, moved: Array) -> Array:
    """By how much the least values (K,) of linear functions `rows` (K, n) over a box rise, at least, `moved` (K,) >= 0
    included, where  sum_j |row_j| d_j <= most,  d_j the distance from the end of input j where `row` (n,) is least.

    For any g >= 0 a function is not below its sum with  g (sum_j |row_j| d_j - most).  Where the two have coefficients
    of different signs they are least at different ends, and the sum gains  min(g |row_j|, |rows_j|)  times the width.
    That is concave in g and best at the quotient  |rows_j| / |row_j|  of the input at which those with larger ones have
    used up `most` (the dual of a fractional knapsack).
    """
    size, risen, step = np.abs(row), np.zeros(len(rows)), max(1, CHUNK // len(row))
    uses, fewer = size * width, 1 - FLOATS.gamma(3 * len(row))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for part in (slice(at, at + step) for at in range(0, len(rows), step)):
            pull = np.maximum(rows[part] * -np.sign(row), 0)
            quotient = np.column_stack([np.nan_to_num(pull / size), np.zeros(len(pull))])
            order = np.argsort(-quotient[:, :-1].astype(np.float32), 1)
            used = (np.cumsum(uses[order], 1) <= most).sum(1)
            place = np.column_stack([order, np.full(len(order), len(row))])[np.arange(len(order)), used]
            g = quotient[np.arange(len(order)), place]
            paid = g * most * (1 + 4 * UNIT) + TINY
            gained = np.minimum(g[:, None] * size, pull) @ width * fewer - paid
            risen[part] = np.fmax(gained - (np.abs(gained) + paid) * (4 * UNIT) - TINY, 0)
    return (risen + moved * fewer) * (1 - 4 * UNIT) - TINY
