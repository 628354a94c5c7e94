"""README and *start here* run as written; of every other page, what can be said without running it (`make test-docs`
runs them all)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.pages import OWN, ROOT, Walk, blocks, follows, pages, run, text, values
from verifier.command.umbrella import available
from verifier.data import aircraft23, networks

README, START = "README.md", "docs/start.md"


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walk:
    return Walk(tmp_path_factory.mktemp("readme"), {"--picture map.png": "--picture map.png --open 0.1"})


def test_the_readme_runs_and_its_claim_holds(walk: Walk) -> None:
    walk.to(README)  # `unsat`, it says: so the shipped network itself, on the picture brightened and darkened by numpy
    images, points, seen = aircraft23.load("test", 1)
    for contrast in np.linspace(0.8, 1.2, 5):
        for brightness in np.linspace(-0.1, 0.1, 5):
            changed = np.clip(contrast * images.astype(np.float64) + brightness, 0, 1)
            answer = run(networks.path("cnn7_w8"), changed).reshape(-1, 2)
            assert np.abs(answer - points[0])[seen[0] == 2].max() <= 3


def test_start_here_ends_in_a_proof_a_counterexample_and_a_map(walk: Walk) -> None:
    folder = walk.to(START).folder
    said = (folder / "tight.txt").read_text()
    x, y = values(said, "X"), values(said, "Y")
    assert said.startswith("sat\n") and len(y) == 46
    assert run(folder / "tight.onnx", x[None]).reshape(-1) == pytest.approx(y, abs=1e-3)
    _, points, seen = aircraft23.load("test", 1)
    assert np.abs(y.reshape(-1, 2) - points[0])[seen[0] == 2].max() >= 2.2
    (line,) = (found for line, found in walk.said.items() if line.startswith("secateur coverage"))
    shares = re.search(r"certified ([\d.]+), refuted ([\d.]+), open ([\d.]+)", line)
    assert shares is not None and 0.5 < float(shares[1]) < 1 and float(shares[2]) > 0.1
    for name in ("map.png", "tight.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100


def test_every_block_is_a_file_or_commands_or_the_installation() -> None:
    """What is none of these would never be run: lines of a shell that a test or the Makefile runs, or a drawing."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in pages():
        for block in blocks(page):
            if block.language == "text":
                assert not any(re.match(r"\$ |" + "|".join(OWN), line) for line in block.lines), (page, block)
            elif block.file is None and not block.lines[0].startswith("$ "):
                for line in block.lines:  # installed in test_wheel; targets are there
                    command = line.partition("#")[0].strip()
                    target = re.fullmatch(r"make ([\w-]+)( \w+=\S+)*", command)
                    installs = re.match(r"(pip|python3 -m venv|\. \.venv)", command)
                    assert (target and target[1] in targets) or installs, f"{page}: {line}"


def test_every_page_names_commands_and_pages_that_exist() -> None:
    for page in pages():
        assert all((ROOT / name).is_file() for name in follows(page)), page
        for block in blocks(page):
            for line, _ in block.commands():
                name, *rest = line.split()
                assert name != "secateur" or rest[0] in {*available(), "--version"}, f"{page}: {line}"
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text(page)):
            if "://" not in target and "assets/" not in target:  # pictures are made with the site
                assert (ROOT / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_a_shipped_name_is_found_and_told_apart_from_a_pair(walk: Walk, monkeypatch, capsys) -> None:
    from verifier.command import verify as cli

    monkeypatch.chdir(walk.to(README).folder)
    assert cli.main(["cnn7_w8", "pair.vnnlib"]) == 2  # the specification speaks about two inputs
    assert "the network has 4096" in capsys.readouterr().err


def test_python_blocks_are_python() -> None:
    for page in pages():
        for block in blocks(page):
            if block.language == "python":
                compile("\n".join(block.lines), f"{page}: {block.file}", "exec")
                assert block.file is not None and Path(block.file).suffix == ".py"
