"""The `secateur` command: one name in front of the others, each imported only when it is asked for."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NoReturn

from verifier import process

COMMANDS = {
    "verify": ("verifier.cli", "decide whether a network satisfies a specification"),
    "prune": ("pruning.cli", "make a network smaller: ONNX in, ONNX out"),
    "spec": (
        "verifier.semantic.cli",
        "semantic properties: image, keypoints and ranges to model and specification",
    ),
    "coverage": ("verifier.semantic.coverage", "which part of a semantic range is certified, refuted or open"),
    "compare": ("pruning.study.cli", "certified coverage before and after pruning"),
    "train": ("verifier.training.train", "train a keypoint network"),
}


def available() -> dict[str, str]:
    """The commands of this installation, name to one line of help: those whose module is there."""
    return {name: text for name, (module, text) in COMMANDS.items() if _exists(module)}


def main(argv: Sequence[str] | None = None) -> int:
    """Hands the arguments after the name of a command to that command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = available()
    if arguments in ([], ["-h"], ["--help"]):
        print(_usage(commands), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments == ["--version"]:
        print(f"secateur {_version()}")
        return 0
    name, *rest = arguments
    if name not in commands:
        near = difflib.get_close_matches(name, commands, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(commands)}"
        print(f"secateur: error: unknown command {name[:60]!r}: {hint}", file=sys.stderr)
        return 2
    return int(import_module(COMMANDS[name][0]).main(rest) or 0)


def run() -> NoReturn:
    """The console script: `main`, then out."""
    process.leave(main())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("secateur")
    except PackageNotFoundError:
        return "(not installed: run from a source tree)"


def _exists(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its package is not there either
        return False


def _usage(commands: dict[str, str]) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {text}" for name, text in commands.items()]
    return "\n".join(["usage: secateur COMMAND ...", "", *lines, "", "secateur COMMAND --help explains a command."])


if __name__ == "__main__":
    run()
