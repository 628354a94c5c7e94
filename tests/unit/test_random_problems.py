"""Random valid problems through the public door: no exception, no `unsat` that a point refutes, no `sat` that does not
replay. Names that clash with ours, fixed and one-ulp inputs, every input type, weights that cancel, rows of every size.
"""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import onnxruntime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import verifier
import vnnlib
from verifier.graph.onnx_import import load_model
from verifier.options import AttackOptions, Options, SearchOptions

NAMES = (
    "x", "y", "z", "z/taken", "x/0", "y/0", "x'", "y~1", "z~1", "x~0", "~", "~0", "/", "a/#0", "all of y", "all of y~0",
    "'", '"', " ", "parameters", "net/x", "0", "(", "; z", "é",
)  # fmt: skip
TYPES = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE, np.float16: TensorProto.FLOAT16,
         np.int64: TensorProto.INT64, np.int32: TensorProto.INT32}  # fmt: skip
DIVIDE, NORMALISE = "divide", "normalise"
QUICK = Options(search=SearchOptions(batch=16, max_depth=5), attack=AttackOptions(restarts=4, steps=4))


class RandomProblem:
    """A network of Dense layers and ReLUs, written with random operators and names, a box, and one or two rows."""

    def __init__(self, draw: st.DataObject, huge: bool) -> None:
        self.pick = lambda values: draw.draw(st.sampled_from(values))
        self.rng = np.random.default_rng(draw.draw(st.integers(0, 2**32 - 1)))
        self.names = iter(self.rng.permutation([*NAMES, *(f"n{i}" for i in range(40))]).tolist())
        self.huge = huge
        self.kind = self.pick([np.float32, np.float32, np.float64])
        self.nodes, self.tensors, self.layers = [], [], []
        self.inputs = [
            (next(self.names), self.pick(list(TYPES)), size) for size in self.pick([(1,), (2,), (1, 1), (2, 1)])
        ]
        self.n = sum(size for _, _, size in self.inputs)
        value = self._joined()
        width = self.n
        for last in self.pick([(True,), (False, True), (False, False, True)]):
            out = self.pick([1, 2]) if last else self.pick([2, 3])
            value = self._layer(value, width, out, last)
            width = out
        self.m, self.output = width, value
        self.lower, self.upper = self._box()
        self.rows = [self._row() for _ in range(self.pick([1, 2]))]

    def node(self, op: str, inputs: list[str], output: str = "", **attributes: object) -> str:
        output = output or next(self.names)
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def weight(self, array: np.ndarray) -> str:
        name = next(self.names)
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def numbers(self, *shape: int) -> np.ndarray:
        plain = self.rng.normal(size=shape)
        if self.huge:
            large = self.rng.choice([1.0, 1e8, -1e8, 1e10, 1e16, -1e16, 2.0**-27], shape)
            plain = np.where(self.rng.random(shape) < 0.4, large, plain)
        return plain.astype(self.kind)

    def _joined(self) -> str:
        to = TYPES[self.kind]
        parts = [self.node("Cast", [n], to=to) if t is not self.kind else n for n, t, _ in self.inputs]
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=1)

    def _layer(self, value: str, k: int, n: int, last: bool) -> str:
        weight, bias = self.numbers(k, n), self.numbers(n)
        if not last and n > 1 and self.pick([True, False]):  # a mirror image
            weight[:, 1], bias[1] = -weight[:, 0], -bias[0]
        style = self.pick(["gemm", "matmul", "shift", *(["conv"] if self.kind is np.float32 else [])])
        self.layers.append((weight, bias))
        if style == "gemm":
            value = self.node("Gemm", [value, self.weight(weight), self.weight(bias)])
        elif style == "conv":
            image = self.node("Unsqueeze", [value, self.weight(np.array([2]))])
            image = self.node("Conv", [image, self.weight(weight.T[:, :, None].copy()), self.weight(bias)])
            value = self.node("Flatten", [image])
        else:
            value = self.node("MatMul", [value, self.weight(weight)])
            value = self.node("Add", [value, self.weight(bias)])
            if style == "shift":  # two more offsets, which a pass may want to add
                for _ in range(2):
                    offset = self.numbers(n)
                    value = self.node("Sub", [value, self.weight(offset)])
                    self.layers[-1] += (offset,)
        value = self._stretched(value, n)
        if last:
            return value
        self.layers.append("relu")
        return self.node("Relu", [value])

    def _stretched(self, value: str, n: int) -> str:
        """A division by constants, a BatchNormalization, or nothing: factors that float64 does not hold."""
        style = self.pick(["none", "none", "divide", "normalise"])
        if style == "divide":
            divisor = self.numbers(n)
            divisor[divisor == 0] = 3
            self.layers.append((DIVIDE, divisor))
            return self.node("Div", [value, self.weight(divisor)])
        if style == "normalise":
            scale, bias, mean, variance = (self.numbers(n) for _ in range(4))
            parts = scale, bias, mean, np.abs(variance)
            self.layers.append((NORMALISE, *parts))
            return self.node("BatchNormalization", [value, *map(self.weight, parts)], epsilon=1e-3)
        return value

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = [], []
        for _, _, size in self.inputs:
            for _ in range(size):
                centre = float(self.pick([0.0, 0.5, 0.1, 1.0, -2.0, 1e-3]))
                width = self.pick(["none", "ulp", "ulp32", "thin", "wide", "wide"])
                ends = {"none": centre, "ulp": math.nextafter(centre, 9), "thin": centre + 1e-3, "wide": centre + 2.5,
                        "ulp32": float(np.nextafter(np.float32(centre), np.float32(9)))}  # fmt: skip
                low.append(min(centre, ends[width]))
                high.append(max(centre, ends[width]))
        return np.array(low), np.array(high)

    def _row(self) -> tuple[list[float], list[float], float, str]:
        """(over X, over Y, right side, operator); near what the network does at some point of the box."""
        scale = self.pick([1.0, 1.0, 1e-9, 1e9, 3.7])
        y = [scale * self.pick([1.0, -1.0, 0.5]) for _ in range(self.m)]
        x = [scale * self.pick([0.0, 0.0, 1.0, 1e17 if self.huge else 2.0]) for _ in range(self.n)]
        point = next(iter(self.points(1)), self.lower)
        value = sum(Fraction(a) * b for a, b in zip([*x, *y], [*map(Fraction, point), *self.exact(point)], strict=True))
        step = self.pick([0.0, 0.1, -0.1, 3.0, -3.0]) * scale
        return x, y, float(value) + step, self.pick(["<=", ">="])

    def model(self) -> bytes:
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info(n, TYPES[t], [1, size]) for n, t, size in self.inputs],
            [helper.make_tensor_value_info(self.output, TYPES[self.kind], [1, self.m])], self.tensors,
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
        made.ir_version = 8
        return made.SerializeToString()

    def spec(self) -> str:
        lines = [f"(declare-const X_{i} Real)" for i in range(self.n)] + [
            f"(declare-const Y_{i} Real)" for i in range(self.m)
        ]
        for i, (a, b) in enumerate(zip(self.lower, self.upper, strict=True)):
            lines += [f"(assert (>= X_{i} {float(a)!r}))", f"(assert (<= X_{i} {float(b)!r}))"]
        for x, y, rhs, op in self.rows:
            terms = [f"(* {v!r} X_{i})" for i, v in enumerate(x) if v] + [f"(* {v!r} Y_{i})" for i, v in enumerate(y)]
            lines.append(f"(assert ({op} (+ {' '.join(terms)} 0.0) {rhs!r}))")
        return "\n".join(lines)

    def points(self, count: int) -> np.ndarray:
        """Points of the box that the inputs can be fed, (M, n): ends and between."""
        share = np.concatenate([self.rng.integers(0, 2, (count, self.n)), self.rng.random((count, self.n))])
        x = np.clip(self.lower + (self.upper - self.lower) * share, self.lower, self.upper)
        start = 0
        for _, kind, size in self.inputs:
            x[:, start : start + size] = x[:, start : start + size].astype(kind).astype(np.float64)
            start += size
        return x[((self.lower <= x) & (x <= self.upper)).all(axis=1)]

    def exact(self, point: np.ndarray) -> list[Fraction]:
        """The network over the reals."""
        value = [Fraction(float(v)) for v in point]
        for layer in self.layers:
            if layer == "relu":
                value = [max(v, Fraction(0)) for v in value]
                continue
            if layer[0] is DIVIDE:
                value = [v / Fraction(float(d)) for v, d in zip(value, layer[1], strict=True)]
                continue
            if layer[0] is NORMALISE:
                value = [normalised(v, *map(float, each)) for v, *each in zip(value, *layer[1:], strict=True)]
                continue
            weight, bias, *offsets = layer
            value = [
                sum((v * Fraction(float(w)) for v, w in zip(value, column, strict=True)), Fraction(float(b)))
                - sum(Fraction(float(o[j])) for o in offsets)
                for j, (column, b) in enumerate(zip(weight.T, bias, strict=True))
            ]
        return value

    def holds(self, point: np.ndarray, y: list[Fraction]) -> bool:
        value = [*map(Fraction, point.tolist()), *y]
        for x_row, y_row, rhs, op in self.rows:
            total = sum(Fraction(a) * b for a, b in zip([*x_row, *y_row], value, strict=True))
            if not (total <= Fraction(rhs) if op == "<=" else total >= Fraction(rhs)):
                return False
        return True

    def run(self, point: np.ndarray) -> np.ndarray:
        """ONNX Runtime at one point, which every input's type has to hold as it is."""
        feeds, start = {}, 0
        for name, kind, size in self.inputs:
            part = point[start : start + size]
            assert (part.astype(kind).astype(np.float64) == part).all(), "the witness is no number of the input's type"
            feeds[name], start = part.astype(kind)[None], start + size
        session = onnxruntime.InferenceSession(self.model(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, feeds)[0], np.float64).reshape(-1)


