"""Changes of every proof of a list: each has to be rejected, or to leave a proof of what holds anyway.

    python -m benchmarks.proof_mutations FOLDER/instances.csv --only acasxu_2023 safenlp --step 20 --cap 20 --random 10

Changes of the proof alone (a slope, a multiplier, a weight of a row, a split, a narrowing, a line, a hash, a dropped,
repeated or swapped leaf) may be accepted: the original proof shows that the property holds. So each of them, and the
proof as it is, is also tried on a twin of the network that differs by a constant which is added to its outputs, just
enough for one of the sampled points to violate the property: what is accepted there is wrong whatever it is. Changes of
the files (a weight of the network, a number of the specification), with hashes forged to fit, are accepted rightly only
where an own search of the changed files says `unsat` as well; `sat` there is a false acceptance. Exit code 1: one of
those, or an error. `--random` adds deep networks of 24 inputs and 30 neurons, as small as will clip intervals.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.replay import start
from benchmarks.run import Instance, add_sample, sampled
from verifier import Options, Verdict, verify
from verifier.checker import format as fmt
from verifier.checker.check import check, check_witness
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.network import read_bytes, read_network
from verifier.checker.query import Queries, read_queries
from verifier.proof.encode import encode, encode_header, packed

Events = list[fmt.Event]
AboutNode = fmt.InputSplit | fmt.NeuronSplit | fmt.ClauseSplit | fmt.Leaf


Change = Callable[[Events, np.random.Generator, Sequence[int]], Events | None]
"""Of events, with numbers drawn at random; how many clauses the queries have."""


def edit(kind: type, change: Callable[..., list[fmt.Event]], *named: str) -> Change:
    """Changes one event of a kind, drawn at random; None where there is none. Leaves are those `named`, or those that
    are not about rows."""

    def apply(events: Events, rng: np.random.Generator, sizes: Sequence[int]) -> Events | None:
        own = [(k, vars(e).get("kind", "")) for k, e in enumerate(events) if isinstance(e, kind)]
        places = [k for k, name in own if (name in named if named else name not in fmt.OF_ROWS)]
        if not places:
            return None
        k = int(rng.choice(places))
        return [*events[:k], *change(events[k], rng), *events[k + 1 :]]

    return apply


def relabelled(events: Events, nodes: Mapping[int, int]) -> Events:
    """The same events about other nodes."""
    return [replace(e, node=nodes.get(e.node, e.node)) if isinstance(e, AboutNode) else e for e in events]


def made(events: Events, sizes: Sequence[int]) -> dict[int, tuple[int, int]]:
    """By position of an event that makes nodes: the first of these and how many; queries have `sizes` clauses."""
    query, found = {q: q for q in range(len(sizes))}, {}
    for k, e in enumerate(events):
        if isinstance(e, fmt.RowTree):
            own, count = e.query, 1
        elif isinstance(e, fmt.InputSplit | fmt.NeuronSplit | fmt.ClauseSplit):
            own = query[e.node]
            count = sizes[own] if isinstance(e, fmt.ClauseSplit) else 2
        elif isinstance(e, fmt.Leaf) and e.kind == "narrow":
            own, count = query[e.node], 1
        else:
            continue
        found[k] = len(query), count
        query |= dict.fromkeys(range(len(query), len(query) + count), own)
    return found


def left_out(events: Events, rng: np.random.Generator, sizes: Sequence[int]) -> Events | None:
    """A narrowing is left out: what stands below it is about the whole node."""
    own = made(events, sizes)
    places = [k for k in own if isinstance(events[k], fmt.Leaf)]
    if not places:
        return None
    k = int(rng.choice(places))
    gone, last = own[k][0], sum(map(sum, list(own.values())[-1:]))
    nodes = {gone: vars(events[k])["node"], **{n: n - 1 for n in range(gone + 1, last)}}
    return [*events[:k], *relabelled(events[k + 1 :], nodes)]


def crossed(events: Events, rng: np.random.Generator, sizes: Sequence[int]) -> Events | None:
    """Two children of one split, below a narrowing where there is one, get each other's subtrees."""
    own = made(events, sizes)
    narrowed = {first for k, (first, _) in own.items() if isinstance(events[k], fmt.Leaf)}
    for k, (first, count) in own.items():
        if count == 2 and vars(events[k])["node"] in narrowed:
            narrowed |= {first, first + 1}
    splits = [k for k, e in enumerate(events) if isinstance(e, fmt.InputSplit | fmt.NeuronSplit)]
    splits = [k for k in splits if vars(events[k])["node"] in narrowed] or splits
    if not splits:
        return None
    k = int(rng.choice(splits))
    return exchanged_below(events, k, own[k][0])


