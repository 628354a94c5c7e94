"""Random numbers that are the same on every machine and with every NumPy version.

NumPy promises a stable stream for bit generators, not for `Generator.uniform` and its kin, so the few distributions
needed here are derived from the raw 64-bit words.
"""

from __future__ import annotations

import numpy as np


class Draws:
    """Uniform numbers from `PCG64(SeedSequence(key))`; the key makes every image independent of all others."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(list(key)))

    def unit(self, *shape: int) -> np.ndarray:
        """Float64 array of the given shape, uniform on the multiples of 2^-53 in [0, 1)."""
        raw = np.asarray(self._bits.random_raw(int(np.prod(shape, dtype=np.int64))), dtype=np.uint64)
        return ((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(shape)

    def uniform(self, low: float, high: float) -> float:
        """One number in [low, high)."""
        return low + (high - low) * float(self.unit(1)[0])

    def below(self, n: int) -> int:
        """One integer in 0..n-1 (the bias of order n * 2^-53 is irrelevant here)."""
        return int(float(self.unit(1)[0]) * n)

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return float(self.unit(1)[0]) < probability
