"""Small networks that ship with the tool, each with a JSON file that records how it was trained and how good it is."""

from __future__ import annotations

import json
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


def record(name: str = "cnn7_w8") -> dict[str, object]:
    """How the network was trained (command, seed, versions) and its errors on the test split."""
    content = json.loads(path(name).with_suffix(".json").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content
