"""What must hold without any tolerance: stable pieces, signs, and the named defaults."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contract.samples import CPU, DTYPES
from verifier.graph.ir import Node
from verifier.ops.kinds import Interval, RelaxedOp
from verifier.ops.registry import bind

both = pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
finite = st.floats(-1e6, 1e6, width=32)


def _op(name: str, dtype: torch.dtype, shapes: dict[str, tuple[int, ...]] | None = None, **attrs: object) -> RelaxedOp:
    shapes = shapes or {"x": (1,), "y": (1,)}
    inputs = tuple(name for name in shapes if name != "y")
    op = bind(Node(name, inputs, "y", attrs=attrs), shapes, dtype, CPU)  # type: ignore[arg-type]
    assert isinstance(op, RelaxedOp)
    return op


def _box(dtype: torch.dtype, *bounds: tuple[float, float]) -> Interval:
    tensor = torch.tensor(bounds, dtype=dtype)[:, :, None]
    return Interval(tensor[:, 0], tensor[:, 1])


def _lines(op: RelaxedOp, x: Interval, parallel: bool = False) -> list[tuple[float, float, float, float]]:
    """Per box: lower slope and offset, upper slope and offset."""
    (low_s,), low_o, (up_s,), up_o = op.relax(x, parallel=parallel)
    return [tuple(row) for row in torch.cat([low_s, low_o, up_s, up_o], 1).tolist()]  # type: ignore[misc]


@both
@pytest.mark.parametrize("parallel", (False, True))
def test_stable_pieces_are_exact(dtype: torch.dtype, parallel: bool) -> None:
    right, left = (
        _box(dtype, (0.0, 3.3), (1e-3, 7.7), (5.1, 5.2)),
        _box(dtype, (-3.3, 0.0), (-7.7, -1e-3), (-5.2, -5.1)),
    )
    for name, attrs, slope in (
        ("Relu", {}, 0.0),
        ("LeakyRelu", {"alpha": 0.125}, 0.125),
        ("LeakyRelu", {"alpha": 3.0}, 3.0),
    ):
        op = _op(name, dtype, **attrs)
        assert _lines(op, right, parallel) == 3 * [(1, 0, 1, 0)]
        assert _lines(op, left, parallel) == 3 * [(slope, 0, slope, 0)]
    op = _op("Abs", dtype)
    assert _lines(op, right, parallel) == 3 * [(1, 0, 1, 0)]
    assert _lines(op, left, parallel) == 3 * [(-1, 0, -1, 0)]
    op = _op("Clip", dtype, min=-1.0, max=2.0)
    assert _lines(op, _box(dtype, (-1.0, 2.0), (-0.3, 1.7)), parallel) == 2 * [(1, 0, 1, 0)]
    assert _lines(op, _box(dtype, (-9.1, -1.0), (-1.3, -1.2)), parallel) == 2 * [(0, -1, 0, -1)]
    assert _lines(op, _box(dtype, (2.0, 9.1), (3.3, 3.4)), parallel) == 2 * [(0, 2, 0, 2)]
    op = _op("Sign", dtype)
    assert _lines(op, _box(dtype, (-2.0, -1e-30), (1e-30, 2.0)), parallel) == [(0, -1, 0, -1), (0, 1, 0, 1)]
    op = _op("Floor", dtype)
    assert _lines(op, _box(dtype, (-1.0, -0.25), (7.0, 7.9)), parallel) == [(0, -1, 0, -1), (0, 7, 0, 7)]


@both
def test_relu_defaults(dtype: torch.dtype) -> None:
    """CROWN's adaptive lower slope and the triangle above."""
    lines = _lines(_op("Relu", dtype), _box(dtype, (-1.0, 3.0), (-3.0, 1.0), (-2.0, 2.0)))
    tolerance = 8 * torch.finfo(dtype).eps
    expected = [(1, 0, 0.75, 0.75), (0, 0, 0.25, 0.75), (1, 0, 0.5, 1.0)]
    np.testing.assert_allclose(lines, expected, rtol=tolerance)
    assert all(line[3] >= want[3] for line, want in zip(lines, expected, strict=True))


