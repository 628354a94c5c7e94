"""Proofs that ask the checker for more memory than they may: refused, and said why."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.models import build
from verifier.checker import check as checking
from verifier.checker import format as fmt
from verifier.checker import linear
from verifier.checker.check import check
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.network import read_network
from verifier.checker.prove import Claim, Part, Prover
from verifier.checker.query import read_queries
from verifier.proof.encode import encode, encode_header

SPEC = """(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(assert (>= X_0 -1.0))
(assert (<= X_0 1.0))
(assert (>= X_1 -1.0))
(assert (<= X_1 1.0))
(assert (<= Y_0 -9.0))
"""


def files(folder: Path, width: int, events: Iterable[fmt.Event]) -> tuple[Path, Path, Path]:
    """A network x -> sum relu(w x) / width with `width` neurons whose signs are open, never below 0, and a proof."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    weights = {"w": np.random.default_rng(1).normal(size=(2, width)), "v": np.full((width, 1), 1 / width)}
    proof, model, spec = (folder / name for name in ("p", "m.onnx", "s.vnnlib"))
    model.write_bytes(build(nodes, {"x": (1, 2)}, ["y"], weights))
    spec.write_text(SPEC)
    network = read_network(model)
    header = fmt.Header(network.digest, read_queries(spec, network).digest, "test", fmt.TREE, ("r",))
    proof.write_bytes(encode_header(header) + b"".join(map(encode, events)))
    return proof, model, spec


def test_symbols_of_a_wide_network_are_refused_before_allocation(tmp_path: Path) -> None:
    """A symbol per neuron makes 12002 maps of 12000 numbers, more than 1 GiB; the other kinds do with 2 maps."""
    leaf, end = fmt.Leaf(0, intervals=fmt.SYMBOLS), fmt.End(0, 1)
    small = files(tmp_path, 40, [leaf, end])
    assert check(*small).leaves == 1
    message = r"affine forms of \d+ numbers for one box, this checker holds"
    wide = files(tmp_path, 12000, [leaf, end])
    with pytest.raises(Unreadable, match=message):
        check(*wide)
    network = read_network(wide[1])
    prover = Prover(network, read_queries(wide[2], network))
    claim = Claim(Part(0), ((0, ((0, 1.0),)),))
    tracemalloc.start()
    try:
        assert prover.prove([claim])[0] > 0
        with pytest.raises(Unreadable, match=message):
            prover.prove([replace(claim, intervals=fmt.SYMBOLS)])
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()


def test_open_nodes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain of n neuron splits leaves n nodes open, of up to n decided neurons each."""
    chain: list[fmt.Event] = [fmt.NeuronSplit(2 * k, 0, k % 40) for k in range(60)]
    with pytest.raises(Rejected, match="announces other numbers"):
        check(*files(tmp_path, 40, [*chain, fmt.End(0, 0)]))
    monkeypatch.setattr(checking, "MOST_OPEN", 1000)
    with pytest.raises(Unreadable, match=r"45 open nodes with \d+ cut inputs and decided neurons"):
        check(*files(tmp_path, 40, [*chain, fmt.End(0, 0)]))


def test_one_table_of_slopes_is_held(tmp_path: Path) -> None:
    """A leaf takes the last table before it."""
    tables = [fmt.Slopes((np.full(40, k, np.uint8),)) for k in (0, 255)]
    assert check(*files(tmp_path, 40, [*tables, fmt.Leaf(0, slopes=1), fmt.End(0, 1)])).leaves == 1
    for number in (0, 2):
        with pytest.raises(Rejected, match=f"slopes {number}, expected 1"):
            check(*files(tmp_path, 40, [*tables, fmt.Leaf(0, slopes=number), fmt.End(0, 1)]))


def test_a_row_is_named_once(tmp_path: Path) -> None:
    """Every named row costs as much memory as the network has inputs."""
    leaf = fmt.Leaf(0, rows=(((0, 0.5), (0, 0.5)),))
    clip = fmt.InputClip(0, ((0, 0), (0, 0)), ((0, 1, 1.0),))
    for event in (leaf, clip):
        with pytest.raises(Rejected, match="a row that is named twice"):
            check(*files(tmp_path, 40, [event, fmt.End(0, 1)]))


@pytest.mark.parametrize("kind", [fmt.FORMS, fmt.ROWS, fmt.SYMBOLS])
def test_clips_take_the_intervals_of_leaves(tmp_path: Path, kind: int) -> None:
    """But not those of the whole box, which know nothing of a part."""
    clip, leaf = fmt.InputClip(0, ((0, 0),), ((0, 1, 0.5),), kind), fmt.Leaf(1, intervals=kind)
    assert check(*files(tmp_path, 40, [clip, leaf, fmt.End(1, 1)])).splits == 1
    with pytest.raises(Unreadable, match="found flags 32 of a clip"):
        check(*files(tmp_path, 40, [replace(clip, intervals=fmt.ROOT), leaf, fmt.End(1, 1)]))


def test_convolutions_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    conv = linear.Conv((0,), (1, 4, 5, 5), "c", rng.normal(size=(4, 1, 3, 3)), (1, 2, 5, 5), (1, 1, 1, 1), groups=2)
    x = rng.normal(size=(7, 1, 2, 5, 5))
    whole = conv.forward([x]), conv.spread([np.abs(x)])
    monkeypatch.setattr(linear, "SCRATCH", 1000)
    for found, expected in zip((conv.forward([x]), conv.spread([np.abs(x)])), whole, strict=True):
        np.testing.assert_array_equal(found, expected)
