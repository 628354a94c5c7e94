"""One bounding step on random networks: a box is dropped only when nothing in it violates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from tests.strategies import ALL_BLOCKS, build, graphs
from tests.unit.bounds.cases import METHODS, Boxes, boxes, points_of, some_boxes
from tests.unit.search.tables import domains, table
from verifier.bounds.bound import Setting
from verifier.bounds.inputs import AffineMap, IdentityMap
from verifier.bounds.network import Network, narrowed
from verifier.budget import never
from verifier.graph.ir import Graph
from verifier.problem.rows import RowTable
from verifier.search.bounding import Bounded, bound_boxes
from verifier.search.halving import clip, suggest

Clauses = list[list[tuple[int, float]]]


def _values(case: Boxes, mixed: np.ndarray | None, points: np.ndarray) -> np.ndarray:
    """Every row at points (M, n): (M, R)."""
    y = oracles.evaluate(case.graph, points)
    return y if mixed is None else y + points @ mixed.T


def _step(case: Boxes, rows: RowTable, name: str, single: Network | None = None) -> Bounded:
    batch = domains(case.lower, case.upper, case.query)
    return bound_boxes(Setting(case.graph, case.network, rows, case.inputs, single), batch, METHODS[name], never)


def _check(
    case: Boxes, queries: list[Clauses], mixed: np.ndarray | None, name: str, single: Network | None = None
) -> tuple[int, int]:
    """Counts (violated boxes, dropped boxes) after checking everything a step claims."""
    bounded = _step(case, table(queries, mixed, case.network.dtype), name, single)
    alive = bounded.alive.tolist()
    violated = 0
    kept, cut_down = clip(domains(case.lower, case.upper, case.query).select(bounded.alive), bounded)
    where = {alive[int(position)]: i for i, position in enumerate(_positions(bounded, cut_down))}
    for b, points in points_of(case):
        clauses = queries[int(case.query[b])]
        values = _values(case, mixed, points)
        hold = np.stack([np.all([values[:, r] <= rhs for r, rhs in clause] or [np.ones(len(points), bool)], axis=0)
                         for clause in clauses] or [np.zeros(len(points), bool)])  # fmt: skip
        if hold.any():
            violated += 1
            assert b in alive, "a box with a violating point was dropped"
            assert b in where, "clipping dropped a box with a violating point"
            hit = points[hold.any(0)]
            inside = (hit >= kept.lower[where[b]].double().numpy()) & (hit <= kept.upper[where[b]].double().numpy())
            assert inside.all(), "clipping cut off a violating point"
        if b in alive:
            i = alive.index(b)
            for c, clause in enumerate(clauses):
                worst = max((values[:, r] - rhs).min() for r, rhs in clause) if clause else -np.inf
                together = np.max([values[:, r] - rhs for r, rhs in clause], axis=0).min() if clause else -np.inf
                room = 0.0 if case.network.dtype == torch.float64 else 1e-4  # float32 proposes, and proves nothing
                assert float(bounded.scores[i, c]) <= max(worst, together) + room
    return violated, len(case.lower) - len(alive)


def _positions(bounded: Bounded, cut_down: Bounded) -> list[int]:
    """Places in `bounded` of the boxes that survived the clip."""
    place = {int(a): i for i, a in enumerate(bounded.alive)}
    return [place[int(a)] for a in cut_down.alive]


def _queries(case: Boxes, mixed: np.ndarray | None, count: int, rng: np.random.Generator) -> list[Clauses]:
    """Right-hand sides on, just above and just below sampled values: the hardest ones."""
    points = np.concatenate([p for _, p in points_of(case)])
    values = _values(case, mixed, points)
    queries: list[Clauses] = []
    for _ in range(count):
        clauses: Clauses = []
        for _ in range(int(rng.integers(1, 4))):
            target = values[rng.integers(len(values))]
            if rng.random() < 0.5:
                target = values.min(0)
            offset = rng.choice([0.0, 0.0, 1e-6, -1e-6, -0.3, -3.0])
            members = rng.permutation(values.shape[1])[: int(rng.integers(1, values.shape[1] + 1))]
            clauses.append([(int(r), float(target[r] + offset)) for r in members])
        queries.append(clauses)
    return queries


@given(graph=graphs(ALL_BLOCKS, max_blocks=4), seed=st.integers(0, 2**16), with_inputs=st.booleans())
@settings(max_examples=40, deadline=None)
def test_only_boxes_without_a_violation_are_dropped(graph: Graph, seed: int, with_inputs: bool) -> None:
    rng = np.random.default_rng(seed)
    case = boxes(graph, *some_boxes(graph.n_inputs, 5, rng))
    free = IdentityMap(torch.arange(graph.n_inputs).repeat(3, 1))
    case = replace(case, query=torch.tensor([0, 1, 1, 0, 2]), inputs=free)
    mixed = rng.normal(size=(graph.n_outputs, graph.n_inputs)) if with_inputs else None
    queries = _queries(case, mixed, 3, rng)
    for name in ("interval", "attributed", "attributed with rows"):
        _check(case, queries, mixed, name)


@pytest.mark.parametrize("in_single", [True, False], ids=["f32", "f64"])
@pytest.mark.parametrize("name", ["interval", "attributed", "attributed with rows"])
def test_both_outcomes_occur(in_single: bool, name: str) -> None:
    """The same check over many networks, and a count that shows it sees violated and proven boxes."""
    violated = dropped = narrow = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        graph = build(2, 3, list(rng.choice(ALL_BLOCKS, 3)), seed)
        low, high = (t.astype(np.float32).astype(np.float64) for t in some_boxes(2, 6, rng, widest=0.4))
        case = boxes(graph, low, high)
        case = replace(case, inputs=IdentityMap(torch.arange(2)[None]))
        single = narrowed(case.network, graph) if in_single else None
        some = _check(case, _queries(case, None, 1, rng), None, name, single)
        violated, dropped, narrow = violated + some[0], dropped + some[1], narrow + (single is not None)
    assert violated > 8 and dropped > 8 and (narrow > 4) == in_single


def test_clauses_without_rows_and_queries_without_clauses() -> None:
    """A clause without rows is always violated; a query without clauses never is."""
    case = boxes(build(2, 2, ["relu"], 0), np.zeros((3, 2)), np.ones((3, 2)))
    query = torch.tensor([0, 1, 2])
    case = Boxes(
        case.graph,
        case.network,
        case.lower,
        case.upper,
        query,
        AffineMap(torch.zeros(3, 2).double(), torch.eye(2).double().repeat(3, 1, 1)),
    )
    rows = table([[[]], [], [[(0, -100.0)]]])
    bounded = _step(case, rows, "attributed")
    assert bounded.alive.tolist() == [0] and float(bounded.value) == -torch.inf
    points, asked = suggest(domains(case.lower, case.upper, query).select(bounded.alive), bounded)
    assert len(points) == 2 and asked.tolist() == [0, 0]


def test_suggested_points_are_corners_of_their_boxes_and_their_centres() -> None:
    case = boxes(build(2, 2, ["relu", "dense", "relu"], 1), *some_boxes(2, 6, np.random.default_rng(4)))
    bounded = _step(case, table([[[(0, 50.0)], [(1, 50.0), (0, 50.0)]]]), "attributed")
    alive = domains(case.lower, case.upper).select(bounded.alive)
    points, _ = suggest(alive, bounded)
    assert len(alive) == 6 and len(points) == 12
    assert ((points[:6] == alive.lower) | (points[:6] == alive.upper)).all()
    torch.testing.assert_close(points[6:], (alive.lower + alive.upper) / 2)
    # the corner is where the linear row of the worst clause is least
    worst = bounded.scores.argmin(1)
    for b in range(6):
        rows = (bounded.clause[b] == worst[b]).nonzero()[:, 0]
        k = rows[bounded.low[b, rows].argmax()]
        corners = torch.from_numpy(oracles.corners(alive.lower[b].numpy(), alive.upper[b].numpy()))
        values = corners @ bounded.coefficients[b, k]
        assert float(points[b] @ bounded.coefficients[b, k]) == pytest.approx(float(values.min()))


@pytest.mark.parametrize("name", ["attributed", "interval", "attributed with rows"])
def test_splits_follow_what_matters(name: str) -> None:
    """An input that the network ignores, or that has no width, is never the best one to split."""
    graph = build(2, 2, ["relu", "dense", "relu"], 2)
    first = graph.nodes[0]
    weight = first.params["weight"].copy()
    weight[:, 1] = 0.0
    nodes = (type(first)(first.op, first.inputs, first.output, {**first.params, "weight": weight}), *graph.nodes[1:])
    case = boxes(
        Graph(graph.inputs, graph.outputs, nodes, dict(graph.shapes)),
        np.full((2, 2), -1.0),
        np.array([[1.0, 9.0], [1.0, -1.0]]),
    )
    bounded = _step(case, table([[[(0, 50.0)]]]), name)
    assert len(bounded.alive) == 2
    assert (bounded.branch[:, 0] > bounded.branch[:, 1]).all()
    assert float(bounded.branch[1, 1]) == 0.0 and not bounded.branch.isnan().any()


def test_a_second_pass_over_the_open_boxes_keeps_its_places() -> None:
    """Rows for what the cheap bounds leave open: positions and values of the whole batch."""
    graph = build(2, 2, ["relu", "dense"] * 3, 3, width=8)
    case = boxes(graph, *some_boxes(2, 60, np.random.default_rng(0), 2.5))
    least = oracles.evaluate(case.graph, case.lower.numpy())[:, 0]
    rows = table([[[(0, float(np.quantile(least, 0.05)))]]])
    cheap = _step(case, rows, "attributed")
    open_boxes = domains(case.lower, case.upper).select(cheap.alive)
    setting = Setting(case.graph, case.network, rows, case.inputs)
    tight = bound_boxes(setting, open_boxes, METHODS["attributed with rows"], never)
    merged = tight.renumbered(cheap.alive, cheap.values)
    assert 0 < len(merged.alive) < len(cheap.alive) < 60
    assert set(merged.alive.tolist()) <= set(cheap.alive.tolist())
    assert (merged.values >= cheap.values).all() and torch.equal(merged.values[merged.alive], merged.value)
    assert set((merged.values <= 0).nonzero()[:, 0].tolist()) == set(merged.alive.tolist())
