"""Attacks find what is there, stay in the box, and the replay has the last word."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from onnx import helper

import vnnlib
from tests import models, oracles
from tests.strategies import build
from tests.unit.bounds.cases import Boxes, boxes
from tests.unit.search.tables import table
from verifier.attack.pgd import clause_loss, pgd, row_values, sample
from verifier.attack.replay import Replay
from verifier.bounds.inputs import AffineMap
from verifier.graph.onnx_import import load_model
from verifier.problem.assemble import assemble
from verifier.problem.runtime import Session
from vnnlib import Case, Row


def _case(seed: int, count: int) -> Boxes:
    return boxes(
        build(2, 3, ["relu", "tanh", "dense"], seed), np.full((count, 2), -1.0), np.full((count, 2), [1.0, 0.5])
    )


def _descend(
    case: Boxes, rows: object, steps: int = 40, seed: int = 0, stop: object = lambda: False, found: object = None
) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    where = case.lower, case.upper, case.query
    start, _ = sample(case.network, case.inputs, rows, *where, generator)  # type: ignore[arg-type]
    aim = torch.arange(len(start)) % rows.most  # type: ignore[attr-defined]
    found = found or (lambda points, losses: True)
    points, lowest, runs = pgd(case.network, case.inputs, rows, start, *where, aim, steps, stop, found)  # type: ignore[arg-type]
    return points, lowest.amin(1), runs


def test_losses_are_those_of_the_clauses() -> None:
    """A clause's loss is its worst row, by the numpy evaluation; padding and missing clauses never win or lose."""
    case = _case(0, 6)
    mixed = np.random.default_rng(1).normal(size=(3, 2))
    queries = [[[(0, 0.1), (1, 0.2)], [(2, -0.3)]], [[(1, 0.0)]]]
    rows = table(queries, mixed)
    query = torch.tensor([0, 1, 0, 1, 1, 0])
    points = case.lower + (case.upper - case.lower) * torch.rand(6, 2, generator=torch.Generator().manual_seed(0))
    loss = clause_loss(rows, row_values(case.network, case.inputs, rows, points, query), query)
    values = oracles.evaluate(case.graph, points.numpy()) + points.numpy() @ mixed.T
    for b, q in enumerate(query.tolist()):
        for c in range(2):
            want = max(values[b, r] - rhs for r, rhs in queries[q][c]) if c < len(queries[q]) else np.inf
            assert float(loss[b, c]) == pytest.approx(want)


@pytest.mark.parametrize("seed", range(4))
def test_descent_finds_the_low_points(seed: int) -> None:
    """Against the minimum over a dense grid: most restarts come close, none leaves its box, losses are true."""
    case = _case(seed, 24)
    axis = np.linspace(-1, 1, 41)
    grid = np.stack(np.meshgrid(axis, (axis * 1.5 - 0.5) / 2), -1).reshape(-1, 2)
    values = oracles.evaluate(case.graph, grid)[:, 0]
    rows = table([[[(0, float(values.min()) - 1.0)]]])  # out of reach, so that the descent goes on
    points, loss, _ = _descend(case, rows)
    assert ((points >= case.lower) & (points <= case.upper)).all()
    again = row_values(case.network, case.inputs, rows, points, case.query)[:, 0]
    torch.testing.assert_close(again, loss)
    assert float(loss.min()) <= 1.0 + 0.02 * float(np.ptp(values))
    assert not loss.requires_grad and not points.requires_grad


def test_a_violation_ends_the_descent() -> None:
    case = _case(1, 8)
    least = float(
        oracles.evaluate(case.graph, oracles.corners(*(t[0].numpy() for t in (case.lower, case.upper)))).min(0)[0]
    )
    rows = table([[[(0, least + 0.5)], [(1, -99.0)]]])
    _, loss, runs = _descend(case, rows, 200)
    assert float(loss.min()) <= 0 and runs < 200
    # a hit that the replay does not confirm is no end: lower ones are offered, each twice as low as the one before
    lowest = -99.0 + float(_descend(case, table([[[(0, -99.0)]]]), 200)[1].min())
    offered: list[float] = []
    rows = table([[[(0, lowest + 0.1)]]])
    _, loss, runs = _descend(case, rows, 200, found=lambda points, losses: offered.append(float(losses.min())) or False)
    assert runs == 200 and len(offered) > 1 and all(b < 2 * a < 0 for a, b in itertools.pairwise(offered))
    assert float(loss.min()) <= offered[-1]
    points, loss, runs = _descend(case, table([[[(0, -99.0)]]]), 50, stop=lambda: True)
    assert runs == 0 and bool((loss > 0).all()) and bool(((points >= case.lower) & (points <= case.upper)).all())


