"""LogSumExp: log sum_i exp(x_i) along one axis, what Softmax and its logarithm are made of.

Everything is computed relative to the largest element, so that no power of e above 1 appears however far the elements
lie apart.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops.elementwise import magnitude
from verifier.ops.kinds import AlongAxis, Interval, Relaxation
from verifier.ops.registry import register
from verifier.tolerance import function_error, tiny, ulp

STEEPEST = 60.0
"""The upper plane belongs to a level at most this far below the highest value: steeper ones never pay."""


@register("LogSumExp")
class LogSumExp(AlongAxis):
    """y = log sum_i exp(x_i), convex. With t(x) for the value and w = softmax(p) for the slopes at a point p:

    lower  y >= t(p) + w (x - p), the tangent at p = l + alpha (u - l), by default in the middle
    upper  y <= v - 1 + sum_i c_i(x_i) exp(-v), c_i the chord of exp on [l_i, u_i]: log z <= log z' + (z - z') / z' at
           z' = exp(v), which lies at alpha between sum exp(l_i) and sum exp(u_i)     [Wei et al. 2023, the "ER" bounds]

    The upper offset is the exact maximum, element by element, for the slopes as stored, so any slopes would be sound;
    the lower one has room for their errors.
    """

    adjustable = True

    @property
    def _count(self) -> int:
        return self.in_shapes[0][self._axis]

    def forward(self, *xs: Tensor) -> Tensor:
        return xs[0].logsumexp(self._axis)

    def interval(self, *xs: Interval) -> Interval:
        (x,) = xs
        inf, largest = torch.inf, torch.finfo(x.lower.dtype).max
        low = x.lower.nan_to_num(nan=-inf, posinf=largest, neginf=-inf).logsumexp(self._axis)
        high = x.upper.nan_to_num(nan=inf, posinf=inf, neginf=-largest).logsumexp(self._axis)
        low, high = low - self._error(low), high + self._error(high)
        return Interval(
            low.nan_to_num(nan=-inf, posinf=largest, neginf=-inf), high.nan_to_num(nan=inf, posinf=inf, neginf=-largest)
        )

    def default_alpha(self, *xs: Interval) -> tuple[Tensor, Tensor]:
        half = torch.full_like(xs[0].lower, 0.5)
        return half, half

    def relax(self, *xs: Interval, parallel: bool = False) -> Relaxation:
        (x,) = xs
        alpha = self.default_alpha(x)
        if not parallel:
            return self.relax_at(x, alpha_lower=alpha[0], alpha_upper=alpha[1])
        image, usable, inner = self._inner(x)
        slope, low = self._tangent(inner, alpha[0])
        return self._guarded(image, usable, (slope, low), (slope, self._above(inner, slope, self._level(inner, 0.5))))

    def relax_at(self, *xs: Interval, alpha_lower: Tensor, alpha_upper: Tensor) -> Relaxation:
        (x,) = xs
        image, usable, inner = self._inner(x)
        level = self._level(inner, alpha_upper.mean(self._axis))
        width = inner.upper - inner.lower
        # (exp(u) - exp(l)) / (u - l) with both ends relative to the level
        top = (inner.upper - level.unsqueeze(self._axis)).exp()
        rise = torch.where(width > 0, -torch.expm1(-width) / width.clamp_min(tiny(width.dtype)), 1.0)
        slope = top * rise
        return self._guarded(
            image, usable, self._tangent(inner, alpha_lower), (slope, self._above(inner, slope, level))
        )

    def unstable(self, *xs: Interval) -> Tensor:
        (x,) = xs
        width = x.upper - x.lower
        return ((width > 4 * ulp(width.dtype) * magnitude(x)) | ~width.isfinite()).any(self._axis)

    def _error(self, value: Tensor) -> Tensor:
        """Of one evaluation: x - max and its power (together below 2 ulp of a sum that is at least 1), the sum, the
        logarithm, and adding the maximum."""
        return (2 * self._count + 16) * ulp(value.dtype) + (4 * ulp(value.dtype)) * value.abs()

    def _inner(self, x: Interval) -> tuple[Interval, Tensor, Interval]:
        """The image, where the whole group is finite, and the group with zeros elsewhere."""
        image = self.interval(x)
        size = torch.finfo(x.lower.dtype).max ** 0.5
        usable = (magnitude(x) < size).all(self._axis, keepdim=True)
        lower, upper = (torch.where(usable, bound, 0.0) for bound in x)
        return image, usable.squeeze(self._axis), Interval(lower, upper)

    def _tangent(self, x: Interval, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes and offset of the plane that touches the function, moved down by what was rounded."""
        point = torch.lerp(x.lower, x.upper, alpha)
        value = point.logsumexp(self._axis)
        distance = point - value.unsqueeze(self._axis)
        slope = distance.exp()
        unit, width = ulp(slope.dtype), x.upper - x.lower
        # a slope is off by the error of its exponent, and that counts over the width of the interval
        exponent = self._error(value).unsqueeze(self._axis) + unit * distance.abs() + function_error(slope.dtype)
        rounding = (self._count + 4) * unit * slope * point.abs() + 2 * exponent * slope * width
        lost = tiny(slope.dtype) * (width + point.abs())
        error = (rounding + lost).sum(self._axis) * (1 + (self._count + 4) * unit) + 2 * self._error(value)
        return slope, value - (slope * point).sum(self._axis) - error

    def _level(self, x: Interval, alpha: Tensor | float) -> Tensor:
        """log((1 - alpha) sum exp(l) + alpha sum exp(u)), and not too far below the highest value."""
        low, high = x.lower.logsumexp(self._axis), x.upper.logsumexp(self._axis)
        share = torch.as_tensor(alpha, dtype=low.dtype, device=low.device).clamp(0, 1)
        between = high + torch.log((share + (1 - share) * (low - high).exp()).clamp_min(tiny(low.dtype)))
        return torch.maximum(between, high - STEEPEST)

    def _above(self, x: Interval, slope: Tensor, level: Tensor) -> Tensor:
        """Offset of the upper plane with these slopes, for any level."""
        unit, base = ulp(slope.dtype), level.unsqueeze(self._axis)
        ends = []
        for end in x:
            power = (end - base).exp()
            error = power * (unit * ((end - base).abs() + end.abs() + base.abs()) + 2 * function_error(power.dtype))
            product = slope * end
            ends.append(power - product + (error + 2 * unit * product.abs() + tiny(power.dtype)))
        total = torch.maximum(*ends)
        size = total.abs().sum(self._axis) + level.abs() + 1
        return level - 1 + total.sum(self._axis) + (self._count + 8) * unit * size

    def _guarded(
        self, image: Interval, usable: Tensor, below: tuple[Tensor, Tensor], above: tuple[Tensor, Tensor]
    ) -> Relaxation:
        """The planes where everything is finite, the constant bounds of the image elsewhere."""
        parts: list[Tensor] = []
        for (slope, offset), bound in zip((below, above), image, strict=True):
            ok = usable & offset.isfinite() & slope.isfinite().all(self._axis)
            parts += [torch.where(ok.unsqueeze(self._axis), slope, 0.0), torch.where(ok, offset, bound)]
        return Relaxation((parts[0],), parts[1], (parts[2],), parts[3])
