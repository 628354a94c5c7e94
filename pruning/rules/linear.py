"""Rules of layers with weights: Conv, ConvTranspose, Gemm, MatMul and the normalisations."""

from __future__ import annotations

import numpy as np

from pruning.labels import Keep, LabelWalk, with_attrs
from pruning.net import Net, OnnxNode
from pruning.rules.table import rule

# where layers keep their kernel or matrix
WEIGHT_SLOTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (0, 1)}


@rule("Conv")
def conv(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """W (O, C/g, *K): axis 1 reads channels, axis 0 and B make them; depthwise layers act on each channel alone."""
    data, weight = node.input(0), walk.net.constant(node.input(1))
    walk.freeze_value(data, f"Conv '{node.label}' mixes that axis", keep=(1,))
    if weight is None or not _constant_or_absent(walk, node.input(2)):
        walk.freeze_inputs(node, f"Conv '{node.label}' has a computed weight")
        return
    outputs, groups = weight.shape[0], int(node.attrs.get("group", 1))
    labels = walk.axes(data).get(1)
    if groups == 1:
        walk.consume(index, 1, 1, data, 1)
        _make(walk, index, node, walk.produce(index, node.outputs[0], 1, outputs), axis=0)
    elif weight.shape[1] == 1:
        _depthwise(walk, index, node, groups, outputs)
    else:
        if labels is not None:
            rows = labels.reshape(groups, -1)
            _tie(walk, rows)
            walk.consume(index, 1, 1, data, 1, labels=rows[0])
        made = walk.produce(index, node.outputs[0], 1, outputs)
        _tie(walk, made.reshape(groups, -1))
        _make(walk, index, node, made, axis=0)


def _depthwise(walk: LabelWalk, index: int, node: OnnxNode, groups: int, outputs: int) -> None:
    labels = walk.axes(node.input(0)).get(1)
    if labels is None:
        return  # its input channels are fixed, so are its outputs

    def shrink_group(net: Net, old: OnnxNode, keep: Keep) -> tuple[OnnxNode, dict[str, np.ndarray]]:
        return with_attrs(old, group=int(keep(labels).sum())), {}

    made = np.repeat(labels, outputs // groups)
    walk.put(node.outputs[0], 1, made)
    walk.cut(index, 1, 0, made, "with")
    if node.input(2):
        walk.cut(index, 2, 0, made, "with")
    walk.patch(index, shrink_group)


def _tie(walk: LabelWalk, rows: np.ndarray) -> None:
    """Channels at the same place of every group go together, so that all groups keep the same size."""
    for row in rows[1:]:
        walk.unite(rows[0], row)


def _make(walk: LabelWalk, index: int, node: OnnxNode, labels: np.ndarray, axis: int) -> None:
    walk.cut(index, 1, axis, labels, "out")
    if node.input(2):
        walk.cut(index, 2, 0, labels, "out")


@rule("ConvTranspose")
def conv_transpose(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """W (C, O/g, *K): axis 0 reads, axis 1 and B make; groups are frozen."""
    data, weight = node.input(0), walk.net.constant(node.input(1))
    walk.freeze_value(data, f"ConvTranspose '{node.label}' mixes that axis", keep=(1,))
    if weight is None or not _constant_or_absent(walk, node.input(2)) or int(node.attrs.get("group", 1)) != 1:
        walk.freeze_inputs(node, f"ConvTranspose '{node.label}' is grouped or has a computed weight")
        return
    walk.consume(index, 1, 0, data, 1)
    _make(walk, index, node, walk.produce(index, node.outputs[0], 1, weight.shape[1]), axis=1)


@rule("Gemm")
def gemm(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """alpha * A' B' + beta * C with a constant B."""
    data, weight, bias = node.input(0), walk.net.constant(node.input(1)), node.input(2)
    if weight is None or node.attrs.get("transA", 0) or not _constant_or_absent(walk, bias):
        walk.freeze_inputs(node, f"Gemm '{node.label}' transposes its data or has a computed weight or bias")
        return
    walk.freeze_value(data, f"Gemm '{node.label}' mixes that axis", keep=(1,))
    transposed = bool(node.attrs.get("transB", 0))
    walk.consume(index, 1, int(transposed), data, 1)
    labels = walk.produce(index, node.outputs[0], 1, weight.shape[int(not transposed)])
    walk.cut(index, 1, int(not transposed), labels, "out")
    offset = walk.net.constant(bias)
    if offset is not None and offset.ndim and offset.shape[-1] == len(labels):
        walk.cut(index, 2, offset.ndim - 1, labels, "out")


@rule("MatMul")
def matmul(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """X @ W or W @ X with a constant matrix W; the other axes of X pass through."""
    left, right = (walk.net.constant(node.input(slot)) for slot in (0, 1))
    slot = 1 if right is not None else 0
    weight, data = (right, node.input(0)) if slot else (left, node.input(1))
    shape = walk.shape(data)
    if weight is None or weight.ndim != 2 or shape is None or (slot == 0 and len(shape) < 2):
        walk.freeze_inputs(node, f"MatMul '{node.label}' has no constant matrix")
        return
    axis = len(shape) - (1 if slot else 2)
    reads, makes = (0, 1) if slot else (1, 0)
    for other, labels in walk.axes(data).items():
        if other != axis:
            walk.put(node.outputs[0], other, labels)
    walk.consume(index, slot, reads, data, axis)
    walk.cut(index, slot, makes, walk.produce(index, node.outputs[0], axis, weight.shape[makes]), "out")


@rule("BatchNormalization", "InstanceNormalization")
def batch_norm(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Every parameter goes with its channel (axis 1)."""
    params = [slot for slot in range(1, 5) if node.input(slot)]
    if node.attrs.get("training_mode", 0) or any(walk.net.constant(node.input(slot)) is None for slot in params):
        walk.freeze_inputs(node, f"{node.type} '{node.label}' is in training mode or has computed parameters")
        return
    walk.freeze_value(node.input(0), f"{node.type} '{node.label}' mixes that axis", keep=(1,))
    labels = walk.axes(node.input(0)).get(1)
    if labels is not None:
        walk.put(node.outputs[0], 1, labels)
        for slot in params:
            walk.cut(index, slot, 0, labels, "with")


def _constant_or_absent(walk: LabelWalk, name: str) -> bool:
    return not name or walk.net.constant(name) is not None
