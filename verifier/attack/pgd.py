"""Projected gradient descent on the clauses of many queries at once (Madry et al. 2018, on the margin of a clause).

A point violates a query when all rows of one clause hold. The loss of a point for a clause is its worst row; every
point aims at one clause, so different restarts try different ways to violate the property.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.inputs import InputMap
from verifier.rows import RowTable


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
    """One random point of each box (M, n), and its loss for the nearest clause (M,): <= 0 violates.

    Every second point is drawn with each coordinate on a face of its box two times in three: violations like the
    boundary, and a uniform point of a box with many inputs is almost never near a corner.
    """
    share = torch.rand(lower.shape, generator=generator, dtype=lower.dtype, device=lower.device)
    share[::2] = (3 * share[::2] - 1).clamp(0, 1)
    points = torch.minimum(lower + (upper - lower) * share, upper)
    loss = clause_loss(table, row_values(network, inputs, table, points, query), query).amin(1)
    return points, torch.nan_to_num(loss, nan=torch.inf)


def pgd(
    network: Network,
    inputs: InputMap,
    table: RowTable,
    start: Tensor,
    lower: Tensor,
    upper: Tensor,
    query: Tensor,
    steps: int,
    generator: torch.Generator,
    stop: Callable[[], bool],
) -> tuple[Tensor, Tensor]:
    """Descends from `start` inside the boxes (all (M, n)): the best points found (M, n) and their losses (M,).

    A loss <= 0 says that the network, as computed here, violates the property at the point.
    """
    width, p = upper - lower, start
    count = table.clauses[query].clamp(min=1)
    aim = (torch.rand(len(query), generator=generator, device=lower.device) * count).long().clamp(max=table.most - 1)
    best, best_loss = p.clone(), torch.full((len(p),), torch.inf, dtype=p.dtype, device=p.device)
    for step in range(steps):
        p = p.detach().requires_grad_(True)
        scores = clause_loss(table, row_values(network, inputs, table, p, query), query)
        loss = scores.gather(1, aim[:, None])[:, 0]
        with torch.no_grad():
            reached = torch.nan_to_num(scores.amin(1), nan=torch.inf)
            better = reached < best_loss
            best = torch.where(better[:, None], p, best)
            best_loss = torch.where(better, reached, best_loss)
        if stop() or bool((best_loss <= 0).any()):
            break
        finite = torch.where(torch.isfinite(loss), loss, 0.0)
        if not finite.requires_grad:
            break
        (gradient,) = torch.autograd.grad(finite.sum(), p, allow_unused=True)
        if gradient is None:
            break
        size = 0.25 * (1 - step / steps) ** 2 + 1e-4
        p = torch.clamp(p.detach() - size * width * gradient.sign(), lower, upper)
    return best.detach(), best_loss.detach()
