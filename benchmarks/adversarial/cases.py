"""Problems made to break a verifier, with verdicts known by construction, computed in fractions.

Every case says what is true over the reals. Where ONNX Runtime's rounding differs from the reals on purpose
(`rounds`), a `sat` that replays is right too, whatever the reals say; an `unsat` never is where a real input violates.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

SAT, UNSAT, REFUSED = "sat", "unsat", "refused"
KINDS = {np.float32: TensorProto.FLOAT, np.float64: TensorProto.DOUBLE}
CLOSE = Fraction(1, 100_000)
"""99.999 % and 100.001 %."""


@dataclass(frozen=True)
class Case:
    """`truth` is what holds over the reals, or that files like these have to be refused."""

    name: str
    model: bytes
    spec: str
    truth: str
    rounds: bool = False


class Net:
    """One network in the making, input "x" of `shape`."""

    def __init__(self, shape: Sequence[int], kind: Any = np.float32) -> None:
        self.shape, self.kind = tuple(shape), kind
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def weight(self, array: Any) -> str:
        array = np.asarray(array)
        array = array.astype(self.kind) if array.dtype.kind == "f" else array
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return f"w{len(self.weights) - 1}"

    def op(self, op: str, *inputs: Any, **attributes: Any) -> str:
        names = [one if isinstance(one, str) else self.weight(one) for one in inputs]
        self.nodes.append(helper.make_node(op, names, [f"v{len(self.nodes)}"], **attributes))
        return f"v{len(self.nodes) - 1}"

    def affine(self, value: str, weight: Any, bias: Any) -> str:
        """weight (k, n): value (1, k) -> (1, n)."""
        return self.op("Add", self.op("MatMul", value, np.asarray(weight, float)), np.asarray(bias, float))

    def done(self, outputs: int) -> bytes:
        kind, last = KINDS[self.kind], self.nodes[-1].output[0]
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", kind, self.shape)],
            [helper.make_tensor_value_info(last, kind, [1, outputs])],
            self.weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        made.ir_version = 8
        return bytes(made.SerializeToString())


def spec(low: Sequence[float], high: Sequence[float], outputs: int, *rows: str) -> str:
    """VNN-LIB 1.0 with the rows as they are; numbers are written so that they read back as they are."""
    lines = [f"(declare-const X_{i} Real)" for i in range(len(low))]
    lines += [f"(declare-const Y_{j} Real)" for j in range(outputs)]
    for i, (a, b) in enumerate(zip(low, high, strict=True)):
        lines += [f"(assert (>= X_{i} {float(a)!r}))", f"(assert (<= X_{i} {float(b)!r}))"]
    return "\n".join([*lines, *(f"(assert {row})" for row in rows)])


def in_version_2(text: str) -> str:
    """The same as VNN-LIB 2.0."""
    n, m = text.count("(declare-const X_"), text.count("(declare-const Y_")
    lines = [line for line in text.split("\n") if not line.startswith("(declare")]
    head = f"(vnnlib-version <2.0>)(declare-network N (declare-input X real [1,{n}]) (declare-output Y real [1,{m}]))"
    body = "\n".join(lines)
    for letter, count in (("X", n), ("Y", m)):
        for k in reversed(range(count)):
            body = body.replace(f"{letter}_{k}", f"{letter}[0,{k}]")
    words = [_plain(word) for word in body.replace("(", " ( ").replace(")", " ) ").split()]
    return head + "\n" + " ".join(words)


def _plain(word: str) -> str:
    try:
        return np.format_float_positional(float(word), trim="0")
    except ValueError:
        return word


def around(centre: Sequence[Fraction], radius: Fraction) -> tuple[list[float], list[float]]:
    return [float(c - radius) for c in centre], [float(c + radius) for c in centre]


def _exact(array: np.ndarray, kind: Any) -> list[Fraction]:
    return [Fraction(float(v)) for v in array.astype(kind).reshape(-1)]


# ------------------------------------------------------------------------------------------------ exact robust radius


def radius_affine(kind: Any, n: int = 6) -> Iterator[Case]:
    """Two classes of a linear classifier: the radius is margin / |w_0 - w_1|_1."""
    rng = np.random.default_rng(n)
    weight, bias = rng.normal(size=(n, 2)), rng.normal(size=2) / 9
    w, b = _exact(weight, kind), _exact(bias, kind)
    centre = [Fraction(k % 7, 8) for k in range(n)]
    gap = [w[2 * i] - w[2 * i + 1] for i in range(n)]
    margin = sum((g * c for g, c in zip(gap, centre, strict=True)), b[0] - b[1])
    sign = 1 if margin > 0 else -1
    yield from _both("radius-affine", kind, centre, abs(margin) / sum(map(abs, gap)), n, _linear(kind, weight, bias),
                     2, f"({'<=' if sign > 0 else '>='} Y_0 Y_1)")  # fmt: skip


def _linear(kind: Any, weight: np.ndarray, bias: np.ndarray) -> bytes:
    net = Net((1, len(weight)), kind)
    net.affine("x", weight, bias)
    return net.done(len(bias))


def _both(
    name: str, kind: Any, centre: list[Fraction], radius: Fraction, n: int, model: bytes, outputs: int, row: str
) -> Iterator[Case]:
    for word, factor, truth in (("inside", 1 - CLOSE, UNSAT), ("beyond", 1 + CLOSE, SAT)):
        low, high = around(centre, radius * factor)
        yield Case(f"{name}-{n}-{word}", model, spec(low, high, outputs, row), truth, truth == SAT)


def radius_maximum(kind: Any, n: int = 4, pieces: int = 5) -> Iterator[Case]:
    """max_k (w_k x + b_k) reaches t first where (t - w_k c - b_k) / |w_k|_1 is least; by ReduceMax and by MaxPool."""
    rng = np.random.default_rng(n + pieces)
    weight, bias = rng.normal(size=(n, pieces)), rng.normal(size=pieces) / 4
    w, b = _exact(weight, kind), _exact(bias, kind)
    centre = [Fraction(k, 4) - Fraction(1, 2) for k in range(n)]
    values = [sum((w[i * pieces + k] * centre[i] for i in range(n)), b[k]) for k in range(pieces)]
    level = Fraction(math.ceil(4 * max(values)) + 1, 4)
    radius = min((level - v) / sum(abs(w[i * pieces + k]) for i in range(n)) for k, v in enumerate(values))
    for way in ("reduce", "pool"):
        net = Net((1, n), kind)
        value = net.affine("x", weight, bias)
        if way == "reduce":
            net.op("ReduceMax", value, axes=[1], keepdims=1)
        else:
            pooled = net.op("MaxPool", net.op("Reshape", value, np.array([1, 1, pieces])), kernel_shape=[pieces])
            net.op("Reshape", pooled, np.array([1, 1]))
        row = f"(>= Y_0 {float(level)!r})"
        yield from _both(f"radius-max-{way}", kind, centre, radius, n, net.done(1), 1, row)


def radius_distance(kind: Any, n: int = 3) -> Iterator[Case]:
    """sum_i a_i |x_i - p_i| with a_i > 0: its least value on a box around c is known coordinate by coordinate."""
    centre = [Fraction(k, 16) for k in range(n)]
    point = [c + Fraction(3, 4) + Fraction(k % 8, 32) for k, c in enumerate(centre)]
    factor = [Fraction(k % 3 + 1, 4) for k in range(n)]
    level = sum(factor, Fraction(0)) / 4  # reached at radius r where sum a_i (|c_i - p_i| - r) = level
    radius = (sum(a * (p - c) for a, p, c in zip(factor, point, centre, strict=True)) - level) / sum(factor)
    assert radius < Fraction(3, 4), "the box reaches no p_i, so the value is affine on it"
    yield from _both("radius-distance", kind, centre, radius, n, _distances(kind, point, factor), 1,
                     f"(<= Y_0 {float(level)!r})")  # fmt: skip


def _distances(kind: Any, point: Sequence[Fraction], factor: Sequence[Fraction], scale: float = 1.0, shift: float = 0.0,
               clipped: bool = False) -> bytes:  # fmt: skip
    """shift + scale * sum_i a_i |x_i - p_i| through pairs of ReLUs, then perhaps a ReLU."""
    n, net = len(point), Net((1, len(point)), kind)
    p, a = np.array([float(v) for v in point]), np.array([float(v) for v in factor])
    pairs = net.op("Relu", net.affine("x", np.concatenate([np.eye(n), -np.eye(n)], axis=1), np.concatenate([-p, p])))
    value = net.affine(pairs, scale * np.concatenate([a, a])[:, None], [shift])
    if clipped:
        net.op("Relu", value)
    return net.done(1)


def radius_mixed(kind: Any, n: int = 4) -> Iterator[Case]:
    """Factors of both signs: the largest value has some coordinates at an end, the others as near to p as they get."""
    centre = [Fraction(0)] * n
    point = [Fraction(k % 2, 2) for k in range(n)]  # at the centre, or at 1/2
    factor = [Fraction((-1) ** k * (k % 5 + 1), 8) for k in range(n)]
    near, far = [a for a, p in zip(factor, point, strict=True) if a < 0], [a for a in factor if a > 0]
    # for r < 1/2 the largest value is sum far * r + sum near * (1/2 - r)
    radius = Fraction(1, 4)
    level = sum(far) * radius + sum(near) * (Fraction(1, 2) - radius)
    yield from _both("radius-mixed", kind, centre, radius, n, _distances(kind, point, factor), 1,
                     f"(>= Y_0 {float(level)!r})")  # fmt: skip


def radius_sigmoid(kind: Any, n: int = 3) -> Iterator[Case]:
    """sum_j v_j sigmoid(w_j x + b_j), v and w >= 0: largest in the upper corner; its value to 60 digits."""
    import mpmath

    rng = np.random.default_rng(n)
    weight, bias, out = rng.uniform(0.1, 1, (n, 4)), rng.normal(size=4) / 2, rng.uniform(0.1, 1, 4)
    w, b, v = _exact(weight, kind), _exact(bias, kind), _exact(out, kind)
    high = [Fraction(1)] * n
    with mpmath.workdps(60):
        arguments = [sum((w[4 * i + j] * high[i] for i in range(n)), b[j]) for j in range(4)]
        terms = [mpmath.mpf(x.numerator) / x.denominator for x in arguments]
        top = sum(mpmath.mpf(f.numerator) / f.denominator / (1 + mpmath.exp(-t)) for f, t in zip(v, terms, strict=True))
        net = Net((1, n), kind)
        net.affine(net.op("Sigmoid", net.affine("x", weight, bias)), out[:, None], [0.0])
        model = net.done(1)
        for word, factor, truth in (("inside", 1 + 1e-5, UNSAT), ("beyond", 1 - 1e-5, SAT)):
            row = f"(>= Y_0 {float(top * factor)!r})"
            yield Case(f"sigmoid-corner-{n}-{word}", model, spec([-1] * n, [1] * n, 1, row), truth, truth == SAT)


# --------------------------------------------------------------------------------------------- what gradients miss


def spikes(kind: Any, n: int = 2, sharp: float = 1024.0) -> Iterator[Case]:
    """1 - sharp * distance from p, cut off at 0: flat wherever a gradient is taken; met, and just out of reach."""
    point = [Fraction((11 * k + 5) % 64, 64) for k in range(n)]
    model = _distances(kind, point, [Fraction(1)] * n, -sharp, 1.0, clipped=True)
    box = ([0.0] * n, [1.0] * n)
    yield Case(f"spike-{n}", model, spec(*box, 1, "(>= Y_0 0.5)"), SAT)
    yield Case(f"spike-{n}-top", model, spec(*box, 1, "(>= Y_0 1.0)"), SAT, True)
    yield Case(f"spike-{n}-strict", model, spec(*box, 1, "(> Y_0 1.0)"), UNSAT)
    yield Case(f"spike-{n}-none", model, spec(*box, 1, "(>= Y_0 1.0001)"), UNSAT)


# ------------------------------------------------------------------------------------------------ numbers that cancel


def cancellation(kind: Any) -> Iterator[Case]:
    """What is left is small against what cancels; in float32 ONNX Runtime loses it, over the reals it is there."""
    big = 2.0**24
    net = Net((1, 2), kind)
    parts = net.op("Relu", net.affine("x", [[big, big], [1, 0]], [0, 0]))
    net.affine(parts, [[1.0], [-1.0]], [0.0])  # relu(big x_0 + x_1) - relu(big x_0) = x_1
    model = net.done(1)
    for row, truth in (("(>= Y_0 0.5)", SAT), ("(>= Y_0 1.0)", SAT), ("(> Y_0 1.0)", UNSAT), ("(>= Y_0 2.5)", UNSAT)):
        yield Case(f"cancel-2^24 {row}", model, spec([1, 0], [1, 1], 1, row), truth, True)
    for terms, left in (([1e8, 1.0, -1e8], 1.0), ([1.0, 1e16, -1e16], 1.0), ([big, 1.0, 1 - big, -1.0], 1.0)):
        net = Net((1, 1), kind)
        wide = net.op("Relu", net.affine("x", [[1.0] * len(terms)], [0.0] * len(terms)))
        net.affine(wide, np.array(terms)[:, None], [0.0])
        exact = sum(_exact(np.array(terms), kind))
        truth = SAT if exact >= left else UNSAT
        for row, holds in ((f"(>= Y_0 {left})", truth), (f"(>= Y_0 {float(exact) + 3.0})", UNSAT)):
            yield Case(f"cancel-{terms} {row}", net.done(1), spec([0.5], [1.0], 1, row), holds, True)
    net = Net((1, 1), kind)  # relu(z) + c relu(-z) with z > 0, through another ReLU
    z = net.affine("x", [[1.0, -1.0]], [0.0, 0.0])
    net.op("Relu", net.affine(net.op("Relu", z), [[1.0], [1e10]], [0.0]))
    for row, truth in (("(>= Y_0 0.75)", SAT), ("(> Y_0 1.0)", UNSAT), ("(<= Y_0 0.4)", UNSAT), ("(<= Y_0 0.5)", SAT)):
        yield Case(f"opposite {row}", net.done(1), spec([0.5], [1.0], 1, row), truth, True)
    net = Net((1, 1), kind)  # an offset that is lost beside another, and comes back
    shifted = net.op("Add", net.op("Sub", "x", np.array([2.0**27])), np.array([2.0**-27]))
    net.op("Mul", net.op("Relu", shifted), np.array([2.0**27]))
    yield Case("lost offset", net.done(1), spec([0], [2.0**27], 1, "(>= Y_0 1.0)"), SAT, True)
    if kind is np.float64:
        low = 1 - 2.0**-53
        net = Net((1, 1), kind)
        net.op("Mul", net.op("Relu", net.op("Sub", "x", np.array([low]))), np.array([2.0**53]))
        for start in (0.1, 0.3, 0.7, 1 / 3):
            yield Case(f"amplified-{start:.2f}", net.done(1), spec([start], [1.0], 1, "(>= Y_0 0.5)"), SAT, True)


def denormals(kind: Any) -> Iterator[Case]:
    tiny, huge = (1e-40, 1e38) if kind is np.float32 else (1e-310, 1e308)
    net = Net((1, 1), kind)
    net.op("Mul", net.op("Relu", net.op("Mul", "x", np.array([tiny]))), np.array([huge]))
    (a,), (b,) = _exact(np.array([tiny]), kind), _exact(np.array([huge]), kind)
    top = a * b
    for factor, truth in ((Fraction(999, 1000), SAT), (Fraction(1001, 1000), UNSAT)):
        row = f"(>= Y_0 {float(top * factor)!r})"
        yield Case(f"denormal weight {truth}", net.done(1), spec([0], [1], 1, row), truth, True)
    net = Net((1, 1), kind)
    net.op("Relu", "x")
    least = float(np.finfo(kind).smallest_subnormal)
    yield Case("denormal input", net.done(1), spec([0], [least], 1, f"(>= Y_0 {least!r})"), SAT, True)
    yield Case("denormal input, none", net.done(1), spec([0], [least], 1, f"(>= Y_0 {4 * least!r})"), UNSAT, True)


# ------------------------------------------------------------------------------------------------------ ties and kinks


def ties(kind: Any) -> Iterator[Case]:
    """Equality at the boundary, strict against not."""
    net = Net((1, 2), kind)
    value = net.op("Relu", net.affine("x", [[1.0, 1.0], [0.5, 0.5]], [0.25, 0.25]))
    net.op("Identity", value)
    model, box = net.done(2), ([0.0, 0.0], [1.0, 1.0])
    for row, truth in (
        ("(> Y_0 Y_1)", UNSAT), ("(>= Y_0 Y_1)", SAT), ("(< Y_0 Y_1)", UNSAT), ("(>= Y_0 1.75)", SAT),
        ("(> Y_0 1.75)", UNSAT), ("(<= Y_1 0.25)", SAT), ("(< Y_1 0.25)", UNSAT),
        ("(and (>= Y_0 1.0) (<= Y_0 1.0))", SAT), ("(and (> Y_0 1.0) (<= Y_0 1.0))", UNSAT),
        ("(and (>= Y_0 1.5) (<= Y_0 1.0))", UNSAT), ("(and (>= Y_0 1.5) (>= Y_0 1.5) (>= Y_0 1.5))", SAT),
        ("(or (and (> Y_0 Y_1)) (and (< Y_0 Y_1)))", UNSAT), ("(or (and (> Y_0 Y_1)) (and (>= Y_0 1.75)))", SAT),
        ("(>= X_0 2.0)", UNSAT), ("(and (>= X_0 1.0) (>= Y_0 1.25))", SAT), ("(and (>= X_0 1.0) (< Y_0 1.25))", UNSAT),
        ("(<= (+ Y_0 X_0) 0.25)", SAT), ("(< (+ Y_0 X_0) 0.25)", UNSAT), ("(!= Y_0 Y_1)", UNSAT), ("(== Y_0 Y_1)", SAT),
    ):  # fmt: skip
        yield Case(f"tie {row}", model, spec(*box, 2, row), truth)
    net = Net((1, 1), kind)
    net.op("Relu", "x")
    for row, truth in (("(< Y_0 0.0)", UNSAT), ("(<= Y_0 0.0)", SAT), ("(> Y_0 1.0)", UNSAT), ("(>= Y_0 1.0)", SAT)):
        yield Case(f"relu {row}", net.done(1), spec([-1], [1], 1, row), truth)


def kinks(kind: Any) -> Iterator[Case]:
    """Clip where its ends are just reached, ends that meet, and maxima of windows that are equal."""
    for low, high in ((0.0, 6.0), (-1.0, 1.0), (0.5, 0.5)):
        net = Net((1, 1), kind)
        net.op("Clip", "x", np.array(low), np.array(high))
        for row, truth in ((f"(>= Y_0 {high})", SAT), (f"(> Y_0 {high})", UNSAT), (f"(<= Y_0 {low})", SAT),
                           (f"(< Y_0 {low})", UNSAT)):  # fmt: skip
            yield Case(f"clip [{low}, {high}] {row}", net.done(1), spec([low - 1], [high], 1, row), truth)
    net = Net((1, 4), kind)
    image = net.op("Reshape", "x", np.array([1, 1, 4]))
    pooled = net.op("MaxPool", net.op("Concat", image, image, axis=2), kernel_shape=[4], strides=[4])
    net.op("Reshape", pooled, np.array([1, 2]))
    for row, truth in (("(> Y_0 Y_1)", UNSAT), ("(>= Y_0 Y_1)", SAT), ("(> Y_0 1.0)", UNSAT), ("(>= Y_0 1.0)", SAT)):
        yield Case(f"pool {row}", net.done(2), spec([0.0] * 4, [1.0] * 4, 2, row), truth)


def degenerate(kind: Any) -> Iterator[Case]:
    """Sets of one point, networks that do not depend on their input, empty sets."""
    net = Net((1, 2), kind)
    net.op("Relu", net.affine("x", [[1.0], [2.0]], [0.25]))
    for row, truth in (
        ("(>= Y_0 1.75)", SAT),
        ("(> Y_0 1.75)", UNSAT),
        ("(<= Y_0 1.75)", SAT),
        ("(< Y_0 1.75)", UNSAT),
    ):
        yield Case(f"point {row}", net.done(1), spec([0.5, 0.5], [0.5, 0.5], 1, row), truth)
        yield Case(f"half a point {row}", net.done(1), spec([0.5, 0.5], [0.5, 0.5], 1, row), truth)
    for name, build in (
        ("zero weights", lambda n: n.affine("x", [[0.0]], [1.5])),
        ("x - x", lambda n: n.op("Add", n.op("Sub", "x", "x"), np.array([1.5]))),
        ("0 x", lambda n: n.op("Add", n.op("Mul", "x", np.array([0.0])), np.array([1.5]))),
    ):
        net = Net((1, 1), kind)
        build(net)
        for row, truth in (
            ("(>= Y_0 1.5)", SAT),
            ("(> Y_0 1.5)", UNSAT),
            ("(< Y_0 1.5)", UNSAT),
            ("(<= Y_0 1.5)", SAT),
        ):
            yield Case(f"constant, {name} {row}", net.done(1), spec([-1], [1], 1, row), truth)
    net = Net((1, 1), kind)
    net.op("Relu", "x")
    yield Case("empty set", net.done(1), spec([1.0], [0.0], 1, "(>= Y_0 0.0)"), UNSAT)
    yield Case("empty by strictness", net.done(1), spec([0], [1], 1, "(> X_0 1.0)", "(>= Y_0 0.0)"), UNSAT)


def refused(kind: Any) -> Iterator[Case]:
    """NaN and infinities, in weights and in specifications."""
    net = Net((1, 1), kind)
    net.op("Relu", "x")
    good = net.done(1)
    for number in ("nan", "inf", "-inf", "1e999", "NaN"):
        yield Case(f"specification with {number}", good, spec([0], [1], 1, f"(>= Y_0 {number})"), REFUSED)
        text = spec([0], [1], 1, "(>= Y_0 0.0)").replace("(<= X_0 1.0)", f"(<= X_0 {number})")
        yield Case(f"box with {number}", good, text, REFUSED)
    for value in (np.nan, np.inf, -np.inf):
        for place in ("weight", "bias"):
            net = Net((1, 1), kind)
            weight, bias = (value, 0.0) if place == "weight" else (1.0, value)
            net.op("Relu", net.affine("x", [[weight]], [bias]))
            yield Case(f"{place} {value}", net.done(1), spec([0], [1], 1, "(>= Y_0 0.0)"), REFUSED)


Family = Callable[..., Iterator[Case]]
QUICK: tuple[Family, ...] = (
    radius_affine, radius_maximum, radius_distance, radius_mixed, radius_sigmoid, spikes, cancellation, denormals, ties,
    kinks, degenerate, refused,
)  # fmt: skip
LONG: tuple[Family, ...] = (
    *(lambda kind, n=n: radius_affine(kind, n) for n in (2, 24, 100)),
    *(lambda kind, n=n: radius_maximum(kind, n, 3 * n) for n in (2, 12, 30)),
    *(lambda kind, n=n: radius_distance(kind, n) for n in (1, 10, 40)),
    *(lambda kind, n=n: radius_mixed(kind, n) for n in (2, 12, 40)),
    *(lambda kind, n=n: radius_sigmoid(kind, n) for n in (1, 8, 24)),
    *(lambda kind, n=n: spikes(kind, n, 64.0) for n in (1, 4, 12, 30)),
    lambda kind: spikes(kind, 2, 1e6),
)


def cases(families: Sequence[Family] = QUICK) -> Iterator[tuple[Any, Case]]:
    """Every case in both precisions."""
    for kind in KINDS:
        for family in families:
            yield from ((kind, case) for case in family(kind))
