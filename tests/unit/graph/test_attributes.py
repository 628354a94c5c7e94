"""No attribute of the ONNX standard is ignored: each is read, known to be without effect, or refused."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from tests.models import one_op
from verifier.errors import ModelError, UnsupportedOperator
from verifier.graph.onnx_import import conv, fold, load_model, registry
from verifier.graph.onnx_import.context import Context, Operand
from verifier.graph.onnx_import.opaque import opaque
from verifier.graph.onnx_import.reader import OPSETS
from verifier.graph.onnx_import.schema import WITHOUT_EFFECT


def test_an_attribute_that_no_lowering_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(c: Context) -> Operand:
        return c.unary("LeakyRelu", c.x(), alpha=0.01)

    monkeypatch.setitem(registry._TABLE, "LeakyRelu", [(6, careless)])
    load_model(one_op("LeakyRelu", [(2, 3)]))
    with pytest.raises(UnsupportedOperator, match="attribute 'alpha', which nothing here reads"):
        load_model(one_op("LeakyRelu", [(2, 3)], {"alpha": 0.5}))


def test_what_is_without_effect_is_in_the_standard_and_not_read_by_mistake() -> None:
    for op, names in WITHOUT_EFFECT.items():
        known = {
            name for schema in onnx.defs.get_all_schemas_with_history() if schema.name == op and not schema.domain
            for name in schema.attributes
        }  # fmt: skip
        assert names <= known, op


_FLAGS = (
    ("Gemm", [(3, 3), np.ones((3, 3), np.float32)], "transA"),
    ("Gemm", [(3, 3), np.ones((3, 3), np.float32)], "transB"),
    ("ReduceSum", [(2, 3)], "keepdims"),
    ("ReduceMean", [(2, 3)], "noop_with_empty_axes"),
    ("ArgMax", [(2, 3)], "select_last_index"),
    ("TopK", [(2, 3), np.array([1])], "largest"),
    ("CumSum", [(2, 3), np.array(1)], "exclusive"),
    ("CumSum", [(2, 3), np.array(1)], "reverse"),
    ("Trilu", [(2, 3)], "upper"),
    ("Reshape", [(2, 3), np.array([3, 2])], "allowzero"),
    ("MaxPool", [(1, 1, 4, 4)], "ceil_mode"),
    ("AveragePool", [(1, 1, 4, 4)], "count_include_pad"),
)


@pytest.mark.parametrize(("op", "arguments", "name"), _FLAGS, ids=lambda value: value if isinstance(value, str) else "")
def test_flags_are_0_or_1(op: str, arguments: list[Any], name: str) -> None:
    """ONNX Runtime takes 2 for true in some operators and for false in others; of ties nobody would notice."""
    more = {"kernel_shape": [2, 2]} if op.endswith("Pool") else {}
    outputs = 2 if op == "TopK" else 1
    for value in (0, 1):
        load_model(one_op(op, arguments, {name: value, **more}, 20, outputs))
    for value in (2, -1):
        with pytest.raises(ModelError, match=f"{name} = {value}, expected 0 or 1"):
            load_model(one_op(op, arguments, {name: value, **more}, 20, outputs))


@cache
def _strings(module: ModuleType) -> frozenset[str]:
    nodes = ast.walk(ast.parse(inspect.getsource(module)))
    return frozenset(node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str))


_EARLIER = {"Scatter", "Upsample"}  # no schema in the newest opset
_PROBED = {"Resize": {"antialias", "cubic_coeff_a", "exclude_outside", "nearest_mode"}}
"""What ONNX Runtime is asked with, as it is."""


def test_every_attribute_of_every_operator_has_a_place() -> None:
    """In the code of the lowering, or in the list of those without effect; for all opsets that are read."""
    asked = 0
    for op in registry.operators():
        for opset in OPSETS:
            lowering = registry.lookup(op, opset)
            if lowering is None or lowering is opaque:
                continue
            try:
                schema = onnx.defs.get_schema(op, opset, "")
            except onnx.defs.SchemaError:
                assert op in _EARLIER or opset < 21
                continue
            module = inspect.getmodule(lowering)
            assert module is not None
            placed = (
                _strings(module)
                | _strings(fold)
                | _strings(conv)
                | WITHOUT_EFFECT.get(op, frozenset())
                | _PROBED.get(op, set())
            )
            assert set(schema.attributes) <= placed, (op, opset, set(schema.attributes) - placed)
            asked += len(schema.attributes)
    assert asked > 1000
