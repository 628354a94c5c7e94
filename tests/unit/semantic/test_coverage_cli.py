import json

import numpy as np
import pytest
from PIL import Image

from tests.unit.semantic.test_coverage import image_study
from verifier.semantic.coverage import main

ONE = ["--network", "cnn7_w8", "--images", "4:5", "--contrast", "0.9,1.1", "--brightness", "-0.05,0.05", "--tolerance"]


@pytest.fixture
def pair(tmp_path):
    study = image_study(0.12, seed=3)
    (tmp_path / "a.onnx").write_bytes(study.model().SerializeToString())
    (tmp_path / "a.vnnlib").write_text(study.spec())
    return str(tmp_path / "a.onnx"), str(tmp_path / "a.vnnlib")


def test_a_pair_of_files_gives_figures_cells_and_a_picture(pair, tmp_path, capsys):
    out = [f"--json={tmp_path / 'o.json'}", f"--npz={tmp_path / 'o.npz'}", f"--picture={tmp_path / 'o.png'}"]
    assert main([*pair, *out, "--open", "0.01"]) == 0
    member = json.loads((tmp_path / "o.json").read_text())["members"][0]
    assert abs(member["certified"] + member["refuted"] + member["open"] - 1) < 1e-12
    assert member["open"] <= 0.01 and member["counterexamples"]
    assert f"certified {member['certified']:.6f}" in capsys.readouterr().out
    with np.load(tmp_path / "o.npz") as data:
        depth = data["level"].sum(1, dtype=int)
        assert np.ldexp(1.0, -depth[data["status"] == 1]).sum() == member["certified"]
    picture = np.asarray(Image.open(tmp_path / "o.png").convert("RGB"))
    blue, orange = (np.abs(picture - np.array(c)).sum(2) < 30 for c in ((169, 204, 232), (242, 169, 126)))
    assert blue.mean() > 0.05 and orange.mean() > 0.02


def test_images_without_files_and_going_on_from_a_checkpoint(tmp_path, capsys):
    keep = f"--checkpoint={tmp_path / 'c.npz'}"
    assert main([*ONE, "4", keep, "--timeout", "0.0001"]) == 0
    assert "open 1.000000" in capsys.readouterr().out
    assert main([*ONE, "4", keep, f"--json={tmp_path / 'o.json'}"]) == 0
    member = json.loads((tmp_path / "o.json").read_text())["members"][0]
    assert member["certified"] == 1.0 and member["exact"]["certified"] == "1"
    assert member["certified_rectangle"]["exact_share"] == "1"
    capsys.readouterr()
    assert main([*ONE, "5", keep]) == 2
    assert "belongs to another network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either two files"),
        (["a.onnx"], "specification is missing"),
        (["a.onnx", "a.vnnlib", "--network", "cnn7_w8"], "either two files"),
        (["nothing.onnx", "nothing.vnnlib"], "nothing.vnnlib"),
        (["--network", "cnn7_w8", "--contrast", "0.9,1.1", "--tolerance", "3"], "--images"),
        (["--network", "cnn7_w8", "--images", "5:5", "--contrast", "0.9,1.1", "--tolerance", "3"], "empty"),
        (
            ["--network", "cnn7_w8", "--images", "0:1", "--contrast", "1.1,0.9", "--tolerance", "3"],
            "range of contrast is empty",
        ),
        (["--network", "cnn7_w8", "--images", "0:1", "--tolerance", "3"], "parameters are needed"),
        (["--network", "cnn7_w8", "--images", "0:1", "--contrast", "0.9,1.1"], "--tolerance is missing"),
        (["--network", "cnn8", "--images", "0:1", "--contrast", "0.9,1.1", "--tolerance", "3"], "cnn8"),
        ([*ONE, "3", "--open", "2"], "open share"),
        ([*ONE, "3", "--depth", "0"], "halvings"),
        ([*ONE, "3", "--picture", "x.bmp"], ".bmp"),
        ([*ONE, "3", "--json", "no/such/folder.json"], "does not exist"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
