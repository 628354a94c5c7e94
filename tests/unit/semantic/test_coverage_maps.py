"""Argmax windows and joint budgets over heatmaps, against the exact cut of the plane and against sampling."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnx import numpy_helper

from tests.unit.semantic.coverage_files import by_files
from tests.unit.semantic.plane_oracle import argmax_areas
from tests.unit.semantic.semantic_helpers import network as small_network
from tests.unit.semantic.semantic_helpers import run, session
from verifier.bounds.zonotope import MAX_INPUTS
from verifier.budget import Budget
from verifier.errors import OptionsError, ProblemError, UnsoundError
from verifier.options import Options
from verifier.result import Verdict
from verifier.semantic import ErrorBudget, Heatmap, Perturbation, Range, Target, prepare
from verifier.semantic import network as networks
from verifier.semantic.coverage_search import CERTIFIED, OPEN, REFUTED, CoverageLimits, State, audit, cover
from verifier.semantic.family import bound_cells, from_problems
from verifier.semantic.many import verify_problems
from verifier.semantic.maps import MapBudget, Windows

CPU = torch.device("cpu")
WIDE = Perturbation((Range("contrast", 0.2, 1.8), Range("brightness", -0.5, 0.5)))


def study(prop, seed, size=16, points=2, box=WIDE):
    net = networks.load(small_network("heatmap", size=size, points=points, seed=seed))
    image = np.random.default_rng(seed + 100).random((1, size, size))
    return prepare(net, image, None, box, prop, reference="self")


def layers(problem):
    """The network of a study for the oracle: image map, clip, two convolutions as matrices, a kink between."""
    image, size = problem.input_map, problem.network.width
    tensors = {t.name: numpy_helper.to_array(t).astype(float) for t in problem.network.proto.graph.initializer}

    def matrix(weight, bias, channels, side):
        unit = torch.eye(channels * side * side, dtype=torch.float64).reshape(-1, channels, side, side)
        out = torch.nn.functional.conv2d(unit, torch.from_numpy(weight), stride=2, padding=1)
        return out.flatten(1).T.numpy(), np.repeat(bias, out[0, 0].numel())

    first = matrix(tensors["w1"], tensors["b1"], 1, size)
    second = matrix(tensors["w2"], tensors["b2"], 4, size // 2)
    return [
        ("affine", image.matrix, image.offset),
        ("clip", 0.0, 1.0),
        ("affine", *first),
        ("clip", 0.0, np.inf),
        ("affine", *second),
    ]


def exact_share(problem):
    """Share of the box where the property holds, from its words: decode the argmax, measure, compare."""
    prop, target, net = problem_property(problem), problem.target.keypoints, problem.network
    side = net.output[-1]
    stride = net.width / side
    box, total = problem.perturbation.box, 0.0
    for outcome, share in argmax_areas(layers(problem), box[:, 0], box[:, 1], len(target)).items():
        decoded = stride * np.array([[p % side, p // side] for p in outcome]) + stride / 2
        gap = np.abs(decoded - target)
        total += share * (gap.sum(1).mean() <= prop[1] if prop[0] == "mean" else (gap <= prop[1]).all())
    return total


def problem_property(problem):
    maps = problem.compiled.maps
    return ("mean", maps.limit) if isinstance(maps, MapBudget) else ("window", TOLERANCE)


TOLERANCE = 2.0  # pixels; the cells are 4 apart, so the argmax may not move at all


@pytest.mark.parametrize(("prop", "seed"), [(Heatmap(TOLERANCE), 0), (Heatmap(TOLERANCE), 2), (ErrorBudget(2.1), 2)])
def test_areas_are_those_of_the_exact_cut(prop, seed):
    problem = study(prop, seed, size=8)
    family = from_problems([problem], CPU)
    state = cover(family, CoverageLimits(0.003), Budget.of(60))
    safe = exact_share(problem)
    assert state.shares(OPEN)[0] <= 0.003
    assert safe - 0.003 <= state.shares(CERTIFIED)[0] <= safe + 1e-6
    assert 1 - safe - 0.003 <= state.shares(REFUTED)[0] <= 1 - safe + 1e-6
    assert 0.02 < safe < 0.98
    audit(family, state, 1000)


@pytest.mark.parametrize(
    "prop", [Heatmap(5.0), ErrorBudget(3.0), ErrorBudget(9.0, mean=False, weights=(2.0, 0.5, 1.0))]
)
@pytest.mark.parametrize("seed", [1])
def test_every_sample_agrees_with_its_cell(prop, seed):
    """ONNX Runtime on the study's own network, the property from its words, 2000 points."""
    problem = study(prop, seed, points=3)
    family = from_problems([problem], CPU)
    state = cover(family, CoverageLimits(0.08), Budget.of(60))
    low, high = state.cells.corners(family.lower.numpy(), family.upper.numpy())
    box, draw = problem.perturbation.box, np.random.default_rng(seed)
    points = box[:, 0] + draw.random((2000, 2)) * (box[:, 1] - box[:, 0])
    cell = np.array([np.flatnonzero(((low <= p) & (p <= high)).all(1))[0] for p in points])
    model = session(problem.model())
    broken = []
    for p in points:
        y = run(model, p[None]).reshape(3, -1)
        at = y.argmax(1)
        gap = np.abs(4.0 * np.stack([at % 4, at // 4], 1) + 2.0 - problem.target.keypoints)
        if isinstance(prop, Heatmap):
            broken.append((gap > prop.tolerance).any())
        else:
            weight = np.ones(3) / 3 if prop.mean else np.array(prop.weights)
            broken.append((weight * gap.sum(1)).sum() > prop.limit * (1 + 1e-9))
    status = state.status[cell]
    assert not (np.array(broken) & (status == CERTIFIED)).any()
    assert not (~np.array(broken) & (status == REFUTED)).any()
    assert (status != OPEN).mean() > 0.85


def test_bounds_hold_for_every_pair_of_cells():
    """worst > 0 and reached < 0 against all pairs, at the corners and at random points of small boxes."""
    seen = set()
    for prop in (Heatmap(5.0), ErrorBudget(3.0)):
        problem = study(prop, 2, points=3)
        family = from_problems([problem], CPU)
        draw = np.random.default_rng(0)
        at, size = torch.from_numpy(draw.random((60, 2))), torch.from_numpy(10.0 ** draw.uniform(-4, -0.5, (60, 1)))
        width = family.upper - family.lower
        low = family.lower + at * width
        high = torch.minimum(low + size * width, family.upper)
        query = torch.zeros(60, dtype=torch.int64)
        with torch.no_grad():
            bounds = bound_cells(family, low, high, query)
            for _ in range(40):
                share = torch.from_numpy(np.round(draw.random((60, 2)) * 4) / 4)
                margin = family.margins(low + share * (high - low), query, exact=True)
                assert not ((margin <= 0) & (bounds.worst > 0)).any()
                assert not ((margin > 0) & (bounds.reached < 0)).any()
        seen |= {(type(prop), "safe")} if (bounds.worst > 0).any() else set()
        seen |= {(type(prop), "bad")} if (bounds.reached < 0).any() else set()
    assert len(seen) == 4


def test_window_verdicts_are_those_of_the_files(tmp_path):
    box = Perturbation((Range("contrast", 0.9, 1.1), Range("brightness", -0.05, 0.05)))
    problems = [study(Heatmap(t), 1, points=3, box=b) for t, b in ((2.0, WIDE), (2.0, box), (9.0, box))]
    problems = [replace(p, network=problems[0].network) for p in problems]
    found = verify_problems(problems, Options(), Budget.of(60))
    for problem, result in zip(problems, found, strict=True):
        assert result.verdict is by_files(problem, folder=tmp_path).verdict
    assert len({r.verdict for r in found}) == 2


def test_budget_verdicts_and_witnesses():
    problems = [study(ErrorBudget(limit), 1, points=3) for limit in (1.0, 100.0)]
    problems[1] = replace(problems[1], network=problems[0].network)
    bad, good = verify_problems(problems, Options(), Budget.of(60))
    assert (bad.verdict, good.verdict) == (Verdict.SAT, Verdict.UNSAT)
    assert bad.witness is not None
    y = run(session(problems[0].model()), bad.witness.x[None])
    assert problems[0].compiled.maps.violated(y.reshape(-1)) and problems[0].compiled.excess(y.reshape(-1)) > 0


def test_a_tie_counts_as_a_violation():
    y = np.array([[1.0, 1.0, 0.0, 0.0]])
    windows = Windows(np.array([[True, False, False, False]]), np.array([True]))
    budget = MapBudget(np.array([[0.0, 8.0, 1.0, 1.0]]), 4.0)
    assert windows.violated(y) == [True] and budget.violated(y) == [True] and budget.cost(y) == [8.0]
    y[0, 1] -= 1e-9
    assert windows.violated(y) == [False] and budget.violated(y) == [False]
    assert not MapBudget(np.full((3, 1), 0.1), 0.3).violated(np.zeros(3))  # 0.1 + 0.1 + 0.1 > 0.3 in float64


def test_a_network_of_equal_cells_is_never_certified():
    """All cells of a map tie everywhere: any of them may be the argmax."""
    proto = small_network("heatmap", size=16, points=2)
    for tensor in proto.graph.initializer:
        if tensor.name in ("w2", "b2"):
            tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    net = networks.load(proto)
    target = Target(np.array([[6.0, 6.0], [10.0, 10.0]]))
    image = np.random.default_rng(0).random((1, 16, 16))
    for prop in (Heatmap(5.0), ErrorBudget(6.0)):
        family = from_problems([prepare(net, image, target, WIDE, prop)], CPU)
        state = cover(family, CoverageLimits(0.0, depth=4), Budget.of(20))
        assert state.shares(CERTIFIED)[0] == 0
        assert verify_problems([prepare(net, image, target, WIDE, prop)], Options(), Budget.of(20))[0].verdict in (
            Verdict.SAT,
        )


def test_wrong_cells_are_reported():
    for prop in (Heatmap(2.0), ErrorBudget(3.0)):
        family = from_problems([study(prop, 1, points=3)], CPU)
        state = cover(family, CoverageLimits(0.05), Budget.of(30))
        for kind, other in ((REFUTED, CERTIFIED), (CERTIFIED, REFUTED)):
            assert (state.status == kind).any()
            swapped = np.where(state.status == kind, other, state.status).astype(np.uint8)
            with pytest.raises(UnsoundError, match="inside a"):
                audit(family, State(state.cells, swapped, state.seconds, state.boxes), 300)


def test_full_size_maps_fit():
    """23 maps of 16 x 16: 50 000 rows an image if every pair of cells had one."""
    net = networks.load(small_network("heatmap", size=64, points=23, seed=0))
    draw = np.random.default_rng(0)
    box = Perturbation((Range("contrast", 0.999, 1.001), Range("brightness", -0.0005, 0.0005)))
    images = [draw.random((1, 64, 64)) for _ in range(2)]
    problems = [prepare(net, image, None, box, Heatmap(7.0), reference="self") for image in images]
    assert problems[0].compiled.rows.count > 20_000
    family = from_problems(problems, CPU)
    state = cover(family, CoverageLimits(0.05), Budget.of(30))
    assert (state.shares(OPEN) <= 0.05).all() and family.inputs <= MAX_INPUTS
    audit(family, state, 50)


def test_what_cannot_be_asked():
    with pytest.raises(OptionsError, match="secateur coverage .* budget-mean"):
        study(ErrorBudget(3.0), 0).spec()
    with pytest.raises(ProblemError, match="violated by every answer; raise it"):
        net = networks.load(small_network("heatmap", size=16, points=1))
        prepare(net, np.zeros((1, 16, 16)), Target(np.array([[4.0, 4.0]])), WIDE, ErrorBudget(1.0))
    with pytest.raises(OptionsError, match="weights must be 2"):
        study(ErrorBudget(3.0, weights=(1.0,)), 0)
    mixed = [study(Heatmap(5.0), 0), study(ErrorBudget(5.0), 0)]
    mixed[1] = replace(mixed[1], network=mixed[0].network)
    with pytest.raises(ProblemError, match="different kinds"):
        from_problems(mixed, CPU)
