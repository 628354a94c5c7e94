"""What picture a network takes: its channels, size and the order of its input; and how outputs mean pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.errors import ModelError, OptionsError

LAYOUTS = ("auto", "nchw", "nhwc", "flat")


@dataclass(frozen=True)
class Frame:
    """shape: of the network's input, with a batch of 1. layout: `nchw`, `nhwc` or `flat` (row-major, channels first).

    channels, height, width: of the picture.
    """

    shape: tuple[int, ...]
    layout: str
    channels: int
    height: int
    width: int

    @staticmethod
    def of(shape: tuple[int, ...], layout: str = "auto", channels: int | None = None) -> Frame:
        """The picture that an input of this shape stands for; ModelError if it is none."""
        if layout not in LAYOUTS:
            raise OptionsError(f"unknown layout '{layout}'; choose one of {', '.join(LAYOUTS)}")
        body = [d for i, d in enumerate(shape) if not (i == 0 and d == 1 and len(shape) > 3)]
        if layout in ("auto", "nchw") and len(body) == 3 and body[0] in (1, 3) and channels in (None, body[0]):
            return Frame(shape, "nchw", body[0], body[1], body[2])
        if layout in ("auto", "nhwc") and len(body) == 3 and body[2] in (1, 3) and channels in (None, body[2]):
            return Frame(shape, "nhwc", body[2], body[0], body[1])
        total = int(np.prod(shape))
        if layout in ("auto", "flat") and total == max(shape, default=0):
            for c in (channels,) if channels else (1, 3):
                side = round((total / c) ** 0.5)
                if c * side * side == total:
                    return Frame(shape, "flat", c, side, side)
        wanted = f" as {layout}" if layout != "auto" else ""
        raise ModelError(
            f"the input shape {list(shape)} cannot be read{wanted} as an image of 1 or 3 channels; "
            "expected [N, C, H, W], [N, H, W, C] or a flat square image"
        )

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        return self.channels, self.height, self.width

    def arrange(self, image: np.ndarray) -> np.ndarray:
        """(C, H, W) -> the network's input shape (layout only, no normalisation)."""
        return (image.transpose(1, 2, 0) if self.layout == "nhwc" else image).reshape(self.shape)

    def restore(self, value: np.ndarray) -> np.ndarray:
        """The inverse of `arrange`."""
        if self.layout == "nhwc":
            return value.reshape(self.height, self.width, self.channels).transpose(2, 0, 1)
        return value.reshape(self.channels, self.height, self.width)

    def restored(self, values: np.ndarray) -> np.ndarray:
        """Network inputs (n, ...) as pictures (n, C, H, W): a view."""
        if self.layout == "nhwc":
            return values.reshape(-1, self.height, self.width, self.channels).transpose(0, 3, 1, 2)
        return values.reshape(-1, *self.size)

    def arranged(self, pictures: np.ndarray) -> np.ndarray:
        """The inverse of `restored`: (n, H, W, C) or (n, C, H, W)."""
        return pictures.transpose(0, 2, 3, 1) if self.layout == "nhwc" else pictures

    def per_channel(self, values: tuple[float, ...]) -> np.ndarray:
        """One number per channel -> an array that broadcasts against the input shape without enlarging it."""
        image = np.broadcast_to(np.array(values)[:, None, None], self.size)
        if self.layout == "flat":
            return self.arrange(image)
        small = np.array(values).reshape((self.channels, 1, 1) if self.layout == "nchw" else (1, 1, self.channels))
        return small.reshape((1,) * (len(self.shape) - 3) + small.shape)

    def normalisation(
        self, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
    ) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """mean and std of (x - mean) / std with one value per channel; None, None where neither is given."""
        if mean is None and std is None:
            return None, None
        mean, std = mean or (0.0,), std or (1.0,)
        for name, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, self.channels) or not np.all(np.isfinite(values)):
                raise OptionsError(f"{name} needs 1 or {self.channels} finite values, found {list(values)}")
        if min(std) <= 0:
            raise OptionsError(f"std must be positive, found {list(std)}")
        return mean * (self.channels // len(mean)), std * (self.channels // len(std))


@dataclass(frozen=True)
class Head:
    """How coordinate outputs mean pixels: pixel = scale * y + shift (outputs x0, y0, x1, y1, ..)."""

    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and math.isfinite(self.shift) and self.scale > 0):
            raise OptionsError(f"the output scale must be positive and finite, found {self.scale}, shift {self.shift}")

    @staticmethod
    def given(scale: float | None, shift: float | None) -> Head | None:
        """By two options; None where neither was given: then outputs are pixels."""
        if scale is None and shift is None:
            return None
        return Head(1.0 if scale is None else scale, 0.0 if shift is None else shift)

    def pixels(self, y: np.ndarray) -> np.ndarray:
        """Flat outputs (..., 2K) -> pixels (..., K, 2)."""
        return (self.scale * y + self.shift).reshape(*y.shape[:-1], -1, 2)

    def value(self, pixel: Any) -> Any:
        """The output that means this pixel coordinate, a number or an array."""
        return (pixel - self.shift) / self.scale


PIXELS = Head()
"""Outputs that are pixels."""
