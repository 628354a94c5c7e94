"""What two readers of ONNX may read differently: the checker reads it as ONNX Runtime does, or refuses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.models import build
from verifier import Options, verify
from verifier.checker import check as checking
from verifier.checker import format as fmt
from verifier.checker.bounds import sweep
from verifier.checker.check import check
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.network import read_network
from verifier.checker.prove import Prover
from verifier.checker.query import read_queries
from verifier.errors import ProofError
from verifier.graph.onnx_import import load_model
from verifier.proof.encode import encode, encode_header, encode_witness, packed


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


def rank_of_an_exponent() -> bytes:
    """x^2 is (1, 3) where the exponent is (1, 1), and then (3, 3) with a column added: x_0^2 in its first column."""
    nodes = [
        node("Pow", "x two", "a"),
        node("Flatten", "a", "b"),
        node("Add", "b column", "c"),
        node("Slice", "c zero one one", "y"),
    ]
    weights = {"two": np.full((1, 1), 2.0), "column": np.array([[10.0], [20], [30]])}
    weights |= {"zero": np.zeros(1, np.int64), "one": np.ones(1, np.int64)}
    return build(nodes, {"x": (3,)}, ["y"], weights)


def a_start_before_the_first() -> bytes:
    """Going backwards from before the first element there is one element, the first, not none."""
    nodes = [
        node("Slice", "k early earlier zero back", "a"),
        node("Concat", "a k", "b", axis=0),
        node("Slice", "b zero three", "c"),
        node("Add", "x c", "y"),
    ]
    places = {"early": -10, "earlier": -20, "zero": 0, "back": -1, "three": 3}
    weights = {"k": np.array([5.0, 1, 2, 3]), **{name: np.array([v]) for name, v in places.items()}}
    return build(nodes, {"x": (3,)}, ["y"], weights)


@pytest.mark.parametrize("make", [rank_of_an_exponent, a_start_before_the_first])
def test_both_readers_compute_what_onnx_runtime_does(make: Any, tmp_path: Path) -> None:
    data, x = make(), np.array([1, 2, 3], np.float32)
    (y,) = onnxruntime.InferenceSession(data).run(None, {"x": x})
    (path := tmp_path / "m.onnx").write_bytes(data)
    network, point = read_network(path), x[None].astype(np.float64)
    swept = sweep(network, point, point)
    np.testing.assert_allclose(swept.low[network.output][0], y.reshape(-1), rtol=1e-12)
    result = verify(path, asking("(<= Y_0 -1.0)", 3, tmp_path), Options(), timeout=20)  # also runs both side by side
    assert result.verdict.value == "unsat"


def asking(row: str, inputs: int, folder: Path, low: float = 0.0, high: float = 1.0) -> Path:
    outputs = inputs if inputs == 3 else 1
    lines = [f"(declare-const X_{i} Real)(assert (>= X_{i} {low}))(assert (<= X_{i} {high}))" for i in range(inputs)]
    lines += [f"(declare-const Y_{k} Real)" for k in range(outputs)]
    (path := folder / "s.vnnlib").write_text("\n".join([*lines, f"(assert {row})"]))
    return path


def whole(kind: Any, nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None) -> bytes:
    """A network of one whole number x to a float y."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", element, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("kind", "op", "inputs", "at", "least"),
    [
        (np.int32, "Add", "x x", 2**30, 2.0**31),
        (np.int32, "Mul", "x x", 2**16, 2.0**32),
        (np.int8, "Neg", "x", -128, 128.0),
    ],
)
def test_whole_numbers_wrap_and_nothing_is_proven(
    kind: Any, op: str, inputs: str, at: int, least: float, tmp_path: Path
) -> None:
    """Over the reals y >= `least` at `at`; in the type it is not: a violation, and no proof that there is none."""
    (model := tmp_path / "m.onnx").write_bytes(whole(kind, [node(op, inputs, "a"), node("Cast", "a", "y", to=1)]))
    (y,) = onnxruntime.InferenceSession(model.read_bytes()).run(None, {"x": np.array([at], kind)})
    assert y[0] <= 0 < least
    spec = asking("(<= Y_0 0.0)", 1, tmp_path, at, at)
    with pytest.raises(ProofError, match="arithmetic of whole numbers"):
        verify(model, spec, Options(), timeout=20, proof=tmp_path / "p")
    assert not (tmp_path / "p").exists()
    with pytest.raises(Unreadable, match="arithmetic of whole numbers"):
        read_network(model)
    assert verify(model, spec, Options(), timeout=20).verdict.value != "unsat"


