"""What a channel is worth to the outputs (`output-taylor`, `usn-taylor`), and allocation by marginal certified loss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pruning_nets import S_SMALL, affine_oracle, build, calibration, mlp, mlp_weights, node

import pruning
from pruning import Calibration, ScoreOptions
from pruning.calibration import Activations, channel_means
from pruning.errors import CriterionError, DataError
from pruning.fold import fold, readers
from pruning.groups import find_groups
from pruning.marginal import CELL, marginal_counts
from pruning.options import ChannelFloor
from pruning.planning import make_plan
from pruning.surgery import mask


def active(seed=0, sizes=(36, 12, 10, 1)):
    """A network whose ReLUs are all active, so that first-order changes are exact."""
    weights = mlp_weights(seed, sizes)
    return mlp({name: value + 20 if name in ("b0", "b1") else value for name, value in weights.items()})


def lively(sizes=(36, 12, 10, 3)):
    """A network of which no neuron is idle, but some switch."""
    return {name: value + {"b0": 1, "b1": 5}.get(name, 0) for name, value in mlp_weights(0, sizes).items()}


def branches():
    """A residual stream a0 + a2 whose channels three layers read: two directly, one behind the sum."""
    rng = np.random.default_rng(4)
    w = {name: rng.normal(size=shape) / 3 for name, shape in
         (("w0", (6, 9)), ("w1", (5, 6)), ("w2", (6, 5)), ("w3", (1, 6)))}  # fmt: skip
    w |= {"b0": np.full(6, 20.0), "b1": np.full(5, 40.0), "b2": np.zeros(6), "b3": np.zeros(1)}
    nodes = [
        node("Gemm", "x w0 b0", "z0", transB=1),
        node("Relu", "z0", "a0"),
        node("Gemm", "a0 w1 b1", "z1", transB=1),
        node("Relu", "z1", "a1"),
        node("Gemm", "a1 w2 b2", "z2", transB=1),
        node("Add", "a0 z2", "sum"),
        node("Gemm", "sum w3 b3", "y", transB=1),
    ]
    return build(nodes, {k: np.asarray(v, np.float32) for k, v in w.items()}, {"x": [9]}, {"y": [1]})


def held_at_means(net, data, channel):
    """Root mean square of the change of the outputs in ONNX Runtime when one channel is read as its mean.

    By a central difference in how far the readers go towards the mean, which is exact for up to two reads in a row.
    """
    groups = find_groups(net)
    removed = np.zeros(groups.n, bool)
    removed[channel] = True
    means = channel_means(net, [(cut.data, cut.data_axis) for cut in readers(groups, removed)], data)
    held = mask(find_groups(fold(groups, removed, means, "exact")), removed)
    opposite = net.changed(weights={name: 2 * value - held.weights[name] for name, value in net.weights.items()})
    points, square = data.points(), []
    for turn in range(4):
        chosen = points[(np.arange(len(data.images)) * 4 + turn) % len(points)]
        moved = data.moved(data.images, chosen)
        a, b = (Activations(n, [n.outputs[0]])(moved)[n.outputs[0]].astype(np.float64) for n in (held, opposite))
        square.append((((a - b) / 2) ** 2).sum(1))
    return np.sqrt(np.mean(square))


@pytest.mark.parametrize("make", [active, branches])
def test_worth_is_the_change_of_the_output_where_first_order_is_exact(make):
    net = make()
    data = calibration(net)
    found = pruning.score(net, data, "output-taylor").values
    groups = find_groups(net)
    prunable = np.flatnonzero(groups.prunable)
    want = [held_at_means(net, data, channel) for channel in prunable]
    np.testing.assert_allclose(found[prunable], want, rtol=2e-3)
    assert np.ptp(want) > 0.1 * np.max(want)


def test_many_outputs_count_by_their_sum_of_squares():
    """Random signs stand for 3 outputs: the estimate is right up to its own noise, and the same for the same seed."""
    net = active(sizes=(36, 12, 10, 3))
    data = calibration(net, count=200)
    found = pruning.score(net, data, "output-taylor").values
    want = np.array([held_at_means(net, data, channel) for channel in range(22)])
    np.testing.assert_allclose(found[:22], want, rtol=0.15)
    other = pruning.score(net, data, "output-taylor", ScoreOptions(seed=1)).values
    assert not np.array_equal(found, other)


def test_usn_taylor_is_usn_and_worth_in_decibels():
    net = mlp(lively())
    data = calibration(net)
    usn, worth, both = (pruning.score(net, data, name) for name in ("usn", "output-taylor", "usn-taylor"))
    difference = both.values[:22] - usn.values[:22] - 20 * np.log10(worth.values[:22])
    np.testing.assert_allclose(difference, difference[0], atol=1e-9)
    np.testing.assert_array_equal(both.parts["W"], worth.values)
    np.testing.assert_array_equal(both.free, usn.free)


def certified_loss(net, data):
    """Mean squared error of the worst outputs within affine bounds, by the tests' own float64 oracle."""
    low, high = data.semantic.box.T
    half = CELL * (high - low) / 2
    middle = np.random.default_rng([data.seed, 23]).uniform(low + half, high - half, (len(data.images), 2))
    output, losses = net.outputs[0], []
    for image, centre, target in zip(data.images, middle, data.labels, strict=True):
        cell = np.stack([centre - half, centre + half], 1)[None]
        lower, upper = (side[0, 0, 0] for side in affine_oracle(net, [output], image[None], cell, slack=0)[output])
        losses.append(np.maximum((lower - target) ** 2, (upper - target) ** 2))
    return np.mean(losses)


