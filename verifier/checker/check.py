"""Reading a proof against a network and a specification: every part of every query is covered by a proven leaf.

The tree is built as the events come. A split takes an open node away and puts its children there, numbered in the order
of the splits; a leaf takes an open node away when its bound holds. At the end no node is open. So nothing can be left
out: a part of a box disappears only by a proven leaf.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from verifier.checker import format as fmt
from verifier.checker.bounds import sweep
from verifier.checker.curves import Piecewise
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.exact import InFractions, fractions
from verifier.checker.linear import Array
from verifier.checker.network import CheckedNetwork, read_network
from verifier.checker.prove import Claim, Narrowed, Part, Prover
from verifier.checker.query import Queries, read_queries

BATCH = 256
"""Leaves that are bounded together."""

MOST_WAITING, MOST_OPEN = 1 << 22, 1 << 26
"""Sizes of the leaves that wait to be bounded together, and of the open nodes: cut inputs, decided neurons, slopes."""


@dataclass(frozen=True)
class Accepted:
    """What was checked: `verdict` unsat, sat or map, and how many leaves, splits and queries; of a map the `shares` of
    every query's box in which no violation lies, at least."""

    verdict: str
    leaves: int
    splits: int
    queries: int
    shares: tuple[Fraction, ...] = ()


def check(proof: str | Path, model: str | Path, spec: str | Path) -> Accepted:
    """Accepts a proof.

    Raises:
        Rejected: the proof does not hold; the message says where.
        Unreadable, vnnlib.VnnLibError: a file cannot be used, nothing was decided.
    """
    network = read_network(model)
    queries = read_queries(spec, network)
    try:
        with open(proof, "rb") as stream:
            reader = fmt.Reader(stream, str(proof))  # type: ignore[arg-type]
            for kind, found, own in (
                ("model", reader.header.model, network.digest),
                ("specification", reader.header.spec, queries.digest),
            ):
                if found != own:
                    raise Rejected(f"the proof is about another {kind}: sha256 {found.hex()}, not {own.hex()}")
            if reader.header.kind == fmt.WITNESS:
                return check_witness(network, queries, reader.witness())
            return _Tree(network, queries, reader.header).run(reader)
    except OSError as error:
        raise Unreadable(f"{proof}: cannot be read: {error.strerror}") from None


