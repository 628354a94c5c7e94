"""Verdicts on networks of one or two operators that used to fail, by every bound method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import linprog

from tests.models import build, run_onnx
from verifier import Options, load, verify

node = helper.make_node
METHODS = ("auto", "forward", "crown", "alpha", "lumped")


def _verdict(
    path: Path,
    data: bytes,
    box: Sequence[tuple[float, float]],
    outputs: int,
    claim: str,
    method: str = "auto",
    seconds: float = 60,
) -> str:
    """The verdict on: the inputs are in the box, and `claim` holds."""
    text = [f"(declare-const X_{k} Real)" for k in range(len(box))]
    text += [f"(declare-const Y_{k} Real)" for k in range(outputs)]
    for k, (low, high) in enumerate(box):
        text += [f"(assert (>= X_{k} {low}))", f"(assert (<= X_{k} {high}))"]
    (path / "claim.vnnlib").write_text("\n".join([*text, f"(assert {claim})"]))
    (path / "net.onnx").write_bytes(data)
    options = Options.from_mapping({"bounds": {"method": method}})
    result = verify(load(path / "net.onnx"), path / "claim.vnnlib", options, timeout=seconds)
    return str(result.verdict.value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("op", ["Relu", "Sigmoid", "Exp", "Erf", "Softplus", "Floor"])
def test_values_of_rank_0(tmp_path: Path, op: str, method: str) -> None:
    nodes = [node("ReduceSum", ["x"], ["s"], keepdims=0), node(op, ["s"], ["r"]), node("ReduceMax", ["r"], ["y"])]
    data = build(nodes, {"x": (2,)}, ["y"])
    assert _verdict(tmp_path, data, [(-1, 1)] * 2, 1, "(>= Y_0 9)", method) == "unsat"
    assert _verdict(tmp_path, data, [(-1, 1)] * 2, 1, "(<= Y_0 3)", method) == "sat"


def test_a_scalar_index(tmp_path: Path) -> None:
    nodes = [node("Gather", ["x", "k"], ["g"]), node("Mul", ["g", "g"], ["y"])]
    data = build(nodes, {"x": (3,)}, ["y"], {"k": np.int64(1)})
    assert _verdict(tmp_path, data, [(-1, 1)] * 3, 1, "(>= Y_0 1.5)") == "unsat"


@pytest.mark.parametrize("logits", [(30.0, 0.0), (200.0, 0.0), (30.0, 0.0, 10.0), (300.0, -300.0, 0.0, 5.0)])
def test_softmax_of_a_large_spread(tmp_path: Path, logits: tuple[float, ...]) -> None:
    """Powers of e below 1 only: the answer does not depend on how far the logits lie apart."""
    count = len(logits)
    nodes = [node("Softmax", ["x"], ["q"], axis=-1), node("MatMul", ["q", "w"], ["y"])]
    data = build(nodes, {"x": (1, count)}, ["y"], {"w": np.arange(1.0, count + 1)[:, None]})
    box = [(one - 5e-4, one + 5e-4) for one in logits]
    assert _verdict(tmp_path, data, box, 1, "(>= Y_0 2.5)") == "unsat"
    assert _verdict(tmp_path, data, box, 1, "(<= Y_0 1.5)") == "sat"


def test_convolution_transposed_with_a_stride_beyond_its_kernel(tmp_path: Path) -> None:
    data = build(
        [node("ConvTranspose", ["x", "w"], ["y"], auto_pad="SAME_UPPER", strides=[2])],
        {"x": (1, 1, 2)}, ["y"], {"w": np.ones((1, 1, 1))},
    )  # fmt: skip
    model = onnx.ModelProto.FromString(data)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, [1, 1, 3]))
    assert _verdict(tmp_path, model.SerializeToString(), [(0, 1)] * 2, 3, "(>= Y_0 2)") == "unsat"


def _half(nodes: list[Any], weights: dict[str, np.ndarray], shape: list[int], out: list[int]) -> bytes:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT16, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, out)],
        [numpy_helper.from_array(array.astype(np.float16), name) for name, array in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


def test_a_float16_network(tmp_path: Path) -> None:
    """Rounding of float16 is no fault of the import, and a witness is one that float16 can hold."""
    rng = np.random.default_rng(1)
    weights = {"w": rng.normal(size=(3, 32)), "b": rng.normal(size=32), "v": rng.normal(size=(32, 1)) / 6}
    nodes = [node("Gemm", ["x", "w", "b"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"])]
    data = _half(nodes, weights, [1, 3], [1, 1])
    assert _verdict(tmp_path, data, [(-1, 1)] * 3, 1, "(>= Y_0 90)") == "unsat"
    assert _verdict(tmp_path, data, [(-1, 1)] * 3, 1, "(>= Y_0 -90)") == "sat"


@pytest.mark.parametrize("opset", [20, 22])
@pytest.mark.parametrize("attributes", [{}, {"approximate": "tanh"}])
def test_gelu_is_bounded(tmp_path: Path, attributes: dict[str, str], opset: int) -> None:
    nodes = [node("Gelu", ["x"], ["g"], **attributes), node("ReduceSum", ["g"], ["y"], keepdims=0)]
    data = build(nodes, {"x": (2,)}, ["y"], opset=opset)
    assert _verdict(tmp_path, data, [(-2, 2)] * 2, 1, "(<= Y_0 -0.36)") == "unsat"  # the minimum is -0.17 each
    assert _verdict(tmp_path, data, [(-2, 2)] * 2, 1, "(<= Y_0 -0.32)") == "sat"


def test_an_index_inside_the_network(tmp_path: Path) -> None:
    """ArgMax of three classes, compared with one of them, times a score: decided by bounds once boxes are small."""
    nodes = [
        node("MatMul", ["x", "w"], ["z0"]),
        node("Add", ["z0", "b"], ["z"]),
        node("ArgMax", ["z"], ["k"], axis=1, keepdims=1),
        node("Equal", ["k", "one"], ["is"]),
        node("Cast", ["is"], ["f"], to=1),
        node("ReduceSum", ["x"], ["s"], keepdims=1),
        node("Mul", ["f", "s"], ["y"]),
    ]
    # classes -x, x - 0.5 and 0: the second wins only beyond x = 0.5
    weights = {"w": np.array([[-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), "b": np.array([0.0, -0.5, 0.0]), "one": np.array(1)}
    data = build(nodes, {"x": (1, 2)}, ["y"], weights)
    assert _verdict(tmp_path, data, [(-1, 1), (0, 0.25)], 1, "(<= Y_0 -0.001)") == "unsat"
    assert _verdict(tmp_path, data, [(-1, 1), (0, 0.25)], 1, "(>= Y_0 1.251)") == "unsat"
    assert _verdict(tmp_path, data, [(-1, 1), (0, 0.25)], 1, "(>= Y_0 1.2)") == "sat"


def test_a_condition_chooses_between_two_values(tmp_path: Path) -> None:
    nodes = [
        node("Greater", ["x", "c"], ["p"]), node("Abs", ["x"], ["a"]), node("Where", ["p", "a", "x"], ["v"]),
        node("ReduceSum", ["v"], ["y"], keepdims=0),
    ]  # fmt: skip
    data = build(nodes, {"x": (2,)}, ["y"], {"c": np.array(-0.5)})  # |x| above -0.5, x below
    assert _verdict(tmp_path, data, [(-1, 1)] * 2, 1, "(<= Y_0 -2.01)") == "unsat"
    assert _verdict(tmp_path, data, [(-0.4, 1)] * 2, 1, "(<= Y_0 -0.01)") == "unsat"
    assert _verdict(tmp_path, data, [(-1, 1)] * 2, 1, "(<= Y_0 -1.9)") == "sat"


def test_a_quantised_network(tmp_path: Path) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("ReduceSum", ["d"], ["y"], keepdims=0),
    ]  # fmt: skip
    data = build(nodes, {"x": (2,)}, ["y"], {"s": np.array(0.25), "z": np.array(128, np.uint8)})
    assert _verdict(tmp_path, data, [(0, 0.3)] * 2, 1, "(>= Y_0 0.51)") == "unsat"  # each rounds to 0 or 0.25
    assert _verdict(tmp_path, data, [(0, 0.3)] * 2, 1, "(>= Y_0 0.49)") == "sat"


@pytest.mark.parametrize("seed", range(8))
def test_no_sample_contradicts_a_verdict_on_a_network_with_steps(tmp_path: Path, seed: int) -> None:
    """A ReLU network behind which an index, a comparison or a quantised layer is read."""
    rng = np.random.default_rng(seed)
    size = 20 if seed % 4 == 3 else 2
    weights = {
        "w": rng.normal(size=(size, 6)) / np.sqrt(size), "b": rng.normal(size=6) / 2, "v": rng.normal(size=(6, 4)),
        "c": np.array(0.1), "one": np.array(1), "sc": np.array(0.2), "zp": np.array(9, np.uint8),
    }  # fmt: skip
    tails = [
        [node("ArgMax", ["z"], ["k"], axis=1, keepdims=1), node("Equal", ["k", "one"], ["e"]),
         node("Cast", ["e"], ["f"], to=1), node("Mul", ["f", "h"], ["m"])],
        [node("Greater", ["z", "c"], ["p"]), node("Where", ["p", "z", "c"], ["m"])],
        [node("QuantizeLinear", ["h", "sc", "zp"], ["q"]), node("DequantizeLinear", ["q", "sc", "zp"], ["m"])],
        [node("Round", ["z"], ["q"]), node("Less", ["q", "z"], ["p"]), node("Cast", ["p"], ["m"], to=1)],
    ]  # fmt: skip
    nodes = [
        node("Gemm", ["x", "w", "b"], ["g"]), node("Relu", ["g"], ["h"]), node("MatMul", ["h", "v"], ["z"]),
        *tails[seed % 4], node("ReduceSum", ["m"], ["s"], keepdims=0), node("Reshape", ["s", "one"], ["y"]),
    ]  # fmt: skip
    weights["one"] = np.array([1])
    data = build(nodes, {"x": (1, size)}, ["y"], weights)
    points = rng.uniform(-1, 1, (300, 1, size)).astype(np.float32)
    values = [float(run_onnx(data, {"x": x})[0][0]) for x in points[:100]]
    margin = (-0.001, 0.3)[seed // 4]
    claim = f"(>= Y_0 {max(values) + margin:.9f})"
    verdict = _verdict(tmp_path, data, [(-1, 1)] * size, 1, claim, seconds=2)
    assert verdict in (("sat", "timeout") if margin < 0 else ("sat", "unsat", "timeout"))
    if verdict == "unsat":
        found = [float(run_onnx(data, {"x": x})[0][0]) for x in (*points, *np.sign(points))]
        assert max(found) < max(values) + margin + 1e-4


def _ramps(rng: np.random.Generator) -> tuple[bytes, np.ndarray]:
    """3 inputs, two functions of 9 knots each of a sum of theirs, and the difference of these (written with ReLUs of
    each sum less the knots); and the parameters of the sums (2, 3)."""
    mix = rng.integers(-8, 9, (2, 3)).astype(np.float32) / 4
    nodes = [
        node("MatMul", ["x", "mix"], ["u"]),
        node("Unsqueeze", ["u", "axes"], ["e"]),
        node("Sub", ["e", "knots"], ["s"]),
        node("Relu", ["s"], ["r"]),
        node("MatMul", ["r", "rise"], ["f"]),
        node("MatMul", ["f", "minus"], ["y"]),
    ]
    knots, rise = np.sort(rng.normal(size=9)), rng.normal(size=9)
    values = {"mix": mix.T, "axes": np.array([-1]), "knots": knots.astype(np.float32), "rise": rise.astype(np.float32)}
    return build(nodes, {"x": (3,)}, ["y"], values | {"minus": np.array([[1], [-1]], np.float32)}), mix


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", ["auto", "alpha"])
def test_functions_of_one_variable_written_with_relus(tmp_path: Path, seed: int, method: str) -> None:
    """Thresholds a little beyond and within the exact maximum, by a linear programme for each pair of pieces."""
    data, mix = _ramps(np.random.default_rng(seed))
    initial = {one.name: numpy_helper.to_array(one) for one in onnx.load_model_from_string(data).graph.initializer}
    knots, rise = (initial[name].astype(float) for name in ("knots", "rise"))
    ends, slopes = np.concatenate([[-1e3], knots, [1e3]]), np.concatenate([[0.0], rise.cumsum()])
    offsets = np.concatenate([[0.0], (-rise * knots).cumsum()])
    most = -np.inf
    for i, j in np.ndindex(len(slopes), len(slopes)):
        row = slopes[i] * mix[0] - slopes[j] * mix[1]
        inside = np.concatenate([mix, -mix])
        limits = [ends[i + 1], ends[j + 1], -ends[i], -ends[j]]
        found = linprog(-row, A_ub=inside, b_ub=limits, bounds=[(-1, 1)] * 3)
        if found.status == 0:
            most = max(most, -found.fun + offsets[i] - offsets[j])
    assert _verdict(tmp_path, data, [(-1, 1)] * 3, 1, f"(>= Y_0 {most + 1e-4:.9f})", method) == "unsat"
    assert _verdict(tmp_path, data, [(-1, 1)] * 3, 1, f"(>= Y_0 {most - 1e-3:.9f})", method) == "sat"
