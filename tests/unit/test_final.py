"""Softmax and ArgMax at the end: the rows over the logits say the same, at every point."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from tests.models import build
from verifier.errors import ProblemError
from verifier.graph.onnx_import import Final, load_model
from verifier.problem.final import through_argmax, through_softmax
from verifier.problem.problem import Condition

Clauses = list[list[list[int]]]


def _holds(condition: Condition, y: np.ndarray) -> bool:
    value = sum(v * y[j] for j, v in condition.y)
    return bool(value < condition.rhs) if condition.strict else bool(value <= condition.rhs)


def _violated(conditions: list[Condition], clauses: list[list[int]], y: np.ndarray) -> bool:
    return any(all(_holds(conditions[k], y) for k in clause) for clause in clauses)


def _row(terms: dict[int, float], rhs: float, strict: bool = False) -> Condition:
    return Condition(tuple(terms.items()), (), rhs, strict)


ROWS = [
    *(_row({0: 1.0}, 0.0), _row({0: 1.0}, 1.5), _row({0: -1.0}, -2.0), _row({0: -2.0}, -3.0, True)),
    *(_row({0: 1.0}, 1.0, True), _row({0: 1.0}, -1.0), _row({0: 0.5}, 99.0)),
]


@pytest.mark.parametrize("clause", [[[0]], [[1, 2]], [[1], [2]], [[3, 1], [4]], [[5]], [[6]], [[0, 2]], []])
@pytest.mark.parametrize("last", [False, True])
def test_an_index_is_asked_of_the_logits(clause: list[list[int]], last: bool) -> None:
    """Every index of 4 classes: whatever the index violates, the logits violate too; without ties, exactly."""
    final = Final("argmax", 1, 4, 1, last)
    logits_rows, per_query = through_argmax(ROWS, [clause], final)
    for logits in itertools.product((0.0, 1.0, 2.0), repeat=4):
        z = np.array(logits)
        index = int(3 - z[::-1].argmax()) if last else int(z.argmax())
        want = _violated(ROWS, clause, np.array([float(index)]))
        got = _violated(logits_rows, per_query[0], z)
        assert got or not want
        if (z == z.max()).sum() == 1:
            assert got == want


def test_indices_that_cannot_be_asked_are_refused() -> None:
    with pytest.raises(ProblemError, match="several groups"):
        through_argmax(ROWS, [[[0]]], Final("argmax", 2, 4, 1))


@pytest.mark.parametrize("clause", [[[0, 3]], [[1, 3]], [[2], [3]], [[0, 1, 2, 3]], [[4], [5, 0]]])
def test_rows_over_inputs_and_index_become_rows_over_inputs(clause: list[list[int]]) -> None:
    """Every winner of 4 classes, inputs on a grid through the rows' boundaries: the same answer, exactly."""
    rows = [
        Condition((), ((0, 1.0),), 0.5, False),
        Condition(((0, 1.0),), ((0, -1.0), (1, 0.5)), 2.0, True),
        Condition(((0, -0.5),), ((1, 1.0),), -0.5, False),
        Condition(((0, 1.0),), (), 2.0, False),
        Condition((), ((0, 1.0), (1, 1.0)), 0.0, True),
        Condition(((0, 3.0),), ((1, -2.0),), 4.0, False),
    ]
    asked, per_query = through_argmax(rows, [clause], Final("argmax", 1, 4, 1))
    assert all(not c.x or not c.y for c in asked)
    for index in range(4):
        z = np.eye(4)[index]
        for x in itertools.product(np.arange(-2, 2.5, 0.5), repeat=2):
            want = any(all(_true(rows[k], np.array(x), np.array([index])) for k in one) for one in clause)
            got = any(all(_true(asked[k], np.array(x), z) for k in one) for one in per_query[0])
            assert got == want, (index, x)


def _true(condition: Condition, x: np.ndarray, y: np.ndarray) -> bool:
    value = sum(v * y[j] for j, v in condition.y) + sum(v * x[i] for i, v in condition.x)
    return bool(value < condition.rhs) if condition.strict else bool(value <= condition.rhs)


@given(rhs=st.floats(-1e3, 1e3), factor=st.floats(-1e3, 1e3), classes=st.integers(2, 9))
def test_putting_the_index_in_never_makes_a_row_stronger(rhs: float, factor: float, classes: int) -> None:
    """x_0 + factor * index <= rhs: the new right-hand side is the least float64 that is not below the exact one."""
    row = Condition(((0, factor),), ((0, 1.0),), rhs, False)
    asked, per_query = through_argmax([row], [[[0]]], Final("argmax", 1, classes, 1))
    for index, one in enumerate(per_query[0]):
        got = next(asked[k].rhs for k in one if asked[k].x)
        exact = Fraction(rhs) - Fraction(factor) * index
        assert Fraction(got) >= exact > Fraction(math.nextafter(got, -math.inf))


def test_comparisons_of_probabilities_are_comparisons_of_logits() -> None:
    """Two groups of three (axis in the middle): only pairs of a group, with opposite coefficients and no constant."""
    final = Final("softmax", 1, 3, 2)
    rng = np.random.default_rng(0)
    for i, j in itertools.permutations(range(6), 2):
        for factor, other, rhs in ((1.0, -1.0, 0.0), (-2.0, 2.0, 0.0), (1.0, -0.5, 0.0), (1.0, -1.0, 0.25)):
            row = _row({i: factor, j: other}, rhs, bool(rng.random() < 0.5))
            allowed = i % 2 == j % 2 and other == -factor and rhs == 0.0
            assert through_softmax([row], final) is allowed
            if allowed:
                for _ in range(20):
                    z = rng.normal(size=(3, 2))
                    p = np.exp(z) / np.exp(z).sum(0)
                    assert _holds(row, z.ravel()) == _holds(row, p.ravel())


def test_one_row_that_needs_probabilities_keeps_them_all() -> None:
    final = Final("softmax", 1, 3, 1)
    good, alone, inputs = _row({0: 1.0, 1: -1.0}, 0.0), _row({0: 1.0}, 0.5), Condition((), ((0, 1.0),), 0.5, False)
    assert through_softmax([good, inputs], final)
    assert not through_softmax([good, alone], final)
    assert not through_softmax([Condition(good.y, ((0, 1.0),), 0.0, False)], final)


def test_the_mask_of_a_dropout_keeps_no_order() -> None:
    nodes = [helper.make_node("Softmax", ["x"], ["p"]), helper.make_node("Dropout", ["p"], ["kept", "mask"])]
    assert load_model(build(nodes, {"x": (1, 3)}, ["kept"], opset=9)).final is not None
    assert load_model(build(nodes, {"x": (1, 3)}, ["mask"], opset=9)).final is None
