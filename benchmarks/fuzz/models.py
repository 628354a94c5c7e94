"""Random ONNX models of many operators, for the importer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

Pick = Callable[[Sequence[Any]], Any]
"""Chooses one of a sequence: `random.Random.choice`, or a draw of hypothesis."""
ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Max", "Min")
UNARY = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "Abs",
    "Neg",
    "LeakyRelu",
    "Sin",
    "Cos",
    "HardSigmoid",
    "Softmax",
    "Elu",
    "Identity",
)


class RandomModel:
    """Grows a model with float values of known shapes. `pick` makes every choice, the seed of the weights too."""

    def __init__(self, pick: Pick, size: int, opset: int = 13) -> None:
        self.pick, self.opset = pick, opset
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        shape = pick([(1, 6), (1, 2, 4, 4), (2, 3), (1, 3, 5)])
        self.inputs = {"x": shape}
        self.values: list[tuple[str, tuple[int, ...]]] = [("x", shape)]
        self.rng = np.random.default_rng(pick(range(2**16)))
        for _ in range(size):
            kind = pick(["unary", "affine", "binary", "matmul", "move", "reduce", "join", "conv", "pool"])
            getattr(self, f"_{kind}")(*self._value())

    def _value(self) -> tuple[str, tuple[int, ...]]:
        return self.pick(self.values[-4:])

    def _weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def _emit(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: Any) -> None:
        if math.prod(shape) > 300:
            return
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.values.append((name, shape))

    def _unary(self, name: str, shape: tuple[int, ...]) -> None:
        self._emit(self.pick(UNARY), [name], shape)

    def _affine(self, name: str, shape: tuple[int, ...]) -> None:
        other = tuple(size if self.pick([False, True]) else 1 for size in shape)
        weight = self._weight(self.rng.uniform(0.5, 1.5, other))
        op = self.pick(["Add", "Sub", "Mul", "Div", "Max", "Min"])
        first = self.pick([False, True]) and op != "Div"
        self._emit(op, [weight, name] if first else [name, weight], shape)

    def _binary(self, name: str, shape: tuple[int, ...]) -> None:
        partners = [one for one, size in self.values if size == shape]
        op = self.pick(["Add", "Sub", "Mul", "Max", "Min"])
        self._emit(op, [name, self.pick(partners)], shape)

    def _matmul(self, name: str, shape: tuple[int, ...]) -> None:
        weight = self._weight(self.rng.normal(size=(shape[-1], 4)) * 0.5)
        self._emit("MatMul", [name, weight], (*shape[:-1], 4))

    def _move(self, name: str, shape: tuple[int, ...]) -> None:
        rank = len(shape)
        kind = self.pick(["Transpose", "Reshape", "Gather", "Slice", "Pad", "Unsqueeze"])
        axis = self.pick(range(rank))
        if kind == "Transpose":
            perm = self.rng.permutation(rank).tolist()
            self._emit(kind, [name], tuple(shape[a] for a in perm), perm=perm)
        elif kind == "Reshape":
            self._emit(kind, [name, self._weight(np.array([1, -1]))], (1, math.prod(shape)))
        elif kind == "Unsqueeze" and rank < 4:
            self._with_axes(kind, name, axis, (*shape[:axis], 1, *shape[axis:]), self.opset >= 13)
        elif kind == "Gather":
            indices = self.rng.integers(-shape[axis], shape[axis], size=3)
            self._emit(kind, [name, self._weight(indices)], (*shape[:axis], 3, *shape[axis + 1 :]), axis=axis)
        elif kind == "Slice":
            step = int(self.rng.choice([1, 2, -1]))
            start, stop = (-1, -(2**31)) if step < 0 else (0, 2**31)
            parts = [self._weight(np.array([v])) for v in (start, stop, axis, step)]
            size = len(range(0, shape[axis], abs(step)))
            self._emit(kind, [name, *parts], (*shape[:axis], size, *shape[axis + 1 :]))
        elif kind == "Pad":
            counts = self.rng.integers(0, 2, size=2 * rank)
            new = tuple(int(s + counts[a] + counts[a + rank]) for a, s in enumerate(shape))
            self._emit(kind, [name, self._weight(counts), self._weight(np.array(0.5))], new)

    def _reduce(self, name: str, shape: tuple[int, ...]) -> None:
        axis = self.pick(range(len(shape)))
        op = self.pick(["ReduceMean", "ReduceMax", "ReduceMin"])
        since = 18  # ReduceSum, which changed with 13, is not among them
        self._with_axes(op, name, axis, (*shape[:axis], 1, *shape[axis + 1 :]), self.opset >= since)

    def _with_axes(self, op: str, name: str, axis: int, shape: tuple[int, ...], as_input: bool) -> None:
        if as_input:
            self._emit(op, [name, self._weight(np.array([axis]))], shape)
        else:
            self._emit(op, [name], shape, axes=[axis])

    def _join(self, name: str, shape: tuple[int, ...]) -> None:
        axis = self.pick(range(len(shape)))
        constant = self._weight(self.rng.normal(size=(*shape[:axis], 2, *shape[axis + 1 :])))
        self._emit("Concat", [constant, name], (*shape[:axis], shape[axis] + 2, *shape[axis + 1 :]), axis=axis)

    def _conv(self, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) == 4 and shape[0] == 1:
            weight = self._weight(self.rng.normal(size=(3, shape[1], 1, 1)))
            self._emit("Conv", [name, weight], (1, 3, *shape[2:]))

    def _pool(self, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) in (3, 4) and min(shape[2:]) >= 2:
            op = self.pick(["MaxPool", "AveragePool"])
            rank = len(shape) - 2
            self._emit(op, [name], (*shape[:2], *(s - 1 for s in shape[2:])), kernel_shape=[2] * rank)

    def data(self, kind: int = TensorProto.FLOAT) -> bytes:
        """The serialized model; its output is the last value."""
        name, shape = self.values[-1]
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info(one, kind, size) for one, size in self.inputs.items()],
            [helper.make_tensor_value_info(name, kind, shape)],
            [
                numpy_helper.from_array(array.astype(dtype) if array.dtype.kind == "f" else array, one)
                for one, array in self.weights.items()
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        return bytes(model.SerializeToString())
