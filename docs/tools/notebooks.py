"""The notebooks of `examples/` as pages: each is run from the start, and an error in a cell stops the build.

The notebooks hold no outputs; what a page shows is what came out this time.
"""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
LIMIT = 100  # seconds of one cell


def run(path: Path) -> Any:
    """A notebook after a run in an empty folder."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(path, as_version=4)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # its warning would stand on the page
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(book, timeout=LIMIT, kernel_name="python3", resources={"metadata": {"path": folder}})
        return client.execute()


def pages() -> Iterator[tuple[str, str]]:
    """Name and Markdown of every notebook."""
    from nbconvert import MarkdownExporter

    for path in sorted(EXAMPLES.glob("*.ipynb")):
        text, resources = MarkdownExporter().from_notebook_node(run(path))
        for name, data in resources["outputs"].items():
            text = text.replace(f"({name})", f"(data:image/png;base64,{base64.b64encode(data).decode()})")
        yield f"{path.stem}.md", text


def stored_outputs(path: Path) -> list[int]:
    """Cells of a notebook file that hold outputs or counts of runs: there should be none."""
    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    return [i for i, cell in enumerate(cells) if cell.get("outputs") or cell.get("execution_count")]
