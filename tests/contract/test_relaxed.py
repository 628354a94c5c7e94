"""Laws of every non-linear operator: what it says about a box holds for the points of the box."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import oracles
from tests.contract.boxes import boxes, pick
from tests.contract.planes import LONG, _check_planes, _long, _op, _plane, _truth
from tests.contract.samples import DTYPES, ELEMENTWISE, RELAXED, Sample
from verifier.ops.kinds import Interval, Relaxation
from verifier.tolerance import ulp

POINTS = 64

every = pytest.mark.parametrize("sample", RELAXED, ids=str)
both = pytest.mark.parametrize("dtype", DTYPES, ids=("f32", "f64"))


def _points(sample: Sample, box: list[Interval], seed: int = 1) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [oracles.sample(x.lower.numpy(), x.upper.numpy(), POINTS, rng, sample.kinks) for x in box]


@every
@both
def test_interval_holds_sampled_values(sample: Sample, dtype: torch.dtype) -> None:
    op, box = _op(sample, dtype), boxes(sample, dtype)
    truth = _truth(sample, _points(sample, box))
    low, high = op.interval(*box)
    assert low.dtype == high.dtype == dtype and low.shape == truth.shape[1:]
    slack = 64 * LONG * np.abs(truth) + torch.finfo(dtype).tiny
    assert (_long(low) <= truth + slack).all() and (truth <= _long(high) + slack).all()


@every
@both
@pytest.mark.parametrize("parallel", (False, True), ids=("planes", "parallel"))
def test_planes_enclose_sampled_values(sample: Sample, dtype: torch.dtype, parallel: bool) -> None:
    op, box = _op(sample, dtype), boxes(sample, dtype)
    points = _points(sample, box)
    planes = op.relax(*box, parallel=parallel)
    for slope, x in zip(planes.lower_slopes + planes.upper_slopes, 2 * box, strict=True):
        assert slope.dtype == dtype and slope.shape == x.lower.shape
    _check_planes(sample, op, planes, points, _truth(sample, points))
    if parallel:
        for below, above in zip(planes.lower_slopes, planes.upper_slopes, strict=True):
            assert torch.equal(below, above)


@every
@both
def test_any_alpha_is_sound(sample: Sample, dtype: torch.dtype) -> None:
    op, box = _op(sample, dtype), boxes(sample, dtype, seed=3)
    assert op.adjustable
    points = _points(sample, box)
    truth = _truth(sample, points)
    first, _ = op.default_alpha(*box)
    generator = torch.Generator().manual_seed(5)
    ends = (torch.zeros_like(first), torch.ones_like(first))
    random = [torch.rand(first.shape, generator=generator, dtype=dtype) for _ in range(4)]
    for lower, upper in (ends, ends[::-1], random[:2], random[2:]):
        _check_planes(sample, op, op.relax_at(*box, alpha_lower=lower, alpha_upper=upper), points, truth)


@every
@both
def test_alpha_may_have_leading_axes(sample: Sample, dtype: torch.dtype) -> None:
    op, box = _op(sample, dtype), pick(boxes(sample, dtype), slice(0, 7))
    first, _ = op.default_alpha(*box)
    alpha = torch.rand((2, 3, *first.shape), generator=torch.Generator().manual_seed(5), dtype=dtype)
    joint = op.relax_at(*box, alpha_lower=alpha, alpha_upper=1 - alpha)
    single = op.relax_at(*box, alpha_lower=alpha[1, 2], alpha_upper=1 - alpha[1, 2])
    for a, b in zip(_tensors(joint), _tensors(single), strict=True):
        picked = a[1, 2] if a.dim() > b.dim() else a
        torch.testing.assert_close(picked, b, rtol=64 * ulp(dtype), atol=64 * ulp(dtype))


@every
@both
def test_default_alpha_reproduces_relax(sample: Sample, dtype: torch.dtype) -> None:
    op, box = _op(sample, dtype), boxes(sample, dtype)
    lower, upper = op.default_alpha(*box)
    for alpha in (lower, upper):
        assert alpha.min() >= 0 and alpha.max() <= 1
    again = op.relax_at(*box, alpha_lower=lower, alpha_upper=upper)
    for a, b in zip(_tensors(op.relax(*box)), _tensors(again), strict=True):
        assert torch.equal(a, b)


@every
def test_alpha_is_differentiable(sample: Sample) -> None:
    """Autograd against central differences, of both planes at random points."""
    op = _op(sample, torch.float64)
    box = [
        Interval(x.lower, x.lower + (x.upper - x.lower).clamp(0.1, 3.0)) for x in boxes(sample, torch.float64, seed=4)
    ]
    generator = torch.Generator().manual_seed(6)
    first, _ = op.default_alpha(*box)
    alphas = [torch.rand(first.shape, generator=generator, dtype=torch.float64) * 0.8 + 0.1 for _ in range(2)]
    weights = [torch.rand(op.interval(*box).lower.shape, generator=generator, dtype=torch.float64) for _ in range(2)]
    at = [x.lower + 0.37 * (x.upper - x.lower) for x in box]

    def total(lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
        """Per box: a weighted sum of the planes' values at fixed points."""
        planes = op.relax_at(*box, alpha_lower=lower, alpha_upper=upper)
        below = sum(op.collect(s * x) for s, x in zip(planes.lower_slopes, at, strict=True)) + planes.lower_offset
        above = sum(op.collect(s * x) for s, x in zip(planes.upper_slopes, at, strict=True)) + planes.upper_offset
        return (weights[0] * below + weights[1] * above).reshape(len(below), -1).sum(1)

    leaves = [a.clone().requires_grad_() for a in alphas]
    value = total(*leaves)
    grads = torch.autograd.grad(value.sum(), leaves, allow_unused=True, materialize_grads=True)
    step = 1e-6
    for which in (0, 1):
        assert grads[which].isfinite().all()
        direction = torch.rand(first.shape, generator=generator, dtype=torch.float64) - 0.5
        moved = [[a + sign * step * direction if i == which else a for i, a in enumerate(alphas)] for sign in (1, -1)]
        slope = (total(*moved[0]) - total(*moved[1])) / (2 * step)
        expected = (grads[which] * direction).reshape(len(direction), -1).sum(1)
        # a kink between the two points may spoil a few
        close = (slope - expected).abs() <= 1e-4 * (1 + expected.abs() + value.abs())
        assert close.double().mean() > 0.95


