"""Random bounds over the whole range of floating-point numbers, and random graphs through the interval rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from tests.contract.planes import _check_planes, _long, _op, _truth
from tests.contract.samples import CPU, DTYPES, ELEMENTWISE, Sample
from tests.strategies import ALL_BLOCKS, GraphBuilder, boxes, graphs, relu_graphs
from verifier.graph.ir import Graph
from verifier.ops.kinds import Interval, Op, Relaxation
from verifier.ops.registry import bind

both = pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
number = st.one_of(
    st.floats(-1e4, 1e4, width=32),
    st.floats(-3, 3, width=16),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@pytest.mark.parametrize("sample", ELEMENTWISE, ids=str)
@both
@given(pairs=st.lists(st.tuples(number, number), min_size=24, max_size=24), seed=st.integers(0, 99))
@settings(max_examples=6, deadline=None)
def test_any_bounds(sample: Sample, dtype: torch.dtype, pairs: list[tuple[float, float]], seed: int) -> None:
    bounds = torch.tensor([sorted(pair) for pair in pairs], dtype=dtype).reshape(4, 2, 3, 2)
    x = Interval(bounds[..., 0], bounds[..., 1])
    op = _op(sample, dtype)
    rng = np.random.default_rng(seed)
    points = [oracles.sample(x.lower.numpy(), x.upper.numpy(), 32, rng, sample.kinks)]
    truth = _truth(sample, points)
    low, high = op.interval(x)
    with np.errstate(all="ignore"):
        known = ~np.isnan(truth)
        slack = 1e-17 * np.where(np.isinf(truth), 0, np.abs(truth)) + torch.finfo(dtype).tiny
        assert ((_long(low) <= truth + slack) | ~known).all() and ((_long(high) >= truth - slack) | ~known).all()
    usable = (low.isfinite() & high.isfinite()).numpy()
    alpha = torch.from_numpy(rng.random((2, 4, 2, 3))).to(dtype)
    for planes in (op.relax(x), op.relax(x, parallel=True), op.relax_at(x, alpha_lower=alpha[0], alpha_upper=alpha[1])):
        _check_planes(sample, op, _known(planes, usable), [np.where(usable, points[0], 0)], np.where(usable, truth, 0))


def _known(planes: Relaxation, usable: np.ndarray) -> Relaxation:
    """Planes with trivial ones where the interval is infinite: planes may be infinite there, or the value undefined."""
    keep = torch.from_numpy(usable)
    return Relaxation(
        tuple(torch.where(keep, s, 0.0) for s in planes.lower_slopes),
        torch.where(keep, planes.lower_offset, -torch.inf),
        tuple(torch.where(keep, s, 0.0) for s in planes.upper_slopes),
        torch.where(keep, planes.upper_offset, torch.inf),
    )


def _ops(graph: Graph, dtype: torch.dtype) -> list[Op]:
    return [bind(node, graph.shapes, dtype, CPU) for node in graph]


@given(graph=graphs(ALL_BLOCKS), data=st.data())
@settings(max_examples=40, deadline=None)
def test_forward_and_intervals_of_graphs(graph: Graph, data: st.DataObject) -> None:
    """Operators chained by hand: values as the numpy oracle's, intervals around them."""
    lower, upper = data.draw(boxes(graph.n_inputs))
    x = oracles.sample(lower, upper, 12, np.random.default_rng(0)).astype(np.float64)
    expected = oracles.evaluate(graph, x)
    values = {"x": torch.from_numpy(x)}
    bounds = {"x": Interval(torch.from_numpy(lower)[None], torch.from_numpy(upper)[None])}
    for node, op in zip(graph, _ops(graph, torch.float64), strict=True):
        values[node.output] = op.forward(*(values[name] for name in node.inputs))
        bounds[node.output] = op.interval(*(bounds[name] for name in node.inputs))
    y, box = values["y"].numpy(), bounds["y"]
    room = 1e-9 * (1 + np.abs(box.lower.numpy()) + np.abs(box.upper.numpy()))
    assert (np.abs(y - expected) <= room).all()
    assert (box.lower.numpy() <= y + room).all() and (y <= box.upper.numpy() + room).all()


@given(graph=relu_graphs(), data=st.data())
@settings(max_examples=12, deadline=None)
def test_lp_is_below_milp_is_below_samples(graph: Graph, data: st.DataObject) -> None:
    """The oracles agree among themselves."""
    lower, upper = data.draw(boxes(graph.n_inputs))
    rows = np.eye(graph.n_outputs)[:1]
    relaxed, exact = (oracles.minimise(graph, lower, upper, rows, exact=flag)[0] for flag in (False, True))
    x = oracles.sample(lower, upper, 200, np.random.default_rng(1)).astype(np.float64)
    x = np.concatenate([x, oracles.corners(lower, upper)])
    sampled = (oracles.evaluate(graph, x) @ rows.T).min()
    assert relaxed <= exact + 1e-5 * (1 + abs(exact))
    assert exact <= sampled + 1e-5 * (1 + abs(sampled))


def test_milp_finds_the_minimum_of_a_known_network() -> None:
    """y = relu(x) - 2 relu(x - 1) on [-1, 3] has its minimum -1 at x = 3; the triangle relaxation is lower."""
    builder = GraphBuilder(1, 0)
    weight, bias = np.array([[1.0], [1.0]]), np.array([0.0, -1.0])
    hidden = builder.add("Dense", ("x",), (2,), params={"weight": weight, "bias": bias})
    active = builder.add("Relu", (hidden,), (2,))
    builder.add("Dense", (active,), (1,), name="y", params={"weight": np.array([[1.0, -2.0]])})
    graph = Graph(("x",), ("y",), tuple(builder.nodes), dict(builder.shapes))
    box = np.array([-1.0]), np.array([3.0])
    exact = oracles.minimise(graph, *box, np.eye(1), exact=True)[0]
    relaxed = oracles.minimise(graph, *box, np.eye(1), exact=False)[0]
    np.testing.assert_allclose(exact, -1, atol=1e-7)
    # at x = 1 the relaxation pairs relu(1) = 1 with the triangle's 1 instead of relu(0) = 0
    assert -2.0 < relaxed <= exact + 1e-9
