"""Compute what does not depend on the inputs, and turn operators with one constant side into one-input operators."""

from __future__ import annotations

import numpy as np

from verifier.graph.enclose import Enclosure, enclose_node
from verifier.graph.exact import roundings
from verifier.graph.ir import Graph, Node
from verifier.passes.rewrite import Rewriter, uniform

_LARGEST = 2**24  # a constant is not enlarged (Expand) beyond this many elements


def fold_constants(graph: Graph) -> Graph:
    """Nodes with constant inputs become Constant, with a bound of the rounding; x + c, x - c, c - x, x * c become Scale
    and Shift; x * x a square.
    """
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
            value, error = (
                np.broadcast_to(node.params.get(name, np.zeros(())), shape) for name in ("bias", "bias_error")
            )
            new.add("Constant", [], shape, node, constant_params(value, error), output=node.output)
        else:
            new.keep(node)
    return new.done()


def _weight(node: Node) -> np.ndarray:
    return node.params["weight" if node.op == "Dense" else "factor"]


def _small(new: Rewriter, node: Node) -> bool:
    before = sum(int(np.prod(new.shapes[name])) for name in node.inputs)
    return int(np.prod(new.shapes[node.output])) <= max(before, _LARGEST)


def _fold(new: Rewriter, node: Node, constants: list[Node]) -> None:
    found = enclose_node(node, [enclosure_of(front) for front in constants], new.shapes[node.output])
    if found is None:  # 1 / 0 and the like stay visible in the graph, and so does what has no rule
        new.keep(node)
        return
    value, error = (array[0] for array in found)
    new.add("Constant", [], value.shape, node, constant_params(value, error), output=node.output)


def enclosure_of(node: Node) -> Enclosure:
    """The value of a Constant."""
    value = node.params["value"][None]
    return Enclosure(value, np.broadcast_to(node.params.get("bias_error", np.zeros(())), value.shape))


def constant_params(value: np.ndarray, error: np.ndarray) -> dict[str, np.ndarray]:
    """The parameters of a Constant known to within `error`."""
    params = {"value": np.array(value)}
    return {**params, "bias_error": np.array(error)} if error.any() else params


def _one_sided(new: Rewriter, node: Node, constants: list[Node | None]) -> None:
    left, right = constants
    front = left or right
    assert front is not None
    value, error = _compact(front.params["value"]), front.params.get("bias_error")
    other = node.inputs[1 if left is not None else 0]
    shape = new.shapes[node.output]
    if node.op == "Mul":
        off = 0.0 if error is None else roundings(value, error)
        if off is None:
            new.keep(node)  # a factor that is hardly known is a matter for the bounds of products
            return
        params = {"factor": value, "roundings": np.array(off)} if off else {"factor": value}
        new.add("Scale", [other], shape, node, params, output=node.output)
        return
    if node.op == "Sub" and left is not None:
        other = new.add("Scale", [other], shape, node, {"factor": np.array(-1.0)})
    elif node.op == "Sub":
        value = 0.0 - value
    params = {"offset": value} if error is None else {"offset": value, "bias_error": error}
    new.add("Shift", [other], shape, node, params, output=node.output)


def _compact(value: np.ndarray) -> np.ndarray:
    """A scalar where all entries agree."""
    number = uniform(value)
    return value if number is None else np.array(number)