@every
@both
def test_point_box_gives_the_value(sample: Sample, dtype: torch.dtype) -> None:
    op = _op(sample, dtype)
    box = [Interval(x.lower, x.lower) for x in boxes(sample, dtype, seed=8)]
    truth = _truth(sample, [_long(x.lower)[None] for x in box])[0]
    low, high = op.interval(*box)
    room = 32 * ulp(dtype) * np.abs(truth) + torch.finfo(dtype).tiny * 4
    if sample.op == "LogSumExp":  # the sum is at least 1, so its logarithm has an absolute error
        room = room + 64 * ulp(dtype)
    assert (_long(high) - _long(low) <= room).all()
    for parallel in (False, True):
        planes = op.relax(*box, parallel=parallel)
        points = [_long(x.lower)[None] for x in box]
        below, size = _plane(op, planes.lower_slopes, planes.lower_offset, points)
        above, _ = _plane(op, planes.upper_slopes, planes.upper_offset, points)
        room = ulp(dtype) * (64 * np.abs(truth) + size[0] / LONG) + torch.finfo(dtype).tiny * 4
        if sample.op in ("Sin", "Cos", "Sigmoid", "LogSumExp"):  # values of a function of size 1
            room = room + 128 * ulp(dtype)
        assert (np.abs(below[0] - truth) <= room).all() and (np.abs(above[0] - truth) <= room).all()


@every
@both
def test_sub_box_never_loosens_the_interval(sample: Sample, dtype: torch.dtype) -> None:
    op, box = _op(sample, dtype), boxes(sample, dtype)
    rng = torch.Generator().manual_seed(2)
    inner = []
    for x in box:
        first, second = (torch.rand(x.lower.shape, generator=rng, dtype=dtype) for _ in range(2))
        cuts = (x.lower + t * (x.upper - x.lower) for t in (torch.minimum(first, second), torch.maximum(first, second)))
        inner.append(Interval(*(torch.minimum(torch.maximum(cut, x.lower), x.upper) for cut in cuts)))
    outer, sub = op.interval(*box), op.interval(*inner)
    room = 8 * ulp(dtype)  # elementary functions need not be monotone in the last digits
    assert (sub.lower >= outer.lower - room * outer.lower.abs()).all()
    assert (sub.upper <= outer.upper + room * outer.upper.abs()).all()


@every
@both
def test_batch_equals_single_calls(sample: Sample, dtype: torch.dtype) -> None:
    # not too narrow: there the chord's slope is made of rounding errors
    op, box = (
        _op(sample, dtype),
        [Interval(x.lower, torch.maximum(x.upper, x.lower + 0.01)) for x in boxes(sample, dtype)],
    )
    box = pick(box, slice(0, 17))
    whole = [*op.interval(*box), *_tensors(op.relax(*box)), *_tensors(op.relax(*box, parallel=True)), op.unstable(*box)]
    for i in range(17):
        one = pick(box, slice(i, i + 1))
        parts = [
            *op.interval(*one),
            *_tensors(op.relax(*one)),
            *_tensors(op.relax(*one, parallel=True)),
            op.unstable(*one),
        ]
        # offsets are differences of numbers of this size
        size = max(float(bound.abs().nan_to_num(posinf=0.0).max()) for bound in parts[:2])
        for a, b in zip(whole, parts, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, rtol=1024 * ulp(dtype), atol=1024 * ulp(dtype) * (1 + size))


