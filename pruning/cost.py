"""Size of a network: parameters, multiply-accumulates and non-linear neurons, for one sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.net import Net, OnnxNode, parameter_count
from pruning.rules.elementwise import NON_LINEAR


@dataclass(frozen=True)
class NetworkCost:
    """Counts for one sample; `nonlinear` counts the elements that enter activations or max pooling."""

    parameters: int
    macs: int
    nonlinear: int


def cost(net: Net) -> NetworkCost:
    """Count; nodes of unknown shape count nothing."""
    macs = sum(_macs(net, node) for node in net.nodes)
    kinds = NON_LINEAR | {"MaxPool", "GlobalMaxPool"}
    return NetworkCost(parameter_count(net), macs, sum(_size(net, n.input(0)) for n in net.nodes if n.type in kinds))


def _macs(net: Net, node: OnnxNode) -> int:
    weight = net.constant(node.input(1))
    if node.type == "MatMul" and weight is None:
        weight = net.constant(node.input(0))
    if weight is None:
        return 0
    if node.type == "Conv":
        return _size(net, node.outputs[0]) * int(np.prod(weight.shape[1:]))
    if node.type == "ConvTranspose":
        return _size(net, node.input(0)) * int(np.prod(weight.shape[1:]))
    if node.type in ("Gemm", "MatMul") and weight.ndim == 2:
        data = node.input(0) if node.input(0) not in net.weights else node.input(1)
        inner = weight.shape[0] if data == node.input(0) and not node.attrs.get("transB", 0) else weight.shape[1]
        return _size(net, node.outputs[0]) * inner
    return 0


def _size(net: Net, name: str) -> int:
    return int(np.prod(net.shapes[name], dtype=np.int64)) if name in net.shapes else 0
