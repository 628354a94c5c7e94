"""Which elements of a network's values depend on which inputs, by structure alone."""

from __future__ import annotations

import numpy as np

from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Graph, Node
from verifier.graph.operators import OPERATORS
from verifier.passes.flatten_io import X


def coordinates(graph: Graph, free: np.ndarray) -> np.ndarray:
    """`free` as int (f,), distinct coordinates of the flat input, f >= 1.

    Raises:
        ValueError: the graph is not flat, or `free` is empty, repeats itself or is out of range.
    """
    free = np.asarray(free, dtype=np.int64)
    if graph.inputs != (X,) or len(graph.shapes[X]) != 1:
        raise ValueError("expected a graph with one flat input; apply flatten_io first")
    (n,) = graph.shapes[X]
    if free.ndim != 1 or not len(free) or len(np.unique(free)) != len(free) or free.min() < 0 or free.max() >= n:
        raise ValueError(f"free must hold distinct coordinates of {n} inputs, at least one")
    return free


def reached(graph: Graph, free: np.ndarray) -> dict[str, np.ndarray]:
    """Which elements of each value depend on one of the coordinates `free` of the flat input, by sending marks through
    the graph's structure."""
    marks = np.zeros(graph.shapes[X])
    marks[free] = 1.0
    shadow = Graph(graph.inputs, graph.outputs, tuple(_shadow(node) for node in graph.nodes), graph.shapes)
    # a mark that overflows, or is no number, is a mark
    return {name: value[0] != 0 for name, value in evaluate(shadow, {X: marks[None]}).items()}


def _shadow(node: Node) -> Node:
    """A node that is positive exactly where `node` may depend on a marked input element."""
    row = OPERATORS[node.op]
    if not node.inputs:
        return Node(node.op, (), node.output, {"value": np.zeros(node.params["value"].shape)})
    weights = {name: _structure(node.params[name]) for name in ("weight", "factor") if name in node.params}
    if weights:
        return Node(node.op, node.inputs, node.output, weights, node.attrs)
    if row.linear and not row.elementwise and not row.broadcasts:
        return node
    if row.drops_axis:
        return Node("ReduceMax", node.inputs, node.output, attrs={"axis": node.attrs["axis"]})
    # element-wise: what depends stays, a function's value scaled back to 1
    return Node("Add" if row.broadcasts else "Sign", node.inputs, node.output)


def _structure(array: np.ndarray) -> np.ndarray:
    return (array != 0).astype(np.float64)
