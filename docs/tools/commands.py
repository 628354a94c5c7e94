"""The command lines as Markdown, from the parsers of the commands themselves."""

from __future__ import annotations

import argparse
import re
from importlib import import_module

from verifier.command.umbrella import COMMANDS


def page() -> str:
    """Every command: what it is for, its arguments by group, and the end of its help."""
    return "\n".join(line for name, (module, what) in COMMANDS.items() for line in _command(name, module, what))


def _command(name: str, module: str, what: str) -> list[str]:
    parser: argparse.ArgumentParser = import_module(module).parser()
    lines = [f"## `{parser.prog}`", "", f"{what[:1].upper()}{what[1:]}.", ""]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if actions:
            title = (group.title or "").rstrip(":")
            lines += [f"**{title[:1].upper()}{title[1:]}**", "", "| | |", "| --- | --- |"]
            lines += [f"| {_name(action)} | {_help(parser, action)} |" for action in actions]
            lines.append("")
    if parser.epilog:
        lines += ["```text", parser.epilog.strip("\n"), "```", ""]
    return lines


def _name(action: argparse.Action) -> str:
    value = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    value = " ".join(value) if isinstance(value, tuple) else value
    if not action.option_strings:
        return f"`{value if action.metavar else action.dest}`"
    shown = "" if action.nargs == 0 else f" {value}"
    return ", ".join(f"`{option}{shown}`" for option in action.option_strings).replace("|", "\\|")


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = " ".join((action.help or "").split())
    values = {**vars(action), "prog": parser.prog}
    return re.sub(r"\s+", " ", text % values if "%" in text else text).replace("|", "\\|").replace("<", "&lt;")
