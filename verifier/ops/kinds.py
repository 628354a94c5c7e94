"""The two kinds of operator: linear ones and relaxed ones.

An operator object is a graph node bound to a dtype and a device. Tensors carry leading axes that the operator maps
over: M (any number of points or rows), B (boxes), R x K (row groups x rows), then the node's own shape S (input) or T
(output).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from verifier.graph.ir import Node, Shape
from verifier.ops.patch import Patch
from verifier.tolerance import gamma, lost, ulp


class Interval(NamedTuple):
    """Element-wise bounds `lower <= x <= upper`, two tensors (B, *S)."""

    lower: Tensor
    upper: Tensor


class Relaxation(NamedTuple):
    """Two planes that enclose y = f(x_1, .., x_n) on a box, per output element:

        sum_i lower_slopes[i] * x_i + lower_offset <= y <= sum_i upper_slopes[i] * x_i + upper_offset

    Slopes have the shape (B, *S_i) of their input, offsets (B, *T). Slopes are always finite; an offset may be -inf
    (lower) or +inf (upper) where nothing is known, and the slopes are 0 there.
    """

    lower_slopes: tuple[Tensor, ...]
    lower_offset: Tensor
    upper_slopes: tuple[Tensor, ...]
    upper_offset: Tensor


class Op:
    """A node bound to a dtype and a device; `params` are its tensors there. `weights_rounded` tells that weights
    had to be rounded to that type, each by half an ulp at most: one factor more in every product."""

    weights_rounded = False

    def __init__(self, node: Node, shapes: Mapping[str, Shape], dtype: torch.dtype, device: torch.device) -> None:
        self.node = node
        self.in_shapes: tuple[Shape, ...] = tuple(shapes[name] for name in node.inputs)
        self.out_shape: Shape = shapes[node.output]
        self.params: dict[str, Tensor] = {}
        for name, array in node.params.items():
            tensor = torch.from_numpy(np.array(array))  # a copy: the graph stays as it is, and may be read-only
            cast = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
            if name == "bias_error":  # a bound: rounded up
                cast = torch.where(cast < tensor.to(device), torch.nextafter(cast, cast.new_tensor(torch.inf)), cast)
            self.params[name] = cast

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one application to one input; element-wise work counts one per element."""
        return math.prod(self.out_shape)

    def forward(self, *xs: Tensor) -> Tensor:
        """Concrete values: (M, *S_i) each -> (M, *T)."""
        raise NotImplementedError(self.node.op)

    def interval(self, *xs: Interval) -> Interval:
        """Interval extension: bounds (B, *S_i) each -> bounds (B, *T)."""
        raise NotImplementedError(self.node.op)


class LinearOp(Op):
    """y = sum_i W_i x_i + c. Subclasses give `linear`, `absolute`, `adjoint` and `offset`; the rest follows."""

    def linear(self, *xs: Tensor) -> Tensor:
        """W applied without the constant: (M, *S_i) each -> (M, *T)."""
        raise NotImplementedError(self.node.op)

    def absolute(self, *xs: Tensor) -> Tensor:
        """|W| applied (all xs >= 0): (M, *S_i) each -> (M, *T)."""
        raise NotImplementedError(self.node.op)

    def adjoint(self, y: Tensor) -> tuple[Tensor, ...]:
        """Transpose of `linear`: (M, *T) -> one (M, *S_i) per input."""
        raise NotImplementedError(self.node.op)

    def adjoint_on(self, y: Tensor, part: Patch) -> Iterable[tuple[Tensor, Patch]]:
        """`adjoint` of rows over a part of the result that are 0 elsewhere, (M, *part.shape): for each input a part
        that holds all coefficients that are not 0, and these."""
        found = None if part.full else self.through(y, part)
        return zip(self.adjoint(part.everywhere(y)), self.wholes, strict=True) if found is None else found

    def through(self, y: Tensor, part: Patch) -> tuple[tuple[Tensor, Patch], ...] | None:
        """The same, where a part of the result needs parts of the inputs alone; None: all of them."""
        return None

    @cached_property
    def wholes(self) -> tuple[Patch, ...]:
        """All of each input, as parts."""
        return tuple(map(Patch.of_all, self.in_shapes))

    def offset(self) -> Tensor | None:
        """The constant c, broadcastable to T, or None where it is 0."""
        return None

    def inexact(self) -> Tensor | None:
        """How far the true operator's value may be from W x + c because c had to be rounded, >= 0, broadcastable to T;
        None where it is exact. Every bound of the value has to be wider by it.
        """
        return self.params.get("bias_error")

    @cached_property
    def offset_column(self) -> Tensor | None:
        """The constant as what a unit of coefficient adds to a row's bias, (|T|,), or None."""
        return self._column(self.offset())

    @cached_property
    def error_column(self) -> Tensor | None:
        """The same for what `inexact` takes off for each unit of |coefficient|."""
        error = self.inexact()
        return None if error is None else self._column(-error)

    @cached_property
    def constant_size(self) -> Tensor | None:
        """The magnitudes of the constant and of what it may be off by, (1, *T), or None."""
        parts = [t.abs().expand(self.out_shape) for t in (self.offset(), self.inexact()) if t is not None]
        return torch.stack(parts).sum(0, keepdim=True) if parts else None

    def _column(self, constant: Tensor | None) -> Tensor | None:
        return None if constant is None else constant.expand(self.out_shape).reshape(-1)

    @property
    def exact(self) -> bool:
        """Whether the stored numbers are the operator: no weight and no constant had to be rounded."""
        return self.inexact() is None and "roundings" not in self.params

    @property
    def terms(self) -> int:
        """Most products that one element of `linear` adds up; 0 where elements only move, without any rounding."""
        return sum(math.prod(shape) for shape in self.in_shapes)

    @property
    def adjoint_terms(self) -> int:
        """Most products that one element of `adjoint` adds up; 0 where elements only move."""
        return math.prod(self.out_shape)

    def forward(self, *xs: Tensor) -> Tensor:
        y, c = self.linear(*xs), self.offset()
        return y if c is None else y + c

    def interval(self, *xs: Interval) -> Interval:
        # centre-radius form: two applications instead of four. |W| (r + 3 gamma m), m the magnitudes, holds the
        # rounding of W c, of the halves, and that of this very sum (r <= m)
        dtype = xs[0].lower.dtype
        unit = gamma(self.terms, dtype)
        centre = self.forward(*((x.lower + x.upper) / 2 for x in xs))
        radius = self.absolute(
            *(((x.upper - x.lower) / 2).add_(torch.maximum(x.lower.abs(), x.upper.abs()), alpha=3 * unit) for x in xs)
        )
        radius = radius + (2 * lost(self.terms, dtype) + unit * centre.abs())
        error = self.inexact()
        radius = (radius if error is None else radius + error) * (1 + 4 * ulp(dtype))
        return Interval(centre - radius, centre + radius)


