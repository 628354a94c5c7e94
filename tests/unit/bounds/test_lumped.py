"""Affine forms with lumped noise and rounding: sound without a margin, and as tight as the float64 forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import oracles
from tests.strategies import ALL_BLOCKS, GraphBuilder, build, graphs, relu_graphs
from tests.unit.bounds.cases import Boxes, boxes, matrix_for, points_of, some_boxes
from verifier.bounds import lumped
from verifier.bounds.affine import AffineForm, as_interval, generic_form, linear_step
from verifier.bounds.inputs import centre_radius
from verifier.bounds.lumped import Lumped, Prepared, Source, sweep_lumped
from verifier.bounds.zonotope import Twin
from verifier.graph.ir import Graph, Node
from verifier.ops.kinds import Interval, LinearOp, Op, RelaxedOp

CPU = torch.device("cpu")
ORACLE = 1e-13
"""What the float64 oracle itself may be off by, relative to the largest value of the network."""


def bound(graph: Graph, lower: Tensor, upper: Tensor) -> tuple[Lumped, Tensor, Tensor]:
    """The output's forms over boxes (B, n) of the network's own inputs, with the boxes' centres and radii."""
    n = lower.shape[1]
    source = Source.of(torch.zeros(1, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)[None], torch.float32)
    centre, radius = centre_radius(lower, upper)
    radius = radius * (1 + 1e-15)
    query = torch.zeros(len(lower), dtype=torch.int64)
    return sweep_lumped(Prepared.of(Twin.of(graph, CPU)), source, centre, radius, query), centre, radius


def holds(case: Boxes, points: int = 14) -> None:
    """The interval and the linear part hold at sampled points and corners; the oracle computes in float64."""
    out, centre, radius = bound(case.graph, case.lower, case.upper)
    interval = out.interval()
    for b, inside in points_of(case, points):
        values = [oracles.evaluate_all(case.graph, x) for x in inside]
        truth = np.stack([v["y"].reshape(-1) for v in values])
        slack = ORACLE * (1 + max(float(np.abs(t).max()) for v in values for t in v.values()))
        assert (truth >= interval.lower[b].numpy() - slack).all()
        assert (truth <= interval.upper[b].numpy() + slack).all()
        e = (inside - centre[b].numpy()) / np.maximum(radius[b].numpy(), 1e-300)
        linear = out.centre[b].numpy() + e @ out.inputs[:, b].double().numpy()
        assert (np.abs(truth - linear) <= out.radius[b].double().numpy() + slack).all()


@given(graph=graphs(ALL_BLOCKS), seed=st.integers(0, 2**16))
@settings(max_examples=60, deadline=None)
def test_every_point_lies_inside(graph: Graph, seed: int) -> None:
    rng = np.random.default_rng(seed)
    holds(boxes(graph, *some_boxes(graph.n_inputs, 4, rng, widest=10.0 ** rng.uniform(-7, 1))))


@pytest.mark.parametrize("settled", [0.0, 0.1, 1e30])
@given(graph=relu_graphs(max_blocks=6), seed=st.integers(0, 2**16))
@settings(max_examples=30, deadline=None)
def test_wherever_the_centre_is_rounded(settled: float, graph: Graph, seed: int) -> None:
    """0: float64 to the end; 1e30: float32 from the first layer on, its rounding must be in the radius."""
    rng = np.random.default_rng(seed)
    before, lumped.SETTLED = lumped.SETTLED, settled
    try:
        holds(boxes(graph, *some_boxes(graph.n_inputs, 3, rng, widest=10.0 ** rng.uniform(-9, 0.5))))
    finally:
        lumped.SETTLED = before


@pytest.mark.parametrize("exponent", [-9, -6, -3, 0, 4])
@pytest.mark.parametrize("blocks", [["clip"], ["conv", "clip", "relu"], ["relu", "dense", "clip", "residual"]])
def test_kinks_at_every_scale(blocks: list[str], exponent: int) -> None:
    """Boxes around the kinks and far from them, both kinks inside one box, and boxes that are nearly points."""
    for seed in range(4):
        graph = build(2, 3, blocks, seed)
        rng = np.random.default_rng(seed)
        holds(boxes(graph, *some_boxes(2, 24, rng, widest=10.0**exponent)), points=40)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e4])
