"""A batch is the same as its boxes one by one, float32 agrees with float64, and the input maps mean what they say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import ALL_BLOCKS, GraphBuilder, build, graphs
from tests.unit.bounds.cases import METHODS, ROWS, Boxes, boxes, matrix_for, some_boxes
from tests.unit.bounds.sound import check_rows, check_sweep
from verifier.bounds.inputs import AffineMap, IdentityMap
from verifier.bounds.network import build as bind
from verifier.bounds.sweep import ALL_ROWS as rows_by_device
from verifier.bounds.sweep import Sweep, sweep
from verifier.budget import OutOfTime
from verifier.graph.ir import Graph, Node


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


def close_sweeps(a: Sweep, b: Sweep, tolerance: float = 1e-9) -> None:
    for i, bounds in a.pre.items():
        for one, other in zip(bounds, b.pre[i], strict=True):
            close(one.lower, other.lower, tolerance)
            close(one.upper, other.upper, tolerance)
    close(a.output.lower, b.output.lower, tolerance)
    close(a.output.upper, b.output.upper, tolerance)


@given(graph=graphs(ALL_BLOCKS, max_blocks=4), seed=st.integers(0, 2**16))
@settings(max_examples=6, deadline=None)
def test_a_batch_equals_single_calls(graph: Graph, seed: int) -> None:
    case = boxes(graph, *some_boxes(graph.n_inputs, 3, np.random.default_rng(seed)))
    matrix = matrix_for(graph)
    for name in ("interval", "attributed", "affine with rows", "rows in small chunks"):
        together = case.sweep(METHODS[name])
        rows = case.least(*case.rows(together, "backward", matrix))
        for b in range(3):
            alone = case.one(b).sweep(METHODS[name])
            close(together.output.lower[b : b + 1], alone.output.lower)
            close(together.output.upper[b : b + 1], alone.output.upper)
            assert int(together.unstable[b]) == int(alone.unstable[0])
            close(rows[b], case.one(b).least(*case.one(b).rows(alone, "backward", matrix))[0])


@pytest.mark.parametrize("how", ROWS[1:])
def test_a_batch_climbs_like_single_boxes(how: str) -> None:
    """Fixed networks: where a coefficient is 0 up to rounding, its sign is chance and so is the next step."""
    for seed, blocks in enumerate([["relu", "dense", "relu"], ["residual", "tanh"], ["sigmoid", "dense", "leaky"]]):
        graph = build(3, 2, blocks, seed)
        centre = np.random.default_rng(seed).normal(size=(4, 3))
        case = boxes(graph, centre - 0.4, centre + 0.4)
        matrix, known = matrix_for(graph), case.sweep(METHODS["attributed"])
        together = case.least(*case.rows(known, how, matrix))
        for b in range(4):
            alone = case.one(b)
            close(together[b], alone.least(*alone.rows(alone.sweep(METHODS["attributed"]), how, matrix))[0], 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_all_elements_are_no_looser(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device that is not to be waited for: elements that need no rows have some, too."""
    graph = build(3, 2, ["relu", "residual", "relu", "concat", "dense"], seed, 6)
    case = boxes(graph, *some_boxes(3, 5, np.random.default_rng(seed)))
    usual = case.sweep(METHODS["attributed with rows"])
    monkeypatch.setitem(rows_by_device, "cpu", 256)
    every = case.sweep(METHODS["attributed with rows"])
    check_sweep(case, every, 1e-12)
    for i, bounds in every.pre.items():
        for one, other in zip(bounds, usual.pre[i], strict=True):
            room = 1e-12 * (1 + other.lower.abs() + other.upper.abs())
            assert bool((one.lower >= other.lower - room).all()) and bool((one.upper <= other.upper + room).all())


def test_chunks_do_not_matter() -> None:
    graph = build(3, 2, ["relu", "residual", "mul", "conv"], seed=4)
    case = boxes(graph, *some_boxes(3, 5, np.random.default_rng(2)))
    close_sweeps(case.sweep(METHODS["attributed with rows"]), case.sweep(METHODS["rows in small chunks"]), 1e-12)


@pytest.mark.parametrize("blocks", [["relu", "dense", "relu"], ["residual", "tanh", "concat"], ["mul", "reduce_max"]])
@pytest.mark.parametrize("name", ["interval", "attributed", "attributed with rows"])
def test_both_precisions_agree(blocks: list[str], name: str) -> None:
    graph = build(3, 2, blocks, seed=6)
    low, high = (t.astype(np.float32) for t in some_boxes(3, 6, np.random.default_rng(3)))
    single, double = boxes(graph, low, high, torch.float32), boxes(graph, low, high)
    known = [case.sweep(METHODS[name]) for case in (single, double)]
    close_sweeps(known[0], known[1], 2e-4)
    least = [
        case.least(*case.rows(k, "backward", matrix_for(graph, case.network.dtype)))
        for case, k in zip((single, double), known, strict=True)
    ]
    close(least[0], least[1], 2e-4)


