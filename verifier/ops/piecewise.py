"""Piecewise linear functions: Relu, LeakyRelu, PRelu, Abs (one kink, at 0) and Clip (two)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verifier.ops.elementwise import CurvePlanes, Elementwise, chord
from verifier.ops.kinds import Interval, Relaxation, RelaxedOp
from verifier.ops.registry import register
from verifier.tolerance import outward, tiny, ulp


def _weight(lower: Tensor, upper: Tensor) -> Tensor:
    """u / (u - l) for l <= 0 <= u: 0 where u = 0 (l = u = 0 too), 1 where l = 0 < u."""
    return upper / (upper - lower).clamp_min(tiny(lower.dtype))


@register("Relu")
class Relu(RelaxedOp):
    """y = max(x, 0), written by hand because everything waits for it.

    Where l < 0 < u:
        lower  y >= alpha x, alpha in [0, 1]; by default 1 if u >= -l else 0     [Zhang et al. 2018, CROWN, adaptive]
        upper  y <= s x + max((1 - s) u, -s l) with s = u / (u - l)               [triangle]
    The maximum makes the upper plane sound for any s, hence for the rounded one. With l' = min(l, 0), u' = max(u, 0)
    in place of l, u the formulas give slopes of exactly 0 or 1 and offsets of exactly 0 for stable neurons. Bounds
    that are infinite or NaN leave y >= 0 and no upper plane.
    """

    finite = True
    adjustable = True

    def forward(self, *xs: Tensor) -> Tensor:
        return xs[0].relu()

    def interval(self, *xs: Interval) -> Interval:
        (x,) = xs
        inf = torch.inf
        lower = x.lower.clamp_min(0).nan_to_num_(nan=0.0, posinf=torch.finfo(x.lower.dtype).max)
        return Interval(lower, x.upper.clamp_min(0).nan_to_num_(nan=inf, posinf=inf))

    def relax(self, *xs: Interval, parallel: bool = False) -> Relaxation:
        return self.relax_both(*xs)[parallel]

    def relax_both(self, *xs: Interval) -> tuple[Relaxation, Relaxation]:
        (x,) = xs
        lower, upper = x.lower.clamp_max(0), x.upper.clamp_min(0)
        slope, offset = _triangle(lower, upper)
        below, zero = (upper >= -lower).to(slope.dtype), torch.zeros_like(offset)
        return Relaxation((below,), zero, (slope,), offset), Relaxation((slope,), zero, (slope,), offset)

    def relax_at(self, *xs: Interval, alpha_lower: Tensor, alpha_upper: Tensor) -> Relaxation:
        (x,) = xs
        slope, offset = _triangle(x.lower.clamp_max(0), x.upper.clamp_min(0))
        active = x.lower >= 0
        alive = active | (x.upper > 0)
        below = torch.lerp(active.to(slope.dtype), alive.to(slope.dtype), alpha_lower)
        return Relaxation((below,), torch.zeros_like(below), (slope,), offset)

    def default_alpha(self, *xs: Interval) -> tuple[Tensor, Tensor]:
        (x,) = xs
        alpha = (x.upper >= -x.lower).to(x.lower.dtype)
        return alpha, alpha

    def unstable(self, *xs: Interval) -> Tensor:
        (x,) = xs
        return ~((x.lower >= 0) | (x.upper <= 0))

    def split_point(self, k: int, *xs: Interval) -> Tensor:
        return torch.zeros_like(xs[0].lower)


def _triangle(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of Relu's upper plane for lower <= 0 <= upper."""
    slope = _weight(lower, upper)
    at_upper = (1 - slope).mul_(upper)
    at_lower = (slope * lower).neg_()
    offset = torch.maximum(at_upper, at_lower).mul_(outward(lower.dtype))
    # inf / inf and 0 * inf are NaN: nothing known above
    return slope.nan_to_num_(nan=0.0), offset.nan_to_num_(nan=torch.inf, posinf=torch.inf)


class _HingeFrame(NamedTuple):
    lower: Tensor  # min(l, 0)
    upper: Tensor  # max(u, 0)
    line: Tensor  # slope of the chord
    first: Tensor  # slope on the left end of the interval
    last: Tensor  # slope on its right end


