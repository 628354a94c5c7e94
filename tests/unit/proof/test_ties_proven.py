"""Bounds that meet their limit exactly: the leaf in fractions, written and checked."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.models import build
from verifier import Options, Verdict, verify
from verifier.checker import format as fmt
from verifier.checker.bounds import walk
from verifier.checker.check import check
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.linear import Gather, Linear, spread_out
from verifier.checker.network import read_network
from verifier.checker.prove import Claim, Part, Prover
from verifier.checker.query import read_queries
from verifier.proof.encode import encode, encode_header, packed


def spec_of(path: Path, inputs: int, outputs: int, rows: list[str]) -> Path:
    lines = [f"(declare-const X_{i} Real)\n(assert (>= X_{i} -1.0))\n(assert (<= X_{i} 1.0))" for i in range(inputs)]
    lines += [f"(declare-const Y_{i} Real)" for i in range(outputs)]
    path.write_text("\n".join([*lines, *(f"(assert {r})" for r in rows)]))
    return path


def layers(path: Path, *weights: list[list[float]], bias: bool = False) -> Path:
    """Dense layers with Relus between them; weights by output."""
    nodes, values, last = [], {}, "x"
    for k, w in enumerate(weights):
        values[f"w{k}"] = np.array(w, np.float64).T
        nodes.append(helper.make_node("MatMul", [last, f"w{k}"], [f"h{k}" if k < len(weights) - 1 else "y"]))
        nodes += [helper.make_node("Relu", [f"h{k}"], [f"r{k}"])] if k < len(weights) - 1 else []
        last = f"r{k}"
    path.write_bytes(build(nodes, {"x": (1, len(weights[0][0]))}, ["y"], values, dtype=np.float64))
    return path


RELU = [[1.0]], [[1.0]]
SIZE = [[1.0], [-1.0]], [[1.0, 1.0]]
"""y = |x|"""
HAT = [[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], [[1.0, 1.0, 1.0, 1.0]], [[1.0]]
"""y = relu(|x_0 + x_1| + |x_0 - x_1|)"""


@pytest.mark.parametrize(
    ("weights", "rows", "most"),
    [
        (RELU, ["(< Y_0 0.0)"], 1),
        (RELU, ["(> Y_0 1.0)"], 1),
        (RELU, ["(< Y_0 0.5)", "(>= Y_0 0.5)"], 4),
        (RELU, ["(or (and (< Y_0 0.0)) (and (> Y_0 1.0)))"], 2),
        (RELU, ["(or (and (< Y_0 0.0)) (and (> Y_0 3.0)))"], 2),
        (SIZE, ["(> Y_0 1.0)"], 40),
        (HAT, ["(< Y_0 0.0)"], 1),
    ],
)
def test_a_strict_row_that_only_touches_has_a_proof(
    tmp_path: Path, weights: tuple[list[list[float]], ...], rows: list[str], most: int
) -> None:
    model = layers(tmp_path / "m.onnx", *weights)
    spec = spec_of(tmp_path / "s.vnnlib", len(weights[0][0]), 1, rows)
    result = verify(model, spec, timeout=30, proof=tmp_path / "p")
    assert result.verdict is Verdict.UNSAT, result
    found = check(tmp_path / "p", model, spec)
    assert found.verdict == "unsat" and found.leaves <= most
    reader = fmt.Reader(io.BytesIO((tmp_path / "p").read_bytes()), "p")
    events = list(reader.events())
    assert any(isinstance(e, fmt.Leaf) and e.kind == "exact" for e in events)
    # where the row is not strict, or the limit is one unit further in, there is a violation, and no proof of none
    changed = [r.replace("(< ", "(<= ").replace("(> ", "(>= ") for r in rows]
    spec_of(spec, len(weights[0][0]), 1, changed)
    header = replace(reader.header, spec=read_queries(spec, read_network(model)).digest)
    (tmp_path / "p").write_bytes(packed([encode_header(header), *map(encode, events)]))
    if len(rows) == 1:
        with pytest.raises(Rejected, match="is not positive"):
            check(tmp_path / "p", model, spec)


@pytest.mark.parametrize("seed", range(8))
def test_bounds_in_fractions_are_below_all_points(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [(3, 2), (3, 3), (2, 3)]
    weights = [(rng.normal(size=s) * 2.0 ** rng.integers(-3, 3)).tolist() for s in shapes]
    model = layers(tmp_path / "m.onnx", *weights)
    spec = spec_of(tmp_path / "s.vnnlib", 2, 2, ["(< Y_0 0.0)"])
    network = read_network(model)
    prover = Prover(network, read_queries(spec, network))
    slopes = {v: rng.integers(0, 256, 3).astype(np.uint8) for v in prover.relus}
    claims = [Claim(Part(0), (), slopes=slopes)]
    swept = prover.in_fractions().prepare(claims, prover.prepare(claims))
    matrices = [[[Fraction(w) for w in row] for row in own] for own in weights]
    most = float(np.prod([np.abs(w).sum() for w in weights]))
    for row in ([Fraction(1), Fraction(0)], [Fraction(-2), Fraction(3)]):
        inputs = [Fraction(float(v)) for v in rng.normal(size=2)]
        both = Gather(((network.output, 2), (0, 2)), np.arange(4))
        asked = swept.then(Linear(both, 1, "row", np.array([[[*row, *inputs]]])))
        (least,) = walk(asked, np.zeros(1, int), np.array([[Fraction(1)]]), asked.network.output).low
        assert isinstance(least, Fraction)
        gap = None
        for x in product([Fraction(k, 8) for k in range(-8, 9)], repeat=2):
            values = list(x)
            for k, matrix in enumerate(matrices):
                values = [sum((w * a for w, a in zip(own, values, strict=True)), Fraction(0)) for own in matrix]
                values = [max(v, Fraction(0)) for v in values] if k < 2 else values
            value = sum(a * b for a, b in zip((*row, *inputs), (*values, *x), strict=True))
            assert value >= least
            gap = value - least if gap is None else min(gap, value - least)
        assert gap is not None and gap < most


def test_what_cannot_be_walked_in_fractions_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = layers(tmp_path / "m.onnx", rng.normal(size=(600, 2)).tolist(), rng.normal(size=(400, 600)).tolist(),
                   rng.normal(size=(1, 400)).tolist())  # fmt: skip
    spec = spec_of(tmp_path / "s.vnnlib", 2, 1, ["(< Y_0 -1e9)"])
    network = read_network(model)
    header = fmt.Header(network.digest, read_queries(spec, network).digest, "t", fmt.TREE, ())
    events: list[fmt.Event] = [fmt.Leaf(0, kind="exact"), fmt.End(0, 1)]
    (tmp_path / "p").write_bytes(packed([encode_header(header), *map(encode, events)]))
    with pytest.raises(Unreadable, match="too large for fractions"):
        check(tmp_path / "p", model, spec)
    (tmp_path / "p").write_bytes(packed([encode_header(header), b'["exact narrow",0,"forms",[],[],[]]\n']))
    with pytest.raises(Unreadable, match="expected an event"):
        check(tmp_path / "p", model, spec)


@pytest.mark.parametrize("seed", range(6))
def test_monotone_networks_of_whole_numbers_touch_their_least_value(tmp_path: Path, seed: int) -> None:
    """y = v relu(W x) of numbers >= 0 is least at the corner (-1, -1), exactly."""
    rng = np.random.default_rng(seed)
    w, v = rng.integers(0, 4, (3, 2)).astype(float), rng.integers(0, 4, (1, 3)).astype(float)
    model = layers(tmp_path / "m.onnx", w.tolist(), v.tolist())
    for row, verdict in (("(< Y_0 0.0)", Verdict.UNSAT), ("(<= Y_0 0.0)", Verdict.SAT)):
        spec = spec_of(tmp_path / "s.vnnlib", 2, 1, [row])
        assert verify(model, spec, Options(), timeout=20, proof=tmp_path / "p").verdict is verdict
        assert check(tmp_path / "p", model, spec).verdict == verdict.value


@pytest.mark.parametrize("seed", range(6))
def test_ties_between_the_slopes_of_a_hinge_have_proofs(tmp_path: Path, seed: int) -> None:
    """y = sum of c relu(w . (x - p)) and d relu(-w . (x - p)), c, d > 0: never below 0, which it meets at p alone, and
    which slopes of 0 and 1 do not prove."""
    rng = np.random.default_rng(seed)
    n = 1 + seed % 2
    p = rng.integers(-5, 6, size=n) / 8
    w = np.vstack([np.eye(n, dtype=int), rng.integers(-3, 4, size=(seed % 3, n))]).astype(float)
    first = np.vstack([w, -w])
    values = {"w": first.T, "b": -first @ p, "v": rng.integers(1, 5, (len(first), 1)).astype(float)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    model = tmp_path / "m.onnx"
    model.write_bytes(build(nodes, {"x": (1, n)}, ["y"], values, dtype=np.float64))
    for row, verdict in (("(< Y_0 0.0)", Verdict.UNSAT), ("(<= Y_0 0.0)", Verdict.SAT)):
        spec = spec_of(tmp_path / "s.vnnlib", n, 1, [row])
        result = verify(model, spec, Options(), timeout=20, proof=tmp_path / "p")
        assert result.verdict is verdict and result.counters["boxes"] < 2000, (row, result)
        assert check(tmp_path / "p", model, spec).verdict == verdict.value


def test_multipliers_of_decided_neurons_hold_in_fractions(tmp_path: Path) -> None:
    """2 relu(x) + relu(-x) on x >= 0 is 2 x: not below 0 with a multiplier of 2, or of 1, not with one of 3."""
    model = layers(tmp_path / "m.onnx", [[1.0], [-1.0]], [[2.0, 1.0]])
    spec = spec_of(tmp_path / "s.vnnlib", 1, 1, ["(< Y_0 0.0)"])
    network = read_network(model)
    prover = Prover(network, read_queries(spec, network))
    (v,) = prover.relus
    part = Part(0, signs=((v, 0, 1), (v, 1, -1)))
    for beta, holds in (((2.0, 0.0), True), ((0.0, 2.0), True), ((1.0, 1.0), True), ((3.0, 0.0), False), ((), False)):
        claim = Claim(part, ((0, ((0, 1.0),)),), beta, kind="exact")
        assert (prover.prove([claim])[0].least > 0) == holds, beta
    alone = Claim(replace(part, signs=((v, 0, 1),)), ((0, ((0, 1.0),)),), (1.0,), kind="exact")
    assert not prover.prove([alone])[0].least > 0  # relu(-x) is not known to be 0


def pooled(rng: np.random.Generator, n: int) -> bytes:
    """The largest of three functions less the largest of the same three in another order, each moved by nothing: 0."""
    first = rng.integers(-3, 4, size=(n, 3)).astype(float)
    order, shift = rng.permutation(3), rng.integers(-2, 3, size=3) / 2
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["a"]),
        helper.make_node("Reshape", ["a", "s"], ["p"]),
        helper.make_node("MaxPool", ["p"], ["m"], kernel_shape=[1, 3], strides=[1, 3]),
        helper.make_node("Reshape", ["m", "t"], ["f"]), helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"w": np.c_[first, first[:, order]], "b": np.r_[shift, shift[order]], "v": np.array([[1.0], [-1.0]]),
               "s": np.array([1, 1, 2, 3]), "t": np.array([1, 2])}  # fmt: skip
    return build(nodes, {"x": (1, n)}, ["y"], weights, dtype=np.float64)


def clipped(rng: np.random.Generator, n: int) -> bytes:
    """Functions cut at both ends, each less itself, which a second layer has made of others: 0."""
    w = rng.integers(-3, 4, size=(n, 2)).astype(float)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Clip", ["h", "lo", "hi"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"w": np.c_[w, -w], "v": np.ones((4, 1)), "lo": np.array(-0.75), "hi": np.array(0.75)}
    return build(nodes, {"x": (1, n)}, ["y"], weights, dtype=np.float64, opset=14)


@pytest.mark.parametrize("make", [pooled, clipped])
@pytest.mark.parametrize("seed", range(2))
def test_ties_of_maxima_and_of_clips_have_proofs(make: Callable[..., bytes], seed: int, tmp_path: Path) -> None:
    """y is 0 everywhere: never below, and never above."""
    model = tmp_path / "m.onnx"
    model.write_bytes(make(np.random.default_rng(seed), 1 + seed % 2))
    for row, verdict in (("(< Y_0 0.0)", Verdict.UNSAT), ("(> Y_0 0.0)", Verdict.UNSAT), ("(>= Y_0 0.0)", Verdict.SAT)):
        spec = spec_of(tmp_path / "s.vnnlib", 1 + seed % 2, 1, [row])
        assert verify(model, spec, timeout=30).verdict is verdict
        assert verify(model, spec, timeout=30, proof=tmp_path / "p").verdict is verdict
        assert check(tmp_path / "p", model, spec).verdict == verdict.value


def test_a_strict_row_at_the_upper_end_of_a_clip_has_a_proof(tmp_path: Path) -> None:
    weights = {"w": np.array([[2.0, -1.0], [1.0, 3.0]]), "v": np.ones((2, 1)), "lo": np.array(-0.5), "hi": np.array(1)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Clip", ["h", "lo", "hi"], ["c"]),
        helper.make_node("MatMul", ["c", "v"], ["y"]),
    ]  # fmt: skip
    model = tmp_path / "m.onnx"
    model.write_bytes(build(nodes, {"x": (1, 2)}, ["y"], {**weights, "hi": np.array(1.0)}, dtype=np.float64, opset=14))
    ends = {"(> Y_0 2.0)": "unsat", "(< Y_0 -1.0)": "unsat", "(>= Y_0 2.0)": "sat", "(<= Y_0 -1.0)": "sat"}
    for row, verdict in ends.items():
        spec = spec_of(tmp_path / "s.vnnlib", 2, 1, [row])
        assert verify(model, spec, timeout=30).verdict.value == verdict, row
        assert verify(model, spec, timeout=30, proof=tmp_path / "p").verdict.value == verdict
        assert check(tmp_path / "p", model, spec).verdict == verdict


def test_a_proof_of_equal_windows_does_not_hang_on_the_order_of_sums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows that are equal but for the last digits: the checker of another machine sums from the other end."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(2, 4))
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Reshape", ["h", "s"], ["p"]),
        helper.make_node("MaxPool", ["p"], ["m"], kernel_shape=[1, 4], strides=[1, 4]),
        helper.make_node("Reshape", ["m", "t"], ["f"]), helper.make_node("MatMul", ["f", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"w": np.c_[w, w * (1 + 2.0**-52)], "v": np.array([[1.0], [-1.0]]),
               "s": np.array([1, 1, 2, 4]), "t": np.array([1, 2])}  # fmt: skip
    model = tmp_path / "m.onnx"
    model.write_bytes(build(nodes, {"x": (1, 2)}, ["y"], weights, dtype=np.float64))
    spec = spec_of(tmp_path / "s.vnnlib", 2, 1, ["(>= Y_0 0.1)"])
    assert verify(model, spec, timeout=60, proof=tmp_path / "p").verdict is Verdict.UNSAT
    assert check(tmp_path / "p", model, spec).leaves > 20

    def backwards(products: np.ndarray, axis: int) -> np.ndarray:
        return np.add.accumulate(np.flip(products, axis), axis).take(-1, axis)

    def product(op: Linear, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
        own = x.reshape(len(x), weight.shape[2], len(weight), 1, -1).transpose(0, 2, 3, 1, 4)
        return backwards(weight[..., None] * own, 3).reshape(len(x), -1)

    def adjoint(op: Linear, row: np.ndarray, at: np.ndarray | None) -> tuple[np.ndarray, None]:
        own = spread_out(row, at, op.size).reshape(len(row), *op.weight.shape[:2], 1, -1)
        return backwards(op.weight[..., None] * own, 2).swapaxes(1, 2).reshape(len(row), -1), None

    monkeypatch.setattr(Linear, "product", product)
    monkeypatch.setattr(Linear, "adjoint", adjoint)
    assert check(tmp_path / "p", model, spec).verdict == "unsat"
