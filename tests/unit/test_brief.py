"""Printing a big value says what it is, in one short line, whatever it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import pruning
import verifier
import vnnlib
from verifier.brief import brief, item
from verifier.data import networks
from verifier.problem.assemble import assemble
from verifier.semantic import Coordinates, Perturbation, Range, coverage_report, family, network, prepare, sources
from verifier.semantic.coverage_search import CoverageLimits, cover

SPEC = "".join(
    [f"(declare-const X_{i} Real)\n(assert (<= X_{i} 1))\n(assert (>= X_{i} 0))\n" for i in range(200)]
    + ["(declare-const Y_0 Real)\n(assert (>= Y_0 5))\n"]
)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 inputs, 60 100 weights."""
    rng = np.random.default_rng(0)
    tensors = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)
        for name, shape in (("w", (200, 300)), ("v", (300, 1)))
    ]
    nodes = [
        helper.make_node("MatMul", ["X", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "v"], ["Y"]),
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, k]) for n, k in (("X", 200), ("Y", 1)))
    path = tmp_path_factory.mktemp("net") / "wide.onnx"
    onnx.save(
        helper.make_model(
            helper.make_graph(nodes, "g", [x], [y], tensors), ir_version=8, opset_imports=[helper.make_opsetid("", 17)]
        ),
        path,
    )
    return path


def short(value: object, *words: str) -> None:
    text = repr(value)
    assert "\n" not in text and len(text) < 500, text[:2000]
    for word in words:
        assert word in text, (word, text)


def test_a_network_says_name_inputs_outputs_operators_and_parameters(wide: Path) -> None:
    model = verifier.load(wide)
    short(model, "wide.onnx", "X float32[1, 200]", "Y float32[1, 1]", "1 Relu", "60,300 parameters")
    short(model.graph, "2 Dense", "1 Relu")
    for node in model.graph:
        short(node)
    net = pruning.load(wide)
    short(net, "X[1, 200]", "2 MatMul, 1 Relu", "60,300 parameters")
    short(network.load(networks.path("cnn7_w8")), "1 x 64 x 64", "Relu")


def test_problems_specifications_and_results(wide: Path) -> None:
    spec = vnnlib.loads(SPEC)
    model, form = verifier.load(wide), vnnlib.normalise(spec)
    short(spec, "X[200]", "1.0")
    short(form, "200 inputs, 1 outputs, 1 boxes")
    problem = assemble(model, form)
    short(problem, "lower=float64[1, 200]", "graph=Graph(..)")
    short(problem.rows)
    x = np.zeros(5000)
    short(verifier.Result(verifier.Verdict.SAT, witness=verifier.Witness(x, x)), "5000 inputs")


def test_pruning(wide: Path) -> None:
    net = pruning.load(wide)
    data = pruning.Calibration(np.zeros((50, 200), np.float32))
    scores = pruning.score(net, None, "l1")
    plan = pruning.plan(net, scores, 0.5)
    for value in (data, scores, scores.groups, plan, pruning.apply(net, plan, "zero")):
        short(value)


def test_pictures_and_coverage() -> None:
    net = network.load(networks.path("cnn7_w8"))
    example = sources.rendered(net, "test", 0, 1)[0]
    ranges = Perturbation((Range("contrast", 0.999, 1.001), Range("brightness", -0.001, 0.001)))
    study = prepare(net, example.image, example.target, ranges, Coordinates(3.0))
    short(example, "image=float64[1, 64, 64]")
    short(study, "network=ImageNetwork(..)")
    members = family.from_problems([study], torch.device("cpu"))
    state = cover(members, CoverageLimits(0.9), verifier.Budget())
    short(members)
    short(state)
    for found in coverage_report.collect(members, state, maps=False):
        short(found, "test00000" if "test" in found.title else "image 0")


def test_fields() -> None:
    assert item(np.zeros((2, 3), np.float32)) == "float32[2, 3]" and item(torch.zeros(2)) == "float32[2]"
    assert item(b"12345") == "5 bytes" and item({}) == "{}" and item({1: 2}) == "{1 entries}"
    assert item((1, "a", None)) == "(1, 'a', None)" and item(tuple(range(9))) == "(9 items)"
    assert len(item("x" * 10_000)) < 80 and item(object()) == "<object>"
    assert item((np.zeros(3),)) == "(1 items)"
    with pytest.raises(TypeError):
        brief(3)
