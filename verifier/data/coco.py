"""COCO key point files: square crops around each annotation, and the map back to the original picture.

Read from the file: `categories.keypoints` (names), `images`, and `annotations` with `keypoints` [x, y, v] * K, `bbox`
[left, top, width, height] and `iscrowd` 0. COCO's key points are pixel indices, so the centre of the named pixel, half
a pixel further, is the position; positions here are continuous, (0, 0) being the top left corner of a picture.
Use of visibility by default: v = 2 for loss and property, v = 1 (hidden) for the loss only, v = 0 for neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verifier.data import pictures
from verifier.data.truth import load_json
from verifier.errors import ProblemError

MAX_BYTES = 1 << 29
PIXEL = 0.5  # from a pixel's index to its centre
GROW = 1.25  # side of the square that is cut out, over the longer side of the bounding box


@dataclass(frozen=True, eq=False)
class Annotation:
    """One object: keypoints (K, 2) in continuous original pixels, visibility (K,), bbox (left, top, width, height).

    size: (width, height) of its picture, where the file states them.
    """

    identity: int
    file: str
    keypoints: np.ndarray
    visibility: np.ndarray
    bbox: tuple[float, float, float, float]
    size: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class Crop:
    """A square crop resized to `size`: image float64 (C, size, size) in [0, 1], keypoints (K, 2) in its pixels.

    left, top, side: the square in original pixels. Key points outside it have visibility 0. Parts of the square
    outside the picture are black.
    """

    image: np.ndarray
    keypoints: np.ndarray
    visibility: np.ndarray
    left: float
    top: float
    side: float
    bbox_area: float

    @property
    def scale(self) -> float:
        """Crop pixels per original pixel."""
        return self.image.shape[-1] / self.side

    def errors(self, found: np.ndarray) -> dict[str, np.ndarray]:
        """Euclidean error of predictions (K, 2) in crop pixels: `crop`, `original` pixels, `share` of sqrt(bbox area).

        Key points with visibility 0 are NaN.
        """
        gap = np.linalg.norm(found - self.keypoints, axis=1)
        gap = np.where(self.visibility > 0, gap, np.nan)
        return {"crop": gap, "original": gap / self.scale, "share": gap / self.scale / math.sqrt(self.bbox_area)}


def read(path: Path) -> tuple[Annotation, ...]:
    """The annotations of a file that have key points, in its order.

    Raises ProblemError for a file that cannot be read, is not COCO key points, or whose annotations are malformed.
    """
    content = _parse(path)
    kinds = [c for c in _records(content, "categories", path) if c.get("keypoints")]
    if not kinds:
        raise ProblemError(f"{path}: no category with key points; is this a COCO key point file?")
    if len(kinds) > 1:
        several = ", ".join(str(c.get("name")) for c in kinds)
        raise ProblemError(f"{path}: several categories have key points ({several}); keep one")
    listed = _records(content, "images", path)
    files = {image.get("id"): image for image in listed if isinstance(image.get("id"), int | str)}
    found = []
    for entry in _records(content, "annotations", path):
        if entry.get("category_id") == kinds[0].get("id") and "keypoints" in entry and not entry.get("iscrowd", 0):
            found.append(_annotation(entry, files, len(kinds[0]["keypoints"]), path))
    return tuple(a for a in found if a.visibility.any())


def picture(annotation: Annotation, folder: Path, channels: int = 1) -> np.ndarray:
    """The whole picture of an annotation, float64 (channels, H, W) in [0, 1].

    Raises ProblemError when it cannot be read, lies outside the folder, or has another size than the file states.
    """
    file = (folder / annotation.file).resolve()
    if not file.is_relative_to(folder.resolve()):
        raise ProblemError(f"annotation {annotation.identity}: file name '{annotation.file}' leaves the image folder")
    value = pictures.read(file, channels)
    height, width = value.shape[1:]
    if annotation.size not in (None, (width, height)):
        stated = "x".join(map(str, annotation.size or ()))
        raise ProblemError(
            f"annotation {annotation.identity}: its picture {annotation.file} has {width}x{height} pixels (EXIF "
            f"orientation applied), the annotation file states {stated}; the key points would not fit"
        )
    return value


def crop(annotation: Annotation, folder: Path, size: int, channels: int = 1, grow: float = GROW) -> Crop:
    """Cut the bounding box, grown by `grow` to a square, and resize it to size x size with an anti-aliasing filter.

    Raises ProblemError as `picture` does.
    """
    value = picture(annotation, folder, channels)
    left, top, width, height = annotation.bbox
    side = max(1, round(grow * max(width, height)))
    x0, y0 = round(left + 0.5 * width - 0.5 * side), round(top + 0.5 * height - 0.5 * side)
    if side > 4 * max(value.shape[1:]):
        raise ProblemError(f"annotation {annotation.identity}: its box of {side} pixels is far larger than the picture")
    image = pictures.resized(value, size, size, (x0, y0, x0 + side, y0 + side))
    points = (annotation.keypoints - np.array([x0, y0])) * (size / side)
    inside = ((points >= 0) & (points <= size)).all(axis=1)
    visibility = np.where(inside, annotation.visibility, 0)
    return Crop(image, points, visibility, float(x0), float(y0), float(side), width * height)


def _parse(path: Path) -> dict[str, object]:
    content = load_json(path, MAX_BYTES)
    if not isinstance(content, dict):
        raise ProblemError(f"{path}: expected a JSON object with categories, images and annotations")
    return content


def _records(content: dict[str, object], name: str, path: Path) -> list[dict]:
    value = content.get(name)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ProblemError(f'{path}: "{name}" must be a list of objects; is this a COCO key point file?')
    return value


def _annotation(entry: dict, files: dict, count: int, path: Path) -> Annotation:
    """One checked annotation."""
    identity = entry.get("id")
    where = f"{path}: annotation {identity}"
    place = entry.get("image_id")
    image = files.get(place, {}) if isinstance(place, int | str) else {}
    file = image.get("file_name")
    if not isinstance(identity, int) or not isinstance(file, str) or not file:
        raise ProblemError(
            f"{where}: no integer id, or its image {entry.get('image_id')} is not listed with a file name"
        )
    try:
        points = np.array(entry["keypoints"], dtype=np.float64)
        box = np.array(entry.get("bbox"), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ProblemError(f"{where}: key points and bbox must be lists of numbers: {error}") from error
    if points.shape != (3 * count,) or not np.isfinite(points).all():
        raise ProblemError(f"{where}: {points.size} key point numbers, expected 3 x {count}")
    if box.shape != (4,) or not np.isfinite(box).all() or (box[2:] <= 0).any():
        raise ProblemError(f"{where}: bbox must be [left, top, width, height] with positive size, found {box.tolist()}")
    triples = points.reshape(-1, 3)
    if not np.isin(triples[:, 2], (0, 1, 2)).all():
        raise ProblemError(f"{where}: visibility must be 0, 1 or 2")
    left, top, width, height = (float(v) for v in box)
    w, h = image.get("width"), image.get("height")
    size = (w, h) if isinstance(w, int) and isinstance(h, int) else None
    seen = triples[:, 2].astype(np.int64)
    return Annotation(identity, file, triples[:, :2] + PIXEL, seen, (left, top, width, height), size)
