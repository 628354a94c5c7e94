"""What the importer makes of constants, against exact arithmetic: stored numbers with their errors hold the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.models import build, run_onnx
from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Graph, Node
from verifier.graph.onnx_import import load_model
from verifier.passes.flatten_io import flatten_io
from verifier.passes.simplify import simplify

BITS = 2000  # of the oracle: far more than any of these sums can cancel
SLACK = mpmath.mpf(2) ** -1000
UNIT = Fraction(1, 2**53)
MAGNITUDES = [1.0, 1.0, 3.0, 1e-3, 1e8, -1e8, 1e16, -1e16, 1e30]

Numbers = list["mpmath.mpf"]


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> object:
    return helper.make_node(op, list(inputs), list(outputs), **attributes)


def numbers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return (rng.normal(size=shape) * rng.choice(MAGNITUDES, shape)).astype(np.float32)


def real(array: np.ndarray) -> Numbers:
    return [mpmath.mpf(float(v)) for v in np.asarray(array).reshape(-1)]


def fractions(array: np.ndarray) -> np.ndarray:
    result = np.empty(np.shape(array), dtype=object)
    result.reshape(-1)[:] = [Fraction(float(v)) for v in np.asarray(array).reshape(-1)]
    return result


def enclosed(graph: Graph, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(value, radius) of an affine graph at a point, in fractions: what the stored numbers and their errors allow."""
    known = {graph.inputs[0]: (fractions(x)[None], fractions(np.zeros(x.shape))[None])}
    for one in graph.nodes:
        names = list(one.inputs)
        off = Fraction(float(one.params.get("roundings", 0.0))) * UNIT
        value = _apply(one, graph, [known[name][0] for name in names], one.params)
        weights = {k: np.abs(v) for k, v in one.params.items() if k in ("weight", "factor")}
        if "offset" in one.params:
            weights["offset"] = np.zeros_like(one.params["offset"])
        if one.op == "Constant":
            radius = fractions(np.zeros(value.shape))
        else:
            spread = [known[name][1] * (1 + off) + abs(known[name][0]) * off for name in names]
            op = Node("Add", one.inputs, one.output) if one.op == "Sub" else one
            radius = _apply(op, graph, spread, weights)
        if "bias_error" in one.params:
            radius = radius + fractions(one.params["bias_error"])
        known[one.output] = value, radius
    return known[graph.outputs[0]]


def _apply(one: Node, graph: Graph, xs: list[np.ndarray], params: dict[str, np.ndarray]) -> np.ndarray:
    plain = {k: fractions(v) if v.dtype.kind == "f" else v for k, v in params.items()}
    names = tuple(f"in{i}" for i in range(len(xs)))
    shapes = {**{name: x.shape[1:] for name, x in zip(names, xs, strict=True)}, "out": graph.shapes[one.output]}
    alone = Graph(names, ("out",), (Node(one.op, names, "out", plain, one.attrs),), shapes)
    return evaluate(alone, dict(zip(names, xs, strict=True)), object)["out"]


def holds(graph: Graph, x: np.ndarray, truth: Numbers) -> Fraction:
    """Asserts that the truth is enclosed; returns the largest radius."""
    value, radius = (part.reshape(-1) for part in enclosed(graph, x))
    assert len(value) == len(truth)
    for v, r, t in zip(value, radius, truth, strict=True):
        centre, wide = (mpmath.mpf(p.numerator) / p.denominator for p in (v, r))
        assert abs(centre - t) <= wide + SLACK * (1 + abs(t)), (float(v), float(r), t)
    return max(radius, default=Fraction(0))


def both(data: bytes) -> list[Graph]:
    """The graph as imported, and as it is bounded."""
    imported = flatten_io(load_model(data).graph)
    assert not imported.opaque
    return [imported, simplify(imported)]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1), st.sampled_from(["none", "Conv", "ConvTranspose", "Gemm"]), st.booleans())
