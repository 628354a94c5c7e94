"""From the file's rows to the bounded graph: exact right-hand sides, safe names, and a check by ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import vnnlib
from tests.models import build
from verifier.api import verify
from verifier.errors import UnsoundError
from verifier.graph.check import check_graph
from verifier.graph.ir import Graph, Node
from verifier.graph.onnx_import import Model, load_model
from verifier.problem.assemble import assemble
from verifier.problem.problem import append_rows, remaining
from verifier.problem.runtime import compare_problem
from verifier.result import Verdict

NUMBERS = st.floats(-1e20, 1e20)


@given(NUMBERS, st.lists(st.tuples(NUMBERS, NUMBERS), max_size=4))
def test_a_right_hand_side_is_exact_or_rounded_up(rhs: float, terms: list[tuple[float, float]]) -> None:
    exact = Fraction(rhs) - sum(Fraction(a) * Fraction(b) for a, b in terms)
    found = remaining(rhs, terms)
    assert Fraction(found) >= exact and (
        Fraction(found) == exact or Fraction(float(np.nextafter(found, -np.inf))) < exact
    )


def test_the_fixed_part_of_a_row_does_not_cancel_away() -> None:
    """1e17 X_1 - X_2 + Y_0 - 1e17 X_3 <= 0 at X_1 = X_2 = X_3 = 1 says Y_0 <= 1."""
    model = network(["x", "r", "y"], size=4)
    text = "".join(f"(declare-const X_{i} Real)" for i in range(4)) + "(declare-const Y_0 Real)"
    text += "(assert (>= X_0 0.5))(assert (<= X_0 2))"
    text += "".join(f"(assert (= X_{i} 1))" for i in (1, 2, 3)).replace("(= ", "(>= ")
    text += "".join(f"(assert (<= X_{i} 1))" for i in (1, 2, 3))
    text += "(assert (<= (- (+ (- (* 1e17 X_1) X_2) Y_0) (* 1e17 X_3)) 0.0))"
    assert verify(model, vnnlib.loads(text), timeout=20).verdict is Verdict.SAT


def network(names: list[str], size: int = 1) -> Model:
    """y = relu(x)[0], the three tensors called as given."""
    given, middle, end = names
    weights = {"w of a name nobody takes": np.eye(size, 1)}
    nodes = [
        helper.make_node("Relu", [given], [middle]),
        helper.make_node("MatMul", [middle, "w of a name nobody takes"], [end]),
    ]
    return load_model(build(nodes, {given: (1, size)}, [end], weights))


@pytest.mark.parametrize(
    "names",
    [
        ["z", "y", "x"],
        ["z/taken", "z", "x~0"],
        ["x", "z", "z/taken"],
        ["x", "all of y~0", "y"],
        ["~", "x~0", "z"],
        ["y", "x", "z"],
    ],
)
@pytest.mark.parametrize(("bound", "expected"), [(0.9, Verdict.SAT), (1.1, Verdict.UNSAT)])
def test_any_name_is_safe(names: list[str], bound: float, expected: Verdict) -> None:
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 -1))(assert (<= X_0 1))"
    assert verify(network(names), vnnlib.loads(f"{text}(assert (>= Y_0 {bound}))"), timeout=20).verdict is expected


@pytest.mark.parametrize("matrix", [np.array([[1.0, 0.0], [0.0, -2.0]]), np.array([[1.0, 1.0]])])
def test_rows_are_appended_under_new_names(matrix: np.ndarray) -> None:
    nodes = (Node("Relu", ("z",), "z/taken"), Node("Relu", ("z/taken",), "z~1"))
    after = append_rows(Graph(("z",), ("z~1",), nodes, dict.fromkeys(("z", "z/taken", "z~1"), (2,))), matrix)
    check_graph(after)
    assert after.inputs == ("z",) and after.outputs[0] not in ("z", "z/taken", "z~1")


def test_the_graph_that_is_bounded_is_compared() -> None:
    model = network(["x", "r", "y"])
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0.5))(assert (<= X_0 1))(assert (>= Y_0 3))"
    problem = assemble(model, vnnlib.normalise(vnnlib.loads(text)))
    points = np.array([[0.5], [0.75]])
    assert compare_problem(model, problem, points) < 1e-6
    last = problem.graph.nodes[-1]
    wrong = Node("Scale", last.inputs, last.output, {"factor": np.array(1.01)}, {}, last.source)
    shapes = dict(problem.graph.shapes)
    shapes[last.output] = shapes[last.inputs[0]]
    broken = replace(
        problem, graph=Graph(problem.graph.inputs, problem.graph.outputs, (*problem.graph.nodes[:-1], wrong), shapes)
    )
    with pytest.raises(UnsoundError, match="the simplified network differs"):
        compare_problem(model, broken, points)


@pytest.mark.parametrize("width", ["none", "ulp"])
def test_boxes_that_cannot_be_split_end_in_a_verdict(width: str) -> None:
    """Everything fixed, and the assertion exactly at the value."""
    high = 0.5 if width == "none" else float(np.nextafter(0.5, 1))
    text = f"(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0.5))(assert (<= X_0 {high!r}))"
    result = verify(network(["x", "r", "y"]), vnnlib.loads(text + "(assert (> Y_0 0.5))"), timeout=20)
    assert result.verdict in (Verdict.UNSAT, Verdict.UNKNOWN)