def test_float32_alone_would_be_wrong(size: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point boxes: the exact output differs from the float32 centre, by no more than the radius that admits it."""
    monkeypatch.setattr(lumped, "SETTLED", 1e30)
    monkeypatch.setattr(lumped, "_drowned", lambda form, terms: True)
    graph = build(3, 4, ["relu", "dense", "relu", "residual", "conv"], 5, width=24)
    point = torch.from_numpy(np.random.default_rng(2).normal(size=(60, 3)) * size)
    out, _, _ = bound(graph, point, point)
    truth = np.stack([oracles.evaluate(graph, x[None].numpy())[0] for x in point])
    off = np.abs(out.centre.numpy() - truth)
    assert (off > 0).any() and (off <= out.radius.numpy()).all()
    assert float(out.radius.max()) < 1e-2 * (size + 1)


def test_a_sum_that_swallows_its_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 + 960 t with t just below half an ulp of 1: float32 sums lose the t, far more than one rounding."""
    monkeypatch.setattr(lumped, "_drowned", lambda form, terms: True)
    builder = GraphBuilder(1, 0)
    builder.nodes.append(Node("Dense", ("x",), "ones", {"weight": np.ones((1024, 1)), "bias": np.zeros(1024)}))
    builder.shapes["ones"] = (1024,)
    weight = np.full((2, 1024), 0.96 * 2.0**-24)
    weight[:, :64] = 1.0
    builder.nodes.append(Node("Dense", ("ones",), "y", {"weight": weight, "bias": np.zeros(2)}))
    builder.shapes["y"] = (2,)
    graph = Graph(("x",), ("y",), tuple(builder.nodes), dict(builder.shapes))
    point = torch.ones(20, 1, dtype=torch.float64)
    out, _, _ = bound(graph, point, point)
    off = np.abs(out.centre.numpy() - oracles.evaluate(graph, point.numpy()))
    assert (off > 2e-5).all() and (off <= out.radius.numpy()).all()


@given(graph=relu_graphs(), seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_never_better_than_the_exact_minimum(graph: Graph, seed: int) -> None:
    case = boxes(graph, *some_boxes(graph.n_inputs, 1, np.random.default_rng(seed)))
    matrix = matrix_for(graph)[: 2 * graph.n_outputs]
    exact = oracles.minimise(graph, case.lower[0].numpy(), case.upper[0].numpy(), matrix.numpy(), exact=True)
    interval = bound(graph, case.lower, case.upper)[0].interval()
    least = torch.cat([interval.lower[0], -interval.upper[0]]).numpy()
    assert (least <= exact + 1e-5 * (1 + np.abs(exact))).all()


def forms_in_float64(case: Boxes) -> Interval:
    """The output by affine forms with one radius alone, in float64: no interval arithmetic beside them."""

    def step(i: int, op: Op, read: list[AffineForm]) -> AffineForm:
        if isinstance(op, RelaxedOp):
            return generic_form(op, read)[0]
        assert isinstance(op, LinearOp)
        form = linear_step(op, read, [as_interval(one.interval()) for one in read]).form
        assert form is not None
        return form

    return case.network.walk(case.inputs.form(case.lower, case.upper, case.query, False), step).interval()


@pytest.mark.parametrize(
    "blocks", [["relu"], ["relu", "dense", "relu"], ["conv", "relu", "residual"], ["clip", "relu"]]
)
def test_as_tight_as_the_forms_in_float64(blocks: list[str]) -> None:
    graph = build(3, 3, blocks, 1, width=8)
    case = boxes(graph, *some_boxes(3, 40, np.random.default_rng(4)))
    known = forms_in_float64(case)
    interval = bound(graph, case.lower, case.upper)[0].interval()
    mine, theirs = interval.upper - interval.lower, known.upper - known.lower
    assert bool((mine <= theirs * 1.02 + 1e-4).all())
    if "clip" not in blocks:  # there the two have different planes where both kinks are inside
        assert bool((mine >= theirs * 0.999 - 1e-4).all())


def test_queries_with_maps_of_their_own() -> None:
    """x = offset[q] + p matrix[q], boxes of several queries in one batch, in several chunks and in one."""
    builder = GraphBuilder(6, 3)
    graph = builder.finish(builder.block("relu", builder.dense("x", 12), 12), 3)
    rng = np.random.default_rng(0)
    offset, matrix = (torch.from_numpy(rng.normal(size=s)) for s in ((4, 6), (4, 2, 6)))
    source, given_ = Source.of(offset, matrix, torch.float32), Prepared.of(Twin.of(graph, CPU))
    centre = torch.from_numpy(rng.normal(size=(30, 2)))
    radius = torch.from_numpy(rng.random((30, 2)) * 0.3)
    query = torch.from_numpy(rng.integers(4, size=30))
    together = sweep_lumped(given_, source, centre, radius, query).interval()
    alone = [sweep_lumped(given_, source, centre[i : i + 1], radius[i : i + 1], query[i : i + 1]) for i in range(30)]
    for i, one in enumerate(alone):
        torch.testing.assert_close(one.interval().lower[0], together.lower[i], rtol=1e-4, atol=1e-4)
        e = torch.from_numpy(rng.uniform(-1, 1, size=(50, 2)))
        x = offset[query[i]] + (centre[i] + e * radius[i]) @ matrix[query[i]]
        truth = torch.from_numpy(oracles.evaluate(graph, x.numpy()))
        assert bool(((truth >= together.lower[i] - ORACLE) & (truth <= together.upper[i] + ORACLE)).all())


def test_chunks_hold_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = build(2, 3, ["conv", "relu", "clip"], 2)
    case = boxes(graph, *some_boxes(2, 17, np.random.default_rng(8)))
    one = bound(graph, case.lower, case.upper)[0].interval()
    monkeypatch.setattr(lumped, "CHUNK_ELEMENTS", 1)
    many = bound(graph, case.lower, case.upper)[0].interval()
    torch.testing.assert_close(one.lower, many.lower, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one.upper, many.upper, rtol=1e-4, atol=1e-4)


def test_what_overflows_claims_nothing() -> None:
    graph = build(2, 2, ["relu", "dense", "relu"], 0)
    huge = torch.full((3, 2), 1e38, dtype=torch.float64)
    interval = bound(graph, -huge, huge)[0].interval()
    assert not bool((interval.lower > -1e30).any()) and not bool((interval.upper < 1e30).any())


@pytest.mark.parametrize("kind", ["two readers", "reshaped"])
def test_a_shared_argument_is_not_overwritten(kind: str) -> None:
    """A ReLU works in place only where nobody else reads its argument, also not through a reshape."""
    builder = GraphBuilder(2, 7)
    value = builder.dense("x", 6)
    other = (
        value if kind == "two readers" else builder.add("Reshape", (builder.add("Reshape", (value,), (2, 3)),), (6,))
    )
    first = builder.add("Relu", (value,), (6,))
    second = builder.add("Relu", (other,), (6,))
    graph = builder.finish(builder.add("Sub", (builder.add("Add", (first, value), (6,)), second), (6,)), 3)
    holds(boxes(graph, *some_boxes(2, 20, np.random.default_rng(3))))
