"""Reductions and Softmax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from verifier.graph.onnx_import.context import Context, Operand, Var
from verifier.graph.onnx_import.registry import lowers

# Above this many classes the pairwise form of Softmax gives way to the plain one: it needs n^2 differences, but their
# bounds keep what two classes share.
_PAIRWISE = 64
_PRODUCT = 64  # elements of a ReduceProd


@lowers("ReduceSum")
def reduce_sum(c: Context) -> Operand:
    """Sum over axes."""
    return _reduce(c, lambda x, axes: c.reduce_sum(x, axes))


@lowers("ReduceMean")
def reduce_mean(c: Context) -> Operand:
    """Mean over axes."""

    def mean(x: Var, axes: Sequence[int]) -> Var:
        return c.scale(c.reduce_sum(x, axes), *c.quotient(1.0, float(math.prod(x.shape[axis] for axis in axes))))

    return _reduce(c, mean)


@lowers("ReduceMax")
def reduce_max(c: Context) -> Operand:
    """Maximum over axes."""
    return _reduce(c, lambda x, axes: _max(c, x, axes))


@lowers("ReduceMin")
def reduce_min(c: Context) -> Operand:
    """-max(-x) over axes."""
    return _reduce(c, lambda x, axes: c.scale(_max(c, c.scale(x, -1.0), axes), -1.0))


@lowers("ReduceL1")
def reduce_l1(c: Context) -> Operand:
    """Sum of absolute values."""
    return _reduce(c, lambda x, axes: c.reduce_sum(c.unary("Abs", x), axes), plain=False)


@lowers("ReduceSumSquare")
def reduce_sum_square(c: Context) -> Operand:
    """Sum of squares."""
    return _reduce(c, lambda x, axes: c.reduce_sum(c.unary("Pow", x, exponent=2), axes), plain=False)


@lowers("ReduceL2")
def reduce_l2(c: Context) -> Operand:
    """Square root of the sum of squares."""
    return _reduce(c, lambda x, axes: c.unary("Sqrt", c.reduce_sum(c.unary("Pow", x, exponent=2), axes)), plain=False)


def _reduce(c: Context, rule: Callable[[Var, Sequence[int]], Var], plain: bool = True) -> Operand:
    x = c.x()
    given, nothing, keep = c.ints(1, "axes"), c.flag("noop_with_empty_axes", False), c.flag("keepdims", True)
    if not given:
        if nothing:
            if not plain:  # versions of ONNX disagree on whether the element-wise part is skipped too
                raise c.refuse("noop_with_empty_axes")
            return x
        axes = tuple(range(x.rank))
    else:
        axes = c.axes(given, x.rank)
    y = rule(x, axes)
    if keep:
        y = c.reshape(y, [1 if axis in axes else size for axis, size in enumerate(x.shape)])
    return y


def _max(c: Context, x: Var, axes: Sequence[int]) -> Var:
    return _along_one(c, x, axes, lambda y, axis: c.emit("ReduceMax", [y], _dropped(y, axis), attrs={"axis": axis}))


def _dropped(x: Var, axis: int) -> list[int]:
    return [size for a, size in enumerate(x.shape) if a != axis]


def _along_one(c: Context, x: Var, axes: Sequence[int], rule: Callable[[Var, int], Var]) -> Var:
    """A reduction that knows one axis, over several, which are brought together first."""
    if not axes:
        return rule(c.reshape(x, (*x.shape, 1)), x.rank)
    kept = [axis for axis in range(x.rank) if axis not in axes]
    if len(axes) > 1:
        x = c.transpose(x, (*kept, *axes))
        x = c.reshape(x, (*x.shape[: len(kept)], math.prod(x.shape[len(kept) :])))
        axes = (len(kept),)
    return rule(x, int(axes[0]))


@lowers("Softmax", since=1)
def softmax_coerced(c: Context) -> Operand:
    """Before opset 13: over all axes from `axis` (default 1) on, taken as one."""
    return _softmax(c, *softmax_groups(c.x().shape, c.axis(int(c.attr("axis", 1)), c.x().rank), coerced=True))


@lowers("Softmax", since=13)
def softmax(c: Context) -> Operand:
    """Over one axis (default the last)."""
    return _softmax(c, *softmax_groups(c.x().shape, c.axis(int(c.attr("axis", -1)), c.x().rank), coerced=False))


def softmax_groups(shape: Sequence[int], axis: int, coerced: bool) -> tuple[int, int, int]:
    """(outer, n, inner): the input taken as an array of that shape has its classes along the middle axis."""
    if coerced:
        return math.prod(shape[:axis]), math.prod(shape[axis:]), 1
    return math.prod(shape[:axis]), shape[axis] if shape else 1, math.prod(shape[axis + 1 :])


def _softmax(c: Context, outer: int, n: int, inner: int) -> Operand:
    """exp of the logarithm, whose powers of e never exceed 1; of two classes a sigmoid."""
    if n == 2:
        x = c.x()
        z = c.reshape(x, (outer, 2, inner))
        return c.reshape(c.unary("Sigmoid", c.binary("Sub", z, c.take(z, 1, np.array([1, 0])))), x.shape)
    return c.unary("Exp", _log_softmax(c, outer, n, inner))


def _log_softmax(c: Context, outer: int, n: int, inner: int) -> Var:
    """-log sum_j exp(x_j - x_i), over pairs where there are few classes: their difference keeps what they share."""
    x = c.x()
    z = c.reshape(x, (outer, n, inner))
    if n > _PAIRWISE:
        return c.reshape(c.binary("Sub", z, c.reshape(c.log_sum_exp(z, 1), (outer, 1, inner))), x.shape)
    square = (outer, n, n, inner)
    own = c.broadcast(c.reshape(z, (outer, n, 1, inner)), square)
    other = c.broadcast(c.reshape(z, (outer, 1, n, inner)), square)
    # x_i - x_i is 0 whatever is known about x_i
    difference = c.scale(c.binary("Sub", other, own), (1.0 - np.eye(n))[None, :, :, None]) if n > 1 else None
    if difference is None:
        return c.constant(np.zeros(x.shape))
    return c.reshape(c.scale(c.log_sum_exp(difference, 2), -1.0), x.shape)


@lowers("LogSoftmax", since=1)
def log_softmax_coerced(c: Context) -> Operand:
    """Before opset 13: over all axes from `axis` (default 1) on, taken as one."""
    return _log_softmax(c, *softmax_groups(c.x().shape, c.axis(int(c.attr("axis", 1)), c.x().rank), coerced=True))


@lowers("LogSoftmax", since=13)
def log_softmax(c: Context) -> Operand:
    """Over one axis (default the last)."""
    return _log_softmax(c, *softmax_groups(c.x().shape, c.axis(int(c.attr("axis", -1)), c.x().rank), coerced=False))


@lowers("ReduceLogSumExp")
def reduce_log_sum_exp(c: Context) -> Operand:
    """log of the sum of exp over axes."""
    return _reduce(c, lambda x, axes: _along_one(c, x, axes, c.log_sum_exp), plain=False)


@lowers("ReduceLogSum")
def reduce_log_sum(c: Context) -> Operand:
    """log of the sum over axes."""
    return _reduce(c, lambda x, axes: c.unary("Log", c.reduce_sum(x, axes)), plain=False)


@lowers("ReduceProd")
def reduce_prod(c: Context) -> Operand:
    """Products of halves."""
    return _reduce(c, lambda x, axes: _along_one(c, x, axes, lambda y, axis: _product(c, y, axis)))


def _product(c: Context, x: Var, axis: int) -> Var:
    size = x.shape[axis]
    if size > _PRODUCT:
        raise c.refuse(f"a product of {size} elements; supported are {_PRODUCT}")
    while size > 1:
        half = size // 2
        pairs = c.binary("Mul", c.slice(x, axis, 0, half), c.slice(x, axis, half, 2 * half))
        x = pairs if size == 2 * half else c.concat([pairs, c.slice(x, axis, 2 * half, size)], axis)
        size = x.shape[axis]
    return c.reshape(x, [one for a, one in enumerate(x.shape) if a != axis])


@lowers("LayerNormalization", since=17)
def layer_normalization(c: Context) -> Operand:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the axes from `axis` on."""
    if c.n_outputs > 1:
        raise c.refuse("its second output")
    x = c.x()
    y = _normalised(c, x, tuple(range(c.axis(int(c.attr("axis", -1)), x.rank), x.rank)))
    y = c.scale(y, c.const(1, "scale"))
    return c.shift(y, c.const(2, "bias")) if c.has(2) else y


