"""Conv and ConvTranspose in one to three dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verifier.graph.ir import Attribute
from verifier.graph.onnx_import.context import Context, Operand, Var, rounding_params
from verifier.graph.onnx_import.registry import lowers


@lowers("Conv")
def conv(c: Context) -> Operand:
    """Convolution; uneven padding becomes a Pad node."""
    x, weight, bias, off = _operands(c)
    kernel = weight.shape[2:]
    group = int(c.attr("group", 1))
    if group < 1 or x.shape[1] != weight.shape[1] * group or weight.shape[0] % group:
        raise c.wrong(f"weight {weight.shape} and group {group} do not fit {x.shape[1]} channels")
    stride, dilation = spatial(c, "strides", kernel), spatial(c, "dilations", kernel)
    before, after = pads(c, x.shape[2:], kernel, stride, dilation)
    if bias is None or isinstance(bias, np.ndarray):
        return convolve(c, x, weight, bias, stride, dilation, group, before, after, off)
    y = convolve(c, x, weight, None, stride, dilation, group, before, after, off)
    return c.plus(y, c.reshape(bias, (-1, *[1] * len(kernel))))


def convolve(
    c: Context,
    x: Var,
    weight: np.ndarray,
    bias: np.ndarray | None,
    stride: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    before: Sequence[int],
    after: Sequence[int],
    roundings: float = 0.0,
) -> Var:
    """Emit a Conv with any (also negative) padding. `roundings`: see `graph.ir`."""
    if tuple(before) != tuple(after) or min(before) < 0:
        x = c.pad(x, (0, 0, *before), (0, 0, *after))
        before = (0,) * len(before)
    kernel = weight.shape[2:]
    out = [
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip(x.shape[2:], before, dilation, kernel, stride, strict=True)
    ]
    if min(out) < 1:
        raise c.wrong(f"kernel {tuple(kernel)} is larger than the padded input {x.shape[2:]}")
    attrs: dict[str, Attribute] = {
        "stride": tuple(stride),
        "padding": tuple(before),
        "dilation": tuple(dilation),
        "groups": groups,
    }
    params = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    params |= rounding_params(roundings)
    return c.emit("Conv", [x], (x.shape[0], weight.shape[0], *out), params, attrs)


@lowers("ConvTranspose")
def conv_transpose(c: Context) -> Operand:
    """Transposed convolution; what the IR's symmetric padding cannot say becomes Slice and Pad of the full result."""
    x, weight, bias, off = _operands(c)
    if isinstance(bias, Var):
        raise c.refuse("its bias is computed from constants and had to be rounded")
    kernel = weight.shape[2:]
    group = int(c.attr("group", 1))
    if group < 1 or x.shape[1] != weight.shape[0] or weight.shape[0] % group:
        raise c.wrong(f"weight {weight.shape} and group {group} do not fit {x.shape[1]} channels")
    stride, dilation = spatial(c, "strides", kernel), spatial(c, "dilations", kernel)
    full = [(n - 1) * s + d * (k - 1) + 1 for n, s, d, k in zip(x.shape[2:], stride, dilation, kernel, strict=True)]
    begin, out = _transposed_window(c, x.shape[2:], full, stride)
    if min(out) < 1:
        raise c.wrong(f"padding leaves an output of {out}")
    end = [f - b - o for f, b, o in zip(full, begin, out, strict=True)]  # cut at the end; negative: extra room
    extra = [max(0, b - e) for b, e in zip(begin, end, strict=True)]
    channels = weight.shape[1] * group
    params = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    params |= rounding_params(off)
    attrs: dict[str, Attribute] = {"stride": stride, "dilation": dilation, "groups": group}
    fits = all(
        b >= 0 and e <= b and x_ < max(s, d) for b, e, x_, s, d in zip(begin, end, extra, stride, dilation, strict=True)
    )
    if fits:
        attrs |= {"padding": tuple(begin), "output_padding": tuple(extra)}
        return c.emit("ConvTranspose", [x], (x.shape[0], channels, *out), params, attrs)
    attrs |= {"padding": (0,) * len(full), "output_padding": (0,) * len(full)}
    y = c.emit("ConvTranspose", [x], (x.shape[0], channels, *full), {"weight": weight, **rounding_params(off)}, attrs)
    y = c.pad(y, (0, 0, *(-b for b in begin)), (0, 0, *(-e for e in end)))
    return y if bias is None else c.shift(y, bias.reshape(-1, *[1] * len(full)))


