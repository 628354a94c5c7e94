"""Files around a run: result file, results.csv, instances.csv."""

from __future__ import annotations

import ast
import csv
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vnnlib.errors import VnnLibError

RESULT_WORDS = ("sat", "unsat", "timeout", "unknown", "error")
_OLD_WORDS = {"holds": "unsat", "violated": "sat", "timed-out": "timeout"}
# results.csv words, matched by prefix in this order, as the competition's scoring does
_PREFIXES = (
    ("unsat", "unsat"), ("sat", "sat"), ("timed-out", "timeout"), ("run_instance_timeout", "timeout"),
    ("prepare_instance_timeout", "timeout"), ("timeout", "timeout"), ("no_result_in_file", "unknown"),
    ("prepare_instance_error_", "unknown"), ("error_exit_code_", "error"), ("error", "error"), ("unknown", "unknown"),
    ("holds", "unsat"), ("violated", "sat"),
)  # fmt: skip


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that readers see the old content or the new one, never a part.

    Raises `VnnLibError` where the file cannot be written; nothing is left behind then.
    """
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)
        raise VnnLibError(f"cannot write: {error.strerror or error}", path=os.fspath(path)) from None


@dataclass(frozen=True)
class ResultFile:
    """A run's result: one of `RESULT_WORDS`, and the witness text after `sat`."""

    word: str
    witness: str = ""


def write_result(path: str | os.PathLike[str], word: str, witness: str = "") -> None:
    """Write a result file atomically. Raises `VnnLibError` for a foreign word or a missing witness."""
    if word not in RESULT_WORDS:
        raise VnnLibError(f"'{word}' is no result", expected=", ".join(RESULT_WORDS))
    if (word == "sat") != bool(witness.strip()):
        raise VnnLibError("a witness follows 'sat', and only 'sat'")
    write_atomically(Path(path), f"{word}\n{witness}")


def read_result(path: str | os.PathLike[str]) -> ResultFile:
    """Read a result file; the words of 2021 and `timed-out` are translated. Raises `VnnLibError`."""
    name = os.fspath(path)
    head, _, rest = _read_text(name).partition("\n")
    word = _OLD_WORDS.get(head.strip(), head.strip())
    if word not in RESULT_WORDS:
        raise VnnLibError(
            "unknown result word", path=name, line=1, column=1, found=word, expected=", ".join(RESULT_WORDS)
        )
    return ResultFile(word, rest)


def _read_text(name: str) -> str:
    """Read a small text file."""
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise VnnLibError(f"cannot read: {error}", path=name) from None


@dataclass(frozen=True)
class ResultRow:
    """One line of results.csv; `verdict` is `result` mapped to one of `RESULT_WORDS` as scoring does."""

    category: str
    onnx: str
    vnnlib: str
    prepare_seconds: float
    result: str
    verdict: str
    run_seconds: float


def map_result(word: str) -> str:
    """Return the verdict of a word of results.csv. Raises `VnnLibError` for words that scoring does not know."""
    if not word.strip():
        return "unknown"
    for prefix, verdict in _PREFIXES:
        if word.strip().startswith(prefix):
            return verdict
    raise VnnLibError("unknown result word", found=word)


def read_results(path: str | os.PathLike[str]) -> list[ResultRow]:
    """Read results.csv: category,onnx,vnnlib,prepare_seconds,result,run_seconds without header."""
    name = os.fspath(path)
    rows = []
    for line, cells in _cells(name):
        if len(cells) != 6:
            raise VnnLibError(f"{len(cells)} fields instead of 6", path=name, line=line, column=1)
        category, onnx, spec, prepare, result, seconds = cells
        try:
            times = float(prepare), float(seconds)
            verdict = map_result(result)
        except (ValueError, VnnLibError):
            raise VnnLibError("malformed line", path=name, line=line, column=1, found=",".join(cells[3:])) from None
        rows.append(ResultRow(category, onnx, spec, times[0], result, verdict, times[1]))
    return rows


@dataclass(frozen=True)
class InstanceRow:
    """One line of instances.csv: networks as (name, path) pairs, the name "" for the usual single network."""

    networks: tuple[tuple[str, str], ...]
    vnnlib: str
    timeout: float


def read_instances(path: str | os.PathLike[str]) -> list[InstanceRow]:
    """Read instances.csv: onnx,vnnlib,timeout without header; several networks as a Python literal list of pairs."""
    name = os.fspath(path)
    rows = []
    for line, cells in _cells(name):
        if len(cells) != 3:
            raise VnnLibError(f"{len(cells)} fields instead of 3 (onnx,vnnlib,timeout)", path=name, line=line, column=1)
        try:
            timeout = float(cells[2])
        except ValueError:
            raise VnnLibError("the timeout is no number", path=name, line=line, column=1, found=cells[2]) from None
        if not 0 <= timeout < float("inf"):
            raise VnnLibError("the timeout is out of range", path=name, line=line, column=1, found=cells[2])
        try:
            rows.append(InstanceRow(parse_networks(cells[0]), cells[1], timeout))
        except VnnLibError as error:
            raise VnnLibError(error.message, path=name, line=line, column=1, found=cells[0]) from None
    return rows


def parse_networks(text: str) -> tuple[tuple[str, str], ...]:
    """Return (name, path) pairs of a network field: a path, or a literal list `[('f', 'a.onnx'), ..]`."""
    text = text.strip()
    if not text.startswith("["):
        if not text:
            raise VnnLibError("no network is named")
        return (("", text),)
    try:
        pairs = ast.literal_eval(text) if len(text) < 100_000 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pairs = None
    good = isinstance(pairs, list) and pairs and all(isinstance(p, tuple) and len(p) == 2 for p in pairs)
    if not isinstance(pairs, list) or not good or not all(isinstance(s, str) for p in pairs for s in p):
        raise VnnLibError("malformed list of networks", found=text, expected="[('f', 'a.onnx'), ('g', 'b.onnx')]")
    return tuple((name, path) for name, path in pairs)


def _cells(name: str) -> list[tuple[int, list[str]]]:
    """Return (line number, stripped cells) of each line of a CSV file that is not blank."""
    reader = csv.reader(_read_text(name).splitlines())
    try:
        return [(reader.line_num, [c.strip() for c in cells]) for cells in reader if any(c.strip() for c in cells)]
    except csv.Error as error:
        raise VnnLibError(f"malformed CSV: {error}", path=name) from None
