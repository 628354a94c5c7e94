"""Calibration data move by every parameter, whatever the order of the network's input."""

from __future__ import annotations

import numpy as np
import pytest
from pruning_nets import conv_net, images

import pruning
from pruning import Calibration, DataError, Perturbation
from pruning.calibration import perturbed
from pruning.scores.certified import cells
from verifier.data.frame import Frame
from verifier.perturbation.perturbation import apply

S = Perturbation.of(gamma=(0.8, 1.2), fog=(0.0, 0.3), contrast=(0.8, 1.2), gradient_x=(-0.1, 0.1))
BLURRED = Perturbation.of(defocus=(0.0, 1.0), gain_0=(0.9, 1.1), haze=(0.0, 0.2))


@pytest.mark.parametrize("semantic", [S, BLURRED], ids=["gamma", "blur"])
def test_one_image_map_for_every_layout_and_every_way(semantic: Perturbation) -> None:
    pictures = images((1, 6, 5), 3, low=0.0, high=1.0)
    points = semantic.uniform(3, np.random.default_rng(0))
    wanted = apply(semantic, pictures.astype(np.float64), points)
    for layout, shape in (("nchw", (1, 6, 5)), ("nhwc", (6, 5, 1)), ("flat", (30,))):
        frame = Frame((1, *shape), layout, 1, 6, 5)
        held = frame.arranged(pictures).reshape(3, *shape)
        data = Calibration(held, semantic=semantic, samples=8, frame=frame)
        moved = data.moved(held, points)
        assert moved.dtype == np.float32 and moved.shape == held.shape
        np.testing.assert_allclose(frame.restored(moved), wanted, atol=2e-6)
        for image, batch in zip(held, perturbed(data), strict=True):
            assert (batch[0] == image).all()
            for point, found in zip(data.points(), batch[1:], strict=True):
                np.testing.assert_allclose(found, data.moved(image[None], point)[0], atol=2e-6)
        exact = np.stack([data.image_map(image)(point) for image, point in zip(held, points, strict=True)])
        np.testing.assert_allclose(np.clip(exact, 0, 1), moved.reshape(3, -1), atol=2e-6)


def test_data_that_are_no_pictures_move_by_what_treats_all_values_alike() -> None:
    rows = images((7,), 4, low=0.0, high=1.0)
    data = Calibration(rows, semantic=Perturbation.of(gamma=(0.8, 1.2), contrast=(0.8, 1.2)))
    np.testing.assert_allclose(data.moved(rows, [1.1, 0.9]), 0.9 * rows**1.1, rtol=1e-5)
    with pytest.raises(DataError, match="parameter fog changes pictures, and the data are none"):
        Calibration(rows, semantic=Perturbation.of(fog=(0, 1))).moved(rows, [0.5])


def test_criteria_score_under_any_parameters_and_say_so() -> None:
    net, x = conv_net(), images((1, 8, 8), 6, low=0.0, high=1.0)
    data = Calibration(x, semantic=S, samples=16)
    scores = pruning.score(net, data, "usn")
    assert np.isfinite(scores.values).any() and scores.options["fog"] == (0.0, 0.3)
    few = Calibration(x[:2], semantic=Perturbation.of(gamma=(0.95, 1.05), haze=(0.0, 0.05)), samples=64)
    sampled, proved = pruning.score(net, few, "usn").parts["R"], pruning.score(net, few, "usn-cert").parts["C"]
    live = pruning.find_groups(net).prunable & (sampled >= 0)
    assert live.sum() > 4 and (proved[live] <= sampled[live] + 1e-6).all() and (proved[live] > 0).any()
    assert cells(S, 4).shape == (16, 4, 2)
