"""Dependency groups: which channels a network has, and what has to be cut when one of them goes.

The walk over the operators is in `labels` and `rules`; this module turns its classes of labels into numbered channels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pruning import rules
from pruning.labels import Cut, Labels, LabelWalk, NodePatch
from pruning.net import Net, OnnxNode
from pruning.rules.elementwise import NON_LINEAR
from pruning.rules.linear import WEIGHT_SLOTS
from verifier.brief import brief


@dataclass(frozen=True, eq=False)
class Group:
    """Channels made by one layer (`internal`, also where it is used several times) or by several that must agree
    (`stream`, joined by Add and the like).

    `channels` are channel numbers of the whole network, `producers` indices of nodes. A channel in `frozen` cannot be
    removed; `reason` says why (one reason per group is kept).
    """

    __repr__ = brief

    name: str
    kind: str
    producers: tuple[int, ...]
    channels: np.ndarray
    frozen: np.ndarray
    reason: str = ""

    @property
    def free(self) -> np.ndarray:
        """Numbers of the channels that may be removed."""
        return self.channels[~self.frozen]


@dataclass(frozen=True, eq=False)
class Unit:
    """A value whose entries along `axis` are the pre-activations of channels; `channel[i]` is -1 where it has none."""

    value: str
    axis: int
    channel: np.ndarray


@dataclass(frozen=True, eq=False)
class Groups:
    """All groups of a network, in order of their first layer. `n` is the number of channels."""

    __repr__ = brief

    net: Net
    groups: tuple[Group, ...]
    n: int
    cuts: tuple[Cut, ...]
    patches: tuple[NodePatch, ...]
    segments: tuple[np.ndarray, ...]
    unknown: tuple[str, ...]
    labelled: dict[str, dict[int, Labels]]
    kept_names: tuple[str, ...]
    _channel_of: np.ndarray

    def channel(self, labels: Labels) -> np.ndarray:
        """Channel number of each label, -1 for labels that belong to no channel (frozen entries)."""
        return self._channel_of[labels]

    @cached_property
    def group_of(self) -> np.ndarray:
        """Index of the group of each channel."""
        owner = np.zeros(self.n, np.int64)
        for index, group in enumerate(self.groups):
            owner[group.channels] = index
        return owner

    @cached_property
    def prunable(self) -> np.ndarray:
        """Mask over channels: may it be removed at all."""
        mask = np.zeros(self.n, bool)
        for group in self.groups:
            mask[group.free] = True
        return mask

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """Where channels are observed: before each non-linearity, or where they are read if there is none."""
        return _units(self)

    def keep(self, removed: np.ndarray, labels: Labels) -> np.ndarray:
        """Mask of the entries of a label array that stay when the channels in `removed` (a mask) go."""
        channel = self.channel(labels)
        return ~(removed[channel] & (channel >= 0))


def find_groups(net: Net, keep: Sequence[str] = ()) -> Groups:
    """Find all dependency groups; layers named in `keep` (node or output names) are never pruned."""
    walk = LabelWalk(net)
    for index, node in enumerate(net.nodes):
        rules.carry(walk, index, node)
    for name in net.outputs:
        walk.freeze_value(name, "it is an output of the network")
    _tie_shared(walk)
    for index, labels in walk.producers:
        node = net.nodes[index]
        if node.name in keep or any(output in keep for output in node.outputs):
            walk.freeze(labels, "the user keeps this layer")
    return _collect(walk, keep)


def _tie_shared(walk: LabelWalk) -> None:
    """A matrix or kernel that several layers read stays one: what goes from it goes for all of them.

    Vectors (biases, normalisation parameters) are not tied: exporters store equal ones once, and layers that share
    nothing else would lose their freedom. They are stored anew where layers need different entries.
    """
    for name, places in shared_weights(walk.net).items():
        cuts = {(c.node, c.slot, c.axis): c.labels for c in walk.cuts if (c.node, c.slot) in places}
        for axis in range(walk.net.weights[name].ndim):
            found = [cuts.get((*place, axis)) for place in places]
            labelled = [labels for labels in found if labels is not None]
            for labels in labelled:
                walk.unite(labelled[0], labels)
                if len(labelled) < len(found):
                    walk.freeze(labels, f"its weight '{name}' also serves a layer that needs all of it")


def shared_weights(net: Net) -> dict[str, list[tuple[int, int]]]:
    """The matrices and kernels that more than one layer reads, with (node, input slot) of each."""
    places: dict[str, list[tuple[int, int]]] = {}
    for index, node in enumerate(net.nodes):
        slots = WEIGHT_SLOTS.get(node.type, ()) if not node.domain else ()
        for slot in slots:
            weight = net.constant(node.input(slot))
            if weight is not None and weight.ndim > 1:
                places.setdefault(node.input(slot), []).append((index, slot))
    return {name: found for name, found in places.items() if len(found) > 1}


def _collect(walk: LabelWalk, keep: Sequence[str]) -> Groups:
    channel_of = np.full(walk.n_labels, -1, np.int64)
    reasons: dict[int, str] = {}
    if walk.frozen:
        keys = np.fromiter(walk.frozen, np.int64)
        for root, key in zip(walk.root(keys).tolist(), keys.tolist(), strict=True):
            reasons.setdefault(root, walk.frozen[key])
    names = Counter(node.label for node in walk.net.nodes)
    groups, count = [], 0
    for producers, roots in _families(walk):
        numbers = np.arange(count, count + len(roots))
        channel_of[roots] = numbers
        frozen = np.array([int(root) in reasons for root in roots], bool)
        reason = next((reasons[int(root)] for root in roots if int(root) in reasons), "")
        first = walk.net.nodes[producers[0]]
        name = first.label if names[first.label] == 1 else first.outputs[0]  # ONNX allows two nodes of one name
        kind = "internal" if len(producers) == 1 or _one_weight(walk.net, producers) else "stream"
        groups.append(Group(name, kind, tuple(producers), numbers, frozen, reason))
        count += len(roots)
    channel_of = channel_of[walk.root(np.arange(walk.n_labels, dtype=np.int64))]
    return Groups(
        net=walk.net,
        groups=tuple(groups),
        n=count,
        cuts=tuple(walk.cuts),
        patches=tuple(walk.patches),
        segments=tuple(channel_of[segment] for segment in walk.segments),
        unknown=tuple(f"{kind} (node '{where}')" for kind, where in walk.unknown.items()),
        labelled=walk.at,
        kept_names=tuple(keep),
        _channel_of=channel_of,
    )


def _one_weight(net: Net, producers: Sequence[int]) -> bool:
    """Whether these layers are one layer used several times."""
    names = {
        net.nodes[index].input(slot) for index in producers for slot in WEIGHT_SLOTS.get(net.nodes[index].type, ())
    }
    return len({name for name in names if name in net.weights}) == 1


def _families(walk: LabelWalk) -> list[tuple[list[int], np.ndarray]]:
    """Producing layers that share a class of labels, with the classes in order of first appearance."""
    families: list[tuple[list[int], list[np.ndarray]]] = []
    owner: dict[int, int] = {}
    for node, labels in walk.producers:
        roots = walk.root(labels)
        hits = sorted({owner[root] for root in roots.tolist() if root in owner})
        if not hits:
            families.append(([node], [roots]))
            target = len(families) - 1
        else:
            target = hits[0]
            families[target][0].append(node)
            families[target][1].append(roots)
            for other in hits[1:]:
                families[target][0].extend(families[other][0])
                families[target][1].extend(families[other][1])
                for part in families[other][1]:
                    owner.update(dict.fromkeys(part.tolist(), target))
                families[other] = ([], [])
        owner.update(dict.fromkeys(roots.tolist(), target))
    result = []
    for nodes, parts in families:
        if nodes:
            joined = np.concatenate(parts)
            _, first = np.unique(joined, return_index=True)
            result.append((sorted(nodes), joined[np.sort(first)]))
    return result


def _units(groups: Groups) -> tuple[Unit, ...]:
    net, units, seen = groups.net, [], np.zeros(groups.n, bool)
    places: dict[tuple[str, int], Labels] = {}
    for node in net.nodes:
        if node.type in NON_LINEAR and not node.domain:
            for axis, labels in groups.labelled.get(node.input(0), {}).items():
                places[node.input(0), axis] = labels
    for (value, axis), labels in places.items():
        channel = groups.channel(labels)
        seen[channel[channel >= 0]] = True
        units.append(Unit(value, axis, channel))
    for cut in groups.cuts:
        if cut.role != "in" or cut.data_labels is None or (cut.data, cut.data_axis) in places:
            continue
        channel = groups.channel(cut.data_labels)
        missing = np.where((channel >= 0) & ~seen[channel], channel, -1)
        if (missing >= 0).any():
            units.append(Unit(cut.data, cut.data_axis, missing))
            places[cut.data, cut.data_axis] = cut.data_labels
    return tuple(units)


def activation_nodes(groups: Groups, value: str) -> list[tuple[int, OnnxNode]]:
    """The non-linear nodes that read `value`."""
    nodes = groups.net.nodes
    return [(i, nodes[i]) for i in groups.net.consumers.get(value, ()) if nodes[i].type in NON_LINEAR]
