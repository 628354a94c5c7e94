"""Intervals by the quadratic Lagrangian against integer programmes, the triangle LP, fractions and wild multipliers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from multiprocessing import get_all_start_methods

import numpy as np
import pytest
import torch
from torch import Tensor

from tests import oracles
from tests.strategies import build as random_graph
from tests.unit.bounds.cases import boxes
from verifier.bounds import copies
from verifier.bounds import joint as joint_
from verifier.bounds.joint import Joint, JointBudget
from verifier.bounds.network import Network, build
from verifier.bounds.quadratic import Forms, Multipliers, both_sides, climb, forms_of, least, prove, symbols_before
from verifier.bounds.refine import refine
from verifier.bounds.relaxed import Ground
from verifier.bounds.sweep import Method
from verifier.budget import never
from verifier.executors.processes import Processes
from verifier.graph.ir import Graph, alive

KINDS = ["dense", "relu", "dense", "relu", "dense", "relu"]


@dataclass(frozen=True, eq=False)
class Net:
    graph: Graph
    ground: Ground
    fast: Network
    joint: Joint
    names: dict[int, str]

    def chosen(self) -> dict[int, Tensor]:
        pairs = {}
        for i in self.names:
            x = self.ground.pre[i][0]
            pairs[i] = ((x.lower < 0) & (x.upper > 0)).flatten(1).nonzero()
        return pairs

    def part(self, i: int) -> Graph:
        """Up to the argument of operator i."""
        graph = self.graph
        return alive(graph.inputs, (self.names[i],), graph.nodes, graph.shapes)

    def rows(self, i: int, level: Tensor, neuron: Tensor) -> Forms:
        """Of the arguments z of operator i, and then of -z."""
        slot = self.ground.network.sources[i][0]
        return forms_of(self.ground, slot, 0, level, both_sides(self.ground, slot, neuron))

    def refined(self, joint: Joint | None) -> dict[int, np.ndarray]:
        """Ends (2, Q, N) by operator."""
        where = self.joint.lower, self.joint.upper
        found = refine(self.ground, self.fast, *where, self.chosen(), 64, never, joint=joint)
        return {i: np.stack([t.flatten(1).numpy() for t in found[i][0]]) for i in self.names}


def net(graph: Graph, low: np.ndarray, high: np.ndarray) -> Net:
    case = boxes(graph, low, high)
    ground = Ground.of(case.network, case.sweep(Method(affine=False, rows=True)))
    fast = build(graph, torch.float32, case.network.device)
    names = {i: graph.nodes[i].inputs[0] for i in case.network.relus}
    return Net(graph, ground, fast, Joint(fast, case.lower, case.upper, JointBudget(never)), names)


def wide(seed: int, residual: bool = False, inputs: int = 10, width: int = 8) -> Net:
    rng = np.random.default_rng(seed)
    kinds = [*KINDS[:3], "residual", *KINDS[3:]] if residual else KINDS
    low = rng.normal(size=(1, inputs))
    return net(random_graph(inputs, 2, kinds, seed, width), low, low + 0.3 + 0.3 * rng.random((1, inputs)))


@pytest.mark.parametrize(
    ("seed", "residual", "inputs", "width"), [(0, False, 10, 8), (1, True, 8, 6), (2, False, 10, 8)]
)
def test_intervals_hold_the_range_and_are_tighter_than_those_of_single_relus(
    seed: int, residual: bool, inputs: int, width: int
) -> None:
    case = wide(seed, residual, inputs, width)
    alone, together = case.refined(None), case.refined(case.joint)
    low, high = (t[0].numpy() for t in (case.joint.lower, case.joint.upper))
    shorter = 0.0
    for i, pairs in case.chosen().items():
        (below, above), (was_below, was_above) = together[i][:, 0], alone[i][:, 0]
        assert (below >= was_below).all() and (above <= was_above).all()
        unstable = pairs[:2, 1].numpy()
        if len(unstable):
            rows = np.eye(len(below))[unstable]
            least_, most = (s * oracles.minimise(case.part(i), low, high, s * rows, exact=True) for s in (1, -1))
            assert (below[unstable] <= least_ + 1e-6).all() and (most - 1e-6 <= above[unstable]).all()
        shorter += float((was_above - was_below - above + below).sum())
    assert shorter > 0


def test_second_layer_beats_the_triangle_programme() -> None:
    case = wide(4, inputs=24, width=20)
    i = list(case.names)[1]
    low, high = (t[0].numpy() for t in (case.joint.lower, case.joint.upper))
    pre = {name: tuple(t[0].numpy() for t in case.ground.pre[k][0]) for k, name in case.names.items() if k < i}
    unstable = case.chosen()[i][:6, 1].numpy()
    rows = np.eye(len(case.ground.pre[i][0].lower[0]))[unstable]
    triangle, true = (oracles.minimise(case.part(i), low, high, rows, exact=exact, pre=pre) for exact in (False, True))
    found = case.refined(case.joint)[i][0, 0, unstable]
    assert (found <= true + 1e-6).all()
    assert (true - found).mean() < 0.6 * (true - triangle).mean()


def wild(rng: np.random.Generator, m: Multipliers, scale: float) -> Multipliers:
    return Multipliers(*(t * torch.from_numpy(rng.lognormal(0, scale, t.shape)) for t in m))


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_multipliers_no_bound_is_above_the_minimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = wide(seed, inputs=6, width=6)
    i = list(case.names)[2]
    box = case.joint.lower[0], case.joint.upper[0]
    symbols = symbols_before(case.ground, i, 0, *box)
    assert symbols is not None
    neuron = torch.arange(len(case.ground.pre[i][0].lower[0]))
    rows = case.rows(i, symbols.level, neuron)
    signed = np.concatenate([np.eye(len(neuron)), -np.eye(len(neuron))])
    true = oracles.minimise(case.part(i), *(t.numpy() for t in box), signed, exact=True)
    scaled, unit = symbols.scaled(torch.float64), symbols.unit(rows, torch.float64)
    best = climb(scaled, unit, never).best
    found = prove(symbols, rows, best)
    reached = least(scaled, unit, best).value
    assert bool((found >= reached - 1e-3 * (1 + reached.abs())).all())  # what is proven is what was climbed to
    proven = 0
    for scale in (0.0, 0.01, 0.3, 3.0, 100.0):
        bound = prove(symbols, rows, wild(rng, best, scale)).numpy()
        proven += int(np.isfinite(bound).sum())
        assert (bound <= true + 1e-6).all() and not np.isnan(bound).any()
    assert proven > len(true)
    assert not symbols.forms.y.triu().any()
    cyclic = replace(symbols, forms=symbols.forms._replace(y=symbols.forms.y + 1e-9))
    assert prove(cyclic, rows, best).isneginf().all()
    for value in (0.0, torch.inf, torch.nan):
        broken = best._replace(square=torch.full_like(best.square, value), inputs=torch.full_like(best.inputs, value))
        assert not bool((prove(symbols, rows, broken) > torch.from_numpy(true) + 1e-6).any())


@pytest.mark.parametrize("seed", [0, 1, 3])
def test_on_a_part_of_the_box_no_bound_is_above_its_minimum(seed: int) -> None:
    """Parts that have a point, and rows that are bounded better there than on the whole box."""
    rng = np.random.default_rng(seed)
    case = wide(seed, inputs=8, width=8)
    i = list(case.names)[2]
    low, high = case.joint.lower[0], case.joint.upper[0]
    symbols = symbols_before(case.ground, i, 0, low, high)
    assert symbols is not None
    neuron = torch.arange(len(case.ground.pre[i][0].lower[0]))[:3]
    rows = case.rows(i, symbols.level, neuron)
    scaled, unit = symbols.scaled(torch.float32), symbols.unit(rows, torch.float32)
    whole = climb(scaled, unit, never)
    assert scaled.decided(torch.zeros_like(rows.y)).slope.isfinite().all()
    for share in (0.2, 0.5, 1.0):
        values = oracles.evaluate_all(case.graph, rng.uniform(low.numpy(), high.numpy()))
        at = {k: values[name].ravel() for k, name in case.names.items() if k < i}
        pre = {name: [t[0].numpy().copy() for t in case.ground.pre[k][0]] for k, name in case.names.items() if k < i}
        signs = []
        for k, z in at.items():
            below, above = pre[case.names[k]]
            open_ = (below < 0) & (above > 0)
            pick = open_ & (rng.random(len(z)) < share)
            signs.append((np.sign(z) * pick)[open_])
            below[pick & (z > 0)], above[pick & (z < 0)] = 0.0, 0.0
        sign = torch.from_numpy(np.concatenate(signs)).to(torch.int8).expand(len(rows.constant), -1)
        eye = np.eye(len(case.ground.pre[i][0].lower[0]))[neuron.numpy()]
        boxed = {name: (ends[0], ends[1]) for name, ends in pre.items()}
        true = oracles.minimise(case.part(i), low.numpy(), high.numpy(), np.concatenate([eye, -eye]), True, boxed)
        found = climb(scaled.decided(sign), unit, never, (whole.best, whole.size), 60)
        bound = prove(symbols.decided(sign), rows, found.best).numpy()
        assert (bound <= true + 1e-6).all() and np.isfinite(bound).all()
        assert bound.sum() > float(whole.value.sum())
        for scale in (0.3, 10.0):
            assert (prove(symbols.decided(sign), rows, wild(rng, found.best, scale)).numpy() <= true + 1e-6).all()


def test_splits_decide_signs_and_every_decided_sign_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    known = [0, 0]
    case = wide(1, inputs=12, width=12)
    low, high = (t[0].numpy() for t in (case.joint.lower, case.joint.upper))
    for place, (parts, trial) in enumerate(((0, 0), (joint_.PARTS, joint_.TRIAL))):
        monkeypatch.setattr(joint_, "PARTS", parts)
        monkeypatch.setattr(joint_, "TRIAL", trial)
        for i, ends in case.refined(Joint(case.fast, case.joint.lower, case.joint.upper, JointBudget(never))).items():
            below, above = ends[:, 0]
            pairs = case.chosen()[i][:, 1].numpy()
            pairs = pairs[(below[pairs] >= 0) | (above[pairs] <= 0)]
            known[place] += len(pairs)
            if parts and len(pairs):
                rows = np.eye(len(below))[pairs]
                least_, most = (s * oracles.minimise(case.part(i), low, high, s * rows, exact=True) for s in (1, -1))
                assert (below[pairs] <= least_ + 1e-6).all() and (most <= above[pairs] + 1e-6).all()
    assert known[1] > known[0]


@pytest.mark.skipif("fork" not in get_all_start_methods(), reason="processes are copied by fork")
def test_signs_that_copies_find_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row at a time, in two processes from the second one on."""
    monkeypatch.setattr(joint_, "ELEMENTS", 1)
    monkeypatch.setattr(copies, "WORTH", 1e-4)
    case = wide(1, inputs=12, width=12)
    low, high = (t[0].numpy() for t in (case.joint.lower, case.joint.upper))
    made: list[int] = []
    monkeypatch.setattr(copies, "Processes", lambda *at: (made.append(at[0]), Processes(*at))[1])
    budget, known = JointBudget(never), 0
    with copies.in_copies(2):
        found = case.refined(Joint(case.fast, case.joint.lower, case.joint.upper, budget))
    for i, ends in found.items():
        below, above = ends[:, 0]
        pairs = case.chosen()[i][:, 1].numpy()
        pairs = pairs[(below[pairs] >= 0) | (above[pairs] <= 0)]
        known += len(pairs)
        if len(pairs):
            rows = np.eye(len(below))[pairs]
            least_, most = (s * oracles.minimise(case.part(i), low, high, s * rows, exact=True) for s in (1, -1))
            assert (below[pairs] <= least_ + 1e-6).all() and (most <= above[pairs] + 1e-6).all()
    assert made and known and budget.work < joint_.WORK


