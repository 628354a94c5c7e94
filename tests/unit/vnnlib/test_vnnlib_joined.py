"""Forms of several specifications joined to one: sat exactly where one of them is."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import vnnlib
from vnnlib import Case, NormalForm, Row


def _form(rng: np.random.Generator) -> NormalForm:
    cases = []
    for _ in range(int(rng.integers(1, 3))):
        low = rng.normal(size=2).round(2)
        clauses = [
            [
                Row({}, {int(rng.integers(2)): 1.0}, round(float(rng.normal()), 2), strict=bool(rng.integers(2)))
                for _ in range(int(rng.integers(1, 3)))
            ]
            for _ in range(int(rng.integers(1, 3)))
        ]
        x = [Row({0: 1.0, 1: -1.0}, {}, round(float(rng.normal()), 2))] if rng.integers(2) else []
        cases.append(Case(low, low + rng.random(2).round(2), clauses, x))
    return vnnlib.normalise(vnnlib.build(cases, input_shape=[2], output_shape=[2]))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 4))
def test_a_joined_form_holds_where_one_of_its_parts_does(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    forms = [_form(rng) for _ in range(count)]
    one = vnnlib.joined(forms)
    assert one.n_cases == sum(f.n_cases for f in forms) and one.n_clauses == sum(f.n_clauses for f in forms)
    assert len(one.clause_source) == one.n_clauses
    for _ in range(60):
        f = forms[int(rng.integers(count))]
        q = int(rng.integers(f.n_cases))
        x = f.lower[q] + (f.upper[q] - f.lower[q]) * rng.integers(0, 3, 2) / 2
        y = rng.normal(size=2).round(1)
        assert one.holds(x, y) == any(g.holds(x, y) for g in forms)
