"""The functions that bend: Relu and LeakyRelu, squares, sigmoids.

Of a function f of one value the bounds ask for a rigorous range of f(x) - s x over an interval, for a slope s that need
not be anything in particular (docs/certificates.md, lemma 3).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifier.checker.linear import FLOATS, TINY, UNIT, Arithmetic, Array, CheckedOperator, Linear


@dataclass
class Curve(CheckedOperator, ABC):
    """An elementwise function of one value."""

    arithmetic: Arithmetic = FLOATS

    @abstractmethod
    def value(self, x: Array) -> tuple[Array, Array]:
        """f(x) and a bound of its error."""

    @abstractmethod
    def residual(self, s: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """A rigorous range of f(x) - s x over [low, high], for any slope s."""

    @abstractmethod
    def slopes(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Slopes of a lower and of an upper line; any are sound, these are good."""

    def range(self, low: Array, high: Array) -> tuple[Array, Array]:
        """A rigorous range of f over [low, high]: of an increasing function."""
        (below, e), (above, d) = self.value(low), self.value(high)
        return below - e, above + d

    def _at(self, points: Sequence[Array], s: Array) -> tuple[Array, Array]:
        """Least and largest f(x) - s x over `points`, with what rounding costs."""
        x = np.stack(points)
        (y, error), product = self.value(x), s * x
        error = error + (np.abs(y) + np.abs(product)) * (4 * self.arithmetic.unit) + self.arithmetic.tiny
        return (y - product - error).min(0), (y - product + error).max(0)


def _divided(over: Array, under: Array) -> Array:
    """over / under, 0 where under is."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.where(under == 0, 0, over) / np.where(under == 0, 1, under)


@dataclass
class Relu(Curve):
    """max(x, leak x), leak in [0, 1]."""

    leak: float = 0.0

    def value(self, x: Array) -> tuple[Array, Array]:
        leak = self.arithmetic.of(self.leak)[()]
        y = np.where(x < 0, leak * x, x) if self.leak else np.maximum(x, 0)
        return y, np.where(x < 0, np.abs(y) * (2 * self.arithmetic.unit) + self.arithmetic.tiny * bool(self.leak), 0)

    def residual(self, s: Array, low: Array, high: Array) -> tuple[Array, Array]:
        # convex, so it is largest at an end, and least there or at the kink
        least, most = self._at([low, high, np.maximum(low, np.minimum(high, 0))], s)
        least = np.where((s >= self.leak) & (s <= 1), np.maximum(least, 0), least)  # it is above every such line
        flat = ((s == 1) & (low >= 0)) | ((s == self.leak) & (high <= 0))  # it is that line
        return np.where(flat, 0, least), np.where(flat, 0, most)

    def slopes(self, low: Array, high: Array) -> tuple[Array, Array]:
        leak = self.arithmetic.of(self.leak)[()]
        chord = np.minimum(np.maximum(_divided(high - leak * low, high - low), leak), 1)
        # sides that are equally long but for rounding get the same slope in whatever order sums were made
        lower = np.where(high * 2**20 > -low * (2**20 + 1), 1, leak)
        below, above = (np.where(high <= 0, leak, np.where(low >= 0, 1, t)) for t in (lower, chord))
        return below, above


@dataclass
class Square(Curve):
    """x^2. (x y = ((x + y)^2 - (x - y)^2) / 4.)"""

    def value(self, x: Array) -> tuple[Array, Array]:
        y = x * x
        return y, y * (2 * UNIT) + TINY

    def range(self, low: Array, high: Array) -> tuple[Array, Array]:
        least, most = self.residual(np.zeros(1), low, high)
        return np.maximum(least, 0.0), most

    def residual(self, s: Array, low: Array, high: Array) -> tuple[Array, Array]:
        # x^2 - s x is largest at an end and least at s / 2, as near as that lies
        return self._at([np.clip(s / 2, low, high)], s)[0], self._at([low, high], s)[1]

    def slopes(self, low: Array, high: Array) -> tuple[Array, Array]:
        return low + high, low + high


SIGMOID_ULPS = 32 * UNIT
"""Relative error of 1 / (1 + exp(-x)) with an exponential that is right to 8 ulp (numpy promises less than 4)."""


@dataclass
class Sigmoid(Curve):
    """1 / (1 + exp(-x)): convex below 0, concave above. (tanh x = 2 sigmoid(2 x) - 1.)"""

    def value(self, x: Array) -> tuple[Array, Array]:
        with np.errstate(over="ignore"):
            y = 1.0 / (1.0 + np.exp(-np.maximum(x, -700.0)))
        return y, y * SIGMOID_ULPS + np.where(x < -700, 1e-300, 0.0)

    def _tangent(self, t: Array, ends: Sequence[Array], s: Array) -> tuple[Array, Array]:
        """Least and largest of f(t) + f'(t) (x - t) - s x over `ends`."""
        y, error = self.value(t)
        d = y * (1 - y)
        x = np.stack(ends)
        value = y + d * (x - t) - s * x
        room = error + TINY + (np.abs(y) + np.abs(s * x)) * (8 * UNIT) + (np.abs(x) + np.abs(t)) * (80 * UNIT)
        return (value - room).min(0), (value + room).max(0)

    def residual(self, s: Array, low: Array, high: Array) -> tuple[Array, Array]:
        least, most = self._at([low, high], s)
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(np.maximum(1 - 4 * s, 0.0))
            turn = np.nan_to_num(np.log((1 + root) / np.maximum(1 - root, 1e-300)), posinf=700.0)
        # concave for x >= 0: below every tangent there; convex for x <= 0: above every tangent
        right, left = np.maximum(low, 0.0), np.minimum(high, 0.0)
        _, above = self._tangent(np.clip(turn, right, np.maximum(high, 0.0)), [right, np.maximum(high, 0.0)], s)
        below, _ = self._tangent(np.clip(-turn, np.minimum(low, 0.0), left), [np.minimum(low, 0.0), left], s)
        most = np.where(high > 0, np.maximum(most, above), most)
        return np.where(low < 0, np.minimum(least, below), least), most

    def slopes(self, low: Array, high: Array) -> tuple[Array, Array]:
        at = [self.value(x)[0] for x in (low, high, (low + high) / 2)]
        d_low, d_high, d_mid = (y * (1 - y) for y in at)
        chord, least = _divided(at[1] - at[0], high - low), np.minimum(d_low, d_high)
        lower = np.where(high <= 0, d_mid, np.where(low >= 0, chord, least))
        return lower, np.where(low >= 0, d_mid, np.where(high <= 0, chord, least))


AnyOperator = Linear | Curve
