"""What the ONNX standard requires of a node: ONNX Runtime does not check all of it, and may crash without it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import onnx
from onnx.defs import OpSchema

WITHOUT_EFFECT: Mapping[str, frozenset[str]] = {
    op: frozenset(names.split())
    for op, names in {
        "BatchNormalization": "momentum",  # of training
        "Cast": "saturate round_mode",  # of 8-bit floats, which are refused
        "CastLike": "saturate round_mode",
        "ConvInteger": "kernel_shape",  # the weight's
        "DequantizeLinear": "axis output_dtype",  # one scale has no axis; the real number stays
        "Dropout": "ratio seed",  # of training
        "GroupNormalization": "stash_type",  # a precision of floating point, as in the other normalizations
        "LayerNormalization": "stash_type",
        "MaxPool": "storage_order",  # of the second output
        "QLinearConv": "kernel_shape",
        "QuantizeLinear": "axis saturate precision",
        "RMSNormalization": "stash_type",
        "TopK": "sorted",  # of one
    }.items()
}
"""Attributes that a lowering need not ask for: they change nothing about the real function."""

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