def test_batch_normalization(seed: int, front: str, bias: bool) -> None:
    """Alone, and behind what it goes into, with statistics of every size."""
    rng = np.random.default_rng(seed)
    scale, beta, mean, spread = (numbers(rng, 2) for _ in range(4))
    weight = numbers(rng, *{"Gemm": (2, 2), "none": (0,)}.get(front, (2, 2, 1)))
    offset = numbers(rng, 2) if bias else np.zeros(2, np.float32)
    names = ["a", "scale", "beta", "mean", "var"]
    nodes = [node("BatchNormalization", names, ["y"], epsilon=1e-5)]
    weights = {"scale": scale, "beta": beta, "mean": mean, "var": np.abs(spread)}
    if front == "none":
        nodes[0] = node("BatchNormalization", ["x", *names[1:]], ["y"], epsilon=1e-5)
    else:
        nodes.insert(0, node(front, ["x", "w", "b"], ["a"]))
        weights |= {"w": weight, "b": offset}
    shape = (1, 2) if front in ("none", "Gemm") else (1, 2, 1)
    x = numbers(rng, 2).astype(np.float64)
    with mpmath.workprec(BITS):
        value = real(x)
        if front != "none":
            matrix = weight.reshape(2, 2).T if front != "Conv" else weight.reshape(2, 2)
            value = [
                sum((a * b for a, b in zip(real(row), value, strict=True)), mpmath.mpf(float(b0)))
                for row, b0 in zip(matrix, offset, strict=True)
            ]
        epsilon = mpmath.mpf(float(np.float32(1e-5)))
        truth = [
            (v - m) / mpmath.sqrt(abs(s) + epsilon) * g + b
            for v, m, s, g, b in zip(value, real(mean), real(spread), real(scale), real(beta), strict=True)
        ]
        for graph in both(build(nodes, {"x": shape}, ["y"], weights)):
            holds(graph, x, truth)
        assert front != "Gemm" or len([one for one in graph.nodes if one.op != "Reshape"]) == 1, str(graph)


UNARY: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "Sqrt": lambda v: mpmath.sqrt(v), "Exp": mpmath.exp, "Log": mpmath.log, "Reciprocal": lambda v: 1 / v,
    "Sigmoid": lambda v: 1 / (1 + mpmath.exp(-v)), "Tanh": mpmath.tanh,
    "Softplus": lambda v: mpmath.log(1 + mpmath.exp(v)),
    "Erf": mpmath.erf, "Atan": mpmath.atan, "Asin": mpmath.asin, "Acosh": mpmath.acosh, "Sin": mpmath.sin,
    "Neg": lambda v: -v, "Abs": abs, "Relu": lambda v: max(v, mpmath.mpf(0)), "Softsign": lambda v: v / (1 + abs(v)),
}  # fmt: skip
BINARY: dict[str, Callable[[mpmath.mpf, mpmath.mpf], mpmath.mpf]] = {
    "Add": lambda a, b: a + b, "Sub": lambda a, b: a - b, "Mul": lambda a, b: a * b, "Div": lambda a, b: a / b,
}  # fmt: skip


