"""What the ONNX standard requires of a node: ONNX Runtime does not check all of it, and may crash without it."""

from __future__ import annotations

from functools import cache

import onnx
from onnx.defs import OpSchema

_MAY_BE_ABSENT = OpSchema.FormalParameterOption.Optional


def missing(node: onnx.NodeProto, opset: int) -> str:
    """The first required input or attribute that a node lacks, in words; "" where all are there."""
    schema = _schema(node.op_type, opset)
    if schema is None:
        return ""
    if len(node.input) < schema.min_input:
        return f"{len(node.input)} inputs, expected at least {schema.min_input}"
    for position, name in enumerate(node.input):
        formal = schema.inputs[min(position, len(schema.inputs) - 1)] if schema.inputs else None
        if not name and formal is not None and formal.option != _MAY_BE_ABSENT:
            return f"input {position + 1} ('{formal.name}') is missing"
    present = {one.name for one in node.attribute}
    return next(
        (f"attribute '{name}' is missing" for name in _required(node.op_type, opset) if name not in present), ""
    )


@cache
def _schema(op: str, opset: int) -> OpSchema | None:
    try:
        return onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None


@cache
def _required(op: str, opset: int) -> tuple[str, ...]:
    schema = _schema(op, opset)
    return () if schema is None else tuple(name for name, one in schema.attributes.items() if one.required)
