"""Laws of every linear operator, against a dense matrix built from unit vectors by the numpy oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import oracles
from tests.contract.samples import DTYPES, LINEAR, MISSING, UNKNOWN, Sample
from verifier.ops.kinds import Interval, LinearOp
from verifier.ops.patch import Patch
from verifier.tolerance import gamma, ulp

every = pytest.mark.parametrize("sample", LINEAR, ids=str)
both = pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))
several = pytest.mark.parametrize("sample", [s for s in LINEAR if s.in_shapes], ids=str)


def _op(sample: Sample, dtype: torch.dtype) -> LinearOp:
    op = sample.bind(dtype)
    assert isinstance(op, LinearOp)
    return op


def _inputs(sample: Sample, dtype: torch.dtype, lead: int = 5, seed: int = 0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn((lead, *shape), generator=rng, dtype=dtype) for shape in sample.in_shapes]


def _times(matrix: np.ndarray, x: torch.Tensor) -> np.ndarray:
    return x.double().reshape(len(x), -1).numpy() @ matrix.T


def _close(actual: torch.Tensor, expected: np.ndarray, dtype: torch.dtype) -> None:
    flat = actual.double().reshape(actual.shape[0], -1).numpy()
    np.testing.assert_allclose(flat, np.broadcast_to(expected, flat.shape), rtol=64 * ulp(dtype), atol=256 * ulp(dtype))


def test_every_operator_has_a_sample() -> None:
    assert not MISSING, f"operators without a row in tests/contract/samples.py: {MISSING}"
    assert not UNKNOWN, f"samples of operators that are not registered: {UNKNOWN}"


@every
@both
def test_linear_absolute_offset_and_forward(sample: Sample, dtype: torch.dtype) -> None:
    op, xs = _op(sample, dtype), _inputs(sample, dtype)
    matrices, constant = oracles.linear_map(sample.node, list(sample.in_shapes), sample.out_shape)
    linear = sum((_times(m, x) for m, x in zip(matrices, xs, strict=True)), np.zeros((1, constant.size)))
    _close(op.linear(*xs), linear, dtype)
    _close(op.forward(*xs), linear + constant, dtype)
    positive = [x.abs() for x in xs]
    absolute = sum(
        (_times(np.abs(m), x) for m, x in zip(matrices, positive, strict=True)), np.zeros((1, constant.size))
    )
    _close(op.absolute(*positive), absolute, dtype)
    offset = op.offset()
    stored = torch.zeros(op.out_shape, dtype=dtype) if offset is None else offset.expand(op.out_shape)
    _close(stored[None], constant[None], dtype)


@several
@both
def test_adjoint_is_the_transpose(sample: Sample, dtype: torch.dtype) -> None:
    op = _op(sample, dtype)
    rows = torch.randn((4, *op.out_shape), generator=torch.Generator().manual_seed(1), dtype=dtype)
    parts = op.adjoint(rows)
    assert [p.shape[1:] for p in parts] == [torch.Size(s) for s in sample.in_shapes]
    xs = [x.requires_grad_() for x in _inputs(sample, dtype, lead=4)]
    expected = torch.autograd.grad(op.linear(*xs), xs, rows)
    matrices, _ = oracles.linear_map(sample.node, list(sample.in_shapes), sample.out_shape)
    for part, automatic, matrix in zip(parts, expected, matrices, strict=True):
        torch.testing.assert_close(part, automatic, rtol=64 * ulp(dtype), atol=256 * ulp(dtype))
        _close(part, _times(matrix.T, rows), dtype)


def _parts(shape: tuple[int, ...], rng: np.random.Generator) -> list[Patch]:
    """All of a value of that shape, boxes of it, corners first, and elements in any order."""
    ends = [[(0, size)] * 3 + [(0, 1), (size - 1, size), (size // 2, size)] for size in shape]
    boxes = [tuple(one[k] for one in ends) for k in (0, 3, 4, 5)]
    boxes += [tuple(one[int(rng.integers(6))] for one in ends) for _ in range(4)]
    size = int(np.prod(shape))
    listed = [torch.from_numpy(rng.permutation(size)[: 1 + size // k]) for k in (1, 2, 5)]
    return [*(Patch(shape, box) for box in boxes), *(Patch(shape, None, places) for places in listed)]


@several
@both
def test_adjoint_on_parts_is_that_of_rows_with_zeros_around(sample: Sample, dtype: torch.dtype) -> None:
    op, rng = _op(sample, dtype), np.random.default_rng(2)
    for part in _parts(op.out_shape, rng):
        rows = torch.from_numpy(rng.normal(size=(3, *part.shape))).to(dtype)
        placed = torch.zeros(3, int(np.prod(part.whole)), dtype=dtype)
        placed[:, part.places] = rows.reshape(3, -1)
        torch.testing.assert_close(part.everywhere(rows).reshape(3, -1), placed, rtol=0, atol=0)
        torch.testing.assert_close(part.select(placed), rows.reshape(3, -1), rtol=0, atol=0)
        expected = op.adjoint(placed.view(3, *op.out_shape))
        through = op.through(rows, part)  # of all of it, too
        every = zip(op.adjoint_on(rows, part), through or op.adjoint_on(rows, part), strict=True)
        for pair, whole, shape in zip(every, expected, op.in_shapes, strict=True):
            for found, reached in pair:
                assert reached.whole == shape and found.shape == (3, *reached.shape)
                assert len(set(reached.places.tolist())) == reached.size
                torch.testing.assert_close(
                    reached.everywhere(found), whole, rtol=64 * ulp(dtype), atol=256 * ulp(dtype)
                )


def test_a_part_of_a_picture_needs_a_part_of_the_picture_before() -> None:
    """Kernel 3, stride 2, padding 1: rows over (1, 2) x (2, 4) reach (1, 4) x (3, 8)."""
    attrs = {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    sample = Sample("Conv", ((1, 2, 9, 9),), (1, 3, 5, 5), attrs, {"weight": np.ones((3, 2, 3, 3))})
    part = Patch((1, 3, 5, 5), ((0, 1), (0, 3), (1, 2), (2, 4)))
    ((_, reached),) = _op(sample, torch.float64).adjoint_on(torch.ones(1, *part.shape).double(), part)
    assert reached.box == ((0, 1), (0, 2), (1, 4), (3, 8))


@every
@both
def test_interval_is_exact(sample: Sample, dtype: torch.dtype) -> None:
    """For one operator the interval rule is the exact range, wider by no more than its allowance for rounding."""
    op = _op(sample, dtype)
    low = _inputs(sample, dtype, seed=2)
    width = [x.abs() * (x > -0.5) for x in _inputs(sample, dtype, seed=3)]
    box = [Interval(a, a + w) for a, w in zip(low, width, strict=True)]
    result = op.interval(*box)
    matrices, constant = oracles.linear_map(sample.node, list(sample.in_shapes), sample.out_shape)
    below = above = constant[None]
    size = np.abs(below)
    for m, x in zip(matrices, box, strict=True):
        size = size + _times(np.abs(m), torch.maximum(x.lower.abs(), x.upper.abs()))
        plus, minus = np.maximum(m, 0), np.minimum(m, 0)
        below = below + _times(plus, x.lower) + _times(minus, x.upper)
        above = above + _times(plus, x.upper) + _times(minus, x.lower)
    flat = [end.double().reshape(len(end), -1).numpy() for end in result]
    own = 1e-13 * size  # of the oracle's own sums
    assert (flat[0] <= below + own).all() and (flat[1] >= above - own).all()
    most = 5 * gamma(op.terms, dtype) * size + own
    assert (flat[0] >= below - most).all() and (flat[1] <= above + most).all()


@several
@both
def test_batch_equals_single_calls(sample: Sample, dtype: torch.dtype) -> None:
    op, xs = _op(sample, dtype), _inputs(sample, dtype)
    whole = op.forward(*xs)
    rows = torch.randn_like(whole)
    back = op.adjoint(rows)
    for i in range(5):
        torch.testing.assert_close(
            op.forward(*(x[i : i + 1] for x in xs)), whole[i : i + 1], rtol=64 * ulp(dtype), atol=256 * ulp(dtype)
        )
        for a, b in zip(op.adjoint(rows[i : i + 1]), back, strict=True):
            torch.testing.assert_close(a, b[i : i + 1], rtol=64 * ulp(dtype), atol=256 * ulp(dtype))
