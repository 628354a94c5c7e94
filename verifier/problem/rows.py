"""The output rows of all queries as tensors, and what bounds of rows say about clauses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

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

    @cached_property
    def some_strict(self) -> bool:
        """Whether any row is strict."""
        return bool(self.strict.any())

    def at(self, query: Tensor) -> AskedRows:
        """What the queries (B,) of boxes or points ask, looked up once for all that is bounded or tried there."""
        whole = self._asked
        if len(self.row) > 1:
            return whole.select(query)
        row, rhs, clause, beyond = (
            t.expand(len(query), -1) for t in (whole.row, whole.rhs, whole.clause, whole.beyond)
        )
        return AskedRows(
            row, rhs, clause, beyond, None if whole.strict is None else whole.strict.expand(len(query), -1)
        )

    @cached_property
    def _asked(self) -> AskedRows:
        """Of every query."""
        beyond = torch.arange(self.most, device=self.row.device) >= self.clauses[:, None]
        strict = self.strict if self.some_strict else None
        return AskedRows(self.row, self.rhs, self.clause.clamp(max=self.most), beyond, strict)


@dataclass(frozen=True, eq=False)
class AskedRows:
    """The rows of B boxes or points: `row` (B, K), `rhs` (B, K), `clause` (B, K) with C for padding, `beyond` (B, C)
    clauses that there are not, `strict` (B, K) or None where no row is."""

    row: Tensor
    rhs: Tensor
    clause: Tensor
    beyond: Tensor
    strict: Tensor | None

    def select(self, index: Tensor) -> AskedRows:
        """Those at `index`."""
        row, rhs, clause, beyond = (t.index_select(0, index) for t in (self.row, self.rhs, self.clause, self.beyond))
        return AskedRows(row, rhs, clause, beyond, None if self.strict is None else self.strict.index_select(0, index))

    def scores(self, low: Tensor) -> Tensor:
        """Best row bound per clause, (B, K) -> (B, C); +inf beyond the query's clauses, -inf for one without rows.

        A strict row, which says < 0, is impossible where its bound is 0: that counts as the smallest positive number.
        """
        if self.strict is not None:
            low = torch.where(self.strict & (low == 0), torch.finfo(low.dtype).tiny, low)
        most = self.beyond.shape[1]
        scores = low.new_full((len(low), most + 1), -torch.inf)
        scores = scores.scatter_reduce(1, self.clause, low, "amax")[:, :most]
        return scores.masked_fill(self.beyond, torch.inf)
