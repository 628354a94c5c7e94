"""The search of networks with one hidden layer: its bounds, cuts and leaves against samples and integer programmes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp
from torch import Tensor

from verifier.search import bab
from verifier.search.domains import whole
from verifier.search.policy import FirstSat, Tally
from verifier.search.shallow import dual, leaf, step
from verifier.search.shallow.form import Clause
from verifier.tolerance import gamma

SIGNS = st.integers(0, 2**32 - 1)


def clause(seed: int, n: int = 3, neurons: int = 8, k: int = 1, convex: float = 0.5, scale: float = 1.0) -> Clause:
    """Random functions on [-1, 1]^n; every neuron changes its sign; about a share `convex` has no negative gain."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    weight = normal(neurons, n) * scale
    bias = normal(neurons) * 0.3 * weight.abs().sum(1)
    gain = normal(k, neurons)
    gain = torch.where(torch.rand(neurons, generator=g) < convex, gain.abs(), gain)
    order = (gain < 0).any(0).int().argsort(descending=True, stable=True)
    weight, bias, gain = weight[order], bias[order], gain[:, order]
    spread = weight.abs().sum(1)
    return Clause(
        linear=normal(k, n),
        constant=normal(k),
        gain=gain,
        weight=weight,
        bias=bias,
        low=bias - spread,
        high=bias + spread,
        lower=-torch.ones(n, dtype=torch.float64),
        upper=torch.ones(n, dtype=torch.float64),
        loose=int((gain < 0).any(0).sum()),
        argument_error=1e-12 * (spread + bias.abs()),
        row_error=1e-12 * (normal(k).abs() + 10),
        unit=gamma(4 * (n + neurons), torch.float64),
        neuron=torch.arange(neurons),
    )


def minimum(c: Clause, sign: Tensor | None = None) -> float:
    """min over the box of the largest function, where the decided signs hold: by mixed-integer programming (+inf:
    there is no such point)."""
    n, neurons, k = len(c.lower), len(c.bias), len(c.constant)
    w, b, low, high = (t.numpy() for t in (c.weight, c.bias, c.low, c.high))
    eye, zero = np.eye(neurons), np.zeros((neurons, neurons))
    column = np.zeros((neurons, 1))  # variables: x, y = relu(z), binary, level
    blocks = [
        (np.c_[-w, eye, zero, column], b, np.inf),  # y >= z
        (np.c_[-w, eye, np.diag(-low), column], -np.inf, b - low),  # y <= z - low (1 - binary)
        (np.c_[0 * w, eye, np.diag(-high), column], -np.inf, 0 * b),  # y <= high binary
        (
            np.c_[c.linear.numpy(), c.gain.numpy(), np.zeros((k, neurons)), -np.ones((k, 1))],
            -np.inf,
            -c.constant.numpy(),
        ),
    ]
    if sign is not None:
        s = sign.numpy()
        blocks.append((np.c_[s[:, None] * w, zero, zero, column], np.where(s == 0, -np.inf, -s * b), np.inf))
    rows = [LinearConstraint(a, low_, high_) for a, low_, high_ in blocks]
    found = milp(
        np.r_[np.zeros(n + 2 * neurons), 1.0],
        constraints=rows,
        bounds=Bounds(
            np.r_[c.lower, np.zeros(2 * neurons), -np.inf],
            np.r_[c.upper, np.maximum(high, 0), np.ones(neurons), np.inf],
        ),
        integrality=np.r_[np.zeros(n + neurons), np.ones(neurons), 0],
        options={"mip_rel_gap": 0.0},
    )
    assert found.status in (0, 2), found.message
    return float("inf") if found.status == 2 else float(found.fun)


def searched(
    c: Clause,
    found: Callable[[Tensor], object | None],
    stop: Callable[[], bool],
    report: Callable[[Tally], None],
) -> bab.Ending:
    """Whether a point of the box violates the clause."""
    method = step.OneLayer([[c]], stop)
    first = method.roots(whole(c.lower[None], c.upper[None]))
    policy = FirstSat(lambda points, query: found(points))
    return bab.search(first, method, policy, bab.SearchLimits(stop, report, method.batch))


def shifted(c: Clause, by: float) -> Clause:
    return replace(c, constant=c.constant + by)


def points(c: Clause, count: int = 4000) -> Tensor:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(count, len(c.lower), generator=g, dtype=torch.float64)
    return c.lower + (c.upper - c.lower) * x


