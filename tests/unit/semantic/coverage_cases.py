"""Networks and problems whose coverage is searched."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from tests.unit.semantic.semantic_helpers import network as small_network
from verifier.graph.onnx_import import load_model
from verifier.semantic import Coordinates, Perturbation, Range, prepare
from verifier.semantic import network as networks

MEDIUM = Perturbation((Range("contrast", 0.8, 1.2), Range("brightness", -0.1, 0.1)))


def mlp(seed, hidden=(10, 8), outputs=2):
    """A random network with 2 inputs as ONNX and as layers of the oracle."""
    draw = np.random.default_rng(seed)
    layers, nodes, tensors, value, width = [], [], [], "x", 2
    for number, n in enumerate((*hidden, outputs)):
        weight = draw.normal(size=(n, width)).astype(np.float32) / np.float32(np.sqrt(width / 2))
        bias = draw.normal(size=n).astype(np.float32) * np.float32(0.5)
        tensors += [numpy_helper.from_array(weight.T.copy(), f"w{number}"), numpy_helper.from_array(bias, f"b{number}")]
        nodes.append(helper.make_node("Gemm", [value, f"w{number}", f"b{number}"], [f"s{number}"]))
        layers.append(("affine", weight.astype(float), bias.astype(float)))
        value, width = f"s{number}", n
        if number < len(hidden):
            nodes.append(helper.make_node("Relu", [value], [f"h{number}"]))
            layers.append(("clip", 0.0, np.inf))  # type: ignore[arg-type]
            value = f"h{number}"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "mlp", [info("x", TensorProto.FLOAT, [1, 2])], [info(value, TensorProto.FLOAT, [1, outputs])], tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return load_model(model.SerializeToString()), layers


def image_problem(tolerance, seed=0, size=8, clip="clip", points=3):
    net = networks.load(small_network("coordinates", size=size, points=points, seed=seed))
    image = np.random.default_rng(seed + 100).random((1, size, size))
    return prepare(net, image, None, MEDIUM, Coordinates(tolerance), reference="self", clip=clip)
