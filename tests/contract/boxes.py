"""Boxes for the laws: of all widths, at kinks, without width, a few roundings wide."""

from __future__ import annotations

import numpy as np
import torch

from tests.contract.samples import Sample
from verifier.ops.kinds import Interval

WIDTHS = (1e-5, 1e-3, 0.1, 1.0, 3.0, 10.0, 1e3)


def _inside(sample: Sample, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirrored or cut to the domain; widths survive."""
    first, last = sample.domain
    limit = sample.largest
    width = np.minimum(high - low, limit)
    if np.isfinite(first):
        low = first + np.abs(low - first) * (low != first)
        return low, low + width
    if np.isfinite(last):
        high = last - np.abs(high - last) * (high != last)
        return high - width, high
    low = np.clip(low, -limit, limit)
    return low, np.clip(low + width, -limit, limit)


def _raw(sample: Sample, shape: tuple[int, ...], rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = []
    for width in WIDTHS:
        centre, radius = rng.normal(size=shape) * 3, rng.random(shape) * width / 2
        pairs.append((centre - radius, centre + radius))
        kink = rng.choice(np.array(sample.kinks), size=shape)
        pairs += [
            (kink, kink + radius),
            (kink - radius, kink),
            (kink - radius, kink + radius),
            (kink - 9 * radius, kink + radius),
        ]
    wide = rng.random(shape) * sample.largest
    pairs += [(-wide, wide / 3), (-wide / 1e3, wide), (wide / 2, wide)]
    return pairs


def boxes(sample: Sample, dtype: torch.dtype, seed: int = 0) -> list[Interval]:
    """Batched boxes (B, *S), one per input of the operator."""
    rng = np.random.default_rng(seed)
    numpy_type = np.float32 if dtype is torch.float32 else np.float64
    result = []
    for shape in sample.in_shapes:
        pairs = [_inside(sample, low, high) for low, high in _raw(sample, shape, rng)]
        low = np.stack([p[0] for p in pairs]).astype(numpy_type)
        high = np.maximum(np.stack([p[1] for p in pairs]).astype(numpy_type), low)
        points = low[rng.permutation(len(low))]
        hair = points.copy()
        for _ in range(3):
            hair = np.nextafter(hair, numpy_type(np.inf))
        order = rng.permutation(3 * len(low))  # several inputs: every kind of box meets every other
        lower = np.concatenate([low, points, points])[order]
        upper = np.concatenate([high, points, hair])[order]
        result.append(Interval(torch.from_numpy(lower), torch.from_numpy(upper)))
    return result


def pick(box: list[Interval], index: slice | torch.Tensor) -> list[Interval]:
    """Some boxes of the batch."""
    return [Interval(x.lower[index], x.upper[index]) for x in box]
