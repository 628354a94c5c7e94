"""Affine operators: Dense, convolutions, Scale, Shift, Add, Sub, ReduceSum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from verifier.graph.exact import (
    ONE,
    UNIT,
    added,
    equal,
    fits,
    lowest_bit,
    matmul,
    multiplied,
    rounded_once,
    single_powers,
    summed_exactly,
)  # fmt: skip
from verifier.graph.ir import Node, Shape
from verifier.graph.operators.row import ValueRule, declare, need


def _dense_shape(node: Node, shape: Shape) -> Shape:
    rows, columns = node.params["weight"].shape
    need(len(shape) > 0 and columns == shape[-1], f"{columns} columns")
    if "bias" in node.params:
        need(node.params["bias"].shape == (rows,), "bias differs in length")
    return (*shape[:-1], rows)


def _convolution(node: Node, shape: Shape) -> tuple[list[tuple[int, ...]], np.ndarray, int, int]:
    weight, groups = node.params["weight"], node.integer("groups")
    spatial = len(shape) - 2
    need(1 <= spatial <= 3 and weight.ndim == len(shape), "1 to 3 spatial axes")
    need(groups >= 1, "groups is not a positive int")
    names = [name for name in ("stride", "padding", "dilation", "output_padding") if name in node.attrs]
    for name in names:
        values = node.integers(name)
        low = 0 if "padding" in name else 1
        need(
            len(values) == spatial and all(type(v) is int and v >= low for v in values),
            name,
        )
    return [node.integers(name) for name in names], weight, int(groups), spatial


def _conv_shape(node: Node, shape: Shape) -> Shape:
    (stride, padding, dilation), weight, groups, _ = _convolution(node, shape)
    need(shape[1] == weight.shape[1] * groups and weight.shape[0] % groups == 0, "channels")
    if "bias" in node.params:
        need(node.params["bias"].shape == (weight.shape[0],), "bias differs in length")
    sizes = zip(shape[2:], padding, dilation, weight.shape[2:], stride, strict=True)
    return (shape[0], weight.shape[0], *((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sizes))


def _conv_transpose_shape(node: Node, shape: Shape) -> Shape:
    (stride, padding, dilation, extra), weight, groups, _ = _convolution(node, shape)
    need(shape[1] == weight.shape[0] and weight.shape[0] % groups == 0, "channels")
    need(all(e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)), "output_padding is too large")
    channels = weight.shape[1] * groups
    if "bias" in node.params:
        need(node.params["bias"].shape == (channels,), "bias differs in length")
    sizes = zip(shape[2:], stride, padding, dilation, weight.shape[2:], extra, strict=True)
    return (shape[0], channels, *((n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, s, p, d, k, e in sizes))


def _reduce_sum_shape(node: Node, shape: Shape) -> Shape:
    axes = node.integers("axes")
    need(len(set(axes)) == len(axes) and all(0 <= a < len(shape) for a in axes), "axes")
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def _dense(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    y = x @ params["weight"].T
    return y + params["bias"] if "bias" in params else y


def _last(*index: Any) -> Any:
    """An index of the last axes."""
    return (Ellipsis, *index)


def _patches(x: np.ndarray, kernel: Shape, stride: Shape, dilation: Shape) -> np.ndarray:
    """(.., *spatial) -> (.., *out, *kernel): every window of every position."""
    rank = len(kernel)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(-rank, 0)))
    steps = tuple(slice(None, None, s) for s in stride) + tuple(slice(None, None, d) for d in dilation)
    return windows[_last(*steps)]


def _conv(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    weight, groups = params["weight"], node.integer("groups")
    kernel = weight.shape[2:]
    rank = len(kernel)
    padding = node.integers("padding")
    x = np.pad(x, [(0, 0)] * (x.ndim - rank) + [(p, p) for p in padding])
    lead = x.shape[:2]
    x = x.reshape(math.prod(lead), *x.shape[2:])
    windows = _patches(x, kernel, node.integers("stride"), node.integers("dilation"))
    out = windows.shape[2 : 2 + rank]
    windows = np.moveaxis(windows, 1, 1 + rank)  # (B, *out, C, *kernel)
    windows = windows.reshape(len(x), math.prod(out), groups, math.prod(weight.shape[1:]))
    rows = weight.reshape(groups, -1, math.prod(weight.shape[1:]))
    y = np.matmul(windows.transpose(2, 0, 1, 3), rows.transpose(0, 2, 1)[:, None])  # (g, B, P, O/g)
    y = y.transpose(1, 0, 3, 2).reshape(*lead, weight.shape[0], *out)
    return y + params["bias"].reshape(-1, *[1] * rank) if "bias" in params else y


def _conv_transpose(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    """Every input element paints its kernel into the output."""
    weight, groups = params["weight"], node.integer("groups")
    stride, dilation, padding = (node.integers(name) for name in ("stride", "dilation", "padding"))
    kernel, rank = weight.shape[2:], weight.ndim - 2
    size = x.shape[3:]
    grouped = x.reshape(*x.shape[:2], groups, -1, *size)
    kernels = weight.reshape(groups, -1, *weight.shape[1:])
    channels = weight.shape[1] * groups
    room = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(size, stride, dilation, kernel, strict=True)]
    room = [max(r, o + p) for r, o, p in zip(room, shape[3:], padding, strict=True)]
    full = np.zeros((*x.shape[:2], channels, *room), dtype=x.dtype)
    for offset in np.ndindex(*kernel):
        part = np.einsum("mngi...,gio->mngo...", grouped, kernels[_last(*offset)])
        part = part.reshape(*x.shape[:2], channels, *size)
        at = tuple(
            slice(d * o, d * o + (n - 1) * s + 1, s) for d, o, n, s in zip(dilation, offset, size, stride, strict=True)
        )
        full[_last(*at)] += part
    window = [slice(p, p + n) for p, n in zip(padding, shape[3:], strict=True)]
    y = full[_last(*window)]
    return y + params["bias"].reshape(-1, *[1] * rank) if "bias" in params else y


def _sum(node: Node, params: Mapping[str, np.ndarray], shape: Shape, x: np.ndarray) -> np.ndarray:
    return x.sum(axis=tuple(axis + 1 for axis in node.integers("axes")))


def _dense_exact(node: Node, xs: Sequence[np.ndarray], y: np.ndarray) -> bool:
    product = matmul(xs[0].reshape(-1, xs[0].shape[-1]), node.params["weight"].T)
    if product is None:
        return False
    total = added(product, node.params["bias"]) if "bias" in node.params else product
    return total is not None and equal(total.reshape(y.shape), y)


def _dense_careful(node: Node, x: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Each sum rounded once: computed weights (a Gram matrix) lose as little as can be."""
    weight = node.params["weight"]
    product = rounded_once(x.reshape(-1, x.shape[-1]), weight.T)
    if product is None:
        return None
    value = product + node.params.get("bias", np.zeros(()))
    error = ONE * (np.abs(product) + (np.abs(value) if "bias" in node.params else 0.0)) * (1 + UNIT)
    shape = (*x.shape[:-1], len(weight))
    return value.reshape(shape), error.reshape(shape)


