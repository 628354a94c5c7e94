"""Whether float64 arithmetic on weights was exact, and sums and products that are exact or refuse.

What a pass computes from stored weights becomes part of the claim, so it has to be the real number itself. Sums and
products of float32 weights often are (24 + 24 bits fit into 53); where they are not, a pass leaves the graph alone.

Two means. The error of one sum or product is computed without error (TwoSum: Knuth 1998, section 4.2.2, theorem B;
TwoProduct by splitting: Dekker 1971). A sum of many products is exact in any order, with or without fused
multiply-adds, where all of them are multiples of one power of two 2**g and their absolute values add up to less than
2**(g + 53): then so is every partial sum.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from verifier.graph.ir import ROUNDINGS

UNIT = 2.0**-52  # twice u: leaves room for the rounding of the bounds themselves
ONE = 2.0**-53 * (1 + 2.0**-40)  # one correct rounding, relative to the rounded result
FUNCTION = 16 * 2.0**-52  # error of numpy's functions, relative to 1 here; four times what its documentation promises
_DIGITS = 53
_SPLIT = 134217729.0  # 2**27 + 1
_LARGE, _SMALL = 2.0**900, 2.0**-900  # products and factors in between neither overflow nor underflow when split
_NO_BIT = 4096  # the lowest bit of 0: beyond every exponent
_TERMS = 200_000  # of products that are added up one by one in exact arithmetic, at most


def added(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """a + b with broadcasting, or None where an element of the sum is rounded."""
    with np.errstate(all="ignore"):
        total = np.asarray(a + b)
        part = total - a
        error = (a - (total - part)) + (b - part)
    return total if not np.any(error) else None  # NaN, after an overflow, is an error too


def multiplied(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """a * b with broadcasting, or None where an element of the product is rounded."""
    with np.errstate(all="ignore"):
        product, error = _two_product(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return product if not np.any(error) else None


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(p, e) with p = fl(a b) and p + e = a b; e is NaN where the product is too large or too small for that."""
    product = np.asarray(a * b)
    high_a, high_b = (_SPLIT * one - (_SPLIT * one - one) for one in (a, b))
    low_a, low_b = a - high_a, b - high_b
    error = low_a * low_b - (((product - high_a * high_b) - low_a * high_b) - high_a * low_b)
    size, largest = np.abs(product), np.maximum(np.abs(a), np.abs(b))
    safe = (size > _SMALL) & (size < _LARGE) & (largest < _LARGE)
    return product, np.where((a == 0) | (b == 0), 0.0, np.where(safe, error, np.nan))


def matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """a @ b for matrices (n, k) and (k, m), or None where an element of the result is no float64 number."""
    with np.errstate(all="ignore"):
        value, size = a @ b, np.abs(a) @ np.abs(b)
    single = single_powers(a)[:, None] | single_powers(b.T)[None, :]
    grid = lowest_bit(a, 1)[:, None] + lowest_bit(b, 0)[None, :]
    open_ = np.argwhere(~fits(size, grid, single))
    for done, (i, j) in enumerate(open_):
        total = _exact_sum(a[i], b[:, j]) if (done + 1) * a.shape[1] <= _TERMS else None
        if total is None:
            return None
        value[i, j] = total
    return value if np.isfinite(value).all() else None


