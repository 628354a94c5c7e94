import numpy as np
import pytest
from PIL import Image

from verifier.errors import OutputError
from verifier.semantic import draw


def test_marks_are_where_the_points_are():
    """Green around the reference, red at the prediction, on an enlarged grey picture."""
    image = np.full((1, 64, 64), 0.5)
    true, found = np.array([[10.5, 20.5]]), np.array([[40.0, 50.0]])
    data = np.asarray(draw.panel(image, true, found, ["one", "two"])).astype(int)
    assert data.shape == (512 + 32, 512, 3)
    green, red = (np.argwhere((np.abs(data[:512] - colour) < 5).all(axis=2)) for colour in (draw.TRUE, draw.PREDICTED))
    assert np.abs(green.mean(axis=0) / 8 - [20.5, 10.5]).max() < 0.2
    assert np.abs(red.mean(axis=0) / 8 - [50.0, 40.0]).max() < 0.2
    assert (data[512:] > 200).any()  # the caption


def test_colour_pictures_without_points(tmp_path):
    image = np.random.default_rng(0).random((3, 20, 30))
    sheet = draw.side_by_side([draw.panel(image, None, None), draw.panel(image, None, None, ["x"])])
    draw.save(sheet, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as again:
        top = np.asarray(again)[:17, :17].reshape(-1, 3)
    assert np.abs(top[0] - image[:, 0, 0] * 255).max() <= 1
    with pytest.raises(OutputError, match="cannot write"):
        draw.save(sheet, tmp_path / "no" / "a.png")
    with pytest.raises(OutputError, match="cannot write"):
        draw.save(sheet, tmp_path / "a.unknown")
