"""What `mkdocs build` adds to the pages that are written by hand: everything that comes from the code.

`<!-- commands -->` becomes the command lines, from the parsers; `<!-- names: MODULE -->` the public names of a module,
which mkdocstrings fills in from their docstrings; the pictures are drawn, the notebooks run, and the guide and the
changelog become pages.
"""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
# mkdocs loads this file by its path, so the tree is not on the path of imports before the next line
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from docs.tools import commands, notebooks, pictures  # noqa: E402

OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files at the root that are pages, too."""


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages and pictures that are made."""
    for source, target in OUTSIDE.items():
        content = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, target, content=content))
    for target, data in pictures.all_pictures().items():
        files.append(File.generated(config, f"assets/{target}", content=data))
    for target, content in notebooks.pages():
        files.append(File.generated(config, f"tutorials/{target}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fills in what comes from the code, and takes the notes for the tests away."""
    markdown = re.sub(r"<!-- (after|with): \S+ -->\n*", "", markdown)
    markdown = re.sub(r"<!-- commands -->", lambda _: commands.page(), markdown)
    return re.sub(r"<!-- names: (\S+) -->", lambda found: names(found[1]), markdown)


def names(module: str) -> str:
    """A heading for every public name of a module, in the order of its kinds: functions, classes, the rest."""
    home = import_module(module)
    found = {name: getattr(home, name) for name in home.__all__}

    def kind(name: str) -> tuple[int, str]:
        value = found[name]
        error = isinstance(value, type) and issubclass(value, Exception)
        return (3 if error else 2 if isinstance(value, type) else 1 if callable(value) else 4, name.lower())

    lines = []
    for name in sorted(found, key=kind):
        value = found[name]
        where = getattr(value, "__module__", None)
        if where is None or not callable(value):  # a table: what it is called, and where it lies
            homes = [m for m in sys.modules if m.startswith(module) and getattr(sys.modules[m], name, None) is value]
            where = max(homes, key=len)
        lines.append(f"::: {where}.{getattr(value, '__qualname__', name)}\n")
    return "\n".join(lines)
