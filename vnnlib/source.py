"""From a file or a string to clean bytes: opening, decompressing, checking that it is text, positions."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence

import numpy as np

from vnnlib.errors import VnnLibError, VnnLibSyntaxError
from vnnlib.limits import Limits

_CHUNK = 1 << 20


def read_file(path: str | os.PathLike[str], limits: Limits) -> tuple[bytearray, str]:
    """Read `path`, or `path + ".gz"` where only that exists, and undo gzip by content.

    Returns the text bytes and the name of the file that was read. Raises `VnnLibError` for a missing or unreadable
    file, a truncated gzip stream, or one whose content exceeds `limits.max_bytes`.
    """
    name = os.fspath(path)
    try:
        try:
            handle = open(name, "rb", buffering=0)  # noqa: SIM115  (closed by the `with` below)
        except FileNotFoundError:
            handle = open(name + ".gz", "rb", buffering=0)  # noqa: SIM115
            name += ".gz"
        with handle:
            size = os.fstat(handle.fileno()).st_size
            if size > limits.max_bytes:
                raise VnnLibError(f"file has {size} bytes, the limit is {limits.max_bytes}", path=name)
            data = bytearray(size)
            filled = handle.readinto(data) or 0
            while 0 < filled < size and (got := handle.readinto(memoryview(data)[filled:])):
                filled += got
            del data[filled:]
            if size == 0:  # pipes and such report no size
                data += handle.read(limits.max_bytes + 1)
    except OSError as error:
        raise VnnLibError(f"cannot read: {error.strerror or error}", path=name) from None
    return (gunzip(data, name, limits) if data[:2] == b"\x1f\x8b" else data), name


def gunzip(packed: bytearray | bytes, name: str, limits: Limits) -> bytearray:
    """Decompress all members of a gzip stream, never producing more than `limits.max_bytes`."""
    out = bytearray()
    rest = memoryview(packed)
    while len(rest):
        engine, used = zlib.decompressobj(wbits=31), 0
        try:
            while not engine.eof and used < len(rest):
                piece: bytes | memoryview = rest[used : used + _CHUNK]
                used += len(piece)
                while len(piece) and not engine.eof:
                    out += engine.decompress(piece, _CHUNK)
                    piece = engine.unconsumed_tail
                    if len(out) > limits.max_bytes:
                        raise VnnLibError(f"more than {limits.max_bytes} bytes after decompression", path=name)
        except zlib.error as error:
            raise VnnLibError(f"damaged gzip data: {error}", path=name) from None
        if not engine.eof:
            raise VnnLibError("truncated gzip data", path=name)
        rest = rest[used - len(engine.unused_data) :]
        if len(rest) and bytes(rest[:2]) != b"\x1f\x8b":
            if any(rest):  # zero padding after the last member is customary
                raise VnnLibError("text after the end of the gzip data", path=name)
            break
    return out


def clean(data: bytearray, name: str, limits: Limits) -> bytearray:
    """Check that `data` is text (UTF-8, no NUL, no pickle) and drop a byte-order mark, in place."""
    if len(data) > limits.max_bytes:
        raise VnnLibError(f"text has {len(data)} bytes, the limit is {limits.max_bytes}", path=name)
    if data[:3] == b"\xef\xbb\xbf":
        del data[:3]
    if data[:1] == b"\x80" or b"\0" in data:
        raise VnnLibSyntaxError("this is a binary file, not a specification", path=name, expected="UTF-8 text")
    if not data.isascii():
        try:
            data.decode()
        except UnicodeDecodeError as error:
            line, column = position(data[: error.start], error.start)
            raise VnnLibSyntaxError(
                "the bytes are not text", path=name, line=line, column=column, expected="UTF-8 text"
            ) from None
    return data


def blank_comments(data: bytearray, start: int = 0) -> None:
    """Overwrite every `;` comment from `start` on with spaces, in place, so that offsets stay as they are."""
    at = data.find(b";", start)
    while at >= 0:
        end = data.find(b"\n", at)
        end = len(data) if end < 0 else end
        data[at:end] = b" " * (end - at)
        at = data.find(b";", end)


def position(data: bytearray | bytes, at: int) -> tuple[int, int]:
    """Return (line, column), both from 1, of byte offset `at`; columns count characters."""
    start = data.rfind(b"\n", 0, at) + 1
    return data.count(b"\n", 0, at) + 1, len(data[start:at].decode(errors="replace")) + 1


def lines_of(data: bytearray, offsets: np.ndarray) -> np.ndarray:
    """Return the line numbers (int64, from 1) of byte `offsets` (ascending) with bounded extra memory."""
    if len(offsets) == 1:
        return np.array([data.count(b"\n", 0, int(offsets[0])) + 1])
    lines = np.ones(len(offsets), np.int64)
    view = np.frombuffer(data, np.uint8)
    seen, start, step = 0, 0, 1 << 22
    first = 0
    while first < len(offsets):
        last = int(np.searchsorted(offsets, start + step))
        breaks = np.flatnonzero(view[start : start + step] == 10)
        lines[first:last] += seen + np.searchsorted(breaks, offsets[first:last] - start)
        seen, start, first = seen + len(breaks), start + step, last
    return lines


class LineTable:
    """Offsets of the line starts of a text that is no longer kept."""

    def __init__(self, data: bytearray | bytes) -> None:
        starts = [0]
        at = data.find(b"\n")
        while at >= 0:
            starts.append(at + 1)
            at = data.find(b"\n", at + 1)
        self._starts = np.array(starts, np.int64)

    def position(self, at: int) -> tuple[int, int]:
        """Return (line, column) of byte offset `at`."""
        line = int(np.searchsorted(self._starts, at, side="right"))
        return line, at - int(self._starts[line - 1]) + 1

    def lines(self, offsets: Sequence[int]) -> np.ndarray:
        """Return the line numbers of `offsets` (any order)."""
        return np.searchsorted(self._starts, np.asarray(offsets, np.int64), side="right")
