"""Comparisons, indices, whole numbers and quantised layers: imported as ONNX Runtime computes them, and bounded.

A step is where float32 and the reals may take different sides, so points next to one are left to ONNX Runtime.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.models import build, outputs_of, run_onnx
from verifier.bounds.inputs import IdentityMap
from verifier.bounds.network import build as bind
from verifier.bounds.sweep import Method, sweep
from verifier.errors import ModelError
from verifier.graph.check import check_graph
from verifier.graph.evaluate import evaluate
from verifier.graph.onnx_import import load_model
from verifier.passes.flatten_io import flatten_io
from verifier.passes.simplify import simplify

R = np.random.default_rng(3)
node = helper.make_node
Model = tuple[list[Any], dict[str, np.ndarray], int]
INT8, UINT8 = TensorProto.INT8, TensorProto.UINT8


def to_float(name: str) -> Any:
    return node("Cast", [name], ["y"], to=1)


def quantised(op: str, weight: np.ndarray, **attributes: Any) -> Model:
    """x (2, 4) or (1, 2, 4) -> uint8 -> the layer -> float."""
    weights = {
        "s": np.float32(0.037), "z": np.uint8(120), "w": weight, "ws": np.float32(0.021), "wz": np.int8(3),
        "ys": np.float32(0.11), "yz": np.uint8(97), "shape": np.array([1, 2, 4] if weight.ndim == 3 else [2, 4]),
    }  # fmt: skip
    nodes = [
        node("Reshape", ["x", "shape"], ["xs"]),
        node("QuantizeLinear", ["xs", "s", "z"], ["q"]),
        node(op, ["q", "s", "z", "w", "ws", "wz", "ys", "yz"], ["r"], **attributes),
        node("DequantizeLinear", ["r", "ys", "yz"], ["y"]),
    ]
    return nodes, weights, 13


def both(op: str, **more: np.ndarray) -> Model:
    return [node("Split", ["x"], ["a", "b"], axis=1), node(op, ["a", "b"], ["t"]), to_float("t")], more, 13


def truths(op: str) -> Model:
    nodes = [
        node("Greater", ["x", "c"], ["p"]),
        node("Less", ["x", "d"], ["q"]),
        node(op, ["p", "q"], ["t"]),
        to_float("t"),
    ]
    return nodes, {"c": np.float32(0.3), "d": R.normal(size=(2, 4)).astype(np.float32)}, 13


MODELS: dict[str, Model] = {
    **{op: both(op) for op in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual")},
    "Equal": (
        [node("Cast", ["x"], ["n"], to=6), node("Equal", ["n", "c"], ["t"]), to_float("t")], {"c": np.int32(1)}, 13,
    ),
    "constant first": ([node("Greater", ["c", "x"], ["t"]), to_float("t")], {"c": np.float32(0.25)}, 13),
    **{op: truths(op) for op in ("And", "Or", "Xor")},
    "Not": ([node("Less", ["x", "c"], ["p"]), node("Not", ["p"], ["t"]), to_float("t")], {"c": np.float32(0.5)}, 13),
    "Where": (
        [node("Greater", ["x", "c"], ["p"]), node("Where", ["p", "x", "b"], ["y"])],
        {"c": np.float32(0.3), "b": np.float32(-0.7)}, 13,
    ),
    "Where of constants": (
        [node("Greater", ["x", "c"], ["p"]), node("Where", ["p", "a", "b"], ["y"])],
        {"c": np.float32(0.3), "a": np.float32([1, 2, 3, 4]), "b": np.float32(-0.7)}, 13,
    ),
    "Where of values": (
        [node("Abs", ["x"], ["v"]), node("Greater", ["x", "c"], ["p"]), node("Where", ["p", "v", "x"], ["y"])],
        {"c": np.float32(0.3)}, 13,
    ),
    "Round": ([node("Round", ["x"], ["y"])], {}, 13),
    "to int32": ([node("Cast", ["x"], ["n"], to=6), to_float("n")], {}, 13),
    "to bool": ([node("Relu", ["x"], ["r"]), node("Cast", ["r"], ["n"], to=9), to_float("n")], {}, 13),
    "arithmetic": (
        [node("Cast", ["x"], ["n"], to=7), node("Mul", ["n", "k"], ["m"]), node("Sub", ["m", "n"], ["d"]),
         node("Abs", ["d"], ["a"]), to_float("a")],
        {"k": np.int64([2, -3, 1, 4])}, 13,
    ),
    **{f"{op} {axis} {last}": (
        [node(op, ["x"], ["k"], axis=axis, keepdims=axis, select_last_index=last), to_float("k")], {}, 13,
    ) for op in ("ArgMax", "ArgMin") for axis in (0, 1) for last in (0, 1)},
    "TopK": ([node("TopK", ["x", "k"], ["v", "i"], axis=1), node("Cast", ["i"], ["f"], to=1),
              node("Add", ["v", "f"], ["y"])], {"k": np.array([1])}, 13),
    "smallest": ([node("TopK", ["x", "k"], ["y", "i"], axis=0, largest=0)], {"k": np.array([1])}, 13),
    "CumSum": ([node("CumSum", ["x", "axis"], ["y"])], {"axis": np.array(1)}, 13),
    "CumSum back": ([node("CumSum", ["x", "axis"], ["y"], reverse=1, exclusive=1)], {"axis": np.array(0)}, 13),
    "quantise": (
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        {"s": np.float32(0.013), "z": np.int8(-7)}, 13,
    ),
    "quantise per axis": (
        [node("QuantizeLinear", ["x", "s", "z"], ["q"], axis=1),
         node("DequantizeLinear", ["q", "s", "z"], ["y"], axis=1)],
        {"s": np.float32([0.1, 0.02, 0.3, 0.007]), "z": np.uint8([3, 128, 7, 60])}, 13,
    ),
    "quantised weights": (
        [node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=1), node("MatMul", ["x", "d"], ["y"])],
        {"w": R.integers(-100, 100, (4, 3)).astype(np.int8), "s": np.float32([0.1, 0.02, 0.3]),
         "z": np.int8([0, 1, 2])}, 13,
    ),
    "QLinearMatMul": quantised("QLinearMatMul", R.integers(-90, 90, (4, 3)).astype(np.int8)),
    "QLinearConv": quantised("QLinearConv", R.integers(-90, 90, (3, 2, 2)).astype(np.int8)),
    "MatMulInteger": (
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("MatMulInteger", ["q", "w", "z"], ["n"]), to_float("n")],
        {"s": np.float32(0.02), "z": np.uint8(77), "w": R.integers(-9, 9, (4, 3)).astype(np.int8)}, 13,
    ),
    "scale from the values": (
        [node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]), node("MatMulInteger", ["q", "w", "z"], ["n"]),
         node("Cast", ["n"], ["f"], to=1), node("Mul", ["f", "s"], ["y"])],
        {"w": R.integers(-9, 9, (4, 3)).astype(np.int8)}, 13,
    ),
    "convolution with a scale from the values": (
        [node("Reshape", ["x", "shape"], ["p"]), node("DynamicQuantizeLinear", ["p"], ["q", "s", "z"]),
         node("ConvInteger", ["q", "w", "z"], ["n"], pads=[0, 1, 0, 0]), node("Cast", ["n"], ["f"], to=1),
         node("Mul", ["f", "s"], ["y"])],
        {"shape": np.array([1, 2, 2, 2]), "w": R.integers(-9, 9, (3, 2, 2, 2)).astype(np.int8)}, 13,
    ),
    "power": ([node("Exp", ["x"], ["e"]), node("Pow", ["e", "n"], ["y"])], {"n": np.float32(1.7)}, 13),
    "newest": ([node("Swish", ["x"], ["s"], alpha=1.5), node("Greater", ["s", "c"], ["t"]), to_float("t")],
               {"c": np.float32(0.1)}, 24),
}  # fmt: skip


def bytes_of(name: str) -> bytes:
    nodes, weights, opset = MODELS[name]
    return build(nodes, {"x": (2, 4)}, ["y"], weights, opset)


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_onnx_runtime(name: str) -> None:
    data = bytes_of(name)
    model = load_model(data)
    check_graph(model.graph)
    assert not model.graph.opaque
    points = R.uniform(-2.5, 2.5, (40, 2, 4)).astype(np.float32)
    expected = np.stack([run_onnx(data, {"x": x})[0].reshape(-1) for x in points])
    found = np.stack([outputs_of(model.graph, {"x": x.astype(np.float64)[None]})[0] for x in points])
    same = np.isclose(found, expected, rtol=1e-5, atol=1e-5).all(1)
    assert same.mean() >= 0.95, (found[~same][:2], expected[~same][:2])


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.sampled_from([0.0, 0.02, 0.3, 3.0]))
def test_bounds_hold_and_are_exact_where_nothing_is_open(name: str, seed: int, width: float) -> None:
    graph = simplify(flatten_io(load_model(bytes_of(name)).graph))
    check_graph(graph)
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-2, 2, (1, 8))
    network = bind(graph, torch.float64, torch.device("cpu"))
    low, high = (torch.from_numpy(centre + side * width / 2) for side in (-1, 1))
    inputs = IdentityMap(torch.arange(8)[None])
    points = np.concatenate([low.numpy(), high.numpy(), rng.uniform(low, high, (60, 8))])
    values = evaluate(graph, {"x": points})["y"]
    for method in (Method(affine=False), Method(rows=True), Method()):
        found = sweep(network, low, high, torch.zeros(1, dtype=torch.long), inputs, method)
        room = 1e-9 * (1 + np.abs(values))
        assert (found.output.lower.numpy() <= values + room).all()
        assert (values <= found.output.upper.numpy() + room).all()
        if not width:
            gap = (found.output.upper - found.output.lower).numpy()
            assert (gap <= 1e-9 * (1 + np.abs(values).max(0))).all()


def test_whole_numbers_that_may_leave_their_type_are_unknown() -> None:
    """What a conversion or a sum does beyond the type is not defined, so nothing may follow from it."""
    nodes = [node("Cast", ["x"], ["n"], to=TensorProto.INT8), node("Add", ["n", "k"], ["m"]), to_float("m")]
    data = build(nodes, {"x": (1,)}, ["y"], {"k": np.array([100], np.int8)})
    network = bind(simplify(flatten_io(load_model(data).graph)), torch.float64, torch.device("cpu"))
    for low, high, known in ((0.0, 27.9, True), (0.0, 28.1, False), (-128.9, -100, True), (-129.1, -100, False)):
        box = (torch.tensor([[end]], dtype=torch.float64) for end in (low, high))
        inputs = IdentityMap(torch.arange(1)[None])
        found = sweep(network, *box, torch.zeros(1, dtype=torch.long), inputs, Method(affine=False)).output
        assert bool(found.lower.isfinite().all() and found.upper.isfinite().all()) is known, (low, high)


@pytest.mark.parametrize(
    ("nodes", "weights", "why"),
    [
        ([node("TopK", ["x", "k"], ["y", "i"], axis=1)], {"k": np.array([2])}, "TopK"),
        (
            [node("Greater", ["x", "k"], ["p"]), node("Where", ["p", "x", "no"], ["y"])],
            {"k": np.float32(0.5), "no": np.float32(-np.inf)},
            "Where",
        ),
        (
            [
                node("Slice", ["x", "zero", "one", "zero"], ["part"]),
                node("ReduceMax", ["part"], ["m"], keepdims=0),
                node("Cast", ["m"], ["n"], to=7),
                node("Unsqueeze", ["n", "zero"], ["start"]),
                node("Add", ["start", "one"], ["stop"]),
                node("Slice", ["table", "start", "start"], ["none"]),
                node("Slice", ["table", "start", "stop"], ["row"]),
                node("Concat", ["none", "row"], ["y"], axis=0),
            ],
            {"zero": np.array([0]), "one": np.array([1]), "table": np.arange(6.0).reshape(3, 2)},
            "Slice",
        ),
        ([node("Cast", ["x"], ["n"], to=6), node("Mod", ["n", "k"], ["m"]), to_float("m")], {"k": np.int32(3)}, "Mod"),
    ],
)
def test_what_has_no_rule_can_be_run_and_is_named(nodes: list[Any], weights: dict[str, np.ndarray], why: str) -> None:
    graph = load_model(build(nodes, {"x": (2, 4)}, ["y"], weights)).graph
    assert graph.opaque[0].attrs["op_type"] == why
    with pytest.raises(ModelError, match=why):
        evaluate(graph, {"x": np.zeros((1, 2, 4))})


@pytest.mark.parametrize("op", ["Greater", "Less", "GreaterOrEqual", "LessOrEqual", "Equal", "Sub", "Xor", "And"])
@pytest.mark.parametrize("kind", [UINT8, INT8, TensorProto.BOOL])
def test_constants_of_every_whole_type(op: str, kind: int) -> None:
    """A whole number without a sign has no negative in its own type."""
    if (kind == TensorProto.BOOL) != (op in ("Xor", "And")):
        return
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [node("Cast", ["x"], ["i"], to=kind), node(op, ["i", "c"], ["t"]), to_float("t")]
    data = build(nodes, {"x": (1, 4)}, ["y"], {"c": np.array([1, 0, 1, 1], dtype)}, 14)
    graph = load_model(data).graph
    points = np.array([[1.0, 2.0, 3.0, 2.0], [1.0, 1.0, 1.0, 1.0], [2.0, 0.0, 1.0, 5.0]])
    for point in points:
        expected = run_onnx(data, {"x": point[None]})[0].reshape(-1)
        np.testing.assert_array_equal(outputs_of(graph, {"x": point[None, None]})[0], expected)


def test_whole_numbers_beyond_float64_are_refused() -> None:
    nodes = [node("Cast", ["x"], ["i"], to=TensorProto.INT64), node("Less", ["i", "c"], ["t"]), to_float("t")]
    with pytest.raises(ModelError, match="beyond 2\\^53"):
        load_model(build(nodes, {"x": (1, 4)}, ["y"], {"c": np.array(2**53 + 1)}, 13))
