"""Every operator that the checker knows has a proof that it accepts, and that no longer holds for a false claim."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.models import build
from verifier import Verdict, verify
from verifier.checker import format as fmt
from verifier.checker.check import check
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.linear import Linear
from verifier.checker.network import read_network
from verifier.checker.query import read_queries
from verifier.proof.encode import encode, encode_header, packed

RNG = np.random.default_rng(5)
VECTOR, PICTURE = (1, 4), (1, 1, 6, 6)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape) / np.sqrt(shape[0])


def node(op: str, inputs: list[str], output: str, **attributes: object) -> object:
    return helper.make_node(op, inputs, [output], **attributes)


DENSE = {"w": normal(4, 6), "v": normal(6, 2)}
KERNEL = {"k": normal(2, 1, 3, 3), "b": normal(2), "f": np.array([1, -1])}


def curve(*nodes: object) -> tuple[tuple[int, ...], list, dict]:
    """A function "h" -> "r" between two matrices."""
    return VECTOR, [node("MatMul", ["x", "w"], "h"), *nodes, node("MatMul", ["r", "v"], "y")], DENSE


def pooled(*nodes: object, size: int) -> tuple[tuple[int, ...], list, dict]:
    """A function "c" -> "p" after a convolution, (1, 2, 4, 4) to `size` values."""
    last = [node("Reshape", ["p", "f"], "q"), node("MatMul", ["q", "v"], "y")]
    return PICTURE, [node("Conv", ["x", "k", "b"], "c"), *nodes, *last], {**KERNEL, "v": normal(size, 2)}


CASES = {
    "Relu": curve(node("Relu", ["h"], "r")),
    "LeakyRelu": curve(node("LeakyRelu", ["h"], "r", alpha=0.1)),
    "Clip": (VECTOR, [node("MatMul", ["x", "w"], "h"), node("Clip", ["h", "lo", "hi"], "r"),
             node("MatMul", ["r", "v"], "y")], {**DENSE, "lo": np.array(-0.2), "hi": np.array(0.4)}),
    "Cast": curve(node("Cast", ["h"], "d", to=TensorProto.DOUBLE), node("Relu", ["d"], "e"),
                  node("Cast", ["e"], "r", to=TensorProto.FLOAT)),
    "Sigmoid": curve(node("Sigmoid", ["h"], "r")),
    "Tanh": curve(node("Tanh", ["h"], "r")),
    "product": curve(node("Relu", ["h"], "a"), node("Mul", ["a", "h"], "r")),
    "residual": curve(node("Relu", ["h"], "a"), node("Add", ["a", "h"], "r")),
    "convolution": pooled(node("Relu", ["c"], "p"), size=32),
    "MaxPool": pooled(node("MaxPool", ["c"], "p", kernel_shape=[2, 2], strides=[2, 2]), size=8),
    "AveragePool": pooled(node("Relu", ["c"], "r"),
                          node("AveragePool", ["r"], "p", kernel_shape=[2, 2], strides=[2, 2]), size=8),
}  # fmt: skip


def claim(path: Path, size: int, low: float) -> None:
    """Four inputs vary, the others are 0.5: is an output at most `low`?"""
    lines = [f"(declare-const X_{i} Real)" for i in range(size)]
    lines += ["(declare-const Y_0 Real)", "(declare-const Y_1 Real)"]
    varying = range(0, size, max(1, size // 4))
    for i in range(size):
        ends = (-1.0, 1.0) if i in varying else (0.5, 0.5)
        lines += [f"(assert (>= X_{i} {ends[0]}))", f"(assert (<= X_{i} {ends[1]}))"]
    lines.append(f"(assert (or (and (<= Y_0 {low!r})) (and (<= Y_1 {low!r}))))")
    path.write_text("\n".join(lines))


@pytest.mark.parametrize("name", CASES)
def test_its_proof_is_accepted(tmp_path: Path, name: str) -> None:
    shape, nodes, weights = CASES[name]
    model, spec, proof = (tmp_path / part for part in ("m.onnx", "s.vnnlib", "p.proof"))
    model.write_bytes(build(nodes, {"x": shape}, ["y"], weights, opset=14))
    size = int(np.prod(shape))
    x = np.full((500, size), 0.5, np.float32)
    varying = list(range(0, size, max(1, size // 4)))
    x[:, varying] = np.random.default_rng(0).uniform(-1, 1, (500, len(varying)))
    session = onnxruntime.InferenceSession(model.read_bytes())
    least = min(float(session.run(None, {"x": row.reshape(shape)})[0].min()) for row in x)
    claim(spec, size, least - (2.0 if name == "product" else 0.4))  # a product reaches further than samples do
    result = verify(model, spec, timeout=60, proof=proof)
    assert result.verdict is Verdict.UNSAT, result.reason
    assert check(proof, model, spec).verdict == "unsat"
    reader = fmt.Reader(io.BytesIO(proof.read_bytes()), "p")
    events = list(map(encode, reader.events()))
    claim(spec, size, least + 0.01)  # a sampled point violates this
    header = replace(reader.header, spec=read_queries(spec, read_network(model)).digest)
    proof.write_bytes(packed([encode_header(header), *events]))
    with pytest.raises(Rejected, match="is not positive"):
        check(proof, model, spec)


def test_casts_that_are_no_identity_are_refused(tmp_path: Path) -> None:
    """Of values; a constant is rounded to the type."""
    casts = [node("Cast", ["c"], "d", to=TensorProto.FLOAT16), node("Cast", ["d"], "e", to=TensorProto.FLOAT),
             node("Add", ["x", "e"], "y")]  # fmt: skip
    weights = {"c": np.array([[0.1, 1.0]])}
    (tmp_path / "m.onnx").write_bytes(build(casts, {"x": (1, 2)}, ["y"], weights, opset=14))
    network = read_network(tmp_path / "m.onnx")
    op = network.nodes[network.output]
    assert isinstance(op, Linear) and op.offset is not None
    assert np.array_equal(op.offset, np.array([0.1, 1.0]).astype(np.float16))
    whole = [node("Cast", ["x"], "d", to=TensorProto.INT64), node("Cast", ["d"], "y", to=TensorProto.FLOAT)]
    (tmp_path / "w.onnx").write_bytes(build(whole, {"x": (1, 2)}, ["y"], {}, opset=14))
    with pytest.raises(Unreadable, match="a cast to int64"):
        read_network(tmp_path / "w.onnx")


def test_functions_written_with_relus_stay_relus_under_a_proof(tmp_path: Path) -> None:
    """Otherwise the search proves parts with bounds of the function that the checker has not, and never ends."""
    knots = np.linspace(-2, 2, 8)
    slope = np.diff(np.tanh(np.r_[knots, 2.5])) / np.diff(np.r_[knots, 2.5])
    weights = {"a": normal(3, 4), "t": -knots, "w": np.diff(np.r_[0.0, slope])[:, None], "b": normal(4, 1),
               "s": np.array([1, 4, 1]), "f": np.array([1, 4])}  # fmt: skip
    nodes = [
        node("MatMul", ["x", "a"], "h"), node("Reshape", ["h", "s"], "c"), node("Add", ["c", "t"], "d"),
        node("Relu", ["d"], "r"), node("MatMul", ["r", "w"], "z"), node("Reshape", ["z", "f"], "e"),
        node("MatMul", ["e", "b"], "y"),
    ]  # fmt: skip
    model, proof = tmp_path / "m.onnx", tmp_path / "p"
    model.write_bytes(build(nodes, {"x": (1, 3)}, ["y"], weights, dtype=np.float64))
    x = np.random.default_rng(0).uniform(-1, 1, (4000, 3))
    y = (np.maximum((x @ weights["a"])[:, :, None] - knots, 0) @ weights["w"])[..., 0] @ weights["b"]
    lines = [f"(declare-const {name} Real)" for name in ("X_0", "X_1", "X_2", "Y_0")]
    lines += [f"(assert (and (>= X_{i} -1.0) (<= X_{i} 1.0)))" for i in range(3)]
    spec = tmp_path / "s.vnnlib"
    spec.write_text("\n".join([*lines, f"(assert (>= Y_0 {float(y.max()) + 0.1!r}))"]))
    found = {proof: verify(model, spec, timeout=30, proof=proof), None: verify(model, spec, timeout=30)}
    assert all(result.verdict is Verdict.UNSAT for result in found.values())
    assert found[proof].settings["neurons"] == 4 * len(knots) and found[None].settings["neurons"] == 4
    assert "quadratic intervals are off" in str(found[proof].settings["proof"]) and "proof" not in found[None].settings
    assert check(proof, model, spec).verdict == "unsat"