def test_whole_numbers_that_are_cast_are_real(tmp_path: Path) -> None:
    nodes = [node("Cast", "x", "a", to=1), node("Add", "a half", "y")]
    data = whole(np.int8, nodes, {"half": np.array([0.5], np.float32)})
    (model := tmp_path / "m.onnx").write_bytes(data)
    proof = tmp_path / "p"
    spec = asking("(<= Y_0 0.0)", 1, tmp_path)
    assert verify(model, spec, Options(), timeout=20, proof=proof).verdict.value == "unsat"
    assert check(proof, model, spec).verdict == "unsat"


def test_a_witness_of_whole_numbers_is_whole(tmp_path: Path) -> None:
    """0.5 is in the box, and no int8; 200 is no int8 either."""
    (model := tmp_path / "m.onnx").write_bytes(whole(np.int8, [node("Cast", "x", "y", to=1)]))
    spec = asking("(and (>= Y_0 0.25) (<= Y_0 300.0))", 1, tmp_path, 0, 300)
    network = read_network(model)
    header = fmt.Header(network.digest, read_queries(spec, network).digest, "test", fmt.WITNESS, ())
    for x, good in ((1.0, True), (0.5, False), (200.0, False)):
        (proof := tmp_path / "p").write_bytes(packed([encode_header(header), encode_witness(np.array([x]))]))
        if good:
            assert check(proof, model, spec).verdict == "sat"
        else:
            with pytest.raises(Rejected, match="other numbers than those of int8"):
                check(proof, model, spec)


def test_a_factor_that_underflows_is_refused(tmp_path: Path) -> None:
    """5e-324 / sqrt(2) is 3.5e-324, and the nearest float64 number 5e-324: 40 % off."""
    weights = {"w": np.full((1, 1), 1e300), "s": np.full(1, 5e-324), "b": np.zeros(1), "v": np.full(1, 2.0)}
    nodes = [node("MatMul", "x w", "a"), node("BatchNormalization", "a s b b v", "y")]
    (path := tmp_path / "m.onnx").write_bytes(build(nodes, {"x": (1, 1)}, ["y"], weights, dtype=np.float64))
    with pytest.raises(Unreadable, match="a factor below"):
        read_network(path)


def test_names_that_stand_for_two_tensors_are_refused(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "a"), node("Neg", "x", "a"), node("Relu", "a", "y")]
    (path := tmp_path / "m.onnx").write_bytes(build(nodes, {"x": (1, 2)}, ["y"]))
    with pytest.raises(Unreadable, match="two tensors are called 'a'"):
        read_network(path)


def test_padding_of_dilated_windows_by_name_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime leaves the dilation out where it pads a pooling window, the standard does not."""
    window = {"kernel_shape": [2, 3], "strides": [1, 2], "dilations": [2, 1], "auto_pad": "SAME_UPPER"}
    graph = helper.make_graph(
        [node("MaxPool", "x", "y", **window)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    (y,) = onnxruntime.InferenceSession(data).run(None, {"x": np.zeros((1, 2, 4, 3), np.float32)})
    assert y.shape != (1, 2, 4, 2)
    (path := tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(Unreadable, match="auto_pad SAME_UPPER with dilations"):
        read_network(path)


def test_the_importer_knows_where_a_backward_slice_starts() -> None:
    assert load_model(a_start_before_the_first()).graph.outputs


def test_rows_of_leaves_that_wait_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves of many rows are bounded a few at a time."""
    (model := tmp_path / "m.onnx").write_bytes(build([node("Relu", "x", "y")], {"x": (1, 1)}, ["y"]))
    spec = asking("(<= Y_0 -1.0)", 1, tmp_path)
    network = read_network(model)
    header = fmt.Header(network.digest, read_queries(spec, network).digest, "test", fmt.TREE, ())
    splits = [fmt.InputSplit(0, 0, 0.5), fmt.InputSplit(1, 0, 0.25)]
    events = [*splits, *(fmt.Leaf(k, rows=((0, ((0, 1.0),)),)) for k in (2, 3, 4)), fmt.End(2, 3)]
    (proof := tmp_path / "p").write_bytes(packed([encode_header(header), *map(encode, events)]))
    sizes: list[int] = []
    prove = Prover.prove
    monkeypatch.setattr(Prover, "prove", lambda self, claims: sizes.append(len(claims)) or prove(self, claims))
    monkeypatch.setattr(checking, "MOST_WAITING", 20)
    assert check(proof, model, spec).leaves == 3
    assert [s for s in sizes if s] == [2, 1]
