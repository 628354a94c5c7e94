"""One bounding step: boxes in, row bounds, linear rows and split scores out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from verifier.bounds.bound import Setting, Turn, bound
from verifier.bounds.sweep import Method
from verifier.budget import never
from verifier.search.branch import split_scores
from verifier.search.domains import DomainBatch, pick
from verifier.search.settle import joint_scores


@dataclass(frozen=True, eq=False)
class Bounded:
    """What a step found out about B boxes that it did not prove.

    `alive` (B,) their positions in the batch; `value` (B,) the least clause score; `scores` (B, C) all clause scores
    (positive: impossible). For the K' rows per box that were walked back: `low` (B, K') lower bounds of  row - rhs
    (over the reals: rounding is allowed for), `clause` (B, K'), and `coefficients` (B, K', n) and `constant` (B, K') of
    the linear function that is such a bound.
    `unstable` (B,) counts neurons that are not affine; `branch` (B, n) says how much a split of each input promises.
    `values` (batch,) are the least clause scores of all boxes, proven ones included; `unstable_at[i]` is the mean
    number of unstable neurons at operator i. Where neurons are split: `neuron` (B,) is the one to split (-1: none is
    left) and `at` (B,) its split point (None: 0), `sign_coefficients` (B, D, n) and `sign_constant` (B, D) are rows
    that are <= 0 on the subproblem because of its decided neurons, `alpha`, `beta`, `state` are what children start
    from (see `DomainBatch`). `lost` (B,) marks boxes that nothing can settle (see `ties.hopeless`). Without `cuts` no
    row is known to hold, and nothing of a box may be cut off by them.
    """

    alive: Tensor
    value: Tensor
    scores: Tensor
    low: Tensor
    clause: Tensor
    coefficients: Tensor
    constant: Tensor
    unstable: Tensor
    branch: Tensor
    values: Tensor
    unstable_at: dict[int, float]
    neuron: Tensor | None = None
    at: Tensor | None = None
    sign_coefficients: Tensor | None = None
    sign_constant: Tensor | None = None
    alpha: Tensor | None = None
    beta: Tensor | None = None
    lost: Tensor | None = None
    state: Tensor | None = None
    cuts: bool = True

    def renumbered(self, alive: Tensor, values: Tensor) -> Bounded:
        """The same result for a batch of which only `alive` was bounded here; `values` are the others' scores."""
        merged = values.clone()
        merged[alive] = torch.maximum(merged[alive], self.values)
        places = alive[self.alive]
        return replace(self, alive=places, value=merged[places], values=merged)

    def select(self, keep: Tensor) -> Bounded:
        """The open boxes named by a mask over them."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("values", "unstable_at", "cuts")}
        given = {name: t for name, t in parts.items() if t is not None}
        kept: dict[str, Any] = dict(zip(given, pick(given.values(), keep), strict=True))
        return replace(self, **kept)


def bound_boxes(
    setting: Setting,
    batch: DomainBatch,
    method: Method,
    stop: Callable[[], bool],
    rule: str = "auto",
    turn: Turn = lambda: never,
) -> Bounded:
    """Bounds the rows of every box that the forward sweep leaves open, and scores its inputs by a branching rule; for
    `turn` see `bound`.

    Raises:
        OutOfTime: `stop()` said so in the middle.
    """
    table, known = setting.table, bound(setting, batch, method, stop, turn)
    boxes, values = batch.select(known.alive), table.at(batch.query).scores(known.forward).amin(1)
    low = known.forward.index_select(0, known.alive).scatter_reduce(1, known.column, known.low, "amax")
    scores = table.at(boxes.query).scores(low)
    clause = table.clause[boxes.query].gather(1, known.column)
    rows = known.low, known.coefficients, known.constant
    scores = joint_scores(clause, scores, *rows, boxes.lower, boxes.upper)
    value = scores.amin(1)
    every = Bounded(
        known.alive,
        value,
        scores,
        known.low,
        clause,
        known.coefficients,
        known.constant,
        known.unstable.index_select(0, known.alive),
        split_scores(known, boxes, clause, scores, rule),
        values.index_copy(0, known.alive, value),
        known.unstable_at,
    )
    return every.select(~(value > 0))
