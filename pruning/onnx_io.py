"""Reads and writes .onnx files: `ModelProto` <-> `Net`. The only module of this package that imports onnx."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

from pruning import runtime
from pruning.errors import WrongNetwork
from pruning.net import Net, OnnxNode, Shape
from verifier.errors import ModelError
from verifier.files.whole import write
from verifier.graph.onnx_import.build import ModelBuilder, checked, first_line
from verifier.graph.onnx_import.source import parse, read_model

FOLD_LIMIT = 1 << 24  # elements; constants larger than this are not computed while loading
_AXES_AS_INPUT = {
    f"Reduce{kind}" for kind in ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"]
}  # from 18
_NOT_FOLDED = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


def load(path: str | os.PathLike[str] | bytes) -> Net:
    """Read an ONNX file, with weights that lie beside it, or a serialised model. Raises ModelError for anything that is
    not one valid model of at most 2 GB.
    """
    read = read_model(path)
    model = parse(read, check=True)
    if not model.graph.node:
        raise ModelError(f"{read.path}: the graph has no nodes; is this an ONNX model?")
    return _net(model, read.path)


def to_bytes(net: Net, extra_outputs: Sequence[str] = (), check: bool = False) -> bytes:
    """Serialise; `extra_outputs` become further graph outputs, `check` adds shape inference and the full check."""
    model = _proto(net)
    known = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in extra_outputs if name not in known)
    if check:
        try:
            model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
            checked(model, "the pruned model")
        except (ModelError, shape_inference.InferenceError) as error:
            raise WrongNetwork(f"the pruned model fails onnx.checker: {first_line(error)}") from error
    return model.SerializeToString(deterministic=True)


def model_for_conversion(net: Net) -> onnx.ModelProto:
    """The model for a converter that knows opsets 9 to 17: constants as initialisers, axes of reductions as
    attributes, no `allowzero` without a zero, and the nearest of these opsets. Operators of other opsets mean the same
    there, as far as the converter reads them; the caller has to compare results.
    """
    model = _proto(net)
    stored = {name for name in net.weights if name not in net.outputs}
    for node in [n for n in model.graph.node if n.op_type == "Constant" and n.output[0] in stored]:
        model.graph.node.remove(node)
        value = np.asarray(net.weights[node.output[0]], order="C")
        model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
    for node in model.graph.node:
        axes = net.constant(node.input[1]) if len(node.input) > 1 else None
        if node.op_type in _AXES_AS_INPUT and axes is not None and axes.size:
            del node.input[1:]
            for attribute in [a for a in node.attribute if a.name == "noop_with_empty_axes"]:
                node.attribute.remove(attribute)
            node.attribute.append(helper.make_attribute("axes", axes.reshape(-1).tolist()))
        target = net.constant(node.input[1]) if node.op_type == "Reshape" else None
        if target is not None and (target != 0).all():  # then it says nothing
            for attribute in [a for a in node.attribute if a.name == "allowzero"]:
                node.attribute.remove(attribute)
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = min(max(entry.version, 9), 17)
    return model


def save(net: Net, path: str | os.PathLike[str]) -> None:
    """Check and write a model; the file appears whole or not at all."""
    write(path, to_bytes(net, check=True), "the network")


def evaluate64(net: Net, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Evaluate in float64 with the reference implementation of ONNX (slow; for checks and error bounds)."""
    from onnx.reference import ReferenceEvaluator  # costs a second, and few callers need it

    model = _proto(net)
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for node in model.graph.node:
        _double_constants(node)
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    feeds = {name: np.asarray(value, np.float64) for name, value in feeds.items()}
    results = ReferenceEvaluator(model).run(list(net.outputs), feeds)
    return dict(zip(net.outputs, (np.asarray(result) for result in results), strict=True))


def run_node64(
    net: Net, node: OnnxNode, feeds: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]
) -> list[np.ndarray]:
    """Run one node in float64 with the reference implementation; `weights` replaces stored values (unknown names:
    zero).
    """
    from onnx.reference import ReferenceEvaluator

    model = onnx.ModelProto()
    model.ParseFromString(net.header)
    stored = {}
    for name in dict.fromkeys(node.inputs):
        if name and name not in feeds:
            value = weights.get(name, net.weights.get(name, np.zeros(net.weights[node.inputs[1]].shape)))
            stored[name] = value.astype(np.float64) if value.dtype.kind == "f" else value
    builder = ModelBuilder()
    builder.nodes.append(_node_proto(node, net.weights))
    for name, value in stored.items():
        builder.constant(name, value)
    given = {name: (np.asarray(value).dtype, np.shape(value)) for name, value in feeds.items()}
    proto = builder.model(given, node.outputs, model.opset_import, max(model.ir_version, 4))
    return [np.asarray(value) for value in ReferenceEvaluator(proto).run(list(node.outputs), dict(feeds))]


