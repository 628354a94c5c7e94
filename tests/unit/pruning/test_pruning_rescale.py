"""Channels that stay get their mean and spread back; the pruned and the masked network stay equal."""

from __future__ import annotations

import numpy as np
import pytest
from pruning_nets import build, calibration, conv_net, node

import pruning
from benchmarks.pruning_graphs import random_model
from pruning import onnx_io
from pruning.calibration import Activations, channel_moments
from pruning.groups import find_groups
from pruning.rescale import moved


def plan_for(net, data, ratio=0.5):
    return pruning.plan(net, pruning.score(net, data, "random"), ratio)


@pytest.mark.parametrize("bn", [False, True])
@pytest.mark.parametrize("border", ["interior", "exact"])
def test_mean_and_spread_come_back(bn, border):
    net = conv_net(3, bn=bn, channels=(16, 20))
    data = calibration(net, count=40)
    plan = plan_for(net, data)
    made = pruning.apply(net, plan, "mean", data, border, rescale="all")
    plain = pruning.apply(net, plan, "mean", data, border)
    places = [(unit.value, 1) for unit in find_groups(made.net).units]
    assert len(places) == 3
    for place in places:
        stays = plan.groups.keep(plan.removed, plan.groups.labelled[place[0]][1])
        want, got, old = (channel_moments(n, [place], data)[place] for n in (net, made.net, plain.net))
        np.testing.assert_allclose(got.mean, want.mean[stays], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(got.spread, want.spread[stays], rtol=1e-3, atol=1e-4)
        assert place[0] in ("z0", "n0") or not np.allclose(old.spread, want.spread[stays], rtol=1e-2)
    assert made.sidecar["rescale"] == "all" and made.net.outputs == net.outputs


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_stay_equal_to_their_masked_twins(seed):
    net = onnx_io.load(random_model(seed, 13).SerializeToString())
    data = calibration(net, count=6, samples=4)
    plan = plan_for(net, data, 0.4)
    made = pruning.apply(net, plan, "mean", data, "exact" if seed % 2 else "interior", rescale="all")
    onnx_io.to_bytes(made.net, check=True)
    a, b = (Activations(n, n.outputs)(data.images)[net.outputs[0]] for n in (made.net, made.masked))
    assert np.isfinite(a).all() and np.abs(a - b).max() <= 1e-5 * (1 + np.abs(b).max())


def test_a_silent_layer_wakes_and_the_others_are_left_alone():
    net = conv_net(3, channels=(16, 20))
    net = net.changed(weights={"c1": net.weights["c1"] - 0.9})
    data = calibration(net, count=40)
    plan = plan_for(net, data, 0.7)
    quiet = pruning.apply(net, plan, "mean", data).net
    place = ("z1", 1)
    before = channel_moments(quiet, [place], data)[place]
    stays = plan.groups.keep(plan.removed, plan.groups.labelled["z1"][1])
    silenced = (channel_moments(net, [place], data)[place].highest[stays] > 0) & (before.highest <= 0)
    assert silenced.any() and not silenced.all()
    woken = pruning.apply(net, plan, "mean", data, rescale="silent").net
    assert (channel_moments(woken, [place], data)[place].highest[silenced] > 0).all()
    np.testing.assert_array_equal(woken.weights["k1"][~silenced], quiet.weights["k1"][~silenced])
    np.testing.assert_array_equal(woken.weights["k0"], quiet.weights["k0"])


@pytest.mark.parametrize("kind", ["Conv", "Gemm", "ConvTranspose", "Add", "MatMul"])
def test_the_factor_goes_into_the_layer(kind):
    """f -> a f + b exactly, for every layer that can take it in."""
    rng = np.random.default_rng(0)
    r = lambda *shape: np.asarray(rng.normal(size=shape), np.float32)  # noqa: E731
    nodes, weights, shape = {
        "Conv": ([node("Conv", "x k", "y")], {"k": r(3, 2, 2, 2)}, (2, 4, 4)),
        "ConvTranspose": ([node("ConvTranspose", "x k b", "y")], {"k": r(2, 3, 2, 2), "b": r(3)}, (2, 4, 4)),
        "Gemm": ([node("Gemm", "x k b", "y", alpha=0.5, beta=2.0)], {"k": r(5, 3), "b": r(1, 3)}, (5,)),
        "Add": ([node("Conv", "x k", "h"), node("Add", "m h", "y")],
                {"k": r(3, 2, 2, 2), "m": r(1, 3, 3, 3)}, (2, 4, 4)),
        "MatMul": ([node("MatMul", "x k", "h"), node("Add", "h b", "y")], {"k": r(5, 3), "b": r(3)}, (5,)),
    }[kind]  # fmt: skip
    out = {"Gemm": [3], "MatMul": [3], "Add": [3, 3, 3], "Conv": [3, 3, 3], "ConvTranspose": [3, 5, 5]}[kind]
    net = build(nodes, weights, {"x": shape}, {"y": out})
    factor, offset = np.array([2.0, 0.5, -1.0]), np.array([0.1, 0.0, -3.0])
    changed = moved(net, "y", factor, offset)
    assert changed is not None
    x = r(4, *shape)
    old, new = (Activations(n, ["y"])(x)["y"] for n in (net, changed))
    wide = (1, 3, *[1] * (old.ndim - 2))
    np.testing.assert_allclose(new, old * factor.reshape(wide) + offset.reshape(wide), rtol=1e-4, atol=1e-5)


def test_residual_sums_take_the_offset_only():
    rng = np.random.default_rng(0)
    nodes = [node("Relu", "x", "r"), node("Conv", "r k", "h", pads=[1] * 4), node("Add", "r h", "y")]
    kernel = rng.normal(size=(2, 2, 3, 3)).astype(np.float32)
    net = build(nodes, {"k": kernel}, {"x": [2, 4, 4]}, {"y": [2, 4, 4]})
    assert moved(net, "y", np.array([2.0, 1.0]), np.zeros(2)) is None
    changed = moved(net, "y", np.ones(2), np.array([0.5, -0.5]))
    assert changed is not None
    x = rng.normal(size=(3, 2, 4, 4)).astype(np.float32)
    old, new = (Activations(n, ["y"])(x)["y"] for n in (net, changed))
    np.testing.assert_allclose(new - old, np.broadcast_to([[[[0.5]], [[-0.5]]]], old.shape), atol=1e-6)


def test_unknown_modes_and_missing_data_are_refused():
    net = conv_net()
    plan = plan_for(net, None)
    with pytest.raises(pruning.DataError, match="needs calibration images"):
        pruning.apply(net, plan, "zero", rescale="all")
    with pytest.raises(pruning.CriterionError, match="expected one of"):
        pruning.apply(net, plan, "zero", rescale="some")
