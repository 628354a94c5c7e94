"""Pictures of coverage: the map of one plane, and a contact sheet of many."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg", force=False)

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from verifier.errors import OutputError, ProblemError
from verifier.files.whole import Whole
from verifier.perturbation import PARAMETERS
from verifier.semantic.coverage_report import Coverage
from verifier.semantic.coverage_search import CERTIFIED, OPEN, REFUTED

# Blue, orange and grey can be told apart by everybody, also in print.
COLOURS = {CERTIFIED: "#a9cce8", REFUTED: "#f2a97e", OPEN: "#4a4a4a"}
LABELS = {CERTIFIED: "certified", REFUTED: "refuted", OPEN: "open"}
INK, FAINT = "#22303c", "#66727c"
DOTS = 150


def picture(found: Coverage, path: Path) -> None:
    """The plane of one member with its three regions, counterexamples, certified rectangle and margin contours.

    Raises:
        ProblemError: the member has not exactly two inputs.
        OutputError: the file cannot be written.
    """
    figure = Figure(figsize=(8.8, 5.9), layout="constrained")
    axes = figure.add_subplot()
    draw_map(axes, found, contours=True)
    x, y = found.names
    axes.set_xlabel(_axis(x), color=INK)
    axes.set_ylabel(_axis(y), color=INK)
    figure.suptitle(_heading(found), x=0.012, ha="left", color=INK, fontweight="bold", fontsize=10.5)
    whose = "" if found.title == "box 0" else f"{found.title}: "  # the only box of a pair of files
    axes.set_title(f"{whose}{found.boxes:,} boxes, {found.seconds:.2g} s", loc="left", color=FAINT, fontsize=9)
    axes.legend(
        handles=_legend(found),
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        frameon=False,
        fontsize=9,
        labelcolor=INK,
        handlelength=1.4,
        labelspacing=0.7,
    )
    _save(figure, path)


def _heading(found: Coverage) -> str:
    """The claim, folded; where it is not known, what the regions say."""
    return textwrap.fill(f"Claim: {found.claim}" if found.claim else "Claim: the specification has no witness", 100)


def _common(found: Sequence[Coverage]) -> str:
    """The claim that all share but for the numbers of their key points; nothing where they differ."""
    claims = {re.sub(r"^key points? [0-9, -]+", "visible key points ", one.claim) for one in found}
    return f"Claim: {claims.pop()}" if len(claims) == 1 and claims != {""} else ""


def _axis(name: str) -> str:
    """A parameter with its unit."""
    words = name.replace("_", " ")
    return f"{words} ({PARAMETERS[name].unit})" if name in PARAMETERS else words


def contact_sheet(found: Sequence[Coverage], path: Path, columns: int | None = None) -> None:
    """Small maps of many members, the least certified first.

    Raises:
        ProblemError: a member has not exactly two inputs.
        OutputError: the file cannot be written.
    """
    order = sorted(found, key=lambda c: (c.certified, c.title))
    columns = columns or min(10, max(1, math.ceil(math.sqrt(len(order) * 1.3))))
    rows = math.ceil(len(order) / columns)
    figure = Figure(figsize=(max(6.4, 1.75 * columns + 0.4), 1.75 * rows + 1.6), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, one in zip(grid.flat, order, strict=False):
        axes.set_axis_on()
        draw_map(axes, one, contours=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"{one.title}   {_percent(one.certified)}", fontsize=7.5, color=INK, pad=3)
    mean = sum(float(c.certified) for c in order) / len(order)
    full = sum(c.certified == 1 for c in order)
    title = f"certified coverage: mean {100 * mean:.1f} %, {full} of {len(order)} in full"
    across = int(11.5 * figure.get_size_inches()[0])
    lines = [title, *textwrap.wrap(_common(order), across), *textwrap.wrap(_axes_of(order), across)]
    figure.suptitle("\n".join(lines), color=INK, fontsize=10)
    figure.legend(
        handles=[*(Patch(facecolor=COLOURS[s], label=LABELS[s]) for s in COLOURS), *_marks(order)],
        loc="outside lower center",
        ncols=3 if columns > 4 else 2,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )
    _save(figure, path)


def _axes_of(found: Sequence[Coverage]) -> str:
    """What the maps show across and up; ranges where all share them."""
    first = found[0]
    x, y = first.names
    if any((c.lower != first.lower).any() or (c.upper != first.upper).any() for c in found):
        return f"across: {_axis(x)}, up: {_axis(y)}, each map over its own box"
    (x0, y0), (x1, y1) = first.lower, first.upper
    return f"across: {_axis(x)} {x0:.3g} to {x1:.3g}, up: {_axis(y)} {y0:.3g} to {y1:.3g}"


def draw_map(axes: Axes, found: Coverage, contours: bool) -> None:
    """Regions, rectangle and points on given axes; with `contours` also lines of equal margin."""
    if len(found.names) != 2:
        raise ProblemError(f"a map needs two varying inputs, found {len(found.names)}: {', '.join(found.names)}")
    low, high = found.cells.corners(
        np.repeat(found.lower[None], int(found.cells.query.max()) + 1, 0),
        np.repeat(found.upper[None], int(found.cells.query.max()) + 1, 0),
    )
    for status, colour in COLOURS.items():
        mine = found.status == status
        a, b = low[mine], high[mine]
        corners = np.stack([a, np.stack([b[:, 0], a[:, 1]], 1), b, np.stack([a[:, 0], b[:, 1]], 1)], 1)
        axes.add_collection(
            PolyCollection(list(corners), facecolors=colour, edgecolors=colour, linewidths=0.15, zorder=1)
        )
    axes.set_xlim(found.lower[0], found.upper[0])
    axes.set_ylim(found.lower[1], found.upper[1])
    for spine in axes.spines.values():
        spine.set_color("#9aa5ad")
        spine.set_linewidth(0.8)
    axes.tick_params(colors="#55616b", labelsize=9)
    if contours and found.margin is not None:
        _contours(axes, found)
    if found.rectangle is not None:
        (x0, x1), (y0, y1) = found.rectangle
        axes.add_patch(
            Rectangle(
                (x0, y0),
                x1 - x0,
                y1 - y0,
                fill=False,
                edgecolor="#0b3c66",
                linewidth=1.6 if contours else 0.9,
                linestyle=(0, (5, 2)),
                zorder=4,
                clip_on=False,
            )
        )
    size = 1.0 if contours else 0.45
    if len(found.examples):
        axes.plot(*found.examples.T, "x", color="#8c1c00", markersize=9 * size, markeredgewidth=2.2 * size, zorder=5)
    if _shows_identity(found):
        assert found.identity is not None
        axes.plot(
            *found.identity,
            "o",
            color="white",
            markeredgecolor=INK,
            markersize=9 * size,
            markeredgewidth=1.6 * size,
            zorder=6,
            clip_on=False,
        )


def _contours(axes: Axes, found: Coverage) -> None:
    """Lines of equal worst error where the tolerance is known, else of equal margin."""
    assert found.margin is not None
    value = -found.margin if found.tolerance is None else found.tolerance - found.margin
    value = np.where(np.isfinite(value), value, np.nan)
    limit = 0.0 if found.tolerance is None else found.tolerance
    x = np.linspace(found.lower[0], found.upper[0], value.shape[0])
    y = np.linspace(found.lower[1], found.upper[1], value.shape[1])
    spread = np.nanmax(value) - np.nanmin(value)
    if not spread > 0:
        return
    step = _round(spread / 6)
    levels = np.arange(math.floor(np.nanmin(value) / step), math.ceil(np.nanmax(value) / step) + 1) * step
    levels = levels[np.abs(levels - limit) > 0.25 * step]
    lines = axes.contour(
        x, y, value.T, levels=levels, colors=INK, linestyles="solid", linewidths=0.6, alpha=0.55, zorder=2
    )
    halo: list[patheffects.AbstractPathEffect] = [patheffects.withStroke(linewidth=2.5, foreground="white", alpha=0.75)]
    for text in axes.clabel(lines, fmt=lambda v: f"{v:.3g}", fontsize=7.5):
        text.set_path_effects(halo)
    if np.nanmin(value) < limit < np.nanmax(value):
        axes.contour(x, y, value.T, levels=[limit], colors="#8c1c00", linewidths=1.2, zorder=3)


def _round(step: float) -> float:
    """The nearest of 1, 2, 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(step))
    return min((1, 2, 5, 10), key=lambda m: abs(m * power - step)) * power