def some_nodes(c: Clause, seed: int, count: int = 6) -> dual.Nodes:
    """Subproblems with a few random signs that points of the box have, and random multipliers."""
    g = torch.Generator().manual_seed(seed)
    nodes = dual.join([dual.root(c)] * count)
    neurons, k = len(c.bias), len(c.constant)
    z = points(c, count) @ c.weight.T + c.bias
    sign = torch.where(torch.rand(count, neurons, generator=g) < 0.3, z.sign(), 0.0)
    sign[:, c.loose :] = 0  # only loose neurons are split
    weights = torch.rand(count, k, generator=g, dtype=torch.float64) + 0.01
    alpha, beta = (torch.rand(count, neurons, generator=g, dtype=torch.float64) for _ in range(2))
    low = torch.where(sign > 0, nodes.low.clamp(min=0), nodes.low)
    high = torch.where(sign < 0, nodes.high.clamp(max=0), nodes.high)
    weights = weights / weights.sum(1, keepdim=True)
    return replace(nodes, sign=sign, low=low, high=high, weights=weights, alpha=alpha, beta=beta * (sign != 0))


def inside(c: Clause, nodes: dual.Nodes, i: int, x: Tensor) -> Tensor:
    z = x @ c.weight.T + c.bias
    return (z * nodes.sign[i] >= 0).all(1) & (x >= nodes.lower[i]).all(1) & (x <= nodes.upper[i]).all(1)


