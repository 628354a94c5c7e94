"""Splits of any operator's argument, with multipliers and planes that climb: against samples of every operator."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import oracles
from tests.contract.samples import ELEMENTWISE, OTHER, Sample
from tests.strategies import GraphBuilder
from tests.unit.bounds.cases import Boxes, boxes
from verifier.bounds.alpha_beta import climb, prove
from verifier.bounds.relaxed import Ground, Parameters, Relaxed, Task
from verifier.bounds.sweep import Method
from verifier.budget import never
from verifier.graph.ir import Graph

SAMPLES = [*ELEMENTWISE, *OTHER]


def graph_of(sample: Sample, seed: int) -> tuple[Graph, list[str]]:
    """Two inputs, the operator in the middle of a network, two outputs; and the names of the operator's arguments."""
    made = GraphBuilder(2, seed)
    low, high = sample.domain
    names = []
    for shape in sample.in_shapes:
        size = math.prod(shape)
        value = made.dense("x", size)
        if math.isfinite(low) or math.isfinite(high):  # inside the domain: 0.25 to 1.25 from its end
            value = made.add("Sigmoid", (value,), (size,))
            sign = 1.0 if math.isfinite(low) else -1.0
            value = made.add("Scale", (value,), (size,), params={"factor": np.array(sign)})
            value = made.add("Shift", (value,), (size,), params={"offset": np.array(sign / 4)})
        names.append(made.add("Reshape", (value,), shape))
    out = made.add(sample.op, tuple(names), sample.out_shape, params=sample.params, attrs=sample.attrs)
    flat = made.add("Reshape", (out,), (math.prod(sample.out_shape),))
    relu = made.add("Relu", (made.dense(flat, 3),), (3,))
    return made.finish(relu, 2), names


def decide(case: Boxes, ground: Ground, row: np.ndarray, rng: np.random.Generator, count: int) -> Task:
    """`count` subproblems with three decisions each, about any elements whose intervals have a width."""
    network = ground.network
    open_ = []
    for (i, k), first in network.arguments.items():
        x = ground.pre[i][k]
        for j in (x.upper > x.lower).flatten().nonzero()[:, 0].tolist():
            open_.append((first + j, float(x.lower.flatten()[j]), float(x.upper.flatten()[j]), i in network.relus))
    signs, points = np.zeros((count, 3), np.int64), np.zeros((count, 3))
    for b in range(count):
        for d in range(3):
            number, low, high, relu = open_[int(rng.integers(len(open_)))]
            signs[b, d] = (number + 1) * int(rng.choice([-1, 1]))
            points[b, d] = 0.0 if relu else rng.uniform(low, high)
    return Task(
        case.lower.repeat(count, 1),
        case.upper.repeat(count, 1),
        torch.zeros(count, dtype=torch.int64),
        torch.from_numpy(signs),
        torch.from_numpy(points),
        torch.from_numpy(row)[None, None].repeat(count, 1, 1),
        torch.full((count, 1), 100.0, dtype=torch.float64),  # far from proven: a proven one stops climbing
        None,
    )


def case_of(sample: Sample, seed: int) -> tuple[Graph, Boxes, Ground, np.random.Generator]:
    rng = np.random.default_rng(seed)
    graph, _ = graph_of(sample, seed)
    low = rng.normal(size=(1, 2))
    case = boxes(graph, low, low + rng.uniform(0.5, 2.0, size=(1, 2)))
    return graph, case, Ground.of(case.network, case.sweep(Method(affine=False, rows=True))), rng


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_bounds_hold_where_the_decisions_do(sample: Sample) -> None:
    graph, case, ground, rng = case_of(sample, 3)
    row = rng.normal(size=2)
    task = decide(case, ground, row, rng, 24)
    best, value, _ = climb(ground, task, None, 6, never)
    low, coefficients, constant, empty = prove(ground, task, best)
    points = oracles.sample(case.lower[0].numpy(), case.upper[0].numpy(), 120, rng)
    values = [oracles.evaluate_all(graph, point) for point in points]
    truth = np.stack([v["y"] for v in values]) @ row - 100
    names = {node.output: node for node in graph}
    relaxed = [node for node in names.values() if node.op in ("Relu", "Sigmoid", sample.op)]
    by_operator = dict(zip(ground.network.relaxed, relaxed, strict=True))
    argument = {
        (i, k): np.stack([v[by_operator[i].inputs[k]].ravel() for v in values]) for i, k in ground.network.arguments
    }
    seen = 0
    for b in range(len(task)):
        here = np.ones(len(points), bool)
        for entry, at in zip(task.signs[b].tolist(), task.points[b].tolist(), strict=True):
            for key, first in ground.network.arguments.items():
                j = abs(entry) - 1 - first
                if 0 <= j < argument[key].shape[1]:
                    here &= np.sign(entry) * (argument[key][:, j] - at) >= 0
        if not here.any():
            continue
        seen += 1
        assert not bool(empty[b])
        assert float(low[b]) <= truth[here].min()
        claim = points[here] @ coefficients[b].numpy() + float(constant[b])
        assert (claim <= truth[here] + 1e-12 * (1 + np.abs(truth[here]))).all()
        assert float(low[b]) == pytest.approx(float(value[b]), abs=1e-6 * (1 + abs(float(value[b]))))
    assert seen >= 2


@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.op not in ("Within", "ArgMax")], ids=str)
def test_gradients_are_those_of_the_bound(sample: Sample) -> None:
    """Danskin's gradients against finite differences, for the parameters of all planes and for the multipliers."""
    _, case, ground, rng = case_of(sample, 5)
    task = decide(case, ground, rng.normal(size=2), rng, 1)
    relaxed = Relaxed(ground, task)
    p = relaxed.default()
    p = replace(
        p,
        alpha=torch.from_numpy(rng.uniform(0.3, 0.6, size=p.alpha.shape)),
        beta=torch.from_numpy(rng.uniform(0.05, 0.1, size=p.beta.shape)),
    )
    walked = relaxed.walk(p)
    found = relaxed.gradients(p, walked, relaxed.values(p, walked))

    def moved(name: str, change: torch.Tensor) -> Parameters:
        return replace(p, **{name: getattr(p, name) + change})

    for name, gradient in (("alpha", found.alpha), ("beta", found.beta)):
        for j in range(gradient.shape[1]):
            step = torch.zeros_like(gradient)
            step[0, j] = 1e-7
            up, down = (float(relaxed.walk(moved(name, s)).low) for s in (step, -step))
            assert float(gradient[0, j]) == pytest.approx((up - down) / 2e-7, abs=2e-4), (name, j)


def test_values_read_twice_have_one_number() -> None:
    made = GraphBuilder(2, 0)
    z = made.dense("x", 3)
    both = made.add("Mul", (made.add("Sin", (z,), (3,)), made.add("Cos", (z,), (3,))), (3,))
    graph = made.finish(both, 1)
    network = boxes(graph, np.zeros((1, 2)), np.ones((1, 2))).network
    (sin, cos), product = network.relaxed[:2], network.relaxed[2]
    assert network.arguments == {(sin, 0): 0, (cos, 0): 0, (product, 0): 3, (product, 1): 6}
