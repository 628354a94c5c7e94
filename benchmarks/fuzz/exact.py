"""Networks of affine maps and ReLUs as exact real functions, and what is true about them, in fractions.

A value is an `Affine` over inputs and ReLUs, in the order in which the ReLUs were made. That is enough for |x|,
LeakyRelu, Clip and maxima, which are sums of ReLUs. Nothing here is shared with the verifier.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cmp_to_key
from typing import Literal

Number = Fraction
Point = tuple[Fraction, ...]
MOST_REGIONS = 4000
"""Parts of the plane that `decide` follows before it gives up."""


@dataclass(frozen=True)
class Affine:
    """constant + the sum of terms[v] times variable v: input v, or ReLU number v - n behind the n inputs."""

    terms: dict[int, Fraction]
    constant: Fraction = Fraction(0)

    def __add__(self, other: Affine) -> Affine:
        terms = dict(self.terms)
        for v, c in other.terms.items():
            terms[v] = terms.get(v, Fraction(0)) + c
        return Affine({v: c for v, c in terms.items() if c}, self.constant + other.constant)

    def times(self, factor: Fraction) -> Affine:
        return Affine({v: c * factor for v, c in self.terms.items()} if factor else {}, self.constant * factor)

    def plus(self, number: Fraction) -> Affine:
        return Affine(self.terms, self.constant + number)

    def at(self, values: Sequence[Fraction]) -> Fraction:
        return sum((c * values[v] for v, c in self.terms.items()), self.constant)


@dataclass
class Tape:
    """`n` inputs and the arguments of the ReLUs, in order."""

    n: int
    relus: list[Affine] = field(default_factory=list)

    def input(self, k: int) -> Affine:
        return Affine({k: Fraction(1)})

    def relu(self, x: Affine) -> Affine:
        if not x.terms:
            return Affine({}, max(x.constant, Fraction(0)))
        self.relus.append(x)
        return Affine({self.n + len(self.relus) - 1: Fraction(1)})

    def maximum(self, a: Affine, b: Affine) -> Affine:
        return b + self.relu(a + b.times(Fraction(-1)))

    def values(self, point: Iterable[Fraction]) -> list[Fraction]:
        """Inputs, then the ReLUs."""
        found = list(point)
        for argument in self.relus:
            found.append(max(argument.at(found), Fraction(0)))
        return found


@dataclass(frozen=True)
class Row:
    """`value` <= 0, or < 0 where strict."""

    value: Affine
    strict: bool

    def holds(self, values: Sequence[Fraction]) -> bool:
        found = self.value.at(values)
        return found < 0 or (found == 0 and not self.strict)


class TooLong(Exception):
    """More than `MOST_REGIONS` parts."""


@dataclass(frozen=True)
class Area:
    """Where up to two numbers vary: the corners of a convex polygon (a segment, a point), in order around it, and the
    tape's inputs over them."""

    corners: tuple[Point, ...]
    inputs: tuple[Affine, ...]

    @staticmethod
    def of_box(lower: Sequence[Fraction], upper: Sequence[Fraction]) -> Area | None:
        """A box of which at most two inputs vary; None for others."""
        free = [k for k, (lo, hi) in enumerate(zip(lower, upper, strict=True)) if lo != hi]
        if len(free) > 2:
            return None
        corners: list[Point] = [()]
        for k in free:
            corners = [(*c, end) for c in corners for end in (lower[k], upper[k])]
        if len(free) == 2:
            corners = [corners[0], corners[1], corners[3], corners[2]]  # around
        return Area(tuple(corners), tuple(_input(k, free, lower) for k in range(len(lower))))

    @staticmethod
    def of_image(matrix: Sequence[Sequence[Fraction]], lower: Sequence[Fraction], upper: Sequence[Fraction]) -> Area:
        """What a matrix of two rows makes of a box: its corners are found going around by the angles of the sides."""
        sides = [(p * (b - a), q * (b - a)) for p, q, a, b in zip(*matrix, lower, upper, strict=True)]
        sides = [(-p, -q) if (q, p) < (0, 0) else (p, q) for p, q in sides if p or q]
        sides.sort(key=cmp_to_key(_turn))  # all in the upper half plane
        lowest = [  # and of several that are, the one furthest to the left
            a if (q, p) >= (0, 0) else b for p, q, a, b in zip(*matrix, lower, upper, strict=True)
        ]
        at = tuple(sum((c * v for c, v in zip(row, lowest, strict=True)), Fraction(0)) for row in matrix)
        corners = [at]
        for p, q in [*sides, *((-p, -q) for p, q in sides)]:
            at = at[0] + p, at[1] + q
            corners.append(at)
        return Area(tuple(dict.fromkeys(corners)), (Affine({0: Fraction(1)}), Affine({1: Fraction(1)})))

    def whole(self, point: Point) -> Point:
        """The tape's inputs at a point of the polygon."""
        return tuple(value.at(point) for value in self.inputs)


