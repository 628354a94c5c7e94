"""One bounding step: boxes in, row bounds, linear rows and split scores out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.backward import concretise, walk_back
from verifier.bounds.bounder import Method, Sweep, sweep
from verifier.bounds.network import Network
from verifier.domains import DomainBatch
from verifier.search.settle import RowTable, row_scale
from verifier.tolerance import proof_margin


@dataclass(frozen=True, eq=False)
class Bounded:
    """Bounds of a batch of boxes.

    `low` (B, K) lower bounds of  row - rhs,  already lowered by the rounding margin; `coefficients` (B, K, n) and the
    implied constant give the linear row whose minimum it is; `value` (B,) the worst clause score (positive: proven);
    `clause` (B, C) the clause scores; `unstable` (B,); `sensitivity` (B, n) split scores.
    """

    low: Tensor
    coefficients: Tensor
    value: Tensor
    clause: Tensor
    unstable: Tensor
    sensitivity: Tensor


def bound_boxes(network: Network, table: RowTable, batch: DomainBatch, free: Tensor, method: Method) -> Bounded:
    """Bounds all rows of the boxes' queries."""
    known = sweep(network, batch.lower, batch.upper, free[batch.query], method)
    picked = table.row[batch.query]
    rhs = table.rhs[batch.query]
    b, k = picked.shape
    rows = torch.zeros(b, k, network.m, dtype=network.dtype, device=network.device)
    rows.scatter_(2, picked[:, :, None], 1.0)
    start = torch.zeros(b, k, dtype=network.dtype, device=network.device)
    coefficients, bias = walk_back(network, network.output, rows.reshape(b, k, *network.shapes[network.output]), start,
                                   known.relaxations)
    if table.mixed is not None:
        coefficients = coefficients + table.mixed[picked]
    low = concretise(coefficients, bias, batch.lower, batch.upper)
    forward = known.output.lower.gather(1, picked)
    if table.mixed is not None:
        forward = forward + concretise(table.mixed[picked], torch.zeros_like(bias), batch.lower, batch.upper)
    margin = proof_margin(network.dtype) * (row_scale(coefficients, bias, batch.lower, batch.upper) + rhs.abs())
    low = torch.maximum(low, forward) - rhs - margin
    low = low.masked_fill(torch.isinf(rhs), -torch.inf)
    clause = table.clause_scores(low, batch.query)
    return Bounded(low, coefficients, clause.amin(1), clause, known.unstable,
                   split_scores(network, known, batch, low, coefficients))


def split_scores(network: Network, known: Sweep, batch: DomainBatch, low: Tensor, coefficients: Tensor) -> Tensor:
    """Slope times width of the rows that are still open."""
    width = batch.upper - batch.lower
    open_rows = (low <= 0) & torch.isfinite(low)
    return (coefficients.abs() * open_rows[:, :, None]).sum(1) * width
