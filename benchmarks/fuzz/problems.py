"""Random verification problems whose truth is known: networks of affine maps and ReLUs in many spellings, a set, rows.

Names that clash with ours, fixed and one-ulp inputs, every input type and rank, weights that cancel, values read twice,
parts that nothing reads, many opsets, both versions of VNN-LIB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from benchmarks.fuzz.exact import Affine, Point, Row, Tape, decide
from benchmarks.fuzz.models import Pick

NAMES = (
    "x", "y", "z", "z/taken", "x/0", "y/0", "x'", "y~1", "z~1", "x~0", "~", "~0", "/", "a/#0", "all of y", "all of y~0",
    "'", '"', " ", "parameters", "net/x", "0", "(", "; z", "é",
)  # fmt: skip
TYPES: dict[Any, int] = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE, np.float16: TensorProto.FLOAT16,
         np.int64: TensorProto.INT64, np.int32: TensorProto.INT32}  # fmt: skip
SIZES = ((1,), (2,), (1, 1), (2, 1), (3,), (1, 1, 2))
ACTIVATIONS = ("relu", "relu", "relu", "leaky", "abs", "clip", "max", "residual", "skip", "twice")
ACTIVATIONS_64 = tuple(one for one in ACTIVATIONS if one != "leaky")  # ONNX Runtime has no LeakyRelu in float64
EPSILON = 1e-3


@dataclass(frozen=True)
class Input:
    """An input of the network: `shape` starts with 1, `size` numbers."""

    name: str
    kind: type
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Condition:
    """x . X + y . Y `op` rhs."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    rhs: float
    op: str

    def gap(self, values: Sequence[Affine]) -> Row:
        """The same as a row over the tape; `values` are the inputs and the outputs."""
        total = Affine({}, -Fraction(self.rhs))
        for factor, value in zip((*self.x, *self.y), values, strict=True):
            total = total + value.times(Fraction(factor))
        return Row(total if self.op[0] == "<" else total.times(Fraction(-1)), len(self.op) == 1)


