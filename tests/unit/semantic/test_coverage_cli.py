import json

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.unit.semantic.coverage_cases import image_problem
from tests.unit.semantic.semantic_helpers import network as small_network
from verifier.semantic.coverage import main

ONE = ["--network", "cnn7_w8", "--images", "4:5", "--contrast", "0.9,1.1", "--brightness", "-0.05,0.05", "--tolerance"]


@pytest.fixture
def pair(tmp_path):
    problem = image_problem(0.12, seed=3)
    (tmp_path / "a.onnx").write_bytes(problem.model().SerializeToString())
    (tmp_path / "a.vnnlib").write_text(problem.spec())
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
        (["--network", "cnn7_w8", "--images", "0:1", "--contrast", "0.9,1.1"], "needs --tolerance"),
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


@pytest.fixture(scope="module")
def heatmaps(tmp_path_factory):
    """A heatmap network for the rendered pictures: 23 maps of 16 x 16 of an untrained network, as a file."""
    path = tmp_path_factory.mktemp("net") / "maps.onnx"
    onnx.save(small_network("heatmap", size=64, points=23, seed=1), path)
    return str(path)


NARROW = ["--contrast", "0.9995,1.0005", "--brightness", "-0.0002,0.0002", "--reference", "self", "--images", "0:1"]


@pytest.mark.parametrize(
    ("arguments", "measure"),
    [
        (["--tolerance", "6"], "highest score outside"),
        (["--property", "budget-mean", "--limit", "4"], "mean of key point errors"),
    ],
)
def test_heatmap_networks(heatmaps, arguments, measure, tmp_path, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr("verifier.semantic.coverage_picture.picture", lambda found, path: drawn.append(found))
    out = [f"--json={tmp_path / 'o.json'}", f"--picture={tmp_path / 'o.png'}", "--open", "0.05", "--samples", "50"]
    assert main(["--network", heatmaps, *NARROW, *arguments, *out]) == 0
    member = json.loads((tmp_path / "o.json").read_text())["members"][0]
    assert member["open"] <= 0.05 and member["certified"] > 0.1
    assert measure in drawn[0].measure and drawn[0].tolerance == (4.0 if "--limit" in arguments else None)


def test_properties_are_checked(heatmaps, capsys):
    for arguments, message in (
        (["--property", "budget-sum"], "needs --limit"),
        (["--property", "linf", "--tolerance", "6"], "a coordinate head has 2K outputs"),
        (["--property", "budget-sum", "--limit", "0.1"], "violated by every answer"),
        ([], "needs --tolerance"),
    ):
        given = [*NARROW, *arguments] if "0.1" not in arguments else [a if a != "self" else "gt" for a in NARROW]
        assert main(["--network", heatmaps, *given, *(arguments if "0.1" in arguments else [])]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
