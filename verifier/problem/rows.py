"""The output rows of all queries as tensors, and what bounds of rows say about clauses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.problem.problem import Rows


@dataclass(frozen=True, eq=False)
class RowTable:
    """`Rows` as tensors: row, clause (Q, K) int64; rhs (Q, K); clauses (Q,); mixed (R, n) or None; C = most
    clauses; strict (Q, K) bool."""

    row: Tensor
    rhs: Tensor
    clause: Tensor
    clauses: Tensor
    mixed: Tensor | None
    most: int
    strict: Tensor

    @staticmethod
    def from_rows(rows: Rows, dtype: torch.dtype, device: torch.device) -> RowTable:
        """Moves the table to a device; padded rows keep rhs = +inf."""
        return RowTable(
            torch.from_numpy(rows.row).to(device),
            torch.from_numpy(rows.rhs).to(device, dtype),
            torch.from_numpy(rows.clause).to(device),
            torch.from_numpy(rows.clauses).to(device),
            None if rows.mixed is None else torch.from_numpy(rows.mixed).to(device, dtype),
            int(rows.clauses.max(initial=1)),
            torch.from_numpy(rows.strict).to(device),
        )

    def to(self, device: torch.device) -> RowTable:
        """The same table on another device."""
        mixed = None if self.mixed is None else self.mixed.to(device)
        row, rhs, clause, clauses = (t.to(device) for t in (self.row, self.rhs, self.clause, self.clauses))
        return RowTable(row, rhs, clause, clauses, mixed, self.most, self.strict.to(device))

    def clause_scores(self, low: Tensor, query: Tensor) -> Tensor:
        """Best row bound per clause, (B, K) -> (B, C); +inf beyond the query's clauses, -inf for one without rows.

        A strict row, which says < 0, is impossible where its bound is 0: that counts as the smallest positive number.
        """
        touching = self.strict[query] & (low == 0)
        low = torch.where(touching, torch.finfo(low.dtype).tiny, low)
        scores = low.new_full((len(query), self.most + 1), -torch.inf)
        scores = scores.scatter_reduce(1, self.clause[query].clamp(max=self.most), low, "amax")[:, : self.most]
        beyond = torch.arange(self.most, device=low.device)[None] >= self.clauses[query][:, None]
        return scores.masked_fill(beyond, torch.inf)
