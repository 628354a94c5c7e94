"""Coverage maps before and after, and pictures with a counterexample drawn into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch, Rectangle

from pruning.study.details import Details
from pruning.study.hands import PictureWitness
from verifier.page import style
from verifier.page.style import Drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIXELS = 240


def raster(cells: np.ndarray, states: np.ndarray, pixels: int = PIXELS) -> np.ndarray:
    """States (pixels, pixels) at the centres of a grid over the box of all cells; row 0 is at the low end of axis 1.

    cells (n, 2, 2), states (n,). A point in no cell is open; where cells overlap, the worse state wins.
    """
    low, high = cells[:, 0].min(axis=0), cells[:, 1].max(axis=0)
    centres = low + (np.arange(pixels)[:, None] + 0.5) / pixels * (high - low)
    picture = np.full((pixels, pixels), 2, np.int8)
    for state in (1, 0, -1):
        for cell in cells[states == state]:
            x0, x1 = np.searchsorted(centres[:, 0], cell[:, 0])
            y0, y1 = np.searchsorted(centres[:, 1], cell[:, 1])
            picture[y0:y1, x0:x1] = state
    picture[picture == 2] = 0
    return picture


def draw_maps(panels: Sequence[tuple[str, Details]], stem: str, title: str, caption: str) -> Drawn:
    """Coverage maps side by side; panels: heading and details with cells."""
    with style.drawing(stem):
        figure = Figure(figsize=(2.75 * len(panels), 3.35), layout=ConstrainedLayoutEngine(wspace=0.08))
        spoken = []
        for number, (heading, found) in enumerate(panels, 1):
            axes = figure.add_subplot(1, len(panels), number)
            _map(axes, found)
            axes.set_title(heading)
            axes.tick_params(labelleft=number == 1)
            axes.set_ylabel(found.axes[1] if number == 1 and len(found.axes) > 1 else "")
            spoken.append(heading.replace("\n", ", "))
        keys = [Patch(facecolor=colour, label=name) for name, colour in (style.STATES[s] for s in (1, -1, 0))]
        figure.legend(handles=keys, loc="outside lower center", ncols=3)
        return style.finish(figure, stem, title, caption, "; ".join(spoken))


def _map(axes: Axes, found: Details) -> None:
    assert found.cells is not None and found.states is not None
    low, high = found.cells[:, 0].min(axis=0), found.cells[:, 1].max(axis=0)
    palette = np.zeros((3, 3), np.uint8)
    for state, (_, colour) in style.STATES.items():
        palette[state + 1] = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    picture = palette[raster(found.cells, found.states) + 1]
    extent = (low[0], high[0], low[1], high[1])
    axes.imshow(picture, origin="lower", extent=extent, aspect="auto", interpolation="nearest")
    axes.set_box_aspect(1)
    axes.set_xlabel(found.axes[0] if found.axes else "")
    for ticks, start, end in ((axes.set_xticks, low[0], high[0]), (axes.set_yticks, low[1], high[1])):
        ticks([start, (start + end) / 2, end])


def draw_witness(witness: PictureWitness, tau: float, axes_names: Sequence[str], stem: str, title: str) -> Drawn:
    """The picture at a counterexample: squares of side 2 tau at the truth, crosses at the predictions."""
    truth, guess, worst = witness.truth, witness.predicted, witness.worst
    side = max(witness.picture.shape[:2])
    with style.drawing(stem):
        figure = Figure(figsize=(3.0, 3.0))
        figure.set_layout_engine("none")  # the picture fills the sheet
        axes = figure.add_axes((0, 0, 1, 1))
        height, width = witness.picture.shape[:2]
        picture = np.asarray(witness.picture, np.uint8)
        if picture.ndim == 2:  # grey: as three equal channels, which needs no colour map
            picture = np.repeat(picture[..., None], 3, axis=2)
        axes.imshow(picture, extent=(0, width, height, 0), interpolation="nearest")
        _marks(axes, truth, guess, worst, tau * side)
        axes.set_axis_off()
        values = ", ".join(f"{n} {v:.3g}" for n, v in zip(axes_names or ("p0", "p1"), witness.point, strict=False))
        off = float(np.abs(guess[worst] - truth[worst]).max())
        spoken = f"At {values} keypoint {worst} is off by {off:.1f} pixels; allowed are {tau * side:.1f}"
        return style.finish(figure, stem, title, f"{spoken}.", spoken)


def _marks(axes: Axes, truth: np.ndarray, guess: np.ndarray, worst: int, radius: float) -> None:
    for number, ((x, y), (u, v)) in enumerate(zip(truth, guess, strict=True)):
        bad = number == worst
        colour = "#ff5a36" if bad else "#39d0ff"  # on a photograph, so the same in both themes
        corner = (x - radius, y - radius)  # the tolerance is on each coordinate: a square
        axes.add_patch(
            Rectangle(corner, 2 * radius, 2 * radius, fill=False, edgecolor=colour, linewidth=1.4 if bad else 0.6)
        )
        axes.plot([x, u], [y, v], color=colour, linewidth=1.2 if bad else 0.5)
        axes.plot(u, v, "x", color=colour, markersize=6 if bad else 3, markeredgewidth=1.4 if bad else 0.8)
