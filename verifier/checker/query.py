"""What a specification asks, as the checker needs it: boxes, and clauses of rows over outputs and inputs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import vnnlib
from verifier.checker.errors import Unreadable
from verifier.checker.linear import Array
from verifier.checker.network import CheckedNetwork, read_bytes


@dataclass(eq=False)
class Queries:
    """`lower`, `upper` (Q, n) boxes; `clauses[q][c]` row numbers. Row r holds where  outputs[r] . y + inputs[r] . x <=
    rhs[r]  (`inputs` has no columns where they are all 0); a violation of q is a clause whose rows all hold at a point
    of the box."""

    lower: Array
    upper: Array
    clauses: list[list[list[int]]]
    outputs: Array
    inputs: Array
    rhs: Array
    form: vnnlib.NormalForm
    digest: str

    def __len__(self) -> int:
        return len(self.lower)


def read_queries(path: str | Path, network: CheckedNetwork) -> Queries:
    """Reads a VNN-LIB file for this network.

    The box of an input that is a float32 or float16 number holds the bounds and their nearest numbers of that type (a
    competition compares in the type); an input of whole numbers is only asked for whole numbers.

    Raises:
        Unreadable: the specification does not fit the network, or leaves an input without bounds.
        vnnlib.VnnLibError: it cannot be parsed.
    """
    data = read_bytes(path)
    form = vnnlib.normalise(vnnlib.loads(data, name=str(path)))
    if len({t.network for t in form.input_tensors}) > 1:
        raise Unreadable(f"{path}: several networks are not known to this checker")
    if form.products:
        raise Unreadable(f"{path}: products of variables are not known to this checker")
    inputs = [vnnlib.Layout("input", (size,), dtype) for size, dtype in network.dtypes]
    outputs = [vnnlib.Layout("output", (size,), np.dtype(np.float32)) for size in network.parts]
    if why := form.misfit(inputs, outputs):
        raise Unreadable(f"{path}: {why}")
    if form.unbounded or not (np.isfinite(form.lower).all() and np.isfinite(form.upper).all()):
        raise Unreadable(f"{path}: inputs without bounds")
    lower, upper, at = form.lower.copy(), form.upper.copy(), 0
    for size, dtype in network.dtypes:
        part = slice(at, at + size)
        at += size
        if dtype.kind in "iu":
            lower[:, part], upper[:, part] = np.ceil(lower[:, part]), np.floor(upper[:, part])
        elif dtype.kind == "f":
            lower[:, part], upper[:, part] = vnnlib.float_hull(lower[:, part], upper[:, part], dtype)
        else:
            raise Unreadable(f"{path}: inputs of type {dtype}")
    first = 0 if (form.row_col < form.n_inputs).any() else form.n_inputs
    rows = np.zeros((form.n_rows, form.n_inputs + network.outputs - first))
    rows[np.repeat(np.arange(form.n_rows), np.diff(form.row_ptr)), form.row_col - first] = form.row_val
    of_inputs, of_outputs = np.split(rows, [form.n_inputs - first], 1)
    clauses: list[list[list[int]]] = []
    for q in range(form.n_cases):
        if (lower[q] > upper[q]).any():  # no point, so nothing to show
            clauses.append([])
            continue
        shared = form.case_in_rows[form.case_in_ptr[q] : form.case_in_ptr[q + 1]].tolist()
        clauses.append([[*form.clause(k).tolist(), *shared] for k in range(form.case_ptr[q], form.case_ptr[q + 1])])
    digest = hashlib.sha256(data).hexdigest()
    return Queries(lower, upper, clauses, of_outputs, of_inputs, form.row_rhs.copy(), form, digest)
