"""Every epsilon of the tool, by dtype, with its reason.

Notation: `ulp(dtype)` is the distance from 1 to the next number (2**-23, 2**-52), so one correctly rounded operation
has a relative error of at most ulp / 2.

Underflow: an operation whose result is smaller than `tiny(dtype)` may lose it altogether. Rules that only multiply and
add do not guard against that (widening an exact 0 would turn `x >= 0` into `x >= -1e-38` and lose signs); whoever
claims a verdict has to keep a margin far above `tiny`, which every margin of practical size is.
"""

from __future__ import annotations

import torch

# Largest error, in ulp, of torch's exp, log, sin, cos, tanh, sqrt, pow and 1/(1+exp(-x)). The vector library of the CPU
# build promises 1 ulp for each function; CUDA documents 2 ulp for exp, sin, cos and tanh and 4 for pow of float32;
# sigmoid adds two roundings to exp. The contract suite compares float32 with float64.
FUNCTION_ULPS = 4.0

# Error of a derivative put together from two such functions and a product, in ulp.
SLOPE_ULPS = 12.0


def ulp(dtype: torch.dtype) -> float:
    """Distance from 1 to the next representable number."""
    return torch.finfo(dtype).eps


def tiny(dtype: torch.dtype) -> float:
    """Smallest normal number: what a function value may lose to underflow."""
    return torch.finfo(dtype).tiny


def function_error(dtype: torch.dtype) -> float:
    """Relative error of one elementary function."""
    return FUNCTION_ULPS * ulp(dtype)


def outward(dtype: torch.dtype) -> float:
    """Factor > 1 that makes up for up to four roundings of a product of positive numbers."""
    return 1.0 + 4.0 * ulp(dtype)


def proof_margin(dtype: torch.dtype) -> float:
    """Relative margin by which a row bound must exceed 0 before its box counts as proven.

    The margin is multiplied by the magnitude of the numbers summed in the last step and of the largest intermediate
    value (which may have cancelled on the way). In float64 a walk through a
    network accumulates relative errors of about (operations per sum) x 1.1e-16, so 1e-12 leaves room for sums of
    thousands of terms in each of tens of layers. In float32 the same count gives about 1e-4 (unit round-off 6e-8).
    """
    return 1e-12 if dtype == torch.float64 else 1e-4
