"""Bounds of inputs that only rows over the inputs give: one network's inputs coupled to those of another."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from fractions import Fraction

import numpy as np

from vnnlib.form import NormalForm

MOST_WORK = 20_000_000


def with_implied_bounds(form: NormalForm) -> NormalForm:
    """The same query, whose infinite bounds are what the rows of their case imply, rounded outwards; finite ones stay.

    Row `sum a_k x_k <= rhs` bounds x_j by the least values of its other terms, once these are finite, so coupled inputs
    are bounded one after the other; one that would leave nothing stays infinite. Ends after `MOST_WORK` products of a
    row's terms; what is not bounded by then stays so.
    """
    if not form.unbounded or not len(form.case_in_rows):
        return form
    lower, upper, work = form.lower.copy(), form.upper.copy(), MOST_WORK
    for case in np.flatnonzero(np.isinf(lower).any(1) | np.isinf(upper).any(1)):
        own = form.case_in_rows[form.case_in_ptr[case] : form.case_in_ptr[case + 1]].tolist()
        users: dict[int, list[int]] = {}
        for row in own:
            for column in form.row(row)[0].tolist():
                users.setdefault(column, []).append(row)
        todo, waiting = deque(own), set(own)
        while todo and work > 0:
            row = todo.popleft()
            waiting.discard(row)
            columns, values, rhs, _ = form.row(row)
            work -= len(columns) ** 2
            for column in _bounded(lower[case], upper[case], columns, values, rhs):
                again = [r for r in users[column] if r not in waiting]
                todo.extend(again)
                waiting.update(again)
    open_ = np.isinf(lower).any(axis=0) | np.isinf(upper).any(axis=0)
    return replace(form, lower=lower, upper=upper, unbounded=tuple(np.flatnonzero(open_).tolist()))


def _bounded(lower: np.ndarray, upper: np.ndarray, columns: np.ndarray, values: np.ndarray, rhs: float) -> list[int]:
    """Bound what one row can bound; the columns that changed."""
    least = np.where(values > 0, lower[columns], upper[columns])  # where the term is least
    loose = np.flatnonzero(np.isinf(least))
    if len(loose) > 1:
        return []
    changed = []
    for k in range(len(columns)) if len(loose) == 0 else loose.tolist():
        ends, up = (upper, True) if values[k] > 0 else (lower, False)
        column = int(columns[k])
        if not math.isinf(ends[column]):
            continue
        others = (i for i in range(len(columns)) if i != k)
        rest = sum((Fraction(float(values[i])) * Fraction(float(least[i])) for i in others), Fraction(0))
        limit = (Fraction(rhs) - rest) / Fraction(float(values[k]))
        try:
            end = float(limit)
        except OverflowError:
            continue
        if (Fraction(end) < limit) == up and Fraction(end) != limit:
            end = math.nextafter(end, math.inf if up else -math.inf)
        other = float(lower[column] if up else upper[column])
        if not math.isinf(end) and ((end >= other) if up else (end <= other)):  # the box of a case is never empty
            ends[column] = end
            changed.append(column)
    return changed
