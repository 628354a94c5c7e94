"""Rounded factors and offsets into the Dense or convolution before them: a BatchNormalization costs nothing."""

from __future__ import annotations

import numpy as np

from verifier.graph.enclose import FLOOR
from verifier.graph.ir import ROUNDINGS, Graph, Node
from verifier.passes.merge_affine import per_channel, per_column
from verifier.passes.rewrite import Rewriter, use_counts

_UNIT = 2.0**-53
_SMALLEST = 1e-290  # of a product that is off by one rounding, relatively


def absorb_factors(graph: Graph) -> Graph:
    """Scale with `roundings`, and then Shift, behind a Dense, Conv or ConvTranspose that nothing else reads.

    The merged weight is a product of two numbers, so it is off by the roundings of both and one more; the bias carries
    its error. Passes that compute with weights have to come before this one. Exact factors are merge_affine's.
    """
    counts = use_counts(graph)
    new = Rewriter(graph)
    for node in graph.nodes:
        front = new.maker.get(new.find(node.inputs[0])) if node.op in ("Scale", "Shift") else None
        merged = None
        if front is not None and counts.get(front.output) == 1 and front.op in ("Dense", "Conv", "ConvTranspose"):
            channels = new.shapes[front.output][-1 if front.op == "Dense" else 1]
            if node.op == "Scale" and not node.exact:
                merged = _scaled(front, node, channels, len(new.shapes[node.output]))
            elif node.op == "Shift" and "roundings" in front.params:
                merged = _shifted(front, node, channels, len(new.shapes[node.output]))
        new.keep(node if merged is None else merged)
    return new.done()


def _along(array: np.ndarray, front: Node, channels: int, rank: int) -> np.ndarray | None:
    return per_column(array, channels) if front.op == "Dense" else per_channel(array, rank, channels)


def _scaled(front: Node, node: Node, channels: int, rank: int) -> Node | None:
    factor = _along(node.params["factor"], front, channels, rank)
    own = float(node.params["roundings"])
    off = own + 1 + float(front.params.get("roundings", 0.0))
    if factor is None or off > ROUNDINGS or ("bias_error" in front.params and front.params["bias_error"].size > 1):
        return None
    old = front.params["weight"]
    weight = old * _over_weight(front, factor)
    size = np.abs(weight[(old != 0) & (_over_weight(front, factor) != 0)])
    if not np.isfinite(weight).all() or (size.size and size.min() < _SMALLEST):
        return None
    params = {"weight": weight, "roundings": np.array(off)}
    before = front.params.get("bias", np.zeros(channels))
    bias = before * factor  # which may underflow
    error = (own + 2) * _UNIT * np.abs(bias) + np.abs(factor) * front.params.get("bias_error", np.zeros(())) * 1.001
    moved = (error > 0) | ((before != 0) & (factor != 0))
    return _node(front, node, params, bias, error + np.where(moved, FLOOR, 0.0), rank)


def _shifted(front: Node, node: Node, channels: int, rank: int) -> Node | None:
    offset = _along(node.params["offset"], front, channels, rank)
    more = _along(node.params.get("bias_error", np.zeros(())), front, channels, rank)
    before = _along(front.params.get("bias_error", np.zeros(())), front, channels, rank)
    if offset is None or more is None or before is None:
        return None
    bias = front.params.get("bias", np.zeros(channels)) + offset
    rounding = 2 * _UNIT * np.abs(bias) if "bias" in front.params else 0.0
    error = (more + before + rounding) * (1 + 8 * _UNIT)
    params = {name: front.params[name] for name in ("weight", "roundings")}
    return _node(front, node, params, bias, error, rank)


def _over_weight(front: Node, factor: np.ndarray) -> np.ndarray:
    """One factor per output channel (O,), broadcastable to the weight."""
    weight = front.params["weight"]
    if front.op != "ConvTranspose":
        return factor.reshape(-1, *[1] * (weight.ndim - 1))
    groups = front.integer("groups")
    each = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    return each.reshape(weight.shape[0], -1, *[1] * (weight.ndim - 2))


def _node(
    front: Node, node: Node, params: dict[str, np.ndarray], bias: np.ndarray, error: np.ndarray, rank: int
) -> Node | None:
    if not np.isfinite(bias).all() or not np.isfinite(error).all():
        return None
    if bias.any():
        params["bias"] = bias
    if error.any():
        params["bias_error"] = error if front.op == "Dense" else error.reshape(-1, *[1] * (rank - 2))
    source = ", ".join(dict.fromkeys(one.source for one in (front, node) if one.source))
    return Node(front.op, front.inputs, node.output, params, front.attrs, source)