class RandomProblem:
    """A network, a box, and a disjunction of conjunctions of conditions. `pick` makes every choice, seeds too."""

    def __init__(self, pick: Pick, huge: bool) -> None:
        self.pick, self.huge = pick, huge
        self.rng = np.random.default_rng(pick(range(2**32)))
        self.names = iter(self.rng.permutation([*NAMES, *(f"n{i}" for i in range(80))]).tolist())
        self.kind = pick([np.float32, np.float32, np.float64])
        # ONNX Runtime has some operators in float64 from opset 16 on only
        self.opset = pick([13, 13, 9, 11, 17, 18, 21] if self.kind is np.float32 else [17, 18, 21])
        self.version = pick([1, 1, 2])
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []
        self.exactly = True
        self.inputs = [self._input(size) for size in pick(SIZES)]
        self.n = sum(one.size for one in self.inputs)
        self.tape = Tape(self.n)
        value = self._joined(), [self.tape.input(k) for k in range(self.n)]
        for last in pick([(True,), (False, True), (False, True), (False, False, True)]):
            value = self._layer(value, pick([1, 2]) if last else pick([2, 3]), last)
        self.outputs = [value, *([self._second(value)] if pick([False, False, True]) else [])]
        self.m = sum(len(found) for _, found in self.outputs)
        if pick([False, False, True]):
            self._aside()
        self.lower, self.upper = self._box()
        self.clauses = [[self._row() for _ in range(pick([1, 1, 2, 2]))] for _ in range(pick([1, 1, 1, 2]))]
        if pick([False, False, False, True]):  # said twice, or contradicted
            first = self.clauses[0][0]
            other = {"<=": ">=", ">=": "<=", "<": ">", ">": "<"}[first.op]
            self.clauses[0].append(pick([first, Condition(first.x, first.y, first.rhs, other)]))

    # ------------------------------------------------------------------------------------------------------- network

    def node(self, op: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
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
            large = self.rng.choice([1.0, 1e8, -1e8, 1e10, 1e16, -1e16, 2.0**-27, 1e-40, 2.0**24, 1 - 2.0**24], shape)
            plain = np.where(self.rng.random(shape) < 0.4, large, plain)
        return plain.astype(self.kind)

    def _input(self, size: int) -> Input:
        return Input(
            next(self.names), self.pick(list(TYPES)), self.pick([(1, size), (1, size), (size,), (1, 1, size, 1)])
        )

    def _joined(self) -> str:
        parts = []
        for one in self.inputs:
            name = one.name
            if len(one.shape) != 2:
                name = self.node("Reshape", [name, self.weight(np.array([1, -1]))])
            if one.kind is not self.kind:
                name = self.node("Cast", [name], to=TYPES[self.kind])
            parts.append(name)
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, axis=1)

    def _layer(self, value: tuple[str, list[Affine]], n: int, last: bool) -> tuple[str, list[Affine]]:
        name, found = self._affine(value, n, last)
        return (name, found) if last else self._activation((name, found))

    def _affine(self, value: tuple[str, list[Affine]], n: int, last: bool) -> tuple[str, list[Affine]]:
        name, known = value
        weight, bias = self.numbers(len(known), n), self.numbers(n)
        if not last and n > 1 and self.pick([True, False]):  # a mirror image
            weight[:, 1], bias[1] = -weight[:, 0], -bias[0]
        style = self.pick(["gemm", "matmul", "shift", "transposed", *(["conv"] if self.kind is np.float32 else [])])
        found = []
        for column, b in zip(weight.T, bias, strict=True):
            total = Affine({}, Fraction(float(b)))
            for w, v in zip(column, known, strict=True):
                total = total + v.times(Fraction(float(w)))
            found.append(total)
        if style == "gemm":
            name = self.node("Gemm", [name, self.weight(weight), self.weight(bias)])
        elif style == "transposed":
            name = self.node("Gemm", [name, self.weight(weight.T.copy()), self.weight(bias[None])], transB=1)
        elif style == "conv":
            name = self._unsqueezed(name)
            name = self.node("Conv", [name, self.weight(weight.T[:, :, None].copy()), self.weight(bias)])
            name = self.node("Flatten", [name])
        else:
            name = self.node("MatMul", [name, self.weight(weight)])
            name = self.node("Add", self._either(name, self.weight(bias)))
            if style == "shift":  # two more offsets, which a pass may want to add
                for _ in range(2):
                    offset = self.numbers(n)
                    name = self.node("Sub", [name, self.weight(offset)])
                    found = [v.plus(-Fraction(float(o))) for v, o in zip(found, offset, strict=True)]
        return self._stretched(name, found)

    def _either(self, a: str, b: str) -> list[str]:
        return self.pick([[a, b], [b, a]])

    def _unsqueezed(self, name: str) -> str:
        if self.opset >= 13:
            return self.node("Unsqueeze", [name, self.weight(np.array([2]))])
        return self.node("Unsqueeze", [name], axes=[2])

    def _stretched(self, name: str, found: list[Affine]) -> tuple[str, list[Affine]]:
        """A division by constants, a BatchNormalization, or nothing: factors that float64 does not hold."""
        style = self.pick(["none", "none", "none", "divide", "normalise"])
        n = len(found)
        if style == "divide":
            divisor = self.numbers(n)
            divisor[divisor == 0] = 3
            found = [v.times(1 / Fraction(float(d))) for v, d in zip(found, divisor, strict=True)]
            return self.node("Div", [name, self.weight(divisor)]), found
        if style == "normalise":
            self.exactly = False
            scale, bias, mean, variance = (self.numbers(n) for _ in range(4))
            parts = scale, bias, mean, np.abs(variance)
            made = zip(found, *(p.astype(np.float64).tolist() for p in parts), strict=True)
            name = self.node("BatchNormalization", [name, *map(self.weight, parts)], epsilon=EPSILON)
            return name, [normalised(*each) for each in made]
        return name, found

    def _activation(self, value: tuple[str, list[Affine]]) -> tuple[str, list[Affine]]:
        name, found = value
        tape, style = self.tape, self.pick(ACTIVATIONS if self.kind is np.float32 else ACTIVATIONS_64)
        if style == "leaky":
            slope = self.pick([0.125, 0.01, 0.0, 1.0])
            real = Fraction(float(np.float32(slope)))
            made = [v.times(real) + tape.relu(v).times(1 - real) for v in found]
            return self.node("LeakyRelu", [name], alpha=slope), made
        if style == "abs":
            return self.node("Abs", [name]), [tape.relu(v) + tape.relu(v.times(Fraction(-1))) for v in found]
        if style == "clip":
            low, high = self.pick([(0.0, 6.0), (-0.5, 0.75), (0.25, 0.25), (0.0, 1e9)])
            a, b = Fraction(low), Fraction(high)
            made = [tape.relu(v.plus(-a)).plus(a) + tape.relu(v.plus(-b)).times(Fraction(-1)) for v in found]
            if self.opset < 11:
                return self.node("Clip", [name], min=low, max=high), made
            return self.node("Clip", [name, *(self.weight(np.array(v, self.kind)) for v in (low, high))]), made
        if style == "max":  # with a constant
            level = self.numbers(len(found))
            made = [
                tape.relu(v.plus(-Fraction(float(c)))).plus(Fraction(float(c)))
                for v, c in zip(found, level, strict=True)
            ]
            return self.node("Max", self._either(name, self.weight(level))), made
        made = [tape.relu(v) for v in found]
        after = self.node("Relu", [name])
        if style == "residual":
            return self.node("Add", self._either(name, after)), [a + b for a, b in zip(found, made, strict=True)]
        if style == "skip":
            return self.node("Concat", [after, name], axis=1), [*made, *found]
        if style == "twice":  # two nodes that compute the same, and a difference that is 0
            again = self.node("Relu", [name])
            nothing = self.node("Sub", [after, again])
            return self.node("Add", [after, nothing]), made
        return after, made

    def _second(self, value: tuple[str, list[Affine]]) -> tuple[str, list[Affine]]:
        """Another output, made of the first."""
        name, found = value
        negative = [v.times(Fraction(-1)) for v in found]
        if self.pick([True, False]):
            return self.node("Neg", [name]), negative
        made = [self.tape.relu(v) + self.tape.relu(w) for v, w in zip(found, negative, strict=True)]
        return self.node("Abs", [name]), made

    def _aside(self) -> None:
        """What no output reads: a weight, and nodes, Round among them, which cannot be bounded."""
        self.weight(self.numbers(2))
        image = self.node("Cast", [self.inputs[0].name], to=TensorProto.FLOAT)
        self.node("Round" if self.opset >= 11 else "Floor", [self.node("Neg", [image])])

    # ------------------------------------------------------------------------------------------------- specification

    def _box(self) -> tuple[np.ndarray, np.ndarray]:
        low, high = [], []
        for one in self.inputs:
            for _ in range(one.size):
                centre = float(self.pick([0.0, 0.5, 0.1, 1.0, -2.0, 1e-3, 1e-310]))
                width = self.pick(["none", "ulp", "ulp32", "thin", "wide", "wide"])
                ends = {"none": centre, "ulp": math.nextafter(centre, 9), "thin": centre + 1e-3, "wide": centre + 2.5,
                        "ulp32": float(np.nextafter(np.float32(centre), np.float32(9)))}  # fmt: skip
                low.append(min(centre, ends[width]))
                high.append(max(centre, ends[width]))
        return np.array(low), np.array(high)

    def _row(self) -> Condition:
        """Near what the network does at some point of the box."""
        scale = self.pick([1.0, 1.0, 1e-9, 1e9, 3.7])
        y = tuple(scale * self.pick([1.0, -1.0, 0.5]) for _ in range(self.m))
        x = tuple(scale * self.pick([0.0, 0.0, 1.0, 1e17 if self.huge else 2.0]) for _ in range(self.n))
        point = next(iter(self.points(1)), self.lower)
        value = sum(Fraction(a) * b for a, b in zip([*x, *y], [*map(Fraction, point), *self.exact(point)], strict=True))
        step = self.pick([0.0, 0.1, -0.1, 3.0, -3.0]) * scale
        return Condition(x, y, _float(value) + step, self.pick(["<=", ">=", "<=", ">=", "<", ">"]))

    def model(self) -> bytes:
        graph = helper.make_graph(
            self.nodes, "g",
            [helper.make_tensor_value_info(one.name, TYPES[one.kind], one.shape) for one in self.inputs],
            [helper.make_tensor_value_info(name, TYPES[self.kind], [1, len(found)]) for name, found in self.outputs],
            self.tensors,
        )  # fmt: skip
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        made.ir_version = 8
        return bytes(made.SerializeToString())

    def spec(self) -> str:
        return self._spec1() if self.version == 1 else self._spec2()

    def _spec1(self) -> str:
        xs, ys = [f"X_{i}" for i in range(self.n)], [f"Y_{i}" for i in range(self.m)]
        lines = [f"(declare-const {name} Real)" for name in (*xs, *ys)]
        return "\n".join([*lines, *self._assertions(xs, ys, lambda v: repr(float(v)))])

    def _spec2(self) -> str:
        xs, ys, lines = [], [], ["(vnnlib-version <2.0>)", "(declare-network N"]
        for k, one in enumerate(self.inputs):
            lines.append(f"  (declare-input X{k} real [{','.join(map(str, one.shape))}])")
            xs += [f"X{k}[{','.join(map(str, at))}]" for at in np.ndindex(*one.shape)]
        for k, (_, found) in enumerate(self.outputs):
            lines.append(f"  (declare-output Y{k} real [1,{len(found)}])")
            ys += [f"Y{k}[0,{j}]" for j in range(len(found))]
        return "\n".join([*lines, ")", *self._assertions(xs, ys, _positional)])

    def _assertions(self, xs: list[str], ys: list[str], number: Callable[[float], str]) -> list[str]:
        lines = []
        for x, a, b in zip(xs, self.lower, self.upper, strict=True):
            lines += [f"(assert (>= {x} {number(a)}))", f"(assert (<= {x} {number(b)}))"]
        clauses = [texts(rows, xs, ys, number) for rows in self.clauses]
        if len(clauses) == 1:
            return [*lines, *(f"(assert {part})" for part in clauses[0])]
        return [*lines, "(assert (or " + " ".join(f"(and {' '.join(parts)})" for parts in clauses) + "))"]

    # --------------------------------------------------------------------------------------------------------- truth

    def points(self, count: int) -> np.ndarray:
        """Points of the box that the inputs can be fed, (M, n): ends and between."""
        share = np.concatenate([self.rng.integers(0, 2, (count, self.n)), self.rng.random((count, self.n))])
        x = np.clip(self.lower + (self.upper - self.lower) * share, self.lower, self.upper)
        start = 0
        for one in self.inputs:
            part = slice(start, start + one.size)
            x[:, part] = x[:, part].astype(one.kind).astype(np.float64)
            start += one.size
        return x[((self.lower <= x) & (x <= self.upper)).all(axis=1)]

    def exact(self, point: np.ndarray) -> list[Fraction]:
        """The network over the reals."""
        values = self.tape.values(self.seen(point))
        return [v.at(values) for _, found in self.outputs for v in found]

    def holds(self, point: np.ndarray, y: Sequence[Fraction]) -> bool:
        given = [Affine({}, v) for v in (*map(Fraction, point.tolist()), *y)]
        return any(all(row.gap(given).holds(()) for row in rows) for rows in self.clauses)

    def rows(self) -> list[list[Row]]:
        """The clauses over the tape."""
        values = [*(self.tape.input(k) for k in range(self.n)), *(v for _, found in self.outputs for v in found)]
        return [[row.gap(values) for row in rows] for rows in self.clauses]

    def seen(self, point: np.ndarray) -> Point:
        """What the tape's inputs are at a point of the network's."""
        return tuple(map(Fraction, point.tolist()))

    def breaks(self, point: Point) -> bool:
        """Whether the specification holds at the tape's inputs `point`, over the reals."""
        values = self.tape.values(point)
        return any(all(row.holds(values) for row in rows) for rows in self.rows())

    @property
    def whole(self) -> np.ndarray:
        """Which inputs take whole numbers only, (n,) bool."""
        return np.array([issubclass(one.kind, np.integer) for one in self.inputs for _ in range(one.size)])

    def violated(self) -> Point | Literal[False] | None:
        """An input over the reals (whole numbers where the type is one) that satisfies the specification, None where
        there is none, False where that is not found out."""
        boxes = [(tuple(map(Fraction, self.lower.tolist())), tuple(map(Fraction, self.upper.tolist())))]
        for k in np.flatnonzero(self.whole).tolist():
            first, last = math.ceil(self.lower[k]), math.floor(self.upper[k])
            values = [Fraction(v) for v in range(first, last + 1)]
            boxes = [(_with(a, k, v), _with(b, k, v)) for a, b in boxes for v in values]
        answers = [decide(self.tape, low, high, self.rows()) for low, high in boxes]
        return next((one for one in answers if isinstance(one, tuple)), False if False in answers else None)

    def run(self, point: np.ndarray) -> np.ndarray:
        """ONNX Runtime at one point, which every input's type has to hold as it is."""
        feeds: dict[str, np.ndarray] = {}
        start = 0
        for one in self.inputs:
            part = point[start : start + one.size]
            assert (part.astype(one.kind).astype(np.float64) == part).all(), (
                "the witness is no number of the input's type"
            )
            feeds[one.name], start = part.astype(one.kind).reshape(one.shape), start + one.size
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(self.model(), options, providers=["CPUExecutionProvider"])
        return np.concatenate([np.asarray(y, np.float64).reshape(-1) for y in session.run(None, feeds)])


