"""Which neuron to split, by name: scores of every undecided element of a non-linear operator's argument.

A rule names the elements that are worth a try; one that looks ahead has the children of the best few bounded, and the
pair that gets furthest is split (see `neurons`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.alpha_beta import Parameters, Relaxed, Walked
from verifier.options import NEURON_RULES


class NeuronSplits(NamedTuple):
    """What may be split in B subproblems, (B, U) each, 0 where nothing is to be decided: `loss`, how far the plane that
    the clause's row takes lies from the function at the relaxed network's own point, and a part of `most`, the largest
    distance of the planes times the row's coefficient; the argument's `width`; the split `point`."""

    loss: Tensor
    most: Tensor
    width: Tensor
    point: Tensor


class NeuronRule(NamedTuple):
    """A score (B, U) of splits, the largest is taken; with `look_ahead` the best few are compared by their bounds. A
    bad score costs subproblems, never a verdict."""

    score: Callable[[NeuronSplits], Tensor]
    look_ahead: bool


RULES: dict[str, NeuronRule] = {}
"""Every rule by the word for `search.neurons`."""


def neuron_rule(
    name: str, look_ahead: bool
) -> Callable[[Callable[[NeuronSplits], Tensor]], Callable[[NeuronSplits], Tensor]]:
    """Registers a rule, for `search.neurons: name`."""

    def register(score: Callable[[NeuronSplits], Tensor]) -> Callable[[NeuronSplits], Tensor]:
        RULES[name] = NeuronRule(score, look_ahead)
        if name not in NEURON_RULES:
            NEURON_RULES.append(name)
        return score

    return register


@neuron_rule("auto", look_ahead=True)
@neuron_rule("loss", look_ahead=False)
def loss(splits: NeuronSplits) -> Tensor:
    """What the planes lose where the relaxed network is (compare FSB, De Palma et al. 2021)."""
    return splits.loss


@neuron_rule("intercept", look_ahead=False)
def intercept(splits: NeuronSplits) -> Tensor:
    """The row's coefficient times the planes' largest distance: for a ReLU's upper plane its intercept (the part of
    BaBSR, Bunel et al. 2020, that does not depend on the layer's bias)."""
    return splits.most


@neuron_rule("width", look_ahead=False)
def width(splits: NeuronSplits) -> Tensor:
    """The widest interval."""
    return splits.width


def open_splits(
    relaxed: Relaxed, p: Parameters, walked: Walked, arguments: dict[int, list[Tensor]]
) -> tuple[NeuronSplits, Tensor]:
    """What may be split, and its numbers (U,). For a ReLU the loss is the distance between relu(z) and the plane
    that is used, at the relaxed network's own point, and half of the upper plane's intercept."""
    parts: list[NeuronSplits] = []
    numbers = []
    for i, first in relaxed.ground.network.relus.items():
        index, at = relaxed.loose.get(i), walked.at.get(i)
        if at is None or index is None or not len(index):
            continue
        a, z = at.flatten(1)[:, index], arguments[i][0].flatten(1)[:, index]
        (low, high), open_ = relaxed.bounds[i], relaxed.unstable[i]
        slope = high / (high - low).clamp(min=torch.finfo(z.dtype).tiny)
        real = z.clamp(min=0)
        above = (slope * (z - low) - real).clamp(min=0) - 0.5 * slope * low
        below = (real - p.alpha[i] * z).clamp(min=0)
        loss = torch.where(a < 0, -a * above, a * below)
        most = torch.where(a < 0, a * slope * low, a * torch.maximum(-p.alpha[i] * low, (1 - p.alpha[i]) * high))
        tiny = torch.finfo(z.dtype).tiny
        values = loss.clamp(min=tiny) + tiny, most, high - low, torch.zeros_like(z)
        parts.append(NeuronSplits(*(torch.where(open_, value, 0.0) for value in values)))
        numbers.append(first + index)
    for i, curve in relaxed.curves.items():
        at = walked.at.get(i)
        if at is None:
            continue
        for k, splits in enumerate(curve.losses(p.alpha[i], at, arguments[i])):
            parts.append(NeuronSplits(*(t.flatten(1) for t in splits)))
            first = relaxed.ground.network.arguments[i, k]
            numbers.append(torch.arange(first, first + parts[-1].loss.shape[1], device=at.device))
    if not parts:
        none = relaxed.task.lower.new_zeros(len(relaxed.task), 0)
        return NeuronSplits(none, none, none, none), relaxed.task.query[:0]
    return NeuronSplits(*(torch.cat(t, 1) for t in zip(*parts, strict=True))), torch.cat(numbers)
