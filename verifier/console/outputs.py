"""No command writes over a file that it reads: the one check, made by every command before it starts."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from verifier.errors import OutputError
from verifier.files.whole import AnyPath

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".npy")
"""Endings of the files that a folder of data is read for."""


def keep_inputs(outputs: Iterable[AnyPath | None], inputs: Iterable[AnyPath | None]) -> None:
    """Refuses outputs that are among the inputs, whatever they are called: through links, `..` or another name.

    Of an input that is a folder, the pictures and arrays directly in it count. `inputs` is only gone through where an
    output exists already, so it may be costly to make. None stands for an option that was not given.

    Raises:
        OutputError: an output is a file that is read.
    """
    written = {key: Path(path) for path in outputs if path is not None and (key := _identity(path)) is not None}
    if not written:
        return
    for path in inputs:
        if path is None:
            continue
        key = _identity(path)
        if key in written:
            raise OutputError(f"{written[key]}: this file is read ({path}) and would be overwritten; write elsewhere")
        for target in written.values():
            if target.suffix.lower() in PICTURES and _inside(target, Path(path)):
                raise OutputError(f"{target}: lies in {path}, whose pictures are read; write elsewhere")


def _identity(path: AnyPath) -> tuple[int, int] | None:
    """Device and inode of a plain file; None for what is no file, or none yet (a pipe, /dev/null)."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def _inside(target: Path, folder: Path) -> bool:
    return folder.is_dir() and target.resolve().parent == folder.resolve()
