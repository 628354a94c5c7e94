"""Rows over many products at once: what they lose is a quadratic form over the box.

McCormick's planes give up r_x r_y for each product x y by itself (r the radii), though in a row of products those
losses may cancel, and a square loses nothing on one side: sum_t w_t x_t y_t may be a convex function. With the factors
as affine forms x = x_c + a . e + p, y = y_c + b . e + q over the same symbols e in [-1, 1]^d, |p| and |q| at most P, Q,

    x y = y_c x + x_c y - x_c y_c + (x - x_c) (y - y_c),
    sum_t w_t (x_t - x_c,t) (y_t - y_c,t) >= min_e e . S e - sum_t |w_t| (P_t |b_t . e| + Q_t |a_t . e| + P_t Q_t),

S the symmetric part of sum_t w_t a_t b_t^T. So a row takes the tangent planes of all its products, and pays once for
all of them, the better of two ways:

    by the symbols    e . S e >= sum_i min(0, S_ii - sum_{j != i} |S_ij|)  (as 2 e_i e_j <= e_i^2 + e_j^2), |e_i| <= 1
    by eigenvectors   S = V L V^T + E, z = V^T e:  sum_k (L_k z_k^2 - c_k |z_k|) with |z_k| <= sum_i |V_ik|, where
                      b_t . e = (V^T b_t) . z + a rest, c_k the sum of P |V^T b| and Q |V^T a| at k

The second gives up nothing where the row is convex, and the noise only where the form is flat. V need not be exact: E
and the rest are what it leaves, and are paid for.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.affine import AffineForm
from verifier.bounds.rounding import Allowance, Planes
from verifier.ops.kinds import Interval, Relaxation
from verifier.tolerance import gamma, lost, tiny, ulp

MOST_SYMBOLS = 16
"""Up to so many symbols eigenvectors are computed: 25 microseconds a row for 6, 150 for 16."""

ELEMENTS = 4_000_000
"""Numbers that the rows of a step may have copies of their factors' generators in, at once."""


