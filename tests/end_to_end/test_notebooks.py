"""The notebooks are run by `make docs`; here only that every name of ours in them exists."""

import ast
import json
from importlib import import_module
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
OURS = ("verifier", "pruning", "vnnlib")


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_names_exist(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in [*cell["source"], "\n"]]
    # lines of the shell and questions to IPython are not Python
    tree = ast.parse("".join(line for line in lines if not line.startswith(("!", "%")) and not line.endswith("?")))
    checked = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            module = import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name) or import_module(f"{node.module}.{alias.name}"), alias.name
                checked += 1
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in OURS:
            assert hasattr(import_module(node.value.id), node.attr), f"{node.value.id}.{node.attr}"
            checked += 1
    assert checked > 3