def _shows_identity(found: Coverage) -> bool:
    """Whether the parameters that leave the image unchanged are known and on the map."""
    at = found.identity
    return at is not None and bool(((found.lower <= at) & (at <= found.upper)).all())


def _legend(found: Coverage) -> list[Patch | Line2D]:
    areas = {CERTIFIED: found.certified, REFUTED: found.refuted, OPEN: found.open}
    handles: list[Patch | Line2D] = [
        Patch(facecolor=COLOURS[s], label=f"{LABELS[s]}  {_percent(areas[s])}") for s in COLOURS
    ]
    handles += _marks([found])
    if found.margin is not None:
        name = "\n".join(textwrap.wrap(f"{found.measure} (sampled)", 28))
        handles.append(Line2D([], [], color=INK, linewidth=0.7, alpha=0.6, label=name))
        limit = f"{found.tolerance:.3g} px" if found.tolerance is not None else "0"
        handles.append(Line2D([], [], color="#8c1c00", linewidth=1.2, label=f"its limit, {limit}"))
    return handles


def _marks(found: Sequence[Coverage]) -> list[Line2D]:
    """Keys of the marks that some map carries; details of them where there is one map."""
    one = len(found) == 1
    handles = []
    shown = [c for c in found if _shows_identity(c)]
    if shown:
        at = shown[0].identity
        assert at is not None
        values = ", ".join(f"{n.replace('_', ' ')} {v:g}" for n, v in zip(shown[0].names, at, strict=True))
        label = f"unchanged image\n({values})" if one else "unchanged image"
        handles.append(_key("o", label, color="white", markeredgecolor=INK))
    if any(len(c.examples) for c in found):
        label = "counterexample,\nconfirmed in ONNX Runtime" if one else "counterexample (ONNX Runtime)"
        handles.append(_key("x", label, color="#8c1c00", markeredgewidth=2))
    if any(c.rectangle is not None for c in found):
        share = f"\naround it  {_percent(found[0].rectangle_share)}" if one else " around it"
        label = f"largest certified rectangle{share}"
        handles.append(Line2D([], [], color="#0b3c66", linestyle=(0, (5, 2)), linewidth=1.6, label=label))
    return handles


def _key(marker: str, label: str, **look: Any) -> Line2D:
    return Line2D([], [], marker=marker, linestyle="", markersize=8, label=label, **look)


def _percent(share: object) -> str:
    """Never 100 % (or 0 %) unless it is exactly that."""
    value = float(share) * 100  # type: ignore[arg-type]
    if share in (0, 1):
        return f"{value:.0f} %"
    return f"{min(max(value, 0.01), 99.99):.2f} %"


def _save(figure: Figure, path: Path) -> None:
    with Whole(path, "the picture") as stream:
        try:
            figure.savefig(stream, dpi=DOTS, format=path.suffix.lstrip(".") or None)
        except ValueError as error:
            raise OutputError(f"{path}: cannot write the picture: {error}") from error
