"""Dense maps and element-wise affine operators: Dense, Scale, Shift, Add, Sub, Constant."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verifier.ops.kinds import Interval, LinearOp
from verifier.ops.registry import register


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


@register("Scale")
class Scale(LinearOp):
    """y = factor * x, factor broadcast to the shape of x."""

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] * self.params["factor"]

    def absolute(self, *xs: Tensor) -> Tensor:
        return xs[0] * self.params["factor"].abs()

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return (y * self.params["factor"],)


@register("Shift")
class Shift(LinearOp):
    """y = x + offset, offset broadcast to the shape of x."""

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0]

    absolute = linear

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return (y,)

    def offset(self) -> Tensor | None:
        return self.params["offset"]


@register("Add")
class Add(LinearOp):
    """y = x_1 + x_2, equal shapes."""

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] + xs[1]

    absolute = linear

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return y, y


@register("Sub")
class Sub(LinearOp):
    """y = x_1 - x_2, equal shapes."""

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0] - xs[1]

    def absolute(self, *xs: Tensor) -> Tensor:
        return xs[0] + xs[1]

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return y, -y


@register("Constant")
class Constant(LinearOp):
    """A value that depends on no input. Its linear part is empty; the walks give it the leading axes of the batch."""

    def linear(self, *xs: Tensor) -> Tensor:
        value = self.params["value"]
        return torch.zeros((1, *value.shape), dtype=value.dtype, device=value.device)

    absolute = linear

    def interval(self, *xs: Interval) -> Interval:
        value, error = self.params["value"][None], self.inexact()
        return Interval(value, value) if error is None else Interval(value - error, value + error)

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        return ()

    def offset(self) -> Tensor | None:
        return self.params["value"]
