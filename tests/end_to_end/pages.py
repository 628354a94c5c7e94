"""README and documentation as programs: the blocks of a page are files and commands, run in their order in one folder.

A block whose first line is a comment with a file's name is that file (in a script, the line behind `#!`); in a block of
`$` lines each is a command, with what it prints on standard output under it, numbers aside; `...` stands for whatever
else it prints. `<!-- after: PAGE -->` says that a page goes on in the folder of another, `<!-- with: NAME -->` in front
of a block that it needs something which is not installed for every test.
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

import numpy as np
import onnxruntime

from pruning import cli as prune
from verifier.command import umbrella
from verifier.command import verify as verify

ROOT = Path(__file__).parents[2]
OWN = {"secateur": umbrella.main, "verify": verify.main, "prune": prune.main}
SCRIPTS = {"secateur": "verifier.command.umbrella", "verify": "verifier.command.verify", "prune": "pruning.cli"}
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
SHELL = re.compile(r"[|<>;&$*=]")  # more than a command and its arguments
LIMIT = 120  # seconds of one command
TARGETS = {"ray": "ray_cluster.py"}
"""What blocks may need, and the file beside this one that runs them."""


@dataclass(frozen=True)
class Block:
    """Lines between two fences, and the word behind the first fence."""

    language: str
    lines: tuple[str, ...]
    needs: str = ""

    @property
    def file(self) -> str | None:
        """The file that the block is."""
        first = self.lines[1] if self.lines[0].startswith("#!") else self.lines[0]
        found = re.fullmatch(r"[#;] (\w+\.\w+)(?::.*)?", first)
        return found[1] if found else None

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command and the lines under it."""
        if self.file is not None:
            return
        starts = [i for i, line in enumerate(self.lines) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(self.lines)], strict=False):
            yield self.lines[start][2:], list(self.lines[start + 1 : end])


def pages() -> list[str]:
    """README, guide and every page of the documentation, as paths from the root."""
    found = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", "CONTRIBUTING.md", *found]


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """All blocks, in their order."""
    language, inside, needs, found = "", None, "", []
    for line in text(page).splitlines():
        if needed := re.fullmatch(r"<!-- with: (\w+) -->", line):
            needs = needed[1]
        elif line.startswith("```"):
            if inside is not None:
                found.append(Block(language, tuple(inside), needs))
                needs = ""
            language = line.removeprefix("```")
            inside = None if inside is not None else []
        elif inside is not None:
            inside.append(line)
    assert inside is None, f"{page}: a block has no end"
    return found


def follows(page: str) -> list[str]:
    """The pages in whose folder this one goes on."""
    return [f"docs/{name}" for name in re.findall(r"<!-- after: (\S+) -->", text(page))]


def run(model: str | Path, x: np.ndarray) -> np.ndarray:
    """First output of a network of one input, in ONNX Runtime."""
    session = onnxruntime.InferenceSession(str(model))
    return session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})[0]


def values(witness: str, letter: str) -> np.ndarray:
    """The values of a witness of VNN-LIB 1.0."""
    return np.array([float(v) for v in re.findall(rf"\({letter}_\d+ ([^)\s]+)\)", witness)])


@dataclass
class Walk:
    """Runs pages in `folder`; `fewer`: texts to replace, so that less is computed; `have`: what blocks may need."""

    folder: Path
    fewer: Mapping[str, str]
    have: frozenset[str] = frozenset()
    done: dict[str, AssertionError | None] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)
    """Standard output and error of every command."""

    def to(self, page: str) -> Walk:
        """A page and those that it follows, if they have not been run; nothing after a command that failed."""
        if page not in self.done:
            try:
                for before in follows(page):
                    self.to(before)
                for block in blocks(page):
                    self._block(block)
                self.done[page] = None
            except AssertionError as error:
                self.done[page] = error
        failed = self.done[page]
        if failed is not None:
            raise failed
        return self

    def _block(self, block: Block) -> None:
        if block.needs and block.needs not in self.have:
            return  # another target runs the page with it: `TARGETS`
        if block.file is not None:
            content = self._less("\n".join(block.lines) + "\n")
            (self.folder / block.file).write_text(content, encoding="utf-8")
        for line, answer in block.commands():
            self._run(line, answer)

    def _less(self, content: str) -> str:
        for old, new in self.fewer.items():
            content = content.replace(old, new)
        return content

    def _run(self, line: str, answer: list[str]) -> None:
        out, err, code = self._call(self._less(line))
        assert code == 0, f"$ {line}\n{out}{err}"
        assert "Traceback" not in err and ": error: " not in err, f"$ {line}\n{err}"
        found, wanted = out.strip().splitlines(), list(answer)
        if wanted and wanted[-1] == "...":
            wanted.pop()
            found = found[: len(wanted)]
        if answer:
            assert NUMBER.sub("#", "\n".join(found)) == NUMBER.sub("#", "\n".join(wanted)), f"$ {line}\n{out}"
        self.said[line] = out + err

    def _call(self, line: str) -> tuple[str, str, int]:
        """The tool's own commands in this process, which spares the imports; a list starts processes of its own."""
        name, *arguments = shlex.split(line, comments=True)
        environment = {
            "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(self.folder / "cache"), "OMP_NUM_THREADS": "1",
            "PATH": f"{self._programs()}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        if name in OWN and "--instances" not in arguments and not SHELL.search(re.sub(r"--[\w-]+=", "", line)):
            out, err = io.StringIO(), io.StringIO()
            with (
                mock.patch.dict(os.environ, environment), chdir(self.folder), redirect_stdout(out), redirect_stderr(err)
            ):  # fmt: skip
                try:
                    code = OWN[name](arguments)
                except SystemExit as error:  # of the parser
                    code = int(error.code or 0)
            return out.getvalue(), err.getvalue(), code
        done = subprocess.run(
            ["bash", "-c", line],
            capture_output=True, text=True, cwd=self.folder, timeout=LIMIT, env={**os.environ, **environment},
        )  # fmt: skip
        return done.stdout, done.stderr, done.returncode

    def _programs(self) -> Path:
        """A folder with the console scripts and the interpreter, as an installation puts them on the path."""
        folder = self.folder / ".programs"
        if not folder.exists():
            folder.mkdir()
            python = shlex.quote(sys.executable)
            for name, words in {"python": "", **{name: f"-m {module} " for name, module in SCRIPTS.items()}}.items():
                (folder / name).write_text(f'#!/bin/sh\nexec {python} {words}"$@"\n')
                (folder / name).chmod(0o755)
            for name in self.have:
                (folder / name).symlink_to(Path(sys.executable).parent / name)
        return folder
