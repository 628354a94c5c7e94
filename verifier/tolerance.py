"""Every epsilon of the tool, by dtype, with its reason.

Notation: `ulp(dtype)` is the distance from 1 to the next number (2**-23, 2**-52), so one correctly rounded operation
has a relative error of at most ulp / 2.

Underflow: an operation whose result is smaller than `tiny(dtype)` may lose it altogether; `lost` is the allowance.
"""

from __future__ import annotations

import torch

# Largest error, in ulp, of torch's exp, log, sin, cos, tanh, sqrt, pow and 1/(1+exp(-x)). The vector library of the CPU
# build promises 1 ulp for each function; CUDA documents 2 ulp for exp, sin, cos and tanh and 4 for pow of float32;
# sigmoid adds two roundings to exp. The contract suite compares float32 with float64.
FUNCTION_ULPS = 4.0

# Terms that `gamma` counts beyond those of a sum; 8 of them for weights that are off themselves.
SPARE = 16

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


def gamma(terms: float, dtype: torch.dtype) -> float:
    """Relative error of a sum of `terms` products: |computed - true| <= gamma * sum of |products|.

    For any order of summation, with or without fused multiply-adds: n u / (1 - n u), u half an ulp (Higham 2002,
    section 3.1, lemma 3.1). SPARE terms more than there are pay for the few operations around a sum (halving an
    interval, adding a constant, taking the allowance off, rounding in computing the allowance itself; 8 of them) and
    for weights that had to be rounded (a reciprocal, a BatchNormalization's factor: `roundings` in `graph.ir`, at most
    6; 8 of them). +inf where the sum is so long that nothing is known. (Convolutions by FFT or Winograd's method are
    not sums of that kind; PyTorch uses neither for float64.)
    """
    nu = (terms + SPARE) * ulp(dtype) / 2
    return nu / (1 - nu) if nu < 1 else float("inf")


def lost(terms: float, dtype: torch.dtype) -> float:
    """What underflow may take off a sum of `terms` products, absolutely: each product may lose up to `tiny`."""
    return (terms + 8) * tiny(dtype)


def subtract_down(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a - b rounded downwards, and exact where the difference is a number: a tie stays a tie.

    The residual of the rounded difference is computed without error (TwoSum, Knuth 1997, section 4.2.2, theorem B).
    """
    difference = a - b
    back = difference - a
    residual = (a - (difference - back)) - (b + back)
    below = torch.nextafter(difference, torch.full_like(difference, -torch.inf))
    return torch.where(residual >= 0, difference, below)
