import json

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.unit.semantic.semantic_helpers import Spec, network, official_reader_accepts, run, session
from verifier.data import aircraft23
from verifier.semantic import cli

RANGES = ["--contrast", "0.9,1.1", "--brightness", "-0.05,0.05"]


@pytest.fixture
def small(tmp_path):
    """A network file and a fitting picture with key points."""
    onnx.save(network(), tmp_path / "net.onnx")
    onnx.save(network("labels"), tmp_path / "labels.onnx")
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "truth.json").write_text(json.dumps({"keypoints": [[2, 3, 2], [5, 6, 2], [4, 1, 1]]}))
    return tmp_path


def spec(folder, *arguments, model="net.onnx", image="a.png", keypoints="truth.json", ranges=RANGES):
    given = [str(folder / model), "--image", str(folder / image), "--out", str(folder / "out"), *ranges]
    if keypoints:
        given += ["--keypoints", str(folder / keypoints)]
    return cli.main([*given, *arguments])


def test_shipped_network_on_a_rendered_picture(tmp_path, capsys):
    out = tmp_path / "pair"
    drawn = tmp_path / "a.png"
    arguments = ["cnn7_w8", "--image", "aircraft23:test:3", "--out", str(out), *RANGES, "--tolerance", "4"]
    assert cli.main([*arguments, "--draw", str(drawn), "--at", "0.9,-0.05"]) == 0
    said = capsys.readouterr().out
    assert "jointly affine" in said
    composite = session((tmp_path / "pair.onnx").read_bytes())
    text = (tmp_path / "pair.vnnlib").read_text()
    assert official_reader_accepts(text)
    data = aircraft23.load("test", 1, start=3)
    plain = session((cli.networks.path("cnn7_w8")).read_bytes())
    seen = data.visibility[0] == 2
    for values in ([1.0, 0.0], [0.9, -0.05], [1.1, 0.05]):
        y = run(composite, np.array([values]))
        shown = np.clip(values[0] * data.images + values[1], 0, 1)
        expected = run(plain, shown)
        assert np.abs(y - expected).max() < 1e-3
        error = np.abs(expected.reshape(23, 2) - data.keypoints[0])[seen].max()
        assert Spec(text).violated(np.array(values), y) == (error >= 4)
    record = json.loads((tmp_path / "pair.json").read_text())
    assert [p["name"] for p in record["parameters"]] == ["contrast", "brightness"]
    with Image.open(drawn) as picture:
        assert picture.width > 1000


def test_several_pictures_give_an_instance_list(tmp_path):
    out = tmp_path / "set"
    arguments = ["cnn7_w8", "--image", "aircraft23:val:0-2", "--out", str(out), *RANGES, "--tolerance", "4"]
    assert cli.main([*arguments, "--vnnlib", "2"]) == 0
    lines = (tmp_path / "set_instances.csv").read_text().splitlines()
    assert lines[1] == "set_val00001.onnx,set_val00001.vnnlib,60"
    for line in lines:
        model, text, _ = line.split(",")
        assert (tmp_path / model).stat().st_size > 1000
        assert "(vnnlib-version <2.0>)" in (tmp_path / text).read_text()


def test_pose_property_of_a_rendered_picture(tmp_path, capsys):
    arguments = ["cnn7_w8", "--image", "aircraft23:test:3", "--out", str(tmp_path / "p"), *RANGES]
    limits = ["--property", "pose", "--pose-limits", "0.3,0.3,0.3,0.2,0.2,0.6"]
    assert cli.main([*arguments, *limits, "--allocation", "log"]) == 0
    assert "exact PnP" in capsys.readouterr().out


def test_own_pictures_classes_and_every_parameter(small, capsys):
    assert spec(small, "--tolerance", "1") == 0
    everything = [*RANGES, "--gradient-x", "-0.1,0.1", "--gradient-y=0,0.1", "--haze", "0,0.2", "--patch", "0,1"]
    options = ["--patch-box", "1,1,4,4", "--anchor", "mean", "--mean", "0.5", "--std", "0.25", "--clip", "relu"]
    assert spec(small, "--property", "budget-sum", "--limit", "9", *options, ranges=everything) == 0
    assert "product nodes" in capsys.readouterr().out
    assert [d.dim_value for d in onnx.load(small / "out.onnx").graph.input[0].type.tensor_type.shape.dim] == [1, 6]
    label = ["--property", "label", "--draw", str(small / "drawn.png")]
    assert spec(small, *label, "--label", "2", model="labels.onnx", keypoints=None) == 0
    assert spec(small, *label, "--reference", "self", model="labels.onnx", keypoints=None) == 0
    assert (small / "drawn.png").exists()


