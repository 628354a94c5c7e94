"""Criteria on weights and gradients, allocation, floors, ties, sensitivities, blocks, unstructured masks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pruning_nets import S_SMALL, build, calibration, conv_net, mlp, mlp_weights, node, plane

import pruning
from pruning import ChannelFloor, ScoreOptions, oracles
from pruning.errors import CriterionError, DataError, NothingToPrune, RatioError
from pruning.planning import normalised
from pruning.scores import CRITERIA
from pruning.sensitivity import allocate
from pruning.unstructured import zero_weights

NEEDS_BOUNDS = {name for name, entry in CRITERIA.items() if entry.needs == "bounds"}


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - NEEDS_BOUNDS))
def test_every_criterion_scores_every_channel_and_repeats(name):
    net = conv_net(bn=True)
    data = calibration(net, labels=True, count=16)
    options = ScoreOptions(batches=2, batch_size=8)
    first, second = (pruning.score(net, data, name, options) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)
    assert first.values.shape == (first.groups.n,) and not np.isnan(first.values).any() and first.formula
    plan = pruning.plan(net, first, 0.5)
    assert [int(plan.removed[g.channels].sum()) for g in plan.groups.groups] == [4, 6, 5, 0]
    pruned = pruning.apply(net, plan, "mean", data)
    assert pruned.after.parameters < 0.5 * pruned.before.parameters


@pytest.mark.parametrize("name", sorted(NEEDS_BOUNDS))
def test_certified_criteria_ask_the_verifier_for_their_bounds(name):
    net = conv_net()
    data, options = calibration(net, count=1), ScoreOptions(cells=1)
    own = dataclasses.replace(options, interval_oracle=oracles.interval_oracle, slope_oracle=oracles.slope_oracle)
    found, want = (pruning.score(net, data, name, o).values for o in (options, own))
    np.testing.assert_array_equal(found, want)
    assert len(set(found.tolist())) > 2


def test_looseness_by_hand():
    net = mlp(mlp_weights())
    low, high = -np.arange(1.0, 13), np.full(12, 3.0)

    def bounds(net, names, images, cells, data):
        return {
            n: tuple(np.broadcast_to(s, (len(images), len(cells), 1, 12))[..., : net.shapes[n][1]] for s in (low, high))
            for n in names
        }

    def slopes(net, names, images, cells, data):
        return {n: np.full((len(images), len(cells), 1, net.shapes[n][1]), -2.0) for n in names}

    options = ScoreOptions(interval_oracle=bounds, slope_oracle=slopes, cells=1)
    scores = pruning.score(net, calibration(net, count=2), "looseness", options)
    np.testing.assert_allclose(scores.values[:12], -2 * 3 * -low / (3 - low))
    assert np.argmin(scores.values[:12]) == 11  # the loosest goes first


def test_norms_by_hand():
    net = mlp(mlp_weights())
    w = {k: v.astype(np.float64) for k, v in net.weights.items()}
    for c in range(12):
        parts = np.concatenate([w["w0"][c], w["b0"][c : c + 1], w["w1"][:, c]])
        assert pruning.score(net, None, "l1").values[c] == pytest.approx(np.abs(parts).sum(), rel=1e-6)
        assert pruning.score(net, None, "l2").values[c] == pytest.approx(np.sqrt((parts**2).sum()), rel=1e-6)


def test_slim_is_the_batchnorm_scale_and_ranks_others_last():
    net = conv_net(bn=True)
    values = pruning.score(net, None, "slim").values
    np.testing.assert_allclose(values[:8], np.abs(net.weights["g"]))
    assert np.isinf(values[8:]).all()
    with pytest.raises(pruning.CriterionError, match="none \\(exporters often fold them"):
        pruning.score(conv_net(), None, "slim")


def test_gradient_criteria_against_finite_differences():
    """sum g*w over a channel is the derivative of the loss when the channel's weights are scaled together."""
    net = mlp(mlp_weights(4))
    data = calibration(net, labels=True, count=8)
    scores = pruning.score(net, data, "taylor", ScoreOptions(batch_size=8, batches=1))
    step = 1e-3

    def loss(factor, channel):
        w = {k: v.astype(np.float64).copy() for k, v in net.weights.items()}
        w["w0"][channel] *= factor
        w["b0"][channel] *= factor
        w["w1"][:, channel] *= factor
        h = data.images.astype(np.float64)
        for i in range(3):
            h = h @ w[f"w{i}"].T + w[f"b{i}"]
            h = np.maximum(h, 0) if i < 2 else h
        return ((h - data.labels) ** 2).mean()

    for channel in range(12):
        slope = (loss(1 + step, channel) - loss(1 - step, channel)) / (2 * step)
        assert scores.values[channel] == pytest.approx(slope**2, rel=2e-2, abs=1e-9)