# ---------------------------------------------------------------------------------------------------------- reading


def _net(model: onnx.ModelProto, where: str) -> Net:
    graph = model.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = tuple(_op(node) for node in graph.node)
    for node in nodes:
        value = _constant_value(node)
        if value is not None:
            weights[node.outputs[0]] = value
    inputs = [value for value in graph.input if value.name not in weights]
    batched = _check_inputs(inputs, where)
    shapes = _shapes(model, [value.name for value in inputs])
    nodes = _fold_constants(model, nodes, weights, shapes)
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    return Net(
        nodes=nodes,
        weights=MappingProxyType(weights),
        shapes=MappingProxyType(shapes),
        inputs=tuple(value.name for value in inputs),
        outputs=tuple(value.name for value in graph.output),
        opset=opset,
        batched=batched,
        header=_header(model),
    )


def _check_inputs(inputs: list[Any], where: str) -> bool:
    """Refuse inputs whose shape is open beyond the batch axis; True if the batch axis is symbolic."""
    batched = False
    for value in inputs:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise ModelError(f"{where}: input '{value.name}' has no tensor shape; expected fixed dimensions")
        for axis, dim in enumerate(kind.shape.dim):
            if not dim.HasField("dim_value") or dim.dim_value <= 0:
                if axis > 0:
                    raise ModelError(
                        f"{where}: input '{value.name}' leaves dimension {axis} open; only the batch axis 0 may be "
                        "symbolic (fix the others when exporting)"
                    )
                batched = True
    return batched


def _op(node: Any) -> OnnxNode:
    attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute if not a.ref_attr_name}
    captures: dict[str, None] = {}
    for attribute in node.attribute:
        for sub in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
            captures.update(dict.fromkeys(_captured(sub)))
    return OnnxNode(
        type=node.op_type,
        inputs=tuple(node.input),
        outputs=tuple(node.output),
        name=node.name,
        attrs=MappingProxyType(attrs),
        domain="" if node.domain == "ai.onnx" else node.domain,
        captures=tuple(captures),
        raw=node.SerializeToString(),
    )


def _captured(graph: Any) -> list[str]:
    """Every value name a subgraph mentions (a superset of what it takes from outside, which is all that matters)."""
    names = [output.name for output in graph.output]
    for node in graph.node:
        names.extend(node.input)
        for attribute in node.attribute:
            for sub in [attribute.g] if attribute.HasField("g") else list(attribute.graphs):
                names.extend(_captured(sub))
    return names


def _constant_value(node: OnnxNode) -> np.ndarray | None:
    if node.type != "Constant" or node.domain:
        return None
    if "value" in node.attrs:
        return numpy_helper.to_array(node.attrs["value"])
    for key, kind in (
        ("value_float", "float32"),
        ("value_floats", "float32"),
        ("value_int", "int64"),
        ("value_ints", "int64"),
    ):
        if key in node.attrs:
            return np.asarray(node.attrs[key], dtype=kind)
    return None