@both
def test_mul_with_one_fixed_factor_is_linear(dtype: torch.dtype) -> None:
    op = _op("Mul", dtype, {"a": (1,), "b": (1,), "y": (1,)})
    wide, point = _box(dtype, (-1.3, 2.7), (0.1, 0.7)), _box(dtype, (0.3, 0.3), (-5.1, -5.1))
    for x, y in ((wide, point), (point, wide), (point, point)):
        for planes in (op.relax(x, y), op.relax(x, y, parallel=True)):
            assert torch.equal(planes.lower_offset, torch.zeros_like(planes.lower_offset))
            assert torch.equal(planes.upper_offset, torch.zeros_like(planes.upper_offset))
            varying, factor = (0, y.lower) if y is point else (1, x.lower)
            assert torch.equal(planes.lower_slopes[varying], factor)
            assert torch.equal(planes.upper_slopes[varying], factor)
            assert torch.equal(planes.lower_slopes[1 - varying], torch.zeros_like(factor))


@both
def test_dominating_element_of_a_maximum_is_exact(dtype: torch.dtype) -> None:
    op = _op("ReduceMax", dtype, {"x": (3,), "y": ()}, axis=0)
    lower, upper = torch.tensor([[0.1, 1.3, -2.0]], dtype=dtype), torch.tensor([[0.7, 2.9, 1.3]], dtype=dtype)
    assert not op.unstable(Interval(lower, upper)).any()
    for parallel in (False, True):
        planes = op.relax(Interval(lower, upper), parallel=parallel)
        for slopes, offset in (planes[:2], planes[2:]):
            assert slopes[0].tolist() == [[0, 1, 0]] and offset.tolist() == [0]


@both
@pytest.mark.parametrize(("name", "bounds"), [
    ("Log", (-1.0, 2.0)), ("Log", (-2.0, -1.0)), ("Sqrt", (-1.0, 2.0)), ("Sqrt", (-2.0, -1.0)), ("Sqrt", (-1e-30, 4.0)),
    ("Reciprocal", (-1.0, 1.0)), ("Reciprocal", (0.0, 1.0)), ("Reciprocal", (-1.0, 0.0)), ("Reciprocal", (-0.0, 1.0)),
])  # fmt: skip
def test_leaving_the_domain_leaves_nothing(name: str, bounds: tuple[float, float], dtype: torch.dtype) -> None:
    op, x = _op(name, dtype), _box(dtype, bounds)
    low, high = op.interval(x)
    assert low.item() == -torch.inf and high.item() == torch.inf
    for parallel in (False, True):
        assert _lines(op, x, parallel) == [(0, -torch.inf, 0, torch.inf)]


@both
def test_edge_of_the_domain(dtype: torch.dtype) -> None:
    low, high = _op("Log", dtype).interval(_box(dtype, (0.0, 1.0)))
    assert low.item() == -torch.inf and 0 <= high.item() < 1e-30
    low, high = _op("Sqrt", dtype).interval(_box(dtype, (0.0, 4.0)))
    assert low.item() == 0 and 2 <= high.item() < 2.00001
    low, _ = _op("Exp", dtype).interval(_box(dtype, (-1e4, 0.0)))
    assert low.item() == 0
    low, high = _op("Pow", dtype, exponent=2).interval(_box(dtype, (-3.0, 1.0)))
    assert low.item() == 0 and 9 <= high.item() < 9.0001


@both
@given(first=finite, second=finite)
@settings(max_examples=50, deadline=None)
def test_ranges_and_signs_survive_rounding(dtype: torch.dtype, first: float, second: float) -> None:
    x = _box(dtype, (min(first, second), max(first, second)))
    for name, least, most in (("Sigmoid", 0, 1), ("Tanh", -1, 1), ("Sin", -1, 1), ("Cos", -1, 1), ("Relu", 0, np.inf)):
        low, high = _op(name, dtype).interval(x)
        assert least <= low.item() <= high.item() <= most
    assert _op("Abs", dtype).interval(x).lower.item() >= 0
