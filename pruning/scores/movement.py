"""USN, sampled: how much a channel's pre-activation moves under the perturbation, against what it says about images.

The paper that names USN (arXiv 2510.00083) was not available with its formula; this one is our own. Per channel, with z0 the
pre-activation of the clean image, z(s_k) of its K perturbed versions, E over images and positions:
    mu = mean_k z(s_k),  Bias2 = E (mu - z0)^2,  Var = E mean_k (z(s_k) - mu)^2,  MSE = Bias2 + Var = E mean_k (z(s_k) - z0)^2
    Sig = variance of z0,   R = Sig / (Sig + MSE),   usn_db = 10 log10(Sig / MSE) clamped to +-60
    T = 1 - share of (image, position, k) with sign z(s_k) != sign z0,   USN = R * T^g
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruning.calibration import Activations, Calibration, perturbed
from pruning.groups import Groups, Unit, activation_nodes
from pruning.scores.base import Options, Result, criterion, required

LIMIT_DB = 60.0
_FORMULA = "our USN = R * T^g, R = Sig / (Sig + Bias2 + Var), T = 1 - P[sign flips]; ranked by 10 log10(Sig/MSE) + 10 g log10 T"


@dataclass(frozen=True, eq=False)
class Movement:
    """Per entry of a unit's axis: sums over images (and positions, unless they are kept) of the quantities above."""

    unit: Unit
    sig: np.ndarray
    mse: np.ndarray
    bias2: np.ndarray
    flips: np.ndarray
    mean: np.ndarray
    highest: np.ndarray
    positions: int


class _Sums:
    """Running sums for one unit; z arrives as (K + 1, C, P) with the clean image first."""

    def __init__(self, unit: Unit, options: Options, with_flips: bool) -> None:
        self.unit, self.per_position, self.with_flips = unit, options.aggregate == "q90", with_flips
        self.images = 0
        self.reference: np.ndarray | None = None

    def add(self, z: np.ndarray) -> None:
        if self.reference is None:
            _, channels, positions = z.shape
            self.reference = z[0, :, :1].astype(np.float64)
            shape = (channels, positions) if self.per_position else (channels,)
            self.mse, self.bias2 = np.zeros(shape), np.zeros(shape)
            self.first, self.second, self.flips = np.zeros(channels), np.zeros(channels), np.zeros(channels)
            self.highest = np.full(channels, -np.inf)
            self.positions = positions
        count = len(z) - 1
        self.images += 1
        np.maximum(self.highest, z.max(axis=(0, 2)), out=self.highest)
        clean = z[0] - self.reference  # shifted, so that the variance of a constant is exactly zero
        self.first += clean.sum(1)
        self.second += np.einsum("cp,cp->c", clean, clean)
        if self.with_flips:
            self.flips += (np.signbit(z[1:]) != np.signbit(z[0])).sum(axis=(0, 2)) / count
        moved = z[1:] - z[:1]
        middle = moved.mean(0, dtype=np.float64)
        if self.per_position:
            self.mse += np.einsum("kcp,kcp->cp", moved, moved) / count
            self.bias2 += middle**2
        else:
            self.mse += np.einsum("kcp,kcp->c", moved, moved) / count
            self.bias2 += np.einsum("cp,cp->c", middle, middle)

    def result(self) -> Movement:
        assert self.reference is not None
        n = self.images * self.positions
        mean = self.first / n
        sig = np.maximum(self.second / n - mean**2, 0.0)
        if self.per_position:
            mse = np.quantile(self.mse / self.images, 0.9, axis=1)
            bias2 = np.minimum(np.quantile(self.bias2 / self.images, 0.9, axis=1), mse)
        else:
            mse, bias2 = self.mse / n, self.bias2 / n
        flips = self.flips / n
        return Movement(self.unit, sig, mse, bias2, flips, mean + self.reference[:, 0], self.highest, self.positions)


def measure(groups: Groups, calibration: Calibration, options: Options, with_flips: bool) -> list[Movement]:
    """Run the calibration images under S and accumulate every unit. Costs K + 1 inference passes."""
    units = groups.units
    run = Activations(groups.net, [unit.value for unit in units])
    sums = [_Sums(unit, options, with_flips) for unit in units]
    for batch in perturbed(calibration):
        values = run(batch)
        for unit, total in zip(units, sums, strict=True):
            total.add(channels_first(values[unit.value], unit.axis))
    return [total.result() for total in sums]


def channels_first(z: np.ndarray, axis: int) -> np.ndarray:
    """(n, ..., C, ...) -> (n, C, P)."""
    return np.moveaxis(z, axis, 1).reshape(len(z), z.shape[axis], -1)


