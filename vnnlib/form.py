"""The normal form: boxes, linear rows, clauses; what a verifier works on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from vnnlib.spec import SIGNED_TYPES, UNSIGNED_TYPES


@dataclass(frozen=True)
class TensorSlice:
    """Tensor `name` of `network` is `x[start:stop]` (or `y[start:stop]`), row-major of `shape`."""

    name: str
    network: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Layout(NamedTuple):
    """A tensor of a network."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclass(frozen=True, eq=False)
class ClauseSource:
    """Source lines of each clause: `source[k]` is a tuple of line numbers (from 1).

    These are the lines of the disjuncts that were combined to clause k, one per disjunction of the file; for a clause
    that comes from no disjunction, the line of its first row; empty if there is none, or if the text is not known.
    """

    ptr: np.ndarray
    lines: np.ndarray

    def __len__(self) -> int:
        return len(self.ptr) - 1

    def __getitem__(self, clause: int) -> tuple[int, ...]:
        return tuple(self.lines[self.ptr[clause] : self.ptr[clause + 1]].tolist())


@dataclass(frozen=True, eq=False)
class NormalForm:
    """A query in disjunctive normal form, n inputs and m outputs over all networks, v = [x; y; products].

    Element n + m + k of v is the product of the elements `products[k]` of [x; y] (ascending, with repetition).

    sat  <=>  some case q and x with lower[q] <= x <= upper[q] (strict where flagged) and all rows of
    `case_in_rows[q]`, and y = N(x), satisfy all rows of one clause of the case.

    lower, upper: float64 (Q, n), +-inf where unbounded, `unbounded` lists those inputs. Empty boxes are dropped, so
    Q = 0 means trivially unsat; a clause without rows means that any x of the box violates.
    Row r is `sum(row_val[k] * v[row_col[k]] for k in row_ptr[r]:row_ptr[r+1]) <= row_rhs[r]`, or `<` if
    `row_strict[r]`; no two rows are equal, and they stand in a fixed order (by length, columns, values, right side).
    Clause k is the conjunction of rows `clause_rows[clause_ptr[k]:clause_ptr[k+1]]` (outputs, or inputs and outputs
    mixed), ascending; clauses of case q are `case_ptr[q]:case_ptr[q+1]`. Rows over inputs only stand in
    `case_in_rows`. All arrays are read-only by convention. `logic` is the class of the query in the standard's terms.
    """

    n_inputs: int
    n_outputs: int
    input_tensors: tuple[TensorSlice, ...]
    output_tensors: tuple[TensorSlice, ...]
    lower: np.ndarray
    upper: np.ndarray
    row_ptr: np.ndarray
    row_col: np.ndarray
    row_val: np.ndarray
    row_rhs: np.ndarray
    row_strict: np.ndarray
    clause_ptr: np.ndarray
    clause_rows: np.ndarray
    case_ptr: np.ndarray
    case_in_ptr: np.ndarray
    case_in_rows: np.ndarray
    strict_lower: np.ndarray | None
    strict_upper: np.ndarray | None
    clause_source: ClauseSource
    logic: str
    unbounded: tuple[int, ...]
    products: tuple[tuple[int, ...], ...] = ()

    @property
    def n_cases(self) -> int:
        """Q, the number of boxes (with their linear input rows)."""
        return len(self.lower)

    @property
    def n_clauses(self) -> int:
        """Number of clauses over all cases."""
        return len(self.clause_ptr) - 1

    @property
    def n_rows(self) -> int:
        """Number of different rows."""
        return len(self.row_rhs)

    @property
    def slices(self) -> tuple[tuple[TensorSlice, ...], tuple[TensorSlice, ...]]:
        """Input slices and output slices."""
        return self.input_tensors, self.output_tensors

    def misfit(self, inputs: Sequence[Layout], outputs: Sequence[Layout]) -> str:
        """Why these cannot be the declared tensors, in words; "" where they can.

        Sizes have to agree, tensor by tensor where several are declared (1.0 names one vector, whatever the network
        has); of two shapes with as many dimensions other than 1, these, too; and whole numbers are no set of reals.
        """
        for kind, declared, found in (("input", self.input_tensors, inputs), ("output", self.output_tensors, outputs)):
            sizes = [t.stop - t.start for t in declared], [math.prod(one.shape) for one in found]
            if sum(sizes[0]) != sum(sizes[1]) or (len(declared) > 1 and sizes[0] != sizes[1]):
                return (
                    f"the specification declares {_sum(sizes[0])} {kind} variables, but the network has"
                    f" {_sum(sizes[1])} ({', '.join(f'{one.name} {list(one.shape)}' for one in found)})"
                )
            for tensor, one in zip(declared, found, strict=False):
                own, other = ([n for n in shape if n != 1] for shape in (tensor.shape, one.shape))
                if len(declared) == len(found) and len(own) == len(other) and own != other:
                    what = (
                        f"{kind} {tensor.name} {list(tensor.shape)}, but the network has {one.name} {list(one.shape)}"
                    )
                    return f"the specification declares {what}"
                if kind == "input" and tensor.dtype in SIGNED_TYPES | UNSIGNED_TYPES and one.dtype.kind not in "iu":
                    what = f"input {tensor.name} of {tensor.dtype}"
                    return f"the specification declares {what}, but the network's {one.name} is of {one.dtype}"
        return ""

    def row(self, r: int) -> tuple[np.ndarray, np.ndarray, float, bool]:
        """Return (columns, values, rhs, strict) of row r."""
        part = slice(self.row_ptr[r], self.row_ptr[r + 1])
        return self.row_col[part], self.row_val[part], float(self.row_rhs[r]), bool(self.row_strict[r])

    def clause(self, k: int) -> np.ndarray:
        """Return the row numbers of clause k."""
        return self.clause_rows[self.clause_ptr[k] : self.clause_ptr[k + 1]]

    def cases_of(self, x: np.ndarray) -> np.ndarray:
        """Return the cases in whose boxes x (n,) lies, strict bounds as such; input rows are not looked at."""
        inside = (self.lower <= x) & (x <= self.upper)
        for flags, ends in ((self.strict_lower, self.lower), (self.strict_upper, self.upper)):
            if flags is not None:
                inside &= ~(flags & (ends == x))
        return np.flatnonzero(inside.all(1))

    def same_as(self, other: NormalForm, *, sources: bool = True, logic: bool = True) -> bool:
        """Say whether everything is equal; `sources` and `logic` choose whether these count."""
        plain = ["n_inputs", "n_outputs", "input_tensors", "output_tensors", "unbounded", "products"]
        plain += ["logic"] * logic
        if any(getattr(self, name) != getattr(other, name) for name in plain):
            return False
        names = "lower upper row_ptr row_col row_val row_rhs row_strict clause_ptr clause_rows case_ptr case_in_ptr "
        names += "case_in_rows strict_lower strict_upper"
        pairs = [(getattr(self, name), getattr(other, name)) for name in names.split()]
        if sources:
            pairs += [(getattr(self.clause_source, k), getattr(other.clause_source, k)) for k in ("ptr", "lines")]
        return all(b is None if a is None else b is not None and np.array_equal(a, b) for a, b in pairs)

    def holds(self, x: np.ndarray, y: np.ndarray) -> bool:
        """Say whether the point satisfies the query: x (n,), y (m,), exact arithmetic, zero tolerance."""
        return self.violated_clause(x, y) is not None

    def violated_clause(self, x: np.ndarray, y: np.ndarray) -> int | None:
        """Return the first clause that the point x (n,), y (m,) satisfies exactly, box and input rows included."""
        x, y = np.asarray(x, np.float64).reshape(-1), np.asarray(y, np.float64).reshape(-1)
        v = np.concatenate([x, y])
        for q in self.cases_of(x).tolist():
            in_rows = self.case_in_rows[self.case_in_ptr[q] : self.case_in_ptr[q + 1]]
            if not all(self._row_holds(r, v) for r in in_rows):
                continue
            for k in range(int(self.case_ptr[q]), int(self.case_ptr[q + 1])):
                if all(self._row_holds(r, v) for r in self.clause(k)):
                    return k
        return None

    def _row_holds(self, r: int, v: np.ndarray) -> bool:
        """Evaluate one row exactly (a NaN or infinite element never satisfies)."""
        columns, values, rhs, strict = self.row(r)
        known = self.n_inputs + self.n_outputs
        factors = [(c,) if c < known else self.products[c - known] for c in columns.tolist()]
        if not all(np.isfinite(v[list(own)]).all() for own in factors):
            return False
        pairs = zip(values.tolist(), factors, strict=True)
        terms = (Fraction(a) * math.prod(Fraction(float(v[k])) for k in own) for a, own in pairs)
        total = sum(terms, Fraction(0))
        return total < Fraction(rhs) if strict else total <= Fraction(rhs)

    def __repr__(self) -> str:
        counts = f"{self.n_inputs} inputs, {self.n_outputs} outputs, {len(self.lower)} boxes"
        return f"NormalForm({counts}, {len(self.row_rhs)} rows, {len(self.clause_ptr) - 1} clauses)"


