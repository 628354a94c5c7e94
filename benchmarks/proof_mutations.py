"""Ten changes of every proof of a list: each has to be rejected, or to leave a proof of what holds anyway.

    python -m benchmarks.proof_mutations FOLDER/instances.csv --only acasxu_2023 safenlp --step 20 --cap 20

Changes of the proof alone (a slope, a multiplier, a weight of a row, a split, a narrowing, a hash, a dropped, repeated
or swapped leaf) may be accepted: the original proof shows that the property holds. Changes of the files (a weight of
the network, a number of the specification), with hashes forged to fit, are accepted rightly only where an own search of
the changed files says `unsat` as well; `sat` there is a false acceptance. Exit code 1: one of those, or an error.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.run import Instance, add_sample, sampled
from verifier import Options, Verdict, verify
from verifier.checker import format as fmt
from verifier.checker.check import check
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.network import read_bytes, read_network
from verifier.checker.query import read_queries
from verifier.proof.encode import encode, encode_header, packed

Events = list[fmt.Event]


def edit(
    kind: type, change: Callable[..., list[fmt.Event]], of_row: bool = False
) -> Callable[[Events, np.random.Generator], Events | None]:
    """Changes one event of a kind, drawn at random; None where there is none. Leaves are those `of_row`s, or others."""

    def apply(events: Events, rng: np.random.Generator) -> Events | None:
        own = [(k, vars(e).get("kind") in fmt.OF_ROWS) for k, e in enumerate(events) if isinstance(e, kind)]
        places = [k for k, about_row in own if about_row == of_row]
        if not places:
            return None
        k = int(rng.choice(places))
        return [*events[:k], *change(events[k], rng), *events[k + 1 :]]

    return apply


def early(events: Events, rng: np.random.Generator) -> Events | None:
    """Intervals are used before they are proven."""
    places = [k for k, e in enumerate(events) if isinstance(e, fmt.Tighten)]
    if not places:
        return None
    k = int(rng.choice(places))
    return [events[k], *events[:k], *events[k + 1 :]]


def swapped(events: Events, rng: np.random.Generator) -> Events | None:
    """Two leaves, or two bounds of rows, get each other's nodes."""
    leaves = [(k, e) for k, e in enumerate(events) if isinstance(e, fmt.Leaf)]
    kind = leaves[int(rng.integers(len(leaves)))][1].kind
    same = [(k, e) for k, e in leaves if e.kind == kind]
    if len(same) < 2:
        return None
    (a, first), (b, second) = (same[int(i)] for i in rng.choice(len(same), 2, replace=False))
    out = list(events)
    out[a], out[b] = replace(first, node=second.node), replace(second, node=first.node)
    return out


KINDS = (fmt.FORMS, fmt.ROWS, fmt.ROOT, fmt.SYMBOLS)
CHANGES: dict[str, Callable[[Events, np.random.Generator], Events | None]] = {
    "narrowing": edit(fmt.Leaf, lambda e, rng: [replace(e, kind="leaf" if e.kind == "narrow" else "narrow")]),
    "intervals": edit(
        fmt.Leaf, lambda e, rng: [replace(e, intervals=str(rng.choice([k for k in KINDS if k != e.intervals])))]
    ),
    "slope": edit(
        fmt.Leaf,
        lambda e, rng: [replace(e, slopes=tuple((t + rng.integers(1, 255)).astype(np.uint8) for t in e.slopes))],
    ),
    "multiplier": edit(fmt.Leaf, lambda e, rng: [replace(e, beta=tuple(b * 3 + 1 for b in e.beta))]),
    "row": edit(fmt.Leaf, lambda e, rng: [replace(e, rows=tuple((c, ((0, 1.0),)) for c, _ in dict(e.rows).items()))]),
    "weight of a row": edit(
        fmt.Leaf,
        lambda e, rng: [replace(e, rows=tuple((c, tuple((k, w * rng.random()) for k, w in p)) for c, p in e.rows))],
    ),
    "split": edit(fmt.InputSplit, lambda e, rng: [replace(e, at=e.at + rng.normal() * 0.01)]),
    "neuron": edit(fmt.NeuronSplit, lambda e, rng: [replace(e, neuron=e.neuron + 1)]),
    "dropped leaf": edit(fmt.Leaf, lambda e, rng: []),
    "repeated leaf": edit(fmt.Leaf, lambda e, rng: [e, e]),
    "swapped leaves": swapped,
    "raised bound of a row": edit(
        fmt.Leaf, lambda e, rng: [replace(e, least=e.least + 0.01 + abs(e.least) / 100)], of_row=True
    ),
    "dropped bound of a row": edit(fmt.Leaf, lambda e, rng: [], of_row=True),
    "bound that is a leaf": edit(fmt.Leaf, lambda e, rng: [replace(e, kind="leaf")], of_row=True),
    "other side of a row": edit(fmt.RowTree, lambda e, rng: [replace(e, side=1 - e.side)]),
    "tightening before its rows": early,
}
NEVER = ("dropped leaf", "repeated leaf", "hash", "raised bound of a row", "bound that is a leaf")
"""What no proof survives."""


