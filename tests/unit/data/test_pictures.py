import numpy as np
import pytest
from PIL import Image

from verifier.data import pictures
from verifier.errors import ProblemError


def test_png_jpeg_and_npy(tmp_path):
    draw = np.random.default_rng(0)
    colour = draw.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "c.png")
    Image.fromarray(colour[:, :, 0]).save(tmp_path / "g.png")
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / "c.jpg")
    assert np.array_equal(pictures.read(tmp_path / "c.png", 3) * 255, colour.transpose(2, 0, 1))
    assert np.array_equal(pictures.read(tmp_path / "g.png", 1)[0] * 255, colour[:, :, 0])
    assert np.array_equal(pictures.read(tmp_path / "g.png", 3)[2] * 255, colour[:, :, 0])
    grey = colour @ np.array([0.299, 0.587, 0.114])
    assert np.abs(pictures.read(tmp_path / "c.png", 1)[0] * 255 - grey).max() < 1
    assert np.abs(pictures.read(tmp_path / "c.jpg", 3) * 255 - 90).max() <= 2

    value = draw.random((3, 5, 6))
    for name, stored, expected in (
        ("chw", value, value),
        ("hwc", value.transpose(1, 2, 0), value),
        ("hw", value[0], np.repeat(value[:1], 3, axis=0)),
        ("bytes", (value * 255).astype(np.uint8), (value * 255).astype(np.uint8) / 255),
    ):
        np.save(tmp_path / f"{name}.npy", stored)
        assert np.array_equal(pictures.read(tmp_path / f"{name}.npy", 3), expected)


def test_bad_pictures(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "ints.npy", np.zeros((4, 4), np.int32))
    np.save(tmp_path / "four.npy", np.zeros((1, 1, 4, 4)))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "four.npy").read_bytes()[:60])
    for name in ("text.png", "none.png", "objects.npy", "ints.npy", "four.npy", "cut.npy", "none.npy"):
        with pytest.raises(ProblemError, match=name):
            pictures.read(tmp_path / name, 1)


def test_huge_pictures_are_refused(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    with pytest.raises(ProblemError, match="too many"):
        pictures.read(tmp_path / "a.png", 1)
