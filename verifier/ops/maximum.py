"""ReduceMax: the largest element along one axis."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.ops.elementwise import magnitude
from verifier.ops.kinds import AlongAxis, Interval, Relaxation
from verifier.ops.registry import register
from verifier.tolerance import tiny, ulp


@register("ReduceMax")
class ReduceMax(AlongAxis):
    """y = max_i x_i. With L = max_i l_i, reached first at i*:

    lower  y >= x_i*
    upper  y <= sum_i s_i x_i + c,  s_i = alpha_i (u_i - L) / (u_i - l_i) for u_i > L, else 0

    For alpha = 1 this is L + sum_i relu(x_i - L) with each relu replaced by its chord (exact if one element dominates),
    for alpha = 0 the constant max u; by default whichever is lower at the centre. For any slopes in [0, 1]
    c = max_j ((1 - s_j) u_j + s_j l_j) - sum_i s_i l_i is the exact maximum of y - s x over the box.
    """

    adjustable = True

    def forward(self, *xs: Tensor) -> Tensor:
        return xs[0].amax(self._axis)

    def interval(self, *xs: Interval) -> Interval:
        (x,) = xs
        inf = torch.inf
        low = x.lower.nan_to_num(nan=-inf, posinf=torch.finfo(x.lower.dtype).max, neginf=-inf)
        high = x.upper.nan_to_num(nan=inf, posinf=inf, neginf=torch.finfo(x.lower.dtype).min)
        return Interval(low.amax(self._axis), high.amax(self._axis))

    def default_alpha(self, *xs: Interval) -> tuple[Tensor, Tensor]:
        (x,) = xs
        level = x.lower.amax(self._axis, keepdim=True)
        excess = (x.upper - level).clamp_min(0)
        at_centre = level + excess.sum(self._axis, keepdim=True) / 2
        alpha = (at_centre <= x.upper.amax(self._axis, keepdim=True)).to(level.dtype)
        return torch.ones_like(x.lower), alpha.expand_as(x.lower)

    def relax(self, *xs: Interval, parallel: bool = False) -> Relaxation:
        (x,) = xs
        if parallel:
            image, usable, inner = self._inner(x)
            return self._planes(image, usable, inner, self._first(inner), self._first(inner))
        alpha = self.default_alpha(x)
        return self.relax_at(x, alpha_lower=alpha[0], alpha_upper=alpha[1])

    def relax_at(self, *xs: Interval, alpha_lower: Tensor, alpha_upper: Tensor) -> Relaxation:
        (x,) = xs
        image, usable, inner = self._inner(x)
        level = inner.lower.amax(self._axis, keepdim=True)
        line = (inner.upper - level).clamp_min(0) / (inner.upper - inner.lower).clamp_min(tiny(level.dtype))
        # elements without width: a chord of slope 1 for those that reach the level
        line = torch.where(inner.lower >= level, 1.0, line.clamp_max(1))
        return self._planes(image, usable, inner, self._first(inner), self._only_first(inner, line) * alpha_upper)

    def sensitivity(self, *xs: Interval) -> tuple[Tensor, ...]:
        """The slope of each element's chord above the level: 0 for those that are never the largest."""
        (x,) = xs
        level = x.lower.amax(self._axis, keepdim=True)
        width = (x.upper - x.lower).clamp_min(tiny(level.dtype))
        return (((x.upper - level).clamp_min(0) / width).clamp_max(1),)

    def unstable(self, *xs: Interval) -> Tensor:
        (x,) = xs
        level = x.lower.amax(self._axis, keepdim=True)
        others = torch.where(self._first(x) > 0, -torch.inf, x.upper)
        return (~(others <= level)).any(self._axis)

    def _inner(self, x: Interval) -> tuple[Interval, Tensor, Interval]:
        """The image, where the whole group is finite, and the group with zeros elsewhere."""
        image = self.interval(x)
        usable = (x.upper - x.lower).isfinite().all(self._axis, keepdim=True)
        lower, upper = (torch.where(usable, bound, 0.0) for bound in x)
        return image, usable.squeeze(self._axis), Interval(lower, upper)

    def _first(self, x: Interval) -> Tensor:
        """One-hot: the first element with the largest lower bound."""
        first = x.lower.argmax(self._axis, keepdim=True)
        return torch.zeros_like(x.lower).scatter_(self._axis, first, 1.0)

    def _only_first(self, x: Interval, line: Tensor) -> Tensor:
        """Of several elements that sit at the level without rising above it, the first is enough."""
        level = x.lower.amax(self._axis, keepdim=True)
        return torch.where((x.upper <= level) & (self._first(x) == 0), 0.0, line)

    def _planes(self, image: Interval, usable: Tensor, x: Interval, below: Tensor, above: Tensor) -> Relaxation:
        """Planes with one-hot slopes `below` and any slopes `above` in [0, 1]."""
        highest = torch.lerp(x.upper, x.lower, above).amax(self._axis)
        terms = above * x.lower
        offset = highest - terms.sum(self._axis)
        # one product, one interpolation and a sum of n terms; a single slope of 1 with offset 0 is exact
        count = self.in_shapes[0][self._axis] + 4
        size = terms.abs().sum(self._axis) + highest.abs() + magnitude(x).amax(self._axis)
        exact = ((above == 0) | (above == 1)).all(self._axis) & (above.sum(self._axis) == 1) & (offset == 0)
        offset = offset + torch.where(exact, 0.0, count * ulp(size.dtype) * size)
        group = usable.unsqueeze(self._axis)
        return Relaxation(
            (torch.where(group, below, 0.0).expand(above.shape),),
            torch.where(usable, torch.zeros_like(offset), image.lower),
            (torch.where(group, above, 0.0),),
            torch.where(usable, offset, image.upper),
        )


