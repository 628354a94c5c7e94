"""The checker's lemmas against fractions and 60 digits, nothing allowed for: numbers of any size, sums that cancel,
denormals, boxes of no width."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from pathlib import Path

import mpmath
import numpy as np
import pytest
from onnx import helper

from tests.models import build
from verifier.checker import bounds
from verifier.checker.bounds import AffineForms, bound_rows, sweep, unit_rows, walk
from verifier.checker.curves import Curve, Relu, Sigmoid, Square
from verifier.checker.format import FORMS, ROOT, ROWS
from verifier.checker.linear import FRACTIONS, Array, Gather, Linear
from verifier.checker.network import CheckedNetwork, read_network
from verifier.checker.prove import Claim, Part, Prover, _risen
from verifier.checker.query import read_queries

mpmath.mp.dps = 60
SCALES = (1.0, 1.0, 1.0, 2.0**24, 1e-160, 5e-324, 1e120, 1e-20, 0.0)


def node(op: str, inputs: list[str], output: str, **attributes: object) -> object:
    return helper.make_node(op, inputs, [output], **attributes)


def awkward(rng: np.random.Generator, *shape: int) -> Array:
    """Numbers of one size, some that cancel but for their last digit, some of another size."""
    numbers = rng.normal(size=shape) * rng.choice(SCALES)
    flat = numbers.reshape(-1)
    half = len(flat) // 2
    if half and rng.random() < 0.6:
        flat[half : 2 * half] = -flat[:half] * (1 + rng.choice([0.0, 2.0**-52, -(2.0**-51)]))
    flat[rng.random(len(flat)) < 0.1] *= rng.choice(SCALES)
    return numbers


DENSE = [
    node("Gemm", ["x", "a", "b"], "h"), node("Relu", ["h"], "r"), node("MatMul", ["r", "c"], "i"),
    node("LeakyRelu", ["i"], "l", alpha=0.1), node("Sub", ["l", "h"], "s"), node("Clip", ["s", "lo", "hi"], "p"),
    node("Mul", ["p", "r"], "m"), node("Concat", ["m", "s"], "t", axis=1), node("MatMul", ["t", "d"], "y"),
]  # fmt: skip
PICTURE = [
    node("Conv", ["x", "k", "b"], "c", pads=[1, 0, 1, 1], strides=[1, 2]), node("Relu", ["c"], "r"),
    node("MaxPool", ["r"], "p", kernel_shape=[2, 1]), node("Mul", ["p", "f"], "q"),
    node("AveragePool", ["q"], "v", kernel_shape=[2, 1]), node("Flatten", ["v"], "g"), node("MatMul", ["g", "d"], "y"),
]  # fmt: skip

FEW = [  # layers that hang together by few weights, and a join
    node("Gemm", ["x", "a", "b"], "h"), node("Relu", ["h"], "r"), node("MatMul", ["r", "c"], "i"),
    node("LeakyRelu", ["i"], "l", alpha=0.1), node("MatMul", ["l", "e"], "k"), node("Add", ["k", "l"], "t"),
    node("Relu", ["t"], "p"), node("MatMul", ["p", "d"], "y"),
]  # fmt: skip


def selection(rng: np.random.Generator, rows: int, columns: int) -> Array:
    """A matrix with at most one nonzero number in a column."""
    matrix = np.zeros((rows, columns))
    matrix[rng.integers(rows, size=columns), np.arange(columns)] = awkward(rng, columns)
    return matrix


def dense_weights(rng: np.random.Generator) -> dict[str, Array]:
    """Those of `DENSE`."""
    low = float(awkward(rng, 1)[0])
    return {"a": awkward(rng, 3, 4), "b": awkward(rng, 4), "c": awkward(rng, 4, 4), "d": awkward(rng, 8, 2),
            "lo": np.array(low), "hi": np.array(low + abs(rng.normal()))}  # fmt: skip


def random_network(folder: Path, rng: np.random.Generator, kind: str) -> CheckedNetwork:
    if kind == "few weights":
        weights = {"a": awkward(rng, 3, 40), "b": awkward(rng, 40), "c": selection(rng, 40, 36),
                   "e": selection(rng, 36, 36), "d": awkward(rng, 36, 2)}  # fmt: skip
        data = build(FEW, {"x": (1, 3)}, ["y"], weights, opset=14, dtype=np.float64)
    elif kind == "picture":
        weights = {"k": awkward(rng, 2, 1, 3, 3), "b": awkward(rng, 2), "f": awkward(rng, 2, 1, 1),
                   "d": awkward(rng, 2, 2)}  # fmt: skip
        data = build(PICTURE, {"x": (1, 1, 3, 3)}, ["y"], weights, opset=14, dtype=np.float64)
    else:
        data = build(DENSE, {"x": (1, 3)}, ["y"], dense_weights(rng), opset=14, dtype=np.float64)
    (folder / "m.onnx").write_bytes(data)
    return read_network(folder / "m.onnx")


class Exact:
    """The network's values at points, in fractions; a factor that the file does not hold is 1 / 2 here."""

    def __init__(self, network: CheckedNetwork) -> None:
        self.network, self.matrices = network, {}
        for v, op in enumerate(network.nodes):
            if isinstance(op, Linear):
                offset = np.broadcast_to(op.offset, op.size)
                self.matrices[v] = op.adjoint(np.eye(op.size))[0], offset

    def __call__(self, x: Array) -> list[list[Fraction]]:
        values = [[Fraction(v) for v in x.tolist()]]
        for v, op in enumerate(self.network.nodes[1:], 1):
            assert op is not None
            own = op.argument.pick(op.argument.join([np.array(t, object) for t in values])).tolist()
            if isinstance(op, Linear):
                matrix, offset = self.matrices[v]
                out = [Fraction(c) for c in offset.tolist()]
                for i, k in zip(*np.nonzero(matrix), strict=True):
                    out[i] += Fraction(float(matrix[i, k])) * own[k]
            elif isinstance(op, Relu):
                out = [t if t >= 0 else Fraction(op.leak) * t for t in own]
            else:
                assert isinstance(op, Square)
                out = [t * t for t in own]
            values.append(out)
        return values


