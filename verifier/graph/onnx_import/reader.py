"""From bytes to a `Model`: parse, check what the file may contain, then lower node by node."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from verifier.errors import ModelError, UnsupportedOperator
from verifier.graph.check import all_finite, check_graph
from verifier.graph.enclose import Enclosure, enclose_node
from verifier.graph.ir import Node, Shape, alive
from verifier.graph.onnx_import import (  # noqa: F401 (the imports fill the registry)
    activation,
    arithmetic,
    conv,
    index,
    kernel,
    linear,
    logic,
    opaque,
    pool,
    quantised,
    reduce,
    resize,
    shape,
)
from verifier.graph.onnx_import.context import Context, Operand, Var
from verifier.graph.onnx_import.final import find_final
from verifier.graph.onnx_import.fold import approximate, fold, foldable, normal
from verifier.graph.onnx_import.model import Model, ModelLimits, TensorInfo
from verifier.graph.onnx_import.registry import lookup
from verifier.graph.onnx_import.schema import WITHOUT_EFFECT, missing
from verifier.graph.onnx_import.source import parse, printable, read_model
from verifier.graph.operators import OPERATORS

OPSETS = range(7, 29)
_DOMAINS = ("", "ai.onnx")
_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
_MAY_BE_INFINITE = (
    "Clip", "Max", "Min", "Where", "Identity", "Pad", "Cast", "Expand", "Mul", "ConstantOfShape", "IsInf", "IsNaN",
)  # fmt: skip
# operators that move whole numbers about without computing with them
_ARRANGES = (
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Reshape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
)  # fmt: skip
_MOVES = (*_ARRANGES, "Cast", "CastLike", "Dropout", "Identity", "ScatterND", "Shape", "Size")


# operators whose indices or shapes may depend on data: such a node becomes Opaque
_RUN_ANYWAY = ("Cast", "Einsum", "MaxPool", "ReduceProd")  # Opaque where they have no bound rule
_INDEXED = (
    "Expand", "Gather", "GatherElements", "GatherND", "Pad", "Reshape", "Scatter", "ScatterElements", "ScatterND",
    "Slice", "Tile", "Where",
)  # fmt: skip


# What numpy and Python raise when attributes have the wrong type or arrays do not fit: the file is to blame, and says
# so through one clear error. (A mistake of ours would look the same, but never pass for a result.)
_NONSENSE = (TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError, AssertionError)


def load_model(source: str | os.PathLike[str] | bytes, *, limits: ModelLimits | None = None) -> Model:
    """Read an ONNX model: a path (`path`.gz is tried where `path` does not exist) or its bytes, gzipped or not.

    Weights in files beside the model are read where a path is given (see `source.read_model`).

    Raises:
        ModelError: the file cannot be read, is not ONNX, is invalid, too large, or holds NaN or infinite weights.
        UnsupportedOperator: an operator, opset or domain is outside the importer's reach.
    """
    limits = limits or ModelLimits()
    read = read_model(source, limits)
    path, proto = read.path, parse(read)
    try:
        with np.errstate(all="ignore"):  # what overflows is found by the checks for finite parameters
            return _Import(proto, read.data, path, limits).run()
    except _NONSENSE as error:
        raise ModelError(f"{path}: the model is invalid: {_describe(error)}") from error
    except ModelError as error:
        error.args = (f"{path}: {printable(str(error))}",)
        raise


def _opset(proto: onnx.ModelProto) -> int:
    versions = [entry.version for entry in proto.opset_import if entry.domain in _DOMAINS]
    if not versions:
        raise ModelError("the model does not say which version of the ONNX operators it uses")
    opset = max(versions)
    if opset not in OPSETS:
        raise ModelError(
            f"opset {opset} is not supported, expected {OPSETS[0]} to {OPSETS[-1]}; export again, or use"
            " onnx.version_converter"
        )
    return opset


class _Import:
    """One import: the state that the walk over the ONNX nodes shares."""

    def __init__(self, proto: onnx.ModelProto, data: bytes, path: str, limits: ModelLimits) -> None:
        self.proto, self.graph, self.data, self.path = proto, proto.graph, data, path
        self.opset = _opset(proto)
        self.context = Context(limits)
        self.limits = limits
        self.values: dict[str, Operand] = {}
        self.declared: dict[str, Shape] = {}

    def run(self) -> Model:
        nodes = self._needed()
        self._refuse_unknown(nodes)
        self._read_initializers(nodes)
        inputs = self._read_inputs()
        outputs = self.graph.output
        self.declared = {
            info.name: info_.shape
            for info in (*self.graph.value_info, *outputs)
            if (info_ := _tensor_info(info)) is not None
        }
        for position, node in nodes:
            self._lower(node, position)
        names = [self._output(info.name) for info in outputs]
        context = self.context
        graph = alive([x.name for x in inputs], names, context.nodes, context.shapes)
        check_graph(graph)
        infos = tuple(self._output_info(info, graph.shapes[name]) for info, name in zip(outputs, names, strict=True))
        final = find_final([node for _, node in nodes], [info.name for info in outputs], self.values, self.opset)
        logits = None
        if final is not None:
            logits = alive(graph.inputs, (final[1],), context.nodes, context.shapes)
            check_graph(logits)
        last = final[0] if final else None
        return Model(self.data, self.path, graph, tuple(inputs), infos, self.opset, last, logits, context.half)

    def _needed(self) -> list[tuple[int, onnx.NodeProto]]:
        """The nodes that the outputs depend on, with their positions in the file."""
        if not self.graph.output:
            raise ModelError("the model has no output")
        if len(self.graph.node) > self.limits.nodes:
            raise ModelError(f"{len(self.graph.node)} nodes, more than the limit of {self.limits.nodes}")
        wanted = {info.name for info in self.graph.output}
        kept = []
        for position in range(len(self.graph.node) - 1, -1, -1):
            node = self.graph.node[position]
            if wanted.intersection(node.output):
                kept.append((position, node))
                wanted.update(node.input)
        kept.reverse()
        return kept

    def _refuse_unknown(self, nodes: Sequence[tuple[int, onnx.NodeProto]]) -> None:
        functions = {(function.domain, function.name) for function in self.proto.functions}
        found: list[tuple[str, str, str]] = []
        for position, node in nodes:
            why = ""
            if (node.domain, node.op_type) in functions:
                why = "a function defined in the model; inline it (onnx.inliner)"
            elif node.domain not in _DOMAINS:
                why = f"domain '{node.domain}'"
            elif node.op_type in _CONTROL_FLOW:
                why = "control flow"
            elif node.op_type != "Constant" and not foldable(node.op_type) and not lookup(node.op_type, self.opset):
                why = "no rule to import it"
            if why:
                found.append((_label(node, position), node.op_type, why))
        if found:
            name, op, why = found[0]
            others = sorted({one for _, one, _ in found[1:]})
            more = f"; and {len(found) - 1} more such nodes ({', '.join(others)})" if others else ""
            raise UnsupportedOperator(name, op, self.opset, why + more)
        for position, node in enumerate(self.graph.node):  # also what no output needs: ONNX Runtime runs it
            if node.domain in _DOMAINS and (lacks := missing(node, self.opset)):
                raise ModelError(f"node '{_label(node, position)}' ({node.op_type}) is invalid: {lacks}")

    def _read_initializers(self, nodes: Iterable[tuple[int, onnx.NodeProto]]) -> None:
        if self.graph.sparse_initializer:
            raise ModelError("sparse initializers are not supported; export dense ones")
        readers: dict[str, set[str]] = {}
        for _, node in nodes:
            for name in node.input:
                readers.setdefault(name, set()).add(node.op_type)
        for tensor in self.graph.initializer:
            if tensor.name in self.values:
                raise ModelError(f"tensor '{tensor.name}' is defined twice")
            if tensor.name in readers or any(info.name == tensor.name for info in self.graph.output):
                array = self._array(tensor, tensor.name)
                if not readers.get(tensor.name, set()) <= set(_MAY_BE_INFINITE):
                    _refuse_infinite(array, tensor.name)
                self.values[tensor.name] = array

    def _array(self, tensor: onnx.TensorProto, name: str) -> np.ndarray:
        if tensor.external_data:
            raise ModelError(f"tensor '{name}' lies in another file (external data); load the model by its path")
        if any(size < 0 for size in tensor.dims):
            raise ModelError(f"tensor '{name}' has a negative dimension")
        self.context.source = f"tensor '{name}'"
        self.context.guard(tensor.dims)
        if tensor.data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
            raise ModelError(f"tensor '{name}' holds strings or nothing; expected numbers")
        if tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128):
            raise ModelError(f"tensor '{name}' holds complex numbers; expected real ones")
        try:
            array = normal(numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ModelError(f"tensor '{name}' is damaged: {error}") from None
        if array.dtype.kind == "f" and not all_finite(array) and np.isnan(array).any():
            raise ModelError(f"tensor '{name}' holds NaN")
        return array

    def _read_inputs(self) -> list[TensorInfo]:
        infos: list[TensorInfo] = []
        weights = {tensor.name for tensor in self.graph.initializer}
        for declared in self.graph.input:
            if declared.name in weights:
                continue
            info = _tensor_info(declared)
            if info is None:
                raise ModelError(f"input '{declared.name}' is not a tensor with a known number of axes")
            if info.dtype.kind not in "fiu":
                raise ModelError(f"input '{declared.name}' has type {info.dtype}; expected numbers")
            if info.name in (other.name for other in infos):
                raise ModelError(f"input '{info.name}' is declared twice")
            if 0 in info.shape:
                raise ModelError(f"input '{info.name}' is empty: shape {info.shape}")
            self.context.source = f"input '{info.name}'"
            self.values[info.name] = self.context.add_input(info.name, info.shape, info.dtype)
            infos.append(info)
        if not infos:
            raise ModelError("the model has no input besides its weights")
        return infos

    def _lower(self, node: onnx.NodeProto, position: int) -> None:
        try:
            self._lower_checked(node, position)
        except _NONSENSE as error:
            raise ModelError(
                f"node '{_label(node, position)}' ({node.op_type}) is invalid: {_describe(error)}"
            ) from error

    def _lower_checked(self, node: onnx.NodeProto, position: int) -> None:
        label = _label(node, position)
        context = self.context
        context.begin(f"node '{label}' ({node.op_type})", next((name for name in node.output if name), label))
        inputs: list[Operand | None] = []
        for name in node.input:
            if name and name not in self.values:
                raise ModelError(f"node '{label}' ({node.op_type}) reads '{name}', which nothing before it defines")
            inputs.append(self.values[name] if name else None)
        while inputs and inputs[-1] is None:
            inputs.pop()
        count = max((i + 1 for i, name in enumerate(node.output) if name), default=0)
        declared = self.declared.get(node.output[0]) if node.output else None
        context.look_at(node.op_type, self.opset, label, inputs, count, self._attributes(node), declared)
        results = self._results(node)
        unread = context.unread - WITHOUT_EFFECT.get(node.op_type, frozenset())
        if unread and not any(isinstance(one, Var) and one.opaque for one in results):  # Opaque: run as it is
            raise context.refuse(f"attribute '{min(unread)}', which nothing here reads")
        for name, value in zip(node.output, results, strict=False):
            if not name:
                continue
            if name in self.values:
                raise ModelError(f"node '{label}' ({node.op_type}) defines '{name}' a second time")
            self.values[name] = context.rename(value, name) if isinstance(value, Var) else value
        if len(results) < count:
            raise context.refuse(f"its output {len(results) + 1}")

    def _results(self, node: onnx.NodeProto) -> tuple[Operand, ...]:
        context = self.context
        if node.op_type == "Constant":
            return (self._constant(node),)
        folded = fold(context)
        if folded is not None:
            return (folded,)
        variables = [v for v in context.inputs if isinstance(v, Var) and v.name not in context.inexact]
        lowering = lookup(node.op_type, self.opset)
        if lowering is None:
            raise context.refuse("its inputs must be constant, but depend on the network's input")
        if node.op_type in _ARRANGES and not any(isinstance(value, Var) for value in context.inputs):
            return self._arranged(lowering)
        depends = any(value.opaque for value in variables)
        moves = node.op_type in _MOVES and (node.op_type != "ScatterND" or context.attr("reduction", "none") == "none")
        whole = any(not value.real for value in variables) and not moves
        if depends:
            lowering = opaque.opaque
        elif whole:
            lowering = logic.on_whole(node.op_type, lowering)
        if not variables:
            return self._fold_constants(lowering)
        return self._call(lowering)

    def _call(self, lowering: Any) -> tuple[Operand, ...]:
        try:
            found = lowering(self.context)
        except ValueError as error:  # numpy's refusal to broadcast
            raise self.context.wrong(f"shapes do not fit: {_describe(error)}") from error
        except UnsupportedOperator:
            # conversion to whole numbers, indices or shapes that depend on data, rare forms: it can still be run
            chosen_by_data = any(isinstance(value, Var) for value in self.context.inputs[1:])
            rounded = any(isinstance(one, Var) and one.name in self.context.inexact for one in self.context.inputs)
            if not (rounded or self.context.op in _RUN_ANYWAY or (self.context.op in _INDEXED and chosen_by_data)):
                raise
            found = opaque.opaque(self.context)
        return found if isinstance(found, tuple) else (found,)

    def _arranged(self, lowering: Any) -> tuple[Operand, ...]:
        """Constants whose elements are only moved, of any type: lower, run the nodes on them, and forget the nodes."""
        context, start = self.context, len(self.context.nodes)
        context.arrays = {}
        results = self._call(lowering)
        known = {name: array[None] for name, array in context.arrays.items()}
        for node in context.nodes[start:]:
            to = 1, *context.shapes[node.output]
            moved = OPERATORS[node.op].value(node, node.params, to, *(known[name] for name in node.inputs))
            known[node.output] = np.asarray(moved)
        del context.nodes[start:]
        for name in known:
            del context.shapes[name]
        dtype = context.value(0).dtype
        return tuple(np.array(known[one.name][0] if isinstance(one, Var) else one, dtype) for one in results)

    def _fold_constants(self, lowering: Any) -> tuple[Operand, ...]:
        """Constants alone: lower, enclose the values, and forget the nodes; where that does not work, ask ONNX
        Runtime. What had to be rounded becomes a Constant node that says by how much.
        """
        context = self.context
        first = context.inputs[0] if context.inputs else None
        if isinstance(first, np.ndarray) and first.dtype.kind in "iu":  # a mean is cut, a product may leave its type
            whole = kernel.of_constants(context)
            if whole is not None:
                return tuple(normal(one) for one in whole)
        near = approximate(context)
        if near is not None:
            return (context.rounded(*near) if near[1].any() else near[0],)
        if lowering is opaque.opaque:
            return self._run_constants()
        start = len(context.nodes)
        results: tuple[Operand, ...] | None = None
        with contextlib.suppress(UnsupportedOperator):
            results = self._call(lowering)
        nodes: list[Node] = context.nodes[start:]
        del context.nodes[start:]
        known = {name: _enclosure(node) for name, node in context.inexact.items()}
        for node in nodes:
            if all(name in known for name in node.inputs):
                found = enclose_node(node, [known[name] for name in node.inputs], context.shapes[node.output])
                if found is not None:
                    known[node.output] = found
        for node in nodes:
            del context.shapes[node.output]
            context.inexact.pop(node.output, None)
        if results is None or any(isinstance(one, Var) and one.name not in known for one in results):
            return self._run_constants()
        made: list[Operand] = []
        for one in results:
            if isinstance(one, np.ndarray) or one.name in context.inexact:
                made.append(one)
                continue
            value, error = (part[0] for part in known[one.name])
            made.append(context.rounded(value, error) if error.any() else np.array(value))
        return tuple(made)

    def _run_constants(self) -> tuple[Operand, ...]:
        """Constants alone, by ONNX Runtime, where it rounds nothing; otherwise a network that is run, not bounded."""
        found = kernel.of_constants(self.context)
        if found is not None:
            return tuple(normal(one) for one in found)
        return self._call(opaque.opaque)

    def _constant(self, node: onnx.NodeProto) -> np.ndarray:
        for attribute in node.attribute:
            if attribute.name == "value":
                return self._array(attribute.t, node.output[0])
            if attribute.name in ("value_float", "value_floats"):
                return normal(np.asarray(onnx.helper.get_attribute_value(attribute), dtype=np.float32))
            if attribute.name in ("value_int", "value_ints"):
                return np.asarray(onnx.helper.get_attribute_value(attribute), dtype=np.int64)
        raise self.context.refuse("a constant that is not a dense tensor of numbers")

    def _attributes(self, node: onnx.NodeProto) -> Mapping[str, Any]:
        result: dict[str, Any] = {}
        if node.op_type == "Constant":
            return result
        for attribute in node.attribute:
            if attribute.ref_attr_name or attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                raise self.context.refuse(f"attribute '{attribute.name}' is a graph or refers to a function")
            value = onnx.helper.get_attribute_value(attribute)
            if isinstance(value, bytes):
                value = value.decode("utf-8", "replace")
            elif isinstance(value, onnx.TensorProto):
                value = self._array(value, f"{node.name}.{attribute.name}")
            result[attribute.name] = value
        return result

    def _output(self, name: str) -> str:
        """The IR value that carries the output `name`, under that name where possible."""
        value = self.values.get(name)
        if value is None:
            raise ModelError(f"output '{name}' is computed by no node")
        context = self.context
        if isinstance(value, Var) and value.name == name:
            return name
        context.begin(f"output '{name}'", name)
        if isinstance(value, np.ndarray):
            if 0 in value.shape:
                raise ModelError(f"output '{name}' is empty: shape {value.shape}")
            value = context.constant(value)
        else:
            value = context.emit("Reshape", [value], value.shape)
        return context.rename(value, name).name

    def _output_info(self, declared: onnx.ValueInfoProto, size: Shape) -> TensorInfo:
        info = _tensor_info(declared)
        dtype = info.dtype if info is not None else np.dtype(np.float32)
        return TensorInfo(declared.name, size, dtype, info.symbolic if info is not None else ())


def _enclosure(node: Node) -> Enclosure:
    return Enclosure(node.params["value"][None], node.params["bias_error"][None])


def _tensor_info(info: onnx.ValueInfoProto) -> TensorInfo | None:
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    except KeyError:
        return None
    dims = kind.shape.dim
    fixed = [dim.HasField("dim_value") and dim.dim_value >= 0 for dim in dims]
    shape_ = tuple(int(dim.dim_value) if known else 1 for dim, known in zip(dims, fixed, strict=True))
    return TensorInfo(info.name, shape_, dtype, tuple(axis for axis, known in enumerate(fixed) if not known))


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {printable(' '.join(str(error).split()))[:200]}"


def _label(node: onnx.NodeProto, position: int) -> str:
    return node.name or next((name for name in node.output if name), "") or f"#{position}"


def _refuse_infinite(array: np.ndarray, name: str) -> None:
    if array.dtype.kind == "f" and not all_finite(array):
        raise ModelError(f"tensor '{name}' holds infinite values")
