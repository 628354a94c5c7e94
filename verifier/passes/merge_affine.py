"""Merge Scale, Shift, Dense and convolutions with their neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verifier.graph.exact import added, matmul, multiplied
from verifier.graph.ir import Graph, Node, Shape
from verifier.passes.rewrite import Rewriter, use_counts

Merge = Callable[[Node, Node, Shape], Node | None]


def merge_affine(graph: Graph) -> Graph:
    """Pairs of affine nodes that are one node: (Shift, Scale), per-channel factors and offsets into Dense and
    convolutions on either side, and Dense after Dense where that costs no more multiplications. Two nodes stay two
    where a number of the merged one would be rounded: in front of what cancels, that would be another network.
    """
    counts = use_counts(graph)
    new = Rewriter(graph)
    for node in graph.nodes:
        merged = True
        while merged:
            merged = False
            front = new.maker.get(new.find(node.inputs[0])) if node.inputs else None
            if front is not None and counts.get(front.output, 1) == 1 and _mergeable(front) and _mergeable(node):
                merge = _MERGES.get((_kind(front), _kind(node)))
                both = merge(front, node, new.shapes[front.inputs[0]]) if merge is not None and front.inputs else None
                if both is not None:
                    node, merged = both, True
        if node.op == "Affine":
            node = _split(new, node)
        new.keep(node)
    return new.done()


def _mergeable(node: Node) -> bool:
    return node.op != "Constant" and node.exact


def _kind(node: Node) -> str:
    return {"Scale": "Affine", "Shift": "Affine"}.get(node.op, node.op)


def _parts(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """(factor, offset) of a Scale, a Shift, or the pair of them while merging."""
    return node.params.get("factor", np.ones(())), node.params.get("offset", np.zeros(()))


def _split(new: Rewriter, node: Node) -> Node:
    """Scale, then Shift, of a merged pair; one of them where the other does nothing."""
    factor, offset = _parts(node)
    if (factor == 1).all():
        return Node("Shift", node.inputs, node.output, {"offset": offset}, source=node.source)
    if not offset.any():
        return Node("Scale", node.inputs, node.output, {"factor": factor}, source=node.source)
    scaled = new.add("Scale", node.inputs, new.shapes[node.output], node, {"factor": factor})
    return Node("Shift", (scaled,), node.output, {"offset": offset}, source=node.source)


def _affine_affine(front: Node, node: Node, shape: Shape) -> Node | None:
    if (front.op, node.op) == ("Scale", "Shift"):
        return None  # the normal form
    (f, a), (g, b) = _parts(front), _parts(node)
    factor, offset = multiplied(f, g), _scaled_plus(a, g, b)
    if factor is None or offset is None:
        return None
    return Node("Affine", front.inputs, node.output, {"factor": factor, "offset": offset}, source=_both(front, node))


def _scaled_plus(value: np.ndarray, factor: np.ndarray, offset: np.ndarray) -> np.ndarray | None:
    """value * factor + offset, or None where that is rounded."""
    scaled = multiplied(value, factor)
    return None if scaled is None else added(scaled, offset)


def _both(front: Node, node: Node) -> str:
    return ", ".join(dict.fromkeys(one.source for one in (front, node) if one.source))


def per_column(array: np.ndarray, width: int) -> np.ndarray | None:
    """`array` as a row along the last axis, where it varies along no other."""
    if array.size == 1:
        return np.full(width, float(array.reshape(())))
    if array.size == array.shape[-1] == width:
        return array.reshape(width)
    return None


def per_channel(array: np.ndarray, rank: int, channels: int) -> np.ndarray | None:
    """`array` as one number per channel (axis 1 of `rank`), where it varies along no other."""
    if array.size == 1:
        return np.full(channels, float(array.reshape(())))
    full = array.reshape((1,) * (rank - array.ndim) + array.shape)
    return full.reshape(channels) if full.size == full.shape[1] == channels else None


def _bias(node: Node, length: int) -> np.ndarray:
    return node.params.get("bias", np.zeros(length))


def _with(
    node: Node, inputs: tuple[str, ...], output: str, weight: np.ndarray | None, bias: np.ndarray | None, source: str
) -> Node | None:
    """`node` with other weights; None where they are rounded."""
    if weight is None or bias is None:
        return None
    params = {"weight": weight, "bias": bias} if bias.any() else {"weight": weight}
    return Node(node.op, inputs, output, params, node.attrs, source)


def _through(weight: np.ndarray, offset: np.ndarray, bias: np.ndarray) -> np.ndarray | None:
    """weight @ offset + bias for rows (n, k), or None where that is rounded."""
    moved = matmul(weight, offset[:, None]) if offset.any() else np.zeros((len(weight), 1))
    return None if moved is None else added(moved[:, 0], bias)


def _affine_dense(front: Node, node: Node, shape: Shape) -> Node | None:
    weight = node.params["weight"]
    factor, offset = (per_column(part, weight.shape[1]) for part in _parts(front))
    if factor is None or offset is None:
        return None
    bias = _through(weight, offset, _bias(node, len(weight)))
    return _with(node, front.inputs, node.output, multiplied(weight, factor), bias, _both(front, node))


def _dense_affine(front: Node, node: Node, shape: Shape) -> Node | None:
    weight = front.params["weight"]
    factor, offset = (per_column(part, len(weight)) for part in _parts(node))
    if factor is None or offset is None:
        return None
    bias = _scaled_plus(_bias(front, len(weight)), factor, offset)
    return _with(front, front.inputs, node.output, multiplied(weight, factor[:, None]), bias, _both(front, node))


def _dense_dense(front: Node, node: Node, shape: Shape) -> Node | None:
    first, second = front.params["weight"], node.params["weight"]
    if second.shape[0] * first.shape[1] > first.size + second.size:
        return None
    bias = _through(second, _bias(front, len(first)), _bias(node, len(second)))
    weight = None if bias is None else matmul(second, first)
    return _with(node, front.inputs, node.output, weight, bias, _both(front, node))


def _affine_conv(front: Node, node: Node, shape: Shape) -> Node | None:
    """A factor per input channel always; an offset only where no zeros are padded around it."""
    weight, groups = node.params["weight"], node.integer("groups")
    factor, offset = (per_channel(part, len(shape), shape[1]) for part in _parts(front))
    if factor is None or offset is None or (offset.any() and any(node.integers("padding"))):
        return None
    out = len(weight)
    ones = (1,) * (weight.ndim - 2)
    per_row = (np.repeat(part.reshape(groups, -1), out // groups, axis=0) for part in (factor, offset))
    scale, shift = (part.reshape(out, -1, *ones) for part in per_row)
    bias: np.ndarray | None = _bias(node, out)
    if offset.any():
        flat = (np.broadcast_to(one, weight.shape).reshape(out, -1) for one in (weight, shift))
        sums = [matmul(row[None], column[:, None]) for row, column in zip(*flat, strict=True)]
        known = [one for one in sums if one is not None]
        bias = added(np.reshape(known, out), _bias(node, out)) if len(known) == out else None
    return _with(node, front.inputs, node.output, multiplied(weight, scale), bias, _both(front, node))


def _conv_affine(front: Node, node: Node, shape: Shape) -> Node | None:
    weight = front.params["weight"]
    factor, offset = (per_channel(part, weight.ndim, len(weight)) for part in _parts(node))
    if factor is None or offset is None:
        return None
    bias = _scaled_plus(_bias(front, len(weight)), factor, offset)
    scale = factor.reshape(-1, *[1] * (weight.ndim - 1))
    return _with(front, front.inputs, node.output, multiplied(weight, scale), bias, _both(front, node))


def _scale_transposed(front: Node, node: Node, shape: Shape) -> Node | None:
    """A factor per input channel into a ConvTranspose; an offset would reach every output differently."""
    weight = node.params["weight"]
    factor, offset = _parts(front)
    row = per_channel(factor, len(shape), shape[1])
    if row is None or offset.any():
        return None
    out = weight.shape[1] * node.integer("groups")
    scaled = multiplied(weight, row.reshape(-1, *[1] * (weight.ndim - 1)))
    return _with(node, front.inputs, node.output, scaled, _bias(node, out), _both(front, node))


def _transposed_affine(front: Node, node: Node, shape: Shape) -> Node | None:
    weight, groups = front.params["weight"], front.integer("groups")
    out = weight.shape[1] * groups
    factor, offset = (per_channel(part, weight.ndim, out) for part in _parts(node))
    if factor is None or offset is None:
        return None
    per_input = np.repeat(factor.reshape(groups, -1), weight.shape[0] // groups, axis=0)
    scaled = multiplied(weight, per_input.reshape(weight.shape[0], -1, *[1] * (weight.ndim - 2)))
    bias = _scaled_plus(_bias(front, out), factor, offset)
    return _with(front, front.inputs, node.output, scaled, bias, _both(front, node))


_MERGES: dict[tuple[str, str], Merge] = {
    ("Affine", "Affine"): _affine_affine,
    ("Affine", "Dense"): _affine_dense,
    ("Dense", "Affine"): _dense_affine,
    ("Dense", "Dense"): _dense_dense,
    ("Affine", "Conv"): _affine_conv,
    ("Conv", "Affine"): _conv_affine,
    ("Affine", "ConvTranspose"): _scale_transposed,
    ("ConvTranspose", "Affine"): _transposed_affine,
}
