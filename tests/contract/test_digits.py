"""Intervals and planes of smooth functions against 60 digits, nothing allowed for: denormal, huge and narrow boxes."""

from __future__ import annotations

import math
from collections.abc import Callable

import mpmath
import numpy as np
import pytest
import torch

from verifier.graph.ir import Node
from verifier.ops.kinds import Interval, Relaxation, RelaxedOp
from verifier.ops.registry import bind

BOXES = 60
FUNCTIONS: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "Sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "Tanh": mpmath.tanh,
    "Erf": mpmath.erf,
    "Atan": mpmath.atan,
    "Softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "Sin": mpmath.sin,
    "Cos": mpmath.cos,
    "Exp": mpmath.exp,
    "Log": mpmath.log,
    "Sqrt": mpmath.sqrt,
    "Reciprocal": lambda x: 1 / x,
    "Pow": lambda x: x**3,
}


def operator(name: str) -> RelaxedOp:
    attrs = {"exponent": 3} if name == "Pow" else {}
    op = bind(Node(name, ("x",), "y", {}, attrs), {"x": (1,), "y": (1,)}, torch.float64, torch.device("cpu"))
    assert isinstance(op, RelaxedOp)
    return op


def boxes(name: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    centre = rng.normal(size=BOXES) * 10.0 ** rng.choice([-320, -100, -3, 0, 1, 2, 8], BOXES)
    width = 10.0 ** rng.uniform(-17, 3, BOXES) * rng.choice([0, 1, 1, 1, 1], BOXES)
    width = np.where(np.abs(centre) > 1e4, np.abs(centre) * rng.choice([1e-16, 1e-9, 1e-3, 1], BOXES), width)
    low, high = centre - width * rng.random(BOXES), centre + width * rng.random(BOXES)
    if name in ("Log", "Sqrt", "Reciprocal"):
        low, high = np.minimum(abs(low), abs(high)), np.maximum(abs(low), abs(high))
        low = np.maximum(low, 1e-300)
        high = np.maximum(high, low)
    if name in ("Exp", "Softplus"):
        low, high = np.clip(low, -745, 700), np.clip(high, -745, 700)
    return low, high


def relaxations(op: RelaxedOp, x: Interval) -> list[Relaxation]:
    alphas = [torch.full_like(x.lower, a) for a in (0.0, 1.0)]
    alphas.append(torch.rand(x.lower.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    moved = [op.relax_at(x, alpha_lower=a, alpha_upper=b) for a, b in zip(alphas, alphas[1:] + alphas[:1], strict=True)]
    return [op.relax(x), op.relax(x, parallel=True), *moved]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_intervals_and_planes_hold_in_60_digits(name: str) -> None:
    rng, op, f = np.random.default_rng(3), operator(name), FUNCTIONS[name]
    low, high = boxes(name, rng)
    x = Interval(*(torch.from_numpy(t)[:, None] for t in (low, high)))
    image, planes = op.interval(x), relaxations(op, x)
    with mpmath.workdps(60):
        for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
            turns = [(round(a / (math.pi / 2)) + k) * math.pi / 2 for k in (0, 1, 2)]
            for t in (a, b, a / 2 + b / 2, a + rng.random() * (b - a), 0.0, *turns):
                if not a <= t <= b:
                    continue
                point = mpmath.mpf(t)
                y = f(point)
                assert mpmath.mpf(image.lower[i, 0].item()) <= y <= mpmath.mpf(image.upper[i, 0].item())
                for plane in planes:
                    slope, offset = plane.lower_slopes[0][i, 0].item(), plane.lower_offset[i, 0].item()
                    assert slope * point + mpmath.mpf(offset) <= y
                    slope, offset = plane.upper_slopes[0][i, 0].item(), plane.upper_offset[i, 0].item()
                    assert y <= slope * point + mpmath.mpf(offset)
