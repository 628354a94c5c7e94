"""Functions that are convex or concave on every usable interval: Exp, Softplus, Log, Sqrt, Reciprocal, even powers (and
Pow).

The curved side takes a tangent at l + alpha (u - l), by default in the middle (the tangent of largest area); the
other side the chord. Where the interval leaves the domain nothing is known, in either direction: a network that may
compute log(-1) has no value to make statements about.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from verifier.graph.ir import Node, Shape
from verifier.ops.elementwise import CurvePlanes, Elementwise, chord, magnitude, slack
from verifier.ops.kinds import Interval
from verifier.ops.registry import register
from verifier.ops.s_shaped import SShaped
from verifier.tolerance import tiny

# Tangents of functions with a pole (of value or slope) at 0 stay right of u / POLE: steeper ones never pay.
POLE = 1024.0


class Curved(Elementwise):
    """Convex functions, or concave ones with `convex = False`; increasing or not."""

    convex: bool = True
    pole: bool = False  # the slope is unbounded at 0, the left end of the domain

    def slope(self, x: Tensor) -> Tensor:
        """f'(x)."""
        raise NotImplementedError(self.node.op)

    def point(self, slope: Tensor) -> Tensor:
        """Where f' has this value, roughly."""
        raise NotImplementedError(self.node.op)

    def default(self, x: Interval, frame: None) -> tuple[Tensor, Tensor]:
        half = torch.full_like(x.lower, 0.5)
        return half, half

    def planes(self, x: Interval, frame: None, alpha_lower: Tensor, alpha_upper: Tensor) -> CurvePlanes:
        first = torch.maximum(x.lower, x.upper / POLE) if self.pole else x.lower
        tangent = self._tangent(x, torch.lerp(first, x.upper, alpha_lower if self.convex else alpha_upper))
        line = self._line(x, self._chord(x))
        return CurvePlanes(*tangent, *line) if self.convex else CurvePlanes(*line, *tangent)

    def equal_slopes(self, x: Interval, frame: None) -> CurvePlanes:
        point = self.point(self._chord(x)).nan_to_num(0.0)
        slope, offset = self._tangent(x, torch.clamp(point, x.lower, x.upper))
        line = self._line(x, slope)
        return CurvePlanes(slope, offset, *line) if self.convex else CurvePlanes(*line, slope, offset)

    def _inner(self, x: Interval) -> tuple[Interval, Tensor, Interval]:
        image, usable, inner = super()._inner(x)
        if self.pole:  # next to the pole slopes, or their derivatives, overflow
            usable = usable & (magnitude(x) > tiny(x.lower.dtype) ** 0.5)
            inner = Interval(*(torch.where(usable, bound, self.anchor) for bound in inner))
        return image, usable, inner

    def _chord(self, x: Interval) -> Tensor:
        """The chord's slope, kept between the slopes at the ends: rounding would blow it up on very short intervals."""
        at_lower, at_upper = self.slope(x.lower), self.slope(x.upper)
        line = chord(x, self.value(x.lower), self.value(x.upper))
        return torch.clamp(line, torch.minimum(at_lower, at_upper), torch.maximum(at_lower, at_upper))

    def _tangent(self, x: Interval, point: Tensor) -> tuple[Tensor, Tensor]:
        """The plane that touches f at `point`, moved off f by the rounding allowance."""
        slope, value = self.slope(point), self.value(point)
        offset, error = value - slope * point, slack(value, slope, x, x.upper - x.lower)
        return slope, offset - error if self.convex else offset + error

    def _line(self, x: Interval, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The plane of any slope on the chord's side: f(x) - s x has its extremum at an end of the interval."""
        at_lower, at_upper = self.value(x.lower), self.value(x.upper)
        ends = at_lower - slope * x.lower, at_upper - slope * x.upper
        error = slack(torch.maximum(at_lower.abs(), at_upper.abs()), slope, x)
        if self.convex:
            return slope, torch.maximum(*ends) + error
        return slope, torch.minimum(*ends) - error


@register("Exp")
class Exp(Curved):
    """y = exp(x)."""

    infimum = 0.0

    def value(self, x: Tensor) -> Tensor:
        return x.exp()

    def slope(self, x: Tensor) -> Tensor:
        return x.exp()

    def point(self, slope: Tensor) -> Tensor:
        return slope.log()


@register("Softplus")
class Softplus(Curved):
    """y = log(1 + exp(x))."""

    infimum = 0.0

    def value(self, x: Tensor) -> Tensor:
        return torch.logaddexp(x, torch.zeros_like(x))

    def slope(self, x: Tensor) -> Tensor:
        return x.sigmoid()

    def point(self, slope: Tensor) -> Tensor:
        return torch.logit(slope)


@register("Log")
class Log(Curved):
    """y = log(x); a lower bound of 0 gives -inf below, a negative one nothing at all."""

    convex, pole, anchor = False, True, 1.0

    def value(self, x: Tensor) -> Tensor:
        return x.log()

    def slope(self, x: Tensor) -> Tensor:
        return x.reciprocal()

    def point(self, slope: Tensor) -> Tensor:
        return slope.reciprocal()

    def image(self, x: Interval) -> Interval:
        # the logarithm of a negative number is NaN, which becomes an infinite bound
        return self.rounded(x.lower.log(), torch.where(x.lower < 0, torch.inf, x.upper.log()))


@register("Sqrt")
class Sqrt(Curved):
    """y = sqrt(x); a negative lower bound gives nothing at all."""

    convex, pole, anchor = False, True, 1.0

    def value(self, x: Tensor) -> Tensor:
        return x.sqrt()

    def slope(self, x: Tensor) -> Tensor:
        return x.rsqrt() / 2

    def point(self, slope: Tensor) -> Tensor:
        return (2 * slope).square().reciprocal()

    def image(self, x: Interval) -> Interval:
        outside = x.lower < 0
        low, high = self.rounded(x.lower.sqrt(), x.upper.sqrt())
        # NaN compares false: both its bounds are infinite already
        return Interval(torch.where(outside, low, low.clamp_min(0)), torch.where(outside, torch.inf, high))


@register("Reciprocal")
class Reciprocal(Curved):
    """y = 1 / x, computed on the positive side: 1 / x = -(1 / -x). An interval that contains 0 gives nothing at all."""

    pole, anchor = True, 1.0

    def value(self, x: Tensor) -> Tensor:
        return x.reciprocal()

    def slope(self, x: Tensor) -> Tensor:
        return -x.reciprocal().square()

    def point(self, slope: Tensor) -> Tensor:
        return slope.neg().rsqrt()

    def image(self, x: Interval) -> Interval:
        outside = ~((x.lower > 0) | (x.upper < 0))
        low, high = self.rounded(x.upper.reciprocal(), x.lower.reciprocal())
        return Interval(torch.where(outside, -torch.inf, low), torch.where(outside, torch.inf, high))

    def planes(self, x: Interval, frame: None, alpha_lower: Tensor, alpha_upper: Tensor) -> CurvePlanes:
        negative = x.upper < 0
        # the tangent of the mirrored interval counts from the other end
        alpha = torch.where(negative, 1 - alpha_upper, alpha_lower)
        return self._mirrored(negative, super().planes(_positive(x), frame, alpha, alpha))

    def equal_slopes(self, x: Interval, frame: None) -> CurvePlanes:
        return self._mirrored(x.upper < 0, super().equal_slopes(_positive(x), frame))

    @staticmethod
    def _mirrored(negative: Tensor, planes: CurvePlanes) -> CurvePlanes:
        """Planes of -f(-x), where asked for."""
        low_s, low_o, up_s, up_o = planes
        return CurvePlanes(
            torch.where(negative, up_s, low_s),
            torch.where(negative, -up_o, low_o),
            torch.where(negative, low_s, up_s),
            torch.where(negative, -low_o, up_o),
        )


def _positive(x: Interval) -> Interval:
    """The interval or its mirror image, whichever is positive."""
    negative = x.upper < 0
    return Interval(torch.where(negative, -x.upper, x.lower), torch.where(negative, -x.lower, x.upper))


@register("Pow")
class Pow(Elementwise):
    """y = x^n for an integer n >= 2. Odd powers are s-shaped, even ones convex: the object made is one or the other."""

    def __new__(cls, node: Node, shapes: Mapping[str, Shape], dtype: torch.dtype, device: torch.device) -> Pow:
        return super().__new__(OddPow if node.integer("exponent") % 2 else EvenPow)

    def __init__(self, node: Node, shapes: Mapping[str, Shape], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(node, shapes, dtype, device)
        self.exponent = node.integer("exponent")

    def value(self, x: Tensor) -> Tensor:
        return x.pow(self.exponent)


class EvenPow(Pow, Curved):
    """y = x^n, n even: convex."""

    infimum = 0.0

    def slope(self, x: Tensor) -> Tensor:
        return self.exponent * x.pow(self.exponent - 1)

    def point(self, slope: Tensor) -> Tensor:
        return slope.sign() * (slope.abs() / self.exponent).pow(1 / (self.exponent - 1))

    def image(self, x: Interval) -> Interval:
        least = torch.maximum(x.lower, -x.upper).clamp_min(0)
        low, high = self.rounded(self.value(least), self.value(torch.maximum(x.lower.abs(), x.upper.abs())))
        return Interval(torch.where(least > 0, low, 0.0), high)


class OddPow(Pow, SShaped):
    """y = x^n, n odd: -y is convex left of 0 and concave right of it."""

    sign = -1

    def __init__(self, node: Node, shapes: Mapping[str, Shape], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(node, shapes, dtype, device)
        self._touch = _touching_ratio(self.exponent)

    def slope(self, x: Tensor) -> Tensor:
        return self.exponent * x.pow(self.exponent - 1)

    def touching(self, x: Tensor) -> Tensor:
        return -self._touch * x

    def point(self, slope: Tensor) -> Tensor:
        return (slope / self.exponent).clamp_min(tiny(slope.dtype)).pow(1 / (self.exponent - 1))


def _touching_ratio(n: int) -> float:
    """The tangent of x^n, n odd, at -r meets the curve again at 1: root r in (0, 1) of (n - 1) r^n + n r^(n-1) = 1."""
    low, high = 0.0, 1.0
    for _ in range(60):
        r = (low + high) / 2
        low, high = (r, high) if (n - 1) * r**n + n * r ** (n - 1) < 1 else (low, r)
    return low
