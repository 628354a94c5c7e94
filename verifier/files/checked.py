"""Values that people write (options, settings of a study): frozen, checked when they are built, from plain data.

A new one is one line in its class: a field with its type, its default and its range. The reader and the error messages
follow from it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, TypeVar

from verifier.errors import OptionsError, SecateurError

_T = TypeVar("_T", bound="Checked")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "null"}


def one_of(default: str, *others: str) -> Any:
    """A field that holds one of a few words."""
    return field(default=default, metadata={"choices": (default, *others)})


def registered(default: str, names: list[str]) -> Any:
    """A field that holds one of the words in `names`, to which whoever registers another one adds it."""
    return field(default=default, metadata={"choices": names})


def at_least(minimum: float, default: float | None, *, strict: bool = False, most: float = math.inf) -> Any:
    """A number not below `minimum` (above it if `strict`) nor above `most`, or None where the type allows it."""
    return field(default=default, metadata={"minimum": minimum, "strict": strict, "most": most})


class Checked:
    """Base of values that people write: every field is checked against its annotation and range when it is built.

    prefix: of a field's name in messages; error: the exception that holds them.
    """

    _prefix: ClassVar[str]
    _error: ClassVar[type[SecateurError]]

    def __init_subclass__(cls, prefix: str = "option ", error: type[SecateurError] = OptionsError) -> None:
        cls._prefix, cls._error = prefix, error

    @classmethod
    def _kinds(cls) -> dict[str, Any]:
        return {name: kind for name, kind in typing.get_type_hints(cls).items() if not name.startswith("_")}

    def __post_init__(self) -> None:
        hints = self._kinds()
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            name = f"{self._prefix}{item.name}"
            value = fit(name, getattr(self, item.name), hints[item.name], self._error)
            wanted = _out_of_range(value, item.metadata)
            if wanted:
                raise self._error(f"{name}: found {show(value)}, expected {wanted}")
            object.__setattr__(self, item.name, value)  # an int given for a float is stored as a float

    @classmethod
    def from_mapping(cls: type[_T], mapping: Mapping[str, object]) -> _T:
        """Builds the value from plain data, as a YAML file holds it.

        Raises:
            SecateurError: `error` of the class: an unknown name (the nearest known one is suggested), a wrong type, or
                a value out of range.
        """
        hints = cls._kinds()
        values: dict[str, Any] = {}
        for name, value in mapping.items():
            if name not in hints:
                raise cls._error(f"unknown {cls._prefix}{reprlib.repr(name).strip(chr(39))}: {_near(name, hints)}")
            kind = hints[name]
            if isinstance(kind, type) and issubclass(kind, Checked):
                if not isinstance(value, Mapping):
                    known = ", ".join(kind._kinds())
                    raise OptionsError(f"option {name}: found {show(value)}, expected a group with any of: {known}")
                value = kind.from_mapping(value)
            values[name] = value
        return cls(**values)

    def to_mapping(self) -> dict[str, object]:
        """The same as plain nested data, for result files."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


def fit(what: str, value: Any, kind: Any, error: type[SecateurError]) -> Any:
    """`value` as the annotated type `kind`, else `error`; harmless conversions (3 -> 3.0, "1e-3" -> 0.001) are made."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(value) in kinds:
        return value
    if float in kinds and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as text
        except (ValueError, OverflowError):
            pass
    expected = " or ".join(_WORDS.get(k, f"a {k.__name__} value") for k in kinds)
    raise error(f"{what}: found {show(value)}, expected {expected}")


def _out_of_range(value: Any, rules: Mapping[str, Any]) -> str:
    """What was expected, if the value is not it."""
    choices = rules.get("choices")
    if choices and value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        return f"one of {', '.join(choices)}{f' (did you mean {near[0]}?)' if near else ''}"
    if rules.get("minimum") is None or value is None:
        return ""
    minimum, most, strict = rules["minimum"], rules["most"], rules["strict"]
    if minimum <= value <= most and not (strict and value == minimum):
        return ""
    return f"a number {'>' if strict else '>='} {minimum:g}{f' and at most {most:g}' if most < math.inf else ''}"


def _near(name: object, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(str(name)[:100], known, n=1)
    return f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"


def show(value: object) -> str:
    """For a message."""
    return reprlib.repr(value)  # bounded in depth and length: the value may come from a hostile file
