"""Lists of instances: instances.csv of VNN-COMP."""

from __future__ import annotations

import ast
import csv
import os
from dataclasses import dataclass

from vnnlib.errors import VnnLibError

MAX_BYTES = 1 << 28


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
    try:
        with open(name, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise VnnLibError(f"more than {MAX_BYTES} bytes; is this a list of instances?", path=name)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise VnnLibError(f"cannot read: {error}", path=name) from None
    reader = csv.reader(text.splitlines())
    try:
        return [(reader.line_num, [c.strip() for c in cells]) for cells in reader if any(c.strip() for c in cells)]
    except csv.Error as error:
        raise VnnLibError(f"malformed CSV: {error}", path=name) from None
