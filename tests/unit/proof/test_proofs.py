"""Proofs end to end: what `verify --proof` writes is accepted, and what is changed is rejected or still a proof."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from tests.models import build
from verifier import OptionsError, SecateurError, Verdict, verify
from verifier.checker import cli
from verifier.checker import format as fmt
from verifier.checker.check import check
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.network import read_network
from verifier.checker.query import read_queries
from verifier.errors import ProofError
from verifier.options import Options
from verifier.proof.encode import encode, encode_header, encode_witness, packed


@dataclass(frozen=True)
class Case:
    """A property that holds, its files and its proof; `limit` is the number in the specification, `least` the smallest
    output that sampling found."""

    model: Path
    spec: Path
    proof: Path
    weights: dict[str, np.ndarray]
    inputs: int
    limit: float
    least: float


def model_of(weights: dict[str, np.ndarray], inputs: int) -> bytes:
    nodes, last = [], "x"
    depth = len(weights) // 2
    for k in range(depth):
        nodes.append(helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], ["y" if k == depth - 1 else f"h{k}"]))
        if k < depth - 1:
            nodes.append(helper.make_node("Relu", [f"h{k}"], [f"r{k}"]))
        last = f"r{k}"
    return build(nodes, {"x": (1, inputs)}, ["y"], weights, dtype=np.float64)


def spec_of(inputs: int, limit: float, side: float = 1.0) -> str:
    lines = [f"(declare-const X_{i} Real)" for i in range(inputs)]
    lines += ["(declare-const Y_0 Real)", "(declare-const Y_1 Real)"]
    for i in range(inputs):
        lines += [f"(assert (>= X_{i} -1.0))", f"(assert (<= X_{i} {side}))"]
    # one clause of two rows, one of one row
    lines.append(f"(assert (or (and (<= Y_0 {limit!r}) (<= Y_1 {limit!r})) (and (<= Y_0 {limit - 1!r}))))")
    return "\n".join(lines)


def violated(y: np.ndarray, limit: float) -> np.ndarray:
    return (y.max(1) <= limit) | (y[:, 0] <= limit - 1)


def sampled(model: bytes, inputs: int, count: int = 20000, side: float = 1.0, kind: type = np.float64) -> np.ndarray:
    x = np.random.default_rng(9).uniform(-1, side, (count, inputs))
    x[:500] = np.sign(x[:500])
    session = onnxruntime.InferenceSession(model)
    return np.concatenate([session.run(None, {"x": row[None].astype(kind)})[0] for row in x[:4000]])


def case(folder: Path, inputs: int, seed: int, width: int = 6, slack: float = 0.25) -> Case:
    rng = np.random.default_rng(seed)
    sizes = [inputs, width, width, 2]
    weights = {}
    for k, (n, m) in enumerate(pairwise(sizes)):
        weights[f"w{k}"] = rng.normal(size=(n, m)) / np.sqrt(n)
        weights[f"b{k}"] = rng.normal(size=m) / 2
    model = model_of(weights, inputs)
    y = sampled(model, inputs)
    least = min(y.max(1).min(), y[:, 0].min() + 1)
    limit = float(least - slack)
    paths = [folder / name for name in ("m.onnx", "s.vnnlib", "p.proof")]
    paths[0].write_bytes(model)
    paths[1].write_text(spec_of(inputs, limit))
    options = Options.from_mapping({"attack": {"restarts": 0}})
    result = verify(paths[0], paths[1], options, timeout=60, proof=paths[2])
    assert result.verdict is Verdict.UNSAT, result
    return Case(*paths, weights, inputs, limit, float(least))


@pytest.fixture(scope="module")
def by_inputs(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case(tmp_path_factory.mktemp("inputs"), 3, 3)


@pytest.fixture(scope="module")
def by_neurons(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return case(tmp_path_factory.mktemp("neurons"), 24, 7, width=12, slack=1.2)


def parts(path: Path) -> tuple[fmt.Header, list[fmt.Event]]:
    reader = fmt.Reader(io.BytesIO(path.read_bytes()), "p")
    return reader.header, list(reader.events())


def write(path: Path, header: fmt.Header, events: Iterable[fmt.Event]) -> Path:
    body = [e for e in events if not isinstance(e, fmt.End)]
    leaves = sum(isinstance(e, fmt.Leaf) and e.kind != "narrow" for e in body)
    path.write_bytes(packed([encode_header(header), *map(encode, [*body, fmt.End(len(body) - leaves, leaves)])]))
    return path


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("inputs", [2, 4, 24])
def test_proofs_of_random_networks_are_accepted(tmp_path: Path, inputs: int, seed: int) -> None:
    made = case(tmp_path, inputs, seed, width=8, slack=0.3 if inputs < 9 else 1.5)
    found = check(made.proof, made.model, made.spec)
    assert found.verdict == "unsat"
    # a proof does not depend on its writer: written again from its events it is the same file
    assert write(tmp_path / "q", *parts(made.proof)).read_bytes() == made.proof.read_bytes()
    assert made.proof.stat().st_size < 200 + 200 * found.leaves


def test_convolutions_of_few_inputs_are_proven_with_symbols(tmp_path: Path) -> None:
    """Two factors make a picture: the search takes zonotopes there, and so does the proof."""
    rng = np.random.default_rng(0)
    weights = {
        "m": rng.normal(size=(2, 64)), "o": rng.normal(size=64), "s": np.array([1, 1, 8, 8]),
        "k": rng.normal(size=(4, 1, 3, 3)) / 3, "l": rng.normal(size=(4, 4, 3, 3)) / 6, "f": np.array([1, -1]),
        "v": rng.normal(size=(64, 2)) / 8,
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "m"], ["a"]), helper.make_node("Add", ["a", "o"], ["b"]),
        helper.make_node("Reshape", ["b", "s"], ["c"]), helper.make_node("Conv", ["c", "k"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]), helper.make_node("Conv", ["e", "l"], ["g"]),
        helper.make_node("Relu", ["g"], ["h"]), helper.make_node("Reshape", ["h", "f"], ["i"]),
        helper.make_node("MatMul", ["i", "v"], ["y"]),
    ]  # fmt: skip
    paths = [tmp_path / name for name in ("m.onnx", "s.vnnlib", "p.proof")]
    paths[0].write_bytes(build(nodes, {"x": (1, 2)}, ["y"], weights))
    y = sampled(paths[0].read_bytes(), 2, kind=np.float32).astype(np.float64)
    least = min(y.max(1).min(), y[:, 0].min() + 1)
    paths[1].write_text(spec_of(2, float(least - 0.1)))
    result = verify(*paths[:2], timeout=60, proof=paths[2])
    assert result.verdict is Verdict.UNSAT and result.settings["method"] == "zonotope"
    assert check(paths[2], *paths[:2]).verdict == "unsat"
    header, events = parts(paths[2])
    assert any(isinstance(e, fmt.Leaf) and e.intervals == fmt.SYMBOLS for e in events)
    paths[1].write_text(spec_of(2, float(least + 0.05)))
    forged = replace(header, spec=read_queries(paths[1], read_network(paths[0])).digest)
    with pytest.raises(Rejected, match="is not positive"):
        check(write(tmp_path / "q", forged, events), *paths[:2])


def test_the_cases_split_what_they_are_for(by_inputs: Case, by_neurons: Case) -> None:
    _, events = parts(by_inputs.proof)
    assert any(isinstance(e, fmt.InputSplit) for e in events)
    assert any(isinstance(e, fmt.Leaf) and e.kind == "narrow" for e in events)
    _, events = parts(by_neurons.proof)
    assert any(isinstance(e, fmt.NeuronSplit) for e in events)
    assert any(isinstance(e, fmt.Leaf) and any(e.beta) and e.slopes for e in events)


E = TypeVar("E")
Change = Callable[[list[fmt.Event], int], list[fmt.Event]]


def change(kind: type[E], edit: Callable[[E], list[fmt.Event]], named: str = "") -> Change:
    """Edits event number i (counted round) of one kind; leaves are `named` "leaf" or "narrow", and never those of rows
    (`test_row_trees_proven`)."""

    def apply(events: list[fmt.Event], i: int) -> list[fmt.Event]:
        own = [(k, e, vars(e).get("kind")) for k, e in enumerate(events) if isinstance(e, kind)]
        places = [(k, e) for k, e, found in own if named in ("", found) and found not in fmt.OF_ROWS]
        k, event = places[i % len(places)]
        return [*events[:k], *edit(event), *events[k + 1 :]]

    return apply


def swap_leaves(events: list[fmt.Event], i: int) -> list[fmt.Event]:
    places = [(k, e) for k, e in enumerate(events) if isinstance(e, fmt.Leaf)]
    (a, first), (b, second) = places[i % len(places)], places[(i + 1) % len(places)]
    out = list(events)
    out[a], out[b] = replace(first, node=second.node), replace(second, node=first.node)
    return out


ALWAYS = {
    "dropped leaf": change(fmt.Leaf, lambda e: [], "leaf"),
    "repeated leaf": change(fmt.Leaf, lambda e: [e, e]),
    "leaf of another node": change(fmt.Leaf, lambda e: [replace(e, node=e.node + 100000)]),
    "negative multiplier": change(fmt.Leaf, lambda e: [replace(e, beta=(-1.0,) * max(1, len(e.beta)))]),
    "rows of a clause that is not there": change(
        fmt.Leaf, lambda e: [replace(e, rows=(*e.rows, (2, ((0, 0.5),))))]
    ),
    "row that is not there": change(
        fmt.Leaf, lambda e: [replace(e, rows=tuple((c, ((7, 1.0),)) for c in range(2)))]),
    "negative weight": change(fmt.Leaf, lambda e: [replace(e, rows=tuple((c, ((0, -1.0),)) for c in range(2)))]),
}  # fmt: skip
INPUTS = {
    "split outside of the box": change(fmt.InputSplit, lambda e: [replace(e, at=1.5)]),
    "split at NaN": change(fmt.InputSplit, lambda e: [replace(e, at=float("nan"))]),
    "split of an input that is not there": change(fmt.InputSplit, lambda e: [replace(e, coordinate=99)]),
    "dropped split": change(fmt.InputSplit, lambda e: []),
}
NEURONS = {
    "neuron that is not there": change(fmt.NeuronSplit, lambda e: [replace(e, neuron=999)]),
    "tensor that is not there": change(fmt.NeuronSplit, lambda e: [replace(e, tensor=9)]),
    "slopes of another size": change(
        fmt.Leaf, lambda e: [replace(e, slopes=tuple(t[1:] for t in e.slopes) or (np.zeros(1, np.uint8),))]
    ),
    "slopes of another number of tensors": change(
        fmt.Leaf, lambda e: [replace(e, slopes=(*e.slopes, np.zeros(12, np.uint8)))]
    ),
}


CLIPS = {
    "row that is not there in a narrowing": change(
        fmt.Leaf, lambda e: [replace(e, rows=(*e.rows, (0, ((7, 1.0),))))], "narrow"
    ),
    "row that is named twice in a narrowing": change(
        fmt.Leaf, lambda e: [replace(e, rows=((0, ((0, 1.0),)),) * 2)], "narrow"
    ),
    "narrowing that is a leaf": change(fmt.Leaf, lambda e: [replace(e, kind="leaf")], "narrow"),
    "leaf that is a narrowing": change(fmt.Leaf, lambda e: [replace(e, kind="narrow")], "leaf"),
    "dropped narrowing": change(fmt.Leaf, lambda e: [], "narrow"),
}  # fmt: skip


@pytest.mark.parametrize("kind", [*ALWAYS, *INPUTS, *NEURONS, *CLIPS])
@pytest.mark.parametrize("i", range(4))
def test_broken_proofs_are_rejected(kind: str, i: int, tmp_path: Path, by_inputs: Case, by_neurons: Case) -> None:
    for own, made in (({**INPUTS, **CLIPS}, by_inputs), (NEURONS, by_neurons)):
        edit = {**ALWAYS, **own}.get(kind)
        if edit is not None:
            header, events = parts(made.proof)
            with pytest.raises(Rejected):
                check(write(tmp_path / "p", header, edit(events, i)), made.model, made.spec)


KINDS = [fmt.FORMS, fmt.ROWS, fmt.ROOT]
PERHAPS = {
    "rows of a narrowing": change(
        fmt.Leaf, lambda e: [replace(e, rows=tuple((c, ((0, 1.0),)) for c in range(2)))], "narrow"
    ),
    "narrowing by rows of one clause": change(fmt.Leaf, lambda e: [replace(e, rows=e.rows[:1])], "narrow"),
    "weights of a narrowing": change(
        fmt.Leaf, lambda e: [replace(e, rows=tuple((c, ((k, w * 3 + 1),)) for c, ((k, w), *_) in e.rows))], "narrow"
    ),
    "split position": change(fmt.InputSplit, lambda e: [replace(e, at=e.at * 0.7 + 0.05)]),
    "split coordinate": change(fmt.InputSplit, lambda e: [replace(e, coordinate=(e.coordinate + 1) % 3)]),
    "neuron": change(fmt.NeuronSplit, lambda e: [replace(e, neuron=(e.neuron + 1) % 12)]),
    "multiplier": change(fmt.Leaf, lambda e: [replace(e, beta=tuple(5 * b + 1 for b in e.beta))]),
    "slope": change(fmt.Leaf, lambda e: [replace(e, slopes=tuple(255 - t for t in e.slopes))]),
    "intervals": change(fmt.Leaf, lambda e: [replace(e, intervals=KINDS[(KINDS.index(e.intervals) + 1) % 3])]),
    "row": change(fmt.Leaf, lambda e: [replace(e, rows=tuple((c, ((0, 1.0),)) for c, _ in e.rows))]),
    "swapped leaves": swap_leaves,
}  # fmt: skip


@pytest.mark.parametrize("kind", PERHAPS)
def test_changed_proofs_cannot_prove_what_is_wrong(
    kind: str, tmp_path: Path, by_inputs: Case, by_neurons: Case
) -> None:
    """A changed proof of a true property may be another proof of it; of a false one it must be rejected, whatever its
    hash says. The false one is the same with a limit that a sampled point reaches."""
    for made in (by_inputs, by_neurons):
        header, events = parts(made.proof)
        wrong = tmp_path / "wrong.vnnlib"
        limit = made.least + 0.02
        wrong.write_text(spec_of(made.inputs, limit))
        assert violated(sampled(made.model.read_bytes(), made.inputs), limit).any()
        digest = read_queries(wrong, read_network(made.model)).digest
        for i in range(5):
            try:
                changed = PERHAPS[kind](events, i)
            except ZeroDivisionError:
                continue  # nothing of this kind in this proof
            with contextlib.suppress(Rejected):
                check(write(tmp_path / "p", header, changed), made.model, made.spec)
            with pytest.raises(Rejected):
                check(write(tmp_path / "p", replace(header, spec=digest), changed), made.model, wrong)


@pytest.mark.parametrize("which", ["model", "spec"])
def test_a_proof_belongs_to_its_files(which: str, tmp_path: Path, by_inputs: Case) -> None:
    """Another weight or bound: rejected by its hash; with the right hash, too, where the property does not hold."""
    header, events = parts(by_inputs.proof)
    model, spec = by_inputs.model, by_inputs.spec
    if which == "model":
        weights = {**by_inputs.weights, "b2": by_inputs.weights["b2"] - (by_inputs.least - by_inputs.limit) - 0.05}
        model = tmp_path / "m.onnx"
        model.write_bytes(model_of(weights, by_inputs.inputs))
    else:
        spec = tmp_path / "s.vnnlib"
        spec.write_text(spec_of(by_inputs.inputs, by_inputs.least + 0.02))
    with pytest.raises(Rejected, match=f"another {'model' if which == 'model' else 'specification'}"):
        check(by_inputs.proof, model, spec)
    network = read_network(model)
    forged = replace(header, model=network.digest, spec=read_queries(spec, network).digest)
    with pytest.raises(Rejected, match="is not positive"):
        check(write(tmp_path / "p", forged, events), model, spec)


def test_a_larger_box_needs_more_leaves(tmp_path: Path, by_inputs: Case) -> None:
    """The cover is that of the specification that is checked, not one that the proof claims."""
    spec = tmp_path / "s.vnnlib"
    spec.write_text(spec_of(by_inputs.inputs, by_inputs.limit, side=30.0))
    y = sampled(by_inputs.model.read_bytes(), by_inputs.inputs, side=30.0)
    assert violated(y, by_inputs.limit).any()
    header, events = parts(by_inputs.proof)
    forged = replace(header, spec=read_queries(spec, read_network(by_inputs.model)).digest)
    with pytest.raises(Rejected):
        check(write(tmp_path / "p", forged, events), by_inputs.model, spec)


def test_bytes_of_a_proof_may_be_anything(tmp_path: Path, by_neurons: Case) -> None:
    """No damage raises anything but the two errors, and a truncated file is never accepted."""
    data, rng = by_neurons.proof.read_bytes(), np.random.default_rng(0)
    for k in range(150):
        broken = bytearray(data)
        for _ in range(1 + k % 3):
            broken[rng.integers(len(broken))] = rng.integers(256)
        path = tmp_path / "p"
        path.write_bytes(bytes(broken))
        with contextlib.suppress(Rejected, Unreadable):
            check(path, by_neurons.model, by_neurons.spec)
    for end in range(0, len(data), max(1, len(data) // 60)):
        path.write_bytes(data[:end])
        with pytest.raises(Unreadable):
            check(path, by_neurons.model, by_neurons.spec)


def test_a_witness_is_a_proof(tmp_path: Path, by_inputs: Case) -> None:
    spec, proof = tmp_path / "s.vnnlib", tmp_path / "p"
    spec.write_text(spec_of(by_inputs.inputs, by_inputs.least + 0.3))
    result = verify(by_inputs.model, spec, timeout=30, proof=proof)
    assert result.verdict is Verdict.SAT and result.witness is not None
    assert check(proof, by_inputs.model, spec).verdict == "sat"
    header = fmt.Reader(io.BytesIO(proof.read_bytes()), "p").header
    for x in (result.witness.x + 5.0, np.zeros(1), np.full(3, np.nan)):
        proof.write_bytes(packed([encode_header(header), encode_witness(x)]))
        with pytest.raises(Rejected):
            check(proof, by_inputs.model, spec)


def test_what_cannot_be_proven_is_refused_before_the_search(tmp_path: Path, by_inputs: Case) -> None:
    target = tmp_path / "p"
    for options in ({"dtype": "float32"}, {"bounds": {"method": "lumped"}}):
        with pytest.raises((ProofError, OptionsError), match="no proof can be written"):
            verify(by_inputs.model, by_inputs.spec, Options.from_mapping(options), proof=target)
    soft = tmp_path / "soft.onnx"
    soft.write_bytes(build([helper.make_node("Softmax", ["x"], ["y"])], {"x": (1, 2)}, ["y"]))
    with pytest.raises(SecateurError, match="does not know operator Softmax"):
        verify(soft, by_inputs.spec, proof=target)
    result = verify(by_inputs.model, by_inputs.spec, timeout=1e-9, proof=target)
    assert result.verdict is Verdict.TIMEOUT
    assert sorted(p.name for p in tmp_path.iterdir()) == ["soft.onnx"]


def test_the_command_says_what_it_found(tmp_path: Path, by_inputs: Case, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(by_inputs.model), str(by_inputs.spec)]
    assert cli.main([str(by_inputs.proof), *files]) == 0
    assert capsys.readouterr().out == "accepted unsat\n"
    header, events = parts(by_inputs.proof)
    broken = write(tmp_path / "p", header, ALWAYS["dropped leaf"](events, 0))
    assert cli.main([str(broken), *files]) == 1
    out, err = capsys.readouterr()
    assert out == "rejected\n" and "is open: no leaf covers query 0" in err
    assert cli.main([str(tmp_path / "none"), *files]) == 2
    assert "cannot be read" in capsys.readouterr().err
