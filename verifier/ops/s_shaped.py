"""S-shaped functions: convex left of 0, concave right of it, point-symmetric: Sigmoid, Tanh, Erf, Atan, and minus odd
powers.

Only the lower plane of such a function g is derived; the upper one is its mirror image. With l < 0 the lower plane is
a tangent at p = l + alpha (p_max - l), where p_max is u if u <= 0 and otherwise the touching point of the tangent
through (u, g(u)); if that point lies left of l, or l >= 0, it is the chord [Zhang et al. 2018, CROWN, section 4]. The
intercept is the exact minimum of g(x) - s x: at p, because g is convex there, or at u, because g is concave beyond 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.ops.elementwise import CurvePlanes, Elementwise, chord, slack
from verifier.ops.kinds import Interval
from verifier.ops.registry import register
from verifier.tolerance import tiny, ulp

_RIGHT = math.nextafter(math.pi / 2, 2)  # at least a right angle


class _Side(NamedTuple):
    """The lower plane of g on x: tangents between `first` and `last`, or one chord."""

    x: Interval
    first: Tensor
    last: Tensor
    tangent: Tensor  # bool: a tangent, not the chord
    line: Tensor  # the chord's slope


class _Frame(NamedTuple):
    below: _Side
    above: _Side


class SShaped(Elementwise):
    """g = sign * f is convex for x <= 0, concave for x >= 0, and g(-x) = 2 g(0) - g(x); f increases."""

    finite = True
    sign: int = 1
    middle: float = 0.0  # f(0)

    def slope(self, x: Tensor) -> Tensor:
        """f'(x), an even function."""
        raise NotImplementedError(self.node.op)

    def touching(self, x: Tensor) -> Tensor:
        """For x > 0 the point p < 0, roughly, whose tangent goes through (x, f(x))."""
        raise NotImplementedError(self.node.op)

    def point(self, slope: Tensor) -> Tensor:
        """The p >= 0, roughly, with f'(p) = slope."""
        raise NotImplementedError(self.node.op)

    def frame(self, x: Interval) -> _Frame:
        return _Frame(self._side(x), self._side(Interval(-x.upper, -x.lower)))

    def default(self, x: Interval, frame: _Frame) -> tuple[Tensor, Tensor]:
        below, above = self._middle(frame.below), self._middle(frame.above)
        return (below, above) if self.sign > 0 else (above, below)

    def planes(self, x: Interval, frame: _Frame, alpha_lower: Tensor, alpha_upper: Tensor) -> CurvePlanes:
        first, second = (alpha_lower, alpha_upper) if self.sign > 0 else (alpha_upper, alpha_lower)
        return self._assemble(self._lower(frame.below, first), self._lower(frame.above, second))

    def equal_slopes(self, x: Interval, frame: _Frame) -> CurvePlanes:
        # as for Clip, the gap falls with the slope until one of the two planes of largest slope is reached
        largest = (torch.where(side.tangent, self._g_slope(side.last), side.line) for side in frame)
        point = -self.point(self.sign * torch.minimum(*largest)).nan_to_num(0.0)
        slope = self._g_slope(point)
        return self._assemble(*((slope, self._intercept(side, slope, point)) for side in frame))

    def _g(self, x: Tensor) -> Tensor:
        return self.sign * self.value(x)

    def _g_slope(self, x: Tensor) -> Tensor:
        return self.sign * self.slope(x)

    def _side(self, x: Interval) -> _Side:
        left = x.lower < 0
        straddling = left & (x.upper > 0)
        # touching() sees only the numbers it is meant for
        touch = self.touching(torch.where(straddling, x.upper, 1.0))
        last = torch.where(straddling, touch, x.upper)
        tangent = left & (last > x.lower)
        last = torch.where(tangent, last, x.lower)
        line = chord(x, self._g(x.lower), self._g(x.upper))
        line = torch.minimum(torch.maximum(line, self._g_slope(x.upper)), self._g_slope(x.lower))
        return _Side(x, x.lower, last, tangent, line)

    def _middle(self, side: _Side) -> Tensor:
        """The tangent point nearest to the centre, as a parameter: that tangent is the highest there."""
        half = (side.x.upper - side.x.lower) / 2
        width = side.last - side.first
        return torch.where(width > half, half / torch.where(width > half, width, 1.0), 1.0)

    def _lower(self, side: _Side, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Lower plane of g: slope and offset."""
        point = torch.lerp(side.first, side.last, alpha)
        slope = torch.where(side.tangent, self._g_slope(point), side.line)
        return slope, self._intercept(side, slope, point)

    def _intercept(self, side: _Side, slope: Tensor, point: Tensor) -> Tensor:
        """min g(x) - slope * x over side.x, less the allowance.

        Either slope = g'(point) with point <= 0 (any such point, also outside the interval), or no more than g' on
        the convex part of the interval and point = lower; then the minimum is at the point, moved into the convex
        part, or at upper.
        """
        inside = torch.minimum(torch.maximum(point, side.x.lower), side.x.upper)
        values = self._g(inside), self._g(side.x.upper)
        ends = torch.minimum(values[0] - slope * inside, values[1] - slope * side.x.upper)
        largest = torch.maximum(values[0].abs(), values[1].abs())
        return ends - slack(largest, slope, side.x, side.x.upper - side.x.lower)

    def _assemble(self, below: tuple[Tensor, Tensor], mirrored: tuple[Tensor, Tensor]) -> CurvePlanes:
        """Lower planes of g on x and on -x -> both planes of f."""
        slope, offset = mirrored
        # g(x) = 2 g(0) - g(-x), one more rounding
        above = slope, 2 * self.sign * self.middle * (1 + ulp(offset.dtype)) - offset
        if self.sign > 0:
            return CurvePlanes(*below, *above)
        return CurvePlanes(-above[0], -above[1], -below[0], -below[1])


def _touching_tanh(x: Tensor) -> Tensor:
    """p < 0 with tanh'(p) (x - p) = tanh(x) - tanh(p), x > 0.

    -asinh(x) / 2 has the right limits (-x / 2 for small x, -log(2 x) / 2 for large); Newton does the rest.
    """
    with torch.no_grad():
        p, target = -torch.asinh(x) / 2, x.tanh()
        for _ in range(2):
            value = p.tanh()
            slope = 1 - value * value
            residual = target - value - slope * (x - p)
            step = residual / (2 * value * slope * (x - p))
            p = torch.minimum(torch.maximum(p - step, 2 * p), p / 2)
        return p


@register("Tanh")
class Tanh(SShaped):
    """y = tanh(x)."""

    infimum, supremum = -1.0, 1.0

    def value(self, x: Tensor) -> Tensor:
        return x.tanh()

    def slope(self, x: Tensor) -> Tensor:
        # 1 - tanh^2 loses all digits in the tails
        decay = torch.exp(-2 * x.abs())
        return 4 * decay / (1 + decay).square()

    def touching(self, x: Tensor) -> Tensor:
        return _touching_tanh(x)

    def point(self, slope: Tensor) -> Tensor:
        return torch.acosh(slope.rsqrt().clamp_min(1))


@register("Sigmoid")
class Sigmoid(SShaped):
    """y = 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2."""

    infimum, supremum, middle = 0.0, 1.0, 0.5

    def value(self, x: Tensor) -> Tensor:
        return x.sigmoid()

    def slope(self, x: Tensor) -> Tensor:
        decay = torch.exp(-x.abs())
        return decay / (1 + decay).square()

    def touching(self, x: Tensor) -> Tensor:
        return 2 * _touching_tanh(x / 2)

    def point(self, slope: Tensor) -> Tensor:
        return 2 * torch.acosh((4 * slope).rsqrt().clamp_min(1))


@register("Erf")
class Erf(SShaped):
    """y = erf(x) = 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""

    infimum, supremum = -1.0, 1.0

    def value(self, x: Tensor) -> Tensor:
        return x.erf()

    def slope(self, x: Tensor) -> Tensor:
        # beyond 30 it is 0 in any precision, and the square would overflow
        return torch.exp(-x.clamp(-30, 30).square()) * (2 / math.sqrt(math.pi))

    def touching(self, x: Tensor) -> Tensor:
        return _touching(self, x, -x / (2 + x), lambda p, slope: -2 * p * slope)

    def point(self, slope: Tensor) -> Tensor:
        return (slope * (math.sqrt(math.pi) / 2)).clamp(tiny(slope.dtype), 1).log().neg().sqrt()


@register("Atan")
class Atan(SShaped):
    """y = atan(x)."""

    infimum, supremum = -_RIGHT, _RIGHT

    def value(self, x: Tensor) -> Tensor:
        return x.atan()

    def slope(self, x: Tensor) -> Tensor:
        # 1 / (1 + x^2) by way of 1 / |x| where |x| > 1: the square, or its derivative, would overflow
        inverse = x.abs().clamp_min(1).reciprocal().square()
        return torch.where(x.abs() > 1, inverse / (1 + inverse), (1 + x.clamp(-1, 1).square()).reciprocal())

    def touching(self, x: Tensor) -> Tensor:
        return _touching(self, x, -x / (2 + math.sqrt(math.pi) * x.sqrt()), lambda p, slope: -2 * p * slope.square())

    def point(self, slope: Tensor) -> Tensor:
        return (slope.clamp(tiny(slope.dtype), 1).reciprocal() - 1).sqrt()


def _touching(
    op: SShaped, x: Tensor, start: Tensor, curvature: Callable[[Tensor, Tensor], Tensor], steps: int = 6
) -> Tensor:
    """p < 0 with f'(p) (x - p) = f(x) - f(p), x > 0, by Newton's method from `start`; `curvature(p, f'(p))` is f''."""
    with torch.no_grad():
        p, target = start, op.value(x)
        for _ in range(steps):
            slope = op.slope(p)
            residual = target - op.value(p) - slope * (x - p)
            step = -residual / (curvature(p, slope) * (x - p))
            p = torch.minimum(torch.maximum(p - step.nan_to_num(0.0), 2 * p), p / 2)
        return p