@every
@both
def test_stable_elements_are_affine(sample: Sample, dtype: torch.dtype) -> None:
    """Where `unstable` says no, the planes meet (up to rounding)."""
    op, box = _op(sample, dtype), boxes(sample, dtype)
    stable = ~op.unstable(*box)
    assert stable.any() and stable.shape == op.interval(*box).lower.shape
    planes = op.relax(*box)
    points = _points(sample, box)
    below, size = _plane(op, planes.lower_slopes, planes.lower_offset, points)
    above, more = _plane(op, planes.upper_slopes, planes.upper_offset, points)
    known = stable.numpy() & np.isfinite(size[0]) & np.isfinite(more[0])
    room = 32 * ulp(dtype) * (1 + (size + more) / LONG / 64) * (4 if sample.op == "LogSumExp" else 1)
    assert ((above - below)[:, known] <= room[:, known]).all()


@every
@both
def test_hostile_bounds(sample: Sample, dtype: torch.dtype) -> None:
    """Infinite, huge, subnormal, NaN, pole-crossing and out-of-domain bounds: finite slopes, no NaN, still sound."""
    op = _op(sample, dtype)
    info = torch.finfo(dtype)
    inf, nan, big, small = torch.inf, torch.nan, info.max, info.smallest_normal / 4
    pairs = [(-inf, inf), (-inf, -1.0), (-inf, 2.0), (1.0, inf), (-1.0, inf), (nan, nan), (nan, 1.0), (-1.0, nan)]
    pairs += [
        (-big, big),
        (-big, 0.0),
        (0.0, big),
        (big / 2, big),
        (-1.0, big),
        (-big, 1.0),
        (-small, small),
        (0.0, small),
    ]
    pairs += [
        (-small, 0.0),
        (0.0, 0.0),
        (-0.0, 0.0),
        (-2.0, 1.0),
        (-2.0, -1.0),
        (0.0, 1.0),
        (-1.0, 0.0),
        (200.0, 300.0),
        (-1e9, 1e9),
    ]
    pairs += [(inf, inf), (-inf, -inf)]
    order = torch.Generator().manual_seed(1)
    box = []
    for shape in sample.in_shapes:
        index = torch.randint(len(pairs), (400, *shape), generator=order)
        bounds = torch.tensor(pairs, dtype=dtype)[index]
        box.append(Interval(bounds[..., 0], bounds[..., 1]))
    low, high = op.interval(*box)
    assert not low.isnan().any() and not high.isnan().any() and (low <= high).all()
    points = []
    for x in box:
        first = np.maximum(np.nan_to_num(x.lower.numpy(), nan=-big, neginf=-big), -big)
        last = np.minimum(np.nan_to_num(x.upper.numpy(), nan=big, posinf=big), big)
        points.append(oracles.sample(first, np.maximum(first, last), POINTS, np.random.default_rng(1), sample.kinks))
    truth = _truth(sample, points)
    with np.errstate(all="ignore"):
        defined = ~np.isnan(truth)
        slack = 64 * LONG * np.where(np.isinf(truth), 0, np.abs(truth))
        assert ((_long(low) <= truth + slack + info.tiny) | ~defined).all()
        assert ((_long(high) >= truth - slack - info.tiny) | ~defined).all()
        alpha = torch.full_like(op.default_alpha(*box)[0], 0.25)
        for planes in (
            op.relax(*box),
            op.relax(*box, parallel=True),
            op.relax_at(*box, alpha_lower=alpha, alpha_upper=alpha),
        ):
            assert all(s.isfinite().all() for s in planes.lower_slopes + planes.upper_slopes)
            assert not planes.lower_offset.isnan().any() and not planes.upper_offset.isnan().any()
            below, size = _plane(op, planes.lower_slopes, planes.lower_offset, points)
            assert ((below <= truth + slack + size + info.tiny) | ~defined | np.isneginf(below)).all()
            above, size = _plane(op, planes.upper_slopes, planes.upper_offset, points)
            assert ((above >= truth - slack - size - info.tiny) | ~defined | np.isposinf(above)).all()
    leaf = alpha.clone().requires_grad_()
    planes = op.relax_at(*box, alpha_lower=leaf, alpha_upper=leaf)
    total = sum((t[t.isfinite()] / big).sum() for t in _tensors(planes))
    if total.requires_grad:
        assert not torch.autograd.grad(total, leaf)[0].isnan().any()


