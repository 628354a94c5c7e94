"""Linear programs by HiGHS: what it says is a proposal, never a proof; its multipliers are for bounds that are
recomputed by the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Solved:
    """An optimal point `x` (n,) with the multipliers `dual` (m,) >= 0 of the rows; or, where `x` is None, multipliers
    of rows that HiGHS believes to exclude each other."""

    x: np.ndarray | None
    dual: np.ndarray


def exclude(
    rows: np.ndarray, constant: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """A point x of the box `lower`, `upper` (n,) with  rows . x + constant <= 0  in all m rows, or multipliers (m,)
    whose combination of them should be positive on the whole box; (None, None) where HiGHS does not get to an end."""
    # maximise the smallest margin t: rows . x + constant + t <= 0
    solved = minimise(
        np.r_[np.zeros(len(lower)), -1.0],
        np.c_[rows, np.ones(len(rows))],
        -constant,
        np.r_[lower, -np.inf],
        np.r_[upper, np.inf],
    )
    if solved is None or solved.x is None:
        return None, None
    return (solved.x[:-1], None) if solved.x[-1] >= 0 else (None, solved.dual)


def minimise(
    cost: np.ndarray, rows: np.ndarray, right: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> Solved | None:
    """min cost . x  where  rows . x <= right  and  lower <= x <= upper: (n,), (m, n), (m,), (n,), (n,).

    None where HiGHS does not get to an end (not finite, unbounded, a numerical difficulty), or has no multipliers.
    """
    # slow to import, and few problems come here; highspy.Highs itself prints a banner on stdout when it is made
    import highspy
    from highspy._core import _Highs

    if not all(np.isfinite(t).all() for t in (cost, rows, right)) or np.isnan(lower).any() or np.isnan(upper).any():
        return None
    m, n = rows.shape
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = n, m
    program.col_cost_, program.col_lower_, program.col_upper_ = cost, lower, upper
    program.row_lower_, program.row_upper_ = np.full(m, -np.inf), right
    matrix = program.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.start_, matrix.index_, matrix.value_ = np.arange(0, m * n + 1, n), np.tile(np.arange(n), m), rows.ravel()
    solver: Any = _Highs()  # whose stubs lack the rays
    for option, value in (("output_flag", False), ("parallel", "off"), ("presolve", "off")):  # presolve hides the rays
        solver.setOptionValue(option, value)
    if solver.passModel(program) == highspy.HighsStatus.kError:
        return None
    solver.run()
    status = solver.getModelStatus()
    if status == highspy.HighsModelStatus.kOptimal:
        solution = solver.getSolution()
        return Solved(np.array(solution.col_value), np.maximum(-np.array(solution.row_dual), 0.0))
    if status == highspy.HighsModelStatus.kInfeasible:
        _, known, ray = solver.getDualRay()
        return Solved(None, np.maximum(-np.array(ray), 0.0)) if known else None
    return None
