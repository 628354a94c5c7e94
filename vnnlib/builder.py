"""Specifications made by programs instead of parsed: boxes and rows in, `Spec` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, prod

import numpy as np
import numpy.typing as npt

from vnnlib import logic
from vnnlib.errors import VnnLibError
from vnnlib.rows import ClauseParts, RowKey, assemble, csr, row_table
from vnnlib.spec import ALL_TYPES, NetworkDecl, Spec, TensorDecl


@dataclass(frozen=True)
class Row:
    """`sum x[i]*X_i + sum y[j]*Y_j <= rhs` (`<` if strict); flat indices to coefficients, zero ones are dropped."""

    x: Mapping[int, float] = field(default_factory=dict)
    y: Mapping[int, float] = field(default_factory=dict)
    rhs: float = 0.0
    strict: bool = False


@dataclass(frozen=True, eq=False)
class Case:
    """One input box `lower <= x <= upper` (flat, n values each; +-inf where unbounded), rows over inputs, clauses.

    The case is violated where all `input_rows` and all rows of some clause hold. No clause: never violated.
    """

    lower: npt.ArrayLike
    upper: npt.ArrayLike
    clauses: Sequence[Sequence[Row]]
    input_rows: Sequence[Row] = ()


def build(
    cases: Sequence[Case],
    *,
    input_shape: Sequence[int],
    output_shape: Sequence[int],
    dtype: str = "float32",
    version: str = "2.0",
    header: Sequence[str] = (),
    names: tuple[str, str, str] = ("N", "X", "Y"),
) -> Spec:
    """Return the specification of one network that is violated (sat) in any of `cases`.

    `header`: comment lines for the file; `names`: network, input, output in a 2.0 file. Empty boxes and cases without
    clauses are dropped, equal boxes merged. Raises `VnnLibError` for wrong lengths, NaN, or indices out of range.
    """
    if dtype not in ALL_TYPES:
        raise VnnLibError(f"unknown element type {dtype}")
    x = TensorDecl(names[1], dtype, tuple(input_shape), "input")
    y = TensorDecl(names[2], dtype, tuple(output_shape), "output")
    spec = Spec(version, (NetworkDecl(names[0], None, (x,), (), (y,)),), header=tuple(header))
    builder = _Builder(prod(x.shape), prod(y.shape))
    for case in cases:
        builder.add(case)
    return replace(
        spec, form=assemble(spec, builder.parts(), logic.name_logic(spec, builder.arithmetic, builder.mixed))
    )


class _Builder:
    """Collects cases, clauses and different rows."""

    def __init__(self, n: int, m: int) -> None:
        self.n, self.m = n, m
        self.rows: dict[RowKey, int] = {}
        self.cases: dict[tuple[bytes, bytes, tuple[int, ...]], int] = {}
        self.boxes: list[tuple[np.ndarray, np.ndarray]] = []
        self.in_rows: list[list[int]] = []
        self.clauses: list[tuple[int, list[int]]] = []
        self.arithmetic, self.mixed = logic.BND, False

    def add(self, case: Case) -> None:
        """Enter one case."""
        lower, upper = (np.array(edge, np.float64).reshape(-1) + 0.0 for edge in (case.lower, case.upper))
        if lower.shape != (self.n,) or upper.shape != (self.n,):
            raise VnnLibError(
                f"the box has {lower.size} lower and {upper.size} upper bounds, the input {self.n} elements"
            )
        if np.isnan(lower).any() or np.isnan(upper).any() or (lower == np.inf).any() or (upper == -np.inf).any():
            raise VnnLibError("a bound is NaN, or infinite on the wrong side")
        if (lower > upper).any() or not case.clauses:
            return
        in_rows = [self._row(row, True) for row in case.input_rows]
        key = lower.tobytes(), upper.tobytes(), tuple(sorted(set(in_rows)))
        number = self.cases.setdefault(key, len(self.cases))
        if number == len(self.boxes):
            self.boxes.append((lower, upper))
            self.in_rows.append(in_rows)
        self.clauses += [(number, [self._row(row, False) for row in clause]) for clause in case.clauses]

    def _row(self, row: Row, inputs_only: bool) -> int:
        """Return the number of a row; checks indices and values."""
        terms = []
        for mapping, size, start in ((row.x, self.n, 0), (row.y, self.m, self.n)):
            for index, value in sorted(mapping.items()):
                if not 0 <= index < size:
                    raise VnnLibError(f"row uses {'XY'[start > 0]}_{index}, the tensor has {size} elements")
                if value:
                    terms.append((start + int(index), float(value)))
        if not terms:
            raise VnnLibError("a row needs a variable with a coefficient other than 0")
        if inputs_only != (terms[-1][0] < self.n):
            raise VnnLibError("rows over inputs only stand in input_rows, all others in clauses")
        if not isfinite(row.rhs) or not all(isfinite(c) for _, c in terms):
            raise VnnLibError("a row holds NaN or an infinite number")
        columns, values = tuple(c for c, _ in terms), tuple(v for _, v in terms)
        if inputs_only and len(columns) == 1:
            raise VnnLibError("a row over one input is a bound; put it into the box")
        if (len(columns) > 1 and not (sorted(values) == [-1.0, 1.0] and row.rhs == 0 and not inputs_only)) or (
            len(columns) == 1 and abs(values[0]) != 1.0
        ):
            self.arithmetic = logic.LIN
        elif len(columns) == 2:
            self.arithmetic = max(self.arithmetic, logic.OUTC)
        self.mixed = self.mixed or columns[0] < self.n <= columns[-1]
        return self.rows.setdefault((columns, values, float(row.rhs) + 0.0, row.strict), len(self.rows))

    def parts(self) -> ClauseParts:
        """Return everything as arrays."""
        lower, upper = (np.array([b[side] for b in self.boxes]).reshape(-1, self.n) for side in (0, 1))
        clauses, in_rows = csr([rows for _, rows in self.clauses]), csr(self.in_rows)
        case_of = np.array([number for number, _ in self.clauses], np.int64)
        sources = np.zeros(len(case_of) + 1, np.int64), np.zeros(0, np.int64)
        return ClauseParts(lower, upper, None, None, case_of, *clauses, *in_rows, *sources, row_table(list(self.rows)))
