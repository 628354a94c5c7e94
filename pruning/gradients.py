"""What gradients of the task loss say about weights and channels (PyTorch, through onnx2torch)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from pruning.calibration import Calibration, channel_means
from pruning.groups import Groups
from pruning.losses import task_loss
from pruning.net import Net, OnnxNode
from pruning.options import ScoreOptions
from pruning.scores.weights import channel_norm
from pruning.torch_bridge import TorchNet


def learned_mask(groups: Groups, data: Calibration, options: ScoreOptions) -> np.ndarray:
    """A score per channel that starts at the L2 importance and follows the loss of the network masked to its top k."""
    labels = data.need_labels("criterion 'hydra'")
    model = TorchNet(groups.net)
    rng = np.random.default_rng(options.seed)
    start = channel_norm(groups, 2)
    scores = torch.tensor(start / max(start.max(initial=0.0), 1e-12), dtype=torch.float32, requires_grad=True)
    optimiser = torch.optim.Adam([scores], lr=0.01)
    readers = _reader_labels(groups)
    kept = int(np.ceil(groups.n * (1 - options.mask_ratio))) if groups.n else 0
    points = data.points(256, options.seed)
    for _ in range(20 * options.batches):
        rows = rng.choice(len(data.images), min(options.batch_size, len(data.images)), replace=False)
        images = data.moved(data.images[rows], points[rng.integers(len(points), size=len(rows))])
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
    return scores.detach().numpy().astype(np.float64)


def _reader_labels(groups: Groups) -> dict[str, list[tuple[int, np.ndarray]]]:
    found: dict[str, list[tuple[int, np.ndarray]]] = {}
    for cut in groups.cuts:
        if cut.role == "in":
            name = groups.net.nodes[cut.node].input(cut.slot)
            found.setdefault(name, []).append((cut.axis, groups.channel(cut.labels)))
    return found


def _gated(weight: torch.Tensor, cuts: list[tuple[int, np.ndarray]], gate: torch.Tensor) -> torch.Tensor:
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


def worst_losses(groups: Groups, data: Calibration, target: np.ndarray, chosen: list[int]) -> dict[int, float]:
    """By how much the loss can rise when the weights of a group's layers change by a tenth of their norm.

    10 ascent steps in the ball around each weight, under random points of S.
    """
    model = TorchNet(groups.net)
    rng = np.random.default_rng(data.seed)
    points = data.points(256)[rng.integers(256, size=len(data.images))]
    images = model.tensor(data.moved(data.images, points))
    labels = model.tensor(target)
    with torch.no_grad():
        start = float(task_loss(model(images), labels))
    found = {}
    for index in chosen:
        names = {
            groups.net.nodes[p].input(s) for p in groups.groups[index].producers for s in (0, 1)
        } & model.trainable.keys()
        found[index] = max(_ascend(model, name, images, labels) for name in names) - start if names else 0.0
    return found


def _ascend(model: TorchNet, name: str, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Highest loss found within the ball around one weight."""
    weight = model.leaves[name].detach()
    radius = 0.1 * float(weight.norm())
    change, best = torch.zeros_like(weight), -np.inf
    for _ in range(10):
        moved = (weight + change).requires_grad_(True)
        loss = task_loss(model(images, leaves={name: moved}), labels)
        best = max(best, float(loss.detach()))
        (gradient,) = torch.autograd.grad(loss, moved)
        change = change + 0.25 * radius * gradient / gradient.norm().clamp_min(1e-12)
        change = change * min(1.0, radius / max(float(change.norm()), 1e-12))
    with torch.no_grad():
        return max(best, float(task_loss(model(images, leaves={name: weight + change}), labels)))


def output_effects(groups: Groups, data: Calibration, seed: int, per_image: int = 4, batch: int = 32) -> np.ndarray:
    """Root mean square over images and S of the first-order change of the outputs when a channel is held at its mean.

    (n,) in the unit of the outputs: sqrt(E |J_c (a_c - m_c)|^2), J_c the Jacobian of the outputs by what the layers
    that read channel c see of it. A random vector r of signs per sample stands for the outputs, since
    E_r (r . v)^2 = |v|^2 (Hutchinson 1990).
    """
    net, places = _read_apart(groups)
    if not places:
        return np.zeros(groups.n)
    means = channel_means(groups.net, [(value, axis) for _, value, axis, _ in places], data, per_image)
    model, total, count = TorchNet(net), np.zeros(groups.n), 0
    points, draw = data.points(), np.random.default_rng([seed, 17])
    for start in range(0, len(data.images), batch):
        clean = data.images[start : start + batch]
        for turn in range(per_image):
            chosen = points[(np.arange(start, start + len(clean)) * per_image + turn) % len(points)]
            images = model.tensor(data.moved(clean, chosen)).requires_grad_(True)
            output, seen = model(images, [name for name, *_ in places])
            signs = model.tensor(draw.choice(np.array([-1.0, 1.0], np.float32), tuple(output.shape)))
            slopes = torch.autograd.grad((signs * output).sum(), [seen[name] for name, *_ in places], allow_unused=True)
            effect = np.zeros((len(clean), groups.n))
            for (name, value, axis, channel), slope in zip(places, slopes, strict=True):
                if slope is not None:
                    shape = [1] * slope.ndim
                    shape[axis] = -1
                    mean = model.tensor(means[value, axis].astype(np.float32)).reshape(shape)
                    parts = (slope * (seen[name].detach() - mean)).movedim(axis, 1)
                    sums = parts.reshape(len(clean), len(channel), -1).sum(2).numpy()
                    np.add.at(effect.T, channel[channel >= 0], sums.T[channel >= 0])
            total += (effect**2).sum(0)
            count += len(clean)
    return np.sqrt(total / count)


def _read_apart(groups: Groups) -> tuple[Net, list[tuple[str, str, int, np.ndarray]]]:
    """The network with a copy of every value that layers with weights read, for these layers alone.

    So a gradient at the copy leaves out what reads the value otherwise, such as a residual sum, which loses the channel
    with it. Returns also, for each axis with channels: copy, value, axis, channel of each entry (-1: none).
    """
    net, copies, places = groups.net, dict[str, str](), dict[tuple[str, int], tuple[str, str, int, np.ndarray]]()
    nodes = list(net.nodes)
    for cut in groups.cuts:
        if cut.role == "in" and cut.data_labels is not None:
            if cut.data not in copies:
                copies[cut.data] = net.fresh_name(f"{cut.data}_read")
            copy = copies[cut.data]
            places[cut.data, cut.data_axis] = (copy, cut.data, cut.data_axis, groups.channel(cut.data_labels))
            inputs = tuple(copy if name == cut.data else name for name in nodes[cut.node].inputs)
            nodes[cut.node] = replace(nodes[cut.node], inputs=inputs)
    made = []
    for node in nodes:
        made.append(node)
        made += [
            OnnxNode("Identity", (name,), (copies[name],), name=copies[name]) for name in node.outputs if name in copies
        ]
    shapes = {**net.shapes, **{copy: net.shapes[name] for name, copy in copies.items() if name in net.shapes}}
    return replace(net.changed(made), shapes=shapes), list(places.values())
