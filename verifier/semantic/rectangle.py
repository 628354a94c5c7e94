"""The largest certified rectangle around a point of the plane: exact, from the cells that are not certified."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from verifier.semantic.grid import Cells


def largest(rest: Cells, point: np.ndarray) -> tuple[np.ndarray, Fraction] | None:
    """The rectangle of largest area in the unit square that holds `point` (2,) and meets no cell of `rest` inside.

    Returns (corners (2, 2): lower and upper per parameter, exact area), or None where the point lies outside the square
    or inside (or on the rim of) a cell of `rest` on every side.

    Every candidate is bounded left and right by edges of cells; going outwards from the point, the room above and below
    can only shrink, in steps. All pairs of a left and a right step are compared.
    """
    if not ((point >= 0) & (point <= 1)).all():
        return None
    low, high = rest.unit()
    x, y = float(point[0]), float(point[1])
    inside = (low[:, 0] < x) & (x < high[:, 0]) & (low[:, 1] < y) & (y < high[:, 1])
    if inside.any():
        return None
    beside = (low[:, 0] < x) & (x < high[:, 0])  # above or below the point itself
    top = float(min(1.0, low[beside & (low[:, 1] >= y), 1].min(initial=1.0)))
    bottom = float(max(0.0, high[beside & (high[:, 1] <= y), 1].max(initial=0.0)))
    right = _steps(low[low[:, 0] >= x], high[low[:, 0] >= x], y, top, bottom)
    mirrored_low, mirrored_high = _mirror(low, high)
    left = _steps(mirrored_low[mirrored_low[:, 0] >= 1 - x], mirrored_high[mirrored_low[:, 0] >= 1 - x], y, top, bottom)
    width = right[:, 0] - (1 - left[:, :1])
    height = np.minimum(right[:, 1], left[:, 1:2]) - np.maximum(right[:, 2], left[:, 2:3])
    size = np.where((width > 0) & (height > 0), width * height, -1.0)
    i, j = np.unravel_index(int(size.argmax()), size.shape)
    if size[i, j] <= 0:
        return None
    corners = np.array([[1 - left[i, 0], right[j, 0]], [max(left[i, 2], right[j, 2]), min(left[i, 1], right[j, 1])]])
    exact = [Fraction(float(b)) - Fraction(float(a)) for a, b in corners]
    return corners, exact[0] * exact[1]


def _mirror(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (np.stack([1 - high[:, 0], low[:, 1]], 1), np.stack([1 - low[:, 0], high[:, 1]], 1))


def _steps(low: np.ndarray, high: np.ndarray, y: float, top: float, bottom: float) -> np.ndarray:
    """Rows (reach in x, top, bottom): how far one can go to the right with how much room, furthest reach per room.

    A cell that spans y strictly, or meets it with room on neither side, ends the walk.
    """
    order = np.argsort(low[:, 0], kind="stable")
    result = []
    for (x0, y0), (_, y1) in zip(low[order].tolist(), high[order].tolist(), strict=True):
        if y1 <= bottom or y0 >= top:
            continue  # outside the strip that is still open
        result.append((x0, top, bottom))
        if y0 < y < y1:
            return np.array(result)
        if y0 >= y:
            top = y0
        else:
            bottom = y1
        if top <= bottom:
            return np.array(result)
    result.append((1.0, top, bottom))
    return np.array(result)
