"""Slopes of planes in bytes, as subproblems carry them: a rounded slope is as sound as any other."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.relaxed import Parameters

LEVELS = 255


def pack(p: Parameters) -> Tensor:
    """The slopes of all operators (B, A)."""
    return (p.alpha * LEVELS).round_().to(torch.uint8)


def unpack(packed: Tensor, like: Parameters) -> Tensor:
    """What `pack` made of parameters, in the type of `like`."""
    return packed.to(like.beta.dtype).div_(LEVELS)
