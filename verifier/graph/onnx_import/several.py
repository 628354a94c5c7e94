"""Several networks side by side as one: the inputs of all, then the outputs of all, as a specification has them."""

from __future__ import annotations

from collections.abc import Sequence

from verifier.graph.ir import Graph, Node, Shape
from verifier.graph.onnx_import.model import Model, TensorInfo


def side_by_side(parts: Sequence[tuple[str, Model]]) -> Model:
    """One model of networks with different names, at least one, in their order. Tensors are called NETWORK/TENSOR.

    Its `bytes` are empty: each part is run by itself, on its own file.
    """
    nodes: list[Node] = []
    shapes: dict[str, Shape] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    for name, model in parts:
        new = {value: f"{name}/{value}" for value in model.graph.shapes}
        shapes |= {new[value]: shape for value, shape in model.graph.shapes.items()}
        inputs += [new[value] for value in model.graph.inputs]
        outputs += [new[value] for value in model.graph.outputs]
        for node in model.graph.nodes:
            source = f"{node.source} of network {name}" if node.source else ""
            reads = tuple(new[value] for value in node.inputs)
            nodes.append(Node(node.op, reads, new[node.output], node.params, node.attrs, source))
    return Model(
        b"",
        ", ".join(f"{name}: {model.path}" for name, model in parts),
        Graph(tuple(inputs), tuple(outputs), tuple(nodes), shapes),
        tuple(_called(name, info) for name, model in parts for info in model.input_infos),
        tuple(_called(name, info) for name, model in parts for info in model.output_infos),
        max(model.opset for _, model in parts),
        half=any(model.half for _, model in parts),
        parts=tuple(parts),
    )


def _called(network: str, info: TensorInfo) -> TensorInfo:
    return TensorInfo(f"{network}/{info.name}", info.shape, info.dtype, info.symbolic)
