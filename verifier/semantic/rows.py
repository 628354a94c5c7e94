"""Properties as linear rows over the network's outputs: an OR of clauses, each an AND of rows `C y <= rhs`.

A clause is violated where all its rows hold, and refuted where one of them is positive: C y - rhs > 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class SparseRows:
    """Sparse table of R rows over n outputs, row r belonging to clause `clause[r]` (non-decreasing from 0).

    entry_row, entry_column (int64) and entry_value (float64, each a float32 number) hold the coefficients, `rhs` (R,)
    the right-hand sides.
    """

    n: int
    clause: np.ndarray
    rhs: np.ndarray
    entry_row: np.ndarray
    entry_column: np.ndarray
    entry_value: np.ndarray

    @property
    def count(self) -> int:
        """Number of rows R."""
        return len(self.rhs)

    @property
    def clauses(self) -> int:
        """Number of clauses."""
        return int(self.clause[-1]) + 1 if len(self.clause) else 0

    def dense(self) -> np.ndarray:
        """Coefficients as a matrix C (R, n), float64."""
        matrix = np.zeros((self.count, self.n))
        np.add.at(matrix, (self.entry_row, self.entry_column), self.entry_value)
        return matrix


def pairs(n: int, low: np.ndarray, high: np.ndarray, clause: np.ndarray) -> SparseRows:
    """Rows  y[low] - y[high] <= 0, one per element of the index arrays (R,)."""
    count = len(low)
    columns = np.stack([low, high], axis=1).ravel().astype(np.int64)
    values = np.tile(np.array([1.0, -1.0]), count)
    return SparseRows(n, clause.astype(np.int64), np.zeros(count), np.repeat(np.arange(count), 2), columns, values)


def none(n: int) -> SparseRows:
    """No rows: the property has no such form."""
    empty = np.zeros(0, dtype=np.int64)
    return SparseRows(n, empty, np.zeros(0), empty, empty, np.zeros(0))


def build(n: int, clauses: list[list[tuple[dict[int, float], float]]]) -> SparseRows:
    """From a list of clauses, each a list of (coefficients by output, rhs); coefficients are rounded to float32."""
    clause: list[int] = []
    rhs: list[float] = []
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for number, conjunction in enumerate(clauses):
        for coefficients, bound in conjunction:
            for column, value in coefficients.items():
                rows.append(len(rhs))
                columns.append(column)
                values.append(float(np.float32(value)))
            clause.append(number)
            rhs.append(float(bound))
    integer = np.int64
    return SparseRows(
        n,
        np.array(clause, dtype=integer),
        np.array(rhs, dtype=np.float64),
        np.array(rows, dtype=integer),
        np.array(columns, dtype=integer),
        np.array(values, dtype=np.float64),
    )
