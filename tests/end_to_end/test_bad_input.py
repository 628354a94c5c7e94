"""Every kind of bad input: one line that says what was found, exit code 2, nothing on stdout, nothing half-written."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.end_to_end import nets
from tests.end_to_end.conftest import Verify, environment

MARKS_OF_A_TRACEBACK = ("Traceback", 'File "')
# The command with a limit on networks that a test reaches quickly (that on specifications is 512 MB, its own).
SMALL_LIMIT = """
from functools import partial
from verifier.command import verify as cli
from verifier.graph.onnx_import import reader
reader.ModelLimits = partial(reader.ModelLimits, unpacked=1 << 26)
cli.run()
"""


def refused(done: subprocess.CompletedProcess[str], *needles: str) -> None:
    """The run was refused with one line that contains every needle."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("verify: error: ")
    assert not any(mark in done.stderr for mark in MARKS_OF_A_TRACEBACK)
    for needle in needles:
        assert needle.lower() in lines[0].lower(), f"{needle!r} is not in: {lines[0]}"


def check(verify: Verify, folder: Path, *arguments: object, needles: tuple[str, ...]) -> None:
    """Runs with a result file that stands there already, which has to survive."""
    (folder / "r.txt").write_text("from an earlier run\n")
    before = sorted(os.listdir(folder))
    refused(verify(*arguments, "--results", "r.txt", "--timeout", 60), *needles)
    assert sorted(os.listdir(folder)) == before
    assert (folder / "r.txt").read_text() == "from an earlier run\n"


def test_missing_files(verify: Verify, tmp_path: Path, net: Path, holds: Path) -> None:
    check(verify, tmp_path, "none.onnx", holds.name, needles=("none.onnx",))
    check(verify, tmp_path, net.name, "none.vnnlib", needles=("none.vnnlib",))


def test_folders_instead_of_files(verify: Verify, tmp_path: Path, net: Path, holds: Path) -> None:
    (tmp_path / "folder").mkdir()
    check(verify, tmp_path, "folder", holds.name, needles=("folder",))
    check(verify, tmp_path, net.name, "folder", needles=("folder",))


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_truncated_network(verify: Verify, tmp_path: Path, net: Path, holds: Path, keep: int) -> None:
    net.write_bytes(net.read_bytes()[:keep])
    check(verify, tmp_path, net.name, holds.name, needles=("net.onnx",))


def test_text_or_noise_instead_of_a_network(verify: Verify, tmp_path: Path, net: Path, holds: Path) -> None:
    net.write_text("this is not a network\n" * 10)
    check(verify, tmp_path, net.name, holds.name, needles=("net.onnx",))
    net.write_bytes(np.random.default_rng(0).bytes(4096))
    check(verify, tmp_path, net.name, holds.name, needles=("net.onnx",))


def test_truncated_gzip(verify: Verify, tmp_path: Path, net: Path, holds: Path) -> None:
    packed = tmp_path / "packed.onnx.gz"
    packed.write_bytes(gzip.compress(net.read_bytes())[:-20])
    check(verify, tmp_path, packed.name, holds.name, needles=("packed.onnx.gz",))
    packed = tmp_path / "packed.vnnlib.gz"
    packed.write_bytes(gzip.compress(holds.read_bytes())[:-20])
    check(verify, tmp_path, net.name, packed.name, needles=("packed.vnnlib.gz", "gzip"))


def test_text_instead_of_a_specification(verify: Verify, tmp_path: Path, net: Path) -> None:
    (tmp_path / "s.vnnlib").write_text("dear verifier,\nplease say yes\n")
    check(verify, tmp_path, net.name, "s.vnnlib", needles=("s.vnnlib:1:1",))
    (tmp_path / "s.vnnlib").write_text("")
    check(verify, tmp_path, net.name, "s.vnnlib", needles=("s.vnnlib",))


def test_a_network_instead_of_a_specification(verify: Verify, tmp_path: Path, net: Path) -> None:
    check(verify, tmp_path, net.name, net.name, needles=("net.onnx",))


def test_syntax_errors_have_line_and_column(verify: Verify, tmp_path: Path, net: Path) -> None:
    (tmp_path / "s.vnnlib").write_text("(declare-const X_0 Real)\n(assert (<= X_0 1.0)))\n")
    check(verify, tmp_path, net.name, "s.vnnlib", needles=("s.vnnlib:2:22",))


@pytest.mark.parametrize(("n_in", "n_out", "kind"), [(3, 1, "input"), (1, 1, "input"), (2, 5, "output")])
def test_variable_counts_that_do_not_fit(
    verify: Verify, tmp_path: Path, net: Path, n_in: int, n_out: int, kind: str
) -> None:
    nets.spec(tmp_path / "s.vnnlib", "(>= Y_0 2.5)", n_in=n_in, n_out=n_out)
    declared, has = (n_in, 2) if kind == "input" else (n_out, 1)
    check(verify, tmp_path, net.name, "s.vnnlib", needles=(f"{declared} {kind} variables", f"has {has}"))


def test_missing_bound(verify: Verify, tmp_path: Path, net: Path) -> None:
    nets.spec(tmp_path / "s.vnnlib", "(>= X_0 0.0)", "(<= X_0 1.0)", "(>= X_1 0.0)", "(>= Y_0 2.5)", box=None)
    check(verify, tmp_path, net.name, "s.vnnlib", needles=("X_1",))


