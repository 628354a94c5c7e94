"""What holds of the planes of every relaxation."""

from __future__ import annotations

import numpy as np
import torch

from tests import oracles
from tests.contract.samples import Sample
from verifier.ops.kinds import Relaxation, RelaxedOp

LONG = float(np.finfo(np.longdouble).eps)


def _op(sample: Sample, dtype: torch.dtype) -> RelaxedOp:
    op = sample.bind(dtype)
    assert isinstance(op, RelaxedOp)
    return op


def _long(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().astype(np.longdouble)


def _truth(sample: Sample, points: list[np.ndarray]) -> np.ndarray:
    """Exact values (up to long double) at points (P, B, *S) -> (P, B, *T): of all at once, which lie along the last
    axes, behind those that the node knows."""
    lead = points[0].shape[:2]
    if "axis" not in sample.attrs:
        return oracles.apply(sample.node, points, (*lead, *sample.out_shape))
    behind = [np.moveaxis(p, (0, 1), (-2, -1)) for p in points]
    return np.moveaxis(oracles.apply(sample.node, behind, (*sample.out_shape, *lead)), (-2, -1), (0, 1))


def _plane(
    op: RelaxedOp, slopes: tuple[torch.Tensor, ...], offset: torch.Tensor, points: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Value of a plane at the points, and the error that long double may have made."""
    value, size = np.zeros((), np.longdouble), np.abs(_long(offset))
    for slope, x in zip(slopes, points, strict=True):
        assert slope.isfinite().all()
        term = _long(slope) * x
        value, size = value + _collect(op, term), size + _collect(op, np.abs(term))
    return value + _long(offset), 64 * LONG * size


def _collect(op: RelaxedOp, term: np.ndarray) -> np.ndarray:
    """`collect` in long double: torch has none, so it is done here from the operator's shapes."""
    if op.in_shapes[0] == op.out_shape:
        return term
    return term.sum(axis=op.node.integer("axis") - len(op.in_shapes[0]))


def _check_planes(
    sample: Sample, op: RelaxedOp, planes: Relaxation, points: list[np.ndarray], truth: np.ndarray
) -> None:
    assert not planes.lower_offset.isnan().any() and not planes.upper_offset.isnan().any()
    assert (planes.lower_offset < torch.inf).all() and (planes.upper_offset > -torch.inf).all()
    slack = 64 * LONG * np.abs(truth) + torch.finfo(planes.lower_offset.dtype).tiny  # underflow: see tolerance.py
    low, error = _plane(op, planes.lower_slopes, planes.lower_offset, points)
    excess = np.where(np.isneginf(low), -np.inf, low - truth - error - slack)
    assert excess.max() <= 0, _where("lower", sample, excess, points, low, truth)
    high, error = _plane(op, planes.upper_slopes, planes.upper_offset, points)
    excess = np.where(np.isposinf(high), -np.inf, truth - high - error - slack)
    assert excess.max() <= 0, _where("upper", sample, excess, points, high, truth)


def _where(
    side: str, sample: Sample, excess: np.ndarray, points: list[np.ndarray], plane: np.ndarray, truth: np.ndarray
) -> str:
    at = np.unravel_index(excess.argmax(), excess.shape)
    group = [p[at[:2]] for p in points]
    bounds = [(p[0, at[1]], p[1, at[1]]) for p in points]
    return f"{sample}: {side} plane {plane[at]!r} passes {truth[at]!r} by {excess[at]:.3g} at {group} in {bounds}"
