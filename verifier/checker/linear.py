"""What a network is made of for the checker: its linear operators (`curves.py` has the others), and what rounding is.

Arrays have a leading batch axis: a value of m numbers is (B, m). Every operator reads one argument, gathered from
earlier values. A linear one is y = W x + offset over the reals; products are summed in any order, and `terms` bounds
the number of products in one sum, forwards and backwards, plus one for every rounding that went into a coefficient.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray
Places = slice | Array
"""Positions in a value: a range where they are one."""

SCRATCH = 1 << 18
"""Numbers that a convolution lays out at a time, where one picture has fewer: about what a core's cache holds."""


def fractions(numbers: Array | float) -> Array:
    """Numbers as what they are exactly."""
    numbers = np.asarray(numbers, np.float64)
    flat = np.array([Fraction(v) for v in numbers.reshape(-1).tolist()] + [None], object)[:-1]  # even if it is empty
    return flat.reshape(numbers.shape)


@dataclass(frozen=True)
class Arithmetic:
    """Numbers in which bounds are computed: one operation is off by `unit` relative to its result, and by less than
    `tiny` where that underflows. In fractions both are 0, and everything is the same but exact."""

    exact: bool
    unit: Any
    tiny: Any

    def of(self, numbers: Array | float) -> Array:
        """Float64 numbers as these numbers."""
        return fractions(numbers) if self.exact else np.asarray(numbers, np.float64)

    def zeros(self, *shape: int) -> Array:
        return np.zeros(shape, object if self.exact else np.float64)

    def gamma(self, terms: int) -> Any:
        """n u / (1 - n u) for n = terms + 8: bounds the relative error of a sum of `terms` products, in any order, with
        or without fused multiply-adds, relative to the sum of the magnitudes (Higham 2002, lemma 3.1 and section 3.1);
        the 8 more pay for the few operations around it, this number's own rounding included."""
        nu = (terms + 8) * self.unit
        if nu >= 0.5:
            raise OverflowError("a sum has so many terms that its rounding is not bounded")
        return nu / (1 - nu)


FLOATS = Arithmetic(False, 2.0**-53, float(np.finfo(np.float64).tiny))
FRACTIONS = Arithmetic(True, Fraction(0), Fraction(0))
UNIT, TINY = 2.0**-53, float(np.finfo(np.float64).tiny)


def places_of(index: Array) -> Places:
    """Positions (k,) as a range, if they are one."""
    start = int(index[0]) if len(index) else 0
    return slice(start, start + len(index)) if (index == np.arange(start, start + len(index))).all() else index


@dataclass(frozen=True)
class Gather:
    """An argument of `size` numbers from `parts` of earlier values: (value, its size, where in it, where they go)."""

    size: int
    parts: tuple[tuple[int, int, Places, Places], ...]

    @cached_property
    def value(self) -> int:
        """The value that it is, -1 where it is not one as it is."""
        if len(self.parts) != 1 or self.parts[0][1] != self.size or not isinstance(self.parts[0][2], slice):
            return -1
        return self.parts[0][0]

    @cached_property
    def repeats(self) -> int:
        """How often one number occurs in it, at most."""
        places = [place for _, _, place, _ in self.parts if not isinstance(place, slice)]
        return max((int(np.bincount(place).max()) for place in places), default=1)

    @property
    def source(self) -> int:
        """The value that it reads first."""
        return self.parts[0][0]

    @property
    def sources(self) -> tuple[int, ...]:
        return tuple(part[0] for part in self.parts)

    def take(self, values: Sequence[Array] | Mapping[int, Array]) -> Array:
        """The argument (.., size)."""
        first = values[self.parts[0][0]]
        if self.value >= 0:
            return first
        lead = max((values[v].shape[:-1] for v in self.sources), key=math.prod)
        out = np.empty((*lead, self.size), first.dtype)
        for v, _, source, place in self.parts:
            out[..., place] = values[v][..., source]
        return out

    def give(self, row: Array, at: Array | None = None) -> Iterator[tuple[int, Array, Array | None]]:
        """Rows over the argument, (P, size), or over its elements `at`, as rows over values, or over some elements."""
        if self.value >= 0:
            yield self.value, row, at
            return
        if at is not None and len(self.parts) == 1:
            ((v, size, source, _),) = self.parts
            where, first = np.unique(np.arange(size)[source][at], return_inverse=True)
            out = np.zeros((len(row), len(where)), row.dtype)
            np.add.at(out.T, first, row.T)
            yield v, out, where
            return
        row = spread_out(row, at, self.size)
        for v, size, source, place in self.parts:
            out = np.zeros((*row.shape[:-1], size), row.dtype)
            if isinstance(source, slice) or self.repeats == 1:
                out[..., source] = row[..., place]
            else:
                np.add.at(np.moveaxis(out, -1, 0), source, np.moveaxis(row[..., place], -1, 0))
            yield v, out, None


def spread_out(row: Array, at: Array | None, size: int) -> Array:
    """Rows (P, k) over the elements `at` (k,) as rows over all of them (P, size)."""
    if at is None:
        return row
    out = np.zeros((len(row), size), row.dtype)
    out[:, at] = row
    return out


@dataclass
class CheckedOperator:
    """An operator: what it reads, and how many numbers it makes."""

    argument: Gather
    size: int
    name: str

    @property
    def source(self) -> int:
        """The value that it reads first."""
        return self.argument.source


