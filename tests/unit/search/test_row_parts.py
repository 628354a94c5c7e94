"""Rows over the output in parts: what a step finds is what it finds with all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch

from tests import oracles
from tests.strategies import build
from tests.unit.bounds.cases import METHODS, Boxes, boxes, points_of
from tests.unit.search.tables import domains, table
from verifier.bounds import bound
from verifier.bounds.sweep import Method
from verifier.budget import OutOfTime, never
from verifier.problem.rows import RowTable

ROWS, BOXES = 7, 3
WAYS = {**METHODS, "alpha": Method(rows=True, alpha_steps=3)}


def _case(seed: int, open_box: float = 100.0) -> tuple[Boxes, RowTable]:
    """Clauses of one row each, all of them possible; the first box is proven where `open_box` is what its rows ask."""
    graph = build(3, ROWS, ["relu", "sigmoid", "dense", "mul", "relu"], seed)
    rng = np.random.default_rng(seed)
    low = rng.uniform(-1, 0.5, (BOXES, 3))
    case = boxes(graph, low, low + rng.uniform(0.1, 1.0, (BOXES, 3)))
    case.query[:] = torch.arange(BOXES)
    asked = [[[(row, 100.0 if q else open_box)] for row in rng.permutation(ROWS)] for q in range(BOXES)]
    inputs = bound.IdentityMap(torch.arange(3).expand(BOXES, 3))
    return Boxes(graph, case.network, case.lower, case.upper, case.query, inputs), table(
        asked, rng.normal(size=(ROWS, 3))
    )


def _bounds(
    case: Boxes, rows: RowTable, method: Method, stop: Callable[[], bool] = never, turn: bound.Turn = lambda: never
) -> bound.Bounds:
    batch = domains(case.lower, case.upper, case.query)
    return bound.bound(bound.Setting(case.graph, case.network, rows, case.inputs), batch, method, stop, turn)


def in_parts(patch: pytest.MonkeyPatch, elements: int) -> None:
    patch.setattr(bound, "OUTPUT_ELEMENTS", {"cpu": 0})
    patch.setattr(bound, "LARGE_ROWS", {"cpu": elements})


@pytest.mark.parametrize("name", list(WAYS))
@pytest.mark.parametrize("elements", [1, 90])
@pytest.mark.parametrize("open_box", [100.0, -1e6])
def test_parts_find_what_all_rows_at_once_find(
    name: str, elements: int, open_box: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(3):
        case, rows = _case(seed, open_box)
        whole = _bounds(case, rows, WAYS[name])
        with monkeypatch.context() as patched:
            in_parts(patched, elements)
            parts = _bounds(case, rows, WAYS[name])
            blamed = [parts.blame(torch.full_like(whole.alive, k)) for k in range(ROWS)]
        assert len(whole.alive) == BOXES - (open_box < 0) and whole.column.shape[1] == ROWS
        assert parts.alive.tolist() == whole.alive.tolist() and parts.column.tolist() == whole.column.tolist()
        for field in ("low", "coefficients", "constant"):
            torch.testing.assert_close(getattr(parts, field), getattr(whole, field), rtol=1e-9, atol=1e-9)
        for k, mine in enumerate(blamed):
            torch.testing.assert_close(mine, whole.blame(torch.full_like(whole.alive, k)), rtol=1e-9, atol=1e-9)


def _past(calls: Iterator[int], most: int) -> bool:
    """Whether this is a later call than the first `most`."""
    return next(calls) >= most


@pytest.mark.parametrize("most", [0, 2, 1000])
def test_rows_in_parts_and_those_that_are_left_out_are_bounds(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled points are above every linear function and every bound, however many rows there was time for."""
    in_parts(monkeypatch, 1)
    for name, method in WAYS.items():
        case, rows = _case(len(name))
        # one count of looks at the clock for all kinds of rows
        found = _bounds(case, rows, method, turn=partial(partial, _past, iter(range(10_000)), most))
        row, rhs = (t[found.alive].gather(1, found.column) for t in (rows.row, rows.rhs))
        assert rows.mixed is not None and len(found.alive) == BOXES
        flat = (found.coefficients == 0).all(2)
        before = found.forward.gather(1, found.column)
        assert (found.low[flat] <= before[flat]).all() and (found.low[flat] >= before[flat] - 1e-9).all()
        assert bool(flat[:, 1:].all()) if most == 0 else most == 2 or not bool(flat.any())
        assert torch.isfinite(found.blame(torch.full_like(found.alive, ROWS - 1))).all()
        for b, points in points_of(case):
            values = oracles.evaluate(case.graph, points) + points @ rows.mixed.numpy().T
            values = values[:, row[b].numpy()] - rhs[b].numpy()
            lines = points @ found.coefficients[b].numpy().T + found.constant[b].numpy()
            assert (lines <= values + 1e-9).all() and (found.low[b].numpy() <= values + 1e-9).all()


def test_the_budget_ends_rows_between_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    case, rows = _case(0)
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > len(case.network.ops) + 2  # once per operator of the sweep

    in_parts(monkeypatch, 1)
    with pytest.raises(OutOfTime):
        _bounds(case, rows, METHODS["affine"], stop)
    assert len(asked) == len(case.network.ops) + 3
