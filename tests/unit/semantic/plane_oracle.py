"""The exact answer for small networks of two inputs: the plane cut into polygons on which the network is affine.

Shares no code with the package. A polygon is an array of corners (V, 2); every kink of every neuron cuts the polygons
it runs through; on what is left the network is an affine function and a property a set of half planes.
"""

import numpy as np


def cut(polygon, normal, offset):
    """The part of a convex polygon where normal . p + offset >= 0, or None."""
    value = polygon @ normal + offset
    if (value >= 0).all():
        return polygon
    corners = []
    for i in range(len(polygon)):
        a, b, va, vb = polygon[i - 1], polygon[i], value[i - 1], value[i]
        if (va >= 0) != (vb >= 0):
            corners.append(a + (b - a) * va / (va - vb))
        if vb >= 0:
            corners.append(b)
    return np.array(corners) if len(corners) >= 3 else None


def area(polygon):
    x, y = polygon[:, 0], polygon[:, 1]
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def pieces(layers, lower, upper):
    """Yields (polygon, matrix (m, 2), offset (m,)) of a network given as layers ("affine", W, b) and ("clip", low,
    high).
    """
    corners = np.array([[lower[0], lower[1]], [upper[0], lower[1]], [upper[0], upper[1]], [lower[0], upper[1]]], float)
    work = [(corners, np.eye(2), np.zeros(2))]
    for kind, first, second in layers:
        if kind == "affine":
            work = [(p, first @ m, first @ o + second) for p, m, o in work]
            continue
        for kink in (first, second):
            if np.isfinite(kink):
                work = [part for piece in work for part in _at_kink(piece, kink)]
        work = [_apply(piece, first, second) for piece in work]
    return work


def _at_kink(piece, kink):
    parts = [piece]
    _, matrix, offset = piece
    for normal, at in zip(matrix, offset - kink, strict=True):
        if not normal.any():
            continue
        next_parts = []
        for p, m, o in parts:
            value = p @ normal + at
            if (value > 0).any() and (value < 0).any():
                for sign in (1.0, -1.0):
                    side = cut(p, sign * normal, sign * at)
                    if side is not None and area(side) > 1e-14:
                        next_parts.append((side, m, o))
            else:
                next_parts.append((p, m, o))
        parts = next_parts
    return parts


def _apply(piece, low, high):
    polygon, matrix, offset = piece
    value = matrix @ polygon.mean(0) + offset
    inside = (value > low) & (value < high)
    return polygon, matrix * inside[:, None], np.where(inside, offset, np.clip(value, low, high))


def safe_share(layers, lower, upper, clauses):
    """Share of the box where no clause holds; a clause is ONE row (c, rhs): c . y <= rhs."""
    total = 0.0
    for polygon, matrix, offset in pieces(layers, lower, upper):
        part = polygon
        for c, rhs in clauses:
            if part is not None:
                part = cut(part, c @ matrix, float(c @ offset) - rhs)
        total += 0.0 if part is None else area(part)
    return total / float(np.prod(np.subtract(upper, lower)))


def argmax_areas(layers, lower, upper, maps):
    """Exact areas by outcome: {(argmax of map 0, argmax of map 1, ..): share of the box} for outputs of `maps` maps."""
    found: dict = {}
    for polygon, matrix, offset in pieces(layers, lower, upper):
        cells = len(offset) // maps
        for outcome, size in _outcomes(polygon, matrix.reshape(maps, cells, 2), offset.reshape(maps, cells)):
            found[outcome] = found.get(outcome, 0.0) + size
    whole = float(np.prod(np.subtract(upper, lower)))
    return {outcome: size / whole for outcome, size in found.items()}


def _outcomes(polygon, matrix, offset):
    if len(matrix) == 0:
        yield (), area(polygon)
        return
    for p in range(matrix.shape[1]):
        part = polygon
        for q in range(matrix.shape[1]):
            if part is not None and q != p:
                part = cut(part, matrix[0, p] - matrix[0, q], float(offset[0, p] - offset[0, q]))
        if part is not None and area(part) > 1e-14:
            for rest, size in _outcomes(part, matrix[1:], offset[1:]):
                yield (p, *rest), size