class _Tree:
    def __init__(self, network: CheckedNetwork, queries: Queries, header: fmt.Header) -> None:
        self.prover, self.queries, self.kind = Prover(network, queries), queries, header.kind
        self.tensors: list[int] = []
        for name in header.tensors:
            v = network.tensors.get(name, -1)
            op = network.nodes[v] if v >= 0 else None
            if not isinstance(op, Piecewise) or not op.is_relu:
                raise Rejected(f"split tensor '{name}' is not the result of a Relu of this network")
            self.tensors.append(v)
        self.open = {q: Part(q) for q in range(len(queries))}
        self.open_size = self.waiting_size = 0
        self.next, self.splits, self.leaves = len(queries), 0, 0
        self.slopes: dict[int, Array] = {}
        self.tables = 0
        self.waiting: list[tuple[int, Claim]] = []

    def run(self, reader: fmt.Reader) -> Accepted:
        done = False
        for event in reader.events():
            match event:
                case fmt.Leaf():
                    self._leaf(event)
                case fmt.InputClip():
                    self._clip(event)
                case fmt.Slopes():
                    self._slopes(event)
                case fmt.End():
                    done = (event.splits, event.leaves) == (self.splits, self.leaves)
                case fmt.InputSplit() | fmt.NeuronSplit() | fmt.ClauseSplit():
                    self._split(event)
        self._flush()
        if not done:
            raise Rejected(f"the proof announces other numbers than {self.splits} splits and {self.leaves} leaves")
        if self.kind == fmt.MAP:  # what is open is not claimed; a part counts as a whole, whatever else it decides
            shares = [Fraction(1)] * len(self.queries)
            for part in self.open.values():
                if self.prover.clauses(part):
                    shares[part.query] = max(Fraction(0), shares[part.query] - self.prover.share(part))
            return Accepted("map", self.leaves, self.splits, len(self.queries), tuple(shares))
        for node, part in self.open.items():
            if self.prover.clauses(part):
                raise Rejected(f"node {node} is open: no leaf covers {self._where(part)}")
        return Accepted("unsat", self.leaves, self.splits, len(self.queries))

    def _take(self, node: int) -> Part:
        if node not in self.open:
            raise Rejected(f"node {node} is not open: it was never made, or was split or proven before")
        part = self.open.pop(node)
        self.open_size -= part.size
        return part

    def _put(self, part: Part) -> None:
        self.open[self.next] = part
        self.next += 1
        self.open_size += part.size
        if self.open_size > MOST_OPEN:
            raise Unreadable(
                f"{len(self.open)} open nodes with {self.open_size} cut inputs and decided neurons, this checker holds "
                f"at most {MOST_OPEN}"
            )

    def _split(self, event: fmt.Split) -> None:
        part = self._take(event.node)
        self.splits += 1
        for child in self._children(event, part):
            self._put(child)

    def _children(self, event: fmt.Split, part: Part) -> list[Part]:
        if isinstance(event, fmt.InputSplit):
            j, at = event.coordinate, event.at
            if j >= self.queries.lower.shape[1]:
                raise Rejected(f"node {event.node}: a split of input {j}, which does not exist")
            low, high = self._ends(part, j)
            if not low <= at <= high:
                raise Rejected(f"node {event.node}: input {j} is split at {at!r}, outside of [{low!r}, {high!r}]")
            return [_cut(part, j, low, at), _cut(part, j, at, high)]
        if isinstance(event, fmt.NeuronSplit):
            if event.tensor >= len(self.tensors):
                raise Rejected(f"node {event.node}: a split of tensor {event.tensor}, which the header does not name")
            v = self.tensors[event.tensor]
            if event.neuron >= math.prod(self.prover.network.shapes[v]):
                raise Rejected(f"node {event.node}: a split of neuron {event.neuron}, which does not exist")
            return [replace(part, signs=(*part.signs, (v, event.neuron, side))) for side in (-1, 1)]
        if part.clause >= 0:
            raise Rejected(f"node {event.node}: its clauses were taken apart before")
        return [replace(part, clause=c) for c in range(len(self.queries.clauses[part.query]))]

    def _ends(self, part: Part, j: int) -> tuple[float, float]:
        """Where input j of a part lies."""
        own = [(low, high) for c, low, high in part.cuts if c == j]
        return own[0] if own else (float(self.queries.lower[part.query, j]), float(self.queries.upper[part.query, j]))

    def _clip(self, event: fmt.InputClip) -> None:
        part = self._take(event.node)
        self.splits += 1
        clauses = self.prover.clauses(part)
        if any(c >= len(clauses) or k >= len(clauses[c]) for c, k in event.rows) or not event.slabs:
            raise Rejected(f"node {event.node}: rows that are not there, or no slabs")
        if len(set(event.rows)) < len(event.rows):
            raise Rejected(f"node {event.node}: a row that is named twice")
        rest: Part | None = part
        for j, side, at in event.slabs:
            if j >= self.queries.lower.shape[1]:
                raise Rejected(f"node {event.node}: a slab of input {j}, which does not exist")
            low, high = self._ends(part, j)
            if not low <= at <= high:
                raise Rejected(f"node {event.node}: a slab of input {j} from {at!r}, outside of [{low!r}, {high!r}]")
            if rest is not None:
                low, high = self._ends(rest, j)
                low, high = (low, min(high, at)) if side > 0 else (max(low, at), high)
                rest = _cut(rest, j, low, high) if low <= high else None
        if rest is not None:
            self._put(rest)
        rows = tuple((c, ((k, 1.0),)) for c, k in event.rows)
        self._wait(event.node, Claim(part, rows, intervals=event.intervals, slabs=event.slabs))

    def _slopes(self, event: fmt.Slopes) -> None:
        shapes = [self.prover.network.shapes[v] for v in self.tensors]
        if [t.size for t in event.tables] != [math.prod(s) for s in shapes]:
            raise Rejected(f"slopes {self.tables} do not fit the tensors of the header")
        self.slopes = {v: t.reshape(s) for v, t, s in zip(self.tensors, event.tables, shapes, strict=True)}
        self.tables += 1

    def _leaf(self, leaf: fmt.Leaf) -> None:
        part = self._take(leaf.node)
        self.leaves += not leaf.narrows
        self.splits += leaf.narrows
        clauses = self.prover.clauses(part)
        rows = leaf.rows or (((0, 1.0),),) * len(clauses)
        name = f"{'narrowing' if leaf.narrows else 'leaf'} of node {leaf.node}"
        if len(rows) != len(clauses):
            raise Rejected(f"{name}: rows for {len(rows)} clauses, expected {len(clauses)}")
        for picked, clause in zip(rows, clauses, strict=True):
            if not picked or any(k >= len(clause) or not 0 <= w < math.inf for k, w in picked):
                raise Rejected(f"{name}: rows {picked} of a clause with {len(clause)} rows; weights must be >= 0")
            if len({k for k, _ in picked}) < len(picked):
                raise Rejected(f"{name}: a row that is named twice")
        if len(leaf.beta) not in (0, len(part.signs)) or not all(0 <= b < math.inf for b in leaf.beta):
            raise Rejected(f"{name}: {len(leaf.beta)} multipliers for {len(part.signs)} decided neurons, all >= 0")
        if leaf.slopes not in (-1, self.tables - 1):
            raise Rejected(f"{name}: slopes {leaf.slopes}, expected {self.tables - 1}, the last that stand before it")
        slopes = self.slopes if leaf.slopes >= 0 else part.narrowed.slopes if part.narrowed else {}
        narrows = None
        if leaf.narrows:
            if len(clauses) != 1 or leaf.intervals != fmt.ROOT:
                raise Rejected(
                    f"{name}: a node of {len(clauses)} clauses, expected one, with intervals of the whole box"
                )
            narrows = Narrowed(2 * (self.prover.neurons + self.prover.network.inputs), slopes)
            self._put(replace(part, narrowed=narrows))
        self._wait(
            leaf.node,
            Claim(part, tuple(enumerate(rows)), leaf.beta, slopes, leaf.intervals, narrows=narrows, exact=leaf.exact),
        )

    def _wait(self, node: int, claim: Claim) -> None:
        if claim.part.pending:
            self._flush()
        self.waiting.append((node, claim))
        self.waiting_size += claim.part.size + sum(t.size for t in claim.slopes.values())
        if len(self.waiting) >= BATCH or self.waiting_size > MOST_WAITING:
            self._flush()

    def _flush(self) -> None:
        if not self.waiting:
            return
        margins = self.prover.prove([claim for _, claim in self.waiting])
        for (node, claim), margin in zip(self.waiting, margins, strict=True):
            if claim.narrows is None and not margin > 0:
                raise Rejected(f"node {node}: the bound {margin:.3g} is not positive on {self._where(claim.part)}")
        self.waiting, self.waiting_size = [], 0

    def _where(self, part: Part) -> str:
        cuts = ", ".join(f"X_{j} in [{low!r}, {high!r}]" for j, low, high in part.cuts[:8])
        signs = f", {len(part.signs)} decided neurons" if part.signs else ""
        clause = f", clause {part.clause}" if part.clause >= 0 else ""
        return f"query {part.query}{clause}: {cuts or 'the whole box'}{signs}"


