"""alpha/beta-CROWN against sampling, the triangle LP, the MILP, and finite differences."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests import oracles
from tests.strategies import build
from tests.unit.bounds.cases import Boxes, boxes
from verifier.bounds.alpha import tighten
from verifier.bounds.alpha_beta import climb, prove
from verifier.bounds.relaxed import Ground, Parameters, Relaxed, Task
from verifier.bounds.sweep import Method
from verifier.budget import never
from verifier.graph.ir import Graph, Node

ROOT = Method(affine=False, rows=True)


def case_of(seed: int, n: int = 3, width: int = 5) -> tuple[Graph, Boxes, Ground]:
    rng = np.random.default_rng(seed)
    kinds = list(rng.choice(["dense", "relu", "residual", "concat"], int(rng.integers(1, 4))))
    graph = build(n, 2, ["dense", "relu", *kinds, "dense", "relu"], seed, width)
    low = rng.normal(size=(1, n))
    case = boxes(graph, low, low + rng.random((1, n)) * 1.5)
    return graph, case, Ground.of(case.network, case.sweep(ROOT))


def task_of(case: Boxes, row: np.ndarray, signs: list[list[int]]) -> Task:
    count = len(signs)
    return Task(
        case.lower.repeat(count, 1),
        case.upper.repeat(count, 1),
        torch.zeros(count, dtype=torch.int64),
        torch.tensor(signs, dtype=torch.int64).reshape(count, -1),
        torch.zeros(count, 0, dtype=torch.float64),
        torch.from_numpy(row)[None, None].repeat(count, 1, 1),
        torch.zeros(count, 1, dtype=torch.float64),
        None,
    )


def undecided(ground: Ground) -> list[int]:
    """Numbers of the neurons that are unstable at the root."""
    found = []
    for i, first in ground.network.relus.items():
        x = ground.pre[i][0]
        found += (first + ((x.lower < 0) & (x.upper > 0)).flatten().nonzero()[:, 0]).tolist()
    return found


def arguments(graph: Graph, points: np.ndarray) -> np.ndarray:
    """The arguments of all ReLUs, in the order of their numbers: (M, neurons)."""
    relus = [node.inputs[0] for node in graph if node.op == "Relu"]
    found = []
    for point in points:
        values = oracles.evaluate_all(graph, point)
        found.append(np.concatenate([values[name].ravel() for name in relus]))
    return np.stack(found)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_every_iterate_holds_where_the_signs_do(seed: int) -> None:
    graph, case, ground = case_of(seed)
    rng = np.random.default_rng(seed)
    neurons = undecided(ground)[:4]
    signs = [
        [int(s) * (k + 1) for k, s in zip(neurons, rng.choice([-1, 1], len(neurons)), strict=True)] for _ in range(4)
    ]
    row = rng.normal(size=2)
    task = task_of(case, row, signs)
    best, value, _ = climb(ground, task, None, 12, never)
    low, coefficients, constant, empty = prove(ground, task, best)
    points = oracles.sample(case.lower[0].numpy(), case.upper[0].numpy(), 200, rng)
    truth, z = oracles.evaluate(graph, points) @ row, arguments(graph, points)
    for b, decided in enumerate(signs):
        here = np.ones(len(points), bool)
        for entry in decided:
            here &= np.sign(entry) * z[:, abs(entry) - 1] >= 0
        if not here.any():
            continue
        assert not bool(empty[b])
        assert float(low[b]) <= truth[here].min()
        claim = points[here] @ coefficients[b].numpy() + float(constant[b])
        assert (claim <= truth[here] + 1e-12 * (1 + np.abs(truth[here]))).all()
        assert float(low[b]) == pytest.approx(float(value[b]), abs=1e-9)


@pytest.mark.parametrize("seed", range(oracles.NETWORKS or 8))
def test_alpha_climbs_to_the_triangle_programme_and_not_beyond(seed: int) -> None:
    """With the same intermediate intervals:  CROWN <= alpha <= LP <= exact  (Salman et al. 2019; the LP knows besides
    that arguments lie in their intervals); and as high as automatic differentiation climbs in twice the steps."""
    graph, case, ground = case_of(seed)
    row = np.random.default_rng(seed).normal(size=2)
    task = task_of(case, row, [[]])
    task = replace(task, rhs=task.rhs + 100)  # a bound that is positive ends the climb
    start = Relaxed(ground, task)
    crown = float(start.walk(start.default()).low) + 100
    best, value, _ = climb(ground, task, None, 150, never)
    value = value + 100
    names = [node.inputs[0] for node in graph if node.op == "Relu"]
    pre = {
        name: (ground.pre[i][0].lower[0].flatten().numpy(), ground.pre[i][0].upper[0].flatten().numpy())
        for name, i in zip(names, ground.network.relus, strict=True)
    }
    low, high = case.lower[0].numpy(), case.upper[0].numpy()
    relaxed = float(oracles.minimise(graph, low, high, row[None], exact=False, pre=pre)[0])
    exact = float(oracles.minimise(graph, low, high, row[None], exact=True)[0])
    assert crown - 1e-9 <= float(value) <= relaxed + 1e-7 <= exact + 1e-5
    known = case.sweep(ROOT)
    rows = torch.from_numpy(row)[None, None].reshape(1, 1, *case.network.shapes[case.network.output])
    where = case.network, case.lower, case.upper, case.query, case.inputs
    other = float(case.least(*tighten(*where, known, rows, rows.new_zeros(1, 1), 300)))
    assert float(value) >= other - 0.05 * (other - crown) - 1e-6
    assert float(prove(ground, task, best)[0]) + 100 <= float(value) + 1e-9


def test_a_weight_may_not_be_lost_to_underflow() -> None:
    """A weighted row of 1.4 denormals counts as 1; the output is so large that this decides the sign."""
    denormal, large, weight = 2.0**-1074, 1e300, 2.0**-700
    nodes = Node("Relu", ("x",), "z"), Node("Dense", ("z",), "y", {"weight": np.array([[1.0], [large]])})
    graph = Graph(("x",), ("y",), nodes, {"x": (1,), "z": (1,), "y": (2,)})
    case = boxes(graph, np.zeros((1, 1)), np.ones((1, 1)))
    ground = Ground.of(case.network, case.sweep(ROOT))
    least, margin = -1.4 * 2.0**-374, 1.2 * (denormal * large)
    task = replace(
        task_of(case, np.array([0.0, 0.0]), [[]]),
        rows=torch.tensor([[[0.0, 0.0], [0.0, least]]], dtype=torch.float64),
        rhs=torch.tensor([[-margin, 0.0]], dtype=torch.float64),
    )
    given = replace(Relaxed(ground, task).default(), weight=torch.tensor([[1.0, weight]], dtype=torch.float64))
    assert weight * least == -denormal
    assert Fraction(margin) + Fraction(weight) * Fraction(least) * Fraction(large) < 0
    assert not float(prove(ground, task, given)[0]) > 0


def test_where_only_the_sign_is_asked_for_hopeless_subproblems_leave() -> None:
    """Thresholds far above what 20 iterates reach, somewhat below it, and far below: the first leaves early, and the
    others end with the sign that they would have had."""
    _, case, ground = case_of(6)
    row = np.random.default_rng(6).normal(size=2)
    task = task_of(case, row, [[], [], []])
    start = Relaxed(ground, task)
    crown = start.walk(start.default()).low
    best = climb(ground, replace(task, rhs=task.rhs + 100), None, 20, never).value + 100
    gain = float(best[0] - crown[0])
    assert gain > 1e-3
    rhs = best - torch.tensor([-50 * gain, 0.3 * gain, 50 * gain])
    task = replace(task, rhs=rhs[:, None])
    every = climb(ground, task, None, 20, never)
    asked = climb(ground, task, None, 20, never, sign=True)
    assert ((asked.value > 0) == (every.value > 0)).tolist() == [True] * 3
    assert (asked.value > 0).tolist() == [False, True, True]
    assert asked.walks < every.walks
    assert float(prove(ground, task, asked.best)[0][1]) > 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("inside", [False, True])
def test_the_bound_of_a_walk_is_the_value_where_it_is_least(seed: int, inside: bool) -> None:
    """A walk without constants, and the relaxed network at its minimiser, against one that carries them back (several
    rows, rows over inputs, decisions; rows over the output or over a ReLU's argument); a part of the subproblems is
    what they are on their own."""
    _, case, ground = case_of(seed)
    rng = np.random.default_rng(seed)
    slot = ground.network.sources[max(ground.network.relus)][0] if inside else None
    size = ground.network.size(ground.network.output if slot is None else slot)
    entries = [[int(rng.choice([-1, 1])) * (k + 1) for k in undecided(ground)[:3]] for _ in range(5)]
    task = replace(
        task_of(case, np.zeros(2), entries),
        rows=torch.from_numpy(rng.normal(size=(5, 2, size))),
        rhs=torch.from_numpy(rng.normal(size=(5, 2))),
        mixed=torch.from_numpy(rng.normal(size=(5, 2, 3))),
        slot=slot,
    )
    relaxed = Relaxed(ground, task)
    p = relaxed.default()
    p = Parameters(torch.rand_like(p.alpha), torch.rand_like(p.beta), torch.rand_like(p.weight))
    whole, short = relaxed.walk(p), relaxed.slopes(p)
    torch.testing.assert_close(short.coefficients, whole.coefficients)
    torch.testing.assert_close(relaxed.low(p, relaxed.values(p, short)), whole.low)
    linear = (whole.coefficients * whole.point).sum(1) + whole.constant
    torch.testing.assert_close(linear, whole.low)
    index = torch.tensor([3, 1])
    part = relaxed.select(index, task.select(index))
    torch.testing.assert_close(part.walk(p.select(index)).low, whole.low[index])
    torch.testing.assert_close(part.empty, relaxed.empty[index])


def test_gradients_are_those_of_the_bound() -> None:
    """Danskin's gradients against finite differences, for alpha, beta and the weights of a clause's rows."""
    _, case, ground = case_of(11, width=6)
    rng = np.random.default_rng(0)
    neurons = undecided(ground)[:2]
    task = task_of(case, rng.normal(size=2), [[neurons[0] + 1, -(neurons[1] + 1)]])
    rows = torch.from_numpy(rng.normal(size=(1, 2, 2)))
    task = replace(task, rows=rows, rhs=torch.from_numpy(rng.normal(size=(1, 2))))
    relaxed = Relaxed(ground, task)
    p = relaxed.default()
    p = replace(
        p,
        alpha=torch.full_like(p.alpha, 0.4),
        beta=torch.tensor([[0.3, 0.2]], dtype=torch.float64),
        weight=torch.tensor([[0.3, 0.7]], dtype=torch.float64),
    )

    def value(q: object) -> float:
        return float(relaxed.walk(q).low)  # type: ignore[arg-type]

    walked = relaxed.walk(p)
    found = relaxed.gradients(p, walked, relaxed.values(p, walked))

    def difference(change: object, like: Tensor) -> Tensor:
        result = torch.zeros_like(like)
        for k in range(like.numel()):
            step = torch.zeros_like(like)
            step.view(-1)[k] = 1e-6
            result.view(-1)[k] = (value(change(step)) - value(change(-step))) / 2e-6  # type: ignore[operator]
        return result

    assert p.alpha.shape[1] == sum(map(len, ground.loose.values()))
    torch.testing.assert_close(
        found.alpha, difference(lambda t: replace(p, alpha=p.alpha + t), p.alpha), atol=1e-6, rtol=1e-5
    )
    torch.testing.assert_close(
        found.beta, difference(lambda t: replace(p, beta=p.beta + t), p.beta), atol=1e-6, rtol=1e-5
    )
    numeric = difference(lambda t: replace(p, weight=p.weight + t), p.weight)
    torch.testing.assert_close(found.weight, numeric, atol=1e-6, rtol=1e-5)