class Subgraph:
    """Random operators on constants (3,), written to a model and computed with 2000 bits beside it."""

    def __init__(self, draw: st.DataObject) -> None:
        self.rng = np.random.default_rng(draw.draw(st.integers(0, 2**32 - 1)))
        self.nodes: list[object] = []
        self.weights: dict[str, np.ndarray] = {}
        self.values: dict[str, Numbers] = {}
        for _ in range(2):
            self.fresh()
        for _ in range(draw.draw(st.integers(1, 6))):
            self.step(draw.draw(st.sampled_from([*UNARY, *BINARY, *BINARY, "ReduceSum", "ReduceMean", "CumSum"])))

    def fresh(self) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = numbers(self.rng, 3)
        self.values[name] = real(self.weights[name])
        return name

    def step(self, op: str) -> None:
        a, b = self.rng.choice(list(self.values), 2)
        x, y = self.values[a], self.values[b]
        if op in ("Exp", "Softplus", "Sin") and max(map(abs, x)) > 50:
            return
        if (op in ("Sqrt", "Log") and min(x) <= 0) or (op == "Reciprocal" and 0 in x) or (op == "Div" and 0 in y):
            return
        if (op == "Asin" and max(map(abs, x)) > 0.9) or (op == "Acosh" and min(x) < 1.1):
            return
        name, extra = f"v{len(self.values)}", {}
        inputs = [a, b] if op in BINARY else [a]
        if op in BINARY:
            result = [BINARY[op](p, q) for p, q in zip(x, y, strict=True)]
        elif op in UNARY:
            result = [UNARY[op](p) for p in x]
        elif op == "CumSum":
            self.weights["axis"] = np.array(0)
            inputs.append("axis")
            result = [sum(x[: k + 1]) for k in range(3)]
        else:
            total = sum(x) / (3 if op == "ReduceMean" else 1)
            self.nodes.append(node("ReduceMean", [a], [f"{name}s"], keepdims=1) if op == "ReduceMean" else
                              node("ReduceSum", [a], [f"{name}s"], keepdims=1))  # fmt: skip
            self.weights["shape"] = np.array([3])
            op, inputs, result = "Expand", [f"{name}s", "shape"], [total] * 3
        if max(map(abs, result)) > 1e100:
            self.nodes = self.nodes[: len(self.nodes) - (op == "Expand")]
            return
        self.nodes.append(node(op, inputs, [name], **extra))
        self.values[name] = result


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(["Add", "Sub", "From", "Mul", "MatMul"]))
def test_constant_subgraphs(draw: st.DataObject, use: str) -> None:
    """What a branch of constants is worth, added to an input, or as its factor or weight."""
    with mpmath.workprec(BITS):
        made = Subgraph(draw)
        name = list(made.values)[-1]
        constant = made.values[name]
        x = np.array([0.5, -3.0, 2.0**20])
        if use == "MatMul":
            truth = [sum(a * b for a, b in zip(real(x), constant, strict=True))]
        else:
            rule = BINARY["Sub" if use == "From" else use]
            truth = [rule(*((b, a) if use == "From" else (a, b))) for a, b in zip(real(x), constant, strict=True)]
        last = node("Sub", [name, "x"], ["y"]) if use == "From" else node(use, ["x", name], ["y"])
        data = build([*made.nodes, last], {"x": (3,)}, ["y"], made.weights)
        imported = load_model(data)
        if imported.graph.opaque:  # nothing is claimed: an error that has outgrown all rules
            return
        for graph in both(data):
            if any(one.op not in AFFINE for one in graph.nodes):
                continue  # bounded as a product, or as a function that is not enclosed: nothing was folded
            holds(graph, x, truth)


AFFINE = {"Dense", "Scale", "Shift", "Reshape", "Add", "Sub", "Constant", "Expand", "ReduceSum", "Slice", "Take"}


@pytest.mark.parametrize(("op", "attributes", "share"), [
    ("AveragePool", {"kernel_shape": [3]}, 3), ("GlobalAveragePool", {}, 3), ("ReduceMean", {}, 6),
    ("AveragePool", {"kernel_shape": [3], "pads": [1, 1]}, None),
])  # fmt: skip
def test_shares_that_float64_does_not_hold(op: str, attributes: dict[str, object], share: int | None) -> None:
    x = np.array([1.0, 5.0, 2.0**25, -1.0, 2.0, 4.0])
    data = build([node(op, ["x"], ["y"], **attributes)], {"x": (1, 2, 3)}, ["y"])
    parts = [x] if share == 6 else [x[:3], x[3:]]
    with mpmath.workprec(BITS):
        if share is None:
            truth = [sum(real(p[max(0, k - 1) : k + 2])) / (3 if k == 1 else 2) for p in parts for k in range(3)]
        else:
            truth = [sum(real(p)) / share for p in parts]
        for graph in both(data):
            assert holds(graph, x, truth) > 0


def test_a_rounded_difference_is_not_lost() -> None:
    """(1e16 + 1) - 1e16 of constants is 1: folded in float64 it was 0."""
    nodes = [node("Add", ["a", "b"], ["s"]), node("Sub", ["s", "a"], ["d"]), node("Add", ["x", "d"], ["y"])]
    data = build(nodes, {"x": (1,)}, ["y"], {"a": np.array([1e16]), "b": np.array([1.0])}, dtype=np.float64)
    for graph in both(data):
        with mpmath.workprec(BITS):
            assert holds(graph, np.zeros(1), [mpmath.mpf(1)]) >= 1


def test_exact_constants_carry_no_error() -> None:
    nodes = [node("Mul", ["a", "b"], ["m"]), node("Div", ["m", "b"], ["q"]), node("Sqrt", ["q"], ["r"]),
             node("Div", ["x", "r"], ["z"]), node("Add", ["z", "m"], ["y"])]  # fmt: skip
    graph = load_model(build(nodes, {"x": (2,)}, ["y"], {"a": np.array([4.0, 16.0]), "b": np.array([3.0, 0.1])})).graph
    assert [one.op for one in graph.nodes] == ["Scale", "Shift"] and all(one.exact for one in graph.nodes)


