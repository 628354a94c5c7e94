"""The checker's bounds: against sampled points in ONNX Runtime, and against exact rational arithmetic."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from tests.models import build
from verifier.checker.bounds import sweep, walk
from verifier.checker.curves import Relu, Sigmoid, Square
from verifier.checker.errors import Unreadable
from verifier.checker.format import FORMS, ROWS, SYMBOLS
from verifier.checker.linear import Array, Gather
from verifier.checker.network import CheckedNetwork, read_network

RNG = np.random.default_rng(0)
ONE = Gather(((0, 1),), np.zeros(1, np.int64))


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


def node(op: str, inputs: list[str], output: str, **attributes: object) -> object:
    return helper.make_node(op, inputs, [output], **attributes)


PICTURE = {"x": (1, 2, 6, 6)}
VECTOR = {"x": (1, 4)}
CASES: dict[str, tuple[dict, list, dict]] = {
    "gemm": (VECTOR, [node("Gemm", ["x", "w", "b"], "h", transB=1), node("Relu", ["h"], "r"),
             node("MatMul", ["r", "v"], "y")], {"w": normal(5, 4), "b": normal(5), "v": normal(5, 3)}),
    "residual": (VECTOR, [node("MatMul", ["x", "w"], "h"), node("Relu", ["h"], "r"), node("Add", ["r", "x"], "s"),
                 node("Sub", ["s", "h"], "d"), node("Sub", ["c", "d"], "e"), node("Relu", ["e"], "y")],
                 {"w": normal(4, 4), "c": normal(4)}),
    "twice": (VECTOR, [node("MatMul", ["x", "w"], "h"), node("Relu", ["h"], "r"), node("MatMul", ["r", "v"], "a"),
              node("Relu", ["a"], "b"), node("Sub", ["b", "a"], "y")], {"w": normal(4, 4), "v": normal(4, 3)}),
    "product": (VECTOR, [node("MatMul", ["x", "w"], "h"), node("MatMul", ["x", "v"], "g"), node("Mul", ["h", "g"], "p"),
                node("Pow", ["p", "two"], "q"), node("Mul", ["p", "p"], "r"), node("Sub", ["q", "h"], "s"),
                node("Add", ["s", "r"], "y")], {"w": normal(4, 3), "v": normal(4, 1), "two": np.array(2.0)}),
    "leaky": (VECTOR, [node("MatMul", ["x", "w"], "h"), node("LeakyRelu", ["h"], "r", alpha=0.2),
              node("Mul", ["r", "c"], "m"), node("Div", ["m", "d"], "y")],
              {"w": normal(4, 4), "c": normal(4), "d": 0.5 + RNG.random(4)}),
    "clip": (VECTOR, [node("MatMul", ["x", "w"], "h"), node("Clip", ["h", "lo", "hi"], "r"),
             node("MatMul", ["r", "v"], "y")],
             {"w": normal(4, 4), "v": normal(4, 3), "lo": np.array(-0.3), "hi": np.array(0.6)}),
    "s_shaped": (VECTOR, [node("MatMul", ["x", "w"], "h"), node("Sigmoid", ["h"], "s"), node("MatMul", ["s", "v"], "g"),
                 node("Tanh", ["g"], "y")], {"w": 3 * normal(4, 4), "v": 3 * normal(4, 3)}),
    "pooling": (PICTURE, [node("Conv", ["x", "k", "b"], "c", pads=[1, 0, 1, 0], strides=[1, 1]),
                node("BatchNormalization", ["c", "s", "o", "m", "q"], "n"), node("Relu", ["n"], "r"),
                node("MaxPool", ["r"], "p", kernel_shape=[2, 2], strides=[2, 2]),
                node("AveragePool", ["p"], "a", kernel_shape=[2, 2]), node("Flatten", ["a"], "f"),
                node("MatMul", ["f", "v"], "y")],
                {"k": normal(4, 2, 3, 3), "b": normal(4), "s": normal(4), "o": normal(4), "m": normal(4),
                 "q": 0.5 + RNG.random(4), "v": normal(8, 3)}),
    "groups": (PICTURE, [node("Conv", ["x", "k"], "c", group=2, dilations=[2, 2], pads=[2, 1, 2, 1]),
               node("MaxPool", ["c"], "p", kernel_shape=[3, 2], auto_pad="SAME_LOWER"),
               node("GlobalAveragePool", ["p"], "y")], {"k": normal(4, 1, 3, 3)}),
    "layout": (PICTURE, [node("Transpose", ["x"], "t", perm=[0, 2, 3, 1]),
               node("Slice", ["t", "i", "j", "ax", "st"], "s"),
               node("Reshape", ["s", "shape"], "r"), node("Relu", ["r"], "p"), node("Concat", ["p", "r"], "y", axis=1)],
               {"i": np.array([5, 0]), "j": np.array([-100, 4]), "ax": np.array([1, 2]), "st": np.array([-2, 1]),
                "shape": np.array([1, -1])}),
}  # fmt: skip


DTYPE = {"leaky": np.float32, "pooling": np.float32, "groups": np.float32}
"""ONNX Runtime has no float64 kernels for some operators."""


def made(tmp_path: Path, name: str) -> tuple[CheckedNetwork, onnxruntime.InferenceSession, tuple[int, ...]]:
    inputs, nodes, weights = CASES[name]
    data = build(nodes, inputs, ["y"], weights, opset=14, dtype=DTYPE.get(name, np.float64))
    (tmp_path / "m.onnx").write_bytes(data)
    return read_network(tmp_path / "m.onnx"), onnxruntime.InferenceSession(data), inputs["x"]


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_sampled_outputs_lie_inside(tmp_path: Path, name: str, rows: bool) -> None:
    network, session, shape = made(tmp_path, name)
    rng, kind = np.random.default_rng(1), DTYPE.get(name, np.float64)
    noise = 1e-9 if kind == np.float64 else 3e-5
    for width in (2.0, 0.3, 0.0):
        centre = rng.normal(size=(3, network.inputs))
        lower, upper = centre - width / 2, centre + width / 2
        swept = sweep(network, lower, upper, kind=ROWS if rows else FORMS)
        unit, boxes = np.concatenate([np.eye(network.outputs)] * 3), np.repeat(np.arange(3), network.outputs)
        below = walk(swept, boxes, unit, network.output)
        low = below.low.reshape(3, -1)
        above = -walk(swept, boxes, -unit, network.output).low.reshape(3, -1)
        for b in range(3):
            points = [rng.uniform(lower[b], upper[b]) for _ in range(60)]
            points += [np.where(a > 0, lower[b], upper[b]) for a in below.coefficients[boxes == b]]
            for x in points:
                y = session.run(None, {"x": x.reshape(shape).astype(kind)})[0].reshape(-1)
                room = noise * (1 + np.abs(y))  # ONNX Runtime's own rounding
                assert (swept.low[network.output][b] <= y + room).all() and (
                    y - room <= swept.high[network.output][b]
                ).all()
                assert (low[b] <= y + room).all() and (y - room <= above[b]).all()
        if width == 0:
            assert np.abs(above - low).max() < 1e-9  # and they are not wide for nothing


@pytest.mark.parametrize("name", CASES)
def test_symbols_of_their_own_hold_and_cancel(tmp_path: Path, name: str) -> None:
    network, session, shape = made(tmp_path, name)
    rng, kind = np.random.default_rng(4), DTYPE.get(name, np.float64)
    unit, box, gained = np.eye(network.outputs), np.zeros(network.outputs, np.int64), 0.0
    for width in (1.0, 0.2):
        centre = rng.normal(size=(1, network.inputs))
        lower, upper = centre - width / 2, centre + width / 2
        plain, fine = (sweep(network, lower, upper, kind=kind) for kind in (FORMS, SYMBOLS))
        wide, form = (swept.forms[network.output] for swept in (plain, fine))
        assert wide is not None and form is not None
        low, high = form.least(unit, box)[0], -form.least(-unit, box)[0]
        gained = max(gained, float((low - wide.least(unit, box)[0]).max()))
        for x in [rng.uniform(lower[0], upper[0]) for _ in range(100)]:
            y = session.run(None, {"x": x.reshape(shape).astype(kind)})[0].reshape(-1)
            room = (1e-9 if kind == np.float64 else 3e-5) * (1 + np.abs(y))
            assert (low <= y + room).all() and (y - room <= high).all()
    assert gained > 1e-3 or name != "twice"  # where one error comes along two ways


def exact(layers: list[tuple[Array, Array]], x: Array) -> list[Fraction]:
    values = [Fraction(float(v)) for v in x]
    for k, (weight, bias) in enumerate(layers):
        values = [
            sum((Fraction(float(w)) * v for w, v in zip(column, values, strict=True)), Fraction(float(c)))
            for column, c in zip(weight.T, bias, strict=True)
        ]
        values = values if k == len(layers) - 1 else [max(v, Fraction(0)) for v in values]
    return values


@pytest.mark.parametrize("scale", [1.0, 1e9, 1e-200])
def test_bounds_hold_exactly_where_sums_cancel(tmp_path: Path, scale: float) -> None:
    """Boxes of no width and weights that cancel: everything is rounding."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        layers = []
        for n, m in ((3, 6), (6, 6), (6, 2)):
            weight = rng.normal(size=(n, m)) * scale
            weight[:, 1::2] = -weight[:, ::2] * (1 + 1e-15)
            layers.append((weight, rng.normal(size=m)))
        nodes, name = [], "x"
        for k in range(3):
            nodes.append(node("Gemm", [name, f"w{k}", f"b{k}"], "y" if k == 2 else f"h{k}"))
            if k < 2:
                nodes.append(node("Relu", [f"h{k}"], f"r{k}"))
            name = f"r{k}"
        weights = {f"w{k}": w for k, (w, _) in enumerate(layers)} | {f"b{k}": b for k, (_, b) in enumerate(layers)}
        (tmp_path / "m.onnx").write_bytes(build(nodes, {"x": (1, 3)}, ["y"], weights, dtype=np.float64))
        network = read_network(tmp_path / "m.onnx")
        x = rng.normal(size=(4, 3))
        swept = sweep(network, x, x)
        rows, boxes = np.concatenate([np.eye(2)] * 4), np.repeat(np.arange(4), 2)
        below = walk(swept, boxes, rows, network.output).low.reshape(4, 2)
        above = -walk(swept, boxes, -rows, network.output).low.reshape(4, 2)
        form = swept.forms[network.output]
        assert form is not None
        direct = form.least(rows, boxes)[0].reshape(4, 2)
        for b in range(4):
            for j, y in enumerate(exact(layers, x[b])):
                assert Fraction(float(below[b, j])) <= y <= Fraction(float(above[b, j]))
                assert Fraction(float(direct[b, j])) <= y
                assert Fraction(float(swept.low[network.output][b, j])) <= y