def elsewhere(events: Events, rng: np.random.Generator, sizes: Sequence[int]) -> Events | None:
    """A narrowing, with what stands below it, is moved to another node that is open then, which gets the other one's
    subtree."""
    own = made(events, sizes)
    rows = {first for k, (first, _) in own.items() if isinstance(events[k], fmt.RowTree)}
    for k in rng.permutation([k for k in own if isinstance(events[k], fmt.Leaf)]).astype(int).tolist():
        node = vars(events[k])["node"]
        later = {e.node for e in events[k + 1 :] if isinstance(e, AboutNode)}
        open_ = sorted(n for n in later if n < own[k][0] and n != node and n not in rows)
        if open_:
            other = int(rng.choice(open_))
            return [*events[:k], *relabelled(events[k:], {node: other, other: node})]
    return None


def early(events: Events, rng: np.random.Generator, sizes: Sequence[int]) -> Events | None:
    """Intervals are used before they are proven."""
    places = [k for k, e in enumerate(events) if isinstance(e, fmt.Tighten)]
    if not places:
        return None
    k = int(rng.choice(places))
    return [events[k], *events[:k], *events[k + 1 :]]


def exchanged(*named: str) -> Change:
    """Two leaves of one kind, one of those `named` or any, get each other's nodes."""

    def apply(events: Events, rng: np.random.Generator, sizes: Sequence[int]) -> Events | None:
        leaves = [(k, e) for k, e in enumerate(events) if isinstance(e, fmt.Leaf) and (not named or e.kind in named)]
        if not leaves:
            return None
        kind = leaves[int(rng.integers(len(leaves)))][1].kind
        same = [(k, e) for k, e in leaves if e.kind == kind]
        if len(same) < 2:
            return None
        (a, first), (b, second) = (same[int(i)] for i in rng.choice(len(same), 2, replace=False))
        out = list(events)
        out[a], out[b] = replace(first, node=second.node), replace(second, node=first.node)
        return out

    return apply


def clauses(events: Events, rng: np.random.Generator, sizes: Sequence[int]) -> Events | None:
    """The first two nodes of a query's clauses get each other's subtrees."""
    own = made(events, sizes)
    places = [k for k, e in enumerate(events) if isinstance(e, fmt.ClauseSplit) and own[k][1] > 1]
    if not places:
        return None
    k = int(rng.choice(places))
    return exchanged_below(events, k, own[k][0])


def exchanged_below(events: Events, k: int, first: int) -> Events:
    """A node and the next one get each other's subtrees, from event k on."""
    swap = {first: first + 1, first + 1: first}
    return [*events[: k + 1], *relabelled(events[k + 1 :], swap)]


KINDS = (fmt.FORMS, fmt.ROWS, fmt.ROOT, fmt.SYMBOLS)
ROW, LINE, NARROW = fmt.OF_ROWS, "line", "narrow"


def other_slopes(e: fmt.Leaf, rng: np.random.Generator) -> list[fmt.Event]:
    return [replace(e, slopes=tuple((t + rng.integers(1, 255)).astype(np.uint8) for t in e.slopes))]


def other_beta(e: fmt.Leaf, rng: np.random.Generator) -> list[fmt.Event]:
    return [replace(e, beta=tuple(b * 3 + 1 for b in e.beta))]


def raised(e: fmt.Leaf, rng: np.random.Generator) -> list[fmt.Event]:
    return [replace(e, least=e.least + 0.01 + abs(e.least) / 100)]


