"""alpha-CROWN climbs, never falls, and stops when told to; any parameters are sound."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from tests.strategies import ALL_BLOCKS, build, graphs
from tests.unit.bounds.cases import METHODS, ROWS, Boxes, boxes, matrix_for, some_boxes
from tests.unit.bounds.sound import check_rows
from verifier.bounds.alpha import tighten
from verifier.bounds.backward import walk_back
from verifier.graph.ir import Graph


def _case(blocks: list[str], seed: int = 0, width: int = 6, widest: float = 2.0, count: int = 4) -> Boxes:
    graph = build(3, 3, blocks, seed, width)
    return boxes(graph, *some_boxes(3, count, np.random.default_rng(seed), widest))


def _arguments(case: Boxes, matrix: torch.Tensor) -> tuple[tuple, tuple]:
    batch = len(case.lower)
    where = case.network, case.lower, case.upper, case.query, case.inputs
    return where, (matrix.expand(batch, *matrix.shape).clone(), torch.zeros(batch, len(matrix), dtype=matrix.dtype))


@given(graph=graphs(ALL_BLOCKS), seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_any_parameters_are_sound(graph: Graph, seed: int) -> None:
    case = boxes(graph, *some_boxes(graph.n_inputs, 3, np.random.default_rng(seed)))
    known = case.sweep(METHODS["attributed"])
    generator = torch.Generator().manual_seed(seed)
    planes = {}
    for i, bounds in known.pre.items():
        alphas = [
            torch.rand(t.shape, generator=generator, dtype=t.dtype) for t in case.network.ops[i].default_alpha(*bounds)
        ]
        planes[i] = case.network.ops[i].relax_at(*bounds, alpha_lower=alphas[0], alpha_upper=alphas[1])
    matrix = matrix_for(graph)
    _, (rows, bias) = _arguments(case, matrix)
    check_rows(case, *walk_back(case.network, case.network.output, rows, bias, planes), matrix)


@given(graph=graphs(ALL_BLOCKS), seed=st.integers(0, 2**16))
@settings(max_examples=6, deadline=None)
def test_never_below_crown(graph: Graph, seed: int) -> None:
    case = boxes(graph, *some_boxes(graph.n_inputs, 3, np.random.default_rng(seed)))
    matrix = matrix_for(graph)
    for name in ("interval", "attributed with rows"):
        known = case.sweep(METHODS[name])
        base = case.least(*case.rows(known, "backward", matrix))
        room = 1e-12 * (1 + base.abs())
        assert (case.least(*case.rows(known, "alpha", matrix)) >= base - room).all()


@pytest.mark.parametrize(
    "blocks", [["relu", "dense", "relu", "dense", "relu"], ["leaky", "dense", "abs"], ["sigmoid", "dense", "tanh"],
               ["mul", "reduce_max"], ["sin", "dense", "exp"], ["residual", "concat", "clip"]]
)  # fmt: skip
def test_the_ascent_gains(blocks: list[str]) -> None:
    """More steps gain more, on every family of operators."""
    case = _case(blocks)
    matrix = matrix_for(case.graph)
    known = case.sweep(METHODS["attributed"])
    least = [case.least(*case.rows(known, "alpha", matrix, steps)) for steps in (0, 1, 4, 16)]
    for worse, better in itertools.pairwise(least):
        assert (better >= worse - 1e-12).all()
    assert float((least[-1] - least[0]).max()) > 1e-3


def test_the_optimum_of_one_layer_is_the_programme_s() -> None:
    """With one layer of unstable neurons the best parameters reach the triangle relaxation's optimum (Salman 2019)."""
    graph = build(2, 2, ["relu"], seed=2, width=8)
    case = boxes(graph, np.array([[-1.0, -1.0]]), np.array([[1.0, 1.0]]))
    known = case.sweep(METHODS["attributed"])
    matrix = matrix_for(graph)
    best = case.least(*case.rows(known, "alpha", matrix, 120))[0].numpy()
    relaxed = oracles.minimise(graph, case.lower[0].numpy(), case.upper[0].numpy(), matrix.numpy(), exact=False)
    base = case.least(*case.rows(known, "backward", matrix))[0].numpy()
    assert (relaxed - best <= 0.02 * (relaxed - base) + 1e-4).all()
    assert (relaxed - base).max() > 0.05


