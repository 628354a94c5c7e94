"""Boxes on which the network is affine: settled exactly, never split.

There every row is a linear function on the box, so a clause is possible exactly when a linear program is feasible. A
box counts as proven only when the multipliers of the infeasible program give, recomputed here in float64, a
combination of rows that is positive everywhere on the box; the solver's own tolerances decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch
from verifier.search.linear_program import exclude
from verifier.search.settle import vanished
from verifier.tolerance import gamma


def settle_affine(
    boxes: DomainBatch, bounded: Bounded, try_points: Callable[[Tensor, Tensor], object | None]
) -> tuple[Tensor, object | None]:
    """Looks at the affine boxes: (mask (B,) of the boxes to keep splitting, what the point test found or None).

    An affine box with a feasible program whose point does not survive the replay stays in the mask: rounding decides
    there, and no claim is made.
    """
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.lower.device)
    for b in (bounded.unstable == 0).nonzero()[:, 0].tolist():
        feasible, proven = [], True
        for c in range(bounded.scores.shape[1]):
            if bounded.scores[b, c] > 0:
                continue
            rows = (bounded.clause[b] == c) & torch.isfinite(bounded.low[b])
            point, impossible = _feasible(bounded, boxes, b, rows)
            proven &= impossible
            if point is not None:
                feasible.append(point)
        if proven:
            keep[b] = False
        elif feasible:
            points = torch.from_numpy(np.stack(feasible)).to(boxes.lower)
            found = try_points(points, boxes.query[b].repeat(len(points)))
            if found is not None:
                return keep, found
    return keep, None


def _feasible(bounded: Bounded, boxes: DomainBatch, b: int, rows: Tensor) -> tuple[np.ndarray | None, bool]:
    """A point of box b where all `rows` hold, or proof that there is none: (point, impossible)."""
    row, shift = bounded.coefficients[b][rows], bounded.constant[b][rows]
    if bounded.sign_coefficients is not None and bounded.sign_constant is not None:
        sides, more = bounded.sign_coefficients[b], bounded.sign_constant[b]
        decided = torch.isfinite(more) & torch.isfinite(sides).all(-1)
        row, shift = torch.cat([row, sides[decided]]), torch.cat([shift, more[decided]])
    if len(row) < 2 and len(row) == int(rows.sum()):
        return None, False  # a single row is attained at the corner that has been tried
    a, constant, lower, upper = (t.double().cpu().numpy() for t in (row, shift, boxes.lower[b], boxes.upper[b]))
    point, weights = exclude(a, constant, lower, upper)
    if weights is None:
        return point, False
    combined, offset = weights @ a, weights @ constant
    least = np.minimum(combined * lower, combined * upper).sum() + offset
    size = weights @ (np.abs(a) @ np.maximum(np.abs(lower), np.abs(upper)) + np.abs(constant))
    room = float(vanished(boxes.lower[b : b + 1].double(), boxes.upper[b : b + 1].double(), len(a))[0])
    return None, bool(least > 3 * gamma(a.shape[0] + a.shape[1], torch.float64) * size + room)
