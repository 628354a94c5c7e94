"""Proofs that ask the checker for more memory than they may: refused, and said why."""

from __future__ import annotations

import io
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
from verifier.proof.encode import encode, encode_header, packed

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
    proof.write_bytes(packed([encode_header(header), *map(encode, events)]))
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
        assert prover.prove([claim])[0].least > 0
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
    with pytest.raises(Unreadable, match=r"45 open nodes with \d+ ends of boxes and decided neurons"):
        check(*files(tmp_path, 40, [*chain, fmt.End(0, 0)]))


def test_slopes_that_wait_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves are bounded together while their slopes fit."""
    sizes = []
    prove = Prover.prove
    monkeypatch.setattr(Prover, "prove", lambda self, claims: sizes.append(len(claims)) or prove(self, claims))
    splits = [fmt.InputSplit(0, 0, 0.0), fmt.InputSplit(1, 1, 0.0), fmt.InputSplit(2, 1, 0.0)]
    leaves = [fmt.Leaf(k, slopes=(np.full(40, 7 * k, np.uint8),)) for k in (3, 4, 5, 6)]
    proof = files(tmp_path, 40, [*splits, *leaves, fmt.End(3, 4)])
    assert check(*proof).leaves == 4
    monkeypatch.setattr(checking, "MOST_WAITING", 60)
    assert check(*proof).leaves == 4
    assert [s for s in sizes if s] == [4, 2, 2]


def test_a_split_may_be_at_an_end(tmp_path: Path) -> None:
    """One side has no width then, and is a part like any other."""
    for at in (-1.0, 1.0):
        events = [fmt.InputSplit(0, 0, at), fmt.InputSplit(1, 1, 0.5), *(fmt.Leaf(k) for k in (2, 3, 4)), fmt.End(2, 3)]
        assert check(*files(tmp_path, 40, events)).leaves == 3


def test_a_row_is_named_once(tmp_path: Path) -> None:
    """Every named row costs as much memory as the network has inputs."""
    twice = fmt.Leaf(0, rows=((0, ((0, 0.5), (0, 0.5))),))
    again = fmt.Leaf(0, rows=((0, ((0, 1.0),)), (0, ((0, 0.5),))))
    for leaf, message in ((twice, "each once"), (again, "2 rows, more than there are")):
        for kind in ("leaf", "narrow"):
            with pytest.raises(Rejected, match=message):
                check(*files(tmp_path, 40, [replace(leaf, kind=kind), fmt.End(0, 1)]))


@pytest.mark.parametrize("kind", [fmt.FORMS, fmt.ROWS, fmt.SYMBOLS, fmt.ROOT])
def test_narrowings_take_the_intervals_of_leaves(tmp_path: Path, kind: str) -> None:
    narrowing, leaf = fmt.Leaf(0, intervals=kind, kind="narrow"), fmt.Leaf(1, intervals=kind)
    assert check(*files(tmp_path, 40, [narrowing, leaf, fmt.End(1, 1)])).splits == 1
    with pytest.raises(Rejected, match="node 1 is open"):
        check(*files(tmp_path, 40, [narrowing, fmt.End(1, 0)]))
    with pytest.raises(Rejected, match="node 1 is not open"):
        check(*files(tmp_path, 40, [leaf, narrowing, fmt.End(1, 1)]))


@pytest.mark.parametrize(
    "line",
    [b"[" * 100000, b"[1e999", b"[-1]", b"[" + b"9" * 5000 + b"]", b"\xff", b'{"end":1}', b'["end",0,-1]',
     b'["split",0,0,1]', b'["leaf",0,"forms",[],[],["0x"]]', b'["leaf",0,"forms",[],[],[7]]',
     b'["leaf",0,"forms",[[0,0,1]],[],[]]', b'["leaf",0,"forms",[[]],[],[]]'],
)  # fmt: skip
def test_lines_that_are_no_events_are_unreadable(tmp_path: Path, line: bytes) -> None:
    proof, *others = files(tmp_path, 40, [])
    header = fmt.Reader(io.BytesIO(proof.read_bytes()), "p").header
    proof.write_bytes(packed([encode_header(header), line + b"\n"]))
    with pytest.raises(Unreadable, match="p, line 2: "):
        check(proof, *others)


def test_proofs_of_other_versions_are_refused(tmp_path: Path) -> None:
    proof, *others = files(tmp_path, 40, [])
    proof.write_bytes(b"SECATEUR PROOF\n\x02\x00" + bytes(100))
    with pytest.raises(Unreadable, match="of another version of the format: write it again"):
        check(proof, *others)


def test_convolutions_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    under = linear.Gather(((0, 50),), rng.integers(51, size=9 * 2 * 25))  # of windows, with zeros
    conv = linear.Linear(under, 100, "c", rng.normal(size=(2, 2, 9)))
    x = rng.normal(size=(7, 50))
    expected = conv.apply(x, conv.weight)
    monkeypatch.setattr(linear, "SCRATCH", 1000)
    np.testing.assert_array_equal(conv.apply(x, conv.weight), expected)
