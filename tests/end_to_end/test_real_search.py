"""The whole tool on work that does not end by itself: time limits, signals, a killed list, competition scripts."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end import nets
from tests.end_to_end.conftest import ROOT, Verify, environment

# the command, leaving a file behind when the search begins
MARKED = """
from pathlib import Path
from verifier.engine import one_search
from verifier.command import verify as cli
search = one_search.search
one_search.search = lambda *arguments: (Path("begun").touch(), search(*arguments))[1]
cli.run()
"""


def wait_until(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    limit = time.monotonic() + 60
    while not happened():
        assert process.poll() is None and time.monotonic() < limit, process.communicate()
        time.sleep(0.01)


def test_a_time_limit_is_kept_and_says_what_was_reached(verify_afresh: Verify, tmp_path: Path) -> None:
    model, spec = nets.hard(tmp_path)
    started = time.monotonic()
    done = verify_afresh(model.name, spec.name, "--timeout", 6, "--results", "r.txt", "--json", "r.json")
    assert (done.returncode, done.stdout) == (0, "timeout\n"), done.stderr
    assert time.monotonic() - started < 6 + 3
    assert "boxes" in done.stderr and "% of the input volume open" in done.stderr
    assert (tmp_path / "r.txt").read_text() == "timeout\n"
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["verdict"] == "timeout" and record["counters"]["boxes"] > 0 and record["witness"] is None
    assert 0 < record["open_fraction"] <= 1 and record["settings"]["timeout"] == 6.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_search_with_what_was_reached(tmp_path: Path, number: signal.Signals) -> None:
    model, spec = nets.hard(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", MARKED, model.name, spec.name, "--timeout", "300", "--json", "r.json"],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until((tmp_path / "begun").exists, process)
    time.sleep(0.5)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "unknown\n"), err
    assert number.name in err and "Traceback" not in err
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["verdict"] == "unknown" and number.name in record["reason"]


def test_a_killed_list_goes_on_where_it_ended(verify_afresh: Verify, tmp_path: Path) -> None:
    model, hard = nets.hard(tmp_path)
    net = nets.absolute(tmp_path / "net.onnx")
    expected, lines = {}, []
    for i in range(5):
        spec = nets.spec(tmp_path / f"s{i}.vnnlib", f"(>= Y_0 {1.6 + i / 5})")  # the maximum is 2
        expected[net.name, spec.name] = "sat" if i <= 2 else "unsat"
        lines.append(f"{net.name},{spec.name},60")
    expected[model.name, hard.name] = "timeout"
    lines.insert(3, f"{model.name},{hard.name},3")
    (tmp_path / "instances.csv").write_text("\n".join(lines) + "\n")
    arguments = ["--instances", "instances.csv", "--results", "r.csv", "--witnesses", "w"]
    results = tmp_path / "r.csv"
    process = subprocess.Popen(
        [sys.executable, "-m", "verifier.command.verify", *arguments],
        cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(lambda: results.exists() and results.read_bytes().count(b"\n") >= 3, process)
    process.kill()
    process.communicate()
    before = results.read_bytes()

    done = verify_afresh(*arguments)
    assert done.returncode == 0, done.stderr
    assert results.read_bytes().startswith(before)
    assert f"{before.count(bytes([10]))} were done before" in done.stderr
    with results.open(newline="") as stream:
        rows = [(row[1], row[2], row[4]) for row in csv.reader(stream)]
    assert len(rows) == 6 and {(onnx, name): verdict for onnx, name, verdict in rows} == expected
    assert {path.name for path in (tmp_path / "w").iterdir()} == {f"net_s{i}.counterexample" for i in range(3)}


def test_the_competition_scripts(tmp_path: Path) -> None:
    tool = tmp_path / "verify"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m verifier.command.verify "$@"\n')
    tool.chmod(0o755)
    net = nets.absolute(tmp_path / "net.onnx")
    model, hard = nets.hard(tmp_path)
    (tmp_path / "broken.vnnlib").write_text("(assert")
    cases = {
        "unsat": (net, nets.spec(tmp_path / "holds.vnnlib", "(>= Y_0 2.5)"), "60.0"),
        "sat": (net, nets.spec(tmp_path / "fails.vnnlib", "(>= Y_0 1.5)"), "60.0"),
        "timeout": (model, hard, "3"),
        "error": (net, tmp_path / "broken.vnnlib", "60"),
    }
    outside = environment() | {"SECATEUR_VERIFY": str(tool), "SECATEUR_PID_FILE": str(tmp_path / "pid")}
    scripts = ROOT / "vnncomp_scripts"
    for word, (onnx, spec, limit) in cases.items():
        result = tmp_path / f"{word}.txt"
        for name, more in (("prepare_instance.sh", ()), ("run_instance.sh", (result, limit))):
            command = [scripts / name, "v1", "category", onnx, spec, *more]
            done = subprocess.run(command, env=outside, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
        assert result.read_text().splitlines()[0] == word
    assert (tmp_path / "sat.txt").read_text().startswith("sat\n((X_0 ")
    assert not os.path.exists(tmp_path / "pid")
