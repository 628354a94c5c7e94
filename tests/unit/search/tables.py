"""Random row tables and bounding results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from verifier.problem.problem import Rows
from verifier.problem.rows import RowTable
from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch, whole
from verifier.tolerance import gamma

CPU = torch.device("cpu")


def table(
    queries: list[list[list[tuple[int, float]]]],
    mixed: np.ndarray | None = None,
    dtype: torch.dtype = torch.float64,
) -> RowTable:
    """`queries[q][c]` lists the (row, rhs) of clause c."""
    width = max(1, *(sum(map(len, clauses)) for clauses in queries))
    row = np.zeros((len(queries), width), np.int64)
    rhs = np.full((len(queries), width), np.inf)
    clause = np.repeat(np.array([[len(clauses)] for clauses in queries]), width, 1)
    for q, clauses in enumerate(queries):
        flat = [(c, r, b) for c, members in enumerate(clauses) for r, b in members]
        for k, (c, r, b) in enumerate(flat):
            clause[q, k], row[q, k], rhs[q, k] = c, r, b
    counts = np.array([len(clauses) for clauses in queries])
    return RowTable.from_rows(Rows(row, rhs, clause, row < 0, counts, mixed), dtype, CPU)


def domains(lower: Tensor, upper: Tensor, query: Tensor | None = None, signs: Tensor | None = None) -> DomainBatch:
    """Boxes (B, n) that were never bounded; every query's volume is shared equally."""
    count = len(lower)
    query = torch.zeros(count, dtype=torch.int64) if query is None else query
    share = torch.ones(count, dtype=torch.float64) / torch.bincount(query).clamp(min=1)[query]
    score = torch.full((count,), -torch.inf, dtype=lower.dtype)
    signs = torch.zeros(count, 0, dtype=torch.int64) if signs is None else signs
    return replace(whole(lower, upper), query=query, share=share, score=score, signs=signs)


def linear(
    boxes: DomainBatch, clause: Tensor, coefficients: Tensor, constant: Tensor, clauses: int, unstable: int = 0
) -> Bounded:
    """What a bounding step says about rows that are exactly  coefficients . x + constant, (B, K, n) and (B, K)."""
    size = torch.einsum("bkn,bn->bk", coefficients.abs(), torch.maximum(boxes.lower.abs(), boxes.upper.abs()))
    constant = constant - gamma(64, constant.dtype) * (size + constant.abs())
    centre, radius = (boxes.lower + boxes.upper) / 2, (boxes.upper - boxes.lower) / 2
    low = torch.einsum("bkn,bn->bk", coefficients, centre) - torch.einsum("bkn,bn->bk", coefficients.abs(), radius)
    low = low + constant
    member = clause[:, None] == torch.arange(clauses)[None, :, None]
    scores = torch.where(member, low[:, None], -torch.inf).amax(2)
    count = len(boxes)
    return Bounded(
        alive=torch.arange(count),
        value=scores.amin(1),
        scores=scores,
        low=low,
        clause=clause,
        coefficients=coefficients,
        constant=constant,
        unstable=torch.full((count,), unstable),
        branch=boxes.upper - boxes.lower,
        values=scores.amin(1),
        unstable_at={},
    )


def holds(clause: Tensor, coefficients: Tensor, constant: Tensor, c: int, points: Tensor) -> Tensor:
    """Whether all rows of clause c hold at points (B, M, n): (B, M)."""
    values = torch.einsum("bkn,bmn->bmk", coefficients, points) + constant[:, None]
    return ((values <= 0) | (clause != c)[:, None]).all(2)


def numbered(ids: range, score: Callable[[int], float] = float) -> DomainBatch:
    """A box [i, i + 1] for each id, with its score; sign columns for odd numbers of them."""
    low = torch.tensor([[float(i)] for i in ids], dtype=torch.float64).reshape(len(ids), 1)
    scores = torch.tensor([score(i) for i in ids], dtype=torch.float64)
    zero = torch.zeros(len(ids), dtype=torch.int64)
    signs = zero[:, None][:, : len(ids) % 2]
    return replace(whole(low, low + 1), query=zero, share=torch.ones(len(ids)), score=scores, signs=signs)
