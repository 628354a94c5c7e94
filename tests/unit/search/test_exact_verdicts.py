"""Networks of up to 60 ReLUs from file to verdict, against the mixed-integer programme; and what alpha/beta-CROWN says
about their subproblems, against the linear one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import verifier
import verifier.engine
import vnnlib
from tests import models, oracles
from tests.unit.bounds.cases import boxes, decided_as, one_clause
from verifier.bounds.alpha_beta import climb, prove
from verifier.bounds.relaxed import Ground
from verifier.bounds.sweep import Method
from verifier.budget import never
from verifier.engine import one_search, strategy
from verifier.graph.ir import Graph
from verifier.graph.onnx_import import Model, load_model
from verifier.options import AttackOptions, Options, SearchOptions
from verifier.passes.flatten_io import flatten_io
from verifier.result import Verdict
from verifier.search import beside

CLOSE = (1e-5, 0.03)
"""How far thresholds lie below and above the exact minimum, as a share of 1 + |minimum|."""

QUICK = (6, 7, 9, 10)
"""A network of each kind but residual ones (their turn comes below) that takes a second or two."""


def case_of(seed: int) -> tuple[Model, Graph, np.ndarray, np.ndarray]:
    """A network, flat, and a box for it: the kinds in turns."""
    rng = np.random.default_rng(seed)
    kind = models.RELU_NETWORKS[seed % len(models.RELU_NETWORKS)]
    data, n = models.relu_network(kind, rng)
    model = load_model(data)
    centre = rng.normal(size=n) / 2
    radius = rng.uniform(0.5, 1.0) * {"inputs": 0.15, "conv": 0.3, "pool": 0.3}.get(kind, 0.6)
    low, high = ((centre + s * radius).astype(np.float32).astype(np.float64) for s in (-1, 1))
    return model, flatten_io(model.graph), low, high


def text_of(low: np.ndarray, high: np.ndarray, threshold: float) -> str:
    lines = [f"(declare-const X_{i} Real)" for i in range(len(low))] + ["(declare-const Y_0 Real)"]
    lines += [f"(assert (>= X_{i} {a!r}))" for i, a in enumerate(low.tolist())]
    lines += [f"(assert (<= X_{i} {b!r}))" for i, b in enumerate(high.tolist())]
    return "\n".join([*lines, f"(assert (<= Y_0 {threshold!r}))"])


@pytest.mark.parametrize("seed", range(oracles.NETWORKS) or QUICK)
def test_the_verdict_is_the_programmes(seed: int) -> None:
    """No attack: what is `sat` is found by the search."""
    model, graph, low, high = case_of(seed)
    assert sum(graph.size(node.output) for node in graph if node.op == "Relu") <= 60
    exact = float(oracles.minimise(graph, low, high, np.eye(1), exact=True)[0])
    for gap in CLOSE:
        for side, expected in ((-1, Verdict.UNSAT), (1, Verdict.SAT)):
            spec = vnnlib.loads(text_of(low, high, exact + side * gap * (1 + abs(exact))))
            result = verifier.verify(model, spec, Options(timeout=120, attack=AttackOptions(restarts=0)))
            assert result.verdict is expected, (gap, side, result)


@pytest.mark.parametrize("seed", range(oracles.NETWORKS or 3))
def test_bounds_of_subproblems_are_below_the_linear_programme(seed: int) -> None:
    """With the same intermediate intervals, those of split neurons clamped: alpha and beta <= LP <= exact minimum of
    the subproblem. Neurons are split the way a point of the box has them, so there is such a minimum."""
    _, graph, low, high = case_of(seed)
    if any(node.op == "ReduceMax" for node in graph):
        graph, low, high = case_of(seed + len(models.RELU_NETWORKS) - 1)[1:]  # the triangle is about ReLUs
    rng = np.random.default_rng(seed)
    case = boxes(graph, low[None], high[None])
    ground = Ground.of(case.network, case.sweep(Method(affine=False, rows=True)))
    point = low + rng.random(len(low)) * (high - low)
    pre, signs = decided_as(point, graph, ground, 2, rng)
    task = one_clause(case, 100.0, signs)  # a bound that is positive ends the climb
    best, value, _ = climb(ground, task, None, 60, never)
    proven, _, _, empty = prove(ground, task, best)
    relaxed, exact = (
        float(oracles.minimise(graph, low, high, np.eye(1), exact=flag, pre=pre)[0]) for flag in (False, True)
    )
    start = climb(ground, replace(task, signs=task.signs[:, :0]), None, 1, never).value
    assert not bool(empty)
    assert float(start) <= float(value) + 1e-9  # it does climb, and decided neurons help
    assert float(proven) <= float(value) + 1e-9
    assert float(value) + 100 <= relaxed + 1e-6 <= exact + 1e-5


@pytest.mark.parametrize("seed", QUICK[:2])
@pytest.mark.parametrize("few", [0, 8])
def test_processes_beside_say_the_same(few: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits of neurons and of inputs, from the first step on in two processes."""
    monkeypatch.setattr(strategy, "FEW_INPUTS", few)
    monkeypatch.setattr(beside, "SOON", 0.0)
    monkeypatch.setattr(beside, "FEWEST", 1)
    model, graph, low, high = case_of(seed)
    exact = float(oracles.minimise(graph, low, high, np.eye(1), exact=True)[0])
    two = Options(timeout=120, attack=AttackOptions(restarts=0), search=SearchOptions(batch=2, processes=2))
    for side, expected in ((-1, Verdict.UNSAT), (1, Verdict.SAT)):
        spec = vnnlib.loads(text_of(low, high, exact + side * 0.03 * (1 + abs(exact))))
        result = verifier.verify(model, spec, two)
        assert result.verdict is expected and result.settings["processes"] == 2, (side, result)


