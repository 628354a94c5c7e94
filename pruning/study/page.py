"""HTML pages from the templates: one design, light and dark, for the reports of studies and of pruning runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pruning.study.figures import style
from pruning.study.figures.style import Drawn


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def render(template: str, **values: Any) -> str:
    """A page as text; every value is escaped, figures are put in as SVG."""
    environment = Environment(
        loader=PackageLoader("pruning.study"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def inline(figure: Drawn) -> Markup:
        return Markup(figure.inline)

    page = environment.get_template(template)
    return page.render(style=Markup(style.style_sheet()), inline=inline, **values)
