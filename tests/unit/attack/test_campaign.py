"""The attack is paid in work, not in seconds: what it finds does not depend on how busy the machine is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vnnlib
from tests import models
from tests.strategies import build
from tests.unit.bounds.cases import Boxes, boxes
from tests.unit.search.tables import domains, table
from verifier.attack import campaign
from verifier.attack.campaign import Campaign
from verifier.attack.pgd import row_values
from verifier.bounds import network
from verifier.budget import Budget, OutOfTime
from verifier.engine import methods, solve
from verifier.engine.points import Points
from verifier.graph.onnx_import import Model, load_model
from verifier.options import Options
from verifier.result import Verdict, Witness
from verifier.search.domains import DomainBatch
from vnnlib import Case, NormalForm, Row

HIT = Witness(np.zeros(1), np.zeros(1))
OUT_OF_REACH = [[[(0, -99.0)]]]


@dataclass
class Clock:
    """A machine so busy that `seconds` pass between two looks at the clock."""

    seconds: float
    looks: int = 0

    def __call__(self) -> float:
        self.looks += 1
        return self.looks * self.seconds


def image_problem(seed: int, eps: float, margin: float) -> tuple[Model, NormalForm]:
    """An image classifier and the claim that a class keeps its lead over another; a known point of the box, where the
    gradient at its centre points to, violates it by `margin`."""
    rng = np.random.default_rng(seed)
    model = load_model(models.image_network(rng))
    image = rng.uniform(0.2, 0.8, 784)
    lower, upper = image - eps, image + eps
    first, second = np.argsort(-_run(model, image))[:2]
    corner, difference = image, np.inf
    for _ in range(400):  # coordinates moved to their ends, in random groups, where that helps
        tried = np.where(rng.random(784) < 0.05, np.where(rng.random(784) < 0.5, lower, upper), corner)
        y = _run(model, tried)
        if y[first] - y[second] < difference:
            corner, difference = tried, y[first] - y[second]
    rows = [Row({}, {int(first): 1.0, int(second): -1.0}, float(difference) + margin)]
    case = Case(lower, upper, [rows])
    return model, vnnlib.normalise(vnnlib.build([case], input_shape=[784], output_shape=[10]))


def _run(model: Model, image: np.ndarray) -> np.ndarray:
    return np.asarray(models.run_onnx(model.bytes, {"x": image.reshape(1, 1, 28, 28)})[0].ravel(), np.float64)


@pytest.mark.parametrize("seed", range(3))
def test_an_easy_counterexample_is_found_however_slow_the_clock(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 0.4 s between two looks at the clock, 30 s are over after 75 of them. The same point is found as on an idle
    machine, and before the first bound of a network of this size, which takes longer than all of that."""
    model, spec = image_problem(seed, 0.05, 0.05)
    started: list[int] = []

    def slow(*arguments: object) -> object:
        started.append(1)
        raise OutOfTime

    monkeypatch.setattr(methods, "bound_boxes", slow)
    monkeypatch.setattr(methods, "sweep", slow)
    results = [solve(model, spec, Options(device="cpu"), Budget.of(30, clock=Clock(s))) for s in (0.0, 0.4)]
    assert [r.verdict for r in results] == [Verdict.SAT] * 2 and not started
    assert results[0].witness is not None and results[1].witness is not None
    assert np.array_equal(results[0].witness.x, results[1].witness.x)
    y = _run(model, results[0].witness.x)
    assert spec.holds(results[0].witness.x, y)


def _campaign(case: Boxes, replay: object = lambda *_: None, stop: object = lambda: False, **changes: int) -> Campaign:
    how = {"restarts": 8, "steps": 10, "rows": OUT_OF_REACH, "seed": 0} | changes
    generator = torch.Generator().manual_seed(how["seed"])
    rows = table(how["rows"])
    return Campaign(case.network, case.inputs, rows, how["restarts"], how["steps"], generator, replay, stop)  # type: ignore[arg-type]


def _case(seed: int = 0, count: int = 1) -> tuple[Boxes, DomainBatch]:
    case = boxes(build(3, 2, ["relu", "dense", "relu"], seed), np.full((count, 3), -1.0), np.full((count, 3), 1.0))
    return case, domains(case.lower, case.upper, case.query)


