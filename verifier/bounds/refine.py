"""Tighter intervals for the neurons that matter: their own rows climb, as the rows of the property do.

The intervals of a sweep come from CROWN's slopes. For the neurons on which the property's rows lose most, slopes of
their own (alpha-CROWN, Xu et al. 2021) are worth their price: operator by operator, from the input on, each chosen
neuron's argument is bounded from both sides, by a climb in the search's precision and one rigorous walk at its end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from verifier.bounds.affine import intersect
from verifier.bounds.alpha_beta import climb, prove
from verifier.bounds.copies import on_copies
from verifier.bounds.joint import Joint
from verifier.bounds.network import Network
from verifier.bounds.relaxed import Ground, Parameters, Task
from verifier.ops.kinds import Interval

STEPS, RATE = 5, (0.4, 0.9)
"""Iterates, first step and decay of a climb. Root bounds of oval21's deep and sri_resnet_b's networks (worst clause):
without -1.669 and -1.013; 5, 8, 12 iterates -1.306, -1.299, -1.295 and -0.772, -0.768, -0.767; with the search's own
smaller steps, 5 and 15 iterates, -1.429, -1.299 and -0.849, -0.769."""


class RowBound:
    """What is proven of rows, and what else is made of it."""

    def bound(self, exact: Ground, i: int, task: Task, parameters: Parameters) -> tuple[Tensor, Any]:
        """Rigorous lower bounds (M,) of rows over the arguments of operator i at given parameters, -inf where there are
        no points, and what is to be kept of them. (It may run in a copy of this process.)"""
        low, _, _, empty = prove(exact, task, parameters)
        return low.masked_fill(empty, -torch.inf), None

    def keep(self, i: int, kept: Any) -> None:
        """Keeps it."""


def refine(
    exact: Ground,
    fast: Network,
    lower: Tensor,
    upper: Tensor,
    chosen: Mapping[int, Tensor],
    batch: int,
    stop: Callable[[], bool],
    rows: RowBound | None = None,
    joint: Joint | None = None,
) -> dict[int, tuple[Interval, ...]]:
    """The intervals of `exact`, those of ReLU operator i's arguments in `chosen[i]` (M, 2), pairs of query and
    neuron, tightened on the queries' boxes `lower`, `upper` (Q, n), at most `batch` rows at a time; where there
    is a `joint`, by all earlier ReLUs together, too.

    When `stop()` says so, the rest keep the intervals that they have, but for what the `joint` still has a budget for.
    """
    network, rows = exact.network, rows or RowBound()
    ends = stop if joint is None else lambda: stop() and joint.budget.spent()
    pre = dict(exact.pre)
    for i in network.relus:
        pairs = chosen.get(i)
        if pairs is None or not len(pairs):
            continue
        now = Ground.at(network, pre, exact.allowance, exact.plain)
        low, high = (t.flatten(1).clone() for t in pre[i][0])

        climbing = now.cast(fast)

        def both_sides(
            pairs: Tensor, i: int = i, now: Ground = now, climbing: Ground = climbing
        ) -> tuple[Tensor, Any] | None:
            if ends():
                return None
            task = _both_sides(network, network.sources[i][0], lower, upper, *pairs.unbind(1))
            return rows.bound(now, i, task, climb(climbing, task.to(fast.dtype), None, STEPS, ends, RATE).best)

        parts = pairs.split(max(1, batch // 2))
        for some, result in zip(parts, on_copies(both_sides, parts), strict=True):
            if result is None:
                continue
            (query, neuron), (found, kept) = some.unbind(1), result
            rows.keep(i, kept)
            low[query, neuron] = torch.maximum(low[query, neuron], found[: len(some)])
            high[query, neuron] = torch.minimum(high[query, neuron], -found[len(some) :])
        shape = pre[i][0].lower.shape
        pre[i] = (intersect(Interval(low.view(shape), high.view(shape)), pre[i][0]),)
        if joint is not None:
            pre[i] = (joint.tighten(Ground.at(network, pre, exact.allowance, exact.plain), i, pairs),)
    return pre


def _both_sides(network: Network, slot: int, lower: Tensor, upper: Tensor, query: Tensor, neuron: Tensor) -> Task:
    """Rows z and -z over the value in `slot`, of each neuron."""
    size = 1
    for s in network.shapes[slot]:
        size *= s
    rows = torch.zeros(2, len(query), 1, size, dtype=lower.dtype, device=lower.device)
    rows[0].scatter_(2, neuron[:, None, None], 1.0)
    rows[1].scatter_(2, neuron[:, None, None], -1.0)
    query = query.repeat(2)
    signs, points = query.new_zeros(len(query), 0), lower.new_zeros(len(query), 0)
    rhs = lower.new_zeros(len(query), 1)
    return Task(lower[query], upper[query], query, signs, points, rows.flatten(0, 1), rhs, None, slot)
