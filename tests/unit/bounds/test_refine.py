"""Refined intervals against sampling, the triangle LP, and the intervals that they replace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import oracles
from tests.strategies import build as random_graph
from tests.unit.bounds.cases import boxes
from verifier.bounds.network import build
from verifier.bounds.refine import refine
from verifier.bounds.relaxed import Ground
from verifier.bounds.sweep import Method
from verifier.budget import never


@pytest.mark.parametrize("seed", range(6))
def test_refined_intervals_hold_and_lie_between_the_programme_and_crown(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kinds = ["dense", "relu", "residual" if seed % 2 else "dense", "relu", "dense", "relu"]
    graph = random_graph(4, 2, kinds, seed, 8)
    low = rng.normal(size=(1, 4))
    case = boxes(graph, low, low + 0.2 + rng.random((1, 4)))
    ground = Ground.of(case.network, case.sweep(Method(affine=False, rows=True)))
    fast = build(graph, torch.float32, case.network.device)
    chosen = {}
    for i in case.network.relus:
        x = ground.pre[i][0]
        chosen[i] = ((x.lower < 0) & (x.upper > 0)).flatten(1).nonzero()
    found = refine(ground, fast, case.lower, case.upper, chosen, 16, never)
    names = {i: node.inputs[0] for i, node in enumerate(graph) if node.op == "Relu"}
    points = oracles.sample(low[0], case.upper[0].numpy(), 200, rng)
    values = [oracles.evaluate_all(graph, point) for point in points]
    gained = 0.0
    for i, name in names.items():
        below, above = (t.flatten().numpy() for t in found[i][0])
        was_below, was_above = (t.flatten().numpy() for t in ground.pre[i][0])
        z = np.stack([value[name].ravel() for value in values])
        assert (below <= z.min(0)).all() and (z.max(0) <= above).all()
        assert (was_below <= below).all() and (above <= was_above).all()
        gained += float((was_above - was_below - above + below).sum())
    later = list(names)[-1]
    if len(chosen[later]):
        assert gained > 0
    nothing = refine(ground, fast, case.lower, case.upper, chosen, 16, lambda: True)
    for i in names:
        torch.testing.assert_close(nothing[i][0].lower, ground.pre[i][0].lower, rtol=0, atol=0)
