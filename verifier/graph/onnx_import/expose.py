"""Edited copies of a serialized model, for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence

import onnx


def with_outputs(data: bytes, names: Sequence[str]) -> bytes:
    """The model with those of `names` that its nodes define as its outputs, in that order."""
    proto = onnx.ModelProto.FromString(data)
    declared = {info.name: info for info in (*proto.graph.output, *proto.graph.value_info)}
    del proto.graph.output[:]
    for name in names:
        proto.graph.output.append(declared.get(name, onnx.ValueInfoProto(name=name)))
    return proto.SerializeToString()


def with_ir_version(data: bytes, version: int) -> bytes:
    """The model with another file format version."""
    proto = onnx.ModelProto.FromString(data)
    proto.ir_version = version
    return proto.SerializeToString()