def test_rs_prunes_the_most_unstable_first():
    weights = mlp_weights()
    weights["b0"] += 5  # all stable ...
    net = mlp(weights)
    z = net.weights["w0"] @ calibration(net).images[0] + net.weights["b0"]
    weights["b0"] = weights["b0"].copy()
    weights["b0"][7] -= z[7]  # ... but one, whose interval is centred at zero for the first image
    weights["w0"][7] *= 4
    scores = pruning.score(mlp(weights), calibration(mlp(weights)), "rs")
    assert np.argmin(scores.values[:12]) == 7


def test_global_allocation_levels_layers_and_uniform_does_not():
    net = mlp(mlp_weights())
    scores = pruning.score(net, None, "random", ScoreOptions(seed=3))
    skewed = dataclasses.replace(
        scores, values=np.where(np.arange(scores.groups.n) < 12, scores.values, 100 + scores.values)
    )
    uniform = pruning.plan(net, skewed, 0.5)
    assert [int(uniform.removed[:12].sum()), int(uniform.removed[12:22].sum())] == [6, 5]
    none = pruning.plan(net, skewed, 0.3, "global", norm="none")
    assert int(none.removed[12:22].sum()) == 0  # the second layer looks better and stays
    level = pruning.plan(net, skewed, 0.5, "global", norm="layer-rank")
    assert abs(int(level.removed[:12].sum()) - 6) <= 1


def test_normalisation():
    net = mlp(mlp_weights())
    scores = pruning.score(net, calibration(net), "usn")
    members = scores.groups.groups[0].channels
    assert np.median(normalised(scores, [0], "layer-median")[members]) == pytest.approx(0)
    ranks = normalised(scores, [0], "layer-rank")[members]
    assert sorted(ranks) == pytest.approx((np.arange(12) / 12).tolist())
    assert (np.argsort(ranks) == np.lexsort((scores.tie[members], scores.values[members]))).all()


def test_floors_and_what_was_reached():
    net = mlp(mlp_weights())
    scores = pruning.score(net, None, "l2")
    plan = pruning.plan(net, scores, 0.9)
    assert [int(plan.removed[g.channels].sum()) for g in plan.groups.groups] == [8, 6, 0]
    assert plan.reached == pytest.approx(14 / 22) and "asked for 90%, reached 64%" in plan.notes[0]
    deep = pruning.plan(net, scores, 0.9, floor=ChannelFloor(1, 0.0))
    assert [int(deep.removed[g.channels].sum()) for g in deep.groups.groups] == [11, 9, 0]


def test_ties_go_to_lower_l2_then_lower_number():
    net = mlp(mlp_weights())
    scores = pruning.score(net, None, "random")
    flat = dataclasses.replace(scores, values=np.zeros(scores.groups.n))
    removed = np.flatnonzero(pruning.plan(net, flat, 0.25).removed[:12])
    assert set(removed) == set(np.argsort(pruning.score(net, None, "l2").values[:12])[:3])
    same = dataclasses.replace(flat, tie=np.zeros(scores.groups.n))
    assert np.flatnonzero(pruning.plan(net, same, 0.25).removed[:12]).tolist() == [0, 1, 2]


def test_guard_protects():
    net = mlp(mlp_weights())
    scores = pruning.score(net, None, "l2")
    guard = np.zeros(scores.groups.n, bool)
    guard[np.argsort(scores.values[:12])[:4]] = True
    assert not (pruning.plan(net, scores, 0.5, guard=guard).removed & guard).any()


def test_random_matched_copies_counts_not_identities():
    net = conv_net()
    data = calibration(net)
    plan = pruning.plan(net, pruning.score(net, data, "usn"), 0.4, "global")
    random = pruning.score(plan.groups, data, "random", ScoreOptions(seed=1))
    matched = pruning.matched(random, plan)
    assert matched.counts == plan.counts and (matched.removed != plan.removed).any()


