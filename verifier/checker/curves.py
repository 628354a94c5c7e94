"""The functions that bend: piecewise linear, S-shaped, squares, maxima.

Of a function f of one value the bounds ask for a rigorous range of f(x) - s x over an interval, for a slope s that need
not be anything in particular (docs/certificates.md, lemma 3).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verifier.checker.linear import TINY, UNIT, Array, CheckedOperator, Linear


class Curve(CheckedOperator, ABC):
    """An elementwise function of one value."""

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
        lows, highs = [], []
        for x in points:
            y, error = self.value(x)
            product = s * x
            error = error + (np.abs(y) + np.abs(product)) * (4 * UNIT) + TINY
            lows.append(y - product - error)
            highs.append(y - product + error)
        return np.minimum.reduce(lows), np.maximum.reduce(highs)


TIED = 1 + 2.0**-20
"""Sides of a kink that are equally long but for rounding get the same slope in whatever order sums were made."""


@dataclass
class Piecewise(Curve):
    """leak * x below `floor`, x up to `ceiling`, constant above: Relu, LeakyRelu and Clip.

    f(x) = leak * x for x < floor where floor is 0, and `floor` below `floor` where leak is 0.
    """

    floor: float = 0.0
    ceiling: float = math.inf
    leak: float = 0.0

    @property
    def is_relu(self) -> bool:
        return self.floor == 0 and self.ceiling == math.inf and self.leak == 0

    def value(self, x: Array) -> tuple[Array, Array]:
        if self.leak:
            y = np.where(x < 0, self.leak * x, x)
            return y, np.where(x < 0, np.abs(y) * (2 * UNIT) + TINY, 0.0)
        return np.minimum(np.maximum(x, self.floor), self.ceiling), np.zeros_like(x)

    def residual(self, s: Array, low: Array, high: Array) -> tuple[Array, Array]:
        # f - s x is linear between its kinks, so its extremes lie at ends or kinks
        kinks = [np.clip(k, low, high) for k in (self.floor, self.ceiling) if math.isfinite(k)]
        least, most = self._at([low, high, *kinks], s)
        if self.floor == 0 and self.ceiling == math.inf:  # above a x for every a in [leak, 1]: exactly
            least = np.where((s >= self.leak) & (s <= 1), np.maximum(least, 0.0), least)
        # and f(x) - s x is 0 where f is x and s is 1, or f is constant 0 and s is 0
        flat = ((s == 1) & (low >= self.floor) & (high <= self.ceiling)) | (
            (s == self.leak) & (high <= self.floor) & (self.floor == 0)
        )
        return np.where(flat, 0.0, least), np.where(flat, 0.0, most)

    def slopes(self, low: Array, high: Array) -> tuple[Array, Array]:
        f_low, f_high = self.value(low)[0], self.value(high)[0]
        f, c = max(self.floor, -1e300), min(self.ceiling, 1e300)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            to_top = np.where(high > c, np.where(c - low > (high - c) * TIED, (c - f_low) / (c - low), 0.0), np.nan)
            upper = np.where(np.isnan(to_top), (f_high - f_low) / (high - low), to_top)
            to_floor = np.where(high - f > (f - low) * TIED, (f_high - f) / (high - f), self.leak)
            lower = np.where(low < f, to_floor, (f_high - f_low) / (high - low))
        lower = np.where(low >= c, 0.0, lower)
        upper = np.where(low >= c, 0.0, upper)
        done = (low >= f) & (high <= c)
        lower, upper = (np.where(done, 1.0, np.nan_to_num(t, nan=0.0, posinf=1.0, neginf=0.0)) for t in (lower, upper))
        below = high <= f
        return np.where(below, self.leak, np.clip(lower, 0, 1)), np.where(below, self.leak, np.clip(upper, 0, 1))


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
        lows, highs = [], []
        for x in ends:
            value = y + d * (x - t) - s * x
            room = error + TINY + (np.abs(y) + np.abs(s * x)) * (8 * UNIT) + (np.abs(x) + np.abs(t)) * (80 * UNIT)
            lows.append(value - room)
            highs.append(value + room)
        return np.minimum.reduce(lows), np.maximum.reduce(highs)

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
        with np.errstate(divide="ignore", invalid="ignore"):
            chord = np.nan_to_num((at[1] - at[0]) / (high - low), nan=0.0, posinf=0.0)
        least = np.minimum(d_low, d_high)
        lower = np.where(high <= 0, d_mid, np.where(low >= 0, chord, least))
        upper = np.where(low >= 0, d_mid, np.where(high <= 0, chord, least))
        return lower, upper


@dataclass
class Square(Curve):
    """x^2. (x y = ((x + y)^2 - (x - y)^2) / 4.)"""

    def value(self, x: Array) -> tuple[Array, Array]:
        y = x * x
        return y, y * (2 * UNIT) + TINY

    def range(self, low: Array, high: Array) -> tuple[Array, Array]:
        (a, e), (b, d) = self.value(low), self.value(high)
        least = np.maximum(np.minimum(a - e, b - d), 0.0)
        return np.where((low <= 0) & (high >= 0), 0.0, least), np.maximum(a + e, b + d)

    def residual(self, s: Array, low: Array, high: Array) -> tuple[Array, Array]:
        # x^2 - s x is largest at an end and least at s / 2, as near as that lies
        return self._at([np.clip(s / 2, low, high)], s)[0], self._at([low, high], s)[1]

    def slopes(self, low: Array, high: Array) -> tuple[Array, Array]:
        return low + high, low + high


@dataclass
class Largest(CheckedOperator):
    """Maximum over the last axis: (.., k) -> (..)."""


AnyOperator = Linear | Curve | Largest
