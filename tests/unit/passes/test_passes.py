"""Every pass keeps the function: random graphs, evaluated before and after."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.models import convnet, mlp, outputs_of, random_inputs
from tests.unit.passes.graphs import RandomGraph
from verifier.graph.check import check_graph
from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Graph, Node
from verifier.graph.onnx_import import load_model
from verifier.graph.operators import OPERATORS
from verifier.passes.clip_pattern import clip_pattern
from verifier.passes.drop_identity import drop_identity
from verifier.passes.flatten_io import flatten_io
from verifier.passes.fold_constants import fold_constants
from verifier.passes.fold_fixed_inputs import fold_fixed_inputs
from verifier.passes.fuse_affine import fuse_affine
from verifier.passes.lift_scalars import lift_scalars
from verifier.passes.maxima_as_relus import maxima_as_relus
from verifier.passes.merge_affine import merge_affine
from verifier.passes.opposite_relus import opposite_relus
from verifier.passes.prune_outputs import prune_outputs
from verifier.passes.simplify import simplify
from verifier.passes.sparse_dense import sparse_dense
from verifier.passes.spline_pattern import spline_pattern

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 14)
PASSES = (
    flatten_io,
    drop_identity,
    fold_constants,
    clip_pattern,
    spline_pattern,
    merge_affine,
    fuse_affine,
    opposite_relus,
    simplify,
)


def assert_same(before: np.ndarray, after: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(before).max(initial=0.0)))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-9 * scale)


def flat(graph: Graph, points: np.ndarray) -> np.ndarray:
    return evaluate(graph, {"x": points})["y"]


def steps(graph: Graph) -> bool:
    """Whether rounding can make a visible difference."""
    return any(node.op in ("Sign", "Floor") for node in graph.nodes)


def smooth(seed: int, nodes: int, inputs: int = 1, outputs: int = 1) -> Graph:
    """A random graph whose step functions are replaced, so that a rounding error stays small; none with an ArgMax,
    where it breaks ties."""
    graph = RandomGraph(seed, nodes, inputs, outputs).graph
    assume(all(node.op != "ArgMax" for node in graph.nodes))
    swap = {"Sign": "Tanh", "Floor": "Sigmoid", "Round": "Sin"}
    changed = [Node(swap.get(n.op, n.op), n.inputs, n.output, n.params, n.attrs, n.source) for n in graph.nodes]
    return Graph(graph.inputs, graph.outputs, tuple(changed), graph.shapes)


@pytest.mark.parametrize("rewrite", PASSES, ids=lambda one: one.__name__)
@settings(max_examples=200, deadline=None)
@given(seed=SEEDS, nodes=SIZES, inputs=st.integers(1, 2), outputs=st.integers(1, 3))
def test_keeps_the_function(
    rewrite: Callable[[Graph], Graph], seed: int, nodes: int, inputs: int, outputs: int
) -> None:
    graph = smooth(seed, nodes, inputs, outputs)
    check_graph(graph)
    values = random_inputs(graph, np.random.default_rng(seed), points=4)
    expected = outputs_of(graph, values)
    after = rewrite(graph)
    check_graph(after)
    if rewrite is flatten_io:
        assert (after.inputs, after.outputs) == (("x",), ("y",))
        assert (after.shapes["x"], after.shapes["y"]) == ((graph.n_inputs,), (graph.n_outputs,))
        values = {"x": np.concatenate([values[name].reshape(4, -1) for name in graph.inputs], axis=1)}
    else:
        assert (after.inputs, after.outputs) == (graph.inputs, graph.outputs)
        assert all(after.shapes[name] == graph.shapes[name] for name in (*graph.inputs, *graph.outputs))
    assert_same(expected, outputs_of(after, values))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, nodes=SIZES)
def test_simplify_is_a_fixed_point_and_never_grows(seed: int, nodes: int) -> None:
    once = simplify(RandomGraph(seed, nodes).graph)
    twice = simplify(once)
    assert [node.op for node in twice.nodes] == [node.op for node in once.nodes]


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, nodes=SIZES, inputs=st.integers(1, 2), contiguous=st.booleans())
def test_fixing_inputs_is_restriction(seed: int, nodes: int, inputs: int, contiguous: bool) -> None:
    graph = flatten_io(smooth(seed, nodes, inputs, 2))
    (n,) = graph.shapes["x"]
    rng = np.random.default_rng(seed)
    free = rng.permutation(n)[: int(rng.integers(1, n + 1))]
    if contiguous:
        free = np.arange(int(free.min()), int(free.min()) + max(1, min(3, n - int(free.min()))))
    values = rng.uniform(-2, 2, n)
    small = fold_fixed_inputs(graph, free, values)
    check_graph(small)
    assert small.shapes["x"] == (len(free),)
    points = np.repeat(values[None], 5, axis=0)
    points[:, free] = rng.uniform(-2, 2, (5, len(free)))
    for candidate in (small, simplify(small)):
        check_graph(candidate)
        assert_same(flat(graph, points), flat(candidate, points[:, free]))


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, nodes=SIZES, outputs=st.integers(1, 2))
def test_pruning_outputs_is_selection(seed: int, nodes: int, outputs: int) -> None:
    graph = flatten_io(smooth(seed, nodes, 1, outputs))
    rng = np.random.default_rng(seed)
    keep = rng.integers(graph.n_outputs, size=int(rng.integers(1, 6)))
    points = rng.uniform(-2, 2, (4, graph.n_inputs))
    small = prune_outputs(graph, keep)
    for candidate in (small, simplify(small), prune_outputs(simplify(graph), keep)):
        check_graph(candidate)
        assert candidate.shapes["y"] == (len(keep),)
        assert_same(flat(graph, points)[:, keep], flat(candidate, points))


def test_scalars_become_vectors_of_one_element() -> None:
    """In random graphs with values of rank 0, of which there are many."""
    met: set[str] = set()
    for seed in range(120):
        graph = flatten_io(RandomGraph(seed, 14).graph)
        met |= {node.op for node in graph.nodes if () in [graph.shapes[name] for name in (*node.inputs, node.output)]}
        lifted = lift_scalars(graph)
        check_graph(lifted)
        assert all(lifted.shapes.values())
        points = np.random.default_rng(seed).uniform(-2, 2, (4, graph.n_inputs))
        assert_same(flat(graph, points), flat(lifted, points))
    assert {"ReduceSum", "ReduceMax", "LogSumExp", "Scale", "Relu"} <= met, met


def test_random_graphs_reach_every_operator() -> None:
    seen = {node.op for seed in range(400) for node in RandomGraph(seed, 14).graph.nodes}
    assert seen == set(OPERATORS)


# -- what each pass is for --------------------------------------------------------------------------------------------


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def chain(shape: tuple[int, ...], *nodes: tuple[str, dict, dict, tuple[int, ...]]) -> Graph:
    """x -> v0 -> v1 -> ... -> y, each (op, params, attrs, shape)."""
    names = ["x", *(f"v{k}" for k in range(len(nodes) - 1)), "y"]
    made = tuple(Node(op, (names[k],), names[k + 1], p, a) for k, (op, p, a, _) in enumerate(nodes))
    shapes = {"x": shape, **{name: one[3] for name, one in zip(names[1:], nodes, strict=True)}}
    return Graph(("x",), ("y",), made, shapes)


def scalar(value: float) -> np.ndarray:
    return np.array(float(value))


@pytest.mark.parametrize(
    ("offset", "expected"), [(1.5, ["Clip", "Scale", "Shift"]), (-0.5, ["Relu", "Scale", "Shift", "Relu"])]
)
def test_saturation_becomes_a_clip_only_where_that_is_true(offset: float, expected: list[str]) -> None:
    s = (4,)
    minus, plus = ("Scale", {"factor": scalar(-1)}, {}, s), ("Shift", {"offset": scalar(offset)}, {}, s)
    graph = chain(s, ("Relu", {}, {}, s), minus, plus, ("Relu", {}, {}, s))
    assert ops(clip_pattern(graph)) == expected
    points = np.linspace(-3, 3, 40).reshape(10, 4)
    assert_same(flat(graph, points), flat(clip_pattern(graph), points))


def test_one_minus_relu_of_one_minus_relu_is_a_single_clip() -> None:
    s = (4,)
    one_minus = [("Scale", {"factor": scalar(-1)}, {}, s), ("Shift", {"offset": scalar(1)}, {}, s)]
    graph = chain(s, ("Relu", {}, {}, s), *one_minus, ("Relu", {}, {}, s), *one_minus)
    (clip,) = simplify(graph).nodes
    assert (clip.op, clip.attrs["min"], clip.attrs["max"]) == ("Clip", 0.0, 1.0)


@pytest.mark.parametrize("step", [1.0, -1.0])
def test_difference_of_relus_is_a_single_clip(step: float) -> None:
    shifted = Node("Shift", ("x",), "s", {"offset": scalar(-step)})
    nodes = (Node("Relu", ("x",), "a"), shifted, Node("Relu", ("s",), "b"), Node("Sub", ("a", "b"), "y"))
    graph = Graph(("x",), ("y",), nodes, dict.fromkeys("xasby", (5,)))
    assert "Clip" in ops(simplify(graph)) and "Relu" not in ops(simplify(graph))
    points = np.linspace(-3, 3, 50).reshape(10, 5)
    assert_same(flat(graph, points), flat(simplify(graph), points))


@pytest.mark.parametrize(("size", "steps"), [(1, 0), (2, 1), (3, 2), (4, 2), (9, 4)])
@pytest.mark.parametrize("between", [False, True], ids=("adjacent", "moves between"))
def test_maxima_of_relus_are_one_relu_of_pairwise_maxima(size: int, steps: int, between: bool) -> None:
    shape = (size, 4) if between else (4, size)
    turned = [("Transpose", {}, {"perm": (1, 0)}, (4, size))] if between else []
    graph = chain(shape, ("Relu", {}, {}, shape), *turned, ("ReduceMax", {}, {"axis": 1}, (4,)))
    found = ops(maxima_as_relus(graph))
    assert "ReduceMax" not in found and found.count("Relu") == 1 + steps
    points = np.random.default_rng(size).normal(size=(50, *shape))
    before, after = (evaluate(one, {"x": points})["y"] for one in (graph, maxima_as_relus(graph)))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-14)


def ramps(knots: np.ndarray, weight: np.ndarray, bias: np.ndarray, read: bool = False) -> Graph:
    """x (4, 1) repeated, relu(x - knots), their weighted sum; with `read` the ReLUs are an output as well."""
    shapes = {"x": (4, 1), "e": (4, 3), "s": (4, 3), "r": (4, 3), "y": (4, 1)}
    nodes = (
        Node("Expand", ("x",), "e"),
        Node("Shift", ("e",), "s", {"offset": -knots}),
        Node("Relu", ("s",), "r"),
        Node("Dense", ("r",), "y", {"weight": weight[None], "bias": bias}),
    )
    return Graph(("x",), ("y", "r") if read else ("y",), nodes, shapes)


@pytest.mark.parametrize("count", [1, 3], ids=("one knot", "three"))
def test_ramps_of_one_variable_are_a_spline(count: int) -> None:
    graph = ramps(np.array([2.0, -1.0, 0.5])[:count], np.array([1.0, -3.0, 2.5]), np.array([0.25]))
    assert ops(spline_pattern(graph)) == ["Spline", "Shift"] and "Relu" not in ops(simplify(graph))
    points = np.linspace(-3, 3, 40).reshape(10, 4, 1)
    assert_same(flat(graph, points), flat(spline_pattern(graph), points))


def test_ramps_that_something_else_reads_or_of_several_outputs_stay() -> None:
    knots, weight = np.array([2.0, -1.0, 0.5]), np.array([1.0, -3.0, 2.5])
    assert "Spline" not in ops(spline_pattern(ramps(knots, weight, np.zeros(1), read=True)))
    assert "Spline" not in ops(spline_pattern(ramps(1e200 * knots, weight, np.zeros(1))))  # no float32 numbers
    graph = ramps(knots, weight, np.zeros(1))
    two = Node("Dense", ("r",), "y", {"weight": np.stack([weight, -weight])})
    graph = Graph(("x",), ("y",), (*graph.nodes[:-1], two), {**graph.shapes, "y": (4, 2)})
    assert "Spline" not in ops(spline_pattern(graph))


def test_nested_clips_merge_and_contradictions_are_constant() -> None:
    s = (2,)
    graph = chain(
        s, ("Clip", {}, {"min": -1.0, "max": 5.0}, s), ("Relu", {}, {}, s), ("Clip", {}, {"min": -3.0, "max": 2.0}, s)
    )
    (clip,) = simplify(graph).nodes
    assert (clip.attrs["min"], clip.attrs["max"]) == (0.0, 2.0)
    graph = chain(s, ("Relu", {}, {}, s), ("Clip", {}, {"min": -2.0, "max": -1.0}, s))
    (constant,) = simplify(graph).nodes
    assert constant.op == "Constant" and (constant.params["value"] == -1).all()


def test_affine_chain_on_a_small_input_becomes_one_dense() -> None:
    rng = np.random.default_rng(0)
    graph = flatten_io(load_model(convnet(rng)).graph)
    (n,) = graph.shapes["x"]
    small = simplify(fold_fixed_inputs(graph, np.array([5, 17, 90]), rng.uniform(size=n)))
    first = next(node for node in small.nodes if node.op != "Reshape")
    assert first.op == "Dense" and first.params["weight"].shape == (4 * 64, 3)
    assert "Conv" in first.source and "fixed inputs" in first.source
    # the fixed inputs seen through the convolution are rounded, and say so
    assert 0 < first.params["bias_error"].max() < 1e-13


def test_a_batch_normalisation_goes_into_the_convolution_and_says_what_was_rounded() -> None:
    """Its factor is off by up to 3 roundings, the product with a weight by one more, and the bias carries an error."""
    graph = simplify(flatten_io(load_model(convnet(np.random.default_rng(0))).graph))
    assert [op for op in ops(graph) if op != "Reshape"][:2] == ["Conv", "Relu"]
    conv = next(node for node in graph.nodes if node.op == "Conv")
    assert conv.params["roundings"] == 4
    assert (conv.params["bias_error"] > 0).all() and conv.params["bias_error"].max() < 1e-13


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("before", ["Scale", "Shift"])
def test_factors_and_offsets_around_convolutions(op: str, groups: int, padding: int, before: str) -> None:
    """A factor before always goes in, an offset only where no padding sees it; after, both do."""
    rng = np.random.default_rng(0)

    def short(*size: int) -> np.ndarray:
        """Numbers of a few bits, whose products are exact."""
        return rng.integers(-20, 21, size) / 8 + 1 / 16

    shape, extra = (1, 4, 5), {"output_padding": (0,)} if op == "ConvTranspose" else {}
    weight = short(*((6, 4 // groups, 3) if op == "Conv" else (4, 6 // groups, 3)))
    out = (1, 6, 5 - 2 + 2 * padding if op == "Conv" else 5 + 2 - 2 * padding)
    attrs = {"stride": (1,), "padding": (padding,), "dilation": (1,), "groups": groups, **extra}
    name = {"Scale": "factor", "Shift": "offset"}
    graph = chain(
        shape,
        (before, {name[before]: short(4, 1)}, {}, shape),
        (op, {"weight": weight, "bias": short(6)}, attrs, out),
        ("Scale", {"factor": short(1, 6, 1)}, {}, out),
        ("Shift", {"offset": short(6, 1)}, {}, out),
    )
    check_graph(graph)
    after = merge_affine(graph)
    check_graph(after)
    points = rng.normal(size=(3, *shape))
    assert_same(flat(graph, points), flat(after, points))
    merged = before == "Scale" or (op == "Conv" and padding == 0)
    assert ops(after) == ([op] if merged else ["Shift", op])


def test_mlp_has_one_dense_per_layer() -> None:
    graph = simplify(flatten_io(load_model(mlp([5, 8, 8, 2], np.random.default_rng(0))).graph))
    assert [op for op in ops(graph) if op != "Reshape"] == ["Dense", "Relu", "Dense", "Relu", "Dense"]


def test_a_small_source_takes_repetition_and_subtraction_as_one_dense() -> None:
    """The differences x_j - x_i of a softmax, which cost less as they are: one exact map bounds them better."""
    nodes = (
        Node("Tanh", ("x",), "t"),
        Node("Reshape", ("t",), "column"),
        Node("Reshape", ("t",), "row"),
        Node("Expand", ("column",), "a"),
        Node("Expand", ("row",), "b"),
        Node("Sub", ("a", "b"), "d"),
        Node("Exp", ("d",), "e"),
        Node("Reshape", ("e",), "y"),
    )
    shapes = {"x": (5,), "t": (5,), "column": (5, 1), "row": (1, 5), "y": (25,), **dict.fromkeys("abde", (5, 5))}
    graph = Graph(("x",), ("y",), nodes, shapes)
    assert [op for op in ops(simplify(graph)) if op != "Reshape"] == ["Tanh", "Dense", "Exp"]


def test_minimum_with_four_relus_keeps_one() -> None:
    """min(a, b) = (relu(a + b) - relu(-a - b) - relu(a - b) - relu(b - a)) / 2, as lattice networks have it."""
    inner = np.array([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    outer = np.array([[0.5, -0.5, -0.5, -0.5]])
    graph = chain(
        (2,), ("Tanh", {}, {}, (2,)), ("Dense", {"weight": inner}, {}, (4,)), ("Relu", {}, {}, (4,)),
        ("Dense", {"weight": outer}, {}, (1,)),
    )  # fmt: skip
    small = opposite_relus(graph)
    check_graph(small)
    (relu,) = [node for node in small.nodes if node.op == "Relu"]
    assert small.shapes[relu.output] == (1,)
    points = np.random.default_rng(0).normal(size=(50, 2)) * 3
    assert_same(np.tanh(points).min(axis=1)[:, None], flat(small, points))
    assert_same(np.tanh(points).min(axis=1)[:, None], flat(simplify(graph), points))


def test_neurons_that_nearly_mirror_each_other_stay() -> None:
    inner = np.array([[1.0, 1.0], [-1.0, np.nextafter(-1.0, 0.0)], [1.0, -1.0], [-1.0, 2.0]])
    graph = chain((2,), ("Dense", {"weight": inner}, {}, (4,)), ("Relu", {}, {}, (4,)),
                  ("Dense", {"weight": np.ones((1, 4))}, {}, (1,)))  # fmt: skip
    assert ops(opposite_relus(graph)) == ["Dense", "Relu", "Dense"]


@pytest.mark.parametrize("entries", [1, 2, 4])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("lead", [(), (1,), (2,)])
def test_sparse_dense_becomes_selections(entries: int, bias: bool, lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(entries)
    weight = np.zeros((90, 100))
    for row in weight:
        row[rng.choice(100, int(rng.integers(0, entries + 1)), replace=False)] = rng.choice([1.0, -1.0, 0.5])
    weight[0] = np.where(np.arange(100) < entries, -1.0, 0.0)
    params = {"weight": weight, **({"bias": rng.normal(size=90)} if bias else {})}
    graph = chain((*lead, 100), ("Dense", params, {}, (*lead, 90)))
    after = sparse_dense(graph)
    check_graph(after)
    assert "Dense" not in ops(after) and ops(after).count("Take") == entries
    points = rng.normal(size=(3, *lead, 100))
    assert_same(flat(graph, points), flat(after, points))
    assert "Dense" not in ops(simplify(graph))


@pytest.mark.parametrize(("rows", "columns", "entries"), [(90, 100, 5), (90, 60, 1), (50, 100, 1)])
def test_dense_that_is_not_sparse_large_and_wide_stays(rows: int, columns: int, entries: int) -> None:
    weight = np.zeros((rows, columns))
    weight[:, :entries] = 2.0
    graph = chain((columns,), ("Dense", {"weight": weight}, {}, (rows,)))
    assert ops(sparse_dense(graph)) == ["Dense"]


def test_movement_alone_is_not_turned_into_arithmetic() -> None:
    graph = chain(
        (2, 3),
        ("Transpose", {}, {"perm": (1, 0)}, (3, 2)),
        ("Slice", {}, {"axis": 0, "start": 1, "stop": 3, "step": 1}, (2, 2)),
    )
    assert ops(simplify(graph)) == ["Transpose", "Slice"]


def test_branches_of_fixed_inputs_become_constants() -> None:
    weight = np.random.default_rng(0).normal(size=(2, 2))
    nodes = (
        Node("Slice", ("x",), "a", attrs={"axis": 0, "start": 0, "stop": 2, "step": 1}),
        Node("Slice", ("x",), "b", attrs={"axis": 0, "start": 2, "stop": 4, "step": 1}),
        Node("Dense", ("a",), "da", {"weight": weight}),
        Node("Sigmoid", ("da",), "sa"),
        Node("Tanh", ("b",), "tb"),
        Node("Mul", ("sa", "tb"), "y"),
    )
    graph = Graph(("x",), ("y",), nodes, {"x": (4,), **dict.fromkeys(("a", "b", "da", "sa", "tb", "y"), (2,))})
    small = simplify(fold_fixed_inputs(graph, np.array([2, 3]), np.array([0.3, -0.2, 9.0, 9.0])))
    assert ops(small) == ["Constant", "Tanh", "Mul"]  # sigmoid(c) is no float64 number: known to within an error
    assert 0 < small.nodes[0].params["bias_error"].max() < 1e-14


def test_outputs_that_are_not_read_cost_nothing() -> None:
    graph = flatten_io(load_model(mlp([4, 6, 50], np.random.default_rng(0))).graph)
    small = simplify(prune_outputs(graph, np.array([7, 3])))
    assert small.nodes[-1].params["weight"].shape == (2, 6)


def test_deep_graphs_do_not_exhaust_the_stack() -> None:
    shape = (3,)
    steps_ = [("Sin", {}, {}, shape), ("Scale", {"factor": np.array([1.0, 2.0, 0.5])}, {}, shape)] * 800
    graph = chain(shape, *steps_)
    small = simplify(prune_outputs(graph, np.array([1])))
    check_graph(small)
    points = np.random.default_rng(0).normal(size=(2, 3))
    assert_same(flat(graph, points)[:, 1:2], flat(small, points))


def test_dead_hidden_work_disappears_with_the_outputs() -> None:
    nodes = (Node("Relu", ("x",), "r"), Node("Exp", ("x",), "e"), Node("Concat", ("r", "e"), "y", attrs={"axis": 0}))
    graph = Graph(("x",), ("y",), nodes, {"x": (3,), "r": (3,), "e": (3,), "y": (6,)})
    assert ops(simplify(prune_outputs(graph, np.array([1, 2])))) == ["Slice", "Relu"]


@pytest.mark.parametrize("free", [[], [0, 0], [-1], [4], [[1]]])
def test_fixing_refuses_bad_coordinates(free: list[int]) -> None:
    graph = chain((4,), ("Relu", {}, {}, (4,)))
    with pytest.raises(ValueError, match="free must hold"):
        fold_fixed_inputs(graph, np.array(free, dtype=np.int64), np.zeros(4))


def test_passes_refuse_graphs_that_are_not_flat() -> None:
    graph = chain((2, 2), ("Relu", {}, {}, (2, 2)))
    with pytest.raises(ValueError, match="flatten_io"):
        fold_fixed_inputs(graph, np.array([0]), np.zeros(4))
    with pytest.raises(ValueError, match="flatten_io"):
        prune_outputs(graph, np.array([0]))
    flat_graph = flatten_io(graph)
    with pytest.raises(ValueError, match="values has shape"):
        fold_fixed_inputs(flat_graph, np.array([0]), np.zeros(3))
    for keep in ([], [4], [-1]):
        with pytest.raises(ValueError, match="keep must hold"):
            prune_outputs(flat_graph, np.array(keep, dtype=np.int64))


def test_values_called_x_and_y_do_not_clash() -> None:
    nodes = (Node("Relu", ("y",), "x"), Node("Exp", ("x",), "z"))
    graph = Graph(("y",), ("z", "x"), nodes, {"y": (2,), "x": (2,), "z": (2,)})
    after = flatten_io(graph)
    check_graph(after)
    points = np.array([[-1.0, 2.0]])
    assert_same(outputs_of(graph, {"y": points}), flat(after, points))


def test_opaque_nodes_survive() -> None:
    nodes = (Node("Opaque", ("x",), "o", attrs={"op_type": "ArgMax", "opset": 13}), Node("Reshape", ("o",), "y"))
    graph = Graph(("x",), ("y",), nodes, {"x": (3,), "o": (1,), "y": (1,)})
    assert ops(simplify(graph)) == ["Opaque"]
    check_graph(fold_fixed_inputs(graph, np.array([1]), np.zeros(3)))
