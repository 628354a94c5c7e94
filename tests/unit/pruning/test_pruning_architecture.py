"""Which module may import what."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
from pruning_nets import build, conv_net, node

import pruning
from pruning.measure import error

ROOT = Path(pruning.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))


TORCH = {
    *("forms.py", "gradients.py", "losses.py", "marginal.py", "oracles.py", "torch_bridge.py", "training.py"),
    *("study/making.py", "study/verifying.py"),
}
"""Imported where PyTorch is needed, and nowhere else: `prune --criterion l2` starts without it."""


def imports(tree: ast.AST, top_level_only: bool) -> set[str]:
    nodes = tree.body if top_level_only and isinstance(tree, ast.Module) else ast.walk(tree)
    found = set()
    for part in nodes:
        if isinstance(part, ast.Import):
            found |= {alias.name.split(".")[0] for alias in part.names}
        elif isinstance(part, ast.ImportFrom):
            found.add((part.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_imports(file):
    tree = ast.parse(file.read_text())
    name = str(file.relative_to(ROOT))
    everywhere, at_load = imports(tree, False), imports(tree, True)
    assert "onnx" not in everywhere or name == "onnx_io.py"
    assert "onnxruntime" not in everywhere
    assert "torch" not in at_load or name in TORCH
    assert "matplotlib" not in at_load or name.startswith("study/figures/")
    assert not at_load & {"onnx2torch", "PIL", "scipy"}
    assert "scipy" not in everywhere or name.startswith("study/")  # its statistics


def test_every_channel_rule_is_for_an_operator_onnx_knows():
    from onnx import defs

    from pruning.rules import RULES

    known = {schema.name for schema in defs.get_all_schemas_with_history()}
    assert set(RULES) <= known and len(RULES) > 60


def aircraft(monkeypatch, points):
    """Stands in for the data set: grey images 8 x 8 and the given key points, in pixels."""

    def load(split, n, size, grey, start, view):
        assert (split, n, size, grey, start, view) == ("train", 6, 8, True, 0, "quarter")
        return np.full((n, 1, size, size), 0.5, np.float32), points, np.full((n, points.shape[1]), 2)

    monkeypatch.setattr("verifier.data.aircraft23.load", load)


def head(net, bias):
    """The network with its last layer turned into a constant answer."""
    weights = {"w1": np.zeros_like(net.weights["w1"]), "b1": np.asarray(bias, np.float32)}
    return net.changed(weights=weights)


def test_aircraft23_is_read_through_its_function(monkeypatch):
    points = np.random.default_rng(0).uniform(1, 7, (6, 2, 2))
    aircraft(monkeypatch, points)
    data = pruning.load_data("aircraft23", head(conv_net(), [4, 4, 4, 4]), images=6, seed=4)
    assert data.images.shape == (6, 1, 8, 8)
    np.testing.assert_allclose(data.labels, points.reshape(6, 4), rtol=1e-6)  # pixels, as the data set has them


def test_heads_that_answer_otherwise_get_no_labels_but_a_reason(monkeypatch):
    aircraft(monkeypatch, np.random.default_rng(0).uniform(1, 7, (6, 2, 2)))
    data = pruning.load_data("aircraft23", head(conv_net(), [0.5, 0.5, 0.4, 0.6]), images=6, seed=4)
    with pytest.raises(pruning.DataError, match="between 0.4 and 0.6, .* differ in scale"):
        pruning.score(conv_net(), data, "taylor")
    aircraft(monkeypatch, np.full((6, 23, 2), 4.0))
    data = pruning.load_data("aircraft23", conv_net(), images=6, seed=4)
    with pytest.raises(pruning.DataError, match="23 key points need 46 coordinates or 23 heatmaps"):
        data.part(slice(0, 3)).fitted(conv_net()).need_labels("training")


def test_heatmaps_get_positions_in_cells(monkeypatch):
    rng = np.random.default_rng(0)
    net = build([node("Conv", "x k", "h", strides=[2, 2])], {"k": rng.normal(size=(3, 1, 2, 2)).astype(np.float32)},
                {"x": [1, 8, 8]}, {"h": [3, 4, 4]})  # fmt: skip
    points = np.full((6, 3, 2), 0.0)
    points[:, 1] = 1.0, 7.0  # the centres of cells (0, 0) and (row 3, column 0), and a border between cells
    points[:, 0] = 1.0, 1.0
    points[:, 2] = 4.0, 5.0
    aircraft(monkeypatch, points)
    labels = pruning.load_data("aircraft23", net, images=6, seed=4).labels
    np.testing.assert_allclose(labels[0], [0, 0, 0, 3, 1.5, 2])


def test_the_shipped_network_and_the_labels_share_a_unit():
    """Trained by `secateur train`: its mean squared error must be some pixels squared, far below an untrained one's."""
    from verifier.data import networks

    net = pruning.load(networks.path())
    data = pruning.load_data("aircraft23", net, images=8, split="test")
    assert data.labels.shape == (8, 46) and 20 < data.labels.mean() < 44
    assert error(net, data) < 9
