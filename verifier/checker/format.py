"""The proof file, version 2: decoding, and nothing about its meaning (docs/certificates.md).

    b"SECATEUR PROOF\\n", u16 version, sha256 of the model, sha256 of the specification, text: tool,
    u8 kind (1: tree, 2: witness, 3: map), varint: number of split tensors, their names as texts, events

All numbers are little endian; a varint is LEB128; a text is a varint and that many bytes of UTF-8.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NoReturn

import numpy as np

from verifier.checker.errors import Unreadable

MAGIC = b"SECATEUR PROOF\n"
VERSION = 2
TREE, WITNESS, MAP = 1, 2, 3
INPUT, NEURON, CLAUSES, LEAF, SLOPES, END, CLIP = range(1, 8)
PICKS, WEIGHTS, BETA, USES_SLOPES, NARROWS, EXACT = 1, 2, 4, 8, 64, 128
FORMS, ROWS, ROOT, SYMBOLS = range(4)
"""Where a leaf's intervals come from; the number stands in bits 4 and 5 of its flags."""

SHORT = np.r_[0, 2.0 ** (np.arange(1, 256) // 8 - 31) * (1 + np.arange(1, 256) % 8 / 8)].astype(np.float32)
"""The multipliers that a byte can name: 0, and eight for every power of 2 up to 1."""

MOST_NAME, MOST_ITEMS = 4096, 1 << 24


@dataclass(frozen=True)
class Header:
    """`model`, `spec` are sha256 sums of the unpacked files; `tensors` the ONNX names whose neurons are split."""

    model: bytes
    spec: bytes
    tool: str
    kind: int
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class InputSplit:
    """Node `node` becomes x[coordinate] <= at and x[coordinate] >= at."""

    node: int
    coordinate: int
    at: float


@dataclass(frozen=True)
class NeuronSplit:
    """Node `node` becomes z[neuron] <= 0 and z[neuron] >= 0, z the argument of the Relu that makes `tensor`."""

    node: int
    tensor: int
    neuron: int


@dataclass(frozen=True)
class ClauseSplit:
    """Node `node` becomes one node for every clause of its query."""

    node: int


@dataclass(frozen=True)
class Leaf:
    """`rows[c]` are (position of the row in clause c, weight) of the node's clauses; () stands for the first row of
    each. `beta` one multiplier for every decided neuron, `slopes` a table of `Slopes` (-1: that which the node was
    narrowed with, if it was), `intervals` says where the intervals come from: affine forms on the part, backward rows
    on the part as well, backward rows on the query's whole box, or affine forms with a symbol for every neuron that is
    not linear on the part. With `narrows` the node (of one clause) is no leaf: it becomes one node, narrowed to where
    the weighted rows can hold. An `exact` leaf is bounded in fractions, where a strict row that only touches its limit
    is refuted."""

    node: int
    rows: tuple[tuple[tuple[int, float], ...], ...] = ()
    beta: tuple[float, ...] = ()
    slopes: int = -1
    intervals: int = FORMS
    narrows: bool = False
    exact: bool = False


@dataclass(frozen=True)
class InputClip:
    """Node `node` becomes one node, without its slabs: (coordinate, side, at) is what lies beyond `at`, above it for
    side 1 and below it for side -1. `rows` are (clause, position of the row in the clause): on every slab each clause
    has one of them that is positive, as bounded on the whole node with `intervals` (see `Leaf`)."""

    node: int
    rows: tuple[tuple[int, int], ...]
    slabs: tuple[tuple[int, int, float], ...]
    intervals: int = FORMS


@dataclass(frozen=True, eq=False)
class Slopes:
    """Table of lower slopes: for every tensor of the header one byte per neuron, slope = byte / 255."""

    tables: tuple[np.ndarray, ...]


@dataclass(frozen=True)
class End:
    """The last event: how many splits and leaves stand before it."""

    splits: int
    leaves: int


Split = InputSplit | NeuronSplit | ClauseSplit
Event = Split | Leaf | InputClip | Slopes | End


@dataclass
class Reader:
    """Reads a proof event by event.

    Raises (every method):
        Unreadable: the file is damaged; the message names the byte.
    """

    stream: BinaryIO
    name: str
    at: int = 0
    header: Header = field(init=False)

    def __post_init__(self) -> None:
        if self._bytes(len(MAGIC)) != MAGIC:
            raise Unreadable(f"{self.name}: no proof file: expected it to begin with {MAGIC!r}")
        version = struct.unpack("<H", self._bytes(2))[0]
        if version != VERSION:
            raise Unreadable(
                f"{self.name}: found version {version} of the format, this checker reads version {VERSION}"
            )
        model, spec = self._bytes(32), self._bytes(32)
        tool, kind = self._text(), self._bytes(1)[0]
        if kind not in (TREE, WITNESS, MAP):
            self._fail(f"found kind {kind}, expected {TREE} (tree), {WITNESS} (witness) or {MAP} (map)")
        names = tuple(self._text() for _ in range(self._count(MOST_NAME)))
        self.header = Header(model, spec, tool, kind, names)

    def events(self) -> Iterator[Event]:
        """All events, the last one an `End` with nothing after it."""
        while True:
            event = self._event()
            yield event
            if isinstance(event, End):
                if self.stream.read(1):
                    self._fail("bytes after the end of the proof")
                return

    def witness(self) -> np.ndarray:
        """The input of a `sat`."""
        return np.frombuffer(self._bytes(8 * self._count(MOST_ITEMS)), "<f8").astype(np.float64)

    def _event(self) -> Event:
        kind = self._bytes(1)[0]
        match kind:
            case 1:
                return InputSplit(self._varint(), self._varint(), self._numbers("<d")[0])
            case 2:
                return NeuronSplit(self._varint(), self._varint(), self._varint())
            case 3:
                return ClauseSplit(self._varint())
            case 4:
                return self._leaf()
            case 5:
                return self._slopes()
            case 6:
                return End(self._varint(), self._varint())
            case 7:
                return self._clip()
        self._fail(f"found event {kind}, expected one of 1 to 7")

    def _slopes(self) -> Slopes:
        sizes = [self._count(MOST_ITEMS) for _ in range(self._count(MOST_NAME))]
        if sum(sizes) > MOST_ITEMS:
            self._fail(f"tables of slopes of {sum(sizes)} bytes, expected at most {MOST_ITEMS}")
        packed, engine, found = self._bytes(self._count(MOST_ITEMS)), zlib.decompressobj(), b""
        try:
            found = engine.decompress(packed, sum(sizes) + 1)
        except zlib.error as error:
            self._fail(f"damaged table of slopes: {error}")
        if len(found) != sum(sizes) or not engine.eof:
            self._fail(f"a table of slopes with {len(found)} bytes, expected {sum(sizes)}")
        return Slopes(tuple(np.split(np.frombuffer(found, np.uint8), np.cumsum(sizes)[:-1])))

    def _leaf(self) -> Leaf:
        node, flags = self._varint(), self._bytes(1)[0]
        if flags & (NARROWS | EXACT) == NARROWS | EXACT or flags & 3 == 3:
            self._fail(f"found flags {flags} of a leaf")
        rows: list[tuple[tuple[int, float], ...]] = []
        for _ in range(self._count(MOST_ITEMS) if flags & 3 else 0):
            if flags & PICKS:
                rows.append(((self._varint(), 1.0),))
            else:
                rows.append(tuple((self._varint(), self._numbers("<f")[0]) for _ in range(self._count(MOST_NAME))))
        beta = self._multipliers() if flags & BETA else ()
        slopes = self._varint() if flags & USES_SLOPES else -1
        kinds = bool(flags & NARROWS), bool(flags & EXACT)
        return Leaf(node, tuple(rows), beta, slopes, flags >> 4 & 3, *kinds)

    def _clip(self) -> InputClip:
        node, flags = self._varint(), self._bytes(1)[0]
        if flags >> 4 == ROOT or flags >> 6 or flags & 15:
            self._fail(f"found flags {flags} of a clip")
        rows = tuple((self._varint(), self._varint()) for _ in range(self._count(MOST_ITEMS)))
        slabs = []
        for _ in range(self._count(MOST_ITEMS)):
            place = self._varint()
            slabs.append((place >> 1, 1 if place & 1 else -1, self._numbers("<d")[0]))
        return InputClip(node, rows, tuple(slabs), flags >> 4)

    def _multipliers(self) -> tuple[float, ...]:
        """float32 numbers, or bytes that name such."""
        count, short = divmod(self._count(2 * MOST_ITEMS), 2)
        if short:
            return tuple(SHORT[np.frombuffer(self._bytes(count), np.uint8)].tolist())
        return self._numbers(f"<{count}f")

    def _numbers(self, kind: str) -> tuple[float, ...]:
        return struct.unpack(kind, self._bytes(struct.calcsize(kind)))

    def _bytes(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) != count:
            self._fail("the file ends in the middle")
        self.at += count
        return data

    def _varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self._bytes(1)[0]
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 56:
                self._fail("a number with too many bytes")

    def _count(self, most: int) -> int:
        value = self._varint()
        if value > most:
            self._fail(f"a count of {value}, expected at most {most}")
        return value

    def _text(self) -> str:
        try:
            return self._bytes(self._count(MOST_NAME)).decode()
        except UnicodeDecodeError:
            self._fail("a text that is no UTF-8")

    def _fail(self, why: str) -> NoReturn:
        raise Unreadable(f"{self.name}, byte {self.at}: {why}")
