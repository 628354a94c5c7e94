import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.devices import DEVICE, HOST, TwoDevices, place
from verifier.data import aircraft23
from verifier.errors import ModelError, OptionsError
from verifier.perturbation.perturbation import Perturbation
from verifier.training import augment, measure
from verifier.training.export import to_onnx
from verifier.training.models import BUILDERS, Architecture, build
from verifier.training.train import DataSplit, Recipe, augmented, batches, main, train

TINY = Architecture(width=2, size=16)
MEDIUM = Perturbation.parse("medium")


def shaken(arch, seed=0):
    """A network whose batch normalisation does something."""
    torch.manual_seed(seed)
    model = build(arch)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.3)
            layer.running_var.uniform_(0.3, 3)
            layer.weight.data.normal_(1, 0.3)
            layer.bias.data.normal_(0, 0.3)
    return model.eval()


@pytest.mark.parametrize("name", sorted(BUILDERS))
@pytest.mark.parametrize("channels", [1, 3])
def test_export_equals_torch(name, channels):
    arch = Architecture(name, width=3, size=32, channels=channels, points=5)
    model = shaken(arch)
    proto = to_onnx(model, arch)
    assert "BatchNormalization" not in {node.op_type for node in proto.graph.node}
    assert proto.opset_import[0].version == 13
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for n in (1, 4):
        x = torch.rand(n, channels, 32, 32)
        (found,) = session.run(None, {"image": x.numpy()})
        expected = model(x).detach().numpy()
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() < 1e-4 * (1 + np.abs(expected).max())


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_export_with_batch_normalisation_kept(name):
    arch = Architecture(name, width=3, size=32, points=5)
    model = shaken(arch)
    proto = to_onnx(model, arch, keep_norm=True)
    norms = [node for node in proto.graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in model.modules()) > 0
    x = torch.rand(4, 1, 32, 32)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": x.numpy()})
    expected = model(x).detach().numpy()
    assert np.abs(found - expected).max() < 1e-4 * (1 + np.abs(expected).max())


def test_export_refuses_what_it_does_not_know():
    arch = Architecture(width=2, size=16)
    with pytest.raises(ModelError, match="Sigmoid"):
        to_onnx(torch.nn.Sequential(torch.nn.Sigmoid()), arch)
    with pytest.raises(ModelError, match="BatchNorm2d"):
        to_onnx(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm2d(2)), arch)


@pytest.mark.parametrize("options", [{"name": "vgg"}, {"size": 20}, {"width": 0}, {"channels": 2}, {"points": 0}])
def test_bad_architectures(options):
    with pytest.raises(OptionsError):
        build(Architecture(**options))


def test_mirror_and_shift_move_pictures_and_points_together():
    """A bright pixel at each key point stays under it."""
    points = torch.rand(4, 23, 2) * 10 + 3
    points = points.floor() + 0.5
    images = torch.zeros(4, 1, 16, 16)
    for i in range(4):
        images[i, 0, points[i, :, 1].long(), points[i, :, 0].long()] = 1
    seen = torch.full((4, 23), 2)
    for new, where, visible in (augment.mirror(images, points, seen), augment.shift(images, points, seen, 2, -3)):
        assert (visible == 2).all()
        for i in range(4):
            assert new[i, 0, where[i, :, 1].long(), where[i, :, 0].long()].min() == 1
    _, _, visible = augment.shift(images, points, seen, 15, 0)
    assert (visible == 0).any()


def test_mirroring_agrees_with_the_renderer():
    from verifier.data import render

    scene = aircraft23.scene("train", 2)
    plain, other = render.render(scene, 64), render.render(scene.mirrored(), 64)
    image = torch.from_numpy(plain.image.transpose(2, 0, 1)[None] / 255.0)
    flipped, points, _ = augment.mirror(image, torch.from_numpy(plain.keypoints)[None], torch.ones(1, 23))
    assert np.abs(points[0].numpy() - other.keypoints).max() < 1e-9
    assert np.abs(flipped[0].numpy() - other.image.transpose(2, 0, 1) / 255.0).mean() < 0.01


def test_semantic_augmentation_stays_in_its_rectangle():
    draw = torch.Generator().manual_seed(0)
    images = torch.tensor([0.0, 0.4]).reshape(1, 1, 1, 2).repeat(2000, 1, 1, 1)
    out = augment.semantic(images, MEDIUM, draw)
    wide = augment.semantic(images * 0 + torch.tensor([0.3, 0.7]), MEDIUM, draw)[:, 0, 0]
    slope = (wide[:, 1] - wide[:, 0]) / 0.4
    assert 0.69 < slope.min() < 0.72
    assert 1.28 < slope.max() < 1.31
    assert out.min() == 0
    assert 0.14 < out[:, 0, 0, 0].max() <= 0.15


