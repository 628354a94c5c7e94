"""Bounds of small networks in fractions: for boxes on which a bound meets 0 exactly and rounding cannot decide.

The walk is that of `bounds/backward.py` (CROWN: Zhang et al. 2018, with the adaptive lower slope), over the rationals:
weights and boxes are the stored numbers as fractions, so nothing is rounded, a tie is a tie. The rows of a clause are
combined before they are walked back; of rows that contradict each other (y < 1 and y >= 1) nothing is left to relax. It
costs about a microsecond a multiply-add, so it is for small networks and few boxes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import combinations

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.budget import never
from verifier.ops.kinds import LinearOp
from verifier.ops.maximum import ReduceMax
from verifier.ops.piecewise import Abs, Clip, LeakyRelu, Relu
from verifier.problem.rows import RowTable

MOST_PRODUCTS = 20_000
"""Multiply-adds of the largest network that is written down."""

MOST_ROWS = 40
"""Unstable neurons whose own bounds are walked back."""

TURNS = 6
"""Choices of lower slopes that are tried for a sum of rows."""

Vector = list[Fraction]
Entries = list[list[tuple[int, Fraction]]]  # by output element: (input element, weight)
RationalBox = list[tuple[Fraction, Fraction]]  # by input: lower and upper end


@dataclass(frozen=True, eq=False)
class ExactLinear:
    """y = sum_s matrices[s] x_s + constant +- error."""

    matrices: tuple[Entries, ...]
    constant: Vector
    error: Vector


@dataclass(frozen=True, eq=False)
class HingePlanes:
    """Per element: slope and offset below, slope and offset above."""

    low: list[tuple[Fraction, Fraction]]
    high: list[tuple[Fraction, Fraction]]


@dataclass(frozen=True)
class Refutation:
    """Why a clause is impossible: the sum of these of its `rows`, with these lower `slopes` of every operator that is a
    single hinge."""

    rows: tuple[int, ...]
    slopes: dict[int, list[Fraction]]


ExactStep = ExactLinear | Fraction
"""A linear operator, or a hinge by its slope left of 0."""


@dataclass(frozen=True, eq=False)
class Rational:
    """A network of linear operators, Relu, LeakyRelu, Abs, Clip and maxima in fractions: step i makes value i + 1, of
    `sizes[i + 1]` numbers, from the values `sources[i]` (0: the inputs). `hinges` are the steps of operators that are
    one."""

    network: Network
    steps: Sequence[ExactStep]
    sources: Sequence[Sequence[int]]
    sizes: Sequence[int]
    output: int
    hinges: Mapping[int, int]

    @staticmethod
    def of(network: Network) -> Rational | None:
        """None where the network is too large, has other operators, or weights that had to be rounded."""
        elements = sum(math.prod(shape) for shape in network.shapes)
        if max(network.multiply_adds, elements) > MOST_PRODUCTS or network.dtype != torch.float64:
            return None
        found, values, hinges = _Steps([network.n]), [0], {}
        for i, op in enumerate(network.ops):
            if "roundings" in op.params:
                return None
            xs = [values[s] for s in network.sources[i]]
            if isinstance(op, LinearOp):
                values.append(found.add(_written(op, network.device), xs, network.size(i + 1)))
            elif isinstance(op, Relu | Abs | LeakyRelu):
                slope = 0 if isinstance(op, Relu) else -1 if isinstance(op, Abs) else op.node.number("alpha")
                if slope > 1:
                    return None
                hinges[i] = len(found.steps)
                values.append(found.add(Fraction(slope), xs, network.size(i + 1)))
            elif isinstance(op, Clip):
                values.append(found.clipped(xs[0], op.node.number("min"), op.node.number("max")))
            elif isinstance(op, ReduceMax):
                values.append(found.largest(xs[0], op.groups()))
            else:
                return None
        return Rational(network, found.steps, found.sources, found.sizes, values[network.output], hinges)

    def refuted(
        self,
        box: RationalBox,
        swept: dict[int, HingePlanes],
        table: RowTable,
        query: int,
        clause: int,
        stop: Callable[[], bool] = never,
    ) -> Refutation | None:
        """Why no point of the box, with the planes `swept` of its hinges, satisfies all rows of the clause: a sum of
        some of them is positive everywhere, or at least 0 with a strict row in it. None where that is not found before
        `stop()` says so: a clause of many rows has many pairs."""
        places = self.places(table, query, clause)
        if not places or any(a > b for a, b in box):
            return None
        for size in sorted({1, 2, len(places)} & set(range(1, len(places) + 1))):
            for chosen in combinations(places, size):
                if stop():
                    return None
                strict = any(bool(table.strict[query, k]) for k in chosen)
                planes = swept
                for turn in range(TURNS):
                    least, row = self._least(box, planes, table, query, chosen)
                    if least > 0 or (least == 0 and strict):
                        slopes = {i: [low[0] for low in planes[at].low] for i, at in self.hinges.items()}
                        return Refutation(tuple(places.index(k) for k in chosen), slopes)
                    planes = self._answer(swept, turn, row, box)
        return None

    @staticmethod
    def box(lower: Tensor, upper: Tensor) -> RationalBox:
        """The ends (n,) of a box."""
        return [(Fraction(a), Fraction(b)) for a, b in zip(lower.tolist(), upper.tolist(), strict=True)]

    @staticmethod
    def places(table: RowTable, query: int, clause: int) -> list[int]:
        """Where the rows of a clause stand in the table."""
        return [
            k
            for k, c in enumerate(table.clause[query].tolist())
            if c == clause and math.isfinite(float(table.rhs[query, k]))
        ]

    def total(self, table: RowTable, query: int, chosen: Sequence[int]) -> tuple[Vector, Vector, Fraction]:
        """The sum of some rows of the table: coefficients of outputs, of inputs, and right-hand sides."""
        row, mixed, rhs = [Fraction(0)] * self.network.m, [Fraction(0)] * self.network.n, Fraction(0)
        for k in chosen:
            at = int(table.row[query, k])
            row[at] += 1
            rhs += Fraction(float(table.rhs[query, k]))
            if table.mixed is not None:
                mixed = [a + Fraction(b) for a, b in zip(mixed, table.mixed[at].tolist(), strict=True)]
        return row, mixed, rhs

    def _answer(
        self, planes: dict[int, HingePlanes], turn: int, row: Vector, box: RationalBox
    ) -> dict[int, HingePlanes]:
        """Other lower slopes of open neurons: the least at turn 0, 1 at turn 1, then at every turn what is best for the
        point of the box where the last row was least."""
        values = None
        if turn > 1:
            values = self._values([low if a >= 0 else high for a, (low, high) in zip(row, box, strict=True)])
        found = {}
        for i, own in planes.items():
            step, low = self.steps[i], list(own.low)
            assert isinstance(step, Fraction)
            for j, (below, above) in enumerate(zip(own.low, own.high, strict=True)):
                if above != below:  # open
                    up = turn == 1 if values is None else values[self.sources[i][0]][j] > 0
                    low[j] = (Fraction(1) if up else step), Fraction(0)
            found[i] = replace(own, low=low)
        return found

    def _values(self, x: Vector) -> list[Vector]:
        """All values at a point."""
        values = [x]
        for step, sources in zip(self.steps, self.sources, strict=True):
            if isinstance(step, ExactLinear):
                points = [[(a, a) for a in values[s]] for s in sources]
                values.append([(low + high) / 2 for low, high in _image(step, points)])
            else:
                values.append([_hinge_image(step, a, a)[0] for a in values[sources[0]]])
        return values

    def _least(
        self, box: RationalBox, planes: dict[int, HingePlanes], table: RowTable, query: int,
        chosen: Sequence[int],
    ) -> tuple[Fraction, Vector]:  # fmt: skip
        """A lower bound of the sum of some rows, right-hand sides taken off, and its coefficients."""
        row, mixed, rhs = self.total(table, query, chosen)
        coefficients, constant = self._walk(self.output, row, planes)
        coefficients = [a + b for a, b in zip(coefficients, mixed, strict=True)]
        return _minimum(coefficients, box) + constant - rhs, coefficients

    def planes(self, box: RationalBox) -> dict[int, HingePlanes]:
        """The planes of all hinges on the box."""
        values: dict[int, list[tuple[Fraction, Fraction]]] = {0: box}
        planes: dict[int, HingePlanes] = {}
        walked = 0
        for i, (step, sources) in enumerate(zip(self.steps, self.sources, strict=True)):
            if isinstance(step, ExactLinear):
                values[i + 1] = _image(step, [values[s] for s in sources])
                continue
            bounds = values[sources[0]]
            for j, (low, high) in enumerate(bounds):
                if low < 0 < high and planes and walked < MOST_ROWS:
                    walked += 1
                    unit = [Fraction(0)] * len(bounds)
                    unit[j] = Fraction(1)
                    below = self._bound(sources[0], unit, planes, box)
                    unit[j] = Fraction(-1)
                    bounds[j] = max(low, below), min(high, -self._bound(sources[0], unit, planes, box))
            planes[i] = _hinges(step, bounds)
            values[i + 1] = [_hinge_image(step, low, high) for low, high in bounds]
        return planes

    def _bound(self, slot: int, row: Vector, planes: dict[int, HingePlanes], box: RationalBox) -> Fraction:
        coefficients, constant = self._walk(slot, row, planes)
        return _minimum(coefficients, box) + constant

    def _walk(self, slot: int, row: Vector, planes: dict[int, HingePlanes]) -> tuple[Vector, Fraction]:
        """A row over the value in `slot` as a row over the input that is nowhere above it, and its constant."""
        pending: dict[int, Vector] = {slot: row}
        constant = Fraction(0)
        for i in range(slot - 1, -1, -1):
            if i + 1 not in pending:
                continue
            row, step = pending.pop(i + 1), self.steps[i]
            sources = self.sources[i]
            if isinstance(step, ExactLinear):
                constant += sum((a * c - abs(a) * e for a, c, e in zip(row, step.constant, step.error, strict=True)), 0)
                parts = [_back(m, row, self.sizes[s]) for m, s in zip(step.matrices, sources, strict=True)]
            else:
                part = []
                for a, low, high in zip(row, planes[i].low, planes[i].high, strict=True):
                    slope, offset = low if a >= 0 else high
                    part.append(a * slope)
                    constant += a * offset
                parts = [part]
            for s, part in zip(sources, parts, strict=True):
                pending[s] = part if s not in pending else [a + b for a, b in zip(pending[s], part, strict=True)]
        return pending.get(0, [Fraction(0)] * self.network.n), constant


@dataclass(eq=False)
class _Steps:
    """Steps that are put together, and what they make: `sizes` of all values."""

    sizes: list[int]
    steps: list[ExactStep] = field(default_factory=list)
    sources: list[list[int]] = field(default_factory=list)

    def add(self, step: ExactStep, sources: list[int], size: int) -> int:
        """The value that a step makes."""
        self.steps.append(step)
        self.sources.append(sources)
        self.sizes.append(size)
        return len(self.steps)

    def relu(self, x: int) -> int:
        return self.add(Fraction(0), [x], self.sizes[x])

    def sum(self, terms: Sequence[tuple[int, int, Sequence[int]]], constant: float = 0.0) -> int:
        """The sum of elements of values, (value, 1 or -1, which), and a constant."""
        matrices = tuple([[(k, Fraction(sign))] for k in at] for _, sign, at in terms)
        size = len(terms[0][2])
        step = ExactLinear(matrices, [Fraction(constant)] * size, [Fraction(0)] * size)
        return self.add(step, [x for x, _, _ in terms], size)

    def clipped(self, x: int, low: float, high: float) -> int:
        """low + relu(x - low), then high - relu(high - x)."""
        for sign, end in ((1, low), (-1, high)):
            if math.isfinite(end):
                every = range(self.sizes[x])
                over = self.relu(self.sum([(x, sign, every)], -sign * end))
                x = self.sum([(over, sign, every)], end)
        return x

    def largest(self, x: int, groups: Tensor) -> int:
        """The largest of each row of elements `groups` (N, k): max(a, b) = b + relu(a - b), pair by pair."""
        columns: list[tuple[int, Sequence[int]]] = [(x, column) for column in groups.T.tolist()]
        while len(columns) > 1:
            (v, first), (w, second) = columns[:2]
            over = self.relu(self.sum([(v, 1, first), (w, -1, second)]))
            top = self.sum([(w, 1, second), (over, 1, range(len(groups)))])
            columns = [*columns[2:], (top, range(len(groups)))]
        return self.sum([(columns[0][0], 1, columns[0][1])])


def _written(op: LinearOp, device: torch.device) -> ExactLinear:
    """The matrices of a linear operator: every entry is one stored weight, found by unit vectors without rounding."""
    size = math.prod(op.out_shape)
    matrices = []
    for which, shape in enumerate(op.in_shapes):
        count = math.prod(shape)
        unit = torch.eye(count, dtype=torch.float64, device=device)
        given = [
            unit.reshape(count, *s) if k == which else torch.zeros(count, *s, dtype=torch.float64, device=device)
            for k, s in enumerate(op.in_shapes)
        ]
        columns = op.linear(*given).reshape(count, size).cpu()
        rows: Entries = [[] for _ in range(size)]
        for j, out in columns.nonzero().tolist():
            rows[out].append((j, Fraction(float(columns[j, out]))))
        matrices.append(rows)

    def vector(t: Tensor | None) -> Vector:
        if t is None:
            return [Fraction(0)] * size
        return [Fraction(v) for v in t.expand(op.out_shape).reshape(-1).tolist()]

    return ExactLinear(tuple(matrices), vector(op.offset()), vector(op.inexact()))


def _image(step: ExactLinear, xs: list[list[tuple[Fraction, Fraction]]]) -> list[tuple[Fraction, Fraction]]:
    result = []
    for j, (constant, error) in enumerate(zip(step.constant, step.error, strict=True)):
        low, high = constant - error, constant + error
        for matrix, x in zip(step.matrices, xs, strict=True):
            for k, w in matrix[j]:
                ends = w * x[k][0], w * x[k][1]
                low, high = low + min(ends), high + max(ends)
        result.append((low, high))
    return result


def _back(matrix: Entries, row: Vector, size: int) -> Vector:
    part = [Fraction(0)] * size
    for a, entries in zip(row, matrix, strict=True):
        if a:
            for k, w in entries:
                part[k] += a * w
    return part


def _hinge_image(slope: Fraction, low: Fraction, high: Fraction) -> tuple[Fraction, Fraction]:
    ends = tuple(x if x >= 0 else slope * x for x in (low, high))
    return min(*ends, *([Fraction(0)] if low < 0 < high else [])), max(ends)


def _hinges(slope: Fraction, bounds: list[tuple[Fraction, Fraction]]) -> HingePlanes:
    """Planes of max(x, 0) + slope min(x, 0), slope <= 1: convex, so below by a tangent, above by the chord."""
    low_planes, high_planes = [], []
    for low, high in bounds:
        if low >= 0:
            below = above = Fraction(1), Fraction(0)
        elif high <= 0:
            below = above = slope, Fraction(0)
        else:
            chord = (high - slope * low) / (high - low)
            above = chord, high - chord * high
            below = (Fraction(1) if high >= -low else slope), Fraction(0)
        low_planes.append(below)
        high_planes.append(above)
    return HingePlanes(low_planes, high_planes)


def _minimum(coefficients: Vector, box: RationalBox) -> Fraction:
    return sum((a * (low if a >= 0 else high) for a, (low, high) in zip(coefficients, box, strict=True)), Fraction(0))
