"""Criteria from gradients of the task loss (need labels, PyTorch and onnx2torch)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pruning.calibration import Calibration
from pruning.groups import Groups
from pruning.options import ScoreOptions
from pruning.scores.base import Result, criterion, required
from pruning.scores.weights import reduce_slices

_ROLES = ("out", "with", "in")


@criterion("taylor", "labels", "mean over batches of (sum g*w over all slices of the channel)^2, g = dLoss/dw")
def taylor(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> Result:
    """First-order change of the loss when the channel goes, squared per channel."""
    data = required(calibration, "taylor")
    parts = [
        reduce_slices(groups, product.get, _ROLES) ** 2
        for product in _products(groups, data, options.batch_size, options.batches)
    ]
    return Result(np.mean(parts, axis=0))


@criterion("snip", "labels", "sum |g*w| over all slices of the channel, gradient of one batch (SNIP)")
def snip(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> Result:
    """Connection sensitivity, summed over the channel."""
    (product,) = _products(groups, required(calibration, "snip"), options.batch_size, 1)
    return Result(reduce_slices(groups, {k: np.abs(v) for k, v in product.items()}.get, _ROLES))


@criterion("sensnorm", "labels", "2-norm over calibration images of the per-image sum |g*w| of the channel (our form)")
def sensnorm(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> Result:
    """Like SNIP, image by image."""
    total = np.zeros(groups.n)
    for product in _products(groups, required(calibration, "sensnorm"), 1, options.batches * options.batch_size):
        total += reduce_slices(groups, {k: np.abs(v) for k, v in product.items()}.get, _ROLES) ** 2
    return Result(np.sqrt(total))


@criterion(
    "hydra", "labels", "learned score per channel: straight-through top-k mask trained under random s, weights fixed"
)
def hydra(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> Result:
    """Channel form of HYDRA: scores start at the L2 importance and follow the loss of the masked network."""
    from pruning.gradients import learned_mask  # PyTorch

    return Result(learned_mask(groups, required(calibration, "hydra"), options))


def _products(
    groups: Groups, calibration: Calibration, batch_size: int, batches: int
) -> Iterator[dict[str, np.ndarray]]:
    from pruning.gradients import gradient_products  # PyTorch

    return gradient_products(groups, calibration, batch_size, batches)
