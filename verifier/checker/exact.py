"""One leaf in fractions, where a bound meets its limit: nothing is rounded, so a strict row that only touches it is
refuted.

The walk is that of `bounds.walk`, over the rationals. Intervals are those of the stored numbers, met with the float64
ones, which hold as well. For networks of Dense, convolution, sums, Relu and LeakyRelu whose every coefficient is a
stored number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from verifier.checker.bounds import Enclosures
from verifier.checker.curves import Piecewise
from verifier.checker.errors import Unreadable
from verifier.checker.linear import Array, Linear
from verifier.checker.network import CheckedNetwork

MOST_ENTRIES = 1 << 17
"""Elements of the matrices of the largest network that is walked in fractions."""

ExactRows = list[tuple[Array, Array]]  # of each row, which columns are not 0, and their numbers


def fractions(numbers: Array) -> Array:
    """Numbers as what they are exactly, flat."""
    flat = np.asarray(numbers, np.float64).reshape(-1)
    return np.array([Fraction(v) for v in flat.tolist()] + [None], object)[:-1]  # an array of objects, even if empty


class InFractions:
    """A network in fractions.

    Raises:
        Unreadable: it is too large, or has operators or coefficients that are not exact.
    """

    def __init__(self, network: CheckedNetwork) -> None:
        self.network = network
        self.linear: dict[int, tuple[list[ExactRows], Array]] = {}
        entries = 0
        for v, op in enumerate(network.nodes):
            if isinstance(op, Linear):
                size = math.prod(op.shape)
                entries += size * sum(math.prod(network.shapes[s]) for s in op.sources)
                if op.inexact or entries > MOST_ENTRIES:
                    raise Unreadable(f"node '{op.name}' is too large for fractions, or has a rounded coefficient")
                parts = [p.reshape(size, -1) for p in op.adjoint(np.eye(size).reshape(size, *op.shape))]
                offset = np.zeros(size) if op.offset is None else np.broadcast_to(op.offset, op.shape)
                sparse = [[(np.flatnonzero(row), fractions(row[row != 0])) for row in part] for part in parts]
                self.linear[v] = sparse, fractions(offset)
            elif op is not None and not (isinstance(op, Piecewise) and op.floor == 0 and op.ceiling == math.inf):
                raise Unreadable(f"node '{op.name}' is not known in fractions")

    def least(
        self, swept: Enclosures, b: int, row: Array, inputs: Array, decided: Iterable[tuple[int, int, Fraction]] = ()
    ) -> Fraction | None:
        """A lower bound of row . y + inputs . x + the `decided` multiples (value v, element, factor) of arguments of
        Relus on box b of the sweep, with its lower slopes of what bends; None where the box has no point."""
        if not all(np.isfinite(t).all() for t in (*swept.low, *swept.high)):
            raise Unreadable("bounds that are not finite, in a leaf that fractions are to decide")
        lines = self._lines(swept, b)
        if lines is None:
            return None
        waiting, total = {0: inputs, self.network.output: row}, Fraction(0)
        for v, k, factor in decided:
            s = self.network.argument(v)
            waiting[s] = waiting[s].copy() if s in waiting else fractions(np.zeros(math.prod(self.network.shapes[s])))
            waiting[s][k] += factor
        for v in range(self.network.output, 0, -1):
            if v not in waiting:
                continue
            row, op = waiting.pop(v), self.network.nodes[v]
            assert op is not None
            if v in self.linear:
                matrices, offset = self.linear[v]
                total += row @ offset
                parts = []
                for s, matrix in zip(op.sources, matrices, strict=True):
                    parts.append(fractions(np.zeros(math.prod(self.network.shapes[s]))))
                    for a, (columns, values) in zip(row, matrix, strict=True):
                        if a:
                            parts[-1][columns] += a * values
            else:
                lower, upper, shift = lines[v]
                total += np.where(row > 0, 0, row) @ shift
                parts = [row * np.where(row > 0, lower, upper)]
            for s, part in zip(op.sources, parts, strict=True):
                waiting[s] = waiting[s] + part if s in waiting else part
        ends = fractions(swept.low[0][b]), fractions(swept.high[0][b])
        return total + np.minimum(*(waiting[0] * t for t in ends)).sum()

    def values(self, swept: Enclosures) -> Array:
        """The outputs at the point that a sweep is about."""
        none = fractions(np.zeros(self.network.inputs))
        found = [self.least(swept, 0, fractions(row), none) for row in np.eye(self.network.outputs)]
        if any(v is None for v in found):
            raise Unreadable("a point without outputs")
        return np.array(found, object)

    def _lines(self, swept: Enclosures, b: int) -> dict[int, tuple[Array, Array, Array]] | None:
        """Of every element that bends: a slope below, near that of the sweep, slope and offset of the chord above."""
        ends: list[tuple[Array, Array]] = []
        lines: dict[int, tuple[Array, Array, Array]] = {}
        for v, op in enumerate(self.network.nodes):
            low, high = (fractions(t[v][b if len(t[v]) > 1 else 0]) for t in (swept.low, swept.high))
            if op is not None and v in self.linear:
                matrices, offset = self.linear[v]
                below, above = offset.copy(), offset.copy()
                for matrix, s in zip(matrices, op.sources, strict=True):
                    for i, (columns, values) in enumerate(matrix):
                        two = [values * t[columns] for t in ends[s]]
                        below[i] += np.minimum(*two).sum()
                        above[i] += np.maximum(*two).sum()
                low, high = np.maximum(low, below), np.minimum(high, above)
            elif isinstance(op, Piecewise):
                lower, leak = swept.plane(v)[0], Fraction(op.leak)
                lower = fractions(np.broadcast_to(lower, (len(lower), *op.shape))[b if len(lower) > 1 else 0])
                own = [_line(leak, *t) for t in zip(*ends[op.sources[0]], lower, strict=True)]
                below, above, offset = (np.array([line[i] for line in own], object) for i in range(3))
                lines[v] = below, above, offset
                low, high = (np.maximum(x, leak * x) for x in ends[op.sources[0]])
            ends.append((low, high))
            if (low > high).any():
                return None
        return lines


def _line(leak: Fraction, low: Fraction, high: Fraction, slope: Fraction) -> tuple[Fraction, Fraction, Fraction]:
    """A slope below max(x, leak x) on [low, high], near the given one; slope and offset of the chord above it."""
    if low >= 0 or high <= 0:
        own = Fraction(1) if low >= 0 else leak
        return own, own, Fraction(0)
    chord = (high - leak * low) / (high - low)
    return min(max(slope, leak), Fraction(1)), chord, high - chord * high
