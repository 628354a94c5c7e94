"""Constant folding: the operators that exporters use to compute shapes and indices, on numpy arrays.

Floats are float64 throughout (constants are real numbers); integers keep their type. An operator that is not here is
folded by lowering it and evaluating the result.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verifier.graph.onnx_import.context import Context, elements

Fold = Callable[[Context, list[np.ndarray]], np.ndarray]
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
            result = normal(np.asarray(function(c, arrays)))
    except (ValueError, IndexError, OverflowError, TypeError, ZeroDivisionError) as error:
        raise c.wrong(f"cannot be computed from its constant inputs: {error}") from None
    c.guard(result.shape)
    return result


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
    quotient = np.abs(x) // np.abs(y)  # C rounds towards 0
    return np.where((x < 0) != (y < 0), -quotient, quotient)


_ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": _divide, "Equal": np.equal, "Greater": np.greater,
    "Less": np.less, "GreaterOrEqual": np.greater_equal, "LessOrEqual": np.less_equal, "And": np.logical_and,
    "Or": np.logical_or, "Xor": np.logical_xor, "Not": np.logical_not, "Neg": np.negative, "Abs": np.abs,
    "Floor": np.floor, "Ceil": np.ceil, "Round": np.round, "Sqrt": np.sqrt, "Exp": np.exp, "Log": np.log,
    "Sign": np.sign, "Where": np.where, "Identity": lambda x: x, "Reciprocal": lambda x: 1.0 / x,
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
def _cast(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    import onnx

    return xs[0].astype(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(int(c.attr("to", 1)))))


@_enter("ConstantOfShape")
def _constant_of_shape(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    shape = c.guard([int(size) for size in xs[0].reshape(-1)])
    value = c.attr("value")
    return np.zeros(shape) if value is None else np.full(shape, normal(value).reshape(()))


@_enter("Shape")
def _shape(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    return np.asarray(xs[0].shape[slice(c.attr("start", 0), c.attr("end"))], dtype=np.int64)


@_enter("Size")
def _size(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    return np.asarray(elements(xs[0].shape), dtype=np.int64)


@_enter("Gather")
def _gather(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    axis = c.axis(int(c.attr("axis", 0)), xs[0].ndim)
    c.guard((*xs[0].shape[:axis], *xs[1].shape, *xs[0].shape[axis + 1 :]))
    return np.take(xs[0], xs[1].astype(np.int64), axis=axis)


@_enter("Concat")
def _concat(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(xs, axis=int(c.attr("axis", 0)))


@_enter("Unsqueeze")
def _unsqueeze(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    return np.expand_dims(xs[0], tuple(c.ints(1, "axes") or ()))


@_enter("Squeeze")
def _squeeze(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    axes = c.ints(1, "axes")
    return np.squeeze(xs[0], axis=None if axes is None else tuple(axes))


@_enter("Slice")
def _slice(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    from verifier.graph.onnx_import.index import slice_

    result = slice_(c)
    assert isinstance(result, np.ndarray)
    return result


@_enter("Reshape")
def _reshape(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    from verifier.graph.onnx_import.shape import resolve_shape

    return xs[0].reshape(resolve_shape(c, xs[0].shape, [int(size) for size in xs[1].reshape(-1)]))


@_enter("Flatten")
def _flatten(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    axis = int(c.attr("axis", 1))
    return xs[0].reshape(elements(xs[0].shape[:axis]), -1)


@_enter("Transpose")
def _transpose(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    return np.transpose(xs[0], c.attr("perm"))


@_enter("Expand")
def _expand(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    target = c.guard([int(size) for size in xs[1].reshape(-1)])
    return np.array(np.broadcast_to(xs[0], c.guard(np.broadcast_shapes(xs[0].shape, target))))


@_enter("Tile")
def _tile(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    repeats = [int(count) for count in xs[1].reshape(-1)]
    if len(repeats) != xs[0].ndim:
        raise ValueError(f"{len(repeats)} repeats for {xs[0].ndim} axes")
    c.guard([size * count for size, count in zip(xs[0].shape, repeats, strict=True)])
    return np.tile(xs[0], repeats)


@_enter("Range")
def _range(c: Context, xs: list[np.ndarray]) -> np.ndarray:
    start, limit, delta = (x.reshape(()).item() for x in xs)
    count = max(0, int(np.ceil((limit - start) / delta)))
    c.guard((count,))
    return (start + np.arange(count) * delta).astype(xs[0].dtype)
