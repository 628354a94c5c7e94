"""Channels per layer by marginal certified loss (allocation `marginal`).

Greedy (the usual heuristic for a knapsack): a few channels at a time, in the order of the criterion, from the layer
where removing its next ones raises the certified loss least. Certified loss: the task loss of the worst outputs within
affine bounds (`pruning.forms`) over a small random cell of S per image, removed channels held at their means. Small,
because on all of S these bounds of a trained network say nothing about it: for `cnn7` of width 32 they grow a
thousandfold from a fortieth of the sides to a tenth, and only on small cells does accuracy count as well.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from pruning import forms
from pruning.calibration import Calibration, channel_means
from pruning.fold import Constants, fold, readers
from pruning.groups import find_groups
from pruning.net import Net
from pruning.options import ChannelFloor
from pruning.planning import chosen_groups, ranked
from pruning.scores import Scores
from pruning.sensitivity import target_of
from pruning.surgery import mask
from pruning.torch_bridge import TorchNet

IMAGES = 32
CELL = 1 / 80
"""Sides of the cells, as a share of those of S."""
STEPS = 16
"""So many times a share of the channels is taken."""


def marginal_counts(
    scores: Scores, data: Calibration, ratio: float, stream: bool, floor: ChannelFloor
) -> Mapping[int, int]:
    """Number of channels to remove per group index, together `ratio` of those that can lose some.

    Idle channels go before any others; without labels the network's own answers are the target. Raises
    CriterionError for an operator that has no affine bounds.
    """
    groups, data = scores.groups, data.fitted(scores.groups.net).part(slice(0, IMAGES))
    chosen = chosen_groups(groups, stream)
    order = {index: _order(scores, index) for index in chosen}
    room = {index: len(groups.groups[index].channels) - floor.least(groups.groups[index]) for index in chosen}
    left = round(ratio * sum(len(groups.groups[index].channels) for index in chosen))
    loss = _CertifiedLoss(scores, data)
    idle = scores.free | np.isneginf(scores.values)
    counts = {index: min(room[index], int(idle[order[index]].sum())) for index in chosen}
    left -= sum(counts.values())
    step = max(1, -(-left // STEPS))
    while left > 0:
        found = {}
        for index in chosen:
            more = min(step, left, room[index] - counts[index], len(order[index]) - counts[index])
            if more > 0:
                tried = {**counts, index: counts[index] + more}
                found[index] = (loss({i: order[i][:n] for i, n in tried.items()}) / more, more)
        if not found:
            break
        best = min(found, key=lambda index: (found[index][0] if np.isfinite(found[index][0]) else np.inf, index))
        counts[best] += found[best][1]
        left -= found[best][1]
    return counts


def _order(scores: Scores, index: int) -> np.ndarray:
    """The channels of a group that may go: idle ones, then the lowest scores."""
    order = np.array(ranked(scores, [index], "none"))
    order = order[scores.groups.prunable[order]]
    return np.concatenate([order[scores.free[order]], order[~scores.free[order]]])


class _CertifiedLoss:
    """Certified loss of a network without some channels; the images and cells are the same at every call."""

    def __init__(self, scores: Scores, data: Calibration) -> None:
        self.groups, self.data = scores.groups, data
        self.target = target_of(self.groups.net, data)
        low, high = data.semantic.box.T
        self.half = CELL * (high - low) / 2
        rng = np.random.default_rng([data.seed, 23])
        self.middle = rng.uniform(low + self.half, high - self.half, (len(data.images), len(low)))
        everything = self.groups.prunable
        places = list(dict.fromkeys((cut.data, cut.data_axis) for cut in readers(self.groups, everything)))
        self.means: Constants = channel_means(self.groups.net, places, data)
        self.start = self._of(self.groups.net)

    def __call__(self, gone: Mapping[int, np.ndarray]) -> float:
        """By how much it is above that of the whole network."""
        removed = np.zeros(self.groups.n, bool)
        for channels in gone.values():
            removed[channels] = True
        folded = find_groups(fold(self.groups, removed, self.means), self.groups.kept_names)
        return self._of(mask(folded, removed)) - self.start

    def _of(self, net: Net) -> float:
        model = TorchNet(net)
        with torch.no_grad():
            bounds = forms.output_bounds(model, self.data, self.data.images, self.middle, self.half)
            return float(forms.worst_loss(*bounds, model.tensor(self.target)))
