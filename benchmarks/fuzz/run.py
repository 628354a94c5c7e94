"""Runs a target in a process of its own: a crash, a hang or too much memory is seen from outside, with its input.

The process writes every input into a shared file before it tries it, so the input is there whatever happens.
"""

from __future__ import annotations

import json
import mmap
import resource
import struct
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

HANG = 120.0
"""Seconds after which an input counts as a hang (the machine may be busy)."""
START = 180.0
"""The same for the first, which waits for imports."""
MEMORY = 6 << 30
"""Bytes of address space of the process: torch and ONNX Runtime map two of them."""
ROOM = 1 << 20
COMMAND = ["-m", "benchmarks.fuzz"]
_HEAD = struct.Struct("<QQ")  # cases begun, length of the input


@dataclass
class Tally:
    """What a run did: how many inputs, what became of them, the folders of what failed."""

    cases: int = 0
    words: Counter[str] = field(default_factory=Counter)
    failures: list[Path] = field(default_factory=list)


class Slate:
    """The shared file: the number of cases begun, and the input of the last."""

    def __init__(self, path: Path, create: bool = False) -> None:
        if create:
            path.write_bytes(bytes(ROOM))
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), ROOM)

    def __enter__(self) -> Slate:
        return self

    def __exit__(self, *_: object) -> None:
        self.map.close()

    def write(self, count: int, data: bytes) -> None:
        part = data[: ROOM - _HEAD.size]
        self.map[_HEAD.size : _HEAD.size + len(part)] = part
        self.map[: _HEAD.size] = _HEAD.pack(count, len(part))

    def read(self) -> tuple[int, bytes]:
        count, length = _HEAD.unpack(self.map[: _HEAD.size])
        return count, bytes(self.map[_HEAD.size : _HEAD.size + length])


def work(target: str, seed: int, first: int, seconds: float, slate: Slate, out: Path) -> Tally:
    """Cases `first`, `first` + 1, .. for so many seconds; the first failure ends it."""
    from benchmarks.fuzz.inputs import case
    from benchmarks.fuzz.targets import TARGETS

    tally, run = Tally(), TARGETS[target]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = case(target, seed, first + tally.cases)
        tally.cases += 1
        slate.write(tally.cases, data)
        try:
            tally.words[run(data)] += 1
        except Exception:  # whatever it is: a reader may only raise its own errors, which `run` has taken care of
            number = first + tally.cases - 1
            tally.failures.append(write_failure(out, target, seed, number, data, traceback.format_exc(), run))
            break
    return tally


def write_failure(
    out: Path, target: str, seed: int, number: int, data: bytes, why: str, run: Callable[[bytes], str] | None
) -> Path:
    """A folder with the input, the smallest part of it that fails in the same way, and what was got."""
    from benchmarks.fuzz.mutate import smallest

    folder = out / f"{target}-{seed}-{number}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "input").write_bytes(data)
    if run is not None:
        kind = _kind(run, data)
        least = smallest(data, lambda part: _kind(run, part) == kind)
        (folder / "smallest").write_bytes(least)
        try:
            run(least)
        except Exception as error:
            why += f"\nof the smallest: {error}"
            for name, content in getattr(error, "files", {}).items():
                (folder / name).write_bytes(content)
    again = f"python -m benchmarks.fuzz --only {target} --again {folder}"
    (folder / "README").write_text(f"{why}\nExpected: an error of the reader's own kind, or a value.\nAgain: {again}\n")
    return folder


def _kind(run: Callable[[bytes], str], data: bytes) -> str | None:
    try:
        run(data)
    except Exception as error:
        return f"{type(error).__name__} {str(error)[:24]}"  # the numbers in a message change with the input
    return None


def watch(target: str, seed: int, seconds: float, out: Path, most: int = 20) -> Tally:
    """`work` in processes of its own, one after the other: a new one behind every failure, up to so many failures."""
    out.mkdir(parents=True, exist_ok=True)
    total, end = Tally(), time.monotonic() + seconds
    with Slate(out / f".{target}.slate", create=True) as slate:
        while (left := end - time.monotonic()) > 1 and len(total.failures) < most:
            _one_process(target, seed, left, slate, out, total)
    return total


def _one_process(target: str, seed: int, seconds: float, slate: Slate, out: Path, total: Tally) -> None:
    report = out / f".{target}.json"
    report.unlink(missing_ok=True)
    slate.write(0, b"")
    command = [sys.executable, *COMMAND, "--work", target, "--seed", str(seed), "--out", str(out)]
    process = subprocess.Popen([*command, "--first", str(total.cases), "--seconds", str(seconds)])
    trouble = _wait(process, slate)
    count, data = slate.read()
    if report.exists():
        done = json.loads(report.read_text())
        count, total.words = done["cases"], total.words + Counter(done["words"])
        total.failures += [Path(p) for p in done["failures"]]
    else:
        number = total.cases + count - 1
        total.failures.append(write_failure(out, target, seed, number, data, trouble, None))
    total.cases += count


def _wait(process: subprocess.Popen[bytes], slate: Slate) -> str:
    seen, since = -1, time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        count, _ = slate.read()
        if count != seen:
            seen, since = count, time.monotonic()
        elif time.monotonic() - since > (HANG if seen > 0 else START):
            process.kill()
            process.wait()
            return f"a hang: no answer within {HANG:g} s"
    return f"the process ended with {process.returncode}"


def worker(target: str, seed: int, first: int, seconds: float, out: Path) -> None:
    """The process: runs, and writes what it did."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    with Slate(out / f".{target}.slate") as slate:
        tally = work(target, seed, first, seconds, slate, out)
    text = json.dumps({"cases": tally.cases, "words": tally.words, "failures": [str(p) for p in tally.failures]})
    (out / f".{target}.json").write_text(text)
