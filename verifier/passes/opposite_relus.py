"""Merge ReLU neurons that are copies or mirror images of each other."""

from __future__ import annotations

import numpy as np

from verifier.graph.exact import added, matmul, summed_exactly
from verifier.graph.ir import Graph, Node
from verifier.passes.drop_identity import pick
from verifier.passes.rewrite import Rewriter, use_counts

_WORTH_IT = 0.75  # share of the layer's ReLUs that may remain, for a skip connection to pay
_START = 8  # elements by which most rows are told apart
_BALANCE = 16.0  # by how much the larger of two opposite coefficients may exceed the smaller: four bits are lost


def opposite_relus(graph: Graph) -> Graph:
    """Dense - Relu - Dense with fewer ReLUs, where rows of the first repeat each other up to sign.

    relu(-z) = relu(z) - z exactly, so neurons c1 relu(z) + c2 relu(-z) become (c1 + c2) relu(z) - c2 z: one ReLU, or
    none where c1 + c2 = 0, and an affine term that bypasses the layer. A min or max written with four ReLUs (two-level
    lattice networks) is left with one. Rows of zeros are constants.

    Only where sums of coefficients are not rounded, and where c1 and c2 are of about the same size: with c2 far larger
    than c1, the rewritten sum would cancel on the side where z > 0, and whoever computes it would lose c1 z.
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
    if node.op != "Dense" or not node.exact:
        return None
    relu = new.maker.get(new.find(node.inputs[0]))
    if relu is None or relu.op != "Relu" or counts.get(relu.output) != 1:
        return None
    first = new.maker.get(new.find(relu.inputs[0]))
    if first is None or first.op != "Dense" or counts.get(first.output) != 1 or not first.exact:
        return None
    return first, relu


def _rewrite(new: Rewriter, first: Node, relu: Node, second: Node) -> bool:
    weight, readers = first.params["weight"], second.params["weight"]
    bias = first.params.get("bias", np.zeros(len(weight)))
    direction, sign = _directions(weight, bias)
    varies = np.asarray(weight.any(axis=1))
    chosen = np.unique(direction[varies])  # a neuron is its direction's representative where direction == own index
    if len(chosen) == len(weight) and np.count_nonzero(readers.any(axis=0)) > _WORTH_IT * len(weight):
        return False  # no two are of one direction
    column = np.searchsorted(chosen, direction)
    plus, minus = (np.zeros((len(readers), len(chosen))) for _ in range(2))
    for target, wanted in ((plus, 1.0), (minus, -1.0)):
        mine = np.flatnonzero(varies & (sign == wanted))
        np.add.at(target.T, column[mine], readers.T[mine])
    coefficients = added(plus, minus)
    if coefficients is None or not _merges_exactly(readers, column, varies) or not _balanced(plus, minus):
        return False
    active = np.flatnonzero(coefficients.any(axis=0))
    if len(active) > _WORTH_IT * len(weight):
        return False
    constant = _constant(second, readers[:, ~varies], np.maximum(bias[~varies], 0.0))
    if constant is None:
        return False
    lead = new.shapes[first.output][:-1]
    out = (*lead, len(readers))
    used = np.flatnonzero(minus.any(axis=0))
    if not len(active):  # all coefficients cancel
        if len(used):
            return False
        whole = np.broadcast_to(constant, out).copy()
        new.add("Constant", [], out, second, {"value": whole}, output=second.output)
        return True
    if not len(used):
        value = _neurons(new, first, weight[chosen[active]], bias[chosen[active]])
        value = new.add("Relu", [value], (*lead, len(active)), relu)
        new.add("Dense", [value], out, second, _params(coefficients[:, active], constant), output=second.output)
        return True
    past = matmul(-minus[:, used], weight[chosen[used]]), _through(-minus[:, used], bias[chosen[used]], constant)
    if past[0] is not None and past[1] is not None:
        value = _neurons(new, first, weight[chosen[active]], bias[chosen[active]])
        bypass = new.add("Dense", first.inputs, out, second, _params(past[0], past[1]))
    else:  # the product of the two layers would be rounded: read the arguments themselves
        both = np.union1d(active, used)
        arguments = _neurons(new, first, weight[chosen[both]], bias[chosen[both]])
        value = _picked(new, arguments, np.searchsorted(both, active), second)
        bypass = _picked(new, arguments, np.searchsorted(both, used), second)
        bypass = new.add("Dense", [bypass], out, second, _params(-minus[:, used], constant))
    value = new.add("Relu", [value], (*lead, len(active)), relu)
    value = new.add("Dense", [value], out, second, _params(coefficients[:, active], np.zeros(len(readers))))
    new.add("Add", [value, bypass], out, second, output=second.output)
    return True


def _neurons(new: Rewriter, first: Node, weight: np.ndarray, bias: np.ndarray) -> str:
    shape = (*new.shapes[first.output][:-1], len(weight))
    return new.add("Dense", first.inputs, shape, first, _params(weight, bias))


def _picked(new: Rewriter, name: str, positions: np.ndarray, like: Node) -> str:
    shape = new.shapes[name]
    if len(positions) == shape[-1]:
        return name
    output = new.fresh(name, (*shape[:-1], len(positions)))
    new.keep(pick(name, output, len(shape) - 1, positions, like.source))
    return output


def _merges_exactly(readers: np.ndarray, column: np.ndarray, varies: np.ndarray) -> bool:
    """Whether the coefficients of neurons of one direction add up without rounding."""
    groups = (readers[:, varies & (column == direction)] for direction in np.unique(column[varies]))
    return all(summed_exactly(group, 1) for group in groups if group.shape[1] > 1)


def _balanced(plus: np.ndarray, minus: np.ndarray) -> bool:
    large, small = np.maximum(np.abs(plus), np.abs(minus)), np.minimum(np.abs(plus), np.abs(minus))
    return bool((large <= _BALANCE * small)[minus != 0].all())


def _constant(second: Node, factors: np.ndarray, values: np.ndarray) -> np.ndarray | None:
    """What the second Dense adds, with the neurons that do not vary; None where that is rounded."""
    bias = second.params.get("bias", np.zeros(len(factors)))
    return _through(factors, values, bias) if values.any() else bias


def _through(weight: np.ndarray, values: np.ndarray, offset: np.ndarray) -> np.ndarray | None:
    product = matmul(weight, values[:, None])
    return None if product is None else added(product[:, 0], offset)


def _directions(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For every row of (weight | bias) the first row that equals it or its negative exactly, and which (1 or -1)."""
    start = np.abs(np.concatenate([bias[:, None], weight[:, :_START]], axis=1))
    _, group, sizes = np.unique(start, axis=0, return_inverse=True, return_counts=True)
    seen: dict[bytes, int] = {}
    direction, sign = np.arange(len(weight)), np.ones(len(weight))
    for index in np.flatnonzero(sizes[group.reshape(-1)] > 1).tolist():
        row = np.append(weight[index], bias[index]) + 0.0  # -0.0 becomes 0.0
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
