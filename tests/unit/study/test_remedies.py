"""What the bench of remedies trains with, and the second look at certified images."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from benchmarks.studies import check_certified, tightness
from benchmarks.studies.remedies import terms
from pruning import api
from pruning.calibration import perturbation
from pruning.groups import find_groups
from pruning.planning import make_plan
from pruning.study.making import Tuned, chain
from pruning.torch_bridge import TorchNet
from verifier.data import networks
from verifier.training import train as training
from verifier.training.models import Architecture
from verifier.training.train import TrainingStep

SHIPPED = networks.path("cnn7_w8")


def pictures(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def seen(images: torch.Tensor, output: torch.Tensor, done: float) -> TrainingStep:
    points = output.detach().reshape(len(images), -1, 2)
    return TrainingStep(images, images, points, torch.ones(points.shape[:2]), output, done)


def test_batch_normalisation_is_put_back_without_changing_the_function() -> None:
    images = pictures(8)
    with torch.no_grad():
        expected = chain(api.load(SHIPPED), 64, fresh=False).eval()(images)
        model = terms.normalised(chain(api.load(SHIPPED), 64, fresh=False), images)
        assert sum(isinstance(layer, nn.BatchNorm2d) for layer in model) == 5
        for layer in model:
            if isinstance(layer, nn.Conv2d):
                spread = layer.weight.flatten(1).std(1)
                torch.testing.assert_close(spread, torch.full_like(spread, (3 * layer.weight[0].numel()) ** -0.5))
        torch.testing.assert_close(model.eval()(images), expected, rtol=1e-4, atol=1e-3)


def test_concentration_is_the_damage_of_the_removed_channels_as_a_share_of_all() -> None:
    net, images = api.load(SHIPPED), pictures(4)
    plan = make_plan(api.score(find_groups(net), None, "l2"), 0.5)
    model = chain(net, 64, fresh=False)
    tuned = Tuned(net, 64, plan)
    first = tuned.concentration(seen(images, tuned(images), 0.3), torch.tensor(2.0))
    assert float(first.detach()) == pytest.approx(0.6, rel=1e-5)  # starts at 0.3 times the loss of the task
    top = bottom = 0.0
    layers, value = list(model), images
    kernels = [torch.tensor(net.weights[n.input(1)]) for n in net.nodes if n.type in ("Conv", "Gemm")]
    at = 0
    for layer in layers:
        value = layer(value)
        if isinstance(layer, nn.ReLU):
            removed, reader = plan.removed[plan.groups.groups[at].channels], kernels[at + 1]
            size = reader.numel() // len(reader) // len(removed)
            entries = value  # what the fold holds constant: a channel, behind the Flatten each of its positions
            if value.ndim == 4 and reader.ndim == 2:
                entries, removed, size = value.flatten(1), removed.repeat(size), 1
            for channel, gone in enumerate(removed):
                part = entries[:, channel]
                held = reader.flatten(1)[:, channel * size : (channel + 1) * size]
                damage = float(((held**2).sum() * part.var(unbiased=False)).detach())
                top, bottom = top + gone * damage, bottom + damage
            at += 1
    assert tuned.pull.scale * top / bottom == pytest.approx(0.6, rel=1e-4)
    first.backward()
    assert float(tuned.model.leaves[net.nodes[0].input(1)].grad.abs().sum()) > 0


def test_the_teachers_term_is_zero_for_the_teacher_itself() -> None:
    images = pictures(3)
    teacher = chain(api.load(SHIPPED), 64, fresh=False).eval()
    term = terms.Teacher(teacher, 2.0)
    with torch.no_grad():
        output = teacher(images)
        assert float(term(seen(images, output, 0.5), torch.tensor(1.0))) == 0
        assert float(term(seen(images, output + 6.4, 0.5), torch.tensor(1.0))) > 0.1


def test_tightness_is_told_of_bounds_that_hold() -> None:
    """Against ONNX Runtime at random points of the same cells."""
    held = training.load("val", 6, Architecture("cnn7", 8, 64), training.Recipe.view)
    semantic, session = perturbation("medium"), onnxruntime.InferenceSession(SHIPPED)
    error, within, width = tightness.measure(TorchNet(api.load(SHIPPED)), held, semantic, 40, 0.05)
    middle, half = tightness.cells(semantic, 40, 6)
    rng = np.random.default_rng(0)
    for row in range(6):
        seen, truth = held.visibility[row].numpy() == 2, held.points[row].numpy()
        moves = np.concatenate([[[1, 0]], middle[row] + rng.uniform(-1, 1, (40, 2)) * half[row]])[
            :, :, None, None, None
        ]
        pictures = np.clip(moves[:, 0] * held.images[row].numpy() + moves[:, 1], 0, 1).astype(np.float32)
        clean, *found = session.run(None, {session.get_inputs()[0].name: pictures})[0].reshape(41, -1, 2)
        assert error[row] == pytest.approx(np.linalg.norm(clean - truth, axis=1)[seen].mean() / 64, rel=1e-3)
        assert width[row] >= np.ptp(np.array(found)[:, seen], axis=0).max()
        assert not within[row] or np.abs(np.array(found) - truth)[:, seen].max() <= 0.05 * 64
    assert 0 < within.sum() < 6 and width.min() > 0


@pytest.mark.parametrize(("tau", "code"), [(0.5, 0), (0.001, 1)])
def test_a_second_look_finds_a_wrong_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tau: float, code: int
) -> None:
    (tmp_path / "networks").mkdir()
    shutil.copy(SHIPPED, tmp_path / "networks" / "a.onnx")
    row = {"name": "a", "image": 3, "tau": tau, "rectangle": "medium", "verdict": "certified"}
    other = {**row, "verdict": "open", "name": "gone"}
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in (row, other)))
    monkeypatch.setattr(sys, "argv", ["check", str(tmp_path), "--points", "300"])
    assert check_certified.main() == code
    assert ("WRONG: a, image 3" in capsys.readouterr().out) == bool(code)
