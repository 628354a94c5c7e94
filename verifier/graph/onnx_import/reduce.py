"""Reductions and Softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from verifier.graph.onnx_import.context import Context, Value, Var
from verifier.graph.onnx_import.registry import lowers

# Above this many classes the pairwise form of Softmax gives way to the plain one: it needs n^2 exponentials, but its
# bounds keep the correlation between numerator and denominator.
_PAIRWISE = 64


@lowers("ReduceSum")
def reduce_sum(c: Context) -> Value:
    """Sum over axes."""
    return _reduce(c, lambda x, axes: c.reduce_sum(x, axes))


@lowers("ReduceMean")
def reduce_mean(c: Context) -> Value:
    """Mean over axes."""

    def mean(x: Var, axes: Sequence[int]) -> Var:
        return c.scale(c.reduce_sum(x, axes), 1.0 / math.prod(x.shape[axis] for axis in axes))

    return _reduce(c, mean)


@lowers("ReduceMax")
def reduce_max(c: Context) -> Value:
    """Maximum over axes."""
    return _reduce(c, lambda x, axes: _max(c, x, axes))


@lowers("ReduceMin")
def reduce_min(c: Context) -> Value:
    """-max(-x) over axes."""
    return _reduce(c, lambda x, axes: c.scale(_max(c, c.scale(x, -1.0), axes), -1.0))


@lowers("ReduceL1")
def reduce_l1(c: Context) -> Value:
    """Sum of absolute values."""
    return _reduce(c, lambda x, axes: c.reduce_sum(c.unary("Abs", x), axes), plain=False)


@lowers("ReduceSumSquare")
def reduce_sum_square(c: Context) -> Value:
    """Sum of squares."""
    return _reduce(c, lambda x, axes: c.reduce_sum(c.unary("Pow", x, exponent=2), axes), plain=False)


@lowers("ReduceL2")
def reduce_l2(c: Context) -> Value:
    """Square root of the sum of squares."""
    return _reduce(c, lambda x, axes: c.unary("Sqrt", c.reduce_sum(c.unary("Pow", x, exponent=2), axes)), plain=False)


def _reduce(c: Context, rule: Callable[[Var, Sequence[int]], Var], plain: bool = True) -> Value:
    x = c.x()
    given = c.ints(1, "axes")
    if not given:
        if c.attr("noop_with_empty_axes", 0):
            if not plain:  # versions of ONNX disagree on whether the element-wise part is skipped too
                raise c.refuse("noop_with_empty_axes")
            return x
        axes = tuple(range(x.rank))
    else:
        axes = c.axes(given, x.rank)
    y = rule(x, axes)
    if c.attr("keepdims", 1):
        y = c.reshape(y, [1 if axis in axes else size for axis, size in enumerate(x.shape)])
    return y


def _max(c: Context, x: Var, axes: Sequence[int]) -> Var:
    if not axes:
        return x
    kept = [axis for axis in range(x.rank) if axis not in axes]
    if len(axes) > 1:
        x = c.transpose(x, (*kept, *axes))
        x = c.reshape(x, (*x.shape[: len(kept)], math.prod(x.shape[len(kept) :])))
        axes = (len(kept),)
    shape = [size for axis, size in enumerate(x.shape) if axis != axes[0]]
    return c.emit("ReduceMax", [x], shape, attrs={"axis": int(axes[0])})


@lowers("Softmax", since=1)
def softmax_coerced(c: Context) -> Value:
    """Before opset 13: over all axes from `axis` (default 1) on, taken as one."""
    return _softmax(c, *softmax_groups(c.x().shape, c.axis(int(c.attr("axis", 1)), c.x().rank), coerced=True))


@lowers("Softmax", since=13)
def softmax(c: Context) -> Value:
    """Over one axis (default the last)."""
    return _softmax(c, *softmax_groups(c.x().shape, c.axis(int(c.attr("axis", -1)), c.x().rank), coerced=False))


def softmax_groups(shape: Sequence[int], axis: int, coerced: bool) -> tuple[int, int, int]:
    """(outer, n, inner): the input taken as an array of that shape has its classes along the middle axis."""
    if coerced:
        return math.prod(shape[:axis]), math.prod(shape[axis:]), 1
    return math.prod(shape[:axis]), shape[axis] if shape else 1, math.prod(shape[axis + 1 :])


def _softmax(c: Context, outer: int, n: int, inner: int) -> Value:
    x = c.x()
    z = c.reshape(x, (outer, n, inner))
    if n <= _PAIRWISE:  # y_i = 1 / sum_j exp(x_j - x_i)
        square = (outer, n, n, inner)
        own = c.broadcast(c.reshape(z, (outer, n, 1, inner)), square)
        other = c.broadcast(c.reshape(z, (outer, 1, n, inner)), square)
        total = c.reduce_sum(c.unary("Exp", c.binary("Sub", other, own)), [2])
        return c.reshape(c.unary("Reciprocal", total), x.shape)
    power = c.unary("Exp", z)
    share = c.unary("Reciprocal", c.reshape(c.reduce_sum(power, [1]), (outer, 1, inner)))
    return c.reshape(c.binary("Mul", power, share), x.shape)


@lowers("LayerNormalization", since=17)
def layer_normalization(c: Context) -> Value:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the axes from `axis` on."""
    if c.n_outputs > 1:
        raise c.refuse("its second output")
    x = c.x()
    axes = tuple(range(c.axis(int(c.attr("axis", -1)), x.rank), x.rank))
    count = math.prod(x.shape[axis] for axis in axes)
    kept = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    mean = c.reshape(c.scale(c.reduce_sum(x, axes), 1.0 / count), kept)
    centred = c.binary("Sub", x, mean)
    square = c.reduce_sum(c.unary("Pow", centred, exponent=2), axes)
    spread = c.shift(c.scale(square, 1.0 / count), float(c.attr("epsilon", 1e-5)))
    y = c.binary("Mul", centred, c.reshape(c.unary("Reciprocal", c.unary("Sqrt", spread)), kept))
    y = c.scale(y, c.const(1, "scale"))
    return c.shift(y, c.const(2, "bias")) if c.has(2) else y
