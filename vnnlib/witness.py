"""Counterexample files, both versions, both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from vnnlib.errors import VnnLibError, VnnLibSyntaxError
from vnnlib.spec import FLOAT_TYPES, SIGNED_TYPES, UNSIGNED_TYPES, Spec

_PAIR = re.compile(r"\s*\(\s*([XY])_([0-9]+)\s+([^\s()]+)\s*\)", re.ASCII)
_HEADER = re.compile(r"([A-Za-z][A-Za-z0-9_]*)\s+([A-Za-z0-9_]+)\s*\[([0-9,\s]*)\]", re.ASCII)
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", re.ASCII)


def _numbers(values: npt.ArrayLike, name: str) -> list[float]:
    """Return flat Python floats; refuse NaN and infinities, which no checker may ever see."""
    flat = np.asarray(values, np.float64).reshape(-1)
    if not np.isfinite(flat).all():
        raise VnnLibError(f"element {int(np.flatnonzero(~np.isfinite(flat))[0])} of {name} is not a finite number")
    return [float(v) for v in flat]


def format_witness_v1(x: npt.ArrayLike, y: npt.ArrayLike) -> str:
    """Return the 1.0 witness of inputs x and outputs y (any shapes, row-major), exact to the last bit.

    Raises `VnnLibError` for NaN or infinite elements.
    """
    pairs = [f"(X_{i} {v!r})" for i, v in enumerate(_numbers(x, "X"))]
    pairs += [f"(Y_{j} {v!r})" for j, v in enumerate(_numbers(y, "Y"))]
    return "(" + "\n ".join(pairs) + ")\n"


def format_witness_v2(spec: Spec, values: Mapping[str, npt.ArrayLike]) -> str:
    """Return the 2.0 witness: every declared variable in declaration order with its values.

    Raises `VnnLibError` for a missing tensor, a wrong number of elements, or elements that are not finite.
    """
    lines = []
    for tensor in spec.tensors:
        if tensor.name not in values:
            raise VnnLibError(f"no value for {tensor.name}", expected=", ".join(t.name for t in spec.tensors))
        flat = np.asarray(values[tensor.name]).reshape(-1)
        if flat.size != tensor.size:
            raise VnnLibError(f"{tensor.name} has {tensor.size} elements, {flat.size} values are given")
        lines.append(f"{tensor.name} {tensor.dtype} [{','.join(map(str, tensor.shape))}]")
        if tensor.dtype in FLOAT_TYPES:
            lines += [repr(v) for v in _numbers(flat, tensor.name)]
        elif tensor.dtype == "bool":
            lines += ["true" if v else "false" for v in flat.tolist()]
        elif tensor.dtype in SIGNED_TYPES | UNSIGNED_TYPES:
            if any(v != int(v) for v in _numbers(flat, tensor.name)):
                raise VnnLibError(f"{tensor.name} of type {tensor.dtype} holds a fraction")
            lines += [str(int(v)) for v in flat.tolist()]
        else:
            raise VnnLibError(f"values of type {tensor.dtype} ({tensor.name}) cannot be written")
    return "\n".join(lines) + "\n"


def parse_witness(text: str, spec: Spec | None = None, *, name: str = "<string>") -> dict[str, np.ndarray]:
    """Read a witness of either version; a first line `sat` is skipped.

    Returns arrays by tensor name: float64 for float types, int64 (uint64) and bool otherwise; flat X and Y for 1.0, the
    shapes of the headers for 2.0. With `spec`, names, order, shapes, types and counts must match it. Raises
    `VnnLibSyntaxError` with line for anything malformed, NaN and infinities included.
    """
    head, _, rest = text.partition("\n")
    first = 2 if head.strip() == "sat" else 1
    body = rest if first == 2 else text
    if body.lstrip()[:1] == "(":
        found = _parse_v1(body, name, first)
        if spec is not None:
            _match_v1(found, spec, name)
        return found
    return _parse_v2(body, spec, name, first)


def _fail(message: str, name: str, line: int, found: str = "", expected: str = "") -> VnnLibSyntaxError:
    return VnnLibSyntaxError(message, path=name, line=line, column=1, found=found, expected=expected)


def _parse_v1(body: str, name: str, first: int) -> dict[str, np.ndarray]:
    """Read `((X_0 v) .. (Y_0 v) ..)`."""
    stripped = body.strip()
    if not stripped.endswith(")"):
        raise _fail("the witness is not closed", name, first + body.count("\n"), expected="')'")
    at, end = body.index("(") + 1, body.rindex(")")
    values: dict[str, list[float]] = {"X": [], "Y": []}
    while match := _PAIR.match(body, at, end):
        line = first + body.count("\n", 0, match.start(1)) if len(values["X"]) < 2 else first
        letter, index = match[1], int(match[2])
        if letter == "X" and values["Y"]:
            raise _fail("inputs stand before outputs", name, line, f"X_{index}")
        if index != len(values[letter]):
            raise _fail(
                "indices are not consecutive", name, line, f"{letter}_{index}", f"{letter}_{len(values[letter])}"
            )
        values[letter].append(_finite(match[3], name, line))
        at = match.end()
    if body[at:end].strip():
        line = first + body.count("\n", 0, at)
        raise _fail("malformed witness", name, line, body[at:end].strip()[:40], "(X_i value) or (Y_j value)")
    return {letter: np.array(numbers, np.float64) for letter, numbers in values.items()}


def _finite(text: str, name: str, line: int) -> float:
    """Return a number; only finite decimals are numbers here."""
    if not _NUMBER.fullmatch(text) or abs(float(text)) == float("inf"):
        raise _fail("not a finite number", name, line, text)
    return float(text)


def _match_v1(found: dict[str, np.ndarray], spec: Spec, name: str) -> None:
    """Compare counts with a specification."""
    for letter, kind in (("X", "input"), ("Y", "output")):
        if len(found[letter]) != spec.size(kind):
            why = f"the witness has {len(found[letter])} {letter} values, the specification {spec.size(kind)}"
            raise VnnLibError(why, path=name)


def _parse_v2(body: str, spec: Spec | None, name: str, first: int) -> dict[str, np.ndarray]:
    """Read headers and values line by line."""
    lines = [(number, line.strip()) for number, line in enumerate(body.split("\n"), first) if line.strip()]
    found: dict[str, np.ndarray] = {}
    declared = list(spec.tensors) if spec is not None else None
    at = 0
    while at < len(lines):
        number, text = lines[at]
        match = _HEADER.fullmatch(text)
        if match is None:
            raise _fail("malformed witness", name, number, text[:40], "a header such as X float32 [1,2]")
        tensor, dtype = match[1], match[2].lower()
        shape = _shape(match[3], name, number)
        if tensor in found:
            raise _fail("variable given twice", name, number, tensor)
        if declared is not None:
            if len(found) >= len(declared):
                raise _fail("more variables than declared", name, number, tensor)
            want = declared[len(found)]
            fits = dtype == want.dtype or (dtype == "real" and want.dtype in FLOAT_TYPES)
            if tensor != want.name or shape != want.shape or not fits:
                expected = f"{want.name} {want.dtype} [{','.join(map(str, want.shape))}]"
                raise _fail("header does not match the specification", name, number, text, expected)
        count = prod(shape)
        values = lines[at + 1 : at + 1 + count]
        if len(values) < count:
            raise _fail(f"{tensor} needs {count} values, {len(values)} follow", name, lines[-1][0])
        found[tensor] = _values(values, dtype, name).reshape(shape)
        at += 1 + count
    if declared is not None and len(found) < len(declared):
        raise _fail(f"no values for {declared[len(found)].name}", name, first + body.count("\n"))
    return found


def _shape(text: str, name: str, line: int) -> tuple[int, ...]:
    """Return the shape between brackets."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isdigit() and len(part) < 19 for part in parts):
        raise _fail("malformed shape", name, line, text)
    return tuple(map(int, parts))


def _values(lines: Sequence[tuple[int, str]], dtype: str, name: str) -> np.ndarray:
    """Convert value lines to an array of the type's kind."""
    if dtype == "bool":
        words = {"true": True, "1": True, "false": False, "0": False}
        for number, text in lines:
            if text.lower() not in words:
                raise _fail("not a truth value", name, number, text, "true, false, 0 or 1")
        return np.array([words[text.lower()] for _, text in lines], bool)
    if dtype in SIGNED_TYPES | UNSIGNED_TYPES:
        kind: Any = np.uint64 if dtype in UNSIGNED_TYPES else np.int64
        for number, text in lines:
            if not re.fullmatch(r"-?[0-9]{1,19}", text, re.ASCII):
                raise _fail("not an integer", name, number, text)
        try:
            return np.array([int(text) for _, text in lines], kind)
        except OverflowError:
            raise _fail(f"an integer does not fit {dtype}", name, lines[0][0]) from None
    return np.array([_finite(text, name, number) for number, text in lines], np.float64)
