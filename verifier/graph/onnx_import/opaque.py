"""Operators whose result depends on data in a way that has no bound rule; kept, so that the network can be run."""

from __future__ import annotations

import numpy as np

from verifier.graph.ir import Attribute
from verifier.graph.onnx_import.context import Context, Operand, Var
from verifier.graph.onnx_import.kernel import output_shapes
from verifier.graph.onnx_import.registry import lowers

_LOGICAL = ("Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual", "And", "Or", "Xor", "Not", "IsNaN", "IsInf")
_INDEX = ("ArgMax", "ArgMin", "NonZero")
_OTHER = (
    "Hardmax", "Mod", "NonMaxSuppression", "NonZero", "OneHot", "Range", "Unique", "ConstantOfShape", "EyeLike",
    "BitShift", "Compress", "Det", "GRU", "LRN", "LSTM", "LpPool", "RNN", "ReverseSequence", "GridSample",
    "Asin", "Acos", "Asinh", "Acosh", "Atanh", "IsNaN", "IsInf",
)  # fmt: skip


@lowers(*_OTHER)
def opaque(c: Context) -> Operand | tuple[Operand, ...]:
    """An Opaque node per output, with the best guess at its shape."""
    variables = [c.x(i) for i in range(len(c.inputs)) if isinstance(c.inputs[i], Var)]
    dtype = np.dtype(bool) if c.op in _LOGICAL else np.dtype(np.int64) if c.op in _INDEX else None
    attrs: dict[str, Attribute] = {"op_type": c.op, "opset": c.opset}
    shapes = output_shapes(c) or [_guess(c)] * c.n_outputs
    if c.declared is not None:
        shapes[0] = c.declared
    # what is empty for one guess at the inputs (a slice from 1 to 1) need not be for others
    shapes = [tuple(max(1, size) for size in shape) for shape in shapes]
    return tuple(c.emit("Opaque", variables, shape, attrs=attrs, dtype=dtype) for shape in shapes)


def _guess(c: Context) -> tuple[int, ...]:
    shapes = [tuple(value.shape) for value in c.inputs if value is not None]
    if c.op in ("ArgMax", "ArgMin"):
        axis = c.axis(int(c.attr("axis", 0)), len(shapes[0]))
        kept = (1,) if c.flag("keepdims", True) else ()
        return (*shapes[0][:axis], *kept, *shapes[0][axis + 1 :])
    if c.op in ("Range", "NonZero", "ConstantOfShape"):
        return (1,)
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return shapes[0]
