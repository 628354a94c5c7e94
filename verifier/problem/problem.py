"""Model + specification -> one problem over the inputs that can vary.

The specification's rows become the last linear operator of the network, so the network's output is z = C y, one element
per distinct row, and every question is about signs: row k of query q holds at x exactly when

    z[row[q, k]] + D[row[q, k]] . x  <=  rhs[q, k]           (< where strict)

A query is violated at x (the answer `sat`) when all rows of one of its clauses hold there.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from verifier.brief import brief
from verifier.errors import ProblemError
from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Graph, Node, unused

MAX_ROW_ELEMENTS = 200_000_000
"""Largest dense row matrix (rows x outputs) that is built."""


@dataclass(frozen=True, eq=False)
class Rows:
    """The output conditions of Q queries, padded to K rows: all arrays (Q, K).

    `row` indexes the network's output z (0 where padded), `rhs` is +inf where padded (the row always holds), `clause`
    is the local number of the clause, `clauses` (Q,) how many there are; padded rows belong to clause `clauses[q]` or
    beyond. `mixed` (R, n) is D, or None where no row mentions an input.
    """

    __repr__ = brief

    row: np.ndarray
    rhs: np.ndarray
    clause: np.ndarray
    strict: np.ndarray
    clauses: np.ndarray
    mixed: np.ndarray | None

    def of(self, queries: np.ndarray) -> Rows:
        """The conditions of these queries."""
        row, rhs, clause, strict, clauses = (
            t[queries] for t in (self.row, self.rhs, self.clause, self.strict, self.clauses)
        )
        return Rows(row, rhs, clause, strict, clauses, self.mixed)


@dataclass(frozen=True, eq=False)
class Asked:
    """z = matrix @ y[outputs], matrix (R, k) and outputs (k,), of the outputs y (m,) of `graph` as it was imported."""

    graph: Graph
    outputs: np.ndarray
    matrix: np.ndarray


@dataclass(frozen=True, eq=False)
class FixedValues:
    """Values that do not vary within a query: the outputs of `graph` at the inputs x[kept] of a full input x."""

    graph: Graph
    kept: np.ndarray

    def at(self, x: np.ndarray) -> np.ndarray:
        """The values (M, k) at full inputs (M, n_full)."""
        values = evaluate(self.graph, {self.graph.inputs[0]: x[:, self.kept]})
        return np.concatenate([values[name].reshape(len(x), -1) for name in self.graph.outputs], axis=1)


@dataclass(frozen=True, eq=False)
class Problem:
    """`graph` maps p (n,) to z (R,), p the varying inputs (k,) and what is `computed` from them once for each query;
    boxes `lower`, `upper` (Q, n) in float64.

    `free` (Q, d) lists the coordinates of each query that the specification lets vary (-1 pads); the others only carry
    the rounding of their fixed value. `base` (n_full,) and `kept` (k,) restore a full input: x = base, x[kept] = p[:k]
    (and where something is computed, the query's own numbers elsewhere), and at last x = x[first] where inputs equal
    others (see `tied_inputs`). `asked` is where it all comes from, before any
    simplification.
    """

    __repr__ = brief

    graph: Graph
    lower: np.ndarray
    upper: np.ndarray
    rows: Rows
    free: np.ndarray
    base: np.ndarray
    kept: np.ndarray
    asked: Asked
    computed: FixedValues | None = None
    first: np.ndarray | None = None

    @property
    def queries(self) -> int:
        """Number of queries Q."""
        return len(self.lower)

    def of(self, queries: np.ndarray) -> Problem:
        """The problem of these queries alone."""
        tables = {name: getattr(self, name)[queries] for name in ("lower", "upper", "free")}
        return replace(self, rows=self.rows.of(queries), **tables)

    def full(self, p: np.ndarray) -> np.ndarray:
        """Points (M, n) as full network inputs (M, n_full)."""
        x = np.repeat(self.base[None], len(p), axis=0)
        x[:, self.kept] = p[:, : len(self.kept)]
        return x if self.first is None else x[:, self.first]

    def parameters(self, x: np.ndarray) -> np.ndarray:
        """The way back: p (M, n) of full inputs (M, n_full)."""
        own = x[:, self.kept]
        return own if self.computed is None else np.concatenate([own, self.computed.at(x)], axis=1)


def varying(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Indices of the inputs that vary inside a query or between queries; at least one: a problem has an input."""
    free = (upper > lower).any(0) | (lower != lower[0]).any(0) if len(lower) else np.zeros(lower.shape[1], bool)
    if not free.any():
        free[0] = True
    return np.flatnonzero(free)


def free_inputs(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Indices (Q, d) of the inputs with width, per query; -1 where a query has fewer than the most."""
    return columns(upper > lower)


def columns(marks: np.ndarray) -> np.ndarray:
    """The marked columns (Q, d) of every row, d >= 1; -1 where a row has fewer than the most."""
    d = max(1, int(marks.sum(1).max(initial=0)))
    order = np.argsort(~marks, axis=1, kind="stable")[:, :d]
    return np.where(np.take_along_axis(marks, order, 1), order, -1).astype(np.int64)


def append_rows(graph: Graph, matrix: np.ndarray) -> Graph:
    """`graph` (y of shape (m,)) followed by z = matrix @ y, matrix (R, m).

    Rows with one entry each become a selection and a scaling, which costs nothing for wide outputs.
    """
    y = graph.outputs[0]
    shapes = dict(graph.shapes)
    z = unused("z", shapes)
    shapes[z] = (len(matrix),)
    nonzero = matrix != 0
    if (nonzero.sum(1) <= 1).all():
        index = nonzero.argmax(1).astype(np.int64)
        factor = matrix[np.arange(len(matrix)), index]
        taken = unused("z/taken", shapes)
        nodes = [
            Node("Take", (y,), taken, {"indices": index}, {"axis": 0}, "specification"),
            Node("Scale", (taken,), z, {"factor": factor}, {}, "specification"),
        ]
        shapes[taken] = (len(matrix),)
    else:
        nodes = [Node("Dense", (y,), z, {"weight": matrix}, {}, "specification")]
    return Graph(graph.inputs, (z,), graph.nodes + tuple(nodes), shapes)


_Sparse = tuple[tuple[int, float], ...]


@dataclass(frozen=True, eq=False)
class Condition:
    """One row of the joint space: `y` and `x` are sparse (index, value) parts of  y . Y + x . X <= rhs."""

    y: tuple[tuple[int, float], ...]
    x: tuple[tuple[int, float], ...]
    rhs: float
    strict: bool


def remaining(rhs: float, terms: Iterable[tuple[float, float]]) -> float:
    """rhs - sum of the products: exact, or rounded up to the next float64 number."""
    if math.isinf(rhs):
        return rhs
    exact = Fraction(rhs) - sum((Fraction(a) * Fraction(b) for a, b in terms), Fraction(0))
    try:
        value = float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -sys.float_info.max
    return value if Fraction(value) >= exact else math.nextafter(value, math.inf)


def stack_rows(
    conditions: list[Condition],
    clauses_of: list[list[list[int]]],
    n_outputs: int,
    column: Callable[[int], int | None],
    base: np.ndarray,
    n: int,
) -> tuple[np.ndarray, Rows]:
    """Distinct linear parts as a matrix (R, m), and the padded tables.

    `clauses_of[q][c]` lists condition numbers; `column(i)` is the position of input i among the varying inputs, or None
    where it is fixed to `base[i]` (then it moves into the right-hand side, exactly or rounded up: that can only add
    violations).
    """
    keys: dict[tuple[_Sparse, _Sparse], int] = {}
    number: list[int] = []
    constant: list[float] = []
    for condition in conditions:
        moving = tuple((j, v) for i, v in condition.x if (j := column(i)) is not None)
        constant.append(remaining(condition.rhs, ((v, base[i]) for i, v in condition.x if column(i) is None)))
        number.append(keys.setdefault((condition.y, moving), len(keys)))
    count = max(1, len(keys))
    if count * n_outputs > MAX_ROW_ELEMENTS:
        raise ProblemError(
            f"{count} different output rows over {n_outputs} outputs are more than this tool expands "
            f"(limit {MAX_ROW_ELEMENTS} coefficients); split the specification"
        )
    matrix = np.zeros((count, n_outputs))
    mixed = np.zeros((count, n)) if any(moving for _, moving in keys) else None
    for (y_part, x_part), r in keys.items():
        for j, v in y_part:
            matrix[r, j] = v
        for j, v in x_part:
            assert mixed is not None
            mixed[r, j] = v
    q = len(clauses_of)
    width = max([1, *(sum(len(c) for c in clauses) for clauses in clauses_of)])
    row = np.zeros((q, width), np.int64)
    rhs = np.full((q, width), np.inf)
    strict = np.zeros((q, width), bool)
    counts = np.array([len(clauses) for clauses in clauses_of], np.int64)
    clause = np.repeat(counts[:, None], width, 1)
    for i, clauses in enumerate(clauses_of):
        k = 0
        for c, members in enumerate(clauses):
            for member in members:
                row[i, k], rhs[i, k] = number[member], constant[member]
                strict[i, k], clause[i, k] = conditions[member].strict, c
                k += 1
    return matrix, Rows(row, rhs, clause, strict, counts, mixed)
