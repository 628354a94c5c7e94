"""Criteria from gradients of the task loss (need labels) or of the outputs; all need PyTorch and onnx2torch."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np

from pruning.calibration import Calibration
from pruning.groups import Groups
from pruning.options import ScoreOptions
from pruning.scores.base import RawScores, criterion, required
from pruning.scores.movement import LIMIT_DB, usn
from pruning.scores.weights import reduce_slices

_ROLES = ("out", "with", "in")


@criterion("taylor", "labels", "mean over batches of (sum g*w over all slices of the channel)^2, g = dLoss/dw")
def taylor(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """First-order change of the loss when the channel goes, squared per channel."""
    data = required(calibration, "taylor")
    parts = [
        reduce_slices(groups, product.get, _ROLES) ** 2
        for product in _products(groups, data, options.batch_size, options.batches)
    ]
    return RawScores(np.mean(parts, axis=0))


@criterion("snip", "labels", "sum |g*w| over all slices of the channel, gradient of one batch (SNIP)")
def snip(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """Connection sensitivity, summed over the channel."""
    (product,) = _products(groups, required(calibration, "snip"), options.batch_size, 1)
    return RawScores(reduce_slices(groups, {k: np.abs(v) for k, v in product.items()}.get, _ROLES))


@criterion("sensnorm", "labels", "2-norm over calibration images of the per-image sum |g*w| of the channel (our form)")
def sensnorm(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """Like SNIP, image by image."""
    total = np.zeros(groups.n)
    for product in _products(groups, required(calibration, "sensnorm"), 1, options.batches * options.batch_size):
        total += reduce_slices(groups, {k: np.abs(v) for k, v in product.items()}.get, _ROLES) ** 2
    return RawScores(np.sqrt(total))


@criterion(
    "hydra", "labels", "learned score per channel: straight-through top-k mask trained under random s, weights fixed"
)
def hydra(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """Channel form of HYDRA: scores start at the L2 importance and follow the loss of the masked network."""
    return RawScores(_pytorch().learned_mask(groups, required(calibration, "hydra"), options))


@criterion(
    "output-taylor",
    "images",
    "sqrt(E |J (a - mean a)|^2), J = d outputs / d channel: first-order change of the outputs when the channel is held "
    "at its mean (Molchanov et al. 2017, with the outputs in place of the loss)",
)
def output_taylor(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """What a channel is worth to the outputs over images and S, without labels."""
    return RawScores(_effects(groups, required(calibration, "output-taylor"), options))


@criterion(
    "usn-taylor",
    "range",
    "our USN times the worth of the channel: W^2 * Sig / MSE * T^g in decibels, W as in output-taylor",
)
def usn_taylor(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """USN weighted by the power that the channel has in the outputs: what is both shaky and worth little goes first."""
    movement = usn(groups, calibration, options)
    effects = _effects(groups, required(calibration, "usn-taylor"), options)
    power = 20 * np.log10(np.maximum(effects / max(effects.max(initial=0.0), 1e-30), 10 ** (-LIMIT_DB / 20)))
    return RawScores(movement.values + power, movement.free, True, {**movement.parts, "W": effects})


def _effects(groups: Groups, calibration: Calibration, options: ScoreOptions) -> np.ndarray:
    effects: np.ndarray = _pytorch().output_effects(groups, calibration, options.seed)
    return effects


def _products(
    groups: Groups, calibration: Calibration, batch_size: int, batches: int
) -> Iterator[dict[str, np.ndarray]]:
    products: Iterator[dict[str, np.ndarray]] = _pytorch().gradient_products(groups, calibration, batch_size, batches)
    return products


def _pytorch() -> ModuleType:
    from pruning import gradients  # PyTorch

    return gradients
