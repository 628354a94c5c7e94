"""Zonotopes with rounding: every point of every box inside, on random graphs of all operators."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import ALL_BLOCKS, boxes, graphs, relu_graphs
from verifier.bounds import zonotope
from verifier.bounds.zonotope import Twin, start, sweep_zonotope
from verifier.semantic.conditions import CellBounds, around

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


def test_clipping_keeps_every_point_that_a_row_leaves_possible():
    """Boxes a few numbers wide and far from 0, where the midpoint is rounded, in fractions."""
    draw = np.random.default_rng(0)
    kept = cut = 0
    for _ in range(2000):
        lower = draw.uniform(1, 2) * 10.0 ** draw.integers(-3, 6)
        numbers = [float(lower)]
        for _ in range(draw.integers(1, 12)):
            numbers.append(float(np.nextafter(numbers[-1], np.inf)))
        low, high = (torch.tensor([[v]], dtype=torch.float64) for v in (numbers[0], numbers[-1]))
        middle, slope = draw.normal(), draw.normal()
        one, none = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
        low_end = np.nextafter(middle - abs(slope), -np.inf)
        bounds = CellBounds(
            low=one * low_end, middle=one * middle, slopes=one[:, :, None] * slope, noise=none, clause=none.long(),
            floor=one * -torch.inf, ceiling=one * -torch.inf, worst=one[0] * low_end, reached=one[0],
            critical=none.long()[0], blame=none, unstable=none.long()[0],
        )  # fmt: skip
        if low_end > 0:
            continue
        centre, radius = (Fraction(float(t)) for t in around(low, high))
        bottom, top = (Fraction(float(t)) for t in bounds.clip(low, high))
        zero = centre - Fraction(middle) / Fraction(slope) * radius
        first, last = (Fraction(numbers[0]), zero) if slope > 0 else (zero, Fraction(numbers[-1]))
        first, last = max(first, Fraction(numbers[0])), min(last, Fraction(numbers[-1]))
        if first <= last:
            assert bottom <= first and last <= top
            kept += 1
            cut += bottom > numbers[0] or top < numbers[-1]
    assert kept > 100 and cut > 50
