"""Pictures from files, as numbers in [0, 1]: the one reader that every command uses.

A value is divided by the largest that its depth can hold: 1 bit, 8 and 16 bits, arrays of bool, uint8 and uint16.
Floating-point values have to be in [0, 1] already. The EXIF orientation is applied. What has no agreed meaning here is
refused by name: transparency, colours of 16 bits (Pillow cuts them to 8), integers of other depths, several frames.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from verifier.errors import ProblemError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp", ".npy")
"""Endings of pictures in folders and lists."""

MAX_PIXELS = 100_000_000
MAX_NPY_BYTES = 1 << 30
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
DEPTH = {"bool": 1.0, "uint8": 255.0, "uint16": 65535.0}
SIXTEEN = ("I;16", "I;16L", "I;16B", "I;16N")
DAMAGED = (
    OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, AttributeError, struct.error, UserWarning,
)  # fmt: skip
"""What Pillow raises for damaged files, besides its own error."""

PLAIN = ("L", "RGB", "YCbCr", "CMYK", "HSV", "RGBX")


def read(path: Path, channels: int) -> np.ndarray:
    """The picture as float64 (channels, H, W) in [0, 1]; colour becomes grey by luminance, grey becomes colour by copy.

    NPY files hold (H, W), (H, W, C) or (C, H, W). Raises ProblemError for what cannot be read or is refused.
    """
    return recoloured(_npy(path) if path.suffix.lower() == ".npy" else _picture(path), channels, str(path))


def recoloured(value: np.ndarray, channels: int, where: str) -> np.ndarray:
    """(1 or 3, H, W) with the wanted number of channels; ProblemError if it has others."""
    if value.shape[0] == channels:
        return value
    if value.shape[0] == 1:
        return np.repeat(value, channels, axis=0)
    if channels == 1 and value.shape[0] == 3:
        grey = np.tensordot(np.array(LUMINANCE), value, axes=1)[None]
        return np.asarray(np.clip(grey, 0.0, 1.0))  # the weights add up to 1 but for rounding
    raise ProblemError(f"{where}: {value.shape[0]} channels, the network expects {channels}")


def scaled(value: np.ndarray, where: str) -> np.ndarray:
    """Values of any shape as float64 in [0, 1], by their depth; ProblemError names what has no range."""
    depth = DEPTH.get(value.dtype.name)
    if depth is not None:
        return np.asarray(value, np.float64) / depth
    if value.dtype.kind != "f":
        raise ProblemError(
            f"{where}: the pixels have type {value.dtype}, whose range is not known; expected bool, uint8, uint16 or "
            "floating-point numbers in [0, 1]"
        )
    if value.size and not (np.isfinite(value).all() and value.min() >= 0 and value.max() <= 1):
        span = f"{value.min():g} to {value.max():g}" if np.isfinite(value).all() else "NaN or infinite values"
        raise ProblemError(f"{where}: the pixels hold {span}; expected [0, 1]: divide 8-bit values by 255")
    return np.asarray(value, np.float64)


def resized(value: np.ndarray, width: int, height: int, box: tuple[int, int, int, int] | None = None) -> np.ndarray:
    """(C, H, W) -> (C, height, width) by an anti-aliasing bilinear filter, at full depth.

    box (left, top, right, bottom): the part that is taken; what lies outside the picture is black.
    """
    parts = []
    for channel in value:
        image = Image.fromarray(channel.astype(np.float32))
        cut = image if box is None else image.crop(box)
        parts.append(np.asarray(cut.resize((width, height), Image.Resampling.BILINEAR), np.float64))
    return np.clip(np.stack(parts), 0.0, 1.0)


def _picture(path: Path) -> np.ndarray:
    """Decoded (1 or 3, H, W) in [0, 1]."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("error", UserWarning)  # Pillow's word for damage that it reads on past
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ProblemError(f"{path}: {image.width}x{image.height} pixels are too many")
                _one_plain_frame(image, path)
                return _decoded(ImageOps.exif_transpose(image), image.format, path)
    except UnidentifiedImageError as error:
        raise ProblemError(f"{path}: not a picture that can be read (PNG, JPEG, NPY)") from error
    except (*DAMAGED, Image.DecompressionBombError) as error:
        raise ProblemError(f"cannot read the picture {path}: {error}") from error


