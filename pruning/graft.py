"""Grafting: the channel stays, its ReLU is replaced by the line p*z + q that fits it best on the calibration data.

p = cov(a, z) / var(z), q = E a - p E z (Linearity Grafting's idea; least squares is our choice). In the graph the
activation becomes a PRelu with slope 1 for grafted channels, followed by Mul and Add per channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pruning.calibration import Activations, Calibration
from pruning.errors import CriterionError
from pruning.groups import Groups, Unit, activation_nodes
from pruning.net import Net, OnnxNode
from pruning.scores.movement import channels_first
from verifier.graph.operators import traits

ChannelLines = Mapping[str, tuple[np.ndarray, np.ndarray]]  # output of the activation -> (p, q) along its channel axis


def fit_lines(groups: Groups, removed: np.ndarray, calibration: Calibration) -> ChannelLines:
    """Least-squares lines for the activations of the channels in `removed`."""
    places = _places(groups, removed)
    calibration = calibration.fitted(groups.net)
    run = Activations(groups.net, [name for unit, node in places for name in (unit.value, node.outputs[0])])
    points = calibration.points()
    sums = [np.zeros((5, len(unit.channel))) for unit, _ in places]
    for start in range(0, len(calibration.images), 32):
        images = calibration.images[start : start + 32]
        for turn in range(4):
            chosen = points[(np.arange(start, start + len(images)) * 4 + turn) % len(points)]
            found = run(calibration.moved(images, chosen))
            for total, (unit, node) in zip(sums, places, strict=True):
                z, a = (
                    channels_first(found[name], unit.axis).astype(np.float64) for name in (unit.value, node.outputs[0])
                )
                total += [part.sum((0, 2)) for part in (np.ones_like(z), z, a, z * z, z * a)]
    lines = {}
    for (count, z, a, zz, za), (_, node) in zip(sums, places, strict=True):
        variance = zz / count - (z / count) ** 2
        p = np.where(variance > 0, (za / count - z * a / count**2) / np.where(variance > 0, variance, 1), 0.0)
        lines[node.outputs[0]] = (p, a / count - p * z / count)
    return lines


def graft(groups: Groups, removed: np.ndarray, lines: ChannelLines) -> Net:
    """The network with the activations of the channels in `removed` replaced by their lines."""
    net = groups.net
    changed: dict[int, tuple[OnnxNode, ...]] = {}
    for unit, node in _places(groups, removed):
        p, q = lines[node.outputs[0]]
        chosen = ~groups.keep(removed, groups.labelled[unit.value][unit.axis])
        shape = [1] * len(net.shapes[unit.value])
        shape[unit.axis] = -1
        kind = np.float32
        slope = np.where(chosen, 1.0, _slope(net, node, len(chosen), unit.axis)).astype(kind).reshape(shape)
        names = [
            net.fresh_name(f"{node.outputs[0]}_{part}") for part in ("slope", "factor", "offset", "bent", "scaled")
        ]
        constants = {
            names[0]: slope.reshape(shape[1:]) if shape[0] == 1 and len(shape) > 1 else slope,
            names[1]: np.where(chosen, p, 1.0).astype(kind).reshape(shape),
            names[2]: np.where(chosen, q, 0.0).astype(kind).reshape(shape),
        }
        steps = (
            OnnxNode("PRelu", (node.inputs[0], names[0]), (names[3],), name=node.name),
            OnnxNode("Mul", (names[3], names[1]), (names[4],), name=f"{names[4]}_mul"),
            OnnxNode("Add", (names[4], names[2]), node.outputs, name=f"{names[4]}_add"),
        )
        shapes = {**net.shapes, names[3]: net.shapes[unit.value], names[4]: net.shapes[unit.value]}
        net = replace(net.changed(weights=constants), shapes=shapes)
        changed[groups.net.producer[node.outputs[0]]] = steps
    nodes = [op for index, node in enumerate(groups.net.nodes) for op in changed.get(index, (node,))]
    return net.changed(nodes)


def _places(groups: Groups, removed: np.ndarray) -> list[tuple[Unit, OnnxNode]]:
    places: list[tuple[Unit, OnnxNode]] = []
    for unit in groups.units:
        hit = unit.channel[unit.channel >= 0]
        if not removed[hit].any():
            continue
        readers = activation_nodes(groups, unit.value)
        if not readers or any(traits(node.type).left is None for _, node in readers):
            kinds = ", ".join(sorted({node.type for _, node in readers})) or "no activation"
            raise CriterionError(f"fold 'graft' straightens Relu, LeakyRelu and PRelu; '{unit.value}' feeds {kinds}")
        places.extend((unit, node) for _, node in readers)
    return places


def _slope(net: Net, node: OnnxNode, length: int, axis: int) -> np.ndarray:
    left, params = traits(node.type).left, {}
    assert left is not None
    if len(node.inputs) > 1 and (given := net.constant(node.input(1))) is not None:
        params["slope"] = given
    try:
        slope = np.asarray(left(node.attrs, params), np.float64)
    except KeyError:  # it depends on the network's input
        slope = np.zeros(0)
    if slope.size not in (1, length):
        raise CriterionError(f"fold 'graft': PRelu '{node.label}' has neither one slope nor one per channel")
    return np.broadcast_to(slope.reshape(-1), (length,))
