"""Certified training in steps: bounds over small random sub-rectangles of S that grow, and count more, over a warm-up.

The schedule of certified training (Gowal et al. 2018 ramp the radius of the input box and the weight of the bound's
loss), on the parameters of the perturbation: few of them, so affine forms cost a few inference passes. Sides grow
geometrically, because bounds of a trained network do: those of `cnn7` width 32 widen a hundredfold from a fortieth of
the sides of S to a twentieth. Sub-rectangles rather than S itself, because the verifier halves S as well: what counts
is how large a part it can settle at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.calibration import Perturbation
from pruning.errors import CriterionError

FIRST = 1 / 80
"""Sides at the start, as a share of those of S."""


@dataclass(frozen=True)
class Curriculum:
    """weight: of the certified loss beside that of the task, at the end of the warm-up; cell: sides of the
    sub-rectangles by then, as a share of those of S; warm_up: share of the training.
    """

    weight: float = 0.0
    cell: float = 1 / 16
    warm_up: float = 0.5

    def __post_init__(self) -> None:
        if not (0 <= self.weight < np.inf and 0 < self.cell <= 1 and 0 <= self.warm_up <= 1):
            raise CriterionError(
                f"certified training with weight {self.weight:g}, cell {self.cell:g}, warm-up {self.warm_up:g}; "
                "expected a weight of at least 0, a cell above 0 and at most 1, a warm-up between 0 and 1"
            )

    def progress(self, done: float) -> float:
        """Share of the warm-up that is over, when `done` of the training is."""
        return min(1.0, done / self.warm_up) if self.warm_up else 1.0

    def influence(self, done: float) -> float:
        """Weight of the certified loss."""
        return self.weight * self.progress(done)

    def cells(
        self, semantic: Perturbation, count: int, done: float, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Middles and half sides of random sub-rectangles, both (count, d) float32."""
        low, high = semantic.box.T
        first = min(FIRST, self.cell)
        half = first * (self.cell / first) ** self.progress(done) * (high - low) / 2
        middle = rng.uniform(low + half, high - half, (count, len(low)))
        return middle.astype(np.float32), np.broadcast_to(half, middle.shape).astype(np.float32)
