"""The command and the Python door on networks whose answers are known by hand."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end import nets
from tests.end_to_end.conftest import ROOT, Verify


def witness(text: str) -> tuple[list[float], list[float]]:
    """Inputs and outputs of the VNN-COMP form, indices checked."""
    pairs = re.findall(r"\(([XY])_(\d+) ([^\s()]+)\)", text)
    values = {letter: [(int(i), float(v)) for name, i, v in pairs if name == letter] for letter in "XY"}
    for entries in values.values():
        assert [i for i, _ in entries] == list(range(len(entries)))
    return [v for _, v in values["X"]], [v for _, v in values["Y"]]


def test_unsat(verify: Verify, net: Path, holds: Path) -> None:
    done = verify(net.name, holds.name, "--timeout", 60)
    assert (done.returncode, done.stdout) == (0, "unsat\n"), done.stderr
    assert "unsat after" in done.stderr


def test_sat_prints_a_witness_that_violates(verify: Verify, tmp_path: Path, net: Path, fails: Path) -> None:
    done = verify(net.name, fails.name, "--results", "r.txt", "--json", "r.json", "--timeout", 60)
    first, rest = done.stdout.split("\n", 1)
    assert (done.returncode, first) == (0, "sat"), done.stderr
    x, y = witness(rest)
    assert all(-1 <= value <= 1 and value == float(np.float32(value)) for value in x)
    assert y[0] >= 1.5 and y[0] == pytest.approx(sum(map(abs, x)), rel=1e-6)
    assert (tmp_path / "r.txt").read_text() == done.stdout
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["verdict"] == "sat" and record["witness"] == {"x": x, "y": y}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_does_not_cost_the_answer(verify: Verify, net: Path, holds: Path) -> None:
    done = verify(net.name, holds.name, "--results", "/dev/full")
    assert (done.returncode, done.stdout) == (2, "unsat\n")
    assert done.stderr == "verify: error: /dev/full: cannot write the result: No space left on device\n"


def test_version_2_with_several_inputs_and_outputs(verify: Verify, tmp_path: Path) -> None:
    nets.sum_and_difference(tmp_path / "two.onnx")
    text = """(vnnlib-version <2.0>)
    (declare-network f
      (declare-input A float32 [1,2]) (declare-input B float32 [1,2])
      (declare-output S float32 [1,2]) (declare-output D float32 [1,2]))
    (assert (and (>= A[0,0] 0.0) (<= A[0,0] 1.0) (>= A[0,1] 0.0) (<= A[0,1] 1.0)))
    (assert (and (>= B[0,0] 0.0) (<= B[0,0] 1.0) (>= B[0,1] 0.0) (<= B[0,1] 1.0)))
    (assert (>= S[0,0] 1.0))
    (assert (or (>= D[0,1] 0.9) (<= D[0,0] -2.0)))
    """
    (tmp_path / "two.vnnlib").write_text(text)
    done = verify("two.onnx", "two.vnnlib", "--timeout", 60)
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[0] == "sat", done.stderr
    assert lines[1::3] == ["A float32 [1,2]", "B float32 [1,2]", "S float32 [1,2]", "D float32 [1,2]"]
    a, b, s, d = ([float(value) for value in lines[k : k + 2]] for k in (2, 5, 8, 11))
    assert all(0 <= value <= 1 for value in a + b) and s[0] >= 1 and d[1] >= 0.9
    assert s == pytest.approx([a[0] + b[0], a[1] + b[1]]) and d == pytest.approx([a[0] - b[0], a[1] - b[1]])

    (tmp_path / "two.vnnlib").write_text(text.replace("0.9", "1.1"))
    assert verify("two.onnx", "two.vnnlib", "--timeout", 60).stdout == "unsat\n"
    (tmp_path / "two.vnnlib").write_text(text.replace("(<= D[0,0] -2.0)", f"(<= (* A[0,0] {'B[0,0] ' * 8}) -2.0)"))
    done = verify("two.onnx", "two.vnnlib", "--timeout", 60)
    assert done.returncode == 2 and "two.vnnlib:8:" in done.stderr, done.stderr


def test_quiet_and_verbose(verify: Verify, net: Path, holds: Path) -> None:
    assert verify(net.name, holds.name, "-q").stderr == ""
    text = verify(net.name, holds.name, "-v").stderr
    assert "counters" in text and "settings" in text


def test_packed_files_under_either_name(verify: Verify, tmp_path: Path, net: Path, holds: Path) -> None:
    for path in (net, holds):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert verify("net.onnx.gz", "holds.vnnlib.gz").stdout == "unsat\n"
    assert verify("net.onnx", "holds.vnnlib").stdout == "unsat\n"


def test_command_line_goes_before_the_options_file(verify: Verify, tmp_path: Path, net: Path, holds: Path) -> None:
    (tmp_path / "o.yaml").write_text("device: cpu\nseed: 3\ntimeout: 55\n")
    done = verify(net.name, holds.name, "--options", "o.yaml", "--seed", 5, "--json", "r.json")
    assert done.stdout == "unsat\n", done.stderr
    settings = json.loads((tmp_path / "r.json").read_text())["settings"]
    assert (settings["seed"], settings["timeout"], settings["device"]) == (5, 55.0, "cpu")


def test_a_network_of_one_pair_is_that_network(verify: Verify, net: Path, holds: Path) -> None:
    assert verify("[('f', './net.onnx')]", holds.name).stdout == "unsat\n"


def test_an_operator_without_bounds_can_be_refuted_but_not_proven(verify: Verify, tmp_path: Path) -> None:
    nets.one_hot(tmp_path / "hot.onnx")
    nets.spec(tmp_path / "low.vnnlib", "(>= Y_0 0.5)", n_out=2)
    nets.spec(tmp_path / "high.vnnlib", "(>= Y_0 1.5)", n_out=2)
    assert verify("hot.onnx", "low.vnnlib", "--timeout", 60).stdout.startswith("sat\n")
    done = verify("hot.onnx", "high.vnnlib", "--timeout", 20)
    assert done.stdout in ("unknown\n", "timeout\n") and "(Hardmax) has no bound rule" in done.stderr


def test_python_door(net: Path, holds: Path, fails: Path) -> None:
    import verifier

    model = verifier.load(net)
    assert verifier.verify(model, holds, timeout=60).verdict is verifier.Verdict.UNSAT
    result = verifier.verify(model, fails, verifier.Options(seed=1, timeout=60))
    assert result.verdict is verifier.Verdict.SAT and result.witness is not None
    assert result.witness.y[0] == pytest.approx(np.abs(result.witness.x).sum(), rel=1e-6)


def test_torch_modules(holds: Path, fails: Path) -> None:
    import torch

    import verifier

    class Absolute(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.abs().sum(1, keepdim=True)

    example = torch.zeros(1, 2)
    module = Absolute().train()
    assert verifier.verify(module, holds, timeout=60, example=example).verdict is verifier.Verdict.UNSAT
    assert verifier.verify(module, fails, timeout=60, example=example).verdict is verifier.Verdict.SAT
    assert module.training
    with pytest.raises(verifier.ModelError, match="example"):
        verifier.verify(module, holds)
    with pytest.raises(verifier.ModelError, match="int"):
        verifier.load(3)  # type: ignore[arg-type]


def test_demo(tmp_path: Path) -> None:
    import subprocess
    import sys

    from tests.end_to_end.conftest import environment

    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.demo", "--folder", str(tmp_path)],
        cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "is proven for every state" in done.stdout


def test_an_explained_run_says_how_it_went_and_writes_a_page(verify: Verify, tmp_path: Path, net: Path) -> None:
    nets.spec(tmp_path / "close.vnnlib", "(>= Y_0 2.001)")
    done = verify("net.onnx", "close.vnnlib", "--explain", "--report", "out.html")
    assert done.returncode == 0 and done.stdout == "unsat\n", done.stderr
    lines = [line.strip() for line in done.stderr.splitlines()]
    assert "strategy: inputs: 2 inputs vary, at most 8" in lines
    last = lines[lines.index("over time") + 2 :][-1].split()
    assert last[2:4] == ["0", "100.0"]  # nothing open, all settled
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<h1>unsat</h1>" in page and "every box is proven" in page and "2 inputs vary, at most 8" in page
