"""What a property says about heatmaps, map by map, without a row for every pair of cells.

Two questions, both about the argmax of each of K maps of P cells (a tie counts for the worse cell):

    Windows     does it stay inside a window?
    MapBudget   does the weighted sum of its distances stay within a limit?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verifier.tolerance import LIMIT_GUARD


@dataclass(frozen=True, eq=False)
class Windows:
    """`inside` (K, P): the cells of each map's window. `used` (K,): maps with cells on both sides."""

    inside: np.ndarray
    used: np.ndarray

    def violated(self, y: np.ndarray) -> np.ndarray:
        """Whether some used map is as high outside its window as inside, for outputs y (..., K P): bool (...)."""
        z = y.reshape(*y.shape[:-1], *self.inside.shape)
        best = np.where(self.inside, z, -np.inf).max(-1)
        rival = np.where(self.inside, -np.inf, z).max(-1)
        return np.asarray(((rival >= best) & self.used).any(-1))


@dataclass(frozen=True, eq=False)
class MapBudget:
    """`weight` (K, P): what it costs, in pixels, if map k has its argmax at cell p; the sum may reach `limit`."""

    weight: np.ndarray
    limit: float

    @property
    def bound(self) -> float:
        """The limit with its guard."""
        return self.limit * (1 + LIMIT_GUARD)

    def cost(self, y: np.ndarray) -> np.ndarray:
        """The sum for outputs y (..., K P); of cells that tie, the dearest counts."""
        z = y.reshape(*y.shape[:-1], *self.weight.shape)
        best = z == z.max(-1, keepdims=True)
        return np.asarray(np.where(best, self.weight, -np.inf).max(-1).sum(-1))

    def violated(self, y: np.ndarray) -> np.ndarray:
        """Whether the cost is beyond the limit: bool (...)."""
        return np.asarray(self.cost(y) > self.bound)


Maps = Windows | MapBudget
