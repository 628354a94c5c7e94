"""Proofs that hold trees of rows, for intervals that tighten during a search, and parts that are narrowed by lines
below these rows: exact ranges, sampled violations, and changes of each kind.

The exact range of a second layer is known where every neuron of the first one reads a single input: a sum of functions
of one input each, whose least values lie at ends and kinks.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.models import build
from verifier import Verdict, verify
from verifier.checker import format as fmt
from verifier.checker.check import _Tree, check
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.network import CheckedNetwork, read_network
from verifier.checker.prove import FIRST, Claim, Part, Prover, TreeRow
from verifier.checker.query import read_queries
from verifier.options import Options
from verifier.proof.encode import encode, encode_header, packed
from verifier.search import neurons
from verifier.search.row_trees import Trees

INPUTS, WIDTH = 24, 10
OPTIONS = Options.from_mapping({"attack": {"restarts": 0}, "deterministic": True})
Events = list[fmt.Event]


@dataclass(frozen=True)
class Made:
    """Files of a property that holds: a violation has max(y_0, y_1) or y_0 + 1 below a limit, below which sampling
    found none: `least` is the smallest of them."""

    model: Path
    spec: Path
    proof: Path
    weights: dict[str, np.ndarray]
    least: float


def network_of(weights: dict[str, np.ndarray]) -> bytes:
    depth = len(weights) // 2
    nodes, last = [], "x"
    for k in range(depth):
        nodes.append(helper.make_node("Gemm", [last, f"w{k}", f"b{k}"], [f"h{k}" if k < depth - 1 else "y"]))
        if k < depth - 1:
            nodes.append(helper.make_node("Relu", [f"h{k}"], [f"r{k}"]))
        last = f"r{k}"
    return build(nodes, {"x": (1, INPUTS)}, ["y"], weights, dtype=np.float64)


def outputs(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    depth = len(weights) // 2
    for k in range(depth):
        x = x @ weights[f"w{k}"] + weights[f"b{k}"]
        x = np.maximum(x, 0) if k < depth - 1 else x
    return x


def spec_of(limit: float, side: float = 1.0) -> str:
    names = [f"X_{i}" for i in range(INPUTS)]
    lines = [f"(declare-const {name} Real)" for name in [*names, "Y_0", "Y_1"]]
    lines += [f"(assert (>= {name} -1.0))\n(assert (<= {name} {side}))" for name in names]
    lines.append(f"(assert (or (and (<= Y_0 {limit!r}) (<= Y_1 {limit!r})) (and (<= Y_0 {limit - 1!r}))))")
    return "\n".join(lines)


def make(folder: Path, weights: dict[str, np.ndarray], slack: float) -> Made:
    x = np.random.default_rng(1).uniform(-1, 1, (40000, INPUTS))
    x[:10000] = np.sign(x[:10000])
    y = outputs(weights, x)
    least = float(min(y.max(1).min(), y[:, 0].min() + 1))
    paths = [folder / name for name in ("m.onnx", "s.vnnlib", "p.proof")]
    paths[0].write_bytes(network_of(weights))
    paths[1].write_text(spec_of(least - slack))
    result = verify(paths[0], paths[1], OPTIONS, timeout=60, proof=paths[2])
    assert result.verdict is Verdict.UNSAT, result
    return Made(*paths, weights, least)


def dense(seed: int, sizes: tuple[int, ...] = (INPUTS, WIDTH, WIDTH, WIDTH, 2)) -> dict[str, np.ndarray]:
    rng, weights = np.random.default_rng(seed), {}
    for k, (n, m) in enumerate(pairwise(sizes)):
        weights |= {f"w{k}": rng.normal(size=(n, m)) / np.sqrt(n), f"b{k}": rng.normal(size=m) / 2}
    return weights


def separable(seed: int, pieces: int = 2) -> dict[str, np.ndarray]:
    """The first layer's neurons read one input each, `pieces` of them every input."""
    weights = dense(seed, (INPUTS, pieces * INPUTS, 6, 2))
    weights["w0"] *= np.arange(INPUTS)[:, None] == np.arange(pieces * INPUTS) % INPUTS
    weights["w0"] *= np.sqrt(INPUTS)
    return weights


