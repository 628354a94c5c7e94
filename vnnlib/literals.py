"""Comparisons of one form in blocks of text, as arrays: the grammar of the fast path (`vnnlib.fast`) and its numbers.

A regular expression is the grammar. Only text that it matches completely is taken, and the numbers are then picked out
of the whole block at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vnnlib import logic
from vnnlib.spec import FLOAT_TYPES, Spec, TensorDecl

_SMALL = 1 << 14  # bytes of a block below which the simplest conversion is the fastest
_MAX_TENSORS = 40

INDEX = rb"(?:0|[1-9][0-9]{0,8}+)"
_NUMBER_1 = rb"-?+[0-9]{1,400}+(?:\.[0-9]{1,400}+)?+(?:[eE][-+]?+[0-9]{1,3}+)?+"
_NUMBER_2 = rb"-?+[0-9]{1,400}+(?:\.[0-9]{1,400}+)?+"
_ATOM_1 = rb"\s*+\([<>]=[ \t]++(?:X_I[ \t]++N|Y_I[ \t]++(?:Y_I|N))\s*+\)".replace(b"I", INDEX).replace(b"N", _NUMBER_1)

_INPUT_CODE = 128  # codes of tensors in skeletons: 128, 129, ..
_EQUAL = 1  # stands for == in skeletons
_SIGNS = np.full(64, -1)  # of < and > (as <= and >= stand in skeletons) and ==
_SIGNS[_EQUAL], _SIGNS[ord("<")] = 0, 1


def table(keep: bytes, mapping: dict[int, int]) -> bytes:
    """Return a translation table: `keep` stays, `mapping` is applied, all else becomes a blank."""
    return bytes(mapping.get(c, c if c in keep else 32) for c in range(256))


def all_but(keep: bytes) -> bytes:
    """Return every byte that is not in `keep`."""
    return bytes(c for c in range(256) if c not in keep)


_CODES = bytes(range(_INPUT_CODE, _INPUT_CODE + _MAX_TENSORS))
_NUMBERS_1, _NUMBERS_2 = table(b"0123456789.-+eE", {}), table(b"0123456789.-", {})
_LETTERS = table(bytes(range(256)), {ord("X"): _INPUT_CODE, ord("Y"): _INPUT_CODE + 1})
_SKELETON_1, _SKELETON_2 = all_but(b"d<>XY"), all_but(b"d<>" + bytes([_EQUAL]) + _CODES)


@dataclass(frozen=True)
class Grammar:
    """What to match and how to read it: one entry per readable tensor, its code being 128 + place."""

    flat: re.Pattern[bytes]
    disjuncts: re.Pattern[bytes]
    version: int
    names: tuple[bytes, ...]
    shapes: tuple[tuple[int, ...], ...]
    starts: np.ndarray  # first column in [x; y]
    is_input: np.ndarray
    network: np.ndarray
    ranks: np.ndarray
    sizes: np.ndarray  # elements of each tensor


@lru_cache(maxsize=64)
def _patterns(atom: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Compile the patterns for a run of plain assertions and for a run of disjuncts."""
    group = rb"\(and(?:" + atom + rb")++\s*+\)"
    flat = rb"(?:\s*+\(assert(?:" + atom + rb"|\s*+" + group + rb")\s*+\))++"
    return re.compile(flat), re.compile(rb"(?:\s*+" + group + rb")++")


def grammar_v1(inputs: int, outputs: int) -> Grammar:
    """Return the grammar of a 1.0 text with these sizes."""
    shapes = ((inputs,), (outputs,))
    return Grammar(
        *_patterns(_ATOM_1),
        1,
        (),
        shapes,
        np.array([0, inputs]),
        np.array([True, False]),
        np.zeros(2, int),
        np.ones(2, int),
        np.array([inputs, outputs]),
    )


