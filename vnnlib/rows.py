"""Unique linear rows `sum val*v <= rhs` (or `<`) in compressed form, and joining cases and clauses to a normal form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vnnlib.form import ClauseSource, NormalForm, TensorSlice
from vnnlib.spec import Spec

RowKey = tuple[tuple[int, ...], tuple[float, ...], float, bool]  # columns, values, rhs, strict


@dataclass
class RowArrays:
    """R rows: `ptr` (R+1), `col`, `val`, `rhs` (R,), `strict` (R,)."""

    ptr: np.ndarray
    col: np.ndarray
    val: np.ndarray
    rhs: np.ndarray
    strict: np.ndarray

    def take(self, order: np.ndarray) -> RowArrays:
        """Return the rows `order`."""
        counts = (self.ptr[1:] - self.ptr[:-1])[order]
        ptr = _pointers(counts)
        pick = np.repeat(self.ptr[:-1][order] - ptr[:-1], counts) + np.arange(ptr[-1])
        return RowArrays(ptr, self.col[pick], self.val[pick], self.rhs[order], self.strict[order])


@dataclass
class ClauseParts:
    """Input of `assemble`: C clauses before sorting by case, rows numbered in any way without repetition.

    `lower`, `upper` (Q, n), `strict_*` (Q, n) or None; `case_of` (C,) ascending first use; `clause_ptr`/`clause_rows`
    row numbers per clause; `case_in_ptr`/`case_in_rows` per case; `source_ptr`/`source_lines` per clause.
    """

    lower: np.ndarray
    upper: np.ndarray
    strict_lower: np.ndarray | None
    strict_upper: np.ndarray | None
    case_of: np.ndarray
    clause_ptr: np.ndarray
    clause_rows: np.ndarray
    case_in_ptr: np.ndarray
    case_in_rows: np.ndarray
    source_ptr: np.ndarray
    source_lines: np.ndarray
    rows: RowArrays


def _pointers(counts: np.ndarray) -> np.ndarray:
    """Return the offsets (one more than `counts`) of consecutive groups."""
    ptr = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=ptr[1:])
    return ptr


def _regroup(ptr: np.ndarray, values: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put the groups of a CSR list in another order."""
    counts = (ptr[1:] - ptr[:-1])[order]
    new = _pointers(counts)
    return new, values[np.repeat(ptr[:-1][order] - new[:-1], counts) + np.arange(new[-1])]


def _distinct(ptr: np.ndarray, values: np.ndarray, bound: int) -> tuple[np.ndarray, np.ndarray]:
    """Drop repetitions inside each group, keeping the first."""
    counts = ptr[1:] - ptr[:-1]
    if not len(values) or counts.max() < 2:
        return ptr, values
    group = np.repeat(np.arange(len(counts)), counts)
    _, first = np.unique(group * np.int64(max(bound, 1)) + values, return_index=True)
    if len(first) == len(values):
        return ptr, values
    first.sort()
    return _pointers(np.bincount(group[first], minlength=len(counts))), values[first]


def _canonical_order(rows: RowArrays) -> np.ndarray:
    """Return the order of rows by length, columns, values, right side, strictness; however they were found."""
    lengths = rows.ptr[1:] - rows.ptr[:-1]
    if len(lengths) < 2:
        return np.arange(len(lengths))
    if lengths.max() > 2:
        keys = []
        for r, (start, stop) in enumerate(pairwise(rows.ptr.tolist())):
            part = slice(start, stop)
            keys.append((stop - start, rows.col[part].tolist(), rows.val[part].tolist(), rows.rhs[r], rows.strict[r]))
        return np.array(sorted(range(len(keys)), key=keys.__getitem__), np.int64)
    first, last = rows.ptr[:-1], rows.ptr[1:] - 1
    columns, values = (rows.col[first], rows.col[last]), (rows.val[first], rows.val[last])
    return np.lexsort((rows.strict, rows.rhs, values[1], values[0], columns[1], columns[0], lengths))


