"""Element-wise operators of several inputs, with numpy broadcasting in every direction."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from verifier.graph.onnx_import.context import Context, Operand, Var
from verifier.graph.onnx_import.registry import lowers


@lowers("Add", since=7)
def add(c: Context) -> Operand:
    """x + y."""
    return summed(c, c.value(0), c.value(1))


@lowers("Sum", since=8)
def sum_(c: Context) -> Operand:
    """Sum of any number of inputs."""
    values = [c.value(i) for i in range(len(c.inputs))]
    return functools.reduce(lambda x, y: summed(c, x, y), values)


@lowers("Mean", since=8)
def mean(c: Context) -> Operand:
    """Mean of any number of inputs."""
    total = functools.reduce(lambda x, y: summed(c, x, y), [c.value(i) for i in range(len(c.inputs))])
    return c.scale(c.var(total), *c.quotient(1.0, float(len(c.inputs))))


@lowers("Sub", since=7)
def sub(c: Context) -> Operand:
    """x - y."""
    x, y = c.value(0), c.value(1)
    if isinstance(y, np.ndarray):
        return c.shift(c.var(x), -c.numbers(y))  # in float64: whole numbers without a sign have no negative
    if isinstance(x, np.ndarray):
        return c.shift(c.scale(y, -1.0), x)
    return c.binary("Sub", x, y)


@lowers("Mul", since=7)
def mul(c: Context) -> Operand:
    """x * y; x * x is a square."""
    return _mul(c, c.value(0), c.value(1))


@lowers("Div", since=7)
def div(c: Context) -> Operand:
    """x / y, as a product with the reciprocal."""
    x, y = c.value(0), c.value(1)
    if isinstance(y, Var):
        return _mul(c, x, c.unary("Reciprocal", y))
    if (y == 0).any():
        raise c.wrong("division by a constant 0")
    return c.scale(c.x(0), *c.quotient(1.0, y))


@lowers("Pow", since=7)
def power(c: Context) -> Operand:
    """x ** n for a constant integer n or n = 0.5, and c ** x for positive constants c."""
    n = c.value(1)
    if isinstance(n, Var):
        base = c.const(0, "base or exponent")
        if (base <= 0).any():
            raise c.refuse("a variable exponent of a base that is not positive")
        return c.unary("Exp", c.binary("Mul", n, c.unary("Log", c.constant(base))))
    if n.size == 0 or (n != n.flat[0]).any():
        raise c.refuse("exponents that differ between elements")
    y = _power(c, c.x(0), float(n.flat[0]))
    return c.broadcast(y, np.broadcast_shapes(y.shape, n.shape))


def _power(c: Context, x: Var, n: float) -> Var:
    if n == 0:
        return c.constant(np.ones(x.shape))
    if n < 0:
        return c.unary("Reciprocal", _power(c, x, -n))
    if n == 0.5:
        return c.unary("Sqrt", x)
    if n != int(n):
        return c.unary("Exp", c.scale(c.unary("Log", x), n))
    if n > 64:
        raise c.refuse(f"exponent {n}; supported are integers up to 64, and fractions")
    return x if n == 1 else c.unary("Pow", x, exponent=int(n))


@lowers("Max", since=6)
def maximum(c: Context) -> Operand:
    """Pairwise: max(a, b) = a + relu(b - a); with a constant, a clip."""
    return _extremum(c, lambda a, b: c.binary("Add", a, c.unary("Relu", c.binary("Sub", b, a))), above=True)


@lowers("Min", since=6)
def minimum(c: Context) -> Operand:
    """Pairwise: min(a, b) = a - relu(a - b); with a constant, a clip."""
    return _extremum(c, lambda a, b: c.binary("Sub", a, c.unary("Relu", c.binary("Sub", a, b))), above=False)


def _extremum(c: Context, pair: Callable[[Var, Var], Var], above: bool) -> Operand:
    values = [c.value(i) for i in range(len(c.inputs))]
    variables = [value for value in values if isinstance(value, Var)]
    constants = [value for value in values if isinstance(value, np.ndarray)]
    if not variables:  # constants alone are folded by the reader, unless the fold table was left out
        return functools.reduce(np.maximum if above else np.minimum, constants)
    y = functools.reduce(pair, variables)
    return bound_by(c, y, functools.reduce(np.maximum if above else np.minimum, constants), above) if constants else y


def bound_by(c: Context, x: Var, limit: np.ndarray, above: bool) -> Var:
    """max(x, limit) if `above`, else min(x, limit), for a constant of any shape."""
    limit = np.asarray(limit, dtype=np.float64)
    x = c.broadcast(x, np.broadcast_shapes(x.shape, limit.shape))
    if (limit == limit.flat[0]).all():
        value = float(limit.flat[0])
        return c.clip(x, value, np.inf) if above else c.clip(x, -np.inf, value)
    difference = c.shift(x, -limit)
    part = c.unary("Relu", difference) if above else c.clip(difference, -np.inf, 0.0)
    return c.shift(part, limit)


def summed(c: Context, x: Operand, y: Operand) -> Operand:
    """x + y."""
    if isinstance(x, np.ndarray):
        x, y = y, x
    x = c.var(x)
    return c.shift(x, y) if isinstance(y, np.ndarray) else c.plus(x, y)


def _mul(c: Context, x: Operand, y: Operand) -> Operand:
    if isinstance(x, np.ndarray):
        x, y = y, x
    x = c.var(x)
    if isinstance(y, np.ndarray):
        return c.scale(x, y)
    return c.unary("Pow", x, exponent=2) if x.name == y.name else c.product(x, y)
