"""Projected gradient ascent with Adam (Kingma & Ba 2015, algorithm 1): the optimiser of every multiplier and slope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

MEMORY = (0.9, 0.999)
"""Adam's averages of the gradient and of its square."""


SPARE = 1e8
"""Times the smallest number: a divisor that no gradient worth a step notices, and 0 / 0 does not come up."""


@dataclass
class Adam:
    """Steps for several tensors at once, upwards. Moments appear with the first gradient."""

    memory: tuple[float, float] = MEMORY
    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)
    steps: int = 0

    def step(self, gradients: Mapping[str, Tensor], noise: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Directions of about unit size, by name; gradients that are no larger than their `noise` move little."""
        self.steps += 1
        keep_first, keep_second = self.memory
        moves: dict[str, Tensor] = {}
        for name, gradient in gradients.items():
            if name in self.first:
                first = self.first[name].lerp_(gradient, 1 - keep_first)
                second = self.second[name].mul_(keep_second).addcmul_(gradient, gradient, value=1 - keep_second)
            else:
                first = self.first[name] = gradient * (1 - keep_first)
                second = self.second[name] = gradient.square().mul_(1 - keep_second)
            unit = 1 - keep_first**self.steps
            scale = second.mul(unit * unit / (1 - keep_second**self.steps)).sqrt_()
            scale.add_(torch.finfo(first.dtype).tiny * SPARE if noise is None else noise[name], alpha=unit)
            moves[name] = first.div(scale)
        return moves

    def select(self, keep: Tensor, axis: int = 0) -> None:
        """Goes on with the boxes named by an index alone, that lie along `axis`."""
        self.first = {name: t.index_select(axis, keep) for name, t in self.first.items()}
        self.second = {name: t.index_select(axis, keep) for name, t in self.second.items()}
