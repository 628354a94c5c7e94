"""A file that appears under its name whole or not at all: a reader, or a crash, finds the old content or the new."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from verifier.errors import OutputError

AnyPath = str | os.PathLike[str]


class Whole:
    """A file that is being written, beside `path` and under another name; `keep` gives it its name.

    Write to `stream` (binary). As a context manager it is kept at the end, and discarded when an exception passes.
    What is no plain file (/dev/stdout, a pipe) is written at once, as there is nothing to replace. `what` says in error
    messages what was to be written.

    Raises:
        OutputError: it cannot be made; from `keep`, and for an OSError that passes the context manager: not written.
    """

    def __init__(self, path: AnyPath, what: str = "the file") -> None:
        self.path, self._what = Path(path), what
        self._part: Path | None = None
        try:
            if _is_special(self.path):
                self.stream: IO[bytes] = self.path.open("wb")
                return
            handle, name = tempfile.mkstemp(prefix=".secateur-", dir=self.path.parent)
        except OSError as error:
            raise self._refused(error) from None
        self._part, self.stream = Path(name), os.fdopen(handle, "wb")

    def keep(self) -> None:
        """Put the file on the disk and give it its name."""
        try:
            self.stream.flush()
            if self._part is None:
                self.stream.close()
                return
            os.fsync(self.stream.fileno())
            self.stream.close()
            self._part.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            os.replace(self._part, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            self.discard()
            raise self._refused(error) from None

    def discard(self) -> None:
        """Leave no trace of it."""
        with suppress(OSError):  # what it cannot flush is not wanted
            self.stream.close()
        if self._part is not None:
            self._part.unlink(missing_ok=True)

    def __enter__(self) -> IO[bytes]:
        return self.stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.keep()
            return
        self.discard()
        if isinstance(error, OSError):
            raise self._refused(error) from None

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path}: cannot write {self._what}: {error.strerror or error}")


def write(path: AnyPath, content: str | bytes, what: str = "the file") -> None:
    """Write a file (text as UTF-8) in one step. Raises OutputError as `Whole` does."""
    with Whole(path, what) as stream:
        stream.write(content.encode() if isinstance(content, str) else content)


def move(source: Path, target: Path) -> None:
    """Give a finished file its name, once its content is on the disk. Raises OutputError."""
    try:
        with open(source, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(source, target)
    except OSError as error:
        raise OutputError(f"{target}: cannot write the file: {error.strerror or error}") from None
    sync_folder(target.parent)


def make_folder(folder: AnyPath, parents: bool = True, what: str = "the folder") -> None:
    """Make a folder, with `parents` also those on the way to it. Raises OutputError."""
    try:
        Path(folder).mkdir(parents=parents, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: cannot make {what}: {error.strerror or error}") from None


def check_writable(path: AnyPath, what: str = "the file") -> None:
    """Make sure, before the work, that `write` will be able to write to `path`; nothing is created that stays.

    Raises:
        OutputError: it will not.
    """
    target = Path(path)
    try:
        if target.is_dir():
            raise OutputError(f"{target}: cannot write {what}: this is a folder, expected the name of a file")
        if target.exists():
            with target.open("ab"):
                pass
    except OSError as error:
        raise OutputError(f"{target}: cannot write {what}: {error.strerror or error}") from None
    if not _is_special(target):
        Whole(target, what).discard()


def sync_folder(folder: Path) -> None:
    """Make a file name that was just created or renamed in the folder survive a loss of power."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # systems that cannot open folders write names at once
        return
    with suppress(OSError):  # some file systems have nothing to do here, and say so by an error
        os.fsync(descriptor)
    os.close(descriptor)


def _is_special(path: Path) -> bool:
    """Whether `path` exists and is neither a plain file nor a folder; follows links."""
    try:
        mode = path.stat().st_mode
    except OSError:  # none there, or not to be seen: writing will say why
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
