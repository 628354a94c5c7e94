"""A network cut at what some inputs reach: both halves together are the network, and the fixed one is fixed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.unit.passes.graphs import RandomGraph
from verifier.graph.check import check_graph
from verifier.graph.enclose import between, enclose
from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Graph, Node
from verifier.passes.flatten_io import flatten_io
from verifier.passes.fuse_affine import multiply_adds
from verifier.passes.partial_evaluation import CutNetwork, partially_evaluated
from verifier.passes.reached import reached
from verifier.passes.simplify import simplify

SEEDS = st.integers(0, 2**32 - 1)
SWAP = {"Sign": "Tanh", "Floor": "Sigmoid", "Round": "Sin"}


def smooth(seed: int, nodes: int) -> Graph:
    """A random graph without jumps, at which rounding would show."""
    graph = RandomGraph(seed, nodes, 1, 2).graph
    assume(all(node.op != "ArgMax" for node in graph.nodes))
    changed = [Node(SWAP.get(n.op, n.op), n.inputs, n.output, n.params, n.attrs, n.source) for n in graph.nodes]
    return flatten_io(Graph(graph.inputs, graph.outputs, tuple(changed), graph.shapes))


def fixed_values(cut: CutNetwork, x: np.ndarray) -> dict[str, np.ndarray]:
    values = evaluate(cut.fixed, {"x": x})
    return {name: values[name] for name in cut.fixed.outputs}


def assert_same(before: np.ndarray, after: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(before).max(initial=0.0)))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-9 * scale)


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, nodes=st.integers(1, 14), some=st.booleans())
def test_both_halves_are_the_network(seed: int, nodes: int, some: bool) -> None:
    graph = smooth(seed, nodes)
    (n,) = graph.shapes["x"]
    rng = np.random.default_rng(seed)
    free = np.sort(rng.permutation(n)[: int(rng.integers(1, n + 1))])
    cut = partially_evaluated(graph, free)
    check_graph(cut.fixed)
    check_graph(cut.rest)
    points = np.repeat(rng.uniform(-2, 2, (1, n)), 4, axis=0)
    points[:, free] = rng.uniform(-2, 2, (4, len(free)))
    other = points.copy()
    other[:, free] = rng.uniform(-2, 2, (4, len(free)))
    given_, same = fixed_values(cut, points), fixed_values(cut, other)
    for name, value in given_.items():
        np.testing.assert_array_equal(value, same[name])
    # some of the fixed values as constants, the others as inputs
    constant = {name: value[0] for k, (name, value) in enumerate(given_.items()) if some and k % 2 == 0}
    joined = cut.joined(constant)
    parts = [value.reshape(4, -1) for name, value in given_.items() if name not in constant]
    inputs = np.concatenate([points[:, free], *parts], axis=1)
    expected = evaluate(graph, {"x": points})["y"]
    for candidate in (joined, simplify(joined)):
        check_graph(candidate)
        assert_same(expected, evaluate(candidate, {"x": inputs})["y"])


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS, nodes=st.integers(1, 14))
def test_what_is_not_reached_does_not_move(seed: int, nodes: int) -> None:
    graph = smooth(seed, nodes)
    (n,) = graph.shapes["x"]
    rng = np.random.default_rng(seed)
    free = rng.permutation(n)[: int(rng.integers(1, n + 1))]
    points = np.repeat(rng.uniform(-2, 2, (1, n)), 6, axis=0)
    points[:, free] = rng.uniform(-2, 2, (6, len(free)))
    values = evaluate(graph, {"x": points})
    for name, mask in reached(graph, free).items():
        value = values[name]
        assert not (np.ptp(value, axis=0) > 1e-9 * np.abs(value).max(initial=1.0))[~mask].any()


def rows_of_a_set(rng: np.random.Generator) -> Graph:
    """A network of the kind that reads sets: the rows of a (6, 5) input through the same two layers, weighted, averaged
    and through two more."""
    first, second, third, last = (rng.normal(size=size) for size in ((8, 4), (8, 8), (8, 8), (1, 8)))
    nodes = (
        Node("Reshape", ("x",), "rows"),
        Node("Slice", ("rows",), "values", attrs={"axis": 1, "start": 0, "stop": 4, "step": 1}),
        Node("Slice", ("rows",), "weights", attrs={"axis": 1, "start": 4, "stop": 5, "step": 1}),
        Node("Dense", ("values",), "a", {"weight": first}),
        Node("Relu", ("a",), "b"),
        Node("Dense", ("b",), "c", {"weight": second, "bias": rng.normal(size=8)}),
        Node("Relu", ("c",), "d"),
        Node("Expand", ("weights",), "e"),
        Node("Mul", ("d", "e"), "f"),
        Node("ReduceSum", ("f",), "g", attrs={"axes": (0,)}),
        Node("Dense", ("g",), "h", {"weight": third}),
        Node("Relu", ("h",), "i"),
        Node("Dense", ("i",), "y", {"weight": last}),
    )
    sizes = {"x": (30,), "rows": (6, 5), "values": (6, 4), "weights": (6, 1), "e": (6, 8), "g": (8,), "h": (8,)}
    rest = {"a": (6, 8), "b": (6, 8), "c": (6, 8), "d": (6, 8), "f": (6, 8), "i": (8,), "y": (1,)}
    return Graph(("x",), ("y",), nodes, {**sizes, **rest})


def test_one_varying_row_of_a_set_leaves_the_work_of_one_row() -> None:
    graph = rows_of_a_set(np.random.default_rng(3))
    cut = partially_evaluated(graph, np.array([11, 13]))  # in the third row
    # 2 columns of the first layer, one row of the second, the third and the last; additions beside them
    products = 8 * 2 + 8 * 8 + 8 * 8 + 8
    assert products <= multiply_adds(cut.rest) <= products + 4 * 8
    assert multiply_adds(graph) == 6 * (8 * 4 + 8 * 8) + 6 * 8 + 8 * 8 + 8


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, nodes=st.integers(1, 12))
def test_enclosures_of_inputs_that_are_not_exact_hold_everything_between(seed: int, nodes: int) -> None:
    graph = smooth(seed, nodes)
    rng = np.random.default_rng(seed)
    low = rng.uniform(-2, 2, (2, graph.n_inputs))
    high = low + rng.choice([0.0, 1e-9, 1e-3], size=low.shape)
    known = enclose(graph, {"x": between(low, high)})
    for share in (0.0, 1.0, *rng.random(5)):
        values = evaluate(graph, {"x": low * (1 - share) + high * share})
        for name, (value, error) in known.items():
            slack = 1e-12 * np.maximum(1.0, np.abs(value))
            assert (np.abs(values[name] - value) <= error + slack).all(), name


@pytest.mark.parametrize("free", [[], [0, 0], [-1], [30], [[1]]])
def test_refuses_bad_coordinates(free: list[int]) -> None:
    graph = rows_of_a_set(np.random.default_rng(0))
    with pytest.raises(ValueError, match="free must hold distinct coordinates"):
        partially_evaluated(graph, np.array(free, dtype=np.int64))
