"""VNN-LIB text, versions 1.0 and 2.0, for one box of parameters and rows over the outputs.

The 1.0 text keeps to what the official VNN-COMP reader accepts: comparisons of an output with a constant or with
another output, and one `or` of `and`s.
"""

from __future__ import annotations

import numpy as np

from verifier.errors import OptionsError
from verifier.semantic.rows import Rows


def is_simple(rows: Rows) -> bool:
    """Whether every row compares one output with a constant or two outputs with each other."""
    if not rows.count:
        return False
    per_row = np.bincount(rows.entry_row, minlength=rows.count)
    total = np.bincount(rows.entry_row, rows.entry_value, minlength=rows.count)
    unit = bool((np.abs(rows.entry_value) == 1.0).all())
    pair = (per_row == 2) & (total == 0) & (rows.rhs == 0)
    return unit and bool(((per_row == 1) | pair).all())


def number(value: float) -> str:
    """Shortest decimal that reads back as the same float64, without exponent, with a decimal point."""
    return np.format_float_positional(float(value) + 0.0, unique=True, trim="0")


def write(
    version: int, box: np.ndarray, rows: Rows, output: tuple[int, ...], dtype: np.dtype, comments: list[str]
) -> str:
    """The whole file. box (d, 2): bounds of the parameters; rows must be simple and speak about `output` elements."""
    if version not in (1, 2):
        raise OptionsError(f"VNN-LIB version {version} is unknown; choose 1 or 2")
    lines = [f"; {line}" for text in comments for line in text.splitlines()]
    if version == 1:
        lines += [f"(declare-const X_{i} Real)" for i in range(len(box))]
        lines += [f"(declare-const Y_{j} Real)" for j in range(rows.n)]
        inputs, outputs = [f"X_{i}" for i in range(len(box))], [f"Y_{j}" for j in range(rows.n)]
    else:
        kind = np.dtype(dtype).name
        shape = ",".join(str(d) for d in output)
        lines += [
            "(vnnlib-version <2.0>)",
            "(declare-network N",
            f"    (declare-input X {kind} [1,{len(box)}])",
            f"    (declare-output Y {kind} [{shape}]))",
        ]
        inputs = [f"X[0,{i}]" for i in range(len(box))]
        places = np.stack(np.unravel_index(np.arange(rows.n), output), axis=1) if output else np.zeros((1, 0), int)
        outputs = [f"Y[{','.join(map(str, place))}]" if len(place) else "Y" for place in places.tolist()]
    for name, (low, high) in zip(inputs, box, strict=True):
        lines += [f"(assert (>= {name} {number(low)}))", f"(assert (<= {name} {number(high)}))"]
    return "\n".join([*lines, *_property(rows, outputs, version)]) + "\n"


def _property(rows: Rows, outputs: list[str], version: int) -> list[str]:
    clauses: list[list[str]] = [[] for _ in range(rows.clauses)]
    for clause, comparison in zip(rows.clause.tolist(), _comparisons(rows, outputs), strict=True):
        clauses[clause].append(comparison)
    if len(clauses) == 1:
        return [f"(assert {comparison})" for comparison in clauses[0]]
    # 2.0 wants two or more operands of `and`; 1.0's official reader wants every disjunct wrapped.
    wrap = [c[0] if version == 2 and len(c) == 1 else f"(and {' '.join(c)})" for c in clauses]
    return ["(assert (or", *(f"    {clause}" for clause in wrap[:-1]), f"    {wrap[-1]}))"]


def _comparisons(rows: Rows, outputs: list[str]) -> list[str]:
    entries: list[list[tuple[int, float]]] = [[] for _ in range(rows.count)]
    for r, c, v in zip(rows.entry_row.tolist(), rows.entry_column.tolist(), rows.entry_value.tolist(), strict=True):
        entries[r].append((c, v))
    text = []
    for found, bound in zip(entries, rows.rhs.tolist(), strict=True):
        if len(found) == 1:
            column, sign = found[0]
            relation, value = ("<=", bound) if sign > 0 else (">=", -bound)
            text.append(f"({relation} {outputs[column]} {number(value)})")
        else:
            low = next(c for c, v in found if v > 0)
            high = next(c for c, v in found if v < 0)
            text.append(f"(<= {outputs[low]} {outputs[high]})")
    return text