def test_late_work_goes_on_only_while_signs_are_found() -> None:
    case = wide(1, inputs=12, width=12)
    where = case.joint.lower, case.joint.upper
    alone, first = case.refined(None), list(case.names)[1]
    calls = 0

    def late() -> bool:
        nonlocal calls
        calls += 1
        return True

    none = JointBudget(never, late=late)
    for i, ends in case.refined(Joint(case.fast, *where, none)).items():
        np.testing.assert_array_equal(ends, alone[i])
    assert calls and none.work == joint_.WORK
    # an operator before had signs enough: the next one is asked, and says itself whether the one after it is
    some = JointBudget(never, late=late, asked=4, known=2)
    found = case.refined(Joint(case.fast, *where, some))
    assert (found[first] != alone[first]).any() and 0 < some.known <= some.asked
    assert not JointBudget(never, late=late, asked=4, known=2).spent()
    assert JointBudget(never, late=late, asked=5, known=1).spent()
    assert JointBudget(lambda: True, asked=4, known=4).spent() and JointBudget(never, 0.0, asked=4, known=4).spent()


def test_rows_that_are_positive_leave_a_climb_and_keep_their_multipliers() -> None:
    case = wide(1, inputs=10, width=8)
    i = list(case.names)[1]
    symbols = symbols_before(case.ground, i, 0, case.joint.lower[0], case.joint.upper[0])
    assert symbols is not None
    rows = case.rows(i, symbols.level, torch.arange(8))
    unit, scaled = symbols.unit(rows, torch.float64), symbols.scaled(torch.float64)
    usual = climb(scaled, unit, never)
    # so that some are positive at once, some in the middle and some never
    shift = torch.linspace(-0.5, 1.5, 16, dtype=torch.float64) * usual.value.abs() - usual.value
    unit, rows = (r._replace(constant=r.constant + shift) for r in (unit, rows))
    every, signs = climb(scaled, unit, never), climb(scaled, unit, never, sign=True)
    assert signs.iterates < every.iterates
    torch.testing.assert_close(signs.value, least(scaled, unit, signs.best).value)
    assert ((signs.value > 0) == (every.value > 0)).all() and (signs.value <= every.value + 1e-9).all()


