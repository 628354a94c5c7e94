"""Layer ratios from measured sensitivity (allocation `mrs`); our own forms, the published formula was not found.

prune    MRS_l = worst-case loss after removing 10 % of layer l (lowest L2) minus worst-case loss of the whole network;
         worst case: per image, the worst of a grid of S
weights  MRS_l = max over changes dw of layer l with ||dw|| <= 0.1 ||w_l|| of the loss under random s, minus the loss
         (the modular robust criticality of RiFT, arXiv 2308.02533, with s in place of an attack); 10 ascent steps

ratio_l = min(kappa * exp(-MRS_l / median), cap), kappa such that the total is rho, cap = max(0.75, (1 + rho) / 2)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pruning.calibration import Activations, Calibration
from pruning.groups import Groups
from pruning.net import Net
from pruning.options import MRS_FORMS, one_of
from pruning.planning import chosen_groups
from pruning.scores.weights import channel_norm
from pruning.surgery import mask

IMAGES = 64
GRID = 81  # of two parameters 9 x 9
HIGHEST = 0.75
FARTHEST = 700.0  # medians; exp(-1000) would be 0, and no kappa could make a share of it


def mrs_ratios(groups: Groups, data: Calibration, ratio: float, form: str, stream: bool) -> Mapping[str, float]:
    """Share of channels to remove per group name. Without labels, the loss is the squared change of the output."""
    data = data.fitted(groups.net)
    chosen = chosen_groups(groups, stream)
    one_of("mrs form", form, MRS_FORMS)
    few = data.part(slice(0, IMAGES))
    target = target_of(groups.net, few)
    if form == "prune":
        found = _by_pruning(groups, few, target, chosen)
    else:
        from pruning.gradients import worst_losses  # PyTorch

        found = worst_losses(groups, few, target, chosen)
    sizes = np.array([len(groups.groups[i].channels) for i in chosen], float)
    shares = allocate(np.array([found[i] for i in chosen]), sizes, ratio)
    return {groups.groups[i].name: float(share) for i, share in zip(chosen, shares, strict=True)}


def allocate(sensitivity: np.ndarray, sizes: np.ndarray, ratio: float) -> np.ndarray:
    """Shares that fall with sensitivity and remove `ratio` in total (log kappa by bisection)."""
    finite = np.isfinite(sensitivity)
    positive = np.where(finite, np.maximum(sensitivity, 0.0), 0.0)
    unit = (float(np.median(positive[finite])) if finite.any() else 0.0) or 1.0
    with np.errstate(over="ignore"):  # of a median next to 0; what overflows is as far as FARTHEST
        steps = positive / unit
    steps = np.where(finite, np.minimum(steps - steps.min(), FARTHEST), FARTHEST)
    cap = max(HIGHEST, (1 + ratio) / 2)

    def shares(kappa: float) -> np.ndarray:
        return np.exp(np.minimum(kappa - steps, np.log(cap)))

    low, high = -750.0, float(steps.max()) + 1.0  # from nothing to the cap everywhere
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if (shares(middle) * sizes).sum() < ratio * sizes.sum() else (low, middle)
    return shares(high)


def _by_pruning(groups: Groups, data: Calibration, target: np.ndarray, chosen: list[int]) -> dict[int, float]:
    norms = channel_norm(groups, 2)
    full = _worst_loss(groups.net, data, target)
    found = {}
    for index in chosen:
        free = groups.groups[index].free
        removed = np.zeros(groups.n, bool)
        count = max(1, round(0.1 * len(groups.groups[index].channels)))
        removed[free[np.argsort(norms[free], kind="stable")[:count]]] = True
        found[index] = _worst_loss(mask(groups, removed), data, target) - full
    return found


def target_of(net: Net, data: Calibration) -> np.ndarray:
    """The labels, or what the network answers where there are none."""
    if data.labels is not None:
        return data.labels
    return Activations(net, [net.outputs[0]])(data.images)[net.outputs[0]]


def _worst_loss(net: Net, data: Calibration, target: np.ndarray) -> float:
    """Mean over images of the worst loss on a grid of at most `GRID` points of S."""
    run, worst = Activations(net, [net.outputs[0]]), np.full(len(data.images), -np.inf)
    for point in data.semantic.grid(GRID):
        output = run(data.moved(data.images, point))[net.outputs[0]].reshape(len(worst), -1)
        worst = np.maximum(worst, _losses(output.astype(np.float64), target))
    return float(worst.mean())


def _losses(output: np.ndarray, target: np.ndarray) -> np.ndarray:
    if target.dtype.kind == "f":
        return ((output - target.reshape(len(target), -1)) ** 2).mean(1)
    shifted = output - output.max(1, keepdims=True)
    return np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(target)), target.reshape(-1)]
