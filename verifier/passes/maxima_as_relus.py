"""Write maxima with ReLUs, for a search that decides neurons: a decided one says which of two elements is larger."""

from __future__ import annotations

from verifier.graph.ir import Graph, Node
from verifier.graph.operators import OPERATORS
from verifier.passes.rewrite import Rewriter, use_counts


def maxima_as_relus(graph: Graph) -> Graph:
    """The same function without ReduceMax:  max(a, b) = a + relu(b - a), pair by pair, and the maximum of ReLUs is the
    ReLU of the maximum: fewer ReLUs, and no triangle below another."""
    new, counts = Rewriter(graph), use_counts(graph)
    for node in graph.nodes:
        if node.op == "ReduceMax":
            _rewrite(new, node, counts)
        else:
            new.keep(node)
    return new.done()


def _rewrite(new: Rewriter, node: Node, counts: dict[str, int]) -> None:
    value, moves, inner = node.inputs[0], [], new.maker.get(new.find(node.inputs[0]))
    while inner is not None and counts.get(inner.output) == 1 and inner.op in MOVES:
        moves.append(inner)
        inner = new.maker.get(new.find(inner.inputs[0]))
    rectified = inner is not None and inner.op == "Relu" and counts.get(inner.output) == 1
    if rectified:
        assert inner is not None
        value = inner.inputs[0]
        for move in reversed(moves):
            value = new.add(move.op, [value], new.shapes[move.output], move, move.params, move.attrs)
    axis, shape = node.integer("axis"), new.shapes[node.output]
    value = _maximum(new, value, axis, node)
    value = new.reshape(value, shape, node, output=None if rectified else node.output)
    if rectified:
        new.add("Relu", [value], shape, node, output=node.output)


def _maximum(new: Rewriter, value: str, axis: int, like: Node) -> str:
    """The largest element along an axis, which stays with one element."""
    shape = new.shapes[value]
    size = shape[axis]
    if size == 1:
        return value
    half = size // 2
    first, second = (_part(new, value, axis, start, start + half, like) for start in (0, half))
    paired = new.shapes[first]
    gap = new.add("Sub", [second, first], paired, like)
    larger = new.add("Add", [first, new.add("Relu", [gap], paired, like)], paired, like)
    best = _maximum(new, larger, axis, like)
    if size % 2 == 0:
        return best
    last = _part(new, value, axis, size - 1, size, like)
    one = new.shapes[last]
    gap = new.add("Sub", [last, best], one, like)
    return new.add("Add", [best, new.add("Relu", [gap], one, like)], one, like)


def _part(new: Rewriter, value: str, axis: int, start: int, stop: int, like: Node) -> str:
    shape = list(new.shapes[value])
    shape[axis] = stop - start
    attrs = {"axis": axis, "start": start, "stop": stop, "step": 1}
    return new.add("Slice", [value], shape, like, attrs=attrs)


MOVES = frozenset(name for name, row in OPERATORS.items() if row.moves and row.inputs == 1 and name != "Pad")
"""What may stand between a ReLU and the maximum (padding may be with other numbers than 0)."""
