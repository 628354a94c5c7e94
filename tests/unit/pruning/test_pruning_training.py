"""The way to PyTorch and back, the losses, and the training modes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper
from pruning_nets import build, calibration, conv_net, images, mlp, mlp_weights, node
from scipy.stats import wasserstein_distance

import pruning
from benchmarks.pruning_graphs import random_model
from pruning import Calibration, TrainOptions, losses, onnx_io
from pruning.calibration import Activations
from pruning.errors import CriterionError, DataError
from pruning.measure import error
from pruning.options import SPANS
from pruning.torch_bridge import TorchNet
from pruning.training import fine_tune, lottery_weights, train


def test_onnx2torch_loads_without_torchvision_and_leaves_no_stand_in():
    code = (
        "import sys; sys.modules['torchvision'] = None; del sys.modules['torchvision'];"
        "from pruning.torch_bridge import import_onnx2torch; m = import_onnx2torch();"
        "assert hasattr(m, 'convert');"
        "assert 'torchvision' not in sys.modules; assert 'torchvision.ops' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("seed", range(12))
def test_torch_agrees_with_onnxruntime_and_weights_come_back(seed):
    """Both ways: values of the converted network, and a changed weight ends up in the ONNX file under its name."""
    net = onnx_io.load(random_model(seed, 13).SerializeToString())
    if any(n.type in ("Resize", "Upsample") for n in net.nodes) and not _converts(net):
        return  # `_converts` has checked that the refusal names the way out
    model = TorchNet(net)
    float_names = {
        n for node in net.nodes for n in node.inputs if n in net.weights and net.weights[n].dtype.kind == "f"
    }
    unused = {n for n in float_names if net.weights[n].size == 0 or n not in model.leaves}
    assert all(_is_setting(net, n) for n in unused), unused
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for leaf in model.trainable.values():
            leaf.add_(torch.tensor(rng.normal(size=tuple(leaf.shape)).astype(np.float32)) * 0.05)
    changed = model.exported()
    x = images((3, 8, 8), 3)
    with torch.no_grad():
        got = model(torch.tensor(x)).numpy()
    want = Activations(changed, net.outputs)(x)[net.outputs[0]]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * (1 + np.abs(want).max()))
    assert changed.nodes == net.nodes and changed.weights.keys() == net.weights.keys()


def _converts(net) -> bool:
    try:
        TorchNet(net)
    except CriterionError as refusal:
        assert "post-training" in str(refusal)
        return False
    return True


def _is_setting(net, name) -> bool:
    """Limits of Clip, scales of Resize: parameters of operators, not weights."""
    return all(n.type in ("Clip", "Resize", "Upsample") for n in net.nodes if name in n.inputs)


def test_networks_with_a_fixed_batch_train_in_batches():
    net = conv_net(batch=1)
    with torch.no_grad():
        got = TorchNet(net)(torch.tensor(images((1, 8, 8), 5))).numpy()
    np.testing.assert_allclose(got, Activations(net, ["y"])(images((1, 8, 8), 5))["y"], rtol=1e-4, atol=1e-5)


def test_intermediate_values_carry_onnx_names():
    net = conv_net(bn=True)
    x = images((1, 8, 8), 3)
    _, tapped = TorchNet(net)(torch.tensor(x), ["n0", "p1", "z2"])
    want = Activations(net, ["n0", "p1", "z2"])(x)
    for name, value in tapped.items():
        np.testing.assert_allclose(value.detach().numpy(), want[name], rtol=1e-4, atol=1e-5)


def test_a_model_onnx2torch_cannot_read_says_what_remains():
    net = build([node("Gemm", "x w", "h"), node("Shrink", "h", "a"), node("MatMul", "a v", "y")],
                {"w": np.ones((4, 8), np.float32), "v": np.ones((8, 2), np.float32)},
                {"x": [4]}, {"y": [2]})  # fmt: skip
    with pytest.raises(CriterionError, match="post-training"):
        TorchNet(net)


def scaled(opset):
    """A network whose output is multiplied by a Constant node, as exporters of newer opsets write it."""
    rng = np.random.default_rng(0)
    value = numpy_helper.from_array(np.array([0.5, 2.0], np.float32))
    w = {"w": rng.normal(size=(8, 1, 3, 3)), "b": rng.normal(size=8), "v": rng.normal(size=(2, 8)), "c": np.zeros(2)}
    nodes = [
        node("Conv", "x w b", "h", pads=[1, 1, 1, 1]), node("Relu", "h", "r"), node("GlobalAveragePool", "r", "p"),
        node("Flatten", "p", "f"), node("Gemm", "f v c", "g", transB=1),
        helper.make_node("Constant", [], ["s"], value=value), node("Mul", "g s", "m"),
        helper.make_node("Constant", [], ["one"], value_float=1.0), node("Add", "m one", "y"),
    ]  # fmt: skip
    return build(nodes, {k: v.astype(np.float32) for k, v in w.items()}, {"x": [1, 8, 8]}, {"y": [2]}, opset)


@pytest.mark.parametrize("opset", [13, 18, 19, 20, 21, 22])
def test_constants_behind_the_network_and_newer_opsets(opset, tmp_path):
    """Criteria from gradients and training read them; the network that comes out computes what PyTorch computed."""
    from pruning import cli

    net = scaled(opset)
    assert [n.type for n in net.nodes].count("Constant") == 2 and net.opset == opset
    x = images((1, 8, 8), 24)
    model = TorchNet(net)
    want = Activations(net, ["y"])(x)["y"]
    np.testing.assert_allclose(model(torch.tensor(x)).detach().numpy(), want, rtol=1e-4, atol=1e-5)
    np.savez(tmp_path / "d.npz", images=x, labels=want + 0.1)
    onnx_io.save(net, tmp_path / "net.onnx")
    call = [str(tmp_path / "net.onnx"), "--data", str(tmp_path / "d.npz"), "--semantic", "brightness=-0.1:0.1"]
    for name, more in (("a", ["--criterion", "taylor"]), ("b", ["--mode", "one-shot", "--epochs", "1"])):
        out = tmp_path / f"{name}.onnx"
        assert cli.main([*call, "-o", str(out), *more]) == 0
        small = pruning.load(out)
        assert small.weights["w"].shape == (4, 1, 3, 3) and small.opset == opset
        assert np.isfinite(Activations(small, ["y"])(x)["y"]).all()


@pytest.mark.parametrize("opset", [13, 18, 21])
def test_reductions_whose_axes_are_an_input(opset):
    """ReduceMean from opset 18 on, of which the converter knows the older form only."""
    rng = np.random.default_rng(0)
    w = {"k": rng.normal(size=(4, 6)).astype(np.float32), "v": rng.normal(size=(6, 2)).astype(np.float32)}
    axes = {"axes": np.array([1])} if opset >= 18 else {}
    mean = node("ReduceMean", "r axes", "q", keepdims=0) if axes else node("ReduceMean", "r", "q", axes=[1], keepdims=0)
    nodes = [node("MatMul", "x k", "h"), node("Relu", "h", "r"), mean, node("MatMul", "q v", "y")]
    net = build(nodes, {**w, **axes}, {"x": [5, 4]}, {"y": [2]}, opset)
    x = rng.normal(size=(3, 5, 4)).astype(np.float32)
    got = TorchNet(net)(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(got, Activations(net, ["y"])(x)["y"], rtol=1e-4, atol=1e-5)


def test_allowzero_without_a_zero():
    """What torch.onnx.export (dynamo=True) writes for flatten."""
    rng = np.random.default_rng(0)
    w = {"k": rng.normal(size=(4, 6)).astype(np.float32), "v": rng.normal(size=(30, 2)).astype(np.float32)}
    nodes = [node("MatMul", "x k", "h"), node("Relu", "h", "r"), node("Reshape", "r t", "f", allowzero=1),
             node("MatMul", "f v", "y")]  # fmt: skip
    net = build(nodes, {**w, "t": np.array([1, 30])}, {"x": [5, 4]}, {"y": [2]}, 18, batch=1)
    x = rng.normal(size=(1, 5, 4)).astype(np.float32)
    got = TorchNet(net)(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(got, Activations(net, ["y"])(x)["y"], rtol=1e-4, atol=1e-5)


def test_without_onnx2torch_the_message_gives_the_command():
    code = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'onnx2torch': raise ImportError('No module named onnx2torch')\n"
        "sys.meta_path.insert(0, Blocked())\n"
        "from pruning.torch_bridge import import_onnx2torch\n"
        "try: import_onnx2torch()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print(sorted(m for m in sys.modules if m.startswith('torchvision')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    first, last = done.stdout.strip().splitlines()
    assert first.startswith("CriterionError") and "pip install --no-deps 'onnx2torch>=1.5.15'" in first
    assert last == "[]"
    from pruning.cli import parser

    for text in (parser().format_help(), (Path(__file__).parents[3] / "README.md").read_text()):
        assert "pip install --no-deps 'onnx2torch>=1.5.15'" in text


@pytest.mark.parametrize(("n", "m"), [(50, 50), (31, 47), (1, 9)])
def test_wasserstein_equals_scipy(n, m):
    rng = np.random.default_rng(n)
    u, v = rng.normal(size=n), 2 * rng.normal(size=m) + 1
    got = losses.wasserstein(torch.tensor(u), torch.tensor(v))
    assert float(got) == pytest.approx(wasserstein_distance(u, v), abs=1e-12)


@pytest.mark.parametrize(("n", "m", "p"), [(9, 9, 1), (9, 9, 2), (7, 12, 1)])
def test_wasserstein_gradient_against_finite_differences(n, m, p):
    rng = np.random.default_rng(0)
    u = torch.tensor(rng.normal(size=n), requires_grad=True)
    v = torch.tensor(rng.normal(size=m))
    assert torch.autograd.gradcheck(lambda x: losses.wasserstein(x, v, p), (u,), eps=1e-7, atol=1e-6)


def test_concentration_is_the_damage_of_folding():
    """Without the denominator it is the squared distance to a constant, W_2^2 to the Dirac at the mean, times |W|^2."""
    rng = np.random.default_rng(0)
    a = torch.tensor(rng.normal(size=(20, 5, 3)) * np.arange(1, 6)[:, None], requires_grad=True)
    w = torch.tensor(rng.uniform(0.5, 2, 5))
    chosen = torch.tensor([True, False, True, False, False])
    value = losses.concentration([a], [w], [chosen])
    spread = [
        float(losses.wasserstein(a[:, c].detach().reshape(-1), a[:, c].detach().mean().expand(60), 2)) for c in range(5)
    ]
    damage = w.numpy() * np.array(spread)
    assert value.item() == pytest.approx(damage[[0, 2]].sum() / damage.sum(), rel=1e-6)
    value.backward()
    assert a.grad is not None
    assert float(a.grad[:, 1].abs().max()) == 0 and float(a.grad[:, 0].abs().min()) > 0


def test_separation_and_layer_terms():
    scores = torch.tensor([0.1, 0.95, 0.5, 0.8], requires_grad=True)
    one = losses.separation(scores, 0.5, high=0.9)
    assert one.item() == pytest.approx(0.1 / 4)
    two = losses.separation(scores, 0.5, low=0.0, high=0.9, two_sided=True)
    assert two.item() == pytest.approx((0.1 + 0.5 + 0.1 + 0.05) / 4)
    one.backward()
    assert scores.grad is not None and scores.grad.tolist() == pytest.approx([0, 0, 0, -0.25])
    same = torch.linspace(0, 1, 20)
    assert float(losses.across_layers([same, same.clone()])) == pytest.approx(0, abs=1e-7)
    assert float(losses.across_layers([same, same + 1])) == pytest.approx(0.5, rel=1e-5)


def test_stability_losses():
    low, high = torch.tensor([-1.0, 1.0, -3.0]), torch.tensor([1.0, 2.0, -1.0])
    want = -np.tanh(1 + np.array([-1.0, 2.0, 3.0])).mean()
    assert float(losses.stability(low, high)) == pytest.approx(want, rel=1e-6)
    scaled = -np.tanh(1 + np.array([-1.0, 2.0, 3.0]) / 4).mean()
    assert float(losses.stability(low, high, torch.tensor(2.0))) == pytest.approx(scaled, rel=1e-6)


def test_heatmap_loss_is_least_and_error_zero_where_the_map_is_right():
    labels = torch.tensor([[1.0, 2.0, 3.0, 0.0]])
    right = losses.spots(torch.zeros(1, 2, 4, 5), labels).reshape(1, 2, 4, 5)
    assert right.sum((2, 3)).flatten().tolist() == pytest.approx([1, 1]) and right[0, 0].argmax() == 2 * 5 + 1
    best = float(losses.task_loss(right.log(), labels))
    assert best == pytest.approx(float(-(right * right.log()).sum((2, 3)).mean()), rel=1e-5)  # the entropy
    for seed in range(5):
        other = torch.randn(1, 2, 4, 5, generator=torch.Generator().manual_seed(seed))
        assert float(losses.task_loss(other, labels)) > best
    net = build([node("Reshape", "x s", "h")], {"s": np.array([-1, 2, 4, 5])}, {"x": [40]}, {"h": [2, 4, 5]})
    images = right.reshape(1, 40).numpy()
    assert error(net, Calibration(images, labels.numpy())) == 0
    assert (
        error(net, Calibration(images, labels.numpy() + np.array([[2, 0, 0, 0]], np.float32))) == 1
    )  # 2 * 2 over 4 numbers


def test_ratio_scores_agree_with_the_measured_ones():
    net = mlp(mlp_weights())
    data = calibration(net, samples=16)
    points = data.points(16, 0)
    run = Activations(net, ["z0"])
    clean = torch.tensor(run(data.images)["z0"])[..., None]
    moved = torch.stack([torch.tensor(run(data.moved(data.images, s))["z0"])[..., None] for s in points])
    want = pruning.score(net, data, "usn").parts["R"][:12]
    np.testing.assert_allclose(losses.ratio_scores(clean, moved).numpy(), want, rtol=1e-4)


@pytest.fixture(scope="module")
def task():
    """A learnable task: outputs of a teacher; the student starts elsewhere."""
    net, teacher = conv_net(0, bn=True), conv_net(1, bn=True)
    data = calibration(net, count=120)
    labels = Activations(teacher, ["y"])(data.images)["y"]
    return net, Calibration(data.images, labels, data.semantic, 8)


def replanner(criterion="usn"):
    def replan(model, share, floor):
        scores = pruning.score(model, task_data[0], criterion)
        return pruning.plan(model, scores, share, floor=floor)

    task_data: list = [None]
    return replan, task_data


@pytest.mark.parametrize("mode", ["one-shot", "progressive", "lottery"])
def test_training_modes_reach_the_ratio_and_learn(mode, task):
    net, data = task
    replan, holder = replanner()
    holder[0] = data
    lines: list[str] = []
    options = TrainOptions(mode, epochs=6, stages=3, batch_size=24, rate=5e-3, max_drop=5.0, calibration=40)
    result = train(net, data, 0.5, replan, options, say=lines.append)
    assert result.net.weights["k0"].shape[0] == 4 and result.net.weights["k1"].shape[0] in (5, 6)  # rounds round
    assert result.net.outputs == net.outputs and {n.name for n in result.net.nodes} == {n.name for n in net.nodes}
    kept = {entry["name"]: entry["kept"] for entry in result.sidecar["layers"]}
    assert len(kept["make_z0"]) == 4 and max(kept["make_z0"]) < 8 and len(set(kept["make_z0"])) == 4
    assert result.sidecar["held_out_error"] < error(net, data) and lines
    again = train(net, data, 0.5, replan, options)
    for name, value in result.net.weights.items():
        np.testing.assert_array_equal(value, again.net.weights[name])


def test_concentration_makes_candidates_cheaper_to_fold(task):
    net, data = task
    plan = pruning.plan(net, pruning.score(net, data, "random"), 0.5)
    damages = []
    for weight in (0.0, 3.0):
        options = TrainOptions(epochs=6, batch_size=24, rate=2e-3, wasserstein=weight)
        trained = fine_tune(net, data, options, 6, plan)
        moved = pruning.Plan(**{**plan.__dict__, "groups": pruning.Groups(**{**_fields(plan.groups), "net": trained})})
        small = pruning.apply(trained, moved, "mean", data).net
        before, after = (Activations(n, ["y"])(data.images)["y"] for n in (trained, small))
        damages.append(float(((before - after) ** 2).mean()))
    assert damages[1] < 0.7 * damages[0]


def test_the_concentration_loss_may_run_between_cuts_as_well(task, monkeypatch):
    """What the later cuts change of the outputs is less; the first cut is the same."""
    net, data = task
    replan, holder = replanner("random")
    holder[0] = data
    changes: dict[str, list[float]] = {}
    for span in SPANS:

        def watched(model, plan, *rest, span=span, **more):
            cut = pruning.apply(model, plan, *rest, **more)
            before, after = (Activations(n, ["y"])(data.images)["y"] for n in (model, cut.net))
            changes.setdefault(span, []).append(float(((before - after) ** 2).mean()))
            return cut

        monkeypatch.setattr("pruning.training.apply", watched)
        options = TrainOptions(
            "progressive", epochs=6, stages=3, batch_size=24, rate=2e-3, max_drop=50.0, wasserstein=3.0,
            wasserstein_span=span, calibration=40,
        )  # fmt: skip
        result = train(net, data, 0.5, replan, options)
        assert result.net.weights["k0"].shape[0] == 4 and result.sidecar["training"]["wasserstein_span"] == span
    first, *later = changes["warm-up"]
    assert changes["all"][0] == first and sum(changes["all"][1:]) < 0.8 * sum(later)


def _fields(groups):
    import dataclasses

    return {f.name: getattr(groups, f.name) for f in dataclasses.fields(groups)}


@pytest.mark.parametrize(
    "extra",
    [
        {"stability": "rs"},
        {"stability": "nrs"},
        {"separation": 0.5},
        {"across": 0.5},
        {"consistency": 0.1},
        {"certified": 0.1},
    ],
)
def test_optional_terms_change_the_training_and_stay_finite(extra, task):
    net, data = task
    plan = pruning.plan(net, pruning.score(net, data, "usn"), 0.5)
    base = fine_tune(net, data, TrainOptions(epochs=1, batch_size=40), 1, plan)
    other = fine_tune(net, data, TrainOptions(epochs=1, batch_size=40, **extra), 1, plan)
    assert any((base.weights[n] != other.weights[n]).any() for n in ("k0", "k1"))


@pytest.mark.parametrize("kind", ["mlp", "conv", "conv-bn"])
def test_interval_bounds_hold_and_train(kind):
    """Sampled outputs lie inside; with a zero-width cell the bounds are the output."""
    from pruning.forms import interval_bounds, worst_loss

    net = mlp(mlp_weights()) if kind == "mlp" else conv_net(2, bn=kind == "conv-bn")
    model = TorchNet(net)
    data = calibration(net, count=4)
    first, last = (torch.tensor(data.moved(data.images, point)) for point in ((0.95, -0.02), (1.05, 0.02)))
    ends = (first, last)
    low, high = interval_bounds(model, *ends)
    for t in np.linspace(0, 1, 9):
        y = model(ends[0] + (ends[1] - ends[0]) * float(t))
        assert (y >= low - 1e-5).all() and (y <= high + 1e-5).all()
    assert (high - low).max() > 1e-3
    same = interval_bounds(model, ends[0], ends[0])
    np.testing.assert_allclose(same[0].detach(), model(ends[0]).detach(), rtol=1e-4, atol=1e-5)
    loss = worst_loss(*interval_bounds(model, *ends), torch.zeros(4, low.shape[1]))
    assert loss.item() >= (model(ends[0]).pow(2).mean()).item() - 1e-6
    classes = worst_loss(*interval_bounds(model, *ends), torch.zeros(4, dtype=torch.long))
    gradients = torch.autograd.grad(classes, list(model.trainable.values()), allow_unused=True)
    assert all(torch.isfinite(g).all() for g in gradients if g is not None) and any(g is not None for g in gradients)


def test_interval_bounds_hold_on_random_graphs_or_name_the_node():
    from pruning.forms import interval_bounds

    held = 0
    for seed in range(30):
        net = onnx_io.load(random_model(seed, 13).SerializeToString())
        try:
            model = TorchNet(net)
            x = torch.tensor(images((3, 8, 8), 4, seed))
            low, high = interval_bounds(model, x, x + 0.1)
        except CriterionError as refusal:
            assert "no interval rule for node" in str(refusal) or "PyTorch" in str(refusal)
            continue
        for step in np.random.default_rng(seed).uniform(0, 0.1, (8, *x.shape)).astype(np.float32):
            y = model(x + torch.tensor(step))
            assert (y >= low - 1e-4).all() and (y <= high + 1e-4).all()
        held += 1
    assert held >= 4


def test_the_stage_before_a_bad_one_is_kept(task):
    net, data = task
    replan, holder = replanner("anti-usn")
    holder[0] = data
    trained = fine_tune(net, data, TrainOptions(epochs=30, rate=5e-3), 30)
    lines: list[str] = []
    options = TrainOptions("progressive", epochs=1, rate=1e-5, stages=3, max_drop=0.0, wasserstein=0.0, calibration=40)
    result = train(trained, data, 0.7, replan, options, say=lines.append)
    assert any("keeping the stage before" in line for line in lines)
    assert result.sidecar["stages"][-1].get("kept") is False


def test_unstructured_lottery_keeps_masks_and_rewinds(task):
    net, data = task
    result = lottery_weights(net, data, 0.5, TrainOptions("lottery", epochs=1))
    names = ["k0", "k1", "w0", "w1"]
    share = sum((result.weights[n] == 0).sum() for n in names) / sum(net.weights[n].size for n in names)
    assert share == pytest.approx(0.5, abs=0.02)


def test_training_without_labels_is_refused():
    net = conv_net()
    replan, _ = replanner()
    with pytest.raises(DataError, match="needs labels"):
        train(net, calibration(net), 0.5, replan, TrainOptions())


def test_classes_train_with_cross_entropy():
    net = conv_net()
    data = calibration(net, count=80)
    labels = Activations(conv_net(5), ["y"])(data.images)["y"].argmax(1)
    data = Calibration(data.images, labels, data.semantic)
    trained = fine_tune(net, data, TrainOptions(epochs=15, rate=5e-3, batch_size=20), 15)
    assert error(trained, data) < error(net, data)
