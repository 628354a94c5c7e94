"""Builders of small ONNX models, and ONNX Runtime as the oracle for them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Graph

_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(np.int64): TensorProto.INT64,
}


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    weights: Mapping[str, np.ndarray] | None = None,
    opset: int = 13,
    dtype: Any = np.float32,
) -> bytes:
    """A serialized model. Dimensions given as strings are symbolic; float weights are stored in `dtype`."""
    kind = _TYPES[np.dtype(dtype)]
    stored = {}
    for name, array in (weights or {}).items():
        array = np.asarray(array)
        stored[name] = array.astype(dtype) if array.dtype.kind == "f" else array
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = min(model.ir_version, 8)
    # outputs need a type: take it from ONNX's own inference, so that the file is a normal one
    inferred = onnx.shape_inference.infer_shapes(model)
    known = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    for info in graph.output:
        found = known.get(info.name)
        if found is not None and found.type.HasField("tensor_type"):
            info.CopyFrom(found)
        else:
            info.CopyFrom(helper.make_tensor_value_info(info.name, kind, None))
    del model.graph.output[:]
    model.graph.output.extend(graph.output)
    return model.SerializeToString()


def one_op(
    op: str,
    arguments: Sequence[tuple[int, ...] | np.ndarray | str],
    attributes: Mapping[str, Any] | None = None,
    opset: int = 13,
    outputs: int = 1,
) -> bytes:
    """A model of one node. An argument that is a tuple is an input of that shape, an array a weight, "" is absent."""
    names, inputs, weights = [], {}, {}
    for position, argument in enumerate(arguments):
        if isinstance(argument, str):
            names.append("")
        elif isinstance(argument, tuple):
            names.append(f"in{position}")
            inputs[names[-1]] = argument
        else:
            names.append(f"w{position}")
            weights[names[-1]] = argument
    results = [f"out{i}" for i in range(outputs)]
    node = helper.make_node(op, names, results, name="the_node", **(attributes or {}))
    return build([node], inputs, results, weights, opset)


def run_onnx(data: bytes, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """ONNX Runtime's outputs; inputs are cast to the types of the model."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(int64)": np.int64}
    feeds = {one.name: np.asarray(inputs[one.name]).astype(types[one.type]) for one in session.get_inputs()}
    return list(session.run(None, feeds))


def random_inputs(graph: Graph, rng: np.random.Generator, points: int = 1, low: float = -2.0) -> dict[str, np.ndarray]:
    """Values (points, *S) for every input, uniform on [low, 2], exactly representable in float32."""
    return {
        name: rng.uniform(low, 2.0, (points, *graph.shapes[name])).astype(np.float32).astype(np.float64)
        for name in graph.inputs
    }


