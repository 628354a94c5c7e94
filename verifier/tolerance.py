"""Every tolerance of the verifier, by dtype, with its reason."""

from __future__ import annotations

import torch


def proof_margin(dtype: torch.dtype) -> float:
    """Relative margin by which a row bound must exceed 0 before its box counts as proven.

    The margin is multiplied by the magnitude of the numbers summed in the last step. In float64 a walk through a
    network accumulates relative errors of about (operations per sum) x 1.1e-16, so 1e-12 leaves room for sums of
    thousands of terms in each of tens of layers. In float32 the same count gives about 1e-4 (unit round-off 6e-8).
    """
    return 1e-12 if dtype == torch.float64 else 1e-4
