"""Inputs for every target of `benchmarks/fuzz/targets.py`: case number i of a seed is always the same bytes."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
from onnx import TensorProto, helper

from benchmarks.fuzz import texts
from benchmarks.fuzz.models import ARITHMETIC, UNARY, RandomModel
from benchmarks.fuzz.mutate import damaged
from verifier.checker import format as fmt
from verifier.proof.encode import encode, encode_header, encode_witness
from verifier.proof.encode import packed as packed_proof


def case(target: str, seed: int, number: int) -> bytes:
    """Input `number` of a run with `seed`."""
    return MAKERS[target](random.Random((seed << 40) + number))


def specification(rng: random.Random) -> bytes:
    """As written, damaged, or cut out of one; short and known ones more often, so that a second holds thousands."""
    way = rng.random()
    if way < 0.1:
        return _text(rng.choice(texts.KINDS), rng.randrange(1 << 30))
    text = _known(rng.choice(texts.KINDS), rng.randrange(500))
    if way < 0.6:
        return texts.damaged(text, rng)
    start = rng.randrange(len(text))
    part = text[start : start + rng.randrange(1, 120)]
    return texts.damaged(HEAD + part if rng.random() < 0.7 else part, rng)


def _text(kind: type[texts.Version1], seed: int) -> bytes:
    return kind(seed).text().encode()


@cache
def _known(kind: type[texts.Version1], number: int) -> bytes:
    return min((_text(kind, 3 * number + k) for k in range(3)), key=len)


HEAD = b"(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= X_0 1))"


def witness(rng: random.Random) -> bytes:
    pairs = [f"({rng.choice('XY')}_{rng.randrange(3)} {texts.number(rng)})" for _ in range(rng.randrange(5))]
    second = "X float32 [1,2]\n0.5\n-1e-3\nY real []\n" + texts.number(rng)
    return texts.damaged(rng.choice(["(" + " ".join(pairs) + ")", second]).encode(), rng)


def results(rng: random.Random) -> bytes:
    """Lines of all three kinds."""
    word = rng.choice(["sat", "unsat", "timeout", "holds", "error", "run_instance_timeout", "no_result_in_file"])
    line = rng.choice(
        [
            f"{word}\n((X_0 1.0))",
            f"acasxu,a.onnx,b.vnnlib,0.1,{word},1.5",
            "a.onnx,b.vnnlib,60",
            "\"[('f', 'a')]\",b,1e3",
        ]
    )
    text = "\n".join([line] * rng.randrange(1, 4)) + rng.choice(["\n", "", "\r\n"])
    return damaged(text.encode(), rng, b'"",\'\0\n\r[]()') if rng.random() < 0.8 else text.encode()


def proof(rng: random.Random) -> bytes:
    """A header and events, then damage."""
    names = tuple(rng.choice(["relu", "é", ""]) for _ in range(rng.randrange(3)))
    kind = rng.choice([fmt.TREE, fmt.WITNESS])
    lines = [encode_header(fmt.Header(rng.randbytes(32).hex(), rng.randbytes(32).hex(), "tool", kind, names))]
    if kind == fmt.WITNESS:
        lines.append(encode_witness(np.arange(rng.randrange(4))))
    else:
        lines += [*(encode(_event(rng)) for _ in range(rng.randrange(6))), encode(fmt.End(1, 2))]
    way, data = rng.random(), b"".join(lines)
    if way < 0.1:
        return packed_proof(lines)
    return packed_proof([damaged(data, rng, data)]) if way < 0.8 else damaged(packed_proof(lines), rng, data)


def _event(rng: random.Random) -> fmt.Event:
    def number() -> int:
        return rng.choice([0, 1, 5, 200, 2**40])

    match rng.randrange(5):
        case 0:
            return fmt.InputSplit(number(), number(), rng.choice([0.5, float("nan"), -1e308]))
        case 1:
            return fmt.NeuronSplit(number(), number(), number())
        case 2:
            return fmt.ClauseSplit(number())
        case 3:
            return fmt.Leaf(
                number(), slopes=(np.frombuffer(rng.randbytes(rng.randrange(9)), np.uint8),) * rng.randrange(3)
            )
        case _:
            rows = tuple((c, ((rng.randrange(3), rng.choice([1.0, 0.5])),)) for c in range(rng.randrange(3)))
            kind = rng.choice(["leaf", "narrow", "exact"])
            return fmt.Leaf(number(), rows, (0.5,) * rng.randrange(3), (), rng.choice([fmt.FORMS, fmt.ROOT]), kind)


def model(rng: random.Random) -> bytes:
    """A small network; its bytes or its fields damaged."""
    way = rng.random()
    if way < 0.15:
        return _model(rng.randrange(1 << 30))
    data = _model(rng.randrange(400))  # few, so that making them does not take the time
    if way < 0.5:
        return damaged(data, rng, _model(rng.randrange(400)))
    return _changed(data, rng)


@cache
def _model(seed: int) -> bytes:
    rng = random.Random(seed)
    made = RandomModel(rng.choice, rng.randrange(1, 7), rng.choice(range(7, 23)))
    return made.data(rng.choice([TensorProto.FLOAT] * 4 + [TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT32]))


OPS = (
    *UNARY,
    *(
        *ARITHMETIC,
        "Pow",
        "MatMul",
        "Gemm",
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
    ),
    *(
        "Concat",
        "Reshape",
        "Transpose",
        "Slice",
        "Gather",
        "Pad",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Expand",
        "Resize",
    ),
    *("ReduceSum", "ReduceMean", "ReduceMax", "Clip", "Cast", "Where", "Constant", "ConstantOfShape", "Shape", "Split"),
    *("BatchNormalization", "Softmax", "ArgMax", "Identity", "Dropout", "Floor", "Sign", "Exp", "Log", "Sqrt", "Tile"),
    *(
        "If",
        "Loop",
        "LSTM",
        "NonZero",
        "Einsum",
        "DepthToSpace",
        "LayerNormalization",
        "GlobalAveragePool",
        "Nonsense",
        "",
    ),
)


def _changed(data: bytes, rng: random.Random) -> bytes:
    """One to three fields with another value: operators, names, attributes, shapes, types, weights, order."""
    proto = onnx.ModelProto.FromString(data)
    graph = proto.graph
    for _ in range(rng.randrange(1, 4)):
        node = rng.choice(graph.node) if graph.node else onnx.NodeProto()
        names = [*(n for one in graph.node for n in (*one.input, *one.output)), "", "x", "nowhere"]
        match rng.randrange(14):
            case 0:
                node.op_type = rng.choice(OPS)
            case 1 if node.input:
                node.input[rng.randrange(len(node.input))] = rng.choice(names)
            case 2 if node.output:
                node.output[rng.randrange(len(node.output))] = rng.choice(names)
            case 3:
                rng.choice([node.input, node.output]).append(rng.choice(names))
            case 4 if graph.node:
                del graph.node[rng.randrange(len(graph.node))]
            case 5 if graph.node:
                graph.node.insert(rng.randrange(len(graph.node) + 1), rng.choice(graph.node))
            case 6:
                node.attribute.append(_attribute(rng))
            case 7 if graph.initializer:
                tensor = rng.choice(graph.initializer)
                tensor.dims.append(rng.choice([0, 1, 2, -1, 2**31, 2**62]))
            case 8 if graph.initializer:
                tensor = rng.choice(graph.initializer)
                tensor.raw_data = damaged(tensor.raw_data, rng, b"\0\0\xc0\x7f\0\0\x80\x7f\xff\xff\xff\xff\x01\0\0\0")
            case 9 if graph.initializer:
                rng.choice(graph.initializer).data_type = rng.randrange(25)
            case 10:
                dims = rng.choice([*graph.input, *graph.output]).type.tensor_type.shape.dim
                if dims and rng.random() < 0.8:
                    rng.choice(dims).dim_value = rng.choice([0, 1, 2, 3, -1, 2**31, 2**62])
                else:
                    dims.add().dim_param = "n"
            case 11:
                rng.choice([*graph.input, *graph.output]).type.tensor_type.elem_type = rng.randrange(25)
            case 12 if proto.opset_import:
                proto.opset_import[0].version = rng.choice([-1, 0, 1, 6, 7, 13, 22, 23, 2**40])
            case 13:
                rng.choice([graph.input, graph.output]).add().CopyFrom(rng.choice([*graph.input, *graph.output]))
    return bytes(proto.SerializeToString())


ATTRIBUTES = (
    *(
        "axis",
        "axes",
        "perm",
        "pads",
        "strides",
        "kernel_shape",
        "alpha",
        "value",
        "to",
        "group",
        "dilations",
        "keepdims",
    ),
    *("auto_pad", "min", "epsilon", "mode", "transB", "ceil_mode"),
)


def _attribute(rng: random.Random) -> onnx.AttributeProto:
    name = rng.choice(ATTRIBUTES)
    number = rng.choice([0, 1, -1, 2, 7, -(2**63), 2**63 - 1, 2**31])
    tensor = helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0])
    value = rng.choice([number, [number] * rng.randrange(1, 4), 0.5, float("nan"), "SAME_UPPER", tensor, [0.5, -1.0]])
    return helper.make_attribute(name, value)


def packed(rng: random.Random) -> bytes:
    """Gzip of a text or a model, one or two members, damaged."""
    inner = rng.choice([specification, model])(rng)
    data = b"".join(gzip.compress(part, 1) for part in (inner[: len(inner) // 2], inner[len(inner) // 2 :]))
    return damaged(data, rng, data) if rng.random() < 0.8 else data


def ledger(rng: random.Random) -> bytes:
    return results(rng)


def problems(rng: random.Random) -> bytes:
    """The choices of a problem."""
    return rng.randbytes(1200)


def planar(rng: random.Random) -> bytes:
    """The choices of a problem of many inputs."""
    return rng.randbytes(1200)


def grouped(rng: random.Random) -> bytes:
    """The choices of a problem of many queries."""
    return rng.randbytes(4000)


def operators(rng: random.Random) -> bytes:
    """The choices of a chain of operators."""
    return rng.randbytes(400)


MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    f.__name__: f
    for f in (specification, witness, results, ledger, proof, model, packed, problems, planar, grouped, operators)
}