def grammar_v2(spec: Spec) -> Grammar | None:
    """Return the grammar for the declared float tensors, or None where names or numbers of tensors do not fit."""
    networks = logic.network_numbers(spec)
    known = [
        (tensor, start, network)
        for tensor, start, network in zip(spec.tensors, spec.columns, networks, strict=True)
        if tensor.kind != "hidden" and tensor.dtype in FLOAT_TYPES
    ]
    outputs = [t for t, _, _ in known if t.kind == "output"]
    inputs = [t for t, _, _ in known if t.kind == "input"]
    if not outputs or not inputs or len(known) > _MAX_TENSORS:
        return None
    ins, outs = (b"(?:" + b"|".join(_element(t) for t in group) + b")" for group in (inputs, outputs))
    right = b"(?:" + _NUMBER_2 + (b"|" + outs if len({t.dtype for t in outputs}) == 1 else b"") + b")"
    atom = rb"\s*+\((?:[<>=]=[ ]++" + ins + rb"[ ]++" + _NUMBER_2 + rb"|[<>]=[ ]++" + outs + rb"[ ]++" + right
    return Grammar(
        *_patterns(atom + rb")\s*+\)"),
        2,
        tuple(t.name.encode() for t, _, _ in known),
        tuple(t.shape for t, _, _ in known),
        np.array([start for _, start, _ in known]),
        np.array([t.kind == "input" for t, _, _ in known]),
        np.array([network for _, _, network in known]),
        np.array([len(t.shape) for t, _, _ in known]),
        np.array([t.size for t, _, _ in known]),
    )


def _element(tensor: TensorDecl) -> bytes:
    """Return the pattern of one element: name and the right number of indices."""
    name = tensor.name.encode()
    if not tensor.shape:
        return name + rb"(?=[ )])"
    return name + rb"\[" + INDEX + (rb"(?:,[ ]?+" + INDEX + rb"){%d}" % (len(tensor.shape) - 1)) + rb"\]"


@dataclass
class Literals:
    """N comparisons `v[left] REL constant` or `v[left] REL v[right]` (`right` is -1 for a constant).

    `sign` is +1 for <=, -1 for >=, 0 for ==; `group` numbers the disjunct they stand in, from 0.
    """

    left: np.ndarray
    right: np.ndarray
    constant: np.ndarray
    sign: np.ndarray
    is_input: np.ndarray
    group: np.ndarray
    groups: int
    mixes_nodes: bool


def read(block: bytes, grammar: Grammar, grouped: bool) -> Literals | None:
    """Turn a block that the grammar matches into arrays; None if an index or a number is out of range."""
    if grammar.version == 1:
        if not grouped:
            block = block.replace(b"assert", b"")  # its e is no exponent; in 2.0 a name may hold the word
        skeleton, text = block.translate(_LETTERS, _SKELETON_1), block.translate(_NUMBERS_1)
    else:
        block = _encode(block, grammar)
        skeleton, text = block.translate(None, _SKELETON_2), block.translate(_NUMBERS_2)
    if not grouped:
        skeleton = skeleton.replace(b"d", b"")
    marks = np.frombuffer(skeleton + b"d", np.uint8)
    at = np.flatnonzero(marks < 64)
    code, other = marks[at + 1].astype(np.intp) - _INPUT_CODE, marks[at + 2].astype(np.intp) - _INPUT_CODE
    pair = other >= 0
    pairs = bool(pair.any())
    if grammar.version == 1 and len(block) > _SMALL:
        numbers = _numbers_v1(block, text, pair)
    else:
        numbers = np.fromstring(text, np.float64, sep=" ")
    if len(at) == 0 or not np.isfinite(numbers).all():
        return None
    place = _places(numbers, code, other if pairs else None, grammar)
    if place is None:
        return None
    left, right, last = place
    mixes = False
    if pairs:
        one, two = code[pair], other[pair]
        mixes = bool(((one != two) & (grammar.network[one] == grammar.network[two])).any())
        if (right[pair] == left[pair]).any():
            return None
    op = marks[at]
    sign = _SIGNS[op]
    if not grouped:
        group, groups = np.zeros(len(at), np.int64), 1
    else:
        group = np.cumsum(marks[:-1] == ord("d"))[at] - 1
        groups = int(group[-1]) + 1
    return Literals(left, right, last + 0.0, sign, grammar.is_input[code], group, groups, mixes)


