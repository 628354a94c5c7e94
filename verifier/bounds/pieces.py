"""A box of a small network decided outright, in fractions: piece by piece, on each of which the network is affine.

A bound that meets its limit exactly may need a lower slope strictly between those of a hinge's two sides
(2 relu(x) + relu(-x) >= 0 needs 1/2), and no split of inputs ends at the kink. With the sign of every open neuron
chosen (neuron splits: Bunel et al. 2020) there is nothing left to relax: whether a clause holds somewhere on the piece
is a linear program, which is solved over the rationals. So the answer is exact: multipliers that refute the clause on
every piece, or a point where it holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from verifier.bounds.rational import ExactLinear, HingePlanes, Rational, RationalBox, Vector
from verifier.problem.rows import RowTable
from verifier.tolerance import TIED

MOST_PRODUCTS = 200_000
"""Multiply-adds, in fractions, that the pieces of a box may cost: some tenths of a second."""

MOST_PIECES = 256

CLEAR = Fraction(TIED)
"""Share of its reach by which a neuron has to be off 0 to have a sign for floating point."""

Neuron = tuple[int, int]
"""The hinge (number of its operator) and the element."""

InputForm = tuple[Fraction, ...]
"""A linear function of the inputs: its coefficients, and last its constant."""


@dataclass(frozen=True)
class PieceLeaf:
    """Why a clause holds nowhere on a piece: its `rows` (place in the clause) with these weights, and its decided
    neurons, whose arguments times their sides are >= 0, with these multipliers taken off, are nowhere below 0."""

    rows: Mapping[int, Fraction]
    sides: Mapping[Neuron, Fraction]


@dataclass(frozen=True)
class PieceSplit:
    """A neuron that is decided: argument <= 0 `below`, >= 0 `above`."""

    neuron: Neuron
    below: PieceLeaf | PieceSplit
    above: PieceLeaf | PieceSplit


Pieces = PieceLeaf | PieceSplit


class TooMany(Exception):
    """Too many pieces."""


def of_a_piece(multiply_adds: int, inputs: int) -> float:
    """What one piece costs: affine forms of all inputs, and a small linear program."""
    return (inputs + 1) * multiply_adds + 10.0 * (inputs + 1) ** 3


def affordable(products: float, unstable: int) -> bool:
    """Whether a box with so many open neurons is worth it: one piece costs `products` multiply-adds."""
    return unstable < MOST_PIECES.bit_length() and products * 2.0**unstable <= MOST_PRODUCTS


@dataclass(frozen=True, eq=False)
class PieceQuestion:
    """Whether all `rows` (coefficients of outputs, of inputs, limit; strict) can hold on a box where the neurons in
    `given` have these sides (1 or -1). Step i of the network makes value i + 1 from the values `sources[i]` (0: the
    inputs); `planes` are those of its hinges on the box. Without them only neurons count as decided whose sign affine
    forms in floating point see, too."""

    steps: Sequence[ExactLinear | Fraction]
    sources: Sequence[Sequence[int]]
    output: int
    box: RationalBox
    rows: Sequence[tuple[tuple[Vector, Vector, Fraction], bool]]
    given: Mapping[Neuron, int]
    planes: Mapping[int, HingePlanes] | None = None


def question(
    rational: Rational,
    box: RationalBox,
    planes: Mapping[int, HingePlanes] | None,
    table: RowTable,
    query: int,
    clause: int,
    given: Mapping[Neuron, int],
) -> PieceQuestion:
    """That of a clause of the search on a box."""
    places = rational.places(table, query, clause)
    rows = [(rational.total(table, query, (k,)), bool(table.strict[query, k])) for k in places]
    return PieceQuestion(rational.steps, rational.sources, rational.output, box, rows, given, planes)


def decide(asked: PieceQuestion) -> Pieces | Vector | None:
    """Why no point of the box satisfies all rows, or a point that does; None where there are too many pieces, no rows,
    or coefficients that are not known exactly."""
    linear = [step for step in asked.steps if isinstance(step, ExactLinear)]
    if any(any(step.error) for step in linear) or not asked.rows or any(low > high for low, high in asked.box):
        return None
    multiply_adds = sum(len(row) for step in linear for matrix in step.matrices for row in matrix)
    most = min(MOST_PIECES, int(MOST_PRODUCTS / of_a_piece(multiply_adds, len(asked.box))))
    try:
        return _Search(asked, most).explore(0, {0: _inputs(len(asked.box))}, {})
    except TooMany:
        return None


@dataclass(eq=False)
class _Search:
    """Decides neurons in the order of the network, until none is open."""

    asked: PieceQuestion
    most: int
    pieces: int = 1

    def explore(
        self, start: int, forms: Mapping[int, list[InputForm]], sides: Mapping[Neuron, tuple[int, InputForm]]
    ) -> Pieces | Vector:
        """From operator `start` on: the values before it are `forms`, the decided neurons have these sides and
        arguments. The tree, or a point of a violation."""
        asked, forms = self.asked, dict(forms)
        for i in range(start, len(asked.steps)):
            step, own = asked.steps[i], [forms[s] for s in asked.sources[i]]
            if isinstance(step, ExactLinear):
                forms[i + 1] = _image(step, own, len(asked.box))
                continue
            out = []
            for j, form in enumerate(own[0]):
                if (i, j) in asked.given:
                    sides = {**sides, (i, j): (asked.given[i, j], form)}
                side = sides[i, j][0] if (i, j) in sides else self._side(i, j, form)
                if side == 0:
                    return self._split(i, j, form, forms, sides)
                out.append(form if side > 0 else tuple(step * v for v in form))
            forms[i + 1] = out
        return self._leaf(forms[asked.output], sides)

    def _split(
        self,
        i: int,
        j: int,
        form: InputForm,
        forms: Mapping[int, list[InputForm]],
        sides: Mapping[Neuron, tuple[int, InputForm]],
    ) -> Pieces | Vector:
        self.pieces += 1
        if self.pieces > self.most:
            raise TooMany
        found = []
        for side in (-1, 1):
            part = self.explore(i, forms, {**sides, (i, j): (side, form)})
            if isinstance(part, list):
                return part
            found.append(part)
        return PieceSplit((i, j), *found)

    def _side(self, i: int, j: int, form: InputForm) -> int:
        """1 or -1 where the neuron has a sign of its own on the box, else 0."""
        low, high = _range(form, self.asked.box)
        planes = self.asked.planes
        spare = CLEAR * max(abs(low), abs(high)) if planes is None else 0
        if low > spare or high < -spare:
            return 1 if low > spare else -1
        if planes is None or planes[i].low[j] != planes[i].high[j]:
            return 0
        return 1 if planes[i].low[j][0] == 1 else -1

    def _leaf(self, outputs: list[InputForm], sides: Mapping[Neuron, tuple[int, InputForm]]) -> Pieces | Vector:
        constraints = []
        for (over, inputs, limit), strict in self.asked.rows:
            parts = [[a * v for v in f] for a, f in zip(over, outputs, strict=True) if a]
            row = [sum(column, Fraction(0)) for column in zip([*inputs, -limit], *parts, strict=True)]
            constraints.append((row, strict))
        constraints += [([-side * v for v in form], False) for side, form in sides.values()]
        point, weights = exclude(constraints, self.asked.box)
        if weights is None:
            assert point is not None
            return point
        count = len(self.asked.rows)
        return PieceLeaf(
            {k: w for k, w in enumerate(weights[:count]) if w},
            {neuron: w for neuron, w in zip(sides, weights[count:], strict=True) if w},
        )


def _inputs(n: int) -> list[InputForm]:
    return [tuple(Fraction(i == j) for j in range(n + 1)) for i in range(n)]


def _image(step: ExactLinear, xs: list[list[InputForm]], n: int) -> list[InputForm]:
    result = []
    for j, constant in enumerate(step.constant):
        total = [Fraction(0)] * n + [constant]
        for matrix, x in zip(step.matrices, xs, strict=True):
            for k, w in matrix[j]:
                total = [a + w * b for a, b in zip(total, x[k], strict=True)]
        result.append(tuple(total))
    return result


def _range(form: InputForm, box: RationalBox) -> tuple[Fraction, Fraction]:
    low = high = form[-1]
    for a, ends in zip(form, box, strict=False):
        two = a * ends[0], a * ends[1]
        low, high = low + min(two), high + max(two)
    return low, high


def exclude(constraints: Sequence[tuple[Vector, bool]], box: RationalBox) -> tuple[Vector | None, Vector | None]:
    """A point x of the box with  a . x + c <= 0  (< 0 where strict) for all constraints (a and c, strict), or
    multipliers whose combination of them is positive on the whole box, or at least 0 with a strict one in it."""
    every = [row for row, _ in constraints]
    value, point, weights = _ascend(every, list(range(len(every))), box)
    if value > 0:
        return None, weights
    strict = [j for j, (_, is_strict) in enumerate(constraints) if is_strict]
    if value == 0 and strict:
        value, point, weights = _ascend(every, strict, box)
        if value >= 0:
            return None, weights
    return point, None


def _ascend(rows: list[Vector], weighted: list[int], box: RationalBox) -> tuple[Fraction, Vector, Vector]:
    """The largest least value on the box of a combination of rows, the multipliers of the `weighted` ones adding up to
    1: the value, a point where it is attained by all rows at most, and the multipliers.

    The simplex method over the rationals with the rule of Bland (1977), so it ends: multipliers w, and u - v the
    coefficients of their combination, maximise  w . c + u . low - v . high. (With `weighted` some of the rows, no
    combination of the others may be positive on the box.)
    """
    n, count = len(box), len(rows)
    first = weighted[0]
    cost = [r[-1] for r in rows] + [low for low, _ in box] + [-high for _, high in box]
    norm = [Fraction(j in set(weighted)) for j in range(count)] + [Fraction(0)] * (2 * n)
    table, basis = [[*norm, Fraction(1)]], [first]
    for i in range(n):
        up = rows[first][i] >= 0  # u_i is in the basis, else v_i
        line = [r[i] for r in rows] + [Fraction(0)] * (2 * n + 1)
        line[count + i], line[count + n + i] = Fraction(-1), Fraction(1)
        line = [-a for a in line] if up else line
        factor = line[first]
        table.append([a - factor * b for a, b in zip(line, table[0], strict=True)])
        basis.append(count + i if up else count + n + i)
    while True:
        gain = [c - sum(cost[b] * line[j] for b, line in zip(basis, table, strict=True)) for j, c in enumerate(cost)]
        entering = next((j for j, g in enumerate(gain) if g > 0), None)
        if entering is None:
            break
        ratios = [(line[-1] / line[entering], basis[k], k) for k, line in enumerate(table) if line[entering] > 0]
        leaving = min(ratios)[2]
        pivot = [a / table[leaving][entering] for a in table[leaving]]
        table = [
            pivot if k == leaving else [a - line[entering] * b for a, b in zip(line, pivot, strict=True)]
            for k, line in enumerate(table)
        ]
        basis[leaving] = entering
    weights = [Fraction(0)] * len(cost)
    for b, line in zip(basis, table, strict=True):
        weights[b] = line[-1]
    value = sum((w * c for w, c in zip(weights, cost, strict=True)), Fraction(0))
    return value, [low - gain[count + i] for i, (low, _) in enumerate(box)], weights[:count]
