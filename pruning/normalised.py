"""A normalisation (x - mean) / std in front of a network while it is pruned, so that data stay pixels in [0, 1].

Scores, folding and training then see the network as `secateur spec` does with --mean and --std; what is written is the
network without it, as it was given.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import numpy as np

from pruning.net import Net, OnnxNode
from verifier.data.frame import Frame
from verifier.errors import ModelError

NAMES = ("secateur_mean", "secateur_std", "secateur_centred", "secateur_normalised")


def normalised(net: Net, frame: Frame, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> Net:
    """The network behind a Sub and a Div; the same network where neither is given. OptionsError for other numbers."""
    values = frame.normalisation(mean, std)
    if values[0] is None or values[1] is None:
        return net
    taken = set(NAMES) & {*net.weights, *net.producer, *net.inputs, *net.shapes}
    if taken:
        raise ModelError(f"the network has values named {', '.join(sorted(taken))}; rename them")
    source = net.inputs[0]
    weights = {NAMES[i]: frame.per_channel(v).astype(np.float32) for i, v in enumerate((values[0], values[1]))}
    nodes = (
        OnnxNode("Sub", (source, NAMES[0]), (NAMES[2],), name=NAMES[2]),
        OnnxNode("Div", (NAMES[2], NAMES[1]), (NAMES[3],), name=NAMES[3]),
    )
    shapes = {**net.shapes, NAMES[2]: net.shapes[source], NAMES[3]: net.shapes[source]}
    rest = tuple(_renamed(node, source, NAMES[3]) for node in net.nodes)
    return replace(net.changed((*nodes, *rest), weights), shapes=MappingProxyType(shapes))


def given(net: Net) -> Net:
    """A network without the normalisation that `normalised` put in front of it; any other is returned as it is."""
    if NAMES[3] not in net.producer:
        return net
    nodes = tuple(_renamed(node, NAMES[3], net.inputs[0]) for node in net.nodes if node.outputs[0] not in NAMES[2:])
    weights = {name: value for name, value in net.weights.items() if name not in NAMES}
    shapes = {name: shape for name, shape in net.shapes.items() if name not in NAMES}
    return replace(net, nodes=nodes, weights=MappingProxyType(weights), shapes=MappingProxyType(shapes))


def _renamed(node: OnnxNode, old: str, new: str) -> OnnxNode:
    if old in node.captures:
        raise ModelError(f"node '{node.label}' reads the input inside a subgraph; --mean and --std do not reach it")
    if old not in node.inputs:
        return node
    return replace(node, inputs=tuple(new if name == old else name for name in node.inputs))