def below(bound: float, value: Fraction) -> bool:
    return not math.isfinite(bound) or Fraction(bound) <= value


@pytest.mark.parametrize("layers", ["dense", "picture", "few weights"])
@pytest.mark.parametrize("kind", ["forms", "rows", "symbols"])
def test_every_interval_and_row_holds_in_fractions(tmp_path: Path, layers: str, kind: str) -> None:
    told = 0
    for seed in range(40 if layers != "few weights" else 12):
        rng = np.random.default_rng(seed)
        network = random_network(tmp_path, rng, layers)
        centre = awkward(rng, network.inputs)
        width = np.abs(centre) * rng.choice([0.0, 2.0**-50, 1e-3, 1.0]) * (rng.random(network.inputs) < 0.7)
        lower, upper = centre - width, centre + width
        with np.errstate(all="ignore"):
            swept = sweep(network, lower[None], upper[None], kind=kind)
            rows = np.concatenate([np.eye(2), -np.eye(2), awkward(rng, 2, 2), rng.normal(size=(2, 2))])
            mixed = awkward(rng, len(rows), network.inputs)
            owner = np.zeros(len(rows), np.int64)
            by_form = bound_rows(swept, owner, rows.__getitem__, network.output, target=np.full(len(rows), -np.inf))
            walked = bound_rows(swept, owner, rows.__getitem__, network.output).low
            both = Gather(((network.output, 2), (0, network.inputs)), np.arange(2 + network.inputs))
            asked = swept.then(Linear(both, len(rows), "rows", np.concatenate([rows, mixed], 1)[None]))
            added = bound_rows(asked, owner, np.eye(len(rows)).__getitem__, asked.network.output).low
            known = bound_rows(
                asked, owner, np.eye(len(rows)).__getitem__, asked.network.output, target=-np.ones(len(rows)) * np.inf
            )
            places = [(v, int(rng.integers(size))) for v, size in enumerate(network.sizes)]
            single = [
                bound_rows(swept, owner[:1], unit_rows(np.array([k]), 1.0, network.sizes[v]), v) for v, k in places
            ]
        exact = Exact(network)
        corners = [np.where(rng.random(network.inputs) < 0.5, lower, upper) for _ in range(3)]
        for x in [*corners, np.clip(lower + rng.random() * (upper - lower), lower, upper)]:
            values = exact(x)
            for v, own in enumerate(values):
                low, high = (t[v][0].tolist() for t in (swept.low, swept.high))
                assert all(below(a, t) and below(-c, -t) for a, c, t in zip(low, high, own, strict=True))
            assert all(below(a.low[0], values[v][k]) for a, (v, k) in zip(single, places, strict=True))
            for i, (row, extra) in enumerate(zip(rows.tolist(), mixed.tolist(), strict=True)):
                value = sum((Fraction(a) * t for a, t in zip(row, values[network.output], strict=True)), Fraction(0))
                assert below(by_form.low[i], value) and below(walked[i], value)
                moved = sum((Fraction(a) * Fraction(t) for a, t in zip(extra, x.tolist(), strict=True)), value)
                assert below(added[i], moved) and below(known.low[i], moved)
        told += int(np.isfinite(walked).all())
    assert told > (15 if layers != "few weights" else 1)  # overflow apart