def texts(rows: Sequence[Condition], xs: Sequence[str], ys: Sequence[str], number: Callable[[float], str]) -> list[str]:
    """Conditions as comparisons."""
    parts = []
    for row in rows:
        terms = [f"(* {number(v)} {x})" for v, x in zip(row.x, xs, strict=True) if v]
        terms += [f"(* {number(v)} {y})" for v, y in zip(row.y, ys, strict=True)]
        parts.append(f"({row.op} (+ {' '.join(terms)} 0.0) {number(row.rhs)})")
    return parts


def normalised(x: Affine, scale: float, bias: float, mean: float, variance: float) -> Affine:
    """BatchNormalization over the reals, its root to 300 bits (no root that is rational is rounded by that)."""
    spread = Fraction(variance) + Fraction(float(np.float32(EPSILON)))
    shift = 600
    root = Fraction(math.isqrt((spread.numerator << 2 * shift) // spread.denominator), 1 << shift)
    return x.plus(-Fraction(mean)).times(Fraction(scale) / root).plus(Fraction(bias))


def _with(point: Point, k: int, value: Fraction) -> Point:
    return (*point[:k], value, *point[k + 1 :])


def _float(value: Fraction | int) -> float:
    return max(-1e300, min(1e300, float(value))) if -(10**308) < value < 10**308 else math.copysign(1e300, value)


def _positional(value: float) -> str:
    """A literal of VNN-LIB 2.0, which has no exponents."""
    return np.format_float_positional(float(value), trim="0")
