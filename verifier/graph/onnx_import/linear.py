"""Gemm, MatMul and BatchNormalization-like affine operators."""

from __future__ import annotations

import numpy as np

from verifier.graph.enclose import FLOOR
from verifier.graph.exact import multiplied
from verifier.graph.onnx_import.context import Context, Operand, Var, elements
from verifier.graph.onnx_import.registry import lowers


@lowers("MatMul")
def matmul(c: Context) -> Operand:
    """Numpy matrix product, either side constant or none."""
    a, b = c.value(0), c.value(1)
    if 0 in (len(a.shape), len(b.shape)):
        raise c.wrong("MatMul of a scalar")
    return times(c, a, b)


def times(c: Context, a: Operand, b: Operand) -> Var:
    """a @ b; a constant side becomes the weight of a Dense, also where it had to be rounded a few times."""
    (left, left_off), (right, right_off) = _weight(c, a), _weight(c, b)
    if right is not None:
        return _times_constant(c, c.var(a), right, right_off)
    if left is not None:
        return _constant_times(c, left, c.var(b), left_off)
    return product(c, c.var(a), c.var(b))


def _weight(c: Context, value: Operand) -> tuple[np.ndarray | None, float]:
    found = c.known(value)
    return found if found is not None else (None, 0.0)


@lowers("Gemm")
def gemm(c: Context) -> Operand:
    """alpha * A' @ B' + beta * C."""
    alpha, beta = float(c.attr("alpha", 1.0)), float(c.attr("beta", 1.0))
    a, b = c.value(0), c.value(1)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise c.wrong(f"Gemm of shapes {tuple(a.shape)} and {tuple(b.shape)}, expected two matrices")
    a = _transposed(c, a) if c.flag("transA", False) else a
    b = _transposed(c, b) if c.flag("transB", False) else b
    bias = c.value(2) if c.has(2) and beta != 0 else None
    if isinstance(b, np.ndarray) and isinstance(bias, np.ndarray) and alpha == beta == 1:
        row = _row(bias, b.shape[1])
        if row is not None:
            _check_inner(c, a.shape[-1], b.shape[0])
            return c.dense(c.var(a), b.T, row)
    y = c.scale(times(c, a, b), alpha)
    if bias is None:
        return y
    if isinstance(bias, np.ndarray):
        scaled = beta * bias
        rounded = multiplied(np.array(beta), bias) is None
        return c.shift(y, scaled, np.abs(scaled) * 2.0**-52 + FLOOR if rounded else None)
    return c.plus(y, c.scale(bias, beta))


@lowers("BatchNormalization", since=7)
def batch_normalization(c: Context) -> Operand:
    """Inference form: (x - mean) / sqrt(var + epsilon) * scale + bias, per channel (axis 1)."""
    if c.flag("training_mode", False):
        raise c.refuse("training mode; export the model in evaluation mode")
    if not c.flag("spatial", True):
        raise c.refuse("spatial = 0 (statistics per pixel)")
    x = c.x(0)
    scale, bias, mean, var = (c.const(i, what) for i, what in enumerate(("scale", "bias", "mean", "variance"), start=1))
    spread = var + float(c.attr("epsilon", 1e-5))
    if (spread <= 0).any():
        raise c.wrong("variance plus epsilon is not positive")
    # |relative error| <= 2.5 roundings and what is of second order: half of the sum's, the root's, the quotient's
    factor, off = scale / np.sqrt(spread), 3.0
    size = np.abs(factor[scale != 0])
    if size.size and not 1e-290 < size.min() <= size.max() < 1e290:
        raise c.refuse(f"factors from {size.min()} to {size.max()}, beyond what float64 holds")
    moved = mean * factor
    offset = bias - moved
    nothing = (mean == 0) | (factor == 0)
    error = np.where(nothing, 0.0, 6 * 2.0**-53 * np.abs(moved) + 2.0**-52 * np.abs(offset) + FLOOR)
    channels = x.shape[1] if x.rank > 1 else 1
    shape = (channels,) + (1,) * max(0, x.rank - 2)
    if any(one.shape != (channels,) for one in (scale, bias, mean, var)):
        raise c.wrong(f"parameters of BatchNormalization must have shape ({channels},)")
    y = c.scale(x, factor.reshape(shape), off)
    return c.shift(y, offset.reshape(shape), error.reshape(shape))


def product(c: Context, a: Var, b: Var) -> Var:
    """Matrix product of two values: reshape, repeat, multiply, sum."""
    drop_row, drop_column = a.rank == 1, b.rank == 1
    a = c.reshape(a, (1, *a.shape)) if drop_row else a
    b = c.reshape(b, (*b.shape, 1)) if drop_column else b
    _check_inner(c, a.shape[-1], b.shape[-2])
    left = c.reshape(a, (*a.shape, 1))
    right = c.reshape(b, (*b.shape[:-2], 1, *b.shape[-2:]))
    y = c.product(left, right)
    y = c.reduce_sum(y, [y.rank - 2])
    return _drop(c, y, drop_row, drop_column)


