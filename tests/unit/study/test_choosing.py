"""`prune --target`: the network that is chosen keeps what is claimed of it, by ONNX Runtime and samples."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import pruning
from pruning import Calibration, PruneOptions, onnx_io
from pruning.calibration import Activations, perturbation
from pruning.cli import main
from pruning.errors import CriterionError, DataError
from pruning.net import Net
from pruning.options import PruneTarget
from pruning.study import choosing
from pruning.study.choosing import choose
from verifier.console.arguments import tolerance
from verifier.data.frame import Frame
from verifier.training.export import to_onnx
from verifier.training.models import Architecture, build

S = perturbation("contrast=0.95:1.05,brightness=-0.02:0.02")
TAU = tolerance("4px")


@pytest.fixture(scope="module")
def net() -> Net:
    import torch

    torch.manual_seed(1)
    arch = Architecture("cnn7", 4, 16, points=2)
    return onnx_io.load(to_onnx(build(arch).eval(), arch).SerializeToString())


def answers(net: Net, images: np.ndarray) -> np.ndarray:
    return Activations(net, [net.outputs[0]])(images)[net.outputs[0]].reshape(len(images), -1)


@pytest.fixture(scope="module")
def data(net: Net) -> Calibration:
    """Labels are the network's answers, half a pixel off."""
    draw = np.random.default_rng(0)
    images = draw.uniform(0.2, 0.8, (40, 1, 16, 16)).astype(np.float32)
    labels = answers(net, images) + draw.choice([-0.5, 0.5], (40, 4))
    return Calibration(images, labels.astype(np.float32), S)


def frame(net: Net) -> Frame:
    return Frame.of(net.shapes[net.inputs[0]])


def test_what_is_claimed_of_the_chosen_network_holds(
    net: Net, data: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "TARGET_VERIFIED", 3)
    monkeypatch.setattr(choosing, "SHARED", ("uniform", "marginal"))
    target, lines = PruneTarget(3.0, 2.0), list[str]()
    model, tried = choose(net, data, PruneOptions(criterion="l2"), target, TAU, frame(net), say=lines.append)
    said = model.sidecar["target"]
    best = next(c for c in tried if c.label == said["chosen"])
    held = data.part(slice(-8, None))

    def rms(some: Net) -> float:
        return float(np.sqrt(((answers(some, held.images) - held.labels) ** 2).mean()))

    for candidate in tried:
        assert candidate.error == pytest.approx(rms(candidate.model.net), rel=1e-5)
        assert (candidate.certified is not None) == (candidate.error <= 3 * tried[0].error)
    eligible = [c for c in tried if c.certified is not None]
    assert len(eligible) > 1 and best.certified == max(c.certified for c in eligible)
    assert best.model.net is model.net and any(line.startswith(f"ship {best.label}: ") for line in lines)
    assert [c["name"] for c in said["tried"]] == [c.label for c in tried] and said["tried"][0]["name"] == "as given"
    if best.full == 3:
        for image, label in zip(held.images[:3], held.labels[:3], strict=True):
            moved = np.concatenate([data.moved(image[None], point) for point in data.points(256, 3)])
            inside = ((label.reshape(-1, 2) >= 0) & (label.reshape(-1, 2) <= 16)).all(1)
            gap = np.abs(answers(model.net, moved) - label).reshape(len(moved), -1, 2)[:, inside]
            assert gap.size and (gap <= 4 + 1e-3).all()
    assert best.full and best.certified and json.dumps(dict(model.sidecar), default=lambda v: v.tolist())


def test_where_nothing_smaller_is_as_accurate_the_given_network_is_shipped(
    net: Net, data: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "TARGET_VERIFIED", 1)
    monkeypatch.setattr(choosing, "SHARED", ("uniform",))
    lines: list[str] = []
    data = replace(data, labels=answers(net, data.images) + np.float32(1e-3))
    options = PruneOptions(criterion="random", fold="zero", rescale="none")
    model, tried = choose(net, data, options, PruneTarget(1.0, 1.0), TAU, frame(net), say=lines.append)
    assert model.net is net and [c.label for c in tried] == ["as given", "25% uniform", "12% uniform"]
    assert "none of the 0 pruned networks" in lines[-1] and lines[-1].startswith("ship as given: ")


