"""Rules of pooling, resizing and padding: channels pass, spatial axes do not."""

from __future__ import annotations

import numpy as np

from pruning.labels import Keep, LabelWalk, with_constant
from pruning.net import Net, OnnxNode
from pruning.rules.table import rule


@rule("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "LRN")
def pool(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Axis 1 passes; pooling mixes the axes behind it. LRN mixes channels and the indices of MaxPool count them."""
    indices_used = len(node.outputs) > 1 and node.outputs[1] in walk.net.consumers
    if node.type == "LRN" or indices_used:
        walk.freeze_inputs(node, f"{node.type} '{node.label}' mixes or numbers channels")
        return
    _pass_channels(walk, node)


@rule("Pad")
def pad(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Axes without padding pass."""
    name = node.input(0)
    stored = walk.net.constant(node.input(1)) if "pads" not in node.attrs else np.asarray(node.attrs["pads"])
    shape = walk.shape(name)
    if stored is None or shape is None or node.input(3):
        walk.freeze_inputs(node, f"Pad '{node.label}' has computed or partial pads")
        return
    pads = stored.reshape(2, -1)
    for axis, labels in walk.axes(name).items():
        if pads[:, axis].any():
            walk.freeze(labels, f"Pad '{node.label}' pads that axis")
        else:
            walk.put(node.outputs[0], axis, labels)


@rule("Resize", "Upsample")
def resize(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Axes of unchanged length pass; explicit `sizes` are rewritten."""
    name, before, after = node.input(0), walk.shape(node.input(0)), walk.shape(node.outputs[0])
    partial = node.attrs.get("axes") is not None
    crop = node.attrs.get("coordinate_transformation_mode", b"") in (b"tf_crop_and_resize", "tf_crop_and_resize")
    targets = [slot for slot in range(1, len(node.inputs)) if node.input(slot)]
    computed = any(walk.net.constant(node.input(slot)) is None for slot in targets)
    if before is None or after is None or partial or crop or computed:
        walk.freeze_inputs(node, f"{node.type} '{node.label}' has computed sizes or crops")
        return
    for axis, labels in walk.axes(name).items():
        if axis > 1 or before[axis] != after[axis]:
            walk.freeze(labels, f"{node.type} '{node.label}' resizes that axis")
        else:
            walk.put(node.outputs[0], axis, labels)
    channels = walk.axes(node.outputs[0]).get(1)
    sizes = walk.net.constant(node.input(3))
    if channels is not None and sizes is not None and sizes.size:

        def shrink_sizes(net: Net, old: OnnxNode, keep: Keep) -> tuple[OnnxNode, dict[str, np.ndarray]]:
            new = sizes.copy()
            new[1] = keep(channels).sum()
            return with_constant(net, old, 3, new)

        walk.patch(index, shrink_sizes)


def _pass_channels(walk: LabelWalk, node: OnnxNode) -> None:
    walk.freeze_value(node.input(0), f"{node.type} '{node.label}' mixes that axis", keep=(0, 1))
    for axis, labels in walk.axes(node.input(0)).items():
        if axis < 2:
            walk.put(node.outputs[0], axis, labels)
