"""Calibration data from files: .npz, a folder of images or arrays, COCO keypoints, or the rendered aircraft23 set."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np

from pruning.calibration import Calibration, Semantic
from pruning.errors import DataError
from pruning.keypoints import targets
from pruning.net import Net

MAX_VALUES = 1 << 31  # elements of an array read from a file
_SUFFIXES = (".png", ".jpg", ".jpeg", ".npy")


def load_data(
    source: str,
    net: Net,
    semantic: Semantic | None = None,
    images: int = 256,
    samples: int = 32,
    seed: int = 0,
    split: str = "train",
) -> Calibration:
    """Read at most `images` calibration images shaped for `net` from DIR, FILE.npz, COCO.json or `aircraft23`.

    Images are scaled to [0, 1]. Key points of COCO and aircraft23 are given in pixels of the network's input, or in
    cells of its heatmaps; a network that answers otherwise gets no labels (`unlabelled` says why). Labels from .npz
    files are taken as they are. Raises DataError.
    """
    if images < 1:
        raise DataError(f"{images} images; expected at least 1")
    shape = _input_shape(net)
    path = Path(source)
    labels, reason = None, ""
    if source == "aircraft23":
        found, points = _aircraft(shape, images, seed, split)
        labels, reason = targets(net, found, points)
    elif path.is_dir():
        found = _folder(path, shape, images, seed)
    elif path.suffix == ".npz":
        found, labels = _npz(path, images, seed)
    elif path.suffix == ".json":
        found, points = _coco(path, shape, images, seed)
        labels, reason = targets(net, found, points)
    else:
        raise DataError(f"data '{source}': expected a folder, a .npz file, a COCO .json file or aircraft23")
    return Calibration(found, labels, semantic or Semantic(), samples, seed, reason).fitted(net)


def _input_shape(net: Net) -> tuple[int, ...]:
    if len(net.inputs) != 1:
        raise DataError(f"the network has {len(net.inputs)} inputs; calibration data feed only one")
    return net.shapes[net.inputs[0]][1:]


def _npz(path: Path, count: int, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:  # sizes before anything is unpacked
            for item in archive.infolist():
                if item.file_size > 8 * MAX_VALUES:
                    raise DataError(f"{path}: '{item.filename}' would unpack to {item.file_size} bytes; too large")
        with np.load(path, allow_pickle=False) as stored:
            for name in ("images", "labels", "keypoints"):
                if name in stored:
                    arrays[name] = stored[name]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable .npz file ({error})") from error
    if "images" not in arrays:
        raise DataError(f"{path}: no array 'images'; expected images (n, C, H, W) and optionally labels or keypoints")
    images = arrays["images"]
    if images.dtype.kind not in "fiu" or images.ndim < 2:
        raise DataError(f"{path}: images have type {images.dtype} and shape {images.shape}; expected numbers (n, ...)")
    labels = arrays.get("labels", arrays.get("keypoints"))
    if labels is not None and labels.dtype.kind not in "fiu":
        raise DataError(f"{path}: labels have type {labels.dtype}; expected numbers")
    if labels is not None and len(labels) != len(images):
        raise DataError(f"{path}: {len(images)} images but {len(labels)} labels")
    rows = _some(len(images), count, seed)
    picked = images[rows].astype(np.float32) / (255.0 if images.dtype == np.uint8 else 1.0)
    if labels is None:
        return picked, None
    chosen = labels[rows]
    return picked, chosen.astype(np.float32) if chosen.dtype.kind == "f" else chosen.astype(np.int64)


def _folder(path: Path, shape: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise DataError(f"{path}: no images in this folder; expected {', '.join(_SUFFIXES)}")
    return np.stack([_read_image(files[row], shape) for row in _some(len(files), count, seed)])


def _read_image(file: Path, shape: tuple[int, ...], box: tuple[float, float, float, float] | None = None) -> np.ndarray:
    """One image as float32 (C, H, W) in [0, 1], resized to the network's input; .npy arrays are taken as they are."""
    if file.suffix.lower() == ".npy":
        try:
            array = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: not a readable .npy array ({error})") from error
        if array.size != np.prod(shape):
            raise DataError(f"{file}: shape {array.shape}, the network expects {shape}")
        return array.reshape(shape).astype(np.float32) / (255.0 if array.dtype == np.uint8 else 1.0)
    from PIL import Image

    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(
            f"the network input has shape {shape}; image files need (1 or 3, height, width), use .npz instead"
        )
    try:
        with Image.open(file) as image:
            picture = image.convert("L" if shape[0] == 1 else "RGB").resize(
                (shape[2], shape[1]), Image.Resampling.BILINEAR, box
            )
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not a readable image ({error})") from error
    array = np.asarray(picture, np.float32) / 255.0
    return array[None] if shape[0] == 1 else np.moveaxis(array, 2, 0)


