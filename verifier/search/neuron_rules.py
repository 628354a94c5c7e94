"""Which neuron to split, by name: scores of every undecided element of a non-linear operator's argument.

A rule names the elements that are worth a try; one that looks ahead has the children of the best few bounded, and the
pair that gets furthest is split (see `neurons`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.relaxed import Parameters, Relaxed, Walked
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
    numbers = [relaxed.places]
    if len(relaxed.places):
        a, z = relaxed.at_loose(walked.at), relaxed.at_loose({i: xs[0] for i, xs in arguments.items()})
        (low, high), alpha = relaxed.bounds, p.alpha[:, : len(relaxed.places)]
        tiny = torch.finfo(z.dtype).tiny
        slope = high / (high - low).clamp(min=tiny)
        real, cut = z.clamp(min=0), slope * low
        above = (slope * z - cut - real).clamp_(min=0) - 0.5 * cut
        below = (real - alpha * z).clamp_(min=0)
        upper, size = a < 0, a.abs()
        loss = size * torch.where(upper, above, below)
        most = size * torch.where(upper, -cut, torch.maximum(-alpha * low, (1 - alpha) * high))
        values = torch.stack([loss.clamp_(min=tiny) + tiny, most, high - low, torch.zeros_like(z)])
        parts.append(NeuronSplits(*values.masked_fill_(~relaxed.open_, 0.0)))
    for i, mine in relaxed.curved(p.alpha).items():
        at = walked.at.get(i)
        if at is None:
            continue
        for k, splits in enumerate(relaxed.curves[i].losses(mine, at, arguments[i])):
            parts.append(NeuronSplits(*(t.flatten(1) for t in splits)))
            first = relaxed.ground.network.arguments[i, k]
            numbers.append(torch.arange(first, first + parts[-1].loss.shape[1], device=at.device))
    if not parts:
        none = relaxed.task.lower.new_zeros(len(relaxed.task), 0)
        return NeuronSplits(none, none, none, none), relaxed.task.query[:0]
    if len(parts) == 1:
        return parts[0], torch.cat(numbers)
    return NeuronSplits(*(torch.cat(t, 1) for t in zip(*parts, strict=True))), torch.cat(numbers)