def _turn(one: Point, two: Point) -> int:
    """Negative where `two` is counterclockwise of `one`."""
    cross = two[0] * one[1] - one[0] * two[1]
    return (cross > 0) - (cross < 0)


def parts(tape: Tape, area: Area) -> Iterator[tuple[list[Point], list[Affine]]]:
    """The area cut at every ReLU's kink into polygons with vertices in fractions, on each of which the network is
    affine: their corners, and the tape's values over them.

    Raises:
        TooLong: there are too many.
    """
    todo = [(list(area.corners), list(area.inputs))]
    seen = 0
    while todo:
        polygon, known = todo.pop()
        seen += 1
        if seen > MOST_REGIONS:
            raise TooLong
        if len(known) == tape.n + len(tape.relus):
            yield polygon, known
            continue
        argument = _compose(tape.relus[len(known) - tape.n], known)
        for sign in (1, -1):  # argument <= 0: ReLU is 0; >= 0: ReLU is the argument
            part = _cut(polygon, argument.times(Fraction(sign)))
            if part:
                todo.append((part, [*known, Affine({}) if sign == 1 else argument]))


def least(tape: Tape, area: Area, value: Affine) -> Fraction:
    """The least value on an area."""
    return min(
        found.at(corner)
        for polygon, known in parts(tape, area)
        for found in [_compose(value, known)]
        for corner in polygon
    )


def decide_on(tape: Tape, area: Area, clauses: Sequence[Sequence[Row]]) -> Point | Literal[False] | None:
    """A point (the tape's inputs) of the area at which all rows of a clause hold; None where there is none; False where
    it takes too long.

    A polygon's closed rows are met by cutting it; strict ones by the mean of its vertices, which is strictly inside of
    what is cut off nowhere.
    """
    try:
        for polygon, known in parts(tape, area):
            for clause in clauses:
                point = _inside(polygon, [(_compose(row.value, known), row.strict) for row in clause])
                if point is not None:
                    return area.whole(point)
    except TooLong:
        return False
    return None


def decide(
    tape: Tape, lower: Sequence[Fraction], upper: Sequence[Fraction], clauses: Sequence[Sequence[Row]]
) -> Point | Literal[False] | None:
    """`decide_on` a box, False where more than two inputs vary."""
    if any(lo > hi for lo, hi in zip(lower, upper, strict=True)):
        return None
    area = Area.of_box(lower, upper)
    return False if area is None else decide_on(tape, area, clauses)


def _input(k: int, free: list[int], base: Sequence[Fraction]) -> Affine:
    return Affine({free.index(k): Fraction(1)}) if k in free else Affine({}, base[k])


def _compose(outer: Affine, known: Sequence[Affine]) -> Affine:
    total = Affine({}, outer.constant)
    for v, c in outer.terms.items():
        total = total + known[v].times(c)
    return total


def _cut(polygon: list[Point], half: Affine) -> list[Point]:
    """The part where `half` <= 0 (Sutherland and Hodgman 1974); also of segments and points, touching ones included."""
    values = [half.at(p) for p in polygon]
    found: list[Point] = []
    for i, (p, a) in enumerate(zip(polygon, values, strict=True)):
        q, b = polygon[i - 1], values[i - 1]
        if a * b < 0:
            share = b / (b - a)
            found.append(tuple(u + share * (v - u) for u, v in zip(q, p, strict=True)))
        if a <= 0:
            found.append(p)
    return list(dict.fromkeys(found))


def _inside(polygon: list[Point], rows: Sequence[tuple[Affine, bool]]) -> Point | None:
    for value, _ in rows:
        polygon = _cut(polygon, value)
        if not polygon:
            return None
    mean = tuple(sum(axis, Fraction(0)) / len(polygon) for axis in zip(*polygon, strict=True))
    met = all(value.at(mean) < 0 for value, strict in rows if strict)
    return mean if met else None