def _coco(path: Path, shape: tuple[int, ...], count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops of annotated objects (box grown 1.25x to a square); key points (n, K, 2) in pixels of the crop.

    Objects with an invisible keypoint (v = 0) are left out: the losses here have no mask for them.
    """
    try:
        if path.stat().st_size > 1 << 30:
            raise DataError(f"{path}: over 1 GB; too large for an annotation file")
        content = json.loads(path.read_text())
        names = {item["id"]: item["file_name"] for item in content["images"]}
        people = [
            (names[a["image_id"]], [float(v) for v in a["bbox"]], np.asarray(a["keypoints"], float).reshape(-1, 3))
            for a in content["annotations"]
            if not a.get("iscrowd") and a.get("keypoints") and all(a["keypoints"][2::3])
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not a COCO keypoints file ({type(error).__name__}: {error})") from error
    if not people:
        raise DataError(f"{path}: no annotation with all keypoints labelled")
    images, found = [], []
    for row in _some(len(people), count, seed):
        name, (left, top, width, height), points = people[row]
        file = (path.parent / name).resolve()
        if not file.is_relative_to(path.parent.resolve()):
            raise DataError(f"{path}: image '{name}' lies outside the folder of the annotation file")
        side = 1.25 * max(width, height)
        x0, y0 = left + width / 2 - side / 2, top + height / 2 - side / 2
        images.append(_crop(file, shape, x0, y0, side))
        found.append((points[:, :2] - (x0, y0)) * (shape[2] / side, shape[1] / side))
    if len({len(points) for points in found}) > 1:
        raise DataError(f"{path}: the annotations have different numbers of keypoints; expected one number for all")
    return np.stack(images), np.stack(found)


def _crop(file: Path, shape: tuple[int, ...], x0: float, y0: float, side: float) -> np.ndarray:
    from PIL import Image

    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(f"the network input has shape {shape}; COCO images need (1 or 3, height, width)")
    try:
        with Image.open(file) as image:
            mode = "L" if shape[0] == 1 else "RGB"
            coefficients = (side / shape[2], 0, x0, 0, side / shape[1], y0)
            picture = image.convert(mode).transform(
                (shape[2], shape[1]), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
            )
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{file}: not a readable image ({error})") from error
    array = np.asarray(picture, np.float32) / 255.0
    return array[None] if shape[0] == 1 else np.moveaxis(array, 2, 0)


def _aircraft(shape: tuple[int, ...], count: int, seed: int, split: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        from verifier.data import aircraft23
    except ImportError as error:
        raise DataError(f"the aircraft23 data set is not available ({error})") from error
    if len(shape) != 3 or shape[0] not in (1, 3) or shape[1] != shape[2]:
        raise DataError(f"the network input has shape {shape}; aircraft23 gives square images with 1 or 3 channels")
    images, keypoints, _ = aircraft23.load(split, count, size=shape[1], grey=shape[0] == 1, seed=seed)
    return np.asarray(images, np.float32), np.asarray(keypoints, np.float32)


def _some(total: int, count: int, seed: int) -> np.ndarray:
    """Rows to use: all, or a random choice in storage order."""
    if total <= count:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
