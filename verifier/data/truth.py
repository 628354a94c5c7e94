"""What a picture shows, from a JSON file: key points with visibility, or a class."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verifier.brief import brief
from verifier.errors import ProblemError

MAX_BYTES = 16 << 20


@dataclass(frozen=True, eq=False)
class Truth:
    """keypoints (K, 2) in pixels of the picture as stored, visibility (K,) where it is given, label: a class."""

    __repr__ = brief

    keypoints: np.ndarray | None = None
    visibility: np.ndarray | None = None
    label: int | None = None


def read(path: Path) -> Truth:
    """{"keypoints": ...}: triples [x, y, v] flat or nested, or pairs [x, y]; or {"label": class}.

    Raises ProblemError for a file that cannot be read or holds neither.
    """
    content = load_json(path, MAX_BYTES)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        known = [str(a.get("id")) for a in content["annotations"] if isinstance(a, dict) and a.get("keypoints")]
        raise ProblemError(
            f"{path}: this is a COCO file of many objects; choose one with --annotation ID (such as "
            f"{', '.join(known[:3])}), or give it as --data {path.name} for all of them"
        )
    if not isinstance(content, dict) or not (content.keys() & {"keypoints", "label"}):
        raise ProblemError(
            f'{path}: no key points; expected an object with "keypoints": [[x, y, v], ...], or "label": class'
        )
    label = content.get("label")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int)):
        raise ProblemError(f'{path}: "label" is {label!r:.40}; expected a class, a whole number')
    if content.get("keypoints") is None:
        return Truth(label=label)
    try:
        values = np.array(content["keypoints"], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(f'{path}: "keypoints" is not a list of numbers: {error}') from error
    if values.ndim == 1 and values.size % 3 == 0 and values.size:
        values = values.reshape(-1, 3)
    if values.ndim != 2 or values.shape[1] not in (2, 3) or not len(values):
        raise ProblemError(f'{path}: "keypoints" has shape {list(values.shape)}; expected [[x, y, v], ...]')
    return Truth(values[:, :2], values[:, 2] if values.shape[1] == 3 else None, label)


def load_json(path: Path, limit: int) -> object:
    """Parsed JSON of at most `limit` bytes; ProblemError if unreadable, too large, malformed or nested too deeply."""
    try:
        if path.stat().st_size > limit:
            raise ProblemError(f"{path}: larger than {limit >> 20} MiB")
        return json.loads(path.read_bytes())
    except OSError as error:
        raise ProblemError(f"cannot read {path}: {error}") from error
    except RecursionError as error:
        raise ProblemError(f"{path}: nested too deeply") from error
    except ValueError as error:
        raise ProblemError(f"{path}: not valid JSON: {error}") from error
