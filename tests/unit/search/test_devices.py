"""Every part of a run on a device that is not the host, as far as that can be told without one (see tests.devices)."""

from __future__ import annotations

import ast
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper

import verifier
import vnnlib
from tests import models
from tests.devices import DEVICE, HOST, TwoDevices, WrongDevice, place
from verifier import engine
from verifier.budget import Budget
from verifier.engine import methods, on_device, strategy
from verifier.graph.onnx_import import Model, load_model
from verifier.options import AttackOptions, BoundOptions, Options, SearchOptions
from verifier.passes import simplify
from verifier.passes.fuse_affine import fuse_affine
from verifier.result import Result, Verdict
from verifier.search.memory import Memory
from verifier.search.shallow.step import OneLayer
from vnnlib import Case, Row

node = helper.make_node


class TestTwoDevices:
    """The stand-in refuses what a GPU refuses."""

    def test_it_refuses_to_mix(self) -> None:
        with TwoDevices() as seen:
            here, there = torch.ones(3), torch.ones(3, device=DEVICE)
            assert here.device == HOST and there.device == DEVICE and place(there + 1) == DEVICE
            for wrong in (
                lambda: here + there,
                lambda: torch.cat([here, there]),
                lambda: torch.where(there > 0, there, here),
                lambda: there.index_add_(0, torch.arange(3), there),
                lambda: torch.arange(3)[there.long()],
                lambda: there.numpy(),
                lambda: np.asarray(there),
                lambda: there.add_(here),
                lambda: here.to(there) + here,
            ):
                with pytest.raises(WrongDevice):
                    wrong()
            assert seen.seen["add"] == 1

    def test_it_allows_what_is_allowed(self) -> None:
        with TwoDevices():
            here, there = torch.arange(3), torch.zeros(3, device=DEVICE)
            for allowed in (
                there * torch.tensor(2.0),
                there[here],
                there.new_ones(2),
                torch.zeros_like(there),
                here.to(there),
                here.to(DEVICE) + there,
                torch.stack([there, there]).sum(0),
                there.split(1)[0],
            ):
                assert allowed.device == DEVICE
            assert there.cpu().numpy().sum() == 0 and there.to("cpu").device == HOST
            there[:2] = there[1:].clone()
            there[here] = 1.0
            assert there.tolist() == [1.0] * 3


def _form(n: int, m: int, radius: float, clauses: list[list[Row]], x: list[Row] | None = None) -> vnnlib.NormalForm:
    return vnnlib.normalise(
        vnnlib.build(
            [Case(np.full(n, -radius), np.full(n, radius), clauses, x or [])], input_shape=[n], output_shape=[m]
        )
    )


def _chain(*nodes: tuple[str, dict], shape: tuple[int, ...], weights: dict[str, np.ndarray]) -> Model:
    """Operators one after the other; weights are named after the operator's position."""
    made, value = [], "x"
    for i, (op, attributes) in enumerate(nodes):
        out = "y" if i == len(nodes) - 1 else f"v{i}"
        own = sorted(name for name in weights if name.startswith(f"w{i}_"))
        made.append(node(op, [value, *own], [out], name=f"n{i}", **attributes))
        value = out
    return load_model(models.build(made, {"x": shape}, ["y"], weights))


def _mlp(activation: str = "Relu", last: tuple[str, ...] = (), sizes: tuple[int, ...] = (3, 8, 8, 3)) -> Model:
    rng = np.random.default_rng(3)
    weights, nodes = {}, []
    for n, k in pairwise(sizes):
        weights[f"w{len(nodes)}_a"] = rng.normal(size=(n, k)) / np.sqrt(n)
        weights[f"w{len(nodes)}_b"] = rng.normal(size=k) * 0.3
        nodes += [("Gemm", {}), (activation, {})]
    ending = [("ArgMax", {"axis": 1}), ("Cast", {"to": 1})] if last else []
    return _chain(*nodes[:-1], *ending, shape=(1, 3), weights=weights)


