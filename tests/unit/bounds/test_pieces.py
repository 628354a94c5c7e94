"""Boxes decided piece by piece, in fractions: every answer checked by itself, and against exact minima."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch

from tests.oracles import exactly
from tests.unit.search.tables import CPU, table
from verifier.bounds.network import build
from verifier.bounds.pieces import PieceLeaf, Pieces, PieceSplit, affordable, decide, exclude, question
from verifier.bounds.rational import Rational
from verifier.graph.ir import Graph, Node

Form = tuple[Fraction, ...]


def net(weights: list[np.ndarray], leak: float | None = None) -> Graph:
    """Layers (out, in + 1) with their constants last, and hinges between them."""
    nodes, last, shapes = [], "x", {"x": (weights[0].shape[1] - 1,)}
    for k, w in enumerate(weights):
        nodes.append(Node("Dense", (last,), f"z{k}", {"weight": w[:, :-1].copy(), "bias": w[:, -1].copy()}))
        last = f"z{k}"
        shapes |= {last: (len(w),), f"h{k}": (len(w),)}
        if k < len(weights) - 1:
            kind = ("Relu", {}) if leak is None else ("LeakyRelu", {"alpha": leak})
            nodes.append(Node(kind[0], (last,), f"h{k}", {}, kind[1]))
            last = f"h{k}"
    return Graph(("x",), (last,), tuple(nodes), {name: shapes[name] for name in ("x", *(n.output for n in nodes))})


def random_net(rng: np.random.Generator, inputs: int, outputs: int = 1) -> list[np.ndarray]:
    """Small whole numbers: kinks meet kinks, and sums cancel."""
    sizes = [inputs, *rng.integers(2, 4, size=int(rng.integers(1, 3))).tolist(), outputs]
    return [rng.integers(-3, 4, size=(b, a + 1)).astype(float) for a, b in itertools.pairwise(sizes)]


def least(weights: list[np.ndarray], low: int, high: int, leak: Fraction = Fraction(0)) -> Fraction:
    """The least value of a network of one input, from all of its kinks."""
    kinks = {Fraction(low), Fraction(high)}

    def run(x: Fraction) -> list[list[Fraction]]:
        values, arguments = [x], []
        for k, w in enumerate(weights):
            z = [sum((Fraction(a) * v for a, v in zip(r, [*values, Fraction(1)], strict=True)), Fraction(0)) for r in w]
            arguments.append(z)
            values = z if k == len(weights) - 1 else [v if v >= 0 else leak * v for v in z]
        return arguments

    for layer in range(len(weights) - 1):  # between the kinks of earlier layers the arguments of this one are affine
        places, more = sorted(kinks), set()
        for a, b in itertools.pairwise(places):
            for left, right in zip(run(a)[layer], run(b)[layer], strict=True):
                if left * right < 0:
                    more.add(a + (b - a) * left / (left - right))
        kinks |= more
    return min(run(x)[-1][0] for x in kinks)


def ask(graph: Graph, low: list[float], high: list[float], limits: list[float], strict: bool) -> object:
    """Whether every output k can be at most `limits[k]`."""
    rows = table([[[(k, limit) for k, limit in enumerate(limits)]]])
    rows.strict[:] = strict
    rational = Rational.of(build(graph, torch.float64, CPU))
    assert rational is not None
    box = rational.box(torch.tensor(low), torch.tensor(high))
    return decide(question(rational, box, rational.planes(box), rows, 0, 0, {}))


@pytest.mark.parametrize("leak", [None, 0.25])
@pytest.mark.parametrize("seed", range(25))
def test_the_least_value_is_met_and_not_exceeded(seed: int, leak: float | None) -> None:
    """y <= least has a point, y < least none: ties of every kind, with slopes anywhere between those of the sides."""
    rng = np.random.default_rng(seed)
    weights = random_net(rng, 1)
    low, high = -int(rng.integers(1, 4)), int(rng.integers(1, 4))
    value = least(weights, low, high, Fraction(leak or 0))
    graph, limit = net(weights, leak), float(value)
    found = ask(graph, [low], [high], [limit], strict=False)
    if Fraction(limit) >= value:
        assert isinstance(found, list)
        assert low <= found[0] <= high and exact(weights, found, leak)[0] <= Fraction(limit)
    else:
        assert isinstance(found, Pieces)
    found = ask(graph, [low], [high], [limit], strict=True)
    if Fraction(limit) <= value:
        assert isinstance(found, Pieces)
    else:
        assert isinstance(found, list) and exact(weights, found, leak)[0] < Fraction(limit)


def exact(weights: list[np.ndarray], x: list[Fraction], leak: float | None = None) -> list[Fraction]:
    values = list(x)
    for k, w in enumerate(weights):
        z = [sum((Fraction(a) * v for a, v in zip(r, [*values, Fraction(1)], strict=True)), Fraction(0)) for r in w]
        values = z if k == len(weights) - 1 else [v if v >= 0 else Fraction(leak or 0) * v for v in z]
    return values


def arguments(weights: list[np.ndarray], x: list[Fraction]) -> dict[tuple[int, int], Fraction]:
    """Arguments of the Relus, by operator and element."""
    values, found = list(x), {}
    for k, w in enumerate(weights[:-1]):
        z = [sum((Fraction(a) * v for a, v in zip(r, [*values, Fraction(1)], strict=True)), Fraction(0)) for r in w]
        found.update({(2 * k + 1, j): v for j, v in enumerate(z)})
        values = [max(v, Fraction(0)) for v in z]
    return found


@pytest.mark.parametrize("seed", range(25))
def test_every_answer_holds(seed: int) -> None:
    """Two inputs, two rows, strict or not: a point satisfies the rows exactly; the multipliers of a leaf do what they
    say at every point of its piece."""
    rng = np.random.default_rng(100 + seed)
    weights = random_net(rng, 2, 2)
    graph, strict = net(weights), bool(seed % 2)
    x = rng.integers(-8, 9, size=(60, 2)) / 8
    x[:9] = [[a, b] for a in (-1, 0, 1) for b in (-1, 0, 1)]
    values = exactly(graph, x).reshape(-1, 2)
    limits = [float(values[:, 0].min()), float(values[int(values[:, 0].argmin()), 1])]  # met, if not below
    found = ask(graph, [-1, -1], [1, 1], limits, strict)
    if isinstance(found, list):
        assert all(-1 <= v <= 1 for v in found)
        for value, limit in zip(exact(weights, found), limits, strict=True):
            assert value < Fraction(limit) if strict else value <= Fraction(limit)
        return
    assert strict and isinstance(found, Pieces)
    for point in x:
        at = [Fraction(float(v)) for v in point]
        z, y = arguments(weights, at), exact(weights, at)
        leaf, sides = found, {}
        while isinstance(leaf, PieceSplit):
            sides[leaf.neuron] = 1 if z[leaf.neuron] >= 0 else -1
            leaf = leaf.above if z[leaf.neuron] >= 0 else leaf.below
        assert isinstance(leaf, PieceLeaf) and all(w > 0 for w in (*leaf.rows.values(), *leaf.sides.values()))
        assert set(leaf.sides) <= set(sides)
        total = sum((w * (y[k] - Fraction(limits[k])) for k, w in leaf.rows.items()), Fraction(0))
        total -= sum((w * sides[n] * z[n] for n, w in leaf.sides.items()), Fraction(0))
        assert total > 0 or (leaf.rows and total >= 0)


@pytest.mark.parametrize("seed", range(40))
def test_programs_are_decided_exactly(seed: int) -> None:
    """Rows of small whole numbers, many of which meet in one point: either the point or the multipliers are checked."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 4)), int(rng.integers(1, 6))
    rows = [([Fraction(int(v)) for v in rng.integers(-2, 3, size=n + 1)], bool(rng.random() < 0.5)) for _ in range(m)]
    low = rng.integers(-2, 1, size=n)
    box = [(Fraction(int(a)), Fraction(int(a) + int(w))) for a, w in zip(low, rng.integers(0, 3, size=n), strict=True)]
    point, weights = exclude(rows, box)
    if point is not None:
        assert weights is None and all(a <= x <= b for x, (a, b) in zip(point, box, strict=True))
        for row, strict in rows:
            value = sum((a * x for a, x in zip(row, [*point, Fraction(1)], strict=True)), Fraction(0))
            assert value < 0 if strict else value <= 0
        return
    assert weights is not None and all(w >= 0 for w in weights)
    total = [sum((w * r[i] for w, (r, _) in zip(weights, rows, strict=True)), Fraction(0)) for i in range(n + 1)]
    bottom = sum((min(a * c, b * c) for c, (a, b) in zip(total, box, strict=False)), total[-1])
    assert bottom > 0 or (bottom == 0 and any(w and strict for w, (_, strict) in zip(weights, rows, strict=True)))


def test_it_is_for_few_open_neurons() -> None:
    assert affordable(100, 8) and not affordable(100, 12) and not affordable(float("inf"), 0)
