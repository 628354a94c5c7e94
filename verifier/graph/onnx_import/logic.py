"""Comparisons, truth values, whole numbers and the choice of an element.

Truth values are the numbers 0 and 1. Whole numbers are real numbers that stay within their type (`Within`): where a
bound says that one may leave it, nothing is known of the result, because what happens then is not defined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from verifier.graph.onnx_import.arithmetic import sub, summed
from verifier.graph.onnx_import.context import Context, Operand, Var
from verifier.graph.onnx_import.opaque import opaque
from verifier.graph.onnx_import.registry import lowers
from verifier.graph.operators import traits

Lowering = Callable[[Context], "Operand | tuple[Operand, ...]"]
TRUTH = np.dtype(bool)
_LARGEST = 2.0**53
"""Whole numbers up to this are float64 numbers, so that arithmetic on them is exact in every bound."""
_ON_WHOLE = frozenset({
    "Sum", "Neg", "Max", "Min", "Where", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or",
    "Xor", "Not", "ReduceMin", "ArgMin", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger",
    "MatMulInteger", "MaxPool", "TopK",
})  # fmt: skip
"""Operators without a row whose lowering is right for whole numbers too; of the others the row says it."""


def on_whole(op: str, lowering: Lowering) -> Lowering:
    """The lowering of an operator that reads whole numbers or truth values: within their type, or opaque."""
    if op not in _ON_WHOLE and not traits(op).whole:
        return opaque

    def lower(c: Context) -> Operand | tuple[Operand, ...]:
        results = lowering(c)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(_kept(c, one) for one in results)

    return lower


def _kept(c: Context, y: Operand) -> Operand:
    if isinstance(y, np.ndarray) or y.dtype.kind not in "iu" or y.opaque:
        return y
    return within(c, y, y.dtype)


def within(c: Context, x: Var, dtype: np.dtype) -> Var:
    """x, a whole number, of the type `dtype`: unknown outside its range."""
    info = np.iinfo(dtype)
    low, high = max(float(info.min), -_LARGEST), min(float(info.max), _LARGEST)
    return replace(c.unary("Within", x, min=low, max=high), dtype=np.dtype(dtype))


def truncated(c: Context, x: Var, dtype: np.dtype) -> Var:
    """x rounded towards 0, as a conversion to whole numbers does."""
    up = c.unary("Floor", c.unary("Relu", x))
    down = c.unary("Floor", c.unary("Relu", c.scale(x, -1.0)))
    return within(c, c.binary("Sub", up, down), dtype)


def converted(c: Context, x: Var, dtype: np.dtype) -> Var:
    """x as a value of the type `dtype`."""
    if dtype == x.dtype or dtype.kind == "f" or (x.dtype == TRUTH and dtype.kind in "iu"):
        return replace(x, dtype=dtype)  # the real number stays; whole numbers are real numbers too
    if dtype == TRUTH:
        return replace(c.unary("Abs", c.unary("Sign", x)), dtype=TRUTH)
    return within(c, x, dtype) if x.dtype.kind in "iu" else truncated(c, x, dtype)


def _positive(c: Context, x: Var) -> Var:
    """1 where x > 0, else 0."""
    return c.unary("Relu", c.unary("Sign", x))


def _not(c: Context, x: Var) -> Var:
    return c.shift(c.scale(x, -1.0), 1.0)


@lowers("Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", since=7)
def compare(c: Context) -> Operand:
    """By the sign of the difference."""
    x = sub(c)
    assert isinstance(x, Var)
    if c.op == "Equal":
        y = _not(c, c.unary("Abs", c.unary("Sign", x)))
    else:
        falls = c.op in ("Less", "GreaterOrEqual")
        y = _positive(c, c.scale(x, -1.0) if falls else x)
        y = _not(c, y) if c.op.endswith("OrEqual") else y
    return replace(y, dtype=TRUTH)


@lowers("Not")
def negated(c: Context) -> Operand:
    """1 - x."""
    return replace(_not(c, c.x()), dtype=TRUTH)


@lowers("And", "Or", "Xor", since=7)
def connected(c: Context) -> Operand:
    """And: x + y - 1 from 0 on. Or: x + y up to 1. Xor: |x - y|."""
    if c.op == "Xor":
        x = sub(c)
        assert isinstance(x, Var)
        return replace(c.unary("Abs", x), dtype=TRUTH)
    x, y = c.value(0), c.value(1)
    if isinstance(x, np.ndarray):
        x, y = y, x
    assert isinstance(x, Var)
    total = c.shift(x, y.astype(np.float64)) if isinstance(y, np.ndarray) else c.plus(x, y)
    result = c.unary("Relu", c.shift(total, -1.0)) if c.op == "And" else c.clip(total, -np.inf, 1.0)
    return replace(result, dtype=TRUTH)


def _chosen(c: Context) -> Operand | tuple[Operand, ...]:
    """Where, with a condition that depends on the input: b + condition (a - b), exact once the condition is known."""
    condition, a, b = c.x(0), c.value(1), c.value(2)
    if any(isinstance(one, np.ndarray) and not np.isfinite(one).all() for one in (a, b)):
        return opaque(c)  # 0 times infinity: no product says which of the two it is
    kinds = [one.dtype for one in (a, b) if isinstance(one, Var)] or [np.result_type(a, b)]
    shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
    condition = c.broadcast(condition, shape)
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        first, second = c.scale(condition, a.astype(np.float64)), c.scale(_not(c, condition), b.astype(np.float64))
        return replace(c.binary("Add", first, second), dtype=kinds[0])
    left, right = c.broadcast(c.x(1), shape), c.broadcast(c.x(2), shape)
    product = c.binary("Mul", condition, c.binary("Sub", left, right))
    return replace(c.binary("Add", right, product), dtype=kinds[0])


@lowers("Where", since=9)
def where(c: Context) -> Operand | tuple[Operand, ...]:
    """Selection; with a constant condition by constant masks."""
    if isinstance(c.value(0), Var):
        return _chosen(c)
    mask = c.const(0, "condition").astype(bool)
    parts: list[Operand] = []
    for index, chosen in ((1, mask), (2, ~mask)):
        value = c.value(index)
        if isinstance(value, np.ndarray):
            parts.append(np.where(chosen, value, 0.0))  # an infinite value that is never chosen does no harm
        else:
            parts.append(c.scale(value, chosen.astype(np.float64)))
    return summed(c, *parts)


@lowers("ArgMax", "ArgMin")
def arg_max(c: Context) -> Operand:
    """The index of the largest element; of two elements by their difference. Ties go to the first, or to the last."""
    x = c.x() if c.op == "ArgMax" else c.scale(c.x(), -1.0)
    axis = c.axis(int(c.attr("axis", 0)), x.rank)
    y = index_of_largest(c, x, axis, c.flag("select_last_index", False))
    return c.reshape(y, (*x.shape[:axis], 1, *x.shape[axis + 1 :])) if c.flag("keepdims", True) else y


def index_of_largest(c: Context, x: Var, axis: int, last: bool = False) -> Var:
    """(.., n, ..) -> the index along `axis`, which is dropped."""
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    if x.shape[axis] == 2:
        first, second = (c.reshape(c.slice(x, axis, i, i + 1), shape) for i in (0, 1))
        if last:
            y = _not(c, _positive(c, c.binary("Sub", first, second)))
        else:
            y = _positive(c, c.binary("Sub", second, first))
    else:
        y = c.emit("ArgMax", [x], shape, attrs={"axis": axis, "last": int(last)})
    return replace(y, dtype=np.dtype(np.int64))


@lowers("TopK", since=10)
def top_k(c: Context) -> Operand | tuple[Operand, ...]:
    """The largest element and its index; more than one are only run."""
    x = c.x()
    axis = c.axis(int(c.attr("axis", -1)), x.rank)
    if not isinstance(c.value(1), np.ndarray) or int(c.const(1, "K").reshape(-1)[0]) != 1:
        return opaque(c)
    sign = 1.0 if c.flag("largest", True) else -1.0
    y, kept = c.scale(x, sign), (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    largest = c.emit("ReduceMax", [y], (*x.shape[:axis], *x.shape[axis + 1 :]), attrs={"axis": axis})
    value = c.reshape(c.scale(largest, sign), kept)
    return value, c.reshape(index_of_largest(c, y, axis), kept)


@lowers("CumSum", since=11)
def running_sum(c: Context) -> Operand:
    """A triangular matrix along one axis."""
    x = c.x()
    axis = c.axis(int(c.const(1, "axis").reshape(())), x.rank)
    weight = np.tril(np.ones((x.shape[axis],) * 2), -1 if c.flag("exclusive", False) else 0)
    weight = weight.T if c.flag("reverse", False) else weight
    perm = [*(a for a in range(x.rank) if a != axis), axis]
    return c.transpose(c.dense(c.transpose(x, perm), weight), np.argsort(perm).tolist())