@settings(max_examples=60, deadline=None)
@given(seed=SIGNS, k=st.integers(1, 3), steps=st.integers(0, 12))
def test_rows_are_below_the_functions(seed: int, k: int, steps: int) -> None:
    """On every point of the subproblem, before and after the ascent; and the ascent never loses anything."""
    c = clause(seed, k=k)
    nodes = some_nodes(c, seed)
    start = dual.LayerRelaxation(c, nodes).rows(nodes.weights, nodes.alpha, nodes.beta)
    after, rows = dual.ascend(c, nodes, steps)
    assert bool((rows.value >= start.value).all())
    x = points(c)
    most = c.values(x).amax(1)
    for i in range(len(nodes)):
        here = inside(c, nodes, i, x)
        for r in (start, rows):
            assert bool((x[here] @ r.row[i] + r.constant[i] <= most[here] + 1e-9).all())
    assert bool((after.beta >= 0).all()) and bool(((after.alpha >= 0) & (after.alpha <= 1)).all())
    torch.testing.assert_close(after.weights.sum(1), torch.ones(len(nodes), dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(seed=SIGNS, k=st.integers(1, 2))
def test_bounds_are_below_the_exact_minimum(seed: int, k: int) -> None:
    c = clause(seed, k=k, neurons=6)
    nodes = some_nodes(c, seed, 3)
    rows = dual.ascend(c, nodes, 40)[1]
    for i in range(len(nodes)):
        assert float(rows.value[i]) <= minimum(c, nodes.sign[i]) + 1e-6


@settings(max_examples=60, deadline=None)
@given(seed=SIGNS, k=st.integers(1, 2))
def test_cuts_keep_every_violation(seed: int, k: int) -> None:
    """What is cut off holds no point where all functions are <= 0."""
    c = clause(seed, k=k)
    x = points(c)
    c = shifted(c, -float(c.values(x).amax(1).quantile(0.03)))
    nodes = some_nodes(c, seed)
    nodes, rows = dual.ascend(c, nodes, 5)
    after, empty = dual.cut(c, nodes, rows)
    z = x @ c.weight.T + c.bias
    violated = (c.values(x) <= 0).all(1)
    for i in range(len(nodes)):
        here = inside(c, nodes, i, x) & violated
        assert not (bool(empty[i]) and bool(here.any()))
        assert bool((x[here] >= after.lower[i]).all()) and bool((x[here] <= after.upper[i]).all())
        assert bool((z[here] >= after.low[i]).all()) and bool((z[here] <= after.high[i]).all())
    assert bool((after.low >= nodes.low).all()) and bool((after.upper <= nodes.upper).all())


def test_cuts_cut() -> None:
    """x_0 >= 0.5 is all that is left of a box on which the function is <= 0 only there."""
    c = clause(0, n=2, neurons=1)
    c = replace(c, linear=torch.tensor([[-1.0, 0.0]]).double(), constant=torch.tensor([0.5]).double(),
                gain=torch.tensor([[-1e-9]]).double(), weight=torch.tensor([[1.0, 0.0]]).double(),
                bias=torch.zeros(1).double(), loose=1)  # fmt: skip
    nodes, rows = dual.ascend(c, dual.root(c), 5)
    after, empty = dual.cut(c, nodes, rows)
    assert not bool(empty[0])
    torch.testing.assert_close(after.lower, torch.tensor([[0.5, -1.0]]).double(), atol=1e-6, rtol=0)
    assert float(after.low[0, 0]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_the_search_knows_the_minimum(seed: int, k: int) -> None:
    """Moved by a hair above 0 it is proven, by a hair below 0 a point is found."""
    c = clause(seed, n=4, neurons=14, k=k, convex=0.3)
    least = minimum(c)
    counts: list[int] = []
    tries: list[Tensor] = []

    def found(x: Tensor) -> Tensor | None:
        tries.append(x)
        hits = x[(inner.values(x) <= 0).all(1)]
        return hits[0] if len(hits) else None

    inner = shifted(c, 1e-4 - least)
    end = searched(inner, found, lambda: False, lambda now: counts.append(now.open_boxes))
    assert (end.found, end.open_share, end.tally.stuck) == (None, 0.0, 0) and counts[-1] == 0
    inner = shifted(c, -1e-4 - least)
    end = searched(inner, found, lambda: False, lambda now: None)
    assert isinstance(end.found, Tensor)
    assert bool(((end.found >= c.lower) & (end.found <= c.upper)).all()) and bool(
        (inner.values(end.found[None]) <= 0).all()
    )


def spiky(seed: int, steep: float, n: int = 3, spikes: int = 2, others: int = 5, k: int = 1) -> Clause:
    """Minus spikes of height 1 and width 1 / steep in random directions, plus random functions of slope 1."""
    c = clause(seed, n=n, neurons=3 * spikes + others, k=k)
    g = torch.Generator().manual_seed(seed + 1)
    weight, bias, gain = c.weight.clone(), c.bias.clone(), 0.2 * c.gain
    for i in range(spikes):
        three = slice(3 * i, 3 * i + 3)
        direction = torch.randn(n, generator=g, dtype=torch.float64)
        offset = -direction @ (torch.rand(n, generator=g, dtype=torch.float64) - 0.5)
        weight[three] = direction
        bias[three] = offset - torch.arange(3, dtype=torch.float64) / steep
        gain[:, three] = steep * torch.tensor([-1.0, 2.0, -1.0]).double()
    order = (gain < 0).any(0).int().argsort(descending=True, stable=True)
    weight, bias, gain = weight[order], bias[order], gain[:, order]
    spread = weight.abs().sum(1)
    loose = int((gain < 0).any(0).sum())
    error = 1e-14 * (spread + bias.abs())
    row_error = 1e-14 * (10 + (gain.abs() * spread).sum(1))
    low, high = bias - spread, bias + spread
    return replace(
        c, linear=0.1 * c.linear, gain=gain, weight=weight, bias=bias, low=low, high=high, loose=loose,
        argument_error=error, row_error=row_error,
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(seed=SIGNS, k=st.integers(1, 3), steep=st.sampled_from([1.0, 30.0, 1000.0]))
def test_programs_are_below_the_exact_minimum_and_above_the_ascent(seed: int, k: int, steep: float) -> None:
    """Of subproblems in which loose neurons are open; and no violation is lost where they say there is none."""
    c = spiky(seed, steep, k=k)
    c = shifted(c, -minimum(c))
    nodes = some_nodes(c, seed, 3)
    for i in range(len(nodes)):
        for by in (-0.01, 0.01):
            inner, node = shifted(c, by), nodes.select(slice(i, i + 1))
            exact = minimum(inner, node.sign[0])
            ascended = dual.ascend(inner, node, 40)[1]
            relaxed = leaf.relax(inner, node)
            assert not relaxed.proven or exact > -1e-6
            if relaxed.open is not None:
                assert float(relaxed.open.rows.value) <= exact + 1e-6
                assert float(relaxed.open.rows.value) >= float(ascended.value) - 1e-6
                assert bool((relaxed.open.point >= c.lower).all() & (relaxed.open.point <= c.upper).all())


@settings(max_examples=60, deadline=None)
@given(seed=SIGNS, k=st.integers(1, 2), steep=st.sampled_from([30.0, 1000.0]), spikes=st.integers(1, 2))
def test_spikes_are_decided(seed: int, k: int, steep: float, spikes: int) -> None:
    """As a mixed-integer programme decides them, a thousandth of their height from the truth."""
    c = spiky(seed, steep, spikes=spikes, k=k)
    least = minimum(c)
    for by in (1e-3, -1e-3):
        inner = shifted(c, by - least)
        end = searched(
            inner,
            lambda x, at=inner: x[(at.values(x) <= 0).all(1)][:1] if bool((at.values(x) <= 0).all(1).any()) else None,
            lambda: False,
            lambda now: None,
        )
        assert (end.found is not None) is (by < 0) and (end.tally.stuck == 0)


def test_only_stiff_subproblems_get_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Clause] = []
    relax = leaf.relax
    monkeypatch.setattr(leaf, "relax", lambda c, node: calls.append(c) or relax(c, node))
    for c, some in ((clause(0, n=8, neurons=20, convex=0.0), False), (spiky(0, 1000.0), True)):
        calls.clear()
        nodes, rows = dual.ascend(c, dual.root(c), 10)
        assert bool(dual.stiffness(c, nodes, rows) > step.STIFF) is some
        step._bound(shifted(c, -1 - minimum(c)), nodes, lambda: False)  # cannot be proven
        assert bool(calls) is some


def test_programs_obey_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    c = spiky(0, 1000.0)
    nodes, rows = dual.ascend(c, dual.join([dual.root(c)] * 5), 3)
    calls: list[int] = []
    monkeypatch.setattr(leaf, "relax", lambda c, node: calls.append(0) or leaf.LeafRelaxation(False))
    kept, after, points = step._relax(c, nodes, rows, lambda: len(calls) == 2)
    assert len(calls) == 2 and len(kept) == 5 and points == [] and torch.equal(after.value, rows.value)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_convex_clauses_need_no_split(seed: int, k: int) -> None:
    c = clause(seed, n=5, neurons=10, k=k, convex=1.0)
    assert c.loose == 0
    least = minimum(c)
    for by, proven in ((1e-5, True), (-1e-5, False)):
        c_by = shifted(c, by - least)
        relaxed = leaf.relax(c_by, dual.root(c_by))
        assert relaxed.proven is proven
        if not proven:
            assert relaxed.open is not None and bool((c_by.values(relaxed.open.point) <= 0).all())


def test_signs_that_no_point_has_are_proven() -> None:
    """z_0 = x_0 - 0.2 >= 0 and z_1 = -x_0 + 0.1 >= 0 exclude each other, whatever the function."""
    c = clause(1, n=2, neurons=2)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    bias = torch.tensor([-0.2, 0.1]).double()
    c = replace(
        c, weight=weight, bias=bias, gain=-torch.ones(1, 2).double(), constant=torch.tensor([-9.0]).double(), loose=2
    )
    node = replace(dual.root(c), sign=torch.ones(1, 2).double(), low=torch.zeros(1, 2).double())
    assert leaf.relax(c, node) == leaf.LeafRelaxation(True)
    possible = replace(c, bias=torch.tensor([-0.2, 0.3]).double())
    relaxed = leaf.relax(possible, node)
    assert not relaxed.proven and relaxed.open is not None
    assert 0.2 - 1e-6 <= float(relaxed.open.point[0, 0]) <= 0.3 + 1e-6


def test_what_rounding_decides_stays_open() -> None:
    """relu(x) - relu(-x) - x is 0 everywhere: asked whether it can be <= -1e-17, the search ends and claims nothing."""
    one = torch.ones(1).double()
    both = torch.tensor([-1.0, 1.0]).double()
    c = Clause(-one[None], 1e-17 * one, both[None], both[:, None], 0 * both, -one.expand(2), one.expand(2), -one, one,
               1, 1e-12 * one.expand(2), 1e-12 * one, 1e-14, torch.arange(2))  # fmt: skip
    end = searched(c, lambda x: None, lambda: False, lambda now: None)
    assert end.found is None and end.tally.stuck > 0 and end.open_share > 0


def test_numbers_that_are_none_prove_nothing() -> None:
    for field in ("constant", "weight", "linear", "gain"):
        c = clause(3, k=2)
        value = getattr(c, field).clone()
        value.view(-1)[0] = torch.nan
        end = searched(replace(c, **{field: value}), lambda x: None, lambda: False, lambda now: None)
        assert end.found is None and end.open_share > 0, field


def test_the_clock_is_obeyed() -> None:
    c = clause(5, n=8, neurons=40, convex=0.0)
    calls = []
    end = searched(
        shifted(c, -minimum(clause(5, n=8, neurons=12, convex=0.0))),
        lambda x: None,
        lambda: calls.append(0) or len(calls) > 2,
        lambda now: None,
    )
    assert end.out_of_time and 0 < end.open_share <= 1 and len(calls) == 3


def test_a_clause_without_rows_is_violated_everywhere() -> None:
    c = clause(2)
    c = replace(c, linear=c.linear[:0], constant=c.constant[:0], gain=c.gain[:0], row_error=c.row_error[:0])
    end = searched(c, lambda x: x, lambda: False, lambda now: None)
    assert end.found is not None
    assert searched(c, lambda x: None, lambda: False, lambda now: None).open_share == 1.0


@pytest.mark.parametrize("seed", range(4))
def test_looking_ahead_is_a_bound_of_the_children(seed: int) -> None:
    """The estimates are lower bounds of the two sides' exact minima."""
    c = clause(seed, neurons=7, convex=0.2)
    c = shifted(c, -minimum(c) - 0.01)
    nodes, rows = dual.ascend(c, dual.root(c), 20)
    neuron, estimates = dual.look_ahead(c, nodes, rows, 64)
    assert int(neuron[0]) >= 0
    for side, estimate in zip((1.0, -1.0), estimates[0].tolist(), strict=True):
        sign = torch.zeros(7).double()
        sign[neuron[0]] = side
        assert estimate <= minimum(c, sign) + 1e-6
