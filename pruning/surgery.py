"""Cuts channels out of a network, and builds the masked network that computes the same with all shapes kept."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pruning.errors import RatioError
from pruning.groups import Groups
from pruning.labels import Keep, Labels
from pruning.net import Net, OnnxNode


def remove(groups: Groups, removed: np.ndarray) -> Net:
    """The network without the channels in `removed` (a mask over channels of `groups`).

    Weights are sliced along every axis that carries removed channels; a weight that several nodes read is stored anew
    for those that need another slice. Group counts, Split sizes, slice limits, gather indices and reshape targets
    follow.
    Raises RatioError if some tensor would be left without channels.
    """
    _check(groups, removed)
    if not removed.any():
        return groups.net
    net = groups.net

    def keep(labels: Labels) -> np.ndarray:
        return groups.keep(removed, labels)

    nodes = list(net.nodes)
    weights: dict[str, np.ndarray] = {}
    masks: dict[tuple[int, int], dict[int, np.ndarray]] = {}
    for cut in groups.cuts:
        masks.setdefault((cut.node, cut.slot), {})[cut.axis] = keep(cut.labels)
    _slice_weights(net, nodes, weights, masks)
    for patch in groups.patches:
        net = net.changed(weights=weights)
        nodes[patch.node], more = patch.update(net, nodes[patch.node], keep)
        weights.update(more)
    return replace(clean(groups.net.changed(nodes, weights)), shapes=_shapes(groups, keep))


def mask(groups: Groups, removed: np.ndarray) -> Net:
    """The same function with all shapes kept: every weight that reads a removed channel is zeroed for it."""
    net = groups.net
    nodes = list(net.nodes)
    weights: dict[str, np.ndarray] = {}
    for cut in groups.cuts:
        if cut.role != "in":
            continue
        keep = groups.keep(removed, cut.labels)
        name = nodes[cut.node].input(cut.slot)
        value = weights.get(name, net.weights[name])
        shape = [1] * value.ndim
        shape[cut.axis] = -1
        zeroed = np.where(keep.reshape(shape), value, np.zeros((), value.dtype))
        if len(net.consumers[name]) == 1 and nodes[cut.node].inputs.count(name) == 1:
            weights[name] = zeroed
        else:
            nodes[cut.node], fresh = _rename(net, nodes[cut.node], cut.slot, weights)
            weights[fresh] = zeroed
    return net.changed(nodes, weights)


def _check(groups: Groups, removed: np.ndarray) -> None:
    if (removed & ~groups.prunable).any():
        group = groups.groups[groups.group_of[np.flatnonzero(removed & ~groups.prunable)[0]]]
        raise RatioError(f"layer '{group.name}' has channels that cannot be removed: {group.reason}")
    for value, axes in groups.labelled.items():
        for labels in axes.values():
            if not groups.keep(removed, labels).any():
                raise RatioError(f"removing these channels would leave '{value}' without any; lower the ratio")


def _slice_weights(
    net: Net, nodes: list[OnnxNode], weights: dict[str, np.ndarray], masks: dict[tuple[int, int], dict[int, np.ndarray]]
) -> None:
    uses: dict[str, list[tuple[int, int]]] = {}
    for index, node in enumerate(nodes):
        for slot, name in enumerate(node.inputs):
            if name in net.weights:
                uses.setdefault(name, []).append((index, slot))
    for name, places in uses.items():
        value = net.weights[name]
        wanted = [_full_masks(value, masks.get(place, {})) for place in places]
        if all(m.all() for use in wanted for m in use):
            continue
        same = all(all(np.array_equal(a, b) for a, b in zip(wanted[0], use, strict=True)) for use in wanted[1:])
        for (index, slot), use in zip(places, wanted, strict=True):
            sliced = value
            for axis, kept in enumerate(use):
                sliced = np.compress(kept, sliced, axis=axis) if not kept.all() else sliced
            if same and name not in net.outputs:
                weights[name] = sliced
            elif sliced is not value:
                nodes[index], fresh = _rename(net, nodes[index], slot, weights)
                weights[fresh] = sliced


def _full_masks(value: np.ndarray, masks: dict[int, np.ndarray]) -> list[np.ndarray]:
    return [masks.get(axis, np.ones(length, bool)) for axis, length in enumerate(value.shape)]


def _rename(net: Net, node: OnnxNode, slot: int, weights: dict[str, np.ndarray]) -> tuple[OnnxNode, str]:
    name = net.changed(weights=weights).fresh_name(f"{node.input(slot)}_{node.outputs[0]}")
    inputs = list(node.inputs)
    inputs[slot] = name
    return replace(node, inputs=tuple(inputs)), name


def clean(net: Net) -> Net:
    """Drop nodes nobody reads any more (shape arithmetic of a rewritten target) and unread weights."""
    needed, nodes = set(net.outputs), []
    for node in reversed(net.nodes):
        if any(name in needed for name in node.outputs):
            needed.update((*node.inputs, *node.captures))
            nodes.append(node)
    weights = {name: value for name, value in net.weights.items() if name in needed}
    return replace(net, nodes=tuple(reversed(nodes)), weights=weights)


def _shapes(groups: Groups, keep: Keep) -> dict[str, tuple[int, ...]]:
    shapes = dict(groups.net.shapes)
    for value, axes in groups.labelled.items():
        shape = list(shapes[value])
        for axis, labels in axes.items():
            shape[axis] = int(keep(labels).sum())
        shapes[value] = tuple(shape)
    return shapes
