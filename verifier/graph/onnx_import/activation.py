"""Element-wise operators of one input."""

from __future__ import annotations

import math

import numpy as np

from verifier.graph.exact import added
from verifier.graph.onnx_import.arithmetic import bound_by
from verifier.graph.onnx_import.context import Context, Operand, Var
from verifier.graph.onnx_import.registry import lowers
from verifier.graph.operators import OPERATORS


@lowers(*(name for name, row in OPERATORS.items() if row.as_is))
def as_it_is(c: Context) -> Operand:
    """The operator of the IR of the same name."""
    return c.unary(c.op, c.x())


@lowers("Neg")
def neg(c: Context) -> Operand:
    """-x."""
    return c.scale(c.x(), -1.0)


@lowers("Ceil")
def ceil(c: Context) -> Operand:
    """-floor(-x)."""
    return c.scale(c.unary("Floor", c.scale(c.x(), -1.0)), -1.0)


@lowers("LeakyRelu", since=6)
def leaky_relu(c: Context) -> Operand:
    """max(x, 0) + alpha * min(x, 0); a negative alpha by its parts."""
    x, alpha = c.x(), float(c.attr("alpha", 0.01))
    return _two_slopes(c, x, np.asarray(alpha)) if alpha < 0 else c.unary("LeakyRelu", x, alpha=alpha)


@lowers("PRelu", since=7)
def prelu(c: Context) -> Operand:
    """LeakyRelu with a slope per element (unidirectional broadcasting)."""
    x, slope = c.x(), c.const(1, "slope")
    if slope.size == 1 and slope.flat[0] >= 0:
        return c.unary("LeakyRelu", x, alpha=float(slope.flat[0]))
    if np.broadcast_shapes(x.shape, slope.shape) != x.shape:
        raise c.wrong(f"slope of shape {slope.shape} does not broadcast to {x.shape}")
    slope = slope.reshape(slope.shape[max(0, slope.ndim - x.rank) :])
    if (slope < 0).any():
        return _two_slopes(c, x, slope)
    return c.emit("PRelu", [x], x.shape, {"slope": slope})


def _two_slopes(c: Context, x: Var, slope: np.ndarray) -> Var:
    negative = c.unary("Relu", c.scale(x, -1.0))
    return c.binary("Sub", c.unary("Relu", x), c.scale(negative, slope))


@lowers("Clip", since=6)
def clip(c: Context) -> Operand:
    """min(max(x, low), high); bounds are attributes before opset 11, inputs after."""
    x = c.x()
    low, high = (
        c.const(i, name).astype(np.float64) if c.has(i) else np.asarray(float(c.attr(name, default)))
        for i, name, default in ((1, "min", -np.inf), (2, "max", np.inf))
    )
    if low.size == high.size == 1:
        low_, high_ = float(low.reshape(())), float(high.reshape(()))
        # attributes before opset 11 default to the largest float32; beyond it there is nothing to clip in float32, but
        # in float64 a limit is a limit
        largest = np.inf if x.dtype == np.float64 else float(np.finfo(np.float32).max)
        return c.clip(x, -np.inf if low_ <= -largest else low_, np.inf if high_ >= largest else high_)
    return bound_by(c, bound_by(c, x, low, above=True), high, above=False)


@lowers("HardSigmoid", since=6)
def hard_sigmoid(c: Context) -> Operand:
    """clip(alpha * x + beta, 0, 1)."""
    return _hard_sigmoid(c, c.x(), float(c.attr("alpha", 0.2)), beta=float(c.attr("beta", 0.5)))


@lowers("HardSwish", since=14)
def hard_swish(c: Context) -> Operand:
    """x * clip(x / 6 + 0.5, 0, 1)."""
    return c.binary("Mul", c.x(), _hard_sigmoid(c, c.x(), *c.quotient(1.0, 6.0), beta=0.5))


def _hard_sigmoid(c: Context, x: Var, alpha: float | np.ndarray, roundings: float = 0.0, *, beta: float) -> Var:
    return c.clip(c.shift(c.scale(x, alpha, roundings), beta), 0.0, 1.0)


@lowers("Softsign")
def softsign(c: Context) -> Operand:
    """x / (1 + |x|)."""
    x = c.x()
    return c.binary("Mul", x, c.unary("Reciprocal", c.shift(c.unary("Abs", x), 1.0)))