@pytest.mark.parametrize("size", [1.0, 1e6])
def test_on_boxes_that_are_nearly_points_bounds_hold_in_fractions(size: float) -> None:
    """There a bound is as near to the value as rounding lets it be. Half of the inputs have no width at all."""
    rng = np.random.default_rng(3)
    graph = random_graph(6, 2, KINDS, 3, 6)
    point = size * rng.normal(size=6)
    name = next(node for node in graph if node.op == "Relu").inputs[0]
    first = next(node for node in graph if node.output == name)
    # all neurons of the first layer have their kink in the point, but for rounding
    first.params["bias"][:] -= oracles.evaluate_all(graph, point)[name].ravel()
    width = np.where(np.arange(6) < 3, 1e-9 * size, 0.0)
    case = net(graph, (point - width)[None], (point + width)[None])
    i = list(case.names)[1]
    symbols = symbols_before(case.ground, i, 0, case.joint.lower[0], case.joint.upper[0])
    assert symbols is not None
    neuron = torch.arange(6)
    rows = case.rows(i, symbols.level, neuron)
    dtype = torch.float64
    bound = prove(symbols, rows, climb(symbols.scaled(dtype), symbols.unit(rows, dtype), never).best)
    assert bool(torch.isfinite(bound).all())
    points = point + width * rng.uniform(-1, 1, (8, 6))
    points = np.clip(points, case.joint.lower.numpy(), case.joint.upper.numpy())
    values = oracles.exactly(case.part(i), points)
    for k in range(6):
        assert all(Fraction(float(bound[k])) <= value <= -Fraction(float(bound[6 + k])) for value in values[:, k])
        spread = float(max(values[:, k]) - min(values[:, k]))
        assert -float(bound[6 + k] + bound[k]) < 20 * spread + 1e-12 * size


