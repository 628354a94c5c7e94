"""What a network is made of for the checker: its linear operators (`curves.py` has the others), and what rounding is.

Arrays have a leading batch axis: a value of m numbers is (B, m). Every operator reads one argument, gathered from
earlier values. A linear one is y = W x + offset over the reals; products are summed in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray
MOST_NUMBERS = 1 << 27
"""Numbers in the maps of the affine forms that are held for one box at a time, at most; in lines below rows as well."""

CHUNK = 1 << 17
"""Elements of one array of rows, at most (larger ones come in parts); about what a core's cache holds."""

SCRATCH = 1 << 18
"""Numbers of arguments that are laid out at a time, where one has fewer: about what a core's cache holds."""


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


@dataclass(frozen=True, eq=False)
class Gather:
    """An argument: elements of earlier values. `index` (size,) counts through its `parts`, (value, its size), one after
    the other; one past their end stands for a 0, the padding of a picture."""

    parts: tuple[tuple[int, int], ...]
    index: Array

    @property
    def size(self) -> int:
        return len(self.index)

    @property
    def sources(self) -> tuple[int, ...]:
        return tuple(v for v, _ in self.parts)

    @cached_property
    def counts(self) -> Array:
        """How often every element of its parts occurs, and the 0."""
        return np.bincount(self.index, minlength=sum(size for _, size in self.parts) + 1)

    @cached_property
    def repeats(self) -> int:
        return int(self.counts[:-1].max(initial=1))

    @cached_property
    def whole(self) -> bool:
        """Whether it is its parts as they are."""
        return np.array_equal(self.index, np.arange(len(self.counts) - 1))

    @property
    def value(self) -> int:
        """The value that it is, -1 where it is not one as it is."""
        return self.sources[0] if self.whole and len(self.parts) == 1 else -1

    def join(self, values: Sequence[Array] | Mapping[int, Array]) -> Array:
        """What it reads, (.., n): its parts, one after the other."""
        own = [values[v] for v in self.sources]
        lead = np.broadcast_shapes(*(t.shape[:-1] for t in own))  # where one box stands for all
        return np.concatenate([np.broadcast_to(t, (*lead, t.shape[-1])) for t in own], -1) if len(own) > 1 else own[0]

    def pick(self, joined: Array) -> Array:
        """The argument (.., size) of what it reads."""
        if self.whole:
            return joined
        if self.counts[-1]:
            joined = np.concatenate([joined, np.zeros((*joined.shape[:-1], 1), joined.dtype)], -1)
        return joined.take(self.index, -1, mode="clip")

    def give(self, rows: Array, at: Array | None = None) -> Iterator[tuple[int, Array, Array | None]]:
        """Rows over the argument, (P, size), or over its elements `at`, as rows over values, or over some elements."""
        where, joined, start = at, rows, 0
        if not self.whole:
            where, place = (None, self.index) if at is None else np.unique(self.index[at], return_inverse=True)
            joined = np.zeros((len(rows), len(self.counts if where is None else where)), rows.dtype)
            for total, row in zip(joined, rows, strict=True):
                np.add.at(total, place, row)
        for v, size in self.parts:
            if where is None:
                yield v, joined[:, start : start + size], None
            else:
                mine = (where >= start) & (where < start + size)
                yield v, joined[:, mine], where[mine] - start
            start += size


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
        return self.argument.sources[0]


@dataclass
class Linear(CheckedOperator):
    """y[g, o, p] = sum over k of weight[g, o, k] x[k, g, p], plus `offset` (size,) or (1,).

    Convolutions: p is a window, x what lies under it of the channels of group g. Matrix products: one group, p is a row
    of x. Multiples of several arguments, added up: o is 0. `inexact` roundings went into each weight. With `largest`
    the sum is also known to be the maximum of the first two x.
    """

    weight: Array
    offset: Array = field(default_factory=lambda: np.zeros(1, int), kw_only=True)
    inexact: int = field(default=0, kw_only=True)
    largest: bool = field(default=False, kw_only=True)

    @property
    def terms(self) -> int:
        """Roundings that a product goes through at most, forwards or backwards, those of its coefficient too."""
        _, o, k = self.weight.shape
        return max(o, k) + self.argument.repeats + self.inexact

    @cached_property
    def magnitude(self) -> Array:
        return np.abs(self.weight)

    @cached_property
    def copies(self) -> bool:
        return self.weight.size == 1 and bool(self.weight == 1)

    @property
    def positions(self) -> int:
        """How many p there are."""
        return self.argument.size // (self.weight.shape[0] * self.weight.shape[2])

    def apply(self, x: Array, weight: Array) -> Array:
        """W x for (B, ..) of what the argument reads, W made of `weight`: of the operator's own, or of its
        `magnitude`."""
        if self.copies:
            return self.argument.pick(x)
        out, step = np.empty((len(x), self.size), weight.dtype), max(1, SCRATCH // self.argument.size)
        for at in range(0, len(x), step):
            out[at : at + step] = self.product(self.argument.pick(x[at : at + step]), weight)
        return out

    def product(self, x: Array, weight: Array) -> Array:
        """The same for arguments (B, ..)."""
        (g, o, k), b = weight.shape, len(x)
        if g == self.positions == 1:
            return x @ weight[0].T
        if o == 1:
            return (x.reshape(b, k, -1) * np.repeat(weight[:, 0].T, self.positions, 1)).sum(1)
        return (weight @ x.reshape(b, k, g, -1).swapaxes(1, 2)).reshape(b, -1)

    def adjoint(self, row: Array, at: Array | None = None) -> tuple[Array, Array | None]:
        """row W for rows (P, size), or for rows over the elements `at`: over arguments, or over which of their
        elements."""
        (g, o, k), b = self.weight.shape, len(row)
        if self.copies:
            return row, at
        if g == self.positions == 1:
            return spread_out(row, at, self.size) @ self.weight[0], None
        if o == 1:
            factors = np.repeat(self.weight[:, 0].T, self.positions, 1)
            if at is not None:
                factors, at = factors[:, at], (np.arange(k)[:, None] * self.size + at).reshape(-1)
            return (row[:, None] * factors).reshape(b, -1), at
        row = spread_out(row, at, self.size)
        columns = self.weight.swapaxes(1, 2) @ row.reshape(b, g, o, -1)
        return columns.swapaxes(1, 2).reshape(b, -1), None
