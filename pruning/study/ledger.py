"""The append-only files of a study: one JSON object per line (see `verifier.files.ledger`)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pruning.study.errors import ResultsError
from verifier.errors import OutputError
from verifier.files.ledger import MAX_LINE, Ledger, Lines

__all__ = ["MAX_LINE", "Ledger", "json_lines", "opened"]
T = TypeVar("T")


def opened(path: str | os.PathLike[str], lines: Lines[T]) -> Ledger[T]:
    """The open ledger; folders on the way are made. Raises ResultsError and OutputError as `Ledger` does."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot write the results: {error.strerror or error}") from None
    return Ledger(path, lines)


def json_lines(
    encode: Callable[[T], Mapping[str, Any]],
    decode: Callable[[Mapping[str, Any]], T],
    key: Callable[[T], Hashable],
) -> Lines[T]:
    """Lines that are flat JSON objects; decode raises ValueError, KeyError or TypeError for one that is no row."""

    def from_line(line: str) -> T:
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"found {line[:60]!r}, expected one JSON object per line") from None
        if not isinstance(value, dict):
            raise ValueError(f"found {type(value).__name__}, expected a JSON object")
        try:
            return decode(value)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"no result of a study: {error}") from None

    def to_line(row: T) -> str:
        return json.dumps(dict(encode(row)), allow_nan=False, separators=(",", ":"))

    return Lines(to_line, from_line, lambda torn: torn.startswith(b"{"), ResultsError, key)
