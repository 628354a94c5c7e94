"""The page of one instance: what was tried and why, how its bounds moved, what may help, and the witness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from verifier.command import explanation, report
from verifier.command.list_report import Shown, cut, pictured, settings_table
from verifier.files.whole import write
from verifier.options import dotted
from verifier.page import style
from verifier.page.render import render
from verifier.page.style import Drawn
from verifier.page.table import Table
from verifier.progress import Progress
from verifier.result import Result

if TYPE_CHECKING:
    from vnnlib import Spec


def draw(looks: Sequence[Progress]) -> list[Drawn]:
    """Settled share, least bound and open boxes over the seconds; none where there is no line to draw."""
    curves: dict[str, tuple[str, list[tuple[float, float]]]] = {
        "settled": (
            "Settled, % of the input volume",
            [(k.seconds, 100 * k.settled) for k in looks if k.settled is not None],
        ),
        "bound": (
            "Least bound of an open box",
            [(k.seconds, k.lower) for k in looks if k.lower is not None and math.isfinite(k.lower)],
        ),
        "open": ("Open boxes", [(k.seconds, float(k.open_boxes)) for k in looks]),
    }
    return [_curve(stem, title, points) for stem, (title, points) in curves.items() if len(points) > 1]


_CAPTIONS = {
    "settled": "With all settled the answer is unsat.",
    "bound": "Above 0 a box is proven.",
    "open": "The search ends when none is left.",
}


def _curve(stem: str, title: str, points: Sequence[tuple[float, float]]) -> Drawn:
    with style.drawing(stem):
        sheet = Figure(figsize=(4.4, 2.8))
        axes = sheet.add_subplot()
        axes.plot(*zip(*points, strict=True), color=style.LIGHT["blue"])
        axes.set_xlabel("seconds")
        axes.grid(axis="y")
        spoken = (
            f"From {points[0][1]:.4g} after {points[0][0]:.4g} s to {points[-1][1]:.4g} after {points[-1][0]:.4g} s"
        )
        return style.finish(sheet, stem, title, _CAPTIONS[stem], spoken)


def write_page(
    path: str | Path,
    names: tuple[str, str],
    result: Result,
    spec: Spec | None,
    looks: Sequence[Progress],
    facts: Sequence[tuple[str, str]],
    input_shape: tuple[int, ...],
) -> None:
    """The page of one instance: `names` of network and specification.

    Raises:
        OutputError: it cannot be written.
    """
    shown = None
    if result.witness is not None and spec is not None:
        found = report.witness_text(result.witness, spec)
        shown = Shown(" ".join(names), cut(found), pictured(found, spec, input_shape))
    page = render(
        "instance.html",
        names=names,
        verdict=result.verdict.value,
        headline=report.summary(result),
        facts=facts,
        tried=Table(("what", "found"), tuple(explanation.tried(result))),
        drawn=draw(looks),
        over_time=explanation.over_time(looks),
        split=explanation.split_table(result),
        remedy=report.remedy(result),
        witness_shown=shown,
        settings=settings_table(dotted(dict(result.settings))),
    )
    write(path, page, "the report")
