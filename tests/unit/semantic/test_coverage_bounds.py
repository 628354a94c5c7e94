"""Zonotopes with rounding: every point of every box inside, on random graphs of all operators."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import ALL_BLOCKS, boxes, graphs, relu_graphs
from verifier.bounds import zonotope
from verifier.bounds.zonotope import Twin, start, sweep_zonotope

CPU = torch.device("cpu")


def check(graph, lower, upper, seed, points=64):
    """Bounds of three sub-boxes at once; the values at random and at corner points lie inside, also of the linear
    part.
    """
    twin = Twin.of(graph, CPU)
    draw = np.random.default_rng(seed)
    cut = np.sort(draw.random((2, 3, len(lower))), axis=0)
    low, high = (torch.from_numpy(lower + c * (upper - lower)) for c in cut)
    centre = (low + high) / 2
    radius = torch.maximum(high - centre, centre - low) * (1 + 1e-15)
    n = len(lower)
    out, symbols, unstable = sweep_zonotope(
        twin,
        start(
            torch.zeros(3, n, dtype=torch.float64),
            torch.eye(n, dtype=torch.float64).expand(3, n, n),
            centre,
            radius,
            torch.float32,
        ),
    )
    assert (unstable >= 0).all() and symbols.inputs == n
    spread = out.interval()
    noise = out.lumped().double()
    for _ in range(points):
        e = torch.from_numpy(draw.uniform(-1, 1, (3, n)))
        e = torch.where(torch.from_numpy(draw.random((3, n)) < 0.4), e.sign(), e)
        x = torch.minimum(torch.maximum(centre + e * radius, low), high)
        y = twin.exact.forward(x)
        slack = 1e-11 * (1 + y.abs())
        assert ((y >= spread.lower - slack) & (y <= spread.upper + slack)).all()
        e = (x - centre) / radius.clamp(min=1e-300)
        linear = out.core[:, 0] + torch.einsum("bd,bdm->bm", e, out.core[:, 1:])
        assert ((y - linear).abs() <= noise + slack).all()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_graphs_of_all_operators(data):
    graph = data.draw(graphs(ALL_BLOCKS))
    n = graph.size(graph.inputs[0])
    if n <= zonotope.MAX_INPUTS:
        lower, upper = data.draw(boxes(n))
        check(graph, lower, upper, data.draw(st.integers(0, 99)), points=16)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_relu_graphs(data):
    graph = data.draw(relu_graphs())
    lower, upper = data.draw(boxes(graph.size(graph.inputs[0])))
    check(graph, lower, upper, data.draw(st.integers(0, 99)), points=16)


@pytest.mark.parametrize("room", [0, 40])
def test_noise_that_finds_no_room_goes_into_the_radius(room, monkeypatch):
    from tests.unit.semantic.coverage_cases import mlp
    from verifier.passes.flatten_io import flatten_io

    graph = flatten_io(mlp(0, hidden=(20, 20))[0].graph)
    monkeypatch.setattr(zonotope, "MAP_ELEMENTS", room)
    check(graph, np.array([-1.0, -1.0]), np.array([1.0, 1.0]), 0)
