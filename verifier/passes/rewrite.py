"""What the passes share: a mutable copy of a graph, and the way back to a clean frozen one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from verifier.graph.ir import Attribute, Graph, Node, Shape, alive


class Rewriter:
    """A graph being rebuilt in topological order: nodes appended, values replaced by others of the same shape."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = dict(graph.shapes)
        self.maker: dict[str, Node] = {}
        self._alias: dict[str, str] = {}
        self._count = 0

    def find(self, name: str) -> str:
        """The value that now stands for `name`."""
        while name in self._alias:
            name = self._alias[name]
        return name

    def keep(self, node: Node) -> Node:
        """Append `node` with its inputs replaced."""
        inputs = tuple(self.find(name) for name in node.inputs)
        node = node if inputs == node.inputs else replace(node, inputs=inputs)
        self.nodes.append(node)
        self.maker[node.output] = node
        return node

    def alias(self, old: str, new: str) -> None:
        """From now on `new`, a value of the same shape, stands for `old`."""
        assert self.shapes[old] == self.shapes[new], (old, new)
        self._alias[old] = new

    def fresh(self, base: str, shape: Sequence[int]) -> str:
        """A new value name derived from `base`."""
        base = base.split("~")[0]
        while True:
            name = f"{base}~{self._count}"
            self._count += 1
            if name not in self.shapes:
                self.shapes[name] = tuple(int(size) for size in shape)
                return name

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        shape: Sequence[int],
        like: Node,
        params: Mapping[str, np.ndarray] | None = None,
        attrs: Mapping[str, Attribute] | None = None,
        output: str | None = None,
    ) -> str:
        """Append a new node that stems from `like` and return its value (named `output` where given)."""
        name = output or self.fresh(like.output, shape)
        self.keep(Node(op, tuple(inputs), name, dict(params or {}), dict(attrs or {}), like.source))
        return name

    def reshape(self, name: str, shape: Sequence[int], like: Node, output: str | None = None) -> str:
        """`name` in another shape (itself where the shape is the same and no name is asked for)."""
        if output is None and self.shapes[name] == tuple(shape):
            return name
        return self.add("Reshape", [name], shape, like, output=output)

    def done(self) -> Graph:
        """The new graph: dead nodes gone, output names kept."""
        names = {name: self.find(name) for name in self.graph.outputs}
        nodes = self.nodes
        rename: dict[str, str] = {}
        for old, new in names.items():
            if old == new:
                continue
            if new in self.graph.inputs or new in self.graph.outputs or new in rename:
                nodes.append(Node("Reshape", (rename.get(new, new),), old))
            else:
                rename[new] = old
        if rename:
            nodes = [
                replace(
                    node,
                    inputs=tuple(rename.get(name, name) for name in node.inputs),
                    output=rename.get(node.output, node.output),
                )
                for node in nodes
            ]
        return alive(self.graph.inputs, self.graph.outputs, nodes, self.shapes)


def use_counts(graph: Graph) -> dict[str, int]:
    """How often each value is read; being a graph output counts as once."""
    counts = dict.fromkeys(graph.shapes, 0)
    for node in graph.nodes:
        for name in node.inputs:
            counts[name] += 1
    for name in graph.outputs:
        counts[name] += 1
    return counts


def uniform(array: np.ndarray) -> float | None:
    """The one number that fills `array`, or None."""
    first = float(array.flat[0])
    return first if bool((array == first).all()) else None
