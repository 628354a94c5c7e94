"""Small networks, and an evaluator of VNN-LIB text that shares no code with the package."""

import re

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def network(kind="coordinates", *, size=8, channels=1, points=3, opset=13, batch="N", dtype=np.float32, seed=0):
    """A random little network: coordinates (2K), heatmap (stride 4, K maps), labels (5), flat or nhwc coordinates."""
    draw = np.random.default_rng(seed)
    tensors, nodes = [], []
    element = TensorProto.FLOAT if dtype == np.float32 else TensorProto.DOUBLE

    def weight(name, *shape, scale=1.0, shift=0.0):
        tensors.append(numpy_helper.from_array((shift + scale * draw.normal(size=shape)).astype(dtype), name))
        return name

    shape = [batch, channels, size, size]
    last = "image"
    if kind == "nhwc":
        shape = [batch, size, size, channels]
        nodes.append(helper.make_node("Transpose", [last], ["swapped"], perm=[0, 3, 1, 2]))
        last = "swapped"
    if kind == "flat":
        shape = [batch, channels * size * size]
        flat = last
    else:
        convolution = [last, weight("w1", 4, channels, 3, 3), weight("b1", 4)]
        nodes.append(helper.make_node("Conv", convolution, ["c1"], strides=[2, 2], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", ["c1"], ["r1"]))
        flat = "flat"
    if kind == "heatmap":
        second = ["r1", weight("w2", points, 4, 3, 3), weight("b2", points)]
        nodes.append(helper.make_node("Conv", second, ["answer"], strides=[2, 2], pads=[1, 1, 1, 1]))
        output = [batch, points, size // 4, size // 4]
    else:
        if kind != "flat":
            nodes.append(helper.make_node("Flatten", ["r1"], [flat], axis=1))
        n_in = channels * size * size if kind == "flat" else 4 * (size // 2) ** 2
        n_out = 5 if kind == "labels" else 2 * points
        middle = 0.0 if kind == "labels" else size / 2  # key points lie near the middle of the frame
        gemm = [flat, weight("w3", n_in, n_out, scale=1 / np.sqrt(n_in)), weight("b3", n_out, scale=0.3, shift=middle)]
        nodes.append(helper.make_node("Gemm", gemm, ["answer"]))
        output = [batch, n_out]
    graph = helper.make_graph(
        nodes,
        kind,
        [helper.make_tensor_value_info("image", element, shape)],
        [helper.make_tensor_value_info("answer", element, output)],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 4 if opset < 10 else 8
    onnx.checker.check_model(model, full_check=True)
    return model


def session(model):
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def run(model_session, values):
    given = model_session.get_inputs()[0]
    dtype = np.float64 if "double" in given.type else np.float32
    return model_session.run(None, {given.name: np.asarray(values, dtype)})[0]


def parse(text):
    """Text -> nested lists of words, comments dropped."""
    text = re.sub(r";[^\n]*", "", text)
    words = re.findall(r"[()]|[^\s()]+", text)
    stack: list[list] = [[]]
    for word in words:
        if word == "(":
            stack.append([])
        elif word == ")":
            done = stack.pop()
            stack[-1].append(done)
        else:
            stack[-1].append(word)
    assert len(stack) == 1
    return stack[0]


class Spec:
    """The meaning of a specification, from its text alone. x (d,) and y (any shape) are given, the rest is read."""

    def __init__(self, text):
        self.statements = parse(text)
        self.asserts = [s[1] for s in self.statements if s[0] == "assert"]
        self.declared = [s[1] for s in self.statements if s[0] == "declare-const"]

    def value(self, term, x, y):
        match = re.fullmatch(r"([XY])_(\d+)", term)
        if match:
            return (x if match[1] == "X" else y.ravel())[int(match[2])]
        match = re.fullmatch(r"([XY])\[([\d,]+)\]", term)
        if match:
            place = tuple(int(i) for i in match[2].split(","))
            return (np.asarray(x)[None] if match[1] == "X" else y)[place]
        assert re.fullmatch(r"-?\d+\.\d+", term), term
        return float(term)

    def holds(self, formula, x, y):
        head, *rest = formula
        if head in ("and", "or"):
            return (all if head == "and" else any)(self.holds(f, x, y) for f in rest)
        left, right = (self.value(t, x, y) for t in rest)
        return {"<=": left <= right, ">=": left >= right}[head]

    def inside(self, x):
        return all(self.holds(f, x, None) for f in self.asserts if mentions(f, "X"))

    def violated(self, x, y):
        return all(self.holds(f, x, y) for f in self.asserts if mentions(f, "Y"))


def mentions(formula, letter):
    if isinstance(formula, str):
        return formula[:1] == letter
    return any(mentions(part, letter) for part in formula[1:])


def official_reader_accepts(text):
    """The shape of text that the VNN-COMP reader of 1.0 takes, by its description: one statement after the other."""
    text = re.sub(r"\s+", " ", re.sub(r";[^\n]*", "", text)).strip()
    number = r"-?\d+(?:\.\d+)?"
    output = rf"\((?:<=|>=) Y_\d+ (?:Y_\d+|{number})\)"
    statement = rf"""(?:\(declare-const [XY]_\d+ Real\)
        |\(assert \((?:<=|>=) X_\d+ {number}\)\)
        |\(assert {output}\)
        |\(assert \(or (?:\(and {output}(?: {output})*\)\s?)+\)\))""".replace("\n        ", "")
    statement = statement.replace(" ", " ")
    return re.fullmatch(rf"(?:{statement} ?)+", text) is not None


def margins(rows, y):
    """C y - rhs of `SparseRows` for outputs y (n,): (R,)."""
    return rows.dense() @ y - rows.rhs


def violated(rows, y):
    """Whether some clause holds with all its rows (ties included)."""
    first = np.flatnonzero(np.diff(rows.clause, prepend=-1))
    return bool((np.maximum.reduceat(margins(rows, y), first) <= 0).any())
