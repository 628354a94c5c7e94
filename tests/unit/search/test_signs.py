"""Decided neurons: what a step says about a subproblem holds at its points, and neuron splits lose none of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import oracles
from tests.strategies import build, relu_graphs
from tests.unit.bounds.cases import METHODS, Boxes, boxes, some_boxes
from tests.unit.search import test_solve as known
from tests.unit.search.tables import domains, table
from verifier.graph.ir import Graph
from verifier.search.bab import clip
from verifier.search.bounding import bound_boxes
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


def _random_signs(case: Boxes, arguments: list[np.ndarray], depth: int, rng: np.random.Generator) -> torch.Tensor:
    """Signs as they are at some point of each box, or (rarely) against it; padding anywhere."""
    rows = []
    for values in arguments:
        at = values[rng.integers(len(values))]
        neurons = rng.permutation(len(at))[:depth]
        sides = np.where(at[neurons] >= 0, 1, -1) * np.where(rng.random(len(neurons)) < 0.1, -1, 1)
        row = np.where(rng.random(len(neurons)) < 0.2, 0, sides * (neurons + 1))
        rows.append(np.pad(row, (0, depth - len(row))))
    return torch.tensor(np.array(rows), dtype=torch.int64)


def _check(graph: Graph, seed: int, name: str) -> tuple[int, int]:
    """(violated subproblems, dropped subproblems), after checking that no violated one is dropped or cut."""
    rng = np.random.default_rng(seed)
    case = boxes(graph, *some_boxes(graph.n_inputs, 6, rng, widest=2.0))
    points = [oracles.sample(low.numpy(), high.numpy(), 40, rng).astype(np.float64).clip(low.numpy(), high.numpy())
              for low, high in zip(case.lower, case.upper, strict=True)]  # fmt: skip
    arguments = [np.stack([_arguments(graph, x) for x in some]) for some in points]
    signs = _random_signs(case, arguments, 3, rng)
    values = [oracles.evaluate(graph, some) for some in points]
    rhs = float(np.median([v[:, 0].min() for v in values])) + float(rng.choice([0.0, -0.1]))
    bounded = bound_boxes(case.network, table([[[(0, rhs)]]]), domains(case.lower, case.upper, signs=signs),
                          case.inputs, METHODS[name], lambda: False)  # fmt: skip
    kept, _ = clip(domains(case.lower, case.upper, signs=signs).select(bounded.alive), bounded)
    alive, violated = bounded.alive.tolist(), 0
    for b in range(len(points)):
        inside = _inside(arguments[b], signs[b].numpy())
        hits = points[b][inside & (values[b][:, 0] <= rhs)]
        violated += len(hits) > 0
        if len(hits):
            assert b in alive, "a subproblem with a violating point was dropped"
            covered = [((kept.lower.numpy() <= x) & (x <= kept.upper.numpy())).all(1).any() for x in hits]
            assert all(covered), "clipping cut off a violating point"
        if b in alive and inside.any():
            i = alive.index(b)
            claimed = hits @ bounded.coefficients[i].numpy().T + bounded.constant[i].numpy()
            assert (claimed <= 1e-13).all(), "a row does not hold at a violating point"
            # neuron intervals may use that a violation is left, so the rows are about violating points only, too
            rows = hits @ bounded.sign_coefficients[i].numpy().T + bounded.sign_constant[i].numpy()
            assert (rows <= 1e-9).all(), "a sign row does not hold at a violating point on its own side"
    return violated, len(points) - len(alive)


@given(graph=relu_graphs(), seed=st.integers(0, 2**16))
@example(graph=build(1, 1, ["relu", "relu"], 0, width=3), seed=0)  # sign rows that fail where nothing is violated
@settings(max_examples=20, deadline=None)
def test_subproblems_keep_their_violating_points(graph: Graph, seed: int) -> None:
    if any(node.op == "Relu" for node in graph):
        for name in ("interval", "attributed", "attributed with rows"):
            _check(graph, seed, name)


def test_both_outcomes_occur() -> None:
    counts = [_check(build(2, 2, ["relu", "dense", "relu"], seed), seed, "attributed") for seed in range(10)]
    assert sum(c[0] for c in counts) > 10 and sum(c[1] for c in counts) > 10


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
    monkeypatch.setattr("verifier.engine.INPUT_SPLIT", 0)
    monkeypatch.setattr("verifier.engine.FEW_INPUTS", 0)
    rng = np.random.default_rng(seed)
    network = known.net(70 + seed)
    case = Case(np.full(3, -0.5), np.full(3, 0.5), [known._clause(rng, 3, 3, kind)])
    margin = network.worst(case, case.clauses[0])
    for by, sat in ((margin - known.GAP, False), (margin + known.GAP, True)):
        spec = known.form([Case(case.lower, case.upper, [known.moved(case.clauses[0], by)])], 3, 3)
        for method in ("forward", "crown"):
            result = known.check(network.model(), spec, known.options(method), sat)
            assert result.settings["split"] == "neurons"
