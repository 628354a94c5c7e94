"""Bounds against samples and against each other."""

from __future__ import annotations

import numpy as np
import torch

from tests import oracles
from tests.unit.bounds.cases import Boxes, points_of
from verifier.bounds.sweep import Sweep
from verifier.search.settle import row_scale


def check_sweep(case: Boxes, known: Sweep, slack: float) -> None:
    """Sampled values of every input of a non-linear operator, and of the output, lie in their intervals."""
    for b, points in points_of(case):
        for x in points:
            values = oracles.evaluate_all(case.graph, x)
            for i, bounds in known.pre.items():
                for name, bound in zip(case.graph.nodes[i].inputs, bounds, strict=True):
                    inside(bound.lower[b], values[name], bound.upper[b], slack)
            inside(known.output.lower[b], values["y"], known.output.upper[b], slack)


def inside(lower: torch.Tensor, value: np.ndarray, upper: torch.Tensor, slack: float) -> None:
    low, high = lower.double().numpy().reshape(value.shape), upper.double().numpy().reshape(value.shape)
    room = slack * (1 + np.abs(value))
    assert (low <= value + room).all() and (value - room <= high).all()


def check_rows(case: Boxes, coefficients: torch.Tensor, bias: torch.Tensor, matrix: torch.Tensor) -> None:
    """The linear function stays below the rows everywhere on the box; in float32, which proves nothing, up to
    rounding."""
    share = 0.0 if case.network.dtype == torch.float64 else 1e-4
    margin = share * row_scale(coefficients, bias, case.lower, case.upper)
    a, c = coefficients.double().numpy(), (bias - margin).double().numpy()
    for b, points in points_of(case):
        truth = oracles.evaluate(case.graph, points) @ matrix.double().numpy().T
        claimed = points @ a[b].T + c[b]
        assert (claimed <= truth + 1e-13 * (1 + np.abs(truth))).all()