class Hinge(Elementwise):
    """y = a x for x < 0, x for x >= 0: convex for a <= 1, concave for a >= 1.

    The side of the kink takes any line through (0, 0) with a slope between a and 1; the other side the chord.
    """

    finite = True
    exact = True
    kinks = (0.0,)

    def left(self, like: Tensor) -> Tensor:
        """The slope a, broadcastable to S."""
        raise NotImplementedError(self.node.op)

    def value(self, x: Tensor) -> Tensor:
        return torch.where(x < 0, self.left(x) * x, x)

    def image(self, x: Interval) -> Interval:
        ends = [self._around(end) for end in x]
        crossing = (x.lower < 0) & (x.upper > 0)
        low, high = torch.minimum(*(end.lower for end in ends)), torch.maximum(*(end.upper for end in ends))
        low = torch.where(crossing, low.clamp_max(0), low)
        high = torch.where(crossing, high.clamp_min(0), high)
        return self.rounded(low, high)

    def _around(self, x: Tensor) -> Interval:
        """The value at x, rounded outwards: a x is one rounding, and one more of a; x itself and x times 0, 1, -1 are
        none. The next number is for denormal ones."""
        y, a = self.value(x), self.left(x)
        rounds, unit, inf = (x < 0) & (a != 0) & (a.abs() != 1), ulp(y.dtype) * y.abs(), torch.full_like(y, torch.inf)
        below, above = torch.nextafter(y - unit, -inf), torch.nextafter(y + unit, inf)
        return Interval(torch.where(rounds, below, y), torch.where(rounds, above, y))

    def frame(self, x: Interval) -> _HingeFrame:
        a = self.left(x.lower).expand_as(x.lower)
        one = torch.ones_like(a)
        lower, upper = x.lower.clamp_max(0), x.upper.clamp_min(0)
        line = torch.lerp(a, one, _weight(lower, upper))
        return _HingeFrame(lower, upper, line, torch.where(x.lower >= 0, one, a), torch.where(x.upper > 0, one, a))

    def default(self, x: Interval, frame: _HingeFrame) -> tuple[Tensor, Tensor]:
        alpha = (x.upper >= -x.lower).to(x.lower.dtype)
        return alpha, alpha

    def planes(self, x: Interval, frame: _HingeFrame, alpha_lower: Tensor, alpha_upper: Tensor) -> CurvePlanes:
        a = self.left(x.lower)
        convex = a <= 1
        below = torch.where(convex, torch.lerp(frame.first, frame.last, alpha_lower), frame.line)
        above = torch.where(convex, frame.line, torch.lerp(frame.first, frame.last, alpha_upper))
        low, high = self._chord_offsets(frame)
        zero = torch.zeros_like(low)
        return CurvePlanes(below, torch.where(convex, zero, low), above, torch.where(convex, high, zero))

    def equal_slopes(self, x: Interval, frame: _HingeFrame) -> CurvePlanes:
        return CurvePlanes(frame.line, self._chord_offsets(frame)[0], frame.line, self._chord_offsets(frame)[1])

    def _chord_offsets(self, frame: _HingeFrame) -> tuple[Tensor, Tensor]:
        """Extrema of f(x) - s x for the chord's slope s: at the ends of the interval or at the kink."""
        at_lower = (self.left(frame.lower) - frame.line) * frame.lower
        at_upper = (1 - frame.line) * frame.upper
        grow = outward(frame.line.dtype)
        low = torch.minimum(at_lower, at_upper).clamp_max(0) * grow
        high = torch.maximum(at_lower, at_upper).clamp_min(0) * grow
        return low, high

    def unstable(self, *xs: Interval) -> Tensor:
        (x,) = xs
        return ~((x.lower >= 0) | (x.upper <= 0)) & (self.left(x.lower) != 1)


@register("LeakyRelu")
class LeakyRelu(Hinge):
    """y = max(x, 0) + alpha min(x, 0)."""

    def left(self, like: Tensor) -> Tensor:
        return like.new_full((), self.node.number("alpha"))


@register("PRelu")
class PRelu(Hinge):
    """As LeakyRelu with one slope per element, of any sign."""

    def left(self, like: Tensor) -> Tensor:
        return self.params["slope"].to(like.dtype)


@register("Abs")
class Abs(Hinge):
    """y = |x|."""

    infimum = 0.0

    def left(self, like: Tensor) -> Tensor:
        return like.new_full((), -1.0)

    def value(self, x: Tensor) -> Tensor:
        return x.abs()

    def image(self, x: Interval) -> Interval:
        low = torch.maximum(x.lower, -x.upper).clamp_min(0)
        return self.rounded(low, torch.maximum(x.lower.abs(), x.upper.abs()))


class _ClipFrame(NamedTuple):
    knee_low: Tensor  # the kink at min, moved into the interval
    knee_high: Tensor  # the kink at max, likewise
    below: Interval  # smallest and largest useful slope of the lower plane
    above: Interval  # and of the upper plane


