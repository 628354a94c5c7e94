"""Options: small frozen values, checked when they are built, from keywords or from a YAML file.

A new option is one line here: a field with its type, its default and its range. The command line, the YAML reader and
the error messages follow from it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, TypeVar

from verifier.errors import OptionsError
from verifier.files.settings import read_yaml

_T = TypeVar("_T", bound="_Checked")
_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word", type(None): "null"}


def one_of(default: str, *others: str) -> Any:
    """A field that holds one of a few words."""
    return field(default=default, metadata={"choices": (default, *others)})


def registered(default: str, names: list[str]) -> Any:
    """A field that holds one of the words in `names`, to which whoever registers another one adds it."""
    return field(default=default, metadata={"choices": names})


def at_least(minimum: float, default: float | None, *, strict: bool = False) -> Any:
    """A number not below `minimum` (above it if `strict`), or None where the type allows it."""
    return field(default=default, metadata={"minimum": minimum, "strict": strict})


BOUND_METHODS = ["auto", "forward", "crown", "alpha", "lumped"]
"""Words for `bounds.method`, known before PyTorch is; `verifier.bounds.bound.bound_method` adds to them."""

BRANCHING_RULES = ["auto", "smear", "widest"]
"""Words for `search.branching`; `verifier.search.branch.branching_rule` adds to them."""


class _Checked:
    """Base of the option values: every field is checked against its annotation and range when the value is built."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = _fit(f"{_title(type(self))}{item.name}", getattr(self, item.name), hints[item.name])
            _in_range(f"{_title(type(self))}{item.name}", value, item.metadata)
            object.__setattr__(self, item.name, value)  # an int given for a float is stored as a float

    @classmethod
    def from_mapping(cls: type[_T], mapping: Mapping[str, object]) -> _T:
        """Builds the value from plain data, as a YAML file holds it.

        Raises:
            OptionsError: an unknown name (the nearest known one is suggested), a wrong type, or a value out of range.
        """
        hints = typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        for name, value in mapping.items():
            if name not in hints:
                raise OptionsError(_unknown(f"{_title(cls)}{reprlib.repr(name).strip(chr(39))}", name, hints))
            kind = hints[name]
            if isinstance(kind, type) and issubclass(kind, _Checked):
                if not isinstance(value, Mapping):
                    known = ", ".join(typing.get_type_hints(kind))
                    raise OptionsError(f"option {name}: found {_show(value)}, expected a group with any of: {known}")
                value = kind.from_mapping(value)
            values[name] = value
        return cls(**values)

    def to_mapping(self) -> dict[str, object]:
        """The same as plain nested data, for result files."""
        return dataclasses.asdict(self)  # type: ignore[call-overload]


@dataclass(frozen=True)
class SearchOptions(_Checked):
    """Branch and bound. `batch`: boxes per step (None: from the problem and the free memory). `branching`: the rule by
    which inputs are split."""

    batch: int | None = at_least(1, None)
    max_depth: int = at_least(1, 200)
    branching: str = registered("auto", BRANCHING_RULES)


@dataclass(frozen=True)
class BoundOptions(_Checked):
    """Bounds. `method` "auto" chooses from the problem; `alpha_steps` are gradient steps of alpha-CROWN."""

    method: str = registered("auto", BOUND_METHODS)
    alpha_steps: int = at_least(0, 20)


@dataclass(frozen=True)
class AttackOptions(_Checked):
    """Search for counterexamples. `restarts` 0 switches it off."""

    restarts: int = at_least(0, 32)
    steps: int = at_least(1, 40)


@dataclass(frozen=True)
class Options(_Checked):
    """All options of a run. `timeout` is in seconds, None for no limit; `memory` in GB (10^9 bytes), None for a share
    of what is free. `deterministic`: nothing that is measured (time, memory) changes what is searched.
    `checkpoint_every`: seconds between two checkpoints, where these are written."""

    device: str = one_of("auto", "cpu", "cuda")
    dtype: str = one_of("auto", "float32", "float64")
    seed: int = at_least(0, 0)
    timeout: float | None = at_least(0, None, strict=True)
    memory: float | None = at_least(0, None, strict=True)
    deterministic: bool = False
    checkpoint_every: float = at_least(0, 10.0)
    search: SearchOptions = field(default_factory=SearchOptions)
    bounds: BoundOptions = field(default_factory=BoundOptions)
    attack: AttackOptions = field(default_factory=AttackOptions)

    @classmethod
    def from_yaml(cls, path: str | PathLike[str]) -> Options:
        """Reads options from a YAML file; an empty file gives the defaults.

        Raises:
            OptionsError: the file cannot be read, is not YAML, or holds an unknown or impossible option.
        """
        data = read_yaml(path, "the options file", OptionsError)
        data = {} if data is None else data
        if not isinstance(data, Mapping):
            raise OptionsError(f"{path}: found {_show(data)}, expected lines 'option: value'")
        try:
            return cls.from_mapping(data)
        except OptionsError as error:
            raise OptionsError(f"{path}: {error}") from None


def refuse_unused(options: Options, used: Collection[str], what: str) -> None:
    """What cannot be honoured is not ignored.

    Raises:
        OptionsError: an option that `what` does not use (its name is not in `used`) is not at its default.
    """
    given, default = dotted(options.to_mapping()), dotted(Options().to_mapping())
    for name, value in given.items():
        if name not in used and value != default[name]:
            raise OptionsError(
                f"option {name}: found {_show(value)}, but {what} does not use it; leave it at {default[name]}"
            )


def dotted(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested options by dotted names."""
    found: dict[str, object] = {}
    for name, value in mapping.items():
        found.update(dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return found


def _title(cls: type) -> str:
    """The dotted prefix of a group's options in messages."""
    return {"SearchOptions": "search.", "BoundOptions": "bounds.", "AttackOptions": "attack."}.get(cls.__name__, "")


def _fit(name: str, value: Any, kind: Any) -> Any:
    """`value` as the annotated type `kind`; the harmless conversions (3 -> 3.0, "1e-3" -> 0.001) are made."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if type(value) in kinds:
        return value
    if float in kinds and isinstance(value, (int, str)) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-3 as text
        except (ValueError, OverflowError):
            pass
    expected = " or ".join(_WORDS.get(k, f"a {k.__name__} value") for k in kinds)
    raise OptionsError(f"option {name}: found {_show(value)}, expected {expected}")


def _in_range(name: str, value: Any, rules: Mapping[str, Any]) -> None:
    choices = rules.get("choices")
    if choices and value not in choices:
        near = difflib.get_close_matches(value, choices, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise OptionsError(f"option {name}: found {_show(value)}, expected one of {', '.join(choices)}{hint}")
    minimum = rules.get("minimum")
    if minimum is not None and value is not None:
        fits = not math.isnan(value) and (value > minimum if rules["strict"] else value >= minimum)
        if not fits:
            relation = ">" if rules["strict"] else ">="
            raise OptionsError(f"option {name}: found {_show(value)}, expected a number {relation} {minimum:g}")


def _unknown(title: str, name: object, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(str(name)[:100], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
    return f"unknown option {title}: {hint}"


def _show(value: object) -> str:
    return reprlib.repr(value)  # bounded in depth and length: the value may come from a hostile file