@lowers("Elu", since=6)
def elu(c: Context) -> Operand:
    """relu(x) + alpha * (exp(-relu(-x)) - 1): the two parts never act at once."""
    return _elu(c, c.x(), float(c.attr("alpha", 1.0)))


@lowers("Celu", since=12)
def celu(c: Context) -> Operand:
    """relu(x) + alpha * (exp(-relu(-x) / alpha) - 1)."""
    alpha = float(c.attr("alpha", 1.0))
    if alpha == 0:
        raise c.wrong("alpha = 0")
    return _elu(c, c.x(), alpha, *c.quotient(-1.0, alpha))


@lowers("Selu", since=6)
def selu(c: Context) -> Operand:
    """gamma * elu(x)."""
    alpha, gamma = c.attr("alpha", 1.6732632423543772), c.attr("gamma", 1.0507009873554805)
    return c.scale(_elu(c, c.x(), float(alpha)), float(gamma))


def _elu(c: Context, x: Var, alpha: float, inner: float | np.ndarray = -1.0, roundings: float = 0.0) -> Var:
    below = c.scale(c.unary("Relu", c.scale(x, -1.0)), inner, roundings)
    curve = c.shift(c.scale(c.unary("Exp", below), alpha), -alpha)
    return c.binary("Add", c.unary("Relu", x), curve)


@lowers("Mish", since=18)
def mish(c: Context) -> Operand:
    """x * tanh(softplus(x))."""
    x = c.x()
    return c.binary("Mul", x, c.unary("Tanh", c.unary("Softplus", x)))


@lowers("Swish", since=24)
def swish(c: Context) -> Operand:
    """x * sigmoid(alpha x)."""
    x = c.x()
    return c.binary("Mul", x, c.unary("Sigmoid", c.scale(x, float(c.attr("alpha", 1.0)))))


@lowers("Gelu", since=20)
def gelu(c: Context) -> Operand:
    """x / 2 * (1 + erf(x / sqrt(2))), or with tanh(sqrt(2 / pi) (x + 0.044715 x^3)) in place of erf."""
    x = c.x()
    if c.attr("approximate", "none") == "tanh":
        inner = c.binary("Add", x, c.scale(c.unary("Pow", x, exponent=3), 0.044715, 1.0))
        share = c.unary("Tanh", c.scale(inner, math.sqrt(2 / math.pi), 3.0))
    else:
        share = c.unary("Erf", c.scale(x, math.sqrt(0.5), 1.0))
    return c.binary("Mul", c.scale(x, 0.5), c.shift(share, 1.0))


@lowers("ThresholdedRelu", since=7)
def thresholded_relu(c: Context) -> Operand:
    """x where x > alpha, else 0: the part above alpha, and a step of height alpha."""
    x, alpha = c.x(), float(c.attr("alpha", 1.0))
    above = c.unary("Relu", c.shift(x, -alpha))
    return c.binary("Add", above, c.scale(c.unary("Sign", above), alpha))


@lowers("Shrink", since=9)
def shrink(c: Context) -> Operand:
    """x + bias below -lambda, x - bias above lambda, else 0."""
    x, limit, bias = c.x(), float(c.attr("lambd", 0.5)), float(c.attr("bias", 0.0))
    sides = []
    for side in (1.0, -1.0):
        beyond = c.unary("Relu", c.shift(c.scale(x, side), -limit))
        rounded = added(np.array(limit), np.array(-bias)) is None
        sides.append(c.binary("Add", beyond, c.scale(c.unary("Sign", beyond), limit - bias, float(rounded))))
    if limit < 0:
        raise c.refuse(f"a negative lambd ({limit})")
    return c.binary("Sub", *sides)


@lowers("Sinh", "Cosh", since=9)
def hyperbolic(c: Context) -> Operand:
    """(exp(x) -+ exp(-x)) / 2."""
    up, down = c.unary("Exp", c.x()), c.unary("Exp", c.scale(c.x(), -1.0))
    return c.scale(c.binary("Sub" if c.op == "Sinh" else "Add", up, down), 0.5)


@lowers("Tan", since=7)
def tan(c: Context) -> Operand:
    """sin(x) / cos(x)."""
    return c.binary("Mul", c.unary("Sin", c.x()), c.unary("Reciprocal", c.unary("Cos", c.x())))
