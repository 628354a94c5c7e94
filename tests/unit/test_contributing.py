"""CONTRIBUTING.md names where things go; a toy of each kind is added there, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from docs.tools import layers
from verifier import Options, verify
from verifier.bounds.bound import METHODS, Bounds, Boxes, Setting, bound_method
from verifier.bounds.sweep import Method
from verifier.options import BOUND_METHODS, BRANCHING_RULES, NEURON_RULES, BoundOptions, SearchOptions
from verifier.result import Result, Verdict
from verifier.search.branch import RULES, branching_rule
from verifier.search.domains import DomainBatch
from verifier.search.neuron_rules import RULES as RULES_FOR_NEURONS
from verifier.search.neuron_rules import NeuronSplits, neuron_rule

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
KINDS = ("A bound method", "A branching rule", "A rule for splits of neurons", "A perturbation", "A pruning criterion")


def test_each_kind_names_at_most_three_files_to_change() -> None:
    sections = dict(re.findall(r"^## (.+)\n([^#]*)", GUIDE, flags=re.MULTILINE))
    assert set(KINDS) <= sections.keys()
    for kind in KINDS:
        files = {name for name in re.findall(r"`((?:verifier|pruning)/[\w./]+)`", sections[kind])}
        assert 1 <= len(files) <= 3, (kind, files)


@pytest.fixture
def question(tmp_path: Path) -> tuple[Path, Path]:
    """A layer of 24 random ReLUs on [-1, 1]^2 (more than are decided piece by piece), asked to be a little below what a
    fine grid reaches."""
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=shape).astype(np.float32) for shape in ((2, 24), (24, 1)))
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 201)] * 2), -1).reshape(-1, 2)
    least = float((np.maximum(grid @ first, 0) @ second).min()) - 0.2
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(first, "w"), numpy_helper.from_array(second, "v")],
    )  # fmt: skip
    model, spec = tmp_path / "net.onnx", tmp_path / "low.vnnlib"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), model)
    lines = [f"(declare-const X_{i} Real)(assert (>= X_{i} -1))(assert (<= X_{i} 1))" for i in range(2)]
    spec.write_text("\n".join([*lines, f"(declare-const Y_0 Real)(assert (<= Y_0 {least:.3f}))"]))
    return model, spec


def solve(question: tuple[Path, Path], bounds: str = "crown", branching: str = "auto") -> Result:
    options = Options(bounds=BoundOptions(method=bounds), search=SearchOptions(branching=branching))
    return verify(*question, options, timeout=60)


@pytest.fixture
def registries() -> Iterator[None]:
    """What a test registers is gone after it."""
    yield
    for table, words in ((METHODS, BOUND_METHODS), (RULES, BRANCHING_RULES), (RULES_FOR_NEURONS, NEURON_RULES)):
        table.pop("toy", None)  # type: ignore[attr-defined]
        words[:] = [word for word in words if word != "toy"]


@pytest.mark.usefixtures("registries")
def test_a_bound_method(question: tuple[Path, Path]) -> None:
    """Intervals alone: registered under a name, `bounds.method` asks for them."""
    seen = []

    @bound_method("toy")
    def intervals(setting: Setting, boxes: Boxes, method: Method, stop: Callable[[], bool]) -> Bounds:
        seen.append(len(boxes.query))
        return METHODS["crown"](setting, boxes, Method(affine=False), stop)

    usual, result = solve(question), solve(question, bounds="toy")
    assert usual.verdict is result.verdict is Verdict.UNSAT
    assert result.settings["method"] == "toy" and "bounds.method toy was asked for" in str(result.settings["strategy"])
    assert sum(seen) == result.counters["boxes"] > 0


@pytest.mark.usefixtures("registries")
def test_a_branching_rule(question: tuple[Path, Path]) -> None:
    """A rule that always splits the second input until it is short: registered under a name, `search.branching` asks
    for it."""
    firsts = []

    @branching_rule("toy")
    def second_first(known: Bounds, boxes: DomainBatch, critical: Tensor) -> Tensor:
        score = boxes.upper - boxes.lower
        score[:, 1] *= 1 + 1e3 * (score[:, 1] > 0.1)
        firsts.append(score.argmax(1) == 1)
        return score

    usual, result = solve(question, "forward"), solve(question, "forward", "toy")
    assert usual.verdict is result.verdict is Verdict.UNSAT
    assert any(bool(first.any()) for first in firsts) and result.counters["boxes"] > 1


@pytest.fixture(scope="module")
def many_inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two random layers of ReLUs on [-1, 1]^10, asked to be clearly below what 10^5 points reach."""
    rng = np.random.default_rng(3)
    weights = [rng.normal(size=shape).astype(np.float32) for shape in ((10, 8), (8, 6), (6, 1))]
    x = rng.choice([-1.0, 1.0], size=(100_000, 10))
    y = np.maximum(np.maximum(x @ weights[0], 0) @ weights[1], 0) @ weights[2]
    nodes = [
        helper.make_node("MatMul", ["x", "u"], ["a"]), helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["c"]), helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w"], ["y"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 10])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(weight, name) for weight, name in zip(weights, "uvw", strict=True)],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("many")
    model, spec = folder / "net.onnx", folder / "low.vnnlib"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), model)
    lines = [f"(declare-const X_{i} Real)(assert (>= X_{i} -1))(assert (<= X_{i} 1))" for i in range(10)]
    spec.write_text("\n".join([*lines, f"(declare-const Y_0 Real)(assert (<= Y_0 {y.min() - 0.2 * np.ptp(y):.3f}))"]))
    return model, spec


