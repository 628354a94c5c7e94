"""Intervals clipped to where a clause can be violated: against sampling, linear programmes and, through subproblems,
exact minima."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

from tests import oracles
from tests.strategies import build as random_graph
from tests.unit.bounds.cases import Boxes, boxes, one_clause
from verifier.bounds.alpha_beta import climb, prove
from verifier.bounds.clipped import NeuronPlanes, PlaneRows
from verifier.bounds.network import build
from verifier.bounds.refine import refine
from verifier.bounds.relaxed import ClippedEnds, Ground, Relaxed
from verifier.bounds.sweep import Method
from verifier.budget import never
from verifier.graph.ir import Graph

N = 5


def case_of(seed: int) -> tuple[Graph, Boxes, Ground, NeuronPlanes]:
    """A network, refined intervals on a box, and the planes of all neurons that are open there."""
    rng = np.random.default_rng(seed)
    kinds = ["dense", "relu", "residual" if seed % 2 else "dense", "relu", "dense", "relu", "dense"]
    graph = random_graph(N, 1, kinds, seed, 8)
    low = rng.normal(size=(1, N))
    case = boxes(graph, low, low + 0.5 + rng.random((1, N)))
    ground = Ground.of(case.network, case.sweep(Method(affine=False, rows=True)))
    loose = {i: u for i, u in ground.loose.items() if len(u)}
    chosen = {i: torch.stack([torch.zeros_like(u), u], 1) for i, u in loose.items()}
    rows = PlaneRows(loose, case.lower, case.upper)
    fast = build(graph, torch.float32, case.network.device)
    pre = refine(ground, fast, case.lower, case.upper, chosen, 16, never, rows)
    planes = rows.planes(case.network)
    assert planes is not None
    return graph, case, Ground.at(case.network, pre, ground.allowance), planes


@pytest.mark.parametrize("seed", [s for s in range(10) if s != 7])  # of 7 no half-space cuts anything off
def test_clipped_intervals_hold_where_the_clause_is_violated(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph, case, ground, planes = case_of(seed)
    low, high = case.lower[0].numpy(), case.upper[0].numpy()
    least = float(oracles.minimise(graph, low, high, np.eye(1), exact=True)[0])
    points = np.concatenate([oracles.sample(low, high, 400, rng), rng.uniform(low, high, (400, N))])
    everywhere = [oracles.evaluate_all(graph, point) for point in points]
    y = oracles.evaluate(graph, points)[:, 0]
    names = {i: node.inputs[0] for i, node in enumerate(graph) if node.op == "Relu"}
    z = np.stack([np.concatenate([v[name].ravel() for name in names.values()]) for v in everywhere])
    z = z[:, planes.places.numpy()]
    margins = np.quantile(y, [0.02, 0.1, 0.5])
    shrunk = 0.0
    for threshold in (least + 1e-3, *margins):
        task = one_clause(case, float(threshold), [])
        best, value, _ = climb(ground, task, None, 20, never)
        if float(value) > 0:
            continue
        _, row, constant, _ = prove(ground, task, best)
        known = planes.nothing.expand(2, 1, -1)
        below, above = (t[0].numpy() for t in planes.within(task.query, row, constant, known))
        violated = y <= threshold
        assert (below <= z[violated].min(0, initial=np.inf)).all()
        assert (z[violated].max(0, initial=-np.inf) <= above).all()
        whole = planes.within(task.query, torch.zeros_like(row), torch.full_like(constant, -torch.inf), known)
        assert torch.isinf(whole).all()  # no bound of the clause: nothing is known
        ends = torch.stack([t[:, planes.places] for t in ground.ends])
        again = planes.within(task.query, row, constant, ends)
        assert (again[0] >= ends[0]).all() and (again[1] <= ends[1]).all()
        shrunk += float((ends[1] - ends[0] - again[1] + again[0]).clamp(max=1e6).sum())
        deeper = replace(task, within=ClippedEnds(planes.places, again))
        proven, _, _, empty = prove(ground, deeper, climb(ground, deeper, best, 10, never).best)
        if float(proven) > 0 or bool(empty):
            assert threshold < least
    assert shrunk > 0


@pytest.mark.parametrize("seed", range(8))
def test_no_interval_is_tighter_than_the_programme_of_its_planes_and_few_are_much_looser(seed: int) -> None:
    _, case, ground, planes = case_of(seed)
    low, high = case.lower[0].numpy(), case.upper[0].numpy()
    middle = float(ground.network.forward((case.lower + case.upper) / 2).ravel()[0])
    task = one_clause(case, middle, [])
    best, _, _ = climb(ground, task, None, 20, never)
    _, row, constant, _ = prove(ground, task, best)
    below, above = planes.within(task.query, row, constant, planes.nothing)[:, 0].numpy()
    swing = planes.swing[0].numpy()
    found = np.maximum(np.concatenate([below, -above]), planes.middle[0].numpy() - swing)  # or the planes' own, gamma 0
    exact = []
    slopes = (planes.slopes[0].double() / planes.radius).numpy()
    offsets = planes.middle[0].numpy() - slopes @ planes.centre[0].numpy()
    for slope, offset in zip(slopes, offsets, strict=True):
        programme = linprog(slope, row.numpy(), -constant.numpy(), bounds=list(zip(low, high, strict=True)))
        assert programme.status == 0
        exact.append(programme.fun + offset)
    gap = np.array(exact) - found
    size = 1 + np.abs(slopes) @ np.maximum(abs(low), abs(high))
    assert (gap >= -1e-6 * size).all()
    assert np.median(gap / swing) < 0.04


def test_a_neuron_that_cannot_be_has_no_points_and_precision_is_rounded_outwards() -> None:
    _, case, ground, planes = case_of(1)
    ends = planes.nothing.clone()
    ends[0, 0, 0], ends[1, 0, 0] = 0.1, 0.1 - 1e-12
    within = ClippedEnds(planes.places, ends)
    task = replace(one_clause(case, -1e6, []), within=within)
    assert bool(Relaxed(ground, task).empty)
    single = within.to(torch.float32)
    assert float(single.ends[0, 0, 0]) < 0.1 - 1e-12 and float(single.ends[1, 0, 0]) > 0.1
    assert Relaxed(ground, task.select(torch.tensor([0, 0]))).empty.tolist() == [True, True]
    row, constant = torch.full((1, N), torch.nan, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    assert torch.isinf(planes.within(task.query, row, constant, planes.nothing)).all()
    huge = torch.full((1, N), 1e300, dtype=torch.float64)
    assert not torch.isnan(planes.within(task.query, huge, constant, planes.nothing)).any()
