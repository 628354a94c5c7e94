"""From ONNX operator and opset to lowering function: a visible table, filled by decorators in this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verifier.graph.onnx_import.context import Context, Operand

    Lowering = Callable[[Context], "Operand | tuple[Operand, ...]"]

_TABLE: dict[str, list[tuple[int, Lowering]]] = {}


def lowers(*ops: str, since: int = 1) -> Callable[[Lowering], Lowering]:
    """Decorator: this function lowers the ONNX operators `ops` from opset `since` on (until a later entry)."""

    def enter(function: Lowering) -> Lowering:
        for op in ops:
            entries = _TABLE.setdefault(op, [])
            if any(version == since for version, _ in entries):
                raise ValueError(f"ONNX operator {op} since {since} registered twice")
            entries.append((since, function))
            entries.sort(key=lambda entry: entry[0])
        return function

    return enter


def lookup(op: str, opset: int) -> Lowering | None:
    """The lowering of `op` at `opset`, or None."""
    found = None
    for since, function in _TABLE.get(op, ()):
        if since <= opset:
            found = function
    return found


def operators() -> Mapping[str, tuple[int, ...]]:
    """Every ONNX operator that can be lowered, with the opsets at which the lowering changes."""
    return {op: tuple(since for since, _ in entries) for op, entries in sorted(_TABLE.items())}
