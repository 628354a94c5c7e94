"""Augmentation: the semantic one (contrast and brightness), mirroring, and small shifts of the frame."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.data.airframe import MIRROR

LEVELS = {"none": (0.0, 0.0), "small": (0.1, 0.05), "medium": (0.2, 0.1), "large": (0.3, 0.2)}
"""Half widths of the rectangle around (1, 0): contrast, brightness."""


def semantic(images: Tensor, level: str, draw: torch.Generator, factor: float = 1.5) -> Tensor:
    """clip(alpha * x + beta, 0, 1) with one uniform (alpha, beta) per image, in `factor` times the rectangle."""
    contrast, brightness = LEVELS[level]
    n = len(images)
    u = 2.0 * torch.rand(2, n, 1, 1, 1, generator=draw) - 1.0
    return ((1.0 + factor * contrast * u[0]) * images + factor * brightness * u[1]).clamp(0.0, 1.0)


def mirror(images: Tensor, points: Tensor, visibility: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left-right flip; left and right key points change places."""
    order = list(MIRROR)
    flipped = points[:, order].clone()
    flipped[:, :, 0] = images.shape[-1] - flipped[:, :, 0]
    return images.flip(3), flipped, visibility[:, order]


def shift(images: Tensor, points: Tensor, visibility: Tensor, dx: int, dy: int) -> tuple[Tensor, Tensor, Tensor]:
    """Move the picture by whole pixels, repeating its border; key points that leave the frame get visibility 0."""
    size = images.shape[-1]
    row = (torch.arange(size) - dy).clamp(0, size - 1)
    column = (torch.arange(size) - dx).clamp(0, size - 1)
    moved = points + torch.tensor([float(dx), float(dy)])
    inside = ((moved >= 0) & (moved < size)).all(dim=2)
    return images[:, :, row][:, :, :, column], moved, visibility * inside
