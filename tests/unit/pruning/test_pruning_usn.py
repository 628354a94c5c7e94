"""The 13 properties the definition of USN must have, and the identities behind it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from pruning_nets import S_SMALL, affine_oracle, build, calibration, conv_net, images, mlp, mlp_weights, node, plane

import pruning
from pruning import Calibration, ScoreOptions
from pruning.calibration import Activations
from pruning.groups import find_groups
from pruning.scores.certified import cells


def usn(net, data=None, **options):
    return pruning.score(net, data or calibration(net), "usn", ScoreOptions(**options))


def hidden(scores, part="R"):
    """Scores of the first hidden layer."""
    return scores.parts[part][scores.groups.groups[0].channels]


def test_1_permuting_channels_permutes_scores():
    weights = mlp_weights()
    order = np.random.default_rng(3).permutation(12)
    permuted = {**weights, "w0": weights["w0"][order], "b0": weights["b0"][order], "w1": weights["w1"][:, order]}
    before, after = usn(mlp(weights)), usn(mlp(permuted))
    for part in ("R", "T", "usn_db", "Bias2"):
        np.testing.assert_allclose(hidden(after, part), hidden(before, part)[order], rtol=1e-5)


@pytest.mark.parametrize("factor", [0.01, 7.0])
def test_2_scaling_a_relu_neuron_changes_nothing(factor):
    weights = mlp_weights()
    scale = np.ones(12, np.float32)
    scale[4] = factor
    other = {**weights, "w0": weights["w0"] * scale[:, None], "b0": weights["b0"] * scale, "w1": weights["w1"] / scale}
    options = ScoreOptions(interval_oracle=affine_oracle, cells=2)
    for criterion, parts in (("usn", ("R", "T")), ("usn-cert", ("C", "T"))):
        first, second = (
            pruning.score(net, calibration(net, count=4), criterion, options) for net in (mlp(weights), mlp(other))
        )
        for part in parts:
            np.testing.assert_allclose(second.parts[part], first.parts[part], rtol=2e-4, atol=1e-6)


def test_3_a_constant_in_the_bias_changes_t_but_not_r():
    weights = mlp_weights()
    z = Activations(mlp(weights), ["z0"])(calibration(mlp(weights)).images)["z0"]
    moved = {**weights, "b0": weights["b0"] - z.mean(0).astype(np.float32)}  # now the sign flips often
    before, after = usn(mlp(weights)), usn(mlp(moved))
    np.testing.assert_allclose(hidden(after), hidden(before), rtol=1e-4)
    assert (hidden(after, "T") < hidden(before, "T") - 0.01).any()


def test_4_mse_is_bias2_plus_var_measured_independently():
    net = conv_net(bn=True)
    data = calibration(net, count=6)
    scores = usn(net, data)
    points = data.points()
    run = Activations(net, ["n0"])
    clean = run(data.images)["n0"].astype(np.float64)
    moved = np.stack([run(data.moved(data.images, s))["n0"] for s in points]).astype(np.float64)
    mu = moved.mean(0)
    bias2 = ((mu - clean) ** 2).mean((0, 2, 3))
    var = ((moved - mu) ** 2).mean((0, 1, 3, 4))
    sig = clean.transpose(1, 0, 2, 3).reshape(8, -1).var(1)
    np.testing.assert_allclose(hidden(scores, "MSE"), bias2 + var, rtol=1e-5)
    np.testing.assert_allclose(hidden(scores, "Bias2"), bias2, rtol=1e-4, atol=1e-12)
    np.testing.assert_allclose(hidden(scores, "Var"), var, rtol=1e-5)
    np.testing.assert_allclose(hidden(scores, "Sig"), sig, rtol=1e-5)
    np.testing.assert_allclose(hidden(scores), sig / (sig + bias2 + var), rtol=1e-5)


@pytest.mark.parametrize("count", [1, 4])
def test_5_certified_is_a_lower_bound_of_sampled(count):
    """32 Sobol points put the same number into each of 4 x 4 cells, so the samples weight cells by area."""
    for seed in range(3):
        net = mlp(mlp_weights(seed))
        data = calibration(net, count=8)
        r = usn(net, data).parts["R"]
        c = pruning.score(net, data, "usn-cert", ScoreOptions(interval_oracle=affine_oracle, cells=count)).parts["C"]
        live = pruning.find_groups(net).prunable & (r >= 0)
        assert (c[live] <= r[live] + 1e-9).all() and (c[live] >= 0).all() and (r[live] <= 1).all()
        if count == 4:
            assert (c[live] > 0.5 * r[live]).all(), "the bound is far too loose to be a score"


def test_6_shrinking_s_shrinks_the_loss_quadratically():
    net = mlp(mlp_weights())
    losses = []
    for t in (1.0, 0.1):
        semantic = plane((1 - 0.1 * t, 1 + 0.1 * t), (-0.05 * t, 0.05 * t))
        data = calibration(net, semantic, count=8)
        certified = pruning.score(
            net, data, "usn-cert", ScoreOptions(interval_oracle=partial(affine_oracle, slack=0), cells=1)
        )
        losses.append((1 - usn(net, data).parts["R"][:12], 1 - certified.parts["C"][:12]))
    for wide, narrow in zip(*losses, strict=True):  # the error term carries Sig + MSE, hence the tolerance
        ratio = (narrow / (1 - narrow)) / (wide / (1 - wide))
        np.testing.assert_allclose(ratio, 0.01, rtol=0.1)


def test_7_certified_stable_positions_never_flip():
    net = mlp(mlp_weights(2))
    data = calibration(net, samples=256, count=6)
    grid = cells(data.semantic, 1)
    bounds = affine_oracle(net, ["z0", "z1"], data.images, grid)
    run = Activations(net, ["z0", "z1"])
    checked = 0
    for row, image in enumerate(data.images):
        moved = run(np.concatenate([data.moved(image[None], s) for s in data.points(256, 3)]))
        for name in ("z0", "z1"):
            low, high = (side[row, 0, 0] for side in bounds[name])
            assert (moved[name] >= low).all() and (moved[name] <= high).all()
            stable = (low > 0) | (high < 0)
            checked += stable.sum()
            assert (np.signbit(moved[name])[:, stable] == np.signbit(moved[name])[0, stable]).all()
    assert checked > 50


def test_8_first_layer_in_closed_form():
    net = mlp(mlp_weights())
    data = calibration(net, samples=4096, count=8)
    scores = usn(net, data)
    w = net.weights["w0"].astype(np.float64)
    var_alpha, var_beta = 0.2**2 / 12, 0.1**2 / 12
    dots = data.images.reshape(8, -1).astype(np.float64) @ w.T
    var = (dots**2).mean(0) * var_alpha + w.sum(1) ** 2 * var_beta
    np.testing.assert_allclose(hidden(scores, "Var"), var, rtol=1e-6)
    assert (hidden(scores, "Bias2") < 1e-6 * var).all()


def test_9_zero_dc_filter_ignores_brightness():
    weights = mlp_weights()
    weights["w0"] = np.round((weights["w0"] - weights["w0"].mean(1, keepdims=True)) * 256).astype(np.float32) / 256
    weights["w0"][:, 0] -= weights["w0"].sum(1)
    net = mlp(weights)
    scores = usn(net, calibration(net, plane((1, 1), (-0.1, 0.1))))
    assert (hidden(scores, "MSE") < 1e-9 * hidden(scores, "Sig")).all()


def test_10_few_samples_rank_like_many():
    from scipy.stats import spearmanr

    for seed in range(3):
        net = mlp(mlp_weights(seed, (36, 24, 16, 3)))
        few, many = (usn(net, calibration(net, samples=k, count=12)) for k in (32, 4096))
        assert spearmanr(few.values, many.values).statistic > 0.99


def test_11_deterministic_and_independent_of_batching():
    first, second = (usn(conv_net()) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)
    single = usn(conv_net(batch=1))  # runs image by image
    np.testing.assert_allclose(single.parts["R"], first.parts["R"], rtol=1e-6)
    assert (usn(conv_net(), calibration(conv_net(), seed=1)).values != first.values).any()


@pytest.mark.parametrize(
    "options", [{}, {"stability_exponent": 1}, {"aggregate": "q90"}, {"bias": "centred"}, {"join": "min"}]
)
def test_12_dead_and_constant_channels(options):
    weights = mlp_weights()
    weights["w0"][2], weights["b0"][2] = 0, 0.7  # constant and positive
    weights["b0"] += 1  # the others are active somewhere
    weights["b0"][5] = -50  # never active
    net = mlp(weights)
    scores = usn(net, **options)
    assert np.flatnonzero(scores.free[:12]).tolist() == [2, 5]
    assert not np.isnan(scores.values).any() and all(not np.isnan(part).any() for part in scores.parts.values())
    assert (hidden(scores, "USN")[[2, 5]] == -1).all() and hidden(scores)[2] == -1
    plan = pruning.plan(net, scores, 0.17)  # two of twelve: the idle ones
    assert {2, 5} <= set(np.flatnonzero(plan.removed).tolist())
    for other in ("l2", "random", "anti-usn"):
        assert np.flatnonzero(pruning.score(net, calibration(net), other).free[:12]).tolist() == [2, 5]


def test_anti_usn_is_the_reverse_order():
    net = mlp(mlp_weights())
    a, b = (pruning.score(net, calibration(net), name) for name in ("usn", "anti-usn"))
    np.testing.assert_array_equal(a.values[:12], -b.values[:12])


@pytest.fixture(scope="module")
def blob():
    """The demo task: find the centre of a bright blob in a 10 x 10 image under contrast and brightness; a trained
    MLP.
    """
    import torch

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    centre = rng.uniform(2, 7, (1200, 2))
    rows, columns = np.mgrid[:10, :10]
    spot = np.exp(-((rows - centre[:, :1, None]) ** 2 + (columns - centre[:, 1:, None]) ** 2) / 4)
    x = np.clip(0.2 + 0.6 * spot + 0.02 * rng.normal(size=spot.shape), 0, 1).reshape(1200, 100).astype(np.float32)
    y = (centre / 10).astype(np.float32)
    semantic = plane((0.7, 1.3), (-0.15, 0.15))
    layers = [torch.nn.Linear(100, 32), torch.nn.Linear(32, 32), torch.nn.Linear(32, 2)]
    model = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    low, high = semantic.box.T
    data = Calibration(x[:200], y[:200], semantic)
    for _ in range(800):
        pick = rng.integers(0, 1000, 64)
        moved = data.moved(x[pick], rng.uniform(low, high, (64, 2)))
        loss = (model(torch.tensor(moved)) - torch.tensor(y[pick])).pow(2).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    weights = {
        f"{k}{i}": p.detach().numpy().copy()
        for i, la in enumerate(layers)
        for k, p in (("w", la.weight), ("b", la.bias))
    }
    return mlp(weights), data, (x[1000:], y[1000:])


def test_13_the_negative_control_is_worse_than_random(blob):
    net, data, (x, y) = blob
    low, high = np.array([(0.7, 1.3), (-0.15, 0.15)]).T
    points = np.random.default_rng(1).uniform(low, high, (len(x), 2))
    moved = data.moved(x, points)

    def error(criterion, seed=0):
        scores = pruning.score(net, data, criterion, ScoreOptions(seed=seed))
        small = pruning.apply(net, pruning.plan(net, scores, 0.5), "mean", data).net
        return float(np.abs(Activations(small, small.outputs)(moved)[small.outputs[0]] - y).mean())

    random = np.mean([error("random", seed) for seed in range(5)])
    assert error("anti-usn") > 1.1 * random
    assert error("anti-usn") > 1.1 * error("usn")


def test_a_channel_active_between_rows_only_is_not_idle():
    """A bright spot between the rows read: the maxima are taken over the whole map."""
    net = conv_net(size=36)
    kernel, bias = net.weights["k0"].copy(), net.weights["c0"].copy()
    kernel[2], bias[2] = 0, -0.8
    kernel[2, 0, 1, 1] = 1  # passes the image on, minus 0.8
    net = net.changed(weights={"k0": kernel, "c0": bias})
    x = np.full((6, 1, 36, 36), 0.4, np.float32)
    x[2] += np.random.default_rng(0).uniform(0, 0.1, (1, 36, 36))
    assert pruning.score(net, Calibration(x, None, S_SMALL), "usn").free[2]
    x[3, 0, 4, 5] = 1.0
    assert not pruning.score(net, Calibration(x, None, S_SMALL), "usn").free[2]


def reading_all(monkeypatch):
    """Every position of every image."""
    from pruning.scores import movement

    monkeypatch.setattr(movement, "POSITIONS", 1 << 30)
    monkeypatch.setattr(movement, "READ", 1 << 30)


def test_rows_of_large_maps_stand_for_the_whole(monkeypatch):
    """Sampled rows against every position, on images whose upper and lower halves differ; the border included."""
    net = conv_net(bn=True, size=36)
    x = images((1, 36, 36), 96, low=0.3, high=0.6) * np.linspace(0.2, 1.5, 36, dtype=np.float32)[:, None]
    data = Calibration(x, None, S_SMALL, 16)
    part = usn(net, data)
    reading_all(monkeypatch)
    whole = usn(net, data)
    for name in ("Sig", "MSE", "Bias2"):
        np.testing.assert_allclose(hidden(part, name), hidden(whole, name), rtol=0.15)
    assert (hidden(part, "MSE") != hidden(whole, "MSE")).all()
    from scipy.stats import spearmanr

    assert spearmanr(part.values[:20], whole.values[:20]).statistic > 0.95


def test_every_row_comes_up_alike():
    from pruning.scores.movement import _Sums

    net = conv_net(size=36)
    unit = pruning.find_groups(net).units[0]
    sums = _Sums(unit, ScoreOptions(), with_flips=True, count=1, positions=36 * 36, step=1)
    rows = np.broadcast_to(np.arange(36.0)[:, None], (2, 8, 36, 36))
    seen = np.zeros(36)
    for image in range(500):
        sums.images = image
        seen[sums.read(rows)[0, 0, :, 0].astype(int)] += 1
    assert seen.sum() == 500 * 3 and seen.min() > 0.9 * seen.mean() and seen.max() < 1.1 * seen.mean()


def test_samples_in_turns_give_the_same_sums(monkeypatch):
    from pruning.scores import movement

    net = conv_net(bn=True)
    once = usn(net)
    sizes = []
    run = Activations.__call__

    def counted(self, x):
        sizes.append(len(x))
        return run(self, x)

    monkeypatch.setattr(Activations, "__call__", counted)
    monkeypatch.setattr(movement, "HELD", 9000)  # a few samples per turn
    turns = usn(net)
    for name in ("Sig", "MSE", "Bias2", "T"):
        np.testing.assert_allclose(turns.parts[name], once.parts[name], rtol=1e-5)
    assert sum(size < 10 for size in sizes) > 3 * 24


def test_unread_images_still_decide_who_is_idle():
    """A channel active on one image only, which its map is not read on."""
    net = conv_net()
    kernel, bias = net.weights["k0"].copy(), net.weights["c0"].copy()
    kernel[2], bias[2] = 0, -0.8
    kernel[2, 0, 1, 1] = 1
    net = net.changed(weights={"k0": kernel, "c0": bias})
    x = images((1, 8, 8), 64, low=0.1, high=0.4)
    assert pruning.score(net, Calibration(x, None, S_SMALL, 4), "usn").free[2]
    x[33, 0, 4, 5] = 1.0  # every second image is read
    assert not pruning.score(net, Calibration(x, None, S_SMALL, 4), "usn").free[2]


def test_several_features_of_one_channel_and_parts():
    net = conv_net()
    scores = usn(net)
    groups = scores.groups
    assert [len(g.channels) for g in groups.groups] == [8, 12, 10, 4]
    assert np.isfinite(scores.values[groups.prunable]).all()
    assert scores.formula.startswith("our USN")


def test_units_of_a_channel_without_activation_are_its_readers():
    weights = {"k": np.ones((4, 6), np.float32), "w": np.ones((3, 4), np.float32)}
    net = build(
        [node("Gemm", "x k", "h", transB=1), node("Gemm", "h w", "y", transB=1)], weights, {"x": [6]}, {"y": [3]}
    )
    (unit,) = pruning.find_groups(net).units
    assert (unit.value, unit.channel.tolist()) == ("h", [0, 1, 2, 3])


def test_images_are_moved_as_defined():
    x = images((3, 4), 2, low=0, high=1)
    data = Calibration(x, semantic=S_SMALL)
    np.testing.assert_allclose(data.moved(x, (1.1, 0.05)), np.clip(x * 1.1 + 0.05, 0, 1), rtol=1e-6)
    points = data.points(32, 0)
    counts = np.histogram2d(points[:, 0], points[:, 1], bins=4, range=[(0.9, 1.1), (-0.05, 0.05)])[0]
    assert (counts == 2).all()


def test_data_outside_the_unit_range_are_used_as_they_are():
    """Normalised images: means, scores and proved intervals see the values themselves, not their clipped copies."""
    from pruning.calibration import channel_means, perturbed

    rng = np.random.default_rng(0)
    x = rng.normal(0.3, 1.5, (40, 36)).astype(np.float32)
    net = mlp(mlp_weights())
    still = Calibration(x)
    assert not still.semantic.clip and not still.part(slice(0, 1)).semantic.clip
    (mean,) = channel_means(net, [("x", 1)], still).values()
    np.testing.assert_allclose(mean, x.mean(0), rtol=1e-5, atol=1e-6)
    moving = Calibration(x, semantic=plane((2.0, 2.0), (0.5, 0.5)))
    for image, batch in zip(x, perturbed(moving), strict=True):
        np.testing.assert_array_equal(batch[0], image)
        np.testing.assert_allclose(batch[1:], np.broadcast_to(2 * image + 0.5, batch[1:].shape), rtol=1e-5, atol=1e-6)
    inside = Calibration(np.clip(x, 0, 1), semantic=plane((2.0, 2.0)))
    assert inside.semantic.clip and max(batch.max() for batch in perturbed(inside)) == 1.0
    assert Calibration(np.clip(x, 0, np.nextafter(np.float32(1), np.float32(2)))).semantic.clip  # rounding alone


def test_oracles_leave_the_clip_out_where_the_data_are_not_clipped():
    from pruning.scores import score_groups

    net, asked = mlp(mlp_weights()), []

    def oracle(net, names, inputs, cells, data):
        asked.append(data.semantic.clip)
        return {name: (np.full((len(inputs), len(cells), *net.shapes[name]), -9.0), np.full(
            (len(inputs), len(cells), *net.shapes[name]), 9.0)) for name in names}  # fmt: skip

    for x, expected in ((np.full((4, 36), 0.5), True), (np.full((4, 36), 1.5), False)):
        asked.clear()
        data = Calibration(x, semantic=S_SMALL)
        score_groups(find_groups(net), data, "usn-cert", ScoreOptions(interval_oracle=oracle))
        assert set(asked) == {expected}
