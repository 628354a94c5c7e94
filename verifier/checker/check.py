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
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.linear import Array
from verifier.checker.network import CheckedNetwork, read_network
from verifier.checker.prove import Claim, Part, Prover, TreeRow
from verifier.checker.query import Queries, read_queries

BATCH = 256
"""Leaves that are bounded together."""

MOST_WAITING, MOST_OPEN = 1 << 22, 1 << 26
"""Sizes of the leaves that wait to be bounded together, and of the open nodes: boxes, decided neurons, slopes, rows."""

ROW_SIZE = 16
"""What a row and its weight take of memory, in numbers."""


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
            reader = fmt.Reader(stream, str(proof))
            digests = (reader.header.model, network.digest), (reader.header.spec, queries.digest)
            for kind, (found, own) in zip(("model", "specification"), digests, strict=True):
                if found != own:
                    raise Rejected(f"the proof is about another {kind}: sha256 {found}, not {own}")
            if reader.header.kind == fmt.WITNESS:
                return check_witness(network, queries, reader.witness())
            return _Tree(network, queries, reader.header).run(reader)
    except OSError as error:
        raise Unreadable(f"{proof}: cannot be read: {error.strerror}") from None


class _Tree:
    def __init__(self, network: CheckedNetwork, queries: Queries, header: fmt.Header) -> None:
        self.prover, self.queries, self.kind = Prover(network, queries), queries, header.kind
        self.tensors = [network.tensors.get(name, 0) for name in header.tensors]
        for name, v in zip(header.tensors, self.tensors, strict=True):
            if v not in self.prover.relus:
                raise Rejected(f"split tensor '{name}' is not the result of a Relu of this network")
        self.open = {q: Part(q) for q in range(len(queries))}
        self.open_size = self.waiting_size = 0
        self.next, self.splits, self.leaves = len(queries), 0, 0
        self.waiting: dict[int, tuple[Claim, int]] = {}  # by node: the claim, and the node that it leads to
        self.rows: dict[TreeRow, None] = {}  # whose nodes have changed

    def run(self, reader: fmt.Reader) -> Accepted:
        done = False
        for event in reader.events():
            if isinstance(event, fmt.Leaf):
                self._leaf(event)
            elif isinstance(event, fmt.End):
                done = (event.splits, event.leaves) == (self.splits, self.leaves)
            else:
                self.splits += 1
                for child in self._made(event):
                    self._put(self.next, child)
                    self.next += 1
        self._flush()
        if not done:
            raise Rejected(f"the proof announces other numbers than {self.splits} splits and {self.leaves} leaves")
        left = {node: part for node, part in self.open.items() if part.row is None and self.prover.clauses(part)}
        if self.kind == fmt.TREE and left:
            node, part = next(iter(left.items()))
            raise Rejected(f"node {node} is open: no leaf covers {self._where(part)}")
        if self.kind == fmt.TREE:
            return Accepted("unsat", self.leaves, self.splits, len(self.queries))
        shares = [Fraction(1)] * len(self.queries)  # what is open is not claimed, as a whole, whatever else it decides
        for part in left.values():
            shares[part.query] = max(Fraction(0), shares[part.query] - self.prover.share(part))
        return Accepted("map", self.leaves, self.splits, len(self.queries), tuple(shares))

    def _take(self, node: int) -> Part:
        if node not in self.open and any(node == to for _, to in self.waiting.values()):
            self._flush()
        if node not in self.open:
            raise Rejected(f"node {node} is not open: it was never made, or was split or proven before")
        part = self.open.pop(node)
        self.open_size -= part.size
        if part.row is not None:
            del part.row.nodes[node]
        return part

    def _put(self, node: int, part: Part) -> None:
        self.open[node] = part
        self.open_size += part.size
        if part.row is not None:
            part.row.nodes[node] = part.least
            self.rows[part.row] = None
        if self.open_size > MOST_OPEN:
            size = f"{len(self.open)} open nodes with {self.open_size} ends of boxes and decided neurons"
            raise Unreadable(f"{size}, this checker holds at most {MOST_OPEN}")

    def _made(self, event: fmt.Split | fmt.RowTree | fmt.Tighten) -> list[Part]:
        """The nodes that an event makes."""
        if isinstance(event, fmt.Tighten):
            self._flush()
            self.prover.tighten({row: min(row.nodes.values()) for row in self.rows})
            self.rows.clear()
            return []
        if isinstance(event, fmt.RowTree):
            if event.query >= len(self.queries):
                raise Rejected(f"a row on the box of query {event.query}, which does not exist")
            row = TreeRow(event.query, *self._neuron("a row", event.tensor, event.neuron), 1 - 2 * event.side)
            return [Part(event.query, row=row)]
        return self._children(event, self._take(event.node))

    def _neuron(self, name: str, tensor: int, neuron: int) -> tuple[int, int]:
        """(Value of the Relu, neuron)."""
        if tensor >= len(self.tensors) or neuron >= self.prover.relus[self.tensors[tensor]].size:
            raise Rejected(f"{name} of neuron {neuron} of tensor {tensor}, which does not exist")
        return self.tensors[tensor], neuron

    def _children(self, event: fmt.Split, part: Part) -> list[Part]:
        if isinstance(event, fmt.InputSplit):
            below, above, j = self.prover.box(part), self.prover.box(part), event.coordinate
            if j >= below.shape[1]:
                raise Rejected(f"node {event.node}: a split of input {j}, which does not exist")
            low, high = below[:, j].tolist()
            if not low <= event.at <= high:
                raise Rejected(f"node {event.node}: input {j} is split at {event.at!r}, not in [{low!r}, {high!r}]")
            below[1, j] = above[0, j] = event.at
            return [self.prover.cut(part, below), self.prover.cut(part, above)]
        if isinstance(event, fmt.NeuronSplit):
            neuron = self._neuron(f"node {event.node}: a split", event.tensor, event.neuron)
            return [replace(part, signs=(*part.signs, (*neuron, side))) for side in (-1, 1)]
        if part.clause >= 0 or part.row is not None:
            raise Rejected(f"node {event.node}: its clauses were taken apart before, or it is about a row")
        return [replace(part, clause=c) for c in range(len(self.queries.clauses[part.query]))]

    def _leaf(self, leaf: fmt.Leaf) -> None:
        part, narrows = self._take(leaf.node), leaf.kind == "narrow"
        self.leaves += not narrows
        self.splits += narrows
        clauses, name = self.prover.clauses(part), f"{leaf.kind} of node {leaf.node}"
        if (leaf.kind in fmt.OF_ROWS) != (part.row is not None) or not math.isfinite(leaf.least):
            raise Rejected(f"{name}: only nodes that are about a row have bounds, of finite numbers, and nothing else")
        if leaf.kind == "line" and (part.signs or part.box is not None):
            raise Rejected(f"{name}: a line holds on a whole box, not on a part of it")
        rows = leaf.rows or tuple((c, ((0, 1.0),)) for c in range(len(clauses)))
        for c, picked in rows:
            size = len(clauses[c]) if c < len(clauses) else 0
            if not all(k < size and 0 <= w < math.inf for k, w in picked) or len(dict(picked)) < len(picked):
                raise Rejected(f"{name}: rows {picked} of clause {c} with {size} rows; each once, with a weight >= 0")
        if len(rows) > max(len(clauses), sum(map(len, clauses))) or len(set(rows)) < len(rows):
            raise Rejected(f"{name}: {len(rows)} rows, more than there are, or one of them twice")
        if len(leaf.beta) not in (0, len(part.signs)) or not all(0 <= b < math.inf for b in leaf.beta):
            raise Rejected(f"{name}: {len(leaf.beta)} multipliers for {len(part.signs)} decided neurons, all >= 0")
        sizes = [self.prover.relus[v].size for v in self.tensors]
        if leaf.slopes and [t.size for t in leaf.slopes] != sizes:
            raise Rejected(f"{name}: slopes that do not fit the tensors of the header")
        slopes = dict(zip(self.tensors, leaf.slopes, strict=True)) if leaf.slopes else part.slopes
        claim = Claim(part, rows, leaf.beta, slopes, leaf.intervals, leaf.kind, leaf.least)
        self.waiting[leaf.node] = claim, leaf.node if part.row is not None else self.next
        self.next += narrows
        named = sum(len(picked) for _, picked in rows)
        self.waiting_size += part.size + sum(t.size for t in slopes.values()) + ROW_SIZE * named
        if len(self.waiting) >= BATCH or self.waiting_size > MOST_WAITING:
            self._flush()

    def _flush(self) -> None:
        waiting, self.waiting, self.waiting_size = self.waiting, {}, 0
        found = self.prover.prove([claim for claim, _ in waiting.values()])
        for (node, (claim, to)), margin in zip(waiting.items(), found, strict=True):
            if not margin.least > 0 and claim.kind != "narrow":
                where = self._where(claim.part)
                raise Rejected(f"node {node}: the bound {margin.least:.3g} is not positive on {where}")
            if claim.kind == "line":
                self.prover.keep(claim, margin)
            if margin.part is not None:
                self._put(to, margin.part)

    def _where(self, part: Part) -> str:
        whole = self.queries.lower[part.query], self.queries.upper[part.query]
        low, high = self.prover.box(part)
        moved = np.flatnonzero((low > whole[0]) | (high < whole[1]))[:8].tolist()
        cuts = ", ".join(f"X_{j} in [{float(low[j])!r}, {float(high[j])!r}]" for j in moved)
        signs = f", {len(part.signs)} decided neurons" if part.signs else ""
        clause = f", clause {part.clause}" if part.clause >= 0 else ""
        return f"query {part.query}{clause}: {cuts or 'the whole box'}{signs}"


