"""An append-only file of results, one JSON object per line, safe against a kill at any moment.

Every line is one `write` to a file opened for appending, followed by `fsync`: after a kill a line is there as a whole,
or it is the last one and lacks its line end. Opening cuts such a torn line; the work it stood for is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from pruning.study.errors import ResultsError
from verifier.errors import OutputError

T = TypeVar("T")
MAX_LINE = 1 << 20  # bytes; a longer line is no result of ours
MAX_FILE = 1 << 30


class Ledger(Generic[T]):
    """The open results file, and its rows.

    encode, decode: a row to and from a flat JSON object; decode raises ValueError, KeyError or TypeError for a line
    that is no row. key: what may be there only once. A lock keeps a second run away from the file.

    Raises:
        ResultsError: something in the file is no row (other than a torn end), or a key is there twice.
        OutputError: the file cannot be opened for writing, or another run holds it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        encode: Callable[[T], Mapping[str, Any]],
        decode: Callable[[Mapping[str, Any]], T],
        key: Callable[[T], Hashable],
    ) -> None:
        self.path = Path(path)
        self._encode, self._key = encode, key
        self._file = _open(self.path)
        try:
            _lock(self._file, self.path)
            self.rows: list[T] = _recover(self._file, self.path, decode, key)
        except BaseException:
            os.close(self._file)
            raise
        self._keys = {key(row) for row in self.rows}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._keys

    def __enter__(self) -> Ledger[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, row: T) -> bool:
        """Add one row and wait until it is on the disk. False, and nothing is written, if its key is already there.

        Raises OutputError when the disk refuses; the file then ends where it ended before.
        """
        if self._key(row) in self._keys:
            return False
        line = json.dumps(dict(self._encode(row)), allow_nan=False, separators=(",", ":")).encode() + b"\n"
        start = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) != len(line):
                raise OSError("the disk is full")
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, start)
            raise OutputError(f"{self.path}: cannot write a result: {error.strerror or error}") from None
        self.rows.append(row)
        self._keys.add(self._key(row))
        return True

    def close(self) -> None:
        """Close the file and release the lock."""
        os.close(self._file)


def read(
    path: str | os.PathLike[str], decode: Callable[[Mapping[str, Any]], T], key: Callable[[T], Hashable]
) -> list[T]:
    """The rows of a ledger that may be in use or read-only; a torn last line is left out, nothing is changed."""
    try:
        with open(path, "rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise ResultsError(f"{path}: cannot read the results: {error.strerror or error}") from None
    whole, _ = _split(data, Path(path))
    return _parse(whole, Path(path), decode, key)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise OutputError(f"{path}: cannot write the results: {error.strerror or error}") from None
    if new:
        sync_folder(path.parent)
    return descriptor


def sync_folder(folder: Path) -> None:
    """Make a file name that was just created or renamed in the folder survive a loss of power."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # systems that cannot open folders write names at once
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, path: Path) -> None:
    try:
        import fcntl
    except ImportError:  # not on this system
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(f"{path}: another run is writing to it; wait for that run, or choose another --out") from None
    except OSError:  # a file system without locks
        return


def _recover(
    descriptor: int, path: Path, decode: Callable[[Mapping[str, Any]], T], key: Callable[[T], Hashable]
) -> list[T]:
    with os.fdopen(os.dup(descriptor), "rb") as stream:
        stream.seek(0)
        data = stream.read(MAX_FILE + 1)
    whole, torn = _split(data, path)
    rows = _parse(whole, path, decode, key)
    if torn:  # only now: every line before it was seen to be a row, so the file is ours
        os.ftruncate(descriptor, len(whole))
        os.fsync(descriptor)
    return rows


def _split(data: bytes, path: Path) -> tuple[bytes, bytes]:
    if len(data) > MAX_FILE:
        raise ResultsError(f"{path}: larger than {MAX_FILE >> 20} MiB, which no study reaches; is this another file?")
    end = data.rfind(b"\n") + 1
    whole, torn = data[:end], data[end:]
    if len(torn) > MAX_LINE or (torn and not whole and not torn.startswith(b"{")):
        raise ResultsError(f"{path}: its last line is no torn result; is this another kind of file?")
    return whole, torn


def _parse(whole: bytes, path: Path, decode: Callable[[Mapping[str, Any]], T], key: Callable[[T], Hashable]) -> list[T]:
    rows: list[T] = []
    seen: dict[Hashable, int] = {}
    for number, line in enumerate(whole.split(b"\n")[:-1], 1):
        row = _row(line, f"{path}:{number}", decode)
        first = seen.setdefault(key(row), number)
        if first != number:
            raise ResultsError(f"{path}:{number}: {key(row)} is already in line {first}; remove one of the two lines")
        rows.append(row)
    return rows


def _row(line: bytes, place: str, decode: Callable[[Mapping[str, Any]], T]) -> T:
    if len(line) > MAX_LINE:
        raise ResultsError(f"{place}: a line of {len(line)} bytes; expected at most {MAX_LINE}")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise ResultsError(f"{place}: found {line[:60]!r}, expected one JSON object per line") from None
    if not isinstance(value, dict):
        raise ResultsError(f"{place}: found {type(value).__name__}, expected a JSON object")
    try:
        return decode(value)
    except (ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{place}: no result of a study: {error}") from None
