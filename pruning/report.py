"""The report of a pruning run: one HTML page in the design of the studies' reports, and the numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pruning.api import PrunedModel
from pruning.calibration import Activations, Calibration
from pruning.measure import error
from pruning.planning import Plan
from pruning.study import words
from pruning.study.figures import channels
from verifier.files.whole import make_folder, write
from verifier.page import style
from verifier.page.render import render
from verifier.page.table import Table

MOST = 256
"""Images on which error and output change are measured."""


def write_report(folder: Path, results: Sequence[PrunedModel], data: Calibration | None, title: str = "") -> Path:
    """Write `report.html`, `report.json` and the figures into `folder`; returns the page."""
    make_folder(folder)
    numbers = [_numbers(result, data) for result in results]
    sections = [_section(index, result, folder) for index, result in enumerate(results)]
    text = render(
        "prune.html",
        package="pruning.study",
        title=title or "a network",
        headline=headline(numbers),
        sizes=size_table(numbers),
        measured="error" in numbers[0],
        unmeasured=_why_no_error(data),
        sections=sections,
    )
    target = folder / "report.html"
    write(folder / "report.json", json.dumps(numbers, indent=1, default=str), "the report")
    write(target, text, "the report")
    return target


def _why_no_error(data: Calibration | None) -> str:
    if data is None:
        return "the run had no --data."
    return data.unlabelled or "the data have no labels or key points."


def _numbers(result: PrunedModel, data: Calibration | None) -> dict[str, Any]:
    before, after = result.before, result.after
    entry: dict[str, Any] = {
        "criterion": result.sidecar.get("criterion"),
        "formula": result.sidecar.get("formula"),
        "ratio": result.sidecar.get("ratio"),
        "fold": result.sidecar.get("fold"),
        "stages": result.sidecar.get("stages", []),
        "parameters": [before.parameters, after.parameters],
        "macs": [before.macs, after.macs],
        "nonlinear": [before.nonlinear, after.nonlinear],
    }
    return entry if data is None else entry | _changes(result, data)


def _changes(result: PrunedModel, data: Calibration) -> dict[str, Any]:
    """Root mean squared change of the output on the calibration images, relative to the spread of the original's; with
    labels also the error of both: root mean squared in the unit of the labels, or the share of wrong classes.
    """
    name = result.original.outputs[0]
    some = data.fitted(result.original).part(slice(0, MOST))
    old, new = (Activations(net, [name])(some.images)[name].astype(np.float64) for net in (result.original, result.net))
    found: dict[str, Any] = {
        "output_change": float(np.sqrt(((old - new) ** 2).mean())) / (float(old.std()) or 1.0),
        "images": len(some.images),
    }
    if some.labels is not None:
        errors = [error(net, some) for net in (result.original, result.net)]
        classes = some.labels.dtype.kind != "f"
        found["error"] = errors if classes else [float(np.sqrt(e)) for e in errors]
        found["error_of"] = "share of wrong classes" if classes else "root mean squared, in the unit of the labels"
    return found


def headline(numbers: Sequence[dict[str, Any]]) -> str:
    """What happened, for the last of the ratios."""
    entry = numbers[-1]
    old, new = entry["parameters"]
    said = (
        f"Removing {entry['ratio']:.0%} of the channels by {entry['criterion']} leaves {new / max(1, old):.0%} of the"
    )
    if "error" not in entry:
        return f"{said} parameters."
    before, after = entry["error"]
    return f"{said} parameters; the error goes from {words.number(before)} to {words.number(after)}."


def size_table(numbers: Sequence[dict[str, Any]]) -> Table:
    """The original and every ratio: sizes, output change, error where it is known."""
    known, first = "error" in numbers[0], numbers[0]
    columns = ["network", "parameters", "MACs", "non-linear neurons"]
    columns += ["output change"] if "output_change" in first else []
    columns += [f"error ({first['error_of']})"] if known else []
    rows = [_row("original", first, 0, known)]
    rows += [_row(f"{e['criterion']} {e['ratio']:.0%}, fold {e['fold']}", e, 1, known) for e in numbers]
    return Table(tuple(columns), tuple(rows))


def _row(name: str, entry: dict[str, Any], which: int, known: bool) -> tuple[str, ...]:
    cells = []
    for key in ("parameters", "macs", "nonlinear"):
        old, new = entry[key]
        change = f" ({new / old - 1:+.1%})" if which and old else ""
        cells.append(f"{entry[key][which]:,}{change}")
    if "output_change" in entry:
        cells.append(f"{entry['output_change']:.2%} of its spread" if which else "-")
    return (name, *cells, *([words.number(entry["error"][which])] if known else []))


def _section(index: int, result: PrunedModel, folder: Path) -> dict[str, Any]:
    plan = result.plan
    assert plan is not None
    wide = [drawn for drawn in (channels.draw_layers(plan, index), channels.draw_scores(plan, index)) if drawn]
    small = channels.draw_parts(plan, index)
    for drawn in (*wide, *small):
        style.save(drawn, folder / "figures")
    return {
        "title": f"{result.sidecar.get('criterion')}, ratio {result.sidecar.get('ratio'):g}",
        "formula": str(result.sidecar.get("formula")),
        "wide": wide,
        "small": small,
        "layers": layer_table(plan),
        "stages": [json.dumps(stage) for stage in result.sidecar.get("stages", [])],
        "notes": plan.notes,
    }


def layer_table(plan: Plan) -> Table:
    """Every group of channels: how many stay, how many of the removed were idle, why a group stays whole."""
    rows = []
    for group in plan.groups.groups:
        gone = int(plan.removed[group.channels].sum())
        idle = int(channels.idle(plan, group).sum())
        why = group.reason if not len(group.free) else ""
        size = len(group.channels)
        rows.append((group.name, group.kind, str(size), str(size - gone), str(gone), str(idle), why))
    return Table(("layer", "kind", "channels", "kept", "removed", "idle", "frozen because"), tuple(rows))