def test_split_parts_never_lose_all_channels():
    rng = np.random.default_rng(0)
    w = {"k": rng.normal(size=(8, 3)), "l": rng.normal(size=(2, 4)), "m": rng.normal(size=(6, 4))}
    w = {k: v.astype(np.float32) for k, v in w.items()} | {"sizes": np.array([2, 6])}
    import onnx

    nodes = [
        node("Gemm", "x k", "h", transB=1), node("Relu", "h", "a"),
        onnx.helper.make_node("Split", ["a", "sizes"], ["s", "t"], axis=1),
        node("MatMul", "s l", "u"), node("MatMul", "t m", "v"), node("Add", "u v", "y"),
    ]  # fmt: skip
    net = build(nodes, w, {"x": [3]}, {"y": [4]})
    scores = pruning.score(net, None, "random")
    first = dataclasses.replace(scores, values=np.arange(scores.groups.n, dtype=float))
    plan = pruning.plan(net, first, 0.5)
    assert plan.removed[:8].tolist() == [True, False, True, True, True, False, False, False]
    pruning.apply(net, plan, "zero")


def test_impossible_requests():
    net = mlp(mlp_weights())
    scores = pruning.score(net, None, "l1")
    for ratio in (1.0, -0.1, float("nan")):
        with pytest.raises(RatioError):
            pruning.plan(net, scores, ratio)
    with pytest.raises(CriterionError, match="another network"):
        pruning.plan(conv_net(), scores, 0.5)
    with pytest.raises(CriterionError, match="unknown criterion 'magic'"):
        pruning.score(net, None, "magic")
    with pytest.raises(DataError, match="needs calibration images"):
        pruning.score(net, None, "usn")
    with pytest.raises(CriterionError, match="give --semantic"):
        pruning.score(net, calibration(net, plane()), "usn")
    with pytest.raises(DataError, match="needs labels"):
        pruning.score(net, calibration(net), "taylor")
    with pytest.raises(DataError, match=r"shape \(1, 5, 5\).*expects \(36,\)"):
        pruning.score(net, pruning.Calibration(np.zeros((3, 1, 5, 5)), None, S_SMALL), "usn")
    single = build([node("Gemm", "x w", "y")], {"w": np.ones((3, 2), np.float32)}, {"x": [3]}, {"y": [2]})
    with pytest.raises(NothingToPrune, match="output of the network"):
        pruning.plan(single, pruning.score(single, None, "l1"), 0.5)


def test_sensitive_layers_lose_less_and_the_total_is_kept():
    sizes = np.array([10.0, 20, 30, 40])
    shares = allocate(np.array([0.0, 0.1, 0.2, 5.0]), sizes, 0.4)
    assert (np.diff(shares) <= 0).all() and shares.max() <= 0.75 and shares[0] > shares[3]
    assert (shares * sizes).sum() == pytest.approx(0.4 * sizes.sum(), rel=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(-1, 1e12), st.integers(1, 512)), min_size=1, max_size=12), st.floats(0.01, 0.95))
@example([(0.0, 1), (4.0, 1), (2.2e-308, 1)], 0.5)
def test_allocation_reaches_the_ratio_however_skewed(layers, ratio):
    sensitivity, sizes = (np.array(part, float) for part in zip(*layers, strict=True))
    shares = allocate(sensitivity, sizes, ratio)
    assert (shares * sizes).sum() == pytest.approx(ratio * sizes.sum(), rel=1e-6)
    assert (shares >= 0).all() and shares.max() <= max(0.75, (1 + ratio) / 2) + 1e-12
    order = np.argsort(sensitivity, kind="stable")
    assert (np.diff(shares[order]) <= 1e-12).all()


def test_allocation_spares_a_layer_without_which_the_loss_is_infinite():
    shares = allocate(np.array([0.1, np.inf, np.nan, 0.2]), np.full(4, 10.0), 0.3)
    assert shares.sum() == pytest.approx(1.2) and (shares[[1, 2]] < 1e-6).all()