@dataclass
class Linear(CheckedOperator, ABC):
    """y = W x + offset, offset (size,) or (1,); the numbers of W are `weight`, arranged as the class says, and
    `inexact` roundings went into each."""

    weight: Array
    offset: Array | None = field(default=None, kw_only=True)
    inexact: int = field(default=0, kw_only=True)

    @property
    @abstractmethod
    def products(self) -> int:
        """The most products in one sum, forwards or backwards."""

    @cached_property
    def terms(self) -> int:
        return self.products + self.argument.repeats + self.inexact

    @cached_property
    def magnitude(self) -> Array:
        return np.abs(self.weight)

    @abstractmethod
    def apply(self, x: Array, weight: Array) -> Array:
        """W x for arguments (B, ..), W made of `weight`: of the operator's own, or of its `magnitude`."""

    @abstractmethod
    def adjoint(self, row: Array) -> Array:
        """row W for rows (B, size)."""

    def adjoint_at(self, row: Array, at: Array | None) -> tuple[Array, Array | None]:
        """The same of rows (P, k) over the elements `at` (None: all), 0 elsewhere: and what elements it is over."""
        return self.adjoint(spread_out(row, at, self.size)), None


@dataclass
class Scale(Linear):
    """Multiples of r arguments of one size, added up: weight (r, size), or (r, 1). With `largest` the sum is also known
    to be the maximum of the first two."""

    largest: bool = False

    @property
    def products(self) -> int:
        return len(self.weight)

    @cached_property
    def plain(self) -> bool:
        return self.weight.size == 1 and bool(self.weight == 1)

    def apply(self, x: Array, weight: Array) -> Array:
        return x if self.plain else (x.reshape(len(x), len(weight), -1) * weight).sum(1)

    def adjoint(self, row: Array) -> Array:
        return row if self.plain else (row[:, None] * self.weight).reshape(len(row), -1)

    def adjoint_at(self, row: Array, at: Array | None) -> tuple[Array, Array | None]:
        if at is None or self.plain:
            return self.adjoint(row), at
        weight = self.weight if self.weight.shape[1] == 1 else self.weight[:, at]
        places = np.arange(len(weight))[:, None] * self.size + at
        return (row[:, None] * weight).reshape(len(row), -1), places.reshape(-1)


@dataclass
class Dense(Linear):
    """y = x @ weight for every k of the numbers in turn; weight (k, n)."""

    @property
    def products(self) -> int:
        return max(self.weight.shape)

    @cached_property
    def turned(self) -> Array:
        return np.ascontiguousarray(self.weight.T)

    def apply(self, x: Array, weight: Array) -> Array:
        return (x.reshape(-1, len(weight)) @ weight).reshape(len(x), -1)

    def adjoint(self, row: Array) -> Array:
        return (row.reshape(-1, len(self.turned)) @ self.turned).reshape(len(row), -1)


@dataclass
class Conv(Linear):
    """2-d convolution of a picture (C, H, W) with weight (O, C / groups, h, w) to one of `grid` (H', W')."""

    picture: tuple[int, int, int]
    grid: tuple[int, int]
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def products(self) -> int:
        o, c, h, w = self.weight.shape
        return max(o // self.groups, c) * h * w

    def _padded(self, count: int) -> tuple[Array, Array, Array]:
        """Pictures of zeros, their inner part (B, C, H, W), and what lies under each window, (B, C, h, w, H', W')."""
        (c, height, width), (top, left, bottom, right) = self.picture, self.pads
        padded = np.zeros((count, c, height + top + bottom, width + left + right), self.weight.dtype)
        (sh, sw), (dh, dw) = self.strides, self.dilations
        b, step, sy, sx = padded.strides
        shape = count, c, *self.weight.shape[2:], *self.grid
        windows = np.lib.stride_tricks.as_strided(padded, shape, (b, step, sy * dh, sx * dw, sy * sh, sx * sw))
        return padded, padded[:, :, top : top + height, left : left + width], windows

    def apply(self, x: Array, weight: Array) -> Array:
        b, g, inner, many = len(x), self.groups, math.prod(weight.shape[1:]), math.prod(self.grid)
        kernel, out = weight.reshape(g, -1, inner), np.empty((b, self.size), weight.dtype)
        step = min(b, max(1, SCRATCH // (g * inner * many)))
        _, middle, windows = self._padded(step)  # the border stays 0
        columns = np.empty(windows.shape, weight.dtype)
        for at in range(0, b, step):
            n = min(step, b - at)
            middle[:n] = x[at : at + n].reshape(n, *self.picture)
            columns[:n] = windows[:n]
            np.matmul(kernel, columns[:n].reshape(n, g, inner, many), out=out[at : at + n].reshape(n, g, -1, many))
        return out

    def adjoint(self, row: Array) -> Array:
        b, g, o = len(row), self.groups, len(self.weight)
        kernel = self.weight.reshape(1, g, o // g, -1).swapaxes(2, 3)
        _, middle, windows = self._padded(b)
        columns = (kernel @ row.reshape(b, g, o // g, -1)).reshape(windows.shape)
        for i, j in np.ndindex(*self.weight.shape[2:]):
            windows[:, :, i, j] += columns[:, :, i, j]
        return middle.reshape(b, -1)
