"""A command that notes what it is called with."""

from __future__ import annotations

seen: list[list[str]] = []


def main(argv: list[str]) -> int:
    seen.append(argv)
    return 5
