"""Specifications about several networks, about equal inputs and about products: held against exact extremes."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from scipy.optimize import linprog

import vnnlib
from tests import models, oracles
from verifier import verify
from verifier.api import in_order
from verifier.errors import ProblemError, ProofError
from verifier.graph.onnx_import import load_model
from verifier.passes.flatten_io import flatten_io
from verifier.passes.simplify import simplify
from verifier.result import Verdict

MARGIN = 1e-2
SIZES = (3, 5, 4, 2)


def _weights(rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    pairs = itertools.pairwise(SIZES)
    return [
        (rng.normal(size=(k, n)).astype(np.float32), rng.normal(size=k).astype(np.float32) * np.float32(0.3))
        for n, k in pairs
    ]


def _layers(weights, prefix: str, source: str):
    """Nodes and constants of a ReLU network; its output is called `prefix`y."""
    nodes, constants, value = [], {}, source
    for layer, (w, b) in enumerate(weights):
        out = f"{prefix}y" if layer == len(weights) - 1 else f"{prefix}z{layer}"
        constants |= {f"{prefix}W{layer}": w, f"{prefix}b{layer}": b}
        nodes.append(helper.make_node("Gemm", [value, f"{prefix}W{layer}", f"{prefix}b{layer}"], [out], transB=1))
        if layer < len(weights) - 1:
            nodes.append(helper.make_node("Relu", [out], [f"{prefix}a{layer}"]))
            value = f"{prefix}a{layer}"
    return nodes, constants


def _file(path: Path, weights) -> Path:
    nodes, constants = _layers(weights, "", "x")
    path.write_bytes(models.build(nodes, {"x": (1, SIZES[0])}, ["y"], constants))
    return path


def _largest_gap(f, g, output: int, lower: np.ndarray, upper: np.ndarray, shared: bool) -> float:
    """The exact maximum of g_output - f_output, both at one point x, or (not `shared`) with a first coordinate each."""
    n = SIZES[0]
    nodes = []
    source = "x"
    if not shared:  # x is (f's, the last is g's first)
        nodes = [
            helper.make_node("Gather", ["x", "of_f"], ["xf"], axis=1),
            helper.make_node("Gather", ["x", "of_g"], ["xg"], axis=1),
        ]
    parts = [_layers(w, p, source if shared else f"x{p}") for p, w in (("f", f), ("g", g))]
    nodes += [node for own, _ in parts for node in own] + [helper.make_node("Sub", ["gy", "fy"], ["y"])]
    constants = parts[0][1] | parts[1][1]
    if not shared:
        constants |= {"of_f": np.arange(n), "of_g": np.array([n, *range(1, n)])}
    graph = load_model(models.build(nodes, {"x": (1, n if shared else n + 1)}, ["y"], constants)).graph
    row = np.zeros((1, SIZES[-1]))
    row[0, output] = -1
    return -float(oracles.minimise(simplify(flatten_io(graph)), lower, upper, row, exact=True)[0])


HEAD = """(vnnlib-version <2.0>)
(declare-network f (declare-input X float32 [1,3]) (declare-output Y float32 [1,2]))
(declare-network g ({} f) (declare-input V float32 [1,3]) (declare-output W float32 [1,2]))
"""


def _spec(path: Path, relation: str, assertions: list[str]) -> Path:
    path.write_text(HEAD.format(relation) + "\n".join(f"(assert {a})" for a in assertions) + "\n")
    return path


def _box(lower: np.ndarray, upper: np.ndarray) -> list[str]:
    return [f"(and (>= X[0,{i}] {lower[i]}) (<= X[0,{i}] {upper[i]}))" for i in range(len(lower))]


def _check_witness(result, spec: Path, f: Path, g: Path) -> None:
    """The witness fulfils the specification with what ONNX Runtime computes of each file by itself."""
    x = result.witness.x.reshape(2, 1, 3).astype(np.float32)
    y, w = (models.run_onnx(path.read_bytes(), {"x": at})[0] for path, at in ((f, x[0]), (g, x[1])))
    assert vnnlib.load(spec).evaluate({"X": x[0], "V": x[1], "Y": y, "W": w})


@pytest.mark.parametrize("seed", [0, 2])
def test_two_networks_at_one_point(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    f = _weights(rng)
    g = [(w * (1 + 0.05 * rng.normal(size=w.shape).astype(np.float32)), b) for w, b in f]
    files = _file(tmp_path / "f.onnx", f), _file(tmp_path / "g.onnx", g)
    lower, upper = np.full(3, -0.3), np.full(3, 0.1)
    exact = [_largest_gap(f, g, j, lower, upper, True) for j in range(2)]
    networks = [("g", files[1]), ("f", files[0])]  # in any order: the names say which is which
    equal = [f"(== X[0,{i}] V[0,{i}])" for i in range(3)]
    for sign, verdict in ((1, Verdict.UNSAT), (-1, Verdict.SAT)):
        gaps = [f"(>= W[0,{j}] (+ Y[0,{j}] {gap + sign * MARGIN:.12f}))" for j, gap in enumerate(exact)]
        spec = _spec(tmp_path / "s.vnnlib", "isomorphic-to", [*_box(lower, upper), *equal, f"(or {' '.join(gaps)})"])
        result = verify(networks, spec, timeout=600)
        assert result.verdict is verdict, (result, exact)
        if result.witness is not None:
            assert (result.witness.x[:3] == result.witness.x[3:]).all()
            _check_witness(result, spec, *files)


@pytest.mark.parametrize("seed", [0])
def test_one_network_at_two_points(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(10 + seed)
    f = _weights(rng)
    file = _file(tmp_path / "f.onnx", f)
    lower, upper = np.full(4, -0.5), np.array([-0.25, 0.0, -0.25, -0.125])
    exact = _largest_gap(f, f, 1, lower, upper, False)
    coupled = ["(== X[0,1] V[0,1])", "(== V[0,2] X[0,2])", "(and (>= V[0,0] -0.5) (<= V[0,0] -0.125))"]
    for sign, verdict in ((1, Verdict.UNSAT), (-1, Verdict.SAT)):
        gap = f"(>= W[0,1] (+ Y[0,1] {exact + sign * MARGIN:.12f}))"
        spec = _spec(tmp_path / "s.vnnlib", "equal-to", [*_box(lower[:3], upper[:3]), *coupled, gap])
        for networks in (file, [("f", file)], [("f", file), ("g", file)]):
            result = verify(networks, spec, timeout=600)
            assert result.verdict is verdict, (result, exact)
            if result.witness is not None:
                _check_witness(result, spec, file, file)


def test_a_monotone_network_is_monotone(tmp_path: Path) -> None:
    """V_0 has no bound from above but X_0's."""
    weights = [(np.abs(w), b) for w, b in _weights(np.random.default_rng(5))]
    file = _file(tmp_path / "f.onnx", weights)
    coupled = ["(and (>= X[0,0] V[0,0]) (>= V[0,0] -0.1))", "(== X[0,1] V[0,1])", "(== X[0,2] V[0,2])"]
    box = _box(np.full(3, -0.1), np.full(3, 0.1))
    spec = _spec(tmp_path / "s.vnnlib", "equal-to", [*box, *coupled, "(< Y[0,1] (- W[0,1] 0.5))"])
    assert verify(file, spec, timeout=600).verdict is Verdict.UNSAT
    spec = _spec(tmp_path / "s.vnnlib", "equal-to", [*box, *coupled, "(> Y[0,1] (+ W[0,1] 0.001))"])
    result = verify(file, spec, timeout=600)
    assert result.verdict is Verdict.SAT
    _check_witness(result, spec, file, file)