@given(graph=graphs(ALL_BLOCKS, max_blocks=4), seed=st.integers(0, 2**16))
@settings(max_examples=6, deadline=None)
def test_inputs_that_only_carry_rounding(graph: Graph, seed: int) -> None:
    """A fixed input of a rounding's width is no generator, and still inside every bound."""
    rng = np.random.default_rng(seed)
    low, high = some_boxes(graph.n_inputs, 3, rng)
    fixed = int(rng.integers(graph.n_inputs))
    low[:, fixed] = rng.normal(size=3)
    high[:, fixed] = low[:, fixed] + 1e-3 * (rng.random(3) > 0.5)  # wider than a rounding, so that losing it shows
    free = [i for i in range(graph.n_inputs) if i != fixed] or [-1]
    case = boxes(graph, low, high, free=free)
    matrix = matrix_for(graph)
    for name in ("interval", "affine", "attributed", "attributed with rows"):
        known = case.sweep(METHODS[name])
        check_sweep(case, known, 1e-12)
        check_rows(case, *case.rows(known, "backward", matrix), matrix)


def test_queries_with_different_free_inputs_share_a_batch() -> None:
    graph = build(3, 2, ["relu", "dense", "relu"], seed=5)
    network = bind(graph, torch.float64, torch.device("cpu"))
    inputs = IdentityMap(torch.tensor([[0, 1], [2, -1]]))
    lower = torch.tensor([[-1.0, 0.0, 0.5], [0.2, 0.3, -1.0]], dtype=torch.float64)
    upper = torch.tensor([[1.0, 0.5, 0.5], [0.2, 0.3, 1.0]], dtype=torch.float64)
    case = Boxes(graph, network, lower, upper, torch.tensor([0, 1]), inputs)
    for name in ("attributed", "affine"):
        known = case.sweep(METHODS[name])
        check_sweep(case, known, 1e-12)
        assert inputs.columns(case.query).tolist() == [[0, 1], [2, -1]]


def _mapped(seed: int, d: int = 2) -> tuple[Boxes, list[Boxes]]:
    """Boxes under an affine map of their query, and the same boxes of networks that begin with the map."""
    rng = np.random.default_rng(seed)
    graph = build(4, 2, ["relu", "residual", "sigmoid"], seed=seed)
    matrix, offset = rng.normal(size=(2, 4, d)), rng.normal(size=(2, 4))
    low, high = some_boxes(d, 4, rng)
    query = torch.tensor([0, 1, 1, 0])
    inputs = AffineMap(torch.from_numpy(offset), torch.from_numpy(matrix))
    network = bind(graph, torch.float64, torch.device("cpu"))
    case = Boxes(graph, network, torch.from_numpy(low), torch.from_numpy(high), query, inputs)
    composed = []
    for b, q in enumerate(query.tolist()):
        first = Node("Dense", ("p",), "x", {"weight": matrix[q], "bias": offset[q]})
        whole = Graph(("p",), ("y",), (first, *graph.nodes), {**graph.shapes, "p": (d,)})
        composed.append(boxes(whole, low[b], high[b]))
    return case, composed


@pytest.mark.parametrize("name", ["affine", "attributed", "attributed with rows"])
@pytest.mark.parametrize("seed", [0, 1])
def test_an_input_map_is_a_first_layer(name: str, seed: int) -> None:
    """Bounds under x = A p + a equal those of the network with A p + a in front; both hold."""
    case, composed = _mapped(seed)
    known = case.sweep(METHODS[name])
    matrix = matrix_for(case.graph)
    for how in ROWS:
        coefficients, bias = case.rows(known, how, matrix)
        for b, other in enumerate(composed):
            there = other.sweep(METHODS[name])
            close(known.output.lower[b : b + 1], there.output.lower)
            tolerance = 1e-9 if how == "backward" else 1e-4
            close(
                case.one(b).least(coefficients[b : b + 1], bias[b : b + 1]),
                other.least(*other.rows(there, how, matrix)),
                tolerance,
            )
            check_rows(other, coefficients[b : b + 1], bias[b : b + 1], matrix)


def test_intervals_alone_start_from_the_maps_box() -> None:
    """Without affine forms the hull of A p + a is what the network sees."""
    case, composed = _mapped(3)
    known = case.sweep(METHODS["interval"])
    for b, other in enumerate(composed):
        close(known.output.lower[b : b + 1], other.sweep(METHODS["interval"]).output.lower)


