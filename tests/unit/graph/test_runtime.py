"""The ONNX Runtime wrapper, and the comparison that runs at load."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.models import build, convnet, mlp
from verifier.budget import OutOfTime
from verifier.errors import ModelError, UnsoundError
from verifier.graph.ir import Graph, Node
from verifier.graph.onnx_import import Model, load_model
from verifier.passes.flatten_io import flatten_io
from verifier.passes.simplify import simplify
from verifier.problem import runtime
from verifier.problem.runtime import Session, compare, compare_index

RNG = np.random.default_rng(5)
node = helper.make_node


def reference(data: bytes, point: np.ndarray) -> np.ndarray:
    return _reference_model(data).run(None, {"x": point.astype(np.float32)[None]})[0].reshape(-1)


def _reference_model(data: bytes) -> Any:
    from onnx.reference import ReferenceEvaluator

    return ReferenceEvaluator(data)


def test_points_are_run_one_by_one_or_in_batches_with_the_same_result() -> None:
    data = mlp([3, 7, 2], RNG)
    points = RNG.normal(size=(2100, 3))
    session = Session(load_model(data))
    batched = session.run(points)
    assert batched.shape == (2100, 2) and batched.dtype == np.float64
    single = np.concatenate([Session(load_model(data)).run(point[None]) for point in points[:20]])
    np.testing.assert_allclose(batched[:20], single, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(single[0], reference(data, points[0]), rtol=1e-5, atol=1e-6)
    assert session.run(np.zeros((0, 3))).shape == (0, 2)


def test_a_batch_that_mixes_its_points_is_not_used() -> None:
    """The network subtracts the mean over axis 0: batching would change the answer."""
    nodes = [node("ReduceMean", ["x"], ["m"], axes=[0]), node("Sub", ["x", "m"], ["d"]), node("Add", ["d", "x"], ["y"])]
    model = load_model(build(nodes, {"x": ("n", 3)}, ["y"]))
    points = RNG.normal(size=(5, 3))
    np.testing.assert_allclose(Session(model).run(points), points, atol=1e-6)


def test_a_batch_that_the_network_cannot_take_is_not_used() -> None:
    nodes = [node("Reshape", ["x", "s"], ["r"]), node("MatMul", ["r", "w"], ["y"])]
    data = build(nodes, {"x": ("n", 4)}, ["y"], {"s": np.array([1, 4]), "w": RNG.normal(size=(4, 2))})
    points = RNG.normal(size=(3, 4))
    np.testing.assert_allclose(
        Session(load_model(data)).run(points)[2], reference(data, points[2]), rtol=1e-5, atol=1e-6
    )


def test_several_inputs_and_outputs_are_split_and_joined_in_order() -> None:
    nodes = [node("Relu", ["b"], ["r"]), node("Neg", ["a"], ["s"])]
    model = load_model(build(nodes, {"a": (1, 2), "b": (3,)}, ["r", "s"]))
    got = Session(model).run(np.array([[1.0, -2.0, 3.0, -4.0, 5.0]]))
    assert got.tolist() == [[3.0, 0.0, 5.0, -1.0, 2.0]]
    assert compare(model, flatten_io(model.graph), RNG.normal(size=(3, 5))) < 1e-6


def test_errors_are_model_errors() -> None:
    model = load_model(mlp([3, 4, 2], RNG))
    with pytest.raises(ModelError, match=r"expected \(M, 3\)"):
        Session(model).run(np.zeros((1, 4)))
    with pytest.raises(ModelError, match="cannot load"):
        Session(replace(model, bytes=b"\x08\x07")).run(np.zeros((1, 3)))


def test_a_newer_file_format_is_no_obstacle() -> None:
    proto = onnx.ModelProto.FromString(mlp([3, 4, 2], RNG))
    proto.ir_version = 99
    model = load_model(proto.SerializeToString())
    assert Session(model).run(np.ones((1, 3))).shape == (1, 2)


def test_opaque_networks_can_be_run_but_not_compared() -> None:
    nodes = [node("Hardmax", ["x"], ["y"], axis=1)]
    model = load_model(build(nodes, {"x": (1, 3)}, ["y"]))
    assert Session(model).run(np.array([[0.0, 5.0, 1.0]])).tolist() == [[0.0, 1.0, 0.0]]
    with pytest.raises(ModelError, match="Hardmax"):
        compare(model, model.graph, np.zeros((1, 3)))


@pytest.mark.parametrize("build_model", [lambda: convnet(RNG), lambda: mlp([5, 9, 9, 3], RNG, "Tanh")])
def test_comparison_accepts_imported_and_simplified_graphs(build_model: Any) -> None:
    model = load_model(build_model())
    points = RNG.uniform(0, 1, (4, model.graph.n_inputs))
    assert compare(model, model.graph, points) < 1e-4
    assert compare(model, simplify(flatten_io(model.graph)), points) < 1e-4


def damaged(graph: Graph, output: str) -> Graph:
    """The graph with the parameters of one node changed by one percent."""
    nodes = [
        Node(n.op, n.inputs, n.output, {k: v * 1.01 for k, v in n.params.items()}, n.attrs, n.source)
        if n.output == output
        else n
        for n in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))


@pytest.mark.parametrize(("output", "name"), [("h1", "conv1"), ("h2", "bn"), ("h5", "conv2"), ("y", "fc")])
def test_comparison_names_the_first_node_that_differs(output: str, name: str) -> None:
    model = load_model(convnet(RNG))
    bad: Model = replace(model, graph=damaged(model.graph, output))
    with pytest.raises(UnsoundError, match=f"first at node '{name}'"):
        compare(bad, bad.graph, RNG.uniform(0, 1, (3, 128)))


def test_comparison_blames_the_simplification_where_the_import_agrees() -> None:
    model = load_model(convnet(RNG))
    with pytest.raises(UnsoundError, match="simplification"):
        compare(model, damaged(model.graph, "h5"), RNG.uniform(0, 1, (3, 128)))


def test_a_network_that_overflows_its_type_is_no_contradiction_of_ours() -> None:
    """ONNX Runtime adds in an order of its own, which can overflow where ours does not: here all of its sums do."""

    class Overflowing(Session):
        def run(self, points: np.ndarray) -> np.ndarray:
            return np.full((len(points), 2), np.inf)

    model = load_model(mlp([3, 7, 2], RNG))
    with pytest.raises(ModelError, match="output 0 overflows: ONNX Runtime computes inf"):
        compare(model, model.graph, RNG.normal(size=(2, 3)), Overflowing(model))


def test_comparison_tolerates_single_points_next_to_a_step_but_not_a_wrong_step() -> None:
    model = load_model(build([node("Sign", ["x"], ["s"]), node("Add", ["s", "c"], ["y"])], {"x": (1,)}, ["y"],
                             {"c": np.array([0.0])}, opset=13))  # fmt: skip
    points = np.array([[1.0], [-2.0], [0.5]])
    assert compare(model, model.graph, points) == 0.0
    wrong = replace(model.graph, nodes=(Node("Tanh", ("x",), "s"), *model.graph.nodes[1:]))
    wrong = replace(
        model.graph, nodes=tuple(replace(n, op="Floor") if n.op == "Sign" else n for n in model.graph.nodes)
    )
    with pytest.raises(UnsoundError):
        compare(model, wrong, points)


def classifier(last: str = "ArgMax", **attributes: Any) -> bytes:
    proto = onnx.ModelProto.FromString(mlp([3, 8, 4], np.random.default_rng(3)))
    graph = helper.make_graph(
        [
            *proto.graph.node,
            node(last, ["y"], ["k"], name="pick", axis=1, **attributes),
            node("Cast", ["k"], ["class"], name="cast", to=1),
        ],
        "g",
        list(proto.graph.input),
        [helper.make_tensor_value_info("class", 1, ["batch", 1])],
        list(proto.graph.initializer),
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    return made.SerializeToString()


POINTS = np.random.default_rng(0).normal(size=(6, 3)) * 2


def spike(seed: int, width: float = 1e-3, n: int = 60, wrong: float = 0.0) -> bytes:
    """Three steep neurons that cancel: relu(t) - 2 relu(t - width) + relu(t - 2 width), over the width."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=n) / np.sqrt(n)
    bias = -w @ rng.uniform(-0.5, 0.5, n) - np.arange(3) * width
    weights = {"w": np.stack([w] * 3), "b": bias, "g": np.array([[1.0], [-2.0 + wrong], [1.0]]) / width}
    nodes = [
        node("Gemm", ["x", "w", "b"], ["z"], transB=1),
        node("Relu", ["z"], ["a"]),
        node("MatMul", ["a", "g"], ["y"]),
    ]
    return build(nodes, {"x": (1, n)}, ["y"], weights)