def outputs_of(graph: Graph, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """All outputs of the graph, flattened and joined: (points, n_outputs)."""
    values = evaluate(graph, inputs)
    points = len(next(iter(inputs.values())))
    return np.concatenate([values[name].reshape(points, -1) for name in graph.outputs], axis=1)


def mlp(sizes: Sequence[int], rng: np.random.Generator, activation: str = "Relu", opset: int = 13) -> bytes:
    """A fully connected network x -> y with Gemm layers (bias included), a symbolic batch dimension."""
    nodes, weights = [], {}
    value = "x"
    for layer, (n, k) in enumerate(itertools.pairwise(sizes)):
        last = layer == len(sizes) - 2
        weights[f"W{layer}"] = rng.normal(size=(k, n)) / np.sqrt(n)
        weights[f"b{layer}"] = rng.normal(size=k) * 0.3
        out = "y" if last else f"z{layer}"
        nodes.append(helper.make_node("Gemm", [value, f"W{layer}", f"b{layer}"], [out], name=f"gemm{layer}", transB=1))
        if not last:
            nodes.append(helper.make_node(activation, [out], [f"a{layer}"], name=f"act{layer}"))
            value = f"a{layer}"
    return build(nodes, {"x": ("batch", sizes[0])}, ["y"], weights, opset)


def convnet(rng: np.random.Generator, opset: int = 13) -> bytes:
    """Input (1, 2, 8, 8): Conv, BatchNormalization, Relu, MaxPool, Conv, Relu, residual Add, Flatten, Gemm."""
    node = helper.make_node
    weights = {
        "K1": rng.normal(size=(4, 2, 3, 3)) * 0.3, "c1": rng.normal(size=4) * 0.1,
        "s": rng.uniform(0.5, 1.5, 4), "o": rng.normal(size=4) * 0.1, "m": rng.normal(size=4) * 0.1,
        "v": rng.uniform(0.5, 1.5, 4), "K2": rng.normal(size=(4, 4, 3, 3)) * 0.2,
        "W": rng.normal(size=(64, 3)) * 0.2, "b": rng.normal(size=3) * 0.1,
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "K1", "c1"], ["h1"], name="conv1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["h1", "s", "o", "m", "v"], ["h2"], name="bn"),
        node("Relu", ["h2"], ["h3"], name="relu1"),
        node("MaxPool", ["h3"], ["h4"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["h4", "K2"], ["h5"], name="conv2", pads=[1, 1, 1, 1]),
        node("Relu", ["h5"], ["h6"], name="relu2"),
        node("Add", ["h6", "h4"], ["h7"], name="residual"),
        node("Flatten", ["h7"], ["h8"], name="flatten"),
        node("Gemm", ["h8", "W", "b"], ["y"], name="fc"),
    ]
    return build(nodes, {"x": (1, 2, 8, 8)}, ["y"], weights, opset)


def image_network(rng: np.random.Generator, channels: int = 8, opset: int = 13) -> bytes:
    """A classifier of 28 x 28 pixels in 10 classes: Conv, BatchNormalization, Relu, MaxPool, a residual block, Conv,
    Relu, MaxPool, Gemm, with weights of the size that keeps activations (He et al. 2015)."""
    node, c = helper.make_node, channels
    shapes = {"K1": (c, 1, 3, 3), "K2": (c, c, 3, 3), "K3": (c, c, 3, 3), "K4": (2 * c, c, 3, 3), "W": (10, 98 * c)}
    weights = {name: rng.normal(size=s) * np.sqrt(2 / np.prod(s[1:])) for name, s in shapes.items()}
    for name in ("n1", "n2", "n3"):
        weights |= {name + "s": rng.uniform(0.5, 1.5, c), name + "o": rng.normal(size=c) * 0.1}
        weights |= {name + "m": rng.normal(size=c) * 0.1, name + "v": rng.uniform(0.5, 1.5, c)}

    def block(number: int, value: str) -> list[onnx.NodeProto]:
        name = f"n{number}"
        return [
            node("Conv", [value, f"K{number}"], [f"c{number}"], name=f"conv{number}", pads=[1] * 4),
            node("BatchNormalization", [f"c{number}", *(name + part for part in "somv")], [name], name=name),
        ]

    nodes = [
        *block(1, "x"),
        node("Relu", ["n1"], ["r1"], name="relu1"),
        node("MaxPool", ["r1"], ["p1"], name="pool1", kernel_shape=[2, 2], strides=[2, 2]),
        *block(2, "p1"),
        node("Relu", ["n2"], ["r2"], name="relu2"),
        *block(3, "r2"),
        node("Add", ["n3", "p1"], ["a"], name="residual"),
        node("Relu", ["a"], ["r3"], name="relu3"),
        node("Conv", ["r3", "K4"], ["c4"], name="conv4", pads=[1] * 4),
        node("Relu", ["c4"], ["r4"], name="relu4"),
        node("MaxPool", ["r4"], ["p2"], name="pool2", kernel_shape=[2, 2], strides=[2, 2]),
        node("Flatten", ["p2"], ["f"], name="flatten"),
        node("Gemm", ["f", "W"], ["y"], name="fc", transB=1),
    ]
    return build(nodes, {"x": (1, 1, 28, 28)}, ["y"], weights, opset)


RELU_NETWORKS = ("dense", "inputs", "conv", "residual", "pool")


def relu_network(kind: str, rng: np.random.Generator) -> tuple[bytes, int]:
    """A network of one output and up to 60 ReLUs, and the number of its inputs: `dense`, `inputs` (24 to 40 of them),
    `conv` and `pool` (4 x 4 pixels), or `residual`."""
    if kind == "dense":
        sizes = (int(rng.integers(3, 8)), *rng.integers(8, 21, int(rng.integers(2, 4))).tolist(), 1)
        return mlp(sizes, rng), sizes[0]
    if kind == "inputs":
        sizes = (int(rng.integers(24, 41)), int(rng.integers(12, 25)), int(rng.integers(8, 17)), 1)
        return mlp(sizes, rng), sizes[0]
    node, weights = helper.make_node, {}

    def weighted(name: str, *shape: int) -> list[str]:
        """The names of a weight and of its bias."""
        weights[name] = rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        weights[name + "b"] = rng.normal(size=shape[0]) * 0.3
        return [name, name + "b"]

    if kind == "residual":
        n, width = int(rng.integers(3, 9)), min(int(rng.integers(8, 16)), 11)  # wider ones take HiGHS minutes
        nodes = [node("Gemm", ["x", *weighted("A", width, n)], ["z"], transB=1), node("Relu", ["z"], ["s0"])]
        for k in range(2):
            nodes += [
                node("Gemm", [f"s{k}", *weighted(f"B{k}", width, width)], [f"h{k}"], transB=1),
                node("Relu", [f"h{k}"], [f"r{k}"]),
                node("Gemm", [f"r{k}", *weighted(f"C{k}", width, width)], [f"t{k}"], transB=1),
                node("Add", [f"s{k}", f"t{k}"], [f"s{k + 1}"]),
            ]
        nodes += [node("Relu", ["s2"], ["f"]), node("Gemm", ["f", *weighted("W", 1, width)], ["y"], transB=1)]
        return build(nodes, {"x": (1, n)}, ["y"], weights), n
    nodes = [
        node("Conv", ["x", *weighted("K1", 2, 1, 3, 3)], ["h1"], pads=[1] * 4),
        node("Relu", ["h1"], ["h2"]),
        node("MaxPool", ["h2"], ["h3"], kernel_shape=[2, 2], strides=[2, 2])
        if kind == "pool"
        else node("Conv", ["h2", *weighted("K2", 2, 2, 3, 3)], ["h3"], pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["h3"], ["h4"]),
        node("Flatten", ["h4"], ["h5"]),
        node("Gemm", ["h5", *weighted("G", 12, 8)], ["h6"], transB=1),
        node("Relu", ["h6"], ["h7"]),
        node("Gemm", ["h7", *weighted("W", 1, 12)], ["y"], transB=1),
    ]
    return build(nodes, {"x": (1, 1, 4, 4)}, ["y"], weights), 16
