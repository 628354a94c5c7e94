"""A network as the pruner sees it: the ONNX graph one to one, as immutable Python values, without protobuf.

`Net` keeps names, operators and attributes of the file. Weights are numpy arrays under their ONNX names: initialisers
and the values of Constant nodes alike. Shapes are those for a batch of one sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from verifier.brief import brief, counted
from verifier.graph.ir import Shape


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """One ONNX node. An empty string among `inputs` is an omitted input; `raw` is the node as it stood in the file."""

    __repr__ = brief

    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    name: str = ""
    attrs: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    domain: str = ""
    captures: tuple[str, ...] = ()
    raw: bytes = field(default=b"", repr=False)

    def input(self, slot: int) -> str:
        """Name of input `slot`, or an empty string where the node has none."""
        return self.inputs[slot] if slot < len(self.inputs) else ""

    @property
    def label(self) -> str:
        """What messages call this node."""
        return self.name or (self.outputs[0] if self.outputs else self.type)


@dataclass(frozen=True, eq=False)
class Net:
    """A whole model in topological order.

    `inputs` and `outputs` are the real graph inputs and outputs, `batched` says whether axis 0 of the inputs is
    symbolic, and `header` is the serialised model without nodes and initialisers (versions, metadata, names, types).
    """

    nodes: tuple[OnnxNode, ...]
    weights: Mapping[str, np.ndarray]
    shapes: Mapping[str, Shape]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    batched: bool
    header: bytes = field(repr=False)

    @cached_property
    def consumers(self) -> Mapping[str, tuple[int, ...]]:
        """For each value, the indices of the nodes that read it (captures of subgraphs included)."""
        table: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in dict.fromkeys((*node.inputs, *node.captures)):
                if name:
                    table.setdefault(name, []).append(index)
        return {name: tuple(readers) for name, readers in table.items()}

    @cached_property
    def producer(self) -> Mapping[str, int]:
        """For each node output, the index of its node."""
        return {name: index for index, node in enumerate(self.nodes) for name in node.outputs if name}

    def constant(self, name: str) -> np.ndarray | None:
        """Value of `name` if it is stored in the file, else None."""
        return self.weights.get(name) if name else None

    def changed(self, nodes: Iterable[OnnxNode] | None = None, weights: Mapping[str, np.ndarray] | None = None) -> Net:
        """A copy with other nodes and, on top of the present ones, other weights."""
        return replace(
            self,
            nodes=self.nodes if nodes is None else tuple(nodes),
            weights=self.weights if weights is None else MappingProxyType({**self.weights, **weights}),
        )

    def fresh_name(self, wish: str) -> str:
        """A value name that occurs nowhere yet, close to `wish`."""
        taken = self.weights.keys() | self.producer.keys() | set(self.inputs) | self.shapes.keys()
        name, count = wish, 1
        while name in taken:
            count += 1
            name = f"{wish}_{count}"
        return name

    def __repr__(self) -> str:
        values, out = (
            ", ".join(f"{name}{list(self.shapes.get(name, ()))}" for name in names)
            for names in (self.inputs, self.outputs)
        )
        return f"Net({values} -> {out}; {counted(op.type for op in self.nodes)}; {parameter_count(self):,} parameters)"


def parameter_count(net: Net) -> int:
    """Number of stored floating-point values that some node reads."""
    used = {name for node in net.nodes for name in node.inputs}
    return sum(value.size for name, value in net.weights.items() if name in used and value.dtype.kind == "f")
