"""One bounding step: boxes in, row bounds, linear rows and split scores out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from verifier.bounds.alpha import tighten
from verifier.bounds.backward import concretise, walk_back
from verifier.bounds.bounder import Method, Sweep, narrow, sweep
from verifier.bounds.inputs import InputMap
from verifier.bounds.network import Network
from verifier.ops.kinds import Interval
from verifier.problem.rows import RowTable
from verifier.search.branch import split_scores
from verifier.search.domains import DomainBatch, pick
from verifier.search.settle import joint_scores
from verifier.tolerance import subtract_down


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
    left), `sign_coefficients` (B, D, n) and `sign_constant` (B, D) are rows that are <= 0 on the subproblem because of
    its decided neurons, `alpha`, `beta` are what children start from (see `DomainBatch`). `lost` (B,) marks boxes that
    nothing can settle (see `ties.hopeless`).
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
    sign_coefficients: Tensor | None = None
    sign_constant: Tensor | None = None
    alpha: Tensor | None = None
    beta: Tensor | None = None
    lost: Tensor | None = None

    def renumbered(self, alive: Tensor, values: Tensor) -> Bounded:
        """The same result for a batch of which only `alive` was bounded here; `values` are the others' scores."""
        merged = values.clone()
        merged[alive] = torch.maximum(merged[alive], self.values)
        places = alive[self.alive]
        return replace(self, alive=places, value=merged[places], values=merged)

    def select(self, keep: Tensor) -> Bounded:
        """The open boxes named by a mask over them."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("values", "unstable_at")}
        given = {name: t for name, t in parts.items() if t is not None}
        kept: dict[str, Any] = dict(zip(given, pick(given.values(), keep), strict=True))
        return replace(self, **kept)


def bound_boxes(
    network: Network,
    table: RowTable,
    batch: DomainBatch,
    inputs: InputMap,
    method: Method,
    stop: Callable[[], bool],
    single: Network | None = None,
) -> Bounded:
    """Bounds the rows of every box that the forward sweep leaves open.

    With `single`, the network in float32 (`network.narrowed`), the intervals of intermediate values are computed in
    float32, all rounding allowed for, and only the rows of the property are walked back in float64.

    Raises:
        OutOfTime: `stop()` said so in the middle.
    """
    if single is not None and not _fits_single(batch, inputs):
        single = None
    swept, exact = (network, None) if single is None else (single, network)
    known = sweep(swept, batch.lower, batch.upper, batch.query, inputs, method, stop, exact)
    return _walk(network, table, batch, inputs, known, method, stop)


FINEST = 2.0**-8
"""How much of its width a free input of a box may gain by being rounded to float32, for bounds to be computed there."""


def _fits_single(batch: DomainBatch, inputs: InputMap) -> bool:
    """Whether float32 tells the ends of all boxes apart; a box too small for it is one where rounding decides."""
    low, high = narrow(Interval(batch.lower, batch.upper))
    width = batch.upper - batch.lower
    grown = (high.double() - low.double()) - width > FINEST * width
    columns = inputs.columns(batch.query)
    return not bool((grown.gather(1, columns.clamp(min=0)) & (columns >= 0)).any())


def _walk(
    network: Network,
    table: RowTable,
    batch: DomainBatch,
    inputs: InputMap,
    known: Sweep,
    method: Method,
    stop: Callable[[], bool],
) -> Bounded:
    low = _forward_rows(table, known, batch)
    scores = table.clause_scores(low, batch.query)
    alive = (~(scores.amin(1) > 0)).nonzero()[:, 0]  # NaN proves nothing
    values = scores.amin(1)
    boxes = batch.select(alive)
    picked, row = _open_rows(table, scores.index_select(0, alive), boxes)
    owner = None if len(alive) == len(batch) else alive
    trace: dict[int, Tensor] = {}
    coefficients, bias = _walk_rows(network, table, row, known, owner, boxes, inputs, trace)
    if method.alpha_steps and len(alive):
        coefficients, bias = _climb(network, table, row, known, alive, boxes, inputs, method, stop)
    lowest = concretise(coefficients, bias, boxes.lower, boxes.upper)
    rhs = table.rhs[boxes.query].gather(1, picked)
    walked = subtract_down(lowest, rhs).masked_fill(torch.isinf(rhs), -torch.inf)
    constant = subtract_down(bias, rhs)
    low = low.index_select(0, alive).scatter_reduce(1, picked, walked, "amax")
    scores = table.clause_scores(low, boxes.query)
    clause = table.clause[boxes.query].gather(1, picked)
    scores = joint_scores(clause, scores, walked, coefficients, constant, boxes.lower, boxes.upper)
    value = scores.amin(1)
    branch = split_scores(network, known, trace, boxes, inputs, alive, walked, clause, scores, coefficients)
    every = Bounded(
        alive=alive,
        value=value,
        scores=scores,
        low=walked,
        clause=clause,
        coefficients=coefficients,
        constant=constant,
        unstable=known.unstable.index_select(0, alive),
        branch=branch,
        values=values.index_copy(0, alive, value),
        unstable_at=known.unstable_at,
    )
    return every.select(~(value > 0))


def _forward_rows(table: RowTable, known: Sweep, batch: DomainBatch) -> Tensor:
    """Lower bounds of row - rhs (B, K) from the forward sweep alone."""
    row, rhs = table.row[batch.query], table.rhs[batch.query]
    low = known.output.lower.gather(1, row)
    if table.mixed is not None:
        low = subtract_down(low, -concretise(table.mixed[row], torch.zeros_like(low), batch.lower, batch.upper))
    low = subtract_down(low, rhs)
    return torch.nan_to_num(low.masked_fill(torch.isinf(rhs), -torch.inf), nan=-torch.inf, neginf=-torch.inf)


def _open_rows(table: RowTable, scores: Tensor, boxes: DomainBatch) -> tuple[Tensor, Tensor]:
    """Columns (B, K') of the rows that belong to clauses still possible, and their row numbers."""
    clause = table.clause[boxes.query]
    closed = torch.cat([scores, scores.new_full((len(scores), 1), torch.inf)], 1) > 0
    needed = ~closed.gather(1, clause.clamp(max=table.most)) & torch.isfinite(table.rhs[boxes.query])
    count = max(1, int(needed.sum(1).max())) if len(boxes) else 1
    picked = needed.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :count]
    return picked, table.row[boxes.query].gather(1, picked)


