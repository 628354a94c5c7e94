"""`secateur compare` on any source: the same data, units and properties as in the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from pruning.study import cli, spec
from pruning.study.wiring import hands
from tests.unit.semantic.semantic_helpers import network
from verifier.data import networks

SMALL = "contrast=0.99:1.01,brightness=-0.01:0.01"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(network(size=16), "pixels.onnx")
    shares = network(size=16)
    for tensor in shares.graph.initializer:
        if tensor.name in ("w3", "b3"):
            value = (numpy_helper.to_array(tensor) / 16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    onnx.save(shares, "shares.onnx")
    onnx.save(network("labels", size=16), "classes.onnx")
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 16, 16), dtype=np.uint8)
    points = np.tile([[8.0, 8.0], [7.0, 9.0], [9.0, 7.0]], (3, 1, 1))
    np.savez("points.npz", images=images, keypoints=points)
    np.savez("images.npz", images=images)
    Path("folder").mkdir()
    for i, picture in enumerate(images):
        Image.fromarray(picture[0]).save(f"folder/{i}.png")
        Path(f"folder/{i}.json").write_text(json.dumps({"keypoints": points[i].tolist()}))
    return tmp_path


def compare(place: Path, *arguments: str) -> list[dict]:
    assert cli.main([*arguments, "--rectangle", SMALL, "--timeout", "60", "--no-report"]) == 0
    return [json.loads(line) for line in (place / "out/compare/results.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("data", ["folder", "points.npz"])
def test_folders_and_arrays(place, capsys, data):
    rows = [r for r in compare(place, "pixels.onnx", "--data", data, "--images", "1:3", "--tau", "0.3") if "image" in r]
    assert [r["image"] for r in rows] == [1, 2] and all(r["verdict"] == "certified" for r in rows)
    said = capsys.readouterr().err
    assert "pixels: 2 unchanged images: error" in said and "warning" not in said


def test_a_tolerance_in_pixels_is_a_share_of_the_width(place):
    given = ["pixels.onnx", "--data", "points.npz", "--images", "1", "--tolerance", "4.8px"]
    (row,) = [r for r in compare(place, *given) if "image" in r]
    assert row["tau"] == pytest.approx(4.8 / 16) and row["verdict"] == "certified"


def test_outputs_in_another_unit(place, capsys):
    given = ["--data", "points.npz", "--images", "1", "--tau", "0.3"]
    (wrong,) = [r for r in compare(place, "shares.onnx", *given) if "image" in r]
    said = capsys.readouterr().err
    assert wrong["verdict"] == "refuted" and "differ in scale" in said and "--output-scale" in said
    assert (
        cli.main(["shares.onnx", *given, "--output-scale", "16", "--rectangle", SMALL]) == 2
    )  # another study's folder
    capsys.readouterr()
    (right,) = [
        r
        for r in compare(place / "b", "shares.onnx", *given, "--output-scale", "16", "--out", "b/out/compare")
        if "image" in r
    ]
    said = capsys.readouterr().err
    assert right["verdict"] == "certified" and "warning" not in said and right["clean_error"] < 0.3


def test_classes_by_the_networks_own_answer(place, capsys):
    given = ["classes.onnx", "--data", "images.npz", "--property", "label", "--reference", "self"]
    rows = [r for r in compare(place, *given) if "image" in r]
    assert len(rows) == 3 and all(r["verdict"] in ("certified", "refuted") for r in rows)
    assert all(r["clean_error"] == 0 for r in rows)


def test_shipped_names_and_missing_truth(place, capsys):
    assert cli.main(["cnn8", "--data", "folder"]) == 2
    assert "shipped are: cnn7_w8" in capsys.readouterr().err
    assert cli.main(["pixels.onnx", "--data", "images.npz"]) == 2
    assert "a target is needed" in capsys.readouterr().err
    task = spec.VerificationTask("aircraft23", 0.2, "small", 30.0)
    assert hands(task).count() is None and "cnn7_w8" in hands(task).describe([networks.find("cnn7_w8")], [0])[1]


def test_older_folders_of_results_can_be_gone_on_with():
    """What a task was before it had these settings is what is recorded where they are not used."""
    assert spec.VerificationTask("aircraft23").record() == {
        "data": "aircraft23", "tau": 0.03, "rectangle": "medium", "timeout": 60.0, "clock": "wall",
    }  # fmt: skip
    assert spec.VerificationTask("a.json", crop="none").record()["crop"] == "none"