def _sum(sizes: Sequence[int]) -> str:
    return " + ".join(map(str, sizes[:10])) + (" + .." if len(sizes) > 10 else "")


def joined(forms: Sequence[NormalForm]) -> NormalForm:
    """The cases of several forms over the same inputs and outputs, one after the other: sat if one of them is.

    Rows of different forms may be equal. Tensors, logic and unbounded inputs are those of the first.

    Raises `ValueError` where products of variables are asked for, which every form counts in its own way.
    """
    if any(form.products for form in forms):
        raise ValueError("specifications with products of variables cannot be joined")
    rows = np.cumsum([0, *(f.n_rows for f in forms)])

    def after(name: str) -> np.ndarray:
        return np.concatenate([getattr(f, name) for f in forms])

    def shifted(name: str) -> np.ndarray:
        return np.concatenate([getattr(f, name) + first for f, first in zip(forms, rows, strict=False)])

    def strict(name: str) -> np.ndarray | None:
        given = [getattr(f, name) for f in forms]
        if all(part is None for part in given):
            return None
        parts = (np.zeros_like(f.lower, bool) if p is None else p for p, f in zip(given, forms, strict=True))
        return np.concatenate(list(parts))

    def pointers(name: str) -> np.ndarray:
        return _pointers([getattr(f, name) for f in forms])

    sources = [f.clause_source for f in forms]
    return replace(
        forms[0],
        lower=after("lower"),
        upper=after("upper"),
        row_ptr=pointers("row_ptr"),
        row_col=after("row_col"),
        row_val=after("row_val"),
        row_rhs=after("row_rhs"),
        row_strict=after("row_strict"),
        clause_ptr=pointers("clause_ptr"),
        clause_rows=shifted("clause_rows"),
        case_ptr=pointers("case_ptr"),
        case_in_ptr=pointers("case_in_ptr"),
        case_in_rows=shifted("case_in_rows"),
        strict_lower=strict("strict_lower"),
        strict_upper=strict("strict_upper"),
        clause_source=ClauseSource(_pointers([s.ptr for s in sources]), np.concatenate([s.lines for s in sources])),
    )


def _pointers(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Starts of the entries of several lists in the list of all of them."""
    ends = np.cumsum([0, *(int(p[-1]) for p in parts)])
    return np.concatenate([parts[0][:1], *(p[1:] + first for p, first in zip(parts, ends, strict=False))])
