"""Offsets that are known to within an error: every kind of bound is wider by it."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from verifier.bounds.inputs import IdentityMap
from verifier.bounds.lumped import Prepared, Source, sweep_lumped
from verifier.bounds.network import build
from verifier.bounds.rational import Rational
from verifier.bounds.sweep import Method, sweep
from verifier.bounds.zonotope import Twin, start, sweep_zonotope
from verifier.graph.check import check_graph
from verifier.graph.ir import Graph, Node
from verifier.ops.kinds import Interval
from verifier.search.shallow import form as shallow

CPU = torch.device("cpu")


def network(errors: dict[str, float]) -> Graph:
    """y = -2 relu(3 x + 1 + 5 - 5 + c) with c = 0 constant; each of these offsets with an error of its own."""

    def error(name: str, *shape: int) -> dict[str, np.ndarray]:
        return {"bias_error": np.full(shape, errors[name])} if name in errors else {}

    nodes = (
        Node("Dense", ("x",), "d", {"weight": np.array([[3.0]]), "bias": np.array([1.0]), **error("dense", 1)}),
        Node("Shift", ("d",), "s", {"offset": np.array([0.0]), **error("shift")}),
        Node("Constant", (), "c", {"value": np.array([0.0]), **error("constant", 1)}),
        Node("Add", ("s", "c"), "a"),
        Node("Relu", ("a",), "r"),
        Node("Dense", ("r",), "y", {"weight": np.array([[-2.0]]), **error("last", 1)}),
    )
    graph = Graph(("x",), ("y",), nodes, dict.fromkeys("xdscary", (1,)))
    check_graph(graph)
    return graph


@pytest.mark.parametrize("name", ["dense", "shift", "constant", "last"])
@pytest.mark.parametrize("way", ["interval", "affine", "rows", "zonotope", "lumped"])
def test_the_error_of_an_offset_widens_every_bound(name: str, way: str) -> None:
    graph, error = network({name: 0.5}), 0.5 * (1.0 if name == "last" else 2.0)
    low, high = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([[2.0]], dtype=torch.float64)
    query = torch.zeros(1, dtype=torch.int64)
    if way in ("zonotope", "lumped"):
        twin, eye = Twin.of(graph, CPU), torch.eye(1, dtype=torch.float64)[None]
        centre, radius = (low + high) / 2, (high - low) / 2
        if way == "zonotope":
            first = start(torch.zeros_like(centre), eye, centre, radius, twin.fast.dtype)
            bound = sweep_zonotope(twin, first)[0].interval()
        else:
            source = Source.of(torch.zeros_like(eye[:, 0]), eye, twin.fast.dtype)
            bound = sweep_lumped(Prepared.of(twin), source, centre, radius, query).interval()
        lower, upper = float(bound.lower), float(bound.upper)
    else:
        method = Method(affine=way != "interval", rows=way == "rows")
        inputs = IdentityMap(torch.zeros(1, 1, dtype=torch.int64))
        output = sweep(build(graph, torch.float64, CPU), low, high, query, inputs, method).output
        lower, upper = float(output.lower), float(output.upper)
    # exactly, y lies in [-2 (3 * 2 + 1) - error, -2 (3 + 1) + error]
    assert -14 - error - 3e-4 <= lower <= -14 - error + 1e-12 and -8 + error - 1e-12 <= upper <= -8 + error + 3e-4


def test_backward_rows_lose_the_error() -> None:
    from verifier.bounds.backward import walk_back

    net = build(network({"dense": 0.5, "shift": 0.25}), torch.float64, CPU)
    slot = 4  # the argument of the ReLU
    for sign in (1.0, -1.0):
        rows = torch.full((1, 1, 1), sign, dtype=torch.float64)
        coefficients, bias = walk_back(net, slot, rows, torch.zeros(1, 1, dtype=torch.float64), {})
        assert float(coefficients) == 3 * sign and float(bias) == sign * 1.0 - 0.75


@pytest.mark.parametrize("way", ["zonotope", "lumped"])
@pytest.mark.parametrize("seed", range(20))
def test_zonotopes_allow_for_rounded_weights(way: str, seed: int) -> None:
    """A hundred layers, weights off by 6 roundings each, on a box so thin that nothing else fills the radius."""
    rng = np.random.default_rng(seed)
    weights, off = rng.uniform(0.5, 2.0, 100), {"roundings": np.array(6.0)}
    nodes = tuple(
        Node("Dense", (f"v{k}",), f"v{k + 1}", {"weight": np.array([[w]]), **off})
        if k % 2
        else Node("Scale", (f"v{k}",), f"v{k + 1}", {"factor": np.array(w), **off})
        for k, w in enumerate(weights)
    )
    graph = Graph(("v0",), ("v100",), nodes, {f"v{k}": (1,) for k in range(101)})
    check_graph(graph)
    x = rng.uniform(1, 2, 1)
    ends = [
        math.prod((Fraction(float(w)) * (1 + side * Fraction(6, 2**53)) for w in weights), start=Fraction(float(x[0])))
        for side in (-1, 1)
    ]
    twin, eye = Twin.of(graph, CPU), torch.eye(1, dtype=torch.float64)[None]
    centre = torch.from_numpy(x)[None]
    radius = torch.full_like(centre, 1e-30)
    if way == "zonotope":
        bound = sweep_zonotope(twin, start(torch.zeros_like(centre), eye, centre, radius, twin.fast.dtype))[
            0
        ].interval()
    else:
        source = Source.of(torch.zeros_like(eye[:, 0]), eye, twin.fast.dtype)
        query = torch.zeros(1, dtype=torch.int64)
        bound = sweep_lumped(Prepared.of(twin), source, centre, radius, query).interval()
    for end in ends:
        assert Fraction(float(bound.lower)) <= end <= Fraction(float(bound.upper))


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_of_a_rounded_factor(seed: int) -> None:
    rng = np.random.default_rng(seed)
    factor, x = 10.0 ** rng.uniform(-3, 3), rng.normal()
    node = Node("Scale", ("x",), "y", {"factor": np.array(factor), "roundings": np.array(6.0)})
    graph = Graph(("x",), ("y",), (node,), {"x": (1,), "y": (1,)})
    point = torch.tensor([[x]], dtype=torch.float64)
    (op,) = build(graph, torch.float64, CPU).ops
    bound = op.interval(Interval(point, point))
    for side in (-1, 1):
        true = Fraction(factor) * (1 + side * Fraction(6, 2**53)) * Fraction(x)
        assert Fraction(float(bound.lower)) <= true <= Fraction(float(bound.upper))


def test_the_search_of_shallow_networks_leaves_them_alone() -> None:
    assert shallow.suits(build(network({}), torch.float64, CPU))
    assert not shallow.suits(build(network({"shift": 0.5}), torch.float64, CPU))
    off = network({})
    first = Node("Dense", ("x",), "d", {**off.nodes[0].params, "roundings": np.array(1.0)})
    inexact = Graph(off.inputs, off.outputs, (first, *off.nodes[1:]), off.shapes)
    assert not shallow.suits(build(inexact, torch.float64, CPU))
    assert Rational.of(build(inexact, torch.float64, CPU)) is None and Rational.of(build(off, torch.float64, CPU))
