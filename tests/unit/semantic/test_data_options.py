"""The same data, crop and units in `spec` and `coverage`: what is printed, warned of and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from tests.unit.semantic.semantic_helpers import network
from verifier.semantic import cli, coverage

RANGES = ["--contrast", "0.99,1.01", "--brightness", "-0.01,0.01"]
SIDE = 16


def divided(model: onnx.ModelProto, by: float) -> onnx.ModelProto:
    """The network with its outputs divided."""
    for tensor in model.graph.initializer:
        if tensor.name in ("w3", "b3"):
            value = (numpy_helper.to_array(tensor) / by).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return model


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Networks that answer in pixels, in sixteenths of them, with classes, with heatmaps; and pictures for all."""
    monkeypatch.chdir(tmp_path)
    onnx.save(network(size=SIDE), "pixels.onnx")
    onnx.save(divided(network(size=SIDE), SIDE), "shares.onnx")
    onnx.save(network("labels", size=SIDE), "classes.onnx")
    onnx.save(network("heatmap", size=SIDE), "maps.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 1, SIDE, SIDE), dtype=np.uint8)
    points = np.tile([[8.0, 8.0], [7.0, 9.0], [9.0, 7.0]], (3, 1, 1))
    np.savez("points.npz", images=images, keypoints=points)
    np.savez("classes.npz", images=images, labels=np.zeros(3, np.int64))
    np.savez("bytes.npz", images=images.astype(np.float32), keypoints=points)
    np.savez("own.npz", images=images, labels=np.zeros((3, 6), np.float32))
    Path("folder").mkdir()
    for i, picture in enumerate(images):
        Image.fromarray(picture[0]).save(f"folder/{i}.png")
        Path(f"folder/{i}.json").write_text(json.dumps({"keypoints": points[i].tolist()}))
    entry = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 20], "keypoints": [15, 15, 2, 30, 20, 2, 45, 25, 2]}
    content = {
        "categories": [{"id": 1, "name": "x", "keypoints": ["a", "b", "c"]}],
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 5, **entry}, {"id": 6, **entry}],
    }
    Image.fromarray(np.full((60, 80), 90, np.uint8)).save("a.png")
    Path("coco.json").write_text(json.dumps(content))
    return tmp_path


def run(command, *arguments, capsys):
    call = coverage.main if command == "coverage" else cli.main
    out = ["--out", "pair"] if command == "spec" else []
    code = call([*(str(a) for a in arguments), *out])
    said = capsys.readouterr()
    return code, said.out, said.err


BOTH = pytest.mark.parametrize("command", ["spec", "coverage"])


@BOTH
@pytest.mark.parametrize("data", ["folder", "points.npz", "coco.json"])
def test_every_source_in_both_commands(place, capsys, command, data):
    code, out, err = run(
        command, "pixels.onnx", "--data", data, "--images", "0:2", *RANGES, "--tolerance", 14, capsys=capsys
    )
    assert code == 0 and "error" in out + err and "outputs span" in out + err and "warning" not in err
    assert ("(--crop box)" in out + err) == (data == "coco.json")
    if command == "spec":
        assert len((place / "pair_instances.csv").read_text().splitlines()) == 2
    else:
        assert "mean certified 1.0000, in full 2 of 2" in out


@BOTH
def test_outputs_in_another_unit_are_told_and_understood(place, capsys, command):
    given = ["shares.onnx", "--data", "points.npz", "--images", "1", *RANGES, "--tolerance", "5"]
    code, out, err = run(command, *given, capsys=capsys)
    assert code == 0 and "differ in scale" in err and "--output-scale" in err and "violates the property already" in err
    code, out, err = run(command, *given, "--output-scale", SIDE, capsys=capsys)
    assert code == 0 and "warning" not in err
    error = (out + err).split("error ")[1].split(" px")[0]
    code, out, err = run(command, "pixels.onnx", *given[1:], capsys=capsys)
    assert (out + err).split("error ")[1].split(" px")[0] == error  # the same error in pixels


@BOTH
def test_a_normalisation_means_the_same(place, capsys, command):
    """(x - mean) / std in front of the network changes its answer, unless it changes nothing."""
    given = ["--data", "points.npz", "--images", "1", *RANGES, "--tolerance", "30"]
    plain = run(command, "pixels.onnx", *given, capsys=capsys)
    moved = run(command, "pixels.onnx", *given, "--mean", "0.5", "--std", "0.25", capsys=capsys)
    same = run(command, "pixels.onnx", *given, "--mean", "0", "--std", "1", capsys=capsys)
    lines = [
        next(x for x in (out + err).splitlines() if x.startswith("unchanged")) for _, out, err in (plain, moved, same)
    ]
    assert lines[0] == lines[2] != lines[1]


@BOTH
def test_classes(place, capsys, command):
    given = ["classes.onnx", "--data", "classes.npz", *RANGES]
    code, out, err = run(command, *given, capsys=capsys)
    assert code == 0 and "class" in out + err
    code, out, err = run(command, *given, "--property", "label", "--reference", "self", capsys=capsys)
    assert code == 0 and (command == "spec" or "in full 3 of 3" in out)


@BOTH
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maps.onnx", "--data", "folder", "--property", "linf", "--tolerance", "5"], "need --property heatmap"),
        (["pixels.onnx", "--data", "folder", "--property", "heatmap", "--tolerance", "5"], "--property linf"),
        (
            ["pixels.onnx", "--image", ".", "--keypoints", "coco.json", "--tolerance", "5"],
            "--annotation ID (such as 5, 6)",
        ),
        (["pixels.onnx", "--image", "a.png", "--tolerance", "5"], "--crop whole"),
        (["pixels.onnx", "--data", "bytes.npz", "--tolerance", "5"], "divide 8-bit values by 255"),
        (["pixels.onnx", "--data", "own.npz", "--tolerance", "5"], "give key points as 'keypoints'"),
        (["pixels.onnx", "--data", "classes.npz", "--property", "linf", "--tolerance", "5"], "needs key points"),
        (["pixels.onnx", "--data", "folder", "--tolerance", "5", "--images", "9"], "there are 3 pictures"),
        (["pixels.onnx", "--data", "folder", "--tolerance", "5", "--label", "1"], "speak about one picture"),
        (
            ["pixels.onnx", "--data", "folder", "--annotation", "5", "--tolerance", "5"],
            "--annotation needs a COCO file",
        ),
        (["pixel", "--data", "folder", "--tolerance", "5"], "shipped are: cnn7_w8"),
    ],
)
def test_what_is_missing_is_named(place, capsys, command, arguments, message):
    code, _, err = run(command, *arguments, *RANGES, capsys=capsys)
    assert code == 2 and message in err and err.count("\n") == 1


@BOTH
def test_grey_levels_of_0_to_255_are_refused(place, capsys, command):
    given = ["pixels.onnx", "--data", "folder", "--images", "1", "--tolerance", "5"]
    code, _, err = run(command, *given, "--brightness=-25,25", capsys=capsys)
    assert code == 2 and "pixels lie in [0, 1]" in err and "-0.09804,0.09804" in err
    code, _, err = run(command, *given, "--gradient-x=-25,25", capsys=capsys)
    assert code == 2 and "[-2, 2]" in err