@lowers("Einsum", since=12)
def einsum(c: Context) -> Operand:
    """Both operands with one axis per letter, multiplied, and summed over the letters that the result lacks."""
    terms, result = _letters(c)
    dense = _einsum_dense(c, terms, result)
    if dense is not None:
        return dense
    order = result + "".join(sorted(set("".join(terms)) - set(result)))
    sizes: dict[str, int] = {}
    parts: list[Operand] = []
    for index, letters in enumerate(terms):
        value = c.value(index)
        for letter, size in zip(letters, value.shape, strict=True):
            if sizes.setdefault(letter, size) != size:
                raise c.wrong(f"'{letter}' is {sizes[letter]} and {size}")
        perm = [letters.index(letter) for letter in order if letter in letters]
        value = value.transpose(perm) if isinstance(value, np.ndarray) else c.transpose(value, perm)
        full = [sizes[letter] if letter in letters else 1 for letter in order]
        parts.append(value.reshape(full) if isinstance(value, np.ndarray) else c.reshape(value, full))
    summed = list(range(len(result), len(order)))
    if len(parts) == 1:
        return c.reduce_sum(c.var(parts[0]), summed)
    constant = next((one for one in parts if isinstance(one, np.ndarray)), None)
    if constant is None:
        return c.reduce_sum(c.product(c.var(parts[0]), c.var(parts[1])), summed)
    x = next((one for one in parts if isinstance(one, Var)), None)
    return c.reduce_sum(c.scale(x if x is not None else c.var(parts[1]), constant), summed)


def _einsum_dense(c: Context, terms: list[str], result: str) -> Var | None:
    """The Dense that an Einsum of one value and one constant is where they share nothing but what is summed."""
    values = [c.value(index) for index in range(len(terms))]
    position = next((index for index, one in enumerate(values) if isinstance(one, np.ndarray)), None)
    if position is None or len(values) != 2 or isinstance(values[1 - position], np.ndarray):
        return None
    weight, x, inner, outer = c.const(position, "operand"), c.x(1 - position), terms[position], terms[1 - position]
    shared = [letter for letter in inner if letter in outer]
    own, free = ([letter for letter in one if letter not in shared] for one in (inner, outer))
    if not shared or set(result) != {*own, *free}:
        return None
    if any(weight.shape[inner.index(one)] != x.shape[outer.index(one)] for one in shared):
        raise c.wrong(f"operands of shapes {weight.shape} and {x.shape}")
    y = c.transpose(x, [outer.index(one) for one in free + shared])
    lead, rows = y.shape[: len(free)], [weight.shape[inner.index(one)] for one in own]
    matrix = weight.transpose([inner.index(one) for one in own + shared])
    y = c.dense(c.reshape(y, (*lead, elements(y.shape[len(free) :]))), matrix.reshape(elements(rows), -1))
    return c.transpose(c.reshape(y, (*lead, *rows)), [(free + own).index(one) for one in result])


def _letters(c: Context) -> tuple[list[str], str]:
    """Letters of each operand and of the result."""
    equation = str(c.attr("equation", "")).replace(" ", "")
    left, arrow, result = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(c.inputs) or not 1 <= len(terms) <= 2:
        raise c.refuse(f"equation '{equation}' with {len(c.inputs)} operands; supported are one and two")
    if "." in equation or any(len(set(one)) != len(one) for one in (*terms, result)):
        raise c.refuse(f"equation '{equation}': an ellipsis, or a letter twice in one operand")
    if not arrow:
        result = "".join(sorted(one for one in set(left) - {","} if left.count(one) == 1))
    if not set(result) <= set(left):
        raise c.wrong(f"equation '{equation}' has a result letter that no operand has")
    return terms, result


def _times_constant(c: Context, a: Var, b: np.ndarray, off: float = 0.0) -> Var:
    _check_inner(c, a.shape[-1], b.shape[-2] if b.ndim > 1 else b.shape[0])
    if b.ndim == 1:
        y = c.dense(a, b[None, :], roundings=off)
        return c.reshape(y, a.shape[:-1])
    if all(size == 1 for size in b.shape[:-2]):
        y = c.dense(a, b.reshape(b.shape[-2:]).T, roundings=off)
        rank = max(y.rank, b.ndim - (a.rank == 1))
        return c.reshape(y, (1,) * (rank - y.rank) + y.shape)
    drop_row = a.rank == 1
    a = c.reshape(a, (1, *a.shape)) if drop_row else a
    y = c.scale(c.reshape(a, (*a.shape, 1)), b[..., None, :, :], off)
    return _drop(c, c.reduce_sum(y, [y.rank - 2]), drop_row, False)


def _constant_times(c: Context, a: np.ndarray, b: Var, off: float = 0.0) -> Var:
    """a @ b as (b' @ a')'."""
    _check_inner(c, a.shape[-1], b.shape[-2] if b.rank > 1 else b.shape[0])
    if b.rank == 1:
        y = c.dense(b, a.reshape(-1, a.shape[-1]), roundings=off)
        return c.reshape(y, a.shape[:-1])
    drop_row = a.ndim == 1
    a = a[None, :] if drop_row else a
    swapped = c.transpose(b, (*range(b.rank - 2), b.rank - 1, b.rank - 2))
    y = _times_constant(c, swapped, np.swapaxes(a, -1, -2), off)
    y = c.transpose(y, (*range(y.rank - 2), y.rank - 1, y.rank - 2))
    return _drop(c, y, drop_row, False)


def _drop(c: Context, y: Var, row: bool, column: bool) -> Var:
    shape = list(y.shape)
    if row:
        del shape[-2]
    if column:
        del shape[-1]
    return c.reshape(y, shape)


def _transposed(c: Context, value: Operand) -> Operand:
    return value.T if isinstance(value, np.ndarray) else c.transpose(value, (1, 0))


def _row(bias: np.ndarray, width: int) -> np.ndarray | None:
    """`bias` as a row of `width` numbers where it is the same for all rows and not wider."""
    if bias.ndim > 2 or (bias.ndim == 2 and bias.shape[0] != 1) or (bias.ndim and bias.shape[-1] not in (1, width)):
        return None
    return np.broadcast_to(bias.reshape(-1), (width,))


def _check_inner(c: Context, left: int, right: int) -> None:
    if left != right:
        raise c.wrong(f"matrix product of inner sizes {left} and {right}")
