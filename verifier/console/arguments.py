"""What all command lines share: one parser class, one syntax for ranges, one for tolerances, one way to say a mistake.

A mistake is one line, what was found, what was expected, what to do, as for the keys of an options file:
    verify: error: unknown option --timout: did you mean --timeout?
"""

from __future__ import annotations

import argparse
import difflib
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

Span = tuple[float, float]
PIXELS, SHARE = "px", "share"


class CommandParser(argparse.ArgumentParser):
    """argparse with mistakes in one line, suggestions, `--version`, and values that begin with a minus sign."""

    def __init__(self, prog: str, description: str | None, epilog: str | None = None) -> None:
        super().__init__(
            prog=prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        self.register("type", float, _float)
        self.register("type", int, _int)
        self.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse; unknown options come first, since a misspelt one makes others look missing."""
        given = _joined(list(sys.argv[1:] if args is None else args))
        for argument in given[: given.index("--")] if "--" in given else given:
            self._check_known(argument.partition("=")[0])
        found, rest = self.parse_known_args(given, namespace)
        if rest:
            self.error(f"unexpected {'arguments' if len(rest) > 1 else 'argument'}: {' '.join(rest)[:200]}")
        return found

    def error(self, message: str) -> NoReturn:
        """One line on stderr that ends in what to do, and exit code 2."""
        text = " ".join(message.removeprefix("argument ").split())
        advice = "" if "did you mean" in text else f" ({self.prog} --help explains every option)"
        self.exit(2, f"{self.prog}: error: {text}{advice}\n")

    def _check_known(self, name: str) -> None:
        if not name.startswith("--"):
            return
        known = [option for action in self._actions for option in action.option_strings]
        if not any(option.startswith(name) for option in known):  # argparse takes unambiguous beginnings
            self.error(unknown("option", name, [option for option in known if option.startswith("--")]))

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's own words differ between versions of Python, and suggest nothing."""
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            near = difflib.get_close_matches(str(value), choices, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            text = f"found '{str(value)[:60]}', expected one of {', '.join(choices)}{hint}"
            raise argparse.ArgumentError(action, text)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: the metadata take longer to read than the options."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"{parser.prog} {version()}")
        parser.exit(0)


def version() -> str:
    """The version of this package."""
    from importlib import metadata

    try:
        return metadata.version("secateur")
    except metadata.PackageNotFoundError:
        return "(not installed: run from a source tree)"


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(name[:100], list(known), n=1)
    return f"unknown {kind} {name[:60]}" + (f": did you mean {near[0]}?" if near else "")


def numbers(text: str) -> tuple[float, ...]:
    """Numbers separated by commas."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found '{text[:60]}', expected numbers separated by commas") from None


def span(text: str) -> Span:
    """One range: LOW,HIGH or LOW:HIGH."""
    try:
        low, high = (float(part) for part in re.split("[,:]", text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"found '{text[:60]}', expected LOW,HIGH or LOW:HIGH") from None
    if not (math.isfinite(low) and math.isfinite(high)):
        raise argparse.ArgumentTypeError(f"found '{text[:60]}', expected two finite numbers")
    return low, high


@dataclass(frozen=True)
class Tolerance:
    """How far a key point may be off: `value` in `unit`, pixels (`px`) or a share of the image side (`share`)."""

    value: float
    unit: str

    def pixels(self, side: int) -> float:
        """In pixels of an image of this side."""
        return self.value if self.unit == PIXELS else self.value * side

    def share(self, side: int) -> float:
        """As a share of this image side."""
        return self.value if self.unit == SHARE else self.value / side


def tolerance(text: str, plain: str = PIXELS) -> Tolerance:
    """One tolerance: `3px`, `5%` of the image side, or a plain number in the unit `plain`."""
    match = re.fullmatch(r"\s*([^\s%a-z]\S*?)\s*(px|%)?\s*", text)
    try:
        value, unit = float(match[1]), match[2]  # type: ignore[index]
    except (TypeError, ValueError):
        raise argparse.ArgumentTypeError(f"found '{text[:60]}', expected pixels (3px) or a share (5%)") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found '{text[:60]}', expected a number above 0")
    return Tolerance(value / 100, SHARE) if unit == "%" else Tolerance(value, unit or plain)


def tolerances(text: str) -> tuple[Tolerance, ...]:
    """One tolerance, or one per key point, separated by commas; plain numbers are pixels."""
    return tuple(tolerance(part) for part in text.split(","))


def share(text: str) -> Tolerance:
    """One tolerance; a plain number is a share of the image side."""
    return tolerance(text, SHARE)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found '{text[:60]}', expected a number") from None


def _int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found '{text[:60]}', expected a whole number") from None


def _joined(arguments: list[str]) -> list[str]:
    """argparse takes `-0.1,0.1` for an option; join it to the option before it."""
    result: list[str] = []
    for argument in arguments:
        negative = re.match(r"-\.?\d", argument) is not None
        if negative and result and result[-1].startswith("--") and "=" not in result[-1] and result[-1] != "--":
            result[-1] += f"={argument}"
        else:
            result.append(argument)
    return result
