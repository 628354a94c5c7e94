"""From float64 bounds to float32 or float16, in the two directions a verdict needs."""

from __future__ import annotations

import numpy as np


def _nearest(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return the nearest numbers of the type (as such); beyond its range that is an infinity."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(values, np.float64).astype(dtype)


def float_hull(lower: np.ndarray, upper: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return the float64 box that contains both each real bound and its nearest number of `dtype` (any equal shapes).

    A claim of `unsat` must cover it: a competition's checker compares in the input's type, where the bound itself is
    rounded.
    """
    low, high = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    near_low, near_high = (_nearest(end, dtype).astype(np.float64) for end in (low, high))
    # beyond the type's range its nearest number is no number
    near_low, near_high = np.where(np.isinf(near_low), low, near_low), np.where(np.isinf(near_high), high, near_high)
    return np.minimum(low, near_low), np.maximum(high, near_high)


def float_inside(lower: np.ndarray, upper: np.ndarray, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """Return the box of `dtype` inside the real bounds; where none of its numbers lies between, the rounded bounds.

    A witness should come from it. Result: two arrays of the type, `low <= high` wherever `lower <= upper`; infinite
    bounds become the largest finite numbers.
    """
    low, high = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    near_low, near_high = _nearest(low, dtype), _nearest(high, dtype)
    inf = np.asarray(np.inf, dtype)
    with np.errstate(over="ignore", under="ignore"):
        inner_low = np.where(near_low.astype(np.float64) < low, np.nextafter(near_low, inf), near_low)
        inner_high = np.where(near_high.astype(np.float64) > high, np.nextafter(near_high, -inf), near_high)
    fits = inner_low <= inner_high
    largest = np.finfo(dtype).max
    return (
        np.clip(np.where(fits, inner_low, near_low), -largest, largest),
        np.clip(np.where(fits, inner_high, near_high), -largest, largest),
    )


def float32_hull(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `float_hull` for a float32 model."""
    return float_hull(lower, upper, np.dtype(np.float32))


def float32_inside(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return `float_inside` for a float32 model: two float32 arrays."""
    return float_inside(lower, upper, np.dtype(np.float32))