def _one_plain_frame(image: Image.Image, path: Path) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # the first frame of an MPO is the photograph, the others are previews
        raise ProblemError(f"{path}: {frames} frames; expected one picture")
    for tile in getattr(image, "tile", ()):
        raw = str(tile[3] if isinstance(tile[3], str) else (tile[3] or [""])[0])  # the pixels as the file holds them
        if "16" in raw and image.mode in ("RGB", "RGBA", "LA"):
            raise ProblemError(
                f"{path}: 16 bits per channel in colour, of which only 8 would be read; save it with 8 bits, in grey, "
                "or as NPY (uint16)"
            )
        if "12" in raw and image.mode in SIXTEEN:
            raise ProblemError(f"{path}: 12 bits per pixel are not read; save it with 8 or 16 bits")


def _decoded(image: Image.Image, kind: str | None, path: Path) -> np.ndarray:
    mode = image.mode
    if mode == "1":
        return np.asarray(image, np.float64)[None]
    if mode in SIXTEEN:
        return np.asarray(image).astype(np.float64)[None] / DEPTH["uint16"]
    if mode == "I":
        value = np.asarray(image)
        if kind in ("PNG", "PPM") and value.min() >= 0 and value.max() <= 65535:  # how Pillow gives 16 bits of these
            return value.astype(np.float64)[None] / DEPTH["uint16"]
        raise ProblemError(f"{path}: mode I of a {kind}, integers without a known range; save it with 8 or 16 bits")
    if mode == "F":
        return scaled(np.asarray(image), str(path))[None]
    if "transparency" in image.info or mode in ("LA", "PA", "RGBA", "La", "RGBa"):
        image = _opaque(image, path)
    elif mode == "P":
        image = image.convert("RGB")
    elif mode not in PLAIN:
        raise ProblemError(f"{path}: pictures of mode {mode} are not read; save it as grey or RGB")
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    data = np.asarray(image, np.float64) / DEPTH["uint8"]
    return data[None] if data.ndim == 2 else data.transpose(2, 0, 1)


def _opaque(image: Image.Image, path: Path) -> Image.Image:
    """The picture without an alpha channel that says nothing; ProblemError where it does."""
    grey = image.mode in ("L", "LA", "La", "1")
    full = image.convert("LA" if grey else "RGBA")
    least = full.getchannel("A").getextrema()[0]
    if least != 255:
        raise ProblemError(f"{path}: parts of it are transparent (mode {image.mode}); put it on a background first")
    return full.convert("L" if grey else "RGB")


def _npy(path: Path) -> np.ndarray:
    try:
        if path.stat().st_size > MAX_NPY_BYTES:
            raise ProblemError(f"{path}: larger than {MAX_NPY_BYTES >> 20} MiB")
        value = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ProblemError(f"cannot read {path}: {error}") from error
    if not isinstance(value, np.ndarray):
        raise ProblemError(f"{path}: expected one array")
    return planes(scaled(value, str(path)), str(path))


def planes(value: np.ndarray, where: str) -> np.ndarray:
    """(H, W), (C, H, W) or (H, W, C) -> (C, H, W); ProblemError for other shapes."""
    if value.ndim == 2:
        return value[None]
    if value.ndim == 3 and value.shape[0] in (1, 3):
        return value
    if value.ndim == 3 and value.shape[2] in (1, 3):
        return value.transpose(2, 0, 1)
    raise ProblemError(f"{where}: shape {list(value.shape)} is no image; expected [H, W], [C, H, W] or [H, W, C]")
