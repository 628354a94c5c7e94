"""Dense maps and element-wise affine operators: Dense, Scale, Shift, Add, Sub, Constant."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from verifier.ops.kinds import Interval, LinearOp
from verifier.ops.patch import Patch
from verifier.ops.registry import register
from verifier.tolerance import subtract_down, ulp


@register("Dense")
class Dense(LinearOp):
    """y = x @ weight.T + bias on the last axis; weight (n, k), x (M, *lead, k), y (M, *lead, n)."""

    _magnitude: Tensor | None = None

    @property
    def multiply_adds(self) -> int:
        return self.params["weight"].numel() * math.prod(self.in_shapes[0][:-1])

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] @ self.params["weight"].T

    def absolute(self, *xs: Tensor) -> Tensor:
        if self._magnitude is None:
            self._magnitude = self.params["weight"].abs()
        return xs[0] @ self._magnitude.T

    def forward(self, *xs: Tensor) -> Tensor:
        x, weight, bias = xs[0], self.params["weight"], self.params.get("bias")
        return torch.nn.functional.linear(x, weight, bias)

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return (y @ self.params["weight"],)

    def offset(self) -> Tensor | None:
        return self.params.get("bias")

    @property
    def terms(self) -> int:
        return int(self.params["weight"].shape[1]) + self.weights_rounded

    @property
    def adjoint_terms(self) -> int:
        return int(self.params["weight"].shape[0]) + self.weights_rounded


@register("Scale")
class Scale(LinearOp):
    """y = factor * x, factor broadcast to the shape of x."""

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] * self.params["factor"]

    def absolute(self, *xs: Tensor) -> Tensor:
        return xs[0] * self.params["factor"].abs()

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return (y * self.params["factor"],)

    def through(self, y: Tensor, part: Patch) -> tuple[tuple[Tensor, Patch], ...] | None:
        factor = part.select(self.params["factor"].expand(self.out_shape).flatten())
        return ((y * factor.view(part.shape), part),)

    @cached_property
    def terms(self) -> int:
        # a power of two rounds nothing (but where it underflows, which is allowed for on the whole walk)
        if not self.exact or self.weights_rounded:
            return 1 + self.weights_rounded
        mantissa, _ = torch.frexp(self.params["factor"])
        return int(bool(((mantissa.abs() != 0.5) & (mantissa != 0)).any()))

    @property
    def adjoint_terms(self) -> int:
        return self.terms

    def interval(self, *xs: Interval) -> Interval:
        (x,) = xs
        factor = self.params["factor"]
        ends = x.lower * factor, x.upper * factor
        lower, upper = torch.minimum(*ends), torch.maximum(*ends)
        if not self.exact:  # ROUNDINGS half ulp of the factor, and what follows
            lower, upper = (end + sign * 8 * ulp(end.dtype) * end.abs() for end, sign in ((lower, -1), (upper, 1)))
        if self.terms or bool((factor.abs() < 1).any()):
            inf = torch.full_like(lower, torch.inf)
            zero = factor == 0
            lower = torch.where(zero, lower, torch.nextafter(lower, -inf))
            upper = torch.where(zero, upper, torch.nextafter(upper, inf))
        return Interval(lower, upper)


class _InPlace(LinearOp):
    """Sums of what the inputs have at a place: rows over a part are rows over the same part of each."""

    def through(self, y: Tensor, part: Patch) -> tuple[tuple[Tensor, Patch], ...] | None:
        return tuple((rows, part) for rows in self.adjoint(y))


@register("Shift")
class Shift(_InPlace):
    """y = x + offset, offset broadcast to the shape of x."""

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0]

    absolute = linear

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return (y,)

    def offset(self) -> Tensor | None:
        return self.params["offset"]

    terms = adjoint_terms = 0

    def interval(self, *xs: Interval) -> Interval:
        (x,) = xs
        offset, error = self.params["offset"], self.inexact()
        lower, upper = subtract_down(x.lower, -offset), -subtract_down(-x.upper, offset)
        return Interval(lower, upper) if error is None else _wider(lower, upper, error)


@register("Add")
class Add(_InPlace):
    """y = x_1 + x_2, equal shapes."""

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] + xs[1]

    absolute = linear
    terms, adjoint_terms = 1, 0

    def interval(self, *xs: Interval) -> Interval:
        x, y = xs
        return Interval(subtract_down(x.lower, -y.lower), -subtract_down(-x.upper, y.upper))

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return y, y


@register("Sub")
class Sub(_InPlace):
    """y = x_1 - x_2, equal shapes."""

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] - xs[1]

    def absolute(self, *xs: Tensor) -> Tensor:
        return xs[0] + xs[1]

    terms, adjoint_terms = 1, 0

    def interval(self, *xs: Interval) -> Interval:
        x, y = xs
        return Interval(subtract_down(x.lower, y.upper), -subtract_down(-x.upper, -y.lower))

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return y, -y


@register("Constant")
class Constant(LinearOp):
    """A value that depends on no input. Its linear part is empty; the walks give it the leading axes of the batch."""

    def linear(self, *xs: Tensor) -> Tensor:
        value = self.params["value"]
        return torch.zeros((1, *value.shape), dtype=value.dtype, device=value.device)

    absolute = linear
    terms = adjoint_terms = 0

    def interval(self, *xs: Interval) -> Interval:
        value, error = self.params["value"][None], self.inexact()
        return Interval(value, value) if error is None else _wider(value, value, error)

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return ()

    def offset(self) -> Tensor | None:
        return self.params["value"]


def _wider(lower: Tensor, upper: Tensor, error: Tensor) -> Interval:
    return Interval(subtract_down(lower, error), -subtract_down(-upper, error))