@register("ArgMax")
class ArgMax(AlongAxis):
    """y = place of the largest element along attrs axis, the first of several, or with attrs last the last.

    The hull of the places where it can be: where the upper bound reaches the largest lower bound, and is not reached by
    that of an element that goes before it in a tie.
    """

    adjustable = True

    @property
    def _count(self) -> int:
        return self.in_shapes[0][self._axis]

    def _ordered(self, x: Tensor) -> Tensor:
        """The elements in the order in which they win a tie."""
        return x.flip(self._axis) if self.node.integer("last") else x

    def _place(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return (self._count - 1 - index if self.node.integer("last") else index).to(dtype)

    def forward(self, *xs: Tensor) -> Tensor:
        return self._place(self._ordered(xs[0]).argmax(self._axis), xs[0].dtype)

    def interval(self, *xs: Interval) -> Interval:
        lower, upper = (self._ordered(bound) for bound in xs[0])
        info = torch.finfo(lower.dtype)
        lower = lower.nan_to_num(nan=-torch.inf, posinf=info.max, neginf=-torch.inf)
        upper = upper.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=info.min)
        before = lower.cummax(self._axis).values.roll(1, self._axis)
        before.select(self._axis, 0).fill_(-torch.inf)
        top = lower.amax(self._axis, keepdim=True)
        possible = (upper >= top) & (upper > before)
        first = possible.to(lower.dtype).argmax(self._axis)
        last = self._count - 1 - possible.to(lower.dtype).flip(self._axis).argmax(self._axis)
        ends = self._place(first, lower.dtype), self._place(last, lower.dtype)
        return Interval(torch.minimum(*ends), torch.maximum(*ends))

    def relax(self, *xs: Interval, parallel: bool = False) -> Relaxation:
        flat = torch.zeros_like(xs[0].lower)
        return self.relax_at(*xs, alpha_lower=flat, alpha_upper=flat)

    def relax_at(self, *xs: Interval, alpha_lower: Tensor, alpha_upper: Tensor) -> Relaxation:
        image = self.interval(*xs)
        flat = torch.zeros_like(xs[0].lower)  # times alpha: autograd has to find it
        return Relaxation((flat * alpha_lower,), image.lower, (flat * alpha_upper,), image.upper)

    def default_alpha(self, *xs: Interval) -> tuple[Tensor, Tensor]:
        flat = torch.zeros_like(xs[0].lower)
        return flat, flat

    def unstable(self, *xs: Interval) -> Tensor:
        image = self.interval(*xs)
        return image.lower != image.upper
