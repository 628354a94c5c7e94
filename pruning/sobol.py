"""Scrambled Sobol points in two dimensions (scipy has them, but importing scipy.stats costs more than a scoring run).

Dimension 1 is the van der Corput sequence, dimension 2 has the Pascal matrix modulo 2 as generator: together a
(0, 2)-sequence, so that any aligned 2^m points put equally many into every elementary box. A random lower triangular
matrix per dimension and a digital shift (Matousek 1998) randomise them and keep that property.
"""

from __future__ import annotations

import numpy as np

BITS = 32


def points(count: int, rng: np.random.Generator) -> np.ndarray:
    """The first `count` points, (count, 2) in [0, 1)."""
    index = (np.arange(count)[:, None] >> np.arange(BITS)) & 1  # bits of the index, lowest first
    result = np.empty((count, 2))
    for dimension, generator in enumerate((np.eye(BITS, dtype=np.int64), _pascal())):
        scramble = np.tril(rng.integers(0, 2, (BITS, BITS)), -1) + np.eye(BITS, dtype=np.int64)
        digits = index @ ((scramble @ generator) % 2).T + rng.integers(0, 2, BITS)
        result[:, dimension] = (digits % 2) @ 0.5 ** np.arange(1, BITS + 1)
    return result


def _pascal() -> np.ndarray:
    """Upper triangular Pascal matrix modulo 2: entry (i, j) is binomial(j, i) mod 2."""
    rows, columns = np.mgrid[:BITS, :BITS]
    return ((rows & columns) == rows).astype(np.int64)  # Lucas: odd iff the bits of i are among those of j
