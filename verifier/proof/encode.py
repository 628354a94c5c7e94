"""A proof as bytes: the other side of `verifier.checker.format`, which is not needed to check."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable
from typing import IO, Any

import numpy as np

from verifier.checker.format import (
    FORMS,
    MAGIC,
    OF_ROWS,
    ClauseSplit,
    End,
    Event,
    Header,
    InputSplit,
    Leaf,
    NeuronSplit,
    RowTree,
    Tighten,
)

NAMES = {
    InputSplit: "split",
    NeuronSplit: "neuron",
    ClauseSplit: "clauses",
    RowTree: "row",
    Tighten: "tighten",
    End: "end",
}


def _line(value: list[Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def encode_header(header: Header) -> bytes:
    """The first line."""
    return _line([header.model, header.spec, header.tool, header.kind, list(header.tensors)])


def encode(event: Event) -> bytes:
    """The line that a reader turns into this event."""
    if not isinstance(event, Leaf):
        return _line([NAMES[type(event)], *vars(event).values()])
    rows = [
        [c, picked[0][0]] if _plain(picked) else [c, *(v for pair in picked for v in pair)] for c, picked in event.rows
    ]
    if all(row == [c, 0] for c, row in enumerate(rows)):
        rows = []
    tables = [t.astype(np.uint8).tobytes().hex() for t in event.slopes]
    how = [event.least] if event.kind in OF_ROWS else [event.intervals, rows]
    line = [event.kind, event.node, *how, list(event.beta), tables]
    while line[-1] in ([], FORMS):  # what is as usual at the end is not said
        line.pop()
    return _line(line)


def _plain(picked: tuple[tuple[int, float], ...]) -> bool:
    return len(picked) == 1 and picked[0][1] == 1


def encode_witness(x: np.ndarray) -> bytes:
    """The input (n,) of a `sat`, after its header."""
    return _line(np.asarray(x, np.float64).tolist())


def begin(stream: IO[bytes]) -> gzip.GzipFile:
    """Begins a file: where its lines go, until that is closed."""
    stream.write(MAGIC)
    return gzip.GzipFile("", "wb", 9, stream, mtime=0)


def packed(lines: Iterable[bytes]) -> bytes:
    """A whole file."""
    out = io.BytesIO()
    with begin(out) as stream:
        stream.writelines(lines)
    return out.getvalue()


def short(numbers: np.ndarray, digits: int = 5) -> np.ndarray:
    """Numbers of few digits, near these: what a line says exactly, in few bytes."""
    return np.array([float(f"{v:.{digits}g}") for v in np.asarray(numbers, np.float64).tolist()])
