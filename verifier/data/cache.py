"""A disk cache for rendered blocks, in the user's cache directory. A damaged or foreign file is rendered again."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path

import numpy as np

from verifier.errors import OutputError
from verifier.files.whole import Whole, make_folder

NamedArrays = dict[str, np.ndarray]


def directory() -> Path:
    """`$XDG_CACHE_HOME/secateur`, by default `~/.cache/secateur`."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "secateur"


def read(path: Path, expected: dict[str, tuple[tuple[int, ...], str]]) -> NamedArrays | None:
    """The arrays of an .npz file if it holds exactly the expected shapes and dtypes, else None."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if set(stored.files) != set(expected):
                return None
            arrays = {name: stored[name] for name in expected}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    fits = all(arrays[k].shape == shape and arrays[k].dtype == dtype for k, (shape, dtype) in expected.items())
    return arrays if fits else None


def write(path: Path, arrays: NamedArrays) -> None:
    """Store atomically. A full or read-only disk costs time later, not the result now, so it is not an error."""
    with contextlib.suppress(OutputError):
        make_folder(path.parent)
        with Whole(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