@pytest.mark.parametrize("seed", range(20))
def test_large_terms_that_cancel_are_not_held_against_the_import(seed: int) -> None:
    """NumPy may round all three alike, so that nothing of the rounding is left, where ONNX Runtime does not."""
    model = load_model(spike(seed))
    points = np.random.default_rng(seed).uniform(-1, 1, (100, 60))
    compare(model, model.graph, points)
    with pytest.raises(UnsoundError, match="differs from ONNX Runtime"):
        compare(model, load_model(spike(seed, wrong=0.01)).graph, points)


def test_a_final_argmax_is_compared() -> None:
    model = load_model(classifier())
    assert model.graph_logits is not None
    assert compare_index(model, POINTS) < 1e-5
    assert len({float(k) for k in Session(model).run(POINTS)[:, 0]}) > 1, "one class everywhere shows nothing"
    with pytest.raises(ModelError, match="does not end in an ArgMax"):
        compare_index(load_model(mlp([3, 4, 2], RNG)), POINTS)


def test_a_difference_before_the_argmax_names_its_node() -> None:
    model = load_model(classifier())
    assert model.graph_logits is not None
    bad = replace(model, graph_logits=damaged(model.graph_logits, "z0"))
    with pytest.raises(UnsoundError, match="differs .* first at node 'gemm0'"):
        compare_index(bad, POINTS)


