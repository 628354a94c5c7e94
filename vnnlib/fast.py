"""The fast path: whole blocks of text straight into arrays.

It knows the forms that competition files are made of: comparisons of an input with a constant, of an output with a
constant or another output, alone or under `and` at top level, and at most one `or` of `and`s. A regular expression is
the grammar; only text it matches completely is taken, and numbers are then picked out of whole blocks at once.
Everything else is refused (`None`), never guessed, and left to the general path. Both give equal normal forms.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

import numpy as np

from vnnlib import logic, v2
from vnnlib.lexer import END
from vnnlib.limits import Limits
from vnnlib.literals import INDEX, Grammar, Literals, all_but, grammar_v1, grammar_v2, read, table
from vnnlib.rows import ClauseParts, RowArrays, assemble
from vnnlib.source import blank_comments, lines_of
from vnnlib.spec import Spec
from vnnlib.v1 import networks_v1

_WINDOW = 1 << 21  # bytes matched and converted at a time; statements longer than this enlarge it
_CHUNK = 1 << 21  # box values filled at a time
_FEW = 1024  # variables up to which their indices are compared as text
_NAMES = [b"%d" % i for i in range(_FEW)]

_DECLARATIONS = re.compile(rb"(?:\s*+\(declare-const\s++[XY]_" + INDEX + rb"\s++Real\s*+\))++")
_OR = re.compile(rb"\s*+\(assert\s*+\(or(?=[\s(])")
_OR_END = re.compile(rb"\s*+\)\s*+\)")
_REST = re.compile(rb"\s*+")

_DIGITS = table(b"0123456789", {})
_NOT_XY = all_but(b"XY")


@dataclass
class _Scan:
    """What the statements hold: base literals, spans of the `or`, positions, and what classification needs."""

    base: list[Literals] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)
    first_row_at: int = -1
    has_or: bool = False


def parse(data: bytearray, version: int, name: str, strict: bool, limits: Limits) -> Spec | None:
    """Read the whole text, or return None where any part of it is not of the known forms.

    Comments may be overwritten with blanks in `data`. Raises the syntax errors of a 2.0 header, as the general path.
    """
    if version == 1:
        head = _head_v1(data, name, limits)
    else:
        head = _head_v2(data, name, strict, limits)
    if head is None:
        return None
    spec, grammar, start = head
    scan = _scan(data, start, grammar)
    if scan is None or not (scan.base or scan.blocks):
        return None
    return _Builder(spec, grammar, scan, data).build()


def _head_v1(data: bytearray, name: str, limits: Limits) -> tuple[Spec, Grammar, int] | None:
    """Read the declarations: X_0, X_1, .. and then Y_0, Y_1, .. without gaps."""
    if b";" in data:
        blank_comments(data)
    match = _DECLARATIONS.match(data)
    if match is None:
        return None
    letters = match[0].translate(None, _NOT_XY)
    inputs, outputs = letters.count(b"X"), letters.count(b"Y")
    if letters[:inputs].count(b"X") != inputs or not inputs or not outputs or inputs + outputs > limits.max_variables:
        return None
    if not _counts_up(bytes(match[0]).translate(_DIGITS), inputs, outputs):
        return None
    spec = Spec("1.0", networks_v1(inputs, outputs), (), (), name, (), limits)
    return spec, grammar_v1(inputs, outputs), match.end()


def _counts_up(indices: bytes, inputs: int, outputs: int) -> bool:
    """Say whether the indices, with blanks between them, are 0, 1, .. for the inputs and again for the outputs."""
    if inputs + outputs <= _FEW:
        return indices.split() == _NAMES[:inputs] + _NAMES[:outputs]
    found = np.fromstring(indices, np.int64, sep=" ")
    return np.array_equal(found, np.concatenate([np.arange(inputs), np.arange(outputs)]))


def _head_v2(data: bytearray, name: str, strict: bool, limits: Limits) -> tuple[Spec, Grammar, int] | None:
    """Read version and networks with the general parser."""
    parser = v2.Parser(data, name, strict, limits)
    opened = parser.parse_header()
    if parser.lexer.errors or opened.kind == END:
        return None
    networks, warnings = tuple(parser.networks), tuple(parser.lexer.warnings)
    spec = Spec(parser.version, networks, (), warnings, name, (), limits)
    grammar = grammar_v2(spec)
    if grammar is None:
        return None
    if data.find(b";", opened.at) >= 0:
        blank_comments(data, opened.at)
    return spec, grammar, opened.at


def _longest(pattern: re.Pattern[bytes], data: bytearray, at: int) -> int:
    """Return the end of the longest match at `at` within a window, enlarged until something matches; -1 if nothing."""
    size = _WINDOW
    while True:
        match = pattern.match(data, at, at + size)
        if match is not None:
            return match.end()
        if at + size >= len(data):
            return -1
        size *= 4


def _scan(data: bytearray, at: int, grammar: Grammar) -> _Scan | None:
    """Walk over all statements: read plain assertions, and note where the disjuncts of the one `or` are."""
    scan = _Scan()
    while at < len(data):
        end = _longest(grammar.flat, data, at)
        if end >= 0:
            literals = read(bytes(memoryview(data)[at:end]), grammar, False)
            if literals is None:
                return None
            if scan.first_row_at < 0 and not literals.is_input.all():
                scan.first_row_at = _first_output(data, at, grammar)
            scan.base.append(literals)
            at = end
            continue
        opened = _OR.match(data, at)
        if opened is None:
            break
        if scan.has_or:
            return None
        at, scan.has_or = opened.end(), True
        while (end := _longest(grammar.disjuncts, data, at)) >= 0:
            scan.blocks.append((at, end))
            at = end
        closed = _OR_END.match(data, at)
        if closed is None or not scan.blocks:
            return None
        at = closed.end()
    rest = _REST.match(data, at)
    return scan if rest is not None and rest.end() == len(data) else None


def _first_output(data: bytearray, at: int, grammar: Grammar) -> int:
    """Return the offset of the first output variable from `at` on (the text there is of the known forms)."""
    if grammar.version == 1:
        return data.find(b"Y_", at)
    found = []
    for name, shape, is_input in zip(grammar.names, grammar.shapes, grammar.is_input, strict=True):
        if not is_input:
            found += [data.find(b" " + name + tail, at) for tail in ((b"[",) if shape else (b" ", b")"))]
    return min(place for place in found if place >= 0)


class _Boxes:
    """Different boxes in first-seen order, in arrays that grow without copies where the system can."""

    def __init__(self, n: int) -> None:
        self.n, self.count = n, 0
        self.edges = [np.empty((0, n)), np.empty((0, n))]
        self.known: dict[bytes, int] = {}

    def add(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """Enter boxes (K, n) and return their numbers (K,), -1 for empty ones."""
        alive = (lower <= upper).all(axis=1)
        raw = np.concatenate([lower, upper], axis=1).tobytes()
        width, numbers = 16 * self.n, np.full(len(lower), -1, np.int64)
        fresh: list[int] = []
        if width > 64:
            from hashlib import blake2b  # many files do not need it
        for k in np.flatnonzero(alive).tolist():
            key = raw[k * width : (k + 1) * width]
            if width > 64:
                key = blake2b(key, digest_size=32).digest()
            number = self.known.setdefault(key, self.count + len(fresh))
            if number == self.count + len(fresh):
                fresh.append(k)
            numbers[k] = number
        self._append(lower, upper, fresh)
        return numbers

    def only(self, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
        """Enter the only box there will be (n,), and return its number as `add` does."""
        if not (lower <= upper).all():
            return np.full(1, -1, np.int64)
        self.edges, self.count = [lower[None].copy(), upper[None].copy()], 1
        return np.zeros(1, np.int64)

    def _append(self, lower: np.ndarray, upper: np.ndarray, fresh: list[int]) -> None:
        total = self.count + len(fresh)
        for place, new in enumerate((lower, upper)):
            array = self.edges[place]
            if total > len(array):
                array.resize((max(total, len(array) * 9 // 8), self.n), refcheck=False)
            array[self.count : total] = new[fresh]
        self.count = total

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper (Q, n)."""
        for array in self.edges:
            array.resize((self.count, self.n), refcheck=False)
        return self.edges[0], self.edges[1]