def weighted(factor: Callable[[np.random.Generator], float]) -> Callable[..., list[fmt.Event]]:
    """Rows, the usual ones too, with weights times a factor each."""

    def change(e: fmt.Leaf, rng: np.random.Generator) -> list[fmt.Event]:
        rows = e.rows or ((0, ((0, 1.0),)),)
        return [replace(e, rows=tuple((c, tuple((k, w * factor(rng)) for k, w in p)) for c, p in rows))]

    return change


CHANGES: dict[str, Change] = {
    "narrowing": edit(fmt.Leaf, lambda e, rng: [replace(e, kind="leaf" if e.kind == NARROW else NARROW)]),
    "intervals": edit(
        fmt.Leaf, lambda e, rng: [replace(e, intervals=str(rng.choice([k for k in KINDS if k != e.intervals])))]
    ),
    "slope": edit(fmt.Leaf, other_slopes),
    "multiplier": edit(fmt.Leaf, other_beta),
    "row": edit(fmt.Leaf, lambda e, rng: [replace(e, rows=tuple((c, ((0, 1.0),)) for c, _ in dict(e.rows).items()))]),
    "weight of a row": edit(fmt.Leaf, weighted(lambda rng: rng.random())),
    "split": edit(fmt.InputSplit, lambda e, rng: [replace(e, at=e.at + rng.normal() * 0.01)]),
    "neuron": edit(fmt.NeuronSplit, lambda e, rng: [replace(e, neuron=e.neuron + 1)]),
    "dropped leaf": edit(fmt.Leaf, lambda e, rng: []),
    "repeated leaf": edit(fmt.Leaf, lambda e, rng: [e, e]),
    "swapped leaves": exchanged(),
    "swapped clauses": clauses,
    "raised bound of a row": edit(fmt.Leaf, raised, "bound"),
    "dropped bound of a row": edit(fmt.Leaf, lambda e, rng: [], *ROW),
    "bound that is a leaf": edit(fmt.Leaf, lambda e, rng: [replace(e, kind="leaf")], *ROW),
    "slope of a bound": edit(fmt.Leaf, other_slopes, *ROW),
    "multiplier of a bound": edit(fmt.Leaf, other_beta, *ROW),
    "other side of a row": edit(fmt.RowTree, lambda e, rng: [replace(e, side=1 - e.side)]),
    "row of another neuron": edit(fmt.RowTree, lambda e, rng: [replace(e, neuron=max(0, e.neuron - 1))]),
    "tightening before its rows": early,
    "raised constant of a line": edit(fmt.Leaf, raised, LINE),
    "coefficients of a line": edit(fmt.Leaf, other_slopes, LINE),
    "bound that is a line": edit(fmt.Leaf, lambda e, rng: [replace(e, kind=LINE)], "bound"),
    "swapped lines": exchanged(LINE),
    "narrowing left out": left_out,
    "narrowing of another node": elsewhere,
    "swapped narrowings": exchanged(NARROW),
    "wider narrowing": edit(fmt.Leaf, weighted(lambda rng: 0.0), NARROW),
    "narrowing by other slopes": edit(fmt.Leaf, other_slopes, NARROW),
    "narrowing by other multipliers": edit(fmt.Leaf, other_beta, NARROW),
    "narrowing whose box is cut": edit(
        fmt.Leaf, lambda e, rng: [replace(e, intervals=str(rng.choice(KINDS)), slopes=())], NARROW
    ),
    "swapped children": crossed,
}
NEVER = (
    *("dropped leaf", "repeated leaf", "hash", "raised bound of a row", "bound that is a leaf"),
    "raised constant of a line",
)
"""What no proof survives."""

SAMPLES = 512
"""Points of a box that a twin is made from."""


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


