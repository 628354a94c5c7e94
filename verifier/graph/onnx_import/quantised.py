"""Quantised layers: whole numbers q that stand for scale * (q - zero point), rounded to even and cut to their type."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from verifier.graph.onnx_import.context import Context, Operand, Var
from verifier.graph.onnx_import.conv import convolve, pads, spatial
from verifier.graph.onnx_import.linear import times
from verifier.graph.onnx_import.logic import within
from verifier.graph.onnx_import.opaque import opaque
from verifier.graph.onnx_import.registry import lowers


def _per_axis(c: Context, array: np.ndarray, rank: int, axis: int) -> np.ndarray:
    """A scale or zero point, one for all or one for each index of `axis`, as an array that broadcasts."""
    if array.size == 1:
        return array.reshape(()).astype(np.float64)
    if array.ndim != 1:
        raise c.refuse("scales in blocks")
    shape = [1] * rank
    shape[axis] = len(array)
    return array.reshape(shape).astype(np.float64)


def _zero(c: Context, index: int) -> np.ndarray:
    return c.const(index, "zero point") if c.has(index) else np.zeros((), np.uint8)


@lowers("QuantizeLinear", since=10)
def quantize(c: Context) -> Operand | tuple[Operand, ...]:
    """Round(x / scale) + zero point, within the type."""
    x, zero = c.x(), _zero(c, 2)
    target = int(c.attr("output_dtype", 0))
    dtype = zero.dtype if c.has(2) or not target else np.dtype(onnx.helper.tensor_dtype_to_np_dtype(target))
    if dtype.kind not in "iu" or dtype.itemsize > 2 or c.attr("block_size", 0):
        return opaque(c)
    axis = c.axis(int(c.attr("axis", 1)), x.rank) if x.rank > 1 else 0
    scale, off = c.weight(1, "scale")
    factor, rounding = c.quotient(1.0, _per_axis(c, scale, x.rank, axis))
    return _quantised(c, c.scale(x, factor, rounding + off), _per_axis(c, zero, x.rank, axis), dtype)


@lowers("DynamicQuantizeLinear", since=11)
def dynamic_quantize(c: Context) -> tuple[Operand, ...]:
    """QuantizeLinear to uint8 whose scale, (max(x, 0) - min(x, 0)) / 255, and zero point, Round(-min(x, 0) / scale),
    come from the values. Where all are 0, nothing is known of the result."""
    x = c.x()
    flat = c.reshape(x, (x.size,))
    above, below = (
        c.unary("Relu", c.emit("ReduceMax", [one], (), attrs={"axis": 0})) for one in (flat, c.scale(flat, -1.0))
    )
    reach = c.binary("Add", above, below)
    steps = c.scale(c.unary("Reciprocal", reach), 255.0)
    zero = c.clip(c.unary("Round", c.binary("Mul", below, steps)), 0.0, 255.0)
    whole = c.binary("Add", c.unary("Round", c.binary("Mul", x, steps)), zero)
    factor, rounding = c.quotient(1.0, 255.0)
    values = c.clip(whole, 0.0, 255.0), c.scale(reach, factor, rounding), zero
    types = "uint8", "float32", "uint8"
    return tuple(replace(value, dtype=np.dtype(one)) for value, one in zip(values, types, strict=True))


def _quantised(c: Context, x: Var, zero: np.ndarray, dtype: np.dtype) -> Var:
    info = np.iinfo(dtype)
    y = c.clip(c.shift(c.unary("Round", x), zero), float(info.min), float(info.max))
    return Var(y.name, y.shape, np.dtype(dtype), y.opaque)


@lowers("DequantizeLinear", since=10)
def dequantize(c: Context) -> Operand | tuple[Operand, ...]:
    """(q - zero point) * scale."""
    x = c.x()
    if c.attr("block_size", 0):
        return opaque(c)
    axis = c.axis(int(c.attr("axis", 1)), x.rank) if x.rank > 1 else 0
    zero = _per_axis(c, _zero(c, 2), x.rank, axis)
    scale = _per_axis(c, c.const(1, "scale"), x.rank, axis)
    y = c.scale(c.shift(x, -zero), scale)
    return Var(y.name, y.shape, np.dtype(np.float32), y.opaque)


def _ratio(c: Context, first: int, second: int, result: int, rank: int, axis: int) -> tuple[np.ndarray, float]:
    """scale * scale / scale, and by how many roundings it is off."""
    a, b, y = (c.const(index, "scale").astype(np.float64) for index in (first, second, result))
    factor, rounding = c.quotient(a.reshape(()) * _per_axis(c, b, rank, axis), y.reshape(()))
    return factor, rounding + 1.0


@lowers("QLinearConv", since=10)
def q_conv(c: Context) -> Operand:
    """A convolution of the whole numbers, scaled and quantised again."""
    x, weight = c.x(), c.const(3, "weight").astype(np.float64)
    rank = x.rank
    bias = c.const(8, "bias").astype(np.float64) if c.has(8) else None
    weight = weight - _per_axis(c, c.const(5, "zero point"), weight.ndim, 0)
    y = _whole_conv(c, c.shift(x, -c.const(2, "zero point").astype(np.float64).reshape(())), weight, bias)
    y = c.scale(y, *_ratio(c, 1, 4, 6, rank, 1))
    zero = c.const(7, "zero point")
    return _quantised(c, y, zero.astype(np.float64).reshape(()), zero.dtype)


def _whole_conv(c: Context, x: Var, weight: np.ndarray, bias: np.ndarray | None) -> Var:
    kernel = weight.shape[2:]
    stride, dilation = spatial(c, "strides", kernel), spatial(c, "dilations", kernel)
    before, after = pads(c, x.shape[2:], kernel, stride, dilation)
    return convolve(c, x, weight, bias, stride, dilation, int(c.attr("group", 1)), before, after)


@lowers("ConvInteger", since=10)
def conv_integer(c: Context) -> Operand:
    """A convolution of whole numbers."""
    weight = c.const(1, "weight").astype(np.float64)
    weight = weight - _per_axis(c, _zero(c, 3), weight.ndim, 0)
    own = c.has(2) and isinstance(c.value(2), Var)
    x = _from_own_zero(c, 0, 2) if own else c.shift(c.x(), -_scalar(c, 2))
    return within(c, _whole_conv(c, x, weight, None), np.dtype(np.int32))


def _scalar(c: Context, index: int) -> np.ndarray:
    return _zero(c, index).astype(np.float64).reshape(())


@lowers("MatMulInteger", since=10)
def matmul_integer(c: Context) -> Operand:
    """A product of matrices of whole numbers."""
    return within(c, _whole_product(c, 0, 1, 2, 3), np.dtype(np.int32))


@lowers("QLinearMatMul", since=10)
def q_matmul(c: Context) -> Operand:
    """A product of matrices of whole numbers, scaled and quantised again."""
    y = _whole_product(c, 0, 3, 2, 5)
    y = c.scale(y, *_ratio(c, 1, 4, 6, y.rank, y.rank - 1))
    zero = c.const(7, "zero point")
    return _quantised(c, y, zero.astype(np.float64).reshape(()), zero.dtype)


def _from_own_zero(c: Context, index: int, zero: int) -> Var:
    """q - zero point, of a zero point for all that depends on the values, too."""
    if c.x(zero).size > 1:
        raise c.refuse("zero points that depend on values, one for each row")
    return c.binary("Sub", c.var(c.value(index)), c.reshape(c.x(zero), ()))


def _whole_product(c: Context, a: int, b: int, zero_a: int, zero_b: int) -> Var:
    values: list[Operand] = []
    for index, zero in ((a, zero_a), (b, zero_b)):
        if c.has(zero) and isinstance(c.value(zero), Var):
            values.append(_from_own_zero(c, index, zero))
            continue
        value, offset = c.value(index), _zero(c, zero).astype(np.float64)
        offset = offset.reshape(()) if offset.size == 1 else offset
        values.append(value.astype(np.float64) - offset if isinstance(value, np.ndarray) else c.shift(value, -offset))
    return times(c, *values)
