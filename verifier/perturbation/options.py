"""The options of the command lines for perturbations: one per parameter, one per constant, and all in one text."""

from __future__ import annotations

import argparse
from typing import Any

from verifier.console.arguments import span
from verifier.perturbation.table import PARAMETERS, known_constants
from verifier.perturbation.text import LEVELS

NAMED = "--semantic"


def add_perturbation(group: argparse._ArgumentGroup, *names: str, dest: str = "semantic", default: str = "") -> None:
    """Adds them; all are gathered into one text, for `Perturbation.parse`. names: others for `--semantic`."""
    common: dict[str, Any] = {"action": _Gather, "dest": dest, "default": default}
    known = ", ".join(LEVELS)
    told = f" (default: {default})" if default else ""
    group.add_argument(
        *names,
        NAMED,
        metavar="NAME=LOW:HIGH,..",
        help=f"ranges and constants by name, or one of {known}{told}",
        **common,
    )
    for name, row in PARAMETERS.items():
        text = f"{row.unit}; {row.identity:g} changes nothing"
        group.add_argument(f"--{name.replace('_', '-')}", metavar="LOW,HIGH", help=text, **common)
    for name, constant in known_constants().items():
        of = ", ".join(row.name for row in PARAMETERS.values() if constant in row.constants)
        shown = "" if constant.default is None else f" (default: {_shown(constant.default)})"
        text = f"of {of}: {constant.help}{shown}"
        group.add_argument(f"--{name.replace('_', '-')}", metavar=constant.metavar, help=text, **common)


def _shown(value: Any) -> str:
    return ",".join(f"{v:g}" for v in value) if isinstance(value, tuple) else f"{value}"


class _Gather(argparse.Action):
    """Adds NAME=VALUE to the text of all; a range takes the place of the level that is the default."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, *_: object) -> None:
        """Extends the text. Other mistakes than of form are told by `Perturbation.parse`."""
        name = self.option_strings[0].removeprefix("--").replace("-", "_")
        by_name = NAMED in self.option_strings
        added = values if by_name else f"{name}={values}"
        if name in PARAMETERS:
            try:
                low, high = span(values)
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentError(self, str(error)) from None
            added = f"{name}={low!r}:{high!r}"
        before, default = getattr(namespace, self.dest), parser.get_default(self.dest)
        if (by_name or name in PARAMETERS) and default and (before == default or before.startswith(f"{default},")):
            before = before.removeprefix(default).removeprefix(",")
        setattr(namespace, self.dest, ",".join(filter(None, (before, added))))
