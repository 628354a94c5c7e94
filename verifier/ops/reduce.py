"""Linear reductions: ReduceSum."""

from __future__ import annotations

import math

from torch import Tensor

from verifier.ops.kinds import LinearOp
from verifier.ops.registry import register


@register("ReduceSum")
class ReduceSum(LinearOp):
    """Sum over attrs axes, which are dropped."""

    @property
    def _axes(self) -> tuple[int, ...]:
        axes = self.node.integers("axes")
        return tuple(a + 1 for a in axes)

    def linear(self, *xs: Tensor) -> Tensor:
        return xs[0].sum(self._axes) if self._axes else xs[0]

    absolute = linear
    adjoint_terms = 0

    @property
    def terms(self) -> int:
        return math.prod(self.in_shapes[0][a - 1] for a in self._axes)

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        for axis in sorted(self._axes):
            y = y.unsqueeze(axis)
        return (y.expand(y.shape[0], *self.in_shapes[0]),)
