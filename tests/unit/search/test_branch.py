"""Which input is split: the one that costs, also where slopes vanish; the widest where nothing is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from torch import Tensor

import vnnlib
from tests import models
from tests.strategies import GraphBuilder, build
from tests.unit.bounds.cases import METHODS, boxes
from tests.unit.search.tables import CPU, domains, table
from verifier.bounds.bound import Setting
from verifier.bounds.network import build as bind
from verifier.budget import Budget
from verifier.engine import solve
from verifier.graph.ir import Graph
from verifier.graph.onnx_import import load_model
from verifier.ops.kinds import Interval, RelaxedOp
from verifier.options import AttackOptions, Options
from verifier.result import Result, Verdict
from verifier.search.bounding import bound_boxes
from verifier.search.halving import cut
from vnnlib import Case, Row

NO_ATTACK = Options(device="cpu", attack=AttackOptions(restarts=0))


def product(seed: int, n: int) -> tuple[Graph, np.ndarray, np.ndarray]:
    """y = sum_i w_i (A x)_i (C x)_i, and its two matrices; no bias: both factors are centred on a box around 0."""
    builder = GraphBuilder(n, seed)
    rng = builder.rng
    left, right = (np.round(rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.7), 3) for _ in range(2))
    zero = np.zeros(n)
    a = builder.add("Dense", ("x",), (n,), params={"weight": left, "bias": zero})
    b = builder.add("Dense", ("x",), (n,), params={"weight": right, "bias": zero})
    builder.add("Mul", (a, b), (n,))
    builder.add("Dense", ("v2",), (1,), name="y", params={"weight": np.ones((1, n)), "bias": np.zeros(1)})
    return Graph(("x",), ("y",), tuple(builder.nodes), dict(builder.shapes)), left, right


@given(seed=st.integers(0, 2**16), n=st.integers(2, 5), widths=st.lists(st.floats(0.01, 4.0), min_size=5, max_size=5))
@settings(max_examples=60, deadline=None)
def test_the_score_of_a_centred_product_is_what_its_inputs_cost(seed: int, n: int, widths: list[float]) -> None:
    """All slopes are 0 there. The looseness is sum_i 2 r_i s_i for the factors' radii r, s: an input's score is its
    share of them, and 0 only where it moves no product whose factors both move."""
    graph, left, right = product(seed, n)
    radius = np.array(widths[:n])
    case = boxes(graph, -radius[None], radius[None])
    for name in ("attributed", "attributed with rows"):
        batch = domains(case.lower, case.upper, case.query)
        setting = Setting(graph, case.network, table([[[(0, -1e9)], [(0, 1e9)]]]), case.inputs)
        bounded = bound_boxes(setting, batch, METHODS[name], lambda: False)
        moves_left, moves_right = np.abs(left) * radius, np.abs(right) * radius
        r, s = moves_left.sum(1, keepdims=True), moves_right.sum(1, keepdims=True)
        np.testing.assert_allclose(
            bounded.branch[0].numpy(), (moves_left * s + moves_right * r).sum(0), rtol=1e-9, atol=1e-300
        )


@given(seed=st.integers(0, 2**16), shift=st.floats(-2.0, 2.0))
@settings(max_examples=60, deadline=None)
def test_sensitivity_is_how_the_gap_shrinks(seed: int, shift: float) -> None:
    """By finite differences of the real planes: a product's gap falls at exactly these rates; the maximum's falls for
    no element whose sensitivity is 0."""
    rng = np.random.default_rng(seed)
    ops = bind(build(3, 1, ["mul", "reduce_max"], seed), torch.float64, CPU).ops
    for op in (one for one in ops if isinstance(one, RelaxedOp)):
        middle = [torch.from_numpy(rng.normal(size=(1, *shape)) + shift) for shape in op.in_shapes]
        radius = [torch.from_numpy(rng.uniform(0.1, 1.0, (1, *shape))) for shape in op.in_shapes]
        step = 1e-6
        weights = op.sensitivity(*_intervals(middle, radius))
        before = _gap(op, _intervals(middle, radius))
        for which, weight in enumerate(weights):
            for at in itertools.product(*map(range, op.in_shapes[which])):
                less = [r.clone() for r in radius]
                less[which][0][at] -= step
                fall = float((before - _gap(op, _intervals(middle, less))).sum()) / step
                if op.node.op == "Mul":
                    assert fall == pytest.approx(2 * float(weight[0][at]), abs=1e-4)
                elif float(weight[0][at]) == 0:
                    assert abs(fall) < 1e-4
                else:
                    assert fall > -1e-4


def _intervals(middle: list[Tensor], radius: list[Tensor]) -> list[Interval]:
    return [Interval(m - r, m + r) for m, r in zip(middle, radius, strict=True)]


def _gap(op: RelaxedOp, xs: list[Interval]) -> Tensor:
    """Mean distance of the planes: their distance at the centre of the box."""
    planes = op.relax(*xs)
    gap = planes.upper_offset - planes.lower_offset
    for low, high, x in zip(planes.lower_slopes, planes.upper_slopes, xs, strict=True):
        gap = gap + op.collect((high - low) * (x.lower + x.upper) / 2)
    return gap


def _squares(n: int, low: float, high: float, rhs: float) -> Result:
    """Y = X X^T on a box, asked for Y <= rhs."""
    node = helper.make_node
    nodes = [node("Transpose", ["x"], ["t"], perm=[1, 0]), node("MatMul", ["x", "t"], ["y"])]
    model = load_model(models.build(nodes, {"x": (1, n)}, ["y"]))
    case = Case(np.full(n, low), np.full(n, high), [[Row({}, {0: 1.0}, rhs)]])
    spec = vnnlib.normalise(vnnlib.build([case], input_shape=[n], output_shape=[1]))
    return solve(model, spec, NO_ATTACK, Budget.of(60))


@pytest.mark.parametrize(("n", "most"), [(1, 7), (2, 31), (3, 127), (4, 511)])
def test_a_dot_product_of_itself_takes_few_boxes(n: int, most: int) -> None:
    """x . x >= 0 > -0.3: the bound of a box is -sum r_i^2 about its centre, so every input is halved once or twice."""
    result = _squares(n, -1.0, 1.0, -0.3)
    assert result.verdict is Verdict.UNSAT and result.counters["boxes"] <= most
    assert result.counters["deepest"] <= 2 * n


def test_its_least_point_is_found() -> None:
    assert _squares(3, -1.0, 0.5, 1e-6).verdict is Verdict.SAT


@given(seed=st.integers(0, 2**16), score=st.sampled_from([0.0, float("inf"), float("nan"), 1.0]))
def test_among_equal_scores_the_widest_input_is_cut(seed: int, score: float) -> None:
    """Boxes a bound says nothing about: their children's inputs get equally wide, none is cut forever."""
    upper = 1 + torch.rand(8, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    part = domains(torch.zeros_like(upper), upper)
    usable, dimension, _ = cut(part, torch.full_like(upper, score))
    assert bool(usable.all()) and torch.equal(dimension, upper.argmax(1))
    for _ in range(7):
        usable, dimension, at = cut(part, torch.full_like(part.lower, score))
        part = part.split(dimension, at)
    width = part.upper - part.lower
    assert bool((width.amax(1) <= 2 * width.amin(1) * (1 + 1e-12)).all())


def test_points_are_bounded_and_never_cut() -> None:
    """A box of one point has no children: it is bounded by rows, and the search ends."""
    point = np.full(2, 0.5)
    rng = np.random.default_rng(3)
    model = load_model(models.mlp([2, 6, 6, 2], rng))
    value = models.run_onnx(model.bytes, {"x": point[None]})[0][0]
    for by, verdict in ((-0.01, Verdict.SAT), (0.01, Verdict.UNSAT)):
        case = Case(point, point, [[Row({}, {0: -1.0}, -float(value[0]) - by)]])
        spec = vnnlib.normalise(vnnlib.build([case], input_shape=[2], output_shape=[2]))
        assert solve(model, spec, NO_ATTACK, Budget.of(60)).verdict is verdict
    exact = Case(point, point, [[Row({}, {0: -1.0}, -float(value[0]), True)]])
    spec = vnnlib.normalise(vnnlib.build([exact], input_shape=[2], output_shape=[2]))
    assert solve(model, spec, NO_ATTACK, Budget.of(60)).verdict in (Verdict.UNSAT, Verdict.UNKNOWN)
