"""Where bounds meet 0: strict rows that only touch, rows far below or above the size of the rest, boxes that violate
over the reals alone; and rounding that the rest of the network amplifies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

import verifier
import vnnlib
from tests import models
from verifier.bounds.rational import Rational
from verifier.budget import never
from verifier.graph.onnx_import import load_model
from verifier.options import Options
from verifier.result import Result, Verdict


def ask(data: bytes, n: int, m: int, box: list[tuple[float, float]], rows: list[str], timeout: float = 30) -> Result:
    lines = [f"(declare-const X_{i} Real)" for i in range(n)] + [f"(declare-const Y_{i} Real)" for i in range(m)]
    lines += [f"(assert (>= X_{i} {low!r}))(assert (<= X_{i} {high!r}))" for i, (low, high) in enumerate(box)]
    return verifier.verify(load_model(data), vnnlib.loads("\n".join([*lines, *(f"(assert {r})" for r in rows)])),
                           Options(timeout=timeout))  # fmt: skip


def relu(n: int = 1) -> bytes:
    return models.build([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, n)}, ["y"], {})


def two_layers(w: list[list[float]], b: list[float], v: list[list[float]], dtype: type = np.float32) -> bytes:
    nodes = [
        helper.make_node("Gemm", ["x", "W", "b"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "V"], ["y"], transB=1),
    ]
    weights = {"W": np.array(w, dtype), "b": np.array(b, dtype), "V": np.array(v, dtype)}
    return models.build(nodes, {"x": (1, len(w[0]))}, ["y"], weights, dtype=dtype)


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        (["(< Y_0 0)"], Verdict.UNSAT),
        (["(<= Y_0 0)"], Verdict.SAT),
        (["(< Y_0 0.5)", "(>= Y_0 0.5)"], Verdict.UNSAT),
        (["(> Y_0 1)"], Verdict.UNSAT),
        (["(>= Y_0 1)"], Verdict.SAT),
        (["(< Y_0 0.5)", "(> Y_0 0.25)"], Verdict.SAT),
    ],
)
def test_a_strict_row_that_only_touches(rows: list[str], verdict: Verdict) -> None:
    result = ask(relu(), 1, 1, [(-1.0, 1.0)], rows)
    assert result.verdict is verdict, result
    assert result.counters["boxes"] < 200


def test_outputs_that_are_equal_do_not_differ() -> None:
    """y = (r, r, 2 r - r) with r = relu(x_0 - x_1): none is strictly above another. Never `sat`; where the bounds do
    not see that two neurons are one, the search says so early."""
    data = two_layers([[1, -1], [1, -1]], [0, 0], [[1, 0], [0.5, 0.5], [2, -1]])
    for rows in (["(< Y_0 Y_1)"], ["(> Y_2 Y_0)"], ["(< Y_0 Y_2)", "(< Y_2 Y_0)"]):
        result = ask(data, 2, 3, [(-1.0, 1.0), (-1.0, 1.0)], rows)
        tie = result.verdict is Verdict.UNKNOWN and "tie" in result.reason
        assert (result.verdict is Verdict.UNSAT or tie) and result.counters["boxes"] < 20_000, (rows, result)


def test_the_maximum_of_a_roof_is_not_exceeded() -> None:
    """y = 2 - relu(x - 0.3) - relu(0.3 - x), largest where no split point lies."""
    data = two_layers([[1], [-1]], [-0.3, 0.3], [[-1, -1]])
    assert ask(data, 1, 1, [(-1.0, 1.0)], ["(> Y_0 0)"]).verdict is Verdict.UNSAT
    assert ask(data, 1, 1, [(-1.0, 1.0)], ["(>= Y_0 -0.001)"]).verdict is Verdict.SAT


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e6, 1e9])
def test_rows_of_any_size_are_proven(size: float) -> None:
    """The maximum is 2: a row at 2.001 times its factor is far away whatever the factor."""
    data = two_layers([[1], [1]], [0, -0.5], [[1, 1]])
    result = ask(data, 1, 1, [(-1.0, 1.25)], [f"(>= (* {size!r} Y_0) {2.001 * size!r})"])
    assert result.verdict is Verdict.UNSAT, result


@pytest.mark.parametrize("seed", range(8))
def test_what_follows_amplifies_rounding(seed: int) -> None:
    """2^53 relu(x - t) in float64: above 0 at x = 1 for t one ulp below 1, on boxes with random lower ends."""
    low = float(np.random.default_rng(seed).uniform(-1, 0.9))
    data = two_layers([[1]], [-(1 - 2**-53)], [[2.0**53]], np.float64)
    result = ask(data, 1, 1, [(low, 1.0)], ["(>= Y_0 1)"])
    assert result.verdict is not Verdict.UNSAT, result


def test_a_box_that_violates_over_the_reals_alone_ends_early() -> None:
    """(x + 2^30) - 2^30 with two additions that float32 rounds: over the reals 0.5, in ONNX Runtime 0."""
    nodes = [
        helper.make_node("Add", ["x", "c"], ["a"]),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Sub", ["r", "c"], ["y"]),
    ]
    data = models.build(nodes, {"x": (1, 1)}, ["y"], {"c": np.array([2.0**30], np.float32)})
    result = ask(data, 1, 1, [(0.4, 0.6)], ["(>= Y_0 0.3)"], timeout=60)
    assert result.verdict is Verdict.UNKNOWN and "tie" in result.reason, result
    assert result.counters["boxes"] < 1000


def test_a_spread_that_only_softmax_takes_back() -> None:
    """softmax(30, 0) . (1, 2) is at most 1.1, though exp(30) is 10^13."""
    nodes = [helper.make_node("Softmax", ["x"], ["q"]), helper.make_node("MatMul", ["q", "W"], ["y"])]
    data = models.build(nodes, {"x": (1, 2)}, ["y"], {"W": np.array([[1.0], [2.0]], np.float32)})
    result = ask(data, 2, 1, [(29.9995, 30.0005), (-0.0005, 0.0005)], ["(>= Y_0 2.5)"])
    assert result.verdict is Verdict.UNSAT and result.counters["boxes"] == 1


def test_pairs_of_rows_are_left_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair is walked in fractions, and a clause of many rows has many: the search's own `stop` ends them."""
    stops, refuted = [], Rational.refuted

    def watched(self: Rational, *given: Any) -> Any:
        stops.append(given[5])
        assert refuted(self, *given[:5], lambda: True) is None
        return refuted(self, *given)

    monkeypatch.setattr(Rational, "refuted", watched)
    assert ask(relu(), 1, 1, [(-1.0, 1.0)], ["(< Y_0 0.5)", "(>= Y_0 0.5)"]).verdict is Verdict.UNSAT
    assert stops and not any(stop() for stop in stops) and never not in stops
