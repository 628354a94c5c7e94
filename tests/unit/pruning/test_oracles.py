"""The verifier's bounds as oracles: sound against samples, tighter than the samples' own scores allow, and of use."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pruning_nets import calibration, conv_net, images, plane

import pruning
from pruning import Calibration, ScoreOptions, onnx_io
from pruning.calibration import Activations
from pruning.oracles import interval_oracle, slope_oracle
from pruning.scores.certified import cells

WIDE = plane((0.6, 1.4), (-0.3, 0.3))  # clips a good part of the pixels at both ends
OPTIONS = ScoreOptions(interval_oracle=interval_oracle, slope_oracle=slope_oracle, cells=2)


def bounded(net, semantic, side, count=2):
    names = [unit.value for unit in pruning.find_groups(net).units]
    data = calibration(net, semantic, count=count)
    grid = cells(semantic, side)
    return names, data, grid, interval_oracle(net, names, data.images, grid, data)


@pytest.mark.parametrize("bn", [False, True])
def test_values_at_random_points_stay_inside(bn):
    net = conv_net(bn=bn)
    names, data, grid, bounds = bounded(net, WIDE, 3)
    run, rng, clipped = Activations(net, names), np.random.default_rng(0), 0
    for j, box in enumerate(grid):
        corners = np.stack(np.meshgrid(*box), -1).reshape(-1, 2)
        points = [*corners, *(box[:, 0] + rng.random((40, 2)) * (box[:, 1] - box[:, 0]))]
        for i, image in enumerate(data.images):
            moved = np.concatenate([data.moved(image[None], point) for point in points])
            clipped += int(((moved == 0) | (moved == 1)).sum())
            found = run(moved)
            for name in names:
                low, high = (side[i, j] for side in bounds[name])
                slack = 1e-5 * (1 + np.abs(found[name]).max())  # float32 inference
                assert (found[name] >= low - slack).all() and (found[name] <= high + slack).all()
    assert clipped > 500, "the clip was never active: this test says nothing about it"


def test_bounds_of_a_small_cell_are_tight():
    """Cells of a tiny rectangle: the bound is hardly wider than what samples reach."""
    net = conv_net()
    tiny = plane((0.999, 1.001), (-0.001, 0.001))
    names, data, _, bounds = bounded(net, tiny, 1, count=1)
    moved = np.concatenate([data.moved(data.images[:1], p) for p in data.points(64, 0)])
    found = Activations(net, names)(moved)
    for name in names:
        width = float((bounds[name][1] - bounds[name][0]).mean())
        assert width < 3 * float((found[name].max(0) - found[name].min(0)).mean()) + 1e-5


def test_certified_scores_are_below_the_sampled_ones():
    for seed in range(2):
        net = conv_net(seed=seed)
        data = calibration(net, WIDE, count=4, samples=64)
        sampled = pruning.score(net, data, "usn").parts["R"]
        proved = pruning.score(net, data, "usn-cert", OPTIONS).parts["C"]
        live = pruning.find_groups(net).prunable & (sampled >= 0)
        assert live.sum() > 4 and (proved[live] <= sampled[live] + 1e-6).all() and (proved[live] > 0).any()


def test_slopes_have_the_shape_of_the_values_and_looseness_ranks():
    net = conv_net()
    names = [unit.value for unit in pruning.find_groups(net).units]
    data = Calibration(images((1, 8, 8), 2), semantic=WIDE)
    slopes = slope_oracle(net, names, data.images, cells(WIDE, 2), data)
    for name in names:
        assert slopes[name].shape == (2, 4, *net.shapes[name]) and (slopes[name] >= 0).all()
    assert max(s.max() for s in slopes.values()) > 0
    scores = pruning.score(net, calibration(net, WIDE, count=2), "looseness", OPTIONS)
    assert np.ptp(scores.values[pruning.find_groups(net).prunable]) > 0


def test_slopes_in_front_of_the_last_layer_are_its_weights():
    """A row for every side of every output arrives there as the weights of the last layer, with either sign."""
    net = conv_net()
    last = pruning.find_groups(net).units[-1].value
    data = Calibration(images((1, 8, 8), 1), semantic=WIDE)
    slopes = slope_oracle(net, [last], data.images, cells(WIDE, 1), data)[last][0, 0]
    node = net.nodes[-1]
    weight = net.weights[node.inputs[1]].astype(np.float64)
    weight = weight if node.attrs.get("transB", 0) else weight.T
    np.testing.assert_allclose(slopes[0], np.abs(weight).mean(0), rtol=1e-12)


def test_sound_fold_bounds_the_change_everywhere():
    net = conv_net()
    data = calibration(net, WIDE, count=2)
    plan = pruning.plan(net, pruning.score(net, data, "usn"), 0.25)
    pruned = pruning.apply(net, plan, "sound", data, "exact", OPTIONS)
    before, after = (onnx_io.to_bytes(n) for n in (net, pruned.net))
    from pruning.runtime import Runner

    first, second = Runner(before), Runner(after)
    worst = np.zeros_like(np.asarray(pruned.delta, np.float64).reshape(-1))
    for image in data.images:
        for point in data.points(64, 5):
            moved = data.moved(image[None], point)
            gap = [r({n.inputs[0]: moved})[n.outputs[0]] for r, n in ((first, net), (second, pruned.net))]
            worst = np.maximum(worst, np.abs(gap[0].astype(np.float64) - gap[1]).reshape(-1))
    delta = np.asarray(pruned.delta, np.float64).reshape(-1)
    assert (worst <= delta + 1e-5).all() and worst.max() > 0 and np.isfinite(delta).all()


def test_the_command_prunes_by_certified_scores_and_folds_soundly(tmp_path):
    from pruning.cli import main

    onnx_io.save(conv_net(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", images=images((1, 8, 8), 3))
    base = [str(tmp_path / "net.onnx"), "--data", str(tmp_path / "data.npz")]
    base += ["--semantic", "contrast=0.8:1.2,brightness=-0.1:0.1", "--ratio", "0.25"]
    assert main([*base, "-o", str(tmp_path / "a.onnx"), "--criterion", "usn-cert"]) == 0
    assert (
        main([*base, "-o", str(tmp_path / "b.onnx"), "--criterion", "usn", "--fold", "sound", "--border", "exact"]) == 0
    )
    record = json.loads((tmp_path / "b.json").read_text())
    assert record["carries_over"] and min(record["delta"]) >= 0 and max(record["delta"]) > 0
