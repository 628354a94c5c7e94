"""`--explain`: what one run tried and why, how its bounds moved, and what may help, in words and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from verifier.command import report
from verifier.page.table import Table
from verifier.progress import Progress
from verifier.result import Result

LINES = 10
"""Looks in the table, and inputs and neurons that were split."""

NAMED = 5
"""Inputs or neurons in a sentence."""

# name, words for one, words for others
_SIZES = (
    ("free_inputs", "input varies", "inputs vary"),
    ("neurons", "neuron that is not affine", "neurons that are not affine"),
    ("batch", "box a step", "boxes a step"),
)
_WORK = (
    ("queries", "input set", "input sets"),
    ("boxes", "box", "boxes"),
    ("steps", "step", "steps"),
    ("deepest", "split at most", "splits at most"),
    ("replays", "point in ONNX Runtime", "points in ONNX Runtime"),
)


def text(result: Result, looks: Sequence[Progress]) -> str:
    """What happened, for a terminal."""
    parts = [("tried", [f"{name}: {value}" for name, value in tried(result)])]
    table = over_time(looks)
    if table.rows:
        widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
        lines = [table.columns, *table.rows]
        parts.append(("over time", ["  ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) for r in lines]))
    if cuts := split(result):
        parts.append(("split", cuts))
    if help_ := report.remedy(result):
        parts.append(("may help", [help_]))
    return "\n".join(line for title, lines in parts for line in (title, *(f"  {line}" for line in lines)))


def tried(result: Result) -> list[tuple[str, str]]:
    """What was chosen, why, and how far it came, by name."""
    settings, counters = result.settings, result.counters
    found = [
        ("strategy", str(settings.get("strategy", "none was chosen: the answer came before"))),
        ("bounds", _known(settings, "method", "dtype", "device")),
        ("size", ", ".join(f"{settings[n]} {_word(settings[n], *w)}" for n, *w in _SIZES if n in settings)),
        ("work", ", ".join(f"{counters[n]:,} {_word(counters[n], *w)}" for n, *w in _WORK if n in counters)),
    ]
    return [(name, value) for name, value in found if value]


def _word(count: object, one: str, others: str) -> str:
    return one if count == 1 else others


def split(result: Result) -> list[str]:
    """Which inputs and neurons were split, the most often first, in sentences."""
    found, lines = result.splits, []
    if found.inputs:
        named = ", ".join(f"{name} {_share(n, found.of_inputs)}" for name, n in found.inputs[:NAMED])
        more = f" and {len(found.inputs) - NAMED} more" if len(found.inputs) > NAMED else ""
        lines.append(f"inputs, {found.of_inputs:,} times: {named}{more}")
    for layer, count, neurons in found.layers:
        own = ", ".join(f"{i} {_share(n, count)}" for name, i, n in found.neurons if name == layer)
        first = ", ".join(own.split(", ")[:NAMED]) if own else ""
        lines.append(f"{neurons:,} neurons of {layer}, {count:,} times" + (f"; most often {first}" if first else ""))
    return lines


def split_table(result: Result) -> Table:
    """The same as a table."""
    found = result.splits
    rows = [("input", name, f"{n:,}", _share(n, found.of_inputs)) for name, n in found.inputs[:LINES]]
    rows += [
        ("layer", f"{name} ({neurons:,} neurons)", f"{n:,}", _share(n, found.of_neurons))
        for name, n, neurons in sorted(found.layers, key=lambda layer: -layer[1])
    ]
    rows += [("neuron", f"{name}, {i}", f"{n:,}", _share(n, found.of_neurons)) for name, i, n in found.neurons[:LINES]]
    return Table(("what", "which", "splits", "share"), tuple(rows))


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %"


def over_time(looks: Sequence[Progress]) -> Table:
    """Some looks, evenly spaced, as a table."""
    columns = ("seconds", "boxes", "open", "settled %", "least bound")
    chosen = looks if len(looks) <= LINES else [looks[round(i * (len(looks) - 1) / (LINES - 1))] for i in range(LINES)]
    rows = [
        (
            f"{look.seconds:.2f}",
            f"{look.boxes:,}",
            f"{look.open_boxes:,}",
            "-" if look.settled is None else f"{math.floor(look.settled * 1000) / 10:.1f}",  # 100 must mean all
            "-" if look.lower is None or not math.isfinite(look.lower) else f"{look.lower:.4g}",
        )
        for look in chosen
    ]
    return Table(columns, tuple(rows))


def _known(settings: Mapping[str, object], *names: str) -> str:
    return ", ".join(str(settings[name]) for name in names if name in settings)
