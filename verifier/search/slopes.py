"""Slopes of planes in bytes, as subproblems carry them: a rounded slope is as sound as any other."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.alpha_beta import Parameters

LEVELS = 255


def pack(p: Parameters) -> Tensor:
    """The slopes of all operators (B, A)."""
    if not p.alpha:
        return torch.zeros(len(p.beta), 0, dtype=torch.uint8, device=p.beta.device)
    return (torch.cat(list(p.alpha.values()), 1) * LEVELS).round_().to(torch.uint8)


def unpack(packed: Tensor, like: Parameters) -> dict[int, Tensor]:
    """What `pack` made of parameters with the operators of `like`."""
    parts = (packed.to(like.beta.dtype) / LEVELS).split([a.shape[1] for a in like.alpha.values()], 1)
    return dict(zip(like.alpha, parts, strict=True))
