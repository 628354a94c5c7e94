"""Non-linear operators: functions of one element, products and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from verifier.graph.exact import FUNCTION, ONE, UNIT, added, equal, matmul, multiplied
from verifier.graph.ir import Node, Shape
from verifier.graph.operators.row import declare, need, without_axis


def unary(name: str, function: Callable[[np.ndarray], np.ndarray], **traits: Any) -> None:
    """Declare an element-wise operator without attributes."""
    declare(name, lambda node, params, shape, x: function(x), elementwise=True, as_is=True, **traits)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)) without overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


_rises = partial(unary, increasing=True, monotone=True)
unary(
    "Relu", lambda x: np.maximum(x, 0), picks=True, increasing=True, lipschitz=1.0, whole=True,
    left=lambda attrs, params: 0.0,
)  # fmt: skip
unary("Abs", np.abs, picks=True, lipschitz=1.0, whole=True)
_steps = partial(unary, picks=True, increasing=True, steps=True)
_steps("Sign", np.sign, whole=True)
_steps("Floor", np.floor)
_steps("Round", np.round)
_rises("Sigmoid", sigmoid, lipschitz=0.25, within_one=True, plain=0.0)
_rises("Tanh", np.tanh, lipschitz=1.0, within_one=True, plain=0.0)
_rises("Erf", np.vectorize(math.erf, otypes=[np.float64]), plain=0.0)
_rises("Atan", np.arctan, plain=0.0)
unary("Sin", np.sin, lipschitz=1.0, within_one=True, plain=0.0)
unary("Cos", np.cos, lipschitz=1.0, within_one=True, plain=0.0)
_rises("Exp", np.exp, plain=0.0)
_rises("Softplus", lambda x: np.logaddexp(x, x.dtype.type(0)))
_rises("Log", np.log, plain=1.0)
_rises("Sqrt", np.sqrt, once=True, exact=lambda node, xs, y: equal(multiplied(y, y), xs[0]))
unary(
    "Reciprocal", lambda x: 1 / x, monotone=True, once=True, pole=0.0,
    exact=lambda node, xs, y: equal(multiplied(y, xs[0]), 1.0),
)  # fmt: skip


def _leaky_shape(node: Node, shape: Shape) -> Shape:
    need(0 <= node.number("alpha") < math.inf, "alpha is negative or infinite")
    return shape


def _leaky(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, x, x * x.dtype.type(node.number("alpha")))


def _prelu(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, x, x * params["slope"])


def _clip_shape(node: Node, shape: Shape) -> Shape:
    need(node.number("min") <= node.number("max"), "min > max")
    return shape


def _clip(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    return np.clip(x, node.number("min"), node.number("max"))


def _within(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    return np.where((x >= node.number("min")) & (x <= node.number("max")), x, np.nan)


def _pow_shape(node: Node, shape: Shape) -> Shape:
    exponent = node.attrs["exponent"]
    need(isinstance(exponent, int) and exponent >= 2, "exponent is not an integer above 1")
    return shape


def _power(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    return x ** node.integer("exponent")


def _log_sum_exp(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    axis = node.integer("axis") + 1
    top = x.max(axis, keepdims=True)
    base = np.where(np.isfinite(top), top, x.dtype.type(0))
    return np.log(np.exp(x - base).sum(axis)) + base.squeeze(axis)


def _largest(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    return x.max(axis=node.integer("axis") + 1)


def _place_of_largest(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    axis = node.integer("axis") + 1
    if not node.integer("last"):
        return x.argmax(axis).astype(x.dtype)
    return (x.shape[axis] - 1 - np.flip(x, axis).argmax(axis)).astype(x.dtype)


def _spline_shape(node: Node, shape: Shape) -> Shape:
    knots, rise = node.params["knots"], node.params["rise"]
    need(knots.ndim == 1 and knots.shape == rise.shape and knots.size > 0, "no knots, or not a rise each")
    return shape


def _ramps(params: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return np.maximum(x[..., None] - params["knots"], x.dtype.type(0))


def _spline(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    return np.asarray(_ramps(params, x) @ params["rise"])


def _spline_exact(node: Node, xs: Sequence[np.ndarray], y: np.ndarray) -> bool:
    difference = added(xs[0][..., None], 0.0 - node.params["knots"])
    if difference is None:
        return False
    ramps = np.maximum(difference, 0.0).reshape(-1, difference.shape[-1])
    total = matmul(ramps, node.params["rise"][:, None])
    return total is not None and equal(total.reshape(y.shape), y)


def _spline_error(node: Node, xs: Sequence[np.ndarray], errors: Sequence[np.ndarray], y: np.ndarray) -> np.ndarray:
    size = np.abs(node.params["rise"])
    rounded = (len(size) + 4) * UNIT * (_ramps(node.params, xs[0]) @ size)
    return np.asarray((size.sum() * errors[0] + rounded) * (1 + 2 * len(size) * UNIT))


def _slope(attrs: Mapping[str, Any], params: Mapping[str, np.ndarray]) -> float:
    return float(attrs.get("alpha", 0.01))


def _leaky_exact(node: Node, xs: Sequence[np.ndarray], y: np.ndarray) -> bool:
    return multiplied(np.minimum(xs[0], 0.0), np.array(node.number("alpha"))) is not None


def _prelu_exact(node: Node, xs: Sequence[np.ndarray], y: np.ndarray) -> bool:
    return multiplied(np.minimum(xs[0], 0.0), node.params["slope"]) is not None


def _power_exact(node: Node, xs: Sequence[np.ndarray], y: np.ndarray) -> bool:
    return node.integer("exponent") == 2 and multiplied(xs[0], xs[0]) is not None


def _power_error(node: Node, xs: Sequence[np.ndarray], errors: Sequence[np.ndarray], y: np.ndarray) -> np.ndarray:
    size, n = np.abs(xs[0]), node.integer("exponent")
    large = (size + errors[0]) ** n
    return np.asarray((large - size**n) + (FUNCTION + n * UNIT) * large)


def _product_error(node: Node, xs: Sequence[np.ndarray], errors: Sequence[np.ndarray], y: np.ndarray) -> np.ndarray:
    (a, b), (e, f) = xs, errors
    return np.asarray(np.abs(a) * f + np.abs(b) * e + e * f + ONE * np.abs(y))


def _log_sum_exp_error(node: Node, xs: Sequence[np.ndarray], errors: Sequence[np.ndarray], y: np.ndarray) -> np.ndarray:
    axis = node.integer("axis") + 1
    top = np.abs(xs[0]).max(axis)
    return np.asarray(errors[0].max(axis) + (xs[0].shape[axis] + 32) * UNIT * (2 + top + np.abs(y)))


def _rises_if_positive(attrs: Mapping[str, Any]) -> bool:
    return float(attrs.get("alpha", 0.01)) >= 0


def _steeper_side(attrs: Mapping[str, Any]) -> float:
    return max(1.0, abs(float(attrs.get("alpha", 0.01))))


_function = partial(declare, elementwise=True)
_function(
    "LeakyRelu", _leaky, shape=_leaky_shape, attrs=("alpha",), increasing=_rises_if_positive, lipschitz=_steeper_side,
    left=_slope, exact=_leaky_exact, identity=lambda node, shape: node.number("alpha") == 1,
)  # fmt: skip
_function("PRelu", _prelu, needs=("slope",), left=lambda attrs, params: params["slope"], exact=_prelu_exact)
_function(
    "Clip", _clip, shape=_clip_shape, attrs=("min", "max"), picks=True, increasing=True, lipschitz=1.0, whole=True,
    identity=lambda node, shape: node.number("min") == -math.inf and node.number("max") == math.inf,
)  # fmt: skip
_function("Within", _within, shape=_clip_shape, attrs=("min", "max"), picks=True, inner=True)
_function("Pow", _power, shape=_pow_shape, attrs=("exponent",), exact=_power_exact, error=_power_error)
declare(
    "Mul", lambda node, params, shape, x, y: x * y, inputs=2, broadcasts=True, whole=True,
    exact=lambda node, xs, y: multiplied(*xs) is not None, error=_product_error,
)  # fmt: skip
_function(
    "Spline", _spline, shape=_spline_shape, needs=("knots", "rise"), shared=True, inner=True, exact=_spline_exact,
    error=_spline_error,
)  # fmt: skip
_along = partial(declare, shape=without_axis, attrs=("axis",), drops_axis=True)
_along("ReduceMax", _largest, picks=True, increasing=True, lipschitz=1.0, whole=True)
_along("LogSumExp", _log_sum_exp, increasing=True, inner=True, error=_log_sum_exp_error)
declare(
    "ArgMax",
    _place_of_largest,
    shape=without_axis,
    attrs=("axis", "last"),
    drops_axis=True,
    picks=True,
    steps=True,
    whole=True,
)
