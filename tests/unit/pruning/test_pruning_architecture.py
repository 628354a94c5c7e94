"""Which module may import what."""

from __future__ import annotations

import ast
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from pruning_nets import conv_net

import pruning

ROOT = Path(pruning.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


def imports(tree: ast.AST, top_level_only: bool) -> set[str]:
    nodes = tree.body if top_level_only and isinstance(tree, ast.Module) else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports(file):
    tree = ast.parse(file.read_text())
    name = str(file.relative_to(ROOT))
    everywhere, at_load = imports(tree, False), imports(tree, True)
    assert "onnx" not in everywhere or name == "onnx_io.py"
    assert "onnxruntime" not in everywhere or name == "runtime.py"
    if name in ("study/making.py", "study/verifying.py"):  # loaded by `wiring.hands` only when a study starts
        at_load -= {"torch"}
    assert not at_load & {"torch", "onnx2torch", "matplotlib", "PIL", "scipy"}
    assert "scipy" not in everywhere or name.startswith("study/")  # its statistics


def test_every_channel_rule_is_for_an_operator_onnx_knows():
    from onnx import defs

    from pruning.rules import RULES

    known = {schema.name for schema in defs.get_all_schemas_with_history()}
    assert set(RULES) <= known and len(RULES) > 60


def test_aircraft23_is_read_through_its_function(monkeypatch):
    def load(split, n, size=64, grey=True, seed=0):
        assert (split, n, size, grey, seed) == ("train", 6, 8, True, 4)
        return np.full((n, 1, size, size), 0.5, np.float32), np.full((n, 23, 2), 4.0), np.full((n, 23), 2)

    fake = types.ModuleType("verifier.data")
    fake.aircraft23 = types.SimpleNamespace(load=load)
    monkeypatch.setitem(sys.modules, "verifier.data", fake)
    data = pruning.load_data("aircraft23", conv_net(), images=6, seed=4)
    assert data.images.shape == (6, 1, 8, 8) and data.labels.shape == (6, 46) and (data.labels == 0.5).all()
    monkeypatch.setitem(sys.modules, "verifier.data", None)
    with pytest.raises(pruning.DataError, match="not available"):
        pruning.load_data("aircraft23", conv_net(), images=6)
