"""Constant folding: the operators that exporters use to compute shapes and indices, on numpy arrays.

Floats are float64 throughout (constants are real numbers); integers keep their type. What is folded here is exact. An
operator that only moves elements is folded by lowering it and running the result on the arrays as they are; one that is
not here, or would have to round, by lowering it and enclosing the result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx

from verifier.graph.enclose import FLOOR
from verifier.graph.exact import FUNCTION, added, equal, multiplied, summed_exactly
from verifier.graph.ir import Node
from verifier.graph.onnx_import.context import Context
from verifier.graph.operators import OPERATORS

Fold = Callable[[Context, list[np.ndarray]], "np.ndarray | None"]
_TABLE: dict[str, Fold] = {}


def normal(array: np.ndarray) -> np.ndarray:
    """`array` with the dtype constants have here: float64, or an integer or boolean type."""
    if array.dtype.kind in "biu":
        return array
    return array.astype(np.float64)


def foldable(op: str) -> bool:
    """Whether `op` can be computed from constants."""
    return op in _TABLE


def fold(c: Context) -> np.ndarray | None:
    """The current node's value where all inputs are constant and the operator is in the table."""
    function = _TABLE.get(c.op)
    if function is None or c.n_outputs != 1 or any(isinstance(one, (str, bytes)) for one in c.inputs):
        return None
    arrays = [one for one in c.inputs if isinstance(one, np.ndarray)]
    if len(arrays) != len(c.inputs):
        return None
    try:
        with np.errstate(all="ignore"):
            found = function(c, arrays)
            if found is None:
                return None
            result = normal(np.asarray(found))
    except (ValueError, IndexError, OverflowError, TypeError, ZeroDivisionError) as error:
        raise c.wrong(f"cannot be computed from its constant inputs: {error}") from None
    c.guard(result.shape)
    return result if result.dtype.kind != "f" or _is_exact(c.op, arrays, result) else None


def _is_exact(op: str, xs: list[np.ndarray], y: np.ndarray) -> bool:
    """Whether the floats `y` are the real numbers that the table's function makes of `xs`."""
    row, check = OPERATORS.get(op), _CHECKS.get(op)
    if check is None and (op not in _ROWS or row is None or row.picks):
        return True
    finite = np.isfinite(y)  # an infinite element is refused where it is used, and rounds nothing
    if not finite.all():
        with np.errstate(all="ignore"):
            parts = [np.broadcast_to(x, y.shape) for x in xs] if op in _ELEMENTWISE or op == "Sum" else xs
        if any(part.shape != y.shape for part in parts):
            return False
        xs, y = [np.asarray(part[finite]) for part in parts], y[finite]
    xs = [np.asarray(x, np.float64) for x in xs]
    if check is not None:
        return check(xs, y)
    assert row is not None
    if row.plain is not None and bool((xs[0] == row.plain).all()):
        return True
    return row.exact is not None and row.exact(Node(op, (), ""), xs, y)


def _adds(xs: list[np.ndarray], y: np.ndarray) -> bool:
    total: np.ndarray | None = xs[0]
    for x in xs[1:]:
        total = None if total is None else added(total, x)
    return total is not None


def _progresses(xs: list[np.ndarray], y: np.ndarray) -> bool:
    steps = multiplied(np.arange(len(y), dtype=np.float64), xs[2].reshape(()))
    return steps is not None and added(steps, xs[0].reshape(())) is not None


def _powers(xs: list[np.ndarray], y: np.ndarray) -> bool:
    x, n = xs
    return bool(np.isin(n, (0, 1)).all()) or (bool((n == 2).all()) and multiplied(x, x) is not None)


_CHECKS: dict[str, Callable[[list[np.ndarray], np.ndarray], bool]] = {
    "Sum": _adds, "Range": _progresses, "Pow": _powers, "Div": lambda xs, y: equal(multiplied(y, xs[1]), xs[0]),
}  # fmt: skip
"""What may round, and how to see that it did not; of operators of the IR the table of operators says it."""

_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "Asin": np.arcsin, "Acos": np.arccos, "Asinh": np.arcsinh, "Acosh": np.arccosh, "Atanh": np.arctanh,
    "Pow": np.power,
}  # fmt: skip


def approximate(c: Context) -> tuple[np.ndarray, np.ndarray] | None:
    """(value, error) of an elementary function without a rule of its own, or of a running sum, where all inputs are
    exact constants.
    """
    function = _FUNCTIONS.get(c.op)
    arrays = [np.asarray(one, np.float64) for one in c.inputs if isinstance(one, np.ndarray)]
    if c.op == "CumSum" and len(arrays) == 2:
        return _running_sum(c, arrays[0])
    if function is None or len(arrays) != len(c.inputs):
        return None
    c.guard(np.broadcast_shapes(*(x.shape for x in arrays)))
    with np.errstate(all="ignore"):
        value = np.asarray(function(*arrays))
    return (value, FUNCTION * np.abs(value) + FLOOR) if np.isfinite(value).all() else None