def test_rows_with_multipliers_hold_where_the_signs_do(tmp_path: Path) -> None:
    """Lemma 6: at points where the decided neurons keep their sides, whatever the multipliers are."""
    seen = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        network = random_network(tmp_path, rng, "dense")
        relu = next(v for v, op in enumerate(network.nodes) if isinstance(op, Relu) and not op.leak)
        source, centre = network.argument(relu), rng.normal(size=3)
        lower, upper = centre - 1, centre + 1
        signs = [(relu, k, int(rng.choice([-1, 1]))) for k in (0, 2)]
        pull = np.zeros((1, network.sizes[relu]))
        pull[0, [0, 2]] = [-side * float(rng.choice([0.5, 1e8, 1e-30])) for _, _, side in signs]
        rows = np.concatenate([np.eye(2), -np.eye(2)])
        with np.errstate(all="ignore"):
            swept = sweep(network, lower[None], upper[None], [signs])
            swept.pulls = {relu: pull}
            found = bound_rows(swept, np.zeros(4, np.int64), rows.__getitem__, network.output).low
        exact = Exact(network)
        for x in rng.uniform(lower, upper, (8, 3)):
            values = exact(x)
            if all(side * values[source][k] >= 0 for _, k, side in signs):
                assert not swept.empty[0]
                for i, row in enumerate(rows.tolist()):
                    value = sum(
                        (Fraction(a) * t for a, t in zip(row, values[network.output], strict=True)), Fraction(0)
                    )
                    assert below(float(found[i]), value)
                seen += 1
    assert seen > 30


