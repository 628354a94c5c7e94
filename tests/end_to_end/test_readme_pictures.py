"""The README's block about pictures, command by command as written, on fewer images."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pruning import cli as prune
from verifier import cli as verify
from verifier import umbrella

README = Path(__file__).parents[2] / "README.md"
MAINS = {"secateur": umbrella.main, "verify": verify.main, "prune": prune.main}
FEWER = {"0:8": "0:1", "20": "1"}


def block() -> list[str]:
    """Lines of the block that uses the shipped network."""
    parts = re.split(r"^```.*$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (found,) = [inside.splitlines() for inside in parts[1::2] if "cnn7_w8" in inside]
    return found


def test_the_commands_of_the_readme_run_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    seen = set()
    for line in block():
        if not line.startswith("$ "):
            continue
        name, *arguments = (FEWER.get(word, word) for word in shlex.split(line[2:], comments=True))
        assert MAINS[name](arguments) == 0, line
        said = capsys.readouterr()
        seen.add(name if name != "secateur" else arguments[0])
        if name == "verify":
            assert said.out.splitlines()[0] == "unsat"
        else:
            assert "unchanged image" in said.out + said.err, line
    assert seen == {"spec", "verify", "coverage", "prune", "compare"}
    assert (tmp_path / "map.png").is_file() and (tmp_path / "small.onnx").is_file()
    assert verify.main(["cnn7_w8", "pair.vnnlib"]) == 2  # the shipped network itself: found, and not the one meant
    assert "the network has 4096" in capsys.readouterr().err
