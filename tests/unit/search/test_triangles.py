"""Parameters from linear programs of triangles, against SciPy's optimum of the programs that the tests write down."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import verifier
import vnnlib
from tests import models, oracles
from tests.strategies import build
from tests.unit.bounds.cases import boxes, decided_as, one_clause
from verifier.bounds.alpha_beta import climb, prove
from verifier.bounds.relaxed import Ground, Task
from verifier.bounds.sweep import Method
from verifier.budget import never
from verifier.graph.ir import Graph
from verifier.graph.onnx_import import load_model
from verifier.options import AttackOptions, Options
from verifier.passes.flatten_io import flatten_io
from verifier.result import Verdict
from verifier.search import neurons, triangles


def case_of(seed: int, decided: int) -> tuple[Graph, np.ndarray, np.ndarray, Ground, Task, dict]:
    """A subproblem of a random network with some neurons decided, the way a point of the box has them; and the
    intervals of its ReLUs' arguments, the decided ones' clamped."""
    rng = np.random.default_rng(seed)
    kinds = list(rng.choice(["dense", "relu", "residual", "concat", "conv"], int(rng.integers(1, 4))))
    graph = build(int(rng.integers(2, 7)), 1, ["dense", "relu", *kinds, "relu", "dense"], seed, 6)
    low = rng.normal(size=graph.n_inputs)
    high = low + rng.random(graph.n_inputs) * 1.2
    case = boxes(graph, low[None], high[None])
    ground = Ground.of(case.network, case.sweep(Method(affine=False, rows=True)))
    pre, signs = decided_as(low + rng.random(len(low)) * (high - low), graph, ground, decided, rng)
    task = one_clause(case, 0.0, signs)
    return graph, low, high, ground, task, pre


@pytest.mark.parametrize("decided", [0, 2])
@pytest.mark.parametrize("seed", range(12))
def test_what_the_program_finds_proves_its_optimum(seed: int, decided: int) -> None:
    graph, low, high, ground, task, pre = case_of(seed, decided)
    expected = float(oracles.minimise(graph, low, high, np.eye(1), exact=False, pre=pre)[0])
    solved, found = triangles.optimal(ground, task, never)
    assert solved.tolist() == [0]
    proven = float(prove(ground, task, found)[0])
    scale = 1e-6 * (1 + abs(expected))
    assert expected - scale <= proven <= expected + scale
    assert float(climb(ground, task, None, 20, never).value) <= expected + scale


def test_the_best_of_several_rows_and_of_rows_over_inputs() -> None:
    """A clause of two rows that weigh against each other: the best combination's bound, by duality the least maximum of
    both over the box. The rows are over the inputs alone, so that SciPy's program is written in two lines."""
    _, low, high, ground, task, _ = case_of(1, 0)
    mixed = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 2, len(low))))
    rows = torch.zeros(1, 2, 1, dtype=torch.float64)
    rhs = torch.tensor([[0.2, -0.3]], dtype=torch.float64)
    several = Task(task.lower, task.upper, task.query, task.signs, task.points, rows, rhs, mixed)
    a, b = mixed[0].numpy(), rhs[0].numpy()
    limits = [*zip(low, high, strict=True), (None, None)]
    expected = linprog(np.r_[np.zeros(len(low)), 1], np.c_[a, -np.ones(2)], b, bounds=limits)
    solved, found = triangles.optimal(ground, several, never)
    assert solved.tolist() == [0] and float(found.weight.sum()) == pytest.approx(1)
    assert float(prove(ground, several, found)[0]) == pytest.approx(expected.fun, abs=1e-8)


def test_decisions_that_exclude_each_other_are_proven_to() -> None:
    """All patterns of signs of a first layer: those that no point of the box has are proven to have none, and none
    that a sampled point has."""
    _, low, high, ground, task, _ = case_of(3, 0)
    z = triangles._Affine.of(ground, 0)
    first = next(iter(ground.network.relus))
    mine = len(ground.loose[first])
    signs = np.array(np.meshgrid(*[[-1, 1]] * mine)).reshape(mine, -1).T
    excluded = 0
    for pattern in signs:
        entries = (ground.places[:mine] + 1)[None] * torch.from_numpy(pattern)
        part = Task(task.lower, task.upper, task.query, entries, task.points, task.rows, task.rhs, None)
        points = low + np.random.default_rng(0).random((2000, len(low))) * (high - low)
        held = (pattern * (points @ z.z[:mine, : len(low)].T + z.z_bias[:mine]) >= 0).all(1).any()
        solved, found = triangles.optimal(ground, part, never)
        if len(solved) and float(found.weight.sum()) == 0:
            assert not held
            excluded += float(prove(ground, part, found)[0]) > 0
    assert excluded >= 4


def test_a_threshold_that_climbs_do_not_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Max-pooling, 1e-5 below the exact minimum: climbs alone had 1.3 % open after 79 000 subproblems."""
    data, n = models.relu_network("pool", rng := np.random.default_rng(34))
    model = load_model(data)
    centre = rng.normal(size=n) / 2
    radius = rng.uniform(0.5, 1.0) * 0.3
    low, high = ((centre + s * radius).astype(np.float32).astype(np.float64) for s in (-1, 1))
    exact = float(oracles.minimise(flatten_io(model.graph), low, high, np.eye(1), exact=True)[0])
    lines = [f"(declare-const X_{i} Real)" for i in range(n)] + ["(declare-const Y_0 Real)"]
    for i, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        lines.append(f"(assert (>= X_{i} {a!r}))\n(assert (<= X_{i} {b!r}))")
    lines.append(f"(assert (<= Y_0 {exact - 1e-5 * (1 + abs(exact))!r}))")
    asked = []

    def counted(ground: Ground, task: Task, stop: Callable[[], bool]) -> tuple[torch.Tensor, object]:
        asked.append(len(task))
        return triangles.optimal(ground, task, stop)

    monkeypatch.setattr(neurons, "optimal", counted)
    options = Options(timeout=60, deterministic=True, attack=AttackOptions(restarts=0))
    result = verifier.verify(model, vnnlib.loads("\n".join(lines)), options)
    assert result.verdict is Verdict.UNSAT and result.counters["boxes"] < 100, result
    assert asked
