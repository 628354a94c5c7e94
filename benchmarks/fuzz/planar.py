"""Problems for the mechanisms that problems of few inputs and one query hardly reach.

`PlanarProblem`: many inputs vary, so neurons are split, but the network reads a plane of them, where the least value of
a row is known in fractions. `GroupedProblem`: many queries that fix most inputs, each to numbers of its own. Thresholds
are that least value, or lie next to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np

from benchmarks.fuzz.exact import Affine, Area, Point, Tape, TooLong, decide_on, least
from benchmarks.fuzz.models import Pick
from benchmarks.fuzz.problems import Condition, Input, RandomProblem, texts

STEPS = (0.0, 0.0, 1e-16, -1e-16, 1e-9, -1e-9, 1e-5, -1e-5, -1e-3, -0.03, 0.1)
"""By how much of 1 + |least| a threshold is above the least value."""


class KnownProblem(RandomProblem):
    """What both have in common: one input (1, n) of float32 or float64, thresholds from areas."""

    def _begin(self, pick: Pick, huge: bool, n: int, seen: int) -> str:
        self.pick, self.huge = pick, huge
        self.rng = np.random.default_rng(pick(range(2**32)))
        self.names = iter([f"n{i}" for i in range(200)])
        self.kind = pick([np.float32, np.float32, np.float64])
        self.opset, self.version = (13 if self.kind is np.float32 else 17), 1
        self.nodes, self.tensors, self.exactly = [], [], True
        self.inputs = [Input("x", self.kind, (1, n))]
        self.n, self.tape = n, Tape(seen)
        return "x"

    def _ends(self) -> tuple[float, float]:
        """Bounds of an input, numbers of float32."""
        low = float(self.rng.integers(-8, 9)) / 8
        width = self.pick([1.0, 1.0, 0.25, 2.5, 2.0**-20, 0.0])
        return low, float(np.float32(low + width))

    def _condition(self, area: Area, steps: Sequence[float] = STEPS) -> Condition:
        """A row whose threshold is about its least value on the area: by one of the `steps` of 1 + |least| above it."""
        scale = self.pick([1.0, 1.0, 0.5, -1.0])
        y = tuple(scale * self.pick([1.0, -1.0, 0.5]) for _ in range(self.m))
        value = Affine({})
        for factor, one in zip(y, (v for _, found in self.outputs for v in found), strict=True):
            value = value + one.times(Fraction(factor))
        try:
            low = least(self.tape, area, value)
        except TooLong:
            low = value.at(self.tape.values(area.whole(area.corners[0])))
        near = float(low) if abs(low) < 10**300 else 0.0
        near = self.pick([near, math.nextafter(near, math.inf), math.nextafter(near, -math.inf)])
        rhs = near + self.pick(steps) * (1 + abs(near))
        if self.pick([True, True, False]):
            return Condition((0.0,) * self.n, y, rhs, self.pick(["<=", "<=", "<"]))
        return Condition((0.0,) * self.n, tuple(-v for v in y), -rhs, self.pick([">=", ">=", ">"]))


class PlanarProblem(KnownProblem):
    """9 to 12 inputs, of which the network reads two sums; one to three hidden layers of ReLUs."""

    def __init__(self, pick: Pick, huge: bool) -> None:
        name = self._begin(pick, huge, pick([9, 10, 12]), 2)
        self.matrix = self.rng.integers(-3, 4, (self.n, 2)).astype(self.kind)
        name = self.node("MatMul", [name, self.weight(self.matrix)])
        value = name, [self.tape.input(0), self.tape.input(1)]
        for width in pick([(8,), (5, 5), (6, 4), (4, 4, 3)]):
            name, found = self._affine(value, width, False)
            if pick([False, False, False, True]):
                value = self._activation((name, found))
            else:
                value = self.node("Relu", [name]), [self.tape.relu(v) for v in found]
        self.outputs = [self._affine(value, pick([1, 2]), True)]
        self.m = len(self.outputs[0][1])
        ends = [self._ends() for _ in range(self.n)]
        self.lower, self.upper = (np.array(side) for side in zip(*ends, strict=True))
        rows = [[Fraction(float(v)) for v in row] for row in self.matrix.T]
        self.area = Area.of_image(rows, *(list(map(Fraction, end.tolist())) for end in (self.lower, self.upper)))
        self.clauses = [[self._condition(self.area) for _ in range(pick([1, 1, 2]))] for _ in range(pick([1, 1, 2, 3]))]

    def seen(self, point: np.ndarray) -> Point:
        """The two sums."""
        x = list(map(Fraction, point.tolist()))
        return tuple(
            sum((Fraction(float(w)) * v for w, v in zip(row, x, strict=True)), Fraction(0)) for row in self.matrix.T
        )

    def rows(self) -> list:
        """See `RandomProblem`: the conditions speak about outputs only."""
        found = [v for _, values in self.outputs for v in values]
        return [[row.gap([*[Affine({})] * self.n, *found]) for row in clause] for clause in self.clauses]

    def violated(self) -> Point | Literal[False] | None:
        """See `RandomProblem`."""
        return decide_on(self.tape, self.area, self.rows())


@dataclass(frozen=True)
class Query:
    """A box and what is asked in it."""

    lower: np.ndarray
    upper: np.ndarray
    clauses: list[list[Condition]]

    def holds(self, point: np.ndarray) -> bool:
        """Whether the box has the point."""
        return bool(((self.lower <= point) & (point <= self.upper)).all())


class GroupedProblem(KnownProblem):
    """4 inputs, each with layers of its own before all come together, and 33 to 40 queries with one or two free."""

    def __init__(self, pick: Pick, huge: bool) -> None:
        name = self._begin(pick, huge, 4, 4)
        features: list[Affine] = []
        ends = []
        for k in range(self.n):
            one = self.node("Gather", [name, self.weight(np.array([k]))], axis=1), [self.tape.input(k)]
            hidden, made = self._affine(one, 3, False)
            last = self._affine((self.node("Relu", [hidden]), [self.tape.relu(v) for v in made]), pick([1, 2]), True)
            ends.append(last[0])
            features += last[1]
        joined, found = self._affine((self.node("Concat", ends, axis=1), features), 2, False)
        self.outputs = [self._affine((self.node("Relu", [joined]), [self.tape.relu(v) for v in found]), 1, True)]
        self.m = 1
        every = np.arange(self.n)
        kinds = [sorted(self.rng.choice(every, pick([1, 1, 2]), replace=False).tolist()) for _ in range(pick([1, 2]))]
        count = pick([33, 36, 40])
        near = pick([count, *range(count)])  # which query has its threshold near the least value, if one has
        self.queries = [self._query(pick(kinds), i == near) for i in range(count)]
        self.lower = np.min([q.lower for q in self.queries], axis=0)
        self.upper = np.max([q.upper for q in self.queries], axis=0)
        self.clauses = [clause for q in self.queries for clause in q.clauses]

    def _query(self, free: list[int], near: bool) -> Query:
        lower, upper = (np.array(side) for side in zip(*(self._ends() for _ in range(self.n)), strict=True))
        fixed = np.setdiff1d(np.arange(self.n), free)
        upper[fixed] = lower[fixed]
        area = self._area(lower, upper)
        assert area is not None
        rows = [self._condition(area, STEPS if near else (-1e-3, -0.03, -0.3))]
        if self.pick([False, False, True]):
            rows.append(self._condition(area))
        return Query(lower, upper, [rows])

    @staticmethod
    def _area(lower: np.ndarray, upper: np.ndarray) -> Area | None:
        return Area.of_box(*(list(map(Fraction, end.tolist())) for end in (lower, upper)))

    def _assertions(self, xs: list[str], ys: list[str], number: Callable[[float], str]) -> list[str]:
        parts = []
        for q in self.queries:
            box = [f"(>= {x} {number(a)}) (<= {x} {number(b)})" for x, a, b in zip(xs, q.lower, q.upper, strict=True)]
            parts += [f"(and {' '.join([*box, *texts(rows, xs, ys, number)])})" for rows in q.clauses]
        return [f"(assert (or {' '.join(parts)}))"]

    def points(self, count: int) -> np.ndarray:
        """See `RandomProblem`: points of any query."""
        picked = self.rng.integers(len(self.queries), size=count)
        low, high = (np.array([getattr(self.queries[i], end) for i in picked]) for end in ("lower", "upper"))
        return (low + (high - low) * self.rng.integers(0, 2, low.shape)).astype(self.kind).astype(np.float64)

    def holds(self, point: np.ndarray, y: Sequence[Fraction]) -> bool:
        """See `RandomProblem`."""
        given = [Affine({}, v) for v in (*map(Fraction, point.tolist()), *y)]
        mine = (clause for q in self.queries if q.holds(point) for clause in q.clauses)
        return any(all(row.gap(given).holds(()) for row in rows) for rows in mine)

    def breaks(self, point: Point) -> bool:
        """See `RandomProblem`."""
        values = self.tape.values(point)
        y = [v.at(values) for _, found in self.outputs for v in found]
        return self.holds(np.array([float(v) for v in point]), y)

    def violated(self) -> Point | Literal[False] | None:
        """See `RandomProblem`."""
        found = [*(self.tape.input(k) for k in range(self.n)), *(v for _, made in self.outputs for v in made)]
        answers: list[Point | Literal[False] | None] = []
        for q in self.queries:
            area = self._area(q.lower, q.upper)
            assert area is not None
            answers.append(decide_on(self.tape, area, [[row.gap(found) for row in rows] for rows in q.clauses]))
        return next((one for one in answers if isinstance(one, tuple)), False if False in answers else None)
