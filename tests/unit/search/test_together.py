"""Several specifications of one network in one search: each has the answer that it has alone, once it is there."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import vnnlib
from tests import models
from verifier.budget import Budget
from verifier.engine import solve, together
from verifier.engine.together import Question, solve_together
from verifier.graph.onnx_import import Model, load_model
from verifier.options import AttackOptions, Options
from verifier.result import Result, Verdict
from vnnlib import Case, NormalForm, Row

OPTIONS = Options(device="cpu", attack=AttackOptions(restarts=0))


def form(low: float, high: float, clauses: list[list[Row]], boxes: int = 1) -> NormalForm:
    edges = np.linspace(low, high, boxes + 1)
    cases = [Case(np.array([a, low, low]), np.array([b, high, high]), clauses) for a, b in pairwise(edges)]
    return vnnlib.normalise(vnnlib.build(cases, input_shape=[3], output_shape=[2]))


def problem(seed: int) -> tuple[Model, list[NormalForm]]:
    """A network and questions about it: some hold by little, some fail by little, over one box and several."""
    model = load_model(models.mlp([3, 10, 10, 2], np.random.default_rng(seed)))
    points = np.random.default_rng(1).uniform(-1, 1, (4000, 3))
    y = models.run_onnx(model.bytes, {"x": points})[0]
    least = y.min(0)
    spread = float(np.ptp(y[:, 0]))
    forms = []
    for by, boxes in ((-0.15, 1), (0.03, 1), (-0.1, 3), (0.05, 2), (-0.4, 1)):
        rows = [[Row({}, {0: 1.0}, float(least[0]) + by * spread)], [Row({}, {1: 1.0}, float(least[1]) - 9.0)]]
        forms.append(form(-1, 1, rows, boxes))
    return model, forms


def ask(model: Model, forms: list[NormalForm], budget: Budget | None = None, **limits: float) -> list[Result]:
    told: dict[int, Result] = {}

    def tell(i: int, result: Result) -> None:
        assert i not in told, "told twice"
        told[i] = result

    questions = [Question(f, limits.get(f"q{i}")) for i, f in enumerate(forms)]
    assert solve_together(model, questions, OPTIONS, budget or Budget.of(60), tell)
    return [told[i] for i in range(len(forms))]


@pytest.mark.parametrize("seed", range(3))
def test_the_answers_are_those_of_each_alone(seed: int) -> None:
    model, forms = problem(seed)
    found = ask(model, forms)
    for one, result in zip(forms, found, strict=True):
        assert result.verdict is solve(model, one, OPTIONS, Budget.of(60)).verdict
        if result.witness is not None:
            y = models.run_onnx(model.bytes, {"x": result.witness.x[None]})[0][0]
            assert one.holds(result.witness.x, np.asarray(y, np.float64))
    assert {r.verdict for r in found} == {Verdict.SAT, Verdict.UNSAT}
    assert all(r.seconds > 0 and r.counters["boxes"] >= 0 for r in found)


def test_the_limit_of_one_question_does_not_touch_the_others() -> None:
    model, forms = problem(0)
    plain, limited = ask(model, forms), ask(model, forms, q0=1e-9, q3=1e-9)
    for i, (a, b) in enumerate(zip(plain, limited, strict=True)):
        assert b.verdict in ({a.verdict} if i not in (0, 3) else {Verdict.TIMEOUT, Verdict.SAT})


def test_a_stop_leaves_every_question_open() -> None:
    model, forms = problem(0)
    budget = Budget.of(60)
    budget.stop("enough")
    assert {(r.verdict, r.reason) for r in ask(model, forms, budget)} == {(Verdict.UNKNOWN, "enough")}


def test_a_question_that_rounding_decides_ends_without_the_others() -> None:
    """y_0 < its value at a point box: never proven, never found; the other question is."""
    model, forms = problem(0)
    y = models.run_onnx(model.bytes, {"x": np.zeros((1, 3))})[0][0]
    tie = form(0.0, 0.0, [[Row({}, {0: 1.0}, float(y[0]) - 1e-9)]])
    found = ask(model, [tie, forms[4]])
    assert found[0].verdict in (Verdict.UNKNOWN, Verdict.UNSAT) and found[1].verdict is Verdict.UNSAT


def test_what_does_not_suit_is_asked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, forms = problem(0)

    def nothing(*_: object) -> None:
        raise AssertionError("told")

    empty = vnnlib.normalise(
        vnnlib.build([Case(np.zeros(3), -np.ones(3), [[Row({}, {0: 1.0})]])], input_shape=[3], output_shape=[2])
    )
    questions = [Question(f) for f in forms]
    assert not solve_together(model, [*questions, Question(empty)], OPTIONS, Budget.of(60), nothing)
    assert not solve_together(model, questions, OPTIONS, Budget.of(60, memory_bytes=1), nothing)

    def refuse(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(together, "assemble", refuse)
    assert not solve_together(model, questions, OPTIONS, Budget.of(60), nothing)
