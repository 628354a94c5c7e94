"""What a network can be fed: whole numbers, half precision, and inputs of different types side by side."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import vnnlib
from tests.models import build
from verifier.api import verify
from verifier.graph.onnx_import import Model, TensorInfo, load_model
from verifier.problem.feed import Feed
from verifier.result import Verdict


def feed(*dtypes: type) -> Feed:
    return Feed.of([TensorInfo(f"i{k}", (1,), np.dtype(dtype)) for k, dtype in enumerate(dtypes)])


def test_every_input_is_rounded_by_its_own_type() -> None:
    low, high = feed(np.float16, np.float32, np.float64, np.int64).hull(np.full((1, 4), 0.1), np.full((1, 4), 1.1))
    assert low.tolist() == [[float(np.float16(0.1)), 0.1, 0.1, 1.0]]  # float32(0.1) lies above 0.1
    assert high.tolist() == [[1.1, float(np.float32(1.1)), 1.1, 1.0]]  # float16(1.1) lies below 1.1


def test_points_are_numbers_of_their_type_inside_the_bounds() -> None:
    given = feed(np.float16, np.float32, np.float64, np.uint8)
    lower, upper = np.array([[0.1, 0.1, 0.1, -7.0]]), np.array([[0.2, 0.2, 0.2, 400.0]])
    for value in (-1e9, 0.1, 0.15, 0.2, 1e9):
        point = given.snap(np.full((1, 4), value), lower, upper)
        assert ((lower <= point) & (point <= upper)).all()
        for k, kind in enumerate((np.float16, np.float32, np.float64, np.uint8)):
            assert float(kind(point[0, k])) == point[0, k]


def test_the_largest_whole_number_can_be_fed() -> None:
    point = feed(np.int64).snap(np.array([[1e30]]), np.array([[-1e30]]), np.array([[1e30]]))
    assert int(point[0, 0]) <= np.iinfo(np.int64).max


def _answer(types: list[int], box: list[tuple[float, float]], rows: str) -> tuple[Verdict, str]:
    """y = sum of the inputs, as float32."""
    nodes = [helper.make_node("Cast", [f"i{k}"], [f"c{k}"], to=TensorProto.FLOAT) for k in range(len(types))]
    nodes.append(helper.make_node("Sum", [f"c{k}" for k in range(len(types))], ["out"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(f"i{k}", t, [1]) for k, t in enumerate(types)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1])],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    made.ir_version = 8
    text = "".join(f"(declare-const X_{i} Real)" for i in range(len(box))) + "(declare-const Y_0 Real)"
    text += "".join(f"(assert (>= X_{i} {a!r}))(assert (<= X_{i} {b!r}))" for i, (a, b) in enumerate(box)) + rows
    result = verify(load_model(made.SerializeToString()), vnnlib.loads(text), timeout=20)
    return result.verdict, result.reason


def test_a_set_without_whole_numbers_is_empty() -> None:
    verdict, reason = _answer([TensorProto.INT64], [(2.2, 2.8)], "(assert (>= Y_0 0.0))")
    assert verdict is Verdict.UNSAT and "X_0 takes whole numbers" in reason and "[2.2, 2.8]" in reason


def test_a_disjunct_without_whole_numbers_asks_nothing() -> None:
    both = "(assert (or (and (<= X_0 0.8) (>= X_0 0.2) (>= Y_0 0.1)) (and (>= X_0 1.5) (<= X_0 3.5) (>= Y_0 {})))) "
    assert _answer([TensorProto.INT64], [(0.0, 5.0)], both.format(2.9))[0] is Verdict.SAT
    assert _answer([TensorProto.INT64], [(0.0, 5.0)], both.format(3.1))[0] is Verdict.UNSAT


def _plus(constant: int) -> Model:
    """y = x + constant in int64."""
    add, c = helper.make_node("Add", ["in", "c"], ["out"]), numpy_helper.from_array(np.array([constant]), "c")
    graph = helper.make_graph(
        [add], "g", [helper.make_tensor_value_info("in", TensorProto.INT64, [1])],
        [helper.make_tensor_value_info("out", TensorProto.INT64, [1])], [c],
    )  # fmt: skip
    return load_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    )


@pytest.mark.parametrize(
    "rows",
    [
        "(assert (== X[0] 9007199254740993))(assert (> Y[0] 9007199254740992))",
        "(assert (== X[0] 0))(assert (< 9007199254740993 Y[0]))",
        "(assert (== X[0] 0))(assert (!= (- Y[0] 9007199254740992) 1))",
        "(assert (== X[0] 0))(assert (>= (* 9007199254740993 Y[0]) 1))",
    ],
)
def test_whole_numbers_of_a_specification_are_not_rounded(rows: str) -> None:
    """To 2^53 = 9007199254740992, that is: the first was `unsat`, although x = 2^53 + 1 is such a point."""
    head = "(vnnlib-version <2.0>)(declare-network f (declare-input X int64 [1]) (declare-output Y int64 [1]))"
    with pytest.raises(vnnlib.VnnLibUnsupported, match=r"1:\d+: a whole number that float64 does not hold"):
        verify(_plus(0), vnnlib.loads(head + rows), timeout=20)


def test_no_witness_whose_whole_numbers_were_rounded() -> None:
    """1 + 2^53 is 2^53 in float64."""
    text = "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 1))(assert (<= X_0 1))"
    assert verify(_plus(2**53), vnnlib.loads(f"{text}(assert (<= Y_0 {2**53}))"), timeout=20).verdict is Verdict.UNKNOWN


def test_a_disjunct_without_whole_numbers_beside_a_point() -> None:
    """The network is compared with ONNX Runtime where there are points."""
    none = "(and (>= X_0 0.2) (<= X_0 0.{}) (>= Y_0 0.1))"
    rows = f"(assert (or {none.format(7)} {none.format(8)} (and (>= X_0 2) (<= X_0 2) (>= Y_0 {{}}))))"
    for least, answer in ((6.9, Verdict.SAT), (7.1, Verdict.UNSAT)):
        assert _answer([TensorProto.INT64] * 2, [(0.0, 5.0), (0.0, 5.0)], rows.format(least))[0] is answer


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_no_witness_outside_the_set_where_types_differ(kind: int) -> None:
    """The bound 0.1 is below its nearest float32, and above its nearest float16: neither may be passed."""
    for bound, low, high in ((0.1, 0.0, 0.1), (0.2, 0.0, 0.2)):
        verdict, _ = _answer([kind, TensorProto.DOUBLE], [(low, high), (0.0, 0.0)], f"(assert (> Y_0 {bound!r}))")
        assert verdict is not Verdict.SAT
    assert _answer([kind, TensorProto.DOUBLE], [(0.0, 0.2), (0.0, 0.0)], "(assert (> Y_0 0.19))")[0] is Verdict.SAT


def test_a_clip_limit_beyond_float32_is_a_limit_in_float64() -> None:
    """clip(1e300 x, -1e39, 1e39) x 1e-40 is 0.1 at x = 1."""
    weights = {"big": np.array([1e300]), "low": np.array(-1e39), "high": np.array(1e39), "small": np.array([1e-40])}
    nodes = [
        helper.make_node("Mul", ["in", "big"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("Mul", ["b", "small"], ["out"]),
    ]
    model = load_model(build(nodes, {"in": (1,)}, ["out"], weights, dtype=np.float64))
    text = (
        "(declare-const X_0 Real)(declare-const Y_0 Real)(assert (>= X_0 0))(assert (<= X_0 1))(assert (>= Y_0 0.05))"
    )
    text += "(assert (<= Y_0 0.15))"
    assert verify(model, vnnlib.loads(text), timeout=20).verdict is Verdict.SAT