def test_constants_get_the_batch_of_the_boxes() -> None:
    builder = GraphBuilder(2, 0)
    constant = builder.add("Constant", (), (3,), params={"value": np.array([1.0, -2.0, 0.5])})
    hidden = builder.add("Relu", (builder.dense("x", 3),), (3,))
    total = builder.add("Concat", (constant, hidden), (6,), attrs={"axis": 0})
    total = builder.add("Mul", (total, total), (6,))
    graph = builder.finish(total, 2)
    case = boxes(graph, *some_boxes(2, 3, np.random.default_rng(0)))
    for method in METHODS.values():
        known = case.sweep(method)
        check_sweep(case, known, 1e-12)
        check_rows(case, *case.rows(known, "alpha", matrix_for(graph)), matrix_for(graph))


def test_an_output_that_depends_on_no_input() -> None:
    value = np.array([1.0, -2.0])
    graph = Graph(("x",), ("y",), (Node("Constant", (), "y", {"value": value}),), {"x": (2,), "y": (2,)})
    case = boxes(graph, np.zeros((3, 2)), np.ones((3, 2)))
    for method in METHODS.values():
        known = case.sweep(method)
        assert known.output.lower.tolist() == known.output.upper.tolist() == [value.tolist()] * 3
        for how in ROWS:
            least = case.least(*case.rows(known, how, torch.eye(2, dtype=torch.float64))).numpy()
            assert (least <= value).all() and (least >= value - 2e-14).all()


def test_the_budget_ends_a_sweep_between_chunks() -> None:
    graph = build(2, 2, ["relu", "dense", "relu", "dense", "relu"], seed=1)
    case = boxes(graph, np.full((2, 2), -2.0), np.full((2, 2), 2.0))
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    method = replace(METHODS["attributed with rows"], row_elements=1)
    with pytest.raises(OutOfTime):
        sweep(case.network, case.lower, case.upper, case.query, case.inputs, method, stop)
    assert len(asked) == 4


def _past(calls: Iterator[int], most: int) -> bool:
    """Whether this is a later call than the first `most`."""
    return next(calls) >= most


def test_rows_that_are_left_out_leave_looser_bounds() -> None:
    """After any number of chunks: the intervals hold, and are no wider than without rows."""
    graph = build(2, 2, ["relu", "dense", "relu", "dense", "relu"], seed=1)
    case = boxes(graph, np.full((2, 2), -2.0), np.full((2, 2), 2.0))
    where = case.network, case.lower, case.upper, case.query, case.inputs
    method = replace(METHODS["interval with rows"], row_elements=1)
    plain, full = case.sweep(METHODS["interval"]), case.sweep(method)
    widths = []
    for most in (0, 2, 5, 1000):
        known = sweep(*where, method, enough=partial(_past, iter(range(10_000)), most))
        check_sweep(case, known, 1e-12)
        total = 0.0
        for i, (x,) in known.pre.items():
            loose = plain.pre[i][0]
            assert (x.lower >= loose.lower).all() and (x.upper <= loose.upper).all()
            total += float((x.upper - x.lower).sum())
        widths.append(total)
    assert widths[0] == sum(float((x.upper - x.lower).sum()) for (x,) in plain.pre.values())
    assert widths[-1] == sum(float((x.upper - x.lower).sum()) for (x,) in full.pre.values())
    assert widths == sorted(widths, reverse=True) and widths[0] > widths[1] > widths[-1]


def test_queries_with_fewer_free_inputs_need_fewer_generators() -> None:
    """The forms of a batch are as wide as the query with most free inputs, and mean what wider ones do."""
    graph = build(4, 2, ["relu", "dense", "mul", "relu"], seed=5)
    free = torch.tensor([[2, -1, -1], [0, -1, -1], [0, 1, 3]])
    centre = np.random.default_rng(1).normal(size=(3, 4))
    radius = np.zeros((3, 4))
    for q, columns in enumerate(free.tolist()):
        radius[q, [i for i in columns if i >= 0]] = 0.3
    case = boxes(graph, centre - radius, centre + radius)
    ragged = replace(case, query=torch.arange(3), inputs=IdentityMap(free))
    padded = replace(ragged, inputs=IdentityMap(free))
    padded.inputs.__dict__["_even"] = True  # as if all had as many
    for name in ("attributed", "affine with rows"):
        few, many = (part.sweep(METHODS[name]) for part in (select(ragged, [0, 1]), select(padded, [0, 1])))
        assert all(moves.shape[1] == 1 for reach in few.reach.values() for moves in reach)
        assert all(moves.shape[1] == 3 for reach in many.reach.values() for moves in reach)
        close_sweeps(few, many, 1e-6)
        check_sweep(select(ragged, [0, 1]), few, 1e-12)
        every = ragged.sweep(METHODS[name])
        assert all(moves.shape[1] == 3 for reach in every.reach.values() for moves in reach)
        check_sweep(ragged, every, 1e-12)


def select(case: Boxes, which: list[int]) -> Boxes:
    return replace(case, lower=case.lower[which], upper=case.upper[which], query=case.query[which])
