"""Values of rank 0 become vectors of one element, so that every bound method finds an axis after the batch."""

from __future__ import annotations

import math
from dataclasses import replace

from verifier.graph.ir import Graph, Node
from verifier.graph.operators import OPERATORS
from verifier.passes.rewrite import Rewriter

ONE = (1,)


def lift_scalars(graph: Graph) -> Graph:
    """The same network without values of rank 0, those of inputs and outputs included."""
    if all(graph.shapes.values()):
        return graph
    new = Rewriter(graph)
    new.shapes = {name: shape or ONE for name, shape in graph.shapes.items()}
    for node in graph.nodes:
        rank_0 = [name for name in (*node.inputs, node.output) if not graph.shapes[name]]
        new.keep(_lifted(new, node) if rank_0 else node)
    return new.done()


def _lifted(new: Rewriter, node: Node) -> Node:
    if node.op == "Constant":
        return replace(node, params={name: array.reshape(ONE) for name, array in node.params.items()})
    row = OPERATORS.get(node.op)
    if row is None:
        return node
    if row.moves or (node.op == "ReduceSum" and not node.integers("axes")):  # one element: only its shape changes
        return Node("Reshape", node.inputs, node.output, source=node.source)
    if node.op == "ReduceSum" or row.drops_axis:  # all axes go: one row of all elements, reduced along it
        flat = new.reshape(node.inputs[0], (1, math.prod(new.shapes[node.inputs[0]])), node)
        attrs = {"axes": (1,)} if node.op == "ReduceSum" else {**node.attrs, "axis": 1}
        return Node(node.op, (flat,), node.output, attrs=attrs, source=node.source)
    return node  # element-wise: the parameters of rank 0 broadcast to one element as well