def test_rounded_factors_that_cancel_are_not_multiplied_out() -> None:
    """x / 3 - x fl(1/3) is not 0; multiplied out, the Dense would say so without an error."""
    third = np.array([1.0 / 3.0])
    nodes = [node("Div", ["x", "three"], ["a"]), node("Mul", ["x", "third"], ["b"]), node("Sub", ["a", "b"], ["y"])]
    data = build(nodes, {"x": (1,)}, ["y"], {"three": np.array([3.0]), "third": third}, dtype=np.float64)
    x = np.array([2.0**60])
    with mpmath.workprec(BITS):
        truth = mpmath.mpf(2) ** 60 * (mpmath.mpf(1) / 3 - mpmath.mpf(float(third[0])))
        for graph in both(data):
            holds(graph, x, [truth])


def test_a_weight_with_a_norm_stays_a_weight() -> None:
    """Weight normalisation: w = g v / |v|, computed in the file; the MatMul is one Dense that says what is off."""
    rng = np.random.default_rng(0)
    nodes = [node("ReduceL2", ["v"], ["n"], axes=[0]), node("Div", ["v", "n"], ["u"]), node("Mul", ["u", "g"], ["w"]),
             node("MatMul", ["x", "w"], ["y"])]  # fmt: skip
    v, g = rng.normal(size=(1, 4)).astype(np.float32), rng.normal(size=(1, 4)).astype(np.float32)
    graph = load_model(build(nodes, {"x": (1, 1)}, ["y"], {"v": v, "g": g})).graph
    assert not graph.opaque


def test_what_cannot_be_enclosed_is_run_and_not_bounded() -> None:
    nodes = [node("Det", ["a"], ["d"]), node("Add", ["x", "d"], ["y"])]
    model = load_model(build(nodes, {"x": (2,)}, ["y"], {"a": np.array([[0.1, 0.2], [0.3, 0.7]])}))
    assert [one.attrs["op_type"] for one in model.graph.opaque][:1] == ["Det"]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint8])
def test_whole_constants_are_divided_towards_0(dtype: type[np.signedinteger]) -> None:
    """At the ends of the type, too: -128 has no magnitude in it."""
    info = np.iinfo(dtype)
    numbers = sorted(
        {int(info.min), int(info.min) + 1 if info.min else 3, -1 if info.min else 5, 0, 1, 2, int(info.max)}
    )
    pairs = [(a, b) for a in numbers for b in numbers if b and (a, b) != (info.min, -1)]
    a, b = (np.array(part, dtype) for part in zip(*pairs, strict=True))
    nodes = [
        helper.make_node("Div", ["a", "b"], ["q"]),
        *(helper.make_node("Equal", ["q", "want"], ["same"]), helper.make_node("Cast", ["same"], ["one"], to=1)),
        helper.make_node("Mul", ["x", "one"], ["y"]),
    ]
    want = np.array([int(Fraction(p, q)) for p, q in pairs], dtype)
    model = load_model(build(nodes, {"x": (len(pairs),)}, ["y"], {"a": a, "b": b, "want": want}))
    assert (evaluate(model.graph, {"x": np.ones((1, len(pairs)))})["y"] == 1).all()


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.bool_])
def test_whole_constants_that_were_converted_are_real_numbers(dtype: type) -> None:
    """7 / 2 is 3.5 after a Cast (a size of an axis is used so in attention), and true + true is 2."""
    constants = {"a": np.array([1, 0, 1], dtype), "b": np.array([1, 1, 1], dtype)}
    if dtype is not np.bool_:
        constants = {"a": np.array([7, 9, 3], dtype), "b": np.array([2, 4, 3], dtype)}
    nodes = [
        *(node("Cast", [name], [f"{name}f"], to=1) for name in "ab"),
        *(node(op, ["af", "bf"], [op.lower()]) for op in ("Div", "Add", "Mul")),
        node("Sqrt", ["af"], ["root"]),
        node("Sum", ["div", "add", "mul", "root", "x"], ["y"]),
    ]
    data = build(nodes, {"x": (3,)}, ["y"], constants)
    x = np.array([0.5, -1.0, 2.0], np.float32)
    found = evaluate(load_model(data).graph, {"x": x[None].astype(np.float64)})["y"][0]
    assert np.allclose(found, run_onnx(data, {"x": x})[0], rtol=1e-6)
