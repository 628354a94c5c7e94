"""Runs models in ONNX Runtime; the only module of this package that imports onnxruntime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np

from pruning.errors import PruneError


class RunError(PruneError):
    """ONNX Runtime refuses the model or fails while running it."""


class Runner:
    """A model ready to run; float inputs are converted to the type the model wants.

    `optimise` off keeps ONNX Runtime from fusing nodes, which equality tests rely on.
    """

    def __init__(self, model: bytes, optimise: bool = True, threads: int = 0) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or int(os.environ.get("OMP_NUM_THREADS", "0") or 0)
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise RunError(f"ONNX Runtime cannot load the model: {_line(error)}") from error
        self.inputs = {item.name: _DTYPES.get(item.type, np.float32) for item in self._session.get_inputs()}
        self.outputs = tuple(item.name for item in self._session.get_outputs())

    def __call__(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Values of `outputs` (default: all), by name."""
        names = list(self.outputs if outputs is None else outputs)
        feeds = {name: np.asarray(value, self.inputs[name], order="C") for name, value in feeds.items()}
        try:
            return dict(zip(names, self._session.run(names, feeds), strict=True))
        except Exception as error:
            raise RunError(f"ONNX Runtime failed: {_line(error)}") from error


def run_once(model: bytes, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
    """Load, run, forget. Raises RunError."""
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


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
