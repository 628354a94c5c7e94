"""Where the search by zonotopes starts: the halved boxes are a partition, the first points are of the boxes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import vnnlib
from tests import models
from verifier.budget import Budget
from verifier.engine import solve
from verifier.graph.onnx_import import load_model
from verifier.options import Options
from verifier.result import Verdict
from verifier.search import zonotope
from verifier.search.domains import whole
from vnnlib import Case, Row


def _boxes(queries: int, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lower = torch.rand(queries, n, generator=generator, dtype=torch.float64) - 0.5
    return lower, lower + torch.rand(queries, n, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("queries", "n"), [(1, 1), (1, 2), (1, 3), (3, 2), (5, 3)])
def test_halved_boxes_are_a_partition(queries: int, n: int) -> None:
    lower, upper = _boxes(queries, n, queries + n)
    parts = zonotope.halved(whole(lower, upper))
    assert zonotope.START <= len(parts) < 2 * zonotope.START
    volume = (parts.upper - parts.lower).prod(1)
    for q in range(queries):
        mine = parts.query == q
        assert volume[mine].sum() == pytest.approx(float((upper[q] - lower[q]).prod()))
        assert float(parts.share[mine].sum()) == pytest.approx(1.0)
        assert torch.equal(parts.lower[mine].amin(0), lower[q])
        assert torch.equal(parts.upper[mine].amax(0), upper[q])
    points = lower + torch.rand(200, queries, n, dtype=torch.float64) * (upper - lower)
    for q in range(queries):
        mine = parts.select(parts.query == q)
        inside = ((points[:, q, None] >= mine.lower) & (points[:, q, None] <= mine.upper)).all(2)
        assert bool(inside.any(1).all())


def test_an_input_that_does_not_vary_is_not_halved() -> None:
    lower = torch.tensor([[0.5, 0.0], [0.25, 1.0]], dtype=torch.float64)
    upper = torch.tensor([[0.5, 1.0], [0.25, 1.0]], dtype=torch.float64)
    parts = zonotope.halved(whole(lower, upper))
    assert int((parts.query == 1).sum()) == 1  # a point stays a point
    assert bool((parts.lower[:, 0] == parts.upper[:, 0]).all())
    assert float(parts.share[parts.query == 0].sum()) == pytest.approx(1.0)


def test_only_points_cannot_be_halved() -> None:
    point = torch.tensor([[0.5, 0.25]], dtype=torch.float64)
    assert len(zonotope.halved(whole(point, point))) == 1


@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_first_points_are_corners_edges_and_inside(n: int) -> None:
    lower, upper = _boxes(4, n, n)
    points, query = zonotope.grid(lower, upper)
    assert points.shape == (4 * zonotope.POINTS**n, n)
    assert bool(((points >= lower[query]) & (points <= upper[query])).all())
    for q in range(4):
        corners = torch.cartesian_prod(*torch.stack([lower[q], upper[q]], 1)).reshape(-1, n)
        assert bool((points[query == q][None] - corners[:, None]).abs().amax(2).amin(1).max() < 1e-15)


def _two_parameters(seed: int) -> bytes:
    """The image classifier of the tests behind an affine map from two parameters to its image."""
    rng = np.random.default_rng(seed)
    model = onnx.load_model_from_string(models.image_network(rng, 4))
    graph = model.graph
    weights = {"A": rng.normal(size=(2, 784)), "offset": rng.uniform(size=784), "shape": np.array([1, 1, 28, 28])}
    stored = {k: v if k == "shape" else v.astype(np.float32) for k, v in weights.items()}
    graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in stored.items())
    old = list(graph.node)
    del graph.node[:]
    graph.node.append(helper.make_node("Gemm", ["p", "A", "offset"], ["flat"]))
    graph.node.append(helper.make_node("Reshape", ["flat", "shape"], ["x"]))
    graph.node.extend(old)
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, [1, 2]))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("seed", range(2))
def test_pooling_is_searched_by_the_zonotopes_that_coverage_uses(seed: int) -> None:
    """Against a fine grid of ONNX Runtime's own outputs: a label that is lost by a hair, and one that is kept."""
    data = _two_parameters(seed)
    side = np.linspace(-0.02, 0.02, 9)
    values = np.concatenate([models.run_onnx(data, {"p": np.array([[a, b]])})[0] for a in side for b in side])
    least = float((values[:, 0] - values[:, 1]).min())
    for by, verdict in ((0.01, Verdict.SAT), (-0.1, Verdict.UNSAT)):
        case = Case(np.full(2, -0.02), np.full(2, 0.02), [[Row({}, {0: 1.0, 1: -1.0}, least + by)]])
        spec = vnnlib.normalise(vnnlib.build([case], input_shape=[2], output_shape=[10]))
        result = solve(load_model(data), spec, Options(device="cpu"), Budget.of(60))
        assert result.verdict is verdict, result
        assert result.settings["method"] == "zonotope"
