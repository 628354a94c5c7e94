"""Scrambled Sobol points in up to six dimensions (scipy has them, but importing it costs more than a scoring run).

Dimension 1 is the van der Corput sequence; the generator of every other one follows from a primitive polynomial over
the integers modulo 2 and the direction numbers of Joe and Kuo (2008). The first two are a (0, 2)-sequence, so that any
aligned 2^m points put equally many into every elementary box. A random lower triangular matrix per dimension and a
digital shift (Matousek 1998) randomise them and keep that property.
"""

from __future__ import annotations

import numpy as np

BITS = 32


DIRECTIONS = ((0, (1,)), (1, (1, 3)), (1, (1, 3, 1)), (2, (1, 1, 1)), (1, (1, 1, 3, 3)))
"""Of dimensions 2 to 6: the inner coefficients of the polynomial, one bit each, and the first direction numbers."""


def points(count: int, rng: np.random.Generator, dimensions: int = 2) -> np.ndarray:
    """The first `count` points, (count, dimensions) in [0, 1)."""
    index = (np.arange(count)[:, None] >> np.arange(BITS)) & 1  # bits of the index, lowest first
    result = np.empty((count, dimensions))
    for dimension in range(dimensions):
        generator = _generator(*DIRECTIONS[dimension - 1]) if dimension else np.eye(BITS, dtype=np.int64)
        scramble = np.tril(rng.integers(0, 2, (BITS, BITS)), -1) + np.eye(BITS, dtype=np.int64)
        digits = index @ ((scramble @ generator) % 2).T + rng.integers(0, 2, BITS)
        result[:, dimension] = (digits % 2) @ 0.5 ** np.arange(1, BITS + 1)
    return result


def _generator(inner: int, first: tuple[int, ...]) -> np.ndarray:
    """Upper triangular matrix over the integers modulo 2, its column j the bits of the direction number m_j / 2^j."""
    numbers, degree = list(first), len(first)
    while len(numbers) < BITS:
        new = numbers[-degree] ^ (numbers[-degree] << degree)
        for k in range(1, degree):
            if inner >> (degree - 1 - k) & 1:
                new ^= numbers[-k] << k
        numbers.append(new)
    rows, columns = np.mgrid[:BITS, :BITS]
    shift = np.maximum(columns - rows, 0)
    return np.where(columns >= rows, (np.array(numbers, dtype=np.int64) >> shift) & 1, 0)
