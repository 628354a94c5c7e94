"""What a network is made of for the checker: linear operators, piecewise linear and S-shaped functions, maxima.

Arrays have a leading batch axis: a value of shape S is (B, *S). A linear operator is y = sum_i W_i x_i + c over the
reals, with `spread` = |W| applied to magnitudes, `adjoint` = a row over y as rows over the x_i. Products are summed in
any order; `terms` bounds the number of products in one sum, forwards and backwards, plus one for every rounding that
went into a stored coefficient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray
Shape = tuple[int, ...]
UNIT = 2.0**-53
"""Largest relative error of one operation in float64, rounded to nearest."""

TINY = float(np.finfo(np.float64).tiny)
"""More than what underflow takes off one operation (2**-1075)."""


def gamma(terms: int) -> float:
    """n u / (1 - n u) for n = terms + 8: bounds the relative error of a sum of `terms` products, in any order, with or
    without fused multiply-adds, relative to the sum of the magnitudes (Higham 2002, lemma 3.1 and section 3.1); the 8
    more pay for the few operations around it, this number's own rounding included."""
    nu = (terms + 8) * UNIT
    if nu >= 0.5:
        raise OverflowError("a sum has so many terms that its rounding is not bounded")
    return nu / (1 - nu)


@dataclass
class CheckedOperator:
    """An operator: the values it reads and the shape of what it makes."""

    sources: tuple[int, ...]
    shape: Shape
    name: str


class Linear(CheckedOperator):
    """y = sum_i W_i x_i + offset."""

    terms: int = 1
    offset: Array | None = None

    def forward(self, xs: Sequence[Array]) -> Array:
        """sum_i W_i x_i, rounded."""
        raise NotImplementedError

    def spread(self, xs: Sequence[Array]) -> Array:
        """sum_i |W_i| x_i for x_i >= 0, rounded."""
        return self.forward(xs)

    def adjoint(self, row: Array) -> list[Array]:
        """row W_i for every i, rounded."""
        raise NotImplementedError


@dataclass
class Affine(Linear):
    """y = factor * x + offset, elementwise; `terms` tells how inexact the factor is."""

    factor: Array | None = None
    offset: Array | None = None
    terms: int = 1

    def forward(self, xs: Sequence[Array]) -> Array:
        return xs[0] if self.factor is None else xs[0] * self.factor

    def spread(self, xs: Sequence[Array]) -> Array:
        return xs[0] if self.factor is None else xs[0] * np.abs(self.factor)

    def adjoint(self, row: Array) -> list[Array]:
        return [self.forward([row])]


@dataclass
class Total(Linear):
    """y = sum_i signs_i * x_i."""

    signs: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        self.terms = len(self.signs)

    def forward(self, xs: Sequence[Array]) -> Array:
        return np.add.reduce([x * s for x, s in zip(xs, self.signs, strict=True)])

    def spread(self, xs: Sequence[Array]) -> Array:
        return np.add.reduce(list(xs))

    def adjoint(self, row: Array) -> list[Array]:
        return [row * s for s in self.signs]


@dataclass
class Take(Linear):
    """y.flat = x.flat[index]: everything that only moves elements."""

    index: Array | None = None
    source_shape: Shape = ()

    def __post_init__(self) -> None:
        assert self.index is not None
        self.index = self.index.reshape(-1)
        size = math.prod(self.source_shape)
        self.plain = len(self.index) == size and bool((self.index == np.arange(size)).all())
        self.once = len(np.unique(self.index)) == len(self.index)
        self.terms = max(1, int(np.bincount(self.index, minlength=1).max()) if len(self.index) else 1)

    def forward(self, xs: Sequence[Array]) -> Array:
        flat = xs[0].reshape(len(xs[0]), -1)
        return (flat if self.plain else flat[:, self.index]).reshape(len(flat), *self.shape)

    def adjoint(self, row: Array) -> list[Array]:
        assert self.index is not None
        flat = row.reshape(len(row), -1)
        if not self.plain:
            out = np.zeros((len(row), math.prod(self.source_shape)))
            if self.once:
                out[:, self.index] = flat
            else:
                np.add.at(out.T, self.index, flat.T)
            flat = out
        return [flat.reshape(len(row), *self.source_shape)]


@dataclass
class Concat(Linear):
    """The sources one after the other along `axis` (counted without the batch axis)."""

    axis: int = 0
    lengths: tuple[int, ...] = ()

    def forward(self, xs: Sequence[Array]) -> Array:
        return np.concatenate(list(xs), self.axis + 1)

    def adjoint(self, row: Array) -> list[Array]:
        return np.split(row, np.cumsum(self.lengths)[:-1], self.axis + 1)


SCRATCH = 1 << 18
"""Numbers that a convolution lays out at a time, where one picture has fewer: about what a core's cache holds."""

FEW = 32
"""A matrix with at most one nonzero number in so many, in every column, is multiplied by gathering these."""


