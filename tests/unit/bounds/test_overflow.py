"""Poles, undefined values, overflow and NaN: never a number that could count as a proof, in any method."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.strategies import GraphBuilder
from tests.unit.bounds.cases import METHODS, ROWS, Boxes, boxes
from tests.unit.search.tables import domains
from verifier.bounds.affine import as_interval
from verifier.bounds.backward import concretise
from verifier.bounds.bound import Setting
from verifier.graph.ir import Graph
from verifier.ops.kinds import Interval
from verifier.problem.problem import Rows
from verifier.problem.rows import RowTable
from verifier.search.bounding import bound_boxes

both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])


def _graph(grow: Callable[[GraphBuilder, str], str], n: int = 2, seed: int = 0) -> Graph:
    builder = GraphBuilder(n, seed)
    return builder.finish(grow(builder, "x"), 2)


def _unary(op: str, **attrs: object) -> Callable[[GraphBuilder, str], str]:
    return lambda b, x: b.add(op, (b.dense(x, 3),), (3,), attrs=attrs)


def _then(op: str) -> Callable[[GraphBuilder, str], str]:
    """A pole below another non-linear operator that hides it: bounded below or on both sides, whatever comes."""
    return lambda b, x: b.add(op, (b.dense(b.add("Reciprocal", (b.dense(x, 3),), (3,)), 3),), (3,))


def _product(b: GraphBuilder, x: str) -> str:
    pole = b.add("Reciprocal", (b.dense(x, 3),), (3,))
    return b.add("Mul", (pole, b.dense(x, 3)), (3,))


def _highest(b: GraphBuilder, x: str) -> str:
    pole = b.add("Log", (b.dense(x, 4),), (4,))
    return b.add("ReduceMax", (b.add("Reshape", (pole,), (2, 2)),), (2,), attrs={"axis": 1})


POLES = {
    "Reciprocal": _unary("Reciprocal"),
    "Log": _unary("Log"),
    "Sqrt": _unary("Sqrt"),
    "Reciprocal then Reciprocal": _then("Reciprocal"),
    "Reciprocal then Abs": _then("Abs"),
    "Reciprocal then Exp": _then("Exp"),
    "Reciprocal then square": lambda b, x: b.add("Pow", (_then("Relu")(b, x),), (3,), attrs={"exponent": 2}),
    "Reciprocal times x": _product,
    "largest Log": _highest,
}


def _check_unknown(case: Boxes, name: str) -> None:
    """No finite bound of an output that has none, and no bound on the wrong side."""
    eye = torch.eye(2, dtype=case.network.dtype)
    known = case.sweep(METHODS[name])
    assert not known.output.lower.isnan().any() and not known.output.upper.isnan().any()
    for bounds in known.pre.values():
        for bound in bounds:
            assert (bound.lower < torch.inf).all() and (bound.upper > -torch.inf).all()
    for how in ROWS:
        low = case.least(*case.rows(known, how, torch.cat([eye, -eye])))
        assert not low.isnan().any() and (low < torch.inf).all()
        unknown = (low == -torch.inf).all(1)
        assert unknown.all(), (how, low)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("pole", POLES)
@both
def test_nothing_is_known_across_a_pole(pole: str, name: str, dtype: torch.dtype) -> None:
    graph = _graph(POLES[pole])
    case = boxes(graph, np.full((2, 2), -3.0), np.full((2, 2), [[3.0], [3.5]]), dtype)
    _check_unknown(case, name)


@pytest.mark.parametrize("name", METHODS)
def test_a_bounded_function_hides_a_pole(name: str) -> None:
    """sigmoid(1 / x) lies in [0, 1] even where nothing is known about 1 / x; interval arithmetic knows that."""
    graph = _graph(_then("Sigmoid"))
    case = boxes(graph, np.full((1, 2), -3.0), np.full((1, 2), 3.0))
    known = case.sweep(METHODS[name])
    eye = torch.eye(2, dtype=torch.float64)
    values = torch.sigmoid(torch.linspace(-50, 50, 11, dtype=torch.float64))
    corners = torch.cartesian_prod(values, values, values)
    last = case.network.ops[-1]
    out = last.forward(corners)
    for how in ROWS:
        low = case.least(*case.rows(known, how, torch.cat([eye, -eye])))[0]
        assert torch.isfinite(low).all()
        assert (low[:2] <= out.amin(0) + 1e-9).all() and (low[2:] <= (-out).amin(0) + 1e-9).all()


def _huge(depth: int, relu: bool, seed: int) -> Graph:
    """Weights of 1e30: float32 overflows after one layer, float64 after ten."""
    builder, value, k = GraphBuilder(2, seed), "x", 2
    for _ in range(depth):
        params = {"weight": builder.rng.normal(size=(3, k)) * 1e30, "bias": builder.rng.normal(size=3) * 1e30}
        value, k = builder.add("Dense", (value,), (3,), params=params), 3
        if relu:
            value = builder.add("Relu", (value,), (3,))
    builder.add("Dense", (value,), (3,), name="y", params={"weight": builder.rng.normal(size=(3, 3)) * 1e30})
    return Graph(("x",), ("y",), tuple(builder.nodes), dict(builder.shapes))


def _table(clauses: list[list[int]], dtype: torch.dtype, rhs: float = 0.0) -> RowTable:
    row = np.array([[r for clause in clauses for r in clause]])
    number = np.array([[c for c, clause in enumerate(clauses) for _ in clause]])
    rows = Rows(row, np.full(row.shape, rhs), number, row < 0, np.array([len(clauses)]), None)
    return RowTable.from_rows(rows, dtype, torch.device("cpu"))


def _violates(case: Boxes, clauses: list[list[int]]) -> bool:
    """Whether a sampled point satisfies a clause, in extended precision (exponents up to 4932)."""
    rng = np.random.default_rng(1)
    low, high = (t[0].numpy().astype(np.longdouble) for t in (case.lower, case.upper))
    value = low + (high - low) * rng.random((300, 2))
    for op in case.network.ops:
        if "weight" in op.params:
            value = value @ op.params["weight"].numpy().astype(np.longdouble).T
            value = value + op.params["bias"].numpy().astype(np.longdouble) if "bias" in op.params else value
        else:
            value = np.maximum(value, 0)
    return any(bool((value[:, clause] <= 0).all(1).any()) for clause in clauses)


@pytest.mark.parametrize("name", ["interval", "attributed", "attributed with rows", "affine with rows"])
@pytest.mark.parametrize("depth", [1, 2, 9, 11, 13])
@both
def test_overflow_proves_nothing(name: str, depth: int, dtype: torch.dtype) -> None:
    """A bounding step drops a box only when no sampled point violates, although intermediate values overflow."""
    wrong, violated = [], 0
    for seed in range(4):
        for relu in (True, False):
            for low in (-1.0, 0.0):
                case = boxes(_huge(depth, relu, seed), np.array([[low, low]]), np.array([[1.0, 0.0]]), dtype)
                batch = domains(case.lower, case.upper)
                for clauses in ([[0, 1, 2]], [[0, 1], [2]], [[0], [1], [2]]):
                    table = _table(clauses, dtype)
                    setting = Setting(case.graph, case.network, table, case.inputs)
                    bounded = bound_boxes(setting, batch, METHODS[name], lambda: False)
                    assert not bounded.values.isnan().any()
                    truth = _violates(case, clauses)
                    violated += truth
                    if truth and len(bounded.alive) == 0:
                        wrong.append((seed, relu, low, clauses, bounded.values))
    assert not wrong and violated > 10


@pytest.mark.parametrize("name", METHODS)
def test_a_sum_that_overflows_on_the_way_is_unknown(name: str) -> None:
    """2e308 - 3e308 < 0, but summed in order it is inf - something: +inf is an overflow, not a bound."""
    builder = GraphBuilder(3, 0)
    weight, bias = np.diag([1e200] * 3), np.zeros(3)
    value = builder.add("Dense", ("x",), (3,), params={"weight": weight, "bias": bias})
    value = builder.add("Relu", (value,), (3,))
    builder.add("Dense", (value,), (2,), name="y", params={"weight": np.array([[1e108, 1e108, -3e108], [1, 0, 0.0]])})
    graph = Graph(("x",), ("y",), tuple(builder.nodes), dict(builder.shapes))
    case = boxes(graph, np.ones((1, 3)), np.ones((1, 3)))
    known = case.sweep(METHODS[name])
    assert float(known.output.lower[0, 0]) <= 0
    matrix = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for how in ROWS:
        assert float(case.least(*case.rows(known, how, matrix))) <= 0


@both
def test_an_unknown_argument_is_unstable(dtype: torch.dtype) -> None:
    """An argument about which nothing is known is unstable, and has no finite bound."""
    for op in ("Relu", "Abs", "Exp"):
        graph = _graph(_then(op))
        case = boxes(graph, np.full((1, 2), -3.0), np.full((1, 2), 3.0), dtype)
        known = case.sweep(METHODS["attributed with rows"])
        index = max(known.pre)
        bound = known.pre[index][0]
        assert (bound.lower == -torch.inf).all() and (bound.upper == torch.inf).all()
        assert int(known.unstable[0]) >= 3


def test_an_infinite_lower_bound_is_an_overflow() -> None:
    """Whatever was added afterwards, +inf says that a sum left the range of numbers: nothing is known."""
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    for bad in (torch.inf, torch.nan, -torch.inf):
        assert float(concretise(one, torch.full((1, 1), bad).double(), one[0], one[0])) == -torch.inf
        assert float(concretise(one * bad, one[0], one[0], one[0])) == -torch.inf
        interval = as_interval(Interval(torch.tensor([bad, 1.0]), torch.tensor([bad, 2.0])))
        assert interval.lower.tolist() == [-torch.inf, 1.0] and interval.upper.tolist() == [torch.inf, 2.0]
