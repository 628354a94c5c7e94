"""Affine forms: a value as an affine function of the free inputs plus bounded noise.

An affine form of a value v over a box with d free inputs is

    v = c + sum_i e_i G_i + r,    e in [-1, 1]^d,  |r| <= radius

that is, a zonotope whose first d generators are the inputs' and whose other noise is lumped into one radius per element
(an "affine form with error term": de Figueiredo & Stolfi 2004; the ReLU rule is DeepZ's, Singh et al. 2018, with the
new noise symbol put into the radius). Its cost is d + 1 signed applications of each linear map and one with absolute
weights.

The radius can be kept in d parts instead of one, each part the noise that one input is to blame for: noise that a
non-linear operator adds is shared out among the inputs in proportion to how much each moves the operator's argument.
That costs d - 1 more applications and tells the search which input to split even where the inputs' linear effects
cancel.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from verifier.ops.kinds import Interval
from verifier.tolerance import ulp


class AffineForm(NamedTuple):
    """`maps` (B, d + 1, *S): the centre, then d generators; `radius` (B, p, *S) >= 0 in p = 1 or p = d parts."""

    maps: Tensor
    radius: Tensor

    def interval(self, moves: Tensor | None = None) -> Interval:
        """An interval around the form, the rounding of its own sums included; `moves` as `moves()` has it."""
        centre, spread = self.maps[:, 0], self.spread(moves)
        # a value that nothing moves keeps its exact bounds
        rounding = centre.abs().add_(spread).mul_(spread.sign())
        spread.add_(rounding, alpha=4 * ulp(spread.dtype))
        return Interval(centre - spread, centre + spread)

    def spread(self, moves: Tensor | None = None) -> Tensor:
        """At least how far the value can be from the centre: (B, *S)."""
        parts = self.maps.shape[1] + self.radius.shape[1]
        total = (self.moves() if moves is None else moves).sum(1)
        if self.radius.shape[1] == 1:
            total.add_(self.radius[:, 0])
        return total.mul_(1 + parts * ulp(self.maps.dtype))

    def moves(self) -> Tensor:
        """How far each input moves the value, linearly or by the noise it is to blame for: (B, d, *S)."""
        moves = self.maps[:, 1:].abs()
        return moves.add_(self.radius) if self.radius.shape[1] > 1 else moves
