"""Rules of element-wise operators, with one input or with several that broadcast."""

from __future__ import annotations

from pruning.labels import LabelWalk
from pruning.net import OnnxNode
from pruning.rules.table import rule
from verifier.graph.operators import known

# Operators that bend their input: where a channel enters one of these, its value is a pre-activation.
NON_LINEAR = frozenset(name for name, row in known().items() if row.bends)
_SEVERAL = {"PRelu", "Pow"}  # in ONNX they have a second input that broadcasts


@rule(*(name for name, row in known().items() if row.elementwise and name not in _SEVERAL))
def unary(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Axes keep their labels (limits of Clip and the ratio of Dropout are scalars)."""
    for axis, labels in walk.axes(node.input(0)).items():
        walk.put(node.outputs[0], axis, labels)
    for name in node.inputs[1:]:
        walk.freeze_value(name, f"{node.type} '{node.label}' reads it as a parameter")


@rule(*(name for name, row in known().items() if row.broadcasts or name in _SEVERAL))
def broadcast(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Axes of full length are united or sliced together, axes of length one are left alone."""
    shape = walk.shape(node.outputs[0])
    if shape is None:
        walk.freeze_inputs(node, f"the shape of '{node.outputs[0]}' could not be determined")
        return
    for axis, length in enumerate(shape):
        _broadcast_axis(walk, index, node, axis - len(shape), length)


def _broadcast_axis(walk: LabelWalk, index: int, node: OnnxNode, back: int, length: int) -> None:
    """One output axis, counted from the back."""
    rank = len(walk.shape(node.outputs[0]) or ())
    found, constants, plain = [], [], False
    for slot, name in enumerate(node.inputs):
        shape = walk.shape(name) if name else ()
        if not name or shape is None or len(shape) < -back:
            plain = plain or shape is None
            continue
        labels = walk.axes(name).get(len(shape) + back)
        if shape[back] != length:  # length one, repeated along the axis
            if labels is not None:
                walk.freeze(labels, f"{node.type} '{node.label}' repeats it along a wider axis")
        elif labels is not None:
            found.append(labels)
        elif walk.net.constant(name) is not None:
            constants.append((slot, len(shape) + back))
        else:
            plain = plain or length > 1
    if not found:
        return
    for other in found[1:]:
        walk.unite(found[0], other)
    if plain:
        walk.freeze(found[0], f"{node.type} '{node.label}' joins it with values that cannot be pruned")
    for slot, axis in constants:
        walk.cut(index, slot, axis, found[0], "with")
    walk.put(node.outputs[0], rank + back, found[0])
