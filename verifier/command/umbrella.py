"""The `secateur` command: one name in front of the others, each imported only when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import NoReturn

from verifier.console import process
from verifier.console.arguments import unknown

COMMANDS = {
    "verify": ("verifier.command.verify", "decide whether a network satisfies a specification"),
    "check": ("verifier.proof.cli", "check a proof that `verify --proof` wrote"),
    "prune": ("pruning.cli", "make a network smaller: ONNX in, ONNX out"),
    "spec": (
        "verifier.semantic.cli",
        "semantic properties: image, keypoints and ranges to model and specification",
    ),
    "coverage": ("verifier.semantic.coverage", "which part of a semantic range is certified, refuted or open"),
    "compare": ("pruning.study.cli", "certified coverage before and after pruning"),
    "benchmark-pack": ("pruning.study.pack_cli", "a set of problems in the form of VNN-COMP, dense and pruned"),
    "train": ("verifier.training.train", "train a keypoint network"),
}

_OPTIONS = ("--help", "--version")


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
        from verifier.console.about import about

        print(about())
        return 0
    name, *rest = arguments
    if name not in commands:
        text = unknown(*(("option", name, _OPTIONS) if name.startswith("-") else ("command", name, commands)))
        hint = "" if "did you mean" in text else f": expected one of {', '.join(commands)}"
        print(f"secateur: error: {text}{hint}", file=sys.stderr)
        return 2
    try:
        return int(import_module(COMMANDS[name][0]).main(rest) or 0)
    except BrokenPipeError:
        process.stop_printing()
        return 0


def run() -> NoReturn:
    """The console script: `main`, then out."""
    process.leave(main())


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
