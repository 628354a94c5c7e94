"""Runs models in ONNX Runtime, by the names of their inputs and outputs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from verifier.graph.onnx_import.session import open_session, run_session


class Runner:
    """A model ready to run; float inputs are converted to the type the model wants.

    `optimise` off keeps ONNX Runtime from fusing nodes, which equality tests rely on. Making and calling it raise
    ModelError where ONNX Runtime refuses the model or fails.
    """

    def __init__(self, model: bytes, optimise: bool = True, threads: int = 0) -> None:
        self._session = open_session(model, threads or int(os.environ.get("OMP_NUM_THREADS", "0") or 0), optimise)
        self.inputs = {item.name: _DTYPES.get(item.type, np.float32) for item in self._session.get_inputs()}
        self.outputs = tuple(item.name for item in self._session.get_outputs())

    def __call__(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Values of `outputs` (default: all), by name."""
        names = list(self.outputs if outputs is None else outputs)
        feeds = {name: np.asarray(value, self.inputs[name], order="C") for name, value in feeds.items()}
        return dict(zip(names, run_session(self._session, names, feeds), strict=True))


def run_once(model: bytes, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """Load, run, forget. Raises ModelError."""
    return Runner(model, optimise=False, threads=1)(feeds, outputs)


_DTYPES: dict[str, type] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(bool)": np.bool_,
}
