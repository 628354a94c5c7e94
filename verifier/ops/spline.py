"""Functions of one variable that are written with ReLUs."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from verifier.graph.ir import Node, Shape
from verifier.ops.elementwise import CurvePlanes, Elementwise, chord
from verifier.ops.kinds import Interval
from verifier.ops.registry import register
from verifier.tolerance import outward, tiny, ulp

TURNS = 12
"""Most steps towards the best slope of a plane; each ends at another knot, and most intervals hold few of these."""


class _SplineFrame(NamedTuple):
    inside: Tensor  # (B, *S, K) knots between the ends
    at: Tensor  # (B, *S, 2 + K) the ends and the knots inside (others are the lower end again)
    value: Tensor  # f there, rounded
    below: Interval  # slopes of the lower convex envelope at l and at u
    above: Interval  # slopes of the upper concave envelope at l and at u


@register("Spline")
class Spline(Elementwise):
    """y = sum_k w_k max(x - t_k, 0): a linear spline in truncated powers, with parameters `knots` t, `rise` w (K,).

    ReLUs relaxed one by one leave far more than the function: for a sigmoid with 54 knots an interval twice as wide as
    its range, and all knots inside have to be decided. f is affine between knots, so extrema of f(x) - s x lie at the
    ends of an interval or at knots inside. Slopes, and values at knots, are sums over the reals, rounded once.
    """

    finite = True
    exact = True  # what rounding costs is added here

    def __init__(self, node: Node, shapes: Mapping[str, Shape], dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(node, shapes, dtype, device)
        exact, rise = (node.params[name].astype(np.float64) for name in ("knots", "rise"))
        held = torch.from_numpy(exact).to(dtype).double().cpu().numpy()
        moved = Fraction(0)  # what f changes by where knots had to be rounded, at most
        knots, bases, slopes = [Fraction(float(held.min()))], [Fraction(0)], [Fraction(0)]
        for k in held.argsort(kind="stable").tolist():
            knot, more = Fraction(float(held[k])), Fraction(float(rise[k]))
            moved += abs(more * (Fraction(float(exact[k])) - knot))
            bases.append(bases[-1] + slopes[-1] * (knot - knots[-1]))
            slopes.append(slopes[-1] + more)
            knots.append(knot)

        def stored(numbers: list[Fraction], side: int = 0) -> Tensor:
            """The nearest numbers, or the next ones on a side."""
            found = torch.tensor([float(x) for x in numbers], dtype=torch.float64).to(dtype)
            beyond = [side * (Fraction(y) - x) < 0 for x, y in zip(numbers, found.double().tolist(), strict=True)]
            return torch.where(torch.tensor(beyond), torch.nextafter(found, found.new_tensor(side * torch.inf)), found)

        # piece j starts at the knot `_start[j]`, with a value between `_low[j]` and `_high[j]`; the first one is y = 0
        self._start, self._base, self._slope = stored(knots), stored(bases), stored(slopes)
        self._low, self._high = (stored([x + side * moved for x in bases], side) for side in (-1, 1))
        off = [abs(x - Fraction(y)) for x, y in zip(slopes, self._slope.double().tolist(), strict=True)]
        self._slope_error = stored(off, 1)
        for name in ("_start", "_base", "_low", "_high", "_slope", "_slope_error"):
            setattr(self, name, getattr(self, name).to(device))
        self._knots = self._start[1:].contiguous()

    def _piece(self, x: Tensor) -> Tensor:
        return torch.bucketize(x.detach().contiguous(), self._knots, right=True)

    def value(self, x: Tensor) -> Tensor:
        piece = self._piece(x)
        return self._base[piece] + self._beyond(x, piece)[0]

    def _beyond(self, x: Tensor, piece: Tensor) -> tuple[Tensor, Tensor]:
        """What x adds to the value at its piece's knot, and where it adds nothing."""
        away, slope = x - self._start[piece], self._slope[piece]
        level = (slope == 0) | (away == 0)
        return torch.where(level, 0.0, slope * away), level

    def _enclosed(self, x: Tensor) -> Interval:
        """f(x). The distance, the product and each of two sums have one rounding."""
        piece = self._piece(x)
        term, level = self._beyond(x, piece)
        ends = []
        for side in (-1, 1):
            y = self._enclosing(side)[piece] + term
            error = torch.where(level, 0.0, ulp(x.dtype) * (2 * term.abs() + 2 * y.abs()) + tiny(x.dtype))
            ends.append(_outwards(y, error + self._by_slope(x, piece), side))
        return Interval(*ends)

    def _by_slope(self, x: Tensor, piece: Tensor) -> Tensor:
        """What the rounding of a piece's slope may cost at x."""
        off = self._slope_error[piece]
        return torch.where(off == 0, 0.0, off * (x - self._start[piece]).abs() * outward(x.dtype))

    def _inside(self, x: Interval) -> Tensor:
        """Knots strictly between the ends (B, *S, K); all of them where an end is NaN."""
        return ~((self._knots <= x.lower[..., None]) | (self._knots >= x.upper[..., None]))

    def image(self, x: Interval) -> Interval:
        inside, ends = self._inside(x), [self._enclosed(end) for end in x]
        low = torch.where(inside, self._low[1:], torch.inf).amin(-1)
        high = torch.where(inside, self._high[1:], -torch.inf).amax(-1)
        low = torch.minimum(low, torch.minimum(ends[0].lower, ends[1].lower))
        high = torch.maximum(high, torch.maximum(ends[0].upper, ends[1].upper))
        return self.rounded(low, high)

    def frame(self, x: Interval) -> _SplineFrame:
        inside = self._inside(x)
        ends = [self.value(end)[..., None] for end in x]
        lower, upper = (end[..., None] for end in x)
        at = torch.cat([lower, upper, torch.where(inside, self._knots, lower)], -1)
        value = torch.cat([*ends, torch.where(inside, self._base[1:], ends[0])], -1)
        least, inf = tiny(at.dtype), torch.inf
        from_lower = (value - ends[0]) / (at - lower).clamp_min(least)
        to_upper = (ends[1] - value) / (upper - at).clamp_min(least)
        right, left = at > lower, at < upper
        one = ~inside.any(-1)  # piece: its slope is known
        slope = self._slope[self._piece(x.lower)]
        below = torch.where(right, from_lower, inf).amin(-1), torch.where(left, to_upper, -inf).amax(-1)
        above = torch.where(right, from_lower, -inf).amax(-1), torch.where(left, to_upper, inf).amin(-1)
        envelopes = [Interval(*(torch.where(one, slope, end) for end in ends)) for ends in (below, above)]
        return _SplineFrame(inside, at, value, *envelopes)

    def default(self, x: Interval, frame: _SplineFrame) -> tuple[Tensor, Tensor]:
        centre, found = x.lower / 2 + x.upper / 2, []
        for value, (first, last) in ((frame.value, frame.below), (-frame.value, frame.above)):
            slope = _touching(frame.at, value, centre)
            slope = slope if value is frame.value else -slope
            width = last - first
            share = (slope - first) / torch.where(width == 0, 1.0, width)
            found.append(torch.where(width == 0, 0.5, share).clamp(0, 1))
        return found[0], found[1]

    def planes(self, x: Interval, frame: _SplineFrame, alpha_lower: Tensor, alpha_upper: Tensor) -> CurvePlanes:
        below, above = torch.lerp(*frame.below, alpha_lower), torch.lerp(*frame.above, alpha_upper)
        return CurvePlanes(below, self._offset(x, frame, below, -1), above, self._offset(x, frame, above, 1))

    def equal_slopes(self, x: Interval, frame: _SplineFrame) -> CurvePlanes:
        line = torch.where(frame.inside.any(-1), _parallel(frame.at, frame.value), frame.below.lower)
        return CurvePlanes(line, self._offset(x, frame, line, -1), line, self._offset(x, frame, line, 1))

    def _offset(self, x: Interval, frame: _SplineFrame, slope: Tensor, side: int) -> Tensor:
        """The extremum of f(x) - slope x over the interval, rounded towards `side`: below (-1) or above (1)."""
        at_knots = side * _intercept(self._enclosing(side)[1:], slope[..., None], self._knots, side)
        found = torch.where(frame.inside, at_knots, -torch.inf).amax(-1)
        for point in x:
            found = torch.maximum(found, side * self._at_end(point, slope, side))
        return side * found

    def _at_end(self, x: Tensor, slope: Tensor, side: int) -> Tensor:
        """f(x) - slope x, rounded towards `side`: on the piece of x what it is at its knot, and the rest, which is 0
        where the piece has that slope."""
        piece = self._piece(x)
        start = self._start[piece]
        knot = _intercept(self._enclosing(side)[piece], slope, start, side)
        away, step = x - start, self._slope[piece] - slope
        same = (step == 0) | (away == 0)
        term = torch.where(same, 0.0, step * away)
        result = knot + term
        error = torch.where(same, 0.0, ulp(x.dtype) * (2 * term.abs() + result.abs()) + tiny(x.dtype))
        return _outwards(result, error + self._by_slope(x, piece), side)

    def _enclosing(self, side: int) -> Tensor:
        """Values at the starts of all pieces, rounded towards `side`."""
        return self._high if side > 0 else self._low

    def unstable(self, *xs: Interval) -> Tensor:
        return self._inside(xs[0]).any(-1)

    def split_point(self, k: int, *xs: Interval) -> Tensor:
        """The knot nearest to the middle."""
        (x,) = xs
        middle = x.lower / 2 + x.upper / 2
        away = torch.where(self._inside(x), (self._knots - middle[..., None]).abs(), torch.inf)
        nearest, number = away.min(-1)
        return torch.where(nearest.isfinite(), self._knots[number], middle)


