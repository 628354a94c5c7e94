"""Compute only the outputs that a specification reads."""

from __future__ import annotations

import math

import numpy as np

from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Graph, Node, Shape
from verifier.graph.operators import OPERATORS
from verifier.passes.drop_identity import pick
from verifier.passes.flatten_io import Y
from verifier.passes.rewrite import Rewriter, use_counts

_DEEPEST = 100  # operators that a selection is pushed through; the rest of a deeper chain is computed whole


def prune_outputs(graph: Graph, keep: np.ndarray) -> Graph:
    """The network with output `y` (len(keep),) = old y[keep].

    The selection is pushed back through operators that act element by element or row by row (Dense rows, channels of
    the last Conv), as long as nothing else reads them.

    Raises:
        ValueError: the graph has not one flat output `y`, or `keep` is empty or out of range.
    """
    keep = np.asarray(keep, dtype=np.int64)
    if graph.outputs != (Y,) or len(graph.shapes[Y]) != 1:
        raise ValueError("prune_outputs needs a graph with one flat output; apply flatten_io first")
    (m,) = graph.shapes[Y]
    if keep.ndim != 1 or not len(keep) or keep.min() < 0 or keep.max() >= m:
        raise ValueError(f"keep must hold positions of {m} outputs, at least one")
    if len(keep) == m and bool((keep == np.arange(m)).all()):
        return graph
    counts = use_counts(graph)
    new = Rewriter(graph)
    whole = new.fresh("all of y", (m,))  # `y` is free for the selection
    counts[whole] = counts[Y]
    for node in graph.nodes:
        inputs = tuple(whole if name == Y else name for name in node.inputs)
        output = whole if node.output == Y else node.output
        new.keep(Node(node.op, inputs, output, node.params, node.attrs, node.source))
    selector = _Selector(new, dict(new.maker), counts)
    new.shapes[Y] = (len(keep),)
    new.reshape(selector.select(whole, keep), (len(keep),), Node("Reshape", (), Y), Y)
    return new.done()


class _Selector:
    """Builds, for a value and flat positions in it, a flat value that holds just those elements."""

    def __init__(self, new: Rewriter, makers: dict[str, Node], counts: dict[str, int]) -> None:
        self.new, self.makers, self.counts = new, makers, counts
        self.depth = 0

    def select(self, name: str, positions: np.ndarray) -> str:
        """The elements of `name` at `positions` (flat indices), as a vector."""
        self.depth += 1
        try:
            return self._push(name, positions) if self.depth < _DEEPEST else self._take(name, positions)
        finally:
            self.depth -= 1

    def _push(self, name: str, positions: np.ndarray) -> str:
        node = self.makers.get(name)
        if node is not None and self.counts[name] == 1:
            row = OPERATORS.get(node.op)
            if row is not None and (row.elementwise or row.broadcasts):
                return self._elementwise(node, positions)
            if node.op == "Concat":
                return self._concat(node, positions)
            if row is not None and row.moves and node.op != "Pad":  # zeros around it come from nowhere
                return self.select(node.inputs[0], _source(node, self.new.shapes)[positions])
            if node.op == "Dense":
                return self._dense(node, positions)
            if node.op == "Conv" and node.integer("groups") == 1:
                return self._conv(node, positions)
        return self._take(name, positions)

    def _take(self, name: str, positions: np.ndarray) -> str:
        size = math.prod(self.new.shapes[name])
        like = self.makers.get(name, Node("Reshape", (), name))
        flat = self.new.reshape(name, (size,), like)
        if len(positions) == size and bool((positions == np.arange(size)).all()):
            return flat
        output = self.new.fresh(name, (len(positions),))
        self.new.keep(pick(flat, output, 0, positions, like.source))
        return output

    def _elementwise(self, node: Node, positions: np.ndarray) -> str:
        shape = self.new.shapes[node.output]
        values = [self.select(one, positions) for one in node.inputs]
        if OPERATORS[node.op].shared:
            return self.new.add(node.op, values, (len(positions),), node, node.params, node.attrs)
        params = {
            name: array if array.size == 1 else np.broadcast_to(array, shape).reshape(-1)[positions]
            for name, array in node.params.items()
        }
        params = {name: array.reshape(()) if array.size == 1 else array for name, array in params.items()}
        return self.new.add(node.op, values, (len(positions),), node, params, node.attrs)

    def _concat(self, node: Node, positions: np.ndarray) -> str:
        """Select from each part what is wanted, join, and restore the order."""
        shapes, axis = self.new.shapes, node.integer("axis")
        sizes = [shapes[one] for one in node.inputs]
        owner = np.concatenate([np.full(size, part) for part, size in enumerate(sizes)], axis=axis)
        inner = np.concatenate([np.arange(math.prod(size)).reshape(size) for size in sizes], axis=axis)
        owner, inner = owner.reshape(-1)[positions], inner.reshape(-1)[positions]
        parts, order = [], []
        for part, one in enumerate(node.inputs):
            mine = np.flatnonzero(owner == part)
            if len(mine):
                parts.append(self.select(one, inner[mine]))
                order.append(mine)
        if len(parts) == 1:
            return parts[0]
        joined = self.new.add("Concat", parts, (len(positions),), node, attrs={"axis": 0})
        return self._take(joined, np.argsort(np.concatenate(order), kind="stable"))

    def _dense(self, node: Node, positions: np.ndarray) -> str:
        """Only the rows that are read."""
        shape = self.new.shapes[node.output]
        rows = np.unique(positions % shape[-1])
        if len(rows) == shape[-1]:
            return self._take(node.output, positions)
        params = {name: array[rows] if array.ndim else array for name, array in node.params.items()}
        value = self.new.add("Dense", node.inputs, (*shape[:-1], len(rows)), node, params)
        return self._take(value, positions // shape[-1] * len(rows) + np.searchsorted(rows, positions % shape[-1]))

    def _conv(self, node: Node, positions: np.ndarray) -> str:
        """Only the channels that are read."""
        shape = self.new.shapes[node.output]
        index = np.array(np.unravel_index(positions, shape))
        channels = np.unique(index[1])
        if len(channels) == shape[1]:
            return self._take(node.output, positions)
        params = {name: array[channels] if array.ndim else array for name, array in node.params.items()}
        small = (shape[0], len(channels), *shape[2:])
        value = self.new.add("Conv", node.inputs, small, node, params, node.attrs)
        index[1] = np.searchsorted(channels, index[1])
        return self._take(value, np.ravel_multi_index(tuple(index), small))


def _source(node: Node, shapes: dict[str, Shape]) -> np.ndarray:
    """For every element of a moved value, flattened, its flat position in the node's input."""
    (name,) = node.inputs
    whole = Graph((name,), (node.output,), (node,), {name: shapes[name], node.output: shapes[node.output]})
    numbers = np.arange(math.prod(shapes[name]), dtype=np.float64).reshape(1, *shapes[name])  # exact below 2**53
    return evaluate(whole, {name: numbers})[node.output].reshape(-1).astype(np.int64)
