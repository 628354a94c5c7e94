"""Mul: the product of two values, by McCormick's planes."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops.elementwise import magnitude
from verifier.ops.kinds import Interval, Relaxation, RelaxedOp
from verifier.ops.registry import register
from verifier.tolerance import tiny, ulp


@register("Mul")
class Mul(RelaxedOp):
    """z = x y, element-wise, on [a, A] x [b, B].

    McCormick 1976:  z >= b x + a y - a b     z >= B x + A y - A B     (alpha_lower: from the first to the second)
                     z <= b x + A y - A b     z <= B x + a y - a B     (alpha_upper: likewise)
    Both planes of a side have the same value at the centre, a distance r_x r_y (product of the radii) from the curve.
    By default the one that is exact in the corner where the interval rule has its bound; the mean of the two if both
    are. A factor without width gives a linear function, exactly.
    """

    adjustable = True

    def forward(self, *xs: Tensor) -> Tensor:
        x, y = xs
        return x * y

    def interval(self, *xs: Interval) -> Interval:
        x, y = xs
        corners, inf = _corners(*xs), torch.inf
        unit, least = ulp(corners.dtype), tiny(corners.dtype)
        low, high = corners.amin(0), corners.amax(0)
        low, high = low - unit * low.abs(), high + unit * high.abs()
        # what underflows is off by the smallest number at most, and keeps its sign; a product with 0 is exact
        nothing = ((x.lower == 0) & (x.upper == 0)) | ((y.lower == 0) & (y.upper == 0))
        low = torch.where((low.abs() < least) & ~nothing, torch.nextafter(low, torch.full_like(low, -inf)), low)
        high = torch.where((high.abs() < least) & ~nothing, torch.nextafter(high, torch.full_like(high, inf)), high)
        rising = ((x.lower >= 0) & (y.lower >= 0)) | ((x.upper <= 0) & (y.upper <= 0))
        falling = ((x.lower >= 0) & (y.upper <= 0)) | ((x.upper <= 0) & (y.lower >= 0))
        low, high = torch.where(rising, low.clamp_min(0), low), torch.where(falling, high.clamp_max(0), high)
        # a product 0 * inf is NaN: unbounded on both sides
        return Interval(
            low.nan_to_num(nan=-inf, posinf=torch.finfo(low.dtype).max, neginf=-inf),
            high.nan_to_num(nan=inf, posinf=inf, neginf=torch.finfo(low.dtype).min),
        )

    def default_alpha(self, *xs: Interval) -> tuple[Tensor, Tensor]:
        first, mixed, other, last = _corners(*xs)  # ab, aB, Ab, AB
        low = torch.minimum(mixed, other)
        high = torch.maximum(first, last)
        half = torch.full_like(first, 0.5)
        lower = torch.where(torch.minimum(first, last) < low, (last < first).to(half.dtype), half)
        upper = torch.where(torch.maximum(mixed, other) > high, (mixed > other).to(half.dtype), half)
        return lower, upper

    def relax(self, *xs: Interval, parallel: bool = False) -> Relaxation:
        if not parallel:
            lower, upper = self.default_alpha(*xs)
            return self.relax_at(*xs, alpha_lower=lower, alpha_upper=upper)
        half = torch.full_like(xs[0].lower, 0.5)
        planes = self.relax_at(*xs, alpha_lower=half, alpha_upper=half)
        # the means of both pairs of slopes are the same up to one rounding, which the allowance covers
        usable = planes.lower_offset.isfinite() & planes.upper_offset.isfinite()
        slopes = tuple(torch.where(usable, slope, 0.0) for slope in planes.lower_slopes)
        return Relaxation(slopes, planes.lower_offset, slopes, planes.upper_offset)

    def relax_at(self, *xs: Interval, alpha_lower: Tensor, alpha_upper: Tensor) -> Relaxation:
        image = self.interval(*xs)
        total = image.upper - image.lower + (xs[0].upper - xs[0].lower) + (xs[1].upper - xs[1].lower)
        usable = total.isfinite()
        x, y = (Interval(*(torch.where(usable, bound, 0.0) for bound in z)) for z in xs)
        # slopes, offset and product: each term is at most `size`, each rounding at most half a unit of it; a slope
        # may also lose half the smallest number, times the other factor
        least = tiny(total.dtype)
        size = (magnitude(x) + least) * (magnitude(y) + least)
        error = (16 * ulp(size.dtype)) * size
        below = _plane(x, y, alpha_lower)
        above = _plane(Interval(x.upper, x.lower), y, alpha_upper)
        point_x, point_y = x.lower == x.upper, y.lower == y.upper
        error = torch.where(point_x | point_y, 0.0, error)
        (low_x, low_y, low), (up_x, up_y, up) = (_linear(x, y, point_x, point_y, plane) for plane in (below, above))
        ok = usable & (size + low.abs() + up.abs()).isfinite()
        return Relaxation(
            (torch.where(ok, low_x, 0.0), torch.where(ok, low_y, 0.0)),
            torch.where(ok, low - error, image.lower),
            (torch.where(ok, up_x, 0.0), torch.where(ok, up_y, 0.0)),
            torch.where(ok, up + error, image.upper),
        )

    def sensitivity(self, *xs: Interval) -> tuple[Tensor, ...]:
        """The gap is 2 r_x r_y: a unit of r_x is worth r_y of it, wherever the factors lie (their planes' slopes are 0
        where they are centred at 0)."""
        radius_x, radius_y = ((x.upper - x.lower) / 2 for x in xs)
        return radius_y, radius_x

    def unstable(self, *xs: Interval) -> Tensor:
        x, y = xs
        return ~((x.lower == x.upper) | (y.lower == y.upper))


def _corners(x: Interval, y: Interval) -> Tensor:
    """Products of the bounds: (4, B, *S)."""
    return torch.stack([x.lower * y.lower, x.lower * y.upper, x.upper * y.lower, x.upper * y.upper])


def _plane(x: Interval, y: Interval, alpha: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes in x and y and offset of the plane between b x + a y - a b and B x + A y - A B."""
    offset = torch.lerp(x.lower * y.lower, x.upper * y.upper, alpha)
    return torch.lerp(y.lower, y.upper, alpha), torch.lerp(x.lower, x.upper, alpha), -offset


def _linear(
    x: Interval, y: Interval, point_x: Tensor, point_y: Tensor, plane: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """The plane, or the linear function itself where a factor is one number."""
    slope_x, slope_y, offset = plane
    slope_x, slope_y = torch.where(point_x & ~point_y, 0.0, slope_x), torch.where(point_y, 0.0, slope_y)
    return slope_x, slope_y, torch.where(point_x | point_y, 0.0, offset)
