"""Every error this package raises on purpose.

    SecateurError
    |-- ModelError            the .onnx file: unreadable, not ONNX, invalid, NaN weights
    |   `-- UnsupportedOperator   a node the verifier has no rule for (names node, op, opset)
    |-- ProblemError          model and specification do not fit each other, or no finite box
    |-- OptionsError          an option has an unknown name or an impossible value
    |-- OutputError           a result cannot be written
    |-- ProofError            no proof can be written for this problem or in this way
    `-- UnsoundError          an internal cross-check failed; the run stops, nothing is claimed

Errors of the specification language are `vnnlib.VnnLibError` (that package stands alone). Each message says what was
found, what was expected, and what to do. The command line prints one line and exits with code 2.
"""

from __future__ import annotations


class SecateurError(Exception):
    """Base of all errors of this package; `str(error)` is one printable line."""


class ModelError(SecateurError):
    """The ONNX file cannot be used."""


class UnsupportedOperator(ModelError):
    """A node has no rule. `node`, `op` and `opset` repeat what the message says."""

    def __init__(self, node: str, op: str, opset: int, why: str) -> None:
        super().__init__(f"node '{node}': operator {op} (opset {opset}) is not supported: {why}")
        self.node, self.op, self.opset = node, op, opset


class ProblemError(SecateurError):
    """Model and specification do not belong together."""


class OptionsError(SecateurError):
    """An option is unknown or out of range."""


class OutputError(SecateurError):
    """A result file cannot be written."""


class ProofError(SecateurError):
    """A proof was asked for that cannot be written; found out before the search."""


class UnsoundError(SecateurError):
    """Two independent computations contradict each other; no verdict may be given."""
