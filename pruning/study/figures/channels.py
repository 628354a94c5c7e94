"""Channels of a pruning plan: how many go per layer, their scores and what these are made of; idle ones are marked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from pruning.groups import Group
from pruning.planning import Plan
from verifier.page import style
from verifier.page.style import LIGHT, Drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KEPT, REMOVED, IDLE = LIGHT["blue"], LIGHT["orange"], LIGHT["yellow"]
PARTS = (("Sig", ""), ("Bias2", LIGHT["red"]), ("Var", LIGHT["violet"]))
"""Parts of a score by USN with the colours of those that are drawn."""


def chosen(plan: Plan) -> list[Group]:
    """The layers that the plan takes from."""
    return [plan.groups.groups[i] for i in plan.chosen]


def idle(plan: Plan, group: Group) -> np.ndarray:
    """Which channels (n,) of a layer do nothing on the data."""
    if plan.scores is None:
        return np.zeros(len(group.channels), bool)
    return np.asarray(plan.scores.free[group.channels], bool)


def draw_layers(plan: Plan, index: int) -> Drawn:
    """Kept and removed channels per layer; the removed that were idle apart."""
    groups = chosen(plan)
    gone = [plan.removed[g.channels] for g in groups]
    lazy = [int((r & idle(plan, g)).sum()) for r, g in zip(gone, groups, strict=True)]
    kept = [int((~r).sum()) for r in gone]
    live = [int(r.sum()) - n for r, n in zip(gone, lazy, strict=True)]
    stem = f"layers-{index}"
    with style.drawing(stem):
        figure = Figure(figsize=(11.4, 1.1 + 0.26 * len(groups)))
        axes = figure.add_subplot()
        left = np.zeros(len(groups))
        for counts, colour, name in ((kept, KEPT, "kept"), (live, REMOVED, "removed"), (lazy, IDLE, "removed, idle")):
            if any(counts):
                axes.barh(range(len(groups)), counts, left=left, color=colour, label=name, height=0.7)
            left += counts
        _rows(axes, groups)
        axes.set_xlabel("channels")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        spoken = "; ".join(f"{g.name}: {k} of {len(g.channels)} kept" for g, k in zip(groups, kept, strict=True))
        return style.finish(figure, stem, "Channels per layer", "Idle: inactive or constant on the data.", spoken)


def draw_scores(plan: Plan, index: int) -> Drawn | None:
    """Every channel's score, a row per layer; None without scores."""
    if plan.scores is None:
        return None
    groups, stem = chosen(plan), f"scores-{index}"
    with style.drawing(stem):
        figure = Figure(figsize=(11.4, 1.1 + 0.3 * len(groups)))
        axes = figure.add_subplot()
        for name, colour, marker, pick in (
            ("kept", KEPT, "o", lambda gone, lazy: ~gone & ~lazy),
            ("removed", REMOVED, "X", lambda gone, lazy: gone & ~lazy),
            ("idle", IDLE, "v", lambda gone, lazy: lazy),
        ):
            x, y = _points(plan, groups, pick)
            if len(x):
                axes.scatter(x, y, s=22, color=colour, marker=marker, linewidths=0, alpha=0.8, label=name)
        _rows(axes, groups)
        unit = ", dB" if plan.scores.decibel else ""
        axes.set_xlabel(f"score by {plan.criterion}{unit}; low ones go first")
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
        spoken = "; ".join(f"{g.name}: {len(g.channels)} channels" for g in groups)
        return style.finish(figure, stem, "Score of every channel", "One mark per channel.", spoken)


def draw_parts(plan: Plan, index: int) -> list[Drawn]:
    """Per layer: what share of every channel's Sig + Bias2 + Var is not signal; at most one, so nothing is cut."""
    if plan.scores is None or not {name for name, _ in PARTS} <= plan.scores.parts.keys():
        return []
    drawn = []
    for number, group in enumerate(chosen(plan)):
        parts = [np.maximum(plan.scores.parts[name][group.channels], 0.0) for name, _ in PARTS]
        total = np.maximum(sum(parts), 1e-300)
        order = np.argsort(-parts[0] / total, kind="stable")
        gone, lazy = plan.removed[group.channels][order], idle(plan, group)[order]
        stem = f"parts-{index}-{number}"
        with style.drawing(stem):
            figure = Figure(figsize=(3.6, 2.6))
            axes = figure.add_subplot()
            place, bottom = np.arange(len(order)), np.zeros(len(order))
            for (name, colour), values in list(zip(PARTS, parts, strict=True))[1:]:
                height = (values / total)[order]
                axes.bar(place, height, bottom=bottom, width=0.9, color=colour, label=name)
                bottom = bottom + height
            top = float(bottom.max()) or 1.0
            for mask, colour, marker, name in ((gone & ~lazy, REMOVED, "X", "removed"), (lazy, IDLE, "v", "idle")):
                if mask.any():
                    y = np.full(int(mask.sum()), -0.05 * top)
                    axes.scatter(place[mask], y, s=14, color=colour, marker=marker, clip_on=False, label=name)
            axes.set_xticks(place, [str(i) for i in order] if len(order) <= 16 else [""] * len(order), fontsize=7)
            axes.tick_params(axis="x", length=0, pad=8)
            axes.set_ylim(-0.1 * top, 1.05 * top)
            axes.set_ylabel("share that is not signal")
            axes.set_xlabel("channel, best first")
            figure.legend(loc="outside lower center", ncols=3, fontsize=7.5, columnspacing=1.0)
            spoken = f"{int(gone.sum())} of {len(order)} channels removed, {int(lazy.sum())} idle"
            drawn.append(style.finish(figure, stem, group.name, f"{spoken}.", spoken))
    return drawn


def _points(plan: Plan, groups: list[Group], pick: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores that are finite, and their rows, a little apart."""
    assert plan.scores is not None
    x, y = [], []
    for row, group in enumerate(groups):
        values = plan.scores.values[group.channels]
        mask = pick(plan.removed[group.channels], idle(plan, group)) & np.isfinite(values)
        x.append(values[mask])
        y.append(row + 0.5 * (np.flatnonzero(mask) / max(1, len(values) - 1) - 0.5))
    return np.concatenate(x), np.concatenate(y)


def _rows(axes: Axes, groups: list[Group]) -> None:
    names = [g.name if len(g.name) <= 28 else f"{g.name[:27]}…" for g in groups]
    axes.set_yticks(range(len(groups)), names)
    axes.set_ylim(len(groups) - 0.5, -0.5)
