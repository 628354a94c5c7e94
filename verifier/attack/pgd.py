"""Projected gradient descent on the clauses of many queries at once (Madry et al. 2018, on the margin of a clause).

A point violates a query when all rows of one clause hold. The loss of a point for a clause is its worst row; every
point aims at one clause, so different restarts try different ways to violate the property.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verifier.bounds.inputs import InputMap
from verifier.bounds.network import Network
from verifier.problem.rows import RowTable

FIRST_STEP, LAST_STEP = 0.25, 1e-4
"""Sizes of the first and the last step, in units of the box's widths."""

MOMENTUM = 0.5
"""Part of a step that the next one repeats."""


def row_values(network: Network, inputs: InputMap, table: RowTable, p: Tensor, query: Tensor) -> Tensor:
    """row - rhs at points p (M, n) of queries (M,): (M, K); <= 0 where the row holds; -inf in padding."""
    picked = table.row[query]
    value = network.forward(inputs.point(p, query)).gather(1, picked)
    if table.mixed is not None:
        value = value + torch.bmm(table.mixed[picked], p[:, :, None])[:, :, 0]
    return value - table.rhs[query]


def clause_loss(table: RowTable, values: Tensor, query: Tensor) -> Tensor:
    """Worst row of each clause (M, C): a clause holds where this is <= 0."""
    return table.clause_scores(values, query)


def sample(
    network: Network,
    inputs: InputMap,
    table: RowTable,
    lower: Tensor,
    upper: Tensor,
    query: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """One random point of each box (M, n), and its loss for every clause (M, C): <= 0 violates.

    Every second point is drawn with each coordinate on a face of its box two times in three: violations like the
    boundary, and a uniform point of a box with many inputs is almost never near a corner.
    """
    share = torch.rand(lower.shape, generator=generator, dtype=lower.dtype, device=lower.device)
    share[::2] = (3 * share[::2] - 1).clamp(0, 1)
    points = torch.minimum(lower + (upper - lower) * share, upper)
    loss = clause_loss(table, row_values(network, inputs, table, points, query), query)
    return points, torch.nan_to_num(loss, nan=torch.inf)


def pgd(
    network: Network,
    inputs: InputMap,
    table: RowTable,
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    query: Tensor,
    aim: Tensor,
    steps: int,
    stop: Callable[[], bool],
    found: Callable[[Tensor, Tensor], bool],
) -> tuple[Tensor, Tensor, int]:
    """Descends from `start` inside the boxes (all (M, n)) on the loss of clause `aim` (M,): the best points found
    (M, n), the lowest loss that each met for every clause (M, C), and how many times the network was run forwards and
    backwards.

    A loss <= 0 says that the network, as computed here, violates the property at the point; `found` gets the points
    and losses whenever one does so for the first time, or the lowest loss has doubled since, and says whether that is
    enough: what rounding decides may need a lower point.

    Every second point takes steps along the sign of its gradient, which suits many inputs; the others along the
    gradient itself in units of its largest component so far (with each input in units of its width), which suits few.
    Both keep a part of their last step.
    """
    width, p = upper - lower, start
    signed = (torch.arange(len(p), device=p.device) % 2 == 0)[:, None]
    move = torch.zeros_like(p)
    best, lowest = p.clone(), torch.full((len(p), table.most), torch.inf, dtype=p.dtype, device=p.device)
    asked = torch.inf
    runs = 0
    for step in range(steps):
        if stop():
            break
        p = p.detach().requires_grad_(True)
        scores = clause_loss(table, row_values(network, inputs, table, p, query), query)
        runs += 1
        loss = scores.gather(1, aim[:, None])[:, 0]
        with torch.no_grad():
            reached = torch.nan_to_num(scores, nan=torch.inf)
            better = reached.amin(1) < lowest.amin(1)
            best, lowest = torch.where(better[:, None], p, best), torch.minimum(lowest, reached)
        least = float(lowest.min())
        if least <= 0 and (asked > 0 or least < 2 * asked):
            asked = least
            if found(best.detach(), lowest.amin(1)):
                break
        finite = torch.where(torch.isfinite(loss), loss, 0.0)
        if step + 1 == steps or not finite.requires_grad:
            break
        (gradient,) = torch.autograd.grad(finite.sum(), p, allow_unused=True)
        if gradient is None:
            break
        gradient = torch.nan_to_num(gradient * width, nan=0.0, posinf=0.0, neginf=0.0)
        largest = gradient.abs().amax(1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)
        move = MOMENTUM * move + torch.where(signed, gradient.sign(), gradient / largest)
        size = FIRST_STEP * (1 - step / steps) ** 2 + LAST_STEP
        p = torch.clamp(p.detach() - size * width * move, lower, upper)
    return best.detach(), lowest, runs
