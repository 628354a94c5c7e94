"""Bias correction after pruning: the mean output of the pruned network is brought back to that of the original."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import numpy as np

from pruning.api import PrunedModel, checked
from pruning.calibration import Calibration, channel_means
from pruning.fold import add_offset
from pruning.net import Net


def corrected(pruned: PrunedModel, data: Calibration) -> PrunedModel:
    """Shift the bias of the layer that makes the output by the mean difference over images and S.

    Networks whose output is not made by a Conv, Gemm or MatMul (with its Add) are returned unchanged.
    """
    if pruned.plan is None or not pruned.plan.removed.any() or pruned.masked is None:
        return pruned
    name = pruned.net.outputs[0]
    shape = pruned.original.shapes[name]
    if len(pruned.net.outputs) != 1 or len(shape) < 2:
        return pruned
    before = channel_means(pruned.original, [(name, 1)], data)[name, 1]
    shift = before - channel_means(pruned.net, [(name, 1)], data)[name, 1]
    nets = [_shifted(net, name, shift) for net in (pruned.net, pruned.masked)]
    if nets[0] is None or nets[1] is None:
        return pruned
    record = MappingProxyType({**pruned.sidecar, "output_shift": shift.tolist()})
    return checked(replace(pruned, net=nets[0], masked=nets[1], sidecar=record))


def _shifted(net: Net, name: str, shift: np.ndarray) -> Net | None:
    index = net.producer[name]
    node = net.nodes[index]
    nodes = list(net.nodes)
    if node.type in ("Conv", "ConvTranspose", "Gemm"):
        net, (nodes[index],) = add_offset(net, node, shift)
        return net.changed(nodes)
    if node.type == "Add" and len(net.shapes[name]) == 2:
        slot = next((s for s, n in enumerate(node.inputs) if n in net.weights), None)
        if slot is not None and net.weights[node.inputs[slot]].size == len(shift):
            old = net.weights[node.inputs[slot]]
            fresh = net.fresh_name(f"{node.inputs[slot]}_corrected")
            inputs = tuple(fresh if s == slot else n for s, n in enumerate(node.inputs))
            nodes[index] = replace(node, inputs=inputs)
            return net.changed(nodes, {fresh: (old + shift.reshape(old.shape)).astype(old.dtype)})
    return None
