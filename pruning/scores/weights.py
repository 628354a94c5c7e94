"""Criteria that look at stored weights only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pruning.calibration import Calibration
from pruning.errors import CriterionError
from pruning.groups import Groups
from pruning.options import ScoreOptions
from pruning.rules.linear import WEIGHT_SLOTS
from pruning.scores.base import RawScores, criterion


def reduce_slices(groups: Groups, value: Callable[[str], np.ndarray | None], roles: tuple[str, ...]) -> np.ndarray:
    """Sum, per channel, a non-negative or signed quantity over all weight slices that go with the channel.

    `value(name)` has the shape of weight `name` (None leaves it out). A weight that several nodes share counts once for
    each channel: once in all where their channels are tied, as those of a shared matrix are, and for the channels of
    every user where they are not (a shared bias).
    """
    total = np.zeros(groups.n)
    seen: set[tuple[str, int, str, bytes]] = set()
    for cut in groups.cuts:
        name = groups.net.nodes[cut.node].input(cut.slot)
        array = value(name) if cut.role in roles else None
        if array is None:
            continue
        per_entry = array.sum(axis=tuple(a for a in range(array.ndim) if a != cut.axis), dtype=np.float64)
        labels = (
            cut.data_labels if cut.data_labels is not None and len(cut.data_labels) == len(per_entry) else cut.labels
        )
        channel = groups.channel(labels)
        key = (name, cut.axis, cut.role, channel.tobytes())
        if key in seen:
            continue
        seen.add(key)
        np.add.at(total, channel[channel >= 0], per_entry[channel >= 0])
    return total


def channel_norm(groups: Groups, order: int) -> np.ndarray:
    """l1 (order 1) or l2 (order 2) norm of everything that goes with a channel, consumers' slices included."""
    total = reduce_slices(groups, lambda name: np.abs(groups.net.weights[name]) ** order, ("out", "with", "in"))
    return total if order == 1 else np.sqrt(total)


@criterion("l1", "", "sum |w| over all slices of the channel (out, its own parameters, consumers' in)")
def l1(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """Magnitude."""
    return RawScores(channel_norm(groups, 1))


@criterion("l2", "", "sqrt(sum w^2) over all slices of the channel")
def l2(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """Magnitude."""
    return RawScores(channel_norm(groups, 2))


@criterion("random", "", "uniform random numbers")
def random(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """The control."""
    return RawScores(np.random.default_rng(options.seed).random(groups.n))


@criterion(
    "random-matched", "", "uniform random numbers, as many channels of every layer as usn takes", counts_of="usn"
)
def random_matched(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """The control for the choice of channels alone."""
    return random(groups, calibration, options)


@criterion(
    "slim", "", "|BatchNormalization scale|, summed over the BatchNormalizations of the channel (network slimming)"
)
def slim(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """Channels without BatchNormalization are ranked last (they have no such score)."""
    scale = {
        (cut.node, cut.slot)
        for cut in groups.cuts
        if groups.net.nodes[cut.node].type == "BatchNormalization" and cut.slot == 1
    }
    if not scale:
        raise CriterionError(
            "criterion 'slim' ranks by the scales of BatchNormalization, and the network has none (exporters often "
            "fold them into the layers); export it unfolded, or use l2"
        )
    names = {groups.net.nodes[node].input(slot) for node, slot in scale}
    total = reduce_slices(groups, lambda name: np.abs(groups.net.weights[name]) if name in names else None, ("with",))
    has = reduce_slices(
        groups, lambda name: np.ones(groups.net.weights[name].shape) if name in names else None, ("with",)
    )
    return RawScores(np.where(has > 0, total, np.inf))


@criterion(
    "refill", "", "mean |w| of the channel's own weights after a global unstructured magnitude pass (VITA, refill)"
)
def refill(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """Counts what an unstructured pass at `mask_ratio` leaves of each channel."""
    masked = magnitude_masks(groups, options.mask_ratio)
    total = reduce_slices(groups, lambda name: np.abs(masked[name]) if name in masked else None, ("out",))
    size = reduce_slices(groups, lambda name: np.ones(masked[name].shape) if name in masked else None, ("out",))
    return RawScores(total / np.maximum(size, 1))


def prunable_weights(groups: Groups) -> list[str]:
    """Names of the matrices and kernels an unstructured mask may touch (no biases, no normalisation parameters)."""
    found: dict[str, None] = {}
    for node in groups.net.nodes:
        for slot in WEIGHT_SLOTS.get(node.type, ()):
            weight = groups.net.constant(node.input(slot))
            if weight is not None and weight.ndim >= 2 and weight.dtype.kind == "f":
                found[node.input(slot)] = None
    return list(found)


def magnitude_masks(groups: Groups, ratio: float) -> dict[str, np.ndarray]:
    """Weights with the smallest `ratio` of all entries, over all layers together, set to zero."""
    weights = {name: groups.net.weights[name] for name in prunable_weights(groups)}
    return cut_lowest(weights, {name: np.abs(value) for name, value in weights.items()}, ratio)


def cut_lowest(
    weights: dict[str, np.ndarray], importance: dict[str, np.ndarray], ratio: float
) -> dict[str, np.ndarray]:
    """Zero the entries with the lowest importance: exactly floor(ratio * total) of them, ties in storage order."""
    if not weights:
        return {}
    joined = np.concatenate([importance[name].reshape(-1) for name in weights])
    drop = np.zeros(len(joined), bool)
    drop[np.argsort(joined, kind="stable")[: int(ratio * len(joined))]] = True
    result, start = {}, 0
    for name, value in weights.items():
        part = drop[start : start + value.size].reshape(value.shape)
        result[name] = np.where(part, np.zeros((), value.dtype), value)
        start += value.size
    return result
