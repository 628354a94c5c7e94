"""One ONNX node as ONNX Runtime computes it, on small arrays: what it makes of constants, and how it picks and weights.

The importer asks instead of repeating rules of which every version of ONNX Runtime has its own (positions of Resize),
and instead of writing a second implementation of operators that only ever meet constants.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx import helper

from verifier.errors import ModelError, UnsupportedOperator
from verifier.graph.onnx_import.build import ModelBuilder
from verifier.graph.onnx_import.context import Context, Var
from verifier.graph.onnx_import.session import IR_VERSION, open_session, run_session


class Kernel:
    """The current node of a context, ready to be run. `arrays` show which inputs are given, and their types.

    Raises:
        UnsupportedOperator: ONNX Runtime has no kernel for these types, or refuses the attributes.
    """

    def __init__(self, c: Context, arrays: Sequence[np.ndarray | None], attributes: Mapping[str, Any]) -> None:
        self._context = c
        self._names = [f"i{k}" if array is not None else "" for k, array in enumerate(arrays)]
        outputs = [f"o{k}" for k in range(c.n_outputs)]
        builder = ModelBuilder()
        builder.nodes.append(helper.make_node(c.op, self._names, outputs, **_plain(attributes)))
        given = zip(self._names, arrays, strict=True)
        inputs = {name: (array.dtype, array.shape) for name, array in given if array is not None}
        model = builder.model(inputs, outputs, c.opset, IR_VERSION)
        with self._refusals():
            self._session = open_session(model.SerializeToString())

    def __call__(self, *arrays: np.ndarray | None) -> list[np.ndarray]:
        """The outputs for inputs of the shapes and types given at the start."""
        feeds = {name: array for name, array in zip(self._names, arrays, strict=True) if array is not None}
        with self._refusals():
            return [np.asarray(one) for one in run_session(self._session, None, feeds)]

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except ModelError as error:
            raise self._context.refuse(f"ONNX Runtime refuses it, too: ...{str(error)[-200:]}") from None


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as `make_node` takes them; empty lists, whose type is unknown, are the default anyway."""
    result = {}
    for name, value in attributes.items():
        if isinstance(value, np.ndarray):
            value = onnx.numpy_helper.from_array(value, name)
        elif isinstance(value, Sequence) and len(value) == 0 and not isinstance(value, str):
            continue
        result[name] = value
    return result


_ROUNDS_NOTHING = frozenset({
    "CastLike", "Compress", "ConstantOfShape", "EyeLike", "GatherElements", "GatherND", "Hardmax", "MaxPool", "Mod",
    "OneHot", "Pad", "ReverseSequence", "Round", "Scatter", "ScatterElements", "ScatterND", "TopK", "Trilu", "Unique",
    "Where",
})  # fmt: skip
"""Operators whose results are elements of their inputs, or whole numbers, or (Mod) exact anyway."""


def of_constants(c: Context) -> tuple[np.ndarray, ...] | None:
    """The current node's outputs for constant inputs: in float64 where there is a kernel, else in float32. None where
    an input is not exact, or a number of the outputs may be rounded.

    Raises:
        ModelError: an output would be too large.
        UnsupportedOperator: ONNX Runtime cannot compute it.
    """
    if any(isinstance(one, Var) for one in c.inputs):
        return None
    arrays = [None if one is None else np.asarray(one) for one in c.inputs]
    if c.op == "OneHot" and c.has(1):  # the one operator of this kind whose result grows with a value
        c.guard((*c.value(0).shape, max(0, int(c.const(1, "depth").reshape(-1)[0]))))
    try:
        results = Kernel(c, arrays, c.attributes)(*arrays)
    except UnsupportedOperator:
        single = [_single(array) for array in arrays]
        if any(a is not None and b is not None and (a != b).any() for a, b in zip(arrays, single, strict=True)):
            return None
        results = Kernel(c, single, c.attributes)(*single)
    for one in results:
        c.guard(one.shape)
    moved = c.op in _ROUNDS_NOTHING and c.attr("reduction", "none") == "none"
    return tuple(results) if moved or all(one.dtype.kind in "biu" for one in results) else None


def output_shapes(c: Context) -> list[tuple[int, ...]] | None:
    """Shapes of the current node's outputs for inputs of ones; None where ONNX Runtime cannot tell."""
    kind = next((one.dtype for one in c.inputs if isinstance(one, Var) and one.real), np.dtype(np.float32))
    arrays: list[np.ndarray | None] = []
    for one in c.inputs:
        if isinstance(one, Var):
            arrays.append(np.ones(one.shape, one.dtype))
        else:
            arrays.append(one.astype(kind) if one is not None and one.dtype.kind == "f" else one)
    try:
        return [c.guard(one.shape) for one in Kernel(c, arrays, c.attributes)(*arrays)]
    except ModelError:
        return None


def _single(array: np.ndarray | None) -> np.ndarray | None:
    return array.astype(np.float32) if array is not None and array.dtype == np.float64 else array
