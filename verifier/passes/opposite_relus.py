"""Merge ReLU neurons that are copies or mirror images of each other."""

from __future__ import annotations

import numpy as np

from verifier.graph.ir import Graph, Node
from verifier.passes.rewrite import Rewriter, use_counts

_WORTH_IT = 0.75  # share of the layer's ReLUs that may remain, for a skip connection to pay


def opposite_relus(graph: Graph) -> Graph:
    """Dense - Relu - Dense with fewer ReLUs, where rows of the first repeat each other up to sign.

    relu(-z) = relu(z) - z exactly, so neurons c1 relu(z) + c2 relu(-z) become (c1 + c2) relu(z) - c2 z: one ReLU, or
    none where c1 + c2 = 0, and an affine term that bypasses the layer. A min or max written with four ReLUs (two-level
    lattice networks) is left with one. Rows of zeros are constants.
    """
    counts = use_counts(graph)
    new = Rewriter(graph)
    for node in graph.nodes:
        pair = _layer(new, node, counts)
        if pair is None or not _rewrite(new, *pair, node):
            new.keep(node)
    return new.done()


def _layer(new: Rewriter, node: Node, counts: dict[str, int]) -> tuple[Node, Node] | None:
    """(first Dense, Relu) in front of the Dense `node`, where nothing else reads them."""
    if node.op != "Dense":
        return None
    relu = new.maker.get(new.find(node.inputs[0]))
    if relu is None or relu.op != "Relu" or counts.get(relu.output) != 1:
        return None
    first = new.maker.get(new.find(relu.inputs[0]))
    return (first, relu) if first is not None and first.op == "Dense" and counts.get(first.output) == 1 else None


def _rewrite(new: Rewriter, first: Node, relu: Node, second: Node) -> bool:
    weight, readers = first.params["weight"], second.params["weight"]
    bias = first.params.get("bias", np.zeros(len(weight)))
    direction, sign = _directions(weight, bias)
    varies = weight.any(axis=1)
    chosen = np.unique(direction[varies])  # a neuron is its direction's representative where direction == own index
    column = np.searchsorted(chosen, direction)
    plus, minus = (np.zeros((len(readers), len(chosen))) for _ in range(2))
    for target, wanted in ((plus, 1.0), (minus, -1.0)):
        mine = np.flatnonzero(varies & (sign == wanted))
        np.add.at(target.T, column[mine], readers.T[mine])
    coefficients = plus + minus
    active = np.flatnonzero(coefficients.any(axis=0))
    if len(active) > _WORTH_IT * len(weight) or not len(active):
        return False
    constant = second.params.get("bias", np.zeros(len(readers)))
    constant = constant + readers[:, ~varies] @ np.maximum(bias[~varies], 0.0) - minus @ bias[chosen]
    shape, middle = new.shapes[first.output], (*new.shapes[first.output][:-1], len(active))
    out = (*shape[:-1], len(readers))
    rows = chosen[active]
    value = new.add("Dense", first.inputs, middle, first, _params(weight[rows], bias[rows]))
    value = new.add("Relu", [value], middle, relu)
    if not minus.any():
        new.add("Dense", [value], out, second, _params(coefficients[:, active], constant), output=second.output)
        return True
    value = new.add("Dense", [value], out, second, _params(coefficients[:, active], np.zeros(len(readers))))
    bypass = new.add("Dense", first.inputs, out, second, _params(-(minus @ weight[chosen]), constant))
    new.add("Add", [value, bypass], out, second, output=second.output)
    return True


def _directions(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every row of (weight | bias) the first row that equals it or its negative exactly, and which (1 or -1)."""
    rows = np.concatenate([weight, bias[:, None]], axis=1) + 0.0  # -0.0 becomes 0.0
    seen: dict[bytes, int] = {}
    direction, sign = np.arange(len(rows)), np.ones(len(rows))
    for index, row in enumerate(rows):
        found = seen.get(row.tobytes())
        mirror = seen.get((0.0 - row).tobytes()) if found is None else None
        if found is not None:
            direction[index] = found
        elif mirror is not None:
            direction[index], sign[index] = mirror, -1.0
        else:
            seen[row.tobytes()] = index
    return direction, sign


def _params(weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
    return {"weight": weight, "bias": bias} if bias.any() else {"weight": weight}
