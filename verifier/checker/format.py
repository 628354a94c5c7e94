"""The proof file, version 4: decoding, and nothing about its meaning (docs/certificates.md).

b"SECATEUR PROOF 4\\n", then gzip: JSON texts, one a line: the header, then events, or the numbers of a witness
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, BinaryIO, NoReturn

import numpy as np

from verifier.checker.errors import Unreadable

MAGIC = b"SECATEUR PROOF 4\n"
TREE, WITNESS, MAP = "tree", "witness", "map"
FORMS, ROWS, ROOT, SYMBOLS = "forms", "rows", "root", "symbols"
"""Where a leaf's intervals come from."""

OF_ROWS = ("bound", "line")
"""Kinds of leaves in the tree of a row."""

USUAL: list[Any] = [FORMS, [], [], []]
"""What a leaf leaves out at its end."""

MOST_LINE = 1 << 24
"""Bytes of one line."""

Picked = tuple[tuple[int, float], ...]
"""Positions of rows in a clause, and their weights."""


@dataclass(frozen=True)
class Header:
    """`model`, `spec` are sha256 sums of the unpacked files; `tensors` the ONNX names whose neurons are split."""

    model: str
    spec: str
    tool: str
    kind: str
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
class RowTree:
    """A new node: that the argument z[neuron] of the Relu that makes `tensor` is (`side` 0), or -z[neuron] is (1), at
    least what is known of it on the whole box of a query. It is split as other nodes are, and each of its parts may
    get a "bound" that is better."""

    query: int
    tensor: int
    neuron: int
    side: int


@dataclass(frozen=True)
class Tighten:
    """From here on the intervals of whole boxes hold what the trees of rows say: of each the least of its nodes; and
    nodes are narrowed by its lines."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """`rows` are (clause of the node, its rows and their weights); () stands for the first row of each. `beta` is one
    multiplier for every decided neuron, `slopes` are lower slopes of Relus: for every tensor of the header one byte per
    neuron, slope = byte / 255 (none: those which the node was narrowed with, if it was). `intervals` says where the
    intervals come from: affine forms on the part, backward rows on the part as well, backward rows on the query's whole
    box, or affine forms with a symbol for every neuron that is not linear on the part. A `kind` "narrow" is no leaf:
    the node becomes one node, narrowed to where every row of some clause can hold. An "exact" leaf is bounded in
    fractions. A "bound" is a leaf in the tree of a row, which is at least `least` there; the node stays. So is a
    "line", of a whole box, which keeps the linear function that says so: nodes are narrowed by it."""

    node: int
    rows: tuple[tuple[int, Picked], ...] = ()
    beta: tuple[float, ...] = ()
    slopes: tuple[np.ndarray, ...] = ()
    intervals: str = FORMS
    kind: str = "leaf"
    least: float = 0.0


@dataclass(frozen=True)
class End:
    """The last event: how many leaves (bounds and lines are leaves, narrowings are not) and other events stand before
    it."""

    splits: int
    leaves: int


Split = InputSplit | NeuronSplit | ClauseSplit
Event = Split | RowTree | Tighten | Leaf | End


PLAIN: dict[str, type[Any]] = {"split": InputSplit, "neuron": NeuronSplit, "clauses": ClauseSplit}
PLAIN |= {"row": RowTree, "tighten": Tighten, "end": End}
FIELDS = {kind: [f.type for f in fields(event)] for kind, event in PLAIN.items()}
"""Events whose lines hold their fields in order, and the types of these."""


@dataclass
class Reader:
    """Reads a proof event by event.

    Raises (every method):
        Unreadable: the file is damaged; the message names the line.
    """

    stream: BinaryIO
    name: str
    line: int = 0
    header: Header = field(init=False)

    def __post_init__(self) -> None:
        found = self.stream.readline(len(MAGIC))
        if found != MAGIC:
            old = ", but of another version of the format: write it again" if found[:14] == MAGIC[:14] else ""
            raise Unreadable(f"{self.name}: no proof file: expected it to begin with {MAGIC!r}{old}")
        self.lines = gzip.GzipFile(fileobj=self.stream)
        match self._next():
            case [str(model), str(spec), str(tool), str(kind), list(names)] if kind in (TREE, WITNESS, MAP):
                self.header = Header(model, spec, tool, kind, tuple(map(str, names)))
            case _:
                self._fail("expected the header")

    def events(self) -> Iterator[Event]:
        """All events, the last one an `End` with nothing after it."""
        event: Event | None = None
        while not isinstance(event, End):
            try:
                event = self._event(self._next())
            except (TypeError, ValueError) as error:
                self._fail(f"damaged: {error}")
            yield event
        self._ends()

    def witness(self) -> np.ndarray:
        """The input (n,) that a `sat` proof holds."""
        x = self._next()
        if not isinstance(x, list) or not all(type(v) is float for v in x):
            self._fail("expected the numbers of a witness")
        self._ends()
        return np.array(x, np.float64)

    def _event(self, found: Any) -> Event:
        match found:
            case ["row", *_, int(side)] if side > 1:
                pass
            case [str(kind), *rest] if [type(v).__name__ for v in rest] == FIELDS.get(kind):
                return PLAIN[kind](*rest)
            case ["bound" | "line" as kind, int(node), float(least), *more] if len(more) <= 2:
                return self._leaf(node, [ROOT, [], *more], kind, least)
            case ["leaf" | "narrow" | "exact" as kind, int(node), *more] if len(more) <= 4:
                return self._leaf(node, more, kind)
        self._fail(f"found {str(found)[:60]}, expected an event")

    def _leaf(self, node: int, more: list[Any], kind: str, least: float = 0.0) -> Leaf:
        intervals, rows, beta, slopes = more + USUAL[len(more) :]
        tables = tuple(np.frombuffer(bytes.fromhex(t), np.uint8) for t in slopes)
        if intervals not in (FORMS, ROWS, ROOT, SYMBOLS) or not all(type(b) is float for b in beta):
            self._fail(f"found intervals {intervals!r}, or multipliers that are no numbers")
        return Leaf(node, tuple(map(self._picked, rows)), tuple(beta), tables, intervals, kind, least)

    def _picked(self, found: Any) -> tuple[int, Picked]:
        match found:
            case [int(clause), int(row)]:
                return clause, ((row, 1.0),)
            case [int(clause), *rest] if rest and all(type(v) is (int, float)[i % 2] for i, v in enumerate(rest)):
                return clause, tuple(zip(rest[::2], rest[1::2], strict=True))
        self._fail(f"found {str(found)[:60]}, expected a clause, and rows with weights")

    def _next(self) -> Any:
        """The next line. Whole numbers are positions, so never negative; others have a point or an exponent."""
        self.line += 1
        try:
            line = self.lines.readline(MOST_LINE)
            if not line.endswith(b"\n"):
                self._fail(f"the file ends in the middle, or a line has more than {MOST_LINE} bytes")
            return json.loads(line, parse_int=_whole)
        except (ValueError, RecursionError, EOFError, OSError, zlib.error) as error:
            self._fail(f"damaged: {error}")

    def _ends(self) -> None:
        try:
            if self.lines.read(1):
                self._fail("something after the end")
        except (EOFError, OSError, zlib.error) as error:
            self._fail(f"damaged: {error}")

    def _fail(self, why: str) -> NoReturn:
        raise Unreadable(f"{self.name}, line {self.line}: {why}")


def _whole(digits: str) -> int:
    if len(digits) > 15 or not digits.isdecimal():
        raise ValueError(f"found {digits[:20]}, expected a whole number")
    return int(digits)