@pytest.mark.parametrize(
    "curve", [Relu(ONE, 1, ""), Relu(ONE, 1, "", leak=0.1), Sigmoid(ONE, 1, ""), Square(ONE, 1, "")]
)
def test_residuals_hold_for_every_slope(curve: Relu | Sigmoid | Square) -> None:
    rng = np.random.default_rng(2)
    low = rng.normal(size=(4000, 1)) * 3
    high = low + np.where(rng.random((4000, 1)) < 0.1, 0.0, rng.random((4000, 1)) * 5)
    slope = np.where(rng.random((4000, 1)) < 0.3, np.round(rng.random((4000, 1))), rng.random((4000, 1)) * 1.2)
    least, most = curve.residual(slope, low, high)
    for share in np.linspace(0, 1, 41):
        x = np.clip(low + share * (high - low), low, high)
        y, error = curve.value(x)
        rest = y - slope * x
        room = 1e-15 * (1 + np.abs(x) + np.abs(y)) + error
        assert (rest >= least - room).all() and (rest <= most + room).all()


@pytest.mark.parametrize(
    ("op", "inputs", "message"),
    [("Softmax", ["x"], "does not know operator Softmax"), ("Pow", ["x", "x"], "a constant is expected")],
)
def test_what_the_checker_does_not_know_is_named(tmp_path: Path, op: str, inputs: list[str], message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(build([node(op, inputs, "y")], VECTOR, ["y"]))
    with pytest.raises(Unreadable, match=message):
        read_network(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("op", "attributes", "opset", "message"),
    [("Add", {"axis": 1, "broadcast": 1}, 6, "opset 6"), ("Add", {"axis": 1}, 14, "argument 'axis'"),
     ("Conv", {"kernel_shape": [2, 2]}, 14, "a kernel of"), ("Sub", {}, 40, "opset 40")],
)  # fmt: skip
def test_what_would_change_an_operator_is_not_passed_over(
    tmp_path: Path, op: str, attributes: dict, opset: int, message: str
) -> None:
    """A constant lies along `axis` before opset 7, and along the last axes from there on."""
    model = build([node(op, ["x", "c"], "y", **attributes)], {"x": (1, 2, 4, 4)}, ["y"], {"c": np.ones((2, 2, 3, 3))})
    changed = onnx.load_from_string(model)
    changed.opset_import[0].version = opset
    (tmp_path / "m.onnx").write_bytes(changed.SerializeToString())
    with pytest.raises(Unreadable, match=message):
        read_network(tmp_path / "m.onnx")


def test_a_matrix_fits_its_value(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(build([node("MatMul", ["x", "w"], "y")], VECTOR, ["y"], {"w": np.eye(3)}))
    with pytest.raises(Unreadable, match="does not fit a matrix"):
        read_network(tmp_path / "m.onnx")


@pytest.mark.parametrize("side", [1, 3])
def test_a_window_is_over_one_picture(tmp_path: Path, side: int) -> None:
    """Not over the first of several."""
    model = build([node("MaxPool", ["x"], "y", kernel_shape=[2, 2])], {"x": (side, 1, 4, 4)}, ["y"])
    (tmp_path / "m.onnx").write_bytes(model)
    if side == 1:
        assert read_network(tmp_path / "m.onnx").outputs == 9
    else:
        with pytest.raises(Unreadable, match="one picture"):
            read_network(tmp_path / "m.onnx")


@pytest.mark.parametrize("data", [b"", b"\x1f\x8b123", b"not a model", b"\x08\x07"])
def test_damaged_models_are_unreadable(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(Unreadable):
        read_network(tmp_path / "m.onnx")
