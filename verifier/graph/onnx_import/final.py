"""Recognise a Softmax or ArgMax that is the last thing a network does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from verifier.graph.onnx_import.context import Operand, Var
from verifier.graph.onnx_import.model import Final
from verifier.graph.onnx_import.reduce import softmax_groups

_KEEP_ORDER = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Dropout")
_REAL = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
_WHOLE = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)  # wide enough for any class index


def find_final(
    nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], values: Mapping[str, Operand], opset: int
) -> tuple[Final, str] | None:
    """The final operator and the IR value that holds the logits, where the only output is one (perhaps reshaped)."""
    if len(outputs) != 1:
        return None
    makers = {node.output[0]: node for node in nodes}  # further outputs (the mask of a Dropout) keep no order
    node = makers.get(outputs[0])
    casts: list[int] = []
    while node is not None and node.op_type in (*_KEEP_ORDER, "Cast"):
        if node.op_type == "Cast":
            casts.append(next(int(one.i) for one in node.attribute if one.name == "to"))
        node = makers.get(node.input[0])
    allowed = {"Softmax": _REAL, "ArgMax": (*_REAL, *_WHOLE)}.get(node.op_type if node is not None else "")
    if node is None or allowed is None or any(to not in allowed for to in casts):
        return None
    logits = values[node.input[0]]
    if not isinstance(logits, Var) or logits.opaque or not logits.shape:
        return None
    attributes: dict[str, Any] = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    if node.op_type == "Softmax":
        axis = attributes.get("axis", 1 if opset < 13 else -1)
        outer, n, inner = softmax_groups(logits.shape, axis % logits.rank, coerced=opset < 13)
        return Final("softmax", outer, n, inner), logits.name
    axis = attributes.get("axis", 0) % logits.rank
    shape = logits.shape
    last = bool(attributes.get("select_last_index", 0))
    return Final("argmax", math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]), last), logits.name