def test_several_networks(verify: Verify, tmp_path: Path, net: Path, holds: Path) -> None:
    literal = f"[('f', '{net.name}'), ('g', '{net.name}')]"
    check(verify, tmp_path, literal, holds.name, needles=("declares the networks", "found f, g"))
    check(verify, tmp_path, "[('f',", holds.name, needles=("malformed list of networks",))


def test_unsupported_operator_is_named(verify: Verify, tmp_path: Path) -> None:
    nets.unsupported(tmp_path / "random.onnx")
    nets.spec(tmp_path / "s.vnnlib", "(>= Y_0 2.5)", n_out=2)
    check(
        verify,
        tmp_path,
        "random.onnx",
        "s.vnnlib",
        needles=("random.onnx", "the_strange_one", "RandomNormalLike", "opset 17"),
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers(verify: Verify, tmp_path: Path, holds: Path, value: float) -> None:
    nets.absolute(tmp_path / "bad.onnx", value)
    check(verify, tmp_path, "bad.onnx", holds.name, needles=("bad.onnx", "nan" if np.isnan(value) else "inf"))


def test_gzip_bombs(verify: Verify, tmp_path: Path, net: Path, holds: Path) -> None:
    # 1 MB that unpacks to a gigabyte of blanks (gzip allows members one after the other)
    for suffix in (".onnx", ".vnnlib"):
        (tmp_path / f"bomb{suffix}.gz").write_bytes(gzip.compress(b" " * (1 << 24)) * 64)
    check(verify, tmp_path, net.name, "bomb.vnnlib.gz", needles=("bomb.vnnlib.gz", "bytes after decompression"))
    command = [sys.executable, "-c", SMALL_LIMIT, "bomb.onnx.gz", holds.name, "--results", "r.txt"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    refused(done, "bomb.onnx.gz", f"more than {1 << 26} bytes after decompression")
    assert (tmp_path / "r.txt").read_text() == "from an earlier run\n"


@pytest.mark.parametrize("timeout", ["0", "-3", "nan"])
def test_time_limits_that_are_none(verify: Verify, net: Path, holds: Path, timeout: str) -> None:
    refused(verify(net.name, holds.name, f"--timeout={timeout}"), "option timeout", "expected a number > 0")


@pytest.mark.parametrize("flag", ["--results", "--json"])
@pytest.mark.parametrize("place", ["no_such_folder/r.txt", "."])
def test_unwritable_results_are_known_before_the_work(
    verify: Verify, tmp_path: Path, net: Path, holds: Path, flag: str, place: str
) -> None:
    before = sorted(os.listdir(tmp_path))
    refused(verify(net.name, holds.name, flag, place), "cannot write the result")
    assert sorted(os.listdir(tmp_path)) == before


def test_options_files(verify: Verify, tmp_path: Path, net: Path, holds: Path) -> None:
    (tmp_path / "o.yaml").write_text("serch: {batch: 3}\n")
    refused(verify(net.name, holds.name, "--options", "o.yaml"), "o.yaml", "did you mean search")
    refused(verify(net.name, holds.name, "--options", "none.yaml"), "none.yaml")
    refused(verify(net.name, holds.name, "--seed=-4"), "option seed")


@pytest.mark.parametrize(
    "arguments",
    [
        ["net.onnx"],
        ["net.onnx", "holds.vnnlib", "more"],
        ["net.onnx", "holds.vnnlib", "--no-such-flag"],
        ["net.onnx", "holds.vnnlib", "--timeout", "soon"],
        ["net.onnx", "holds.vnnlib", "--device", "tpu"],
        ["net.onnx", "holds.vnnlib", "-q", "-v"],
        ["net.onnx", "holds.vnnlib", "--jobs", "2"],
        ["--instances", "list.csv"],
        ["net.onnx", "holds.vnnlib", "--coverage", "--report", "out.html"],
        ["--instances", "list.csv", "--results", "r.csv", "--explain"],
        ["--instances", "list.csv", "--results", "r.csv", "--report", "./r.csv"],
        ["--instances", "list.csv", "--results", "r.csv", "--jobs", "0"],
        ["net.onnx", "holds.vnnlib", "--instances", "list.csv", "--results", "r.csv"],
    ],
)
def test_bad_usage(verify: Verify, net: Path, holds: Path, arguments: list[str]) -> None:
    done = verify(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("verify: error: ") and done.stderr.count("\n") == 1
    assert "--help" in done.stderr or "did you mean" in done.stderr  # what to do


def test_an_empty_input_set_is_proven(verify: Verify, tmp_path: Path, net: Path) -> None:
    nets.spec(tmp_path / "inverted.vnnlib", "(>= Y_0 0.0)", box=(1, -1))
    done = verify(net.name, "inverted.vnnlib", "--timeout", 60)
    assert (done.returncode, done.stdout) == (0, "unsat\n"), done.stderr


def test_bad_input_is_refused_before_torch_is_imported(
    verify_afresh: Verify, tmp_path: Path, net: Path, holds: Path
) -> None:
    """A fake torch that cannot be imported stands first on the path."""
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')\n")
    nets.spec(tmp_path / "s.vnnlib", "(>= Y_0 2.5)", n_in=7)
    refused(verify_afresh(net.name, "s.vnnlib"), "7 input variables")
    assert "torch was imported" in verify_afresh(net.name, holds.name).stderr  # so the trap works
