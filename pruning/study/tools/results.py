"""Reads `results.csv` files of VNN-COMP: `category,onnx,vnnlib,prepare_seconds,result,run_seconds`, no header.

Instances of different files are matched by category and by the paths of network and specification below the category's
folder, without `./`, `.gz` and a leading `onnx/` or `vnnlib/`; repeated lines are matched by their order.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath

from pruning.study.errors import ResultsError

MAX_BYTES = 1 << 28
FIELDS = "category,onnx,vnnlib,prepare_seconds,result,run_seconds"


class ResultWord(Enum):
    """What a result word means for scoring."""

    UNSAT = "unsat"
    SAT = "sat"
    TIMEOUT = "timeout"
    UNKNOWN = "unknown"
    ERROR = "error"

    @property
    def solved(self) -> bool:
        """Whether it claims a verdict."""
        return self in (ResultWord.SAT, ResultWord.UNSAT)


# By prefix, first match wins (the scoring scripts' table; `holds` and `violated` are what they turn words into).
_PREFIXES = (
    ("unsat", ResultWord.UNSAT),
    ("holds", ResultWord.UNSAT),
    ("sat", ResultWord.SAT),
    ("violated", ResultWord.SAT),
    ("timed", ResultWord.TIMEOUT),
    ("timeout", ResultWord.TIMEOUT),
    ("run_instance_timeout", ResultWord.TIMEOUT),
    ("prepare_instance_timeout", ResultWord.TIMEOUT),
    ("no_result_in_file", ResultWord.UNKNOWN),
    ("prepare_instance_error", ResultWord.UNKNOWN),
    ("unknown", ResultWord.UNKNOWN),
    ("error", ResultWord.ERROR),
)

RunKey = tuple[str, str, str, int]
"""category, network, specification, how many equal lines came before."""


@dataclass(frozen=True)
class Entry:
    """One line: what the tool answered and the seconds it took (without preparation)."""

    answer: ResultWord
    seconds: float


@dataclass(frozen=True, eq=False)
class Tool:
    """One results file. strange: words outside the table, counted as unknown."""

    name: str
    entries: dict[RunKey, Entry]
    strange: tuple[str, ...] = ()


def answer(word: str) -> ResultWord | None:
    """Meaning of a result word by its prefix; UNKNOWN if empty, None if it is in no table."""
    text = word.strip().lower()
    if not text:
        return ResultWord.UNKNOWN
    return next((value for prefix, value in _PREFIXES if text.startswith(prefix)), None)


def read_all(arguments: Sequence[str]) -> list[Tool]:
    """Files given as PATH or NAME=PATH. A file called results.csv is named after its folder. Names must differ."""
    tools = []
    for argument in arguments:
        name, _, path = argument.rpartition("=") if not Path(argument).exists() else ("", "", argument)
        source = Path(path)
        short = source.parent.resolve().name if source.stem == "results" else source.stem
        tools.append(read(source, name or short))
    doubled = [name for name, count in Counter(t.name for t in tools).items() if count > 1]
    if doubled:
        raise ResultsError(f"two files are called '{doubled[0]}'; name them: compare --results A=one.csv B=two.csv")
    return tools


def read(path: Path, name: str) -> Tool:
    """One results file. Raises ResultsError with the line and what was expected."""
    entries: dict[RunKey, Entry] = {}
    strange: set[str] = set()
    before: Counter[tuple[str, str, str]] = Counter()
    for number, fields in _lines(path):
        if number == 1 and len(fields) == 6 and not _is_number(fields[3]) and not _is_number(fields[5]):
            continue  # a header, which VNN-COMP does not write but spreadsheets add
        if len(fields) != 6 or not (_is_number(fields[5])):
            raise ResultsError(f"{path}:{number}: found {','.join(fields)[:80]!r}, expected {FIELDS}")
        meaning = answer(fields[4])
        if meaning is None:
            strange.add(fields[4].strip()[:40])
        base = instance(*fields[:3])
        entries[(*base, before[base])] = Entry(meaning or ResultWord.UNKNOWN, float(fields[5]))
        before[base] += 1
    if not entries:
        raise ResultsError(f"{path}: no results in it; expected lines {FIELDS}")
    return Tool(name, entries, tuple(sorted(strange)))


def instance(category: str, network: str, specification: str) -> tuple[str, str, str]:
    """The names under which instances of different files meet."""
    return (
        category.strip(),
        _below(category.strip(), network, "onnx"),
        _below(category.strip(), specification, "vnnlib"),
    )


def _below(category: str, name: str, kind: str) -> str:
    text = name.strip().replace("\\", "/").removesuffix(".gz")
    parts = [part for part in PurePosixPath(text).parts if part not in ("/", ".")]
    if category in parts[:-1]:
        parts = parts[len(parts) - parts[::-1].index(category) :]
    if len(parts) > 1 and parts[0] == kind:
        parts = parts[1:]
    return "/".join(parts)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ResultsError(f"{path}: cannot read the results: {error.strerror or error}") from None
    if len(data) > MAX_BYTES or b"\0" in data:
        raise ResultsError(f"{path}: not a results file (too large, or not text); expected lines {FIELDS}")
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig", "replace"), newline=""))
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                yield reader.line_num, fields
    except csv.Error as error:
        raise ResultsError(f"{path}:{reader.line_num}: {error}; expected lines {FIELDS}") from None


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text)) and float(text) >= 0
    except ValueError:
        return False