def test_what_a_narrowing_gains_is_no_more_than_the_least() -> None:
    """Lemma 10: the least rise of a function where sum |row_j| d_j <= most is a fractional knapsack, solved exactly."""
    gained = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(1, 6))
        rows, row, width = awkward(rng, 3, n), awkward(rng, n), np.abs(awkward(rng, n))
        with np.errstate(all="ignore"):
            most = float(np.abs(row) @ width * rng.choice([0.0, 0.1, 0.9, 1.0, 2.0]))
        moved = np.abs(awkward(rng, 3))
        if not (math.isfinite(most) and np.isfinite(rows).all()):
            continue
        with np.errstate(all="ignore"):
            found = _risen(rows, row, width, most, moved)
        for f, rise, start in zip(rows.tolist(), found.tolist(), moved.tolist(), strict=True):
            parts = [(Fraction(a), abs(Fraction(b)), Fraction(w)) for a, b, w in zip(f, row, width, strict=True)]
            against = [(abs(a), b, w) for (a, b, w), r in zip(parts, row, strict=True) if a * Fraction(float(r)) < 0]
            left, least = Fraction(most), sum((a * w for a, _, w in against), Fraction(start))
            for a, b, w in sorted(against, key=lambda t: t[0] / t[1], reverse=True):
                taken = min(w, left / b)
                left, least = left - taken * b, least - a * taken
            assert below(rise, least)
            gained += rise > start
    assert gained > 100


def test_bounds_know_that_products_underflow(tmp_path: Path) -> None:
    """1e-20 times 1e-305 is not 0: a row of that size over a bias, at the input 0."""
    weights = {"w": np.ones((1, 2)), "b": np.full(2, 1e-305)}
    (tmp_path / "m.onnx").write_bytes(
        build([node("Gemm", ["x", "w", "b"], "y")], {"x": (1, 1)}, ["y"], weights, dtype=np.float64)
    )
    network, zero = read_network(tmp_path / "m.onnx"), np.zeros((1, 1))
    rows = np.full((1, 2), -1e-20)
    found = bound_rows(sweep(network, zero, zero), np.zeros(1, np.int64), rows.__getitem__, network.output)
    assert Fraction(float(found.low[0])) <= -2 * Fraction(1e-20) * Fraction(1e-305)


STORED = [*DENSE[:6], node("Concat", ["p", "s"], "t", axis=1), DENSE[-1]]
"""Without products."""


