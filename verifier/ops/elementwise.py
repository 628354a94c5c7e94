"""Element-wise operators: rules that follow from what a function is.

A family (`Hinge`, `Curved`, `SShaped`, ...) states its slopes; the intercept of a plane is then always taken from the
extremum of f(x) - s x over the interval for the slope s as stored, plus a rounding allowance. So a badly chosen slope
costs tightness and never soundness.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from verifier.ops.kinds import Interval, Relaxation, RelaxedOp
from verifier.tolerance import SLOPE_ULPS, function_error, tiny, ulp

GRID = (0.5, 0.375, 0.625, 0.25, 0.75, 0.125, 0.875)
"""Parts of an interval at which it may be split."""


class CurvePlanes(NamedTuple):
    """Slopes and offsets of the lower and the upper plane of a function of one variable."""

    lower_slope: Tensor
    lower_offset: Tensor
    upper_slope: Tensor
    upper_offset: Tensor


class Elementwise(RelaxedOp):
    """y_i = f(x_i). Subclasses give `value`, `frame`, `default`, `planes` and `equal_slopes`.

    The three plane methods are called with finite intervals on which f is finite; everything else (infinite, NaN,
    outside the domain, overflow) is answered here with slope 0 and the bounds of `image`.
    """

    adjustable = True
    increasing: bool = True  # otherwise the subclass gives its own `image`
    exact: bool = False  # value() is free of rounding errors
    infimum: float = -torch.inf  # of f over the reals
    supremum: float = torch.inf
    kinks: tuple[float, ...] = ()  # between which f is affine, if there are any
    anchor: float = 0.0  # a harmless point of the domain, put where the interval is not usable

    def value(self, x: Tensor) -> Tensor:
        """f(x), any shape."""
        raise NotImplementedError(self.node.op)

    def frame(self, x: Interval) -> Any:
        """What the planes need and alpha does not change; passed on to `default` and `planes`."""
        return None

    def default(self, x: Interval, frame: Any) -> tuple[Tensor, Tensor]:
        """Parameters of the planes that are lowest or highest at the centre of the interval."""
        raise NotImplementedError(self.node.op)

    def planes(self, x: Interval, frame: Any, alpha_lower: Tensor, alpha_upper: Tensor) -> CurvePlanes:
        """The two planes for the given parameters."""
        raise NotImplementedError(self.node.op)

    def equal_slopes(self, x: Interval, frame: Any) -> CurvePlanes:
        """The two planes with one slope."""
        raise NotImplementedError(self.node.op)

    def image(self, x: Interval) -> Interval:
        """f([lower, upper]), enclosed."""
        return self.rounded(self.value(x.lower), self.value(x.upper))

    def forward(self, *xs: Tensor) -> Tensor:
        (x,) = xs
        return self.value(x)

    def interval(self, *xs: Interval) -> Interval:
        (x,) = xs
        return self.image(x)

    def relax(self, *xs: Interval, parallel: bool = False) -> Relaxation:
        (x,) = xs
        image, usable, inner = self._inner(x)
        frame = self.frame(inner)
        if parallel:
            return _guarded(self.equal_slopes(inner, frame), image, usable)
        return _guarded(self.planes(inner, frame, *self.default(inner, frame)), image, usable)

    def relax_at(self, *xs: Interval, alpha_lower: Tensor, alpha_upper: Tensor) -> Relaxation:
        (x,) = xs
        image, usable, inner = self._inner(x)
        return _guarded(self.planes(inner, self.frame(inner), alpha_lower, alpha_upper), image, usable)

    def default_alpha(self, *xs: Interval) -> tuple[Tensor, Tensor]:
        (x,) = xs
        _, _, inner = self._inner(x)
        return self.default(inner, self.frame(inner))

    def unstable(self, *xs: Interval) -> Tensor:
        (x,) = xs
        # narrower than a few roundings of the end points: no split can tell the halves apart
        width = x.upper - x.lower
        return (width > 4 * ulp(width.dtype) * magnitude(x)) | ~width.isfinite()

    def split_point(self, k: int, *xs: Interval) -> Tensor:
        """The kink nearest to the middle, if one is inside; otherwise the point of a grid that leaves the least area
        between the planes of both halves (Shi et al. 2024, section 3.3, by tables)."""
        (x,) = xs
        width, middle = x.upper - x.lower, x.lower / 2 + x.upper / 2
        best, least = middle, torch.full_like(middle, torch.inf)
        if self.kinks:
            for kink in self.kinks:
                inside = (x.lower < kink) & (x.upper > kink)
                better = inside & ((middle - kink).abs() < least)
                best, least = torch.where(better, kink, best), torch.where(better, (middle - kink).abs(), least)
            return best
        for share in GRID:
            point = x.lower + share * width
            area = self._area(Interval(x.lower, point)) + self._area(Interval(point, x.upper))
            better = area < least
            best, least = torch.where(better, point, best), torch.where(better, area, least)
        return best

    def _area(self, x: Interval) -> Tensor:
        """Between the two planes."""
        planes, middle = self.relax(x), x.lower / 2 + x.upper / 2
        gap = planes.upper_offset - planes.lower_offset
        gap = gap + (planes.upper_slopes[0] - planes.lower_slopes[0]) * middle
        return torch.nan_to_num(gap * (x.upper - x.lower), nan=torch.inf)

    def rounded(self, lower: Tensor, upper: Tensor) -> Interval:
        """Widened by the error of one evaluation and cut to the range of f; NaN becomes the end of the range."""
        if not self.exact:
            error, lost = function_error(lower.dtype), tiny(lower.dtype)
            lower = lower - (lower.abs() * error + lost)
            upper = upper + (upper.abs() * error + lost)
        lower = lower.nan_to_num(nan=self.infimum, posinf=torch.finfo(lower.dtype).max, neginf=-torch.inf)
        upper = upper.nan_to_num(nan=self.supremum, posinf=torch.inf, neginf=torch.finfo(upper.dtype).min)
        return Interval(lower.clamp(self.infimum, self.supremum), upper.clamp(self.infimum, self.supremum))

    def _inner(self, x: Interval) -> tuple[Interval, Tensor, Interval]:
        """The image, where the interval and the image are finite, and the interval with harmless points elsewhere."""
        image = self.image(x)
        usable = ((x.upper - x.lower) + (image.upper - image.lower)).isfinite()
        lower, upper = (torch.where(usable, bound, self.anchor) for bound in x)
        return image, usable, Interval(lower, upper)


def _guarded(planes: CurvePlanes, image: Interval, usable: Tensor) -> Relaxation:
    """Planes where everything is finite, the constant bounds of the image elsewhere."""
    low_s, low_o, up_s, up_o = planes
    low_ok = usable & (low_s.abs() + low_o.abs()).isfinite()
    up_ok = usable & (up_s.abs() + up_o.abs()).isfinite()
    return Relaxation(
        (torch.where(low_ok, low_s, 0.0),),
        torch.where(low_ok, low_o, image.lower),
        (torch.where(up_ok, up_s, 0.0),),
        torch.where(up_ok, up_o, image.upper),
    )


def magnitude(x: Interval) -> Tensor:
    """max |x| over the interval."""
    return torch.maximum(x.lower.abs(), x.upper.abs())


def chord(x: Interval, at_lower: Tensor, at_upper: Tensor) -> Tensor:
    """Slope of the line through (lower, at_lower) and (upper, at_upper); 0 for an interval without width."""
    return (at_upper - at_lower) / (x.upper - x.lower).clamp_min(tiny(x.lower.dtype))


def slack(value: Tensor, slope: Tensor, x: Interval, reach: Tensor | None = None) -> Tensor:
    """Allowance for `value - slope * point` with value = f(point), point inside the interval x.

    Function error and final rounding of `value`; rounding of the product; and, where the slope was computed as a
    derivative at `point` and has to serve the whole interval (`reach` = its width), the error of that derivative
    times the distance.
    """
    unit = ulp(value.dtype)
    bound = (2 * unit) * magnitude(x)
    if reach is not None:
        bound = bound + (SLOPE_ULPS * unit) * reach
    # a slope below tiny has lost digits to underflow
    error = value.abs() * (function_error(value.dtype) + unit) + (slope.abs() + tiny(value.dtype)) * bound
    return error + tiny(value.dtype)
