"""Step functions: Sign, Floor and Round. All are non-decreasing; between steps they are constant, and exact there.

Their gradient is 0, which tells gradient descent nothing: `forward` hands back that of a smooth function that rises
where the steps do (a straight-through estimator: Bengio et al. 2013). Nothing but the attack asks for gradients of
values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from verifier.ops.elementwise import CurvePlanes, Elementwise, magnitude
from verifier.ops.kinds import Interval
from verifier.ops.registry import register
from verifier.tolerance import tiny, ulp


class _StraightThrough(torch.autograd.Function):
    """The value y of a step function at x, with another derivative than 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None, None


class _SignFrame(NamedTuple):
    at_lower: Tensor
    at_upper: Tensor
    below: Tensor  # steepest useful slope of the lower plane, from the jump to (u, 1); 0 where sign is constant
    above: Tensor  # and of the upper plane, from (l, -1) to the jump


@register("Sign")
class Sign(Elementwise):
    """y = -1, 0 or 1; sign(0) = 0.

    Where l < 0 <= u the upper plane goes through (0, sign(u)) with a slope between 0 and that of the line to (l, -1).
    """

    exact = True
    kinks = (0.0,)
    infimum, supremum = -1.0, 1.0

    def value(self, x: Tensor) -> Tensor:
        return x.sign()

    def forward(self, *xs: Tensor) -> Tensor:
        """With the derivative of x / (s + |x|), s the mean of |x|: what is near its jump counts most."""
        (x,) = xs
        if not x.requires_grad:
            return self.value(x)
        size = x.detach().abs()
        scale = size.mean().clamp_min(tiny(x.dtype) ** 0.5)
        return _StraightThrough.apply(x, self.value(x.detach()), scale / (scale + size) ** 2)

    def image(self, x: Interval) -> Interval:
        # torch.sign(nan) is 0 on some devices
        low = torch.where(x.lower.isnan(), -1.0, x.lower.sign())
        return self.rounded(low, torch.where(x.upper.isnan(), 1.0, x.upper.sign()))

    def frame(self, x: Interval) -> _SignFrame:
        at_lower, at_upper = x.lower.sign(), x.upper.sign()
        rise = at_upper - at_lower
        # slopes above 1 / sqrt(tiny) are of no use and would overflow later
        least = tiny(x.lower.dtype) ** 0.5
        below = torch.where((rise > 0) & (x.upper > least), rise / x.upper.clamp_min(least), 0.0)
        above = torch.where((rise > 0) & (x.lower < -least), rise / x.lower.neg().clamp_min(least), 0.0)
        return _SignFrame(at_lower, at_upper, below, above)

    def default(self, x: Interval, frame: _SignFrame) -> tuple[Tensor, Tensor]:
        return (x.upper >= -x.lower).to(x.lower.dtype), (x.upper <= -x.lower).to(x.lower.dtype)

    def planes(self, x: Interval, frame: _SignFrame, alpha_lower: Tensor, alpha_upper: Tensor) -> CurvePlanes:
        below, above = frame.below * alpha_lower, frame.above * alpha_upper
        # extremum at the end of the interval or just beside the jump at 0; a product of about 2 with one rounding
        error = 4 * ulp(below.dtype)
        low = frame.at_upper - below * x.upper - error * (below > 0)
        high = frame.at_lower - above * x.lower + error * (above > 0)
        return CurvePlanes(below, torch.minimum(frame.at_lower, low), above, torch.maximum(frame.at_upper, high))

    def equal_slopes(self, x: Interval, frame: _SignFrame) -> CurvePlanes:
        # the planes are as far apart as the values, whatever the slope (up to a limit)
        flat = torch.zeros_like(x.lower)
        return CurvePlanes(flat, frame.at_lower, flat, frame.at_upper)

    def unstable(self, *xs: Interval) -> Tensor:
        (x,) = xs
        return ~(x.lower.sign() == x.upper.sign()) | x.lower.isnan() | x.upper.isnan()


