"""HTML pages from the templates: one design, light and dark, for the reports of all commands."""

from __future__ import annotations

from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from verifier.page import style
from verifier.page.style import Drawn


def render(template: str, package: str = "verifier.page", **values: Any) -> str:
    """A page as text, from a template of `package` or of this one; every value is escaped, figures are put in as
    SVG."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, "verifier.page"))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def inline(figure: Drawn) -> Markup:
        return Markup(figure.inline)

    page = environment.get_template(template)
    return page.render(style=Markup(style.style_sheet()), inline=inline, **values)