@every
def test_spread_is_the_transpose_of_collect(sample: Sample) -> None:
    op = _op(sample, torch.float64)
    rng = torch.Generator().manual_seed(0)
    for index, shape in enumerate(sample.in_shapes):
        rows = torch.rand((3, 2, *op.out_shape), generator=rng, dtype=torch.float64)
        terms = torch.rand((3, 2, *shape), generator=rng, dtype=torch.float64)
        spread, collected = op.spread(rows, index), op.collect(terms, lead=2)
        assert spread.shape == terms.shape and collected.shape == rows.shape
        torch.testing.assert_close((spread * terms).sum(), (rows * collected).sum())


@every
@both
def test_forward_agrees_with_numpy(sample: Sample, dtype: torch.dtype) -> None:
    op, box = _op(sample, dtype), boxes(sample, dtype)
    ends = [x.lower if i % 2 else x.upper for i, x in enumerate(box)]
    truth = _truth(sample, [_long(x)[None] for x in ends])[0]
    error = np.abs(_long(op.forward(*ends)) - truth)
    size = np.abs(truth) + (sample.op == "LogSumExp")  # the sum is at least 1
    assert (error <= 4 * ulp(dtype) * size + torch.finfo(dtype).tiny).all()


@pytest.mark.parametrize("sample", ELEMENTWISE, ids=str)
@pytest.mark.parametrize("width", (0.05, 0.7, 2.5, 6.0, 20.0))
def test_planes_are_as_tight_as_the_convex_envelope(sample: Sample, width: float) -> None:
    """At the centre the default planes reach the envelopes; parallel planes are as close as a linear programme says."""
    op = _op(sample, torch.float64)
    rng = np.random.default_rng(11)
    centre = rng.normal(size=(12, *sample.in_shapes[0])) * 2
    if np.isfinite(sample.domain).any():
        centre = np.sign(sample.kinks[0] or 1.0) * (np.abs(centre) + width / 2 + 0.1)
    box = Interval(*(torch.from_numpy(centre + side * width / 2) for side in (-1, 1)))
    planes, joint = op.relax(box), op.relax(box, parallel=True)
    middle = torch.from_numpy(centre)
    below = (planes.lower_slopes[0] * middle + planes.lower_offset).numpy()
    above = (planes.upper_slopes[0] * middle + planes.upper_offset).numpy()
    gap = (joint.upper_offset - joint.lower_offset).numpy()
    for b in range(0, 12, 3):
        low, high = box.lower[b].numpy(), box.upper[b].numpy()
        grid = np.linspace(low, high, 1201)
        for jump in range(-12, 13):  # steps are closed on one side only
            grid[jump] = np.clip(jump - 1e-9, low, high)
        grid[13], grid[14] = np.clip(1e-9, low, high), np.clip(0.0, low, high)
        grid = np.sort(grid, axis=0)
        grid[0], grid[-1] = low, high
        values = oracles.apply(sample.node, [grid], grid.shape)
        spread = values.max(0) - values.min(0)
        for at in np.ndindex(*sample.out_shape):
            x, y = grid[(slice(None), *at)], values[(slice(None), *at)]
            room = 0.01 * spread[at] + 1e-7
            assert below[(b, *at)] >= oracles.envelope_at_centre(x, y) - room
            assert above[(b, *at)] <= -oracles.envelope_at_centre(x, -y) + room
        at = (0, b % 3)
        best = oracles.parallel_gap(grid[(slice(None), *at)][::8], values[(slice(None), *at)][::8])
        assert gap[(b, *at)] <= best + 0.03 * spread[at] + 1e-7


def _tensors(planes: Relaxation) -> list[torch.Tensor]:
    return [*planes.lower_slopes, planes.lower_offset, *planes.upper_slopes, planes.upper_offset]


def test_knots_that_float32_does_not_hold_are_paid_for() -> None:
    knots, rise = np.array([0.1, 0.7, 1e4 / 3]), np.array([1e3, -2e3, 1e3 + 1 / 3])
    sample = Sample("Spline", ((2, 3),), (2, 3), params={"knots": knots, "rise": rise}, kinks=tuple(knots))
    box = boxes(sample, torch.float32)
    points = _points(sample, box)
    truth = _truth(sample, points)
    low, high = _op(sample, torch.float32).interval(*box)
    assert (_long(low) <= truth).all() and (truth <= _long(high)).all()
    _check_planes(sample, _op(sample, torch.float32), _op(sample, torch.float32).relax(*box), points, truth)
