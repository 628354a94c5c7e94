from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end import forked, nets

Verify = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """The tree under test first, and one thread: the tests run beside each other."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def verify(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Verify:
    """Runs the command in the test's folder, in a process of its own but not in an interpreter of its own."""
    for name, value in environment().items():
        monkeypatch.setenv(name, value)

    def run(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return forked.verify([*map(str, arguments)], tmp_path, tmp_path_factory.mktemp("streams"), timeout)

    return run


@pytest.fixture
def verify_afresh(tmp_path: Path) -> Verify:
    """Runs the real command in the test's folder."""

    def run(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "verifier.command.verify", *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
        )

    return run


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """y = |x_0| + |x_1|."""
    return nets.absolute(tmp_path / "net.onnx")


@pytest.fixture
def holds(tmp_path: Path) -> Path:
    """On [-1, 1]^2 the network never reaches 2.5: unsat."""
    return nets.spec(tmp_path / "holds.vnnlib", "(>= Y_0 2.5)")


@pytest.fixture
def fails(tmp_path: Path) -> Path:
    """On [-1, 1]^2 the network reaches 1.5 near the corners: sat."""
    return nets.spec(tmp_path / "fails.vnnlib", "(>= Y_0 1.5)")
