"""Input maps: how a box of parameters becomes a set of network inputs.

The search works on boxes of parameters p (B, d). The network reads x (B, n) = offset[q] + matrix[q] p, a map that
belongs to the query q of the box. For an ordinary specification the map is the identity on the varying inputs; for a
semantic perturbation d is at most 6 and every image of a study has its own map, so that one batch can
hold boxes of many images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from verifier.bounds.affine import AffineForm
from verifier.ops.patch import Patch
from verifier.tolerance import gamma, ulp


@dataclass(frozen=True, eq=False)
class IdentityMap:
    """x = p. `free` (Q, d) lists the coordinates that vary in each query (-1 pads); the width of all others is the
    rounding of a fixed value and is never split."""

    free: Tensor

    @property
    def generators(self) -> int:
        """Number of generators of an affine form of the input, at most."""
        return self.free.shape[1]

    @cached_property
    def counts(self) -> Tensor:
        """How many coordinates vary in each query: (Q,)."""
        return (self.free >= 0).sum(1)

    @cached_property
    def _even(self) -> bool:
        return bool((self.counts == self.generators).all())

    def form(self, lower: Tensor, upper: Tensor, query: Tensor, attribute: bool) -> AffineForm:
        """The exact affine form of x over parameter boxes (B, n): generators for the free coordinates, as many as the
        query with most of them has, the width of all others in the radius."""
        free = self.free[query]
        if not self._even and len(query):
            free = free[:, : max(1, int(self.counts[query].max()))]
        batch, n = lower.shape
        centre, radius = centre_radius(lower, upper)
        index = free.clamp(min=0)
        reach = radius.gather(1, index) * (free >= 0)
        maps = lower.new_zeros(batch, 1 + free.shape[1], n)
        maps[:, 0] = centre
        maps[:, 1:].scatter_(2, index[:, :, None], reach[:, :, None])
        varies = torch.zeros_like(lower).scatter_add(1, index, (free >= 0).to(lower.dtype))
        noise = lower.new_zeros(batch, free.shape[1] if attribute else 1, n)
        noise[:, 0] = torch.where(varies > 0, 0.0, radius)
        return AffineForm(maps, noise)

    def pull(
        self, coefficients: Tensor, bias: Tensor, query: Tensor, part: Patch | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows over x, (R, K, n), or over a part of it, as rows over (the same part of) p; `query` (R,) names the query
        of each group."""
        return coefficients, bias

    def point(self, p: Tensor, query: Tensor) -> Tensor:
        """Network inputs (M, n) of parameter points (M, d)."""
        return p

    def columns(self, query: Tensor) -> Tensor:
        """Parameter that each generator stands for: (B, generators), -1 for padding; a form may have the first of them
        only."""
        return self.free[query]


@dataclass(frozen=True, eq=False)
class AffineMap:
    """x = offset[q] + matrix[q] p: `offset` (Q, n), `matrix` (Q, n, d)."""

    offset: Tensor
    matrix: Tensor

    @property
    def generators(self) -> int:
        """Number of generators of an affine form of the input."""
        return self.matrix.shape[2]

    def form(self, lower: Tensor, upper: Tensor, query: Tensor, attribute: bool) -> AffineForm:
        """The affine form of x over parameter boxes (B, d), rounding in the radius."""
        centre, radius = centre_radius(lower, upper)
        matrix = self.matrix[query]
        middle = self.offset[query] + torch.bmm(matrix, centre[:, :, None])[:, :, 0]
        maps = torch.cat([middle[:, None], matrix.transpose(1, 2) * radius[:, :, None]], 1)
        noise = maps.new_zeros(len(lower), self.generators if attribute else 1, maps.shape[2])
        reach = torch.maximum(lower.abs(), upper.abs())
        size = self.offset[query].abs() + torch.bmm(matrix.abs(), reach[:, :, None])[:, :, 0]
        noise[:, 0] = 3 * gamma(self.generators, size.dtype) * size
        return AffineForm(maps, noise)

    def pull(
        self, coefficients: Tensor, bias: Tensor, query: Tensor, part: Patch | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rows over x, (R, K, n), or over a part of it, as rows over p: (R, K, d); `query` (R,) names the query of each
        group. Rounding is not allowed for: no verdict is read off such rows."""
        offset, matrix = self.offset[query], self.matrix[query].transpose(1, 2)
        if part is not None:
            offset, matrix = part.select(offset), part.select(matrix)
        shift = torch.bmm(coefficients, offset[:, :, None])[:, :, 0]
        return torch.bmm(coefficients, matrix.transpose(1, 2)), bias + shift

    def point(self, p: Tensor, query: Tensor) -> Tensor:
        """Network inputs (M, n) of parameter points (M, d)."""
        return self.offset[query] + torch.bmm(self.matrix[query], p[:, :, None])[:, :, 0]

    def columns(self, query: Tensor) -> Tensor:
        """Parameter that each generator stands for: (B, d)."""
        return torch.arange(self.generators, device=query.device).expand(len(query), -1)


InputMap = IdentityMap | AffineMap


def centre_radius(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """A centre inside the box and a radius that reaches both ends, whatever the rounding of the midpoint."""
    centre = torch.minimum(torch.maximum(lower + (upper - lower) / 2, lower), upper)
    radius = torch.maximum(upper - centre, centre - lower)
    return centre, radius + 2 * ulp(radius.dtype) * radius
