"""The one maker of ONNX Runtime sessions, and the one caller: whatever ONNX Runtime raises becomes a ModelError."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from verifier.errors import ModelError
from verifier.graph.onnx_import.expose import with_ir_version

if TYPE_CHECKING:
    import onnxruntime

T = TypeVar("T")
IR_VERSION = 8  # understood by every ONNX Runtime that knows the opsets we read


def open_session(data: bytes, threads: int = 1, optimise: bool = True) -> onnxruntime.InferenceSession:
    """A session on the CPU for a serialized model.

    threads: 0 leaves the number to ONNX Runtime. `optimise` off keeps ONNX Runtime from fusing nodes. A model whose
    file format is newer than ONNX Runtime knows is read as one of `IR_VERSION`, where that is all that is in the way.

    Raises:
        ModelError: ONNX Runtime cannot load the model.
    """
    import onnxruntime  # a tenth of a second that a command pays when it runs a network, not when it starts

    onnxruntime.set_default_logger_severity(4)  # some remarks bypass the level of the session
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4  # what it would log it also raises
    level = onnxruntime.GraphOptimizationLevel
    # by default a matrix of whole numbers is multiplied with activations that are rounded to 8 bits
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL

    def make(content: bytes) -> onnxruntime.InferenceSession:
        # without the second try that onnxruntime announces on stdout
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"], enable_fallback=0)

    try:
        return make(data)
    except Exception as error:
        if "IR version" not in str(error):
            raise _refused("load", error) from None
    return _guard("load", lambda: make(with_ir_version(data, IR_VERSION)))


def run_session(
    session: onnxruntime.InferenceSession, names: Sequence[str] | None, feeds: Mapping[str, np.ndarray]
) -> list[Any]:
    """The outputs `names` (None: all). Raises ModelError where ONNX Runtime fails."""
    return _guard("run", lambda: list(session.run(None if names is None else list(names), dict(feeds))))


def _guard(what: str, call: Callable[[], T]) -> T:
    try:
        return call()
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise _refused(what, error) from None


def _refused(what: str, error: Exception) -> ModelError:
    return ModelError(f"ONNX Runtime cannot {what} the model: {' '.join(str(error).split())[:300]}")
