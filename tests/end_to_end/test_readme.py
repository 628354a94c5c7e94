"""Every block of the README runs as written, and what it promises holds; on fewer pictures."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from tests.end_to_end.readme import Walk, blocks
from verifier.data import networks

PYTORCH, PICTURES, PRUNE, LIST, OPTIONS = (
    "From PyTorch to a verdict", "Your own pictures, and the map of what is certified", "Prune and compare", "A list",
    "Options",
)  # fmt: skip
FEWER = {'load("test", 8)': 'load("test", 2)', "--data aircraft23 ": "--data aircraft23:train:0-31 "}


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return Walk(tmp_path_factory.mktemp("readme"), FEWER)


def run(model: str | Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(model))
    return session.run(None, {session.get_inputs()[0].name: x.astype(np.float32)})[0]


def values(witness: str, letter: str) -> np.ndarray:
    return np.array([float(v) for v in re.findall(rf"\({letter}_\d+ ([^)\s]+)\)", witness)])


def test_every_block_is_a_file_or_commands_or_the_installation() -> None:
    found = blocks()
    sections = {block.section for block in found}
    assert sections == {"Install", PYTORCH, PICTURES, PRUNE, LIST, OPTIONS}
    for block in found:
        if block.section == "Install":  # installed in test_wheel
            assert all(line.startswith("pip install ") for line in block.lines)
        else:
            assert block.file is not None or block.lines[0].startswith("$ "), block


def test_from_pytorch_to_a_verdict(walk: Walk) -> None:
    walk.to(PYTORCH)
    said = walk.said["verify own.onnx low.vnnlib"]
    x, y = values(said, "X"), values(said, "Y")
    assert ((x >= 0) & (x <= 1)).all() and y[0] >= 0.5
    assert run(walk.folder / "own.onnx", x[None]).item() == pytest.approx(y[0], abs=1e-6)
    grid = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 101)]), -1).reshape(-1, 2)
    assert max(run(walk.folder / "own.onnx", point[None]).item() for point in grid) < 1.2  # as `unsat` says


def test_from_own_pictures_to_the_map(walk: Walk) -> None:
    folder = walk.to(PICTURES).folder
    for name in ("sheet.png", "map.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100
    said = [text for line, text in walk.said.items() if line.startswith("secateur coverage")]
    assert all("unchanged image" in text and "certified" in text for text in said)
    shares = re.search(r"0: certified ([\d.]+), refuted ([\d.]+), open ([\d.]+)", said[1])
    assert shares is not None and 0 < float(shares[1]) < 1  # there is something to see on the map
    assert sum(float(share) for share in shares.groups()) == pytest.approx(1, abs=2e-6)
    # `unsat`: the shipped network itself, on the picture brightened and darkened by numpy
    pixels = np.asarray(Image.open(folder / "pictures/0.png"), np.float64)[None, None] / 255
    points = np.array(json.loads((folder / "pictures/0.json").read_text())["keypoints"])
    seen = points[:, 2] == 2
    for contrast in np.linspace(0.8, 1.2, 5):
        for brightness in np.linspace(-0.1, 0.1, 5):
            answer = run(networks.path("cnn7_w8"), np.clip(contrast * pixels + brightness, 0, 1)).reshape(-1, 2)
            assert np.abs(answer - points[:, :2])[seen].max() <= 3


def test_prune_and_compare(walk: Walk) -> None:
    folder = walk.to(PRUNE).folder
    dense, small = onnx.load(networks.path("cnn7_w8")), onnx.load(folder / "small.onnx")
    size = [sum(int(np.prod(w.dims)) for w in net.graph.initializer) for net in (dense, small)]
    assert size[1] < 0.9 * size[0] and dense.graph.output == small.graph.output
    assert (folder / "pruned/report.html").is_file() and (folder / "out/compare/report.html").is_file()
    lines = (folder / "out/compare/results.jsonl").read_text().splitlines()
    rows = [row for row in map(json.loads, lines) if "image" in row]
    assert sorted(row["image"] for row in rows) == [0, 0, 1, 1]
    assert {row["verdict"] for row in rows} <= {"certified", "refuted", "open"}
    assert all(row["tau"] == pytest.approx(0.15) for row in rows)


def test_a_list(walk: Walk) -> None:
    folder = walk.to(LIST).folder
    with (folder / "results.csv").open() as file:
        rows = {Path(row[1]).stem: row[4] for row in csv.reader(file)}
    assert rows == {"aero_0": "unsat", "aero_1": "sat", "own": "unsat"}
    (witness,) = (folder / "found").iterdir()
    text = witness.read_text()
    x, y = values(text, "X"), values(text, "Y")
    assert 0.8 <= x[0] <= 1.2 and -0.1 <= x[1] <= 0.1
    assert run(folder / "aero_1.onnx", x[None]).reshape(-1) == pytest.approx(y, abs=1e-3)
    assert " 1 " in walk.said["secateur compare --results results.csv"]


def test_the_options_file(walk: Walk) -> None:
    assert walk.to(OPTIONS).said["verify own.onnx high.vnnlib --options options.yaml"].startswith("unsat")


def test_a_shipped_name_is_found_and_told_apart_from_a_pair(walk: Walk, monkeypatch, capsys) -> None:
    from verifier.command import verify as cli

    monkeypatch.chdir(walk.to(PICTURES).folder)
    assert cli.main(["cnn7_w8", "pair.vnnlib"]) == 2  # the specification speaks about two inputs
    assert "the network has 4096" in capsys.readouterr().err