def _sorted(ptr: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sort the values inside each group."""
    if len(values) < 2:
        return values
    group = np.repeat(np.arange(len(ptr) - 1), ptr[1:] - ptr[:-1])
    return values[np.lexsort((values, group))]


def assemble(spec: Spec, parts: ClauseParts, logic: str, products: tuple[tuple[int, ...], ...] = ()) -> NormalForm:
    """Sort clauses by case, bring rows into canonical order, drop repeated rows in a clause, and freeze everything."""
    count, cases = len(parts.rows.rhs), len(parts.lower)
    clause_ptr, clause_rows = parts.clause_ptr, parts.clause_rows
    source_ptr, source_lines = parts.source_ptr, parts.source_lines
    if cases > 1:
        order = np.argsort(parts.case_of, kind="stable")
        clause_ptr, clause_rows = _regroup(clause_ptr, clause_rows, order)
        source_ptr, source_lines = _regroup(source_ptr, source_lines, order)
    clause_ptr, clause_rows = _distinct(clause_ptr, clause_rows, count)
    in_ptr, in_rows = _distinct(parts.case_in_ptr, parts.case_in_rows, count)
    used = np.zeros(count, bool)
    used[clause_rows] = used[in_rows] = True
    kept = np.flatnonzero(used)
    order = kept[_canonical_order(parts.rows if len(kept) == count else parts.rows.take(kept))]
    renumber = np.full(count, -1, np.int64)
    renumber[order] = np.arange(len(order))
    clause_rows, in_rows = _sorted(clause_ptr, renumber[clause_rows]), _sorted(in_ptr, renumber[in_rows])
    rows = parts.rows if count < 2 and len(order) == count else parts.rows.take(order)
    inputs, outputs = slices(spec)
    n = spec.size("input")
    open_ = np.isinf(parts.lower).any(axis=0) | np.isinf(parts.upper).any(axis=0) if cases else np.zeros(n, bool)
    arrays = (parts.lower, parts.upper, rows.ptr, rows.col, rows.val, rows.rhs, rows.strict, clause_ptr)
    for array in arrays:
        array.flags.writeable = False
    return NormalForm(
        n_inputs=n,
        n_outputs=spec.size("output"),
        input_tensors=inputs,
        output_tensors=outputs,
        lower=parts.lower,
        upper=parts.upper,
        row_ptr=rows.ptr,
        row_col=rows.col,
        row_val=rows.val,
        row_rhs=rows.rhs,
        row_strict=rows.strict,
        clause_ptr=clause_ptr,
        clause_rows=clause_rows,
        case_ptr=_pointers(np.bincount(parts.case_of, minlength=cases)),
        case_in_ptr=in_ptr,
        case_in_rows=in_rows,
        strict_lower=_flags(parts.strict_lower),
        strict_upper=_flags(parts.strict_upper),
        clause_source=ClauseSource(source_ptr, source_lines),
        logic=logic,
        unbounded=tuple(np.flatnonzero(open_).tolist()),
        products=products,
    )


def _flags(flags: np.ndarray | None) -> np.ndarray | None:
    """Return None where no flag is set."""
    return flags if flags is not None and flags.any() else None


def slices(spec: Spec) -> tuple[tuple[TensorSlice, ...], tuple[TensorSlice, ...]]:
    """Return where each input tensor and each output tensor lies in x and y."""
    found: list[tuple[TensorSlice, ...]] = []
    for kind in ("input", "output"):
        at, group = 0, []
        for network in spec.networks:
            for tensor in network.inputs if kind == "input" else network.outputs:
                group.append(TensorSlice(tensor.name, network.name, tensor.dtype, tensor.shape, at, at + tensor.size))
                at += tensor.size
        found.append(tuple(group))
    return found[0], found[1]


def csr(groups: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return (ptr, values) of lists."""
    return _pointers(np.array([len(g) for g in groups], np.int64)), np.array([v for g in groups for v in g], np.int64)


def row_table(rows: Sequence[RowKey]) -> RowArrays:
    """Return rows (columns, values, rhs, strict) in compressed form."""
    ptr, col = csr([row[0] for row in rows])
    val = np.array([v for row in rows for v in row[1]], np.float64)
    rhs = np.array([row[2] for row in rows], np.float64)
    return RowArrays(ptr, col, val, rhs, np.array([row[3] for row in rows], bool))
