"""Random chains of operators with every attribute drawn, on numbers that every type computes exactly.

Weights and points are small whole numbers, halves and quarters, so that most operators round nothing: what ONNX Runtime
computes is then the truth, ties and jumps included, and an `unsat` of a problem that asks for exactly that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
from onnx import helper, numpy_helper

from benchmarks.fuzz.makers import KINDS, MAKERS, Shape, Value
from benchmarks.fuzz.models import Pick

OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22)
SHAPES: tuple[Shape, ...] = (
    (1, 4),
    (1, 4),
    (3,),
    (),
    (2, 3),
    (1, 2, 5),
    (1, 2, 4, 3),
    (2, 2, 3, 3),
    (1, 1, 3, 2, 2),
    (1, 1),
    (1, 1, 6),
    (4, 1),
)
MOST = 160
CHECKED = (
    "Add", "AveragePool", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "Div", "Dropout", "Flatten", "Gemm",
    "GlobalAveragePool", "Identity", "LeakyRelu", "MatMul", "MaxPool", "Mul", "Neg", "Pow", "Relu", "Reshape",
    "Sigmoid", "Slice", "Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze",
)  # fmt: skip
"""What the checker of proofs reads: some chains have nothing else, or it would hardly ever read one."""

SMOOTH = frozenset({
    "Sigmoid", "Tanh", "Exp", "Log", "Sin", "Cos", "Erf", "Softplus", "Sqrt", "Softmax", "LogSoftmax", "Elu", "Selu",
    "Celu", "Mish", "Gelu", "Swish", "Sinh", "Cosh", "Tan", "Atan", "ReduceLogSumExp", "ReduceLogSum", "ReduceL2",
    "LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization", "LpNormalization",
    "MeanVarianceNormalization", "BatchNormalization", "Reciprocal", "Div", "Pow", "Softsign", "HardSigmoid",
    "HardSwish", "Resize", "Upsample", "Mean", "ReduceMean", "AveragePool", "GlobalAveragePool", "LeakyRelu", "PRelu",
    "QuantizeLinear", "QLinearConv", "QLinearMatMul", "Shrink", "ThresholdedRelu", "Gemm", "Asin", "Acos",
    "Asinh", "Acosh", "Atanh",
})  # fmt: skip
"""What may round: the truth is what ONNX Runtime says up to a tolerance."""


class RandomOperators:
    """A model of one input and one to three operators that ONNX Runtime runs. `pick` makes every choice."""

    def __init__(self, pick: Pick) -> None:
        self.pick = pick
        self.rng = np.random.default_rng(pick(range(2**32)))
        self.opset = pick(OPSETS)
        kind = np.dtype(pick([np.float32] * 8 + [np.float64, np.float16, np.int64, np.int32, np.int8, np.uint8]))
        self.x = Value("x", pick(SHAPES), kind)
        self.nodes: list[Any] = []
        self.tensors: dict[str, np.ndarray] = {}
        self.last, self.made = [self.x], list[Value]()
        self.values, self.used = list[Value](), list[str]()
        self.box()
        self.names = pick([sorted(MAKERS), sorted(MAKERS), CHECKED])
        for _ in range(pick([1, 1, 2, 3])):
            for _ in range(8):
                if self._grow():
                    break
        self.more = pick([False, False, False, True])
        self.outputs = [one.name for one in self.made]
        if self.more:
            others = [one.name for one in (*self.values, self.x)]
            others += [name for name, one in self.tensors.items() if one.size][:1]
            self.outputs += [one for one in dict.fromkeys(pick(others) for _ in range(2)) if one not in self.outputs]

    def box(self) -> None:
        size = math.prod(self.x.shape)
        low = self.rng.integers(-3, 4, size).astype(float)
        if self.x.kind.kind == "u":
            low = np.abs(low)
        width = self.rng.choice([0, 0, 1, 1, 2, 4, 250] if self.x.kind.kind in "iu" else [0, 0.5, 1, 1, 2, 4], size)
        if self.x.kind.kind in "iu":
            info = np.iinfo(self.x.kind)
            self.lower, self.upper = low, np.minimum(low + width, min(info.max, 2**31))
        else:
            shift = self.rng.choice([0, 0, 0.5, 0.25], size)
            self.lower, self.upper = low + shift, low + shift + width

    # ------------------------------------------------------------------------------------------------------- building

    def weight(self, array: Any) -> str:
        name = f"w{len(self.tensors)}"
        self.tensors[name] = np.asarray(array)
        return name

    def numbers(self, shape: Sequence[int], kind: Any = np.float32) -> np.ndarray:
        kind = np.dtype(kind)
        if kind.kind == "b":
            return self.rng.integers(0, 2, shape).astype(bool)
        if kind.kind in "iu":
            low = 0 if kind.kind == "u" else -4
            return self.rng.integers(low, 9, shape).astype(kind)
        return self.rng.choice([0, 1, -1, 2, -2, 0.5, -0.5, 3, 0.25, -3], shape).astype(kind)

    def broadcastable(self, shape: Shape, one_way: bool = False) -> Shape:
        """A shape that broadcasts with `shape`."""
        found = tuple(n if self.rng.random() < 0.5 else 1 for n in shape)
        if found and self.rng.random() < 0.4:
            found = found[self.rng.integers(0, len(found) + 1) :]
        if not one_way and self.rng.random() < 0.15:
            found = (2, *[1] * (len(shape) - len(found)), *found)
        return found

    def _grow(self) -> bool:
        value = self.pick(self.last)
        maker = MAKERS[self.pick(self.names)]
        nodes, tensors = len(self.nodes), dict(self.tensors)
        try:
            made = maker(self, value)
        except (ValueError, IndexError, OverflowError):
            made = None
        if made is None:
            self.tensors = tensors
            return False
        op, inputs, attributes, outputs = made
        names = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        attributes = {name: one for name, one in attributes.items() if not isinstance(one, list) or one}
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        point = (self.lower + self.upper) / 2 if self.x.kind.kind == "f" else self.lower
        try:
            found = self.session(names).run(None, {"x": self.feed(point)})
        except (
            Exception
        ):  # ONNX Runtime has many kinds, for graphs it refuses and for kernels that fail: not drawn then
            found = None
        if found is None or any(
            one.size > MOST or one.size == 0 or one.dtype not in KINDS for one in map(np.asarray, found)
        ):
            del self.nodes[nodes:]
            self.tensors = tensors
            return False
        arrays = [np.asarray(one) for one in found]
        new = [Value(name, one.shape, one.dtype) for name, one in zip(names, arrays, strict=True)]
        self.last = [*new, *([self.x] if self.rng.random() < 0.3 else [])]
        self.made = new
        self.values += new
        self.used.append(op)
        return True

    # ------------------------------------------------------------------------------------------------------- the model

    def model(self, names: Sequence[str] | None = None) -> bytes:
        known = {one.name: one for one in (*self.values, self.x)}
        known |= {name: Value(name, one.shape, one.dtype) for name, one in self.tensors.items()}
        outputs = names or self.outputs
        made = [
            helper.make_tensor_value_info(one, KINDS[known[one].kind], known[one].shape)
            if one in known and names is None
            else helper.make_empty_tensor_value_info(one)
            for one in outputs
        ]
        inputs = [helper.make_tensor_value_info("x", KINDS[self.x.kind], self.x.shape)]
        if names is None and self.more and self.tensors:
            name = list(self.tensors)[-1]
            inputs.append(helper.make_tensor_value_info(name, KINDS[known[name].kind], known[name].shape))
        graph = helper.make_graph(
            self.nodes, "g", inputs, made,
            [numpy_helper.from_array(array, name) for name, array in self.tensors.items()],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        return bytes(model.SerializeToString())

    def session(self, names: Sequence[str] | None = None) -> Any:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(self.model(names), options, providers=["CPUExecutionProvider"])

    def feed(self, point: np.ndarray) -> np.ndarray:
        return np.asarray(point, np.float64).reshape(self.x.shape).astype(self.x.kind)

    def points(self, count: int) -> np.ndarray:
        """Ends, whole numbers, halves and quarters of the box, (count, n)."""
        n = len(self.lower)
        share = self.rng.choice([0, 1, 0.5, 0.25, 0.75], (count, n))
        x = self.lower + (self.upper - self.lower) * share
        if self.x.kind.kind in "iu":
            x = np.floor(x)
        else:
            snapped = np.clip(np.round(x), self.lower, self.upper)
            x = np.where(self.rng.random((count, n)) < 0.5, snapped, x)
        return x
