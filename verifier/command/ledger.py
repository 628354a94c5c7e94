"""The results file of a list: append-only, one line per finished instance, safe against a kill at any moment.

Line: `category,onnx,vnnlib,prepare_seconds,result,run_seconds`, no header (the results.csv of VNN-COMP).
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from verifier.errors import OutputError

_FIELDS = 6


@dataclass(frozen=True)
class Row:
    """One finished instance. `result` is a verdict word or `error`; `seconds` is the wall time of the instance."""

    category: str
    onnx: str
    vnnlib: str
    result: str
    seconds: float
    prepare_seconds: float = 0.0

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies an instance of a list (together with how often it stands there)."""
        return self.category, self.onnx, self.vnnlib


class Ledger:
    """The open results file. Opening repairs a line that a kill has torn and reads which instances are done.

    Each line is one `write` to a file in append mode, so a line is there as a whole or is the last one and lacks its
    end; the instance of a torn line is run again. A lock keeps a second run from writing to the same file.

    Raises:
        OutputError: the file cannot be written, is in use by another run, or is something else than a results file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: cannot write the results: {error.strerror or error}") from None
        try:
            self._lock()
            self.rows = self._read()
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def done(self) -> Counter[tuple[str, str, str]]:
        """How often each instance is in the file."""
        return Counter(row.key for row in self.rows)

    def append(self, row: Row) -> None:
        """Adds one line.

        Raises:
            OutputError: it could not be written.
        """
        text = io.StringIO()
        fields = (*row.key, f"{row.prepare_seconds:.3f}", row.result, f"{row.seconds:.3f}")
        csv.writer(text, lineterminator="\n").writerow(fields)
        data = text.getvalue().encode()
        if data.count(b"\n") != 1:
            raise OutputError(f"{self.path}: a name of the list contains a line break: {row.key!r}")
        try:
            written = os.write(self._descriptor, data)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot write the results: {error.strerror or error}") from None
        if written != len(data):
            raise OutputError(f"{self.path}: cannot write the results: the disk is full")
        self.rows.append(row)

    def close(self) -> None:
        """Closes the file and gives up the lock."""
        os.close(self._descriptor)

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not on this system
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{self.path}: another run is writing to this results file") from None
        except OSError:  # a file system without locks
            return

    def _read(self) -> list[Row]:
        with os.fdopen(os.dup(self._descriptor), "rb") as stream:
            stream.seek(0)
            data = stream.read()
        whole = data.rfind(b"\n") + 1
        text = data[:whole].decode("utf-8", "replace")
        rows = [self._row(number, fields) for number, fields in enumerate(csv.reader(text.splitlines()), 1) if fields]
        torn = data[whole:]
        if torn:  # looked at last, after every line was seen to be a result: nothing else is ever cut
            if len(torn) > 1 << 16 or (not rows and b"," not in torn):
                raise OutputError(f"{self.path}: its only line is no line of a results file, and has no end")
            os.ftruncate(self._descriptor, whole)
        return rows

    def _row(self, number: int, fields: list[str]) -> Row:
        try:
            if len(fields) != _FIELDS:
                raise ValueError
            return Row(fields[0], fields[1], fields[2], fields[4], float(fields[5]), float(fields[3]))
        except ValueError:
            raise OutputError(
                f"{self.path}:{number}: found {','.join(fields)[:80]!r}, expected "
                "category,onnx,vnnlib,prepare_seconds,result,run_seconds; is this another kind of file?"
            ) from None
