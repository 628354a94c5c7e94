"""check_graph finds every kind of damage."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.models import convnet
from verifier.errors import ModelError
from verifier.graph.check import all_finite, check_graph
from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Graph, Node
from verifier.graph.onnx_import import load_model
from verifier.graph.operators import OPERATORS


def one(op: str, shape: tuple[int, ...], out: tuple[int, ...], params: Any = None, **attrs: Any) -> Graph:
    node = Node(op, ("x",), "y", params or {}, attrs, "the node")
    return Graph(("x",), ("y",), (node,), {"x": shape, "y": out})


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape)


CONV: dict[str, Any] = {"stride": (1,), "padding": (0,), "dilation": (1,), "groups": 1}


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (one("Nonsense", (2,), (2,)), "unknown operator"),
        (one("Relu", (2,), (3,)), "has shape"),
        (one("Relu", (2,), (2,), alpha=1.0), "attributes"),
        (one("Relu", (2,), (2,), {"slope": ones(2)}), "parameters"),
        (one("LeakyRelu", (2,), (2,)), "attributes"),
        (one("LeakyRelu", (2,), (2,), alpha=-0.5), "alpha"),
        (one("LeakyRelu", (2,), (2,), alpha=float("nan")), "alpha"),
        (one("Clip", (2,), (2,), min=1.0, max=0.0), "min > max"),
        (one("Pow", (2,), (2,), exponent=1), "exponent"),
        (one("Pow", (2,), (2,), exponent=2.5), "exponent|AssertionError|attributes"),
        (one("Dense", (2,), (3,), {"weight": ones(3, 4)}), "columns"),
        (one("Dense", (2,), (3,), {"weight": ones(3, 2), "bias": ones(2)}), "bias"),
        (one("Dense", (2,), (2,), {"weight": ones(3, 2)}), "has shape"),
        (one("Dense", (2,), (3,), {"weight": np.full((3, 2), np.nan)}), "NaN"),
        (one("Dense", (2,), (3,), {"weight": np.full((3, 2), np.inf)}), "infinite"),
        (one("Dense", (2,), (3,), {"weight": ones(3, 2).astype(np.float32)}), "float32"),
        (one("Scale", (2,), (2,), {"factor": ones(3, 2)}), "enlarges"),
        (one("Reshape", (2, 3), (5,)), "has shape"),
        (one("Transpose", (2, 3), (2, 3), perm=(1, 0)), "has shape"),
        (one("Transpose", (2, 3), (2, 3), perm=(0, 0)), "perm"),
        (one("Slice", (4,), (1,), axis=0, start=3, stop=5, step=1), "range"),
        (one("Slice", (4,), (2,), axis=1, start=0, stop=2, step=1), "axis"),
        (one("Take", (4,), (2,), {"indices": np.array([0, 4])}, axis=0), "indices"),
        (one("Take", (4,), (2,), {"indices": np.array([0.0, 1.0])}, axis=0), "float64"),
        (one("Expand", (2, 1), (3, 1)), "has shape"),
        (one("Expand", (2,), (3, 2)), "has shape"),
        (one("Pad", (2,), (3,), before=(-1,), after=(2,)), "negative"),
        (one("ReduceSum", (2, 3), (2,), axes=(1, 1)), "axes"),
        (one("ReduceMax", (2, 3), (2,), axis=0), "has shape"),
        (one("Conv", (1, 2, 5), (1, 3, 3), {"weight": ones(3, 1, 3)}, **CONV), "channels"),
        (one("Conv", (1, 2, 5), (1, 3, 5), {"weight": ones(3, 2, 3)}, **CONV), "has shape"),
        (one("Conv", (1, 2, 5), (1, 3, 3), {"weight": ones(3, 2, 3)}, **{**CONV, "stride": (0,)}), "stride"),
        (one("Conv", (1, 2, 5), (1, 3, 3), {"weight": ones(3, 2, 3)}, **{**CONV, "stride": (1, 1)}), "stride"),
        (one("Conv", (2, 5), (3, 3), {"weight": ones(3, 2)}, stride=(), padding=(), dilation=(), groups=1), "spatial"),
        (one("ConvTranspose", (1, 2, 5), (1, 3, 8), {"weight": ones(2, 3, 3)}, **CONV, output_padding=(1,)), "large"),
        (one("Add", (2,), (2,)), "1 inputs"),
        (one("Constant", (2,), (2,), {"value": ones(2)}), "1 inputs"),
    ],
)  # fmt: skip
def test_broken_nodes(graph: Graph, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        check_graph(graph)
    assert "the node" in str(caught.value)


def test_broken_structure() -> None:
    good = load_model(convnet(np.random.default_rng(0))).graph
    check_graph(good)
    first, second, *rest = good.nodes
    for bad, message in [
        (replace(good, nodes=(second, first, *rest)), "before it is defined"),
        (replace(good, nodes=(first, *good.nodes)), "defined twice"),
        (replace(good, outputs=("nowhere",)), "defined nowhere"),
        (replace(good, inputs=("x", "x")), "listed twice"),
        (replace(good, shapes={**good.shapes, "extra": (1,)}), "extra"),
        (replace(good, shapes={**good.shapes, "h1": (1, 4, 8, 0)}), "positive ints"),
        (replace(good, shapes={**good.shapes, "h1": (1, 4, 8, 9)}), "has shape"),
        (replace(good, shapes={**good.shapes, "h1": [1, 4, 8, 8]}), "positive ints"),
        (replace(good, shapes={**good.shapes, "h1": (1, 4, 8, np.int64(8))}), "positive ints"),
    ]:
        with pytest.raises(ModelError, match=message):
            check_graph(bad)


def test_every_operator_has_a_reference_value_and_a_bound_rule() -> None:
    from verifier.ops import operators

    assert set(operators()) == set(OPERATORS)


def test_all_finite_is_not_fooled_by_overflow() -> None:
    assert all_finite(np.full(10, 1e308))
    assert not all_finite(np.array([np.inf, -np.inf]))
    assert not all_finite(np.array([1.0, np.nan]))


def test_evaluation_refuses_what_it_cannot_mean() -> None:
    graph = one("Opaque", (2,), (1,), op_type="ArgMax", opset=13)
    check_graph(graph)
    with pytest.raises(ModelError, match="ArgMax"):
        evaluate(graph, {"x": np.zeros((1, 2))})
    with pytest.raises(ModelError, match="expected"):
        evaluate(one("Relu", (2,), (2,)), {"x": np.zeros((1, 3))})
