"""What stands for a removed channel: zero, mean, graft, sound."""

from __future__ import annotations

import numpy as np
import pytest
from pruning_nets import (
    S_SMALL,
    affine_oracle,
    build,
    calibration,
    conv_net,
    images,
    interval_oracle,
    mlp,
    mlp_weights,
    node,
    plane,
)

import pruning
from pruning import ScoreOptions, onnx_io, runtime
from pruning.calibration import Activations
from pruning.errors import CriterionError, DataError


def run(net, x):
    return runtime.Runner(onnx_io.to_bytes(net, check=True), False)({net.inputs[0]: x})[net.outputs[0]]


def random_plan(net, ratio=0.4, seed=0, **kw):
    return pruning.plan(net, pruning.score(net, None, "random", ScoreOptions(seed=seed)), ratio, **kw)


@pytest.mark.parametrize("kind", ["conv", "grouped", "transpose", "matmul", "left"])
def test_a_constant_channel_folds_without_any_error(kind):
    """A channel that is constant before its readers can go exactly, with the border map also under zero padding."""
    rng = np.random.default_rng(0)
    w = {"k": rng.normal(size=(8, 2, 3, 3)), "c": rng.normal(size=8)}
    w["k"][:4], w["c"][:4] = 0, rng.uniform(0.5, 1, 4)  # channels 0..3 are constant
    nodes = [node("Conv", "x k c", "h", pads=[1] * 4), node("Relu", "h", "a")]
    out = [6, 6, 6]
    if kind == "conv":
        w["l"] = rng.normal(size=(6, 8, 3, 3))
        nodes.append(node("Conv", "a l", "y", pads=[1] * 4))
    elif kind == "grouped":
        w["k"][4:6], w["c"][4:6] = 0, 0.3  # channels i and i + 4 go together
        w["l"] = rng.normal(size=(6, 4, 3, 3))
        nodes.append(node("Conv", "a l", "y", pads=[1] * 4, group=2))
    elif kind == "transpose":
        w["l"], w["b"] = rng.normal(size=(8, 6, 3, 3)), rng.normal(size=6)
        nodes.append(node("ConvTranspose", "a l b", "y", strides=[2, 2]))
        out = [6, 13, 13]
    else:
        w["l"] = rng.normal(size=(8, 5) if kind == "matmul" else (5, 8))
        w["to"] = np.array([0, 8, -1])
        nodes.append(node("Reshape", "a to", "r"))
        if kind == "matmul":
            nodes += [node("Transpose", "r", "t", perm=[0, 2, 1]), node("MatMul", "t l", "y")]
            out = [36, 5]
        else:
            nodes.append(node("MatMul", "l r", "y"))
            out = [5, 36]
    w = {k: v.astype(np.float32) if v.dtype.kind == "f" else v for k, v in w.items()}
    net = build(nodes, w, {"x": [2, 6, 6]}, {"y": out})
    data = calibration(net)
    scores = pruning.score(net, data, "usn")
    plan = pruning.plan(net, scores, 0.5, floor=pruning.ChannelFloor(2))
    pruned = pruning.apply(net, plan, "mean", data, border="exact")
    assert pruned.plan.removed.sum() == (2 if kind == "grouped" else 4)
    x = images((2, 6, 6), 8, seed=9)
    np.testing.assert_allclose(run(pruned.net, x), run(net, x), rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(run(pruned.net, x), run(pruned.masked, x), rtol=1e-5, atol=1e-6)
    if kind == "conv":  # the interior approximation is right inside and wrong at the border
        inside = pruning.apply(net, pruned.plan, "mean", data, border="interior")
        gap = np.abs(run(inside.net, x) - run(net, x))
        assert gap[:, :, 1:-1, 1:-1].max() < 2e-5 < 0.1 < gap.max()
        assert len(inside.net.nodes) == len(net.nodes)


@pytest.mark.parametrize("seed", range(4))
def test_calibration_error_falls_from_zero_to_mean_to_graft(seed):
    """Right after the cut layer (its readers' outputs), on the data the constants come from."""
    net = mlp(mlp_weights(seed))
    data = calibration(net, semantic=plane(), count=64)  # one point of S: the averages are exact
    plan = random_plan(net, 0.4, seed, floor=pruning.ChannelFloor(1, 0.0))
    only_first = np.where(np.arange(plan.groups.n) < 12, plan.removed, False)
    plan = pruning.Plan(**{**plan.__dict__, "removed": only_first})
    target = Activations(net, ["z1"])(data.images)["z1"]

    def damage(fold):
        small = pruning.apply(net, plan, fold, data).net
        return float(((Activations(small, ["z1"])(data.images)["z1"] - target) ** 2).mean())

    zero, mean, graft = damage("zero"), damage("mean"), damage("graft")
    assert zero >= mean >= graft and zero > graft


def test_mean_damage_of_one_channel_is_its_weighted_variance():
    net = mlp(mlp_weights(1))
    data = calibration(net, semantic=plane(), count=64)
    plan = random_plan(net)
    removed = np.zeros(plan.groups.n, bool)
    removed[3] = True
    small = pruning.apply(net, pruning.Plan(**{**plan.__dict__, "removed": removed}), "mean", data).net
    before, after = (Activations(n, ["z1"])(data.images)["z1"].astype(np.float64) for n in (net, small))
    a = Activations(net, ["a0"])(data.images)["a0"][:, 3].astype(np.float64)
    want = (net.weights["w1"][:, 3].astype(np.float64) ** 2).sum() * a.var()
    np.testing.assert_allclose(((before - after) ** 2).sum(1).mean(), want, rtol=1e-4)


def test_graft_keeps_shapes_and_straightens_the_chosen_channels():
    net = conv_net(bn=True)
    data = calibration(net)
    plan = random_plan(net, 0.5)
    grafted = pruning.apply(net, plan, "graft", data)
    assert grafted.masked is None and grafted.net.outputs == net.outputs
    acts = Activations(grafted.net, ["n0", "a0"])(data.images)
    for channel in range(8):
        z, a = acts["n0"][:, channel].reshape(-1), acts["a0"][:, channel].reshape(-1)
        if plan.removed[channel]:
            slope, offset = np.polyfit(z, a, 1)
            np.testing.assert_allclose(a, slope * z + offset, atol=1e-4)
        else:
            np.testing.assert_allclose(a, np.maximum(z, 0), atol=1e-6)


@pytest.mark.parametrize("kind", ["mlp", "conv", "conv-bn", "verifier"])
def test_sound_fold_bounds_the_change_on_all_of_s(kind):
    net = mlp(mlp_weights(3)) if kind == "mlp" else conv_net(3, bn=kind == "conv-bn")
    oracle = {"mlp": affine_oracle, "verifier": None}.get(kind, interval_oracle)  # None: what users get
    data = calibration(net, count=4)
    plan = random_plan(net, 0.3)
    sound = pruning.apply(net, plan, "sound", data, "exact", ScoreOptions(interval_oracle=oracle, cells=2))
    worst = np.zeros(net.shapes[net.outputs[0]][1])
    for point in data.points(512, 5):
        x = data.moved(data.images, point)
        worst = np.maximum(worst, np.abs(run(sound.net, x) - run(net, x)).max(0))
    assert (worst <= sound.delta).all() and (worst > 0).all()
    assert sound.delta.max() < 1e3 * worst.max()
    assert sound.sidecar["carries_over"] is True and len(sound.sidecar["delta"]) == len(worst)
    other = pruning.apply(net, plan, "mean", data)
    assert other.sidecar["carries_over"] is False and other.delta is None


def test_sound_fold_refuses_what_it_cannot_prove():
    net = conv_net()
    data = calibration(net, count=2)

    def unproven(net, names, inputs, cells, data):
        return {name: 2 * (np.full((len(inputs), len(cells), *net.shapes[name]), np.nan),) for name in names}

    with pytest.raises(CriterionError, match="NaN"):
        pruning.apply(net, random_plan(net), "sound", data, "exact", ScoreOptions(interval_oracle=unproven))
    with pytest.raises(CriterionError, match="exact"):
        pruning.apply(net, random_plan(net), "sound", data, "interior", ScoreOptions(interval_oracle=interval_oracle))


def test_modes_that_need_data_say_so():
    net = conv_net()
    with pytest.raises(DataError, match="needs calibration images"):
        pruning.apply(net, random_plan(net), "mean")
    with pytest.raises(CriterionError, match="expected one of"):
        pruning.apply(net, random_plan(net), "median")
    with pytest.raises(CriterionError, match="another network"):
        pruning.apply(conv_net(), random_plan(net), "zero")


def test_bias_correction_restores_the_mean_output():
    from pruning.correction import corrected

    net = conv_net()
    data = calibration(net, semantic=S_SMALL)
    pruned = pruning.apply(net, random_plan(net, 0.5), "zero")
    fixed = corrected(pruned, data)
    from pruning.calibration import channel_means

    means = [channel_means(n, [("y", 1)], data)["y", 1] for n in (net, pruned.net, fixed.net)]
    np.testing.assert_allclose(means[2], means[0], atol=1e-5)
    assert np.abs(means[1] - means[0]).max() > 1e-3
