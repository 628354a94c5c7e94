"""Certified fine-tuning: which sub-rectangles are bounded when, and that bounds get tighter at no more error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pruning_nets import conv_net, plane

from pruning import Calibration, TrainOptions, forms
from pruning.calibration import Activations
from pruning.curriculum import FIRST, Curriculum
from pruning.errors import CriterionError
from pruning.measure import error
from pruning.torch_bridge import TorchNet
from pruning.training import fine_tune

S = plane((0.8, 1.2), (-0.1, 0.1))


@pytest.mark.parametrize("done", [0.0, 0.2, 0.5, 1.0])
def test_sub_rectangles_lie_in_s_and_grow_to_the_cell(done):
    curriculum = Curriculum(0.3, 0.2, 0.5)
    middle, half = curriculum.cells(S, 500, done, np.random.default_rng(0))
    low, high = S.box.T
    assert (middle - half >= low - 1e-6).all() and (middle + half <= high + 1e-6).all()
    share = 2 * half / (high - low)
    want = FIRST * (0.2 / FIRST) ** min(1, done / 0.5)
    np.testing.assert_allclose(share, want, rtol=1e-5)
    assert np.ptp(middle, axis=0) == pytest.approx((1 - want) * (high - low), rel=0.05)
    assert curriculum.influence(done) == pytest.approx(0.3 * min(1, done / 0.5))


def test_a_cell_below_the_first_does_not_shrink_and_nonsense_is_refused():
    _, half = Curriculum(1.0, 1e-3).cells(S, 1, 0.0, np.random.default_rng(0))
    assert 2 * half[0, 0] == pytest.approx(1e-3 * 0.4, rel=1e-5)
    for wrong in ({"weight": -1.0}, {"weight": float("nan")}, {"cell": 0.0}, {"cell": 1.5}, {"warm_up": -0.1}):
        with pytest.raises(CriterionError, match="certified training with weight"):
            Curriculum(**wrong)


def width(net, data):
    """Mean width of the bounds of the outputs over sub-rectangles with half the sides of S."""
    middle, half = Curriculum(0, 1 / 2, 0).cells(S, len(data.images), 1.0, np.random.default_rng(1))
    model = TorchNet(net)
    with torch.no_grad():
        low, high = forms.output_bounds(model, data, data.images, middle, half)
    return float((high - low).mean())


def test_bounds_get_tighter_at_equal_error():
    """Against the same training without the certified loss, on images that it has not seen."""
    net = conv_net()
    x = np.random.default_rng(0).uniform(0, 1, (100, 1, 8, 8)).astype(np.float32)
    y = Activations(conv_net(5), ["y"])(x)["y"]
    fit, held = (Calibration(x[rows], y[rows], S) for rows in (slice(0, 80), slice(80, 100)))
    plain, tight = (
        fine_tune(net, fit, TrainOptions(epochs=20, batch_size=20, rate=5e-3, certified=weight, cell=1 / 2), 20)
        for weight in (0.0, 1.0)
    )
    assert width(tight, held) < 0.5 * width(plain, held)
    assert error(tight, held) < 1.1 * error(plain, held) < 0.2 * error(net, held)