def _outwards(value: Tensor, error: Tensor, side: int) -> Tensor:
    """value + side * error, rounded towards `side`; exact where the error is 0."""
    moved = torch.nextafter(value + side * error, value.new_tensor(side * torch.inf))
    return torch.where(error > 0, moved, torch.where(error == 0, value, torch.nan))


def _intercept(value: Tensor, slope: Tensor, point: Tensor, side: int) -> Tensor:
    """value - slope * point, rounded towards `side`; exact where the product is 0."""
    product = slope * point
    result = value - product
    error = ulp(slope.dtype) * (product.abs() + result.abs()) + tiny(slope.dtype)
    return result + side * torch.where((slope == 0) | (point == 0), 0.0, error)


def _touching(at: Tensor, value: Tensor, centre: Tensor) -> Tensor:
    """Slope of the edge of the lower convex hull of points (at, value), (.., P) each, that spans `centre` (..,); the
    first two are the ends. From the chord of the ends, the lowest point below it takes the place of one of its ends."""
    left, right = (at[..., 0], value[..., 0]), (at[..., 1], value[..., 1])
    slope = chord(Interval(left[0], right[0]), left[1], right[1])
    for _ in range(TURNS):
        height = value - slope[..., None] * at
        lowest, number = height.min(-1, keepdim=True)
        x, y = (t.gather(-1, number)[..., 0] for t in (at, value))
        lower = lowest[..., 0] < torch.minimum(left[1] - slope * left[0], right[1] - slope * right[0])
        before = x <= centre
        left = _moved(left, (x, y), lower & before)
        right = _moved(right, (x, y), lower & ~before)
        slope = torch.where(lower, chord(Interval(left[0], right[0]), left[1], right[1]), slope)
        if not bool(lower.any()):
            break
    return slope


