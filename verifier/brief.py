"""Short texts of big values: what `print` shows of a network or a problem is its shape, not its weights."""

from __future__ import annotations

import dataclasses
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_TEXT = reprlib.Repr()
_TEXT.maxstring = _TEXT.maxother = 60
_FEW = 4


def brief(value: Any) -> str:
    """`__repr__` of a dataclass that holds arrays: its fields, arrays as type and shape, long sequences as a count."""
    shown = [f for f in dataclasses.fields(value) if f.repr]
    parts = (f"{f.name}={item(getattr(value, f.name))}" for f in shown)
    return f"{type(value).__name__}({', '.join(parts)})"


def item(value: Any) -> str:
    """One field of `brief`."""
    if dataclasses.is_dataclass(value) and type(value).__eq__ is object.__eq__:
        return f"{type(value).__name__}(..)"  # compared by identity: a big value, to be printed by itself
    shape, kind = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and kind is not None:  # an array or a tensor
        return f"{str(kind).removeprefix('torch.')}{list(shape)}"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, Mapping):
        return f"{{{len(value):,} entries}}" if value else "{}"
    if isinstance(value, tuple | list | frozenset | set):
        plain = all(isinstance(one, str | int | float | bool | type(None)) for one in value)
        return _TEXT.repr(value) if plain and len(value) <= _FEW else f"({len(value):,} items)"
    if value is None or isinstance(value, int | float) or dataclasses.is_dataclass(value):
        return repr(value)
    return _TEXT.repr(value) if isinstance(value, str) else f"<{type(value).__name__}>"


def counted(names: Iterable[str]) -> str:
    """How often each name comes, the most frequent first: `12 Relu, 3 Conv`."""
    found = sorted(Counter(names).items(), key=lambda pair: (-pair[1], pair[0]))
    text = ", ".join(f"{count} {name}" for name, count in found[:8])
    return f"{text}, .." if len(found) > 8 else text or "none"
