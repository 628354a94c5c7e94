"""What `--explain` and the page of one instance say of made-up searches."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vnnlib
from tests.models import mlp, run_onnx
from verifier import Options, verify
from verifier.command import explain_page, explanation
from verifier.graph.onnx_import import load_model
from verifier.progress import MOST, History, Progress
from verifier.result import Result, Splits, Verdict, Witness

SETTINGS = {
    "strategy": "inputs: 2 inputs vary, at most 8",
    "method": "crown",
    "dtype": "float64",
    "device": "cpu",
    "free_inputs": 2,
    "neurons": 12,
    "batch": 512,
    "search": {"batch": None},
}
COUNTERS = {"boxes": 5000, "steps": 9, "deepest": 7, "queries": 1, "replays": 3}
OPEN = Result(Verdict.TIMEOUT, "the time limit was reached", None, 2.0, COUNTERS, 0.0004, SETTINGS)


def look(i: int) -> Progress:
    return Progress(boxes=10 * i, open_boxes=i, seconds=float(i), lower=-1.0 / (i + 1), settled=1 - 0.5**i)


def test_a_long_search_keeps_evenly_spaced_looks_and_the_last() -> None:
    history, count = History(), 10 * MOST + 7
    assert history.looks == []
    for i in range(count):
        history(look(i))
    boxes = [progress.boxes // 10 for progress in history.looks]
    gaps = np.diff(boxes)
    assert boxes[0] == 0 and boxes[-1] == count - 1 and MOST / 2 <= len(boxes) <= MOST + 1
    assert len(set(gaps[:-1].tolist())) == 1 and gaps[-1] <= gaps[0]


def test_the_text_says_what_was_tried_and_what_may_help() -> None:
    lines = explanation.text(OPEN, [look(i) for i in range(100)]).splitlines()
    assert lines[:2] == ["tried", "  strategy: inputs: 2 inputs vary, at most 8"]
    assert "  bounds: crown, float64, cpu" in lines
    assert "  work: 1 input set, 5,000 boxes, 9 steps, 7 splits at most, 3 points in ONNX Runtime" in lines
    at = lines.index("over time")
    assert lines[at + 1].split() == ["seconds", "boxes", "open", "settled", "%", "least", "bound"]
    assert lines[at + 2].split() == ["0.00", "0", "0", "0.0", "-1"]
    assert lines[at + 11].split() == ["99.00", "990", "99", "100.0", "-0.01"]
    assert lines[at + 12 :] == ["may help", "  more --timeout: little is open"]


def test_a_share_is_all_only_where_it_is_all_and_an_unknown_bound_is_none() -> None:
    rows = explanation.over_time([Progress(1, 1, 0.1, -np.inf, 0.99999), Progress(2, 0, 0.2, None, None)]).rows
    assert rows == (("0.10", "1", "1", "99.9", "-"), ("0.20", "2", "0", "-", "-"))


def test_an_answer_before_any_search_has_no_bounds() -> None:
    found = explanation.text(Result(Verdict.UNSAT, "the set is empty"), [])
    assert found == "tried\n  strategy: none was chosen: the answer came before"


def test_the_page_holds_the_same_and_nothing_in_it_runs(tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>.onnx"
    looks = [look(i) for i in range(30)]
    explain_page.write_page(tmp_path / "a.html", (bad, bad), OPEN, None, looks, [(bad, bad)], ())
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count("<script>") == 1 and "alert(1)</script>" not in text
    assert "more --timeout: little is open" in text and "inputs: 2 inputs vary, at most 8" in text
    assert text.count("<svg") == 3 and "search.batch" in text
    assert not re.findall(r"""(?:src|href)=["']https?:""", text)


def test_the_page_of_a_violated_image_property_shows_it(tmp_path: Path) -> None:
    lines = [f"(declare-const X_{i} Real)(assert (>= X_{i} 0))(assert (<= X_{i} 1))" for i in range(4)]
    spec = vnnlib.loads("".join(lines) + "(declare-const Y_0 Real)(assert (>= Y_0 0))")
    result = Result(Verdict.SAT, "found", Witness(np.array([0.0, 0.5, 1.0, 0.25]), np.zeros(1)))
    explain_page.write_page(tmp_path / "a.html", ("n", "s"), result, spec, [], [], (1, 1, 2, 2))
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert text.count("data:image/png;base64,") == 3 and "(X_1 0.5)" in text and "no bounds over time" in text


def test_splits_are_named_most_often_first() -> None:
    """Every box but the roots is a child of a split: two for each."""
    splits = Splits(
        (("X_4", 30), ("X_0", 10)),
        (("relu_1", 8, 2), ("relu_2", 2, 1)),
        (("relu_1", 5, 6), ("relu_2", 0, 2), ("relu_1", 3, 2)),
        40,
        10,
    )
    result = replace(OPEN, splits=splits)
    lines = explanation.text(result, []).splitlines()
    at = lines.index("split")
    assert lines[at + 1 : at + 4] == [
        "  inputs, 40 times: X_4 75 %, X_0 25 %",
        "  2 neurons of relu_1, 8 times; most often 5 75 %, 3 25 %",
        "  1 neurons of relu_2, 2 times; most often 0 100 %",
    ]
    rows = explanation.split_table(result).rows
    assert rows[0] == ("input", "X_4", "30", "75 %") and ("neuron", "relu_1, 5", "6", "60 %") in rows
    assert "split" not in explanation.text(OPEN, []).splitlines()


CASES = {
    "inputs": ([2, 12, 12, 1], "Relu", 0.6), "inputs, no ReLU": ([2, 12, 12, 1], "Tanh", 0.05),
    "neurons": ([10, 16, 16, 1], "Relu", 0.6), "neurons of the one": ([10, 24, 1], "Relu", 0.6),
    "neurons, no ReLU": ([22, 12, 12, 1], "Sigmoid", 0.6),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_search_counts_what_it_splits(case: str) -> None:
    """Two children each, and every box is bounded once."""
    rng = np.random.default_rng(3)
    (layers, activation, above), strategy = CASES[case], case.partition(",")[0]
    data = mlp(layers, rng, activation)
    points = rng.uniform(-1, 1, (2000, layers[0])).astype(np.float32)
    found = [float(run_onnx(data, {"x": point[None]})[0].max()) for point in points]
    top = max(found) + above * (max(found) - min(found))
    box = "".join(f"(assert (>= X_{i} -1))(assert (<= X_{i} 1))" for i in range(layers[0]))
    names = "".join(f"(declare-const X_{i} Real)" for i in range(layers[0]))
    spec = vnnlib.loads(f"{names}(declare-const Y_0 Real){box}(assert (>= Y_0 {top}))")
    result = verify(load_model(data), spec, Options(timeout=60))
    splits = result.splits
    assert str(result.settings["strategy"]).startswith(strategy), result.settings["strategy"]
    assert result.verdict is Verdict.UNSAT and splits.of_inputs + splits.of_neurons > 0
    assert result.counters["boxes"] == 1 + 2 * (splits.of_inputs + splits.of_neurons)
    assert sum(count for _, count in splits.inputs) == splits.of_inputs
    assert sum(count for _, _, count in splits.neurons) == splits.of_neurons
    assert sum(count for _, count, _ in splits.layers) == splits.of_neurons
    assert (splits.of_neurons > 0) == (strategy != "inputs")