def exact_range(weights: dict[str, np.ndarray], neuron: int) -> tuple[Fraction, Fraction]:
    """The range of an argument of the second layer over [-1, 1]^n."""
    low = high = Fraction(weights["b1"][neuron])
    for j in range(INPUTS):
        own = [
            (Fraction(weights["w0"][j, k]), Fraction(weights["b0"][k]), Fraction(weights["w1"][k, neuron]))
            for k in np.flatnonzero(weights["w0"][j])
        ]
        points = [Fraction(-1), Fraction(1), *(p for a, b, _ in own if -1 < (p := -b / a) < 1)]
        values = [sum((w * max(Fraction(0), a * x + b) for a, b, w in own), Fraction(0)) for x in points]
        low, high = low + min(values), high + max(values)
    return low, high


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("deep"), dense(3), 1.0)


def parts(path: Path) -> tuple[fmt.Header, Events]:
    reader = fmt.Reader(io.BytesIO(path.read_bytes()), "p")
    return reader.header, list(reader.events())


def write(path: Path, header: fmt.Header, events: Events) -> Path:
    body = [e for e in events if not isinstance(e, fmt.End)]
    leaves = sum(isinstance(e, fmt.Leaf) and e.kind != "narrow" for e in body)
    path.write_bytes(packed([encode_header(header), *map(encode, [*body, fmt.End(len(body) - leaves, leaves)])]))
    return path


def bounds(events: Events) -> list[int]:
    return [k for k, e in enumerate(events) if isinstance(e, fmt.Leaf) and e.kind in fmt.OF_ROWS]


def tightenings(events: Events) -> list[int]:
    return [k for k, e in enumerate(events) if isinstance(e, fmt.Tighten)]


def replay(made: Made, events: Events | None = None) -> tuple[CheckedNetwork, _Tree]:
    """What the checker knows after a proof."""
    network = read_network(made.model)
    with made.proof.open("rb") as stream:
        reader = fmt.Reader(stream, "p")
        tree = _Tree(network, read_queries(made.spec, network), reader.header)
        assert tree.run(reader).verdict == "unsat"
    return network, tree


def test_a_proof_holds_the_intervals_that_the_search_found(deep: Made) -> None:
    found = check(deep.proof, deep.model, deep.spec)
    _, events = parts(deep.proof)
    names = {type(e).__name__ for e in events}
    assert {"RowTree", "Tighten", "NeuronSplit"} <= names and bounds(events)
    assert {"line", "narrow", "bound", "leaf"} <= {e.kind for e in events if isinstance(e, fmt.Leaf)}
    rows = sum(isinstance(e, fmt.RowTree) for e in events)
    assert len(bounds(events)) > rows  # some were split
    assert deep.proof.stat().st_size < 400 + 200 * found.leaves