def encoded(header: fmt.Header, events: Events) -> bytes:
    """A file with the numbers at its end that fit."""
    body = [e for e in events if not isinstance(e, fmt.End)]
    leaves = sum(isinstance(e, fmt.Leaf) and e.kind != "narrow" for e in body)
    return packed([encode_header(header), *map(encode, [*body, fmt.End(len(body) - leaves, leaves)])])


def changed_model(path: Path, rng: np.random.Generator) -> bytes:
    """The model with its largest weight matrix' largest number doubled and its sign turned."""
    model = onnx.load_from_string(read_bytes(path))
    tensor = max(model.graph.initializer, key=lambda t: int(np.prod(t.dims)) * (t.data_type == onnx.TensorProto.FLOAT))
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[int(np.abs(array).argmax()) if rng.random() < 0.5 else rng.integers(array.size)] *= -2
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model.SerializeToString()


def changed_spec(path: Path, rng: np.random.Generator) -> bytes:
    """The specification with one number moved by a tenth, or by 0.1 where it is 0."""
    text = read_bytes(path).decode()
    found = list(re.finditer(r"(?<=\s)-?\d+\.\d+(?:e-?\d+)?(?=\s*\))", text))
    if not found:
        return text.encode()
    one = found[int(rng.integers(len(found)))]
    value = float(one.group()) * 1.1 + (0.1 if float(one.group()) == 0 else 0.0)
    return (text[: one.start()] + repr(value) + text[one.end() :]).encode()


def outcomes(instance: Instance, cap: float, rng: np.random.Generator, folder: Path) -> Iterator[tuple[str, str]]:
    """(change, what became of it); nothing where the instance has no proof in time."""
    proof, model, spec = folder / "p.proof", folder / "m.onnx", folder / "s.vnnlib"
    model.write_bytes(read_bytes(instance.model))
    spec.write_bytes(read_bytes(instance.spec))
    if verify(model, spec, Options(), timeout=cap, proof=proof).verdict is not Verdict.UNSAT:
        return
    reader = fmt.Reader(io.BytesIO(proof.read_bytes()), "p")
    header, events = reader.header, list(reader.events())
    yield "none", verdict(proof.read_bytes(), model, spec, folder)
    for name, change in CHANGES.items():
        moved = change(events, rng)
        if moved is not None:
            yield name, verdict(encoded(header, moved), model, spec, folder)
    flipped = replace(header, model=header.model[::-1])
    yield "hash", verdict(encoded(flipped, events), model, spec, folder)
    for name in ("weight of the model", "number of the specification"):
        new_model, new_spec = folder / "n.onnx", folder / "t.vnnlib"
        new_model.write_bytes(changed_model(model, rng) if "model" in name else model.read_bytes())
        new_spec.write_bytes(changed_spec(spec, rng) if "spec" in name else spec.read_bytes())
        network = read_network(new_model)
        forged = replace(header, model=network.digest, spec=read_queries(new_spec, network).digest)
        said = verdict(encoded(forged, events), new_model, new_spec, folder)
        if said == "accepted":
            own = verify(new_model, new_spec, Options(), timeout=cap).verdict.value
            said = "accepted, FALSE" if own == "sat" else f"accepted, own search: {own}"
        yield name, said


def verdict(data: bytes, model: Path, spec: Path, folder: Path) -> str:
    """What the checker says of a file with these bytes."""
    path = folder / "q.proof"
    path.write_bytes(data)
    try:
        check(path, model, spec)
    except (Rejected, Unreadable):
        return "rejected"
    return "accepted"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sample(parser, 20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--proofs", type=int, default=10**9, help="stop after so many")
    args = parser.parse_args()
    rng, counts, proofs = np.random.default_rng(args.seed), Counter[tuple[str, str]](), 0
    for instance in sampled(args):
        if instance.expected == "sat":
            continue
        with tempfile.TemporaryDirectory() as folder:
            found = list(outcomes(instance, args.cap, rng, Path(folder)))
        proofs += bool(found)
        counts.update(found)
        print(instance.onnx, instance.vnnlib, dict(found), file=sys.stderr, flush=True)
        if proofs >= args.proofs:
            break
    wrong = [(c, said) for c, said in counts if "FALSE" in said or (c in NEVER and said != "rejected")]
    wrong += [(c, said) for c, said in counts if c == "none" and said != "accepted"]
    print(f"{proofs} proofs, {sum(counts.values()) - proofs} changes")
    print("\n".join(f"- {change}: {said}: {count}" for (change, said), count in sorted(counts.items())))
    print(f"{len(wrong)} false acceptances or errors: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
