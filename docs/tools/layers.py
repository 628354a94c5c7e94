"""The picture of the architecture, drawn from the imports: `python -m docs.tools.layers` writes it (`make layers`).

Folders and top modules of `verifier` are units; a unit lies one layer above the highest of those that it imports. Below
them stands the way from files to a verdict. A test says when the picture is out of date.
"""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs/assets/architecture.svg"
FLOW = (
    ("network.onnx", "verifier/graph/onnx_import", "Graph"),
    ("property.vnnlib", "vnnlib/normalise.py", "NormalForm"),
    ("", "verifier/passes/simplify.py", "smaller Graph"),
    ("", "verifier/problem", "Problem"),
    ("", "verifier/attack", "candidates"),
    ("", "verifier/bounds", "bounds of boxes"),
    ("", "verifier/search/bab.py", "boxes left open"),
    ("", "verifier/attack/replay.py", "witness, replayed"),
    ("verdict, files", "verifier/command/report.py", "Result"),
)
"""From files to a verdict: what goes in or comes out at this step, where it happens, what it hands on."""

WIDTH, ROW, GAP, MARGIN = 1000, 46, 12, 20
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#1a2330}.s{font-size:11px;fill:#4a5568}.u{fill:#e6eef9;stroke:#4a72b0}"
    ".m{fill:#f4f1e6;stroke:#a08a3c}.f{fill:#e9f5ec;stroke:#3f8a57}.a{stroke:#55606e;fill:none;marker-end:url(#t)}"
)


def modules(package: str) -> Iterator[Path]:
    """The Python files of a package."""
    yield from sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, also inside functions, but not for type checking only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in typing:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names if node.module == "verifier")
        elif isinstance(node, ast.Import) and id(node) not in typing:
            yield from (alias.name for alias in node.names)


def units() -> dict[str, set[str]]:
    """Every folder and top module of `verifier`, with those that it imports."""
    names = {path.stem for path in (ROOT / "verifier").glob("*.py") if path.stem != "__init__"}
    names |= {path.parent.name for path in (ROOT / "verifier").glob("*/__init__.py")}
    found: dict[str, set[str]] = {name: set() for name in names}
    for path in modules("verifier"):
        own = path.relative_to(ROOT / "verifier").parts[0].removesuffix(".py")
        for module in imported(path):
            parts = module.split(".")
            if own in names and parts[0] == "verifier" and len(parts) > 1 and parts[1] in names - {own}:
                found[own].add(parts[1])
    return found


def layers() -> list[list[str]]:
    """Units from the lowest layer up: a unit lies one layer above the highest that it imports."""
    uses = units()
    level: dict[str, int] = {}
    for name in graphlib.TopologicalSorter(uses).static_order():
        level[name] = 1 + max((level[other] for other in uses[name]), default=-1)
    return [sorted(name for name in level if level[name] == height) for height in range(max(level.values()) + 1)]


def sentence(unit: str) -> str:
    """What a unit is for: the first sentence of its docstring, shortened."""
    folder = ROOT / "verifier" / unit
    path = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    text = " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())
    return text.split(". ")[0].split(": ")[0].split("; ")[0].rstrip(".")


def svg() -> str:
    """The picture: layers on top, the way from files to a verdict below."""
    rows = layers()[::-1]
    parts, y = [_text(MARGIN, 24, "verifier: each layer imports only what lies below it")], 40.0
    for row in rows:
        width = (WIDTH - 2 * MARGIN - GAP * (len(row) - 1)) / len(row)
        for i, name in enumerate(row):
            x = MARGIN + i * (width + GAP)
            folder = (ROOT / "verifier" / name).is_dir()
            label, letters = f"{name}/" if folder else name, int(width / 6.8)  # of the notes' size
            note = sentence(name)
            note = note if len(note) <= letters else note[: letters - 2].rsplit(" ", 1)[0] + " .."
            parts.append(
                f'<rect class="{"u" if folder else "m"}" x="{x:g}" y="{y:g}" width="{width:g}" height="{ROW}" rx="5"/>'
            )
            parts += [_text(x + 8, y + 19, label), _text(x + 8, y + 36, note, "s")]
        y += ROW + GAP
    parts.append(_text(MARGIN, y + 26, "from files to a verdict"))
    y += 40
    each = 5
    width = (WIDTH - 2 * MARGIN - 26 * (each - 1)) / each
    half = width / 2
    for i, (file, where, what) in enumerate(FLOW):
        line, column = divmod(i, each)
        x, top = MARGIN + column * (width + 26), y + line * 92
        parts.append(f'<rect class="f" x="{x:g}" y="{top:g}" width="{width:g}" height="66" rx="5"/>')
        parts += [_text(x + 8, top + 19, what), _text(x + 8, top + 38, where, "s"), _text(x + 8, top + 55, file, "s")]
        if column < each - 1 and i < len(FLOW) - 1:
            parts.append(f'<path class="a" d="M{x + width + 3:g} {top + 33:g} h18"/>')
        elif i < len(FLOW) - 1:
            parts.append(f'<path class="a" d="M{x + half:g} {top + 68:g} v11 H{MARGIN + half:g} v9"/>')
    height = y + 92 * -(-len(FLOW) // each)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">'
        "<title>Layers of the verifier, and the way from files to a verdict</title>"
        f"<style>{STYLE}</style>"
        '<defs><marker id="t" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#55606e"/></marker></defs>'
        f'<rect width="{WIDTH}" height="{height:g}" fill="#ffffff" rx="6"/>'
    )
    return "\n".join([head, *parts, "</svg>", ""])


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}"{f" class={chr(34)}{kind}{chr(34)}" if kind else ""}>{escape(text)}</text>'


def main() -> None:
    """Writes the picture."""
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
