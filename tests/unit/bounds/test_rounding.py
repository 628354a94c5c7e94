"""Bounds hold over the reals: intervals and rows against fractions, with weights that cancel, vanish and overflow."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import oracles
from tests.strategies import RELU_BLOCKS, build
from tests.unit.bounds.cases import METHODS, ROWS, Boxes, boxes, matrix_for
from verifier.bounds import affine, backward, rounding
from verifier.bounds.rational import Rational
from verifier.graph.check import check_graph
from verifier.graph.ir import Graph, Node
from verifier.tolerance import gamma, subtract_down

SIZES = (1.0, 1.0, 1e-9, 1e8, 1e16, 2.0**-30, 2.0**53, 1e-160, 3e100)


def wild(graph: Graph, rng: np.random.Generator) -> Graph:
    """The same graph with some weights of another size, and pairs of large ones that cancel."""
    nodes = []
    for node in graph.nodes:
        params = {}
        for name, array in node.params.items():
            if array.dtype.kind == "f" and array.size:
                array = array * rng.choice(SIZES, p=[0.44, 0.3, *[0.26 / 7] * 7])
                if name == "weight" and array.ndim == 2 and array.shape[1] > 1 and rng.random() < 0.3:
                    large = float(rng.choice([1e8, 1e12, 2.0**40]))
                    array = array + large * np.array([1.0, -1.0] + [0.0] * (array.shape[1] - 2))
            params[name] = array
        nodes.append(Node(node.op, node.inputs, node.output, params, node.attrs, node.source))
    return Graph(graph.inputs, graph.outputs, tuple(nodes), graph.shapes)


def wild_boxes(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    low = rng.normal(size=(3, n)) * rng.choice([1.0, 1e-3, 1e6], size=(3, 1))
    width = rng.choice([0.0, 1e-12, 1e-3, 1.0], size=(3, n)) * np.abs(low)
    high = low + width
    high[0] = np.nextafter(low[0], np.inf)  # one ulp
    return low, high


def exact_points(case: Boxes, b: int, rng: np.random.Generator) -> np.ndarray:
    low, high = case.lower[b].numpy(), case.upper[b].numpy()
    share = rng.random((2, len(low)))
    inside = np.clip(low + share * (high - low), low, high)
    return np.concatenate([oracles.corners(low, high)[:4], inside])


def rounded_weights(graph: Graph, rng: np.random.Generator) -> tuple[Graph, Graph]:
    """The graph with weights that may be off by 6 roundings, and one of the graphs it stands for: 3 ulp off at most."""
    stored, true = [], []
    for node in graph.nodes:
        params = dict(node.params)
        if node.op in ("Scale", "Dense", "Conv", "ConvTranspose"):
            name = "factor" if node.op == "Scale" else "weight"
            array, steps = params[name], rng.integers(-3, 4, params[name].shape)
            for k in range(3):
                toward = np.where(steps > k, np.inf, np.where(steps < -k, -np.inf, array))
                array = np.where(array == 0, 0.0, np.nextafter(array, toward))
            true.append(Node(node.op, node.inputs, node.output, {**params, name: array}, node.attrs, node.source))
            params["roundings"] = np.array(6.0)
        else:
            true.append(node)
        stored.append(Node(node.op, node.inputs, node.output, params, node.attrs, node.source))
    made = [Graph(graph.inputs, graph.outputs, tuple(nodes), graph.shapes) for nodes in (stored, true)]
    check_graph(made[0])
    return made[0], made[1]


@pytest.fixture(scope="module", params=[backward.WIDE, 1], ids=["sums", "products"])
def wide(request: pytest.FixtureRequest) -> Iterator[None]:
    """Values are charged element by element, or by matrix products, as those of large networks are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backward, "WIDE", request.param)
        yield


@pytest.mark.usefixtures("wide")
@pytest.mark.parametrize("exact", [True, False])
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_intervals_and_rows_hold_in_fractions(seed: int, exact: bool) -> None:
    rng = np.random.default_rng(seed)
    kinds = list(rng.choice(RELU_BLOCKS, int(rng.integers(1, 5))))
    n, m = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    graph = true = wild(build(n, m, kinds, int(rng.integers(2**16)), 3), rng)
    if not exact:
        graph, true = rounded_weights(graph, rng)
    case = boxes(graph, *wild_boxes(n, rng))
    matrix = matrix_for(graph)
    name = str(rng.choice(list(METHODS)))
    known = case.sweep(METHODS[name])
    how = str(rng.choice(ROWS))
    coefficients, bias = case.rows(known, how, matrix)
    least = case.least(coefficients, bias)
    for b in range(3):
        points = exact_points(case, b, rng)
        truth = oracles.exactly(true, points).reshape(len(points), -1)
        _inside(truth, known.output.lower[b].numpy(), known.output.upper[b].numpy())
        for k, row in enumerate(matrix.numpy()):
            for x, y in zip(points, truth, strict=True):
                value = sum((Fraction(float(r)) * v for r, v in zip(row, y, strict=True)), Fraction(0))
                if np.isfinite(float(bias[b, k])):
                    a = coefficients[b, k].numpy()
                    claim = sum(
                        (Fraction(float(c)) * Fraction(float(v)) for c, v in zip(a, x, strict=True)), Fraction(0)
                    )
                    assert claim + Fraction(float(bias[b, k])) <= value, (name, how)
                if np.isfinite(float(least[b, k])):
                    assert Fraction(float(least[b, k])) <= value, (name, how)


