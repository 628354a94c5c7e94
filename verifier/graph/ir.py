"""The frozen intermediate representation: what a network is, after ONNX has been left behind.

Shapes are the ONNX shapes in full (a batch dimension of 1 included; symbolic dimensions become 1). The engine puts one
more dimension in front, so an operator never has to know whether axis 0 is a batch.

Which operators there are, with shapes, parameters, attributes and values, is the table `graph.operators`; what they
mean in words is in the README's. Pads are symmetric in Conv and ConvTranspose; indices and axes are non-negative;
reductions drop their axes. `Opaque` (attrs op_type, opset; inputs as in ONNX) has no row: the network can be run, by
ONNX Runtime, but not bounded, so that counterexamples can be found and nothing proven.

All floating-point parameters are float64 arrays holding exactly the values stored in the model, or sums and products of
them that are float64 numbers. What had to be rounded says so. A constant part: Dense, Conv, ConvTranspose, Shift and
Constant may have a param bias_error >= 0, broadcastable to T, and then mean every value within bias_error of the one
they compute. A factor or weight: Scale, Dense, Conv and ConvTranspose may have a param roundings, one number in
(0, ROUNDINGS], and then mean every weight that is off by at most roundings * 2**-53, relatively. Bounds allow for that
(`verifier.tolerance.gamma`); a pass that computes with such numbers as if they were exact would not.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from verifier.brief import brief, counted

ROUNDINGS = 6
"""By how many roundings of 2**-53 a weight may be off, relatively."""

Shape = tuple[int, ...]
Attribute = int | float | str | tuple[int, ...]
_EMPTY: Mapping[str, Any] = MappingProxyType({})


def unused(base: str, taken: Container[str]) -> str:
    """A name that no value has: `base`, or `base` with a number. A file may call its tensors anything, so every name
    made inside has to come from here or be checked in the same way.
    """
    name, count = base, 0
    while name in taken:
        count += 1
        name = f"{base}~{count}"
    return name


@dataclass(frozen=True, eq=False)
class Node:
    """One operation. `source` names the ONNX nodes it came from, for messages."""

    __repr__ = brief

    op: str
    inputs: tuple[str, ...]
    output: str
    params: Mapping[str, np.ndarray] = field(default_factory=lambda: _EMPTY)
    attrs: Mapping[str, Attribute] = field(default_factory=lambda: _EMPTY)
    source: str = ""

    @property
    def exact(self) -> bool:
        """Whether the parameters are the real numbers: none of them had to be rounded."""
        return "bias_error" not in self.params and "roundings" not in self.params

    def integer(self, name: str) -> int:
        """The attribute `name`, an int."""
        value = self.attrs[name]
        assert isinstance(value, int)
        return value

    def integers(self, name: str) -> tuple[int, ...]:
        """The attribute `name`, a tuple of ints."""
        value = self.attrs[name]
        assert isinstance(value, tuple)
        return value

    def number(self, name: str) -> float:
        """The attribute `name`, a number."""
        value = self.attrs[name]
        assert isinstance(value, int | float)
        return float(value)

    def __str__(self) -> str:
        return f"{self.output} = {self.op}({', '.join(self.inputs)}){' from ' + self.source if self.source else ''}"


@dataclass(frozen=True, eq=False)
class Graph:
    """A network in topological order: `shapes` holds the shape of every value, inputs and node outputs alike."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    shapes: Mapping[str, Shape]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def size(self, name: str) -> int:
        """Number of elements of the value `name`."""
        return int(np.prod(self.shapes[name], dtype=np.int64))

    @property
    def n_inputs(self) -> int:
        """Elements of all inputs together."""
        return sum(self.size(name) for name in self.inputs)

    @property
    def n_outputs(self) -> int:
        """Elements of all outputs together."""
        return sum(self.size(name) for name in self.outputs)

    @property
    def opaque(self) -> tuple[Node, ...]:
        """Nodes without a bound rule."""
        return tuple(node for node in self.nodes if node.op == "Opaque")

    def __repr__(self) -> str:
        values = ", ".join(f"{name}{list(self.shapes[name])}" for name in self.inputs)
        out = ", ".join(f"{name}{list(self.shapes[name])}" for name in self.outputs)
        size = sum(value.size for node in self.nodes for value in node.params.values())
        return f"Graph({values} -> {out}; {counted(node.op for node in self.nodes)}; {size:,} parameters)"


def alive(inputs: Sequence[str], outputs: Sequence[str], nodes: Sequence[Node], shapes: Mapping[str, Shape]) -> Graph:
    """A graph of those `nodes` that the outputs depend on."""
    wanted = set(outputs)
    kept = []
    for node in reversed(nodes):
        if node.output in wanted:
            kept.append(node)
            wanted.update(node.inputs)
    kept.reverse()
    names = {*inputs, *(node.output for node in kept)}
    return Graph(tuple(inputs), tuple(outputs), tuple(kept), {n: s for n, s in shapes.items() if n in names})