def _parallel(at: Tensor, value: Tensor) -> Tensor:
    """The slope s for which value - s at, (.., P) each, spans least: a convex function of s, the greatest of lines
    c + g s; where the falling and the rising one that are known meet, there is another one, or the end."""
    width, rise = at[..., 1] - at[..., 0], value[..., 1] - value[..., 0]
    falling, rising = (rise, -width), (-rise, width)
    slope = rise / width.clamp_min(tiny(at.dtype))
    for _ in range(TURNS):
        height = value - slope[..., None] * at
        high, low = height.argmax(-1, keepdim=True), height.argmin(-1, keepdim=True)
        line = tuple((t.gather(-1, i) - t.gather(-1, j))[..., 0] for t, i, j in ((value, high, low), (at, low, high)))
        higher = line[0] + line[1] * slope > torch.maximum(*(c + g * slope for c, g in (falling, rising)))
        falling = _moved(falling, line, higher & (line[1] < 0))
        rising = _moved(rising, line, higher & (line[1] > 0))
        higher &= line[1] != 0
        meet = (falling[0] - rising[0]) / (rising[1] - falling[1]).clamp_min(tiny(at.dtype))
        slope = torch.where(higher, meet, slope)
        if not bool(higher.any()):
            break
    return slope


def _moved(old: tuple[Tensor, Tensor], new: tuple[Tensor, ...], where: Tensor) -> tuple[Tensor, Tensor]:
    return torch.where(where, new[0], old[0]), torch.where(where, new[1], old[1])