@pytest.mark.parametrize("form", ["prune", "weights"])
def test_measured_sensitivity_finds_the_layer_that_matters(form):
    from pruning.sensitivity import mrs_ratios

    weights = mlp_weights(0, (36, 12, 12, 3))
    weights["b0"], weights["b1"] = weights["b0"] + 2, weights["b1"] + 2  # all active
    weights["w2"] = weights["w2"] * 0.01  # what the second hidden layer does hardly reaches the output
    weights["skip"] = np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)
    nodes = [
        node("Gemm", "x w0 b0", "z0", transB=1), node("Relu", "z0", "a0"), node("Gemm", "a0 w1 b1", "z1", transB=1),
        node("Relu", "z1", "a1"), node("Gemm", "a1 w2 b2", "u", transB=1), node("Gemm", "a0 skip", "v", transB=1),
        node("Add", "u v", "y"),
    ]  # fmt: skip
    net = build(nodes, weights, {"x": [36]}, {"y": [3]})
    narrow = plane((0.999, 1.001), (-0.001, 0.001))  # damage by pruning outweighs movement
    data = calibration(net, narrow, labels=form == "weights")
    ratios = mrs_ratios(pruning.find_groups(net), data, 0.4, form, stream=False)
    assert ratios["make_z1"] > ratios["make_z0"]


def test_whole_blocks():
    from pruning.blocks import drop_blocks, find_blocks
    from pruning.calibration import Activations

    rng = np.random.default_rng(0)
    w = {"k": rng.normal(size=(8, 6)), "last": rng.normal(size=(8, 3))}
    nodes, x = [node("Gemm", "x k", "h0", transB=1)], "h0"
    for i, scale in enumerate((0.5, 1e-4, 0.5)):
        w[f"r{i}"] = rng.normal(size=(8, 8)) * scale
        nodes += [
            node("MatMul", f"{x} r{i}", f"m{i}"),
            node("Relu", f"m{i}", f"b{i}"),
            node("Add", f"b{i} {x}", f"s{i}"),
        ]
        x = f"s{i}"
    nodes.append(node("MatMul", f"{x} last", "y"))
    net = build(nodes, {k: v.astype(np.float32) for k, v in w.items()}, {"x": [6]}, {"y": [3]})
    assert [b.name for b in find_blocks(net)] == ["make_s0", "make_s1", "make_s2"]
    data = calibration(net)
    small, removed, _, found = drop_blocks(net, 0.34, data)
    assert [b.name for b in removed] == ["make_s1"] and "r1" not in small.weights
    assert found.points and found.difference <= 1e-5 * found.largest
    before, after = (Activations(n, ["y"])(data.images)["y"] for n in (net, small))
    np.testing.assert_allclose(before, after, atol=0.02)
    with pytest.raises(NothingToPrune):
        drop_blocks(mlp(mlp_weights()), 0.5, calibration(mlp(mlp_weights())))


@pytest.mark.parametrize("criterion", ["l1", "random", "snip"])
def test_unstructured_masks(criterion):
    net = conv_net(bn=True)
    data = calibration(net, labels=True)
    masked = zero_weights(net, criterion, 0.4, data, ScoreOptions())
    names = ["k0", "k1", "w0", "w1"]
    total = sum(net.weights[n].size for n in names)
    zeros = sum(int((masked.weights[n] == 0).sum()) for n in names)
    assert zeros == int(0.4 * total)
    for name, value in masked.weights.items():
        kept = value != 0 if name in names else np.ones(value.shape, bool)
        np.testing.assert_array_equal(value[kept], net.weights[name][kept])
    if criterion == "l1":
        magnitudes = np.concatenate([np.abs(net.weights[n][masked.weights[n] == 0]) for n in names])
        rest = np.concatenate([np.abs(masked.weights[n][masked.weights[n] != 0]) for n in names])
        assert magnitudes.max() <= rest.min()
    with pytest.raises(CriterionError, match="not for 'usn'"):
        zero_weights(net, "usn", 0.4, data, ScoreOptions())


def test_values_are_immutable():
    net = conv_net()
    plan = pruning.plan(net, pruning.score(net, None, "l1"), 0.5)
    with pytest.raises(ValueError):
        plan.removed[0] = False
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.ratio = 0.1
    with pytest.raises(TypeError):
        net.weights["k0"] = 0
