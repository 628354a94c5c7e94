"""Training, pruning and verification as a study uses them: against ONNX Runtime, samples and each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from pruning import Calibration, api, forms
from pruning.calibration import perturbation as rectangle
from pruning.groups import find_groups
from pruning.study import allocation, spec, verifying
from pruning.study.errors import StudyFileError
from pruning.study.making import Maker, NetworkSettings, Tuned, chain
from pruning.study.wiring import hands
from pruning.torch_bridge import TorchNet
from tests.devices import DEVICE, HOST, TwoDevices
from verifier.data import networks
from verifier.errors import UnsoundError
from verifier.training.export import to_onnx
from verifier.training.models import Architecture, build

STUDY = spec.parse(
    {
        "name": "tiny",
        "data": "aircraft23",
        "network": {"width": 4, "size": 16, "images": 24, "batch": 12, "calibration": 12},
        "images": 1,
        "tau": 0.2,
        "rectangle": "small",
        "timeout": 20,
        "seeds": [0],
        "ratios": [0.5],
        "budget": {"train": 2, "finetune": 1},
        "arms": ["dense+ft", "usn", "random-matched", "small-scratch"],
    }
)


@pytest.fixture(scope="module")
def maker() -> Maker:
    return Maker.of(STUDY, rectangle("small"))


@pytest.fixture(scope="module")
def dense(maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("nets") / "dense.onnx"
    maker.train(seed=0, epochs=2, like=None, work=out.parent, out=out)
    return out


def answer(path: Path, images: np.ndarray) -> np.ndarray:
    return np.asarray(onnxruntime.InferenceSession(path).run(None, {"image": images})[0])


def widths(path: Path) -> list[int]:
    return [len(group.channels) for group in find_groups(api.load(path)).groups]


def test_a_network_read_back_as_a_module_is_the_same_function(dense: Path) -> None:
    pictures = np.random.default_rng(0).random((3, 1, 16, 16), np.float32)
    module = chain(api.load(dense), 16, fresh=False).eval()
    with torch.no_grad():
        found = module(torch.from_numpy(pictures)).numpy()
    np.testing.assert_allclose(found, answer(dense, pictures), rtol=1e-4, atol=1e-4)


def test_training_lowers_the_loss_and_repeats_itself(maker: Maker, dense: Path, tmp_path: Path) -> None:
    again, longer = tmp_path / "again.onnx", tmp_path / "longer.onnx"
    maker.train(seed=0, epochs=2, like=None, work=tmp_path, out=again)
    assert again.read_bytes() == dense.read_bytes()
    maker.train(seed=0, epochs=60, like=None, work=tmp_path, out=longer)
    split = maker.split

    def error(path: Path) -> float:
        return float(np.abs(answer(path, split.images.numpy()).reshape(24, -1, 2) - split.points.numpy()).mean())

    assert error(longer) < 0.85 * error(dense)


@pytest.mark.parametrize("criterion", ["usn", "l2", "random", "usn-cert", "looseness"])
def test_pruning_takes_half_and_matching_hits_the_widths(
    maker: Maker, dense: Path, tmp_path: Path, criterion: str
) -> None:
    cut, matched = tmp_path / "cut.onnx", tmp_path / "matched.onnx"
    maker.prune(model=dense, criterion=criterion, ratio=0.5, like=None, seed=3, work=tmp_path, out=cut)
    *hidden, output = zip(widths(cut), widths(dense), strict=True)
    assert output[0] == output[1] and all(kept == w / 2 for kept, w in hidden)
    maker.prune(model=dense, criterion="random-matched", ratio=0.5, like=cut, seed=4, work=tmp_path, out=matched)
    assert widths(matched) == widths(cut) and matched.read_bytes() != cut.read_bytes()


def test_channels_that_fall_silent_by_the_cut_are_woken(maker: Maker, dense: Path, tmp_path: Path) -> None:
    """The third layer is active on few pixels only; half of what feeds it goes."""

    def values(path: Path) -> torch.Tensor:
        return chain(api.load(path), 16, fresh=False)[:5](maker.split.images[:12]).transpose(0, 1).flatten(1).detach()

    def active(path: Path) -> int:
        return int((values(path).amax(1) > 0).sum())

    model = onnx.load(dense)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    before = values(dense)
    lowered = (before.amax(1) - 0.2 * (before.amax(1) - before.mean(1))).numpy()
    for tensor in model.graph.initializer:
        if tensor.name == convs[2].input[2]:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) - lowered, tensor.name))
    onnx.save(model, tmp_path / "rare.onnx")
    assert active(tmp_path / "rare.onnx") == 8
    net, data, out = api.load(tmp_path / "rare.onnx"), maker.calibration("", 0), tmp_path / "cut.onnx"
    api.save(api.apply(net, maker.plan(net, "random", 0.5, 1), "mean", data).net, tmp_path / "plain.onnx")
    maker.prune(model=tmp_path / "rare.onnx", criterion="random", ratio=0.5, like=None, seed=1, work=tmp_path, out=out)
    assert widths(out) == widths(tmp_path / "plain.onnx") and active(out) > active(tmp_path / "plain.onnx")


def test_idle_channels_go_first_and_every_arm_is_equally_wide(maker: Maker, dense: Path, tmp_path: Path) -> None:
    """Five of the eight channels of a layer are dead: more than asked for, and not the ones `l2` would take."""
    model = onnx.load(dense)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    for tensor in model.graph.initializer:
        if tensor.name == convs[2].input[2]:
            bias = numpy_helper.to_array(tensor).copy()
            bias[:5] = -1e3
            tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    onnx.save(model, tmp_path / "dead.onnx")

    def alive(path: Path) -> int:
        third = chain(api.load(path), 16, fresh=False)[:6](maker.split.images[:12])
        return int((third.amax((0, 2, 3)) > 0).sum())

    left = alive(tmp_path / "dead.onnx")
    assert 0 < left < 4
    for criterion in ("usn", "usn-cert", "random", "l2"):
        cut = tmp_path / f"{criterion}.onnx"
        maker.prune(
            model=tmp_path / "dead.onnx", criterion=criterion, ratio=0.5, like=None, seed=1, work=tmp_path, out=cut
        )
        assert widths(cut)[:-1] == [w // 2 for w in widths(dense)[:-1]]
        assert alive(cut) == left  # of the four that stay


@pytest.mark.parametrize(("ratio", "expected"), [(0.25, [4, 4, 8, 8, 8, 13]), (0.5, [2, 2, 5, 5, 5, 10])])
def test_dense_first_takes_from_the_dense_layer_down_to_its_least(
    dense: Path, tmp_path: Path, ratio: float, expected: list[int]
) -> None:
    """Of 4, 4, 8, 8, 8 channels and 28 neurons: a quarter is 15 neurons; a half, 18 neurons and 3/8 of the channels."""
    network = {**STUDY.network, "allocation": "dense-first", "least": 10}
    maker = Maker.of(replace(STUDY, network=network), rectangle("small"))
    for criterion in ("usn", "l2"):
        cut = tmp_path / f"{criterion}.onnx"
        maker.prune(model=dense, criterion=criterion, ratio=ratio, like=None, seed=0, work=tmp_path, out=cut)
        assert widths(cut) == [*expected, 46]
    shares = allocation.dense_first(find_groups(api.load(dense)), ratio, 10)
    assert sum(share * w for share, w in zip(shares.values(), widths(dense)[:-1], strict=True)) == pytest.approx(
        ratio * 60
    )


def test_other_allocations(dense: Path, tmp_path: Path) -> None:
    """Global: half of all channels, not half of every layer. Measured: the same widths whatever the criterion."""

    def cut(name: str, criterion: str) -> list[int]:
        maker = Maker.of(replace(STUDY, network={**STUDY.network, "allocation": name}), rectangle("small"))
        out = tmp_path / "cut.onnx"
        maker.prune(model=dense, criterion=criterion, ratio=0.5, like=None, seed=0, work=tmp_path, out=out)
        return widths(out)[:-1]

    halves = [w // 2 for w in widths(dense)[:-1]]
    assert sum(cut("global", "usn")) == sum(halves) and cut("global", "usn") != halves
    assert cut("mrs", "usn") == cut("mrs", "l2") != halves


def test_fine_tuning_and_scratch_keep_the_shape_and_change_the_weights(
    maker: Maker, dense: Path, tmp_path: Path
) -> None:
    cut, tuned, scratch = (tmp_path / f"{n}.onnx" for n in ("cut", "tuned", "scratch"))
    maker.prune(model=dense, criterion="l2", ratio=0.5, like=None, seed=0, work=tmp_path, out=cut)
    maker.finetune(model=cut, seed=0, epochs=1, certified=False, work=tmp_path, out=tuned)
    maker.train(seed=1, epochs=1, like=cut, work=tmp_path, out=scratch)
    assert widths(tuned) == widths(scratch) == widths(cut)
    pictures = np.random.default_rng(0).random((2, 1, 16, 16), np.float32)
    near, far = (np.abs(answer(p, pictures) - answer(cut, pictures)).mean() for p in (tuned, scratch))
    assert 0 < near < far


def test_new_weights_are_normalised_behind_every_hidden_layer_and_written_without(maker: Maker, dense: Path) -> None:
    """A hidden dense layer, too: few neurons of one survive the first steps otherwise."""
    module, written = chain(api.load(dense), 16, fresh=True), dense.parent / "fresh.onnx"
    kinds = [type(layer).__name__ for layer in module]
    assert [kinds[at + 1][:9] for at, kind in enumerate(kinds) if kind in ("Conv2d", "Linear")] == ["BatchNorm"] * 6 + [
        "Pixels"
    ]
    maker.fit(module, 2, 4e-3, 0)
    pictures = np.random.default_rng(0).random((3, 1, 16, 16), np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(pictures)).numpy()
    maker.write(module, written)
    assert widths(written) == widths(dense)
    np.testing.assert_allclose(answer(written, pictures), expected, rtol=1e-4, atol=1e-3)


def test_new_weights_may_see_other_images_than_fine_tuning(maker: Maker, dense: Path, tmp_path: Path) -> None:
    """As given dense networks have: otherwise small-scratch would have had less."""
    settings = replace(maker.settings, images=16)
    few = Maker(settings, maker.data, maker.semantic)
    more = Maker(replace(settings, scratch_images=maker.settings.images), maker.data, maker.semantic)
    out = tmp_path / "out.onnx"
    more.train(seed=0, epochs=2, like=None, work=tmp_path, out=out)
    assert out.read_bytes() == dense.read_bytes()
    tuned = []
    for made in (few, more, maker):
        made.finetune(model=dense, seed=0, epochs=1, certified=False, work=tmp_path, out=out)
        tuned.append(out.read_bytes())
    assert tuned[0] == tuned[1] != tuned[2]


def test_training_means_the_same_on_every_device(tmp_path: Path) -> None:
    """First weights, augmentation, sub-rectangles: all drawn on the host."""
    settings = NetworkSettings(width=1, size=16, images=48, batch=16, calibration=8, certified=0.01)
    found = []
    with TwoDevices() as seen:
        for where in (HOST, DEVICE):
            maker = Maker(settings, "aircraft23", rectangle("small"), device=where)
            maker.train(seed=1, epochs=1, like=None, work=tmp_path, out=tmp_path / "net.onnx")
            found.append(maker.tuned(api.load(tmp_path / "net.onnx"), 1, 1, certified=True).weights)
    assert seen.seen["conv2d"] > 10
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("name", ["cnn7", "resnet8"])
def test_certified_fine_tuning_tightens_the_bounds(maker: Maker, tmp_path: Path, name: str) -> None:
    """Against fine-tuning without it, on images that neither has seen."""
    torch.manual_seed(0)
    arch = Architecture(name, 4, 16)
    start = tmp_path / "start.onnx"
    onnx.save(to_onnx(build(arch).eval(), arch), start)
    settings = replace(maker.settings, certified=3.0, cell=1.0, fine=1.0)
    held = maker.split.images[:6].flip(3)
    data = Calibration(held.numpy(), semantic=rectangle("small"))
    middle, half = (np.array([part] * 6) for part in ([1.0, 0.0], [0.1, 0.05]))
    spread = {}
    for certified in (False, True):
        out = tmp_path / f"{certified}.onnx"
        made = Maker(settings, maker.data, maker.semantic)
        made.__dict__["split"] = maker.split
        made.finetune(model=start, seed=0, epochs=12, certified=certified, work=tmp_path, out=out)
        with torch.no_grad():
            low, high = forms.output_bounds(TorchNet(api.load(out)), data, data.images, middle, half)
        spread[certified] = float((high - low).mean())
        assert np.isfinite(answer(out, held.numpy())).all() and out.read_bytes() != start.read_bytes()
    assert spread[True] < 0.9 * spread[False]


def test_the_last_layer_moves_as_if_its_scale_were_not_folded_in(maker: Maker, dense: Path) -> None:
    """One step with the rate of each: the weights in pixels move by `reach` times what those of a module do."""
    net = api.load(dense)
    module, tuned = chain(net, 16, fresh=False), Tuned(net, 16)
    before = {name: net.weights[name].copy() for name in net.weights}
    maker.fit(module, 1e-9, 1e-3, 0)
    maker.fit(tuned, 1e-9, 1e-3, 0)
    after = tuned.exported().weights
    maker.write(module, dense.parent / "module.onnx")
    other = api.load(dense.parent / "module.onnx").weights
    assert [np.abs(after[n] - before[n]).max() > 0 for n in before] == [True] * len(before)
    for mine, theirs in zip(after.values(), other.values(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=2e-4)


def test_networks_that_are_no_chain_cannot_be_trained(tmp_path: Path) -> None:
    import onnx

    arch = Architecture("resnet8", 4, 16)
    onnx.save(to_onnx(build(arch).eval(), arch), tmp_path / "resnet.onnx")
    with pytest.raises(StudyFileError, match="chain"):
        chain(api.load(tmp_path / "resnet.onnx"), 16, fresh=False)


def test_settings_and_data_are_checked() -> None:
    with pytest.raises(StudyFileError, match=r"unknown network\.depth: did you mean width"):
        NetworkSettings.from_mapping({"depth": 3})
    with pytest.raises(StudyFileError, match=r"network\.width"):
        NetworkSettings.from_mapping({"width": "wide"})
    with pytest.raises(StudyFileError, match=r"network\.images: found 0, expected a number >= 1"):
        NetworkSettings.from_mapping({"images": 0})
    with pytest.raises(StudyFileError, match=r"network\.allocation: found 'fair'"):
        NetworkSettings.from_mapping({"allocation": "fair"})
    with pytest.raises(StudyFileError, match=r"network\.cell: found 2"):
        NetworkSettings.from_mapping({"cell": 2.0})
    with pytest.raises(StudyFileError, match="arm usm: no criterion of that name; expected one of .*usn"):
        Maker.of(replace(STUDY, arms=(spec.Arm("usm"),)), rectangle("small"))
    with pytest.raises(StudyFileError, match="small-scratch starts from new weights, which only chains .*resnet8"):
        Maker.of(replace(STUDY, network={"name": "resnet8"}), rectangle("small"))
    with pytest.raises(StudyFileError, match="aircraft23 only"):
        Maker.of(replace(STUDY, task=replace(STUDY.task, data="people.json")), rectangle("small"))
    assert rectangle("contrast=0.9:1.1,brightness=0:0.1").box[1].tolist() == [0.0, 0.1]


SHIPPED = networks.path("cnn7_w8")


def check(image: int, tau: float, limit: float = 30.0) -> verifying.ImageVerdict:
    task = spec.VerificationTask("aircraft23", tau, "small", limit)
    return hands(task).verify(SHIPPED, image, task)


def test_a_wide_tolerance_is_certified_and_a_narrow_one_refuted() -> None:
    easy = check(0, 0.2)
    assert easy.verdict == "certified" and easy.certified == 1 and easy.open == 0 and easy.witness is None
    assert easy.sampled == 1 and 0 < easy.clean_error < 0.1 and 0 < easy.unstable_ratio < 1
    hard = check(0, 0.004)
    assert hard.verdict == "refuted" and hard.refuted > 0.9 and hard.witness is not None
    assert hard.clean_error == easy.clean_error and hard.sampled < 0.1
    w = hard.witness
    gap = np.abs(w.predicted - w.truth)[w.worst].max()
    assert gap >= 0.004 * 64 and w.picture.shape == (64, 64)
    picture = (w.picture / 255.0).astype(np.float32)[None, None]  # rounded to 8 bits, so only nearly the same answer
    np.testing.assert_allclose(answer(SHIPPED, picture).reshape(-1, 2), w.predicted, atol=0.5)


def test_limit_and_seconds_go_by_the_clock_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(10**6))
    monkeypatch.setitem(verifying.CLOCKS, "processor", lambda: 50.0 * next(calls))  # every look costs 50 s
    task = spec.VerificationTask("aircraft23", 0.05, "medium", 120.0, "processor")
    found = hands(task).verify(SHIPPED, 0, task)
    assert found.verdict == "open" and found.open > 0 and found.seconds >= 120 and found.seconds % 50 == 0


def test_cells_of_a_map_tile_the_rectangle_and_agree_with_samples() -> None:
    from verifier.semantic import network, sources

    net = network.load(SHIPPED)
    example = sources.rendered(net, "test", 0, 1)[0]
    seen = np.flatnonzero(example.target.visibility >= 2)

    def gap(point: np.ndarray) -> np.ndarray:
        moved = np.clip(point[0] * example.image + point[1], 0, 1)
        return np.abs(net.run(moved).reshape(-1, 2) - example.target.keypoints)

    tau = (
        float(gap(np.array([1.0, 0.0]))[seen].max()) / 64 * 1.02
    )  # met by the unchanged image, hardly by its neighbours
    found = check(0, tau)
    assert found.verdict == "refuted" and 0 < found.certified < 1 and 0 < found.refuted < 1
    assert len(found.trace) > 2 and list(found.trace) == sorted(found.trace)
    assert found.trace[-1] == (found.seconds, pytest.approx(found.certified)) and found.trace[0][1] < found.certified
    assert found.cells is not None and found.states is not None
    area = np.prod(found.cells[:, 1] - found.cells[:, 0], axis=1) / (0.2 * 0.1)
    assert area.sum() == pytest.approx(1, abs=1e-5)
    for state, share in ((1, found.certified), (-1, found.refuted), (0, found.open)):
        assert area[found.states == state].sum() == pytest.approx(share, abs=1e-5)
    rng, wrong = np.random.default_rng(0), 0
    for cell, state in zip(found.cells, found.states, strict=True):
        if state:
            over = gap(cell[0] + rng.random(2) * (cell[1] - cell[0]))[seen].max() - tau * 64
            wrong += (over > 1e-3) if state > 0 else (over < -1e-3)
    assert wrong == 0


def test_a_violation_inside_a_certified_area_stops_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks must be able to fail: a search that certifies everything is caught."""
    real = verifying.cover

    def liar(family: object, *rest: object, **_: object) -> object:
        state = real(family, *rest)
        state.status[:] = verifying.CERTIFIED
        return state

    monkeypatch.setattr(verifying, "cover", liar)
    with pytest.raises(UnsoundError):
        check(0, 0.004)
    monkeypatch.setattr(verifying, "audit", lambda *_: None)
    with pytest.raises(UnsoundError, match="inside a certified cell"):
        check(0, 0.004)
    monkeypatch.setattr(verifying, "_no_violation_in_certified_cells", lambda *_: None)
    with pytest.raises(UnsoundError, match="exceeds the tolerance"):
        check(0, 0.004)


def test_no_time_leaves_the_image_open_or_refuted() -> None:
    found = check(0, 0.2, 1e-6)
    assert found.verdict == "open" and found.open == 1 and found.certified == 0


def test_the_whole_study_runs_and_goes_on(tmp_path: Path) -> None:
    from pruning.study import runner

    made = hands(STUDY.task, STUDY)
    rows = runner.run(STUDY, tmp_path, made)
    assert len(rows) == 4 and {row.arm for row in rows} == {"dense+ft", "usn", "random-matched", "small-scratch"}
    before = (tmp_path / "results.jsonl").read_bytes()
    assert runner.run(STUDY, tmp_path, made) == rows and (tmp_path / "results.jsonl").read_bytes() == before
