"""Values that linear operators alone make: where intervals are exact, where backward rows have to make them so, and
which values only repeat others."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import oracles
from tests.strategies import GraphBuilder
from tests.strategies import build as random_graph
from tests.unit.bounds.cases import Boxes, boxes
from verifier.bounds import sweep
from verifier.bounds.sweep import Method
from verifier.graph.ir import Graph
from verifier.ops.kinds import Interval

N = 4


def _move(g: GraphBuilder, kind: str, value: str) -> str:
    """One more linear operator, or a few, on a vector."""
    k = g.width(value)
    if kind == "dense":
        return g.dense(value, 3)
    if kind == "conv":
        return g.conv(value)
    if kind == "scale":
        return g.add("Scale", (value,), (k,), params={"factor": g.rng.normal(size=k)})
    if kind == "shift":
        return g.add("Shift", (value,), (k,), params={"offset": g.rng.normal(size=k)})
    if kind == "pad":
        return g.add("Pad", (value,), (k + 3,), attrs={"before": (1,), "after": (2,)})
    if kind == "take":
        indices = g.rng.integers(k, size=k + 1)
        return g.add("Take", (value,), (k + 1,), params={"indices": indices}, attrs={"axis": 0})
    if kind == "expand":
        column = g.add("Reshape", (value,), (k, 1))
        return g.add("Reshape", (g.add("Expand", (column,), (k, 2)),), (2 * k,))
    if kind == "sum":
        return g.add("ReduceSum", (g.add("Reshape", (value,), (1, k)),), (k,), attrs={"axes": (0,)})
    if kind == "fold":
        half = g.add("Take", (value,), (k // 2 * 2,), params={"indices": np.arange(k // 2 * 2)}, attrs={"axis": 0})
        pairs = g.add("Reshape", (half,), (k // 2, 2))
        return g.add("ReduceSum", (pairs,), (k // 2,), attrs={"axes": (1,)})
    if kind == "residual":
        return g.add("Sub", (value, g.dense(value, k)), (k,))
    if kind == "double":
        return g.add("Add", (value, value), (k,))
    if kind == "constant":
        constant = g.add("Constant", (), (k,), params={"value": g.rng.normal(size=k)})
        return g.add("Add", (value, constant), (k,))
    assert kind == "concat"
    constant = g.add("Constant", (), (2,), params={"value": g.rng.normal(size=2)})
    return g.add("Concat", (value, constant), (k + 2,), attrs={"axis": 0})


KINDS = ("dense", "conv", "scale", "shift", "pad", "take", "expand", "sum", "fold", "residual", "double", "constant")


def _linear(seed: int, kinds: tuple[str, ...]) -> Graph:
    """Linear operators, then a Relu and a Dense."""
    g = GraphBuilder(N, seed)
    value = "x"
    for kind in kinds:
        value = _move(g, kind, value)
    return g.finish(g.add("Relu", (value,), (g.width(value),)), 2)


def _case(seed: int) -> tuple[Boxes, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """A random network, and the exact bounds of all values before its Relu, by the columns of the linear maps."""
    rng = np.random.default_rng(seed)
    kinds = tuple(rng.choice([*KINDS, "concat"], size=rng.integers(2, 6)))
    graph = _linear(seed, kinds)
    low = rng.normal(size=(1, N))
    case = boxes(graph, low, low + rng.random((1, N)))
    lower, upper = case.lower[0].numpy(), case.upper[0].numpy()
    base = oracles.evaluate_all(graph, np.zeros(N))
    columns = [oracles.evaluate_all(graph, e) for e in np.eye(N)]
    exact = {}
    for name, constant in base.items():
        if any(node.op == "Relu" for node in graph if node.output == name):
            break
        weight = np.stack([column[name] - constant for column in columns], -1)
        middle, reach = constant + weight @ ((lower + upper) / 2), np.abs(weight) @ ((upper - lower) / 2)
        exact[name] = middle - reach, middle + reach
    return case, exact


@pytest.mark.parametrize("seed", range(40))
def test_the_interval_of_every_sharp_value_is_exact(seed: int) -> None:
    case, exact = _case(seed)
    network = case.network
    assert 0 in network.sharp
    for slot, node in enumerate(case.graph, 1):
        if node.output not in exact:
            assert slot not in network.sharp
            break
        if slot in network.sharp:
            start = Interval(case.lower, case.upper)
            found = network.walk(start, lambda _, op, xs: op.interval(*xs), slot)
            for mine, true in zip(found, exact[node.output], strict=True):
                np.testing.assert_allclose(mine.numpy().reshape(true.shape), true, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_rows_make_the_interval_before_the_first_relu_exact(seed: int) -> None:
    case, exact = _case(seed)
    known = case.sweep(Method(affine=False, rows=True))
    (i,) = known.pre
    low, high = (t[0].numpy() for t in known.pre[i][0])
    below, above = exact[next(node.inputs[0] for node in case.graph if node.op == "Relu")]
    assert (low <= below + 1e-12).all() and (above <= high + 1e-12).all()
    open_ = (low < 0) & (high > 0)
    np.testing.assert_allclose(low[open_], below[open_], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(high[open_], above[open_], rtol=1e-9, atol=1e-9)


def test_sums_of_what_depends_on_the_same_input_are_not_sharp() -> None:
    """One operator that sums is: a second is not, nor a difference of a value from itself."""
    for kinds, sharp in (
        (("scale", "conv", "shift", "pad"), True),
        (("concat", "dense", "expand"), True),
        (("dense", "dense"), False),
        (("expand", "dense"), False),
        (("residual",), False),
    ):
        case = boxes(_linear(0, kinds), -np.ones((1, N)), np.ones((1, N)))
        relu = next(i for i, op in enumerate(case.network.ops) if op.node.op == "Relu")
        assert (case.network.sources[relu][0] in case.network.sharp) is sharp, kinds


@pytest.mark.parametrize("seed", range(20))
def test_a_value_repeats_its_origin(seed: int) -> None:
    rng = np.random.default_rng(seed)
    g = GraphBuilder(N, seed)
    value = g.add("Tanh", (g.dense("x", 4),), (4,))
    for kind in rng.choice(["take", "expand", "pad"], size=3):
        value = _move(g, kind, value)
    graph = g.finish(g.add("Mul", (value, value), (g.width(value),)), 1)
    case = boxes(graph, -np.ones((1, N)), np.ones((1, N)))
    network = case.network
    mul = next(i for i, op in enumerate(network.ops) if op.node.op == "Mul")
    slot = network.sources[mul][0]
    start, place = network.origin(slot)
    assert network.ops[start - 1].node.op == "Tanh"
    assert network.origin(start)[0] == start
    x = torch.from_numpy(rng.normal(size=(5, N)))

    def at(slot: int) -> torch.Tensor:
        return network.walk(x, lambda _, op, xs: op.forward(*xs), slot).flatten(1)

    repeated = torch.where(place < 0, 0.0, at(start)[:, place])
    torch.testing.assert_close(at(slot), repeated, rtol=0, atol=0)
    # every copy has the interval of its original, and as good a one as without copies
    known = case.sweep(Method(affine=False, rows=True))
    low, high = (t.flatten() for t in known.pre[mul][0])
    tanh = network.sources[start - 1][0]
    inner = known.pre[start - 1][0]
    assert tanh in network.sharp
    kept = place >= 0
    assert (high[~kept] == 0).all() and (low[~kept] == 0).all()
    assert (low[kept] >= torch.tanh(inner.lower).flatten()[place[kept]] - 1e-12).all()
    for e in range(4):
        assert len({*low[place == e].tolist()}) <= 1 and len({*high[place == e].tolist()}) <= 1


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_a_sample_only_where_the_rest_would_not_pay(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As good as all rows where they pay, as intervals but for the sample where not; never wrong."""
    graph = random_graph(3, 2, ["dense", "relu", "dense", "relu", "mul", "dense", "relu"], seed, 16)
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(3, 3))
    case = boxes(graph, low, low + rng.random((3, 3)))
    plain, every = case.sweep(Method(affine=False)), case.sweep(Method(affine=False, rows=True))
    monkeypatch.setattr(sweep, "MANY_ROWS", 6)
    monkeypatch.setattr(sweep, "PROBE", 3)
    monkeypatch.setattr(sweep, "PAYS", 2.0)
    always = case.sweep(Method(affine=False, rows=True))
    monkeypatch.setattr(sweep, "PAYS", -1.0)
    never = case.sweep(Method(affine=False, rows=True))
    for i, bounds in every.pre.items():
        for k, full in enumerate(bounds):
            torch.testing.assert_close(always.pre[i][k], full, rtol=0, atol=1e-12)
            width, loose = ((x.upper - x.lower).flatten(1) for x in (never.pre[i][k], plain.pre[i][k]))
            assert (width <= loose + 1e-12).all()
    first = min(every.pre)
    width, loose = ((x.upper - x.lower).flatten(1) for x in (never.pre[first][0], plain.pre[first][0]))
    assert ((width < loose * (1 - 1e-9)).sum(1) <= 5).all() and (width < loose * (1 - 1e-9)).any()
    for point in oracles.sample(low[0], case.upper[0].numpy(), 50, rng):
        values = oracles.evaluate_all(graph, point)
        for i, node in enumerate(graph):
            if node.op == "Relu":
                bound = never.pre[i][0]
                z = torch.from_numpy(values[node.inputs[0]].astype(np.float64))
                assert (bound.lower[0] <= z + 1e-12).all() and (z <= bound.upper[0] + 1e-12).all()
