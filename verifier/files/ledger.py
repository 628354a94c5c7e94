"""An append-only file of results, one per line, safe against a kill at any moment.

Every line is one `write` to a file in append mode, on the disk before the next: after a kill a line is there as a
whole, or it is the last one and lacks its end. Opening cuts such a torn line; the work it stood for is done again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from verifier.errors import OutputError, SecateurError
from verifier.files.whole import AnyPath, sync_folder

T = TypeVar("T")
MAX_LINE = 1 << 20  # bytes; a longer line is no result of ours
MAX_FILE = 1 << 30


@dataclass(frozen=True)
class Lines(Generic[T]):
    """What the lines of a ledger are.

    encode, decode: a row to and from one line (without its end); decode raises ValueError, with what was found and
    expected, for a line that is no row. begins: whether the only, torn line of a file may be the begin of one. error:
    what a file that is something else raises. key: what may be there only once, or None where anything may be
    repeated. Blank lines are skipped if `blank`.
    """

    encode: Callable[[T], str]
    decode: Callable[[str], T]
    begins: Callable[[bytes], bool]
    error: type[SecateurError] = OutputError
    key: Callable[[T], Hashable] | None = None
    blank: bool = False

    def read(self, path: AnyPath) -> list[T]:
        """The rows of a ledger that may be in use or read-only; a torn last line is left out, nothing is changed."""
        try:
            with open(path, "rb") as stream:
                data = stream.read(MAX_FILE + 1)
        except OSError as error:
            raise self.error(f"{path}: cannot read the results: {error.strerror or error}") from None
        return self.parse(data, path)[0]

    def parse(self, data: bytes, path: AnyPath) -> tuple[list[T], int]:
        """The rows, and where the last whole line ends."""
        if len(data) > MAX_FILE:
            raise self.error(f"{path}: larger than {MAX_FILE >> 20} MiB, which no results are; is this another file?")
        end = data.rfind(b"\n") + 1
        torn = data[end:]
        if len(torn) > MAX_LINE or (torn and not end and not self.begins(torn)):
            raise self.error(f"{path}: its last line is no torn result; is this another kind of file?")
        rows: list[T] = []
        seen: dict[Hashable, int] = {}
        for number, line in enumerate(data[:end].split(b"\n")[:-1], 1):
            if self.blank and not line.strip():
                continue
            row = self._row(line, f"{path}:{number}")
            rows.append(row)
            if self.key is not None and (first := seen.setdefault(self.key(row), number)) != number:
                what = f"{path}:{number}: {self.key(row)} is already in line {first}"
                raise self.error(f"{what}; remove one of the two lines")
        return rows, end

    def _row(self, line: bytes, place: str) -> T:
        if len(line) > MAX_LINE:
            raise self.error(f"{place}: a line of {len(line)} bytes; expected at most {MAX_LINE}")
        try:
            return self.decode(line.decode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            raise self.error(f"{place}: {error}") from None


class Ledger(Generic[T]):
    """The open file and its `rows`. A lock keeps a second run away from it.

    Raises:
        Lines.error: something in the file is no row (other than a torn end), or a key is there twice.
        OutputError: the file cannot be opened for writing, or another run holds it.
    """

    def __init__(self, path: AnyPath, lines: Lines[T]) -> None:
        self.path, self.lines = Path(path), lines
        new = not self.path.exists()
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise self._refused(error) from None
        try:
            if new:
                sync_folder(self.path.parent)
            self._lock()
            self.rows = self._recover()
        except BaseException:
            os.close(self._file)
            raise
        self._keys = {lines.key(row) for row in self.rows} if lines.key is not None else set()

    def __contains__(self, key: Hashable) -> bool:
        return key in self._keys

    def __enter__(self) -> Ledger[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, row: T) -> bool:
        """Add one row and wait until it is on the disk. False, and nothing is written, if its key is already there.

        Raises OutputError when a row holds a line break, and when the disk refuses; the file then ends where it ended
        before.
        """
        key = None if self.lines.key is None else self.lines.key(row)
        if self.lines.key is not None and key in self._keys:
            return False
        text = self.lines.encode(row)
        if "\n" in text or "\r" in text:
            raise OutputError(f"{self.path}: a result contains a line break: {text!r}")
        line, start = text.encode() + b"\n", os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError("the disk is full")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, start)
            raise self._refused(error) from None
        self.rows.append(row)
        self._keys.add(key)
        return True

    def close(self) -> None:
        """Close the file and release the lock."""
        os.close(self._file)

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on this system
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{self.path}: another run is writing to this file; wait for that run, or write elsewhere"
            ) from None
        except OSError:  # a file system without locks
            return

    def _recover(self) -> list[T]:
        with os.fdopen(os.dup(self._file), "rb") as stream:
            stream.seek(0)
            data = stream.read(MAX_FILE + 1)
        rows, end = self.lines.parse(data, self.path)
        if end < len(data):  # only now: every line before it was seen to be a row, so the file is ours
            os.ftruncate(self._file, end)
            os.fsync(self._file)
        return rows

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path}: cannot write the results: {error.strerror or error}")