def check_witness(network: CheckedNetwork, queries: Queries, x: Array) -> Accepted:
    """Accepts an input whose outputs satisfy a clause for certain, rounding included.

    Raises:
        Rejected: it lies outside of the set, or its outputs do not.
    """
    if x.shape != (network.inputs,) or not np.isfinite(x).all():
        raise Rejected(f"a witness with {x.size} finite numbers was expected for {network.inputs} inputs")
    form, at = queries.form, 0
    for size, dtype in network.dtypes:
        own, at = x[at : at + size], at + size
        if dtype.kind in "iu":
            least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
            if ((own != np.round(own)) | (own < float(least)) | (own >= float(most) + 1)).any():
                raise Rejected(f"the witness has other numbers than those of {dtype}, which the network reads there")
    cases = form.cases_of(x).tolist()
    if not cases:
        raise Rejected("the witness lies outside of every box of the specification")
    with contextlib.suppress(Unreadable):  # nothing is rounded on a small network
        network = network.in_fractions()
    point = network.arithmetic.of(x[None])
    rows = sweep(network, point, point).then(Prover(network, queries).asked(np.arange(len(queries.rhs))))
    low, high = rows.low[-1][0].tolist(), rows.high[-1][0].tolist()
    if not all(map(math.isfinite, (*low, *high))):
        raise Rejected("the witness has no finite outputs")
    ranges, open_ = list(zip(low, high, form.row_strict.tolist(), strict=True)), ""
    for q in cases:
        for c, clause in enumerate(queries.clauses[q]):
            known = [ranges[r] for r in clause]
            if all(top < 0 or (top == 0 and not strict) for _, top, strict in known):
                return Accepted("sat", 0, 0, len(queries))
            if all(bottom <= 0 for bottom, _, _ in known):
                bottom, top, _ = max(known, key=lambda r: r[1])
                between = f"[{float(bottom):.3g}, {float(top):.3g}]"
                open_ = f"; clause {c} of query {q} is decided by rounding: row - limit in {between}"
    raise Rejected(f"the witness satisfies no clause for certain, over the reals{open_}")
