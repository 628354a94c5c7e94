"""Weights that an ONNX file keeps in files beside it ("external data"), brought into the model.

`torch.onnx.export(..., dynamo=True)` and models above 2 GB write them. A model is untrusted, and so are the names,
offsets and lengths in it: only regular files inside the folder of the model are opened, and only as many bytes are read
as a tensor of the declared type and shape holds.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from verifier.errors import ModelError

_HALF_BYTES = {
    getattr(TensorProto, name) for name in ("INT4", "UINT4", "FLOAT4E2M1") if hasattr(TensorProto, name)
}  # two elements per byte
_DIGITS = 20  # enough for any 64-bit number


def external_tensors(proto: onnx.ModelProto) -> list[TensorProto]:
    """Every tensor of a model, in subgraphs and functions too, whose data lie in another file."""
    parts: list[Iterable[TensorProto]] = [_of_graph(proto.graph)]
    parts += [_of_node(node) for function in proto.functions for node in function.node]
    return [t for part in parts for t in part if t.data_location == TensorProto.EXTERNAL]


def embed(proto: onnx.ModelProto, tensors: Iterable[TensorProto], folder: Path, limit: int) -> list[Path]:
    """Read the data of `tensors`, tensors of `proto`, from files in `folder` into it; returns the files read.

    Raises:
        ModelError: a location that is not a plain file inside `folder` (absolute, with `..`, a link that leaves it),
            numbers that do not fit the file or the tensor, or a model of more than `limit` bytes in all.
    """
    total = proto.ByteSize()
    files: dict[str, Path] = {}
    for tensor in tensors:
        entry = _entry(tensor)
        path = files.setdefault(entry["location"], place(folder, entry["location"], tensor.name))
        size = _size(tensor)
        total += size
        if total > limit:
            raise ModelError(
                f"the model and its external weights take more than {limit} bytes (reached at tensor '{tensor.name}');"
                " ONNX models above that size cannot be used"
            )
        data = _read(path, entry, size, tensor.name)
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        tensor.raw_data = data
    return list(files.values())


def locations(proto: onnx.ModelProto, folder: Path) -> list[Path]:
    """The files that hold weights of `proto`; ModelError as for `embed`."""
    names = {_entry(t)["location"]: t.name for t in external_tensors(proto)}
    return [place(folder, location, tensor) for location, tensor in names.items()]


def place(folder: Path, location: str, tensor: str) -> Path:
    """The file that `location` means, its links followed."""
    what = f"tensor '{tensor}' lies in '{location}'"
    if not location or "\0" in location or "\\" in location:
        raise ModelError(f"{what}, which is no file name; expected one relative to the model's folder")
    given = Path(location)
    if given.is_absolute() or ".." in given.parts:
        raise ModelError(f"{what}; external data are only read from inside the model's folder")
    try:
        root, path = folder.resolve(), (folder / given).resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that point to each other
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"{what}, beside the model: {reason}; keep the weights in the model's folder") from None
    if not path.is_relative_to(root):
        raise ModelError(f"{what}, a link that leaves the model's folder; external data are only read from inside it")
    return path


def _entry(tensor: TensorProto) -> dict[str, str]:
    entry: dict[str, str] = {}
    for item in tensor.external_data:
        if item.key in entry:
            raise ModelError(f"tensor '{tensor.name}': external data give '{item.key}' twice")
        entry[item.key] = item.value
    if "location" not in entry:
        raise ModelError(f"tensor '{tensor.name}': its data lie in another file, but no location is given")
    return entry


def _size(tensor: TensorProto) -> int:
    """Bytes of a tensor of this type and shape."""
    if any(size < 0 for size in tensor.dims):
        raise ModelError(f"tensor '{tensor.name}' has a negative dimension")
    count = prod(tensor.dims)
    if tensor.data_type in _HALF_BYTES:
        return (count + 1) // 2
    if tensor.data_type == TensorProto.STRING:
        raise ModelError(f"tensor '{tensor.name}' holds strings; only numbers may be external data")
    try:
        return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    except KeyError:
        raise ModelError(f"tensor '{tensor.name}' has the unknown type {tensor.data_type}") from None


def _number(entry: dict[str, str], key: str, tensor: str) -> int | None:
    text = entry.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise ModelError(f"tensor '{tensor}': external data have {key} '{text[:30]}'; expected a number of bytes >= 0")
    return int(text)


def _read(path: Path, entry: dict[str, str], size: int, tensor: str) -> bytes:
    offset = _number(entry, "offset", tensor) or 0
    length = _number(entry, "length", tensor)
    if length is not None and length != size:
        raise ModelError(f"tensor '{tensor}': external data of {length} bytes, its type and shape need {size}")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(path, flags), "rb") as stream:
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise ModelError(f"tensor '{tensor}': {path} is not a plain file")
            if offset + size > found.st_size or (length is None and offset + size != found.st_size):
                end = "at least" if length is not None else "exactly"
                raise ModelError(
                    f"tensor '{tensor}': {path} has {found.st_size} bytes, expected {end} {offset + size}"
                    " (truncated, or of another model?)"
                )
            stream.seek(offset)
            data = stream.read(size)
    except OSError as error:
        raise ModelError(f"tensor '{tensor}': {path} cannot be read: {error.strerror or error}") from None
    if len(data) != size:
        raise ModelError(f"tensor '{tensor}': {path} ended after {len(data)} of {size} bytes")
    return data


def _of_graph(graph: Any) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: Any) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
        for sparse in attribute.sparse_tensors:
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g)
        for graph in attribute.graphs:
            yield from _of_graph(graph)
