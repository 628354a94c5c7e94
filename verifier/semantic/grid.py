"""Dyadic cells of a parameter rectangle, with exact areas.

A cell of member q is, per parameter i, the interval [index / 2^level, (index + 1) / 2^level] of the unit interval,
scaled to the box. Its share of the box is 2^-(sum of levels), a dyadic fraction, so areas are sums of integers and add
up to 1 exactly. Neighbours compute a common edge from the same fraction, hence get the same float: no gaps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verifier.brief import brief

MAX_LEVEL = 30
"""Halvings of one parameter; float64 can tell 2^30 parts of any sensible range apart."""


@dataclass(frozen=True, eq=False)
class Cells:
    """`query` (N,) int32, `level` (N, d) int8, `index` (N, d) int32."""

    __repr__ = brief

    query: np.ndarray
    level: np.ndarray
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.query)

    def select(self, which: np.ndarray | slice) -> Cells:
        """The cells named by a mask, indices or a slice."""
        return Cells(self.query[which], self.level[which], self.index[which])

    @property
    def depth(self) -> np.ndarray:
        """Halvings in all: the share of the box is 2^-depth."""
        return self.level.sum(1, dtype=np.int64)

    def unit(self) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper corners in the unit cube, exact float64 (N, d)."""
        scale = np.ldexp(1.0, -self.level.astype(np.int64))
        return self.index * scale, (self.index + 1) * scale

    def corners(self, lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Corners in the members' boxes (Q, d): the ends of the box are met exactly, inner edges up to a rounding."""
        low, high = lower[self.query], upper[self.query]
        start, stop = self.unit()
        return _at(low, high, start), _at(low, high, stop)

    def split(self, halvings: np.ndarray) -> Cells:
        """All parts of every cell after halving parameter i `halvings[:, i]` times, (N, d)."""
        parts = [self.select(slice(0, 0))]
        for kind in np.unique(halvings, axis=0):
            mine = self.select((halvings == kind).all(1))
            offsets = np.stack(np.meshgrid(*(np.arange(1 << int(k)) for k in kind), indexing="ij"), -1).reshape(
                -1, len(kind)
            )
            index = (mine.index.astype(np.int64) << kind.astype(np.int64))[:, None] + offsets
            count = len(offsets)
            parts.append(
                Cells(
                    np.repeat(mine.query, count),
                    np.repeat(mine.level + kind.astype(np.int8), count, 0),
                    index.reshape(-1, len(kind)).astype(np.int32),
                )
            )
        return join(parts)


def _at(low: np.ndarray, high: np.ndarray, part: np.ndarray) -> np.ndarray:
    # clipped: rounding must not leave the box, and the last edge has to be its end
    inner = np.clip(low + part * (high - low), low, high)
    return np.where(part == 0, low, np.where(part == 1, high, inner))


def join(parts: Sequence[Cells]) -> Cells:
    """One after the other."""
    return Cells(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("query", "level", "index")))


def whole(members: int, inputs: int) -> Cells:
    """The undivided boxes."""
    return Cells(
        np.arange(members, dtype=np.int32), np.zeros((members, inputs), np.int8), np.zeros((members, inputs), np.int32)
    )


def area(cells: Cells, members: int) -> list[Fraction]:
    """Exact share of every member's box that its cells cover (they must not overlap)."""
    total = [Fraction(0)] * members
    if len(cells) == 0:
        return total
    keys, counts = np.unique(np.stack([cells.query, cells.depth]), axis=1, return_counts=True)
    for q, depth, count in zip(keys[0].tolist(), keys[1].tolist(), counts.tolist(), strict=True):
        total[q] += Fraction(count, 1 << depth)
    return total