@pytest.mark.usefixtures("registries")
def test_a_rule_for_splits_of_neurons(many_inputs: tuple[Path, Path]) -> None:
    """A rule that takes the last undecided neuron: registered under a name, `search.neurons` asks for it."""
    seen = []

    @neuron_rule("toy", look_ahead=False)
    def last(splits: NeuronSplits) -> Tensor:
        seen.append(len(splits.loss))
        return torch.arange(1.0, 1 + splits.loss.shape[1]).expand_as(splits.loss)

    result = verify(*many_inputs, Options(search=SearchOptions(neurons="toy")), timeout=60)
    assert result.verdict is Verdict.UNSAT and sum(seen) > 0
    assert str(result.settings["strategy"]).startswith("neurons: 10 inputs vary")


@pytest.mark.parametrize("rule", NEURON_RULES)
def test_every_rule_for_neurons_ends_with_the_same_verdict(many_inputs: tuple[Path, Path], rule: str) -> None:
    result = verify(*many_inputs, Options(search=SearchOptions(neurons=rule)), timeout=60)
    assert result.verdict is Verdict.UNSAT


def test_words_of_options_are_what_is_registered() -> None:
    assert set(RULES_FOR_NEURONS) == set(NEURON_RULES)
    assert {*METHODS, "auto", "forward", "alpha"} - {"zonotope"} == set(BOUND_METHODS)
    assert set(RULES) == set(BRANCHING_RULES)


@pytest.mark.parametrize("rule", BRANCHING_RULES)
def test_every_rule_ends_with_the_same_verdict(question: tuple[Path, Path], rule: str) -> None:
    assert solve(question, "forward", rule).verdict is Verdict.UNSAT


@pytest.fixture
def inverted() -> Iterator[str]:
    """x + p (1 - 2 x): the picture at p = 0, its negative at p = 1."""
    from verifier.perturbation import PARAMETERS, parameter

    @parameter("negative", 0.0, "share", limits=(0.0, 1.0), why="it is a share")
    def step(value, index, given):  # type: ignore[no-untyped-def]
        return value.plus(value.scaled(-2.0).plus(given.constant(1.0)).times(index))

    yield "negative"
    del PARAMETERS["negative"]


def test_a_perturbation(inverted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Registered in one place, it has an option, a composite network and a verdict."""
    from tests.end_to_end.pages import run
    from verifier.data import aircraft23, networks
    from verifier.perturbation.perturbation import Perturbation, apply
    from verifier.semantic import cli

    image = aircraft23.load("test", 1).images[0]
    both = Perturbation.of(brightness=(-0.1, 0.1), negative=(0.0, 0.2))
    changed = apply(both, image, np.array([0.05, 0.2]))
    assert changed == pytest.approx(np.clip((image + 0.05) * 0.6 + 0.2, 0, 1), abs=1e-6)

    out = tmp_path / "pair"
    arguments = ["cnn7_w8", "--data", "aircraft23:test:0", "--negative", "0,0.2", "--tolerance", "5", "--out", str(out)]
    assert cli.main(arguments) == 0 and "X_0 = negative in [0, 0.2]" in capsys.readouterr().out
    at = apply(Perturbation.of(negative=(0.0, 0.2)), image, np.array([0.1]))
    direct = run(networks.path("cnn7_w8"), at[None])
    assert run(out.with_suffix(".onnx"), np.array([[0.1]])).reshape(-1) == pytest.approx(direct.reshape(-1), abs=1e-3)


def test_a_pruning_criterion(tmp_path: Path) -> None:
    """The position of a channel as its score: `prune` removes the first ones."""
    from pruning.cli import main
    from pruning.scores.base import CRITERIA, RawScores, criterion

    @criterion("position", "", "the number of the channel")
    def position(groups, calibration, options) -> RawScores:  # type: ignore[no-untyped-def]
        return RawScores(np.arange(groups.n, dtype=float))

    try:
        out = tmp_path / "small.onnx"
        assert main(["cnn7_w8", "-o", str(out), "--criterion", "position", "--ratio", "0.25", "--fold", "zero"]) == 0
        assert '"position"' in out.with_suffix(".json").read_text()
    finally:
        del CRITERIA["position"]


def test_the_picture_of_the_architecture_is_current() -> None:
    assert layers.PICTURE.read_text(encoding="utf-8") == layers.svg(), "out of date: run `make layers`"


def test_the_way_from_files_to_a_verdict_names_what_is_there() -> None:
    assert all((ROOT / where).exists() for _, where, _ in layers.FLOW)
