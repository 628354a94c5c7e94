"""Neurons decided by splitting: where they are, and what they leave of the intervals there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.bounds.rounding import times
from verifier.ops.kinds import Interval
from verifier.tolerance import gamma


class Decided(NamedTuple):
    """The decided elements of one argument of a non-linear operator in B subproblems, up to D' in each: their `column`
    (B, D') in the flat value (its size in padding), the `side` (B, D') 1 or -1 (0 in padding) and `point` (B, D') of
    side (z - point) >= 0, and which decision `entry` (B, D') of the subproblem it is."""

    column: Tensor
    side: Tensor
    point: Tensor
    entry: Tensor

    def rows(self, beta: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """What multipliers `beta` (B, D) of all decisions add to a row over the argument, (B, size), and to its bias,
        (B,):  -beta side (z - point)."""
        at = torch.where(self.side != 0, -self.side * beta.gather(1, self.entry), 0.0)
        row = at.new_zeros(len(at), size + 1).scatter_add_(1, self.column, at)[:, :size]
        return row, -(at * self.point).sum(1)

    def rounding(self, beta: Tensor, size: Tensor) -> Tensor:
        """What rounding may add to such a row and constant on values of magnitudes up to `size` (B, size): (B,)."""
        at = torch.where(self.side != 0, beta.gather(1, self.entry), 0.0)
        z = torch.cat([size, size.new_zeros(len(size), 1)], 1).gather(1, self.column)
        return 2 * gamma(self.side.shape[1] + 2, beta.dtype) * (times(at, z) + at * self.point.abs()).sum(1)

    def slack(self, z: Tensor) -> Tensor:
        """side (z - point) of a value z (B, size): (B, D')."""
        flat = torch.cat([z, z.new_zeros(len(z), 1)], 1)
        return self.side * (flat.gather(1, self.column) - self.point)

    def clamp(self, x: Interval) -> tuple[Interval, Tensor]:
        """What is left of the flat intervals x, (B, size) each, and where nothing is left (B, size)."""
        size = x.lower.shape[1]
        pad = x.lower.new_zeros(len(x.lower), 1)
        low = torch.where(self.side > 0, self.point, -torch.inf)
        high = torch.where(self.side < 0, self.point, torch.inf)
        lower = torch.cat([x.lower, pad], 1).scatter_reduce(1, self.column, low, "amax")[:, :size]
        upper = torch.cat([x.upper, pad], 1).scatter_reduce(1, self.column, high, "amin")[:, :size]
        return Interval(lower, upper), lower > upper


def decided(network: Network, slot: int, signs: Tensor, points: Tensor) -> dict[tuple[int, int], Decided]:
    """The decisions `signs` with their split points (none: 0), (B, D) each, by argument of the operators before `slot`;
    no entry where there are none."""
    result = {}
    points = points if points.shape[1] else torch.zeros_like(signs, dtype=network.dtype)
    numbers = signs.abs() - 1
    index = torch.arange(signs.shape[1], device=signs.device).expand_as(signs)
    for (i, k), first in network.arguments.items() if signs.shape[1] else ():
        if i >= slot:
            continue
        size = network.size(network.sources[i][k])
        inside = (signs != 0) & (numbers >= first) & (numbers < first + size)
        used = inside.any(0).nonzero()[:, 0]
        if not len(used):
            continue
        mine = inside[:, used]
        column = torch.where(mine, numbers[:, used] - first, size)
        side = torch.where(mine, signs[:, used].sign(), 0).to(network.dtype)
        result[i, k] = Decided(column, side, points[:, used], index[:, used])
    return result
