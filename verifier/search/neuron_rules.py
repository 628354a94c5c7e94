"""Which neuron to split, by name: scores of every undecided element of a non-linear operator's argument.

A rule names the elements that are worth a try; one that looks ahead has the children of the best few bounded, and the
pair that gets furthest is split (see `neurons`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

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
