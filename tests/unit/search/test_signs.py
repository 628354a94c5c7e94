"""Decided neurons: splits lose no point, and rows that hold cut none off that satisfies them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import oracles
from tests.strategies import build
from tests.unit.bounds.cases import boxes, some_boxes
from tests.unit.search import known
from tests.unit.search.tables import domains
from verifier.graph.ir import Graph
from verifier.search.domains import join
from verifier.search.settle import shrink_all
from vnnlib import Case


def _arguments(graph: Graph, x: np.ndarray) -> np.ndarray:
    """The arguments of all ReLU neurons at one point, numbered through."""
    values = oracles.evaluate_all(graph, x)
    return np.concatenate([values[node.inputs[0]].ravel() for node in graph if node.op == "Relu"] or [np.zeros(0)])


def _inside(arguments: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """Which points (M, neurons) keep the decided signs (D,)."""
    decided = signs[signs != 0]
    return (arguments[:, np.abs(decided) - 1] * np.sign(decided) >= 0).all(1)


def test_the_children_of_a_neuron_split_share_all_points() -> None:
    graph = build(2, 2, ["relu", "residual"], 1)
    case = boxes(graph, *some_boxes(2, 3, np.random.default_rng(0)))
    parent = domains(case.lower, case.upper)
    neuron = torch.tensor([0, 3, 5])
    children = parent.split_neuron(neuron)
    assert torch.equal(children.lower, parent.lower.repeat(2, 1)) and torch.equal(
        children.upper, parent.upper.repeat(2, 1)
    )
    assert children.signs[:3, 0].tolist() == [-1, -4, -6] and children.signs[3:, 0].tolist() == [1, 4, 6]
    torch.testing.assert_close(children.share[:3] + children.share[3:], parent.share)
    x = np.random.default_rng(1).normal(size=(50, 2))
    arguments = np.stack([_arguments(graph, point) for point in x])
    for b in range(3):
        sides = [_inside(arguments, children.signs[b + half].numpy()) for half in (0, 3)]
        assert (sides[0] | sides[1]).all()
    mixed = join([children, parent])
    assert mixed.signs.shape == (9, 1) and mixed.signs[6:].eq(0).all()


@pytest.mark.parametrize("seed", range(4))
def test_cutting_with_rows_keeps_what_satisfies_them(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    lower = torch.randn(8, 3, generator=g, dtype=torch.float64)
    upper = lower + torch.rand(8, 3, generator=g, dtype=torch.float64)
    a = torch.randn(8, 2, 3, generator=g, dtype=torch.float64)
    c = -torch.einsum("bdn,bn->bd", a, (lower + upper) / 2) + 0.3 * torch.randn(8, 2, generator=g, dtype=torch.float64)
    c[0, 1] = -torch.inf
    low, high = shrink_all(a, c, lower, upper)
    points = lower[:, None] + torch.rand(8, 2000, 3, generator=g, dtype=torch.float64) * (upper - lower)[:, None]
    holds = (torch.einsum("bdn,bmn->bmd", a, points) + c[:, None] <= 0).all(2)
    inside = ((points >= low[:, None]) & (points <= high[:, None])).all(2)
    assert (inside | ~holds).all() and (~inside).any()


@pytest.mark.parametrize("kind", ["single", "several", "mixed"])
@pytest.mark.parametrize("seed", range(3))
def test_neuron_splits_decide_like_the_exact_programme(seed: int, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifier.engine.strategy.INPUT_SPLIT", 0)
    monkeypatch.setattr("verifier.engine.strategy.FEW_INPUTS", 0)
    rng = np.random.default_rng(seed)
    network = known.net(70 + seed)
    case = Case(np.full(3, -0.5), np.full(3, 0.5), [known._clause(rng, 3, 3, kind)])
    margin = network.worst(case, case.clauses[0])
    for by, sat, method in ((margin - known.GAP, False, "forward"), (margin + known.GAP, True, "crown")):
        spec = known.form([Case(case.lower, case.upper, [known.moved(case.clauses[0], by)])], 3, 3)
        result = known.check(network.model(), spec, known.options(method), sat)
        assert result.settings["split"] == "neurons" and f"{method} is for splits" in result.settings["strategy"]
