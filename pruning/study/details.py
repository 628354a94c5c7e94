"""What a report draws and a row does not hold: cells of a coverage map and a counterexample, one .npz per result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pruning.study.errors import ResultsError
from pruning.study.hands import ImageVerdict, PictureWitness
from verifier.brief import brief
from verifier.files.whole import Whole, make_folder

MAX_BYTES = 1 << 28
_WITNESS = ("point", "picture", "predicted", "truth")


@dataclass(frozen=True, eq=False)
class Details:
    """cells (n, 2, 2) and states (n,) of a coverage map, names of its axes, a counterexample; see `ImageVerdict`."""

    __repr__ = brief

    cells: np.ndarray | None
    states: np.ndarray | None
    axes: tuple[str, ...]
    witness: PictureWitness | None


def path(folder: Path, name: str, image: int) -> Path:
    """Where the details of a result are."""
    return folder / "details" / name / f"{image}.npz"


def save(folder: Path, name: str, image: int, outcome: ImageVerdict) -> None:
    """Write what there is to draw, whole or not at all; nothing if there is nothing."""
    arrays = {}
    if outcome.cells is not None and outcome.states is not None:
        arrays = {"cells": np.asarray(outcome.cells, np.float64), "states": np.asarray(outcome.states, np.int8)}
        arrays["axes"] = np.asarray(outcome.axes)
    if outcome.witness is not None:
        w = outcome.witness
        arrays |= {key: np.asarray(getattr(w, key)) for key in _WITNESS} | {"worst": np.asarray(w.worst)}
    if not arrays:
        return
    target = path(folder, name, image)
    make_folder(target.parent)
    with Whole(target) as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]  # numpy's stub takes the flag for an array


def load(folder: Path, name: str, image: int) -> Details | None:
    """The details of a result; None where nothing was saved."""
    source = path(folder, name, image)
    if not source.is_file():
        return None
    if source.stat().st_size > MAX_BYTES:
        raise ResultsError(f"{source}: larger than {MAX_BYTES >> 20} MiB; expected the details of one result")
    try:
        with open(source, "rb") as stream, np.load(stream, allow_pickle=False) as held:
            arrays = {key: held[key] for key in held.files}
        witness = None
        if "worst" in arrays:
            witness = PictureWitness(**{key: arrays[key] for key in _WITNESS}, worst=int(arrays["worst"]))
        axes = tuple(str(name) for name in arrays.get("axes", ()))
        return Details(arrays.get("cells"), arrays.get("states"), axes, witness)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ResultsError(f"{source}: cannot read the details of a result: {error}") from None
