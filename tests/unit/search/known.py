"""Small networks whose verdicts a mixed-integer programme gives, and the engine held against them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import pairwise

import numpy as np
import onnx
from onnx import helper

import vnnlib
from tests import models, oracles
from verifier.budget import Budget
from verifier.engine import solve
from verifier.graph.ir import Graph, Node, Shape
from verifier.graph.onnx_import import Model, load_model
from verifier.options import AttackOptions, BoundOptions, Options
from verifier.result import Result, Verdict
from vnnlib import Case, NormalForm, Row

GAP = 2e-3  # distance of every property from its true minimum; far above rounding, small against the outputs


@dataclass(frozen=True, eq=False)
class Net:
    """Weights of a fully connected ReLU network, exact in float32, y = W_k relu(.. W_1 x + b_1 ..) + b_k."""

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]

    @property
    def n(self) -> int:
        return self.weights[0].shape[1]

    @property
    def m(self) -> int:
        return len(self.biases[-1])

    def model(self, last: str = "", inputs: tuple[int, ...] = ()) -> Model:
        """As ONNX, with a last operator ("Softmax", "ArgMax"), or with several inputs that are joined."""
        node, nodes, value = helper.make_node, [], "x"
        if inputs:
            names = [f"x{i}" for i in range(len(inputs))]
            nodes.append(node("Concat", names, ["x"], axis=1))
        stored = {}
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            stored[f"w{i}"], stored[f"b{i}"] = w, b
            nodes.append(node("Gemm", [value, f"w{i}", f"b{i}"], [f"z{i}"], transB=1))
            value = f"z{i}"
            if i + 1 < len(self.weights):
                nodes.append(node("Relu", [value], [f"a{i}"]))
                value = f"a{i}"
        if last == "Softmax":
            nodes.append(node("Softmax", [value], ["y"], axis=1))
        elif last == "ArgMax":
            nodes += [
                node("ArgMax", [value], ["index"], axis=1),
                node("Cast", ["index"], ["y"], to=onnx.TensorProto.FLOAT),
            ]
        else:
            nodes.append(node("Identity", [value], ["y"]))
        shapes = {f"x{i}": (1, size) for i, size in enumerate(inputs)} if inputs else {"x": (1, self.n)}
        return load_model(models.build(nodes, shapes, ["y"], stored))

    def worst(self, case: Case, clause: Sequence[Row]) -> float:
        """min over the box of the largest  row - rhs  of a clause and the case's input rows: exact, by MILP.

        max(a, b) = a + relu(b - a) keeps the programme inside the network.
        """
        nodes: list[Node] = []
        shapes: dict[str, Shape] = {"x": (self.n,)}
        value = "x"

        def add(op: str, inputs: tuple[str, ...], size: int, **fields: object) -> str:
            name = f"v{len(nodes)}"
            nodes.append(Node(op, inputs, name, **fields))  # type: ignore[arg-type]
            shapes[name] = (size,)
            return name

        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            value = add("Dense", (value,), len(b), params={"weight": w, "bias": b})
            value = add("Relu", (value,), len(b)) if i + 1 < len(self.weights) else value
        both = add("Concat", ("x", value), self.n + self.m, attrs={"axis": 0})
        rows = []
        for row in (*clause, *case.input_rows):
            weight = np.zeros((1, self.n + self.m))
            for i, v in row.x.items():
                weight[0, i] = v
            for j, v in row.y.items():
                weight[0, self.n + j] = v
            rows.append(add("Dense", (both,), 1, params={"weight": weight, "bias": np.array([-row.rhs])}))

        def larger(a: str, b: str) -> str:
            return add("Add", (a, add("Relu", (add("Sub", (b, a), 1),), 1)), 1)

        out = reduce(larger, rows)
        graph = Graph(("x",), (out,), tuple(nodes), shapes)
        return float(oracles.minimise(graph, np.asarray(case.lower), np.asarray(case.upper), np.eye(1), exact=True)[0])

    def value(self, x: np.ndarray) -> np.ndarray:
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = w @ x + b
            x = np.maximum(x, 0) if i + 1 < len(self.weights) else x
        return x


def net(seed: int, sizes: Sequence[int] = (3, 6, 6, 3)) -> Net:
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=(k, n)).astype(np.float32) / np.float32(np.sqrt(n / 2)) for n, k in pairwise(sizes)]
    return Net(tuple(w.astype(np.float64) for w in weights),
               tuple(rng.normal(size=k).astype(np.float32).astype(np.float64) * 0.25 for k in sizes[1:]))  # fmt: skip


def form(cases: Sequence[Case], n: int, m: int) -> NormalForm:
    return vnnlib.normalise(vnnlib.build(cases, input_shape=[n], output_shape=[m]))


def moved(rows: Sequence[Row], by: float) -> list[Row]:
    """Right-hand sides moved: a clause whose worst margin was t has the margin t - by."""
    return [Row(row.x, row.y, row.rhs + by, row.strict) for row in rows]


def options(method: str = "auto", restarts: int = 0, seed: int = 0, dtype: str = "auto") -> Options:
    return Options(dtype=dtype, device="cpu", seed=seed, bounds=BoundOptions(method=method),
                   attack=AttackOptions(restarts=restarts))  # fmt: skip


def check(model: Model, spec: NormalForm, how: Options, sat: bool) -> Result:
    """The verdict is the known one; a witness lies inside and violates, exactly, by ONNX Runtime's own output."""
    result = solve(model, spec, how, Budget.of(120))
    assert result.verdict is (Verdict.SAT if sat else Verdict.UNSAT), result
    if sat:
        assert result.witness is not None
        x, y = np.asarray(result.witness.x, np.float64), np.asarray(result.witness.y, np.float64)
        assert np.array_equal(x, x.astype(np.float32).astype(np.float64)), "not what a float32 model can read"
        sizes = np.cumsum([info.size for info in model.input_infos])[:-1]
        feeds = {i.name: part.reshape(i.shape) for i, part in zip(model.input_infos, np.split(x, sizes), strict=True)}
        judged = models.run_onnx(model.bytes, feeds)[0]
        np.testing.assert_allclose(judged.ravel(), y, rtol=1e-6, atol=1e-6)
        assert _judge(spec).holds(x, judged.ravel()), "the witness does not violate the specification itself"
    else:
        assert result.open_fraction == 0.0 and result.witness is None
    return result


def _judge(spec: NormalForm) -> NormalForm:
    """The specification itself; only where no float32 lies between two bounds do they count as rounded."""
    low, high = (t.astype(np.float64) for t in vnnlib.float32_inside(spec.lower, spec.upper))
    none = (low < spec.lower) | (high > spec.upper)
    return replace(spec, lower=np.where(none, low, spec.lower), upper=np.where(none, high, spec.upper))


def _clause(rng: np.random.Generator, n: int, m: int, kind: str) -> list[Row]:
    """Rows of a clause; `mixed` ones speak of inputs and outputs."""
    count = 1 if kind == "single" else int(rng.integers(2, 4))
    rows = []
    for _ in range(count):
        y = {j: float(v) for j, v in enumerate(np.round(rng.normal(size=m), 3))}
        x = {i: float(v) for i, v in enumerate(np.round(rng.normal(size=n), 3))}
        x = x if kind == "mixed" else {}
        rows.append(Row(x, y, 0.0, bool(rng.random() < 0.5)))
    return rows