@pytest.mark.parametrize("seed", [3, 5])
def test_no_interval_is_narrower_than_the_exact_range(seed: int, tmp_path: Path) -> None:
    made = make(tmp_path, separable(seed), 0.3)
    network, tree = replay(made)
    second = network.tensors["r1"]
    whole, source = tree.prover.root(0), network.argument(second)
    low, high = np.full(whole.low[source].size, -np.inf), np.full(whole.low[source].size, np.inf)
    for row in tree.prover._known[0]:
        assert row.value == second
        if row.side > 0:
            low[row.neuron] = row.least
        else:
            high[row.neuron] = -row.least
    gained = 0
    for k in range(len(low)):
        least, most = exact_range(made.weights, k)
        for end in (low[k], whole.low[source][0, k]):
            assert end == -np.inf or Fraction(end) <= least
        for end in (high[k], whole.high[source][0, k]):
            assert end == np.inf or most <= Fraction(end)
        gained += bool(np.isfinite(low[k])) + bool(np.isfinite(high[k]))
    assert gained
    # a bound that is too good is refused, whatever stands in its leaf
    header, events = parts(made.proof)
    trees = {}
    number = 1
    for e in events:  # which row a node is about
        if isinstance(e, fmt.RowTree):
            trees[number] = e
            number += 1
        elif isinstance(e, fmt.NeuronSplit):
            if e.node in trees:
                trees |= {number: trees[e.node], number + 1: trees[e.node]}
            number += 2
        elif isinstance(e, fmt.ClauseSplit):
            number += 1
    tensors = [network.tensors[name] for name in header.tensors]
    raised = 0
    for at in bounds(events)[:: max(1, len(bounds(events)) // 6)]:
        row = trees[events[at].node]
        if tensors[row.tensor] != second:
            continue
        least, most = exact_range(made.weights, row.neuron)
        too_much = float(most if row.side == 0 else -least) + 1e-9  # more than any point of the box has
        forged = [*events[:at], replace(events[at], least=too_much), *events[at + 1 :]]
        with pytest.raises(Rejected, match="is not positive"):
            check(write(tmp_path / "q", header, forged), made.model, made.spec)
        raised += 1
    assert raised


Change = Callable[[Events, int], Events]


def at_bound(edit: Callable[[fmt.Leaf], list[fmt.Event]]) -> Change:
    def apply(events: Events, i: int) -> Events:
        places = bounds(events)
        k = places[i * len(places) // 5]
        event = events[k]
        assert isinstance(event, fmt.Leaf)
        return [*events[:k], *edit(event), *events[k + 1 :]]

    return apply


def at_line(edit: Callable[[fmt.Leaf], list[fmt.Event]], kind: str = "line") -> Change:
    def apply(events: Events, i: int) -> Events:
        places = [k for k, e in enumerate(events) if isinstance(e, fmt.Leaf) and e.kind == kind]
        k = places[i * len(places) // 5]
        event = events[k]
        assert isinstance(event, fmt.Leaf)
        return [*events[:k], *edit(event), *events[k + 1 :]]

    return apply


def at_narrowing(edit: Callable[[fmt.Leaf], list[fmt.Event]]) -> Change:
    return at_line(edit, "narrow")


def narrowed_sibling(events: Events, i: int) -> Events:
    """A part is narrowed with what was found for its sibling, and the other way round."""
    return exchanged(events, i, lambda a, b: abs(a.node - b.node) == 1)


def narrowed_clause(events: Events, i: int) -> Events:
    """Parts of different clauses get each other's narrowing: of different counts of rows, if there are any."""
    return exchanged(events, i, lambda a, b: len(dict(a.rows).get(0, ())) != len(dict(b.rows).get(0, ())))


def exchanged(events: Events, i: int, wanted: Callable[[fmt.Leaf, fmt.Leaf], bool]) -> Events:
    narrow = [(k, e) for k, e in enumerate(events) if isinstance(e, fmt.Leaf) and e.kind == "narrow"]
    found = [(a, b) for a in narrow for b in narrow if a[0] < b[0] and wanted(a[1], b[1])]
    (a, first), (b, second) = found[i % len(found)]
    out = list(events)
    out[a], out[b] = replace(second, node=first.node), replace(first, node=second.node)
    return out


def narrowed_before(events: Events, i: int) -> Events:
    """The roots of the clauses are narrowed before the lines are known."""
    first = next(k for k, e in enumerate(events) if isinstance(e, fmt.Leaf) and e.kind == "narrow")
    clauses = next(k for k, e in enumerate(events) if isinstance(e, fmt.ClauseSplit))
    rest = [e for k, e in enumerate(events) if k not in (first, clauses)]
    at = i * tightenings(rest)[0] // 5
    return [*rest[:at], events[clauses], events[first], *rest[at:]]


def at_row(edit: Callable[[fmt.RowTree], list[fmt.Event]]) -> Change:
    def apply(events: Events, i: int) -> Events:
        places = [k for k, e in enumerate(events) if isinstance(e, fmt.RowTree)]
        k = places[i * len(places) // 5]
        event = events[k]
        assert isinstance(event, fmt.RowTree)
        return [*events[:k], *edit(event), *events[k + 1 :]]

    return apply


def lined_part(events: Events, i: int) -> Events:
    """A bound with decided neurons is kept as a line of the whole box."""
    places = [k for k in bounds(events) if any(b > 0 for b in vars(events[k])["beta"])]
    k = places[i * len(places) // 5]
    event = events[k]
    assert isinstance(event, fmt.Leaf)
    return [*events[:k], replace(event, kind="line"), *events[k + 1 :]]


def first_tightening(events: Events, i: int) -> Events:
    """Everything that it holds is claimed before it is proven."""
    k = tightenings(events)[0]
    return [events[k], *events[:k], *events[k + 1 :]]


def no_tightening(events: Events, i: int) -> Events:
    return [e for e in events if not isinstance(e, fmt.Tighten)]


def late_tightening(events: Events, i: int) -> Events:
    """Leaves stand before what they need."""
    return [*no_tightening(events, i)[:-1], fmt.Tighten(), events[-1]]


ALWAYS: dict[str, Change] = {
    "raised bound": at_bound(lambda e: [replace(e, least=e.least + 0.01)]),
    "infinite bound": at_bound(lambda e: [replace(e, least=np.inf)]),
    "bound that is NaN": at_bound(lambda e: [replace(e, least=np.nan)]),
    "bound that is a leaf": at_bound(lambda e: [replace(e, kind="leaf")]),
    "bound that is an exact leaf": at_bound(lambda e: [replace(e, kind="exact")]),
    "bound that is a narrowing": at_bound(lambda e: [replace(e, kind="narrow")]),
    "leaf of a row": at_bound(lambda e: [e, replace(e, kind="leaf")]),
    "clauses of a row": at_bound(lambda e: [fmt.ClauseSplit(e.node), e]),
    "bound of a node that is not there": at_bound(lambda e: [replace(e, node=10**6)]),
    "negative multiplier": at_bound(lambda e: [replace(e, beta=(-1.0,) * max(1, len(e.beta)))]),
    "raised line": at_line(lambda e: [replace(e, least=e.least + 0.01)]),
    "line that is a leaf": at_line(lambda e: [replace(e, kind="leaf")]),
    "line of a part": lined_part,
    "line of a clause": at_narrowing(lambda e: [replace(e, kind="line"), e]),
    "narrowing of a row": at_line(lambda e: [e, replace(e, kind="narrow")]),
    "dropped narrowing": at_narrowing(lambda e: []),
    "narrowing that is a leaf": at_narrowing(lambda e: [replace(e, kind="leaf")]),
    "row of a query that is not there": at_row(lambda e: [replace(e, query=1)]),
    "row of a tensor that is not there": at_row(lambda e: [replace(e, tensor=7)]),
    "row of a neuron that is not there": at_row(lambda e: [replace(e, neuron=WIDTH)]),
    "no tightening": no_tightening,
    "tightening before its rows": lambda e, i: first_tightening([*no_tightening(e, i), fmt.Tighten()], i),
    "tightening at the end": late_tightening,
}  # fmt: skip


@pytest.mark.parametrize("kind", ALWAYS)
def test_broken_trees_of_rows_are_rejected(kind: str, deep: Made, tmp_path: Path) -> None:
    header, events = parts(deep.proof)
    for i in range(5):
        with pytest.raises(Rejected):
            check(write(tmp_path / "q", header, ALWAYS[kind](events, i)), deep.model, deep.spec)


@pytest.mark.parametrize("kind", ["bound of the query", "bound of a leaf"])
def test_bounds_are_for_rows_alone(kind: str, deep: Made, tmp_path: Path) -> None:
    header, events = parts(deep.proof)
    k = next(k for k, e in enumerate(events) if isinstance(e, fmt.Leaf) and e.kind == "leaf")
    leaf = events[k]
    assert isinstance(leaf, fmt.Leaf)
    forged = {"bound of the query": [fmt.Leaf(0, kind="bound"), *events],
              "bound of a leaf": [*events[:k], replace(leaf, kind="bound"), *events[k + 1 :]]}[kind]  # fmt: skip
    with pytest.raises(Rejected, match="about a row"):
        check(write(tmp_path / "q", header, forged), deep.model, deep.spec)


def swapped(events: Events, i: int) -> Events:
    """Two children get each other's bounds."""
    places = bounds(events)
    last = [k for k in places if any(b > 0 for b in events[k].beta)] or places
    k = last[i * len(last) // 5]
    other = places[places.index(k) - 1]
    a, b = events[k], events[other]
    assert isinstance(a, fmt.Leaf) and isinstance(b, fmt.Leaf)
    out = list(events)
    out[k], out[other] = replace(a, node=b.node), replace(b, node=a.node)
    return out


PERHAPS: dict[str, Change] = {
    "dropped bound": at_bound(lambda e: []),
    "lowered bound": at_bound(lambda e: [replace(e, least=e.least - 0.1)]),
    "repeated bound": at_bound(lambda e: [e, e]),
    "slopes": at_bound(lambda e: [replace(e, slopes=tuple(255 - t for t in e.slopes))]),
    "multipliers": at_bound(lambda e: [replace(e, beta=tuple(3 * b + 0.1 for b in e.beta))]),
    "side": at_row(lambda e: [replace(e, side=1 - e.side)]),
    "neuron": at_row(lambda e: [replace(e, neuron=(e.neuron + 1) % WIDTH)]),
    "swapped children": swapped,
    "line that is a bound": at_line(lambda e: [replace(e, kind="bound")]),
    "bound that is a line": at_bound(lambda e: [replace(e, kind="line")]),
    "repeated line": at_line(lambda e: [e, e]),
    "slopes of a narrowing": at_narrowing(lambda e: [replace(e, slopes=tuple(255 - t for t in e.slopes))]),
    "no slopes of a narrowing": at_narrowing(lambda e: [replace(e, slopes=())]),
    "multipliers of a narrowing": at_narrowing(lambda e: [replace(e, beta=tuple(3 * b + 0.1 for b in e.beta))]),
    "weights of a narrowing": at_narrowing(
        lambda e: [replace(e, rows=tuple((c, tuple((k, 3 * w + 0.1) for k, w in own)) for c, own in e.rows))]
    ),
    "other row of a narrowing": at_narrowing(lambda e: [replace(e, rows=((0, ((1, 1.0),)),))]),
    "intervals of a narrowing": at_narrowing(lambda e: [replace(e, intervals=fmt.FORMS)]),
    "narrowing of a sibling": narrowed_sibling,
    "narrowing of another clause": narrowed_clause,
    "narrowing at the wrong time": narrowed_before,
    "tightening more often": lambda e, i: [t for one in e[:-1] for t in (one, fmt.Tighten())] + e[-1:],
}  # fmt: skip


@pytest.mark.parametrize("kind", PERHAPS)
def test_changed_trees_of_rows_cannot_prove_what_is_wrong(kind: str, deep: Made, tmp_path: Path) -> None:
    """A changed proof of a true property may be another one; of a limit that a sampled point reaches it never is."""
    header, events = parts(deep.proof)
    wrong = tmp_path / "wrong.vnnlib"
    wrong.write_text(spec_of(deep.least + 0.02))
    digest = read_queries(wrong, read_network(deep.model)).digest
    for i in range(4):
        changed = PERHAPS[kind](events, i)
        with contextlib.suppress(Rejected):
            check(write(tmp_path / "q", header, changed), deep.model, deep.spec)
        with pytest.raises(Rejected):
            check(write(tmp_path / "q", replace(header, spec=digest), changed), deep.model, wrong)


def test_rows_of_a_larger_box_are_bounded_there(deep: Made, tmp_path: Path) -> None:
    wide = tmp_path / "wide.vnnlib"
    wide.write_text(spec_of(deep.least - 1.3, side=3.0))
    header, events = parts(deep.proof)
    forged = replace(header, spec=read_queries(wide, read_network(deep.model)).digest)
    with pytest.raises(Rejected):
        check(write(tmp_path / "q", forged, events), deep.model, wide)


def test_a_side_is_one_of_two(deep: Made, tmp_path: Path) -> None:
    header, events = parts(deep.proof)
    k = next(k for k, e in enumerate(events) if isinstance(e, fmt.RowTree))
    row = events[k]
    assert isinstance(row, fmt.RowTree)
    with pytest.raises(Unreadable, match="expected an event"):
        check(
            write(tmp_path / "q", header, [*events[:k], replace(row, side=2), *events[k + 1 :]]), deep.model, deep.spec
        )


@pytest.mark.parametrize("owner, name", [(neurons, "pack"), (Trees, "grown")])
def test_a_step_that_fails_for_want_of_memory_leaves_a_proof(
    owner: object, name: str, tmp_path: Path, deep: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a tree's step, or after its end: what was told of the rows stays, or was not told."""
    plain, calls = getattr(owner, name), 0

    def failing(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise MemoryError
        return plain(*args)

    monkeypatch.setattr(owner, name, failing)
    proof = tmp_path / "p"
    result = verify(deep.model, deep.spec, OPTIONS, timeout=60, proof=proof)
    assert result.verdict is Verdict.UNSAT and calls > 1, result
    assert check(proof, deep.model, deep.spec).verdict == "unsat"
    assert any(isinstance(e, fmt.RowTree) for e in parts(proof)[1])


@pytest.mark.parametrize("clause", [0, 1])
def test_narrowed_arguments_hold_where_their_clause_is_violated(clause: int, deep: Made, tmp_path: Path) -> None:
    """Lemma 10 on the lines of a proof: at points of a part that violate the clause, in parts of parts, too, and
    not at others."""
    rng = np.random.default_rng(clause)
    x = rng.uniform(-1, -0.7, (60000, INPUTS))
    x[:30000] = np.where(x[:30000] < -0.85, -1, -0.7)
    y = outputs(deep.weights, x)
    limit = float(np.quantile(y[:, 0] + 1 if clause else y.max(1), 0.001))
    bad = [(y[:, 0] <= limit) & (y[:, 1] <= limit), y[:, 0] <= limit - 1]
    spec = tmp_path / "s.vnnlib"
    spec.write_text(spec_of(limit, side=-0.7))
    network = read_network(deep.model)
    prover = Prover(network, read_queries(spec, network))
    header, events = parts(deep.proof)
    lines = [k for k, e in enumerate(events) if isinstance(e, fmt.Leaf) and e.kind == "line"]
    start = next(k for k, e in enumerate(events) if isinstance(e, fmt.RowTree))
    rows = [e for e in events[start : lines[-1]] if isinstance(e, fmt.RowTree)]
    kept = [TreeRow(0, network.tensors[header.tensors[r.tensor]], r.neuron, 1 - 2 * r.side) for r in rows]
    for row, (least, found) in zip(kept, lined(prover, kept), strict=True):
        prover.keep(replace(found, least=least), prover.prove([replace(found, least=least)])[0])
        prover.tighten({row: least})
    hidden = [x @ deep.weights["w0"] + deep.weights["b0"]]
    for k in range(1, 3):
        hidden.append(np.maximum(hidden[-1], 0) @ deep.weights[f"w{k}"] + deep.weights[f"b{k}"])
    z = {network.tensors[f"r{k}"]: own for k, own in enumerate(hidden)}
    size = len(prover.clauses(Part(0, clause))[0])
    others = cut = 0
    signs = [
        (network.tensors["r1"], int(rng.integers(WIDTH)), 1),
        (network.tensors["r0"], int(rng.integers(WIDTH)), -1),
    ]
    for decided in ((), tuple(signs[:1]), tuple(signs)):
        part = Part(0, clause, signs=decided)
        inside = np.all([side * z[v][:, k] >= 0 for v, k, side in decided] or [np.ones(len(x), bool)], 0)
        for kind in range(2):  # slopes as they are best without a choice, and any
            slopes = {v: rng.integers(0, 256, own.shape[1]).astype(np.uint8) for v, own in z.items()} if kind else {}
            weights = tuple((k, float(rng.random())) for k in range(size))
            beta = tuple(float(b) for b in rng.random(len(decided)) * 0.05)
            claim = Claim(part, ((0, weights),), beta, slopes, fmt.ROOT, kind="narrow")
            found_part = prover.prove([claim])[0].part
            assert found_part is not None and set(found_part.ends) <= set(z)
            for v, (neuron, side, least) in found_part.ends.items():
                own = side * z[v][:, neuron] - least
                assert (own[bad[clause] & inside] >= -1e-12).all()
                others += int((own[inside & ~bad[clause]] < -1e-9).sum())
                before = prover.root(0)
                low, high = (t[network.argument(v)][0, neuron] for t in (before.low, before.high))
                cut += int((least > np.where(side > 0, low, -high) + 1e-6).sum())
            part = found_part
    assert cut > 10 and others


def lined(prover: Prover, rows: list[TreeRow]) -> Iterator[tuple[float, Claim]]:
    """For each row a claim of a line, every third with any slopes, and what it is at least."""
    rng = np.random.default_rng(0)
    for i, row in enumerate(rows):
        slopes = {v: rng.integers(0, 256, op.size).astype(np.uint8) for v, op in prover.relus.items() if i % 3 == 0}
        claim = Claim(Part(0, row=row), FIRST, (), slopes, fmt.ROOT, "line")
        margin = prover.prove([claim])[0]
        yield margin.least - 1e-6 - margin.error, claim
