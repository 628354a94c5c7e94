"""Sizes that depend on the device: of chunks, of steps, of how often something is looked at."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def size_on(device: torch.device, sizes: Mapping[str, int]) -> int:
    """What a table of sizes, under "cpu" and "cuda", has for a device: all that is no CPU counts as a GPU."""
    return sizes["cpu" if device.type == "cpu" else "cuda"]
