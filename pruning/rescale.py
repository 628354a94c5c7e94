"""Brings the channels that stay back to the mean and spread they had before their neighbours were removed.

A removed channel leaves its mean behind, not its variation: pre-activations that were often positive shrink towards
their mean, which is mostly negative, and whole layers fall silent; training cannot wake them, since no gradient passes.
Each layer in order gets a factor and an offset per channel, z -> a z + b, that restore mean and standard deviation over
images and S (the idea is REPAIR's, Jordan et al. 2022, arXiv 2211.08403; there for merged networks). They go into the
weights of the layer, so that the graph stays what it was.
"""

from __future__ import annotations

import numpy as np

from pruning.calibration import Calibration, channel_moments
from pruning.fold import add_offset
from pruning.groups import Groups, find_groups
from pruning.net import Net, OnnxNode
from pruning.surgery import mask

FACTORS = (0.25, 16.0)
"""Limits of the factor: a channel without variation left cannot get it back by any."""


def restored(original: Net, groups: Groups, removed: np.ndarray, data: Calibration, which: str = "all") -> Net:
    """The network of `groups` with mean and spread of each pre-activation as in `original`; nothing is removed yet.

    `removed` is the mask of the channels that will go. which: `all`, or `silent`, the channels that were positive
    somewhere and no longer are. Layers whose output no factor can be moved into (residual sums with something that is
    no layer) only get the offset, or stay as they are where that has no place either.
    """
    places = [(u.value, u.axis) for u in groups.units if u.axis == 1 and u.value in original.producer]
    wanted = channel_moments(original, places, data)
    for place in places:
        value, axis = place
        now, then = channel_moments(mask(groups, removed), [place], data)[place], wanted[place]
        changes = groups.keep(removed, groups.labelled[value][axis]) & (then.spread > 0)
        if which == "silent":
            changes &= (then.highest > 0) & (now.highest <= 0)
        if not changes.any():
            continue
        factor = np.where(changes, np.clip(then.spread / np.maximum(now.spread, 1e-12), *FACTORS), 1.0)
        net = moved(groups.net, value, factor, np.where(changes, then.mean - factor * now.mean, 0.0))
        if net is None:
            net = moved(groups.net, value, np.ones_like(factor), np.where(changes, then.mean - now.mean, 0.0))
        if net is not None:
            groups = find_groups(net, groups.kept_names)
    return groups.net


def moved(net: Net, value: str, factor: np.ndarray, offset: np.ndarray) -> Net | None:
    """A network in which `value` is factor * value + offset along axis 1, None if its layer cannot take that in."""
    index = net.producer.get(value)
    if index is None:
        return None
    node = net.nodes[index]
    if node.type == "BatchNormalization" and _own(net, node, (1, 2)):
        scale, shift = (net.weights[node.inputs[slot]] for slot in (1, 2))
        changed = {node.inputs[1]: (scale * factor).astype(scale.dtype)}
        return net.changed(weights={**changed, node.inputs[2]: (shift * factor + offset).astype(shift.dtype)})
    if node.type in ("Conv", "ConvTranspose", "Gemm"):
        return _layer(net, index, factor, offset)
    if node.type in ("Add", "Sub"):
        return _sum(net, node, factor, offset)
    if node.type == "MatMul" and not offset.any() and _own(net, node, (1,)):
        return _scaled(net, node.inputs[1], -1, factor)
    return None


def _layer(net: Net, index: int, factor: np.ndarray, offset: np.ndarray) -> Net | None:
    node = net.nodes[index]
    slots = (1, 2) if node.input(2) else (1,)
    if not _own(net, node, slots) or (node.type == "ConvTranspose" and int(node.attrs.get("group", 1)) != 1):
        return None
    axis = 0 if node.type == "Conv" or node.attrs.get("transB", 0) else 1
    net = _scaled(net, node.inputs[1], axis, factor)
    if node.input(2):
        bias = net.weights[node.inputs[2]]
        if bias.shape[-1:] != (len(factor),):
            return None
        net = _scaled(net, node.inputs[2], -1, factor)
    if not offset.any():
        return net
    net, changed = add_offset(net, node, offset)
    return net.changed([*net.nodes[:index], *changed, *net.nodes[index + 1 :]])


def _sum(net: Net, node: OnnxNode, factor: np.ndarray, offset: np.ndarray) -> Net | None:
    """A stored addend (a bias, a map of offsets) is scaled and shifted, and the layer below scaled; of two computed
    addends one takes the offset, and factors have no place.
    """
    stored = [slot for slot, name in enumerate(node.inputs) if name in net.weights]
    if not stored:
        if (factor != 1).any():
            return None
        signs = (1.0, -1.0 if node.type == "Sub" else 1.0)
        found = (moved(net, n, factor, s * offset) for n, s in zip(node.inputs, signs, strict=True) if _alone(net, n))
        return next((made for made in found if made is not None), None)
    slot = stored[0]
    name, below = node.inputs[slot], node.inputs[1 - slot]
    if node.type == "Sub" or len(stored) > 1 or not _own(net, node, (slot,)) or not _alone(net, below):
        return None
    rank = len(net.shapes[node.outputs[0]])
    shape = (1, -1, *[1] * (rank - 2))
    old = net.weights[name]
    changed = moved(net, below, factor, np.zeros_like(offset))
    if changed is None:
        return None
    value = (old * factor.reshape(shape) + offset.reshape(shape)).astype(old.dtype)
    return changed.changed(weights={name: value.reshape(value.shape[-old.ndim :]) if old.ndim < rank else value})


def _alone(net: Net, value: str) -> bool:
    return len(net.consumers.get(value, ())) == 1 and value not in net.outputs


def _own(net: Net, node: OnnxNode, slots: tuple[int, ...]) -> bool:
    """True if these inputs are stored values that nothing else reads."""
    names = [node.input(slot) for slot in slots]
    return all(n in net.weights and len(net.consumers[n]) == 1 and node.inputs.count(n) == 1 for n in names)


def _scaled(net: Net, name: str, axis: int, factor: np.ndarray) -> Net:
    old = net.weights[name]
    shape = [1] * old.ndim
    shape[axis] = -1
    return net.changed(weights={name: (old * factor.reshape(shape)).astype(old.dtype)})