def test_the_ratio_between_the_last_two_is_tried_and_allocations_that_cannot_be_made_are_named(
    net: Net, data: Calibration, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {0.25: 0.1, 0.5: 0.2, 0.75: 0.9, 0.625: 0.3}
    asked: list[float] = []

    def prune(net: Net, fit: Calibration, options: PruneOptions) -> pruning.PrunedModel:
        if options.allocation == "global":
            raise CriterionError("no such thing here")
        asked.append(options.ratio)
        return pruning.PrunedModel(net, net, net, None, {"ratio": options.ratio})

    class Fixed(choosing.HeldImages):
        def error(self, net: Net) -> float:
            return errors[asked[-1]] if asked else 0.4

        def certified(self, net: Net) -> tuple[float, int]:
            return 0.5, 0

    lines: list[str] = []
    monkeypatch.setattr(choosing.runs, "prune", prune)
    monkeypatch.setattr(choosing, "HeldImages", Fixed)
    monkeypatch.setattr(choosing, "SHARED", ("uniform", "global"))
    _, tried = choose(net, data, PruneOptions(), PruneTarget(1.0, 1.0), TAU, frame(net), say=lines.append)
    assert asked == [0.25, 0.5, 0.75, 0.625] and "25% global: no such thing here" in lines
    assert [c.certified for c in tried] == [0.5, 0.5, 0.5, None, 0.5]


def test_classes_are_judged_by_the_share_of_wrong_ones(net: Net, data: Calibration) -> None:
    labels = answers(net, data.images).argmax(1)
    judge = choosing.HeldImages(replace(data, labels=labels), 1.0, TAU, frame(net), choosing.PIXELS)
    assert judge.error(net) == 0
    assert judge.certified(net)[0] > 0  # the class stays on some of S
    wrong = replace(judge, data=replace(data, labels=(labels + 1) % 4))
    assert wrong.error(net) == 1 and wrong.certified(net) == (0.0, 0)


@pytest.mark.parametrize(
    "text", ["", "error<=10", "certify<=5s", "error<=+10%", "error<=+10%,certify>=5s", "error<=+10%,certify<=0s"]
)
def test_other_targets_are_refused_with_an_example(text: str) -> None:
    with pytest.raises(CriterionError, match=r"expected such as 'error<=\+10%,certify<=5s'"):
        PruneTarget.parse(text)


def test_targets_are_read() -> None:
    assert PruneTarget.parse("error<=+10%,certify<=5s") == PruneTarget(1.1, 5.0)
    assert PruneTarget.parse("error <= 2.5% , certify <= 0.5 s") == PruneTarget(1.025, 0.5)


def test_data_that_cannot_judge_are_refused(net: Net, data: Calibration) -> None:
    for wrong, words in (
        (None, "needs --data"),
        (replace(data, labels=None), "needs labels"),
        (data.part(slice(0, 19)), "19 labelled pictures; --target needs at least 20"),
        (replace(data, images=3 * data.images), "pictures in \\[0, 1\\]"),
    ):
        with pytest.raises(DataError, match=words):
            choose(net, wrong, PruneOptions(), PruneTarget(1.1, 1.0), TAU, frame(net))
    with pytest.raises(CriterionError, match="measures movement under a perturbation"):
        choose(net, replace(data, semantic=perturbation("")), PruneOptions(), PruneTarget(1.1, 1.0), TAU, frame(net))


def test_the_command(
    net: Net, data: Calibration, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "TARGET_VERIFIED", 1)
    monkeypatch.setattr(choosing, "SHARED", ("uniform",))
    pruning.save(net, tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", images=data.images, labels=data.labels)
    call = [
        "net.onnx",
        "-o",
        "ship.onnx",
        "--data",
        "data.npz",
        "--contrast=0.95,1.05",
        "--criterion",
        "l2",
        "--tau",
        "4px",
    ]
    monkeypatch.chdir(tmp_path)
    for more, words in ((["--sweep", "0.1,0.2"], "leave out --sweep"), (["--target", "small"], "expected such as")):
        assert main([*call, "--target", "error<=+10%,certify<=1s", *more]) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "ship.onnx").exists()
    assert main([*call, "--target", "error<=+300%,certify<=1s"]) == 0
    out = capsys.readouterr().out
    assert "ship " in out and "wrote ship.onnx and ship.json" in out
    assert json.loads((tmp_path / "ship.json").read_text())["target"]["chosen"] in out
    assert pruning.load("ship.onnx").inputs == net.inputs
