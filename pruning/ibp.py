"""Interval bounds in PyTorch for certified training: differentiable with respect to the weights.

Plain intervals (Gowal et al. 2018) over a small cell of S per image; on the whole rectangle they say nothing. For
training only: rounding is not accounted for, so these bounds prove nothing and are never used as such.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pruning import losses
from pruning.errors import CriterionError
from pruning.measure import is_heatmap
from pruning.net import OnnxNode
from pruning.torch_bridge import TorchNet
from verifier.graph.operators import traits

Ends = tuple[Any, Any]


def output_bounds(model: TorchNet, lower: Any, upper: Any) -> Ends:
    """Bounds (n, ...) of the output for inputs between `lower` and `upper`; CriterionError names what has no rule."""
    net = model.net
    values: dict[str, Ends] = {net.inputs[0]: (lower, upper)}
    for node in net.nodes:
        if node.type == "Constant" and not node.inputs:
            continue
        values[node.outputs[0]] = step(model, node, values)
    return values[net.outputs[0]]


def certified_loss(model: TorchNet, lower: Any, upper: Any, labels: Any) -> Any:
    """`worst_loss` of plain interval bounds for inputs between `lower` and `upper`."""
    return worst_loss(*output_bounds(model, lower, upper), labels)


def worst_loss(lower: Any, upper: Any, labels: Any) -> Any:
    """Task loss of the worst output between bounds (n, ...): worst logits for classes, the further end for regression,
    for heatmaps the lowest scores where the target is and the highest everywhere.
    """
    if labels.is_floating_point() and is_heatmap(lower, labels):
        target = losses.spots(lower, labels)
        return (upper.flatten(2).logsumexp(2) - (target * lower.flatten(2)).sum(2)).mean()
    low, high = (side.reshape(len(side), -1) for side in (lower, upper))
    if labels.is_floating_point():
        target = labels.reshape(len(labels), -1)
        return torch.maximum((low - target).pow(2), (high - target).pow(2)).mean()
    chosen = torch.nn.functional.one_hot(labels.reshape(-1).long(), low.shape[1]).bool()
    return torch.nn.functional.cross_entropy(torch.where(chosen, low, high), labels.reshape(-1).long())


def interpolates(node: OnnxNode) -> bool:
    """Whether the node resizes: it is linear, and its weights are not negative where `rising` says so."""
    return node.type in ("Resize", "Upsample")


def rising(node: OnnxNode) -> bool:
    """True if the outputs of this node do not fall when its input rises (weights of an interpolation included)."""
    if interpolates(node):
        return node.attrs.get("mode", b"nearest") in (b"nearest", b"linear")
    return len(node.outputs) == 1 and traits(node.type).rises(node.attrs)


def step(model: TorchNet, node: OnnxNode, values: dict[str, Ends]) -> Ends:
    """Interval of the first output of a node; CriterionError if it has no rule."""
    data = [name for name in node.inputs if name in values]
    if node.type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and data == [node.inputs[0]]:
        return _linear(model, node, values[data[0]])
    if data == [node.inputs[0]] and rising(node):
        low, high = values[data[0]]
        return model.run_node(node, [low]), model.run_node(node, [high])
    if node.type == "Concat" and len(data) == len(node.inputs):
        axis = int(node.attrs["axis"])
        return tuple(torch.cat([values[name][side] for name in data], axis) for side in (0, 1))  # type: ignore[return-value]
    if node.type in ("Add", "Sub"):
        pairs = [values[name] if name in values else (model.weight(name),) * 2 for name in node.inputs]
        (a, b), (c, d) = pairs
        return (a + c, b + d) if node.type == "Add" else (a - d, b - c)
    if node.type == "BatchNormalization" or (
        node.type in ("Mul", "Div") and len(data) == 1 and node.inputs[0] in values
    ):
        ends = [model.run_node(node, [side]) for side in values[data[0]]]
        return torch.minimum(*ends), torch.maximum(*ends)
    raise CriterionError(f"the certified loss has no interval rule for node '{node.label}' ({node.type})")


def _linear(model: TorchNet, node: OnnxNode, pair: Ends) -> Ends:
    """Centre and radius: one application with the weights, one with their absolute values."""
    low, high = pair
    middle = model.run_node(node, [(low + high) / 2])
    absolute: Callable[[Any], Any] = lambda weight: weight.abs()  # noqa: E731
    radius = model.run_node(node, [(high - low) / 2], change=absolute, offset=False)
    return middle - radius, middle + radius