@register("Clip")
class Clip(Elementwise):
    """y = min(max(x, low), high).

    Upper plane, for slopes s in [0, 1]: f(x) - s x is largest at l or at t = the kink at `high` moved into [l, u].
    The useful slopes lie between 0 (if that kink is inside) and that of the chord from l to t. The lower plane
    mirrors it.
    """

    finite = True
    exact = True

    def _limits(self) -> tuple[float, float]:
        return self.node.number("min"), self.node.number("max")

    @property
    def kinks(self) -> tuple[float, ...]:  # type: ignore[override]
        return self._limits()

    def value(self, x: Tensor) -> Tensor:
        return x.clamp(*self._limits())

    def image(self, x: Interval) -> Interval:
        low, high = self._limits()
        lower = x.lower.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).clamp(low, high)
        upper = x.upper.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).clamp(low, high)
        return self.rounded(lower, upper)

    def frame(self, x: Interval) -> _ClipFrame:
        low, high = self._limits()
        at_lower, at_upper = x.lower.clamp(low, high), x.upper.clamp(low, high)
        knee_low = torch.clamp(torch.full_like(x.lower, low), x.lower, x.upper)
        knee_high = torch.clamp(torch.full_like(x.lower, high), x.lower, x.upper)
        below = chord(Interval(knee_low, x.upper), knee_low.clamp(low, high), at_upper).clamp(0, 1)
        above = chord(Interval(x.lower, knee_high), at_lower, knee_high.clamp(low, high)).clamp(0, 1)
        return _ClipFrame(
            knee_low,
            knee_high,
            Interval(torch.where(x.lower < low, 0.0, below), below),
            Interval(torch.where(x.upper > high, 0.0, above), above),
        )

    def default(self, x: Interval, frame: _ClipFrame) -> tuple[Tensor, Tensor]:
        # a plane turns around its kink: take the slope that is better at the centre
        centre = x.lower / 2 + x.upper / 2
        return (centre >= frame.knee_low).to(centre.dtype), (centre <= frame.knee_high).to(centre.dtype)

    def planes(self, x: Interval, frame: _ClipFrame, alpha_lower: Tensor, alpha_upper: Tensor) -> CurvePlanes:
        below = torch.lerp(*frame.below, alpha_lower)
        above = torch.lerp(*frame.above, alpha_upper)
        return self._planes(x, frame, below, above)

    def equal_slopes(self, x: Interval, frame: _ClipFrame) -> CurvePlanes:
        # the gap is a convex function of the slope and falls until the first of the two chords is reached
        slope = torch.minimum(frame.below.upper, frame.above.upper)
        return self._planes(x, frame, slope, slope)

    def _planes(self, x: Interval, frame: _ClipFrame, below: Tensor, above: Tensor) -> CurvePlanes:
        low = torch.minimum(self._intercept(frame.knee_low, below, -1), self._intercept(x.upper, below, -1))
        high = torch.maximum(self._intercept(x.lower, above, 1), self._intercept(frame.knee_high, above, 1))
        return CurvePlanes(below, low, above, high)

    def _intercept(self, point: Tensor, slope: Tensor, side: int) -> Tensor:
        """f(point) - slope * point, rounded towards `side`; exact where slope is 0, or 1 with f(point) = point."""
        product = slope * point
        result = self.value(point) - product
        inexact = torch.where((slope == 0) | (slope == 1), 0.0, product.abs())
        return result + (side * ulp(slope.dtype)) * (inexact + result.abs() * (slope != 0))

    def unstable(self, *xs: Interval) -> Tensor:
        (x,) = xs
        low, high = self._limits()
        return ~(((x.lower >= low) | (x.upper <= low)) & ((x.lower >= high) | (x.upper <= high)))


@register("Within")
class Within(Elementwise):
    """y = x where min <= x <= max. An interval that leaves this range gives nothing at all."""

    exact = True

    def value(self, x: Tensor) -> Tensor:
        return torch.where(self._inside(Interval(x, x)), x, torch.nan)

    def _inside(self, x: Interval) -> Tensor:
        return (x.lower >= self.node.number("min")) & (x.upper <= self.node.number("max"))

    def image(self, x: Interval) -> Interval:
        inside = self._inside(x)
        return Interval(torch.where(inside, x.lower, -torch.inf), torch.where(inside, x.upper, torch.inf))

    def default(self, x: Interval, frame: None) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(x.lower)
        return one, one

    def planes(self, x: Interval, frame: None, alpha_lower: Tensor, alpha_upper: Tensor) -> CurvePlanes:
        one, zero = torch.ones_like(x.lower), torch.zeros_like(x.lower)
        return CurvePlanes(one + 0 * alpha_lower, zero, one + 0 * alpha_upper, zero)  # autograd has to find alpha

    def equal_slopes(self, x: Interval, frame: None) -> CurvePlanes:
        one, zero = torch.ones_like(x.lower), torch.zeros_like(x.lower)
        return CurvePlanes(one, zero, one, zero)

    def unstable(self, *xs: Interval) -> Tensor:
        return ~self._inside(xs[0])
