"""The measuring tools are oracles too: the independent replay must reject what does not hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.replay import assertions, check
from benchmarks.run import Instance, Run, read_list, table
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


def test_lists_of_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("benchmark,onnx,vnnlib,timeout_s,expected,more\nb,n.onnx,s.vnnlib,60,sat,2\n")
    assert read_list(tmp_path / "a.csv") == [Instance("b", "n.onnx", "s.vnnlib", 60.0, "sat", tmp_path / "b")]
    (tmp_path / "b.csv").write_text("n.onnx,s.vnnlib,60\r\n", newline="")
    assert read_list(tmp_path / "b.csv") == [Instance(tmp_path.name, "n.onnx", "s.vnnlib", 60.0, "", tmp_path)]


def test_only_a_replayed_witness_refutes_a_known_verdict() -> None:
    def run(expected: str, verdict: str, fault: str = "") -> Run:
        return Run("b", "n", "s", 60.0, expected, verdict, 1.0, witness_fault=fault)

    assert run("sat", "unsat").wrong
    assert run("unsat", "sat", "does not hold").wrong
    assert not run("unsat", "sat").wrong and run("unsat", "sat").refutes_label
    assert not run("unsat", "unsat").contradicts and not run("not known", "sat").contradicts
    assert not run("sat", "timeout").contradicts
    assert "| b | 2 | 1 | 0 | 1 |" in table([run("sat", "unsat"), run("sat", "timeout")])
