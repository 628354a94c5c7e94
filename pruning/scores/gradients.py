"""Criteria from gradients of the task loss (need labels, PyTorch and onnx2torch)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pruning.calibration import Calibration
from pruning.groups import Groups
from pruning.options import ScoreOptions
from pruning.scores.base import Result, criterion, required
from pruning.scores.weights import reduce_slices

_ROLES = ("out", "with", "in")


@criterion("taylor", "labels", "mean over batches of (sum g*w over all slices of the channel)^2, g = dLoss/dw")
def taylor(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> Result:
    """First-order change of the loss when the channel goes, squared per channel."""
    data = required(calibration, "taylor")
    parts = [
        reduce_slices(groups, product.get, _ROLES) ** 2
        for product in gradient_products(groups, data, options.batch_size, options.batches)
    ]
    return Result(np.mean(parts, axis=0))


@criterion("snip", "labels", "sum |g*w| over all slices of the channel, gradient of one batch (SNIP)")
def snip(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> Result:
    """Connection sensitivity, summed over the channel."""
    (product,) = gradient_products(groups, required(calibration, "snip"), options.batch_size, 1)
    return Result(reduce_slices(groups, {k: np.abs(v) for k, v in product.items()}.get, _ROLES))


@criterion("sensnorm", "labels", "2-norm over calibration images of the per-image sum |g*w| of the channel (our form)")
def sensnorm(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> Result:
    """Like SNIP, image by image."""
    total = np.zeros(groups.n)
    for product in gradient_products(
        groups, required(calibration, "sensnorm"), 1, options.batches * options.batch_size
    ):
        total += reduce_slices(groups, {k: np.abs(v) for k, v in product.items()}.get, _ROLES) ** 2
    return Result(np.sqrt(total))


@criterion(
    "hydra", "labels", "learned score per channel: straight-through top-k mask trained under random s, weights fixed"
)
def hydra(groups: Groups, calibration: Calibration | None, options: ScoreOptions) -> Result:
    """Channel form of HYDRA: scores start at the L2 importance and follow the loss of the masked network."""
    import torch

    from pruning.losses import task_loss
    from pruning.scores.weights import channel_norm
    from pruning.torch_bridge import TorchNet

    data = required(calibration, "hydra")
    labels = data.need_labels("criterion 'hydra'")
    model = TorchNet(groups.net)
    rng = np.random.default_rng(options.seed)
    start = channel_norm(groups, 2)
    scores = torch.tensor(start / max(start.max(initial=0.0), 1e-12), dtype=torch.float32, requires_grad=True)
    optimiser = torch.optim.Adam([scores], lr=0.01)
    readers = _reader_labels(groups)
    kept = int(np.ceil(groups.n * (1 - options.mask_ratio))) if groups.n else 0
    points = data.semantic.points(256, options.seed)
    for _ in range(20 * options.batches):
        rows = rng.choice(len(data.images), min(options.batch_size, len(data.images)), replace=False)
        images = data.semantic.apply_each(data.images[rows], points[rng.integers(len(points), size=len(rows))])
        hard = torch.zeros(groups.n)
        hard[torch.topk(scores, max(1, kept)).indices] = 1.0
        gate = hard + scores - scores.detach()  # straight through
        leaves = {
            name: _gated(model.leaves[name], cuts, gate) for name, cuts in readers.items() if name in model.leaves
        }
        loss = task_loss(model(model.tensor(images), leaves=leaves), model.tensor(labels[rows]))
        (gradient,) = torch.autograd.grad(loss, scores)
        scores.grad = gradient
        optimiser.step()
    return Result(scores.detach().numpy().astype(np.float64))


def _reader_labels(groups: Groups) -> dict[str, list[tuple[int, np.ndarray]]]:
    found: dict[str, list[tuple[int, np.ndarray]]] = {}
    for cut in groups.cuts:
        if cut.role == "in":
            name = groups.net.nodes[cut.node].input(cut.slot)
            found.setdefault(name, []).append((cut.axis, groups.channel(cut.labels)))
    return found


def _gated(weight: object, cuts: list[tuple[int, np.ndarray]], gate: object) -> object:
    import torch

    assert isinstance(weight, torch.Tensor) and isinstance(gate, torch.Tensor)
    for axis, channel in cuts:
        factor = torch.where(torch.tensor(channel >= 0), gate[torch.tensor(np.maximum(channel, 0))], torch.ones(()))
        shape = [1] * weight.ndim
        shape[axis] = -1
        weight = weight * factor.reshape(shape)
    return weight


def gradient_products(
    groups: Groups, calibration: Calibration, batch_size: int, batches: int
) -> Iterator[dict[str, np.ndarray]]:
    """g*w for every weight, by ONNX name, one dictionary per batch of clean images."""
    import torch

    from pruning.losses import task_loss
    from pruning.torch_bridge import TorchNet

    labels = calibration.need_labels("a gradient criterion")
    model = TorchNet(groups.net)
    names = list(model.trainable)
    for start in range(0, min(len(calibration.images), batch_size * batches), batch_size):
        images = model.tensor(calibration.images[start : start + batch_size])
        loss = task_loss(model(images), model.tensor(labels[start : start + batch_size]))
        gradients = torch.autograd.grad(loss, [model.trainable[name] for name in names], allow_unused=True)
        yield {
            name: (gradient * model.trainable[name].detach()).cpu().numpy().astype(np.float64)
            for name, gradient in zip(names, gradients, strict=True)
            if gradient is not None
        }
