"""Certified training: forward affine bounds hold, are tighter than intervals, and train every network of the study."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pruning_nets import S_SMALL, build, conv_net, images, mlp, mlp_weights, node, plane

from pruning import Calibration, TrainOptions, forms, onnx_io
from pruning.errors import CriterionError
from pruning.torch_bridge import TorchNet
from pruning.training import fine_tune
from verifier.training.export import to_onnx
from verifier.training.models import Architecture
from verifier.training.models import build as study_network

NAMES = ["mlp", "conv", "conv-bn", "cnn7", "resnet8", "heatmap"]


def network(name):
    if name in ("cnn7", "resnet8", "heatmap"):
        torch.manual_seed(0)
        arch = Architecture(name, width=4, size=16, points=3)
        return onnx_io.load(to_onnx(study_network(arch).eval(), arch, "test").SerializeToString())
    return mlp(mlp_weights()) if name == "mlp" else conv_net(2, bn=name == "conv-bn")


def bounded(model, x, middle, half):
    """Bounds of the outputs over cells of contrast and brightness."""
    data = Calibration(x.numpy(), semantic=plane())
    return forms.output_bounds(model, data, data.images, middle.numpy(), half.numpy())


def cells(n):
    return torch.tensor([[1.0, 0.0]]).repeat(n, 1), torch.tensor([[0.15, 0.08]]).repeat(n, 1)


@pytest.mark.parametrize("name", NAMES)
def test_bounds_hold_and_are_tighter_than_intervals(name):
    """On images that clip at both ends; the corners of the cell and points inside, in PyTorch."""
    net = network(name)
    model = TorchNet(net)
    x = torch.tensor(images(net.shapes[net.inputs[0]][1:], 4, low=0.0, high=1.0))
    middle, half = cells(4)
    low, high = bounded(model, x, middle, half)
    wide = (-1, *[1] * (x.ndim - 1))
    worst = torch.full_like(low, -torch.inf)
    points = [*[(a, b) for a in (-1, 1) for b in (-1, 1)], *np.random.default_rng(0).uniform(-1, 1, (60, 2))]
    for a, b in points:
        s = middle + half * torch.tensor([a, b], dtype=torch.float32)
        y = model((x * s[:, 0].reshape(wide) + s[:, 1].reshape(wide)).clamp(0, 1))
        slack = 1e-4 * (1 + y.abs().max())
        assert (y >= low - slack).all() and (y <= high + slack).all()
        worst = torch.maximum(worst, y)
    ends = [(x * (1 + t * 0.15) + t * 0.08).clamp(0, 1) for t in (-1, 1)]
    plain = forms.interval_bounds(model, *ends)
    assert (high - low).mean() < 0.9 * (plain[1] - plain[0]).mean()
    point = bounded(model, x, middle, half * 0)
    np.testing.assert_allclose(point[0].detach(), model(x).detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["cnn7", "resnet8", "heatmap"])
@pytest.mark.parametrize("bounds", ["interval", "affine"])
def test_networks_of_the_study_train_with_the_certified_loss(name, bounds):
    net = network(name)
    x = images((1, 16, 16), 24, low=0.0, high=1.0)
    side = 4 if name == "heatmap" else 16
    labels = np.random.default_rng(0).uniform(0, side - 1, (24, 6)).astype(np.float32)
    data = Calibration(x, labels, S_SMALL)
    results = []
    for weight in (0.0, 0.5):
        options = TrainOptions(epochs=1, batch_size=12, certified=weight, certified_bounds=bounds)
        results.append(fine_tune(net, data, options, 1))
    assert any((results[0].weights[n] != results[1].weights[n]).any() for n in results[0].weights)


def test_worst_heatmap_loss_is_above_every_loss_inside():
    from pruning import losses

    draw = torch.Generator().manual_seed(0)
    low = torch.randn(2, 3, 4, 4, generator=draw)
    high = low + torch.rand(2, 3, 4, 4, generator=draw)
    labels = torch.rand(2, 6, generator=draw) * 3
    worst = float(forms.worst_loss(low, high, labels))
    for _ in range(50):
        inside = low + (high - low) * torch.rand(2, 3, 4, 4, generator=draw)
        assert float(losses.task_loss(inside, labels)) <= worst
    assert worst == pytest.approx(float(forms.worst_loss(low, high, labels)))
    assert float(forms.worst_loss(low, low, labels)) == pytest.approx(float(losses.task_loss(low, labels)), rel=1e-5)


def test_a_reshape_for_a_batch_of_one_takes_the_batches_of_training():
    rng = np.random.default_rng(0)
    w = {"k": rng.normal(size=(4, 6)).astype(np.float32), "v": rng.normal(size=(30, 2)).astype(np.float32)}
    nodes = [
        node("MatMul", "x k", "h"),
        node("Relu", "h", "r"),
        node("Reshape", "r t", "f"),
        node("MatMul", "f v", "y"),
    ]
    net = build(nodes, {**w, "t": np.array([1, 30])}, {"x": [5, 4]}, {"y": [2]}, 18, batch=1)
    model = TorchNet(net)
    x = torch.rand(7, 5, 4)
    low, high = bounded(model, x, *cells(7))
    for shift in (-0.08, 0.0, 0.08):
        y = model((x + shift).clamp(0, 1))
        assert ((low - 1e-5 <= y) & (y <= high + 1e-5)).all()


def test_what_has_no_rule_is_named():
    w = {"k": np.eye(4, dtype=np.float32)}
    net = build([node("Gemm", "x k", "h"), node("Sin", "h", "y")], w, {"x": [4]}, {"y": [4]})
    model = TorchNet(net)
    with pytest.raises(CriterionError, match="no rule for node 'make_y' \\(Sin\\)"):
        bounded(model, torch.rand(2, 4), *cells(2))
    with pytest.raises(CriterionError, match="is unknown"):
        TrainOptions(certified_bounds="crown")
