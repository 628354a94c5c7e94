"""Losses and error measures of key point networks, for coordinate and heatmap heads alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from verifier.training.models import HEATMAP_STRIDE

SHARES = (0.02, 0.03, 0.05)  # tolerances of the PCK figures, as shares of the image side


@dataclass(frozen=True)
class Errors:
    """Mean Euclidean error in pixels and PCK: the share of key points within 2, 3 and 5 % of the image side."""

    mean: float
    median: float
    pck: tuple[float, float, float]

    def as_dict(self) -> dict[str, float]:
        """The figures under readable names."""
        names = [f"pck@{share:.2f}" for share in SHARES]
        return {"mean_px": self.mean, "median_px": self.median, **dict(zip(names, self.pck, strict=True))}


def decode(output: Tensor) -> Tensor:
    """Network output -> pixel positions (N, K, 2): coordinates as they are, heatmaps by the centre of their argmax."""
    if output.dim() == 2:
        return output.reshape(len(output), -1, 2)
    n, k, _, columns = output.shape
    best = output.reshape(n, k, -1).argmax(dim=2)
    return HEATMAP_STRIDE * (torch.stack([best % columns, best // columns], dim=2).float() + 0.5)


def loss(output: Tensor, points: Tensor, weight: Tensor, size: int) -> Tensor:
    """Mean over key points with weight 1. points (N, K, 2) pixels, weight (N, K) in {0, 1}.

    Coordinates: smooth L1 of the error in shares of the side (quadratic below 1 % of it). Heatmaps: cross entropy
    against a Gaussian of one cell.
    """
    total = weight.sum().clamp(min=1.0)
    if output.dim() == 2:
        error = (output.reshape(points.shape) - points) / size
        return (nn.functional.smooth_l1_loss(error, torch.zeros_like(error), reduction="none", beta=0.01).sum(2)
                * weight).sum() / total  # fmt: skip
    n, k, rows, columns = output.shape
    cells = points / HEATMAP_STRIDE - 0.5
    x = torch.arange(columns, device=output.device) - cells[:, :, 0:1]
    y = torch.arange(rows, device=output.device) - cells[:, :, 1:2]
    target = torch.exp(-0.5 * (y[:, :, :, None] ** 2 + x[:, :, None, :] ** 2)).reshape(n, k, -1)
    target = target / target.sum(dim=2, keepdim=True).clamp(min=1e-9)
    return -((target * output.reshape(n, k, -1).log_softmax(dim=2)).sum(2) * weight).sum() / total


def errors(distance: np.ndarray, size: int) -> Errors:
    """Figures from Euclidean distances in pixels, any shape."""
    flat = distance.ravel()
    if flat.size == 0:
        return Errors(float("nan"), float("nan"), (float("nan"),) * 3)
    pck = [float((flat <= share * size).mean()) for share in SHARES]
    return Errors(float(flat.mean()), float(np.median(flat)), (pck[0], pck[1], pck[2]))


def evaluate(model: nn.Module, images: Tensor, points: Tensor, visibility: Tensor, batch: int = 500) -> Errors:
    """Errors over all key points inside the frame, with the model as it is (call `model.eval()` first)."""
    size = images.shape[-1]
    distance = []
    with torch.no_grad():
        for i in range(0, len(images), batch):
            found = decode(model(images[i : i + batch]))
            gap = torch.linalg.vector_norm(found - points[i : i + batch], dim=2)
            distance.append(gap[visibility[i : i + batch] > 0].cpu().numpy())
    return errors(np.concatenate(distance) if distance else np.zeros(0), size)