class _Product:
    """x @ matrix."""

    def __init__(self, matrix: Array) -> None:
        self.matrix, count = matrix, int((matrix != 0).sum(0).max(initial=0))
        self.few: list[tuple[Array, Array]] | None = None
        if count * FEW <= len(matrix):  # nonzero numbers first
            index = np.argsort(matrix == 0, 0, kind="stable")[:count]
            self.few = list(zip(index, np.take_along_axis(matrix, index, 0), strict=True))

    def __call__(self, x: Array) -> Array:
        if self.few is None:
            return x @ self.matrix
        out = np.zeros((*x.shape[:-1], self.matrix.shape[1]))
        for index, values in self.few:
            out += x[..., index] * values
        return out


@dataclass
class Dense(Linear):
    """y = x @ weight + offset over the last axis; weight (k, n)."""

    weight: Array = field(default_factory=lambda: np.zeros((0, 0)))
    offset: Array | None = None

    def __post_init__(self) -> None:
        self.terms = max(self.weight.shape) + 1
        self._forward, self._spread, self._back = (
            _Product(m) for m in (self.weight, np.abs(self.weight), np.ascontiguousarray(self.weight.T))
        )

    def forward(self, xs: Sequence[Array]) -> Array:
        return self._forward(xs[0])

    def spread(self, xs: Sequence[Array]) -> Array:
        return self._spread(xs[0])

    def adjoint(self, row: Array) -> list[Array]:
        return [self._back(row)]


@dataclass
class Conv(Linear):
    """2-d convolution of (1, C, H, W): weight (O, C / groups, h, w), begin and end pads, strides, dilations."""

    weight: Array = field(default_factory=lambda: np.zeros((0, 0, 0, 0)))
    source_shape: Shape = ()
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1
    offset: Array | None = None
    inexact: int = 0

    def __post_init__(self) -> None:
        o, c, h, w = self.weight.shape
        self.terms, self.size = max(o // self.groups, c) * h * w + 1 + self.inexact, np.abs(self.weight)

    def _windows(self, padded: Array) -> Array:
        """What lies under each window: a view (B, C, h, w, H', W') of pictures (B, C, height, width)."""
        (sh, sw), (dh, dw) = self.strides, self.dilations
        b, c, sy, sx = padded.strides
        shape = *padded.shape[:2], *self.weight.shape[2:], *self.shape[2:]
        return np.lib.stride_tricks.as_strided(padded, shape, (b, c, sy * dh, sx * dw, sy * sh, sx * sw))

    def _padded(self) -> tuple[int, int]:
        top, left, bottom, right = self.pads
        return self.source_shape[2] + top + bottom, self.source_shape[3] + left + right

    def _run(self, x: Array, weight: Array) -> Array:
        b, (_, c, height, width), (top, left, _, _) = len(x), self.source_shape, self.pads
        g, inner, many = self.groups, math.prod(weight.shape[1:]), math.prod(self.shape[2:])
        kernel, out = weight.reshape(g, -1, inner), np.empty((b, *self.shape))
        step = min(b, max(1, SCRATCH // (g * inner * many)))
        padded = np.zeros((step, c, *self._padded()))  # the border stays 0
        windows = self._windows(padded)
        columns = np.empty(windows.shape)
        for at in range(0, b, step):
            n = min(step, b - at)
            padded[:n, :, top : top + height, left : left + width] = x[at : at + n, 0]
            columns[:n] = windows[:n]
            np.matmul(kernel, columns[:n].reshape(n, g, inner, many), out=out[at : at + n].reshape(n, g, -1, many))
        return out

    def forward(self, xs: Sequence[Array]) -> Array:
        return self._run(xs[0], self.weight)

    def spread(self, xs: Sequence[Array]) -> Array:
        return self._run(xs[0], self.size)

    def adjoint(self, row: Array) -> list[Array]:
        b, (_, c, height, width), (top, left, _, _) = len(row), self.source_shape, self.pads
        _, o, oh, ow = self.shape
        g = self.groups
        kernel = self.weight.reshape(1, g, o // g, -1).swapaxes(2, 3)
        columns = (kernel @ row.reshape(b, g, o // g, oh * ow)).reshape(b, c, *self.weight.shape[2:], oh, ow)
        padded = np.zeros((b, c, *self._padded()))
        windows = self._windows(padded)
        for i, j in np.ndindex(*self.weight.shape[2:]):
            windows[:, :, i, j] += columns[:, :, i, j]
        return [padded[:, :, top : top + height, left : left + width].reshape(b, *self.source_shape)]


class Curve(CheckedOperator):
    """An elementwise function of one value."""

    def value(self, x: Array) -> tuple[Array, Array]:
        """f(x) and a bound of its error."""
        raise NotImplementedError

    def residual(self, s: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """A rigorous range of f(x) - s x over [low, high], for any slope s."""
        raise NotImplementedError

    def slopes(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Slopes of a lower and of an upper line; any are sound, these are good."""
        raise NotImplementedError

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
            to_top = np.where(high > c, np.where(c - low > high - c, (c - f_low) / (c - low), 0.0), np.nan)
            upper = np.where(np.isnan(to_top), (f_high - f_low) / (high - low), to_top)
            to_floor = np.where(high - f > f - low, (f_high - f) / (high - f), self.leak)
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
