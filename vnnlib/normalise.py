"""Specification to normal form: the general path, and the door for both."""

from __future__ import annotations

import numpy as np

from vnnlib import logic
from vnnlib.dnf import Bound, Conjunction, Expansion, OpaqueLiteral, expand
from vnnlib.errors import VnnLibUnsupported
from vnnlib.form import NormalForm
from vnnlib.polynomial import StepLimit, TooMuchWork, difference
from vnnlib.rows import ClauseParts, assemble, csr, row_table
from vnnlib.spec import OTHER_TYPES, Spec

CaseKey = tuple[tuple[tuple[tuple[int, bool], float, bool], ...], tuple[int, ...]]


def normalise(spec: Spec) -> NormalForm:
    """Bring a specification to normal form.

    Raises `VnnLibUnsupported`, with position, for products of many variables, hidden variables, tensors of
    non-numeric type and expansions beyond `spec.limits`; the tree in the specification can still be evaluated.
    """
    if spec.form is not None:
        return spec.form
    for tensor in spec.tensors:
        if tensor.dtype in OTHER_TYPES and tensor.kind != "hidden":
            why = f"tensor {tensor.name} of type {tensor.dtype} has no place in a real vector"
            raise VnnLibUnsupported(why, path=spec.name, line=tensor.line, column=1 if tensor.line else 0)
    expansion = expand(spec)
    for conjunction in (expansion.base, *expansion.alternatives):
        if conjunction.opaque and expansion.alternatives:
            _refuse(spec, conjunction.opaque[0])
    return assemble(spec, _parts(spec, expansion), classify(spec), tuple(expansion.atoms.products))


def classify(spec: Spec) -> str:
    """Return the smallest logic of the standard that holds the query, such as NH-SNET-SIO-SNC-OUTC-FLOAT32."""
    if spec.form is not None:
        return spec.form.logic
    networks, budget = logic.network_numbers(spec), StepLimit(spec.limits.max_work)
    arithmetic, mixed = logic.BND, False
    for relation in logic.comparisons(spec.assertions):
        kind = logic.arithmetic_of(relation, spec, None)
        if kind == logic.LIN and arithmetic < logic.POLY:
            try:
                polynomial = difference(relation, lambda v: spec.columns[v.tensor] + v.element, budget)
            except TooMuchWork:
                kind = logic.POLY
            else:
                kind = logic.arithmetic_of(relation, spec, polynomial)
        arithmetic = max(arithmetic, kind)
        mixed = mixed or logic.mixes_nodes(relation, networks)
    return logic.name_logic(spec, arithmetic, mixed)


def _refuse(spec: Spec, literal: OpaqueLiteral) -> None:
    """Raise for a comparison outside the normal form."""
    line, column = spec.position(literal.relation.at)
    raise VnnLibUnsupported(f"{literal.why} has no linear normal form", path=spec.name, line=line, column=column)


def _case_key(conjunction: Conjunction, base: Conjunction) -> CaseKey:
    """Return what makes the case of a conjunction: its bounds tighter than the base's, and its input rows."""
    diff = []
    for key in conjunction.bounds:
        bound = conjunction.effective(key)
        if bound is not None and (key not in base.bounds or bound[:2] != base.bounds[key][:2]):
            diff.append((key, bound.value, bound.strict))
    seen: dict[int, None] = dict.fromkeys(base.in_rows)
    fresh = dict.fromkeys(r for r in conjunction.in_rows if r not in seen)
    return tuple(sorted(diff)), tuple(sorted(fresh))


def _parts(spec: Spec, expansion: Expansion) -> ClauseParts:
    """Build arrays from the expansion."""
    base, live = expansion.base, expansion.alternatives
    cases: dict[CaseKey, int] = {}
    case_of = np.array([cases.setdefault(_case_key(c, base), len(cases)) for c in live], np.int64)
    check_size(spec, len(cases))
    boxes = _boxes(spec, base, list(cases))
    rows = [base.rows + c.rows for c in live]
    in_rows = [base.in_rows + list(key[1]) for key in cases]
    clause_ptr, clause_rows = csr(rows)
    in_ptr, in_list = csr(in_rows)
    sources = [_lines(spec, c.source or base.source) for c in live]
    source_ptr, source_lines = csr(sources)
    table = row_table(list(expansion.atoms.rows))
    return ClauseParts(*boxes, case_of, clause_ptr, clause_rows, in_ptr, in_list, source_ptr, source_lines, table)


def _lines(spec: Spec, offsets: list[int]) -> list[int]:
    """Return the line numbers of source offsets without repetition, in order."""
    if spec.lines is None or not offsets:
        return []
    return list(dict.fromkeys(spec.lines.lines(offsets).tolist()))


def check_size(spec: Spec, cases: int) -> None:
    """Refuse box arrays beyond the limit."""
    values = cases * spec.size("input")
    if values > spec.limits.max_box_values:
        why = f"{cases} input boxes of {spec.size('input')} inputs (limit {spec.limits.max_box_values} bounds)"
        raise VnnLibUnsupported(why, path=spec.name)


def _boxes(
    spec: Spec, base: Conjunction, keys: list[CaseKey]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return lower, upper and the strict flags of every case."""
    n = spec.size("input")
    edges = [np.full((len(keys), n), -np.inf), np.full((len(keys), n), np.inf)]
    flags = [np.zeros((len(keys), n), bool), np.zeros((len(keys), n), bool)]
    any_strict = any(b.strict for b in base.bounds.values()) or any(s for key in keys for _, _, s in key[0])
    if keys:
        _fill([e[0] for e in edges], [f[0] for f in flags], base.bounds)
        for arrays in (edges, flags):
            for array in arrays:
                array[1:] = array[0]
    for case, (bounds, _) in enumerate(keys):
        _fill([e[case] for e in edges], [f[case] for f in flags], {k: Bound(v, s, "0") for k, v, s in bounds})
    return edges[0], edges[1], flags[0] if any_strict else None, flags[1] if any_strict else None


def _fill(edges: list[np.ndarray], flags: list[np.ndarray], bounds: dict[tuple[int, bool], Bound]) -> None:
    """Enter bounds into the row of one case."""
    for (column, upper), bound in bounds.items():
        edges[upper][column], flags[upper][column] = bound.value, bound.strict