class RelaxedOp(Op):
    """A non-linear operator: an interval rule and two enclosing planes.

    Where `adjustable`, the planes are a family: one parameter alpha in [0, 1] per element for the lower and one for the
    upper plane, sound for every value, differentiable by autograd. Elements where there is no choice ignore it.
    """

    adjustable: bool = False
    finite: bool = False
    """Whether interval and planes are finite wherever the argument's interval is (and nothing overflows)."""

    @property
    def elementwise(self) -> bool:
        """Whether every output element depends on the input element at its place alone."""
        return len(self.in_shapes) == 1 and type(self).spread is RelaxedOp.spread

    def relax(self, *xs: Interval, parallel: bool = False) -> Relaxation:
        """Enclosing planes on the box `xs`; sound for every point of it, for any lower <= upper.

        With `parallel` both planes have the same slopes (affine forms need that), as close together as they can be.
        """
        raise NotImplementedError(self.node.op)

    def relax_both(self, *xs: Interval) -> tuple[Relaxation, Relaxation]:
        """The planes, and the parallel ones."""
        return self.relax(*xs), self.relax(*xs, parallel=True)

    def relax_at(self, *xs: Interval, alpha_lower: Tensor, alpha_upper: Tensor) -> Relaxation:
        """The planes at the given parameters, (..., B, *S) each; leading axes of alpha appear in the result."""
        raise NotImplementedError(self.node.op)

    def default_alpha(self, *xs: Interval) -> tuple[Tensor, Tensor]:
        """The parameters (lower, upper) at which `relax_at` equals `relax`, (B, *S) each."""
        raise NotImplementedError(self.node.op)

    def unstable(self, *xs: Interval) -> Tensor:
        """True where the operator is not affine on the box, or the box has NaN bounds: bool (B, *T)."""
        raise NotImplementedError(self.node.op)

    def sensitivity(self, *xs: Interval) -> tuple[Tensor, ...]:
        """How much narrower the planes' gap gets for each unit by which an input element moves less: (B, *S_i) each.

        Only the ratios within one output element count; all alike by default. Not finite where nothing is known.
        """
        return tuple(torch.ones_like(x.lower) for x in xs)

    def split_point(self, k: int, *xs: Interval) -> Tensor:
        """Where splitting argument k helps most, (B, *S_k); not inside its interval where no split helps. The middle by
        default."""
        return xs[k].lower / 2 + xs[k].upper / 2

    def spread(self, rows: Tensor, index: int) -> Tensor:
        """Rows over the output, (R, K, *T), as rows over input `index`, (R, K, *S_index); element-wise by default."""
        return rows

    def collect(self, terms: Tensor, lead: int = 1) -> Tensor:
        """Sum of per-input-element terms, (*lead axes, *S_i) -> (*lead axes, *T); element-wise by default."""
        return terms


class AlongAxis(RelaxedOp):
    """A function of all elements along attrs axis, which is dropped."""

    @property
    def _axis(self) -> int:
        """The axis counted from the end, so that leading axes do not matter."""
        return self.node.integer("axis") - len(self.in_shapes[0])

    def groups(self) -> Tensor:
        """The flat numbers of the elements that each result is made of, (N, k)."""
        shape = self.in_shapes[0]
        return torch.arange(math.prod(shape)).view(shape).movedim(self._axis, -1).flatten(0, -2)

    def spread(self, rows: Tensor, index: int) -> Tensor:
        lead = rows.shape[: rows.dim() - len(self.out_shape)]
        return rows.unsqueeze(self._axis).expand(*lead, *self.in_shapes[0])

    def collect(self, terms: Tensor, lead: int = 1) -> Tensor:
        return terms.sum(self._axis)
