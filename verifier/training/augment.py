"""Augmentation: the semantic one (of any parameters), mirroring, and small shifts of the frame."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.data.airframe import MIRROR
from verifier.perturbation.perturbation import Perturbation, apply


def semantic(images: Tensor, perturbation: Perturbation, draw: torch.Generator, factor: float = 1.5) -> Tensor:
    """Images (n, C, H, W), each changed at one uniform point of `factor` times the ranges (as far as they allow it).
    That happens on the host: a seed means the same wherever the images lie."""
    wide = perturbation.enlarged(factor)
    low, high = wide.box.T
    unit = torch.rand(len(low), len(images), generator=draw).double().numpy().T
    return torch.from_numpy(apply(wide, images.cpu().numpy(), low + unit * (high - low))).to(images.device)


def mirror(images: Tensor, points: Tensor, visibility: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left-right flip; left and right key points change places."""
    order = list(MIRROR)
    flipped = points[:, order].clone()
    flipped[:, :, 0] = images.shape[-1] - flipped[:, :, 0]
    return images.flip(3), flipped, visibility[:, order]


def shift(images: Tensor, points: Tensor, visibility: Tensor, dx: int, dy: int) -> tuple[Tensor, Tensor, Tensor]:
    """Move the picture by whole pixels, repeating its border; key points that leave the frame get visibility 0."""
    size = images.shape[-1]
    row = (torch.arange(size, device=images.device) - dy).clamp(0, size - 1)
    column = (torch.arange(size, device=images.device) - dx).clamp(0, size - 1)
    moved = points + torch.tensor([float(dx), float(dy)], device=points.device)
    inside = ((moved >= 0) & (moved < size)).all(dim=2)
    return images[:, :, row][:, :, :, column], moved, visibility * inside
