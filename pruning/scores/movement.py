"""USN, sampled: how much a channel's pre-activation moves under the perturbation, against what it says about images.

The paper that names USN (arXiv 2510.00083) was not available with its formula; this one is our own. Per channel, with
z0 the pre-activation of the clean image, z(s_k) of its K perturbed versions, E over images and positions (a regular
grid of about 36 inner positions where a map has more than 64):
    mu = mean_k z(s_k),   Bias2 = E (mu - z0)^2,   Var = E mean_k (z(s_k) - mu)^2
    MSE = Bias2 + Var = E mean_k (z(s_k) - z0)^2,   Sig = variance of z0
    R = Sig / (Sig + MSE),   usn_db = 10 log10(Sig / MSE) clamped to +-60
    T = 1 - share of (image, position, k) with sign z(s_k) != sign z0,   USN = R * T^g
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pruning.calibration import Activations, Calibration, perturbed
from pruning.groups import Groups, Unit, activation_nodes
from pruning.net import Net, Op
from pruning.scores.base import Options, Result, criterion, required

LIMIT_DB = 60.0
POSITIONS = 64  # maps with more positions are read on a grid
GRID = 36  # of about this many positions
_FORMULA = (
    "our USN = R * T^g, R = Sig / (Sig + Bias2 + Var), T = 1 - P[sign flips]; "
    "ranked by 10 log10(Sig/MSE) + 10 g log10 T"
)


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
        np.maximum(self.highest, z.max(0).max(1), out=self.highest)
        clean = z[0] - self.reference  # shifted, so that the variance of a constant is exactly zero
        self.first += clean.sum(1)
        self.second += np.einsum("cp,cp->c", clean, clean)
        if self.with_flips:
            bits = np.ascontiguousarray(z, np.float32).view(np.int32)  # the sign is the highest bit
            flipped = ((bits[1:] ^ bits[0]) < 0).view(np.uint8)
            self.flips += flipped.sum(0, dtype=np.uint16 if count < 1 << 16 else np.int64).sum(1) / count
        moved = z[1:] - z[:1]
        middle = moved.sum(0).astype(np.float64) / count
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
    """Run the calibration images under S and accumulate every unit. Costs K + 1 inference passes and a little."""
    units = groups.units
    net, views = probe(groups.net, units)
    run = Activations(net, views)
    sums = [_Sums(unit, options, with_flips) for unit in units]
    for batch in perturbed(calibration):
        values = run(batch)
        for unit, total, view in zip(units, sums, views, strict=True):
            z = values[view]
            if view != unit.value:
                z = z[(slice(None), slice(None), *_inner(groups.net.shapes[unit.value][2:]))]
            total.add(channels_first(z, unit.axis))
    moves = [total.result() for total in sums]
    return _checked_maxima(groups.net, moves, views, calibration)


def probe(net: Net, units: Sequence[Unit]) -> tuple[Net, list[str]]:
    """The network with, for each unit, a value to read.

    Large maps are read on a regular grid of about `GRID` positions: by a copy of the convolution that makes them
    (and of its BatchNormalization) with larger strides, which gives the same values and leaves the path of inference
    alone for ONNX Runtime to fuse; else by MaxPool with a window of one. Small values are read whole.
    """
    nodes: list[Op] = []
    shapes, views = dict(net.shapes), []
    for unit in units:
        shape = net.shapes[unit.value]
        spatial = shape[2:]
        if unit.axis != 1 or not spatial or np.prod(spatial) <= POSITIONS:
            views.append(unit.value)
            continue
        strides = _strides(spatial)
        probes = _strided_conv(net, unit.value, strides) or [_strided_pool(net, unit.value, strides)]
        nodes.extend(probes)
        seen = probes[-1].outputs[0]
        shapes[seen] = (*shape[:2], *(-(-length // stride) for length, stride in zip(spatial, strides, strict=True)))
        views.append(seen)
    return replace(net.changed([*net.nodes, *nodes]), shapes=shapes), views


def _strided_conv(net: Net, value: str, strides: list[int]) -> list[Op] | None:
    """Nodes that compute `value` on a grid, if a Conv with explicit pads (and a BatchNormalization) makes it."""
    chain: list[Op] = []
    name = value
    while not chain or chain[0].type != "Conv":
        index = net.producer.get(name)
        if index is None or len(chain) > 1 or net.nodes[index].type not in ("Conv", "BatchNormalization"):
            return None
        chain.insert(0, net.nodes[index])
        name = net.nodes[index].inputs[0]
    own = list(chain[0].attrs.get("strides", [1] * len(strides)))
    if chain[0].attrs.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or len(chain[-1].outputs) > 1:
        return None
    attrs = {**chain[0].attrs, "strides": [a * b for a, b in zip(own, strides, strict=True)]}
    copies: list[Op] = []
    for place, node in enumerate(chain):
        made = net.fresh_name(f"{node.outputs[0]}_grid")
        source = copies[-1].outputs[0] if copies else node.inputs[0]
        changed = attrs if place == 0 else node.attrs
        copies.append(replace(node, name=made, inputs=(source, *node.inputs[1:]), outputs=(made,), attrs=changed))
    return copies


def _strided_pool(net: Net, value: str, strides: list[int]) -> Op:
    made = net.fresh_name(f"{value}_grid")
    return Op("MaxPool", (value,), (made,), name=made, attrs={"kernel_shape": [1] * len(strides), "strides": strides})


def _checked_maxima(net: Net, moves: list[Movement], views: list[str], calibration: Calibration) -> list[Movement]:
    """Maxima of channels that never were positive on the grid, taken over all positions of the clean images."""
    doubtful = [i for i, m in enumerate(moves) if views[i] != m.unit.value and (m.highest <= 0).any()]
    if not doubtful:
        return moves
    tops = {i: net.fresh_name(f"{moves[i].unit.value}_top") for i in doubtful}
    pools = [Op("GlobalMaxPool", (moves[i].unit.value,), (top,), name=top) for i, top in tops.items()]
    run = Activations(net.changed([*net.nodes, *pools]), list(tops.values()))
    highest = {i: moves[i].highest.copy() for i in doubtful}
    for start in range(0, len(calibration.images), 32):
        values = run(calibration.images[start : start + 32])
        for i, top in tops.items():
            np.maximum(highest[i], values[top].max(0).reshape(-1), out=highest[i])
    return [replace(move, highest=highest.get(i, move.highest)) for i, move in enumerate(moves)]


def _inner(spatial: tuple[int, ...]) -> list[slice]:
    """The grid without its rows and columns on the border of the map, which would weigh too much."""
    inner = []
    for length, stride in zip(spatial, _strides(spatial), strict=True):
        count = -(-length // stride)
        inner.append(slice(min(1, count - 1), count - 1 if (count - 1) * stride == length - 1 and count > 2 else count))
    return inner


def _strides(spatial: tuple[int, ...]) -> list[int]:
    """Steps of a grid of about `GRID` positions besides its first row and column, as even as the axes allow."""
    strides = [1] * len(spatial)
    while np.prod([-(-length // stride) - 1 for length, stride in zip(spatial, strides, strict=True)]) > GRID:
        longest = max(range(len(spatial)), key=lambda axis: spatial[axis] / strides[axis])
        strides[longest] += 1
    return strides


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
