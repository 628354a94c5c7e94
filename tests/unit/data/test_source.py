"""One meaning of data: what every kind of source gives, at the size of the network, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from verifier.data import aircraft23, networks, options, source, truth, unchanged
from verifier.data.frame import Frame, Head
from verifier.errors import OptionsError, ProblemError, SecateurError

FRAME = Frame.of((1, 1, 16, 16))
POINTS = [[2.0, 3.0, 2], [9.0, 8.0, 1]]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 16, 16), dtype=np.uint8)


def test_the_same_pictures_from_every_kind_of_source(tmp_path: Path, pixels: np.ndarray) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"{i}.png")
        (folder / f"{i}.json").write_text(json.dumps({"keypoints": POINTS}))
    (tmp_path / "list.txt").write_text("# mine\npictures/0.png\n\npictures/1.png\npictures/2.png\n")
    np.savez(tmp_path / "a.npz", images=pixels[:, None], keypoints=np.tile(POINTS, (3, 1, 1)))
    entries = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [0, 0, 16, 16], "keypoints": [1.5, 2.5, 2, 8.5, 7.5, 1]}
        for i in range(3)
    ]
    content = {
        "categories": [{"id": 1, "name": "x", "keypoints": ["a", "b"]}],
        "images": [{"id": i, "file_name": f"{i}.png", "width": 16, "height": 16} for i in range(3)],
        "annotations": entries,
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    sources = [
        source.find(str(folder)),
        source.find(str(tmp_path / "list.txt")),
        source.find(str(tmp_path / "a.npz")),
        source.find(str(tmp_path / "coco.json"), folder=folder, crop="none"),
    ]
    for found in sources:
        assert found.count == 3
        (sample,) = found.read(FRAME, [1])
        assert np.array_equal(sample.image[0], pixels[1] / 255)
        assert sample.keypoints is not None and sample.visibility is not None
        assert np.array_equal(np.column_stack([sample.keypoints, sample.visibility]), POINTS)
    (single,) = source.find(str(folder / "1.png")).read(FRAME, [0])
    assert np.array_equal(single.image[0], pixels[1] / 255)
    assert "(--crop box)" in source.find(str(tmp_path / "coco.json"), folder=folder).note(FRAME)


def test_rendered_pictures_do_not_depend_on_how_they_are_asked_for() -> None:
    frame = Frame.of((1, 1, 16, 16))
    whole = aircraft23.load("val", 4, size=16, start=3)
    read = source.find("aircraft23:val").read(frame, [3, 4, 6])
    part = source.find("aircraft23:val:3-6").read(frame, [0, 1, 3])
    for mine, other, i in zip(read, part, (0, 1, 3), strict=True):
        assert np.array_equal(mine.image, other.image) and np.array_equal(mine.image, whole.images[i])
        assert mine.name == other.name == f"val{3 + i:05d}" and mine.scene is not None
    assert source.find("aircraft23", split="train").note(frame).startswith("pictures: aircraft23, train")
    for text in ("aircraft23:nope", "aircraft23:test:4-3", "aircraft23:test:1:side", "aircraft23:7", "aircraft23:"):
        with pytest.raises(OptionsError):
            source.find(text)


def test_crop_means_the_same_for_every_source(tmp_path: Path) -> None:
    big = np.zeros((32, 64), np.uint8)
    big[8:16, 16:32] = 255
    Image.fromarray(big).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps({"keypoints": [[32, 16]]}))
    np.savez(tmp_path / "a.npz", images=big[None], keypoints=np.array([[[32.0, 16.0]]]))
    content = {
        "categories": [{"id": 1, "name": "x", "keypoints": ["a"]}],
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [16, 8, 16, 8],
                         "keypoints": [31.5, 15.5, 2]}],
    }  # fmt: skip
    (tmp_path / "coco.json").write_text(json.dumps(content))
    for name in ("a.png", "a.npz", "coco.json"):
        (sample,) = source.find(str(tmp_path / name), crop="whole").read(FRAME, [0])
        assert sample.keypoints is not None and np.allclose(sample.keypoints, [[8, 8]])
        assert "64x32 to 16x16 (--crop whole)" in sample.note
        assert sample.image[0, 5, 5] == 1 and sample.image[0, 12, 12] == 0
        with pytest.raises(ProblemError, match="64x32 pixels, the network takes 16x16; --crop whole"):
            source.find(str(tmp_path / name), crop="none").read(FRAME, [0])
    (sample,) = source.find(str(tmp_path / "coco.json")).read(FRAME, [0])  # a square of 20 around (24, 12)
    assert sample.keypoints is not None and np.allclose(sample.keypoints, [[(32 - 14) * 0.8, (16 - 2) * 0.8]])
    assert "square of 20 pixels at (14, 2)" in sample.note


def test_a_turned_picture_must_have_the_size_that_the_annotations_are_about(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((16, 32), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    content = {
        "categories": [{"id": 1, "name": "x", "keypoints": ["a"]}],
        "images": [{"id": 1, "file_name": "a.jpg", "width": 32, "height": 16}],
        "annotations": [{"id": 7, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "keypoints": [1, 1, 2]}],
    }
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(ProblemError, match="16x32 pixels .EXIF orientation applied., the annotation file states 32x16"):
        source.find(str(tmp_path / "c.json")).read(FRAME, [0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros((2, 1, 16, 16))}, "no array 'images'"),
        ({"images": np.full((2, 1, 16, 16), 255.0)}, "divide 8-bit values by 255"),
        ({"images": np.zeros((2, 1, 16, 16), np.int32)}, "int32"),
        ({"images": np.zeros((2, 1, 16, 16), np.uint8), "labels": np.zeros(3, int)}, "2 images but 3 labels"),
        ({"images": np.zeros((2, 1, 16, 16), np.uint8), "keypoints": np.zeros((2, 3))}, "keypoints have shape"),
        ({"images": np.zeros((2, 1, 16, 16), np.uint8), "labels": np.array(["a", "b"])}, "'labels' has type"),
        ({"images": np.zeros((2, 2, 16, 16), np.uint8)}, "is no image"),
        ({"images": np.zeros((0, 1, 16, 16), np.uint8)}, "n > 0"),
    ],
)
def test_bad_arrays(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match=message):
        source.find(str(tmp_path / "a.npz")).read(FRAME, [0])


def test_bad_names_and_lists(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "l.txt").write_text("\n")
    for name, message in (
        ("empty", "no pictures in this folder"),
        ("l.txt", "the list is empty"),
        ("m.txt", "cannot read the list"),
        ("a.xyz", "expected aircraft23, a folder, a picture, a list"),
        ("b.npz", "not a readable .npz"),
    ):
        with pytest.raises(SecateurError, match=message):
            source.find(str(tmp_path / name))
    with pytest.raises(OptionsError, match="--pictures belongs to a COCO file"):
        source.find("aircraft23.npz", folder=tmp_path)


def test_images_of_a_source() -> None:
    assert options.chosen(None, 3) == [0, 1, 2]
    assert options.chosen(None, None, 100) == list(range(100)) and options.chosen(None, 7, 100) == list(range(7))
    assert (
        options.chosen("2", 3) == [0, 1] and options.chosen("1:3", 3) == [1, 2] and options.chosen("2,0", 3) == [2, 0]
    )
    for text, count, message in (
        (None, None, "--images is missing"),
        ("3:3", None, "empty"),
        ("0", 3, "empty"),
        ("a", 3, "expected N"),
        ("1,1", 3, "twice"),
        ("-1:2", 3, "negative"),
        ("5", 3, "there are 3 pictures"),
    ):
        with pytest.raises(OptionsError, match=message):
            options.chosen(text, count)


def test_shipped_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert networks.find("cnn7_w8") == networks.path("cnn7_w8")
    (tmp_path / "cnn7_w8").write_bytes(b"")
    assert networks.find("cnn7_w8") == Path("cnn7_w8")  # a file of that name goes first
    assert networks.find("some/where.onnx") == Path("some/where.onnx")
    with pytest.raises(OptionsError, match="'cnn8' is no file and no shipped network; shipped are: cnn7_w8"):
        networks.find("cnn8")


def test_truth_names_the_option_for_a_coco_file(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"annotations": [{"id": 5, "keypoints": [1, 2, 2]}], "images": []}))
    with pytest.raises(ProblemError, match=r"COCO file of many objects; choose one with --annotation ID .such as 5."):
        truth.read(tmp_path / "c.json")
    (tmp_path / "l.json").write_text('{"label": 3}')
    assert truth.read(tmp_path / "l.json").label == 3
    (tmp_path / "l.json").write_text('{"label": "cat"}')
    with pytest.raises(ProblemError, match="a whole number"):
        truth.read(tmp_path / "l.json")


def test_the_answer_to_unchanged_pictures() -> None:
    at, other = np.array([[3.0, 4.0], [30.0, 40.0]]), np.array([[3.0, 4.0], [33.0, 44.0]])
    good = unchanged.UnchangedAnswer(at.reshape(-1), at, other, excess=-1.0)
    assert unchanged.line([good]) == "unchanged image: error 2.5 px (largest 5), outputs span 3..40"
    assert unchanged.warnings([good]) == []
    small = unchanged.UnchangedAnswer(at.reshape(-1) / 64, at / 64, other, excess=9.0)
    scale, broken = unchanged.warnings([small])
    assert "targets span 3..44 px, the network's answers mean 0.04688..0.625 px" in scale and "--output-scale" in scale
    assert broken.startswith("the unchanged image violates the property already")
    classes = [
        unchanged.UnchangedAnswer(np.array([0.0, 1.0]), 1, 1),
        unchanged.UnchangedAnswer(np.array([2.0, 1.0]), 0, 1),
    ]
    assert unchanged.line(classes) == "2 unchanged images: 1 of 2 classes wrong, outputs span 0..2"
    assert Head(64.0).value(32.0) == 0.5 and Head.given(None, None) is None and Head.given(2.0, None) == Head(2.0)
