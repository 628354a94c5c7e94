"""The competition's scripts around a stand-in for `verify` that notes how it was called."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT

SCRIPTS = ROOT / "vnncomp_scripts"
STAND_IN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$(dirname "$0")/called"
while [ "$1" != --results ]; do shift; done
case "$(cat "$(dirname "$0")/mode")" in
  sat) printf 'sat\\n((X_0 1.0)\\n (Y_0 2.0))\\n' > "$2" ;;
  refuse) exit 2 ;;
  slow) trap 'echo unknown > "$2"; exit 0' TERM; touch "$(dirname "$0")/running"; while :; do sleep 0.05; done ;;
esac
"""


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    path = tmp_path / "verify"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    return path


def environment(tool: Path) -> dict[str, str]:
    return os.environ | {"SECATEUR_VERIFY": str(tool), "SECATEUR_PID_FILE": str(tool.with_name("pid"))}


def run(tool: Path, mode: str, onnx: str = "a=b/./net.onnx", timeout: str = "300.0\r") -> tuple[int, list[str], Path]:
    tool.with_name("mode").write_text(mode)
    result = tool.with_name("result file.txt")
    command = [SCRIPTS / "run_instance.sh", "v1", "cat", onnx, "s.vnnlib", result, timeout]
    done = subprocess.run(command, env=environment(tool), stderr=subprocess.PIPE, timeout=30)
    return done.returncode, tool.with_name("called").read_text().splitlines(), result


def test_passes_on_files_and_a_clean_time_limit(tool: Path) -> None:
    code, called, result = run(tool, "sat")
    assert code == 0
    assert called == ["--timeout", "300.0", "--results", str(result), "--quiet", "--", "a=b/./net.onnx", "s.vnnlib"]
    assert result.read_text() == "sat\n((X_0 1.0)\n (Y_0 2.0))\n"


def test_passes_on_several_networks_as_one_argument(tool: Path) -> None:
    literal = "[('f', 'onnx/a.onnx'), ('g', 'onnx/b c.onnx')]"
    _, called, _ = run(tool, "sat", literal, "100")
    assert called[-2:] == [literal, "s.vnnlib"] and called[1] == "100"


def test_a_refused_instance_is_an_error_in_the_file_and_an_old_answer_does_not_survive(tool: Path) -> None:
    tool.with_name("result file.txt").write_text("unsat\n")
    code, _, result = run(tool, "refuse")
    assert code == 0 and result.read_text() == "error\n"


def test_a_terminated_run_still_answers(tool: Path) -> None:
    tool.with_name("mode").write_text("slow")
    result = tool.with_name("r")
    command = [SCRIPTS / "run_instance.sh", "v1", "cat", "n.onnx", "s.vnnlib", result, "9"]
    process = subprocess.Popen(command, env=environment(tool), stderr=subprocess.PIPE)
    wait_for(tool.with_name("running"))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 0 and result.read_text() == "unknown\n"


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("install_tool.sh", []),
        ("install_tool.sh", ["v2"]),
        ("prepare_instance.sh", ["v1", "cat", "n"]),
        ("prepare_instance.sh", ["v2", "cat", "n", "s"]),
        ("run_instance.sh", ["v1", "cat", "n", "s", "r"]),
        ("run_instance.sh", ["v2", "cat", "n", "s", "r", "9"]),
    ],
)
def test_another_interface_is_refused(tool: Path, script: str, arguments: list[str]) -> None:
    done = subprocess.run([SCRIPTS / script, *arguments], env=environment(tool), stderr=subprocess.PIPE)
    assert done.returncode == 1 and script.encode() in done.stderr


def test_prepare_checks_the_files_and_ends_what_an_earlier_run_left(tool: Path, tmp_path: Path) -> None:
    def prepare(onnx: str) -> int:
        command = [SCRIPTS / "prepare_instance.sh", "v1", "cat", onnx, str(tmp_path / "s.vnnlib")]
        return subprocess.run(command, env=environment(tool), stderr=subprocess.DEVNULL, timeout=20).returncode

    assert prepare(str(tmp_path / "n.onnx")) == 1
    (tmp_path / "s.vnnlib.gz").write_bytes(b"")
    assert prepare(str(tmp_path / "n.onnx")) == 1
    (tmp_path / "n.onnx").write_bytes(b"")
    assert prepare(str(tmp_path / "n.onnx")) == 0
    assert prepare("[('f', 'a.onnx'), ('g', 'b.onnx')]") == 0

    tool.with_name("mode").write_text("slow")
    left = subprocess.Popen([tool, "--results", str(tmp_path / "r")])
    wait_for(tool.with_name("running"))
    tool.with_name("pid").write_text(str(left.pid))
    assert prepare(str(tmp_path / "n.onnx")) == 0
    assert left.wait(timeout=10) == -signal.SIGKILL
    stranger = subprocess.Popen(["sleep", "60"])
    tool.with_name("pid").write_text(str(stranger.pid))
    assert prepare(str(tmp_path / "n.onnx")) == 0
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_nothing_is_written_but_the_result(tmp_path: Path) -> None:
    home, work = tmp_path / "tool", tmp_path / "work"
    shutil.copytree(SCRIPTS, home / "vnncomp_scripts")
    (home / ".venv/bin").mkdir(parents=True)
    work.mkdir()
    program = home / ".venv/bin/verify"
    program.write_text('#!/bin/sh\nwhile [ "$1" != --results ]; do shift; done\necho unsat > "$2"\n')
    program.chmod(0o755)
    for name in ("n.onnx", "s.vnnlib"):
        (work / name).write_bytes(b"")
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SECATEUR_")}
    before = set(tmp_path.rglob("*"))
    for script, rest in (("prepare_instance.sh", []), ("run_instance.sh", ["result.txt", "9"])):
        command = [home / "vnncomp_scripts" / script, "v1", "cat", "n.onnx", "s.vnnlib", *rest]
        subprocess.run(command, cwd=work, env=outside, check=True, timeout=20)
    assert set(tmp_path.rglob("*")) - before == {work / "result.txt"}
    assert (work / "result.txt").read_text() == "unsat\n"


def wait_for(path: Path) -> None:
    limit = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < limit, f"{path} did not appear"
        time.sleep(0.02)
