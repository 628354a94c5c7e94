"""Neurons decided by splitting: where they are, and what they leave of the intervals there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.bounds.rounding import times
from verifier.tolerance import gamma


class Decided(NamedTuple):
    """Decided elements of a value in B subproblems, up to D' in each: their `column` (B, D') in the flat value,
    `against` (B, D') 1, -1, or 0 in padding, and `point` (B, D') of the decision  against (z - point) <= 0, and which
    decision `entry` (B, D') of the subproblem it is (None: each the one at its place)."""

    column: Tensor
    against: Tensor
    point: Tensor
    entry: Tensor | None

    def select(self, index: Tensor) -> Decided:
        """Those of the subproblems at `index`."""
        column, against, point = (t.index_select(0, index) for t in self[:3])
        return Decided(column, against, point, None if self.entry is None else self.entry.index_select(0, index))

    def of(self, beta: Tensor) -> Tensor:
        """The multipliers (B, D') of these decisions, of `beta` (B, D) of all."""
        return beta if self.entry is None else beta.gather(1, self.entry)

    def placed(self, mine: Tensor, like: Tensor) -> Tensor:
        """Numbers (B, D') of these decisions at their places among all, in the shape of `like` (B, D); 0 elsewhere."""
        return mine if self.entry is None else torch.zeros_like(like).scatter_add_(1, self.entry, mine)

    def rows(self, beta: Tensor, size: int) -> Tensor:
        """What multipliers `beta` (B, D) of all decisions add to a row over the value: (B, size)."""
        at = self.of(beta) * self.against
        return at.new_zeros(len(at), size).scatter_add_(1, self.column, at)

    def shift(self, beta: Tensor) -> Tensor:
        """What they add to its bias: (B,)."""
        return -(self.of(beta) * self.against * self.point).sum(1)

    def rounding(self, beta: Tensor, size: Tensor) -> Tensor:
        """What rounding may add to such a row and constant on values of magnitudes up to `size` (B, size): (B,)."""
        at = self.of(beta) * self.against.abs()
        z = size.gather(1, self.column)
        return 2 * gamma(self.against.shape[1] + 2, beta.dtype) * (times(at, z) + at * self.point.abs()).sum(1)

    def excess(self, z: Tensor) -> Tensor:
        """against (z - point) of a value z (B, size): (B, D')."""
        return (z.gather(1, self.column) - self.point).mul_(self.against)

    def clamp(self, ends: Tensor) -> Tensor:
        """Cuts the flat intervals `ends` (2, B, size) down to what is left of them, in place; where nothing is left
        (B, size)."""
        lower, upper = ends
        lower.scatter_reduce_(1, self.column, self.point.masked_fill(self.against >= 0, -torch.inf), "amax")
        upper.scatter_reduce_(1, self.column, self.point.masked_fill(self.against <= 0, torch.inf), "amin")
        return lower > upper


def of_relus(network: Network, slot: int, signs: Tensor, points: Tensor) -> Decided | None:
    """The decisions `signs` with their split points (none: 0), (B, D) each, of ReLUs before `slot`, all of which lie
    side by side as `Network.relus` numbers them; None where there are no decisions."""
    count = max((first + network.size(i + 1) for i, first in network.relus.items() if i < slot), default=0)
    if not signs.shape[1] or not count:
        return None
    numbers = signs.abs()
    inside = (numbers > 0) & (numbers <= count)
    against = torch.where(inside, signs.sign().neg_(), 0).to(network.dtype)
    points = points if points.shape[1] else torch.zeros_like(against)
    return Decided((numbers - 1).masked_fill_(~inside, 0), against, points, None)


def of_others(network: Network, slot: int, signs: Tensor, points: Tensor) -> dict[tuple[int, int], Decided]:
    """The same of other operators, by argument; no entry where there are none."""
    result: dict[tuple[int, int], Decided] = {}
    others = [key for key in network.arguments if key[0] < slot and key[0] not in network.relus]
    if not others or not signs.shape[1]:
        return result
    points = points if points.shape[1] else torch.zeros_like(signs, dtype=network.dtype)
    numbers = signs.abs() - 1
    index = torch.arange(signs.shape[1], device=signs.device).expand_as(signs)
    for i, k in others:
        first, size = network.arguments[i, k], network.size(network.sources[i][k])
        inside = (signs != 0) & (numbers >= first) & (numbers < first + size)
        used = inside.any(0).nonzero()[:, 0]
        if not len(used):
            continue
        mine = inside[:, used]
        column = torch.where(mine, numbers[:, used] - first, 0)
        against = torch.where(mine, -signs[:, used].sign(), 0).to(network.dtype)
        result[i, k] = Decided(column, against, points[:, used], index[:, used])
    return result
