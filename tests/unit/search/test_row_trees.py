"""Intervals from trees of splits, against samples and the mixed-integer programme of each neuron."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import oracles
from tests.strategies import build as random_graph
from tests.unit.bounds.cases import Boxes, boxes
from verifier.bounds.network import build
from verifier.bounds.relaxed import Ground
from verifier.bounds.sweep import Method
from verifier.budget import never
from verifier.graph.ir import Graph, alive
from verifier.search.row_trees import RowTrees

MANY = 400


def grounds(case: Boxes) -> tuple[Ground, Ground]:
    exact = Ground.of(case.network, case.sweep(Method(affine=False, rows=True)))
    return exact, exact.cast(build(case.graph, torch.float32, case.network.device))


def weights(ground: Ground, queries: int) -> dict[int, torch.Tensor]:
    later = [i for i in ground.network.relus if any(k < i for k in ground.network.relaxed)]
    return {i: torch.ones(queries, len(ground.loose[i]), dtype=torch.float64) for i in later if len(ground.loose[i])}


def run(case: Boxes, exact: Ground, fast: Ground, steps: int) -> tuple[Ground, float]:
    trees, work = RowTrees(case.lower, case.upper, 6), 0.0
    for _ in range(steps):
        found, spent = trees.step(exact, fast, weights(exact, len(case.lower)), never)
        if spent == 0:
            break
        for i in exact.network.relus:
            before, after = exact.pre[i][0], found.pre[i][0]
            assert bool((before.lower <= after.lower).all()) and bool((after.upper <= before.upper).all())
        exact, fast, work = found, found.cast(fast.network), work + spent
    return exact, work


def ends(graph: Graph, name: str, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The true range of a value."""
    part = alive(graph.inputs, (name,), graph.nodes, graph.shapes)
    eye = np.eye(part.n_outputs)
    return oracles.minimise(part, low, high, eye, exact=True), -oracles.minimise(part, low, high, -eye, exact=True)


@pytest.mark.parametrize("seed", range(6))
def test_trees_hold_each_neurons_range_and_come_close_to_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = ["dense", "relu", "residual" if seed % 2 else "dense", "relu", "dense", "relu"]
    graph = random_graph(3, 2, kinds, seed, 5)
    low = rng.normal(size=3)
    high = low + 0.5 + rng.random(3)
    case = boxes(graph, low[None], high[None])
    exact, fast = grounds(case)
    found, work = run(case, exact, fast, MANY)
    assert work > 0 or not weights(exact, 1)
    names = {i: node.inputs[0] for i, node in enumerate(graph) if node.op == "Relu"}
    missing = np.zeros(2)
    for i in weights(exact, 1):
        least, most = ends(graph, names[i], low, high)
        for at, ground in enumerate((exact, found)):
            below, above = (t.flatten().numpy() for t in ground.pre[i][0])
            assert (below <= least + 1e-6).all() and (most - 1e-6 <= above).all()
            missing[at] += (least - below + above - most)[(least < 0) & (most > 0)].sum()
    # what is left is what a few iterates miss where every neuron before is decided
    assert missing[1] <= 0.6 * missing[0] + 1e-5


def test_every_query_has_intervals_that_hold_on_its_own_box() -> None:
    rng = np.random.default_rng(5)
    graph = random_graph(4, 2, ["dense", "relu", "conv", "relu", "residual", "relu"], 5, 8)
    low = rng.normal(size=(3, 4))
    case = boxes(graph, low, low + 0.3 + rng.random((3, 4)))
    exact, fast = grounds(case)
    found, work = run(case, exact, fast, 12)
    assert work > 0
    gained = 0.0
    for q in range(3):
        points = oracles.sample(low[q], case.upper[q].numpy(), 200, rng)
        values = [oracles.evaluate_all(graph, point) for point in points]
        for i, name in ((i, node.inputs[0]) for i, node in enumerate(graph) if node.op == "Relu"):
            z = np.stack([value[name].ravel() for value in values])
            below, above = (t[q].flatten().numpy() for t in found.pre[i][0])
            assert (below <= z.min(0)).all() and (z.max(0) <= above).all()
            was = [t[q].flatten().numpy() for t in exact.pre[i][0]]
            gained += float((was[1] - was[0] - above + below).sum())
    assert gained > 0


def test_where_time_is_up_or_nothing_matters_no_interval_moves() -> None:
    graph = random_graph(4, 2, ["dense", "relu", "dense", "relu", "dense"], 2, 8)
    case = boxes(graph, np.full((1, 4), -1.0), np.full((1, 4), 1.0))
    exact, fast = grounds(case)
    nothing = {i: torch.zeros_like(w) for i, w in weights(exact, 1).items()}
    assert RowTrees(case.lower, case.upper, 6).step(exact, fast, nothing, never) == (exact, 0.0)
    held, _ = RowTrees(case.lower, case.upper, 6).step(exact, fast, weights(exact, 1), lambda: True)
    points = oracles.sample(np.full(4, -1.0), np.full(4, 1.0), 200, np.random.default_rng(0))
    for i, name in ((i, node.inputs[0]) for i, node in enumerate(graph) if node.op == "Relu"):
        z = np.stack([oracles.evaluate_all(graph, point)[name].ravel() for point in points])
        below, above = (t.flatten().numpy() for t in held.pre[i][0])
        assert (below <= z.min(0)).all() and (z.max(0) <= above).all()


def test_a_positive_leaf_alone_does_not_lift_a_row() -> None:
    """Leaves that are closed still count: a row says no more than its least leaf."""
    graph = random_graph(3, 2, ["dense", "relu", "dense", "relu", "dense"], 4, 6)
    case = boxes(graph, np.full((1, 3), -0.8), np.full((1, 3), 0.8))
    exact, fast = grounds(case)
    trees = RowTrees(case.lower, case.upper, 6)
    for _ in range(30):
        exact, spent = trees.step(exact, fast, weights(exact, 1), never)
        if spent == 0:
            break
    for grown in trees.trees.values():
        number = torch.arange(len(grown.splits))
        raised = replace(grown, value=torch.full_like(grown.value, 7.0))
        held = raised.least(number)
        assert bool((held <= torch.where(torch.isinf(grown.done), held, grown.done)).all())