def test_few_inputs_are_split_first_and_neurons_where_that_finds_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model, graph, low, high = case_of(3)
    exact = float(oracles.minimise(graph, low, high, np.eye(1), exact=True)[0])
    spec = vnnlib.loads(text_of(low, high, exact - 0.03 * (1 + abs(exact))))
    measured_nothing = Options(timeout=60, deterministic=True)  # or a busy machine needs more boxes
    first = verifier.verify(model, spec, measured_nothing)
    monkeypatch.setattr(one_search, "SOON", 100)
    second = verifier.verify(model, spec, measured_nothing)
    assert first.verdict is second.verdict is Verdict.UNSAT
    assert (first.settings["split"], second.settings["split"]) == ("inputs", "neurons")
    assert second.splits.of_inputs > 0 and second.splits.of_neurons > 0
    assert 100 < second.counters["boxes"] < first.counters["boxes"]
    named = replace(measured_nothing, bounds=replace(Options().bounds, method="crown"))
    assert verifier.verify(model, spec, named).settings["split"] == "inputs"


@pytest.mark.parametrize("few", [0, 8])
def test_cases_of_different_numbers_of_free_inputs(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three boxes of 1, 4 and 2 free inputs in one file, by splits of inputs and of neurons: the least of their minima
    decides, whichever box it belongs to."""
    monkeypatch.setattr(strategy, "FEW_INPUTS", few)
    rng = np.random.default_rng(4)
    model = load_model(models.mlp((4, 8, 8, 1), rng))
    graph = flatten_io(model.graph)
    for turn in range(3):
        boxes_, minima = [], []
        for free in np.roll([1, 4, 2], turn):
            low = rng.normal(size=4).round(2)
            high = low + np.where(np.arange(4) < free, 0.8, 0.0)
            boxes_.append((low.astype(np.float32).astype(float), high.astype(np.float32).astype(float)))
            minima.append(float(oracles.minimise(graph, *boxes_[-1], np.eye(1), exact=True)[0]))
        parts = []
        for low, high in boxes_:
            atoms = [
                f"(>= X_{i} {a!r}) (<= X_{i} {b!r})"
                for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True))
            ]
            parts.append(f"(and {' '.join(atoms)} (<= Y_0 {{0!r}}))")
        text = "".join(f"(declare-const X_{i} Real)\n" for i in range(4)) + "(declare-const Y_0 Real)\n"
        text += f"(assert (or {' '.join(parts)}))"
        for gap, expected in ((-1e-4, Verdict.UNSAT), (1e-4, Verdict.SAT)):
            spec = vnnlib.loads(text.format(min(minima) + gap))
            result = verifier.verify(model, spec, Options(timeout=60, attack=AttackOptions(restarts=0)))
            assert result.verdict is expected, (turn, gap, result)
            assert result.settings["split"] == ("inputs" if few else "neurons")
