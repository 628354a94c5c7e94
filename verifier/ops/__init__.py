"""Operator rules, one file per family; importing this package fills the registry."""

from verifier.ops import (
    affine,
    bilinear,
    conv,
    curved,
    layout,
    log_sum,
    maximum,
    periodic,
    piecewise,
    reduce,
    s_shaped,
    spline,
    steps,
)
from verifier.ops.registry import bind, operators

__all__ = [
    "affine",
    "bilinear",
    "bind",
    "conv",
    "curved",
    "layout",
    "log_sum",
    "maximum",
    "operators",
    "periodic",
    "piecewise",
    "reduce",
    "s_shaped",
    "spline",
    "steps",
]
