"""Pictures from files: PNG, JPEG (any 8-bit format Pillow reads) and NPY."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from verifier.errors import ProblemError

MAX_PIXELS = 100_000_000
MAX_NPY_BYTES = 1 << 30


def read(path: Path, channels: int) -> np.ndarray:
    """The picture as float64 (channels, H, W) in [0, 1]; colour becomes grey by luminance, grey becomes colour by copy.

    NPY: (H, W), (H, W, C) or (C, H, W), floating point in [0, 1] or uint8. Raises ProblemError for anything else.
    """
    value = _npy(path) if path.suffix.lower() == ".npy" else _picture(path, channels)
    if value.shape[0] == channels:
        return value
    if value.shape[0] == 1:
        return np.repeat(value, channels, axis=0)
    if channels == 1 and value.shape[0] == 3:
        return np.tensordot(np.array([0.299, 0.587, 0.114]), value, axes=1)[None]
    raise ProblemError(f"{path}: {value.shape[0]} channels, the network expects {channels}")


def open_picture(path: Path, channels: int) -> Image.Image:
    """A decoded picture, grey (`L`) for one channel and `RGB` for three; ProblemError if unreadable or too large."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ProblemError(f"{path}: {image.width}x{image.height} pixels are too many")
                return image.convert("L" if channels == 1 else "RGB")
    except UnidentifiedImageError as error:
        raise ProblemError(f"{path}: not a picture that can be read (PNG, JPEG, NPY)") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ProblemError(f"cannot read the picture {path}: {error}") from error


def _picture(path: Path, channels: int) -> np.ndarray:
    data = np.asarray(open_picture(path, channels), dtype=np.float64) / 255.0
    return data[None] if data.ndim == 2 else data.transpose(2, 0, 1)


def _npy(path: Path) -> np.ndarray:
    try:
        if path.stat().st_size > MAX_NPY_BYTES:
            raise ProblemError(f"{path}: larger than {MAX_NPY_BYTES >> 20} MiB")
        value = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ProblemError(f"cannot read {path}: {error}") from error
    if not isinstance(value, np.ndarray) or not (value.dtype == np.uint8 or value.dtype.kind == "f"):
        raise ProblemError(f"{path}: expected one array of uint8 or floating-point numbers")
    scaled = value.astype(np.float64) / (255.0 if value.dtype == np.uint8 else 1.0)
    if scaled.ndim == 2:
        return scaled[None]
    if scaled.ndim == 3 and scaled.shape[0] in (1, 3):
        return scaled
    if scaled.ndim == 3 and scaled.shape[2] in (1, 3):
        return scaled.transpose(2, 0, 1)
    raise ProblemError(f"{path}: shape {list(value.shape)} is no image; expected [H, W], [C, H, W] or [H, W, C]")