@pytest.mark.parametrize("seed", range(30))
def test_bounds_in_fractions_lie_inside_those_in_floats(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same code in both: intervals without maps, and rows with the same slopes."""
    monkeypatch.setattr(bounds, "MOST_FORMS", 0)
    rng = np.random.default_rng(seed)
    if seed % 2:
        weights = {"k": awkward(rng, 2, 1, 3, 3), "b": awkward(rng, 2), "d": awkward(rng, 4, 2)}
        nodes = [*PICTURE[:3], node("Flatten", ["p"], "g"), PICTURE[-1]]
        data = build(nodes, {"x": (1, 1, 3, 3)}, ["y"], weights, opset=14, dtype=np.float64)
    else:
        data = build(STORED, {"x": (1, 3)}, ["y"], dense_weights(rng), opset=14, dtype=np.float64)
    (tmp_path / "m.onnx").write_bytes(data)
    network = read_network(tmp_path / "m.onnx")
    exact, of = network.in_fractions(), FRACTIONS.of
    centre = awkward(rng, 1, network.inputs)
    width = np.abs(centre) * rng.choice([0.0, 1e-3, 1.0])
    with np.errstate(all="ignore"):
        swept = sweep(network, centre - width, centre + width)
    assert all(np.isfinite(t).all() for t in (*swept.low, *swept.high))  # what is compared is no overflow
    found = sweep(exact, of(centre - width), of(centre + width))
    for own, inner in zip(
        (*swept.low, *(-t for t in swept.high)), (*found.low, *(-t for t in found.high)), strict=True
    ):
        assert (of(own) <= inner).all()
    found.low, found.high = [of(t) for t in swept.low], [of(t) for t in swept.high]
    rows, box = np.concatenate([np.eye(2), -np.eye(2), awkward(rng, 2, 2)]), np.zeros(6, np.int64)
    with np.errstate(all="ignore"):
        low = walk(swept, box, rows, network.output).low
    for v, op in enumerate(exact.nodes):
        if isinstance(op, Curve):
            lower, _, upper, _ = (of(t) for t in swept.plane(v))
            least, most = (op.residual(t, found.low[op.source], found.high[op.source]) for t in (lower, upper))
            found.planes[v] = lower, least[0], upper, most[1]
    inner = walk(found, box, of(rows), exact.output).low
    for bound, best in zip(low.tolist(), inner.tolist(), strict=True):
        assert isinstance(best, Fraction) and below(bound, best)


def test_a_weight_may_not_be_lost_to_underflow(tmp_path: Path) -> None:
    """A weighted row of 1.4 denormals counts as 1; the output is so large that this decides the sign."""
    denormal, large, weight = 2.0**-1074, 1e300, 2.0**-700
    least, margin = -1.4 * 2.0**-374, 1.2 * (denormal * large)
    nodes = [node("Relu", ["x"], "z"), node("MatMul", ["z", "w"], "y")]
    data = build(nodes, {"x": (1, 1)}, ["y"], {"w": np.array([[1.0, large]])}, dtype=np.float64)
    (tmp_path / "m.onnx").write_bytes(data)
    lines = [f"(declare-const {name} Real)" for name in ("X_0", "Y_0", "Y_1")]
    lines += ["(assert (>= X_0 0.0))", "(assert (<= X_0 1.0))", "(assert (<= Y_0 1.0))", "(assert (<= Y_1 1.0))"]
    (tmp_path / "s.vnnlib").write_text("\n".join(lines))
    network = read_network(tmp_path / "m.onnx")
    prover = Prover(network, read_queries(tmp_path / "s.vnnlib", network))
    asked = prover.queries
    rows = np.flatnonzero(asked.outputs[:, 1])
    asked.outputs[:], asked.outputs[rows, 1], asked.rhs[:] = 0, least, -margin
    asked.rhs[rows] = 0
    (clause,) = prover.clauses(Part(0))
    picked = tuple((k, weight if r in rows else 1.0) for k, r in enumerate(clause))
    assert len(clause) == 2 and weight * least == -denormal
    assert Fraction(margin) + Fraction(weight) * Fraction(least) * Fraction(large) < 0
    assert not prover.prove([Claim(Part(0), ((0, picked),))])[0].least > 0


def test_narrowed_boxes_hold_every_point_that_rows_allow(tmp_path: Path) -> None:
    """Lemma 8, for two clauses of two rows and one row, again and again."""
    cut = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        weights = {"a": rng.normal(size=(3, 6)), "b": rng.normal(size=6), "c": rng.normal(size=(6, 2))}
        nodes = [node("Gemm", ["x", "a", "b"], "h"), node("Relu", ["h"], "r"), node("MatMul", ["r", "c"], "y")]
        (tmp_path / "m.onnx").write_bytes(build(nodes, {"x": (1, 3)}, ["y"], weights, dtype=np.float64))
        x = rng.uniform(-0.3, 0.3, (4000, 3))
        y = np.maximum(x @ weights["a"] + weights["b"], 0) @ weights["c"]
        first, third = np.quantile(y[:, 0], (0.04, 0.3)).tolist()
        second = float(np.quantile(y[:, 1], 0.04))
        bad = (y[:, 0] <= first) | ((y[:, 1] <= second) & (y[:, 0] <= third))
        lines = [f"(declare-const {name} Real)" for name in ("X_0", "X_1", "X_2", "Y_0", "Y_1")]
        lines += [f"(assert (and (>= X_{i} -0.3) (<= X_{i} 0.3)))" for i in range(3)]
        lines.append(f"(assert (or (<= Y_0 {first!r}) (and (<= Y_1 {second!r}) (<= Y_0 {third!r}))))")
        (tmp_path / "s.vnnlib").write_text("\n".join(lines))
        network = read_network(tmp_path / "m.onnx")
        prover = Prover(network, read_queries(tmp_path / "s.vnnlib", network))
        part = Part(0)
        for own, narrowed in ((Part(0), False), (Part(0, 0), True)):  # a row of one clause says nothing of the other
            found = prover.prove([Claim(own, ((0, ((0, 1.0),)),), intervals=ROOT, kind="narrow")])[0].part
            assert found is not None and bool(found.ends) == narrowed
            assert narrowed or np.array_equal(prover.box(found), prover.box(own))
        sizes = [len(c) for c in prover.clauses(part)]
        rows = tuple((c, ((k, 1.0),)) for c, size in enumerate(sizes) for k in range(size))
        for kind in (FORMS, ROWS, ROOT):
            margin = prover.prove([Claim(part, rows, intervals=kind, kind="narrow")])[0]
            assert margin.part is not None
            part = margin.part
            low, high = prover.box(part)
            assert ((low <= x[bad]) & (x[bad] <= high)).all()
        cut += int(np.prod(high - low) < 0.9 * 0.6**3)
    assert cut >= 3


@pytest.mark.parametrize("slack", [1e-12, 0.0, -1e-12])
def test_what_a_hair_refutes_is_narrowed_like_what_it_does_not(tmp_path: Path, slack: float) -> None:
    """Whether a row just exceeds its limit depends on the order of sums: what is proven below may not."""
    weights = {"w": np.array([[1.0], [-2.0]])}
    (tmp_path / "m.onnx").write_bytes(build([node("MatMul", ["x", "w"], "y")], {"x": (1, 2)}, ["y"], weights))
    lines = [f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0")]
    lines += [f"(assert (and (>= X_{i} -1.0) (<= X_{i} 1.0)))" for i in range(2)]
    (tmp_path / "s.vnnlib").write_text("\n".join([*lines, f"(assert (<= Y_0 {-3.0 + slack!r}))"]))
    network = read_network(tmp_path / "m.onnx")
    prover = Prover(network, read_queries(tmp_path / "s.vnnlib", network))
    margin = prover.prove([Claim(Part(0), ((0, ((0, 1.0),)),), intervals=ROOT, kind="narrow")])[0]
    assert margin.part is not None and abs(margin.least) < 1e-9
    assert np.allclose(prover.box(margin.part), [[-1, 1], [-1, 1]], atol=1e-9)


def test_forms_enclose_in_fractions() -> None:
    """`interval` and `least`: forms of any size, at corners of the e_j."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        form = AffineForms(awkward(rng, 1, 5), awkward(rng, 1, 4, 5), np.abs(awkward(rng, 1, 5)))
        rows = np.stack([awkward(rng, 5), rng.normal(size=5)])
        with np.errstate(all="ignore"):
            (low, high), least = form.interval(), form.least(rows, np.zeros(2, np.int64))[0]
        for signs in itertools.product((-1, 1), repeat=4):
            y = [Fraction(float(c)) for c in form.centre[0]]
            for sign, own in zip(signs, form.maps[0], strict=True):
                y = [t + sign * Fraction(float(m)) for t, m in zip(y, own, strict=True)]
            for side in (-1, 1):
                at = [t + side * Fraction(float(r)) for t, r in zip(y, form.radius[0], strict=True)]
                assert all(below(a, t) and below(-c, -t) for a, c, t in zip(low[0], high[0], at, strict=True))
            for k, row in enumerate(rows.tolist()):
                worst = sum((Fraction(a) * t for a, t in zip(row, y, strict=True)), Fraction(0))
                worst -= sum(
                    (abs(Fraction(a)) * Fraction(float(r)) for a, r in zip(row, form.radius[0], strict=True)),
                    Fraction(0),
                )
                assert below(float(least[k]), worst)


ONE = Gather(((0, 1),), np.zeros(1, np.int64))
CURVES = [Relu(ONE, 1, ""), Relu(ONE, 1, "", leak=0.1), Sigmoid(ONE, 1, ""), Square(ONE, 1, "")]


def true(curve: Curve, x: float) -> mpmath.mpf:
    t = mpmath.mpf(x)
    if isinstance(curve, Sigmoid):
        return 1 / (1 + mpmath.exp(-t))
    if isinstance(curve, Square):
        return t * t
    assert isinstance(curve, Relu)
    return t if t >= 0 else mpmath.mpf(curve.leak) * t


@pytest.mark.parametrize("curve", CURVES)
def test_values_ranges_and_residuals_hold_in_60_digits(curve: Curve) -> None:
    """For any slope, intervals from denormal to 1e3 wide, at ends, kinks, and where the function's slope is s."""
    rng = np.random.default_rng(5)
    count = 400
    scale = 10.0 ** rng.uniform(-4, 3, count)
    scale[:40] = rng.choice([5e-324, 1e-310, 1e-200, 800.0], 40)
    low = rng.normal(size=count) * scale
    high = low + np.where(rng.random(count) < 0.15, 0.0, rng.random(count) * scale)
    slope = np.where(rng.random(count) < 0.3, rng.choice([0.0, 0.1, 1.0, 0.25], count), rng.normal(size=count))
    slope[rng.random(count) < 0.5] /= 4  # of a sigmoid
    with np.errstate(all="ignore"):
        (least, most), (bottom, top) = curve.residual(slope, low, high), curve.range(low, high)
        value, error = curve.value(low)
    for i in range(count):
        s = mpmath.mpf(slope[i])
        points = [
            low[i],
            high[i],
            (low[i] + high[i]) / 2,
            low[i] + rng.random() * (high[i] - low[i]),
            0.0,
            slope[i] / 2,
        ]
        if isinstance(curve, Sigmoid) and 0 < slope[i] < 0.25:
            turn = float(mpmath.log((1 + mpmath.sqrt(1 - 4 * s)) / (1 - mpmath.sqrt(1 - 4 * s))))
            points += [turn, -turn]
        for x in points:
            if low[i] <= x <= high[i]:
                y = true(curve, x)
                assert mpmath.mpf(bottom[i]) <= y <= mpmath.mpf(top[i])
                assert mpmath.mpf(least[i]) <= y - s * mpmath.mpf(x) <= mpmath.mpf(most[i])
        assert abs(true(curve, low[i]) - mpmath.mpf(value[i])) <= mpmath.mpf(error[i])


def test_rows_over_few_elements_say_what_rows_over_all_do(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    weights = {"a": rng.normal(size=(3, 40)), "b": rng.normal(size=40), "c": np.eye(40)[:, :36],
               "e": np.eye(36)[rng.permutation(36)], "d": rng.normal(size=(36, 2))}  # fmt: skip
    (tmp_path / "m.onnx").write_bytes(build(FEW, {"x": (1, 3)}, ["y"], weights, opset=14, dtype=np.float64))
    network = read_network(tmp_path / "m.onnx")
    swept = sweep(network, -np.ones((1, 3)), np.ones((1, 3)), kind=ROWS)
    for v, count in enumerate(network.sizes):
        owner, every = np.zeros(count, np.int64), np.arange(count)
        together = bound_rows(swept, owner, unit_rows(every, 1.0, count), v).low
        alone = [bound_rows(swept, owner[:1], unit_rows(every[k : k + 1], 1.0, count), v).low[0] for k in range(count)]
        assert np.allclose(together, alone, rtol=1e-12, atol=1e-12)


def test_sides_that_are_equal_but_for_rounding_get_one_slope() -> None:
    """Otherwise a proof that holds here may not hold where sums are made in another order."""
    low = np.array([-1.0, -1.0, -1.0, np.nextafter(-1.0, 0), np.nextafter(-1.0, -2)])
    high = np.array([1.0, np.nextafter(1.0, 0), np.nextafter(1.0, 2), 1.0, 1.0])
    for op in (Relu(ONE, 1, "relu"), Relu(ONE, 1, "leaky", leak=0.1)):
        assert all(len(set(side.round(9).tolist())) == 1 for side in op.slopes(low, high))
