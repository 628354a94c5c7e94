"""The oracles of the certified criteria, from the verifier's bounds.

The clip of the perturbation is put in front of the network as an operator of its own, so it is exact up to the planes
that bound it; the image before the clip is enclosed by an affine form over every cell (`perturbation.enclosure`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pruning import onnx_io
from pruning.calibration import Calibration
from pruning.errors import CriterionError
from pruning.net import Net
from verifier.bounds.backward import walk_back
from verifier.bounds.inputs import AffineMap, centre_radius
from verifier.bounds.network import build
from verifier.bounds.sweep import Method, sweep
from verifier.bounds.zonotope import Twin, sweep_zonotope
from verifier.errors import ModelError
from verifier.graph.ir import Graph, Node
from verifier.graph.onnx_import import load_model
from verifier.passes.flatten_io import flatten_io
from verifier.perturbation.enclosure import ImageMaps

if TYPE_CHECKING:
    from verifier.bounds.zonotope import Zonotope

CELLS_AT_ONCE = 8
"""Cells bounded in one sweep: their noise symbols (hundreds each, times all wanted values) are held together."""

CLIPPED = "image/clipped"


def interval_oracle(
    net: Net, names: Sequence[str], images: np.ndarray, cells: np.ndarray, data: Calibration
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Proved bounds of values inside `net`; shapes as `pruning.scores.certified` says.

    Zonotopes over the parameters with a symbol per unstable neuron (`verifier.bounds.zonotope`), every
    rounding of the bounds included: they hold for the network in exact arithmetic on the float32 image. Raises
    CriterionError for a network the verifier cannot bound.
    """
    wanted = list(dict.fromkeys(names))
    twin = Twin.of(_graph(net, wanted, data.semantic.clip), torch.device("cpu"))
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    with torch.no_grad():
        for image in images:
            maps = ImageMaps.of([data.image_map(image)], torch.device("cpu"))
            for first in range(0, len(cells), CELLS_AT_ONCE):
                box = torch.from_numpy(np.asarray(cells[first : first + CELLS_AT_ONCE], np.float64))
                low, high = (side.contiguous() for side in box.unbind(2))
                query = torch.zeros(len(box), dtype=torch.int64)
                begin, moves = maps.zonotope(*centre_radius(low, high), query, twin.fast.dtype)
                parts.append(_ends(sweep_zonotope(twin, begin, moves)[0]))
    lower, upper = (np.concatenate(side).reshape(len(images), len(cells), -1) for side in zip(*parts, strict=True))
    found, at = {}, 0
    for name in wanted:
        shape = net.shapes[name]
        size = int(np.prod(shape))
        whole = (len(images), len(cells), *shape)
        found[name] = lower[:, :, at : at + size].reshape(whole), upper[:, :, at : at + size].reshape(whole)
        at += size
    return found


def slope_oracle(
    net: Net, names: Sequence[str], images: np.ndarray, cells: np.ndarray, data: Calibration
) -> Mapping[str, np.ndarray]:
    """How strongly the relaxation of each pre-activation enters a bound of the outputs: (n, m, 1, *rest), >= 0.

    Mean over all outputs, each bounded from below and from above, of the absolute coefficient that the row going back
    has at the output of the neuron. Our choice: the criterion knows no property, so every side of every output counts.
    Values that no non-linear operator reads get 0.
    """
    network = build(_graph(net, list(net.outputs), data.semantic.clip), torch.float64, torch.device("cpu"))
    readers = {network.ops[i].node.inputs[0]: i for i in network.relaxed}
    rows = torch.eye(network.m, dtype=torch.float64)
    rows = torch.cat([rows, -rows])
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    with torch.no_grad():
        for image in images:
            maps, query = ImageMaps.of([data.image_map(image)], torch.device("cpu")), torch.zeros(1, dtype=torch.int64)
            for cell in np.asarray(cells, np.float64):
                low, high = (torch.from_numpy(cell[None, :, side].copy()) for side in (0, 1))
                offset, matrix = maps.linear(*centre_radius(low, high), query)  # for a score, not a bound
                inputs = AffineMap(offset, matrix.transpose(1, 2).contiguous())
                planes = sweep(network, low, high, query, inputs, Method()).relaxations
                trace: dict[int, torch.Tensor] = {}
                walk_back(network, network.output, rows[None], rows.new_zeros(1, len(rows)), planes, trace=trace)
                for name in found:
                    held = trace.get(readers.get(name, -1))
                    slope = np.zeros(net.shapes[name]) if held is None else held[0].abs().mean(0).numpy()
                    found[name].append(slope.reshape(net.shapes[name]))
    return {name: np.stack(v).reshape(len(images), len(cells), *net.shapes[name]) for name, v in found.items()}


def _graph(net: Net, names: Sequence[str], clip: bool) -> Graph:
    """The network with outputs `names`, flat on both sides, its input clipped to [0, 1]."""
    try:
        graph = load_model(onnx_io.to_bytes(net, extra_outputs=names)).graph
    except ModelError as error:
        raise CriterionError(f"the verifier cannot read this network, so nothing can be certified: {error}") from error
    if graph.opaque:
        raise CriterionError(f"node '{graph.opaque[0].source}' has no bound rule, so nothing can be certified")
    missing = [name for name in names if name not in graph.shapes]
    if missing:
        raise CriterionError(f"value '{missing[0]}' is not part of the network as the verifier reads it")
    graph = Graph(graph.inputs, tuple(names), graph.nodes, graph.shapes)
    if not clip:
        return flatten_io(graph)
    source = graph.inputs[0]
    inside = source + CLIPPED
    nodes = [Node("Clip", (source,), inside, attrs={"min": 0.0, "max": 1.0}, source="clip of the perturbed image")]
    for node in graph.nodes:
        inputs = tuple(inside if name == source else name for name in node.inputs)
        nodes.append(Node(node.op, inputs, node.output, node.params, node.attrs, node.source))
    shapes = {**graph.shapes, inside: graph.shapes[source]}
    return flatten_io(Graph(graph.inputs, graph.outputs, tuple(nodes), shapes))


def _ends(form: Zonotope) -> tuple[np.ndarray, np.ndarray]:
    bound = form.interval()
    return bound.lower.numpy(), bound.upper.numpy()
