"""The meaning of a graph, in plain numpy: the reference that importer, passes and engine are tested against.

Clarity before speed; float64 unless told otherwise. Every value carries a leading axis M of independent points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from verifier.budget import OutOfTime, never
from verifier.errors import ModelError
from verifier.graph.ir import Graph, Node, Shape
from verifier.graph.operators import OPERATORS


def evaluate(
    graph: Graph, inputs: Mapping[str, np.ndarray], dtype: type = np.float64, stop: Callable[[], bool] = never
) -> dict[str, np.ndarray]:
    """All values of the graph: `inputs[name]` is (M, *S), and so is every entry of the result.

    Raises:
        ModelError: an input is missing or has another shape; an Opaque node was met.
        OutOfTime: `stop()`, which is asked before every node, said so.
    """
    values: dict[str, np.ndarray] = {}
    for name in graph.inputs:
        array: np.ndarray = np.asarray(inputs[name], dtype=dtype)
        if array.shape[1:] != tuple(graph.shapes[name]):
            raise ModelError(f"input '{name}' has shape {array.shape[1:]}, expected {graph.shapes[name]}")
        values[name] = array
    points = len(values[graph.inputs[0]]) if graph.inputs else 1
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            if stop():
                raise OutOfTime
            _step(node, values, graph.shapes, points, dtype)
    return values


def apply(node: Node, xs: Sequence[np.ndarray], shape: Shape) -> np.ndarray:
    """What one node makes of its inputs (M, *S) each, float64: (M, *shape)."""
    points = len(xs[0]) if xs else 1
    values = dict(zip(node.inputs, xs, strict=True))
    with np.errstate(all="ignore"):
        _step(node, values, {node.output: shape}, points, np.float64)
    return values[node.output]


def is_exact(node: Node, xs: Sequence[np.ndarray], y: np.ndarray) -> bool:
    """Whether y (M, *T) is exactly what `node` makes of the inputs (M, *S) each; False where that is not known."""
    row = OPERATORS[node.op]
    if "roundings" in node.params:
        return False
    return row.moves or row.picks or (row.exact is not None and row.exact(node, xs, y))


def _step(node: Node, values: dict[str, np.ndarray], shapes: Mapping[str, Shape], points: int, dtype: type) -> None:
    row = OPERATORS.get(node.op)
    if row is None:
        raise ModelError(f"{node.source or node.output}: {node.attrs.get('op_type', node.op)} cannot be evaluated")
    params = {k: v.astype(dtype) if v.dtype.kind == "f" else v for k, v in node.params.items()}
    xs = [values[name] for name in node.inputs]
    shape = (points, *shapes[node.output])
    result = row.value(node, params, shape, *xs)
    values[node.output] = np.broadcast_to(np.asarray(result, dtype=dtype), shape)
