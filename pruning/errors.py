"""Errors of the pruning package; each is one printable line, and the command line exits with code 2.

SecateurError (verifier.errors)
`-- PruneError
    |-- NothingToPrune      no channel may be removed (the message lists what froze them)
    |-- RatioError          a ratio is out of range or would empty a layer
    |-- DataError           calibration data: unreadable, wrong shape, labels missing
    |-- CriterionError      unknown criterion, or one that cannot run here (missing package, missing oracle)
    `-- WrongNetwork        the pruned network does not compute what the masked one does, or is no valid ONNX; it is not
                            written

A model file that cannot be read is a ModelError, a file that cannot be written an OutputError (verifier.errors).
"""

from __future__ import annotations

from verifier.errors import SecateurError


class PruneError(SecateurError):
    """Base of every error the pruning package raises on purpose."""


class NothingToPrune(PruneError):
    """The network has no channel that may be removed."""


class RatioError(PruneError):
    """A pruning ratio is out of range or cannot be honoured."""


class DataError(PruneError):
    """Calibration data do not fit the network or the criterion."""


class CriterionError(PruneError):
    """A criterion, allocation or fold mode is unknown or not available."""


class WrongNetwork(PruneError):
    """Pruned and masked network differ: a fault of this package, caught before anything is written."""
