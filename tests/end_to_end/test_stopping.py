"""Deadlines, signals and internal errors, with an engine that behaves as told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT, environment


def start(folder: Path, behaviour: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts the command and returns once the engine is running."""
    script = ROOT / "tests" / "end_to_end" / "fake_engine.py"
    process = subprocess.Popen(
        [sys.executable, str(script), behaviour, "net.onnx", "holds.vnnlib", *map(str, arguments)],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = time.monotonic() + 60
    while not (folder / "begun").exists():
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    return process


@pytest.fixture(autouse=True)
def files(net: Path, holds: Path) -> None:
    """Every test here runs on these two."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_search_with_what_was_reached(tmp_path: Path, number: signal.Signals) -> None:
    process = start(tmp_path, "obedient", "--results", "r.txt", "--json", "r.json")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "unknown\n")
    assert number.name in err and "7 boxes" in err and "75.0 % of the input volume open" in err
    assert (tmp_path / "r.txt").read_text() == "unknown\n"
    assert json.loads((tmp_path / "r.json").read_text())["counters"] == {"boxes": 7}


def test_the_deadline_counts_from_the_start_of_the_command(tmp_path: Path) -> None:
    started = time.monotonic()
    process = start(tmp_path, "obedient", "--timeout", 3)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "timeout\n")
    assert time.monotonic() - started < 3 + 2.5


def test_an_engine_that_ignores_the_deadline_is_ended(tmp_path: Path) -> None:
    process = start(tmp_path, "deaf", "--timeout", 2, "--results", "r.txt")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "timeout\n") and "did not stop by itself" in err
    assert (tmp_path / "r.txt").read_text() == "timeout\n"


def test_an_engine_that_ignores_signals_is_ended(tmp_path: Path) -> None:
    process = start(tmp_path, "deaf", "--results", "r.txt")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "unknown\n") and "SIGTERM" in err
    assert (tmp_path / "r.txt").read_text() == "unknown\n"


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "deaf")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    again = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "unknown\n")
    assert time.monotonic() - again < 1.5  # the grace is 2 s


@pytest.mark.parametrize(("behaviour", "needle"), [("crash", "RuntimeError: boom bang"), ("contradiction", "disagree")])
def test_internal_errors_are_one_line_and_no_verdict(tmp_path: Path, behaviour: str, needle: str) -> None:
    process = start(tmp_path, behaviour, "--results", "r.txt")
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert len(err.strip().splitlines()) == 1 and needle in err
    assert not (tmp_path / "r.txt").exists()


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    with start(tmp_path, "fine", "--quiet") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(timeout=30) == 0
        assert process.stderr.read() == ""


def test_the_progress_line_is_for_terminals(tmp_path: Path) -> None:
    process = start(tmp_path, "obedient", "--timeout", 2.5)
    _, err = process.communicate(timeout=30)
    assert "\x1b" not in err and "open  " not in err


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_progress_line_that_is_wiped(tmp_path: Path) -> None:
    import os
    import pty

    ours, theirs = pty.openpty()
    script = ROOT / "tests" / "end_to_end" / "fake_engine.py"
    command = [sys.executable, str(script), "obedient", "net.onnx", "holds.vnnlib", "--timeout", "3"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=theirs, timeout=60)
    os.close(theirs)
    seen = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.stdout == b"timeout\n"
    assert "3 open  7 boxes  7/s  lower -0.5  25.0 % settled" in seen
    assert seen.rindex("\x1b[2K") < seen.rindex("timeout after")