class _Frame(NamedTuple):
    first: Tensor  # f(l)
    last: Tensor  # f(u)
    below: Tensor  # steepest useful slope of the lower plane; 0 where f is constant
    above: Tensor  # and of the upper plane


class Staircase(Elementwise):
    """Whole numbers: f jumps from n - 1 to n at n - `early`, and takes one of the two values there.

    The upper plane goes through the last jump's upper end, (n - early, n), n = f(u), and the lower one through the
    first jump's lower end, (m + 1 - early, m), m = f(l). Slopes up to 1 leave all other steps between the planes. With
    one jump only (n = m + 1) useful slopes go on to those of the lines to (l, m) and to (u, n).
    """

    exact = True
    early = 0.0

    def forward(self, *xs: Tensor) -> Tensor:
        """With the derivative of the diagonal."""
        (x,) = xs
        return (
            _StraightThrough.apply(x, self.value(x.detach()), torch.ones_like(x)) if x.requires_grad else self.value(x)
        )

    def frame(self, x: Interval) -> _Frame:
        first, last = self.value(x.lower), self.value(x.upper)
        least, jump = tiny(first.dtype) ** 0.5, last - self.early
        above, below = (torch.where(w > least, 1 / w.clamp_min(least), 0.0) for w in (jump - x.lower, x.upper - jump))
        several, none = last - first > 1, first == last
        above, below = (torch.where(none, 0.0, torch.where(several, 1.0, steep)) for steep in (above, below))
        return _Frame(first, last, below, above)

    def default(self, x: Interval, frame: _Frame) -> tuple[Tensor, Tensor]:
        centre = x.lower / 2 + x.upper / 2
        below, above = centre >= frame.first + (1 - self.early), centre <= frame.last - self.early
        return below.to(centre.dtype), above.to(centre.dtype)

    def planes(self, x: Interval, frame: _Frame, alpha_lower: Tensor, alpha_upper: Tensor) -> CurvePlanes:
        return self._planes(x, frame, frame.below * alpha_lower, frame.above * alpha_upper)

    def equal_slopes(self, x: Interval, frame: _Frame) -> CurvePlanes:
        # gap: (last - first) (1 - s) + s for s <= 1, and no gain beyond
        slope = (frame.last - frame.first > 1).to(x.lower.dtype)
        return self._planes(x, frame, slope, slope)

    def _planes(self, x: Interval, frame: _Frame, below: Tensor, above: Tensor) -> CurvePlanes:
        low = torch.minimum(frame.first - below * (frame.first + (1 - self.early)), frame.last - below * x.upper)
        high = torch.maximum(frame.last - above * (frame.last - self.early), frame.first - above * x.lower)
        # up to three roundings of numbers no larger than these
        size = magnitude(x) + 1
        error = 2 * ulp(size.dtype)
        low = low - error * torch.where(below > 0, size * (1 + below), 0.0)
        return CurvePlanes(below, low, above, high + error * torch.where(above > 0, size * (1 + above), 0.0))

    def unstable(self, *xs: Interval) -> Tensor:
        (x,) = xs
        return ~(self.value(x.lower) == self.value(x.upper)) | x.lower.isnan() | x.upper.isnan()

    def split_point(self, k: int, *xs: Interval) -> Tensor:
        """The jump nearest to the middle."""
        jump = (xs[0].lower / 2 + xs[0].upper / 2 + self.early).round() - self.early
        inside = (jump > xs[0].lower) & (jump < xs[0].upper)
        return torch.where(inside, jump, super().split_point(k, *xs))


@register("Floor")
class Floor(Staircase):
    """y = largest integer <= x."""

    def value(self, x: Tensor) -> Tensor:
        return x.floor()


@register("Round")
class Round(Staircase):
    """y = nearest integer; of two the even one."""

    early = 0.5

    def value(self, x: Tensor) -> Tensor:
        return x.round()
