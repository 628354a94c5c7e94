"""From row bounds to verdicts on boxes, and the part of a box that is still open.

A row bounded from below by a positive number cannot hold anywhere in the box; a clause with such a row cannot be
satisfied; a box whose clauses are all impossible is proven.
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.backward import concretise
from verifier.tolerance import gamma, lost, ulp


def row_scale(coefficients: Tensor, bias: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Magnitude of the numbers that are summed for each row (B, K), which rounding is relative to.

    +inf where it is not a number: a margin of NaN would make the row's bound NaN, which is not below 0.
    """
    reach = torch.maximum(lower.abs(), upper.abs())
    size = torch.bmm(coefficients.abs(), reach[:, :, None])[:, :, 0] + bias.abs()
    return torch.nan_to_num(size, nan=torch.inf, posinf=torch.inf)


def vanished(lower: Tensor, upper: Tensor, rows: int) -> Tensor:
    """What underflow may take off combinations of so many rows on boxes (B, n): (B,). A weighted coefficient that is
    lost is missed at the size of its input."""
    reach = torch.maximum(lower.abs(), upper.abs()).sum(1)
    return torch.nan_to_num(lost(rows + lower.shape[1], lower.dtype) * (1 + reach), nan=torch.inf)


def shrink(
    clause: Tensor,
    scores: Tensor,
    low: Tensor,
    coefficients: Tensor,
    lower: Tensor,
    upper: Tensor,
) -> tuple[Tensor, Tensor]:
    """The hull of the points of each box where a clause is still possible (domain clipping).

    In a clause that holds at x every row has  coefficients . x + bias <= 0. With `low` (B, K) the row's minimum over
    the box, that means  |a_i| (x_i - best end) <= -low  for every coordinate i. `clause` (B, K) names each row's
    clause, `scores` (B, C) are the clause scores; a clause that is impossible, or whose part is empty, adds nothing
    to the hull.

    Returns:
        new lower and upper (B, n); where nothing is left, lower > upper somewhere.
    """
    bottom, top = _clipped((-low).clamp(min=0), coefficients, lower, upper)
    most = scores.shape[1]
    if most == 1:
        return bottom.amax(1), top.amin(1)
    n = lower.shape[1]
    index = clause.clamp(max=most)[:, :, None].expand(-1, -1, n)
    shape = (len(low), most + 1, n)
    parts_low = lower[:, None].expand(shape).scatter_reduce(1, index, bottom, "amax")[:, :most]
    parts_high = upper[:, None].expand(shape).scatter_reduce(1, index, top, "amin")[:, :most]
    dead = (scores > 0)[:, :, None] | (parts_low > parts_high).any(2, keepdim=True)
    return (
        parts_low.masked_fill(dead, torch.inf).amin(1),
        parts_high.masked_fill(dead, -torch.inf).amax(1),
    )


def _clipped(slack: Tensor, coefficients: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's own bounds (B, K, n) of the coordinates, rounded outwards: x_i is within slack / |a_i| of the end that
    is best for the row."""
    up = 1 + 4 * ulp(slack.dtype)
    room = (slack[:, :, None] / coefficients.abs()) * up  # division by 0 gives inf or NaN: no information
    width = (upper - lower)[:, None]
    clipped = room < width
    least, most = lower[:, None], upper[:, None]
    inf = torch.full((), torch.inf, dtype=slack.dtype, device=slack.device)
    top = torch.where(clipped & (coefficients > 0), torch.minimum(torch.nextafter(least + room, inf), most), most)
    bottom = torch.where(clipped & (coefficients < 0), torch.maximum(torch.nextafter(most - room, -inf), least), least)
    return bottom, top


def shrink_all(coefficients: Tensor, constant: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The hull of each box intersected with the half-spaces  coefficients . x + constant <= 0,  one after the other
    row.

    coefficients (B, D, n), constant (B, D), -inf for rows that say nothing; boxes that are already empty stay so.
    """
    low = concretise(coefficients, constant, lower, torch.maximum(lower, upper))
    bottom, top = _clipped((-low).clamp(min=0), coefficients, lower, upper)
    empty = (low > 0).any(1, keepdim=True)
    return torch.where(empty, torch.inf, bottom.amax(1)), torch.where(empty, -torch.inf, top.amin(1))


JOINT_STEPS = 12
"""Steps of multiplier ascent; each costs a product of size (boxes x clauses x rows x inputs)."""


def joint_scores(
    clause: Tensor,
    scores: Tensor,
    low: Tensor,
    coefficients: Tensor,
    constant: Tensor,
    lower: Tensor,
    upper: Tensor,
) -> Tensor:
    """Clause scores (B, C) improved by combinations of a clause's rows.

    Rows that are each possible may be impossible together: for any weights w >= 0 with sum 1,

        max_w  min_x  sum_k w_k (coefficients_k . x + constant_k)  > 0

    refutes the clause on the box. The weights are found by exponentiated gradient ascent; every iterate is a valid
    bound, so the number of steps only decides how tight it is. Clauses of one row gain nothing and are left alone.
    """
    most = scores.shape[1]
    if low.shape[1] == 1:
        return scores
    known = torch.isfinite(low)
    member = (clause[:, None] == torch.arange(most, device=clause.device)[None, :, None]) & known[:, None]
    several = member.sum(2) > 1
    gaining = clause.new_zeros(1)
    if most > 1:  # one clause alone is not worth waiting for the device
        gaining = (several & (scores <= 0)).any(0).nonzero()[:, 0]
        if not len(gaining):
            return scores
    member = member.index_select(1, gaining)
    # a weight of 0 does not silence an infinite coefficient of another clause
    coefficients = coefficients.masked_fill(~known[:, :, None], 0.0)
    constant = constant.masked_fill(~known, 0.0)
    centre, radius = ((lower + upper) / 2)[:, None], ((upper - lower) / 2)[:, None]
    limits = torch.finfo(low.dtype)
    size = low.abs().masked_fill(~known, 0.0).amax(1).clamp(min=limits.tiny)
    rate = (4.0 / size)[:, None, None]
    n = lower.shape[1]
    rounding = 3 * gamma(constant.shape[1] + n, low.dtype) * row_scale(coefficients, constant, lower, upper)
    rounding = rounding + vanished(lower, upper, constant.shape[1])[:, None]
    middle = torch.baddbmm((constant - rounding)[:, :, None], coefficients, centre.transpose(1, 2))
    rows, turned, reach = torch.cat([coefficients, middle], 2), coefficients.transpose(1, 2), radius.transpose(1, 2)
    # what is no member keeps a weight of 0 whatever its slope; a clause without members is `several` of nothing
    logits = torch.zeros(member.shape, dtype=low.dtype, device=low.device).masked_fill(~member, limits.min)
    values = []
    for step in range(JOINT_STEPS):
        row, value = torch.bmm(torch.softmax(logits, 2), rows).split([n, 1], 2)
        values.append(torch.baddbmm(value, row.abs(), reach, alpha=-1))
        if step + 1 < JOINT_STEPS:
            least = torch.addcmul(centre, radius, row.sign(), value=-1)
            slope = torch.baddbmm(constant[:, None], least, turned)
            logits = torch.addcmul(logits, slope, rate, value=1 / (1 + step))
    best = torch.nan_to_num(torch.cat(values, 2), nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf).amax(2)
    best = torch.maximum(scores.index_select(1, gaining), best)
    return torch.where(several, scores.index_copy(1, gaining, best), scores)
