"""The witness of an image property beside the image that the property is about."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from verifier.page.picture import png

if TYPE_CHECKING:
    from vnnlib import NormalForm

LARGEST = 1 << 20
"""Values of an input that is still drawn: 3 x 591 x 591."""

ROUNDING = 1e-6
"""Share of the range of values below which a difference is that of float32 inputs."""


@dataclass(frozen=True)
class Pictured:
    """Pictures as addresses (`page.picture.png`), with a title each, and how to read them."""

    pictures: tuple[tuple[str, str], ...]
    caption: str


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether an input of this shape is drawn: (1, C, H, W) with C 1 or 3, and more than a line of pixels."""
    if len(shape) != 4 or shape[0] != 1 or shape[1] not in (1, 3) or min(shape[2:]) < 2:
        return False
    return math.prod(shape) <= LARGEST


def draw(x: np.ndarray, form: NormalForm, shape: tuple[int, ...]) -> Pictured | None:
    """The witness `x` (n,), the middle of the box of inputs that it lies in, and where they differ; None where the
    input is no image of this `shape`, or the box is not bounded. A specification around an image has it in the middle,
    but where a limit of the pixels cuts the box off."""
    if not is_image(shape) or x.size != math.prod(shape) or form.lower.shape[1] != x.size:
        return None
    outside = np.maximum(form.lower - x, x - form.upper).max(1)
    case = int(outside.argmin())
    lower, upper = form.lower[case], form.upper[case]
    middle = (lower + upper) / 2
    if not np.isfinite(middle).all():
        return None
    low, high = float(min(lower.min(), x.min())), float(max(upper.max(), x.max()))
    difference, most = np.abs(x - middle), float(np.abs(x - middle).max())
    images = [array.reshape(shape[1:]) for array in (middle, x, difference)]
    pictures = (
        ("middle of the inputs", png(images[0], low, high)),
        ("witness", png(images[1], low, high)),
        ("difference", png(images[2], 0.0, most)),
    )
    changed = int((difference > ROUNDING * (high - low)).sum())
    caption = (
        f"Black is {low:.4g}, full {high:.4g}; in the difference full is {most:.4g},"
        f" {changed:,} of {x.size:,} values differ by more than rounding."
    )
    return Pictured(pictures, caption)