def test_each_row_climbs_by_itself() -> None:
    """A row's result does not depend on the rows beside it."""
    case = _case(["relu", "dense", "relu"])
    known, matrix = case.sweep(METHODS["attributed"]), matrix_for(case.graph)
    together = case.rows(known, "alpha", matrix, 8)
    for k in range(len(matrix)):
        alone = case.rows(known, "alpha", matrix[k : k + 1], 8)
        torch.testing.assert_close(together[0][:, k : k + 1], alone[0], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(together[1][:, k : k + 1], alone[1], rtol=1e-6, atol=1e-6)


def test_bound_and_coefficients_belong_together() -> None:
    """The linear function that is returned attains the bound that is returned: no mix of two iterates."""
    case = _case(["relu", "sigmoid", "relu"], seed=4)
    known, matrix = case.sweep(METHODS["attributed"]), matrix_for(case.graph)
    where, (rows, bias) = _arguments(case, matrix)
    coefficients, constant = tighten(*where, known, rows, bias, 10)
    assert not coefficients.requires_grad and not constant.requires_grad
    check_rows(case, coefficients, constant, matrix)
    base = case.least(*case.rows(known, "backward", matrix))
    assert (case.least(coefficients, constant) >= base - 1e-12).all()


def test_boxes_of_a_larger_sweep() -> None:
    """`owner` picks the boxes that are still open; constant rows over the parameters join in."""
    case = _case(["relu", "dense", "relu"])
    known, matrix = case.sweep(METHODS["attributed"]), matrix_for(case.graph)
    owner = torch.tensor([2, 0])
    _, (rows, bias) = _arguments(case, matrix)
    extra = torch.randn(2, len(matrix), 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    where = case.network, case.lower[owner], case.upper[owner], case.query[owner], case.inputs
    some = tighten(*where, known, rows[owner], bias[owner], 6, owner=owner, extra=extra)
    plain = walk_back(case.network, case.network.output, rows, bias, known.relaxations)
    base = plain[0][owner] + extra, plain[1][owner]
    picked = Boxes(case.graph, case.network, case.lower[owner], case.upper[owner], case.query[owner], case.inputs)
    assert (picked.least(*some) >= picked.least(*base) - 1e-12).all()
    check_rows(picked, some[0] - extra, some[1], matrix)


def test_settled_boxes_leave_the_ascent() -> None:
    """The mask is over all boxes, whatever has left; the others end where they would have ended."""
    case = _case(["relu", "dense", "relu", "dense", "relu"], count=6)
    known, matrix = case.sweep(METHODS["attributed"]), matrix_for(case.graph)
    where, (rows, bias) = _arguments(case, matrix)
    seen: list[torch.Tensor] = []

    def settled(low: torch.Tensor) -> torch.Tensor:
        seen.append(low)
        return (
            torch.tensor([True, True, False, True, True, False]) if len(seen) > 2 else torch.zeros(6, dtype=torch.bool)
        )

    early = case.least(*tighten(*where, known, rows, bias, 8, settled=settled))
    full = case.least(*tighten(*where, known, rows, bias, 8))
    assert all(low.shape == (6, len(matrix)) for low in seen)
    torch.testing.assert_close(early[[2, 5]], full[[2, 5]])
    assert (early <= full + 1e-12).all() and bool((early[[0, 1, 3, 4]] < full[[0, 1, 3, 4]] - 1e-9).any())
    everything = tighten(*where, known, rows, bias, 8, settled=lambda low: torch.ones(6, dtype=torch.bool))
    torch.testing.assert_close(case.least(*everything), case.least(*case.rows(known, "backward", matrix)))


def test_the_budget_is_obeyed_and_what_was_reached_is_kept() -> None:
    case = _case(["relu", "dense", "relu", "dense", "relu"])
    known, matrix = case.sweep(METHODS["attributed"]), matrix_for(case.graph)
    where, (rows, bias) = _arguments(case, matrix)
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    got = case.least(*tighten(*where, known, rows, bias, 50, stop))
    assert len(asked) == 4
    torch.testing.assert_close(got, case.least(*case.rows(known, "alpha", matrix, 3)), rtol=1e-9, atol=1e-9)
    none = case.least(*tighten(*where, known, rows, bias, 50, lambda: True))
    torch.testing.assert_close(none, case.least(*case.rows(known, "backward", matrix)))


def test_the_same_call_gives_the_same_bits() -> None:
    case = _case(["relu", "dense", "sigmoid", "dense", "relu"])
    known, matrix = case.sweep(METHODS["attributed with rows"]), matrix_for(case.graph)
    first, second = (case.rows(known, ROWS[1], matrix, 6) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
