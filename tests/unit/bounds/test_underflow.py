"""Numbers that float32 cannot hold to half an ulp, and denormal ones: weights, slopes, values."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

import vnnlib
from benchmarks.adversarial.cases import Net, spec
from verifier import Options, verify
from verifier.bounds.zonotope import Twin
from verifier.graph.ir import Graph, Node
from verifier.graph.onnx_import import load_model
from verifier.ops.kinds import Interval
from verifier.ops.registry import bind

CPU = torch.device("cpu")


def _verdict(data: bytes, text: str, method: str) -> str:
    options = Options.from_mapping({"bounds": {"method": method}, "attack": {"restarts": 0}, "timeout": 20})
    return verify(load_model(data), vnnlib.loads(text), options).verdict.value


@pytest.mark.parametrize("row", ["(>= Y_0 1.9)", "(<= Y_0 0.1)"])
def test_a_weight_that_vanishes_in_float32(row: str) -> None:
    """1e8 relu(1e-46 relu(1e38 x + 1e38)) is 1 + x."""
    net = Net((1, 1), np.float64)
    value = net.op("Relu", net.affine("x", [[1e38]], [1e38]))
    value = net.op("Relu", net.affine(value, [[1e-46]], [0.0]))
    net.affine(value, [[1e8]], [0.0])
    assert _verdict(net.done(1), spec([-1], [1], 1, row), "lumped") == "sat"


def test_slopes_that_float32_rounds() -> None:
    """1e9 (PRelu(x) - slope x) is 0 where x < 0."""
    net = Net((1, 2), np.float64)
    slope = np.array([[0.1, 0.2]])
    net.affine(net.op("Sub", net.op("PRelu", "x", slope), net.op("Mul", "x", slope)), [[1e9], [1e9]], [0.0])
    assert _verdict(net.done(1), spec([-0.75] * 2, [-0.7499] * 2, 1, "(>= Y_0 -0.5)"), "lumped") == "sat"


@pytest.mark.parametrize(("weight", "fits"), [(0.1, True), (1e-46, False), (1e39, False), (1e-40, False), (0.0, True)])
def test_float32_is_used_where_it_holds_the_weights(weight: float, fits: bool) -> None:
    node = Node("Dense", ("x",), "y", {"weight": np.array([[weight, 1.0]])})
    twin = Twin.of(Graph(("x",), ("y",), (node,), {"x": (2,), "y": (1,)}), CPU)
    assert (twin.fast.dtype is torch.float32) is fits


@pytest.mark.parametrize("alpha", [0.01, 0.3, 2.5, -0.7])
def test_hinges_of_denormal_numbers(alpha: float) -> None:
    """The image holds as it is; the planes up to the smallest normal number, which a row pays for each of them."""
    op = bind(Node("PRelu", ("x",), "y", {"slope": np.array(alpha)}), {"x": (1,), "y": (1,)}, torch.float64, CPU)
    rng = np.random.default_rng(0)
    ends = np.sort(rng.normal(size=(200, 2)) * rng.choice([1e-320, 1e-322, 1e-310, 1e-3], (200, 2)), 1)
    x = Interval(*(torch.from_numpy(end.copy())[:, None] for end in ends.T))
    image, planes, room = op.interval(x), op.relax(x), Fraction(2.0**-1022)
    for i, (low, high) in enumerate(ends.tolist()):
        for t in (Fraction(low), Fraction(high), Fraction(0) if low < 0 < high else Fraction(low)):
            y = t if t >= 0 else t * Fraction(alpha)
            assert Fraction(image.lower[i, 0].item()) <= y <= Fraction(image.upper[i, 0].item())
            below, above = (
                Fraction(slopes[0][i, 0].item()) * t + Fraction(offset[i, 0].item())
                for slopes, offset in (
                    (planes.lower_slopes, planes.lower_offset),
                    (planes.upper_slopes, planes.upper_offset),
                )
            )
            assert below - room <= y <= above + room


@pytest.mark.parametrize("inputs", [2, 9])
def test_a_product_of_weights_that_underflows(inputs: int) -> None:
    """sum of 1e100 relu(1e-200 1e-200 x) on [-1e300, 1e300]: up to `inputs`, though 1e-400 is no number. Nine inputs
    are searched as a network of one hidden layer, whose weights are multiplied out."""
    net, unit = Net((1, inputs), np.float64), np.eye(inputs)
    value = net.op("MatMul", net.op("MatMul", "x", 1e-200 * unit), 1e-200 * unit)
    net.op("MatMul", net.op("Relu", value), np.full((inputs, 1), 1e100))
    assert _verdict(net.done(1), spec([-1e300] * inputs, [1e300] * inputs, 1, "(>= Y_0 0.5)"), "auto") != "unsat"


def test_products_that_underflow() -> None:
    """They hold in fractions, and keep their sign: 1e-400 is above 0, whatever float64 makes of it."""
    op = bind(Node("Mul", ("x", "y"), "z"), {name: (1,) for name in "xyz"}, torch.float64, CPU)
    rng = np.random.default_rng(2)
    ends = np.sort(rng.normal(size=(400, 2, 2)) * rng.choice([1e-200, 1e-160, 1e-155, 1.0, 0.0], (400, 2, 2)), 2)
    x, y = (Interval(*(torch.from_numpy(ends[:, k, e].copy())[:, None] for e in (0, 1))) for k in (0, 1))
    found = op.interval(x, y)
    for i, (first, second) in enumerate(ends.tolist()):
        products = [Fraction(a) * Fraction(b) for a in first for b in second]
        low, high = Fraction(found.lower[i, 0].item()), Fraction(found.upper[i, 0].item())
        assert low <= min(products) and max(products) <= high
        assert low >= 0 if min(products) >= 0 else low < 0
        assert high <= 0 if max(products) <= 0 else high > 0
