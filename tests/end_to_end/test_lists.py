"""`verify --instances` with the real engine: forms of lists, results, witnesses, errors among them."""

from __future__ import annotations

import csv
import gzip
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end import nets
from tests.end_to_end.conftest import Verify, environment
from verifier.checker.check import check


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    """A benchmark folder with two networks and two specifications, one file packed."""
    folder = tmp_path / "bench"
    (folder / "onnx").mkdir(parents=True)
    (folder / "vnnlib").mkdir()
    nets.absolute(folder / "onnx" / "one.onnx")
    two = nets.absolute(folder / "onnx" / "two.onnx", 2.0)
    two.with_name("two.onnx.gz").write_bytes(gzip.compress(two.read_bytes()))
    two.unlink()
    nets.spec(folder / "vnnlib" / "high.vnnlib", "(>= Y_0 2.5)")
    nets.spec(folder / "vnnlib" / "low.vnnlib", "(>= Y_0 1.5)")
    return folder


def rows(path: Path) -> dict[tuple[str, str], str]:
    with path.open(newline="") as stream:
        lines = list(csv.reader(stream))
    assert all(len(line) == 6 and line[0] == "bench" and float(line[5]) >= 0 for line in lines)
    return {(line[1], line[2]): line[4] for line in lines}


def test_a_list_with_everything_in_it(verify_afresh: Verify, tmp_path: Path, bench: Path) -> None:
    (bench / "vnnlib" / "broken.vnnlib").write_text("(assert")
    text = (
        "onnx/one.onnx,vnnlib/high.vnnlib,60\r\n"
        "./onnx/one.onnx,vnnlib/low.vnnlib,60.0\r\n"
        "onnx/two.onnx,./vnnlib/high.vnnlib,60\r\n"
        "onnx/one.onnx,vnnlib/broken.vnnlib,60\r\n"
        "\"[('f', 'onnx/one.onnx'), ('g', 'onnx/two.onnx')]\",vnnlib/high.vnnlib,60\r\n"
        "onnx/none.onnx,vnnlib/high.vnnlib,60"
    )
    (bench / "instances.csv").write_text(text, newline="")
    arguments = (
        "--instances",
        "bench/instances.csv",
        "--results",
        "r.csv",
        "--jobs",
        2,
        "--witnesses",
        "w",
        "--proof",
        "p",
        "--report",
        "out.html",
    )
    done = verify_afresh(*arguments)
    assert done.returncode == 1 and done.stdout == "", done.stderr
    assert rows(tmp_path / "r.csv") == {
        ("onnx/one.onnx", "vnnlib/high.vnnlib"): "unsat",
        ("./onnx/one.onnx", "vnnlib/low.vnnlib"): "sat",
        ("onnx/two.onnx", "./vnnlib/high.vnnlib"): "sat",
        ("onnx/one.onnx", "vnnlib/broken.vnnlib"): "error",
        ("[('f', 'onnx/one.onnx'), ('g', 'onnx/two.onnx')]", "vnnlib/high.vnnlib"): "error",
        ("onnx/none.onnx", "vnnlib/high.vnnlib"): "error",
    }
    assert {path.name for path in (tmp_path / "w").iterdir()} == {
        "one_low.counterexample",
        "two_high.counterexample",
    }
    proofs = {"one_high.proof": "unsat", "one_low.proof": "sat", "two_high.proof": "sat"}
    assert {path.name for path in (tmp_path / "p").iterdir()} == set(proofs)
    for name, verdict in proofs.items():
        onnx, spec = name.removesuffix(".proof").split("_")
        files = bench / "onnx" / f"{onnx}.onnx", bench / "vnnlib" / f"{spec}.vnnlib"
        assert check(tmp_path / "p" / name, *files).verdict == verdict
    assert (tmp_path / "w" / "one_low.counterexample").read_text().startswith("((X_0 ")
    assert "broken.vnnlib:1" in done.stderr and "none.onnx" in done.stderr and "Traceback" not in done.stderr
    assert "declares the networks" in done.stderr
    assert "6 instances" in done.stderr

    again = verify_afresh(*arguments)
    assert again.returncode == 0 and "6 were done before" in again.stderr
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 6
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "3 of 6 settled: 1 unsat, 2 sat; 3 error." in page and page.count("((X_0 ") == 2
    # reasons of the first run, though the second had nothing to do
    assert (
        "but found f, g; expected a pair (name, file) for each" in page
        and "every box is proven" in page
        and "2 inputs vary" in page
    )


