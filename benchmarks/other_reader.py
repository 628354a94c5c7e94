"""Reads one VNN-LIB file with the PyPI package `vnnlib` and judges points by it; started by `check_other_reader`.

Runs under a Python of its own that has that package and nothing of ours: python other_reader.py SPEC POINTS.json
prints a JSON list: whether all assertions hold at each of the points [[x..], [y..]].
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import vnnlib as other

RELATIONS = {
    "LessEqual": lambda a, b: a <= b,
    "GreaterEqual": lambda a, b: a >= b,
    "LessThan": lambda a, b: a < b,
    "GreaterThan": lambda a, b: a > b,
    "Equal": lambda a, b: a == b,
}


def number(term, x: list[float], y: list[float]) -> float:
    """The value of a variable or a constant."""
    kind = type(term).__name__
    if kind == "Var":
        flat = 0
        for place, size in zip(term.indices, term.shape, strict=True):
            flat = flat * size + place
        return (x if term.kind == other.SymbolKind.Input else y)[flat]
    if kind == "Negate":
        return -number(term.expr, x, y)
    return float(term.value)


def holds(term, x: list[float], y: list[float]) -> bool:
    """Whether a formula holds."""
    kind = type(term).__name__
    if kind in ("And", "Or"):
        return (all if kind == "And" else any)(holds(part, x, y) for part in term.args)
    return RELATIONS[kind](number(term.lhs, x, y), number(term.rhs, x, y))


if __name__ == "__main__":
    query = other.parse_query_string(Path(sys.argv[1]).read_text())
    points = json.loads(Path(sys.argv[2]).read_text())
    print(json.dumps([all(holds(a.expr, x, y) for a in query.assertions) for x, y in points]))
