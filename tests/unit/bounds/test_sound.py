"""What every method says about a box holds at every sampled point of it, and is no better than the truth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from tests.strategies import ALL_BLOCKS, build, graphs, relu_graphs
from tests.unit.bounds.cases import METHODS, ROWS, boxes, matrix_for, points_of, some_boxes
from tests.unit.bounds.sound import check_rows, check_sweep
from verifier.graph.ir import Graph


@given(graph=graphs(ALL_BLOCKS), seed=st.integers(0, 2**16))
@settings(max_examples=12, deadline=None)
def test_every_method_holds_at_every_point(graph: Graph, seed: int) -> None:
    case = boxes(graph, *some_boxes(graph.n_inputs, 3, np.random.default_rng(seed)))
    matrix = matrix_for(graph)
    for number, method in enumerate(METHODS.values()):
        known = case.sweep(method)
        check_sweep(case, known, 1e-12)
        for how in ROWS if number % 3 == seed % 3 else ROWS[:1]:
            check_rows(case, *case.rows(known, how, matrix), matrix)


@pytest.mark.parametrize(
    "blocks", [*([kind, "dense", "relu"] for kind in sorted(set(ALL_BLOCKS))), ["mul", "mul", "tanh"]]
)
@pytest.mark.parametrize("how", ROWS)
def test_every_block(blocks: list[str], how: str) -> None:
    """No operator is left to chance."""
    graph = build(2, 2, blocks, seed=3)
    case = boxes(graph, *some_boxes(2, 4, np.random.default_rng(0), widest=3.0))
    matrix = matrix_for(graph)
    for name in ("attributed", "interval with rows", "attributed with rows"):
        known = case.sweep(METHODS[name])
        check_sweep(case, known, 1e-12)
        check_rows(case, *case.rows(known, how, matrix), matrix)


@given(graph=graphs(ALL_BLOCKS, max_blocks=4), seed=st.integers(0, 2**16))
@settings(max_examples=8, deadline=None)
def test_single_precision_keeps_its_margin(graph: Graph, seed: int) -> None:
    """In float32 the claim is the row minus the margin of tolerance.py; the truth is evaluated in float64."""
    case = boxes(graph, *some_boxes(graph.n_inputs, 3, np.random.default_rng(seed)), dtype=torch.float32)
    matrix = matrix_for(graph, torch.float32)
    for name in ("attributed", "attributed with rows"):
        known = case.sweep(METHODS[name])
        check_sweep(case, known, 1e-4)
        for how in ROWS:
            check_rows(case, *case.rows(known, how, matrix), matrix)


@given(graph=relu_graphs(), seed=st.integers(0, 2**16))
@settings(max_examples=8, deadline=None)
def test_methods_are_below_the_relaxed_and_the_exact_programme(graph: Graph, seed: int) -> None:
    """bound <= triangle relaxation with the same intermediate bounds <= exact minimum, for every method."""
    case = boxes(graph, *some_boxes(graph.n_inputs, 1, np.random.default_rng(seed)))
    low, high = case.lower[0].numpy(), case.upper[0].numpy()
    matrix = matrix_for(graph)[-2:]
    exact = oracles.minimise(graph, low, high, matrix.numpy(), exact=True)
    for name in ("interval", "attributed", "interval with rows", "attributed with rows"):
        known = case.sweep(METHODS[name])
        pre = {
            graph.nodes[i].inputs[0]: (bound.lower[0].numpy().ravel(), bound.upper[0].numpy().ravel())
            for i, (bound,) in known.pre.items()
        }
        relaxed = oracles.minimise(graph, low, high, matrix.numpy(), exact=False, pre=pre)
        room = 1e-5 * (1 + np.abs(exact))
        assert (relaxed <= exact + room).all()
        assert (-known.output.upper[0].numpy()[-1] <= relaxed[0] + room[0]).all()  # row -y of the last output
        for how in ROWS:
            assert (case.least(*case.rows(known, how, matrix))[0].numpy() <= relaxed + room).all()


@given(graph=graphs(ALL_BLOCKS, max_blocks=4), seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_interval_arithmetic_of_a_part_lies_inside(graph: Graph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    low, high = some_boxes(graph.n_inputs, 4, rng)
    first, second = (low + (high - low) * t for t in np.sort(rng.random((2, *low.shape)), axis=0))
    whole, part = (boxes(graph, *pair).sweep(METHODS["interval"]) for pair in ((low, high), (first, second)))
    room = 1e-12 * (1 + whole.output.lower.abs() + whole.output.upper.abs())
    assert (part.output.lower >= whole.output.lower - room).all() and (
        part.output.upper <= whole.output.upper + room
    ).all()


@given(graph=graphs(ALL_BLOCKS, max_blocks=4), seed=st.integers(0, 2**16))
@settings(max_examples=8, deadline=None)
def test_a_point_has_its_value(graph: Graph, seed: int) -> None:
    """Boxes without width: every method gives the value itself, and no neuron is unstable."""
    points = np.random.default_rng(seed).normal(size=(3, graph.n_inputs))
    case = boxes(graph, points, points)
    value = oracles.evaluate(graph, points) @ matrix_for(graph).numpy().T
    for name in ("interval", "attributed", "affine", "attributed with rows"):
        known = case.sweep(METHODS[name])
        np.testing.assert_allclose(known.output.lower.numpy(), value[:, : graph.n_outputs], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(known.output.upper.numpy(), value[:, : graph.n_outputs], rtol=1e-8, atol=1e-8)
        for how in ROWS:
            least = case.least(*case.rows(known, how, matrix_for(graph))).numpy()
            np.testing.assert_allclose(least, value, rtol=1e-8, atol=1e-8)


def test_a_stable_network_is_bounded_exactly() -> None:
    """Where no neuron is unstable the row is the network itself."""
    graph = build(2, 2, ["relu", "residual", "concat"], seed=8)
    case = boxes(graph, np.array([[0.3, -0.2]]), np.array([[0.3005, -0.1995]]))
    known = case.sweep(METHODS["attributed"])
    assert known.unstable.tolist() == [0]
    matrix = matrix_for(graph)
    coefficients, bias = case.rows(known, "backward", matrix)
    for _, points in points_of(case):
        truth = oracles.evaluate(graph, points) @ matrix.numpy().T
        np.testing.assert_allclose(points @ coefficients[0].numpy().T + bias[0].numpy(), truth, atol=1e-12)
