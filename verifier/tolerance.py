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

EXACT = 2.0**-52
"""An ulp of float64, in which affine forms keep what rounding must not drown."""

FLOOR = 1e-25
"""Added to the radius of affine forms that are partly float32: far above what underflow can lose there in a sum of 10^9
terms, far below any real margin; it keeps every spread positive, too."""

LAYER_FLOOR = 1e-290
"""What underflow may lose in all the sums of a bound of one hidden layer, in float64: `tiny` times 10^17 products."""

NARROWEST = 1e-300
"""Radius that a box without width is said to have where something is divided by it: larger, so sound, and nothing
beside any number that a float32 input tells from the next. Also the least scale of what is written as shares of it."""

TIED = 1e-9
"""A bound within this share of its own summands of 0 is a tie, worth the price of fractions. No proof rests on it."""

UNSCALED = 1e-6
"""Against the largest of its kind, what of a score, a weight or a gradient may be noise: it must not decide which way a
search goes. No proof rests on it."""

LEAST = 1e-12
"""Least number that a heuristic divides by or takes the logarithm of. No proof rests on it."""

NEARLY_CONVEX = 1e-6
"""Share of a multiplier by which it grows where float32 took a quadratic for convex that is not quite. No proof rests
on it."""

BALANCE = 1e-6
"""Error of the sum of the shares of all boxes: there may be millions, each a product of halves and of clipped parts."""

LEEWAY = 1e-9
"""Of the numbers that a margin is a difference of: what float64 at a point may be off by, against bounds over the
reals. No proof rests on it."""

WRITTEN = 1e-6
"""Share of itself by which a bound of a row is written lower than it is in a proof: another order of summation cannot
change it, and the digits that it is rounded to lose less."""

LIMIT_GUARD = 1e-12
"""Relative: a sum of distances that equals the limit up to rounding counts as within it."""

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
