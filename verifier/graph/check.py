"""Invariants of a graph: what every pass may rely on and has to keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from verifier.errors import ModelError
from verifier.graph.ir import ROUNDINGS, Graph, Node, Shape

_ELEMENTWISE = {
    "Relu", "Abs", "Sign", "Floor", "Sigmoid", "Tanh", "Sin", "Cos", "Exp", "Log", "Sqrt", "Reciprocal", "LeakyRelu",
    "Softplus", "Erf", "Atan", "PRelu", "Clip", "Pow", "Scale", "Shift",
}  # fmt: skip
_ERRORS = ("bias_error", "roundings")
# operator -> (parameters that must be there, that may be there, attributes); inputs are counted in `_arity`
_SIGNATURES: dict[str, tuple[set[str], set[str], set[str]]] = {
    "Dense": ({"weight"}, {"bias", *_ERRORS}, set()),
    "Conv": ({"weight"}, {"bias", *_ERRORS}, {"stride", "padding", "dilation", "groups"}),
    "ConvTranspose": ({"weight"}, {"bias", *_ERRORS}, {"stride", "padding", "dilation", "groups", "output_padding"}),
    "Scale": ({"factor"}, {"roundings"}, set()),
    "Shift": ({"offset"}, {"bias_error"}, set()),
    "Reshape": (set(), set(), set()),
    "Transpose": (set(), set(), {"perm"}),
    "Slice": (set(), set(), {"axis", "start", "stop", "step"}),
    "Take": ({"indices"}, set(), {"axis"}),
    "Expand": (set(), set(), set()),
    "Pad": (set(), set(), {"before", "after"}),
    "ReduceSum": (set(), set(), {"axes"}),
    "ReduceMax": (set(), set(), {"axis"}),
    "LogSumExp": (set(), set(), {"axis"}),
    "Concat": (set(), set(), {"axis"}),
    "Constant": ({"value"}, {"bias_error"}, set()),
    "LeakyRelu": (set(), set(), {"alpha"}),
    "PRelu": ({"slope"}, set(), set()),
    "Clip": (set(), set(), {"min", "max"}),
    "Pow": (set(), set(), {"exponent"}),
    "Opaque": (set(), set(), {"op_type", "opset"}),
}
_PLAIN = (set[str](), set[str](), set[str]())
_TWO = {"Add", "Sub", "Mul"}
OPERATORS = frozenset(_ELEMENTWISE | _TWO | set(_SIGNATURES))


def check_graph(graph: Graph) -> None:
    """Check order, single definition, signatures, shapes and parameters.

    Raises:
        ModelError: names the first node that breaks an invariant.
    """
    known: set[str] = set()
    for name in graph.inputs:
        if name in known:
            raise ModelError(f"input '{name}' is listed twice")
        known.add(name)
    for node in graph.nodes:
        for name in node.inputs:
            if name not in known:
                raise ModelError(f"{node}: reads '{name}' before it is defined")
        if node.output in known:
            raise ModelError(f"{node}: '{node.output}' is defined twice")
        known.add(node.output)
    for name in graph.outputs:
        if name not in known:
            raise ModelError(f"output '{name}' is defined nowhere")
    if set(graph.shapes) != known:
        raise ModelError(f"shapes and values differ: {sorted(set(graph.shapes) ^ known)[:3]}")
    for name, shape in graph.shapes.items():
        if not isinstance(shape, tuple) or any(type(size) is not int or size < 1 for size in shape):
            raise ModelError(f"value '{name}' has the shape {shape}, expected positive ints")
    for node in graph.nodes:
        _check_node(node, graph.shapes)


def all_finite(array: np.ndarray) -> bool:
    """Whether `array` holds neither NaN nor infinity. One sum settles it for nearly all arrays without a temporary."""
    with np.errstate(all="ignore"):
        return bool(np.isfinite(array.sum())) or bool(np.isfinite(array).all())


def _check_node(node: Node, shapes: Mapping[str, Shape]) -> None:
    if node.op not in OPERATORS:
        raise ModelError(f"{node}: unknown operator")
    needed, optional, attributes = _SIGNATURES.get(node.op, _PLAIN)
    if not needed <= set(node.params) <= needed | optional or set(node.attrs) != attributes:
        raise ModelError(f"{node}: has parameters {sorted(node.params)} and attributes {sorted(node.attrs)}")
    for name, array in node.params.items():
        if array.dtype != (np.int64 if name == "indices" else np.float64):
            raise ModelError(f"{node}: parameter {name} has type {array.dtype}")
        if array.dtype.kind == "f" and not all_finite(array):
            raise ModelError(f"{node}: parameter {name} is NaN or infinite")
    if "bias_error" in node.params:
        error = node.params["bias_error"]
        shape = shapes[node.output]
        if (error < 0).any() or np.broadcast_shapes(error.shape, shape) != shape:
            raise ModelError(f"{node}: bias_error is negative or enlarges the value")
    if "roundings" in node.params:
        count = node.params["roundings"]
        if count.shape != () or not 0 < count <= ROUNDINGS:
            raise ModelError(f"{node}: roundings is {count}, expected one number above 0, at most {ROUNDINGS}")
    if node.op == "Opaque":
        return
    if not _arity(node):
        raise ModelError(f"{node}: has {len(node.inputs)} inputs")
    inputs = [shapes[name] for name in node.inputs]
    try:
        expected = _SHAPES[node.op](node, *inputs) if node.op in _SHAPES else inputs[0]
    except (ValueError, IndexError, TypeError, KeyError, AssertionError) as error:
        raise ModelError(f"{node}: attributes do not fit the shapes {inputs}: {error}") from None
    found = shapes[node.output]
    if node.op == "Reshape":
        expected = found if math.prod(found) == math.prod(inputs[0]) else inputs[0]
    elif node.op == "Expand":
        fits = len(found) == len(inputs[0]) and all(a in (1, b) for a, b in zip(inputs[0], found, strict=True))
        expected = found if fits else inputs[0]
    if tuple(expected) != found:
        raise ModelError(f"{node}: has shape {found}, expected {tuple(expected)} from inputs {inputs}")


def _arity(node: Node) -> bool:
    count = len(node.inputs)
    if node.op == "Concat":
        return count >= 1
    return count == (2 if node.op in _TWO else 0 if node.op == "Constant" else 1)


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise ValueError(what)


def _same(node: Node, shape: Shape, *others: Shape) -> Shape:
    _need(all(other == shape for other in others), "inputs differ in shape")
    for array in node.params.values():
        _need(np.broadcast_shapes(array.shape, shape) == shape, "a parameter enlarges the input")
    return shape


def _clip(node: Node, shape: Shape) -> Shape:
    _need(node.number("min") <= node.number("max"), "min > max")
    return shape


def _leaky(node: Node, shape: Shape) -> Shape:
    _need(0 <= node.number("alpha") < math.inf, "alpha is negative or infinite")
    return shape


def _pow(node: Node, shape: Shape) -> Shape:
    exponent = node.attrs["exponent"]
    _need(isinstance(exponent, int) and exponent >= 2, "exponent is not an integer above 1")
    return shape


def _dense(node: Node, shape: Shape) -> Shape:
    rows, columns = node.params["weight"].shape
    _need(len(shape) > 0 and columns == shape[-1], f"{columns} columns")
    if "bias" in node.params:
        _need(node.params["bias"].shape == (rows,), "bias differs in length")
    return (*shape[:-1], rows)


def _convolution(node: Node, shape: Shape) -> tuple[list[tuple[int, ...]], np.ndarray, int, int]:
    weight, groups = node.params["weight"], node.integer("groups")
    spatial = len(shape) - 2
    _need(1 <= spatial <= 3 and weight.ndim == len(shape), "1 to 3 spatial axes")
    _need(groups >= 1, "groups is not a positive int")
    names = [name for name in ("stride", "padding", "dilation", "output_padding") if name in node.attrs]
    for name in names:
        values = node.integers(name)
        low = 0 if "padding" in name else 1
        _need(
            len(values) == spatial and all(type(v) is int and v >= low for v in values),
            name,
        )
    return [node.integers(name) for name in names], weight, int(groups), spatial


def _conv(node: Node, shape: Shape) -> Shape:
    (stride, padding, dilation), weight, groups, _ = _convolution(node, shape)
    _need(shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0, "channels")
    if "bias" in node.params:
        _need(node.params["bias"].shape == (weight.shape[0],), "bias differs in length")
    sizes = zip(shape[2:], padding, dilation, weight.shape[2:], stride, strict=True)
    return (shape[0], weight.shape[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sizes))


def _conv_transpose(node: Node, shape: Shape) -> Shape:
    (stride, padding, dilation, extra), weight, groups, _ = _convolution(node, shape)
    _need(shape[1] == weight.shape[0] and weight.shape[0] % groups == 0, "channels")
    _need(all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)), "output_padding is too large")
    channels = weight.shape[1] * groups
    if "bias" in node.params:
        _need(node.params["bias"].shape == (channels,), "bias differs in length")
    sizes = zip(shape[2:], stride, padding, dilation, weight.shape[2:], extra, strict=True)
    return (shape[0], channels, *((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, d, k, e in sizes))


def _axis(node: Node, shape: Shape) -> int:
    axis = node.integer("axis")
    _need(0 <= axis < len(shape), f"axis {axis}")
    return axis


def _transpose(node: Node, shape: Shape) -> Shape:
    perm = node.integers("perm")
    _need(sorted(perm) == list(range(len(shape))), "perm")
    return tuple(shape[axis] for axis in perm)


def _slice(node: Node, shape: Shape) -> Shape:
    axis = _axis(node, shape)
    start, stop, step = (node.integer(name) for name in ("start", "stop", "step"))
    _need(0 <= start < stop <= shape[axis] and step >= 1, "range")
    return (*shape[:axis], len(range(start, stop, step)), *shape[axis + 1 :])


def _take(node: Node, shape: Shape) -> Shape:
    axis, indices = _axis(node, shape), node.params["indices"]
    _need(indices.ndim == 1 and indices.size > 0 and indices.min() >= 0 and indices.max() < shape[axis], "indices")
    return (*shape[:axis], len(indices), *shape[axis + 1 :])


def _pad(node: Node, shape: Shape) -> Shape:
    before, after = node.integers("before"), node.integers("after")
    _need(min((*before, *after, 0)) >= 0, "negative count")
    return tuple(b + n + a for n, b, a in zip(shape, before, after, strict=True))


def _reduce_sum(node: Node, shape: Shape) -> Shape:
    axes = node.integers("axes")
    _need(len(set(axes)) == len(axes) and all(0 <= a < len(shape) for a in axes), "axes")
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _reduce_max(node: Node, shape: Shape) -> Shape:
    axis = _axis(node, shape)
    return (*shape[:axis], *shape[axis + 1 :])


def _concat(node: Node, shape: Shape, *others: Shape) -> Shape:
    axis = _axis(node, shape)
    rest = (*shape[:axis], *shape[axis + 1 :])
    _need(all((*other[:axis], *other[axis + 1 :]) == rest for other in others), "inputs differ off the axis")
    return (*shape[:axis], shape[axis] + sum(other[axis] for other in others), *shape[axis + 1 :])


_SHAPES: dict[str, Callable[..., Shape]] = {
    "Dense": _dense, "Conv": _conv, "ConvTranspose": _conv_transpose, "Transpose": _transpose, "Slice": _slice,
    "Take": _take, "Pad": _pad, "ReduceSum": _reduce_sum, "ReduceMax": _reduce_max,
    "LogSumExp": _reduce_max, "Concat": _concat,
    "Constant": lambda node: node.params["value"].shape, "Reshape": lambda node, shape: shape,
    "Expand": lambda node, shape: shape, "Clip": _clip, "LeakyRelu": _leaky, "Pow": _pow, "PRelu": _same,
    "Scale": _same, "Shift": _same, "Add": _same, "Sub": _same, "Mul": _same,
}  # fmt: skip