def twin(model: Path, spec: Path, rng: np.random.Generator) -> bytes | None:
    """The network with a constant added to its output, so that a sampled point violates the property, by little: the
    nearest of all clauses and points to it. None where there is none to be had, or the checker does not accept it as
    the witness of a violation."""
    network = read_network(model)
    queries = read_queries(spec, network)
    graph = onnx.load_from_string(read_bytes(model))
    if len(graph.graph.output) != 1 or len(network.dtypes) != 1:
        return None
    session = start(read_bytes(model))
    entry = session.get_inputs()[0]
    shape = [size if isinstance(size, int) and size > 0 else 1 for size in entry.shape]
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    asked = [q for q in range(len(queries)) if queries.clauses[q]]
    for q in rng.permutation(asked)[:16].tolist():
        points = rng.uniform(queries.lower[q], queries.upper[q], (SAMPLES, network.inputs))
        points = np.clip(points.astype(network.dtypes[0][1]), queries.form.lower[q], queries.form.upper[q])
        x = points.astype(network.dtypes[0][1])
        y = np.stack([session.run(None, {entry.name: one.reshape(shape)})[0].reshape(-1) for one in x])
        for point, value in zip(x.astype(np.float64), y.astype(np.float64), strict=True):
            for moved in _moves(queries, q, point, value):
                if best is None or np.abs(moved).max() < best[0]:
                    best = float(np.abs(moved).max()), moved, point
    if best is None:
        return None
    (output,) = graph.graph.output
    size = [d.dim_value if d.dim_value > 0 else 1 for d in output.type.tensor_type.shape.dim]
    kind = helper.tensor_dtype_to_np_dtype(output.type.tensor_type.elem_type)
    constant = best[1].astype(kind).reshape(size if np.prod(size) == network.outputs else -1)
    graph.graph.initializer.append(numpy_helper.from_array(constant, "moved by"))
    graph.graph.node.append(helper.make_node("Add", [output.name, "moved by"], ["moved"]))
    output.name = "moved"
    data = graph.SerializeToString()
    other = model.with_name("twin.onnx")
    other.write_bytes(data)
    try:
        check_witness(read_network(other), queries, best[2])
    except Rejected:
        return None
    return data


def _moves(queries: Queries, q: int, x: np.ndarray, y: np.ndarray) -> Iterator[np.ndarray]:
    """Constants with which outputs y at the input x violate a clause, by a thousandth of what that takes."""
    for clause in queries.clauses[q]:
        rows = queries.outputs[clause]
        over = rows @ y + (queries.inputs[clause] @ x if queries.inputs.size else 0) - queries.rhs[clause]
        moved = -np.linalg.pinv(rows) @ (np.maximum(over, 0) * 1.001 + 1e-5 * (1 + np.abs(queries.rhs[clause])))
        if (over + rows @ moved < 0).all():
            yield moved


def random_instance(seed: int, folder: Path) -> Instance:
    """A network of three hidden layers; a violation has max(y_0, y_1) or y_0 + 1 below a limit, below which sampling
    found none."""
    rng, inputs, width = np.random.default_rng(seed), 24, 10
    sizes, nodes, weights = (inputs, width, width, width, 2), [], []
    x, last = np.sign(rng.uniform(-1, 1, (20000, inputs))) * rng.choice([1.0, 0.5], (20000, 1)), "x"
    for k, (n, m) in enumerate(pairwise(sizes)):
        w, b = rng.normal(size=(n, m)) / np.sqrt(n), rng.normal(size=m) / 2
        weights += [numpy_helper.from_array(t, name) for t, name in ((w, f"w{k}"), (b, f"b{k}"))]
        nodes.append(helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], [f"h{k}"]))
        x, last = x @ w + b, f"h{k}"
        if m == width:
            nodes.append(helper.make_node("Relu", [last], [f"r{k}"]))
            x, last = np.maximum(x, 0), f"r{k}"
    kind = onnx.TensorProto.DOUBLE
    x_info, y_info = ([helper.make_tensor_value_info(name, kind, [1, n])] for name, n in (("x", inputs), (last, 2)))
    graph = helper.make_graph(nodes, "random", x_info, y_info, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)]), folder / "m.onnx")
    limit = float(min(x.max(1).min(), x[:, 0].min() + 1) - rng.choice([0.3, 0.6, 1.0]))
    lines = [f"(declare-const {name} Real)" for name in (*(f"X_{i}" for i in range(inputs)), "Y_0", "Y_1")]
    lines += [f"(assert (>= X_{i} -1.0))\n(assert (<= X_{i} 1.0))" for i in range(inputs)]
    lines.append(f"(assert (or (and (<= Y_0 {limit!r}) (<= Y_1 {limit!r})) (and (<= Y_0 {limit - 1!r}))))")
    (folder / "s.vnnlib").write_text("\n".join(lines))
    return Instance("random", "m.onnx", "s.vnnlib", 60.0, "", folder)


