"""Further terms of the loss, and batch normalisation put back, for networks that are chains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pruning import losses
from pruning.planning import Plan
from pruning.study.making import StepBatch
from verifier.training import measure


class Teacher:
    """The loss of the task, against the answers of another network."""

    def __init__(self, model: nn.Module, weight: float) -> None:
        self.model, self.weight = model.eval(), weight

    def __call__(self, batch: StepBatch, loss: Tensor) -> Tensor:
        """See `making.More`."""
        with torch.no_grad():
            points = self.model(batch.moved).reshape(len(batch.moved), -1, 2)
        return self.weight * measure.loss(batch.output, points, torch.ones(points.shape[:2]), batch.moved.shape[-1])


class Concentration:
    """L_conc on the channels that a plan removes: starts at `share` of the task's loss and ramps up over 30 %."""

    def __init__(self, model: nn.Sequential, plan: Plan, share: float = 0.3) -> None:
        self.share, self.scale, self.seen = share, 0.0, list[Tensor]()
        self.chosen = [torch.from_numpy(plan.removed[g.channels].copy()) for g in plan.groups.groups]
        self.readers = [layer for layer in model if isinstance(layer, nn.Conv2d | nn.Linear)][1:]
        for layer in model:
            if isinstance(layer, nn.ReLU):
                layer.register_forward_hook(lambda _m, _i, value: self.seen.append(value))

    def __call__(self, batch: StepBatch, loss: Tensor) -> Tensor:
        """See `making.More`."""
        values, self.seen = [v.reshape(*v.shape[:2], -1) for v in self.seen], []
        weights = [
            reader.weight.detach().reshape(len(reader.weight), value.shape[1], -1).pow(2).sum((0, 2))
            for reader, value in zip(self.readers, values, strict=True)
        ]
        term = losses.concentration(values, weights, self.chosen[: len(values)])
        if not self.scale:
            self.scale = self.share * float(loss.detach()) / max(float(term.detach()), 1e-12)
        return self.scale * min(1.0, batch.done / 0.3) * term


def normalised(model: nn.Sequential, images: Tensor) -> nn.Sequential:
    """Batch normalisation behind every convolution, the function on `images` kept, weights at the scale of new ones."""
    layers: list[nn.Module] = []
    value = images
    with torch.no_grad():
        for layer in model:
            layers.append(layer)
            value = layer(value)
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                layers.append(_normalisation(layer, value))
    return nn.Sequential(*layers)


def _normalisation(layer: nn.Conv2d, value: Tensor) -> nn.BatchNorm2d:
    assert layer.bias is not None
    fresh = 1 / np.sqrt(3 * layer.weight[0].numel())  # standard deviation of PyTorch's initial weights
    factor = fresh / layer.weight.flatten(1).std(1).clamp_min(1e-8)
    mean, variance = value.mean((0, 2, 3)), value.var((0, 2, 3))
    made = nn.BatchNorm2d(len(layer.weight))
    assert made.running_mean is not None and made.running_var is not None
    layer.weight.mul_(factor[:, None, None, None])
    layer.bias.mul_(factor)
    made.running_mean.copy_(mean * factor)
    made.running_var.copy_(variance * factor**2)
    made.weight.copy_((made.running_var + made.eps).sqrt() / factor)
    made.bias.copy_(mean)
    return made
