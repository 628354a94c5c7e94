"""The assembled problem asks the same question as model and specification, at every point of every box."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from onnx import helper

import vnnlib
from tests import models
from tests.unit.search.known import form, net
from verifier.bounds.network import build
from verifier.errors import ProblemError
from verifier.graph.onnx_import import load_model
from verifier.problem.assemble import assemble, check_fit
from verifier.problem.problem import Problem
from vnnlib import Case, Row


def _violated(problem: Problem, p: np.ndarray, q: int) -> bool:
    """By the definition in problem.py, in float64."""
    network = build(problem.graph, torch.float64, torch.device("cpu"))
    z = network.forward(torch.from_numpy(p[None]))[0].numpy()
    rows = problem.rows
    if rows.mixed is not None:
        z = z + rows.mixed @ p
    values = z[rows.row[q]] - rows.rhs[q]
    held = np.where(rows.strict[q], values < 0, values <= 0)
    return any(bool(held[rows.clause[q] == c].all()) for c in range(int(rows.clauses[q])))


def _cases(rng: np.random.Generator, fixed: bool) -> list[Case]:
    """Three cases: clauses of different sizes, mixed rows, input rows and, if `fixed`, an input that never varies."""
    cases = []
    for k in range(3):
        low = rng.normal(size=3).astype(np.float32).astype(np.float64)
        high = low + np.array([0.5, 0.25, 0.0 if fixed else 0.5])
        if fixed:
            low[2] = high[2] = 0.25
        clauses = []
        for c in range(1 + k):
            y = [{j: float(v) for j, v in enumerate(rng.normal(size=3))} for _ in range(1 + (c + k) % 3)]
            clauses.append(
                [
                    Row({0: float(rng.normal()), 2: 6.0 if fixed else 1.0} if n % 2 else {}, row, 1.0, n == 1)
                    for n, row in enumerate(y)
                ]
            )
        cases.append(
            Case(
                low,
                high,
                clauses,
                [Row({1: 1.0, 2: 6.0 if fixed else 0.5}, {}, 1.7 if fixed else 0.4)] if k == 1 else [],
            )
        )
    return cases


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_problem_says_what_the_files_say(seed: int, fixed: bool) -> None:
    network = net(seed)
    model = network.model()
    spec = form(_cases(np.random.default_rng(seed), fixed), 3, 3)
    problem = assemble(model, spec)
    assert problem.lower.shape[1] == (2 if fixed else 3)
    rng = np.random.default_rng(99)
    seen = set()
    for q in range(problem.queries):
        for _ in range(40):
            p = problem.lower[q] + (problem.upper[q] - problem.lower[q]) * rng.random(problem.lower.shape[1])
            x = problem.full(p[None])[0]
            clauses = range(int(spec.case_ptr[q]), int(spec.case_ptr[q + 1]))
            values = np.concatenate([x, network.value(x)])

            def holds(r: int, values: np.ndarray = values) -> bool:
                columns, factors, rhs, strict = spec.row(r)
                value = float(values[columns] @ factors)
                return value < rhs if strict else value <= rhs

            shared = spec.case_in_rows[spec.case_in_ptr[q] : spec.case_in_ptr[q + 1]]
            want = all(map(holds, shared)) and any(all(map(holds, spec.clause(c))) for c in clauses)
            assert _violated(problem, p, q) == want
            seen.add(want)
    assert seen == {True, False}


def test_boxes_cover_the_real_and_the_rounded_bounds() -> None:
    """0.1 and its float32 neighbour both lie in the box; what the file fixes has only that width and is not free."""
    spec = form([Case([0.1, 0.1, -1.0], [0.1, 0.7, 1.0], [[Row({}, {0: 1.0})]])], 3, 3)
    problem = assemble(net(0).model(), spec)
    single = np.float64(np.float32(0.1))
    assert problem.lower[0, 0] == 0.1 and problem.upper[0, 0] == single
    assert problem.lower[0, 1] == 0.1 and problem.upper[0, 1] == 0.7  # the nearest float32 of 0.7 is below it
    assert problem.free.tolist() == [[1, 2]]


def test_equal_rows_are_asked_once() -> None:
    row = Row({}, {0: 1.0, 1: -1.0})
    cases = [Case(np.zeros(3) + k, np.ones(3) + k, [[row, Row({}, {2: 1.0}, float(k))]]) for k in range(4)]
    problem = assemble(net(0).model(), form(cases, 3, 3))
    assert problem.graph.n_outputs == 2 and problem.rows.row.shape == (4, 2)


def test_what_does_not_fit_is_refused() -> None:
    network = net(0)
    row = [[Row({}, {0: 1.0})]]
    with pytest.raises(ProblemError, match="2 input variables, but the network has 3"):
        check_fit(network.model(), form([Case([0.0, 0.0], [1.0, 1.0], row)], 2, 3))
    with pytest.raises(ProblemError, match="4 output variables, but the network has 3"):
        check_fit(network.model(), form([Case(np.zeros(3), np.ones(3), row)], 3, 4))
    with pytest.raises(ProblemError, match="X_1"):
        check_fit(network.model(), form([Case([0.0, -np.inf, 0.0], np.ones(3), row)], 3, 3))


def _declared(inputs: str, output: str = "Y real [1, 3]") -> vnnlib.NormalForm:
    text = "".join(f"(declare-input {one})" for one in inputs.split(";"))
    return vnnlib.normalise(
        vnnlib.loads(f"(vnnlib-version <2.0>)(declare-network f {text}(declare-output {output}))(assert (<= X[0,0] 1))")
    )


def test_declared_tensors_are_the_networks_own() -> None:
    """Five numbers in two inputs are not (2, 3) where the network has (3, 2), an image is not laid out the other way
    round, and the whole numbers of a declaration are no set of reals.
    """
    nodes = [helper.make_node("Concat", ["a", "b"], ["y"], axis=1)]
    two = load_model(models.build(nodes, {"a": (1, 2), "b": (1, 1)}, ["y"]))
    with pytest.raises(ProblemError, match=re.escape("1 + 2 input variables, but the network has 2 + 1 (a [1, 2]")):
        check_fit(two, _declared("X real [1,1];Z real [1,2]"))
    image = load_model(models.build([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 3, 2)}, ["y"]))
    with pytest.raises(ProblemError, match=re.escape("input X [2, 3], but the network has x [1, 3, 2]")):
        check_fit(image, _declared("X real [2,3]", "Y real [6]"))
    with pytest.raises(ProblemError, match="input X of int8, but the network's a is of float32"):
        check_fit(two, _declared("X int8 [1,2];Z real [1,1]"))
    for fits in ("X real [1,2];Z real [1,1]", "X real [1,3]", "X real [2,1];Z real [1]"):
        with pytest.raises(ProblemError, match="no finite"):
            check_fit(two, _declared(fits))


def test_too_many_rows_are_refused_before_they_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verifier.problem.problem.MAX_ROW_ELEMENTS", 5)
    cases = [Case(np.zeros(3), np.ones(3), [[Row({}, {0: 1.0, 1: 2.0})], [Row({}, {2: 1.0, 1: 1.0})]])]
    with pytest.raises(ProblemError, match="split the specification"):
        assemble(net(0).model(), form(cases, 3, 3))


def test_double_precision_models_keep_their_bounds() -> None:
    data = models.build([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, 2)}, ["y"], dtype=np.float64)
    spec = vnnlib.normalise(
        vnnlib.build(
            [Case([0.1, 0.0], [0.1, 1.0], [[Row({}, {0: 1.0})]])], input_shape=[2], output_shape=[2], dtype="float64"
        )
    )
    problem = assemble(load_model(data), spec)
    assert problem.kept.tolist() == [1] and problem.base[0] == 0.1


def test_outputs_that_no_row_speaks_of_are_not_computed() -> None:
    """Two branches, of which the specification reads one and a part of it; the rows stay the same."""
    rng = np.random.default_rng(0)
    node = helper.make_node
    weights = {"a": rng.normal(size=(3, 6)), "b": rng.normal(size=(6, 4)), "c": rng.normal(size=(3, 50))}
    nodes = [
        *(node("MatMul", ["x", "a"], ["a1"]), node("Relu", ["a1"], ["a2"]), node("MatMul", ["a2", "b"], ["a3"])),
        *(node("MatMul", ["x", "c"], ["c1"]), node("Sigmoid", ["c1"], ["c2"])),
        node("Concat", ["c2", "a3"], ["y"], axis=1),
    ]
    model = load_model(models.build(nodes, {"x": (1, 3)}, ["y"], weights))
    spec = form([Case([-1.0] * 3, [1.0] * 3, [[Row({}, {53: 1.0, 51: -2.0}, 0.25)], [Row({}, {51: 1.0})]])], 3, 54)
    problem = assemble(model, spec)
    assert not any(n.op == "Sigmoid" for n in problem.graph.nodes)
    assert max(problem.graph.size(n.output) for n in problem.graph.nodes) <= 6
    stored = {name: array.astype(np.float32).astype(np.float64) for name, array in weights.items()}
    seen = set()
    for p in rng.uniform(-1, 1, (40, 3)):
        y = np.maximum(p @ stored["a"], 0) @ stored["b"]
        want = bool(y[3] - 2 * y[1] <= 0.25 or y[1] <= 0)
        assert _violated(problem, p, 0) == want
        seen.add(want)
    assert seen == {True, False}
