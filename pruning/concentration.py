"""The concentration (Wasserstein) loss of a plan while a network trains: removed channels are pulled to constants."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pruning import losses
from pruning.fold import readers
from pruning.planning import Plan
from pruning.torch_bridge import TorchNet

RAMP = 0.3
"""Share of the training over which the weight rises."""


class Concentration:
    """L_conc (`losses.concentration`) on the channels that a plan removes.

    share: of the loss of the task at the first step, which L_conc is scaled to. values: what `model` has to be read at.
    """

    def __init__(self, model: TorchNet, plan: Plan, share: float) -> None:
        self.model, self.share, self.scale = model, share, 0.0
        self.places: list[tuple[str, int, str, int, Any]] = []
        for cut in readers(plan.groups, plan.removed):
            if cut.data_labels is not None and len(cut.data_labels) == len(cut.labels):
                removed = model.tensor(~plan.groups.keep(plan.removed, cut.data_labels))
                name = plan.groups.net.nodes[cut.node].input(cut.slot)
                self.places.append((cut.data, cut.data_axis, name, cut.axis, removed))
        self.values = list(dict.fromkeys(value for value, *_ in self.places))

    def __call__(self, seen: Mapping[str, Any], task: Any, ramp: float) -> Any:
        """The term; seen: `values` by name; task: the loss of the task; ramp: share of the full weight, at most 1."""
        activations, weights = [], []
        for value, axis, name, weight_axis, _ in self.places:
            activations.append(channels(seen[value], axis))
            kernel = self.model.leaves[name]
            weights.append(kernel.detach().pow(2).sum(dim=[a for a in range(kernel.ndim) if a != weight_axis]))
        term = losses.concentration(activations, weights, [removed for *_, removed in self.places])
        if not self.scale:
            self.scale = self.share * float(task.detach()) / max(float(term.detach()), 1e-12)
        return self.scale * min(1.0, ramp) * term


def channels(value: Any, axis: int) -> Any:
    """(n, ..., C, ...) -> (n, C, P)."""
    moved = value.movedim(axis, 1)
    return moved.reshape(moved.shape[0], moved.shape[1], -1)
