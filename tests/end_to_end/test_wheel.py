"""The wheel: every file of the packages is in it, and an installation of it works without the source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT

PACKAGES = ("verifier", "pruning", "vnnlib")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing is left in the tree."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source)
    (path,) = target.glob("secateur-*.whl")
    return path


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == files
    assert "verifier/data/networks/cnn7_w8.onnx" in packed


def test_an_installed_wheel_works_without_the_tree(wheel: Path, tmp_path: Path, net: Path, holds: Path) -> None:
    home = tmp_path / "home"
    venv.create(home)
    python = home / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-index", wheel)
    own = next((home / "lib").glob("python*/site-packages"))
    # the requirements come from the environment of the tests; a line in a .pth stands behind the wheel's own files, and
    # does not follow the .pth of an editable installation
    (own / "requirements.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")

    def run(*command: object) -> str:
        outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [*map(str, command)], cwd=tmp_path, env=outside, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(home / "bin" / "verify", net, holds) == "unsat\n"
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    there = {name for name, entry in scripts.items() if (ROOT / f"{entry.split(':')[0].replace('.', '/')}.py").exists()}
    assert {"secateur", "verify"} <= there
    for name in sorted(there):
        assert "usage" in run(home / "bin" / name, "--help")
    # a package of the same name as `vnnlib` is on PyPI
    code = (
        "import vnnlib, verifier, pruning as p; vnnlib.normalise; print(vnnlib.__file__, verifier.__file__, p.__file__)"
    )
    assert all(Path(found).is_relative_to(own) for found in run(python, "-c", code).split())
    networks = "from verifier.data import networks; print(networks.names(), networks.record()['recipe'])"
    assert "cnn7_w8" in run(python, "-c", networks)
