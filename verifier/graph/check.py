"""Invariants of a graph: what every pass may rely on and has to keep."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from verifier.errors import ModelError
from verifier.graph.ir import ROUNDINGS, Graph, Node, Shape
from verifier.graph.operators import OPERATORS


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
    if node.op == "Opaque":
        return _check_opaque(node)
    row = OPERATORS.get(node.op)
    if row is None:
        raise ModelError(f"{node}: unknown operator")
    if not {*row.needs} <= {*node.params} <= {*row.needs, *row.may} or {*node.attrs} != {*row.attrs}:
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
    if len(node.inputs) != row.inputs and (row.inputs is not None or not node.inputs):
        raise ModelError(f"{node}: has {len(node.inputs)} inputs")
    inputs, found = [shapes[name] for name in node.inputs], shapes[node.output]
    try:
        expected = row.shape(node, *inputs) if row.fits is None else found if row.fits(inputs[0], found) else inputs[0]
    except (ValueError, IndexError, TypeError, KeyError, AssertionError) as error:
        raise ModelError(f"{node}: attributes do not fit the shapes {inputs}: {error}") from None
    if tuple(expected) != found:
        raise ModelError(f"{node}: has shape {found}, expected {tuple(expected)} from inputs {inputs}")


def _check_opaque(node: Node) -> None:
    if node.params or set(node.attrs) != {"op_type", "opset"}:
        raise ModelError(f"{node}: has parameters {sorted(node.params)} and attributes {sorted(node.attrs)}")
