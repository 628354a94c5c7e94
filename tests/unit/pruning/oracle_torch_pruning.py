"""Dependency groups against the PyPI package torch-pruning, an independent implementation.

Not collected by a plain pytest run; it needs torch-pruning (pip install torch-pruning) and fails without it:

    python -m pytest tests/unit/pruning/oracle_torch_pruning.py
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper

from benchmarks.pruning_graphs import Builder
from pruning import onnx_io
from pruning.groups import find_groups
from pruning.torch_bridge import _batchable, import_onnx2torch


def finish(b: Builder, x: str, shape, outputs: int):
    graph = helper.make_graph(
        b.nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, ["N", outputs])], b.weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return onnx_io.load(model.SerializeToString())


def relu(b, x):
    return b.op("Relu", [x], b.shape[x])


def cnn7():
    b = Builder(0, 13)
    b.shape["x"] = (1, 16, 16)
    x = "x"
    for out, stride in ((8, 1), (8, 2), (12, 1), (12, 2), (16, 2)):
        x = relu(b, b.norm(b.conv(x, out, stride=stride)))
    x = b.op("Flatten", [x], (16 * 4,), axis=1)
    x = relu(b, gemm(b, x, 20))
    return finish(b, gemm(b, x, 6), (1, 16, 16), 6)


def gemm(b, x, out):
    return b.op("Gemm", [x, b.random(out, b.shape[x][0]), b.random(out)], (out,), transB=1)


def resnet18():
    b = Builder(1, 13)
    b.shape["x"] = (3, 16, 16)
    x = relu(b, b.norm(b.conv("x", 6)))
    for out, stride in ((6, 1), (6, 1), (8, 2), (8, 1), (12, 2), (12, 1), (16, 2), (16, 1)):
        y = relu(b, b.norm(b.conv(x, out, stride=stride, bias=False)))
        y = b.norm(b.conv(y, out, bias=False))
        if stride == 2:
            x = b.norm(b.conv(x, out, kernel=1, stride=2, bias=False))
        x = relu(b, b.op("Add", [y, x], b.shape[y]))
    x = b.op("GlobalAveragePool", [x], (16, 1, 1))
    x = b.op("Flatten", [x], (16,), axis=1)
    return finish(b, gemm(b, x, 5), (3, 16, 16), 5)


def densenet_block():
    b = Builder(2, 13)
    b.shape["x"] = (3, 8, 8)
    x = b.conv("x", 6)
    for _ in range(3):
        y = b.conv(relu(b, b.norm(x)), 8, kernel=1, bias=False)
        y = b.conv(relu(b, b.norm(y)), 4, bias=False)
        x = b.op("Concat", [x, y], (b.shape[x][0] + 4, 8, 8), axis=1)
    x = b.pool(b.conv(relu(b, b.norm(x)), 6, kernel=1))
    x = b.op("Flatten", [x], (6 * 16,), axis=1)
    return finish(b, gemm(b, x, 4), (3, 8, 8), 4)


def ours(net, layer: int, channel: int) -> set[tuple[str, str, int]]:
    """Everything that goes with one output channel of a layer: (node, side, index)."""
    groups = find_groups(net)
    out = next(cut for cut in groups.cuts if cut.node == layer and cut.role == "out" and cut.slot == 1)
    number = groups.channel(out.labels)[channel]
    found = set()
    for cut in groups.cuts:
        if cut.slot == 1:
            side = "in" if cut.role == "in" else "out"
            found |= {(f"n{cut.node}", side, int(i)) for i in np.flatnonzero(groups.channel(cut.labels) == number)}
    return found


def theirs(graph, net, tp, layer: int, channel: int, modules) -> set[tuple[str, str, int]]:
    module = modules[f"n{layer}"]
    names = {id(m): name for name, m in modules.items()}
    function = tp.prune_linear_out_channels if net.nodes[layer].type == "Gemm" else tp.prune_conv_out_channels
    found = set()
    for dependency, indices in graph.get_pruning_group(module, function, idxs=[channel]):
        name = names.get(id(dependency.target.module))
        if name is not None and net.nodes[int(name[1:])].type in ("Conv", "Gemm", "BatchNormalization"):
            side = "in" if "in_channels" in dependency.handler.__name__ else "out"
            if net.nodes[int(name[1:])].type == "BatchNormalization":
                side = "out"
            found |= {(name, side, int(i)) for i in indices}
    return found


@pytest.mark.parametrize("make", [cnn7, resnet18, densenet_block])
def test_groups_equal_those_of_torch_pruning(make):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        import torch_pruning as tp

        net = make()
        graph_module = import_onnx2torch().convert(onnx_io.model_for_conversion(_batchable(net))).eval()
        example = torch.rand(2, *net.shapes["x"][1:])
        graph = tp.DependencyGraph().build_dependency(graph_module, example_inputs=example)
        modules = {name: m for name, m in graph_module.named_modules() if name.startswith("n") and "." not in name}
        compared = 0
        for layer, node in enumerate(net.nodes):
            if node.type not in ("Conv", "Gemm") or node.outputs[0] in net.outputs:
                continue
            for channel in (0, 1, 3, net.weights[node.inputs[1]].shape[0] - 1):
                assert ours(net, layer, channel) == theirs(graph, net, tp, layer, channel, modules), (
                    node.name,
                    channel,
                )
                compared += 1
        assert compared >= 24
