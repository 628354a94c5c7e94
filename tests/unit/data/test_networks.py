import numpy as np
import onnxruntime
import pytest

from verifier.data import aircraft23, networks
from verifier.errors import OptionsError


def test_the_shipped_network_is_small_and_as_good_as_its_record_says():
    path = networks.path("cnn7_w8")
    assert path.stat().st_size < 300_000
    data = aircraft23.load("test", 150)
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: data.images})[0].reshape(-1, 23, 2)
    error = np.linalg.norm(found - data.keypoints, axis=2)
    recorded = networks.record("cnn7_w8")["test"]["mean_px"]
    assert error.mean() < 2.0
    assert abs(error.mean() - recorded) < 0.25  # 150 of the 1000 pictures behind the recorded figure
    constant = np.linalg.norm(data.keypoints - data.keypoints.mean(axis=0), axis=2).mean()
    assert error.mean() < 0.3 * constant


def test_record_and_names():
    assert "cnn7_w8" in networks.names()
    record = networks.record("cnn7_w8")
    assert record["command"].startswith("secateur train --model cnn7 --width 8")
    assert record["recipe"]["seed"] == 0
    with pytest.raises(OptionsError, match="cnn7_w8"):
        networks.path("nothing")
