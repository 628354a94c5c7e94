"""What a network is made of for the checker: its linear operators (`curves.py` has the others).

Arrays have a leading batch axis: a value of shape S is (B, *S). A linear operator is y = sum_i W_i x_i + offset over
the reals, with `spread` = |W| applied to magnitudes, `adjoint` = a row over y as rows over the x_i. Products are summed
in any order; `terms` bounds the number of products in one sum, forwards and backwards, plus one for every rounding that
went into a stored coefficient.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

Array = np.ndarray
Shape = tuple[int, ...]
UNIT = 2.0**-53
"""Largest relative error of one operation in float64, rounded to nearest."""

TINY = float(np.finfo(np.float64).tiny)
"""More than what underflow takes off one operation (2**-1075)."""

SCRATCH = 1 << 18
"""Numbers that a convolution lays out at a time, where one picture has fewer: about what a core's cache holds."""

FEW = 32
"""A matrix with at most one nonzero number in so many, in every column, is multiplied by gathering these."""


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


@dataclass
class Linear(CheckedOperator, ABC):
    """y = sum_i W_i x_i + offset; `inexact` roundings went into each coefficient of W."""

    offset: Array | None = field(default=None, kw_only=True)
    inexact: int = field(default=0, kw_only=True)
    terms: int = field(init=False)

    @abstractmethod
    def forward(self, xs: Sequence[Array]) -> Array:
        """sum_i W_i x_i, rounded."""

    @abstractmethod
    def spread(self, xs: Sequence[Array]) -> Array:
        """sum_i |W_i| x_i for x_i >= 0, rounded."""

    @abstractmethod
    def adjoint(self, row: Array) -> list[Array]:
        """row W_i for every i, rounded."""

    def adjoint_at(self, row: Array, at: Array | None) -> list[tuple[Array, Array | None]]:
        """The same of rows (P, k) over the flat elements `at` (k,), 0 elsewhere (None: over all of them): for every i
        rows and what they are over."""
        return [(r, None) for r in self.adjoint(spread_out(row, at, math.prod(self.shape)).reshape(-1, *self.shape))]


def spread_out(row: Array, at: Array | None, size: int) -> Array:
    """Rows (.., k) over the elements `at` (k,) as rows over all of them (.., size)."""
    if at is None:
        return row
    out = np.zeros((*row.shape[:-1], size))
    out[..., at] = row
    return out


@dataclass
class Arranged:
    """factor * x.flat[index] at the places `place` of a result; None stands for all of them in order, and for 1."""

    shape: Shape
    index: Array | None = None
    factor: Array | None = None
    place: Array | None = None

    def __post_init__(self) -> None:
        size = math.prod(self.shape)
        if self.index is not None and len(self.index) == size and (self.index == np.arange(size)).all():
            self.index = None
        self.repeats = 1 if self.index is None else int(np.bincount(self.index, minlength=1).max(initial=1))

    def taken(self, x: Array, factor: Array | None) -> Array:
        flat = x.reshape(len(x), -1)
        flat = flat if self.index is None else flat[:, self.index]
        return flat if factor is None else flat * factor

    def back(self, row: Array) -> Array:
        row = row if self.place is None else row[:, self.place]
        row = row if self.factor is None else row * self.factor
        if self.index is not None:
            flat, row = row, np.zeros((len(row), math.prod(self.shape)))
            if self.repeats == 1:
                row[:, self.index] = flat
            else:
                np.add.at(row.T, self.index, flat.T)
        return row.reshape(len(row), *self.shape)


@dataclass
class Arrange(Linear):
    """A sum of arranged values, one part a source: moves of elements, factors, sums, concatenations."""

    parts: tuple[Arranged, ...]

    def __post_init__(self) -> None:
        self.terms = len(self.parts) + max(p.repeats for p in self.parts) - 1 + self.inexact

    def _sum(self, xs: Sequence[Array], factors: Sequence[Array | None]) -> Array:
        out: Array | None = None
        for part, x, factor in zip(self.parts, xs, factors, strict=True):
            taken = part.taken(x, factor)
            if part.place is not None:
                out = np.zeros((len(x), math.prod(self.shape))) if out is None else out
                out[:, part.place] += taken
            else:
                out = taken if out is None else out + taken
        assert out is not None
        return out.reshape(len(out), *self.shape)

    def forward(self, xs: Sequence[Array]) -> Array:
        return self._sum(xs, [p.factor for p in self.parts])

    def spread(self, xs: Sequence[Array]) -> Array:
        return self._sum(xs, [None if p.factor is None else np.abs(p.factor) for p in self.parts])

    def adjoint(self, row: Array) -> list[Array]:
        return [part.back(row.reshape(len(row), -1)) for part in self.parts]

    def adjoint_at(self, row: Array, at: Array | None) -> list[tuple[Array, Array | None]]:
        if all(p.index is None and p.place is None and p.factor is None for p in self.parts):
            return [(row, at)] * len(self.parts)
        return super().adjoint_at(row, at)


class _Product:
    """x @ matrix, or some of its columns. `few` are the places of each column's nonzero numbers (c, n), where they are
    few."""

    def __init__(self, matrix: Array) -> None:
        self.matrix, counts = matrix, (matrix != 0).sum(0)
        self.few: Array | None = None
        if (count := int(counts.max(initial=0))) * FEW <= len(matrix):
            column, place = np.nonzero(matrix.T)
            self.few = np.zeros((count, matrix.shape[1]), np.int64)  # beyond a column's own: its first number, not used
            self.values = np.zeros(self.few.shape)
            nth = np.arange(len(column)) - np.repeat(np.cumsum(counts) - counts, counts)
            self.few[nth, column], self.values[nth, column] = place, matrix[place, column]

    def __call__(self, x: Array, columns: Array | slice = slice(None)) -> Array:
        if self.few is None:
            return x @ self.matrix[:, columns]
        few, values = self.few[:, columns], self.values[:, columns]
        out = np.zeros((*x.shape[:-1], few.shape[1]))
        for index, value in zip(few, values, strict=True):
            out += x[..., index] * value
        return out


@dataclass
class Dense(Linear):
    """y = x @ weight + offset over the last axis; weight (k, n)."""

    weight: Array

    def __post_init__(self) -> None:
        self.terms = max(self.weight.shape) + 1 + self.inexact
        self._forward, self._spread, self._back = (
            _Product(m) for m in (self.weight, np.abs(self.weight), np.ascontiguousarray(self.weight.T))
        )

    def forward(self, xs: Sequence[Array]) -> Array:
        return self._forward(xs[0])

    def spread(self, xs: Sequence[Array]) -> Array:
        return self._spread(xs[0])

    def adjoint(self, row: Array) -> list[Array]:
        return [self._back(row)]

    def adjoint_at(self, row: Array, at: Array | None) -> list[tuple[Array, Array | None]]:
        few = self._forward.few
        if at is None or few is None or math.prod(self.shape) != self.weight.shape[1]:
            return super().adjoint_at(row, at)
        where = np.unique(few[:, at])
        return [(self._back(spread_out(row, at, self.weight.shape[1]), where), where)]


@dataclass
class Conv(Linear):
    """2-d convolution of (1, C, H, W): weight (O, C / groups, h, w), begin and end pads, strides, dilations."""

    weight: Array
    source_shape: Shape
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1

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