def _walk_rows(
    network: Network,
    table: RowTable,
    row: Tensor,
    known: Sweep,
    owner: Tensor | None,
    boxes: DomainBatch,
    inputs: InputMap,
    trace: dict[int, Tensor],
) -> tuple[Tensor, Tensor]:
    rows, start = _unit_rows(network, row)
    at_input = walk_back(network, network.output, rows, start, known.relaxations, owner, trace, known.allowance)
    coefficients, bias = inputs.pull(*at_input, boxes.query)
    return (coefficients if table.mixed is None else coefficients + table.mixed[row]), bias


def _unit_rows(network: Network, row: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (B, K, *T) that select the outputs `row` (B, K), and a bias of 0."""
    rows = torch.zeros(*row.shape, network.m, dtype=network.dtype, device=network.device)
    rows.scatter_(2, row[:, :, None], 1.0)
    return rows.reshape(*row.shape, *network.shapes[network.output]), rows.new_zeros(row.shape)


def _climb(
    network: Network,
    table: RowTable,
    row: Tensor,
    known: Sweep,
    alive: Tensor,
    boxes: DomainBatch,
    inputs: InputMap,
    method: Method,
    stop: Callable[[], bool],
) -> tuple[Tensor, Tensor]:
    """The same rows with optimised planes (alpha-CROWN)."""
    rows, start = _unit_rows(network, row)
    extra = None if table.mixed is None else table.mixed[row]
    where = (boxes.lower, boxes.upper, boxes.query, inputs)
    return tighten(network, *where, known, rows, start, method.alpha_steps, stop, owner=alive, extra=extra)
