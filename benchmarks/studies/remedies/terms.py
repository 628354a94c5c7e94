"""Further terms of the loss, and batch normalisation put back, for networks that are chains."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from verifier.training import measure
from verifier.training.train import TrainingStep


class Teacher:
    """The loss of the task, against the answers of another network."""

    def __init__(self, model: nn.Module, weight: float) -> None:
        self.model, self.weight = model.eval(), weight

    def __call__(self, batch: TrainingStep, loss: Tensor) -> Tensor:
        """A `LossTerm`."""
        with torch.no_grad():
            points = self.model(batch.moved).reshape(len(batch.moved), -1, 2)
        return self.weight * measure.loss(batch.output, points, torch.ones(points.shape[:2]), batch.moved.shape[-1])


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