def test_every_query_has_its_own_box_and_nothing_moves_without_work() -> None:
    rng = np.random.default_rng(7)
    graph = random_graph(8, 2, KINDS, 7, 8)
    low = rng.normal(size=(3, 8))
    case = net(graph, low, low + 0.3 + 0.4 * rng.random((3, 8)))
    alone, together = case.refined(None), case.refined(case.joint)
    for q in range(3):
        points = oracles.sample(low[q], case.joint.upper[q].numpy(), 200, rng)
        values = [oracles.evaluate_all(graph, point) for point in points]
        for i, name in case.names.items():
            z = np.stack([value[name].ravel() for value in values])
            assert (together[i][0, q] <= z.min(0)).all() and (z.max(0) <= together[i][1, q]).all()
    last = list(case.names)[-1]
    assert (together[last] != alone[last]).any(2).all()
    idle = Joint(case.fast, case.joint.lower, case.joint.upper, JointBudget(never, 0.0))
    for i, ends in case.refined(idle).items():
        np.testing.assert_array_equal(ends, alone[i])


def test_convolutions_and_other_functions_are_left_alone() -> None:
    low = np.full((1, 4), -1.0)
    for kinds, suits in ((["dense", "relu", "conv", "relu"], False), (["sigmoid", "relu"], False), (KINDS, True)):
        case = boxes(random_graph(4, 2, kinds, 0, 4), low, -low)
        assert Joint.suits(Ground.of(case.network, case.sweep(Method(affine=False, rows=True)))) is suits
