"""Compute what does not depend on the inputs, and turn operators with one constant side into one-input operators."""

from __future__ import annotations

import numpy as np

from verifier.graph.evaluate import evaluate_nodes
from verifier.graph.ir import Graph, Node
from verifier.passes.rewrite import Rewriter, uniform

_LARGEST = 2**24  # a constant is not enlarged (Expand) beyond this many elements


def fold_constants(graph: Graph) -> Graph:
    """Nodes with constant inputs become Constant; x + c, x - c, c - x, x * c become Scale and Shift; x * x a square."""
    new = Rewriter(graph)
    for node in graph.nodes:
        fronts = [new.maker.get(new.find(name)) for name in node.inputs]
        constants = [front if front is not None and front.op == "Constant" else None for front in fronts]
        if node.inputs and all(constants) and node.op != "Opaque" and _small(new, node):
            known = [front for front in constants if front is not None]
            _fold(new, node, known)
        elif any(constants) and node.op in ("Add", "Sub", "Mul"):
            _one_sided(new, node, constants)
        elif node.op == "Mul" and new.find(node.inputs[0]) == new.find(node.inputs[1]):
            new.add("Pow", node.inputs[:1], new.shapes[node.output], node, attrs={"exponent": 2}, output=node.output)
        elif node.op in ("Dense", "Scale") and not _weight(node).any():
            shape = new.shapes[node.output]
            value = np.broadcast_to(node.params.get("bias", np.zeros(())), shape)
            new.add("Constant", [], shape, node, {"value": np.array(value)}, output=node.output)
        else:
            new.keep(node)
    return new.done()


def _weight(node: Node) -> np.ndarray:
    return node.params["weight" if node.op == "Dense" else "factor"]


def _small(new: Rewriter, node: Node) -> bool:
    before = sum(int(np.prod(new.shapes[name])) for name in node.inputs)
    return int(np.prod(new.shapes[node.output])) <= max(before, _LARGEST)


def _fold(new: Rewriter, node: Node, constants: list[Node]) -> None:
    node = Node(node.op, tuple(front.output for front in constants), node.output, node.params, node.attrs, node.source)
    with np.errstate(all="ignore"):
        fronts = {front.output: front for front in constants}.values()
        value = np.array(evaluate_nodes([*fronts, node], new.shapes)[node.output])
    if np.isfinite(value).all():  # 1 / 0 and the like stay visible in the graph
        new.add("Constant", [], value.shape, node, {"value": value}, output=node.output)
    else:
        new.keep(node)


def _one_sided(new: Rewriter, node: Node, constants: list[Node | None]) -> None:
    left, right = constants
    front = left or right
    assert front is not None
    value = _compact(front.params["value"])
    other = node.inputs[1 if left is not None else 0]
    shape = new.shapes[node.output]
    if node.op == "Mul":
        new.add("Scale", [other], shape, node, {"factor": value}, output=node.output)
        return
    if node.op == "Sub" and left is not None:
        other = new.add("Scale", [other], shape, node, {"factor": np.array(-1.0)})
    elif node.op == "Sub":
        value = 0.0 - value
    new.add("Shift", [other], shape, node, {"offset": value}, output=node.output)


def _compact(value: np.ndarray) -> np.ndarray:
    """A scalar where all entries agree."""
    number = uniform(value)
    return value if number is None else np.array(number)
