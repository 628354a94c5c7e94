"""Many queries that fix most inputs: searched group by group over what varies, against the mixed-integer programme."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from onnx import helper

import verifier
import vnnlib
from tests import models, oracles
from verifier.budget import never
from verifier.engine import in_groups, one_search
from verifier.graph.evaluate import evaluate
from verifier.graph.onnx_import import Model, load_model
from verifier.options import AttackOptions, Options
from verifier.passes.flatten_io import flatten_io
from verifier.passes.fuse_affine import multiply_adds
from verifier.problem import query_groups
from verifier.problem.assemble import assemble
from verifier.problem.query_groups import by_free_inputs
from verifier.result import Result, Verdict
from verifier.search.bab import Ending
from verifier.search.domains import DomainBatch
from verifier.search.policy import FirstSat, Tally

FREE = ([6], [7], [6], [7], [6, 7], [6], [7])
"""What the seven queries vary: three the one input, three the other, and one both."""

Box = tuple[np.ndarray, np.ndarray]


def network(rng: np.random.Generator) -> Model:
    """8 inputs, the first six of which go through two layers of their own before they meet the other two."""
    weights = {
        **{f"W{k}": rng.normal(size=size) for k, size in enumerate([(16, 6), (16, 16), (6, 2), (6, 22), (1, 6)])},
        **{f"b{k}": rng.normal(size=size) * 0.3 for k, size in enumerate([16, 16, 6, 6, 1])},
    }
    gemm = partial(helper.make_node, "Gemm", transB=1)
    nodes = [
        helper.make_node("Split", ["x", "sizes"], ["fixed", "free"], axis=1),
        gemm(["fixed", "W0", "b0"], ["f0"]),
        helper.make_node("Relu", ["f0"], ["f1"]),
        gemm(["f1", "W1", "b1"], ["f2"]),
        helper.make_node("Relu", ["f2"], ["f3"]),
        gemm(["free", "W2", "b2"], ["g0"]),
        helper.make_node("Relu", ["g0"], ["g1"]),
        helper.make_node("Concat", ["f3", "g1"], ["h0"], axis=1),
        gemm(["h0", "W3", "b3"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["h2"]),
        gemm(["h2", "W4", "b4"], ["y"]),
    ]
    return load_model(models.build(nodes, {"x": ("n", 8)}, ["y"], {**weights, "sizes": np.array([6, 2])}))


def queries(rng: np.random.Generator, single: bool = False) -> list[Box]:
    """A box each, of float32 numbers or of others."""
    result = []
    for free in FREE:
        low = rng.normal(size=8).round(3)
        low = low.astype(np.float32).astype(np.float64) if single else low
        result.append((low, low + np.where(np.isin(np.arange(8), free), 0.7, 0.0)))
    return result


def text_of(boxes: list[Box], atom: str) -> str:
    lines = [f"(declare-const X_{i} Real)" for i in range(len(boxes[0][0]))] + ["(declare-const Y_0 Real)"]
    cases = []
    for low, high in boxes:
        ends = [
            f"(>= X_{i} {a!r}) (<= X_{i} {b!r})"
            for i, (a, b) in enumerate(zip(*map(np.ndarray.tolist, (low, high)), strict=True))
        ]
        cases.append(f"(and {' '.join(ends)} {atom})")
    return "\n".join([*lines, f"(assert (or {' '.join(cases)}))"])


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_groups, "MANY", 3)


@pytest.mark.parametrize(("single", "near"), [(True, 1e-5), (False, 1e-4)])
@pytest.mark.parametrize("seed", range(3))
def test_the_verdict_is_the_programmes(seed: int, single: bool, near: float) -> None:
    """The least minimum decides, whichever query has it; without an attack."""
    rng = np.random.default_rng(seed)
    model, boxes = network(rng), queries(rng, single)
    graph = flatten_io(model.graph)
    minima = [float(oracles.minimise(graph, *box, np.eye(1), exact=True)[0]) for box in boxes]
    boxes = [boxes[i] for i in np.roll(np.arange(7), seed - int(np.argmin(minima)))]
    for gap, expected in ((-near, Verdict.UNSAT), (near, Verdict.SAT)):
        spec = vnnlib.loads(text_of(boxes, f"(<= Y_0 {min(minima) + gap!r})"))
        result = verifier.verify(model, spec, Options(timeout=60, attack=AttackOptions(restarts=0)))
        assert result.verdict is expected, (gap, result)
        assert str(result.settings["strategy"]).endswith("queries by what they vary, in 3 groups")
        assert result.counters["queries"] == 7 and result.settings["free_inputs"] == 2
        assert {name for name, _ in result.splits.inputs} <= {"X_6", "X_7"}


@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_groups_are_the_problem_with_less_to_do(seed: int, single: bool) -> None:
    rng = np.random.default_rng(seed)
    model = network(rng)
    problem = assemble(model, vnnlib.normalise(vnnlib.loads(text_of(queries(rng, single), "(<= Y_0 0)"))))
    groups = by_free_inputs(problem, never)
    assert sorted(q for group in groups for q in group.queries.tolist()) == list(range(7))
    assert [len(group.queries) for group in groups] == [3, 3, 1]
    for group in groups:
        own = group.problem
        assert multiply_adds(own.graph) < 0.5 * multiply_adds(problem.graph)
        for k, q in enumerate(group.queries.tolist()):
            p = problem.lower[q] + rng.random((20, 8)) * (problem.upper[q] - problem.lower[q])
            x = problem.full(p)
            inner = own.parameters(x)
            assert (own.lower[k] <= inner).all() and (inner <= own.upper[k]).all()
            expected, found = (evaluate(g, {"x": at})["z"] for g, at in ((problem.graph, p), (own.graph, inner)))
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=1e-12 if single else 1e-5
            )  # of what varies in a float32
            width = (own.upper - own.lower)[k]
            assert (np.flatnonzero(width > 0.1) == np.sort(own.free[k][own.free[k] >= 0])).all()


def test_what_does_not_pay_is_left_whole() -> None:
    rng = np.random.default_rng(0)
    model = load_model(models.mlp((8, 16, 16, 1), rng))
    spec = vnnlib.normalise(vnnlib.loads(text_of(queries(rng), "(<= Y_0 0)")))
    assert by_free_inputs(assemble(model, spec), never) == []  # its second layer mixes everything
    whole = assemble(network(rng), spec)
    assert len(by_free_inputs(whole, never)) == 3
    assert by_free_inputs(whole, lambda: True) == []  # out of time


def test_a_tie_that_rounding_hides_in_a_group_is_settled_in_the_whole_network() -> None:
    """y = relu(c) + f(a) - f(b), f(v) = 0.1 relu(0.1 v), with a = b and c at most 0: 0 throughout, while a product of
    three float32 numbers is no float64 number."""
    columns = {name: np.eye(3)[:, k : k + 1] * w for k, (name, w) in enumerate([("A", 0.1), ("B", 0.1), ("C", 1.0)])}
    nodes = [helper.make_node("Sub", ["a3", "b3"], ["d"]), helper.make_node("Add", ["d", "c2"], ["y"])]
    for name in ("a", "b", "c"):
        chain = [helper.make_node("MatMul", ["x", name.upper()], [f"{name}1"])]
        chain.append(helper.make_node("Relu", [f"{name}1"], [f"{name}2"]))
        if name != "c":
            chain.append(helper.make_node("Mul", [f"{name}2", "w"], [f"{name}3"]))
        nodes = [*chain, *nodes]
    model = load_model(models.build(nodes, {"x": (1, 3)}, ["y"], {**columns, "w": np.array([0.1])}))
    boxes = [(np.array([v, v, -0.5]), np.array([v, v, 0.0])) for v in np.float32([0.3, 0.7, 1.3]).astype(float)]
    spec = vnnlib.loads(text_of(boxes, "(< Y_0 0)"))
    (group,) = by_free_inputs(assemble(model, vnnlib.normalise(spec)), never)
    assert (group.problem.upper > group.problem.lower)[:, 1:].any()  # rounded
    result = verifier.verify(model, spec, Options(timeout=20))
    assert result.verdict is Verdict.UNSAT, result
    assert "in 1 groups" in str(result.settings["strategy"])


def test_what_fixed_inputs_are_not_known_to_is_settled_in_the_whole_network() -> None:
    """3e-6 from the threshold, with inputs fixed to numbers that a float32 input rounds: the two layers that they go
    through lose more than that, one row through the whole network does not."""
    rng = np.random.default_rng(1001)
    model, boxes = network(rng), queries(rng)
    graph = flatten_io(model.graph)
    least = min(float(oracles.minimise(graph, *box, np.eye(1), exact=True)[0]) for box in boxes)
    spec = vnnlib.loads(text_of(boxes, f"(<= Y_0 {least - 3e-6!r})"))
    result = verifier.verify(model, spec, Options(timeout=20))
    assert result.verdict is Verdict.UNSAT, result


def test_no_tie_is_handed_on_where_memory_ends_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """One query has a stuck box, others have boxes that nobody looked at: settling the one settles nothing."""
    real = one_search.search

    def ended(first: DomainBatch, method: Any, policy: FirstSat, limits: Any, tally: Tally) -> Ending:
        ending = real(first, method, policy, limits, tally)
        if policy.tied is None:
            return ending
        policy.tied.add(0)
        return replace(ending, found=None, rest=first, no_room=True)

    monkeypatch.setattr(one_search, "search", ended)
    spec = vnnlib.loads(text_of(queries(np.random.default_rng(0)), "(<= Y_0 -100)"))
    result = verifier.verify(network(np.random.default_rng(0)), spec, Options(timeout=20))
    assert result.verdict is Verdict.UNKNOWN and "memory" in result.reason


def test_what_no_group_came_to_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two groups of three and one of one: the second ends with a third of its own boxes left."""
    rng = np.random.default_rng(0)
    ends = [
        Result(Verdict.UNSAT, open_fraction=0.0, settings={"strategy": "s"}),
        Result(Verdict.TIMEOUT, open_fraction=1 / 7, settings={"strategy": "s"}),
    ]
    monkeypatch.setattr(in_groups, "decide", lambda *_, tied: ends.pop(0))
    spec = vnnlib.loads(text_of(queries(rng), "(<= Y_0 0)"))
    result = verifier.verify(network(rng), spec, Options(timeout=20))
    assert result.verdict is Verdict.TIMEOUT
    assert result.open_fraction == pytest.approx(2 / 7)
