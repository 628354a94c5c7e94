"""From float64 bounds to float32, in the two directions a verdict needs."""

from __future__ import annotations

import numpy as np


def _nearest32(values: np.ndarray) -> np.ndarray:
    """Return the nearest float32 (as float32); beyond its range that is an infinity."""
    with np.errstate(over="ignore", under="ignore"):
        return np.asarray(values, np.float64).astype(np.float32)


def float32_hull(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the float64 box that contains both each real bound and its nearest float32 (any equal shapes).

    A claim of `unsat` must cover it: a competition's checker compares in float32, where the bound itself is rounded.
    """
    low, high = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    return np.minimum(low, _nearest32(low).astype(np.float64)), np.maximum(high, _nearest32(high).astype(np.float64))


def float32_inside(lower: np.ndarray, upper: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the float32 box inside the real bounds; where no float32 lies between them, the rounded bounds.

    A witness of a float32 model should come from it. Result: two float32 arrays, `low <= high` wherever
    `lower <= upper`; infinite bounds become the largest finite float32.
    """
    low, high = np.asarray(lower, np.float64), np.asarray(upper, np.float64)
    low32, high32 = _nearest32(low), _nearest32(high)
    with np.errstate(over="ignore"):
        inner_low = np.where(low32.astype(np.float64) < low, np.nextafter(low32, np.float32(np.inf)), low32)
        inner_high = np.where(high32.astype(np.float64) > high, np.nextafter(high32, np.float32(-np.inf)), high32)
    fits = inner_low <= inner_high
    largest = np.finfo(np.float32).max
    return (
        np.clip(np.where(fits, inner_low, low32), -largest, largest),
        np.clip(np.where(fits, inner_high, high32), -largest, largest),
    )
