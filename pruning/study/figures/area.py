"""Certified area against time: what a comparison says at every limit at once, from one run of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from pruning.study.row import StudyRow
from verifier.page import style
from verifier.page.style import Drawn

POINTS = 80


def curve(rows: Sequence[StudyRow]) -> tuple[np.ndarray, np.ndarray] | None:
    """Seconds (T,), evenly spaced by their logarithm up to the limit, and the mean certified share by then (T,).

    None where some of the rows have no trace.
    """
    if not rows or not all(row.trace for row in rows):
        return None
    limit = max(row.timeout for row in rows)
    seconds = np.geomspace(limit / 300, limit, POINTS)
    shares = [[row.certified_by(float(s)) or 0.0 for s in seconds] for row in rows]
    return seconds, np.mean(shares, axis=0)


def draw(
    members: Mapping[str, Sequence[StudyRow]], stem: str, title: str, focus: str, page: Sequence[str] = ()
) -> Drawn | None:
    """A line per contender, from when the first one certifies something; None where nothing was traced. page: all
    contenders of the page, so that each looks the same on it.
    """
    found = {name: line for name, rows in members.items() if (line := curve(rows)) is not None}
    if not found:
        return None
    with style.drawing(stem):
        looks = style.looks([*members, *page])
        sheet = Figure(figsize=(5.4, 3.7))
        axes = sheet.add_subplot()
        for name, (seconds, shares) in found.items():
            look, strong = looks[name], name == focus
            axes.plot(
                seconds, 100 * shares, color=look.colour, linestyle=look.line, label=style.plain(name),
                linewidth=2.4 if strong else 1.3, zorder=4 if strong else 3,
            )  # fmt: skip
        axes.set_xscale("log")
        style.plain_ticks(axes.xaxis)
        axes.set_xlabel("seconds spent on each image, at most")
        axes.set_ylabel("certified area (%, mean)")
        axes.set_ylim(bottom=0)
        begun = [seconds[shares > 0][0] for seconds, shares in found.values() if shares.any()]
        axes.set_xlim(left=min(begun, default=None))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        sheet.legend(loc="outside lower center", ncols=2, columnspacing=1.2)
        half = POINTS // 2
        spoken = "; ".join(
            f"{name}: {100 * shares[half]:.3g} % after {seconds[half]:.2g} s, {100 * shares[-1]:.3g} % at the end"
            for name, (seconds, shares) in found.items()
        )
        caption = "Higher is more proven; where two lines cross, the limit decides which is ahead."
        return style.finish(sheet, stem, title, caption, spoken)
