"""Sin and Cos: planes from the exact extrema of f(x) - s x, the slope found by bisection."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from verifier.ops.elementwise import CurvePlanes, Elementwise, magnitude, slack
from verifier.ops.kinds import Interval
from verifier.ops.registry import register
from verifier.tolerance import ulp

PERIOD = 2 * math.pi
# The best slope is bracketed by an interval no longer than the box: 2**-10 of that is far below the gap of the planes.
BISECTIONS = 10


class Periodic(Elementwise):
    """f = sin or cos on [l, u]. |f''| <= 1, so all slopes of f there lie within (u - l) / 2 of the one in the middle.

    Every slope in [-1, 1] is sound: f(x) - s x is extremal at l, u or where f'(x) = s, once per period; along these
    points it changes linearly, so that only the first or the last one inside [l, u] counts. Intervals of a period or
    more give slope 0.
    """

    infimum, supremum = -1.0, 1.0

    def slope(self, x: Tensor) -> Tensor:
        """f'(x)."""
        raise NotImplementedError(self.node.op)

    def critical(self, slope: Tensor, side: int) -> Tensor:
        """One local maximum (side 1) or minimum (side -1) of f(x) - slope * x."""
        raise NotImplementedError(self.node.op)

    def image(self, x: Interval) -> Interval:
        zero = torch.zeros_like(x.lower)
        ends = self.value(x.lower), self.value(x.upper)
        low, high = self.rounded(torch.minimum(*ends), torch.maximum(*ends))
        bottom, top = (_turns(x, self.critical(zero, side)) for side in (-1, 1))
        low = torch.where(bottom[0] <= bottom[1], -1.0, low)
        return Interval(low, torch.where(top[0] <= top[1], 1.0, high))

    def frame(self, x: Interval) -> Interval:
        """The range of slopes worth trying."""
        width = x.upper - x.lower
        middle = self.slope(x.lower / 2 + x.upper / 2)
        slopes = (torch.where(width < PERIOD, (middle + half).clamp(-1, 1), 0.0) for half in (-width / 2, width / 2))
        return Interval(*slopes)

    def default(self, x: Interval, frame: Interval) -> tuple[Tensor, Tensor]:
        centre = x.lower / 2 + x.upper / 2
        below = self._search(frame, lambda s: self._point(x, s, -1) < centre)
        above = self._search(frame, lambda s: self._point(x, s, 1) > centre)
        width = frame.upper - frame.lower
        safe = torch.where(width > 0, width, 1.0)
        return ((below - frame.lower) / safe).clamp(0, 1), ((above - frame.lower) / safe).clamp(0, 1)

    def planes(self, x: Interval, frame: Interval, alpha_lower: Tensor, alpha_upper: Tensor) -> CurvePlanes:
        below, above = torch.lerp(*frame, alpha_lower), torch.lerp(*frame, alpha_upper)
        return CurvePlanes(below, self._offset(x, below, -1), above, self._offset(x, above, 1))

    def equal_slopes(self, x: Interval, frame: Interval) -> CurvePlanes:
        slope = self._search(frame, lambda s: self._point(x, s, 1) > self._point(x, s, -1))
        return CurvePlanes(slope, self._offset(x, slope, -1), slope, self._offset(x, slope, 1))

    @staticmethod
    def _search(slopes: Interval, should_rise: Callable[[Tensor], Tensor]) -> Tensor:
        """Bisection on a convex function of the slope, given the sign of its derivative."""
        with torch.no_grad():
            low, high = slopes
            for _ in range(BISECTIONS):
                middle = low / 2 + high / 2
                rise = should_rise(middle)
                low, high = torch.where(rise, middle, low), torch.where(rise, high, middle)
            return low / 2 + high / 2

    def _point(self, x: Interval, slope: Tensor, side: int) -> Tensor:
        """Where f(t) - slope * t is largest (side 1) or smallest (side -1) over x."""
        with torch.no_grad():
            base = self.critical(slope.clamp(-1, 1), side)
            first, last = _turns(x, base)
            inner = base + PERIOD * torch.where(side * slope > 0, first, last)
            inner = torch.minimum(torch.maximum(torch.where(first <= last, inner, x.lower), x.lower), x.upper)
            best, most = x.lower, side * (self.value(x.lower) - slope * x.lower)
            for point in (inner, x.upper):
                value = side * (self.value(point) - slope * point)
                best, most = torch.where(value > most, point, best), torch.maximum(value, most)
            return best

    def _offset(self, x: Interval, slope: Tensor, side: int) -> Tensor:
        """The extremum of f(t) - slope * t there, rounded outward; differentiable in the slope (t is held)."""
        point = self._point(x, slope, side)
        # a critical point that is off by d misses the extremum by no more than d^2 / 2
        off = 8 * ulp(slope.dtype) * (magnitude(x) + PERIOD)
        value = self.value(point)
        return value - slope * point + side * (slack(torch.ones_like(value), slope, x) + off * off)


def _turns(x: Interval, base: Tensor) -> tuple[Tensor, Tensor]:
    """First and last k with base + 2 pi k inside x, or within rounding of it; first > last if there is none.

    NaN and infinite intervals count as containing the point at k = 0.
    """
    error = 8 * ulp(base.dtype) * (magnitude(x) / PERIOD + 1)
    first = ((x.lower - base) / PERIOD - error).ceil()
    last = ((x.upper - base) / PERIOD + error).floor()
    known = first.isfinite() & last.isfinite()
    return torch.where(known, first, 0.0), torch.where(known, last, 0.0)


@register("Sin")
class Sin(Periodic):
    """y = sin(x)."""

    def value(self, x: Tensor) -> Tensor:
        return x.sin()

    def slope(self, x: Tensor) -> Tensor:
        return x.cos()

    def critical(self, slope: Tensor, side: int) -> Tensor:
        return side * slope.acos()


@register("Cos")
class Cos(Periodic):
    """y = cos(x)."""

    def value(self, x: Tensor) -> Tensor:
        return x.cos()

    def slope(self, x: Tensor) -> Tensor:
        return -x.sin()

    def critical(self, slope: Tensor, side: int) -> Tensor:
        return -slope.asin() if side > 0 else math.pi + slope.asin()