def _image(pool: bool) -> Model:
    rng = np.random.default_rng(4)
    weights = {"w0_a": rng.normal(size=(3, 1, 3, 3)) * 0.4, "w0_b": rng.normal(size=3) * 0.1}
    nodes: list[tuple[str, dict]] = [("Conv", {"pads": [1, 1, 1, 1]}), ("Relu", {})]
    if pool:
        nodes.append(("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}))
    nodes.append(("Flatten", {}))
    size = 12 if pool else 48
    weights |= {f"w{len(nodes)}_a": rng.normal(size=(size, 2)) * 0.3, f"w{len(nodes)}_b": rng.normal(size=2)}
    return _chain(*nodes, ("Gemm", {}), shape=(1, 1, 4, 4), weights=weights)


def _run(model: Model, form: vnnlib.NormalForm, options: Options, monkeypatch: pytest.MonkeyPatch) -> Result:
    """The run on the device; the same run on the host says the same."""
    plain = engine.solve(model, form, options, Budget.of(60))
    with monkeypatch.context() as patch, TwoDevices() as seen:
        patch.setattr(on_device, "device_of", lambda name: DEVICE)
        result = engine.solve(model, form, options, Budget.of(60))
    assert sum(seen.seen.values()) > 50, "next to nothing ran on the device"
    assert result.settings["device"] == "cpu:0"
    assert result.verdict is plain.verdict
    if options.bounds.method != "auto":  # that measures times
        assert result.counters == plain.counters
    return result


def _keep_convolutions(patch: pytest.MonkeyPatch) -> None:
    """Small ones would become matrices."""
    patch.setattr(simplify, "PASSES", tuple(p for p in simplify.PASSES if p is not fuse_affine))


BASE = Options(device="cpu", attack=AttackOptions(restarts=4, steps=5), search=SearchOptions(batch=32))
LEAST = [[Row({}, {0: 1.0, 1: -1.0}, 0.0)]]


def _worst(model: Model, n: int, radius: float) -> float:
    """About the least y_0 - y_1."""
    points = np.random.default_rng(0).uniform(-radius, radius, (2000, n))
    values = models.outputs_of(
        model.graph, {model.graph.inputs[0]: points.reshape(2000, *model.graph.shapes[model.graph.inputs[0]])}
    )
    return float((values[:, 0] - values[:, 1]).min())


CASES: dict[str, tuple[Model, float]] = {
    "mlp": (_mlp(), 0.6),
    "sigmoid": (_mlp("Sigmoid"), 0.6),
    "tanh": (_mlp("Tanh"), 0.4),
    "sine": (_mlp("Sin"), 0.3),
    "leaky": (_mlp("LeakyRelu"), 0.5),
    "conv": (_image(pool=False), 0.1),
    "maxpool": (_image(pool=True), 0.1),
}


@pytest.mark.parametrize("method", ["auto", "forward", "crown", "alpha"])
@pytest.mark.parametrize("kind", CASES)
def test_bounds_attack_and_search_stay_on_the_device(kind: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A property with a little slack, and one that a sampled point violates, but no sampled point of the attack."""
    model, radius = CASES[kind]
    n = 3 if radius > 0.1 else 16
    _keep_convolutions(monkeypatch)
    least = _worst(model, n, radius)
    options = replace(BASE, bounds=BoundOptions(method=method))
    for by, sat in ((-0.4, False), (0.02, True)):
        form = _form(n, 3 if n == 3 else 2, radius, [[Row({}, {0: 1.0, 1: -1.0}, least + by)]])
        result = _run(model, form, options, monkeypatch)
        assert result.verdict is (Verdict.SAT if sat else Verdict.UNSAT)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_splits_of_neurons(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decided neurons with their slopes and multipliers; no search for shallow networks."""
    model, radius = CASES["mlp"]
    form = _form(3, 3, radius, [[Row({}, {0: 1.0, 1: -1.0}, _worst(model, 3, radius) - 0.1)]])
    for name, value in (("INPUT_SPLIT", 0), ("FEW_INPUTS", 0), ("FEW_QUERIES", 0)):
        monkeypatch.setattr(strategy, name, value)
    plain = engine.solve(model, form, replace(BASE, dtype=dtype), Budget.of(60))
    monkeypatch.setattr(on_device, "device_of", lambda name: DEVICE)
    with TwoDevices():
        result = engine.solve(model, form, replace(BASE, dtype=dtype), Budget.of(60))
    assert result.verdict is plain.verdict is Verdict.UNSAT
    assert result.settings["split"] == "neurons" and result.counters["boxes"] > 1


def test_shallow_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search of its own that networks of one hidden layer have."""
    model, radius = _mlp(sizes=(3, 8, 3)), 0.6
    form = _form(3, 3, radius, [[Row({}, {0: 1.0, 1: -1.0}, _worst(model, 3, radius) - 0.1)]])
    monkeypatch.setattr(strategy, "INPUT_SPLIT", 0)
    monkeypatch.setattr(strategy, "FEW_INPUTS", 0)
    searched = []
    roots = OneLayer.roots
    monkeypatch.setattr(OneLayer, "roots", lambda *args: searched.append(1) or roots(*args))
    assert _run(model, form, BASE, monkeypatch).verdict is Verdict.UNSAT and searched == [1, 1]


def test_several_clauses_mixed_rows_and_rows_over_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joint scores, clipping by several clauses, affine leaves with their linear programmes."""
    model, radius = CASES["mlp"]
    least = _worst(model, 3, radius)
    clauses = [
        [Row({0: 0.3}, {0: 1.0, 1: -1.0}, least - 0.3), Row({}, {2: 1.0}, 0.1)],
        [Row({}, {0: 1.0, 1: -1.0}, least - 0.2), Row({}, {0: -1.0}, 0.5), Row({}, {2: 1.0}, 0.4)],
    ]
    form = _form(3, 3, radius, clauses, [Row({0: 1.0, 1: -1.0}, {}, 0.2)])
    assert _run(model, form, BASE, monkeypatch).verdict is Verdict.UNSAT
    affine = _chain(
        ("Gemm", {}), shape=(1, 3), weights={"w0_a": np.eye(3, 3) + 0.1, "w0_b": np.array([0.5, 0.25, 0.0])}
    )
    clause = [Row({}, {0: 1.0}, 0.3), Row({}, {0: -1.0, 1: 0.1}, -0.29), Row({}, {1: 1.0, 2: -1.0}, 0.2)]
    _run(affine, _form(3, 3, 0.5, [clause]), BASE, monkeypatch)


def test_a_final_argmax(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _mlp(last=("ArgMax",))
    label = int(models.outputs_of(model.graph_logits, {model.graph_logits.inputs[0]: np.zeros((1, 1, 3))})[0].argmax())
    clauses = [[Row({}, {0: 1.0}, label - 0.5)], [Row({}, {0: -1.0}, -label - 0.5)]]
    assert _run(model, _form(3, 1, 0.01, clauses), BASE, monkeypatch).verdict is Verdict.UNSAT
    assert _run(model, _form(3, 1, 5.0, clauses), BASE, monkeypatch).verdict is Verdict.SAT


def test_zonotopes(monkeypatch: pytest.MonkeyPatch) -> None:
    _keep_convolutions(monkeypatch)
    rng = np.random.default_rng(5)
    weights = {
        "w0_a": rng.normal(size=(2, 16)) * 0.5, "w0_b": rng.normal(size=16) * 0.2,
        "w3_a": rng.normal(size=(3, 1, 3, 3)) * 0.5, "w3_b": rng.normal(size=3) * 0.1,
        "w6_a": rng.normal(size=(48, 2)) * 0.3, "w6_b": rng.normal(size=2),
    }  # fmt: skip
    model = load_model(
        models.build(
            [
                node("Gemm", ["x", "w0_a", "w0_b"], ["a"]),
                node("Relu", ["a"], ["b"]),
                node("Reshape", ["b", "shape"], ["c"]),
                node("Conv", ["c", "w3_a", "w3_b"], ["d"], pads=[1, 1, 1, 1]),
                node("Relu", ["d"], ["e"]),
                node("Flatten", ["e"], ["f"]),
                node("Gemm", ["f", "w6_a", "w6_b"], ["y"]),
            ],
            {"x": (1, 2)},
            ["y"],
            weights | {"shape": np.array([1, 1, 4, 4])},
        )
    )
    form = _form(2, 2, 0.5, [[Row({}, {0: 1.0, 1: -1.0}, _worst(model, 2, 0.5) - 0.1)]])
    result = _run(model, form, BASE, monkeypatch)
    assert result.settings["method"] == "zonotope" and result.verdict is Verdict.UNSAT


def test_boxes_that_move_to_the_host_and_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device whose memory holds a few boxes: the search is the same."""
    model, radius = CASES["mlp"]
    form = _form(3, 3, radius, [[Row({}, {0: 1.0, 1: -1.0}, _worst(model, 3, radius) - 0.1)]])
    options = replace(BASE, bounds=BoundOptions(method="forward"))
    memory = Memory(limit=1000, held_limit=10**9, shared=False, per_box=1.0, device=DEVICE)
    monkeypatch.setattr(methods, "memory", lambda *given: memory)
    result = _run(model, form, options, monkeypatch)
    assert result.verdict is Verdict.UNSAT and result.counters["boxes"] > 15


HOST_ONLY = {
    "verifier/semantic/coverage_search.py": "settle_parts moves all it needs to the host at its start",
    "verifier/training/augment.py": "what is drawn is drawn on the host: a seed means the same on every device",
}


def test_numpy_is_asked_for_tensors_on_the_host_only() -> None:
    """`.numpy()` follows `.cpu()` at once, also where the runs above do not come by."""
    root, found = Path(verifier.__file__).parent, set()
    for path in sorted(root.rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "numpy":
                before = call.func.value
                if not (isinstance(before, ast.Call) and ast.unparse(before.func).endswith(".cpu")):
                    found.add(path.relative_to(root.parent).as_posix())
    assert found == HOST_ONLY.keys()
