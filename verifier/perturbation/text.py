"""Perturbations as text: `contrast=0.8:1.2,brightness=-0.1:0.1,anchor=0.5`, or the name of a level."""

from __future__ import annotations

import re

from verifier.console.arguments import Span, unknown
from verifier.errors import OptionsError

_HALF = {"none": (0.0, 0.0), "small": (0.1, 0.05), "medium": (0.2, 0.1), "large": (0.3, 0.2), "widest": (0.7, 0.4)}
LEVELS: dict[str, dict[str, Span]] = {
    name: {"contrast": (1.0 - c, 1.0 + c), "brightness": (0.0 - b, b)} for name, (c, b) in _HALF.items()
}
"""Ranges with a name, all in one plane."""

STILL = LEVELS["none"]
"""The unchanged image, in the plane of the levels."""


def pieces(text: str) -> tuple[list[str], dict[str, str]]:
    """Levels, and values by name: `LEVEL,NAME=VALUE,NAME=VALUE`; a value may hold commas. An empty text has none.

    Raises:
        OptionsError: a part is neither a level nor NAME=VALUE, or a name comes twice.
    """
    levels: list[str] = []
    named: dict[str, str] = {}
    for part in filter(None, re.split(r"[,;\s]+(?=[^\W\d]\w*\s*=)", text.strip())):  # before a name, not in a range
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals and name in LEVELS and not levels and not named:
            levels.append(name)
        elif not equals or not name:
            what = unknown("level", part[:60], LEVELS) if part.isidentifier() else f"range '{part[:60]}'"
            raise OptionsError(
                f"{what}; expected NAME=LOW:HIGH, such as brightness=-0.1:0.1, or one of {', '.join(LEVELS)}"
            )
        elif name in named:
            raise OptionsError(f"range '{name[:60]}' is given twice")
        else:
            named[name] = value
    return levels, named
