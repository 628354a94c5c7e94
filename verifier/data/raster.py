"""A z-buffer rasteriser in NumPy, without a loop over triangles.

Screen positions and inverse depths are rounded to integers first, as graphics hardware does, and all coverage tests
are exact integer arithmetic: a difference in the last bit of a sine cannot move a pixel.
"""

from __future__ import annotations

import numpy as np

SUBPIXEL = 64  # steps per pixel
DEPTH_STEPS = 1 << 20


def fill(corners: np.ndarray, inverse_depth: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw triangles into a buffer; the nearest one wins.

    corners (T, 3, 2) pixels, x right and y down, pixel (column i, row j) has its centre at (i + 0.5, j + 0.5);
    inverse_depth (T, 3) in (0, 1), linear on the screen. Front faces turn clockwise on the screen (y down); back
    faces are not drawn. Returns the index of the triangle seen by each pixel, int64 (height, width), -1 for none, and
    its inverse depth, float64 (height, width), 0 for none.
    """
    seen = np.full(height * width, -1, dtype=np.int64)
    near = np.zeros(height * width)
    p = np.rint(corners * SUBPIXEL).astype(np.int64)
    q = np.rint(inverse_depth * DEPTH_STEPS)
    ux, uy = (p[:, 1] - p[:, 0]).T
    vx, vy = (p[:, 2] - p[:, 0]).T
    area = ux * vy - uy * vx
    low = np.maximum((p.min(axis=1) - SUBPIXEL // 2) // SUBPIXEL, 0)
    high = np.minimum((p.max(axis=1) + SUBPIXEL // 2) // SUBPIXEL, np.array([width - 1, height - 1]))
    extent = np.maximum(high - low + 1, 0)
    live = np.flatnonzero((area > 0) & (extent.prod(axis=1) > 0))
    if len(live) == 0:
        return seen.reshape(height, width), near.reshape(height, width)

    # One entry per (triangle, pixel of its bounding box).
    size = extent[live].prod(axis=1)
    entry = np.repeat(live, size)
    within = np.arange(len(entry)) - np.repeat(np.cumsum(size) - size, size)
    row, column = np.divmod(within, extent[entry, 0])
    column, row = column + low[entry, 0], row + low[entry, 1]
    x, y = column * SUBPIXEL + SUBPIXEL // 2, row * SUBPIXEL + SUBPIXEL // 2
    weight = []
    inside = np.ones(len(entry), dtype=bool)
    for a, b in ((1, 2), (2, 0), (0, 1)):
        ax, ay, bx, by = (c[entry] for c in (p[:, a, 0], p[:, a, 1], p[:, b, 0], p[:, b, 1]))
        edge = (bx - ax) * (y - ay) - (by - ay) * (x - ax)
        inside &= edge >= 0
        weight.append(edge)
    hit = np.flatnonzero(inside)
    entry, pixel = entry[hit], (row * width + column)[hit]
    depth = sum(w[hit] * q[entry, k] for k, w in enumerate(weight)) / area[entry]
    order = np.argsort(depth, kind="stable")  # the nearest is written last and stays
    seen[pixel[order]] = entry[order]
    near[pixel[order]] = depth[order] / DEPTH_STEPS
    return seen.reshape(height, width), near.reshape(height, width)
