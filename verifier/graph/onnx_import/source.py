"""From a path, or bytes, to one whole ONNX model: gunzipped (decided by content), with the weights that lie in other
files, bounded in size, parsed. Every command reads its networks through `read_model` and `parse`.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from verifier.errors import ModelError
from verifier.graph.onnx_import.build import first_line
from verifier.graph.onnx_import.external import embed, external_tensors, locations
from verifier.graph.onnx_import.model import ModelLimits

IN_MEMORY = "<bytes>"
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 24
_NAMES_A_FILE = b"location"  # the key that external data cannot do without


@dataclass(frozen=True)
class ModelBytes:
    """`data`: a whole serialized model, as stored where it is one file. `path`: where it was read."""

    data: bytes
    path: str


def read_model(path: str | os.PathLike[str] | bytes, limits: ModelLimits | None = None) -> ModelBytes:
    """The model in `path`, or in `path`.gz where `path` does not exist, with its external weights inside; or bytes of
    one, gzipped or not.

    Nothing is checked beyond that: `data` may be no model at all.

    Raises:
        ModelError: no such file, unreadable, recognisably something else, or too large; external weights that are
            missing, damaged or outside the folder of the model.
    """
    limits = limits or ModelLimits()
    if isinstance(path, bytes):
        return ModelBytes(plain(path, IN_MEMORY, limits.bytes, limits.unpacked), IN_MEMORY)
    data, found = read_bytes(path, limits.bytes)
    data = plain(data, found, limits.bytes, limits.unpacked)
    proto = _with_external(data)
    if proto is not None:
        try:
            embed(proto, external_tensors(proto), Path(found).parent, limits.bytes)
        except ModelError as error:
            raise ModelError(f"{found}: {printable(str(error))}") from None
        data = proto.SerializeToString()
    return ModelBytes(data, found)


def parse(read: ModelBytes, check: bool = False) -> onnx.ModelProto:
    """The model of `read`; `check` adds the checker of onnx.

    Raises:
        ModelError: not an ONNX model, a truncated or (`check`) an invalid one, or one whose weights are not inside.
    """
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(read.data)
    except DecodeError:
        raise ModelError(
            f"{read.path}: not an ONNX model, or a truncated one (the protobuf message does not parse)"
        ) from None
    if not proto.ir_version or not proto.opset_import or not proto.HasField("graph"):
        raise ModelError(
            f"{read.path}: not an ONNX model, or a truncated one (ir_version, opset_import or graph is missing)"
        )
    for tensor in external_tensors(proto):  # before the checker, which would look for them in the working directory
        raise ModelError(
            f"{read.path}: tensor '{printable(tensor.name)}' lies in another file (external data); load the model by"
            " its path"
        )
    if check:
        try:
            onnx.checker.check_model(proto)
        except (onnx.checker.ValidationError, ValueError) as error:
            raise ModelError(f"{read.path}: not a valid ONNX model: {printable(first_line(error))}") from error
    return proto


def files_of(path: str | os.PathLike[str]) -> list[Path]:
    """All files that `read_model` reads for `path`, for callers that must not write over them; never raises."""
    found = Path(path) if Path(path).exists() else Path(f"{path}.gz")
    try:
        data, name = read_bytes(path, ModelLimits().bytes)
        proto = _with_external(plain(data, name, ModelLimits().bytes, ModelLimits().unpacked))
        return [found] if proto is None else [found, *locations(proto, found.parent)]
    except ModelError:
        return [found]  # its reader will say what is wrong with it


def printable(text: str) -> str:
    """`text` in one line: names inside an untrusted file may hold anything."""
    return "".join(one if one.isprintable() else "?" for one in text)


def _with_external(data: bytes) -> onnx.ModelProto | None:
    """The model, if some of its tensors lie in other files."""
    if _NAMES_A_FILE not in data:
        return None
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        return None
    return proto if external_tensors(proto) else None


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