@dataclass(frozen=True, eq=False)
class Products:
    """The products of one operator on B boxes, float64: `maps` (B, 1 + d, T) and `radius` (B, p, T) of both factors,
    the `planes` that touch every product at the centres of its factors, and `alone` (B, T), what McCormick's lose at
    the middle of the factors' intervals."""

    maps: tuple[Tensor, Tensor]
    radius: tuple[Tensor, Tensor]
    planes: Planes
    alone: Tensor

    @staticmethod
    def of(i: int, forms: tuple[AffineForm, ...], bounds: tuple[Interval, ...], allowance: Allowance) -> Products:
        """The products of operator i, of factors `forms` that lie in `bounds`."""
        x, y = (form.maps[:, 0].double() for form in forms)
        offset, slopes = -(x * y), (y, x)
        error = ulp(offset.dtype) * offset.abs() + tiny(offset.dtype)
        touching = Relaxation(slopes, offset - error, slopes, offset + error)
        (maps, others), (radius, noise) = ((t.flatten(2).double() for t in part) for part in zip(*forms, strict=True))
        widths = ((b.upper - b.lower).flatten(1) / 2 for b in bounds)
        return Products((maps, others), (radius, noise), allowance.charged(i, touching), torch.mul(*widths))

    def select(self, boxes: Tensor | None) -> Products:
        """Those of the boxes at `boxes` (R,); None: of all."""
        if boxes is None:
            return self
        (x, y), (p, q) = (tuple(t.index_select(0, boxes) for t in part) for part in (self.maps, self.radius))
        return Products((x, y), (p, q), self.planes.of(boxes), self.alone.index_select(0, boxes))

    def least(self, rows: Tensor) -> Tensor:
        """At least what rows (R, K, T) over the products add to those over the tangent planes: (R, K), at most 0; NaN
        or -inf where nothing is known. Rounding is allowed for."""
        a, b = (t[:, 1:] for t in self.maps)
        form = torch.stack([torch.bmm(a * row[:, None], b.transpose(1, 2)) for row in rows.unbind(1)], 1)
        form = (form + form.transpose(2, 3)) / 2
        symbols, terms, size = form.shape[2], rows.shape[2], rows.abs()
        (x, y), (p, q) = (t.abs().sum(1) for t in (a, b)), (t.sum(1) for t in self.radius)
        unit = 4 * gamma(terms + symbols * symbols, rows.dtype)

        def paid(each: Tensor) -> Tensor:
            return torch.bmm(size, each[:, :, None])[:, :, 0] * (1 + unit)

        # the matrices are off by gamma of (|w| |a|) . |b|, and so are the sums below; what underflow loses of two
        # factors is multiplied by the third
        underflow = lost(symbols * symbols * terms, rows.dtype) * (1 + size.sum(2) + (x + y + p + q).sum(1)[:, None])
        always = paid(p * q + unit * x * y) + underflow
        diagonal = form.diagonal(dim1=2, dim2=3)
        off = form.abs().sum(3) - diagonal.abs()
        least = (diagonal - off).clamp(max=0).sum(2) - paid(p * y + x * q)
        index = ((least < 0) & least.isfinite()).flatten().nonzero()[:, 0]
        if symbols > MOST_SYMBOLS or not len(index):
            return least - always
        found = [self._by_eigenvectors(size, form, part) for part in index.split(max(1, ELEMENTS // (symbols * terms)))]
        best = torch.maximum(least.flatten()[index], torch.cat(found))
        return least.flatten().index_copy(0, index, best).view_as(least) - always

    def better(self, rows: Tensor, least: Tensor) -> Tensor:
        """Where rows (R, K, T) lose less by the tangent planes and `least` than by McCormick's: (R, K)."""
        return -least < torch.bmm(rows.abs(), self.alone[:, :, None])[:, :, 0]

    def _by_eigenvectors(self, size: Tensor, form: Tensor, index: Tensor) -> Tensor:
        """The second way, (M,), for the flat numbers `index` of rows of magnitudes `size`; -inf where it fails."""
        matrix, box = form.flatten(0, 1).index_select(0, index), index // size.shape[1]
        size = size.flatten(0, 1).index_select(0, index)[:, None]
        try:
            values, vectors = torch.linalg.eigh(matrix)
        except torch.linalg.LinAlgError:  # it did not converge
            return torch.full_like(size[:, 0, 0], -torch.inf)
        symbols, terms, dtype = matrix.shape[1], size.shape[2], size.dtype
        unit, turned = 4 * gamma(terms + symbols * symbols, dtype), vectors.transpose(1, 2)
        reach = vectors.abs().sum(1) * (1 + unit)
        rest = (torch.baddbmm(matrix, vectors * values[:, None], turned, alpha=-1)).abs().sum((1, 2))
        rest = rest + unit * (reach * reach * values.abs()).sum(1)  # |V| |L| |V|^T, all of it
        cost, room = torch.zeros_like(values), 1 + size.sum((1, 2)) + values.abs().sum(1)
        for maps, noise in zip(self.maps, reversed(self.radius), strict=True):
            given = maps[:, 1:].index_select(0, box)
            weight = size * noise.sum(1).index_select(0, box)[:, None]
            turned_to = turned @ given
            left = (given - vectors @ turned_to).abs().sum(1) + unit * (reach[:, None] @ turned_to.abs())[:, 0]
            left = left + unit * given.abs().sum(1)
            cost = cost + (weight * turned_to.abs()).sum(2)
            rest = rest + (weight[:, 0] * left).sum(1)
            room = room + weight.sum((1, 2)) + given.abs().sum((1, 2))
        cost = cost * (1 + unit)
        # of L z^2 - c |z| over |z| <= reach: at c / 2 L where that is inside, otherwise at the end
        inner = (2 * values * reach > cost) & (values > 0)
        inside = cost * (cost / (4 * torch.where(inner, values, 1.0)))
        at_end = reach * (cost - values * reach)
        least = torch.where(inner, inside, at_end.clamp(min=0))
        small = unit * reach * (cost + values.abs() * reach)
        underflow = lost(symbols**3 * terms, dtype) * (1 + reach.sum(1)).square() * room
        return -((least + small).sum(1) + rest) * (1 + unit) - underflow
