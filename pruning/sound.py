"""Sound folding: removed channels become certified intervals, and a bound delta >= |f - f_pruned| follows.

Each removed entry at the input of a layer that reads it is replaced by the centre of its certified interval over all
calibration images and all of S (idea: Ladner & Althoff, sound network reduction; this bound is our own). Error then
travels through the network: an affine layer maps an error vector e to |W| e, an activation multiplies it by its
Lipschitz constant, and where channels were removed the error is the radius of their interval. A verdict on the pruned
network for one of these images with threshold tau - delta holds for the original with tau. No other fold mode lets
anything carry over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pruning import onnx_io
from pruning.calibration import Calibration
from pruning.errors import CriterionError
from pruning.fold import Constants, readers
from pruning.groups import Groups
from pruning.net import Net, OnnxNode
from pruning.options import ScoreOptions
from pruning.scores.certified import cells, oracle_bounds
from verifier.graph.operators import traits

Intervals = Mapping[tuple[str, int], tuple[np.ndarray, np.ndarray]]
_SLACK = 1 + 1e-9  # float64 sums of non-negative terms are off by less than this factor per layer


def intervals(groups: Groups, removed: np.ndarray, calibration: Calibration, options: ScoreOptions) -> Intervals:
    """Hull over images and cells of each channel entry that a reader of removed channels sees."""
    places = list(dict.fromkeys((cut.data, cut.data_axis) for cut in readers(groups, removed)))
    calibration = calibration.fitted(groups.net)
    grid = cells(calibration.semantic, options.cells)
    found: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}
    for image in calibration.images:
        bounds = oracle_bounds(groups, options, [value for value, _ in places], image[None], grid, calibration)
        for value, axis in places:
            lower, upper = bounds[value]
            others = tuple(a for a in range(lower.ndim) if a != axis + 2)
            low, high = lower.min(others), upper.max(others)
            if (value, axis) in found:
                low, high = np.minimum(low, found[value, axis][0]), np.maximum(high, found[value, axis][1])
            found[value, axis] = (low, high)
    return found


def centres(bounds: Intervals) -> Constants:
    """What stands for removed entries."""
    return {place: (low + high) / 2 for place, (low, high) in bounds.items()}


def transfer_bound(groups: Groups, folded: Net, removed: np.ndarray, bounds: Intervals) -> dict[str, np.ndarray]:
    """delta per output (shape of the output, batch of one), for the network `folded` with centres and the original.

    Both networks are taken in exact arithmetic with their stored weights, as the verifier does; rounding of the folded
    biases to the file's type is part of delta. Raises CriterionError for an operator without a known Lipschitz rule.
    """
    net = groups.net
    errors: dict[str, np.ndarray] = {name: np.zeros(net.shapes[name]) for name in net.inputs}
    after = {node.outputs[0]: node for node in folded.nodes}
    for index, node in enumerate(net.nodes):
        if node.type == "Constant" or all(name in net.weights for name in node.inputs if name):
            continue
        received = dict(errors)
        for cut in groups.cuts:
            if cut.role == "in" and cut.node == index and cut.data_labels is not None:
                received[cut.data] = _with_radii(
                    groups, cut.data, cut.data_axis, cut.data_labels, removed, bounds, errors
                )
        results = _step(net, node, received)
        drift = _offset_drift(groups, folded, after, node, index, removed, bounds)
        for name, value in zip(node.outputs, results, strict=False):
            errors[name] = (value + drift) * _SLACK
    return {name: errors[name] for name in net.outputs}


def _with_radii(
    groups: Groups,
    value: str,
    axis: int,
    labels: np.ndarray,
    removed: np.ndarray,
    bounds: Intervals,
    errors: Mapping[str, np.ndarray],
) -> np.ndarray:
    keep = groups.keep(removed, labels)
    if keep.all():
        return errors[value]
    low, high = bounds[value, axis]
    centre = (low + high) / 2
    radius = np.maximum(high - centre, centre - low)
    shape = [1] * errors[value].ndim
    shape[axis] = -1
    return np.where(keep.reshape(shape), errors[value], radius.reshape(shape))


def _step(net: Net, node: OnnxNode, errors: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Errors of the outputs of one node, by running the node with absolute weights on the errors of its inputs."""
    absolute = _absolute(net, node)
    feeds = {name: errors[name] for name in node.inputs if name in errors}
    found = onnx_io.run_node64(
        net, absolute, feeds, {k: np.abs(v) for k, v in net.weights.items() if v.dtype.kind == "f"}
    )
    factor = traits(node.type).steepness(node.attrs)
    return [np.asarray(value, np.float64) * (1.0 if factor is None else factor) for value in found]


def _absolute(net: Net, node: OnnxNode) -> OnnxNode:
    """The node that maps input errors to output errors when its weights are made non-negative and offsets dropped."""
    data = [name for name in node.inputs if name and name not in net.weights]
    row = traits(node.type)
    known = row.steepness(node.attrs) is not None
    if row.elementwise and known:
        return OnnxNode("Identity", node.inputs[:1], node.outputs)
    if node.type in ("Conv", "ConvTranspose", "Gemm"):
        attrs = {k: (abs(v) if k in ("alpha", "beta") else v) for k, v in node.attrs.items()}
        return replace(node, inputs=node.inputs[:2], attrs=attrs)
    if node.type in ("Add", "Sub", "Sum"):
        if len(data) == 1:  # a stored offset moves both networks alike
            return OnnxNode("Identity", (data[0],), node.outputs)
        return OnnxNode("Add", tuple(data), node.outputs)
    if node.type == "Mul" and len(data) == 1:
        return node
    if node.type == "MatMul" and len(data) == 1:
        return node
    if node.type == "BatchNormalization":
        zero = [f"{node.outputs[0]}_zero", f"{node.outputs[0]}_zero"]
        return replace(node, inputs=(node.inputs[0], node.inputs[1], *zero, node.inputs[4]))
    if known and len(data) >= 1:
        return node
    raise CriterionError(f"fold 'sound': node '{node.label}' ({node.type}) has no error rule")


def _offset_drift(
    groups: Groups,
    folded: Net,
    after: Mapping[str, OnnxNode],
    node: OnnxNode,
    index: int,
    removed: np.ndarray,
    bounds: Intervals,
) -> np.ndarray | float:
    """Rounding of the folded offset to the file's float type: at most one unit in the last place of each bias."""
    cuts = [c for c in readers(groups, removed) if c.node == index]
    if not cuts:
        return 0.0
    held = max(float(np.abs(groups.net.weights[node.input(c.slot)]).sum()) for c in cuts)
    largest = max(float(np.abs(side).max(initial=0.0)) for c in cuts for side in bounds[c.data, c.data_axis])
    bias = groups.net.constant(node.input(2)) if node.type != "MatMul" else None
    alpha, beta = (max(1.0, abs(float(node.attrs.get(name, 1.0)))) for name in ("alpha", "beta"))  # of Gemm
    scale = alpha * held * largest + beta * (float(np.abs(bias).max(initial=0.0)) if bias is not None else 0.0)
    follower = [groups.net.nodes[i] for i in groups.net.consumers.get(node.outputs[0], ())]
    for other in follower:  # a MatMul's offset is folded into the Add that follows it
        scale += max(
            (
                float(np.abs(w).max(initial=0.0))
                for n in other.inputs
                if (w := groups.net.constant(n)) is not None and other.type == "Add"
            ),
            default=0.0,
        )
    return scale * float(np.finfo(np.float32).eps)
