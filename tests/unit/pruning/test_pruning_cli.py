"""The `prune` command: what it writes, what it says, and that bad input leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from pruning_nets import conv_net, images, mlp, mlp_weights

import pruning
from pruning import ChannelFloor, ScoreOptions, TrainOptions, cli, onnx_io
from pruning.calibration import Activations
from verifier.errors import OutputError

S = "brightness=-0.1:0.1,contrast=0.8:1.2"


@pytest.fixture
def place(tmp_path):
    """A folder with a network and labelled data."""
    onnx_io.save(conv_net(bn=True), tmp_path / "net.onnx")
    x = images((1, 8, 8), 40, low=0, high=1)
    np.savez(tmp_path / "data.npz", images=x, labels=np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32))
    return tmp_path


def prune(place, *arguments):
    return cli.main([str(place / "net.onnx"), *(str(a) for a in arguments)])


def test_prunes_by_our_usn_and_writes_the_record(place, capsys):
    assert prune(place, "-o", place / "small.onnx", "--data", place / "data.npz", "--semantic", S, "--seed", 3) == 0
    small = pruning.load(place / "small.onnx")
    assert small.weights["k0"].shape[0] == 4
    onnx.checker.check_model(onnx.load(place / "small.onnx"), full_check=True)
    record = json.loads((place / "small.json").read_text())
    assert record["formula"].startswith("our USN") and record["options"]["seed"] == 3 and record["fold"] == "mean"
    first = record["layers"][0]
    assert (
        len(first["kept"]) == 4 and len(first["scores"]) == 8 and {"Bias2", "Var", "Sig", "R"} <= first["parts"].keys()
    )
    assert record["carries_over"] is False and record["folded"]
    out = capsys.readouterr().out
    assert "parameters" in out and "wrote" in out
    first_bytes = (place / "small.onnx").read_bytes()
    prune(place, "-o", place / "small.onnx", "--data", place / "data.npz", "--semantic", S, "--seed", 3)
    assert (place / "small.onnx").read_bytes() == first_bytes


CALLS = {
    "plain": ((), {}),
    "matched": (("--criterion", "random-matched", "--seed", 4), {"criterion": "random-matched", "seed": 4}),
    "selection": (
        ("--allocation", "global", "--norm", "none", "--keep", "conv0", "--min-channels", 2, "--min-fraction", 0.1),
        {"allocation": "global", "norm": "none", "keep": ("conv0",), "floor": ChannelFloor(2, 0.1)},
    ),
    "scores": (
        ("--agg", "q90", "--usn-bias", "centred", "--usn-stability-exp", 1, "--fold", "zero", "--rescale", "none"),
        {"scores": ScoreOptions(0, 1, "q90", bias="centred"), "fold": "zero", "rescale": "none"},
    ),
    "trained": (
        ("--mode", "one-shot", "--epochs", 1, "--wasserstein", 0, "--criterion", "l2"),
        {"mode": "one-shot", "training": TrainOptions(epochs=1, wasserstein=0.0), "criterion": "l2"},
    ),
    "stages": (
        ("--mode", "progressive", "--epochs", 1, "--wasserstein-span", "all", "--max-drop", 9),
        {"mode": "progressive", "training": TrainOptions(epochs=1, wasserstein_span="all", max_drop=9.0)},
    ),
    "weights": (("--unstructured", "--criterion", "l1"), {"unstructured": True, "criterion": "l1"}),
}


@pytest.mark.parametrize("name", CALLS)
def test_python_does_what_the_command_does(place, name):
    arguments, options = CALLS[name]
    if "--keep" in arguments:
        options = {**options, "keep": (pruning.load(place / "net.onnx").nodes[0].name,)}
        arguments = tuple(options["keep"][0] if a == "conv0" else a for a in arguments)
    assert prune(place, "-o", place / "small.onnx", "--data", place / "data.npz", "--semantic", S, *arguments) == 0
    net = pruning.load(place / "net.onnx")
    data = pruning.load_data(str(place / "data.npz"), net, pruning.Perturbation.parse(S), seed=options.get("seed", 0))
    made = pruning.prune(place / "net.onnx", data, pruning.PruneOptions(**options))
    assert pruning.save(made, place / "again.onnx") == place / "again.json"
    for kind in ("onnx", "json"):
        assert (place / f"again.{kind}").read_bytes() == (place / f"small.{kind}").read_bytes()


@pytest.mark.parametrize(
    "wrong", [{"ratio": 1.0}, {"mode": "twice"}, {"fold": "half"}, {"guard": 1.0}, {"norm": "l7"}, {"allocation": "x"}]
)
def test_options_are_checked_when_they_are_made(wrong):
    with pytest.raises(pruning.PruneError, match=next(iter(wrong)).replace("_", " ")):
        pruning.PruneOptions(**wrong)


def test_dry_run_prints_the_plan_and_writes_nothing(place, capsys):
    before = sorted(place.iterdir())
    assert prune(place, "--dry-run", "--criterion", "l1", "--ratio", 0.25) == 0
    out = capsys.readouterr().out
    assert "internal" in out and "MACs" in out and "non-linear neurons" in out and "frozen: it is an output" in out
    assert sorted(place.iterdir()) == before


def test_sweep_and_report(place):
    assert prune(place, "-o", place / "s.onnx", "--sweep", "0.25,0.5", "--data", place / "data.npz", "--semantic", S,
                 "--report", place / "out") == 0  # fmt: skip
    assert (place / "s_0.25.onnx").exists() and (place / "s_0.5.json").exists() and not (place / "s.onnx").exists()
    page = (place / "out" / "report.html").read_text()
    assert "our USN" in page and "scores-1" in page and "make_z0" in page and "root mean squared" in page
    numbers = json.loads((place / "out" / "report.json").read_text())
    assert numbers[0]["parameters"][1] > numbers[1]["parameters"][1] and numbers[1]["output_change"] > 0
    for entry, ratio in zip(numbers, (0.25, 0.5), strict=True):  # the error is measured by the tool's own runtime
        written = onnx_io.load(place / f"s_{ratio}.onnx")
        with np.load(place / "data.npz") as data:
            for net, found in zip((onnx_io.load(place / "net.onnx"), written), entry["error"], strict=True):
                said = Activations(net, net.outputs)(data["images"])[net.outputs[0]]
                assert found == pytest.approx(np.sqrt(((said - data["labels"]) ** 2).mean()), rel=1e-4)
        assert f"usn {ratio:.0%}" in page
    for kind in ("layers-0", "scores-0", "parts-0-0"):
        assert (place / "out" / "figures" / f"{kind}.svg").stat().st_size > 1000
    assert 'data-theme="dark"' in page and "<img" not in page


@pytest.mark.parametrize("mode", ["one-shot", "progressive", "lottery"])
def test_training_modes(place, mode):
    arguments = ["-o", place / "t.onnx", "--mode", mode, "--epochs", 1, "--data", place / "data.npz", "--semantic", S]
    assert prune(place, *arguments, "--criterion", "l2", "--max-drop", 100) == 0
    assert json.loads((place / "t.json").read_text())["mode"] == mode


def test_unstructured_and_blocks(place, capsys):
    assert prune(place, "-o", place / "u.onnx", "--criterion", "l1", "--unstructured") == 0
    assert (pruning.load(place / "u.onnx").weights["w0"] == 0).any()
    assert prune(place, "-o", place / "b.onnx", "--criterion", "layer", "--data", place / "data.npz") == 2
    assert "no residual block" in capsys.readouterr().err


def test_folder_of_images(place, capsys):
    from PIL import Image

    folder = place / "pictures"
    folder.mkdir()
    for i, x in enumerate(images((16, 16), 5, low=0, high=1)):
        Image.fromarray((x * 255).astype(np.uint8)).save(folder / f"{i}.png")
    np.save(folder / "z.npy", images((1, 8, 8), 1)[0])
    assert prune(place, "-o", place / "d.onnx", "--data", folder, "--semantic", S) == 2
    assert "--crop whole" in capsys.readouterr().err
    assert prune(place, "-o", place / "d.onnx", "--data", folder, "--semantic", S, "--crop", "whole") == 0
    assert "(--crop whole)" in capsys.readouterr().out


def test_coco_annotations(place):
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)).save(place / "p.png")
    people = [
        {"id": 1, "bbox": [10, 5, 20, 32], "keypoints": [12, 8, 2, 28, 30, 1]},
        {"id": 2, "bbox": [20, 5, 20, 20], "keypoints": [22, 8, 2, 28, 20, 2]},
        {"id": 3, "bbox": [0, 0, 5, 5], "keypoints": [0, 0, 0, 1, 1, 2]},
        {"id": 4, "iscrowd": 1, "bbox": [0, 0, 5, 5], "keypoints": [1, 1, 2, 1, 1, 2]},
    ]
    people = [{"image_id": 1, "category_id": 1, **person} for person in people]
    kinds = [{"id": 1, "name": "person", "keypoints": ["a", "b"]}]
    content = {"categories": kinds, "images": [{"id": 1, "file_name": "p.png"}], "annotations": people}
    (place / "c.json").write_text(json.dumps(content))
    net = conv_net()
    net = net.changed(weights={"w1": np.zeros_like(net.weights["w1"]), "b1": np.full(4, 4, np.float32)})
    data = pruning.load_data(str(place / "c.json"), net)
    assert data.images.shape == (2, 1, 8, 8) and data.labels.shape == (2, 4)
    pixels = [8 * (at + 0.5) / 40 for at in (12 - 0, 8 - 1, 28 - 0, 30 - 1)]  # a square of 40 at (0, 1)
    assert data.labels[0].tolist() == pytest.approx(pixels, rel=1e-5)
    content["images"] = [{"id": 1, "file_name": "../p.png"}]
    (place / "c.json").write_text(json.dumps(content))
    with pytest.raises(pruning.DataError, match="leaves the image folder"):
        pruning.load_data(str(place / "c.json"), conv_net())


BAD = {
    "unknown criterion": (["-o", "{out}", "--criterion", "magic"], "unknown criterion 'magic'"),
    "ratio of one": (["-o", "{out}", "--criterion", "l1", "--ratio", "1"], "0 <= ratio < 1"),
    "negative ratio": (["-o", "{out}", "--criterion", "l1", "--ratio", "-0.5"], "0 <= ratio < 1"),
    "no output": (["--criterion", "l1"], "no output file"),
    "no folder": (["-o", "{dir}/none/x.onnx", "--criterion", "l1"], "does not exist"),
    "no data": (["-o", "{out}"], "needs calibration images"),
    "absent data": (["-o", "{out}", "--data", "{dir}/none.npz"], "not a readable .npz"),
    "unknown data": (["-o", "{out}", "--data", "{dir}/none.xyz"], "a folder, a picture"),
    "wrong shape": (["-o", "{out}", "--data", "{dir}/wrong.npz", "--semantic", S], "the network takes 8x8"),
    "no images": (["-o", "{out}", "--data", "{dir}/empty.npz", "--semantic", S], "no array 'images'"),
    "no range": (["-o", "{out}", "--data", "{dir}/data.npz"], "give --semantic"),
    "bad range": (
        ["-o", "{out}", "--data", "{dir}/data.npz", "--semantic", "brightness=a:b"],
        "found 'a:b', expected LOW,HIGH or LOW:HIGH",
    ),
    "empty range": (
        ["-o", "{out}", "--data", "{dir}/data.npz", "--semantic", "brightness=1:0"],
        "range of brightness is empty",
    ),
    "unknown parameter": (
        ["-o", "{out}", "--data", "{dir}/data.npz", "--semantic", "blur=0:1"],
        "unknown parameter blur",
    ),
    "no labels": (["-o", "{out}", "--criterion", "taylor", "--data", "{dir}/bare.npz"], "needs labels"),
    "training without data": (["-o", "{out}", "--mode", "one-shot", "--criterion", "l1"], "needs labelled --data"),
    "unknown layer": (["-o", "{out}", "--criterion", "l1", "--keep", "nobody"], "no such node"),
    "fold without data": (["-o", "{out}", "--criterion", "l1", "--fold", "mean"], "needs calibration images"),
    "floor": (["-o", "{out}", "--criterion", "l1", "--min-channels", "0"], "expected at least 1"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_bad_requests_are_one_line_and_write_nothing(place, capsys, name):
    np.savez(place / "wrong.npz", images=np.zeros((4, 3, 9, 9), np.float32))
    np.savez(place / "empty.npz", pictures=np.zeros(3))
    np.savez(place / "bare.npz", images=images((1, 8, 8), 4))
    before = sorted(place.iterdir())
    arguments, message = BAD[name]
    code = prune(place, *(a.format(out=place / "out.onnx", dir=place) for a in arguments))
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.startswith("prune: error: ") and error.count("\n") == 1
    assert sorted(place.iterdir()) == before


def test_a_model_that_cannot_be_written_leaves_no_record(place):
    net = conv_net()
    pruned = pruning.apply(net, pruning.plan(net, pruning.score(net, None, "l1"), 0.5), "zero")
    (place / "taken.onnx").mkdir()
    before = sorted(place.iterdir())
    with pytest.raises(OutputError, match="cannot write"):
        pruning.save(pruned, place / "taken.onnx")
    assert sorted(place.iterdir()) == before


def test_bad_models_are_one_line(tmp_path, capsys):
    onnx_io.save(conv_net(), tmp_path / "ok.onnx")
    (tmp_path / "bad.onnx").write_bytes((tmp_path / "ok.onnx").read_bytes()[:200])
    single = mlp(mlp_weights(sizes=(5, 3)))
    onnx_io.save(single, tmp_path / "single.onnx")
    cases = [
        ("bad.onnx", ""),
        ("none.onnx", "no such file"),
        ("single.onnx", "nothing to prune"),
        (".", "not a file"),
    ]
    for name, message in cases:
        assert cli.main([str(tmp_path / name), "-o", str(tmp_path / "o.onnx"), "--criterion", "l1"]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not (tmp_path / "o.onnx").exists()


def test_help_teaches_our_usn():
    text = cli.parser().format_help()
    assert "our USN = R * T^g" in text and "Bias2 = E (mean_s z(s) - z0)^2" in text and "tau - delta" in text
    for word in ("random-matched", "anti-usn", "lottery", "examples", "exit codes"):
        assert word in text


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import pruning", ("onnx", "torch", "numpy")),
        ("import pruning.cli as c; c.parser()", ("onnx", "torch", "numpy", "onnxruntime")),
        ("import pruning.groups, pruning.surgery, pruning.fold, pruning.onnx_io", ("torch", "matplotlib", "scipy")),
        ("import pruning.groups, pruning.surgery", ("onnx", "onnxruntime")),
    ],
)
def test_imports_stay_light(code, absent):
    check = f"{code}; import sys; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_whole_run_without_torch(place):
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'torchvision', 'onnx2torch'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from pruning.cli import main\n"
        f"sys.exit(main([{str(place / 'net.onnx')!r}, '-o', {str(place / 'x.onnx')!r},"
        f" '--data', {str(place / 'data.npz')!r},"
        f" '--semantic', {S!r}]))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)
    assert (place / "x.onnx").exists()


def test_public_names():
    for name in pruning.__all__:
        assert getattr(pruning, name) is not None
    with pytest.raises(AttributeError):
        _ = pruning.nothing
