"""An operator is a row, a lowering and a relaxation: whoever else knows one by name is counted, and has to say why."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from verifier.graph.operators import OPERATORS

ROOT = Path(__file__).parents[3]
PLACES = 3
MAKERS = {"Node", "OnnxNode", "make_node", "node", "add", "emit", "unary", "binary"}
"""What makes a node of a given operator uses it, as one calls a function; that is not counted."""

LAYERS = "a layer with weights: passes merge it, pruning cuts, folds and rescales it, training writes it"
SUMS = "arithmetic that passes merge into the layers around it, and bounds of sums and products in pruning"
MOVES = "moves elements: exporters compute shapes with it, passes merge it with its like, pruning follows channels"
NAMED: dict[str, tuple[int, str]] = {
    "Dense": (11, LAYERS),
    "Conv": (20, LAYERS),
    "ConvTranspose": (16, LAYERS),
    "Add": (15, SUMS),
    "Sub": (11, SUMS),
    "Mul": (7, SUMS),
    "Scale": (8, SUMS),
    "Shift": (8, SUMS),
    "ReduceSum": (7, SUMS),
    "Constant": (12, "stored values, which every reader of a graph tells from computed ones"),
    "Reshape": (11, MOVES),
    "Transpose": (7, MOVES),
    "Slice": (7, MOVES),
    "Take": (4, MOVES),
    "Pad": (10, MOVES),
    "Concat": (9, MOVES),
    "Expand": (6, MOVES),
    "Relu": (10, "the neuron that the search splits, and that patterns of passes and of pruning are about"),
    "Clip": (6, "two ReLUs are recognised as one; the clip of an image is told from the network behind it"),
    "Pow": (5, "an exponent that is a tensor in ONNX and a number in a row; channels of it"),
    "PRelu": (4, "its slopes go with channels"),
    "ReduceMax": (5, "channels that it merges; written with ReLUs where neurons are split"),
    "ArgMax": (5, "the last node of a classifier, read from the logits in front of it"),
}


def _named_in(path: Path) -> set[str]:
    """Operators that a module names as text, but for docstrings and where it makes a node."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in MAKERS and node.args:
                skipped |= {id(part) for part in ast.walk(node.args[0])}
    texts = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in skipped)
    return {node.value for node in texts if isinstance(node.value, str) and node.value in OPERATORS}


@pytest.fixture(scope="module")
def places() -> dict[str, list[str]]:
    """The product's modules that name each operator; the checker, which shares nothing, has tables of its own."""
    found: dict[str, list[str]] = {name: [] for name in OPERATORS}
    for package in ("verifier", "pruning"):
        for path in sorted((ROOT / package).rglob("*.py")):
            where = path.relative_to(ROOT).as_posix()
            if not where.startswith("verifier/checker/"):
                for name in _named_in(path):
                    found[name].append(where)
    return found


def test_an_operator_is_named_in_three_files(places: dict[str, list[str]]) -> None:
    allowed = {name: NAMED[name][0] if name in NAMED else PLACES for name in OPERATORS}
    assert not {name: files for name, files in places.items() if len(files) > allowed[name]}


def test_the_exceptions_are_needed(places: dict[str, list[str]]) -> None:
    assert not {name for name in NAMED if len(places[name]) <= PLACES}
