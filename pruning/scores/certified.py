"""Certified criteria: the same quantities from proved intervals instead of samples.

They ask an *interval oracle* (by default `pruning.oracles`, the verifier), which bounds values inside the network
soundly:

    interval_oracle(net, value_names, images, cells, data) -> {name: (lower, upper)}

images (n, *S) float32; cells (m, d, 2) holds the low and high ends of every parameter; lower and upper have
shape (n, m, *shape of the value without its batch axis ... ) with the batch axis of one kept: (n, m, 1, *rest). For
every image i, cell j and s in the cell, lower <= value(x_i'(s)) <= upper must hold; data (`Calibration`) says what
x'(s) is (`image_map`), and whether it is clipped (`semantic.clip`).

`looseness` also needs a *slope oracle*, slope_oracle(net, value_names, images, cells, data) -> {name: coefficients
(n, m, 1, *rest)}, the backward coefficients of the property margin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from types import ModuleType

import numpy as np

from pruning.calibration import Activations, Calibration
from pruning.errors import CriterionError
from pruning.groups import Groups
from pruning.options import ScoreOptions
from pruning.scores.base import RawScores, criterion, required
from pruning.scores.movement import LIMIT_DB, per_channel
from verifier.perturbation.perturbation import Perturbation

_CERT = (
    "our certified USN = C * T^g, C = Sig / (Sig + E mean_cells rho^2), rho = max(|u - z0|, |z0 - l|) <= proved; C <= R"
)


def cells(semantic: Perturbation, count: int) -> np.ndarray:
    """S cut into equal cells, count along every one of two parameters, and not more in all of others: (m, d, 2)."""
    side = min(count, max(1, int(count ** (2 / len(semantic.ranges)) + 1e-9)))
    edges = [np.linspace(low, high, side + 1) for low, high in semantic.box]
    return np.array(list(product(*(np.stack([edge[:-1], edge[1:]], 1) for edge in edges))))


def oracle_bounds(
    groups: Groups,
    options: ScoreOptions,
    values: Sequence[str],
    images: np.ndarray,
    grid: np.ndarray,
    data: Calibration,
) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
    """Ask the oracle and check what comes back: shapes, order, no NaN."""
    oracle = options.interval_oracle or _verifier().interval_oracle
    names = list(dict.fromkeys(values))
    found = oracle(groups.net, names, images, grid, data)
    for name in names:
        lower, upper = (np.asarray(side, np.float64) for side in found[name])
        shape = (len(images), len(grid), *groups.net.shapes[name])
        if lower.shape != shape or upper.shape != shape:
            raise CriterionError(f"the interval oracle returned shape {lower.shape} for '{name}'; expected {shape}")
        if not (lower <= upper).all():
            raise CriterionError(f"the interval oracle returned empty or NaN intervals for '{name}'")
    return {name: (np.asarray(found[name][0], np.float64), np.asarray(found[name][1], np.float64)) for name in names}


def _verifier() -> ModuleType:
    from pruning import oracles  # PyTorch, and the verifier's bounds

    return oracles


@criterion("usn-cert", "bounds", _CERT)
def usn_cert(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """Certified USN: a proved lower bound of the sampled one (for samplings that weight cells by area)."""
    data = required(calibration, "usn-cert")
    units, grid = groups.units, cells(data.semantic, options.cells)
    run = Activations(groups.net, [unit.value for unit in units])
    moments = [np.zeros((3, len(unit.channel))) for unit in units]  # sum z0, sum z0^2, sum rho^2
    taus = [np.zeros(len(unit.channel)) for unit in units]
    highest = [np.full(len(unit.channel), -np.inf) for unit in units]
    sizes = [0] * len(units)
    references: dict[int, np.ndarray] = {}
    for image in data.images:
        clean = run(image[None])
        bounds = oracle_bounds(groups, options, [unit.value for unit in units], image[None], grid, data)
        for index, unit in enumerate(units):
            axis = unit.axis
            z0 = np.moveaxis(clean[unit.value], axis, 0).reshape(len(unit.channel), -1).astype(np.float64)
            lower, upper = (
                np.moveaxis(side[0], axis + 1, 1).reshape(len(grid), len(unit.channel), -1)
                for side in bounds[unit.value]
            )
            shifted = z0 - references.setdefault(index, z0[:, :1].copy())
            rho = np.maximum(np.abs(upper - z0), np.abs(z0 - lower))
            moments[index] += np.stack([shifted.sum(1), (shifted**2).sum(1), (rho**2).mean(0).sum(1)])
            taus[index] += stability_factor(lower, upper).mean(0).sum(1)
            highest[index] = np.maximum(highest[index], upper.max(axis=(0, 2)))
            sizes[index] += z0.shape[1]
    return _combine(groups, options, moments, taus, highest, sizes)


def stability_factor(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """tau = 1 where [l, u] does not straddle 0, else 1 - 4*(-l*u)/(u - l)^2."""
    straddles = (lower < 0) & (upper > 0)
    width = np.where(straddles, upper - lower, 1.0)
    return np.where(straddles, 1 + 4 * lower * upper / width**2, 1.0)


def _combine(
    groups: Groups,
    options: ScoreOptions,
    moments: list[np.ndarray],
    taus: list[np.ndarray],
    highest: list[np.ndarray],
    sizes: list[int],
) -> RawScores:
    decibel, weight, t = (np.zeros((len(sizes), groups.n)) for _ in range(3))
    c = np.zeros((len(sizes), groups.n))
    for row, (unit, moment, tau, size) in enumerate(zip(groups.units, moments, taus, sizes, strict=True)):
        mean = moment[0] / size
        sig = np.nan_to_num(per_channel(groups, unit, np.maximum(moment[1] / size - mean**2, 0)))
        rho = np.nan_to_num(per_channel(groups, unit, moment[2] / size))
        with np.errstate(divide="ignore", invalid="ignore"):
            decibel[row] = np.clip(np.where(rho > 0, 10 * np.log10(sig / rho), LIMIT_DB), -LIMIT_DB, LIMIT_DB)
            c[row] = np.where(sig + rho > 0, sig / (sig + rho), 1.0)
        t[row] = np.nan_to_num(per_channel(groups, unit, tau / size))
        weight[row] = np.bincount(unit.channel[unit.channel >= 0], minlength=groups.n) * size
    total = np.maximum(weight.sum(0), 1)
    merged, factor = (decibel * weight).sum(0) / total, (t * weight).sum(0) / total
    alone = (weight > 0).sum(0) == 1
    certified = np.where(alone, (c * (weight > 0)).sum(0), 1 / (1 + 10 ** (-merged / 10)))
    values = merged + 10 * options.stability_exponent * np.log10(np.maximum(factor, 10 ** (-LIMIT_DB / 10)))
    parts = {"C": certified, "T": factor, "USN_cert": certified * factor**options.stability_exponent}
    return RawScores(np.where(weight.any(0), values, np.inf), None, True, parts)


@criterion(
    "looseness",
    "bounds",
    "E sum_p |A| * (-l*u)/(u-l) over straddling positions; the LOOSEST are pruned first (ablation)",
)
def looseness(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """Share of a channel in the looseness of the bound; removing large values tightens it most and ignores the task."""
    data = required(calibration, "looseness")
    slope_oracle = options.slope_oracle or _verifier().slope_oracle
    grid, total = cells(data.semantic, options.cells), np.zeros(groups.n)
    names = [unit.value for unit in groups.units]
    for image in data.images:
        bounds = oracle_bounds(groups, options, names, image[None], grid, data)
        slopes = slope_oracle(groups.net, names, image[None], grid, data)
        for unit in groups.units:
            lower, upper = bounds[unit.value]
            straddles = (lower < 0) & (upper > 0)
            gap = np.where(straddles, -lower * upper / np.where(straddles, upper - lower, 1.0), 0.0)
            loose = np.moveaxis((np.abs(slopes[unit.value]) * gap)[0], unit.axis + 1, 1)
            per_entry = loose.reshape(len(grid), len(unit.channel), -1).mean(0).sum(1)
            np.add.at(total, unit.channel[unit.channel >= 0], per_entry[unit.channel >= 0])
    return RawScores(-total / len(data.images))