def test_equal_inputs_of_one_network(tmp_path: Path) -> None:
    """y = x_0 - x_1 is 0 where the two are equal; the bounds of both hold."""
    file = tmp_path / "d.onnx"
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    file.write_bytes(models.build(nodes, {"x": (1, 3)}, ["y"], {"w": np.array([[1.0, 1.0], [-1.0, 1.0], [0.0, 0.0]])}))
    head = "".join(f"(declare-const X_{i} Real)\n" for i in range(3)) + "".join(
        f"(declare-const Y_{i} Real)\n" for i in range(2)
    )
    tie = "(assert (<= X_0 X_1))(assert (>= X_0 X_1))(assert (>= X_2 0))(assert (<= X_2 1))"

    def ask(*more: str) -> Verdict:
        spec = tmp_path / "s.vnnlib"
        spec.write_text(head + tie + "".join(f"(assert {one})" for one in more))
        return verify(file, spec, timeout=600).verdict

    box = "(>= X_0 0)", "(<= X_0 2)", "(>= X_1 1)", "(<= X_1 3)"
    assert ask(*box, "(>= Y_0 1e-9)") is Verdict.UNSAT
    assert ask(*box, "(>= Y_0 0)") is Verdict.SAT
    assert ask(*box, "(<= Y_1 1.999)") is Verdict.UNSAT  # both are at least 1
    assert ask(*box, "(>= Y_1 4.001)") is Verdict.UNSAT  # and at most 2
    assert ask(*box, "(>= Y_1 3.999)") is Verdict.SAT
    assert ask(*box, "(<= (+ X_0 (* 2 X_1)) 2.999)", "(>= Y_1 0)") is Verdict.UNSAT  # 3 x_0 >= 3
    assert ask("(>= X_0 0)", "(<= X_0 1)", "(>= X_1 2)", "(<= X_1 3)", "(>= Y_1 0)") is Verdict.UNSAT  # no point
    ask(*box, "(>= Y_0 1)")
    with pytest.raises(ProofError, match="equal"):
        verify(file, tmp_path / "s.vnnlib", proof=tmp_path / "p")


