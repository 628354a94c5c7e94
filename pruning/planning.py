"""From scores to a plan: which channels go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from pruning.errors import CriterionError, NothingToPrune
from pruning.groups import Groups
from pruning.net import Net
from pruning.options import ALLOCATIONS, NORMS, ChannelFloor, one_of, share
from pruning.scores.base import Scores
from verifier.brief import brief


@dataclass(frozen=True, eq=False)
class Plan:
    """Channels to remove (`removed`, a mask over channels) and how they were chosen.

    `ratio` was asked for, `reached` is what the floors allow; both are shares of the channels of the chosen groups.
    """

    __repr__ = brief

    groups: Groups
    removed: np.ndarray
    ratio: float
    reached: float
    criterion: str
    allocation: str
    norm: str
    chosen: tuple[int, ...]
    scores: Scores | None = None
    notes: tuple[str, ...] = ()
    floor: ChannelFloor = field(default_factory=ChannelFloor)

    @property
    def counts(self) -> Mapping[int, int]:
        """Number of removed channels per group index."""
        return {index: int(self.removed[group.channels].sum()) for index, group in enumerate(self.groups.groups)}

    def on(self, net: Net) -> Plan:
        """The same plan for a network with the same structure and other weights."""
        return replace(self, groups=replace(self.groups, net=net))


def stages(ratio: float, count: int) -> list[tuple[float, float]]:
    """Of each stage, the share of channels gone after it, and the share *of those still there* that it removes.

    Cubic schedule rho_t = rho (1 - (1 - t/T)^3), as in Zhu and Gupta (2017, arXiv 1710.01878).
    """
    gone = [ratio * (1 - (1 - stage / count) ** 3) for stage in range(count + 1)]
    return [(after, 1 - (1 - after) / (1 - before)) for before, after in pairwise(gone)]


def make_plan(
    scores: Scores,
    ratio: float,
    allocation: str = "uniform",
    norm: str = "layer-median",
    stream: bool = False,
    floor: ChannelFloor | None = None,
    guard: np.ndarray | None = None,
    layer_ratios: Mapping[str, float] | None = None,
    counts: Mapping[int, int] | None = None,
) -> Plan:
    """Choose the channels with the lowest scores.

    `ratio` is the share of channels of the chosen groups (`internal` ones, with `stream` also those joined by residual
    sums). `guard` marks channels that are not to be touched; `layer_ratios` (by group name) gives each group its own
    share (allocation `mrs`); `counts` fixes the number per group index (random-matched, allocation `marginal`). Raises
    RatioError, NothingToPrune.
    """
    floor = floor or ChannelFloor()
    share(ratio)
    one_of("allocation", allocation, ALLOCATIONS)
    one_of("norm", norm, NORMS)
    if allocation == "mrs" and layer_ratios is None:
        raise CriterionError("allocation 'mrs' needs measured sensitivities (layer_ratios)")
    if allocation == "marginal" and counts is None:
        raise CriterionError("allocation 'marginal' needs measured counts (pruning.marginal)")
    groups = scores.groups
    chosen = chosen_groups(groups, stream)
    if not chosen:
        raise NothingToPrune(why_nothing(groups, stream))
    quota = _quotas(groups, chosen, ratio, layer_ratios, counts)
    barred = ~groups.prunable if guard is None else ~groups.prunable | guard
    picker = _Picker(groups, floor, barred)
    total = sum(len(groups.groups[i].channels) for i in chosen)
    picker.take(c for i in chosen for c in groups.groups[i].channels[scores.free[groups.groups[i].channels]].tolist())
    idle = int(picker.removed.sum())
    if allocation == "global" and counts is None:
        picker.take(ranked(scores, chosen, norm), round(ratio * total))
    else:
        for index in chosen:
            picker.take(ranked(scores, [index], "none"), quota[index], within=groups.groups[index].channels)
    reached = float(picker.removed.sum()) / total
    notes = [f"{idle} idle channels (inactive or constant on the calibration data) removed first"] if idle else []
    if counts is None and layer_ratios is None and picker.removed.sum() < round(ratio * total) - len(chosen):
        notes.append(
            f"asked for {ratio:.0%}, reached {reached:.0%}: every layer keeps at least max({floor.channels}, "
            f"{floor.fraction:.0%}) channels"
        )
    picker.removed.setflags(write=False)
    return Plan(
        groups,
        picker.removed,
        ratio,
        reached,
        scores.criterion,
        allocation,
        norm,
        tuple(chosen),
        scores,
        tuple(notes),
        floor,
    )


def why_nothing(groups: Groups, stream: bool) -> str:
    """One line that says why no channel can be removed."""
    if not groups.groups:
        return "nothing to prune: the network has no layer with weights and hidden channels"
    waiting = sum(1 for g in groups.groups if len(g.free) and g.kind == "stream")
    if waiting and not stream:
        return f"nothing to prune but {waiting} residual stream group(s); add --stream to prune those too"
    reasons = dict.fromkeys(f"'{g.name}': {g.reason}" for g in groups.groups if not len(g.free))
    shown = "; ".join(list(reasons)[:3])
    return f"nothing to prune: every layer is frozen ({shown}{'; ...' if len(reasons) > 3 else ''})"


def _quotas(
    groups: Groups,
    chosen: Sequence[int],
    ratio: float,
    layer_ratios: Mapping[str, float] | None,
    counts: Mapping[int, int] | None,
) -> dict[int, int]:
    if counts is not None:
        return {index: counts.get(index, 0) for index in chosen}
    shares = {i: ratio if layer_ratios is None else layer_ratios.get(groups.groups[i].name, ratio) for i in chosen}
    return {index: round(part * len(groups.groups[index].channels)) for index, part in shares.items()}


def chosen_groups(groups: Groups, stream: bool) -> list[int]:
    """Indices of the groups that lose channels: those with any to spare, joined by residual sums only with `stream`."""
    return [i for i, g in enumerate(groups.groups) if len(g.free) and (stream or g.kind == "internal")]


def ranked(scores: Scores, chosen: Sequence[int], norm: str) -> list[int]:
    """Channels of some groups, lowest score first; ties by L2 importance, then by number."""
    members = np.concatenate([scores.groups.groups[i].channels for i in chosen])
    values = normalised(scores, chosen, norm)[members]
    return members[np.lexsort((members, scores.tie[members], values))].tolist()


def normalised(scores: Scores, chosen: Sequence[int], norm: str) -> np.ndarray:
    """Scores made comparable between layers: relative to the layer's median (difference of decibels, ratio
    otherwise).
    """
    values = scores.values.astype(np.float64).copy()
    for index in chosen:
        members = scores.groups.groups[index].channels
        part = values[members]
        finite = part[np.isfinite(part)]
        if norm == "layer-median" and finite.size:
            middle = float(np.median(finite))
            values[members] = part - middle if scores.decibel else part / (abs(middle) or 1.0)
        elif norm == "layer-rank":
            order = np.empty(len(part))
            order[np.lexsort((scores.tie[members], part))] = np.arange(len(part))
            values[members] = order / len(part)
    return values


class _Picker:
    """Takes channels in order as long as floors and segments (parts of a Split, ...) keep enough."""

    def __init__(self, groups: Groups, floor: ChannelFloor, barred: np.ndarray) -> None:
        self.groups, self.barred = groups, barred
        self.removed = np.zeros(groups.n, bool)
        self.room = [len(g.channels) - floor.least(g) for g in groups.groups]
        self.segments: dict[int, list[int]] = {}
        self.left = []
        for index, segment in enumerate(groups.segments):
            members = np.unique(segment[segment >= 0])
            self.left.append(len(members) + int((segment < 0).any()))
            for channel in members.tolist():
                self.segments.setdefault(channel, []).append(index)

    def take(self, order: object, quota: int | None = None, within: np.ndarray | None = None) -> None:
        """Remove channels in `order` until `quota` of those `within` (default: all) are gone."""
        gone = int((self.removed if within is None else self.removed[within]).sum())
        for channel in order:  # type: ignore[attr-defined]
            if quota is not None and gone >= quota:
                return
            owner = self.groups.group_of[channel]
            parts = self.segments.get(channel, ())
            if (
                self.barred[channel]
                or self.removed[channel]
                or not self.room[owner]
                or any(self.left[p] < 2 for p in parts)
            ):
                continue
            self.removed[channel] = True
            self.room[owner] -= 1
            gone += 1
            for part in parts:
                self.left[part] -= 1
