"""Random ONNX models, whole: import, check, evaluate, simplify, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzz.models import RandomModel
from tests.models import outputs_of, random_inputs, run_onnx
from verifier.graph.check import check_graph
from verifier.graph.onnx_import import load_model
from verifier.passes.simplify import simplify


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 12), st.sampled_from([11, 13, 17, 18, 22]))
def test_random_model(draw: st.DataObject, size: int, opset: int) -> None:
    made = RandomModel(lambda values: draw.draw(st.sampled_from(values)), size, opset)
    if not made.nodes:
        return
    data = made.data()
    model = load_model(data)
    small = simplify(model.graph)
    check_graph(small)
    inputs = random_inputs(model.graph, np.random.default_rng(0))
    expected = np.asarray(run_onnx(data, {"x": inputs["x"][0]})[0], dtype=np.float64)
    assert expected.shape == model.output_infos[0].shape
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(outputs_of(model.graph, inputs)[0], expected.reshape(-1), rtol=1e-4, atol=1e-4 * scale)
    np.testing.assert_allclose(outputs_of(small, inputs), outputs_of(model.graph, inputs), rtol=1e-9, atol=1e-9 * scale)