def test_the_seed_decides() -> None:
    case, rows = _case(2, 8), table([[[(0, -5.0)], [(1, -5.0), (2, 0.0)]]])
    first, second, third = (_descend(case, rows, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first[0], second[0]) and not torch.equal(first[0], third[0])


def test_parameters_of_an_input_map_are_attacked() -> None:
    case = _case(3, 4)
    offset, matrix = torch.zeros(1, 2).double(), torch.tensor([[[1.0], [0.5]]]).double()
    lower, upper = torch.full((4, 1), -1.0).double(), torch.ones(4, 1).double()
    rows = table([[[(0, -9.0)]]])
    line = Boxes(case.graph, case.network, lower, upper, case.query, AffineMap(offset, matrix))
    points, loss, _ = _descend(line, rows)
    x = points.numpy() * np.array([[1.0, 0.5]])
    np.testing.assert_allclose(oracles.evaluate(case.graph, x)[:, 0] + 9.0, loss.numpy())


def _replay(low: list[float], high: list[float], rows: list[Row], dtype: type = np.float32) -> Replay:
    """y = x_0 + x_1 through ONNX Runtime."""
    data = models.build(
        [helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": (1, 2)}, ["y"], {"w": np.ones((2, 1))}, dtype=dtype
    )
    model = load_model(data)
    name = {np.float32: "float32", np.float64: "float64"}[dtype]
    spec = vnnlib.normalise(vnnlib.build([Case(low, high, [rows])], input_shape=[2], output_shape=[1], dtype=name))
    return Replay.of(model, spec, assemble(model, spec).full, Session(model))


def test_points_are_moved_strictly_inside_the_real_bounds() -> None:
    """0.1 and 0.7 are no float32 numbers: a witness has to lie between them, not on their neighbours outside."""
    replay = _replay([0.1, 0.1], [0.7, 0.7], [Row({}, {0: -1.0}, -1.0)])
    for p in ([0.0, 0.0], [0.1, 0.7], [1.0, 0.4]):
        x = replay.snap(np.array([p]), np.zeros(1, np.int64))[0]
        assert (x >= 0.1).all() and (x <= 0.7).all() and np.array_equal(x, x.astype(np.float32))
    found = replay(np.array([[0.7, 0.7]]), np.zeros(1, np.int64))
    assert found is not None and (found.x <= 0.7).all()
    assert float(found.y[0]) == float(np.float32(found.x[0]) + np.float32(found.x[1]))


def test_a_fixed_input_is_its_nearest_float32() -> None:
    replay = _replay([0.1, 0.0], [0.1, 1.0], [Row({}, {0: -1.0}, -1.0)])
    found = replay(np.array([[0.1, 1.0]]), np.zeros(1, np.int64))
    assert found is not None and found.x[0] == np.float64(np.float32(0.1)) and found.x[1] == 1.0


def test_a_point_that_does_not_violate_is_no_witness() -> None:
    """No tolerance: y >= 1.4 cannot be reached strictly inside, though 0.7 + 0.7 in float32 arithmetic is 1.4."""
    query = np.zeros(2, np.int64)
    assert _replay([0.1, 0.1], [0.7, 0.7], [Row({}, {0: -1.0}, -1.4)])(np.full((2, 2), 0.7), query) is None
    exact = _replay([0.1, 0.1], [0.75, 0.75], [Row({}, {0: -1.0}, -1.5)])
    assert exact(np.full((2, 2), 0.75), query) is not None and exact.tried == 2
    strict = _replay([0.1, 0.1], [0.75, 0.75], [Row({}, {0: -1.0}, -1.5, strict=True)])
    assert strict(np.full((2, 2), 0.75), query) is None
    assert strict(np.zeros((0, 2)), query[:0]) is None and strict.tried == 2


def test_double_precision_models_keep_their_digits() -> None:
    replay = _replay([0.1, 0.1], [0.7, 0.7], [Row({}, {0: -1.0}, -1.4)], np.float64)
    found = replay(np.array([[0.7, 0.7]]), np.zeros(1, np.int64))
    assert found is not None and found.x.tolist() == [0.7, 0.7]
