"""Restrict a network to the coordinates that may vary."""

from __future__ import annotations

import numpy as np

from verifier.graph.enclose import enclose
from verifier.graph.ir import Graph, Node, alive
from verifier.passes.flatten_io import X
from verifier.passes.fold_constants import constant_params
from verifier.passes.reached import coordinates, reached
from verifier.passes.rewrite import Rewriter


def fold_fixed_inputs(graph: Graph, free: np.ndarray, values: np.ndarray) -> Graph:
    """The network over the coordinates `free` alone, the others fixed at `values`.

    Args:
        graph: with one flat input `x` (n,), as `flatten_io` makes it.
        free: int array (f,), distinct, f >= 1. Coordinate i of the new input is coordinate free[i] of the old one.
        values: float64 array (n,); entries at `free` are ignored.

    Raises:
        ValueError: the graph is not flat, or `free` is empty, repeats itself or is out of range.
    """
    free = coordinates(graph, free)
    (n,) = graph.shapes[X]
    if np.shape(values) != (n,):
        raise ValueError(f"values has shape {np.shape(values)}, expected {(n,)}")
    if len(free) == n and bool((free == np.arange(n)).all()):
        return graph
    fixed = np.array(values, dtype=np.float64)
    fixed[free] = 0.0
    new = Rewriter(_frozen(graph, free, np.asarray(values, dtype=np.float64)))
    new.shapes[X] = (len(free),)
    like = Node("Shift", (X,), X, source="fixed inputs")
    if bool((np.diff(free) == 1).all()):
        before, after = (int(free[0]),), (int(n - free[-1] - 1),)
        full = new.add("Pad", [X], (n,), like, attrs={"before": before, "after": after})
    else:
        position = np.zeros(n, dtype=np.int64)
        position[free] = np.arange(len(free))
        varies = np.zeros(n)
        varies[free] = 1.0
        full = new.add("Take", [X], (n,), like, {"indices": position}, {"axis": 0})
        full = new.add("Scale", [full], (n,), like, {"factor": varies})
    full = new.add("Shift", [full], (n,), like, {"offset": fixed})
    for node in new.graph.nodes:
        inputs = tuple(full if name == X else name for name in node.inputs)
        new.keep(Node(node.op, inputs, node.output, node.params, node.attrs, node.source))
    return alive((X,), graph.outputs, new.nodes, new.shapes)


def _frozen(graph: Graph, free: np.ndarray, values: np.ndarray) -> Graph:
    """Values that no free coordinate reaches as constants, with a bound of their rounding, where there is a rule."""
    if graph.opaque:
        return graph
    varies = {name: bool(mask.any()) for name, mask in reached(graph, free).items()}
    if all(varies[node.output] or node.op == "Constant" for node in graph.nodes):
        return graph
    still = tuple(node for node in graph.nodes if not varies[node.output])
    concrete = enclose(Graph(graph.inputs, (), still, graph.shapes), {X: values[None]})
    nodes = []
    for node in graph.nodes:
        if not varies[node.output] and node.output in concrete:
            value, error = concrete[node.output]
            node = Node("Constant", (), node.output, constant_params(value[0], error[0]), {}, node.source)
        nodes.append(node)
    return alive(graph.inputs, graph.outputs, nodes, graph.shapes)