def test_coco_annotation(small):
    content = {
        "categories": [{"id": 1, "name": "p", "keypoints": ["a", "b", "c"]}],
        "images": [{"id": 1, "file_name": "big.png"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "bbox": [8, 8, 16, 16],
                         "keypoints": [10, 10, 2, 20, 20, 2, 0, 0, 0]}],
    }  # fmt: skip
    Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).save(small / "big.png")
    (small / "coco.json").write_text(json.dumps(content))
    assert spec(small, "--tolerance", "1", "--annotation", "5", image=".", keypoints="coco.json") == 0
    record = json.loads((small / "out.json").read_text())
    assert record["keypoints"][0] == pytest.approx([8 / 20 * 4.5, 8 / 20 * 4.5, 2])
    assert spec(small, "--tolerance", "1", "--annotation", "6", image=".", keypoints="coco.json") == 2


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        ([], {}, "needs --tolerance"),
        (["--tolerance", "1"], {"image": "none.png"}, "cannot read"),
        (["--tolerance", "1"], {"model": "none.onnx"}, "no such file"),
        (["--tolerance", "1"], {"model": "a.png"}, "not an ONNX model"),
        (["--tolerance", "1"], {"keypoints": "a.png"}, "not valid JSON"),
        (["--tolerance", "1"], {"keypoints": None}, "a target"),
        (["--tolerance", "1"], {"ranges": ["--contrast", "1.1,0.9"]}, "range of contrast is empty"),
        (["--tolerance", "1"], {"ranges": []}, "between 1 and 6"),
        (["--tolerance", "1", "--patch", "0,1"], {}, "rectangle"),
        (["--tolerance", "1", "--patch", "0,1", "--patch-box", "0,0,1.5,3"], {}, "whole numbers"),
        (["--tolerance", "1", "--anchor", "median"], {}, "--anchor"),
        (["--tolerance", "1", "--draw", "x.png", "--at", "1"], {}, "needs 2 values"),
        (["--property", "pose"], {}, "known camera"),
        (["--property", "budget-mean"], {}, "needs --limit"),
        (["--tolerance", "1", "--layout", "nhwc"], {}, "as nhwc"),
    ],
)
def test_errors_are_one_line(small, capsys, arguments, changes, message):
    assert spec(small, *arguments, **changes) == 2
    error = capsys.readouterr().err
    assert error.startswith("secateur spec: error: ")
    assert len(error.splitlines()) == 1
    assert message in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "no key points"),
        ([], "no key points"),
        ({"keypoints": []}, "shape"),
        ({"keypoints": [1, 2]}, "shape"),
        ({"keypoints": "abc"}, "not a list of numbers"),
        ({"keypoints": [[1, 2, 5], [1, 2, 2], [1, 2, 2]]}, "visibility"),
        ({"keypoints": [[1, 2, 2]]}, "the target has 1"),
        ({"keypoints": [[1, 20, 2], [1, 2, 2], [1, 2, 2]]}, "outside"),
    ],
)
def test_bad_key_point_files(small, capsys, content, message):
    (small / "truth.json").write_text(json.dumps(content))
    assert spec(small, "--tolerance", "1") == 2
    assert message in capsys.readouterr().err


def test_rendered_names(small, capsys):
    for name in ("aircraft23:test", "aircraft23:test:3-1", "aircraft23:nope:1", "aircraft23:test:1:side"):
        assert cli.main(["cnn7_w8", "--image", name, "--out", str(small / "o"), *RANGES, "--tolerance", "4"]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert (
        cli.main(["cnn7_w8", "--image", "aircraft23:test:1", "--out", "/nonexistent/x", *RANGES, "--tolerance=4"]) == 2
    )
    assert "cannot write" in capsys.readouterr().err