def _convolution_exact(value: ValueRule, node: Node, xs: Sequence[np.ndarray], y: np.ndarray) -> bool:
    """By the bits of all weights and of all inputs of a point; tighter would need every window."""
    (x,), weight = xs, node.params["weight"]
    with np.errstate(all="ignore"):
        size = value(node, {"weight": np.abs(weight)}, y.shape, np.abs(x))
        flat = x.reshape(len(x), -1)
        grid = (lowest_bit(flat, 1) + lowest_bit(weight)).reshape(len(x), *[1] * (y.ndim - 1))
        if not fits(size, grid, single_powers(flat).reshape(grid.shape)).all():
            return False
        if "bias" not in node.params:
            return True
        bias = node.params["bias"].reshape(-1, *[1] * (weight.ndim - 2))
        return added(value(node, {"weight": weight}, y.shape, x), bias) is not None


def _window(node: Node, xs: Sequence[np.ndarray]) -> int:
    return math.prod(node.params["weight"].shape[1:])


def _painted(node: Node, xs: Sequence[np.ndarray]) -> int:
    shape = node.params["weight"].shape
    return math.prod(shape) // int(shape[1])


def _summed(node: Node, xs: Sequence[np.ndarray]) -> int:
    return math.prod(xs[0].shape[axis + 1] for axis in node.integers("axes"))


def _sum_exact(node: Node, xs: Sequence[np.ndarray], y: np.ndarray) -> bool:
    return summed_exactly(xs[0], tuple(axis + 1 for axis in node.integers("axes")))


def _is_all(name: str, number: float) -> Callable[[Node, Shape], bool]:
    return lambda node, shape: bool((node.params[name] == number).all()) and node.exact


_linear = partial(declare, linear=True)
_layer = partial(_linear, needs=("weight",), may=("bias", "bias_error", "roundings"))
_WINDOW = ("stride", "padding", "dilation", "groups")
_layer(
    "Dense", _dense, shape=_dense_shape, inner=True, exact=_dense_exact, careful=_dense_careful,
    terms=lambda node, xs: int(node.params["weight"].shape[1]),
)  # fmt: skip
_layer("Conv", _conv, shape=_conv_shape, attrs=_WINDOW, exact=partial(_convolution_exact, _conv), terms=_window)
_layer(
    "ConvTranspose", _conv_transpose, shape=_conv_transpose_shape, attrs=(*_WINDOW, "output_padding"),
    exact=partial(_convolution_exact, _conv_transpose), terms=_painted,
)  # fmt: skip
_each = partial(_linear, elementwise=True, inner=True)
_each(
    "Scale", lambda node, params, shape, x: x * params["factor"], needs=("factor",), may=("roundings",),
    exact=lambda node, xs, y: multiplied(xs[0], node.params["factor"]) is not None, identity=_is_all("factor", 1.0),
)  # fmt: skip
_each(
    "Shift", lambda node, params, shape, x: x + params.get("offset", 0.0), needs=("offset",), may=("bias_error",),
    exact=lambda node, xs, y: added(xs[0], node.params["offset"]) is not None, identity=_is_all("offset", 0.0),
)  # fmt: skip
_both = partial(_linear, inputs=2, broadcasts=True, whole=True)
_both("Add", lambda node, params, shape, x, y: x + y, exact=lambda node, xs, y: added(*xs) is not None)
_both(
    "Sub", lambda node, params, shape, x, y: x - y, absolute="Add",
    exact=lambda node, xs, y: added(xs[0], 0.0 - xs[1]) is not None,
)  # fmt: skip
_linear(
    "ReduceSum", _sum, shape=_reduce_sum_shape, attrs=("axes",), whole=True, exact=_sum_exact, terms=_summed,
    identity=lambda node, shape: True,
)  # fmt: skip