def _tighten(lower: np.ndarray, upper: np.ndarray, where: np.ndarray, found: Literals, mine: np.ndarray) -> None:
    """Intersect flat boxes at positions `where` with the input bounds `mine` of the literals."""
    sign, value = found.sign[mine], found.constant[mine]
    high, low = sign >= 0, sign <= 0
    np.minimum.at(upper, where[high], value[high])
    np.maximum.at(lower, where[low], value[low])


class _Builder:
    """From scanned statements to a specification with its normal form."""

    def __init__(self, spec: Spec, grammar: Grammar, scan: _Scan, data: bytearray) -> None:
        self.spec, self.grammar, self.scan, self.data = spec, grammar, scan, data
        self.n = spec.size("input")
        self.lower, self.upper = np.full(self.n, -np.inf), np.full(self.n, np.inf)
        self.boxes = _Boxes(self.n)
        self.case_of: list[np.ndarray] = []  # per block, -1 for empty boxes
        self.found: list[Literals] = []  # output literals of disjuncts, groups numbered over all blocks
        self.lines_at: list[np.ndarray] = []
        self.disjuncts = self.literals = 0

    def build(self) -> Spec | None:
        """Return the result, or None where the general path must decide (limits)."""
        for literals in self.scan.base:
            mine = literals.is_input
            _tighten(self.lower, self.upper, literals.left[mine], literals, mine)
        if not self.scan.has_or:
            self.disjuncts = 1
            self.case_of.append(self.boxes.only(self.lower, self.upper))
        for start, end in self.scan.blocks:
            if not self._block(start, end):
                return None
        return self._finish()

    def _block(self, start: int, end: int) -> bool:
        """Read one block of disjuncts."""
        block = bytes(memoryview(self.data)[start:end])
        found = read(block, self.grammar, True)
        if found is None:
            return False
        raw = np.frombuffer(block, np.uint8)
        letters = np.flatnonzero(raw == ord("a"))
        self.lines_at.append(letters[raw[letters - 1] == ord("(")] + start)
        self.literals += len(found.left)
        limits = self.spec.limits
        if self.disjuncts + found.groups > limits.max_cases or self.literals > limits.max_literals:
            return False
        if not (self.lower <= self.upper).all():
            self.case_of.append(np.full(found.groups, -1, np.int64))
        elif not self._cases(found):
            return False
        rows = np.flatnonzero(~found.is_input)
        parts = (found.left[rows], found.right[rows], found.constant[rows], found.sign[rows], found.is_input[rows])
        group = found.group[rows] + self.disjuncts
        self.found.append(Literals(*parts, group, found.groups, found.mixes_nodes))
        self.disjuncts += found.groups
        return True

    def _cases(self, found: Literals) -> bool:
        """Enter the boxes of the disjuncts of a block."""
        bounds = np.flatnonzero(found.is_input)
        if not len(bounds):
            number = self.boxes.add(self.lower[None], self.upper[None])
            self.case_of.append(np.repeat(number, found.groups))
            return True
        step, group = max(1, _CHUNK // self.n), found.group[bounds]
        for first in range(0, found.groups, step):
            count = min(step, found.groups - first)
            pick = slice(*np.searchsorted(group, (first, first + count)).tolist())
            lower, upper = np.tile(self.lower, (count, 1)), np.tile(self.upper, (count, 1))
            mine = bounds[pick]
            where = (group[pick] - first) * self.n + found.left[mine]
            _tighten(lower.reshape(-1), upper.reshape(-1), where, found, mine)
            self.case_of.append(self.boxes.add(lower, upper))
            if self.boxes.count * self.n > self.spec.limits.max_box_values:
                return False
        return True

    def _finish(self) -> Spec | None:
        """Join clauses, rows and cases."""
        base = _join([_rows_of(literals, ~literals.is_input, self.n) for literals in self.scan.base])
        own = _join([_rows_of(literals, np.ones(len(literals.left), bool), self.n) for literals in self.found])
        group = np.concatenate([literals.group for literals in self.found]) if self.found else np.zeros(0, np.int64)
        if self.literals + self.disjuncts * len(base[0]) > self.spec.limits.max_literals:
            return None
        case_of = np.concatenate(self.case_of)
        table, numbers = _unique_rows(_join([base, own]), self.n, self.spec.size("output"))
        base_rows, own_rows = numbers[: len(base[0])], numbers[len(base[0]) :]
        live = np.flatnonzero(case_of >= 0)
        kept = case_of[group] >= 0
        group, own_rows = group[kept], own_rows[kept]
        counts = np.bincount(group, minlength=self.disjuncts)[live] + len(base_rows)
        ptr = np.zeros(len(live) + 1, np.int64)
        np.cumsum(counts, out=ptr[1:])
        clause_rows = np.empty(ptr[-1], np.int64)
        is_base = np.zeros(len(clause_rows), bool)
        if len(base_rows):
            places = ptr[:-1, None] + np.arange(len(base_rows))
            clause_rows[places], is_base[places] = base_rows, True
        clause_rows[~is_base] = own_rows
        lower, upper = self.boxes.finish()
        source_ptr, lines = self._sources(live)
        none = np.zeros(0, np.int64)
        parts = ClauseParts(lower, upper, None, None, case_of[live], ptr, clause_rows,
                      np.zeros(len(lower) + 1, np.int64), none, source_ptr, lines, table)  # fmt: skip
        return replace(self.spec, form=assemble(self.spec, parts, self._logic()))

    def _sources(self, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the source lines of live clauses."""
        if self.scan.has_or:
            lines = lines_of(self.data, np.concatenate(self.lines_at))[live]
            return np.arange(len(live) + 1), lines
        if self.scan.first_row_at < 0 or not len(live):
            return np.zeros(len(live) + 1, np.int64), np.zeros(0, np.int64)
        return np.array([0, 1]), lines_of(self.data, np.array([self.scan.first_row_at]))

    def _logic(self) -> str:
        """Classify: only bounds, or also output against output."""
        everything = [*self.scan.base, *self.found]
        pairs = any((literals.right >= 0).any() for literals in everything)
        mixed = any(literals.mixes_nodes for literals in everything)
        return logic.name_logic(self.spec, logic.OUTC if pairs else logic.BND, mixed)


_RowColumns = tuple[np.ndarray, np.ndarray, np.ndarray]  # output with +1 (or -1), output with -1 (or -1), rhs


def _rows_of(found: Literals, mine: np.ndarray, n: int) -> _RowColumns:
    """Return output literals as rows `y[plus] - y[minus] <= rhs`."""
    left, right, sign, value = found.left[mine] - n, found.right[mine], found.sign[mine], found.constant[mine]
    right = np.where(right >= 0, right - n, -1)
    below = sign > 0
    return np.where(below, left, right), np.where(below, right, left), np.where(below, value, -value) + 0.0


def _join(parts: list[_RowColumns]) -> _RowColumns:
    """Concatenate rows."""
    parts = [part for part in parts if len(part[2])] or parts[:1]
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    if len(parts) == 1:
        return parts[0]
    plus, minus, rhs = (np.concatenate([part[k] for part in parts]) for k in range(3))
    return plus, minus, rhs


def _unique_rows(rows: _RowColumns, n: int, m: int) -> tuple[RowArrays, np.ndarray]:
    """Return the table of different rows, and the number of each given row in it."""
    plus, minus, rhs = rows
    first = numbers = np.arange(len(rhs))
    if len(rhs) > 1:
        _, value = np.unique(rhs, return_inverse=True)
        _, shape = np.unique((plus + 1) * (m + 1) + (minus + 1), return_inverse=True)
        key = shape * np.int64(len(rhs) + 1) + value
        _, first, numbers = np.unique(key, return_index=True, return_inverse=True)
    plus, minus, rhs = plus[first], minus[first], rhs[first]
    pair = (plus >= 0) & (minus >= 0)
    ptr = np.zeros(len(first) + 1, np.int64)
    np.cumsum(1 + pair, out=ptr[1:])
    col, val = np.empty(ptr[-1], np.int64), np.empty(ptr[-1])
    head = np.where(pair, np.minimum(plus, minus), np.maximum(plus, minus))
    col[ptr[:-1]], val[ptr[:-1]] = head + n, np.where(head == plus, 1.0, -1.0)
    tail = np.maximum(plus, minus)[pair]
    col[ptr[1:][pair] - 1], val[ptr[1:][pair] - 1] = tail + n, np.where(tail == plus[pair], 1.0, -1.0)
    return RowArrays(ptr, col, val, rhs, np.zeros(len(first), bool)), numbers.reshape(-1)
