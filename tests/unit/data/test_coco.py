import copy
import json

import numpy as np
import pytest
from PIL import Image

from verifier.data import coco
from verifier.errors import ProblemError

GOOD = {
    "categories": [{"id": 7, "name": "plane", "keypoints": ["nose", "tail", "fin"]}, {"id": 8, "name": "tree"}],
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [
        {"id": 4, "image_id": 1, "category_id": 7, "iscrowd": 0, "bbox": [30, 20, 40, 20],
         "keypoints": [30, 25, 2, 69, 39, 1, 0, 0, 0]},
        {"id": 5, "image_id": 1, "category_id": 7, "iscrowd": 1, "bbox": [0, 0, 9, 9], "keypoints": [1, 1, 2] * 3},
        {"id": 6, "image_id": 1, "category_id": 8, "bbox": [0, 0, 9, 9]},
        {"id": 9, "image_id": 1, "category_id": 7, "bbox": [0, 0, 9, 9], "keypoints": [0, 0, 0] * 3},
    ],
}  # fmt: skip


def write(folder, content):
    path = folder / "annotations.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def folder(tmp_path):
    """A black 100x60 picture with a white pixel at each visible key point."""
    data = np.zeros((60, 100), np.uint8)
    data[25, 30] = data[39, 69] = 255
    Image.fromarray(data).save(tmp_path / "a.png")
    return tmp_path


def test_reads_only_usable_annotations(folder):
    found = coco.read(write(folder, GOOD))
    assert [a.identity for a in found] == [4]


def test_crop_shows_the_marked_pixels_where_the_key_points_say(folder):
    (annotation,) = coco.read(write(folder, GOOD))
    for size in (25, 50, 100):
        crop = coco.crop(annotation, folder, size)
        assert crop.side == 50  # 1.25 x 40
        assert crop.image.shape == (1, size, size)
        assert list(crop.visibility) == [2, 1, 0]
        for k in (0, 1):
            x, y = crop.keypoints[k]
            rows, columns = np.mgrid[max(0, int(y) - 3) : int(y) + 4, max(0, int(x) - 3) : int(x) + 4]
            inside = (rows < size) & (columns < size)
            light = crop.image[0, rows[inside], columns[inside]]
            assert light.max() > 0.1
            centre = np.array([columns[inside] @ light, rows[inside] @ light]) / light.sum() + 0.5
            assert np.abs(centre - crop.keypoints[k]).max() < 0.25
            rest = crop.image[0].copy()
            for j in (0, 1):
                u, v = crop.keypoints[j].astype(int)
                rest[max(0, v - 3) : v + 4, max(0, u - 3) : u + 4] = 0
            assert rest.max() == 0


def test_inverse_map_and_errors(folder):
    (annotation,) = coco.read(write(folder, GOOD))
    crop = coco.crop(annotation, folder, 100)
    assert np.allclose(crop.keypoints / crop.scale + (crop.left, crop.top), annotation.keypoints)
    errors = crop.errors(crop.keypoints + np.array([3.0, 4.0]))
    assert np.allclose(errors["crop"][:2], 5)
    assert np.allclose(errors["original"][:2], 2.5)
    assert np.allclose(errors["share"][:2], 2.5 / np.sqrt(800))
    assert np.isnan(errors["crop"][2])


def test_crop_beyond_the_border_is_black_and_colour_works(folder):
    content = copy.deepcopy(GOOD)
    content["annotations"][0]["bbox"] = [80, 40, 30, 30]
    content["annotations"][0]["keypoints"] = [99, 59, 2, 0, 0, 2, 5, 5, 0]
    (annotation,) = coco.read(write(folder, content))
    crop = coco.crop(annotation, folder, 64, channels=3)
    assert crop.image.shape == (3, 64, 64)
    assert crop.image[:, -5:, -5:].max() == 0
    assert list(crop.visibility) == [2, 0, 0]  # the second lies outside the square


def changed(path, value):
    content = copy.deepcopy(GOOD)
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "expected a JSON object"),
        ({}, '"categories" must be a list'),
        ({"categories": [{"id": 1}]}, "no category with key points"),
        (changed(["categories", 1], {"id": 8, "name": "tree", "keypoints": ["top"]}), "several categories"),
        (changed(["annotations", 0, "keypoints"], [1, 2, 2]), "expected 3 x 3"),
        (changed(["annotations", 0, "keypoints"], "abc"), "lists of numbers"),
        (changed(["annotations", 0, "keypoints"], [1, 2, 7] * 3), "visibility must be"),
        (changed(["annotations", 0, "keypoints"], [1, float("nan"), 2] * 3), "expected 3 x 3"),
        (changed(["annotations", 0, "bbox"], [1, 2, 0, 4]), "positive size"),
        (changed(["annotations", 0, "bbox"], None), "bbox"),
        (changed(["annotations", 0, "image_id"], 99), "not listed"),
    ],
)
def test_bad_files(folder, content, message):
    with pytest.raises(ProblemError, match=message):
        coco.read(write(folder, content))


def test_bad_pictures(folder):
    for name, message in (
        ("../a.png", "leaves the image folder"),
        ("no.png", "cannot read"),
        ("annotations.json", "not a"),
    ):
        content = changed(["images", 0, "file_name"], name)
        (annotation,) = coco.read(write(folder, content))
        with pytest.raises(ProblemError, match=message):
            coco.crop(annotation, folder, 32)
    (annotation,) = coco.read(write(folder, changed(["annotations", 0, "bbox"], [0, 0, 1e6, 1e6])))
    with pytest.raises(ProblemError, match="far larger"):
        coco.crop(annotation, folder, 32)
    with pytest.raises(ProblemError, match="cannot read"):
        coco.read(folder / "missing.json")
