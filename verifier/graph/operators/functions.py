"""Non-linear operators: functions of one element, products and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

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
unary("Relu", lambda x: np.maximum(x, 0), picks=True, increasing=True, lipschitz=1.0)
unary("Abs", np.abs, picks=True, lipschitz=1.0)
_steps = partial(unary, picks=True, increasing=True, steps=True)
_steps("Sign", np.sign)
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
_rises("Sqrt", np.sqrt, once=True)
unary("Reciprocal", lambda x: 1 / x, monotone=True, once=True)


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


def _rises_if_positive(attrs: Mapping[str, Any]) -> bool:
    return float(attrs.get("alpha", 0.01)) >= 0


def _steeper_side(attrs: Mapping[str, Any]) -> float:
    return max(1.0, abs(float(attrs.get("alpha", 0.01))))


_function = partial(declare, elementwise=True)
_function(
    "LeakyRelu", _leaky, shape=_leaky_shape, attrs=("alpha",), increasing=_rises_if_positive, lipschitz=_steeper_side
)
_function("PRelu", _prelu, needs=("slope",))
_function("Clip", _clip, shape=_clip_shape, attrs=("min", "max"), picks=True, increasing=True, lipschitz=1.0)
_function("Within", _within, shape=_clip_shape, attrs=("min", "max"), picks=True, inner=True)
_function("Pow", _power, shape=_pow_shape, attrs=("exponent",))
declare("Mul", lambda node, params, shape, x, y: x * y, inputs=2, broadcasts=True)
_along = partial(declare, shape=without_axis, attrs=("axis",), drops_axis=True)
_along("ReduceMax", _largest, picks=True, increasing=True, lipschitz=1.0)
_along("LogSumExp", _log_sum_exp, increasing=True, inner=True)
declare(
    "ArgMax", _place_of_largest, shape=without_axis, attrs=("axis", "last"), drops_axis=True, picks=True, steps=True
)
