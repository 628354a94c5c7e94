"""Moves what removed channels contribute on average into the biases of the layers that read them.

A removed channel is treated as the constant m_c at the input of every layer that reads it (after pooling and the like,
so that no operator in between has to be followed): b += W[:, c] m_c. With zero padding the constant is missing outside
the image, so the kernel sum is only right in the interior; `border="exact"` adds a bias map (1, O, H, W) through an
extra Add.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pruning import onnx_io
from pruning.groups import Groups
from pruning.labels import Cut
from pruning.net import Net, OnnxNode

Constants = Mapping[tuple[str, int], np.ndarray]  # (value, axis) -> what stands for each entry along that axis


def fold(groups: Groups, removed: np.ndarray, constants: Constants, border: str = "interior") -> Net:
    """Add the contribution of removed channels, held at `constants`, to their readers; nothing is removed yet.

    The node list may grow, but the channels of `find_groups` keep their numbers.
    """
    net = groups.net
    nodes: list[OnnxNode | tuple[OnnxNode, OnnxNode]] = list(net.nodes)
    for cut in readers(groups, removed):
        keep = groups.keep(removed, cut.data_labels if cut.data_labels is not None else cut.labels)
        held = np.where(keep, 0.0, np.asarray(constants[cut.data, cut.data_axis], np.float64))
        if not held.any():
            continue
        node = net.nodes[cut.node]
        offset = contribution(net, node, cut, held, exact=border == "exact")
        following = _following_add(net, node) if node.type == "MatMul" else None
        if following is not None:
            index, slot = following
            net, nodes[index] = _new_constant(net, net.nodes[index], slot, offset)
            continue
        net, changed = add_offset(net, node, offset)
        nodes[cut.node] = changed[0] if len(changed) == 1 else (changed[0], changed[1])
    flat = [op for entry in nodes for op in (entry if isinstance(entry, tuple) else (entry,))]
    return net.changed(flat)


def readers(groups: Groups, removed: np.ndarray) -> list[Cut]:
    """The cuts of layers that read at least one removed channel."""
    found = []
    for cut in groups.cuts:
        if cut.role == "in" and cut.data_labels is not None and not groups.keep(removed, cut.data_labels).all():
            found.append(cut)
    return found


def contribution(net: Net, node: OnnxNode, cut: Cut, held: np.ndarray, exact: bool) -> np.ndarray:
    """What input entries `held` along the channel axis add to the output: broadcastable to the output shape."""
    weight = net.weights[node.input(cut.slot)].astype(np.float64)
    if node.type == "Gemm":
        return float(node.attrs.get("alpha", 1.0)) * (weight @ held if cut.axis else held @ weight)
    if node.type == "MatMul":
        return held @ weight if cut.slot == 1 else (weight @ held)[:, None]
    padded = any(node.attrs.get("pads", ())) or node.attrs.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER")
    if node.type == "Conv" and not (exact and padded):
        return _conv_interior(node, weight, held)
    shape = net.shapes[cut.data]
    image = np.broadcast_to(held.reshape(1, -1, *[1] * (len(shape) - 2)), (1, *shape[1:]))
    bare = replace(node, inputs=node.inputs[:2])
    (made,) = onnx_io.run_node64(net, bare, {cut.data: image}, {})
    spatial = tuple(range(2, made.ndim))
    flat = made.mean(spatial, keepdims=True)
    if not exact or np.allclose(made, flat, rtol=0, atol=1e-9 * float(np.abs(made).max(initial=0.0))):
        return flat.reshape(-1)
    return made


def _conv_interior(node: OnnxNode, weight: np.ndarray, held: np.ndarray) -> np.ndarray:
    taps = weight.sum(axis=tuple(range(2, weight.ndim)))
    groups = int(node.attrs.get("group", 1))
    parts = zip(np.split(taps, groups), np.split(held, groups), strict=True)
    return np.concatenate([tap @ part for tap, part in parts])


def add_offset(net: Net, node: OnnxNode, offset: np.ndarray) -> tuple[Net, tuple[OnnxNode, ...]]:
    """A network in which `node` yields its old value plus `offset`: through its bias where it has one, else an Add."""
    kind = net.weights[node.input(1)].dtype if node.input(1) in net.weights else net.weights[node.input(0)].dtype
    if node.type in ("Conv", "ConvTranspose") and offset.ndim == 1:
        return _new_bias(net, node, offset, kind)
    if node.type == "Gemm":
        beta = float(node.attrs.get("beta", 1.0))
        if not node.input(2) or beta == 0.0:
            attrs = {key: value for key, value in node.attrs.items() if key != "beta"}
            return _new_bias(net, replace(node, attrs=attrs, inputs=node.inputs[:2]), offset, kind)
        return _new_bias(net, node, offset / beta, kind)
    raw = net.fresh_name(f"{node.outputs[0]}_unshifted")
    name = net.fresh_name(f"{node.outputs[0]}_offset")
    net = net.changed(weights={name: offset.astype(kind)})
    net = replace(net, shapes={**net.shapes, raw: net.shapes[node.outputs[0]]})
    shifted = OnnxNode("Add", (raw, name), (node.outputs[0],), name=net.fresh_name(f"{node.label}_offset"))
    return net, (replace(node, outputs=(raw, *node.outputs[1:])), shifted)


def _new_bias(net: Net, node: OnnxNode, offset: np.ndarray, kind: np.dtype) -> tuple[Net, tuple[OnnxNode, ...]]:
    old = net.constant(node.input(2))
    value = (offset if old is None else old.astype(np.float64) + offset).astype(kind)
    if old is not None and len(net.consumers[node.input(2)]) == 1 and old.shape == value.shape:
        return net.changed(weights={node.input(2): value}), (node,)
    name = net.fresh_name(f"{node.input(2) or node.outputs[0]}_bias")
    return net.changed(weights={name: value}), (replace(node, inputs=(*node.inputs[:2], name)),)


def _following_add(net: Net, node: OnnxNode) -> tuple[int, int] | None:
    """The Add of a stored bias that alone reads a MatMul, and the slot of that bias."""
    value = node.outputs[0]
    readers_ = net.consumers.get(value, ())
    if len(readers_) != 1 or value in net.outputs or net.nodes[readers_[0]].type != "Add":
        return None
    add = net.nodes[readers_[0]]
    slot = 1 if add.inputs[0] == value else 0
    bias = net.constant(add.inputs[slot])
    fits = bias is not None and net.shapes.get(value) == net.shapes.get(add.outputs[0])
    return (readers_[0], slot) if fits else None


def _new_constant(net: Net, node: OnnxNode, slot: int, offset: np.ndarray) -> tuple[Net, OnnxNode]:
    old = net.weights[node.inputs[slot]]
    value = (old.astype(np.float64) + offset).astype(old.dtype)
    name = net.fresh_name(f"{node.inputs[slot]}_folded")
    if len(net.consumers[node.inputs[slot]]) == 1 and old.shape == value.shape:
        name = node.inputs[slot]
    inputs = tuple(name if place == slot else old_name for place, old_name in enumerate(node.inputs))
    return net.changed(weights={name: value}), replace(node, inputs=inputs)