def test_a_stopped_list_has_its_report(tmp_path: Path, bench: Path) -> None:
    nets.hard(bench)
    (bench / "instances.csv").write_text("onnx/one.onnx,vnnlib/low.vnnlib,60\nhard.onnx,hard.vnnlib,600\n")
    arguments = ["--instances", "bench/instances.csv", "--results", "r.csv", "--report", "out.html"]
    command = [sys.executable, "-m", "verifier.command.verify", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while not (tmp_path / "r.csv").exists() or not (tmp_path / "r.csv").read_bytes():
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "1 of 2 settled: 0 unsat, 1 sat; 1 not run." in page and "1 instance has not been run" in page


@pytest.mark.parametrize("text", ["", "one.onnx\n", "a.onnx,b.vnnlib,soon\n", "a.onnx,b.vnnlib,60,more\n"])
def test_lists_that_are_none(verify_afresh: Verify, tmp_path: Path, bench: Path, text: str) -> None:
    (bench / "instances.csv").write_text(text)
    done = verify_afresh("--instances", "bench/instances.csv", "--results", "r.csv")
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1 and "instances.csv" in done.stderr
    assert not (tmp_path / "r.csv").exists()


def test_results_that_cannot_be_written(verify_afresh: Verify, tmp_path: Path, bench: Path) -> None:
    (bench / "instances.csv").write_text("onnx/one.onnx,vnnlib/high.vnnlib,60\n")
    (tmp_path / "notes.txt").write_text("my notes\nabout lists\n")
    for place in ("none/r.csv", ".", "notes.txt"):
        done = verify_afresh("--instances", "bench/instances.csv", "--results", place)
        assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert (tmp_path / "notes.txt").read_text() == "my notes\nabout lists\n"


def test_two_networks_and_products_in_lists(verify: Verify, tmp_path: Path, bench: Path) -> None:
    """2 (|a| + |b|) is never less than |a| + |b|, and a y <= 2; none of these has a proof, and the list says so."""
    networks = "".join(
        f"(declare-network {name} {relation}(declare-input {x} float32 [1,2]) (declare-output {y} float32 [1,1]))\n"
        for name, relation, x, y in (("f", "", "X", "Y"), ("g", "(isomorphic-to f) ", "V", "W"))
    )
    box = "".join(f"(assert (and (>= X[0,{i}] -1) (<= X[0,{i}] 1) (== X[0,{i}] V[0,{i}])))\n" for i in range(2))
    less = f"(vnnlib-version <2.0>)\n{networks}{box}(assert (<= W[0,0] (- Y[0,0] 0.125)))\n"
    (bench / "vnnlib" / "less.vnnlib").write_text(less)
    nets.spec(bench / "vnnlib" / "over.vnnlib", "(>= (* X_0 Y_0) 2.5)")
    nets.spec(bench / "vnnlib" / "under.vnnlib", "(>= (* X_0 Y_0) 1.5)")
    both = "\"[('f', 'onnx/one.onnx'), ('g', 'onnx/two.onnx')]\",vnnlib/less.vnnlib,60\n"
    (bench / "instances.csv").write_text(
        both + "onnx/one.onnx,vnnlib/over.vnnlib,60\nonnx/one.onnx,vnnlib/under.vnnlib,60\n"
    )
    done = verify("--instances", "bench/instances.csv", "--results", "r.csv")
    assert done.returncode == 0 and sorted(rows(tmp_path / "r.csv").values()) == ["sat", "unsat", "unsat"], done.stderr
    done = verify("--instances", "bench/instances.csv", "--results", "p.csv", "--proof", "p")
    assert done.returncode == 1 and set(rows(tmp_path / "p.csv").values()) == {"error"}
    assert "a proof is about files" in done.stderr, done.stderr
    assert done.stderr.count("products of variables are not known to this checker") == 2, done.stderr
    assert not list((tmp_path / "p").iterdir())
