"""Colours, sizes and saving. Every colour of a figure comes from `LIGHT`; in HTML each becomes the CSS variable of its
name, so one drawing serves the light and the dark page (the dark values are `DARK`, put into the page's style sheet).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import matplotlib
from matplotlib.ticker import LogFormatter

from verifier.files.whole import make_folder, write

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

LIGHT = {
    "ink": "#1b1b19", "muted": "#6f6e68", "grid": "#e3e2dc", "paper": "#fdfdfb",
    "blue": "#2a6fcf", "aqua": "#159a78", "orange": "#d8662a", "yellow": "#b88609", "green": "#4d8a1f",
    "violet": "#6b55c7", "magenta": "#c03c86", "red": "#cc3a3a", "brown": "#8a5a3c", "grey": "#7c7b75",
}  # fmt: skip
DARK = {
    "ink": "#ecebe6", "muted": "#a3a29b", "grid": "#383835", "paper": "#1c1c1a",
    "blue": "#5b9bf0", "aqua": "#2fc29b", "orange": "#ef8a52", "yellow": "#d9ab2e", "green": "#86bf55",
    "violet": "#a594f2", "magenta": "#e572b2", "red": "#ee6b6b", "brown": "#c79473", "grey": "#a5a49d",
}  # fmt: skip
STATES = {1: ("certified", "#2f78cf"), 0: ("open", "#c9c8c2"), -1: ("refuted", "#d9572b")}

_ARMS = {
    "usn": ("blue", "o"), "usn-cert": ("aqua", "s"), "random": ("yellow", "v"), "random-matched": ("orange", "^"),
    "l2": ("green", "D"), "taylor": ("violet", "P"), "nrs": ("magenta", "X"), "anti-usn": ("red", "<"),
    "small-scratch": ("brown", "d"), "dense+ft": ("grey", "_"), "dense": ("ink", "_"),
}  # fmt: skip
_LINES = {"dense+ft": "--", "dense": ":"}  # the unpruned ones differ by more than their grey
_SPARE = ("blue", "orange", "aqua", "magenta", "yellow", "violet", "green", "red", "brown", "grey")
_MARKERS = "os^vDPX<d>"


@dataclass(frozen=True)
class Look:
    """How an arm or a tool is drawn, everywhere the same."""

    colour: str
    marker: str
    line: str = "-"


def looks(names: Sequence[str]) -> Mapping[str, Look]:
    """A look for every name: the known arms keep theirs, others take what is free, in the order of their names, so that
    the figures of a page agree however each sorts its lines.
    """
    taken = {_ARMS[name] for name in names if name in _ARMS}
    spare = [pair for pair in zip(_SPARE, _MARKERS, strict=True) if pair not in taken] or [("blue", "o")]
    others = sorted({name for name in names if name not in _ARMS})
    chosen = {name: spare[i % len(spare)] for i, name in enumerate(others)}
    pairs = {name: _ARMS.get(name) or chosen[name] for name in names}
    return {name: Look(LIGHT[colour], marker, _LINES.get(name, "-")) for name, (colour, marker) in pairs.items()}


@contextmanager
def drawing(name: str) -> Iterator[None]:
    """The settings every figure is drawn and saved with; `name` keeps the ids of figures on one page apart."""
    ink, muted = LIGHT["ink"], LIGHT["muted"]
    settings: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": name, "pdf.fonttype": 42, "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial"], "font.size": 9.0,
        "text.color": ink, "axes.labelcolor": ink, "axes.edgecolor": muted, "axes.linewidth": 0.8,
        "axes.titlecolor": ink, "axes.titlesize": 9.5, "axes.spines.top": False, "axes.spines.right": False,
        "xtick.color": muted, "ytick.color": muted, "xtick.labelcolor": ink, "ytick.labelcolor": ink,
        "axes.grid": False, "grid.color": LIGHT["grid"], "grid.linewidth": 0.8, "legend.frameon": False,
        "legend.fontsize": 8.5, "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "#ffffff",
        "lines.linewidth": 1.6, "figure.constrained_layout.use": True,
    }  # fmt: skip
    with matplotlib.rc_context(settings):
        yield


class _Plain(LogFormatter):
    """0.01, 0.1, 1, 10 instead of powers, and as many between as there is room for (`LogFormatter` knows)."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def plain_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: powers of ten, and multiples of them where it spans few."""
    axis.set_major_formatter(_Plain())
    axis.set_minor_formatter(_Plain(labelOnlyBase=False))


def plain(label: str) -> str:
    """A label that is shown as it is: dollars begin no formula, and one that begins with `_` stays in the legend."""
    return ("\u200b" if label.startswith("_") else "") + label.replace("$", r"\$")


@dataclass(frozen=True, eq=False)
class Drawn:
    """A finished figure: file stem, title, one line on how to read it, what a reader who cannot see it should know."""

    stem: str
    title: str
    caption: str
    spoken: str
    svg: str
    pdf: bytes

    @property
    def inline(self) -> str:
        """The figure for an HTML page: no XML head, size set by the page, colours as variables, a spoken label."""
        body = self.svg[self.svg.index("<svg") :]
        for name, value in LIGHT.items():
            body = re.sub(re.escape(value), f"var(--{name})", body, flags=re.IGNORECASE)
        body = body.replace("fill: #ffffff", "fill: none")  # the sheet: the page has its own
        body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
        # ids must be unique on a page that holds many figures
        body = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{self.stem}-", body)
        head, _, rest = body.partition(">")
        head = re.sub(r' (width|height)="[^"]*"', "", head)  # the page decides; viewBox keeps the proportions
        label = quoteattr(f"{self.title}. {self.spoken}")
        return f'{head} role="img" aria-label={label}>{rest}'


def finish(figure: Figure, stem: str, title: str, caption: str, spoken: str) -> Drawn:
    """Render a figure; call inside `drawing`. Nothing in the output depends on the time of day."""
    svg, pdf = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return Drawn(stem, title, caption, spoken, svg.getvalue(), pdf.getvalue())


def save(drawn: Drawn, folder: Path) -> None:
    """Write STEM.svg (on white) and STEM.pdf."""
    make_folder(folder)
    write(folder / f"{drawn.stem}.svg", drawn.svg, "the figure")
    write(folder / f"{drawn.stem}.pdf", drawn.pdf, "the figure")


def style_sheet() -> str:
    """The colours as CSS variables: light, dark by the reader's system, and either one forced by data-theme."""
    light = "".join(f"--{name}:{value};" for name, value in LIGHT.items())
    dark = "".join(f"--{name}:{value};" for name, value in DARK.items())
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f'@media (prefers-color-scheme:dark){{:root:not([data-theme="light"]){{{dark}}}}}'
        f':root[data-theme="dark"]{{color-scheme:dark;{dark}}}:root[data-theme="light"]{{color-scheme:light}}'
    )
