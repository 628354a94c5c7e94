"""From a path to the bytes of an ONNX file, gunzipped: decided by content, bounded in size."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from verifier.errors import ModelError

_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 24


def read_bytes(path: str | os.PathLike[str], limit: int) -> tuple[bytes, str]:
    """Contents of `path`, or of `path`.gz where `path` does not exist, and the path that was read.

    Raises:
        ModelError: no such file, unreadable, or more than `limit` bytes.
    """
    found = Path(path)
    if not found.exists():
        found = Path(f"{found}.gz")
        if not found.exists():
            raise ModelError(f"{path}: no such file (nor {found.name}); expected an ONNX model")
    if not found.is_file():
        raise ModelError(f"{found}: not a file; expected an ONNX model")
    try:
        size = found.stat().st_size
        if size > limit:
            raise ModelError(f"{found}: {size} bytes, more than the limit of {limit}")
        return found.read_bytes(), str(found)
    except OSError as error:
        raise ModelError(f"{found}: cannot be read: {error.strerror or error}") from None


def plain(data: bytes, where: str, limit: int, unpacked: int) -> bytes:
    """`data` gunzipped if it is gzip, after ruling out what is recognisably not a model.

    Raises:
        ModelError: empty, text, a git-LFS pointer, damaged gzip, more than `limit` bytes, or more than `unpacked` bytes
            after decompression.
    """
    if data[:2] == _GZIP:
        data = _gunzip(data, where, min(limit, unpacked))
    if len(data) > limit:
        raise ModelError(f"{where}: {len(data)} bytes, more than the limit of {limit}")
    if not data:
        raise ModelError(f"{where}: empty file; expected an ONNX model")
    if data.startswith(b"version https://git-lfs"):
        raise ModelError(f"{where}: a git-LFS pointer, not the model itself; fetch it with `git lfs pull`")
    _refuse_text(data, where)
    return data


def _gunzip(data: bytes, where: str, limit: int) -> bytes:
    parts: list[bytes] = []
    total = 0
    while data:  # a gzip file may hold several members
        stream = zlib.decompressobj(wbits=31)
        try:
            while not stream.eof:
                part = stream.decompress(data, _CHUNK)
                data = stream.unconsumed_tail
                parts.append(part)
                total += len(part)
                if total > limit:
                    raise ModelError(f"{where}: more than {limit} bytes after decompression")
                if not part and not data and not stream.eof:
                    raise ModelError(f"{where}: the gzip data ends too early (truncated file?)")
        except zlib.error as error:
            raise ModelError(f"{where}: damaged gzip data: {error}") from None
        data = stream.unused_data.lstrip(b"\0")  # zero padding after the last member is legal
    return b"".join(parts)


def _refuse_text(data: bytes, where: str) -> None:
    head = data[:512]
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        return  # every ONNX file has control bytes in its first fields
    stripped = head.lstrip()
    if stripped[:1] in (b";", b"("):
        raise ModelError(f"{where}: looks like a VNN-LIB specification; expected an ONNX model (arguments swapped?)")
    raise ModelError(f"{where}: text, not an ONNX model (it starts with {stripped[:30].decode('ascii', 'replace')!r})")
