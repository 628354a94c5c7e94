"""USN, sampled: how much a channel's pre-activation moves under the perturbation, against what it says about images.

The paper that names USN (arXiv 2510.00083) was not available with its formula; this one is our own. Per channel, with
z0 the pre-activation of the clean image, z(s_k) of its K perturbed versions, E over images and all positions (maps of
more than 8 positions are read on fewer images, large ones on every eighth, but never on less than 32, and of more
than 128 positions some rows, others on the next image, so that the border keeps its weight):
    mu = mean_k z(s_k),   Bias2 = E (mu - z0)^2,   Var = E mean_k (z(s_k) - mu)^2
    MSE = Bias2 + Var = E mean_k (z(s_k) - z0)^2,   Sig = variance of z0
    R = Sig / (Sig + MSE),   usn_db = 10 log10(Sig / MSE) clamped to +-60
    T = 1 - share of (image, position, k) with sign z(s_k) != sign z0,   USN = R * T^g
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pruning.calibration import Activations, Calibration, perturbed
from pruning.groups import Groups, Unit, activation_nodes
from pruning.net import OnnxNode
from pruning.options import ScoreOptions
from pruning.scores.base import RawScores, criterion, required

LIMIT_DB = 60.0
POSITIONS = 8  # a map with k times as many is read on every k-th image,
SPARSEST = 8  # on every eighth at least,
IMAGES = 32  # and on this many of those there are
READ = 128  # positions read of one image: evenly spaced rows, shifted from image to image so that each comes up alike
TURN = 11  # samples run at once: so their maps stay in the cache
HELD = 1 << 20  # and at most so many values are held
_FORMULA = (
    "our USN = R * T^g, R = Sig / (Sig + Bias2 + Var), T = 1 - P[sign flips]; "
    "ranked by 10 log10(Sig/MSE) + 10 g log10 T"
)


@dataclass(frozen=True, eq=False)
class Movement:
    """Per entry of a unit's axis: sums over images (and positions, unless they are kept) of the quantities above.

    `highest` is the maximum only while it is not positive; of other entries it says no more than that they are.
    `sampled` says that not all positions of all images were read.
    """

    unit: Unit
    sig: np.ndarray
    mse: np.ndarray
    bias2: np.ndarray
    flips: np.ndarray
    mean: np.ndarray
    highest: np.ndarray
    positions: int
    sampled: bool


class _Sums:
    """Running sums for one unit; z arrives as (K + 1, ..., C, ...) with the clean image first.

    What runs over all of z is computed in float32 (K terms each, relative error below K * 2^-24), sums in float64.
    """

    def __init__(
        self, unit: Unit, options: ScoreOptions, with_flips: bool, count: int, positions: int, step: int
    ) -> None:
        self.unit, self.per_position, self.with_flips = unit, options.aggregate == "q90", with_flips
        self.count, self.positions, self.step, self.images = count, positions, step, 0
        channels, self.places = len(unit.channel), 0
        self.first, self.second, self.flips = (np.zeros(channels) for _ in range(3))
        self.mse, self.bias2 = np.zeros(()), np.zeros(())  # (C,), or (C, P) where positions are kept
        self.highest, self.silent = np.full(channels, -np.inf), np.arange(channels)

    def add(self, z: np.ndarray) -> None:
        """The clean image and all its samples: what `read` gave. The formula of the module, up to the division by the
        number of images."""
        self.shape = z.shape[1:]
        clean = self._by_channel(z[0])
        if not self.images:
            self.places, self.reference = clean.shape[1], clean[:, :1]
            self.moved = np.empty_like(z[1:])  # held, since a new one for each image costs more than its arithmetic
        moved = np.subtract(z[1:], z[0], out=self.moved).reshape(self.count, -1)
        middle = self._by_channel(np.ones(self.count, z.dtype) @ moved) / self.count
        squares = self._by_channel(np.einsum("kx,kx->x", moved, moved)) / self.count
        shifted = clean - self.reference  # so that the variance of a constant is exactly zero
        self.first += shifted.sum(1)
        self.second += np.einsum("cp,cp->c", shifted, shifted)
        kept = "cp" if self.per_position else "c"
        self.mse = self.mse + np.einsum(f"cp->{kept}", squares)
        self.bias2 = self.bias2 + np.einsum(f"cp,cp->{kept}", middle, middle)
        if self.with_flips:
            negative = (z[1:] < 0).view(np.uint8)
            below = self._by_channel(np.add.reduce(negative, 0, np.uint8 if self.count < 256 else np.int64))
            self.flips += np.where(clean < 0, self.count - below, below).sum(1) / self.count
        if len(self.silent):  # maxima of the channels that were never positive yet
            top = channels_first(np.take(z, self.silent, self.unit.axis), self.unit.axis).max((0, 2))
            self.highest[self.silent] = np.maximum(self.highest[self.silent], top)
            self.silent = self.silent[self.highest[self.silent] <= 0]
        self.images += 1

    def _by_channel(self, part: np.ndarray) -> np.ndarray:
        """A value of one image, or a number for each of its elements, as float64 (C, P)."""
        return channels_first(part.reshape(1, *self.shape), self.unit.axis)[0].astype(np.float64)

    def read(self, z: np.ndarray) -> np.ndarray:
        """Rows of a large map: systematic sampling, whose start moves by the golden ratio from image to image."""
        if z.ndim < 4 or self.unit.axis != 1 or self.per_position or z[0, 0].size <= READ:
            return z
        length = z.shape[2]
        count = max(1, READ * length // z[0, 0].size)
        start = self.images * 0.6180339887498949 % 1
        return z[:, :, ((start + np.arange(count)) * length / count).astype(np.int64)]

    def result(self) -> Movement:
        n = self.images * self.places
        mean = self.first / n
        sig = np.maximum(self.second / n - mean**2, 0.0)
        if self.per_position:
            mse = np.quantile(self.mse / self.images, 0.9, axis=1)
            bias2 = np.minimum(np.quantile(self.bias2 / self.images, 0.9, axis=1), mse)
        else:
            mse, bias2 = self.mse / n, self.bias2 / n
        sampled = self.step > 1 or self.places < self.positions
        mean = mean + self.reference[:, 0]
        return Movement(self.unit, sig, mse, bias2, self.flips / n, mean, self.highest, self.positions, sampled)


def measure(groups: Groups, calibration: Calibration, options: ScoreOptions, with_flips: bool) -> list[Movement]:
    """Run the calibration images under S and accumulate every unit. Costs K + 1 inference passes and a little."""
    count, shapes = calibration.samples, groups.net.shapes
    sums, sizes = [], []
    for unit in groups.units:
        size = int(np.prod(shapes[unit.value]))
        positions = size // len(unit.channel)
        step = min(-(-positions // POSITIONS), SPARSEST, max(1, len(calibration.images) // IMAGES))
        sizes.append(size)
        sums.append(_Sums(unit, options, with_flips, count, positions, step))
    runs: dict[tuple[int, ...], Activations] = {}
    for number, batch in enumerate(perturbed(calibration)):
        now = tuple(i for i, total in enumerate(sums) if number % total.step == 0)
        if now and now not in runs:
            runs[now] = Activations(groups.net, [sums[i].unit.value for i in now])
        turn = min(TURN, max(1, HELD // max(1, sum(sizes[i] for i in now))))
        read: dict[int, list[np.ndarray]] = {i: [] for i in now}
        for first in range(0, len(batch) if now else 0, turn):
            values = runs[now](batch[first : first + turn])
            for i in now:
                read[i].append(sums[i].read(values[sums[i].unit.value]))
        for i in now:
            sums[i].add(np.concatenate(read[i]))
    return _checked_maxima(groups, [total.result() for total in sums], calibration)


def _checked_maxima(groups: Groups, moves: list[Movement], calibration: Calibration) -> list[Movement]:
    """Maxima of channels that never were positive where they were read, taken over all images as they are.

    Only where a ReLU follows, where the sign decides: its own output tells it, and reading that spares ONNX Runtime's
    fusions.
    """
    relus = {i: _relus(groups, m.unit) for i, m in enumerate(moves) if m.sampled and (m.highest <= 0).any()}
    behind = {i: nodes[0].outputs[0] for i, nodes in relus.items() if nodes}
    if not behind:
        return moves
    run = Activations(groups.net, list(behind.values()))
    highest = {i: moves[i].highest.copy() for i in behind}
    for start in range(0, len(calibration.images), TURN):
        if all((found > 0).all() for found in highest.values()):
            break
        values = run(calibration.images[start : start + TURN])
        for i, name in behind.items():
            top = channels_first(values[name], moves[i].unit.axis).max((0, 2))
            np.maximum(highest[i], top, out=highest[i], where=top > 0)
    return [replace(move, highest=highest.get(i, move.highest)) for i, move in enumerate(moves)]


def _relus(groups: Groups, unit: Unit) -> list[OnnxNode]:
    """The ReLUs that read a unit, if nothing else does."""
    readers = [node for _, node in activation_nodes(groups, unit.value)]
    alone = len(groups.net.consumers[unit.value]) == len(readers)
    return readers if alone and all(node.type == "Relu" for node in readers) else []


def channels_first(z: np.ndarray, axis: int) -> np.ndarray:
    """(n, ..., C, ...) -> (n, C, P)."""
    return (z if axis == 1 else np.moveaxis(z, axis, 1)).reshape(len(z), z.shape[axis], -1)


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


def combine(groups: Groups, moves: list[Movement], options: ScoreOptions) -> RawScores:
    """Scores from measured movement: R, T and decibels per unit and channel, joined over the units of a channel."""
    shape = (len(moves), groups.n)
    sig, mse, bias2, flips, weight = (np.zeros(shape) for _ in range(5))
    idle = np.ones(shape, bool)
    for row, move in enumerate(moves):
        entries = np.bincount(move.unit.channel[move.unit.channel >= 0], minlength=groups.n)
        weight[row] = entries * move.positions
        sig[row], mse[row], bias2[row], flips[row], means = (  # entries tied to one channel are averaged
            np.nan_to_num(per_channel(groups, move.unit, part))
            for part in (move.sig, move.mse, move.bias2, move.flips, move.mean)
        )
        idle[row] = (entries == 0) | _idle(groups, move)
        if options.bias == "centred":
            mse[row], bias2[row] = mse[row] - bias2[row] + means**2, means**2
    present = weight > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(sig + mse > 0, sig / (sig + mse), 1.0)
        decibel = np.clip(np.where(mse > 0, 10 * np.log10(sig / mse), LIMIT_DB), -LIMIT_DB, LIMIT_DB)
    free = np.asarray(idle.all(0) & present.any(0))
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
    return RawScores(values, free, True, parts)


def _idle(groups: Groups, move: Movement) -> np.ndarray:
    """Channels all of whose entries are constant, or never positive before a ReLU."""
    idle = (move.sig == 0) & (move.mse == 0)
    if _relus(groups, move.unit):
        idle |= move.highest <= 0
    return per_channel(groups, move.unit, np.where(idle, 0.0, 1.0), "max") <= 0


@criterion("usn", "range", _FORMULA)
def usn(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """Sampled USN."""
    data = required(calibration, "usn")
    return combine(groups, measure(groups, data, options, with_flips=True), options)


@criterion("anti-usn", "range", "minus our USN: the negative control, removes the best channels first")
def anti_usn(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> RawScores:
    """The reverse order of `usn`."""
    result = usn(groups, calibration, options)
    return RawScores(-result.values, result.free, result.decibel, result.parts)


def idle_channels(groups: Groups, calibration: Calibration) -> np.ndarray:
    """Channels that are inactive or constant on the calibration images under the points of S."""
    free = combine(groups, measure(groups, calibration, ScoreOptions(), with_flips=False), ScoreOptions()).free
    assert free is not None
    return free
