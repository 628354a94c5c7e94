"""Pooling: windows as index tables, averages as depthwise convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verifier.graph.onnx_import.context import Context, Operand
from verifier.graph.onnx_import.conv import convolve, pads, spatial
from verifier.graph.onnx_import.registry import lowers


@lowers("MaxPool")
def max_pool(c: Context) -> Operand:
    """Take every window's elements side by side, then ReduceMax; padding never wins, so it is left out.

    `storage_order` is about the second output only.
    """
    if c.n_outputs > 1:
        raise c.refuse("its second output (indices)")
    x = c.x()
    kernel, stride, dilation, before, out = _windows(c, x.shape[2:])
    tables = [_window_table(c, *each) for each in zip(x.shape[2:], kernel, stride, dilation, before, out, strict=True)]
    flat = np.zeros((1, 1), dtype=np.int64)  # (windows, elements) of the axes done so far
    for table, size in zip(tables, x.shape[2:], strict=True):
        flat = (flat[:, None, :, None] * size + table[None, :, None, :]).reshape(len(flat) * len(table), -1)
    lead = x.shape[:2]
    c.guard((*lead, *flat.shape))
    y = c.take(c.reshape(x, (*lead, int(np.prod(x.shape[2:])))), 2, flat.reshape(-1))
    y = c.reshape(y, (*lead, *flat.shape))
    y = c.emit("ReduceMax", [y], (*lead, flat.shape[0]), attrs={"axis": 3})
    return c.reshape(y, (*lead, *out))


@lowers("AveragePool")
def average_pool(c: Context) -> Operand:
    """Depthwise convolution with ones, divided by the number of elements that count in each window."""
    x = c.x()
    size = x.shape[2:]
    kernel, stride, dilation, before, out = _windows(c, size)
    _, declared = pads(c, size, kernel, stride, dilation)
    reach = [(o - 1) * s + d * (k - 1) + 1 for o, s, d, k in zip(out, stride, dilation, kernel, strict=True)]
    after = [max(0, r - n - b) for r, n, b in zip(reach, size, before, strict=True)]
    include = c.flag("count_include_pad", False)
    counts = np.ones((1,) * len(out))
    for axis, (n, k, s, d, b, a, o) in enumerate(
        zip(size, kernel, stride, dilation, before, declared, out, strict=True)
    ):
        position = np.arange(o)[:, None] * s + np.arange(k)[None, :] * d - b
        low, high = (-b, n + a) if include else (0, n)
        shape = [1] * len(out)
        shape[axis] = o
        counts = counts * ((position >= low) & (position < high)).sum(axis=1).reshape(shape)
    if (counts == 0).any():
        raise c.wrong("a pooling window lies entirely in the padding")
    channels = x.shape[1]
    uniform = (counts == counts.flat[0]).all()
    share, off = c.quotient(1.0, counts.flat[:1] if uniform else counts)
    weight = np.full((channels, 1, *kernel), share.flat[0] if uniform else 1.0)
    y = convolve(c, x, weight, None, stride, dilation, channels, before, after, off if uniform else 0.0)
    y = c.slice_to(y, (*x.shape[:2], *out))
    return y if uniform else c.scale(y, share, off)


@lowers("GlobalAveragePool")
def global_average_pool(c: Context) -> Operand:
    """Mean over the spatial axes, which stay as 1."""
    x = c.x()
    y = c.reduce_sum(x, range(2, x.rank))
    y = c.scale(y, *c.quotient(1.0, float(np.prod(x.shape[2:]))))
    return c.reshape(y, (*x.shape[:2], *[1] * (x.rank - 2)))


@lowers("GlobalMaxPool")
def global_max_pool(c: Context) -> Operand:
    """Maximum over the spatial axes, which stay as 1."""
    x = c.x()
    y = c.reshape(x, (*x.shape[:2], int(np.prod(x.shape[2:]))))
    y = c.emit("ReduceMax", [y], x.shape[:2], attrs={"axis": 2})
    return c.reshape(y, (*x.shape[:2], *[1] * (x.rank - 2)))


def _windows(
    c: Context, size: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], list[int], list[int]]:
    """Kernel, stride, dilation, padding before, output size per spatial axis."""
    kernel = tuple(int(one) for one in c.attr("kernel_shape", ()))
    if len(kernel) != len(size) or not kernel or min(kernel) < 1:
        raise c.wrong(f"kernel_shape {kernel} for {len(size)} spatial axes")
    stride, dilation = spatial(c, "strides", kernel), spatial(c, "dilations", kernel)
    before, after = pads(c, size, kernel, stride, dilation)
    if min(*before, *after) < 0:
        raise c.refuse("negative padding")
    out = []
    for n, k, s, d, b, a in zip(size, kernel, stride, dilation, before, after, strict=True):
        room = n + b + a - d * (k - 1) - 1
        count = room // s + 1
        if c.flag("ceil_mode", False):
            count = -(-room // s) + 1
            if (count - 1) * s >= n + b:  # a window must start inside the input or the padding before it
                count -= 1
        if room < 0 or count < 1:
            raise c.wrong(f"pooling kernel {kernel} is larger than the padded input {tuple(size)}")
        out.append(count)
    return kernel, stride, dilation, before, out


def _window_table(c: Context, n: int, k: int, s: int, d: int, b: int, out: int) -> np.ndarray:
    """(out, k) positions of each window on one axis, those in the padding replaced by one inside the same window."""
    position = np.arange(out)[:, None] * s + np.arange(k)[None, :] * d - b
    inside = (position >= 0) & (position < n)
    if not inside.any(axis=1).all():
        raise c.wrong("a pooling window lies entirely in the padding")
    first = position[np.arange(out), inside.argmax(axis=1)]
    return np.where(inside, position, first[:, None])
