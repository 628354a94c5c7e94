"""Linear programs by HiGHS against SciPy's wrapper, duality and Farkas' lemma."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from verifier.search.linear_program import minimise


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), m=st.integers(1, 8))
def test_optima_and_multipliers(seed: int, n: int, m: int) -> None:
    """The optimum is SciPy's, and the multipliers prove it; of an infeasible program they prove that."""
    rng = np.random.default_rng(seed)
    cost, rows, right = rng.normal(size=n), rng.normal(size=(m, n)), rng.normal(size=m)
    lower, upper = -np.ones(n), np.ones(n)
    expected = linprog(cost, rows, right, bounds=list(zip(lower, upper, strict=True)))
    solved = minimise(cost, rows, right, lower, upper)
    assert solved is not None and (solved.dual >= 0).all()
    if expected.status == 2:
        assert solved.x is None
        combined = solved.dual @ rows
        assert np.minimum(combined * lower, combined * upper).sum() > solved.dual @ right
    else:
        assert expected.status == 0 and solved.x is not None
        assert cost @ solved.x == pytest.approx(expected.fun, abs=1e-7)
        assert (rows @ solved.x <= right + 1e-6).all()
        reduced = cost + solved.dual @ rows
        bound = np.minimum(reduced * lower, reduced * upper).sum() - solved.dual @ right
        assert bound == pytest.approx(expected.fun, abs=1e-6)


def test_a_free_variable() -> None:
    solved = minimise(np.array([1.0]), np.array([[-1.0]]), np.array([3.0]), np.array([-np.inf]), np.array([np.inf]))
    assert solved is not None and solved.x is not None and solved.x[0] == pytest.approx(-3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", range(3))
def test_numbers_that_are_none_have_no_solution(value: float, where: int) -> None:
    parts = [np.ones(2), np.ones((1, 2)), np.ones(1)]
    parts[where].flat[0] = value
    assert minimise(*parts, -np.ones(2), np.ones(2)) is None


def test_unbounded_and_empty() -> None:
    free = np.array([-np.inf]), np.array([np.inf])
    assert minimise(np.ones(1), np.ones((1, 1)), np.ones(1), *free) is None
    solved = minimise(np.ones(2), np.zeros((0, 2)), np.zeros(0), -np.ones(2), np.ones(2))
    assert solved is not None and solved.x is not None and solved.x.tolist() == [-1, -1]


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """The first line on stdout is the verdict."""
    assert minimise(np.ones(1), np.ones((1, 1)), np.ones(1), -np.ones(1), np.ones(1)) is not None
    assert capfd.readouterr() == ("", "")
