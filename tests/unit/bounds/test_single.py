"""Intervals computed in float32: they hold for the float64 network over the reals, and so do rows built on them.

The oracle is exact: the network in fractions. Boxes without width and weights that cancel leave no room to hide in.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from verifier.bounds.backward import concretise, walk_back
from verifier.bounds.inputs import IdentityMap
from verifier.bounds.network import Network, build, narrowed
from verifier.bounds.sweep import Method, Sweep, narrow, sweep
from verifier.graph.ir import Graph, Node
from verifier.ops.kinds import Interval

CPU = torch.device("cpu")
SIZES = (3, 9, 9, 8, 2)
METHODS = {
    "rows": Method(rows=True),
    "forward": Method(),
    "interval": Method(affine=False),
    "rows alone": Method(affine=False, rows=True),
}


def graph(seed: int, representable: bool) -> Graph:
    """Dense layers with ReLUs, large weights that nearly cancel in pairs, and an offset in front."""
    rng = np.random.default_rng(seed)
    nodes, value, shapes = [Node("Shift", ("x",), "s", {"offset": rng.normal(size=3)})], "s", {"x": (3,), "s": (3,)}
    for k, (n, m) in enumerate(pairwise(SIZES)):
        weight = rng.normal(size=(m, n)) * 30
        weight[:, 1] = -weight[:, 0] * (1 + rng.normal(size=m) * 1e-6)
        params = {"weight": weight, "bias": rng.normal(size=m)}
        nodes.append(Node("Dense", (value,), f"z{k}", params))
        shapes[f"z{k}"], value = (m,), f"z{k}"
        if k + 2 < len(SIZES):
            nodes.append(Node("Relu", (value,), f"a{k}"))
            shapes[f"a{k}"], value = (m,), f"a{k}"
    if representable:
        nodes = [
            Node(
                node.op,
                node.inputs,
                node.output,
                {n: p.astype(np.float32).astype(np.float64) for n, p in node.params.items()},
            )
            for node in nodes
        ]
    return Graph(("x",), (value,), tuple(nodes), shapes)


def values(made: Graph, x: np.ndarray) -> list[list[Fraction]]:
    """The inputs of every ReLU, then the outputs, in fractions."""
    v, seen = [Fraction(float(t)) for t in x], []
    for node in made:
        if node.op == "Relu":
            seen.append(v)
            v = [max(t, Fraction(0)) for t in v]
        elif node.op == "Shift":
            v = [t + Fraction(float(o)) for t, o in zip(v, node.params["offset"], strict=True)]
        else:
            v = [
                sum((Fraction(float(w)) * t for w, t in zip(row, v, strict=True)), Fraction(float(b)))
                for row, b in zip(node.params["weight"], node.params["bias"], strict=True)
            ]
    return [*seen, v]


def swept(made: Graph, lower: np.ndarray, upper: np.ndarray, method: Method) -> tuple[Network, Sweep]:
    exact = build(made, torch.float64, CPU)
    single = narrowed(exact, made)
    assert single is not None and single.dtype == torch.float32
    low, high = torch.from_numpy(lower), torch.from_numpy(upper)
    inputs = IdentityMap(torch.arange(3)[None])
    query = torch.zeros(len(low), dtype=torch.int64)
    return exact, sweep(single, low, high, query, inputs, method, exact=exact)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("representable", [True, False], ids=["float32 weights", "float64 weights"])
@pytest.mark.parametrize("width", [0.0, 1e-5, 0.3])
def test_exact_values_lie_in_float32_intervals(name: str, representable: bool, width: float) -> None:
    rng = np.random.default_rng(5)
    for seed in range(3):
        made = graph(seed, representable)
        centre = rng.normal(size=(6, 3))
        lower, upper = centre - width, centre + width
        exact, known = swept(made, lower, upper, METHODS[name])
        rows = torch.eye(2, dtype=torch.float64).repeat(1, 2, 1)[:, :4] * torch.tensor([1.0, 1, -1, -1])[:, None]
        rows = rows.expand(6, 4, 2)
        walked = walk_back(
            exact, exact.output, rows, rows.new_zeros(6, 4), known.relaxations, allowance=known.allowance
        )
        least = concretise(*walked, torch.from_numpy(lower), torch.from_numpy(upper))
        for b in range(6):
            for x in (lower[b], upper[b], np.clip(lower[b] + rng.random(3) * 2 * width, lower[b], upper[b])):
                *arguments, output = values(made, x)
                for (bound,), argument in zip(known.pre.values(), arguments, strict=True):
                    for low, value, high in zip(bound.lower[b], argument, bound.upper[b], strict=True):
                        assert Fraction(float(low)) <= value <= Fraction(float(high))
                for low, value in zip(least[b], [*output, *(-v for v in output)], strict=True):
                    assert Fraction(float(low)) <= value


def test_backward_rows_in_float32_pay_for_long_sums() -> None:
    """Two layers of 300 without a kink between them: the product of their weights cancels, its rounding does not."""
    rng = np.random.default_rng(1)
    sizes = (3, 4, 300, 20)
    names = ("z0", "z1", "z2")
    dense = [
        Node("Dense", (value,), name, {"weight": rng.normal(size=(m, n)), "bias": rng.normal(size=m) + 9.0 * (n == 3)})
        for value, name, (n, m) in zip(("x", "a0", "z1"), names, pairwise(sizes), strict=True)
    ]
    nodes = (dense[0], Node("Relu", ("z0",), "a0"), *dense[1:], Node("Relu", ("z2",), "y"))
    made = Graph(("x",), ("y",), nodes, {"x": (3,), "z0": (4,), "a0": (4,), "z1": (300,), "z2": (20,), "y": (20,)})
    for x in rng.uniform(-0.5, 0.5, size=(8, 3)):
        _, known = swept(made, x[None] - 1e-9, x[None] + 1e-9, METHODS["rows alone"])
        last = max(known.pre)
        bound = known.pre[last][0]
        for low, value, high in zip(bound.lower[0], values(made, x)[1], bound.upper[0], strict=True):
            assert Fraction(float(low)) <= value <= Fraction(float(high))


def test_nothing_is_left_in_float32() -> None:
    made = graph(0, False)
    _, known = swept(made, np.full((2, 3), -0.1), np.full((2, 3), 0.1), METHODS["rows"])
    tensors = [known.output.lower, *(t for planes in known.relaxations.values() for t in planes.lower_slopes)]
    tensors += [t for parts in known.reach.values() for t in parts] + [b.lower for (b,) in known.pre.values()]
    assert all(t.dtype == torch.float64 for t in tensors)
    assert known.allowance is not None and known.allowance.network.dtype == torch.float64


def test_float32_costs_little_width() -> None:
    """Of ordinary weights, an interval gains less than a thousandth of itself."""
    rng = np.random.default_rng(0)
    made = graph(0, False)
    nodes = []
    for node in graph(0, False):
        plain = {"weight": rng.normal(size=node.params["weight"].shape)} if node.op == "Dense" else {}
        nodes.append(Node(node.op, node.inputs, node.output, {**node.params, **plain}))
    made = Graph(made.inputs, made.outputs, tuple(nodes), made.shapes)
    low, high = np.full((1, 3), -0.1), np.full((1, 3), 0.1)
    exact, known = swept(made, low, high, METHODS["rows"])
    query = torch.zeros(1, dtype=torch.int64)
    inputs = IdentityMap(torch.arange(3)[None])
    plain = sweep(exact, torch.from_numpy(low), torch.from_numpy(high), query, inputs, METHODS["rows"])
    for i, (bound,) in known.pre.items():
        (other,) = plain.pre[i]
        assert ((bound.upper - bound.lower) <= (other.upper - other.lower) * 1.001).all()


def test_weights_that_float32_cannot_hold_are_refused() -> None:
    """Overflow, underflow and factors that are not a layer's weights: such networks stay in float64."""
    for weight in (1e39, 1.5e-42):
        made = graph(0, True)
        made.nodes[1].params["weight"][0, 0] = weight
        assert narrowed(build(made, torch.float64, CPU), made) is None
    node = Node("Scale", ("x",), "y", {"factor": np.full(3, 0.1)})
    made = Graph(("x",), ("y",), (node,), {"x": (3,), "y": (3,)})
    assert narrowed(build(made, torch.float64, CPU), made) is None
    node = Node("LeakyRelu", ("x",), "y", attrs={"alpha": 0.1})
    made = Graph(("x",), ("y",), (node,), {"x": (3,), "y": (3,)})
    assert narrowed(build(made, torch.float64, CPU), made) is None


def test_narrow_rounds_outwards() -> None:
    x = torch.tensor([0.1, -0.1, 0.5, 1e-60, torch.inf], dtype=torch.float64)
    both = narrow(Interval(x, x))
    assert (both.lower.double() <= x).all() and (both.upper.double() >= x).all()
    assert both.lower[2] == both.upper[2] == 0.5