def _shapes(model: onnx.ModelProto, inputs: list[str]) -> dict[str, Shape]:
    """Shapes for one sample: static inference with the batch set to one, then a run where that leaves gaps."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.value_info[:]
    for value in fixed.graph.input:
        if value.name in inputs:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_value <= 0:
                    dim.dim_value = 1
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    shapes: dict[str, Shape] = {}
    with suppress(shape_inference.InferenceError):
        inferred = shape_inference.infer_shapes(fixed, data_prop=True).graph
        for value in (*inferred.input, *inferred.value_info, *inferred.output):
            if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
                dims = value.type.tensor_type.shape.dim
                if all(dim.HasField("dim_value") for dim in dims):
                    shapes[value.name] = tuple(dim.dim_value for dim in dims)
    if any(name and name not in shapes for node in model.graph.node for name in node.output):
        shapes.update(_shapes_by_running(fixed, inputs, shapes))
    return shapes


def _shapes_by_running(fixed: onnx.ModelProto, inputs: list[str], shapes: dict[str, Shape]) -> dict[str, Shape]:
    names = [name for node in fixed.graph.node for name in node.output if name]
    known = {output.name for output in fixed.graph.output}
    fixed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    types = {value.name: value.type.tensor_type.elem_type for value in fixed.graph.input}
    feeds = {name: np.full(shapes[name], 0.5).astype(helper.tensor_dtype_to_np_dtype(types[name])) for name in inputs}
    try:
        results = runtime.run_once(fixed.SerializeToString(), feeds, names)
    except ModelError:
        return {}  # values without a shape freeze what depends on them
    return {name: np.shape(value) for name, value in results.items()}


def _fold_constants(
    model: onnx.ModelProto, nodes: tuple[OnnxNode, ...], weights: dict[str, np.ndarray], shapes: Mapping[str, Shape]
) -> tuple[OnnxNode, ...]:
    """Compute nodes that only read constants (Identity or Transpose of a weight, shape arithmetic) into weights."""
    kept, outputs = [], {value.name for value in model.graph.output}
    for node in nodes:
        foldable = (
            node.type not in _NOT_FOLDED | {"Constant"}
            and not node.domain
            and not node.captures
            and any(node.inputs)
            and all(name in weights for name in node.inputs if name)
            and not outputs & set(node.outputs)
            and all(
                0 < np.prod(shapes.get(name, (FOLD_LIMIT + 1,)), dtype=float) <= FOLD_LIMIT for name in node.outputs
            )
        )
        if foldable:
            try:
                weights.update(runtime.run_once(_single(node, weights, model), {}, list(node.outputs)))
                continue
            except ModelError:
                pass  # stays in the graph as it is
        kept.append(node)
    return tuple(kept)


def _single(node: OnnxNode, weights: Mapping[str, np.ndarray], model: onnx.ModelProto) -> bytes:
    builder = ModelBuilder()
    builder.nodes.append(_node_proto(node, weights))
    for name in dict.fromkeys(node.inputs):
        if name:
            builder.constant(name, weights[name])
    return builder.model({}, node.outputs, model.opset_import, max(model.ir_version, 4)).SerializeToString()


# ---------------------------------------------------------------------------------------------------------- writing


def _header(model: onnx.ModelProto) -> bytes:
    header = onnx.ModelProto()
    header.CopyFrom(model)
    for part in ("node", "initializer", "sparse_initializer", "value_info"):
        header.graph.ClearField(part)
    header.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    return header.SerializeToString()


def _proto(net: Net) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.ParseFromString(net.header)
    model.graph.node.extend(_node_proto(node, net.weights) for node in net.nodes)
    produced = {name for node in net.nodes for name in node.outputs}
    used = {name for node in net.nodes for name in (*node.inputs, *node.captures)} | set(net.outputs)
    for name, value in net.weights.items():
        if name in used and name not in produced:
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name in net.inputs or value.name in stored]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    if model.ir_version < 4:  # which requires every weight to be an input as well
        listed = {value.name for value in inputs}
        model.graph.input.extend(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            for tensor in model.graph.initializer
            if tensor.name not in listed
        )
    for value in model.graph.input:  # old files list every weight as an input, with its shape
        if value.name in stored:
            value.CopyFrom(
                helper.make_tensor_value_info(
                    value.name, value.type.tensor_type.elem_type, net.weights[value.name].shape
                )
            )
    return model


def _node_proto(node: OnnxNode, weights: Mapping[str, np.ndarray]) -> Any:
    if not node.raw:
        return helper.make_node(
            node.type, list(node.inputs), list(node.outputs), name=node.name, domain=node.domain, **dict(node.attrs)
        )
    proto = onnx.NodeProto()
    proto.ParseFromString(node.raw)
    del proto.input[:], proto.output[:]
    proto.input.extend(node.inputs)
    proto.output.extend(node.outputs)
    proto.op_type, proto.name = node.type, node.name
    before = _op(proto)
    for name in [a.name for a in proto.attribute if a.name not in node.attrs and not a.ref_attr_name]:
        proto.attribute.remove(next(a for a in proto.attribute if a.name == name))
    for name, value in node.attrs.items():
        if isinstance(value, int | list | tuple) and value != before.attrs.get(name):
            for old in [a for a in proto.attribute if a.name == name]:
                proto.attribute.remove(old)
            proto.attribute.append(helper.make_attribute(name, value))
    old_value = _constant_value(before)
    if old_value is not None:
        new = weights[node.outputs[0]]
        if new.shape != old_value.shape or not np.array_equal(new, old_value):
            del proto.attribute[:]
            proto.attribute.append(helper.make_attribute("value", numpy_helper.from_array(np.asarray(new, order="C"))))
    return proto


def _double_constants(node: Any) -> None:
    for attribute in node.attribute:
        if node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type == onnx.TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float64)))
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
            attribute.i = onnx.TensorProto.DOUBLE
