"""Every block of every page runs as written, and what the pages promise holds; on fewer pictures. `make test-docs`."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.end_to_end.pages import TARGETS, Walk, blocks, pages, run, values
from verifier.data import networks

TUTORIALS, HOWTO, REFERENCE = "docs/tutorials", "docs/howto", "docs/reference"
OWN, PICTURES, PRUNE = f"{TUTORIALS}/own-network.md", f"{TUTORIALS}/pictures.md", f"{TUTORIALS}/prune.md"
LIST, SPECIFICATION = f"{TUTORIALS}/lists.md", f"{TUTORIALS}/specification.md"
FEWER = {
    'load("test", 8)': 'load("test", 2)', "--data aircraft23 ": "--data aircraft23:train:0-31 ",
    '("train", 256)': '("train", 32)', "range(150)": "range(20)",
}  # fmt: skip


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return Walk(tmp_path_factory.mktemp("docs"), FEWER)


@pytest.mark.parametrize("page", pages())
def test_every_page_runs(walk: Walk, page: str) -> None:
    walk.to(page)


def test_blocks_that_need_more_are_run_by_another_target() -> None:
    for needed in {block.needs for page in pages() for block in blocks(page)} - {""}:
        assert f'frozenset({{"{needed}"}})' in (Path(__file__).parent / TARGETS[needed]).read_text()


def test_from_pytorch_to_a_verdict(walk: Walk) -> None:
    walk.to(OWN)
    said = walk.said["verify own.onnx low.vnnlib"]
    x, y = values(said, "X"), values(said, "Y")
    assert ((x >= 0) & (x <= 1)).all() and y[0] >= 0.5
    assert run(walk.folder / "own.onnx", x[None]).item() == pytest.approx(y[0], abs=1e-6)
    grid = np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 101)]), -1).reshape(-1, 2)
    assert max(run(walk.folder / "own.onnx", point[None]).item() for point in grid) < 1.2  # as `unsat` says
    (map_of_own,) = (said for line, said in walk.said.items() if line.startswith("secateur coverage points.onnx"))
    assert "mean certified" in map_of_own and (walk.folder / "own.png").is_file()


def test_from_own_pictures_to_the_map(walk: Walk) -> None:
    folder = walk.to(PICTURES).folder
    for name in ("sheet.png", "map.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100
    said = [text for line, text in walk.said.items() if re.match("secateur coverage cnn7_w8 --data pictures", line)]
    assert len(said) == 2 and all("unchanged image" in text and "certified" in text for text in said)
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


def results(path: Path) -> dict[str, str]:
    with path.open() as file:
        return {Path(row[1]).stem: row[4] for row in csv.reader(file)}


def test_a_list(walk: Walk) -> None:
    folder = walk.to(LIST).folder
    assert results(folder / "results.csv") == {"aero_0": "unsat", "aero_1": "sat", "own": "unsat"}
    assert results(folder / "bench.csv") == {"own": "unsat"}
    (witness,) = (folder / "found").iterdir()
    text = witness.read_text()
    x, y = values(text, "X"), values(text, "Y")
    assert 0.8 <= x[0] <= 1.2 and -0.1 <= x[1] <= 0.1
    assert run(folder / "aero_1.onnx", x[None]).reshape(-1) == pytest.approx(y, abs=1e-3)
    assert " 1 " in walk.said["secateur compare --results results.csv"]


def test_a_list_in_parts_is_the_list(walk: Walk) -> None:
    folder = walk.to(f"{HOWTO}/clusters.md").folder
    whole = results(folder / "results.csv")
    assert whole == results(folder / "done.csv") == results(folder / "array.csv")
    assert len((folder / "done.csv").read_text().splitlines()) == len(whole)


def test_the_options_file(walk: Walk) -> None:
    assert (
        walk.to(f"{REFERENCE}/options.md")
        .said["verify own.onnx high.vnnlib --options options.yaml"]
        .startswith("unsat")
    )


def test_three_ways_to_write_one_specification(walk: Walk) -> None:
    folder = walk.to(SPECIFICATION).folder
    points = np.random.default_rng(0).uniform(size=(200, 2))
    y = np.stack([run(folder / "both.onnx", point[None])[0] for point in points])
    assert (y[:, 0] > y[:, 1]).all() and (y[:, 1] < 3).all()  # as `unsat` says
    lines = walk.said["python build.py"].splitlines()
    assert [line.split()[0] for line in lines] == ["either.vnnlib", "second.vnnlib", "built.vnnlib"]
    assert all(line.endswith("1 box") for line in lines)


def test_proofs_are_accepted(walk: Walk) -> None:
    said = walk.to(f"{HOWTO}/proofs.md").said["secateur check own.proof own.onnx high.vnnlib"]
    assert said.startswith("accepted unsat")
