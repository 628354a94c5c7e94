"""Rows in float32 about the centre: they hold for the float64 network over the reals, and cost little width."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from torch import Tensor

from tests import oracles
from tests.strategies import RELU_BLOCKS
from tests.strategies import build as random_graph
from tests.unit.bounds.cases import Boxes, boxes
from verifier.bounds.backward import AtInput, part_back
from verifier.bounds.centred import Centred, deviating
from verifier.bounds.sweep import Method, Sweep, sweep
from verifier.graph.ir import Graph, Node
from verifier.ops.patch import Patch

ROWS = Method(affine=False, rows=True)


def cancelling(graph: Graph, rng: np.random.Generator) -> Graph:
    """The same graph with large weights that cancel in pairs, and constants and weights that float32 cannot hold."""
    nodes = []
    for node in graph.nodes:
        params = dict(node.params)
        if "weight" in params:
            weight = params["weight"] * rng.choice([1.0, 1e-6, 300.0])
            if weight.shape[1] > 1 and rng.random() < 0.5:
                weight[:, 1] = -weight[:, 0] * (1 + 1e-6 * rng.normal(size=weight[:, 0].shape))
            params["weight"] = weight
        nodes.append(Node(node.op, node.inputs, node.output, params, node.attrs, node.source))
    return Graph(graph.inputs, graph.outputs, tuple(nodes), graph.shapes)


def swept(case: Boxes, graph: Graph) -> tuple[Centred, Sweep]:
    around = deviating(case.network, graph)
    assert around is not None
    centred = Centred(case.network, around, case.lower, case.upper)
    return centred, sweep(case.network, case.lower, case.upper, case.query, case.inputs, ROWS, centred=centred)


def arguments(graph: Graph, points: np.ndarray) -> list[np.ndarray]:
    """The arguments (M, size) of the ReLUs over the reals, in order."""
    found = []
    for k, node in enumerate(graph.nodes):
        if node.op == "Relu":
            part = Graph(graph.inputs, node.inputs, graph.nodes[:k], graph.shapes)
            found.append(oracles.exactly(part, points).reshape(len(points), -1))
    return found


def outside(bound: tuple[Tensor, Tensor], truth: np.ndarray) -> int:
    """Elements whose values (M, size) leave their bounds (size,)."""
    low, high = ([Fraction(v) for v in t.flatten().tolist()] for t in bound)
    return sum(not a <= v <= b for values in truth for a, v, b in zip(low, values, high, strict=True))


@pytest.mark.parametrize("seed", range(24))
def test_exact_arguments_lie_in_their_intervals(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = list(rng.choice(RELU_BLOCKS, int(rng.integers(1, 4))))
    graph = cancelling(random_graph(3, 2, ["relu", *kinds, "dense", "relu"], seed, 4), rng)
    low = rng.normal(size=(3, 3)) * rng.choice([1.0, 1e3])
    high = low + np.array([[0.0], [1e-7], [0.3]])
    case = boxes(graph, low, high)
    _, known = swept(case, graph)
    for b in range(3):
        points = np.stack([low[b], high[b], np.clip(low[b] + rng.random(3) * (high[b] - low[b]), low[b], high[b])])
        for (bound,), truth in zip(known.pre.values(), arguments(graph, points), strict=True):
            assert outside((bound.lower[b], bound.upper[b]), truth) == 0


@pytest.mark.parametrize("charged", [True, False])
def test_without_the_costs_the_arguments_leave_their_intervals(charged: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle sees what the costs pay for."""

    def free(c: Centred, slot: int, rows: Tensor, bias: Tensor, owner: Tensor, part: Patch) -> AtInput:
        return part_back(c.network, slot, rows, bias, c.relaxations, owner, None, part)

    if not charged:
        monkeypatch.setattr(Centred, "walk", free)
    rng = np.random.default_rng(0)
    first = rng.normal(size=(40, 4))
    first[1::2] = -first[::2] * (1 + 1e-5 * rng.normal(size=(20, 1)))
    second = rng.normal(size=(8, 40))
    second[:, 1::2] = second[:, ::2]  # the product of the two cancels, its rounding does not
    names, weights = ("z0", "z1", "z2"), (rng.normal(size=(4, 3)), first, second)
    dense = [Node("Dense", (x,), y, {"weight": w}) for x, y, w in zip(("x", "a0", "z1"), names, weights, strict=True)]
    nodes = (dense[0], Node("Relu", ("z0",), "a0"), *dense[1:], Node("Relu", ("z2",), "y"))
    graph = Graph(("x",), ("y",), nodes, {"x": (3,), "z0": (4,), "a0": (4,), "z1": (40,), "z2": (8,), "y": (8,)})
    left = 0
    for low in rng.normal(size=(8, 1, 3)):
        case = boxes(graph, low, low + 1e-3)  # few neurons change sides: rows are attained at corners
        _, known = swept(case, graph)
        truth = arguments(graph, oracles.corners(low[0], low[0] + 1e-3))[-1]
        (bound,) = list(known.pre.values())[-1]
        left += outside((bound.lower[0], bound.upper[0]), truth)
    assert (left > 0) is not charged


def test_it_costs_little_width() -> None:
    """Of ordinary weights, an interval gains less than a hundredth of itself; far from 0 no more than near it."""
    for shift in (0.0, 50.0):
        graph = random_graph(4, 2, ["relu", "conv", "relu", "dense", "relu", "dense", "relu"], 3, 16)
        low = np.random.default_rng(3).normal(size=(1, 4)) + shift
        case = boxes(graph, low, low + 0.1)
        _, known = swept(case, graph)
        plain = case.sweep(ROWS)
        for i, (bound,) in known.pre.items():
            width, usual = bound.upper - bound.lower, plain.pre[i][0].upper - plain.pre[i][0].lower
            assert (width <= usual * 1.01 + 1e-6 * width.amax()).all()


def test_a_weight_that_float32_cannot_hold_is_refused() -> None:
    graph = random_graph(2, 1, ["relu"], 0, 4)
    case = boxes(graph, np.zeros((1, 2)), np.ones((1, 2)))
    assert deviating(case.network, graph) is not None
    graph.nodes[0].params["weight"][0, 0] = 1e39
    case = boxes(graph, np.zeros((1, 2)), np.ones((1, 2)))
    assert deviating(case.network, graph) is None
