import json

import numpy as np
import pytest

import vnnlib
from verifier.command import report
from verifier.result import Result, Verdict, Witness

X = np.array([np.float64(np.float32(0.1)), -1.5e-30, 3.0])
Y = np.array([0.25, -0.5])
V1 = "".join(f"(declare-const X_{i} Real)" for i in range(3)) + "(declare-const Y_0 Real)(declare-const Y_1 Real)"
V2 = """(vnnlib-version <2.0>)
(declare-network N (declare-input a float32 [1,2]) (declare-input b float32 []) (declare-output c float32 [2]))
(assert (<= a[0,0] 1.0))
"""


def sat() -> Result:
    return Result(Verdict.SAT, "found by the attack", Witness(X, Y), 1.25, {"boxes": 1200}, None, {"device": "cpu"})


def test_a_verdict_needs_its_witness_and_only_sat_has_one() -> None:
    with pytest.raises(ValueError, match="without a witness"):
        Result(Verdict.SAT)
    with pytest.raises(ValueError, match="with a witness"):
        Result(Verdict.UNSAT, witness=Witness(X, Y))
    with pytest.raises(ValueError, match="NaN"):
        Witness(np.array([np.nan]), Y)
    with pytest.raises(ValueError, match="float64"):
        Witness(X.astype(np.float32), Y)


def test_version_1_result_file_reads_back_to_the_same_numbers() -> None:
    text = report.result_text(sat(), vnnlib.loads(V1 + "(assert (<= X_0 1.0))"))
    first, rest = text.split("\n", 1)
    assert first == "sat" and rest.startswith("((X_0 ") and rest.endswith("))\n")
    numbers = [float(word.strip("()")) for word in rest.split() if word[0] not in "(XY"]
    assert numbers == [*X, *Y]


def test_version_2_result_file_names_every_tensor_in_order() -> None:
    text = report.result_text(sat(), vnnlib.loads(V2))
    lines = text.splitlines()
    assert lines[0] == "sat"
    heads = [line for line in lines[1:] if line[0].isalpha()]
    assert [head.split()[0] for head in heads] == ["a", "b", "c"]
    assert [head.split()[-1] for head in heads] == ["[1,2]", "[]", "[2]"]
    assert [float(line) for line in lines[1:] if not line[0].isalpha()] == [*X, *Y]


def test_other_verdicts_are_one_word() -> None:
    for verdict in (Verdict.UNSAT, Verdict.UNKNOWN, Verdict.TIMEOUT):
        assert report.result_text(Result(verdict, "why"), None) == verdict.value + "\n"


def test_json_is_strict_and_complete() -> None:
    result = Result(
        Verdict.UNKNOWN,
        "no time",
        None,
        1.0,
        {"boxes": np.int64(3), "worst": float("inf")},
        0.25,
        {"search": {"batch": None}},
    )
    record = json.loads(report.result_json(result, "m.onnx", "s.vnnlib"))
    assert record["verdict"] == "unknown" and record["open_fraction"] == 0.25 and record["model"] == "m.onnx"
    assert record["counters"] == {"boxes": 3, "worst": None} and record["settings"] == {"search": {"batch": None}}
    witness = json.loads(report.result_json(sat(), "m", "s"))["witness"]
    assert witness == {"x": [*X], "y": [*Y]}


def test_summary_never_rounds_an_open_rest_to_nothing() -> None:
    assert "0.1 % of the input volume open" in report.summary(Result(Verdict.TIMEOUT, open_fraction=1e-9))
    assert "; 100.0 % of the input volume open" in report.summary(
        Result(Verdict.TIMEOUT, open_fraction=1 + 1e-9, counters={"boxes": 3})
    )
    assert "1,200 boxes" in report.summary(sat())


def test_summary_says_everything_once() -> None:
    late = Result(Verdict.TIMEOUT, "the time limit was reached", seconds=6.0)
    assert report.summary(late) == "timeout after 6.00 s: the time limit was reached"
    assert report.summary(Result(Verdict.UNKNOWN)) == f"unknown after 0.00 s: {Verdict.UNKNOWN.sentence}"
    assert Verdict.SAT.sentence in report.summary(sat())


SETTINGS = {"method": "crown", "split": "inputs", "neurons": 1200, "free_inputs": 5}


@pytest.mark.parametrize(
    ("verdict", "reason", "counters", "settings", "left", "words"),
    [
        (Verdict.UNKNOWN, "memory: 3 GB are not enough", {"boxes": 900}, SETTINGS, 0.5, "more --memory"),
        (Verdict.UNKNOWN, "node 'a' (TopK) has no bound rule", {"points": 64}, {}, 1.0, "without that operator"),
        (Verdict.UNKNOWN, "3 boxes cannot be split any further: rounding decides there", {"boxes": 9}, {}, 0.1, "1e-6"),
        (Verdict.UNKNOWN, "interrupted", {"boxes": 9}, SETTINGS, 0.1, "again"),
        (Verdict.TIMEOUT, "the time limit was reached", {}, {}, None, "more --timeout"),
        (Verdict.TIMEOUT, "the time limit was reached", {"boxes": 3}, SETTINGS, 1.0, "single boxes take long"),
        (Verdict.TIMEOUT, "the time limit was reached", {"boxes": 900}, SETTINGS, 0.01, "little is open"),
        (Verdict.TIMEOUT, "the time limit was reached", {"boxes": 900}, SETTINGS, 0.9, "5 inputs vary"),
        (Verdict.TIMEOUT, "limit", {"boxes": 900}, {**SETTINGS, "free_inputs": 784}, 0.9, "bounds.method alpha"),
    ],
)
def test_an_answer_that_is_none_says_what_would_help(verdict, reason, counters, settings, left, words) -> None:
    result = Result(verdict, reason, counters=counters, settings=settings, open_fraction=left)
    text = report.advice(result)
    assert text.startswith("tried: ") and words in text.partition("may help: ")[2] and "\n" not in text
    if "boxes" in counters:
        assert f"{counters['boxes']:,} boxes" in text


def test_a_settled_question_needs_no_advice() -> None:
    assert report.advice(Result(Verdict.UNSAT, "every box is proven")) == ""
