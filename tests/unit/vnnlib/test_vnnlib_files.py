"""Builder, witnesses, result files, CSV files, rounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import vnnlib
from vnnlib import Case, Row

finite = st.floats(-1e30, 1e30, allow_subnormal=False)
SPEC = vnnlib.loads(
    "(vnnlib-version <2.0>)(declare-network f (declare-input X float32 [1,2]) (declare-input K int64 [2])"
    ' (declare-hidden B bool [] "b") (declare-output Y float32 []))(assert (<= Y 0.0))'
)


@st.composite
def queries(draw: st.DrawFn) -> vnnlib.Spec:
    n, m = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    cases = []
    for _ in range(draw(st.integers(0, 3))):
        edges = draw(st.lists(st.tuples(finite, finite).map(sorted), min_size=n, max_size=n))
        rows = st.builds(
            lambda y, x, c, s: Row(x, y or {0: 1.0}, c, s),
            st.dictionaries(st.integers(0, m - 1), st.sampled_from([1.0, -1.0, 0.1, 3.5]), max_size=2),
            st.dictionaries(st.integers(0, n - 1), st.sampled_from([1.0, -2.0]), max_size=1),
            st.sampled_from([0.0, 1.0, -0.3]) | finite,
            st.booleans(),
        )
        clauses = draw(st.lists(st.lists(rows, max_size=3), min_size=1, max_size=3))
        inputs = [Row({0: 1.0, n - 1: -0.5}, rhs=draw(finite))] if n > 1 and draw(st.booleans()) else []
        cases.append(Case([e[0] for e in edges], [e[1] for e in edges], clauses, inputs))
    return vnnlib.build(cases, input_shape=[1, n], output_shape=[m], header=["made by a test", "two\nlines"])


@settings(max_examples=150, deadline=None)
@given(queries())
def test_built_specifications_survive_both_writers(spec: vnnlib.Spec) -> None:
    form = vnnlib.normalise(spec)
    again = vnnlib.loads(vnnlib.dumps(spec), strict=True)
    assert again.networks[0].inputs[0].shape == spec.networks[0].inputs[0].shape
    assert vnnlib.normalise(again).same_as(form, sources=False, logic=False)
    one = vnnlib.normalise(vnnlib.loads(vnnlib.dumps(spec, version="1.0", compatible=False)))
    for name in ("lower", "upper", "row_ptr", "row_col", "row_val", "row_rhs", "row_strict", "clause_ptr", "case_ptr"):
        assert np.array_equal(getattr(one, name), getattr(form, name))


def test_compatible_text_is_what_the_competition_reader_takes() -> None:
    case = Case([0, -1], [1, 1e-7], [[Row(y={0: 1, 1: -1})], [Row(y={0: -1}, rhs=-2.5), Row(y={1: 1}, rhs=1)]])
    text = vnnlib.dumps(vnnlib.build([case], input_shape=[2], output_shape=[2], header=["note"]), version="1.0")
    assert text.splitlines() == [
        "; note",
        "(declare-const X_0 Real)",
        "(declare-const X_1 Real)",
        "(declare-const Y_0 Real)",
        "(declare-const Y_1 Real)",
        "(assert (>= X_0 0.0))",
        "(assert (<= X_0 1.0))",
        "(assert (>= X_1 -1.0))",
        "(assert (<= X_1 1e-07))",
        "(assert (or",
        "    (and (<= Y_0 Y_1))",
        "    (and (>= Y_0 2.5) (<= Y_1 1.0))",
        "))",
    ]


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Case([0], [1], [[Row(y={0: 1}, strict=True)]]), "strict"),
        (Case([0], [1], [[Row(x={0: 1}, y={0: 1})]]), "mixes"),
        (Case([0], [1], [[]]), "without output"),
        (Case([0], [np.inf], [[Row(y={0: 1})]]), "finite bound"),
        (Case([0], [-1], [[Row(y={0: 1})]]), "without any input"),
        (Case([0], [1], [[Row(y={0: 2})]]), "Y-constant"),
        (Case([0], [1], [[Row(y={0: 1, 1: -1}, rhs=1)]]), "Y-constant"),
    ],
)
def test_compatible_mode_refuses_what_the_reader_cannot_take(case: Case, why: str) -> None:
    spec = vnnlib.build([case], input_shape=[1], output_shape=[2])
    with pytest.raises(vnnlib.VnnLibUnsupported, match=why):
        vnnlib.dumps(spec, version="1.0")
    again = vnnlib.normalise(vnnlib.loads(vnnlib.dumps(spec), strict=True))
    assert again.same_as(vnnlib.normalise(spec), sources=False, logic=False)


def test_version_2_numbers() -> None:
    tiny = 5e-324
    case = Case([tiny, -tiny], [1e-5, 1e22], [[Row(y={0: 1}, rhs=tiny)]])
    text = vnnlib.dumps(vnnlib.build([case], input_shape=[2], output_shape=[1]))
    assert "e" not in text.split("Y float32 [1])")[1].replace("assert", "")
    form = vnnlib.normalise(vnnlib.loads(text, strict=True))
    assert form.lower.tolist() == [[0.0, -2.2250738585072014e-308]] and form.upper.tolist() == [[1e-5, 1e22]]
    assert form.row_rhs.tolist() == [2.2250738585072014e-308]


def test_integer_types() -> None:
    spec = vnnlib.build([Case([0], [3], [[Row(y={0: 1}, rhs=2)]])], input_shape=[], output_shape=[1], dtype="int64")
    text = vnnlib.dumps(spec)
    assert "(>= X 0)" in text and "(<= Y[0] 2)" in text
    assert vnnlib.normalise(vnnlib.loads(text, strict=True)).upper.tolist() == [[3.0]]
    with pytest.raises(vnnlib.VnnLibUnsupported, match="integer"):
        vnnlib.dumps(vnnlib.build([Case([0.5], [3], [[]])], input_shape=[1], output_shape=[1], dtype="int64"))


@pytest.mark.parametrize(
    "case",
    [
        Case([0, 1], [1], [[]]),
        Case([np.nan], [1], [[]]),
        Case([0], [1], [[Row(y={5: 1})]]),
        Case([0], [1], [[Row(y={0: 0})]]),
        Case([0], [1], [[Row(y={0: np.nan})]]),
        Case([0], [1], [[Row(x={0: 1})]]),
        Case([0], [1], [[]], [Row(x={0: 1})]),
    ],
)
def test_builder_refuses_nonsense(case: Case) -> None:
    with pytest.raises(vnnlib.VnnLibError):
        vnnlib.build([case], input_shape=[1], output_shape=[1])


def test_versions_and_wrong_shapes() -> None:
    spec = vnnlib.build([Case([0], [1], [[Row(y={0: 1})]])], input_shape=[1], output_shape=[1])
    assert vnnlib.loads(vnnlib.dumps(spec, version="1.0")).version == "1.0"
    with pytest.raises(vnnlib.VnnLibError, match="elements"):
        vnnlib.dumps(spec, input_shape=[2])
    with pytest.raises(vnnlib.VnnLibUnsupported):
        vnnlib.dumps(SPEC, version="1.0")


@given(st.lists(finite, min_size=1, max_size=5), st.lists(finite, min_size=1, max_size=3))
def test_witness_1_round_trip(x: list[float], y: list[float]) -> None:
    text = vnnlib.format_witness_v1(x, y)
    for form in (text, "sat\n" + text, text.replace("\n", " ")):
        found = vnnlib.parse_witness(form)
        assert found["X"].tolist() == x and found["Y"].tolist() == y


def test_witness_2_round_trip() -> None:
    values = {"X": np.float32([[0.1, -2e-9]]), "K": np.array([3, -4]), "B": True, "Y": 1.5}
    text = vnnlib.format_witness_v2(SPEC, values)
    assert (
        text.splitlines()[0] == "X float32 [1,2]" and "K int64 [2]\n3\n-4\nB bool []\ntrue\nY float32 []\n1.5" in text
    )
    found = vnnlib.parse_witness("sat\n" + text.replace("float32", "REAL"), SPEC)
    assert list(found) == ["X", "K", "B", "Y"] and found["X"].shape == (1, 2) and found["K"].dtype == np.int64
    assert np.array_equal(found["X"].astype(np.float32), values["X"])
    assert found["B"].shape == () and bool(found["B"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_witnesses_never_hold_nonfinite_numbers(bad: float) -> None:
    for values in ({"x": [bad], "y": [0.0]}, {"x": [0.0], "y": [bad]}):
        with pytest.raises(vnnlib.VnnLibError, match="finite"):
            vnnlib.format_witness_v1(**values)
    with pytest.raises(vnnlib.VnnLibError, match="finite"):
        vnnlib.format_witness_v2(SPEC, {"X": [0, bad], "K": [0, 0], "B": 0, "Y": 0})


@pytest.mark.parametrize(
    "text",
    [
        "", "sat\n", "((X_0 1)", "((X_0 1) (X_2 1))", "((X_0 nan))", "((X_0 inf) (Y_0 1))", "((Y_0 1) (X_0 1))",
        "((X_0 1) tail)", "((X_1 1))", "(X_0 1)", "X float32 [1,2]\n1\n", "X float32 [1,2]\n1\nnan\n",
        "X float32 [1,2]\n1\n2\n3\n",
        "X float32 [2]\n1\n2\n", "X float64 [1,2]\n1\n2\n", "K int64 [2]\n1\n2\n",
        "X float32 [1,2]\n1\n2\nK int64 [2]\n1.5\n2\n",
        "X float32 [1,2]\n1\n2\nX float32 [1,2]\n1\n2\n", "X float32 [1,2]\n1\n2\n",
    ],
)  # fmt: skip
def test_malformed_witnesses(text: str) -> None:
    with pytest.raises(vnnlib.VnnLibError):
        vnnlib.parse_witness(text, SPEC)


def test_witness_1_is_checked_against_the_specification() -> None:
    spec = vnnlib.loads("(declare-const X_0 Real)(declare-const Y_0 Real)(assert (<= Y_0 1))")
    assert vnnlib.parse_witness("((X_0 1)(Y_0 2))", spec)["Y"].tolist() == [2.0]
    with pytest.raises(vnnlib.VnnLibError, match="Y values"):
        vnnlib.parse_witness("((X_0 1)(Y_0 2)(Y_1 2))", spec)


def test_instances_csv(tmp_path: Path) -> None:
    path = tmp_path / "instances.csv"
    several = "\"[('f', 'onnx/a.onnx'), ('g', 'onnx/b.onnx')]\""
    path.write_bytes(f"./onnx/a.onnx,p.vnnlib,116\r\n\r\n{several},./q.vnnlib,300.0".encode())
    first, second = vnnlib.read_instances(path)
    assert first == vnnlib.InstanceRow((("", "./onnx/a.onnx"),), "p.vnnlib", 116.0)
    assert second.networks == (("f", "onnx/a.onnx"), ("g", "onnx/b.onnx")) and second.timeout == 300.0
    for line in (
        "a,b\n",
        "a,b,soon\n",
        "a,b,nan\n",
        "a,b,-1\n",
        "[1],b,1\n",
        "\"[('f',)]\",b,1\n",
        '"[__import__]",b,1\n',
        ",b,1\n",
    ):
        path.write_text(line)
        with pytest.raises(vnnlib.VnnLibError, match="instances.csv:1:1"):
            vnnlib.read_instances(path)


@given(st.lists(st.tuples(st.floats(-1e39, 1e39), st.floats(0, 1e39)), min_size=1, max_size=5))
def test_float32_boxes(edges: list[tuple[float, float]]) -> None:
    lower = np.array([a for a, _ in edges])
    upper = lower + np.array([w for _, w in edges])
    low, high = vnnlib.float32_hull(lower, upper)
    with np.errstate(over="ignore"):
        near = lower.astype(np.float32).astype(float), upper.astype(np.float32).astype(float)
    # beyond the largest float32 there is no nearest one
    near = np.where(np.isinf(near[0]), lower, near[0]), np.where(np.isinf(near[1]), upper, near[1])
    assert (low <= lower).all() and (low <= near[0]).all() and ((low == lower) | (low == near[0])).all()
    assert (high >= upper).all() and (high >= near[1]).all() and ((high == upper) | (high == near[1])).all()
    inner_low, inner_high = vnnlib.float32_inside(lower, upper)
    assert inner_low.dtype == np.float32 and (inner_low <= inner_high).all() and np.isfinite(inner_low).all()
    big = np.finfo(np.float32).max
    for k in range(len(lower)):
        if max(abs(lower[k]), abs(upper[k])) >= big:
            continue
        least = np.float32(lower[k])
        least = np.nextafter(least, np.float32(np.inf)) if float(least) < lower[k] else least
        assert (lower[k] <= inner_low[k] and inner_high[k] <= upper[k]) or float(least) > upper[k]


def test_float32_inside_prefers_numbers_inside() -> None:
    low, high = vnnlib.float32_inside(np.array([0.1, 0.3]), np.array([0.2, 0.3]))
    assert 0.1 <= low[0] <= high[0] <= 0.2 and float(low[0]) - 0.1 < 1e-8
    assert low[1] == high[1] == np.float32(0.3)
