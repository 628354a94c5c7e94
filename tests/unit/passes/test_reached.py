"""Which elements depend on which inputs: those that move when the inputs do."""

from __future__ import annotations

import numpy as np
import pytest

from tests.strategies import PictureBuilder
from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Graph
from verifier.passes.reached import reached


def pictures(seed: int, sparse: bool) -> Graph:
    """Convolutions with strides, dilation, padding and groups, and dense layers, some weights of which may be 0."""
    g = PictureBuilder(2 * 8 * 7, seed)
    value = g.bent(g.filtered(g.pad(g.picture(2, 8, 7), (0, 1), (1, 0)), 4), "Tanh")
    value = g.bent(g.filtered(value, 4, kernel=2, stride=2, padding=0), "Tanh")
    value = g.sum(value, g.filtered(value, 4, dilation=2, padding=2, groups=2))
    value = g.filtered(value, 2, kernel=1, padding=0)
    size = int(np.prod(g.shapes[value]))
    value = g.add("Reshape", (value,), (2, size // 2))
    value = g.add("Dense", (value,), (2, 3), params={"weight": g.rng.normal(size=(3, size // 2))})
    graph = g.finish(g.add("Reshape", (value,), (6,)), 2)
    if sparse:
        for node in graph.nodes:
            if "weight" in node.params:
                node.params["weight"][g.rng.random(node.params["weight"].shape) < 0.6] = 0.0
    return graph


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_what_is_reached_is_what_moves(seed: int, sparse: bool) -> None:
    graph = pictures(seed, sparse)
    (name,), rng = graph.inputs, np.random.default_rng(seed)
    free = rng.choice(graph.n_inputs, 2, replace=False)
    points = np.repeat(rng.normal(size=(1, graph.n_inputs)), 6, axis=0)
    points[:, free] = rng.normal(size=(6, 2))
    found, values = reached(graph, free), evaluate(graph, {name: points})
    assert found.keys() == values.keys()
    still = 0
    for slot, value in values.items():
        moves = (np.abs(value - value[0]) > 1e-13).any(0)
        np.testing.assert_array_equal(found[slot], moves, err_msg=slot)
        still += int((~moves).sum())
    assert still > 30
