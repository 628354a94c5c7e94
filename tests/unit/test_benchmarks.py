"""The measuring tools are oracles too: the independent replay must reject what does not hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import throughput
from benchmarks.evidence import against_sat, linear_cases
from benchmarks.replay import assertions, check
from benchmarks.run import Instance, Run, contradictions, main, read_list, table, with_evidence
from tests.end_to_end import nets

GOOD = "((X_0 0.75)\n (X_1 -0.875)\n (Y_0 1.625))"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return nets.absolute(tmp_path / "n.onnx"), nets.spec(
        tmp_path / "s.vnnlib", "(or (and (<= Y_0 0) (>= X_1 0)) (and (>= Y_0 1.5)))"
    )


@pytest.mark.parametrize(
    ("witness", "fault"),
    [
        (GOOD, ""),
        (GOOD.replace("0.75", "1.0000001192092896"), "does not hold"),  # the next float32 above the bound
        (GOOD.replace("0.875", "0.5"), "does not hold"),  # inside the box, but no violation
        (GOOD.replace("X_1", "X_2"), "without a gap"),
        ("((X_0 0.75) (Y_0 1.625))", "1 inputs"),
        ("", "0 inputs"),
    ],
)
def test_replay(files: tuple[Path, Path], witness: str, fault: str) -> None:
    found = check(*files, witness)
    assert fault in found if fault else found == ""


def test_bounds_count_in_the_precision_of_the_network() -> None:
    text = b"(assert (<= X_0 0.1)) ; 0.1 as a float32 is a little more"
    x = np.float32(0.1)
    assert [holds for _, holds in assertions(text, {b"X_0": x}, np.float32)] == [True]
    assert [holds for _, holds in assertions(text, {b"X_0": np.float64(x)}, np.float64)] == [False]


def test_arithmetic_is_evaluated() -> None:
    values = {b"Y_0": np.float64(2.0), b"Y_1": np.float64(3.0)}
    text = (
        b"(assert (<= (+ Y_0 (* 2 Y_1)) 8)) (assert (> (- Y_1 Y_0 1) -0.5)) (assert (= (- Y_0) -2)) (assert (< Y_1 3))"
    )
    assert [holds for _, holds in assertions(text, values, np.float64)] == [True, True, True, False]


def test_a_run_that_was_cut_off_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("benchmark,onnx,vnnlib,timeout_s,expected\nb,n,s,60,sat\nb,n,t,60,\n")
    asked: list[str] = []

    def alone(instance: Instance, options: list[str], cap: float) -> Run:
        asked.append(instance.vnnlib)
        return Run("b", "n", instance.vnnlib, min(instance.timeout, cap), instance.expected, "unknown", 1.0, nodes=7)

    monkeypatch.setattr("benchmarks.run.run_alone", alone)
    out = tmp_path / "runs.jsonl"
    line = ["run", str(tmp_path / "a.csv"), "--separate", "--out", str(out)]
    monkeypatch.setattr("sys.argv", line)
    main()
    whole = out.read_text()
    first, second = whole.splitlines()
    out.write_text(first + "\n" + second[:20])
    monkeypatch.setattr("sys.argv", [*line, "--resume"])
    main()
    assert asked == ["s", "t", "t"]
    assert out.read_text() == whole
    monkeypatch.setattr("sys.argv", [*line, "--resume", "--cap", "5"])
    main()
    assert asked == ["s", "t", "t", "s", "t"]  # another limit is another run


def test_lists_of_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("benchmark,onnx,vnnlib,timeout_s,expected,more\nb,n.onnx,s.vnnlib,60,sat,2\n")
    assert read_list(tmp_path / "a.csv") == [Instance("b", "n.onnx", "s.vnnlib", 60.0, "sat", tmp_path / "b")]
    (tmp_path / "b.csv").write_text("n.onnx,s.vnnlib,60\r\n", newline="")
    assert read_list(tmp_path / "b.csv") == [Instance(tmp_path.name, "n.onnx", "s.vnnlib", 60.0, "", tmp_path)]


def test_only_evidence_refutes_a_known_verdict() -> None:
    def run(expected: str, verdict: str, settled: bool = False) -> Run:
        return Run("b", "n", "s", 60.0, expected, verdict, 1.0, settled=settled)

    assert run("sat", "unsat").wrong and run("unsat", "sat").wrong
    assert not run("unsat", "sat", True).wrong and run("unsat", "sat", True).refutes_label
    assert not run("unsat", "unsat").contradicts and not run("not known", "sat").contradicts
    assert not run("sat", "timeout").contradicts
    assert "| b | 2 | 1 | 0 | 1 |" in table([run("sat", "unsat"), run("sat", "timeout")])


def test_evidence_against_a_sat_label(tmp_path: Path) -> None:
    net = nets.absolute(tmp_path / "n.onnx")
    found = against_sat(net, nets.spec(tmp_path / "far.vnnlib", "(>= Y_0 2.5)"), points=200)
    assert found.no_violation is True and "exact minimum (MILP, HiGHS) 0.5 > 0" in found.text  # the maximum is 2
    found = against_sat(net, nets.spec(tmp_path / "near.vnnlib", "(>= Y_0 1.999)"), points=200)
    assert found.no_violation is False  # at a corner
    # only the exact answer sees a violation that no random point meets, and then nothing is refuted
    rare = nets.spec(tmp_path / "rare.vnnlib", "(<= Y_0 0.0)", "(<= (+ X_0 X_1) 0.0)")
    found = against_sat(net, rare, points=200)
    assert found.no_violation is None and "only" in found.text
    # without an exact answer, points alone do not refute
    nets.one_hot(tmp_path / "r.onnx")
    found = against_sat(tmp_path / "r.onnx", nets.spec(tmp_path / "r.vnnlib", "(>= Y_0 3.0)", n_out=2), points=200)
    assert found.no_violation is None and "come within 2" in found.text


def test_the_two_readers_of_the_measuring_tools_agree() -> None:
    text = """
    (declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
    (assert (and (>= X_0 -1) (<= X_0 1))) (assert (>= X_1 -2)) (assert (<= X_1 2)) ; the box
    (assert (or (and (<= (+ Y_0 (* 2.0 Y_1)) 0.5) (>= (- Y_0) X_1)) (> (- Y_1 Y_0 0.25) (* X_0 3.0)) (and (<= X_0 0))))
    """
    cases = linear_cases(text)
    assert len(cases) == 3 and cases[2].upper[0] == 0 and cases[0].upper.tolist() == [1, 2]
    draw = np.random.default_rng(0)
    seen = set()
    for x, y in zip(draw.uniform(-1, 1, (300, 2)), draw.uniform(-2, 2, (300, 2)), strict=True):
        values = {b"X_0": x[0], b"X_1": x[1], b"Y_0": y[0], b"Y_1": y[1]}
        holds = all(truth for _, truth in assertions(text.encode(), values, np.float64))
        inside = [case for case in cases if ((case.lower <= x) & (x <= case.upper)).all()]
        assert any(case.miss(x[None], y[None])[0] <= 0 for case in inside) == holds
        seen.add(holds)
    assert seen == {True, False}


def test_contradictions_are_listed_with_their_evidence(files: tuple[Path, Path], tmp_path: Path) -> None:
    instance = Instance("b", files[0].name, files[1].name, 60.0, "unsat", tmp_path)
    run = Run("b", files[0].name, files[1].name, 60.0, "unsat", "sat", 1.0)
    good = with_evidence(run, instance)
    assert good.refutes_label and not good.wrong
    bad = with_evidence(replace(run, witness_fault="does not hold: .."), instance)
    assert bad.wrong
    spec = nets.spec(tmp_path / "far.vnnlib", "(>= Y_0 2.5)")
    unsat = Run("b", files[0].name, spec.name, 60.0, "sat", "unsat", 1.0)
    proven = with_evidence(unsat, replace(instance, vnnlib=spec.name))
    assert proven.refutes_label and "exact minimum" in proven.evidence
    wrong = with_evidence(unsat, instance)  # that specification can be violated
    assert wrong.wrong and not wrong.refutes_label
    text = contradictions([good, bad, proven, wrong, replace(run, expected="sat")])
    assert text.startswith("4 of 5 verdicts") and text.count("label refuted") == 2 and text.count("NOT EXPLAINED") == 2


def test_throughput_measures_every_method() -> None:
    for setting in throughput.settings([], 4, 2, torch.float64, torch.device("cpu")):
        lines = throughput.measure(setting, 1)
        assert lines and all(line.seconds > 0 for line in lines)