def _places(
    numbers: np.ndarray, code: np.ndarray, other: np.ndarray | None, grammar: Grammar
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return columns on the left, on the right (-1: none), and constants (0: none) of comparisons; None if an index is
    out of range.

    `code` and `other` number the tensors on both sides; `other` is negative for a constant, or None where all are.
    """
    ranks = grammar.ranks
    pair = np.zeros(len(code), bool) if other is None else other >= 0
    widths = ranks[code] + (1 if other is None else np.where(pair, ranks[np.where(pair, other, 0)], 1))
    ends = np.cumsum(widths)
    if ends[-1] != len(numbers):
        return None
    begin = ends - widths
    found, last = _columns(numbers, begin, code, grammar), numbers[ends - 1]
    if found is None:
        return None
    right = np.full(len(code), -1, np.int64)
    if other is not None:
        inner = _columns(numbers, (begin + ranks[code])[pair], other[pair], grammar)
        if inner is None:
            return None
        right[pair], last[pair] = inner, 0.0
    return found, right, last


def _numbers_v1(block: bytes, text: bytes, pair: np.ndarray) -> np.ndarray:
    """Return all numbers of a large 1.0 block in order; indices, half of them, are read digit by digit for all at once.

    `text` is the block with numbers only; `pair` says which comparisons have two variables (so no constant).
    """
    digits = np.frombuffer(block, np.uint8)
    place = np.flatnonzero(digits == ord("_")) + 1
    rest = np.frombuffer(bytearray(text), np.uint8)
    index, todo = np.zeros(len(place), np.int64), np.arange(len(place))
    while len(todo):  # an index is followed by a blank or ")", so that `place` stays inside the block
        digit = digits[place].astype(np.int64) - ord("0")
        more = (digit >= 0) & (digit <= 9)
        if not more.all():
            todo, place, digit = todo[more], place[more], digit[more]
        index[todo] = index[todo] * 10 + digit
        rest[place] = 32
        place = place + 1
    numbers = np.empty(2 * len(pair))
    is_index = np.ones(2 * len(pair), bool)
    is_index[1::2] = pair
    constants = np.fromstring(rest.tobytes(), np.float64, sep=" ")
    if len(index) + len(constants) != len(numbers) or len(constants) != len(pair) - np.count_nonzero(pair):
        return np.zeros(0)  # cannot be for a matched block; refused by the caller
    numbers[is_index], numbers[~is_index] = index, constants
    return numbers


def _encode(block: bytes, grammar: Grammar) -> bytes:
    """Replace tensor names (each follows a blank) by their codes, and == by one byte."""
    for place, (name, shape) in enumerate(zip(grammar.names, grammar.shapes, strict=True)):
        mark = b" %c " % (_INPUT_CODE + place)
        if shape:
            block = block.replace(b" " + name + b"[", mark)
        else:
            block = block.replace(b" " + name + b" ", mark).replace(b" " + name + b")", mark)
    return block.replace(b"==", bytes([_EQUAL]))


def _columns(numbers: np.ndarray, begin: np.ndarray, code: np.ndarray, grammar: Grammar) -> np.ndarray | None:
    """Return joint columns of elements whose indices start at `numbers[begin]`; None if one is out of range."""
    columns = np.zeros(len(code), np.int64)
    for place, shape in enumerate(grammar.shapes):
        mine = code == place
        if not mine.any():
            continue
        first = begin[mine]
        element = np.zeros(len(first), np.int64)
        for axis, size in enumerate(shape):
            index = numbers[first + axis]
            if index.max() >= size:
                return None
            element = element * size + index.astype(np.int64)
        columns[mine] = element + grammar.starts[place]
    return columns
