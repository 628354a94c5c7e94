"""Projected gradient descent on the clauses of many queries at once (Madry et al. 2018, on the margin of a clause).

A point violates a query when all rows of one clause hold. The loss of a point for a clause is its worst row; every
point aims at one clause, so different restarts try different ways to violate the property.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.bounds.sizes import size_on
from verifier.problem.rows import AskedRows, RowTable

FIRST_STEP, LAST_STEP = 0.25, 1e-4
"""Sizes of the first and the last step, in units of the box's widths."""

LOOK = {"cpu": 1, "cuda": 4}
"""Steps between two looks at the lowest loss: on a device each one waits for all that is under way."""

MOMENTUM = 0.5
"""Part of a step that the next one repeats."""


class PointMap(Protocol):
    """From parameters to network inputs: see `bounds.inputs`."""

    def point(self, p: Tensor, query: Tensor) -> Tensor:
        """Network inputs (M, n) of parameter points (M, d) of queries (M,), differentiable."""


def row_values(network: Network, inputs: PointMap, table: RowTable, p: Tensor, query: Tensor) -> Tensor:
    """row - rhs at points p (M, n) of queries (M,): (M, K); <= 0 where the row holds; -inf in padding.

    The network may compute in another precision than that of points and rows.
    """
    return _values(network, inputs, table, p, query, table.at(query))


def _values(network: Network, inputs: PointMap, table: RowTable, p: Tensor, query: Tensor, asked: AskedRows) -> Tensor:
    value = network.forward(inputs.point(p, query).to(network.dtype)).to(p.dtype).gather(1, asked.row)
    if table.mixed is not None:
        value = value + torch.bmm(table.mixed[asked.row], p[:, :, None])[:, :, 0]
    return value - asked.rhs


def clause_loss(table: RowTable, values: Tensor, query: Tensor) -> Tensor:
    """Worst row of each clause (M, C): a clause holds where this is <= 0."""
    return table.at(query).scores(values)


def sample(
    network: Network,
    inputs: PointMap,
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
    asked = table.at(query)
    loss = asked.scores(_values(network, inputs, table, points, query, asked))
    return points, torch.nan_to_num(loss, nan=torch.inf)


def pgd(
    network: Network,
    inputs: PointMap,
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
    width, p, asked = upper - lower, start, table.at(query)
    others = asked.clause != aim[:, None]
    signed = (torch.arange(len(p), device=p.device) % 2 == 0)[:, None]
    move, tiny = torch.zeros_like(p), torch.finfo(p.dtype).tiny
    best, lowest = p.clone(), torch.full((len(p), table.most), torch.inf, dtype=p.dtype, device=p.device)
    reached, told, runs, look = lowest.amin(1), torch.inf, 0, size_on(p.device, LOOK)
    for step in range(steps):
        if stop():
            break
        p = p.detach().requires_grad_(True)
        values = _values(network, inputs, table, p, query, asked)
        runs += 1
        with torch.no_grad():
            scores = asked.scores(values)
            lowest = torch.minimum(lowest, torch.nan_to_num(scores, nan=torch.inf))
            before, reached = reached, lowest.amin(1)
            best = torch.where((reached < before)[:, None], p, best)
        last = step + 1 == steps
        least = torch.inf if step % look and not last else float(reached.min())
        if least <= 0 and (told > 0 or least < 2 * told):
            told = least
            if found(best.detach(), reached):
                break
        if last or not values.requires_grad:
            break
        worst = values.detach().masked_fill(others, -torch.inf).argmax(1, keepdim=True)
        (gradient,) = torch.autograd.grad(values.gather(1, worst).sum(), p, allow_unused=True)
        if gradient is None:
            break
        gradient = torch.nan_to_num(gradient * width, nan=0.0, posinf=0.0, neginf=0.0)
        largest = gradient.abs().amax(1, keepdim=True).clamp_min_(tiny)
        move = torch.where(signed, gradient.sign(), gradient / largest).add_(move, alpha=MOMENTUM)
        size = FIRST_STEP * (1 - step / steps) ** 2 + LAST_STEP
        p = torch.clamp(torch.addcmul(p.detach(), width, move, value=-size), lower, upper)
    return best.detach(), lowest, runs