@given(steps=st.lists(st.floats(0, 2e7), max_size=8), seed=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_rounds_are_a_fixed_share_of_the_search(steps: list[float], seed: int) -> None:
    """After the first round all of them together never take more than their share, up to the last descent; and they
    come whenever another round as long as all before it is paid for."""
    case, batch = _case(seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(campaign, "FIRST", 3e5)
        patch.setattr(campaign, "CALL", 1e3)
        attack = _campaign(case, restarts=2, steps=4)
        assert attack.first(batch) is None
        one = 2 * 4 * (attack.call + max(2.0, attack.call / attack.point) * attack.point)
        first = attack.spent
        assert campaign.FIRST <= first <= campaign.FIRST + one
        for work in itertools.accumulate(steps):
            before = attack.spent
            attack.again(batch, work)
            due = campaign.SHARE * work - before >= max(before, campaign.FIRST)
            assert (attack.spent > before) is due
            assert attack.spent <= max(first, campaign.SHARE * work + one)


def test_a_network_in_float32_serves_points_in_float64() -> None:
    """Large networks are attacked in float32: losses agree to its precision, and what descends stays in float64."""
    case, batch = _case()
    single = network.build(build(3, 2, ["relu", "dense", "relu"], 0), torch.float32, torch.device("cpu"))
    rows = table(OUT_OF_REACH)
    points = case.lower.new_zeros(5, 3).uniform_(-1, 1)
    query = batch.query.expand(5)
    exact = row_values(case.network, case.inputs, rows, points, query)
    rough = row_values(single, case.inputs, rows, points, query)
    assert rough.dtype == torch.float64 and torch.allclose(exact, rough, rtol=1e-5, atol=1e-5)
    attack = Campaign(single, case.inputs, rows, 2, 4, torch.Generator().manual_seed(0), lambda *_: None, lambda: False)
    assert attack.first(batch) is None and attack.descents > 0


def test_a_first_round_is_solid_but_never_endless() -> None:
    """Small networks: a fixed amount of work. Large ones: some descents. The largest: a few inferences."""
    case, _ = _case()
    attack = _campaign(case)
    least = [attack._least() / attack.point for attack.point in (1e3, 1e6, 1e7, 1e8, 1e10)]
    assert least[0] > 1e5 and least[1] == campaign.SOLID and least[2] == campaign.SOLID and least[3] == 200
    assert least[4] == campaign.FEW


def test_the_seed_decides_and_the_clock_does_not() -> None:
    case, batch = _case(1, 5)
    tried: dict[tuple[int, float], list[Tensor]] = {}
    for key in itertools.product((0, 1), (0.0, 1e-3)):
        seen: list[Tensor] = tried.setdefault(key, [])
        budget = Budget.of(1e9, clock=Clock(key[1]))

        def note(points: Tensor, loss: Tensor, query: Tensor, seen: list[Tensor] = seen) -> None:
            seen.append(points)

        _campaign(case, note, budget.expired, seed=key[0], rows=[[[(0, 0.3)], [(1, -9.0)]]]).first(batch)
    for seed in (0, 1):
        assert len(tried[seed, 0.0]) > 0
        assert all(torch.equal(a, b) for a, b in zip(tried[seed, 0.0], tried[seed, 1e-3], strict=True))
    assert not torch.equal(tried[0, 0.0][0], tried[1, 0.0][0])


def test_time_that_is_up_ends_a_round_at_once() -> None:
    """Not one run of the network more once `stop` has said so, wherever that is."""
    case, batch = _case()
    for looks in range(1, 12):
        asked: list[int] = []
        runs: list[int] = []
        forward = type(case.network).forward

        def counted(self: object, x: Tensor, runs: list[int] = runs, forward: object = forward) -> Tensor:
            runs.append(1)
            return forward(self, x)  # type: ignore[operator,no-any-return]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(case.network), "forward", counted)
            _campaign(case, stop=lambda asked=asked, looks=looks: asked.append(1) or len(asked) >= looks).first(batch)
        assert len(runs) < looks


def test_points_come_from_the_boxes_and_a_witness_ends_it() -> None:
    case, batch = _case(2, 40)
    seen: list[tuple[Tensor, Tensor]] = []

    def replay(points: Tensor, loss: Tensor, query: Tensor) -> Witness | None:
        seen.append((points, loss))
        return HIT if len(seen) == 3 else None

    attack = _campaign(case, replay, rows=[[[(0, 50.0)]]])
    assert attack.first(batch) is HIT and len(seen) == 3
    for points, loss in seen:
        assert bool((points >= -1).all() and (points <= 1).all()) and bool((loss <= 0).any())
    assert _campaign(case, restarts=0).first(batch) is None
    assert _campaign(case).first(batch.select(slice(0, 0))) is None


def test_the_attack_comes_back_while_the_search_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the first round nor the search's own points find it: a later round does."""
    model = load_model(models.mlp([24, 12, 12, 2], np.random.default_rng(5)))
    centre = models.run_onnx(model.bytes, {"x": np.zeros((1, 24))})[0].ravel()
    case = Case(-np.ones(24), np.ones(24), [[Row({}, {0: 1.0}, float(centre[0]) - 0.3)]])
    spec = vnnlib.normalise(vnnlib.build([case], input_shape=[24], output_shape=[2]))
    monkeypatch.setattr(Campaign, "first", lambda self, boxes: None)
    monkeypatch.setattr(Points, "test", lambda self, points, query: None)
    monkeypatch.setattr(campaign, "FIRST", 1e5)
    again, calls = Campaign.again, []

    def noted(self: Campaign, batch: DomainBatch, work: float) -> Witness | None:
        calls.append(work)
        return again(self, batch, work)

    monkeypatch.setattr(Campaign, "again", noted)
    result = solve(model, spec, Options(device="cpu"), Budget.of(60))
    assert result.verdict is Verdict.SAT and calls == sorted(calls) and calls[0] > 0
