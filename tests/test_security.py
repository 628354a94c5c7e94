"""SECURITY.md: its promises name tests that exist; and the promises that are about the sources."""

from __future__ import annotations

import ast
import io
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from verifier.checker.errors import Unreadable
from verifier.checker.format import TREE, Header, Reader
from verifier.proof.encode import encode_header, packed

ROOT = Path(__file__).parents[1]
EXECUTES = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.full_load",
}
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 12
    for path, name in named:
        assert (ROOT / path).is_file(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), f"{path}::{name}"


def product() -> Iterator[tuple[Path, ast.AST]]:
    for package in ("verifier", "pruning", "vnnlib"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                yield path, node


def test_nothing_in_a_file_is_executed() -> None:
    found = []
    for path, node in product():
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"{path}:{node.lineno}: {n}" for n in names if n.split(".")[0] in MODULES]
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        bad = name in EXECUTES or given.get("shell") == "True" or given.get("allow_pickle") == "True"
        bad = bad or (name == "torch.load" and given.get("weights_only") != "True")
        bad = bad or (name in ("np.load", "numpy.load") and given.get("allow_pickle") != "False")
        if bad:
            found.append(f"{path}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert not found, "\n".join(found)


def test_every_page_is_escaped() -> None:
    """One environment makes the pages, it escapes, and no template switches that off."""
    makers = [
        node for _, node in product() if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("Environment")
    ]
    assert makers
    for node in makers:
        assert {k.arg: ast.unparse(k.value) for k in node.keywords}.get("autoescape") == "True", ast.unparse(node)
    templates = [p for p in (ROOT / "pruning" / "study" / "templates").iterdir() if p.is_file()]
    assert templates
    for path in templates:
        assert not re.search(r"\|\s*safe\b|autoescape\s+false", path.read_text(encoding="utf-8")), path
    pages = [
        p
        for p in (ROOT / "verifier").rglob("*.py")
        if re.search(r"<(html|table|td|div)\b", p.read_text(encoding="utf-8"))
    ]
    assert not pages, "a page that is no template"


@pytest.mark.parametrize("count", [1, 3])
def test_lines_of_a_proof_are_bounded(count: int) -> None:
    """A line that unpacks to gigabytes is refused after 16 MiB of it."""
    header = encode_header(Header("", "", "t", TREE, ()))
    data = packed([header, *[b" " * (1 << 24)] * count, b'["end",0,0]\n'])
    assert len(data) < 1 << 18
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable, match="line 2: the file ends in the middle, or a line has more than"):
            list(Reader(io.BytesIO(data), "t").events())
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()
