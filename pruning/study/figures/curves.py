"""One figure of the study, with intervals: against the ratio, a line per arm; or per network, without ratios."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pruning.study.stats import Estimate
from pruning.study.summary import Summary
from verifier.page import style
from verifier.page.style import Drawn, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


@dataclass(frozen=True)
class Metric:
    """What is drawn: the part of a summary, how it is named, in which unit, and which direction is good."""

    stem: str
    title: str
    part: Callable[[Summary], Estimate]
    unit: str = ""
    scale: float = 1.0
    better: str = "higher"
    how: str = "mean"
    log: bool = False

    @property
    def axis(self) -> str:
        """Label of the value axis."""
        return f"{self.title.lower()} ({self.unit})" if self.unit else self.title.lower()


METRICS = (
    Metric("coverage", "Certified coverage", lambda s: s.coverage, "%", 100),
    Metric("verified", "Verified rate", lambda s: s.verified, "%", 100, how="share of images"),
    Metric("clean-error", "Clean error", lambda s: s.clean_error, "% of image side", 100, "lower"),
    Metric("seconds", "Time per image", lambda s: s.seconds, "s", 1, "lower", "median", True),
    Metric("boxes", "Boxes per image", lambda s: s.boxes, "", 1, "lower", "median", True),
    Metric("unstable", "Unstable neurons", lambda s: s.unstable, "", 1, "lower"),
    Metric("unstable-ratio", "Unstable share", lambda s: s.unstable_ratio, "% of neurons", 100, "lower"),
)


TOGETHER = tuple(m for m in METRICS if m.stem not in ("boxes", "unstable"))


def draw(summaries: Sequence[Summary], metric: Metric, focus: str, by_network: bool = False) -> Drawn:
    """The figure of one metric, against the ratio unless no ratio is known or every network is to stand for itself."""
    pruned = [] if by_network else [s for s in summaries if s.ratio is not None]
    with style.drawing(metric.stem):
        height = 3.5 if pruned else 1.2 + 0.34 * len(summaries)
        figure = Figure(figsize=(5.4, height))
        axes = figure.add_subplot()
        if pruned:
            _against_ratio(axes, summaries, metric, focus)
            named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
            labels = sorted(named, key=lambda name: (name != focus, name.startswith("dense"), name))
            columns = min(4, len(labels))
            handles = [named[name] for name in labels]
            figure.legend(handles, labels, loc="outside lower center", ncols=columns, columnspacing=1.2)
        else:
            _per_network(axes, summaries, metric)
        caption = f"{metric.how.capitalize()} with 95 % interval; {metric.better} is better."
        return style.finish(figure, metric.stem, metric.title, caption, _spoken(summaries, metric))


def draw_together(summaries: Sequence[Summary], focus: str) -> Drawn:
    """All metrics of `TOGETHER` in one figure with a row per treatment: for one ratio, or none, there is no curve."""
    rows = sorted(summaries, key=lambda s: (s.arm == focus, not s.arm.startswith("dense"), s.label), reverse=True)
    with style.drawing("together"):
        engine = ConstrainedLayoutEngine(wspace=0.06)
        figure = Figure(figsize=(11.4, 1.25 + 0.3 * len(rows)), layout=engine)
        grid = figure.subplots(1, len(TOGETHER), sharey=True)
        for axes, metric in zip(grid, TOGETHER, strict=True):
            _per_network(axes, rows, metric)
            axes.set_title(f"{metric.title}\n{metric.better} is better")
            axes.set_xlabel(f"{metric.unit or 'count'} ({metric.how})")
            if axes.get_xscale() == "linear":
                axes.locator_params(axis="x", nbins=4)
        for tick, row in zip(grid[0].get_yticklabels(), reversed(rows), strict=True):
            tick.set_fontweight("bold" if row.arm == focus else "normal")
        spoken = "; ".join(f"{m.title}: {_spoken(rows, m)}" for m in TOGETHER)
        title = "Every network, with 95 % intervals"
        return style.finish(figure, "together", title, "One row per network; dots are values, bars intervals.", spoken)


def ratios(summaries: Sequence[Summary]) -> list[float]:
    """The ratios of pruned networks, rising."""
    return sorted({s.ratio for s in summaries if s.ratio is not None})


def _against_ratio(axes: Axes, summaries: Sequence[Summary], metric: Metric, focus: str) -> None:
    ratios = sorted({s.ratio for s in summaries if s.ratio is not None})
    arms = sorted({s.arm for s in summaries if s.ratio is not None}, key=lambda arm: (arm != focus, arm))
    flat = [s for s in summaries if s.ratio is None]
    looks = style.looks([*arms, *(s.arm for s in flat)])
    step = min(0.09, 0.54 / max(1, len(arms)))  # the arms of one ratio stand apart, and away from the next ratio
    for summary in flat:
        _reference(axes, summary, metric, looks[summary.arm])
    for number, arm in enumerate(arms):
        own = sorted((s for s in summaries if s.arm == arm), key=lambda s: s.ratio or 0.0)
        x = [ratios.index(s.ratio) + step * (number - (len(arms) - 1) / 2) for s in own if s.ratio is not None]
        y, errors = _values([metric.part(s) for s in own], metric.scale)
        look, strong = looks[arm], arm == focus
        axes.errorbar(
            x, y, yerr=errors, label=arm, color=look.colour, marker=look.marker, markersize=6 if strong else 4.5,
            linewidth=2.0 if strong else 0.9, elinewidth=1.6 if strong else 1.1, capsize=0, zorder=4 if strong else 3,
            markeredgecolor=style.LIGHT["paper"], markeredgewidth=0.6,
        )  # fmt: skip
    axes.set_xticks(range(len(ratios)), [f"{ratio:.0%}" for ratio in ratios])
    axes.set_xlim(-0.5, len(ratios) - 0.5)
    axes.set_xlabel("channels removed")
    axes.set_ylabel(metric.axis)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    _scale(axes.yaxis, metric, summaries, axes.set_yscale)


def _reference(axes: Axes, summary: Summary, metric: Metric, look: Look) -> None:
    estimate = metric.part(summary)
    low, high = estimate.low * metric.scale, estimate.high * metric.scale
    axes.axhspan(low, high, color=look.colour, alpha=0.16, linewidth=0, zorder=1)
    value = estimate.value * metric.scale
    axes.axhline(value, color=look.colour, linestyle=look.line, linewidth=1.4, label=summary.arm, zorder=2)


def _per_network(axes: Axes, summaries: Sequence[Summary], metric: Metric) -> None:
    known = len({s.arm for s in summaries}) == len(summaries)
    looks = style.looks([s.arm if known else s.label for s in summaries])
    for place, summary in enumerate(reversed(summaries)):
        value, errors = _values([metric.part(summary)], metric.scale)
        look = looks[summary.arm if known else summary.label]
        marker = "o" if look.marker == "_" else look.marker  # a dash is lost on its own interval
        axes.errorbar(
            value, [place], xerr=errors, color=look.colour, marker=marker, markersize=6.5, elinewidth=1.8, capsize=0
        )
    axes.set_yticks(range(len(summaries)), [_short(s.label) for s in reversed(summaries)])
    axes.set_ylim(-0.6, len(summaries) - 0.4)
    axes.set_xlabel(metric.axis)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    _scale(axes.xaxis, metric, summaries, axes.set_xscale)


def _scale(axis: Axis, metric: Metric, summaries: Sequence[Summary], set_scale: Callable[[str], None]) -> None:
    values = [metric.part(s).value for s in summaries]
    positive = [metric.part(s).low for s in summaries]
    if metric.log and min(positive) > 0 and max(values) > 8 * min(values):
        set_scale("log")
        style.plain_ticks(axis)


def _values(estimates: Sequence[Estimate], scale: float) -> tuple[list[float], list[list[float]]]:
    y = [e.value * scale for e in estimates]
    below = [max(0.0, (e.value - e.low) * scale) for e in estimates]
    above = [max(0.0, (e.high - e.value) * scale) for e in estimates]
    return y, [below, above]


def _spoken(summaries: Sequence[Summary], metric: Metric) -> str:
    parts = []
    for s in summaries:
        e = metric.part(s)
        value, low, high = (f"{part * metric.scale:.3g}" for part in (e.value, e.low, e.high))
        parts.append(f"{s.label}: {value} {metric.unit}, {low} to {high}")
    return "; ".join(parts)


def _short(text: str, limit: int = 28) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
