"""Passes change no real number: graphs before and after in fractions, with weights that cancel; what may be rounded."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles import exactly, fractions
from verifier.graph.check import check_graph
from verifier.graph.enclose import enclose
from verifier.graph.evaluate import evaluate
from verifier.graph.exact import added, lowest_bit, matmul, multiplied, summed_exactly
from verifier.graph.ir import Graph, Node
from verifier.passes.absorb_factors import absorb_factors
from verifier.passes.fold_fixed_inputs import fold_fixed_inputs
from verifier.passes.simplify import simplify

NUMBERS = st.one_of(
    st.integers(-4, 4).map(float),
    st.integers(-9, 9).map(lambda k: k / 8),
    st.sampled_from([1e8, -1e8, 1e10, 1e16, -1e16, 1e-9, 2.0**-27, 2.0**27, -(2.0**27), 2.0**53]),
    st.floats(-2, 2, width=32),
    st.floats(-2, 2),
)
SEEDS = st.integers(0, 2**32 - 1)


class Grown:
    """A graph from x (3,) to y of additions, matrices, convolutions and ReLUs."""

    def __init__(self, draw: st.DataObject, steps: int) -> None:
        self.draw, self.nodes, self.shapes = draw, [], {"x": (3,)}
        self.nodes: list[Node] = []
        value, earlier = "x", ["x"]
        for _ in range(steps):
            kind = draw.draw(
                st.sampled_from(["dense", "dense", "relu", "scale", "shift", "mirror", "add", "conv", "hinge"])
            )
            value = getattr(self, f"_{kind}")(value, earlier)
            earlier.append(value)
        self.add("Reshape", (value,), self.shapes[value], name="y")
        self.graph = Graph(("x",), ("y",), tuple(self.nodes), self.shapes)

    def add(self, op: str, inputs: tuple[str, ...], shape: tuple[int, ...], name: str = "", **fields: object) -> str:
        name = name or f"v{len(self.nodes)}"
        self.nodes.append(Node(op, inputs, name, **fields))  # type: ignore[arg-type]
        self.shapes[name] = shape
        return name

    def numbers(self, *shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        return np.array(self.draw.draw(st.lists(NUMBERS, min_size=size, max_size=size))).reshape(shape)

    def _dense(self, value: str, earlier: list[str]) -> str:
        params = {"weight": self.numbers(2, *self.shapes[value])}
        if self.draw.draw(st.booleans()):
            params["bias"] = self.numbers(2)
        return self.add("Dense", (value,), (2,), params=params)

    def _relu(self, value: str, earlier: list[str]) -> str:
        return self.add("Relu", (value,), self.shapes[value])

    def _scale(self, value: str, earlier: list[str]) -> str:
        return self.add("Scale", (value,), self.shapes[value], params={"factor": self.numbers(1)})

    def _shift(self, value: str, earlier: list[str]) -> str:
        return self.add("Shift", (value,), self.shapes[value], params={"offset": self.numbers(*self.shapes[value])})

    def _mirror(self, value: str, earlier: list[str]) -> str:
        """relu(z) and relu(-z), read with any coefficients."""
        row, bias = self.numbers(1, *self.shapes[value]), self.numbers(1)
        params = {"weight": np.concatenate([row, 0.0 - row]), "bias": np.concatenate([bias, 0.0 - bias])}
        both = self.add("Relu", (self.add("Dense", (value,), (2,), params=params),), (2,))
        return self.add("Dense", (both,), (2,), params={"weight": self.numbers(2, 2)})

    def _add(self, value: str, earlier: list[str]) -> str:
        partners = [name for name in earlier if self.shapes[name] == self.shapes[value]]
        op = self.draw.draw(st.sampled_from(["Add", "Sub"]))
        return self.add(op, (value, self.draw.draw(st.sampled_from(partners))), self.shapes[value])

    def _conv(self, value: str, earlier: list[str]) -> str:
        (size,) = self.shapes[value]
        image = self.add("Reshape", (value,), (1, 1, size))
        attrs = {"stride": (1,), "padding": (1,), "dilation": (1,), "groups": 1}
        maps = self.add("Conv", (image,), (1, 1, size), params={"weight": self.numbers(1, 1, 3)}, attrs=attrs)
        scaled = self.add("Scale", (maps,), (1, 1, size), params={"factor": self.numbers(1, 1)})
        return self.add("Reshape", (scaled,), (size,))

    def _hinge(self, value: str, earlier: list[str]) -> str:
        """relu(b - s relu(v)), which clip_pattern reads."""
        shape = self.shapes[value]
        value = self.add("Relu", (value,), shape)
        for op, name in (("Scale", "factor"), ("Shift", "offset"), ("Shift", "offset")):
            value = self.add(op, (value,), shape, params={name: self.numbers()})
        return self.add("Relu", (value,), shape)


@settings(max_examples=200, deadline=None)
@given(draw=st.data(), steps=st.integers(1, 7), seed=SEEDS)
def test_simplify_keeps_every_real_value(draw: st.DataObject, steps: int, seed: int) -> None:
    graph = Grown(draw, steps).graph
    check_graph(graph)
    small = simplify(graph)
    check_graph(small)
    if any("bias_error" in node.params for node in small.nodes):
        return  # what that means is tested below
    points = np.random.default_rng(seed).integers(-16, 17, (4, 3)) / 8
    assert (exactly(graph, points) == exactly(small, points)).all()


@settings(max_examples=100, deadline=None)
@given(draw=st.data(), steps=st.integers(1, 6), seed=SEEDS)
def test_enclosures_hold_the_real_value(draw: st.DataObject, steps: int, seed: int) -> None:
    """All inputs fixed: what the rounding of a whole network may be."""
    graph = Grown(draw, steps).graph
    point = np.random.default_rng(seed).uniform(-2, 2, (1, 3))
    found = enclose(graph, {"x": point})["y"]
    truth = exactly(graph, point)
    assert (abs(truth - fractions(found.value)) <= fractions(found.error)).all()


def test_fixed_inputs_leave_a_bound_of_their_rounding() -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(2, 300))
    nodes = (Node("Dense", ("x",), "h", {"weight": weight}), Node("Relu", ("h",), "y"))
    graph = Graph(("x",), ("y",), nodes, {"x": (300,), "h": (2,), "y": (2,)})
    values = rng.uniform(size=300)
    small = simplify(fold_fixed_inputs(graph, np.array([7]), values))
    dense = small.nodes[0]
    assert dense.op == "Dense" and dense.params["weight"].shape == (2, 1)
    fixed = fractions(values)
    fixed[7] = Fraction(0)
    difference = abs(fractions(weight) @ fixed - fractions(dense.params["bias"]))
    assert (difference <= fractions(dense.params["bias_error"])).all() and difference.max() > 0


def test_a_sum_that_cancels_again_is_fused_in_fractions() -> None:
    """(1e16 x + x) - 1e16 x is x, although 1e16 + 1 is no float64 number."""
    big = {"factor": np.array(1e16)}
    nodes = (
        Node("Scale", ("x",), "a", big), Node("Add", ("a", "x"), "b"), Node("Scale", ("x",), "c", big),
        Node("Sub", ("b", "c"), "y"),
    )  # fmt: skip
    small = simplify(Graph(("x",), ("y",), nodes, dict.fromkeys("xabcy", (1,))))
    points = np.array([[0.75], [-1.0]])
    assert (exactly(small, points) == fractions(points)).all()
    assert (evaluate(small, {"x": points})["y"] == points).all()


def test_unequal_mirror_images_are_not_merged() -> None:
    """relu(z) + 1e10 relu(-z) as (1 + 1e10) relu(z) - 1e10 z would cancel where z > 0."""
    nodes = (
        Node("Dense", ("x",), "z", {"weight": np.array([[0.3], [-0.3]])}), Node("Relu", ("z",), "r"),
        Node("Dense", ("r",), "y", {"weight": np.array([[1.0, 1e10]])}),
    )  # fmt: skip
    graph = Graph(("x",), ("y",), nodes, {"x": (1,), "z": (2,), "r": (2,), "y": (1,)})
    assert [node.op for node in simplify(graph).nodes] == ["Dense", "Relu", "Dense"]


@settings(max_examples=300, deadline=None)
@given(a=st.floats(allow_nan=False), b=st.floats(allow_nan=False))
def test_sums_and_products_say_whether_they_are_exact(a: float, b: float) -> None:
    x, y = np.array([a]), np.array([b])
    finite = np.isfinite([a, b]).all()
    for found, truth in (
        (added(x, y), Fraction(a) + Fraction(b) if finite else None),
        (multiplied(x, y), Fraction(a) * Fraction(b) if finite else None),
    ):
        if found is not None and np.isfinite(found).all():
            assert truth is not None and Fraction(float(found[0])) == truth


@settings(max_examples=150, deadline=None)
@given(draw=st.data(), rows=st.integers(1, 3), inner=st.integers(1, 4))
def test_matrix_products_are_exact_or_none(draw: st.DataObject, rows: int, inner: int) -> None:
    numbers = np.array(draw.draw(st.lists(NUMBERS, min_size=2 * rows * inner, max_size=2 * rows * inner)))
    a, b = numbers[: rows * inner].reshape(rows, inner), numbers[rows * inner :].reshape(inner, rows)
    truth = fractions(a) @ fractions(b)
    found = matmul(a, b)
    if found is not None:
        assert (fractions(found) == truth).all()
    else:
        rounded = truth.astype(np.float64)
        assert not (fractions(rounded) == truth).all()  # it is never given up too early on small matrices
    if summed_exactly(a, 1):
        assert (fractions(a.sum(axis=1)) == fractions(a).sum(axis=1)).all()


def test_products_near_the_ends_of_the_range_are_not_given_up() -> None:
    tiny, huge = 2.225073858507e-311, 2.0**1000
    assert (matmul(np.array([[0.0, 1.0]]), np.array([[0.0], [tiny]])) == [[tiny]]).all()
    assert (matmul(np.array([[huge, 1.0]]), np.array([[2.0**-1000], [1.0]])) == [[2.0]]).all()
    for a, b in ((huge, huge), (tiny, 0.3), (np.inf, 1.0), (np.nan, 1.0)):
        assert matmul(np.array([[a]]), np.array([[b]])) is None


@pytest.mark.parametrize(("value", "bit"), [(1.0, 0), (0.75, -2), (-6.0, 1), (2.0**-1074, -1074), (1e308 * 0, 4096)])
def test_lowest_bit(value: float, bit: int) -> None:
    assert lowest_bit(np.array([value, value]), 0) == bit


def test_a_bias_that_underflows_in_a_product_is_not_lost() -> None:
    """1e-200 x 1e-150 is no float64 number; the merged bias is 0, to within a bound."""
    shapes = {"x": (2,), "h": (1,), "y": (1,)}
    dense = Node("Dense", ("x",), "h", {"weight": np.ones((1, 2)), "bias": np.array([1e-200])})
    scale = Node("Scale", ("h",), "y", {"factor": np.array([1e-150]), "roundings": np.array(1.0)})
    (merged,) = absorb_factors(Graph(("x",), ("y",), (dense, scale), shapes)).nodes
    assert merged.op == "Dense" and merged.params["bias_error"] > 0