@lowers("RMSNormalization", since=23)
def rms_normalization(c: Context) -> Operand:
    """x / sqrt(mean of squares + epsilon) * scale over the axes from `axis` on."""
    x = c.x()
    y = _normalised(c, x, tuple(range(c.axis(int(c.attr("axis", -1)), x.rank), x.rank)), centre=False)
    return c.scale(y, c.const(1, "scale"))


@lowers("InstanceNormalization")
def instance_normalization(c: Context) -> Operand:
    """As LayerNormalization over the axes of space, with scale and bias per channel."""
    x = c.x()
    per_channel = (-1,) + (1,) * (x.rank - 2)
    y = c.scale(_normalised(c, x, range(2, x.rank)), c.const(1, "scale").reshape(per_channel))
    return c.shift(y, c.const(2, "bias").reshape(per_channel))


@lowers("GroupNormalization", since=18)
def group_normalization(c: Context) -> Operand:
    """As LayerNormalization over groups of channels; scale and bias per group before opset 21, per channel after."""
    x, groups = c.x(), int(c.attr("num_groups", 1))
    if groups < 1 or x.shape[1] % groups:
        raise c.wrong(f"{groups} groups of {x.shape[1]} channels")
    y = c.reshape(x, (x.shape[0], groups, math.prod(x.shape[1:]) // groups))
    y = c.reshape(_normalised(c, y, (2,)), x.shape)
    each = [np.repeat(one, x.shape[1] // len(one)) for one in (c.const(1, "scale"), c.const(2, "bias"))]
    scale, bias = (one.reshape(-1, *[1] * (x.rank - 2)) for one in each)
    return c.shift(c.scale(y, scale), bias)


@lowers("MeanVarianceNormalization", since=9)
def mean_variance_normalization(c: Context) -> Operand:
    """(x - mean) / (deviation + 1e-9)."""
    x = c.x()
    return _normalised(c, x, c.axes([int(axis) for axis in c.attr("axes", [0, 2, 3])], x.rank), 0.0, 1e-9)


@lowers("LpNormalization")
def lp_normalization(c: Context) -> Operand:
    """x / norm along one axis."""
    x, p = c.x(), int(c.attr("p", 2))
    axis = c.axis(int(c.attr("axis", -1)), x.rank)
    if p not in (1, 2):
        raise c.wrong(f"p = {p}, expected 1 or 2")
    total = c.reduce_sum(c.unary("Abs", x) if p == 1 else c.unary("Pow", x, exponent=2), (axis,))
    norm = total if p == 1 else c.unary("Sqrt", total)
    kept = [1 if a == axis else size for a, size in enumerate(x.shape)]
    return c.binary("Mul", x, c.reshape(c.unary("Reciprocal", norm), kept))


def _normalised(
    c: Context,
    x: Var,
    axes: Sequence[int],
    epsilon: float | None = None,
    outside: float | None = None,
    centre: bool = True,
) -> Var:
    """(x - mean) / sqrt(variance + epsilon) over `axes`, or / (sqrt(variance) + outside); mean 0 without `centre`."""
    epsilon = float(c.attr("epsilon", 1e-5)) if epsilon is None else epsilon
    count = math.prod(x.shape[axis] for axis in axes)
    kept = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
    share = c.quotient(1.0, float(count))
    mean = c.reshape(c.scale(c.reduce_sum(x, axes), *share), kept) if centre else None
    centred = x if mean is None else c.binary("Sub", x, mean)
    square = c.reduce_sum(c.unary("Pow", centred, exponent=2), axes)
    spread = c.unary("Sqrt", c.shift(c.scale(square, *share), epsilon))
    spread = spread if outside is None else c.shift(spread, outside)
    return c.binary("Mul", centred, c.reshape(c.unary("Reciprocal", spread), kept))
