"""One leaf in fractions, where a bound meets its limit: nothing is rounded, so a strict row that only touches it is
refuted.

The walk is that of `bounds.walk`, over the rationals. Intervals are those of the stored numbers, met with the float64
ones, which hold as well. For networks of Dense, convolution, sums, Relu and LeakyRelu whose every coefficient is a
stored number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np

from verifier.checker.bounds import Enclosures
from verifier.checker.errors import Unreadable
from verifier.checker.network import CheckedNetwork
from verifier.checker.ops import Affine, Array, Conv, Linear, Piecewise

MOST_ENTRIES = 1 << 17
"""Elements of the matrices of the largest network that is walked in fractions."""

Fractions = list[Fraction]
ExactRows = list[list[tuple[int, Fraction]]]  # by row: (column, number)


def fractions(numbers: Array) -> Fractions:
    """Numbers as what they are exactly."""
    return [Fraction(v) for v in np.asarray(numbers, np.float64).reshape(-1).tolist()]


class InFractions:
    """A network in fractions.

    Raises:
        Unreadable: it is too large, or has operators or coefficients that are not exact.
    """

    def __init__(self, network: CheckedNetwork) -> None:
        self.network = network
        self.linear: dict[int, tuple[list[ExactRows], Fractions]] = {}
        entries = 0
        for v, op in enumerate(network.nodes):
            if isinstance(op, Linear):
                size = math.prod(op.shape)
                entries += size * sum(math.prod(network.shapes[s]) for s in op.sources)
                rounded = (isinstance(op, Affine) and op.terms > 1) or (isinstance(op, Conv) and op.inexact > 0)
                if rounded or entries > MOST_ENTRIES:
                    raise Unreadable(f"node '{op.name}' is too large for fractions, or has a rounded coefficient")
                parts = [p.reshape(size, -1) for p in op.adjoint(np.eye(size).reshape(size, *op.shape))]
                offset = np.zeros(size) if op.offset is None else np.broadcast_to(op.offset, op.shape)
                self.linear[v] = [_sparse(p) for p in parts], fractions(offset)
            elif op is not None and not (isinstance(op, Piecewise) and op.floor == 0 and op.ceiling == math.inf):
                raise Unreadable(f"node '{op.name}' is not known in fractions")

    def least(
        self,
        swept: Enclosures,
        slopes: Mapping[int, Array],
        b: int,
        row: Fractions,
        inputs: Fractions,
        decided: Iterable[tuple[int, int, Fraction]] = (),
    ) -> Fraction | None:
        """A lower bound of row . y + inputs . x + the `decided` multiples (value v, element, factor) of arguments of
        Relus on box b of the sweep, with these lower slopes of what bends; None where the box has no point."""
        if not all(np.isfinite(t).all() for t in (*swept.low, *swept.high)):
            raise Unreadable("bounds that are not finite, in a leaf that fractions are to decide")
        lines = self._lines(swept, slopes, b)
        if lines is None:
            return None
        waiting, total = {self.network.output: list(row)}, Fraction(0)
        for v, k, factor in decided:
            s = self.network.nodes[v].sources[0]  # type: ignore[union-attr]
            own = waiting.setdefault(s, [Fraction(0)] * math.prod(self.network.shapes[s]))
            own[k] += factor
        for v in range(self.network.output, 0, -1):
            if v not in waiting:
                continue
            row, op = waiting.pop(v), self.network.nodes[v]
            assert op is not None
            if v in self.linear:
                matrices, offset = self.linear[v]
                total += sum((a * c for a, c in zip(row, offset, strict=True)), Fraction(0))
                parts = [
                    _back(m, row, math.prod(self.network.shapes[s])) for m, s in zip(matrices, op.sources, strict=True)
                ]
            else:
                part = []
                for a, (lower, upper, shift) in zip(row, lines[v], strict=True):
                    part.append(a * (lower if a > 0 else upper))
                    total += 0 if a > 0 else a * shift
                parts = [part]
            for s, part in zip(op.sources, parts, strict=True):
                waiting[s] = [a + c for a, c in zip(waiting[s], part, strict=True)] if s in waiting else part
        final = waiting.get(0, [Fraction(0)] * self.network.inputs)
        final = [a + c for a, c in zip(final, inputs, strict=True)]
        ends = zip(fractions(swept.low[0][b]), fractions(swept.high[0][b]), strict=True)
        return total + sum((min(a * low, a * high) for a, (low, high) in zip(final, ends, strict=True)), Fraction(0))

    def values(self, swept: Enclosures) -> Fractions:
        """The outputs at the point that a sweep is about."""
        slopes = {v: p[0] for v, p in swept.planes.items()}
        size, none = self.network.outputs, [Fraction(0)] * self.network.inputs
        found = [self.least(swept, slopes, 0, [Fraction(i == j) for i in range(size)], none) for j in range(size)]
        if any(v is None for v in found):
            raise Unreadable("a point without outputs")
        return [v for v in found if v is not None]

    def _lines(
        self, swept: Enclosures, slopes: Mapping[int, Array], b: int
    ) -> dict[int, list[tuple[Fraction, Fraction, Fraction]]] | None:
        """Of every element that bends: a slope below, and slope and offset above."""
        ends: list[tuple[Fractions, Fractions]] = []
        lines: dict[int, list[tuple[Fraction, Fraction, Fraction]]] = {}
        for v, op in enumerate(self.network.nodes):
            low, high = (fractions(t[v][b if len(t[v]) > 1 else 0]) for t in (swept.low, swept.high))
            if op is not None and v in self.linear:
                matrices, offset = self.linear[v]
                below, above = list(offset), list(offset)
                for matrix, s in zip(matrices, op.sources, strict=True):
                    for i, entries in enumerate(matrix):
                        for k, w in entries:
                            two = w * ends[s][0][k], w * ends[s][1][k]
                            below[i], above[i] = below[i] + min(two), above[i] + max(two)
                low, high = (
                    [max(t) for t in zip(low, below, strict=True)],
                    [min(t) for t in zip(high, above, strict=True)],
                )
            elif isinstance(op, Piecewise):
                leak = Fraction(op.leak)
                lower = fractions(
                    np.broadcast_to(slopes[v], (len(slopes[v]), *op.shape))[b if len(slopes[v]) > 1 else 0]
                )
                lines[v] = [_line(leak, *t) for t in zip(*ends[op.sources[0]], lower, strict=True)]
                low, high = ([_bend(leak, x) for x in side] for side in ends[op.sources[0]])
            ends.append((low, high))
            if any(a > c for a, c in zip(low, high, strict=True)):
                return None
        return lines


def _bend(leak: Fraction, x: Fraction) -> Fraction:
    return x if x >= 0 else leak * x


def _line(leak: Fraction, low: Fraction, high: Fraction, slope: Fraction) -> tuple[Fraction, Fraction, Fraction]:
    """A slope below max(x, leak x) on [low, high], near the given one; slope and offset of the chord above it."""
    if low >= 0 or high <= 0:
        own = Fraction(1) if low >= 0 else leak
        return own, own, Fraction(0)
    chord = (high - leak * low) / (high - low)
    return min(max(slope, leak), Fraction(1)), chord, high - chord * high


def _sparse(matrix: Array) -> ExactRows:
    return [[(int(k), Fraction(float(row[k]))) for k in np.flatnonzero(row)] for row in matrix]


def _back(matrix: ExactRows, row: Fractions, size: int) -> Fractions:
    part = [Fraction(0)] * size
    for a, entries in zip(row, matrix, strict=True):
        if a:
            for k, w in entries:
                part[k] += a * w
    return part
