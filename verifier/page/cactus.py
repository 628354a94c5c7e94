"""Cactus plots: how much is settled within how many seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from verifier.page import style
from verifier.page.style import Drawn


def draw(
    times: Mapping[str, Sequence[float]],
    totals: Mapping[str, int],
    stem: str,
    title: str,
    unit: str,
    share: bool,
    focus: str = "",
    page: Sequence[str] = (),
) -> Drawn:
    """times: seconds of what each contender settled; totals: how much it was asked; share: draw percent of that.

    focus: the contender drawn on top and bolder. page: all contenders of the page, so that each looks the same on it.
    """
    with style.drawing(stem):
        drawn = figure(times, totals, unit, share, focus, page)
        caption = "Further right is more settled, lower is faster; a line ends where the contender gives up."
        spoken = "; ".join(f"{name} settles {len(s)} of {totals[name]}" for name, s in times.items())
        return style.finish(drawn, stem, title, caption, spoken)


def figure(
    times: Mapping[str, Sequence[float]], totals: Mapping[str, int], unit: str, share: bool, focus: str = "",
    page: Sequence[str] = (),
) -> Figure:  # fmt: skip
    """The plot itself; call and save inside `style.drawing`."""
    looks = style.looks([*times, *page])
    sheet = Figure(figsize=(5.4, 3.7))
    axes = sheet.add_subplot()
    for name, seconds in times.items():
        x, y = _steps(sorted(seconds), totals[name], share)
        look, strong = looks[name], name == focus
        width, order = (2.4, 4) if strong else (1.3, 3)
        label = style.plain(f"{name} ({len(seconds)} of {totals[name]})")
        axes.plot(
            x,
            y,
            color=look.colour,
            linestyle=look.line,
            label=label,
            drawstyle="steps-post",
            linewidth=width,
            zorder=order,
        )
        if seconds:
            axes.plot(x[-1], y[-1], look.marker, color=look.colour, markersize=5, zorder=order)
    axes.set_yscale("log")
    style.plain_ticks(axes.yaxis)
    axes.set_xlabel(f"{unit} settled ({'%' if share else 'count'})")
    axes.set_ylabel("seconds, each at most")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    sheet.legend(loc="outside lower center", ncols=2, columnspacing=1.2)
    return sheet


def _steps(seconds: Sequence[float], total: int, share: bool) -> tuple[list[float], list[float]]:
    """Points (number settled, slowest of them); times below a millisecond are drawn at one, the axis is logarithmic."""
    scale = 100 / max(1, total) if share else 1.0
    y = [max(value, 1e-3) for value in seconds]
    return [scale * (i + 1) for i in range(len(y))], y