def rounded_once(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """a @ b for matrices (n, k) and (k, m), every element rounded correctly; None where that is long, or out of range.

    The products are known without error, and `fsum` rounds their sum once (Shewchuk 1997).
    """
    if len(a) * a.shape[1] * b.shape[1] > _TERMS:
        return None
    with np.errstate(all="ignore"):
        products, errors = _two_product(a[:, :, None], b[None])
    terms = np.concatenate([products, errors], 1)
    if not np.isfinite(terms).all() or np.abs(terms).max(initial=0.0) > _LARGE:
        return None
    return np.array([[math.fsum(row[:, j].tolist()) for j in range(b.shape[1])] for row in terms]).reshape(len(a), -1)


def _exact_sum(a: np.ndarray, b: np.ndarray) -> float | None:
    """The sum of the products of two vectors, or None where it is no float64 number."""
    with np.errstate(all="ignore"):
        products, errors = _two_product(a, b)
    terms = [*products.tolist(), *errors.tolist()]
    try:
        if not all(map(math.isfinite, terms)):  # too large or too small for `_two_product`
            exact = sum((Fraction(x) * Fraction(y) for x, y in zip(a.tolist(), b.tolist(), strict=True)), Fraction(0))
            total = float(exact)
            return total if Fraction(total) == exact else None
        total = math.fsum(terms)  # rounded once; what remains decides
        return total if math.fsum([*terms, -total]) == 0 else None
    except (OverflowError, ValueError):  # of an infinity, of NaN
        return None


def lowest_bit(array: np.ndarray, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """The largest g for which all elements (along `axis`) are multiples of 2**g; a large number for zeros."""
    array = np.asarray(array, np.float64)
    mantissa, exponent = np.frexp(np.where(np.isfinite(array), array, 0.0))
    digits = np.ldexp(mantissa, _DIGITS).astype(np.int64)
    trailing = np.frexp((digits & -digits).astype(np.float64))[1] - 1
    bits = np.where(digits == 0, _NO_BIT, exponent - _DIGITS + trailing)
    return np.asarray(bits.min(axis=axis, initial=_NO_BIT))


def fits(size: np.ndarray, grid: np.ndarray, single: np.ndarray | bool = False) -> np.ndarray:
    """Whether sums of multiples of 2**grid are exact whose absolute values add up to `size` (rounded itself);
    `single` where the sum is one number times a power of two.
    """
    _, exponent = np.frexp(np.where(np.isfinite(size), size, 0.0))  # size < 2**exponent; 1 for its own rounding
    small = (size == 0) | (exponent + 1 <= grid + _DIGITS) | single
    return np.asarray(np.isfinite(size) & small & (grid > -1000) & (exponent < 1000))


def single_powers(rows: np.ndarray) -> np.ndarray:
    """Which rows hold nothing but one power of two (or zeros): products with them are exact, sums have one term."""
    mantissa, _ = np.frexp(rows)
    plain = (rows == 0) | (np.abs(mantissa) == 0.5)
    return np.asarray(plain.all(axis=1) & (np.count_nonzero(rows, axis=1) <= 1))


def summed_exactly(array: np.ndarray, axis: int | tuple[int, ...]) -> bool:
    """Whether sums of the elements along `axis` are exact in any order, for all sums."""
    with np.errstate(all="ignore"):
        return bool(fits(np.abs(array).sum(axis=axis), lowest_bit(array, axis)).all())


def equal(found: np.ndarray | None, wanted: np.ndarray | float) -> bool:
    """Whether something was found, and is what was wanted."""
    return found is not None and bool((found == wanted).all())


def quotient(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """(x / y, roundings) with broadcasting, y without zeros: 0 where every quotient is exact, else 1.

    Raises:
        OverflowError: a quotient is too large or too small for a relative error of one rounding.
    """
    with np.errstate(all="ignore"):
        result = np.asarray(np.asarray(x, np.float64) / np.asarray(y, np.float64))
        exact = equal(multiplied(result, np.asarray(y)), np.asarray(x))
    size = np.abs(result[np.broadcast_to(x, result.shape) != 0])
    if not exact and size.size and not (size.min() > _SMALL and size.max() < _LARGE):
        raise OverflowError(f"a quotient of {float(np.max(np.abs(x)))} and numbers up to {float(np.max(np.abs(y)))}")
    return result, 0.0 if exact else 1.0


def roundings(value: np.ndarray, error: np.ndarray) -> float | None:
    """By how many roundings of 2**-53 the elements of `value` may be off, relatively, if by `error` absolutely; None
    where that is more than weights may be.
    """
    if not error.any():
        return 0.0
    value, error = np.broadcast_arrays(np.abs(value), error)
    moved = error > 0
    if not (value[moved] > _SMALL).all():
        return None
    most = float((error[moved] / value[moved]).max()) * 2.0**53 * (1 + 2.0**-40)
    return most if most <= ROUNDINGS else None
