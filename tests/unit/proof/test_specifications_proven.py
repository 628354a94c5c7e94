"""Empty sets and specifications with many queries: their proofs are accepted, and do not hold for other specifications.

The network is y = (relu(x_0 + x_1), x_0 - x_1), so whether a specification holds is known.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.models import build
from verifier import Verdict, verify
from verifier.checker import format as fmt
from verifier.checker.check import check
from verifier.checker.errors import Rejected
from verifier.checker.network import read_network
from verifier.checker.query import read_queries
from verifier.options import Options
from verifier.proof.encode import encode, encode_header, packed

DECLARED = "\n".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1"))
Box = tuple[tuple[float, float], tuple[float, float]]


def model_in(folder: Path) -> Path:
    weights = {"w": np.array([[1.0, 1.0, -1.0], [1.0, -1.0, 1.0]]), "v": np.array([[1.0, 0], [0, 1.0], [0, -1.0]])}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y"]),
    ]
    path = folder / "m.onnx"
    path.write_bytes(build(nodes, {"x": (1, 2)}, ["y"], weights, dtype=np.float64))
    return path


def bounds(box: Box) -> str:
    return " ".join(f"(>= X_{j} {low!r}) (<= X_{j} {high!r})" for j, (low, high) in enumerate(box))


def spec_of(cases: list[tuple[Box, str]]) -> str:
    """A violation is a point of one of the boxes for which its condition holds."""
    return f"{DECLARED}\n(assert (or {' '.join(f'(and {bounds(box)} {rows})' for box, rows in cases)}))"


def proven(folder: Path, text: str) -> tuple[Path, Path, Path]:
    paths = model_in(folder), folder / "s.vnnlib", folder / "p"
    paths[1].write_text(text)
    result = verify(*paths[:2], Options.from_mapping({"attack": {"restarts": 0}}), timeout=300, proof=paths[2])
    assert result.verdict is Verdict.UNSAT, result
    assert check(paths[2], *paths[:2]).verdict == "unsat"
    return paths


def rejected(paths: tuple[Path, Path, Path], text: str, folder: Path) -> None:
    """Another specification: by its hash, and with the right hash by what it says."""
    model, spec, proof = paths[0], folder / "other.vnnlib", folder / "q"
    spec.write_text(text)
    with pytest.raises(Rejected, match="another specification"):
        check(paths[2], model, spec)
    with paths[2].open("rb") as stream:
        reader = fmt.Reader(stream, "p")
        header, events = reader.header, list(reader.events())
    header = replace(header, spec=read_queries(spec, read_network(model)).digest)
    proof.write_bytes(packed([encode_header(header), *map(encode, events)]))
    with pytest.raises(Rejected, match="is open|is not positive|is not open|rows"):
        check(proof, model, spec)


EMPTY = {
    "crossed bounds": spec_of([(((1.0, -1.0), (0.0, 1.0)), "(>= Y_0 0.0)")]),
    "both crossed": spec_of([(((1.0, -1.0), (0.0, 1.0)), "(>= Y_0 0.0)"), (((0.0, 1.0), (3.0, 2.0)), "(<= Y_1 9.0)")]),
    "one of two": spec_of([(((1.0, -1.0), (0.0, 1.0)), "(>= Y_0 0.0)"), (((0.0, 1.0), (0.0, 1.0)), "(>= Y_0 2.5)")]),
    "rows over inputs": spec_of([(((0.0, 1.0), (0.0, 1.0)), "(>= X_0 X_1) (<= X_0 (- X_1 0.25)) (>= Y_0 0.0)")]),
}  # fmt: skip


@pytest.mark.parametrize("name", EMPTY)
def test_empty_sets_have_proofs(tmp_path: Path, name: str) -> None:
    """They say nothing of a set that has points."""
    paths = proven(tmp_path, EMPTY[name])
    rejected(paths, spec_of([(((0.0, 1.0), (0.0, 1.0)), "(>= Y_0 0.0)")]), tmp_path)
    rejected(paths, spec_of([(((0.0, 1.0), (0.0, 1.0)), "(>= Y_0 0.0)")] * 2), tmp_path)


def many(count: int) -> list[tuple[Box, str]]:
    """Boxes of side 1 along a diagonal, with two clauses each: y_0 > its largest value, y_1 below its smallest."""
    cases = []
    for k in range(count):
        box = ((k / 4, k / 4 + 1.0), (-k / 8, 1.0 - k / 8))
        most, least = max(0.0, box[0][1] + box[1][1]), box[0][0] - box[1][1]
        cases.append((box, f"(or (>= Y_0 {most + 0.125!r}) (and (<= Y_1 {least - 0.125!r}) (<= Y_0 99.0)))"))
    return cases


def test_many_queries_are_each_proven(tmp_path: Path) -> None:
    """A specification with 30 boxes, and every kind of change in any one of them."""
    cases = many(30)
    paths = proven(tmp_path, spec_of(cases))
    assert check(paths[2], *paths[:2]).queries == 30
    for k in (0, 13, 29):
        box, rows = cases[k]
        wider = ((box[0][0] - 1.0, box[0][1] + 1.0), box[1])
        for changed in ((wider, rows), (box, "(>= Y_0 -1.0)"), (box, f"(or {rows} (>= Y_0 -1.0))")):
            rejected(paths, spec_of([*cases[:k], changed, *cases[k + 1 :]]), tmp_path)
        rejected(paths, spec_of([*cases[:k], *cases[k:], (box, "(>= Y_0 -1.0)")]), tmp_path)


def test_a_query_without_a_leaf_is_missed(tmp_path: Path) -> None:
    """Every leaf of a proof of many queries is needed."""
    model, spec, proof = proven(tmp_path, spec_of(many(6)))
    with proof.open("rb") as stream:
        reader = fmt.Reader(stream, "p")
        header, events = reader.header, list(reader.events())
    leaves = [i for i, e in enumerate(events) if isinstance(e, fmt.Leaf)]
    assert len(leaves) >= 6
    end = events[-1]
    assert isinstance(end, fmt.End)
    for i in leaves:
        kept = [*events[:i], *events[i + 1 : -1], replace(end, leaves=end.leaves - 1)]
        (tmp_path / "q").write_bytes(packed([encode_header(header), *map(encode, kept)]))
        with pytest.raises(Rejected, match="is open: no leaf covers query"):
            check(tmp_path / "q", model, spec)


@pytest.mark.parametrize("limit", [0.5, 0.75])
def test_a_tie_has_a_proof(tmp_path: Path, limit: float) -> None:
    """y < 0.5 and y >= 0.5 exclude each other only because the first is strict: fractions say so, proofs too."""
    model, spec, proof = model_in(tmp_path), tmp_path / "s.vnnlib", tmp_path / "p"
    box = bounds(((-1.0, 1.0), (-1.0, 1.0)))
    spec.write_text(f"{DECLARED}\n(assert (and {box} (< Y_0 0.5) (>= Y_0 {limit!r})))")
    options = Options.from_mapping({"attack": {"restarts": 0}, "search": {"max_depth": 5}})
    assert verify(model, spec, options, timeout=300).verdict is Verdict.UNSAT
    result = verify(model, spec, options, timeout=300, proof=proof)
    assert result.verdict is Verdict.UNSAT and check(proof, model, spec).verdict == "unsat"
