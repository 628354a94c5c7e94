"""A new operator is a row, a lowering and a relaxation: everything else follows from them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor

from docs.tools.operators import tables
from pruning.forms import rising
from pruning.net import OnnxNode
from verifier.bounds.inputs import IdentityMap
from verifier.bounds.network import build
from verifier.bounds.sweep import Method, sweep
from verifier.graph.check import check_graph
from verifier.graph.enclose import Enclosure, enclose_node
from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Node
from verifier.graph.onnx_import import load_model
from verifier.graph.onnx_import.activation import as_it_is
from verifier.graph.onnx_import.registry import _TABLE as LOWERINGS
from verifier.graph.onnx_import.registry import lowers
from verifier.graph.operators import OPERATORS, known, traits
from verifier.graph.operators.functions import unary
from verifier.ops.piecewise import Hinge
from verifier.ops.registry import _TABLE as RELAXATIONS
from verifier.ops.registry import register
from verifier.passes.flatten_io import flatten_io
from verifier.passes.fold_fixed_inputs import fold_fixed_inputs
from verifier.passes.prune_outputs import prune_outputs
from verifier.passes.simplify import simplify


def toy(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0, x / 4, x)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The three places."""
    for table in (OPERATORS, LOWERINGS, RELAXATIONS):
        for name in list(table):
            monkeypatch.setitem(table, name, table[name])  # type: ignore[arg-type]
    # 1. the row
    unary("Toy", toy, increasing=True, lipschitz=1.0)
    # 2. the lowering
    lowers("Toy")(as_it_is)

    # 3. the relaxation
    @register("Toy")
    class Toy(Hinge):
        """y = x, or x / 4 where x < 0."""

        def left(self, like: Tensor) -> Tensor:
            return like.new_full((), 0.25)

    yield
    for table in (OPERATORS, LOWERINGS, RELAXATIONS):
        table.pop("Toy")


def model() -> bytes:
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 6)), "v": rng.normal(size=(6, 5))}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"]),
            helper.make_node("Toy", ["h"], ["t"]),
            helper.make_node("MatMul", ["t", "v"], ["u"]),
            helper.make_node("Toy", ["u"], ["y"]),
        ],
        "toy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


@pytest.mark.usefixtures("registered")
def test_a_toy_operator_is_read_simplified_bounded_and_listed() -> None:
    graph = flatten_io(load_model(model()).graph)
    check_graph(graph)
    points = np.random.default_rng(1).uniform(-1, 1, (200, 4))
    values = evaluate(graph, {"x": points})["y"]
    weights = [node.params["weight"] for node in graph.nodes if node.op == "Dense"]
    np.testing.assert_allclose(values, toy(toy(points @ weights[0].T) @ weights[1].T), rtol=1e-12)

    some = prune_outputs(graph, np.array([3, 1]))
    assert [node.op for node in some.nodes].count("Toy") == 2
    assert min(some.size(node.output) for node in some.nodes if node.op == "Toy") == 2, "the selection goes through it"
    fixed = simplify(fold_fixed_inputs(some, np.array([0, 2]), points[0]))
    check_graph(fixed)

    network = build(simplify(graph), torch.float64, torch.device("cpu"))
    lower, upper = -torch.ones(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    found = sweep(
        network, lower, upper, torch.zeros(1, dtype=torch.long), IdentityMap(torch.arange(4)[None]), Method(rows=True)
    )
    assert (found.output.lower.numpy() <= values.min(0)).all() and (values.max(0) <= found.output.upper.numpy()).all()
    assert found.output.upper.isfinite().all()

    assert "| Toy | relaxed | y = x, or x / 4 where x < 0 |" in tables()
    assert known()["Toy"].bends and traits("Toy").steepness({}) == 1.0
    assert rising(OnnxNode("Toy", ("x",), ("y",)))


@pytest.mark.usefixtures("registered")
def test_a_toy_operator_of_constants_is_not_evaluated_without_an_error_rule() -> None:
    """Nothing is said about its rounding, so a constant behind it is left to the bounds, which know."""
    x = Enclosure(np.array([[0.1]]), np.array([[0.0]]))
    assert enclose_node(Node("Toy", ("x",), "y"), [x], (1,)) is None