def test_channels_are_taken_where_they_cost_the_least_certified_loss():
    """The greedy choice by an oracle that shares no code with it: one channel at a time."""
    net = mlp(lively((36, 7, 5, 3)))
    data = calibration(net, count=6, labels=True)
    scores = pruning.score(net, data, "l2")
    assert not scores.free.any()
    found = marginal_counts(scores, data, 0.5, False, ChannelFloor(2, 0.0))
    means = channel_means(net, [("a0", 1), ("a1", 1)], data)
    order = [sorted(range(7), key=lambda c: scores.values[c]), sorted(range(7, 12), key=lambda c: scores.values[c])]
    counts = [0, 0]
    for _ in range(6):
        costs = {}
        for layer, most in ((0, 5), (1, 3)):
            if counts[layer] < most:
                removed = np.zeros(scores.groups.n, bool)
                for index in (0, 1):
                    removed[order[index][: counts[index] + (index == layer)]] = True
                folded = find_groups(fold(scores.groups, removed, means))
                costs[layer] = certified_loss(mask(folded, removed), data)
        counts[min(costs, key=lambda layer: costs[layer])] += 1
    assert found == {0: counts[0], 1: counts[1]}


def test_idle_channels_go_first_and_floors_hold():
    weights = lively()
    weights["b0"][:5] = -100  # never active
    net = mlp(weights)
    data = calibration(net, count=12, labels=True)
    scores = pruning.score(net, data, "usn")
    assert scores.free[:5].all() and scores.free.sum() == 5
    assert marginal_counts(scores, data, 5 / 22, False, ChannelFloor(1, 0.0)) == {0: 5, 1: 0}
    for ratio, floor in itertools.product((0.5, 0.9), (ChannelFloor(4, 0.0), ChannelFloor(1, 0.5))):
        counts = marginal_counts(scores, data, ratio, False, floor)
        room = {i: len(g.channels) - floor.least(g) for i, g in enumerate(scores.groups.groups[:2])}
        assert all(counts[i] <= room[i] for i in room)
        assert sum(counts.values()) == min(round(ratio * 22), sum(room.values()))
        plan = make_plan(scores, ratio, "marginal", floor=floor, counts=counts)
        assert {i: plan.counts[i] for i in counts} == dict(counts)


def test_prune_takes_the_allocation_and_says_what_it_needs():
    net = mlp(mlp_weights())
    options = pruning.PruneOptions(criterion="l2", ratio=0.5, allocation="marginal")
    data = Calibration(calibration(net).images, None, S_SMALL)  # without labels: the network's own answers
    made = pruning.prune(net, data, options)
    assert made.plan is not None and made.plan.removed.sum() == 11 and made.plan.allocation == "marginal"
    with pytest.raises(DataError, match="--allocation marginal measures bounds on images"):
        pruning.prune(net, None, options)
    with pytest.raises(CriterionError, match="'marginal' needs measured counts"):
        make_plan(pruning.score(net, data, "l2"), 0.5, "marginal")
