"""Criteria that count unstable neurons: RS, NRS and the relaxation gap.

The bounds l, u of a pre-activation are those of the interval oracle where one is given (sound), otherwise the sampled
range over S (an inner estimate, good for ranking and for nothing else). A channel is pruned first when it is most
unstable.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pruning.calibration import Activations, Calibration, perturbed
from pruning.errors import CriterionError
from pruning.groups import Groups, Unit
from pruning.options import ScoreOptions
from pruning.scores.base import RawScores, criterion, required
from pruning.scores.certified import cells, oracle_bounds
from pruning.scores.movement import channels_first, per_channel


@criterion(
    "rs",
    "range",
    "-mean tanh(1 + l*u) is the RS loss; score = mean of tanh(1 + l*u): low = unstable (Xiao et al. 2019)",
)
def rs(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """ReLU stability."""
    return _stability(groups, required(calibration, "rs"), options, normalised=False)


@criterion("nrs", "range", "mean of tanh(1 + l*u/gamma^2), gamma = BatchNormalization scale (VITA's NRS)")
def nrs(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """Normalised ReLU stability."""
    return _stability(groups, required(calibration, "nrs"), options, normalised=True)


def _stability(groups: Groups, calibration: Calibration, options: ScoreOptions, normalised: bool) -> RawScores:
    scales = [gamma_of(groups, unit.value) if normalised else None for unit in groups.units]
    totals = [np.zeros(len(unit.channel)) for unit in groups.units]
    bounds = ranges(groups, calibration, options)
    count = 0
    for image_bounds in bounds:
        count += 1
        for total, (lower, upper), gamma in zip(totals, image_bounds, scales, strict=True):
            product = lower.astype(np.float64) * upper
            if gamma is not None:
                product /= np.maximum(gamma.astype(np.float64)[:, None] ** 2, 1e-12)
            total += np.tanh(1 + product).mean(1)
    return RawScores(_average(groups, groups.units, [total / count for total in totals]))


def ranges(
    groups: Groups, calibration: Calibration, options: ScoreOptions
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    """For each image, (lower, upper) of shape (C, P) for each unit of `groups`."""
    if options.interval_oracle is not None:
        return _oracle_ranges(groups, calibration, options)
    return _sampled_ranges(groups, calibration)


def _sampled_ranges(groups: Groups, calibration: Calibration) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    run = Activations(groups.net, [unit.value for unit in groups.units])
    for batch in perturbed(calibration):
        values = run(batch)
        planes = [channels_first(values[unit.value], unit.axis) for unit in groups.units]
        yield [(plane.min(0), plane.max(0)) for plane in planes]


def _oracle_ranges(
    groups: Groups, calibration: Calibration, options: ScoreOptions
) -> Iterator[list[tuple[np.ndarray, np.ndarray]]]:
    grid = cells(calibration.semantic, 1)
    for image in calibration.images:
        bounds = oracle_bounds(groups, options, [unit.value for unit in groups.units], image[None], grid, calibration)
        yield [
            (
                channels_first(bounds[unit.value][0][0, 0], unit.axis)[0],
                channels_first(bounds[unit.value][1][0, 0], unit.axis)[0],
            )
            for unit in groups.units
        ]


def _average(groups: Groups, units: tuple[Unit, ...], scores: list[np.ndarray]) -> np.ndarray:
    if not units:
        raise CriterionError("the network has no unit whose stability could be measured")
    rows = np.stack([per_channel(groups, unit, score) for unit, score in zip(units, scores, strict=True)])
    seen = np.isfinite(rows)
    return np.where(seen.any(0), np.nansum(rows, 0) / np.maximum(seen.sum(0), 1), np.inf)


def gamma_of(groups: Groups, value: str) -> np.ndarray | None:
    """BatchNormalization scale of the channels of `value`, if a BatchNormalization makes it."""
    index = groups.net.producer.get(value)
    if index is None or groups.net.nodes[index].type != "BatchNormalization":
        return None
    return groups.net.weights[groups.net.nodes[index].input(1)]