def normalised(x: Fraction, scale: float, bias: float, mean: float, variance: float) -> Fraction:
    """BatchNormalization over the reals, its root to 300 bits (no root that is rational is rounded by that)."""
    spread = Fraction(variance) + Fraction(float(np.float32(1e-3)))
    shift = 600
    root = Fraction(math.isqrt((spread.numerator << 2 * shift) // spread.denominator), 1 << shift)
    return (x - Fraction(mean)) * Fraction(scale) / root + Fraction(bias)


def check(problem: RandomProblem) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = verifier.verify(load_model(problem.model()), vnnlib.loads(problem.spec()), QUICK, timeout=5)
    if result.verdict.value == "unsat":
        refuted = [p for p in problem.points(20) if problem.holds(p, problem.exact(p))]
        assert not refuted, f"{refuted[0]} violates over the reals, but the verdict is unsat: {result.reason}"
    if result.verdict.value == "sat":
        assert result.witness is not None
        x = result.witness.x
        inside = (problem.lower <= x) & (x <= problem.upper)
        # where no number of the type lies between the bounds, the rounded one stands for them
        assert (inside | (np.abs(x - problem.lower) <= 1e-3 * np.maximum(np.abs(x), 1e-4))).all()
        assert problem.holds(x, [Fraction(float(v)) for v in problem.run(x)])
    return result.verdict.value


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_ordinary_weights(draw: st.DataObject) -> None:
    check(RandomProblem(draw, huge=False))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_large_weights_that_cancel(draw: st.DataObject) -> None:
    check(RandomProblem(draw, huge=True))