def per_channel(groups: Groups, unit: Unit, entries: np.ndarray, how: str = "mean") -> np.ndarray:
    """Collect per-entry numbers into channels (several features of one channel are averaged, or the highest taken)."""
    valid = unit.channel >= 0
    where, numbers = unit.channel[valid], entries[valid]
    if how == "max":
        highest = np.full(groups.n, -np.inf)
        np.maximum.at(highest, where, numbers)
        return highest
    total, count = np.zeros(groups.n), np.zeros(groups.n)
    np.add.at(total, where, numbers)
    np.add.at(count, where, 1.0)
    return np.divide(total, count, out=np.full(groups.n, np.nan), where=count > 0)


def combine(groups: Groups, moves: list[Movement], options: Options) -> Result:
    """Scores from measured movement."""
    shape = (len(moves), groups.n)
    sig, mse, bias2, flips, weight = (np.zeros(shape) for _ in range(5))
    idle = np.ones(shape, bool)
    for row, move in enumerate(moves):
        unit = move.unit
        present = np.isin(np.arange(groups.n), unit.channel)
        entries = np.bincount(unit.channel[unit.channel >= 0], minlength=groups.n)
        weight[row] = np.where(present, entries * move.positions, 0)
        means = np.nan_to_num(per_channel(groups, unit, move.mean))
        sig[row] = np.nan_to_num(per_channel(groups, unit, move.sig))  # entries tied to one channel are averaged
        mse[row], bias2[row], flips[row] = (
            np.nan_to_num(per_channel(groups, unit, part)) for part in (move.mse, move.bias2, move.flips)
        )
        idle[row] = ~present | _idle(groups, move)
        if options.bias == "centred":
            bias2[row] = means**2
            mse[row] = mse[row] - np.nan_to_num(per_channel(groups, unit, move.bias2)) + bias2[row]
    return _scores(groups, sig, mse, bias2, flips, weight, idle, options)


def _idle(groups: Groups, move: Movement) -> np.ndarray:
    """Channels all of whose entries are constant, or never positive before a ReLU."""
    readers = activation_nodes(groups, move.unit.value)
    only_relu = bool(readers) and len(groups.net.consumers[move.unit.value]) == len(readers)
    only_relu = only_relu and all(node.type == "Relu" for _, node in readers)
    idle = (move.sig == 0) & (move.mse == 0)
    if only_relu:
        idle |= move.highest <= 0
    return per_channel(groups, move.unit, np.where(idle, 0.0, 1.0), "max") <= 0


def _scores(
    groups: Groups,
    sig: np.ndarray,
    mse: np.ndarray,
    bias2: np.ndarray,
    flips: np.ndarray,
    weight: np.ndarray,
    idle: np.ndarray,
    options: Options,
) -> Result:
    present = weight > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(sig + mse > 0, sig / (sig + mse), 1.0)
        decibel = np.clip(np.where(mse > 0, 10 * np.log10(sig / mse), LIMIT_DB), -LIMIT_DB, LIMIT_DB)
    free = idle.all(0) & present.any(0)
    total = np.maximum(weight.sum(0), 1)
    if options.join == "min":
        merged = np.where(present, decibel, np.inf).min(0)
    else:
        merged = (decibel * weight).sum(0) / total
    alone = present.sum(0) == 1
    r = np.where(alone, (ratio * present).sum(0), 1 / (1 + 10 ** (-merged / 10)))
    t = 1 - (flips * weight).sum(0) / total
    floor = 10 ** (-LIMIT_DB / 10)
    values = merged + 10 * options.stability_exponent * np.log10(np.maximum(t, floor))
    values = np.where(present.any(0), values, np.inf)
    parts = {
        "R": np.where(free & (sig.sum(0) == 0), -1.0, r),  # 0/0 for a constant
        "usn_db": merged,
        "T": t,
        "USN": np.where(free, -1.0, r * t**options.stability_exponent),
        **{name: (part * weight).sum(0) / total for name, part in (("Sig", sig), ("MSE", mse), ("Bias2", bias2))},
    }
    parts["Var"] = parts["MSE"] - parts["Bias2"]
    return Result(values, free, True, parts)


@criterion("usn", "range", _FORMULA)
def usn(groups: Groups, calibration: Calibration | None, options: Options) -> Result:
    """Sampled USN."""
    data = required(calibration, "usn")
    return combine(groups, measure(groups, data, options, with_flips=True), options)


@criterion("anti-usn", "range", "minus our USN: the negative control, removes the best channels first")
def anti_usn(groups: Groups, calibration: Calibration | None, options: Options) -> Result:
    """The reverse order of `usn`."""
    result = usn(groups, calibration, options)
    return Result(-result.values, result.free, result.decibel, result.parts)


def idle_channels(groups: Groups, calibration: Calibration) -> np.ndarray:
    """Channels that are inactive or constant on the calibration images under the points of S."""
    free = combine(groups, measure(groups, calibration, Options(), with_flips=False), Options()).free
    assert free is not None
    return free
