"""Checks a witness without any code of the tool: reads the specification itself, runs the network in ONNX Runtime.

Only VNN-LIB 1.0 (the benchmarks of VNN-COMP up to 2025). Inputs are compared in the network's own precision, as the
competition's checker does: a bound of 0.1 means float32(0.1) for a float32 network. Nothing is forgiven.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_TOKEN = re.compile(rb"[()]|[^\s()]+")
_COMPARE = {b"<=": lambda a, b: a <= b, b">=": lambda a, b: a >= b, b"<": lambda a, b: a < b, b">": lambda a, b: a > b,
            b"=": lambda a, b: a == b, b"==": lambda a, b: a == b}  # fmt: skip


def read(path: Path) -> bytes:
    """The content of `path`, or of `path.gz`, unpacked."""
    data = (path if path.exists() else path.with_name(path.name + ".gz")).read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def start(data: bytes) -> Any:
    """An ONNX Runtime session that keeps its advice to itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def check(model: Path, spec: Path, witness: str) -> str:
    """What is wrong with the witness; empty if it holds."""
    numbers = re.findall(r"\(\s*([XY])_(\d+)\s+([^\s()]+)\s*\)", witness)
    inputs = [float(value) for letter, _, value in numbers if letter == "X"]
    if [int(i) for letter, i, _ in numbers if letter == "X"] != list(range(len(inputs))):
        return "the inputs are not X_0, X_1, .. without a gap"
    session = start(read(model))
    (entry,) = session.get_inputs()
    kind = np.float64 if "double" in entry.type else np.float32
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in entry.shape]
    if int(np.prod(shape)) != len(inputs):
        return f"{len(inputs)} inputs, the network has {shape}"
    x = np.array(inputs, kind).reshape(shape)
    y = session.run(None, {entry.name: x})[0].astype(np.float64).ravel()
    values = {f"X_{i}".encode(): v for i, v in enumerate(x.ravel())}
    values |= {f"Y_{i}".encode(): v for i, v in enumerate(y)}
    for text, holds in assertions(read(spec), values, kind):
        if not holds:
            return f"does not hold: {text[:120]}"
    return ""


def assertions(text: bytes, values: dict[bytes, Any], kind: type) -> Iterator[tuple[str, bool]]:
    """Every assertion of a 1.0 file with its truth value at `values`."""
    stack: list[list[Any]] = [[]]
    for token in _TOKEN.findall(re.sub(rb";[^\n]*", b"", text)):
        if token == b"(":
            stack.append([])
        elif token == b")":
            done = stack.pop()
            if done and done[0] == b"assert":
                yield str(done[1]), bool(done[1])
            elif done[:1] not in ([b"declare-const"], [b"declare-fun"], []):
                stack[-1].append(_apply(done, values, kind))
        else:
            stack[-1].append(token)


def _apply(items: list[Any], values: dict[bytes, Any], kind: type) -> Any:
    """One innermost list, its parts evaluated already; conditions become `_Truth`, terms numbers."""
    head, *rest = items
    if head in (b"and", b"or"):
        holds = all(rest) if head == b"and" else any(rest)
        return _Truth(holds, f"({head.decode()} .. {len(rest)} parts)")
    letters = {part[:1] for part in rest if isinstance(part, bytes)}
    only_inputs = b"X" in letters and b"Y" not in letters
    cast = kind if only_inputs else np.float64
    terms = [part if not isinstance(part, bytes) else cast(values[part] if part in values else float(part))
             for part in rest]  # fmt: skip
    if head in _COMPARE:
        left, right = terms
        return _Truth(bool(_COMPARE[head](left, right)), f"({head.decode()} {rest[0]!s} {rest[1]!s})")
    if head == b"+":
        return sum(terms[1:], terms[0])
    if head == b"-":
        return -terms[0] if len(terms) == 1 else terms[0] - sum(terms[2:], terms[1])
    if head == b"*":
        return np.prod(terms)
    raise ValueError(f"unknown operator {head!r}")


class _Truth:
    """A truth value that remembers its text."""

    def __init__(self, holds: bool, text: str) -> None:
        self._holds, self._text = holds, text

    def __bool__(self) -> bool:
        return self._holds

    def __str__(self) -> str:
        return self._text