@pytest.mark.parametrize("exposed", [True, False])
def test_another_index_names_the_argmax(exposed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime is given an ArgMin; the logits before it agree."""
    model = load_model(classifier())
    if not exposed:
        monkeypatch.setattr(runtime, "_exposed", lambda *arguments: None)
    with pytest.raises(UnsoundError, match=r"class 0 is \d, expected \d; first at node 'pick'"):
        compare_index(replace(model, bytes=classifier("ArgMin")), POINTS)


def test_an_index_that_rounding_decides_is_not_held_against_the_import() -> None:
    """Classes whose weights are equal tie everywhere: which of them is named does not matter, unless another wins."""
    proto = onnx.ModelProto.FromString(classifier())
    for one in proto.graph.initializer:
        if one.name in ("W1", "b1"):
            array = numpy_helper.to_array(one).copy()
            array[0] += 10.0 * (one.name == "b1")
            array[1] = array[0]
            one.CopyFrom(numpy_helper.from_array(array, one.name))
    tied = proto.SerializeToString()
    points = POINTS[np.isin(Session(load_model(tied)).run(POINTS)[:, 0], (0, 1))]
    assert len(points), "no point where the tied classes win"
    for node_ in proto.graph.node:
        if node_.name == "pick":
            node_.attribute.append(helper.make_attribute("select_last_index", 1))
    model = load_model(tied)
    other = replace(model, bytes=proto.SerializeToString())
    assert (Session(other).run(points) != Session(model).run(points)).any()
    assert compare_index(other, points) < 1e-5


@pytest.mark.parametrize("index", [False, True])
def test_a_comparison_that_is_stopped_never_ends_as_if_it_had_passed(index: bool) -> None:
    """Whenever the clock says so: before a verdict of the comparison, no other answer than that it was stopped."""
    model = load_model(classifier()) if index else load_model(mlp([3, 4, 2], RNG))
    points = POINTS if index else RNG.normal(size=(2, 3))

    def compared(most: int) -> int:
        """How often the clock is looked at, which is over after so many looks."""
        calls = iter(range(10_000))
        stop = partial(_past, calls, most)
        if index:
            compare_index(model, points, stop=stop)
        else:
            compare(model, model.graph, points, stop=stop)
        return next(calls)

    looks = compared(10_000)
    assert looks > 1
    for most in range(looks):
        with pytest.raises(OutOfTime):
            compared(most)


def _past(calls: Iterator[int], most: int) -> bool:
    return next(calls) >= most
