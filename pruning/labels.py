"""Labels: which entries of which tensor axes belong to one channel, so that they can only be removed together.

Every output channel of a producing layer gets a fresh label (an integer). Walking the graph in order, each operator
rule carries the label arrays of its input axes to its output axes; an index map (Concat, Split, Flatten, ...) is
nothing but an indexing of that array. Where two arrays must agree (residual Add) their labels are united in a
union-find. So after the walk, removing a channel means: along every labelled axis drop the entries whose label belongs
to its class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pruning.net import Net, OnnxNode

Labels = np.ndarray  # (n,) int64
Keep = Callable[[Labels], np.ndarray]  # label array -> boolean mask of the entries that stay


@dataclass(frozen=True, eq=False)
class Cut:
    """Entries of a weight that go with a channel: axis `axis` of input `slot` of node `node` carries `labels`.

    role: `out` the slice computes the channel, `with` it acts on the channel alone (bias, BatchNormalization), `in` it
    reads the channel to compute others. For `in`, `data_axis` is the channel axis of the node's input `data` and
    `data_labels` its labels (they differ from `labels` for grouped convolutions only).
    """

    node: int
    slot: int
    axis: int
    labels: Labels
    role: str
    data: str = ""
    data_axis: int = 0
    data_labels: Labels | None = None


@dataclass(frozen=True, eq=False)
class NodePatch:
    """A change of a node's attributes or constants (not of weights) that removal needs.

    `update(net, node, keep)` returns the new node and the constants to store under new names.
    """

    node: int
    update: Callable[[Net, OnnxNode, Keep], tuple[OnnxNode, dict[str, np.ndarray]]]


class LabelWalk:
    """The state of one labelling walk over `net`; rules read and write labels through its methods."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.at: dict[str, dict[int, Labels]] = {}
        self.cuts: list[Cut] = []
        self.patches: list[NodePatch] = []
        self.producers: list[tuple[int, Labels]] = []
        self.frozen: dict[int, str] = {}
        self.unknown: dict[str, str] = {}
        self.segments: list[Labels] = []
        self._parent = np.zeros(0, np.int64)

    # ------------------------------------------------------------------------------------------------ values
    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a value for a batch of one, None if unknown."""
        constant = self.net.constant(name)
        return tuple(constant.shape) if constant is not None else self.net.shapes.get(name)

    def axes(self, name: str) -> dict[int, Labels]:
        """Labelled axes of a value."""
        return self.at.get(name, {})

    def put(self, name: str, axis: int, labels: Labels) -> None:
        """Label an axis of a node output; the length must match its shape.

        Two labelled axes can end in one (Flatten over channels and another pruned axis). An entry of it would go when
        either of its labels goes, which classes of labels cannot say: the axis keeps the first and the second stays.
        """
        shape = self.shape(name)
        if not name:
            return
        if shape is None or not 0 <= axis < len(shape) or shape[axis] != len(labels):
            self.freeze(labels, f"the shape of '{name}' could not be determined")
            return
        if axis in self.axes(name):
            self.freeze(labels, f"'{name}' merges it with another axis that can be pruned")
            return
        self.at.setdefault(name, {})[axis] = labels

    # ------------------------------------------------------------------------------------------------ labels
    @property
    def n_labels(self) -> int:
        """Number of labels handed out so far."""
        return len(self._parent)

    def fresh(self, count: int) -> Labels:
        """New labels, each its own class."""
        start = len(self._parent)
        labels = np.arange(start, start + count, dtype=np.int64)
        self._parent = np.concatenate([self._parent, labels])
        return labels

    def produce(self, node: int, name: str, axis: int, count: int) -> Labels:
        """Fresh labels for the output channels of a producing layer."""
        labels = self.fresh(count)
        self.producers.append((node, labels))
        self.put(name, axis, labels)
        return labels

    def solid(self, count: int, reason: str) -> Labels:
        """Labels of entries that can never be removed."""
        labels = self.fresh(count)
        self.freeze(labels, reason)
        return labels

    def root(self, labels: Labels) -> Labels:
        """Representative of each label's class."""
        roots = self._parent[labels]
        while True:
            up = self._parent[roots]
            if np.array_equal(up, roots):
                break
            roots = up
        self._parent[labels] = roots
        return roots

    def unite(self, first: Labels, second: Labels) -> None:
        """Put the entries of two arrays of equal length into the same classes, one by one."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            low, high = sorted((self._find(a), self._find(b)))
            self._parent[high] = low

    def _find(self, label: int) -> int:
        parent = self._parent
        root = label
        while parent[root] != root:
            root = parent[root]
        while parent[label] != root:
            parent[label], label = root, parent[label]
        return int(root)

    # ------------------------------------------------------------------------------------------------ records
    def freeze(self, labels: Labels, reason: str) -> None:
        """Forbid the removal of these channels."""
        for label in labels.tolist():
            self.frozen.setdefault(label, reason)

    def freeze_value(self, name: str, reason: str, keep: tuple[int, ...] = ()) -> None:
        """Freeze every labelled axis of a value except `keep`."""
        for axis, labels in self.axes(name).items():
            if axis not in keep:
                self.freeze(labels, reason)

    def freeze_inputs(self, node: OnnxNode, reason: str) -> None:
        """Freeze everything a node reads."""
        for name in (*node.inputs, *node.captures):
            self.freeze_value(name, reason)

    def cut(self, node: int, slot: int, axis: int, labels: Labels, role: str) -> None:
        """Record that axis `axis` of the weight in `slot` goes with `labels`."""
        self.cuts.append(Cut(node, slot, axis, labels, role))

    def consume(self, node: int, slot: int, axis: int, data: str, data_axis: int, labels: Labels | None = None) -> None:
        """Record that a weight axis reads the labelled axis of `data` (if it is labelled)."""
        data_labels = self.axes(data).get(data_axis)
        if data_labels is not None:
            labels = data_labels if labels is None else labels
            self.cuts.append(Cut(node, slot, axis, labels, "in", data, data_axis, data_labels))

    def patch(self, node: int, update: Callable[[Net, OnnxNode, Keep], tuple[OnnxNode, dict[str, np.ndarray]]]) -> None:
        """Record a change of attributes or constants."""
        self.patches.append(NodePatch(node, update))


def with_attrs(node: OnnxNode, **attrs: object) -> OnnxNode:
    """A copy of a node with some attributes replaced (None removes)."""
    merged = {**node.attrs, **attrs}
    return replace(node, attrs={key: value for key, value in merged.items() if value is not None})


def with_constant(net: Net, node: OnnxNode, slot: int, value: np.ndarray) -> tuple[OnnxNode, dict[str, np.ndarray]]:
    """A copy of a node whose input `slot` reads a new constant."""
    old = node.input(slot)
    name = net.fresh_name(f"{old or node.outputs[0]}_pruned_{node.outputs[0]}")
    inputs = [*node.inputs, *[""] * (slot + 1 - len(node.inputs))]
    inputs[slot] = name
    return replace(node, inputs=tuple(inputs)), {name: value}
