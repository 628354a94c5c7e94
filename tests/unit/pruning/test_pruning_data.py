"""Calibration data and units of `prune`: those of the other commands."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from PIL import Image
from pruning_nets import conv_net, images

import pruning
from pruning import cli, onnx_io
from pruning.calibration import Activations
from pruning.normalised import given, normalised
from verifier.data.frame import Frame, Head

S = "brightness=-0.1:0.1,contrast=0.8:1.2"


def head(net, bias):
    """The network with its last layer turned into a constant answer."""
    weights = {"w1": np.zeros_like(net.weights["w1"]), "b1": np.asarray(bias, np.float32)}
    return net.changed(weights=weights)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx_io.save(head(conv_net(), [4, 4, 4, 4]), "pixels.onnx")
    onnx_io.save(head(conv_net(), [0.5, 0.5, 0.5, 0.5]), "shares.onnx")
    x = images((1, 8, 8), 12, low=0, high=1)
    points = np.full((12, 2, 2), 5.0)
    np.savez("points.npz", images=x, keypoints=points)
    np.savez("bytes.npz", images=x * 255, keypoints=points)
    np.savez("own.npz", images=x, labels=np.full((12, 4), 5.0, np.float32))
    np.savez("classes.npz", images=x, labels=np.arange(12) % 4)
    return tmp_path


def prune(*arguments, capsys):
    code = cli.main([str(a) for a in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_answer_to_unchanged_images_is_told(place, capsys):
    code, out, _ = prune("pixels.onnx", "-o", "s.onnx", "--data", "points.npz", "--semantic", S, capsys=capsys)
    assert code == 0 and "12 unchanged images: error 1.41 px (largest 1.41), outputs span 4..4" in out
    assert "pictures: as they are, 8x8 pixels" in out and "warning" not in out
    code, out, _ = prune("pixels.onnx", "-o", "s.onnx", "--data", "classes.npz", "--semantic", S, capsys=capsys)
    assert code == 0 and "9 of 12 classes wrong" in out


@pytest.mark.parametrize("mode", ["one-shot", "progressive", "lottery"])
def test_training_does_not_move_a_network_to_another_scale(place, capsys, mode):
    given = ["shares.onnx", "-o", "s.onnx", "--data", "points.npz", "--semantic", S, "--mode", mode, "--epochs", 1]
    code, out, err = prune(*given, capsys=capsys)
    assert code == 2 and "differ in scale" in err and "--output-scale" in err and "warning: the targets span" in out
    assert not (place / "s.onnx").exists()


def test_the_unit_of_the_outputs_is_understood(place, capsys):
    arguments = ["shares.onnx", "-o", "s.onnx", "--data", "points.npz", "--semantic", S, "--output-scale", 8]
    code, out, _ = prune(*arguments, "--mode", "one-shot", "--epochs", 1, "--criterion", "l2", capsys=capsys)
    assert code == 0 and "error 1.41 px" in out and "warning" not in out
    trained = pruning.load("s.onnx")
    data = pruning.load_data("points.npz", pruning.load("shares.onnx"), head=Head(8.0))
    assert np.array_equal(data.labels, np.full((12, 4), 5 / 8, np.float32))
    said = Activations(trained, trained.outputs)(data.images)[trained.outputs[0]]
    assert said.min() > 0.3 and said.max() < 0.8  # still shares of the side


def test_targets_in_own_units_are_taken_with_a_warning(place, capsys):
    given = ["shares.onnx", "-o", "s.onnx", "--semantic", S, "--data", "own.npz"]
    code, out, _ = prune(*given, capsys=capsys)
    assert code == 0 and "outputs span 0.5..0.5, labels 5..5" in out
    assert "warning: labels and outputs differ in scale" in out


def test_pictures_of_0_to_255_and_ranges_in_grey_levels_are_refused(place, capsys):
    code, _, err = prune("pixels.onnx", "-o", "s.onnx", "--data", "bytes.npz", "--semantic", S, capsys=capsys)
    assert code == 2 and "divide 8-bit values by 255" in err
    given = ["pixels.onnx", "-o", "s.onnx", "--data", "points.npz", "--semantic", "brightness=-25:25"]
    code, _, err = prune(*given, capsys=capsys)
    assert code == 2 and "pixels lie in [0, 1]" in err
    assert not (place / "s.onnx").exists()


def test_depth_of_files_and_arrays(tmp_path):
    words = np.random.default_rng(0).integers(0, 65536, (5, 8, 8)).astype(np.uint16)
    np.savez(tmp_path / "a.npz", images=words)
    (tmp_path / "f").mkdir()
    for i, picture in enumerate(words):
        Image.fromarray(picture).save(tmp_path / "f" / f"{i}.png")
    for source in ("a.npz", "f"):
        data = pruning.load_data(str(tmp_path / source), conv_net())
        assert np.array_equal(data.images[:, 0], (words / 65535).astype(np.float32))
        with pytest.raises(pruning.DataError, match="0 of 5 pictures have key points or a class"):
            data.need_labels("training")


def test_truth_beside_pictures_becomes_labels(tmp_path):
    for i in range(12):
        Image.fromarray(np.full((8, 8), 20 * i, np.uint8)).save(tmp_path / f"{i:02d}.png")
        (tmp_path / f"{i:02d}.json").write_text(json.dumps({"label": i % 3}))
    assert pruning.load_data(str(tmp_path), conv_net()).labels.tolist() == [i % 3 for i in range(12)]
    for i in range(12):
        (tmp_path / f"{i:02d}.json").write_text(json.dumps({"keypoints": [[1, 2, 2], [3, i % 8, 2 * (i > 0)]]}))
    data = pruning.load_data(str(tmp_path), head(conv_net(), [4, 4, 4, 4]))
    assert data.labels.tolist() == [[1, 2, 3, i % 8] for i in range(1, 12)]  # the first has an unknown key point


def test_rows_that_are_no_pictures_are_taken_as_they_are(tmp_path):
    from pruning_nets import mlp, mlp_weights

    net = mlp(mlp_weights(sizes=(5, 6, 3)))
    rows = np.random.default_rng(0).normal(0, 9, (7, 5)).astype(np.float32)
    np.savez(tmp_path / "a.npz", images=rows, labels=np.arange(7) % 3)
    data = pruning.load_data(str(tmp_path / "a.npz"), net)
    assert np.array_equal(data.images.reshape(7, 5), rows) and data.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_a_normalisation_stands_in_front_while_pruning_only(place, capsys):
    net = conv_net()
    onnx_io.save(net, "net.onnx")
    frame = Frame.of(net.shapes[net.inputs[0]])
    moved = normalised(net, frame, (0.5,), (0.25,))
    x = images((1, 8, 8), 6, low=0, high=1)
    name = net.outputs[0]
    expected = Activations(net, [name])(((x - np.float32(0.5)) / np.float32(0.25)).astype(np.float32))[name]
    np.testing.assert_allclose(Activations(moved, [name])(x)[name], expected, rtol=1e-5, atol=1e-5)
    assert onnx_io.to_bytes(given(moved)) == onnx_io.to_bytes(net)
    arguments = ["net.onnx", "--data", "points.npz", "--semantic", S, "--mean", "0.5", "--std", "0.25"]
    code, _, _ = prune(*arguments, "-o", "s.onnx", capsys=capsys)
    assert code == 0
    small = onnx.load("s.onnx")
    assert not {"Sub", "Div"} & {n.op_type for n in small.graph.node}
    assert not any("secateur" in n for node in small.graph.node for n in (*node.input, *node.output))
    plain = json.loads((place / "s.json").read_text())["layers"][0]["scores"]
    assert prune(*arguments[:5], "-o", "p.onnx", capsys=capsys)[0] == 0
    assert json.loads((place / "p.json").read_text())["layers"][0]["scores"] != plain


def test_shipped_names(tmp_path, capsys):
    code, out, _ = prune("cnn7_w8", "--dry-run", "--criterion", "l1", capsys=capsys)
    assert code == 0 and "MACs" in out
    code, _, err = prune("cnn7", "--dry-run", "--criterion", "l1", capsys=capsys)
    assert code == 2 and "shipped are: cnn7_w8" in err