def _transposed_window(
    c: Context, size: Sequence[int], full: Sequence[int], stride: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Where the output starts in the full result, and its size, per axis (`output_shape`, `auto_pad`)."""
    rank = len(size)
    auto = c.attr("auto_pad", "NOTSET")
    extra = _per_axis(c, "output_padding", rank, 0)
    shape = c.attr("output_shape")
    given = _per_axis(c, "pads", 2 * rank, 0)
    reach = [f + e for f, e in zip(full, extra, strict=True)]
    if any(not 0 <= e < s for e, s in zip(extra, stride, strict=True)):
        raise c.wrong(f"output_padding {extra} must lie below the stride {tuple(stride)}; ONNX Runtime refuses it, too")
    if shape is None and auto in ("SAME_UPPER", "SAME_LOWER"):
        # a kernel shorter than the stride does not reach n * s, and ONNX Runtime adds no room
        shape = [min(n * s, r) for n, s, r in zip(size, stride, reach, strict=True)]
    if shape is None:
        given = [0] * (2 * rank) if auto == "VALID" else given
        out = [r - b - a for r, b, a in zip(reach, given[:rank], given[rank:], strict=True)]
        return given[:rank], out
    shape = [int(one) for one in shape][-rank:]
    most = [f + s - 1 for f, s in zip(full, stride, strict=True)]
    if len(shape) != rank or any(not 1 <= o <= m for o, m in zip(shape, most, strict=True)):
        raise c.wrong(
            f"output_shape {shape} is not within the {most} that can be reached; ONNX Runtime refuses it, too"
        )
    # never room at the front: a negative total counts as 0, and the rest is room at the end
    total = [max(0, r - o) for r, o in zip(reach, shape, strict=True)]
    upper = auto == "SAME_UPPER"
    return [t // 2 if upper else t - t // 2 for t in total], shape


def spatial(c: Context, name: str, kernel: Sequence[int]) -> tuple[int, ...]:
    """Strides or dilations, one per spatial axis."""
    values = _per_axis(c, name, len(kernel), 1)
    if min(values) < 1:
        raise c.wrong(f"{name} {values} must be positive")
    return tuple(values)


def pads(
    c: Context, size: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after each spatial axis, from `pads` or `auto_pad`."""
    rank = len(kernel)
    auto, given = c.attr("auto_pad", "NOTSET"), _per_axis(c, "pads", 2 * rank, 0)
    if auto == "NOTSET":
        return given[:rank], given[rank:]
    if auto == "VALID":
        return [0] * rank, [0] * rank
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise c.wrong(f"auto_pad {auto!r} is unknown")
    if max(dilation) > 1:
        raise c.refuse(f"auto_pad {auto} with dilations {list(dilation)}, which ONNX Runtime does not compute")
    before, after = [], []
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
        small, large = total // 2, total - total // 2
        before.append(small if auto == "SAME_UPPER" else large)
        after.append(large if auto == "SAME_UPPER" else small)
    return before, after


def _per_axis(c: Context, name: str, count: int, default: int) -> list[int]:
    values = c.attr(name)
    if values is None or len(values) == 0:
        return [default] * count
    if len(values) != count:
        raise c.wrong(f"{name} has {len(values)} entries, expected {count}")
    return [int(value) for value in values]


def _operands(c: Context) -> tuple[Var, np.ndarray, Operand | None, float]:
    """Input, weight, bias (a Var where it had to be rounded), and by how many roundings the weight is off."""
    x, (weight, off) = c.x(0), c.weight(1, "weight")
    bias = c.value(2) if c.has(2) else None
    if isinstance(bias, Var) and bias.name not in c.inexact:
        c.const(2, "bias")  # refuses it
    if x.rank < 3 or x.rank > 5:
        raise c.refuse(f"{x.rank - 2} spatial axes, supported are 1 to 3")
    if weight.ndim != x.rank:
        raise c.wrong(f"weight of shape {weight.shape} for an input of shape {x.shape}")
    declared = c.attr("kernel_shape")
    if declared is not None and tuple(declared) != weight.shape[2:]:
        raise c.wrong(f"kernel_shape {tuple(declared)} differs from the weight's {weight.shape[2:]}")
    return x, weight, bias, off
