"""The normal form means what the text says: compared with a direct evaluation of the text at many points."""

from __future__ import annotations

import itertools
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import vnnlib
from vnnlib import reading

N, M = 2, 2
HEAD = "".join(f"(declare-const {k}_{i} Real)" for k, n in (("X", N), ("Y", M)) for i in range(n))
GRID = [Fraction(v) for v in ("-1", "0", "1/2", "1")]


def read(text: str) -> list[Any]:
    """Read S-expressions in the plainest way; shares nothing with the package."""
    tokens = text.replace("(", " ( ").replace(")", " ) ").split()
    stack: list[list[Any]] = [[]]
    for token in tokens:
        if token == "(":
            stack.append([])
        elif token == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(token)
    return stack[0]


def value(tree: Any, point: dict[str, Fraction]) -> Any:
    if isinstance(tree, str):
        return point[tree] if tree in point else Fraction(tree)
    op, *rest = tree
    a = [value(part, point) for part in rest]
    table = {
        "and": lambda: all(a), "or": lambda: any(a), "+": lambda: sum(a),
        "-": lambda: a[0] - sum(a[1:]) if a[1:] else -a[0],
        "*": lambda: np.prod(a), "<=": lambda: a[0] <= a[1], ">=": lambda: a[0] >= a[1], "<": lambda: a[0] < a[1],
        ">": lambda: a[0] > a[1], "=": lambda: a[0] == a[1], "!=": lambda: a[0] != a[1],
    }  # fmt: skip
    return table[op]()


numbers = st.sampled_from(["-1", "0", "0.5", "1.0", "-0.5", "2e0"])
variables = st.sampled_from(["X_0", "X_1", "Y_0", "Y_1"])
linear = st.recursive(
    numbers | variables,
    lambda inner: (
        st.builds(lambda op, a, b: f"({op} {a} {b})", st.sampled_from("+-"), inner, inner)
        | st.builds(lambda c, a: f"(* {c} {a})", numbers, inner)
        | st.builds(lambda a: f"(- {a})", inner)
    ),
    max_leaves=4,
)
comparisons = st.builds(
    lambda op, a, b: f"({op} {a} {b})", st.sampled_from(["<=", ">=", "<", ">", "=", "!="]), variables | linear, linear
)
formulas = st.recursive(
    comparisons,
    lambda inner: st.builds(
        lambda op, parts: f"({op} {' '.join(parts)})",
        st.sampled_from(["and", "or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(formulas, min_size=1, max_size=3))
def test_normal_form_agrees_with_the_text_on_a_grid(assertions: list[str]) -> None:
    text = HEAD + "".join(f"(assert {a})" for a in assertions)
    spec = vnnlib.loads(text)
    form = vnnlib.normalise(spec)
    trees = [read(a)[0] for a in assertions]
    rng = np.random.default_rng(len(text))
    points = list(itertools.product(GRID, repeat=N + M))
    for k in rng.choice(len(points), 40, replace=False):
        point = points[k]
        names = dict(zip(["X_0", "X_1", "Y_0", "Y_1"], point, strict=True))
        want = all(value(tree, names) for tree in trees)
        v = np.array([float(c) for c in point])
        assert form.holds(v[:N], v[N:]) == want
        assert spec.evaluate({"X": v[:N], "Y": v[N:]}) == want


@settings(max_examples=100, deadline=None)
@given(st.lists(formulas, min_size=1, max_size=3))
def test_writers_keep_the_normal_form(assertions: list[str]) -> None:
    spec = vnnlib.loads(HEAD + "".join(f"(assert {a})" for a in assertions))
    form = vnnlib.normalise(spec)
    one = vnnlib.normalise(vnnlib.loads(vnnlib.dumps(spec, compatible=False)))
    assert one.same_as(form, sources=False, logic=False)
    text = vnnlib.dumps(spec, version="2.0", input_shape=[1, 2], output_shape=[2, 1], dtype="float32")
    two = vnnlib.loads(text, strict=True)
    assert two.tensors[0].shape == (1, 2) and two.tensors[1].dtype == "float32"
    again = vnnlib.normalise(two)
    for name in (
        "lower",
        "upper",
        "row_ptr",
        "row_col",
        "row_val",
        "row_rhs",
        "row_strict",
        "clause_ptr",
        "clause_rows",
    ):
        assert np.array_equal(getattr(again, name), getattr(form, name))
    assert vnnlib.normalise(vnnlib.loads(vnnlib.dumps(two))).same_as(again, sources=False, logic=False)


def test_evaluate_handles_nonlinear_trees() -> None:
    spec = vnnlib.loads(HEAD + "(assert (<= (* X_0 Y_0) (- (* X_1 X_1) 0.25)))")
    assert spec.evaluate({"X": [1, 0.5], "Y": [0.0, 9]}) and not spec.evaluate({"X": [1, 0.5], "Y": [0.125, 9]})


def test_clause_sources_name_the_lines_of_the_disjuncts() -> None:
    text = (
        HEAD
        + "\n(assert (or\n (and (<= Y_0 0))\n (and (<= Y_1 0))))\n(assert (or (and (<= X_0 0))\n (and (>= X_0 0))))"
    )
    form = vnnlib.normalise(vnnlib.loads(text))
    assert [form.clause_source[k] for k in range(4)] == [(3, 5), (4, 5), (3, 6), (4, 6)]
    plain = vnnlib.normalise(vnnlib.loads(HEAD + "\n(assert (<= X_0 1))\n(assert (<= Y_0 1))"))
    assert plain.clause_source[0] == (3,)


def test_ties_between_strict_bounds_are_decided_exactly() -> None:
    close = "0.1000000000000000000000000001"
    head = "(declare-const X_0 Real)"
    apart = vnnlib.loads(head + f"(assert (> X_0 0.1))(assert (< X_0 {close}))")
    assert vnnlib.normalise(apart).n_cases == 1
    empty = vnnlib.loads(head + f"(assert (> X_0 {close}))(assert (<= X_0 0.1))")
    assert vnnlib.normalise(empty).n_cases == 0


def test_general_path_is_private_but_reachable() -> None:
    data = bytearray((HEAD + "(assert (<= Y_0 1))").encode())
    assert reading._parse(data, "x", True, vnnlib.Limits(), general=True).form is None
    assert vnnlib.loads(bytes(data)).form is not None


def test_limits_that_are_divided_out_keep_every_real() -> None:
    """1/k for all small k: the box holds it, the row says exactly what the text says, and a float64 limit is exact."""
    for k in range(1, 60):
        for op, end in ((">=", "lower"), ("<=", "upper")):
            form = vnnlib.normalise(vnnlib.loads(f"(declare-const X_0 Real)(assert ({op} (* {k} X_0) 1))"))
            limit, found = Fraction(1, k), Fraction(float(getattr(form, end)[0, 0]))
            exact = Fraction(float(limit)) == limit
            assert (found <= limit) if end == "lower" else (found >= limit)
            assert abs(found - limit) <= Fraction(float(np.spacing(1 / k)))
            assert (found == limit) == exact and form.n_rows == (0 if exact else 1)
            for x in (np.nextafter(1 / k, 0), 1 / k, np.nextafter(1 / k, 1)):
                want = Fraction(float(x)) >= limit if end == "lower" else Fraction(float(x)) <= limit
                assert form.holds(np.array([x]), np.zeros(0)) == want
