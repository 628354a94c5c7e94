"""Small networks that ship with the tool, each with a JSON file that records how it was trained and how good it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

from verifier.errors import OptionsError

FOLDER = Path(__file__).parent


def names() -> tuple[str, ...]:
    """The shipped networks."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.onnx")))


def path(name: str = "cnn7_w8") -> Path:
    """The ONNX file of a shipped network; OptionsError for an unknown name."""
    if name not in names():
        raise OptionsError(f"no shipped network '{name}'; there are: {', '.join(names())}")
    return FOLDER / f"{name}.onnx"


def find(text: str | os.PathLike[str]) -> Path:
    """The file that a command line means: a file of this name, else the shipped network of this name.

    A path is returned as it is: whoever reads it says that there is no such file. OptionsError for a bare name that is
    neither.
    """
    name = os.fspath(text)
    if Path(name).exists() or "." in name or os.sep in name:
        return Path(name)
    if name not in names():
        raise OptionsError(f"'{name}' is no file and no shipped network; shipped are: {', '.join(names())}")
    return path(name)


def record(name: str = "cnn7_w8") -> dict[str, object]:
    """How the network was trained (command, seed, versions) and its errors on the test split."""
    content = json.loads(path(name).with_suffix(".json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content
