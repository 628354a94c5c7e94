"""`aircraft23`: rendered pictures of an aeroplane with 23 key points, made on this machine, nothing downloaded.

Picture `index` of a split depends on (seed, split, index) and the view only, not on how many are asked for, on their
order, the size of the batch, or the machine. Splits: train, val, test, and `hard` (poses and sizes out of range, with
key points outside the frame). Views: `quarter` (yaw within 65 degrees of the nose, the default, which is what the
shipped network was trained on) and `full` (any yaw).
"""

from __future__ import annotations

import functools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from verifier.data import cache
from verifier.data.airframe import KEYPOINTS, MIRROR
from verifier.data.draws import Draws
from verifier.data.render import render
from verifier.data.scene import VIEWS, Scene, sample
from verifier.errors import OptionsError
from verifier.executors.processes import die_with_parent

__all__ = ["KEYPOINTS", "MIRROR", "SPLITS", "VIEWS", "KeypointData", "load", "scene"]

SPLITS = {"train": 0, "val": 1, "test": 2, "hard": 3}
SIZES = (16, 32, 48, 64, 96, 128, 192, 256)
BLOCK = 250  # pictures per cache file
WORTH_STORING = 25  # a request for fewer pictures of a block is rendered without storing
REVISION = 1  # part of the cache path: to be raised whenever a pixel may change
LIMIT = 1_000_000
LUMINANCE = (299, 587, 114)  # ITU-R BT.601, in thousandths


class KeypointData(NamedTuple):
    """images float32 (n, C, size, size) in [0, 1], exact multiples of 1/255; keypoints float32 (n, 23, 2); visibility.

    Key points are (x, y) in pixels: (0, 0) is the top left corner of the frame, the centre of the first pixel is
    (0.5, 0.5). Visibility int64 (n, 23): 2 seen, 1 hidden behind the aeroplane itself, 0 outside the frame.
    """

    images: np.ndarray
    keypoints: np.ndarray
    visibility: np.ndarray


def scene(split: str, index: int, *, seed: int = 0, view: str = "quarter") -> Scene:
    """The scene of one picture."""
    draws = Draws(seed, SPLITS[split], index)
    return sample(draws, view, hard=split == "hard")


def load(
    split: str, n: int, *, size: int = 64, grey: bool = True, seed: int = 0, start: int = 0, view: str = "quarter",
    workers: int | None = None,
) -> KeypointData:  # fmt: skip
    """Pictures start .. start+n-1 of a split, rendered with `workers` processes (default: all cores) and cached.

    Raises OptionsError for an unknown split or view, a size that is not offered, or an index out of 0..999 999.
    """
    _check(split, n, size, seed, start, view)
    blocks = range(start // BLOCK, -(-(start + n) // BLOCK))
    jobs = []
    for block in blocks:
        first, last = max(start, block * BLOCK), min(start + n, (block + 1) * BLOCK)
        jobs.append((first, last - first))
    work = functools.partial(_block, split, size, grey, seed, view)
    count = min(len(jobs), workers or os.cpu_count() or 1)
    if count > 1:
        method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
        with ProcessPoolExecutor(count, multiprocessing.get_context(method), die_with_parent) as pool:
            parts = list(pool.map(work, *zip(*jobs, strict=True)))
    else:
        parts = [work(first, number) for first, number in jobs]
    shape = (0, 1 if grey else 3, size, size)
    empty = (np.zeros(shape, np.uint8), np.zeros((0, 23, 2), np.float32), np.zeros((0, 23), np.uint8))
    images, points, visibility = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
    return KeypointData(images.astype(np.float32) / np.float32(255), points, visibility.astype(np.int64))


def _check(split: str, n: int, size: int, seed: int, start: int, view: str) -> None:
    if split not in SPLITS:
        raise OptionsError(f"aircraft23 has no split '{split}'; choose one of {', '.join(SPLITS)}")
    if view not in VIEWS:
        raise OptionsError(f"aircraft23 has no view '{view}'; choose one of {', '.join(VIEWS)}")
    if size not in SIZES:
        raise OptionsError(f"aircraft23 is not rendered at {size} pixels; choose one of {', '.join(map(str, SIZES))}")
    if n < 0 or start < 0 or start + n > LIMIT:
        raise OptionsError(f"aircraft23 has pictures 0..{LIMIT - 1}; {n} from {start} were asked for")
    if seed < 0:
        raise OptionsError(f"the seed must not be negative, found {seed}")


def _block(
    split: str, size: int, grey: bool, seed: int, view: str, first: int, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pictures first .. first+number-1, all of one cache block: uint8 images, float32 points, uint8 visibility."""
    block = first // BLOCK
    path = _path(split, size, grey, seed, view, block)
    channels = 1 if grey else 3
    wanted = {
        "images": ((BLOCK, channels, size, size), "uint8"),
        "keypoints": ((BLOCK, len(KEYPOINTS), 2), "float32"),
        "visibility": ((BLOCK, len(KEYPOINTS)), "uint8"),
    }
    stored = cache.read(path, wanted)
    if stored is None and number < WORTH_STORING:
        return _render(split, size, grey, seed, view, first, number)
    if stored is None:
        stored = dict(zip(wanted, _render(split, size, grey, seed, view, block * BLOCK, BLOCK), strict=True))
        cache.write(path, stored)
    cut = slice(first - block * BLOCK, first - block * BLOCK + number)
    return stored["images"][cut], stored["keypoints"][cut], stored["visibility"][cut]


def _path(split: str, size: int, grey: bool, seed: int, view: str, block: int) -> Path:
    kind = f"{size}-{'grey' if grey else 'rgb'}"
    return cache.directory() / "aircraft23" / f"r{REVISION}" / f"{view}-{seed}" / split / kind / f"{block:05d}.npz"


def _render(
    split: str, size: int, grey: bool, seed: int, view: str, first: int, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pictures = [render(scene(split, first + i, seed=seed, view=view), size) for i in range(number)]
    images = np.stack([_channels(picture.image, grey) for picture in pictures])
    points = np.stack([picture.keypoints for picture in pictures]).astype(np.float32)
    return images, points, np.stack([picture.visibility for picture in pictures]).astype(np.uint8)


def _channels(image: np.ndarray, grey: bool) -> np.ndarray:
    """uint8 (H, W, 3) -> uint8 (C, H, W); grey is the rounded luminance, in integers."""
    if not grey:
        return np.ascontiguousarray(image.transpose(2, 0, 1))
    total = (image.astype(np.int64) * np.array(LUMINANCE)).sum(axis=2)
    return ((total + 500) // 1000).astype(np.uint8)[None]