def _inside(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    for y in truth:
        for value, a, b in zip(y, low, high, strict=True):
            assert np.isneginf(a) or Fraction(float(a)) <= value
            assert np.isposinf(b) or value <= Fraction(float(b))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_sums_in_any_order_stay_within_gamma(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 200))
    a, b = rng.normal(size=(2, size)) * 10.0 ** rng.integers(-12, 12, (2, size))
    exact = sum((Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))
    total = sum((abs(Fraction(x) * Fraction(y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))
    order = rng.permutation(size)
    for computed in (float(a @ b), float((a * b)[order].sum()), float(torch.from_numpy(a) @ torch.from_numpy(b))):
        assert abs(Fraction(computed) - exact) <= Fraction(gamma(size, torch.float64)) * total


@given(a=st.floats(allow_nan=False, allow_infinity=False), b=st.floats(allow_nan=False, allow_infinity=False))
def test_a_difference_is_exact_or_below(a: float, b: float) -> None:
    found = float(subtract_down(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64)))
    exact = Fraction(a) - Fraction(b)
    assert found <= exact if np.isfinite(found) else found < 0 or exact > 0
    if np.isfinite(a - b) and Fraction(a - b) == exact:
        assert found == a - b


@pytest.mark.parametrize("seed", range(20))
def test_fractions_and_floats_walk_alike(seed: int) -> None:
    """The walk in fractions against sampled points in fractions, and against the rows in float64."""
    rng = np.random.default_rng(seed)
    blocks = ["dense", "relu", "dense", "relu", "residual"][: 2 + seed % 4]
    if seed >= 12:  # those that are made of several hinges
        blocks = ["dense", "clip", "dense", "reduce_max", "dense", "clip"][seed % 2 : 4 + seed % 3]
    graph = build(2, 2, blocks, seed, 3)
    low, _ = wild_boxes(2, rng)
    case = boxes(graph, low[1:2], low[1:2] + 0.5)
    rational = Rational.of(case.network)
    assert rational is not None
    box = [(Fraction(float(a)), Fraction(float(b))) for a, b in zip(case.lower[0], case.upper[0], strict=True)]
    planes = rational.planes(box)
    for j in range(2):
        row = [Fraction(int(k == j)) for k in range(2)]
        coefficients, constant = rational._walk(rational.output, row, planes)
        for x in exact_points(case, 0, rng):
            value = oracles.exactly(graph, x[None]).reshape(-1)[j]
            assert sum(a * Fraction(float(v)) for a, v in zip(coefficients, x, strict=True)) + constant <= value


def drift(length: int = 160) -> Graph:
    """y = (1 - 2^-53)^length x for x < 0, through non-linear operators alone: every product is rounded the same way,
    so that only what planes and affine forms are charged pays for it (no linear operator's charge hides theirs)."""
    names = ["x", *(f"v{k}" for k in range(length - 1)), "y"]
    slope = {"slope": np.array([1 - 2.0**-53])}
    nodes = tuple(Node("PRelu", (a,), b, slope) for a, b in pairwise(names))
    return Graph(("x",), ("y",), nodes, dict.fromkeys(names, (1,)))


def drifted() -> set[str]:
    """Which bounds of `drift` do not hold: "interval", "row"."""
    graph, low, high = drift(), np.array([[-1.125]]), np.array([[-1.0625]])
    case, wrong = boxes(graph, low, high), set()
    matrix = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    for name in ("affine", "attributed", "affine with rows"):
        known = case.sweep(METHODS[name])
        coefficients, bias = case.rows(known, "backward", matrix)
        for x in (Fraction(float(low[0, 0])), Fraction(float(high[0, 0]))):
            y = x * Fraction(1 - 2.0**-53) ** len(graph.nodes)
            if not Fraction(float(known.output.lower[0, 0])) <= y <= Fraction(float(known.output.upper[0, 0])):
                wrong.add("interval")
            for k, sign in enumerate((1, -1)):
                if Fraction(float(coefficients[0, k, 0])) * x + Fraction(float(bias[0, k])) > sign * y:
                    wrong.add("row")
    return wrong


def test_planes_and_affine_forms_pay_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bounds hold; without either charge they do not, so this test would see that one is missing."""
    assert drifted() == set()
    with monkeypatch.context() as patch:
        free = lambda self, i, planes: rounding.planes_of(self.network.ops[i], planes, not self.network.finite)  # noqa: E731
        patch.setattr(rounding.Allowance, "planes", free)
        assert "row" in drifted()
    with monkeypatch.context() as patch:
        patch.setattr(affine, "_rounding", lambda op, forms, bounds, planes: torch.zeros_like(planes.lower_offset))
        assert "interval" in drifted()
