"""The README as a program: its blocks are files and commands, run in their order in one folder.

A block whose first line is a comment with a file's name is that file; a block of `$` lines holds commands, with what
they print on standard output under them.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from pruning import cli as prune
from verifier.command import umbrella
from verifier.command import verify as verify

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
OWN = {"secateur": umbrella.main, "verify": verify.main, "prune": prune.main}
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
LIMIT = 120  # seconds of one command


@dataclass(frozen=True)
class Block:
    """Lines between two fences, and the heading they stand under."""

    section: str
    lines: tuple[str, ...]

    @property
    def file(self) -> str | None:
        """The file that the block is."""
        found = re.fullmatch(r"[#;] (\w+\.\w+)(?::.*)?", self.lines[0])
        return found[1] if found else None

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command and the lines under it."""
        starts = [i for i, line in enumerate(self.lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(self.lines)], strict=False):
            yield self.lines[start][2:], list(self.lines[start + 1 : end])


def blocks() -> list[Block]:
    """All blocks, in their order."""
    section, inside, found = "", None, []
    for line in README.read_text(encoding="utf-8").splitlines():
        if line.startswith("```"):
            if inside is not None:
                found.append(Block(section, tuple(inside)))
            inside = None if inside is not None else []
        elif inside is not None:
            inside.append(line)
        elif line.startswith("#"):
            section = line.lstrip("# ")
    assert inside is None, "a block of the README has no end"
    return found


@dataclass
class Walk:
    """Runs the README section by section in `folder`; `fewer`: texts to replace, so that less is computed."""

    folder: Path
    fewer: Mapping[str, str]
    done: list[str] = field(default_factory=list)
    failed: AssertionError | None = None
    said: dict[str, str] = field(default_factory=dict)
    """Standard output of every command."""

    def to(self, section: str) -> Walk:
        """Everything up to the end of a section, if it has not been run; nothing after a command that failed."""
        names = list(dict.fromkeys(block.section for block in blocks()))
        for name in names[: names.index(section) + 1]:
            if self.failed is not None:
                raise self.failed
            if name not in self.done:
                try:
                    self._section([block for block in blocks() if block.section == name])
                except AssertionError as error:
                    self.failed = error
                    raise
                self.done.append(name)
        return self

    def _section(self, found: list[Block]) -> None:
        for block in found:
            if block.file is not None:
                self._write(block.file, "\n".join(block.lines) + "\n")
            for line, answer in block.commands():
                self._run(line, answer)

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(self._less(text), encoding="utf-8")

    def _less(self, text: str) -> str:
        for old, new in self.fewer.items():
            text = text.replace(old, new)
        return text

    def _run(self, line: str, answer: list[str]) -> None:
        out, err, code = self._call(self._less(line))
        assert code == 0, f"$ {line}\n{out}{err}"
        assert "Traceback" not in err and ": error: " not in err, f"$ {line}\n{err}"
        if answer:
            assert NUMBER.sub("#", out.strip()) == NUMBER.sub("#", "\n".join(answer)), f"$ {line}\n{out}"
        self.said[line] = out + err

    def _call(self, line: str) -> tuple[str, str, int]:
        """The tool's own commands in this process, which spares the imports; a list starts processes of its own."""
        name, *arguments = shlex.split(line, comments=True)
        environment = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        if name in OWN and "--instances" not in arguments:
            out, err = io.StringIO(), io.StringIO()
            with (
                mock.patch.dict(os.environ, environment), chdir(self.folder), redirect_stdout(out), redirect_stderr(err)
            ):  # fmt: skip
                try:
                    code = OWN[name](arguments)
                except SystemExit as error:  # of the parser
                    code = int(error.code or 0)
            return out.getvalue(), err.getvalue(), code
        python = shlex.quote(sys.executable)
        words = {"python": python, "verify": f"{python} -m verifier.command.verify"}
        done = subprocess.run(
            ["bash", "-c", words.get(name, name) + line.removeprefix(name)],
            capture_output=True, text=True, cwd=self.folder, timeout=LIMIT, env={**os.environ, **environment},
        )  # fmt: skip
        return done.stdout, done.stderr, done.returncode