def _cut(part: Part, j: int, low: float, high: float) -> Part:
    """The part with input j in [low, high]."""
    return replace(part, cuts=(*(c for c in part.cuts if c[0] != j), (j, low, high)))


def check_witness(network: CheckedNetwork, queries: Queries, x: Array) -> Accepted:
    """Accepts an input whose outputs satisfy a clause for certain, rounding included.

    Raises:
        Rejected: it lies outside of the set, or its outputs do not.
    """
    if x.shape != (network.inputs,) or not np.isfinite(x).all():
        raise Rejected(f"a witness with {x.size} finite numbers was expected for {network.inputs} inputs")
    form = queries.form
    swept = sweep(network, x[None], x[None])
    if not all(np.isfinite(t).all() for t in (*swept.low, *swept.high)):
        raise Rejected("the witness has no finite outputs")
    low, high = (fractions(t[network.output][0]) for t in (swept.low, swept.high))
    with contextlib.suppress(Unreadable):  # nothing is rounded on a small network
        low = high = InFractions(network).values(swept)
    inside = (form.lower <= x) & (x <= form.upper)
    for flags, ends in ((form.strict_lower, form.lower), (form.strict_upper, form.upper)):
        if flags is not None:
            inside &= ~(flags & (ends == x))
    cases = np.flatnonzero(inside.all(1))
    if not len(cases):
        raise Rejected("the witness lies outside of every box of the specification")
    open_ = ""
    for q in cases.tolist():
        for c, clause in enumerate(queries.clauses[q]):
            rows = [_row_range(queries, r, low, high, x) for r in clause]
            strict = [bool(form.row_strict[r]) for r in clause]
            if all(top < 0 or (top == 0 and not s) for (_, top), s in zip(rows, strict, strict=True)):
                return Accepted("sat", 0, 0, len(queries))
            if all(bottom <= 0 for bottom, _ in rows):
                worst = max(rows, key=lambda r: r[1])
                between = f"[{float(worst[0]):.3g}, {float(worst[1]):.3g}]"
                open_ = f"; clause {c} of query {q} is decided by rounding: row - limit in {between}"
    raise Rejected(f"the witness satisfies no clause for certain, over the reals{open_}")


def _row_range(queries: Queries, r: int, low: Array, high: Array, x: Array) -> tuple[Fraction, Fraction]:
    """Range of row r minus its limit, for outputs between `low` and `high`."""
    (columns, values), (places, numbers) = queries.outputs[r], queries.inputs[r]
    total = -Fraction(queries.rhs[r])
    for v, n in zip(x[places].tolist(), numbers.tolist(), strict=True):
        total += Fraction(v) * Fraction(n)
    ends = [total, total]
    for j, v in zip(columns.tolist(), values.tolist(), strict=True):
        terms = Fraction(v) * low[j], Fraction(v) * high[j]
        ends = [ends[0] + min(terms), ends[1] + max(terms)]
    return ends[0], ends[1]