def outcomes(
    instance: Instance, cap: float, most: int, rng: np.random.Generator, folder: Path
) -> Iterator[tuple[str, str]]:
    """(change, what became of it), `most` changes of the proof and as many of the twin's; nothing where the instance
    has no proof in time."""
    proof, model, spec = folder / "p.proof", folder / "m.onnx", folder / "s.vnnlib"
    model.write_bytes(read_bytes(instance.model))
    spec.write_bytes(read_bytes(instance.spec))
    if verify(model, spec, Options(), timeout=cap, proof=proof).verdict is not Verdict.UNSAT:
        return
    reader = fmt.Reader(io.BytesIO(proof.read_bytes()), "p")
    header, events = reader.header, list(reader.events())
    sizes = [len(own) for own in read_queries(spec, read_network(model)).clauses]
    yield "none", verdict(proof.read_bytes(), model, spec, folder)
    yield "narrows", str(any(isinstance(e, fmt.Leaf) and e.kind == NARROW for e in events))
    for name, moved in changes(events, most, rng, sizes):
        yield name, verdict(encoded(header, moved), model, spec, folder)
    other = twin(model, spec, rng)
    if other is not None:
        false = folder / "twin.onnx"
        forged = replace(header, model=read_network(false).digest)
        said = verdict(encoded(forged, events), false, spec, folder)
        yield "twin", said.replace("accepted", "accepted, FALSE")
        for name, moved in changes(events, most, rng, sizes):
            said = verdict(encoded(forged, moved), false, spec, folder)
            yield f"twin: {name}", said.replace("accepted", "accepted, FALSE")
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


def changes(events: Events, most: int, rng: np.random.Generator, sizes: Sequence[int]) -> Iterator[tuple[str, Events]]:
    """Changes of every kind that these events have, at most so many, drawn at random."""
    made_so_far = 0
    for name in rng.permutation(list(CHANGES)).tolist():
        moved = CHANGES[name](events, rng, sizes)
        if moved is not None and moved != events and made_so_far < most:
            made_so_far += 1
            yield name, moved


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
    parser.add_argument("--changes", type=int, default=len(CHANGES), help="of each proof, and of its twin, at most")
    parser.add_argument("--random", type=int, default=0, help="random networks before the list")
    args = parser.parse_args()
    rng, counts, proofs = np.random.default_rng(args.seed), Counter[tuple[str, str]](), 0
    for instance in (*range(args.random), *sampled(args)):
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as made_in:
            if isinstance(instance, int):
                instance = random_instance(instance, Path(made_in))
            elif instance.expected == "sat":
                continue
            found = list(outcomes(instance, args.cap, args.changes, rng, Path(folder)))
        proofs += bool(found)
        counts.update(found)
        print(instance.onnx, instance.vnnlib, dict(found), file=sys.stderr, flush=True)
        if proofs >= args.proofs:
            break
    wrong = [(c, said) for c, said in counts if "FALSE" in said or (c in NEVER and said != "rejected")]
    wrong += [(c, said) for c, said in counts if c == "none" and said != "accepted"]
    tried = sum(count for (change, _), count in counts.items() if change not in ("none", "narrows"))
    print(f"{proofs} proofs, {tried} changes")
    print("\n".join(f"- {change}: {said}: {count}" for (change, said), count in sorted(counts.items())))
    print(f"{len(wrong)} false acceptances or errors: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
