"""Random ONNX models, whole: import, check, evaluate, simplify, against ONNX Runtime."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper

from tests.models import build, outputs_of, random_inputs, run_onnx
from verifier.graph.check import check_graph
from verifier.graph.onnx_import import load_model
from verifier.passes.simplify import simplify

_UNARY = (
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
    """Grows a model with float values of known shapes; opset 13."""

    def __init__(self, draw: st.DataObject, size: int) -> None:
        self.draw, self.nodes, self.weights = draw, [], {}
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}
        shape = draw.draw(st.sampled_from([(1, 6), (1, 2, 4, 4), (2, 3), (1, 3, 5)]))
        self.inputs = {"x": shape}
        self.values: list[tuple[str, tuple[int, ...]]] = [("x", shape)]
        self.rng = np.random.default_rng(draw.draw(st.integers(0, 2**16)))
        for _ in range(size):
            kind = draw.draw(
                st.sampled_from(["unary", "affine", "binary", "matmul", "move", "reduce", "join", "conv", "pool"])
            )
            getattr(self, f"_{kind}")(*self._pick())

    def _pick(self) -> tuple[str, tuple[int, ...]]:
        return self.draw.draw(st.sampled_from(self.values[-4:]))

    def _weight(self, array: np.ndarray) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def _emit(self, op: str, inputs: list[str], shape: tuple[int, ...], **attributes: object) -> None:
        if math.prod(shape) > 300:
            return
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.values.append((name, shape))

    def _unary(self, name: str, shape: tuple[int, ...]) -> None:
        self._emit(self.draw.draw(st.sampled_from(_UNARY)), [name], shape)

    def _affine(self, name: str, shape: tuple[int, ...]) -> None:
        other = tuple(size if self.draw.draw(st.booleans()) else 1 for size in shape)
        weight = self._weight(self.rng.uniform(0.5, 1.5, other))
        op = self.draw.draw(st.sampled_from(["Add", "Sub", "Mul", "Div", "Max", "Min"]))
        first = self.draw.draw(st.booleans()) and op != "Div"
        self._emit(op, [weight, name] if first else [name, weight], shape)

    def _binary(self, name: str, shape: tuple[int, ...]) -> None:
        partners = [one for one, size in self.values if size == shape]
        op = self.draw.draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min"]))
        self._emit(op, [name, self.draw.draw(st.sampled_from(partners))], shape)

    def _matmul(self, name: str, shape: tuple[int, ...]) -> None:
        weight = self._weight(self.rng.normal(size=(shape[-1], 4)) * 0.5)
        self._emit("MatMul", [name, weight], (*shape[:-1], 4))

    def _move(self, name: str, shape: tuple[int, ...]) -> None:
        rank = len(shape)
        kind = self.draw.draw(st.sampled_from(["Transpose", "Reshape", "Gather", "Slice", "Pad", "Unsqueeze"]))
        axis = self.draw.draw(st.integers(0, rank - 1))
        if kind == "Transpose":
            perm = self.draw.draw(st.permutations(range(rank)))
            self._emit(kind, [name], tuple(shape[a] for a in perm), perm=perm)
        elif kind == "Reshape":
            self._emit(kind, [name, self._weight(np.array([1, -1]))], (1, math.prod(shape)))
        elif kind == "Unsqueeze" and rank < 4:
            self._emit(kind, [name, self._weight(np.array([axis]))], (*shape[:axis], 1, *shape[axis:]))
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
        axis = self.draw.draw(st.integers(0, len(shape) - 1))
        op = self.draw.draw(st.sampled_from(["ReduceMean", "ReduceMax", "ReduceMin"]))
        self._emit(op, [name], (*shape[:axis], 1, *shape[axis + 1 :]), axes=[axis])

    def _join(self, name: str, shape: tuple[int, ...]) -> None:
        axis = self.draw.draw(st.integers(0, len(shape) - 1))
        constant = self._weight(self.rng.normal(size=(*shape[:axis], 2, *shape[axis + 1 :])))
        self._emit("Concat", [constant, name], (*shape[:axis], shape[axis] + 2, *shape[axis + 1 :]), axis=axis)

    def _conv(self, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) == 4 and shape[0] == 1:
            weight = self._weight(self.rng.normal(size=(3, shape[1], 1, 1)))
            self._emit("Conv", [name, weight], (1, 3, *shape[2:]))

    def _pool(self, name: str, shape: tuple[int, ...]) -> None:
        if len(shape) in (3, 4) and min(shape[2:]) >= 2:
            op = self.draw.draw(st.sampled_from(["MaxPool", "AveragePool"]))
            rank = len(shape) - 2
            self._emit(op, [name], (*shape[:2], *(s - 1 for s in shape[2:])), kernel_shape=[2] * rank)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 12))
def test_random_model(draw: st.DataObject, size: int) -> None:
    made = RandomModel(draw, size)
    if not made.nodes:
        return
    data = build(made.nodes, made.inputs, [made.values[-1][0]], made.weights)
    model = load_model(data)
    small = simplify(model.graph)
    check_graph(small)
    inputs = random_inputs(model.graph, np.random.default_rng(0))
    expected = np.asarray(run_onnx(data, {"x": inputs["x"][0]})[0], dtype=np.float64)
    assert expected.shape == model.output_infos[0].shape
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(outputs_of(model.graph, inputs)[0], expected.reshape(-1), rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_allclose(outputs_of(small, inputs), outputs_of(model.graph, inputs), rtol=1e-9, atol=1e-9 * scale)