def test_a_seed_means_the_same_augmentation_on_every_device():
    """Batches lie where the data does, with what the host drew."""
    shapes = (64, 1, 16, 16), (64, 23, 2), (64, 23)
    draw = torch.Generator().manual_seed(1)
    host = DataSplit(*(torch.rand(shape, generator=draw) for shape in shapes))
    recipe = Recipe(batch=32, shift=2)
    found = []
    with TwoDevices() as seen:
        for where in (HOST, DEVICE):
            data = DataSplit(*(t.to(where) for t in (host.images, host.points, host.visibility)))
            draw = torch.Generator().manual_seed(5)
            made = [augmented(data, plan, recipe.perturbation, draw) for plan in batches(data, recipe, draw)]
            assert {place(t) for batch in made for t in batch} == {where}
            found.append([t.cpu() for batch in made for t in batch])
    assert seen.seen and all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_heatmaps_decode_to_the_cell_of_the_point_and_the_loss_agrees():
    points = torch.tensor([[[6.0, 30.0], [61.0, 2.0]]])
    target = torch.full((1, 2, 16, 16), -9.0)
    target[0, 0, 7, 1] = target[0, 1, 0, 15] = 9.0
    assert torch.equal(measure.decode(target), torch.tensor([[[6.0, 30.0], [62.0, 2.0]]]))
    weight = torch.ones(1, 2)
    good = measure.loss(target, points, weight, 64)
    assert good < measure.loss(target.roll(3, dims=3), points, weight, 64)
    assert measure.loss(target.roll(3, dims=3), points, weight * 0, 64) == 0


def test_errors():
    found = measure.errors(np.array([0.0, 1.0, 2.0, 5.0]), 64)
    assert found.mean == 2.0
    assert found.pck == (0.5, 0.5, 0.75)  # within 1.28, 1.92 and 3.2 pixels


def run(tmp_path, name, resume=False, **options):
    recipe = Recipe(**{"images": 96, "epochs": 3, "batch": 32, "rate": 3e-2, **options})
    lines = []
    model = train(TINY, recipe, tmp_path / name, lines.append, resume)
    return model, lines


@pytest.fixture
def few(monkeypatch):
    """Validation and test on a few pictures."""
    whole = aircraft23.load
    monkeypatch.setattr(
        aircraft23, "load", lambda split, n, **o: whole(split, min(n, 96 if split == "train" else 20), **o)
    )
    monkeypatch.setattr(aircraft23, "WORTH_STORING", 1000)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


def test_training_is_repeatable_learns_and_resumes(tmp_path, few):
    one, lines = run(tmp_path, "one", epochs=8)
    two, _ = run(tmp_path, "two", epochs=8)
    assert torch.equal(weights(one), weights(two))
    other, _ = run(tmp_path, "other", epochs=8, seed=1)
    assert not torch.equal(weights(one), weights(other))
    losses = [float(line.split("loss")[1].split()[0]) for line in lines if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]
    again, more = run(tmp_path, "one", resume=True, epochs=9)
    assert len([line for line in more if "loss" in line]) == 1
    assert again is not one


def test_early_stop_and_bad_checkpoint(tmp_path, few):
    _, lines = run(tmp_path, "a", epochs=50, patience=1, rate=1e-9)
    assert len(lines) < 50
    (tmp_path / "a.ckpt").write_bytes(b"junk")
    with pytest.raises(OptionsError, match="resume"):
        run(tmp_path, "a", resume=True)


def test_command(tmp_path, few, capsys):
    out = tmp_path / "net"
    arguments = [
        "--out",
        str(out),
        "--size",
        "16",
        "--width",
        "2",
        "--images",
        "96",
        "--epochs",
        "1",
        "--level",
        "small",
    ]
    assert main(arguments) == 0
    onnx.checker.check_model(onnx.load(f"{out}.onnx"), full_check=True)
    record = json.loads((tmp_path / "net.json").read_text())
    assert record["recipe"]["level"] == "small"
    assert record["test_worst_of_grid"]["mean_px"] >= record["test"]["mean_px"]
    assert main([*arguments, "--batch", "0"]) == 2
    assert "must be positive" in capsys.readouterr().err
