"""VNN-LIB text, versions 1.0 and 2.0, for one box of parameters and rows over the outputs."""

from __future__ import annotations

import numpy as np

import vnnlib
from verifier.errors import OptionsError
from verifier.semantic.rows import SparseRows


def is_simple(rows: SparseRows) -> bool:
    """Whether every row compares one output with a constant or two outputs with each other."""
    if not rows.count:
        return False
    per_row = np.bincount(rows.entry_row, minlength=rows.count)
    total = np.bincount(rows.entry_row, rows.entry_value, minlength=rows.count)
    unit = bool((np.abs(rows.entry_value) == 1.0).all())
    pair = (per_row == 2) & (total == 0) & (rows.rhs == 0)
    return unit and bool(((per_row == 1) | pair).all())


def write(
    version: int, box: np.ndarray, rows: SparseRows, output: tuple[int, ...], dtype: np.dtype, comments: list[str]
) -> str:
    """The whole file. box (d, 2): bounds of the parameters; rows must be simple and speak about `output` elements."""
    if version not in (1, 2):
        raise OptionsError(f"VNN-LIB version {version} is unknown; choose 1 or 2")
    coefficients: list[dict[int, float]] = [{} for _ in range(rows.count)]
    for r, c, v in zip(rows.entry_row.tolist(), rows.entry_column.tolist(), rows.entry_value.tolist(), strict=True):
        coefficients[r][c] = v
    clauses: list[list[vnnlib.Row]] = [[] for _ in range(rows.clauses)]
    for clause, y, rhs in zip(rows.clause.tolist(), coefficients, rows.rhs.tolist(), strict=True):
        clauses[clause].append(vnnlib.Row(y=y, rhs=rhs))
    spec = vnnlib.build(
        [vnnlib.Case(box[:, 0], box[:, 1], clauses)], input_shape=[1, len(box)], output_shape=output,
        dtype=np.dtype(dtype).name, header=comments,
    )  # fmt: skip
    return vnnlib.dumps(spec, version=f"{version}.0")
