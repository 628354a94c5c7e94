"""What is taken as the truth about an instance when no witness files are at hand.

In this order:
1. `file`: the expected verdict of a list given with --truth, if it says sat or unsat there.
2. `agreed`: every tool that answered gave the same answer. (One answer counts: nobody contradicts it.)
3. `majority`: answers differ, and one of them has strictly more tools behind it. This is a guess, and marked as one.
4. `open`: answers differ with equal numbers, or nobody answered. Then no answer gains or loses points.

The competition itself replays witnesses: a valid one makes the instance sat, whatever the majority says, and a sat
without a valid one loses points. Nothing is replayed here, so a lone sat against many unsat counts as wrong by rule 3
although its witness may be right: every contradiction is listed by name, to be settled by replay.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pruning.study.errors import ResultsError
from pruning.study.tools.results import ResultWord, RunKey, Tool, answer, instance

_COLUMNS = {"category": ("category", "benchmark"), "onnx": ("onnx",), "vnnlib": ("vnnlib",), "expected": ("expected",)}
MAX_BYTES = 1 << 28


@dataclass(frozen=True)
class ReferenceVerdict:
    """The verdict held true (None: open) and the rule it comes from."""

    answer: ResultWord | None
    source: str


@dataclass(frozen=True)
class ListedVerdict:
    """One line of a list: expected verdict (None where it has none) and time limit in seconds, if given."""

    answer: ResultWord | None
    timeout: float | None


def read(path: Path) -> dict[tuple[str, str, str], ListedVerdict]:
    """A list whose header names category (or benchmark), onnx, vnnlib, expected and, if it likes, timeout_s."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ResultsError(f"{path}: too large for a list of instances")
        with open(path, encoding="utf-8-sig", errors="replace", newline="") as stream:
            reader = csv.DictReader(stream)
            return dict(_known(path, reader.line_num, line) for line in reader)
    except OSError as error:
        raise ResultsError(f"{path}: cannot read the list of instances: {error.strerror or error}") from None
    except csv.Error as error:
        raise ResultsError(f"{path}: not a list of instances: {error}") from None


def decide(tools: Sequence[Tool], key: RunKey, known: Mapping[tuple[str, str, str], ListedVerdict]) -> ReferenceVerdict:
    """The truth about one instance by the rules above."""
    listed = known.get(key[:3])
    if listed is not None and listed.answer is not None:
        return ReferenceVerdict(listed.answer, "file")
    answers = [tool.entries[key].answer for tool in tools if key in tool.entries]
    sat, unsat = answers.count(ResultWord.SAT), answers.count(ResultWord.UNSAT)
    if sat == unsat:
        return ReferenceVerdict(None, "open")
    return ReferenceVerdict(
        ResultWord.SAT if sat > unsat else ResultWord.UNSAT, "majority" if min(sat, unsat) else "agreed"
    )


def _known(path: Path, number: int, line: Mapping[str, str]) -> tuple[tuple[str, str, str], ListedVerdict]:
    values = {}
    for name, spellings in _COLUMNS.items():
        found = next((line[s] for s in spellings if line.get(s) is not None), None)
        if found is None:
            raise ResultsError(
                f"{path}:{number}: no column '{name}'; expected a header with category,onnx,vnnlib,expected"
            )
        values[name] = found
    meaning = answer(values["expected"])
    limit = (line.get("timeout_s") or line.get("timeout") or "").strip()
    try:
        seconds = float(limit) if limit else None
    except ValueError:
        raise ResultsError(f"{path}:{number}: time limit {limit[:40]!r}; expected seconds") from None
    solved = meaning if meaning is not None and meaning.solved else None
    return instance(values["category"], values["onnx"], values["vnnlib"]), ListedVerdict(solved, seconds)