def _running_sum(c: Context, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    axis = c.axis(int(c.const(1, "axis").reshape(())), x.ndim)

    def total(array: np.ndarray) -> np.ndarray:
        array = np.flip(array, axis) if c.flag("reverse", False) else array
        result = np.cumsum(array, axis)
        if c.flag("exclusive", False):
            before = [(1, 0) if a == axis else (0, 0) for a in range(array.ndim)]
            result = np.take(np.pad(result, before), np.arange(array.shape[axis]), axis)
        return np.flip(result, axis) if c.flag("reverse", False) else result

    if summed_exactly(x, axis):
        return total(x), np.zeros(x.shape)
    return total(x), total(np.abs(x)) * ((x.shape[axis] + 8) * 2.0**-52) + FLOOR


def _enter(op: str) -> Callable[[Fold], Fold]:
    def enter(function: Fold) -> Fold:
        _TABLE[op] = function
        return function

    return enter


def _broadcast(function: Callable[..., np.ndarray]) -> Fold:
    def apply(c: Context, xs: list[np.ndarray]) -> np.ndarray:
        c.guard(np.broadcast_shapes(*(x.shape for x in xs)))
        return function(*xs)

    return apply


def _divide(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype.kind == "f" or y.dtype.kind == "f":
        return x / y
    if (y == 0).any():
        raise ZeroDivisionError("integer division by 0")
    down = x // y
    return down + ((down * y != x) & ((x < 0) != (y < 0))).astype(down.dtype)  # C rounds towards 0


_ROWS: dict[str, Callable[..., np.ndarray]] = {
    name: partial(row.value, None, {}, ()) for name, row in OPERATORS.items()
    if (row.elementwise or row.broadcasts) and not (row.attrs or row.needs)
}  # fmt: skip
_ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = _ROWS | {
    "Div": _divide, "Equal": np.equal, "Greater": np.greater, "Less": np.less, "GreaterOrEqual": np.greater_equal,
    "LessOrEqual": np.less_equal, "And": np.logical_and, "Or": np.logical_or, "Xor": np.logical_xor,
    "Not": np.logical_not, "Neg": np.negative, "Ceil": np.ceil, "Where": np.where, "Identity": lambda x: x,
}  # fmt: skip
for _op, _function in _ELEMENTWISE.items():
    _enter(_op)(_broadcast(_function))


@_enter("Pow")
def _pow(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    c.guard(np.broadcast_shapes(*(x.shape for x in xs)))
    return np.power(xs[0].astype(np.float64), xs[1].astype(np.float64)).astype(xs[0].dtype)


def _many(function: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Fold:
    def apply(c: Context, xs: list[np.ndarray]) -> np.ndarray:
        c.guard(np.broadcast_shapes(*(x.shape for x in xs)))
        result = xs[0]
        for x in xs[1:]:
            result = function(result, x)
        return result

    return apply


_enter("Max")(_many(np.maximum))
_enter("Min")(_many(np.minimum))
_enter("Sum")(_many(np.add))


@_enter("Cast")
def _cast(c: Context, xs: list[np.ndarray]) -> np.ndarray | None:
    to = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(c.attr("to", 1))))
    if to.itemsize < 2 and to.kind in "fV":
        return None  # 8 bits and fewer: left to who refuses it
    if to.kind != "f":
        return xs[0].astype(to)
    real = xs[0].astype(np.float64)  # the real number stays, of a type that divides and multiplies as reals do
    return real if xs[0].dtype.kind == "f" or (real.astype(xs[0].dtype) == xs[0]).all() else None


@_enter("DequantizeLinear")
def _dequantize(c: Context, xs: list[np.ndarray]) -> np.ndarray | None:
    """(x - zero point) * scale, per tensor or along one axis, where that is exact; ONNX Runtime rounds to float32."""
    x, scale = xs[0].astype(np.float64), xs[1]
    if scale.size > 1:
        axis = c.axis(int(c.attr("axis", 1)), x.ndim)
        if scale.shape != (x.shape[axis],) or c.attr("block_size", 0):
            return None
    else:
        axis = 0
    shape = [-1 if a == axis else 1 for a in range(x.ndim)]
    zero = xs[2].astype(np.float64).reshape(shape) if len(xs) > 2 else 0.0
    return multiplied(x - zero, scale.reshape(shape))


@_enter("ConstantOfShape")
def _constant_of_shape(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    shape = c.guard([int(size) for size in xs[0].reshape(-1)])
    value = c.attr("value")
    return np.zeros(shape) if value is None else np.full(shape, normal(value).reshape(()))


@_enter("Range")
def _range(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    start, limit, delta = (x.reshape(()).item() for x in xs)
    count = max(0, int(np.ceil((limit - start) / delta)))
    c.guard((count,))
    return (start + np.arange(count) * delta).astype(xs[0].dtype)
