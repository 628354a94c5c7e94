"""The one composer and writer of ONNX models: nodes and constants are collected, then checked and serialized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from verifier.errors import ModelError
from verifier.graph.onnx_import.model import ModelLimits

PRODUCER = "secateur"
Tensors = Mapping[str, tuple[np.dtype | type, Sequence[int | str]]]
"""Element type and shape by name; a dimension that is a name is free."""


class ModelBuilder:
    """Collects the nodes and constants of a graph, in order."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def constant(self, name: str, value: np.ndarray) -> str:
        """Store a constant with its own element type; returns its name."""
        self.tensors.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        """Add a node with one output, after which it is called; returns the output."""
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))  # type: ignore[arg-type]
        return output

    def model(
        self,
        inputs: Tensors,
        outputs: Tensors | Iterable[str],
        opsets: int | Sequence[onnx.OperatorSetIdProto],
        ir_version: int,
        name: str = "graph",
        note: str = "",
    ) -> onnx.ModelProto:
        """The model, not checked; outputs given by name alone have no declared type."""
        if isinstance(outputs, Mapping):
            declared = _infos(outputs)
        else:
            declared = [onnx.ValueInfoProto(name=output) for output in outputs]
        graph = helper.make_graph(self.nodes, name, _infos(inputs), declared, self.tensors, doc_string=note)
        versions = [helper.make_opsetid("", opsets)] if isinstance(opsets, int) else list(opsets)
        return helper.make_model(graph, opset_imports=versions, producer_name=PRODUCER, ir_version=ir_version)


def checked(proto: onnx.ModelProto, what: str) -> onnx.ModelProto:
    """The same model, after the full check of onnx. Raises ModelError: it is not valid, or too large for one file."""
    if proto.ByteSize() > ModelLimits.bytes:
        raise ModelError(f"{what} would take more than {ModelLimits.bytes} bytes, the limit of one ONNX file")
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError, ValueError, TypeError) as error:
        raise ModelError(f"{what} is not valid ONNX: {first_line(error)}") from error
    return proto


def first_line(error: Exception) -> str:
    """The first line of a message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def _infos(tensors: Tensors) -> list[onnx.ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))
        for name, (dtype, shape) in tensors.items()
    ]