def test_which_network_is_which(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    one, two = _file(tmp_path / "1.onnx", _weights(rng)), _file(tmp_path / "2.onnx", _weights(rng))
    box = [*_box(np.zeros(3), np.ones(3)), *(f"(== X[0,{i}] V[0,{i}])" for i in range(3)), "(>= Y[0,0] W[0,0])"]
    same = vnnlib.load(_spec(tmp_path / "same.vnnlib", "equal-to", box))
    other = vnnlib.load(_spec(tmp_path / "other.vnnlib", "isomorphic-to", box))
    assert in_order([("g", one), ("f", one)], same) == (("f", one), ("g", one))
    assert in_order([("f", one)], same) == (("f", one), ("g", one)) == in_order([("", one)], same)
    for networks, spec, message in (
        ([("f", one), ("g", two)], same, "equal-to f, but found .* differ"),
        ([("f", one)], other, "declares the networks f, g, but found f"),
        ([("f", one), ("h", two)], other, "but found f, h"),
        ([("f", one), ("g", two), ("h", two)], other, "but found f, g, h"),
    ):
        with pytest.raises(ProblemError, match=message):
            in_order(networks, spec)
    with pytest.raises(ProblemError, match="2 networks \\(f, g\\), but 1 was given"):
        verify(load_model(one), other)
    with pytest.raises(ProofError, match="about files"):
        verify([("f", one)], _spec(tmp_path / "p.vnnlib", "equal-to", box), proof=tmp_path / "proof")


@pytest.mark.parametrize("seed", range(20))
def test_bounds_that_rows_imply(seed: int) -> None:
    """Each input after two lies between combinations of those before it; the rows stand in any order. The bounds are
    finite, and never tighter than those of the linear program."""
    rng = np.random.default_rng(seed)
    n = 6
    sides: list[tuple[float | None, float | None]] = [(-1.0, 0.5), (0.1, 0.3)] + [(None, None)] * (n - 2)
    lines = ["(>= X_0 -1.0)", "(<= X_0 0.5)", "(>= X_1 0.1)", "(<= X_1 0.3)"]
    rows = []
    for i in range(2, n):
        for sense in (3.0, -0.7):
            row = np.zeros(n)
            row[:i], row[i] = rng.normal(size=i), sense
            rows.append(row)
    rows = [rows[k] for k in rng.permutation(len(rows))]
    for row in rows:
        terms = " ".join(f"(* {float(v)!r} X_{j})" for j, v in enumerate(row) if v)
        lines.append(f"(<= (+ {terms}) 5.1)")
    text = "".join(f"(declare-const X_{i} Real)\n" for i in range(n)) + "(declare-const Y_0 Real)\n"
    text += "".join(f"(assert {line})\n" for line in lines) + "(assert (>= Y_0 0))\n"
    form = vnnlib.with_implied_bounds(vnnlib.normalise(vnnlib.loads(text)))
    assert form.unbounded == ()
    for i in range(n):
        for sense, end in ((1, form.lower[0, i]), (-1, -form.upper[0, i])):
            cost = np.zeros(n)
            cost[i] = sense
            best = linprog(cost, A_ub=np.array(rows), b_ub=np.full(len(rows), 5.1), bounds=sides)
            assert best.status == 0 and end <= best.fun + 1e-9 * max(1, abs(best.fun))


def test_an_input_that_no_row_bounds_stays_open() -> None:
    text = "(declare-const X_0 Real)(declare-const X_1 Real)(declare-const X_2 Real)(declare-const Y_0 Real)"
    text += "(assert (<= X_0 1))(assert (<= (* 3 X_1) X_0))(assert (>= X_0 X_2))(assert (>= Y_0 X_1))"
    form = vnnlib.with_implied_bounds(vnnlib.normalise(vnnlib.loads(text)))
    assert form.unbounded == (0, 1, 2)
    assert form.upper.tolist() == [[1, np.nextafter(1 / 3, 1), 1]] and 3 * np.nextafter(1 / 3, 1) >= 1
    assert np.isneginf(form.lower).all()


# products of variables


def _grid(file: Path, points: int = 20_001) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(-0.5, 1.0, points)
    graph = load_model(file).graph
    return x, models.outputs_of(graph, {"x": x[:, None, None]})


def test_products_of_inputs_and_outputs(tmp_path: Path) -> None:
    """A network of one input: the extreme of a polynomial in x and y is that of a fine grid, up to its spacing."""
    rng = np.random.default_rng(3)
    nodes, constants = _layers(
        [(rng.normal(size=(6, 1)), rng.normal(size=6)), (rng.normal(size=(2, 6)), np.zeros(2))], "", "x"
    )
    file = tmp_path / "f.onnx"
    file.write_bytes(models.build(nodes, {"x": (1, 1)}, ["y"], constants))
    x, y = _grid(file)
    value = x**3 + x * y[:, 0] * y[:, 0] - 2 * y[:, 0] * y[:, 1]
    text = "(+ (* X X X) (- (* X Y[0,0] Y[0,0]) (* 2.0 Y[0,0] Y[0,1])))".replace("X", "X[0,0]")
    head = "(vnnlib-version <2.0>)(declare-network f (declare-input X float32 [1,1]) (declare-output Y float32 [1,2]))"
    box = "(assert (and (>= X[0,0] -0.5) (<= X[0,0] 1.0)))"
    for limit, verdict in ((value.max() + 0.01, Verdict.UNSAT), (value.max() - 0.01, Verdict.SAT)):
        spec = tmp_path / "s.vnnlib"
        spec.write_text(f"{head}{box}(assert (>= {text} {limit:.9f}))")
        result = verify(file, spec, timeout=600)
        assert result.verdict is verdict
        if result.witness is not None:
            assert vnnlib.load(spec).evaluate({"X": result.witness.x, "Y": result.witness.y})
            assert len(result.witness.y) == 2
    with pytest.raises(ProofError, match="products"):
        verify(file, spec, proof=tmp_path / "proof")


def test_products_are_exact_in_the_normal_form() -> None:
    text = (
        "(declare-const X_0 Real)(declare-const Y_0 Real)(declare-const Y_1 Real)(assert (>= X_0 0))(assert (<= X_0 9))"
    )
    text += "(assert (or (<= (* X_0 Y_1 X_0) (* 0.5 Y_0)) (> (* Y_0 (+ X_0 Y_1)) 3.0)))"
    spec = vnnlib.loads(text)
    form = vnnlib.normalise(spec)
    assert sorted(form.products) == [(0, 0, 2), (0, 1), (1, 2)]
    rng = np.random.default_rng(0)
    said = [
        (form.holds(x, y), spec.evaluate({"X": x, "Y": y}))
        for x, y in zip(rng.uniform(-1, 3, size=(300, 1)), rng.normal(size=(300, 2)), strict=True)
    ]
    assert all(a == b for a, b in said) and {a for a, _ in said} == {True, False}
    tight = vnnlib.normalise(vnnlib.loads(text.replace("3.0", "0.3")))
    with pytest.raises(ValueError, match="products"):
        vnnlib.joined([form, tight])
    many = text + f"(assert (>= (* {' '.join(['X_0'] * 9)}) 0.1))"
    with pytest.raises(vnnlib.VnnLibUnsupported, match="more than 8 variables"):
        vnnlib.normalise(vnnlib.loads(many))
