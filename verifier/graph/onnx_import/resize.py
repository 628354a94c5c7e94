"""Resize and Upsample: nearest as Take, linear as one small matrix per axis."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verifier.graph.onnx_import.context import Context, Value, Var
from verifier.graph.onnx_import.registry import lowers

_NEAREST: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@lowers("Upsample", since=7)
def upsample(c: Context) -> Value:
    """Before Resize: output position / scale, rounded down."""
    x = c.x()
    given = c.const(1, "scales").reshape(-1).tolist() if c.has(1) else c.attr("scales")
    scales = _check_count(c, [float(one) for one in given or ()], x.rank)
    return _resize(c, x, _scaled(x, scales), scales, "asymmetric", _simple, c.attr("mode", "nearest"))


@lowers("Resize", since=10)
def resize_10(c: Context) -> Value:
    """Opset 10: scales only, positions as Upsample; rounded up where the axis shrinks, as ONNX Runtime does."""
    x = c.x()
    scales = _check_count(c, [float(one) for one in c.const(1, "scales").reshape(-1)], x.rank)
    return _resize(c, x, _scaled(x, scales), scales, "asymmetric", _simple, c.attr("mode", "nearest"))


@lowers("Resize", since=11)
def resize(c: Context) -> Value:
    """Scales or sizes; all coordinate modes but tf_crop_and_resize."""
    x = c.x()
    axes = [c.axis(int(axis), x.rank) for axis in c.attr("axes") or range(x.rank)]
    coordinates = c.attr("coordinate_transformation_mode", "half_pixel")
    if c.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise c.refuse("keep_aspect_ratio_policy")
    if c.attr("antialias", 0):
        raise c.refuse("antialias")
    nearest = _NEAREST.get(c.attr("nearest_mode", "round_prefer_floor"))
    if nearest is None:
        raise c.wrong(f"nearest_mode {c.attr('nearest_mode')!r} is unknown")
    sizes = c.ints(3, "sizes") if c.has(3) else None
    scales = [1.0] * x.rank
    if sizes:
        out = list(x.shape)
        for axis, size in zip(axes, _check_count(c, sizes, len(axes)), strict=True):
            out[axis] = int(size)
            scales[axis] = float(np.float32(size) / np.float32(x.shape[axis]))
    else:
        given = c.const(2, "scales").reshape(-1).tolist() if c.has(2) else []
        for axis, scale in zip(axes, _check_count(c, given, len(axes)), strict=True):
            scales[axis] = float(scale)
        out = _scaled(x, scales)
    rule = lambda position, scale: nearest(position)  # noqa: E731
    return _resize(c, x, out, scales, coordinates, rule, c.attr("mode", "nearest"))


def _simple(position: np.ndarray, scale: float) -> np.ndarray:
    return np.ceil(position) if scale < 1 else np.floor(position)


def _check_count(c: Context, values: list, count: int) -> list:
    if len(values) != count or any(not one > 0 for one in values):
        raise c.wrong(f"{values} are not {count} positive numbers")
    return values


def _scaled(x: Var, scales: list[float]) -> list[int]:
    """Output sizes; the product is taken in float32, as runtimes do, which decides cases like 3 * float32(1/3)."""
    return [int(np.floor(np.float32(size) * np.float32(scale))) for size, scale in zip(x.shape, scales, strict=True)]


def _resize(
    c: Context, x: Var, out: list[int], scales: list[float], coordinates: str, nearest: Callable, mode: str
) -> Var:
    if mode not in ("nearest", "linear"):
        raise c.refuse(f"mode {mode!r}; supported are nearest and linear")
    c.guard(out)
    if min(out) < 1:
        raise c.wrong(f"Resize of {x.shape} to {out}")
    for axis, (size, scale) in enumerate(zip(out, scales, strict=True)):
        before = x.shape[axis]
        if size == before and scale == 1:
            continue
        position = _original(c, np.arange(size, dtype=np.float32), np.float32(scale), before, size, coordinates)
        if mode == "nearest":
            indices = np.clip(nearest(position, scale), 0, before - 1).astype(np.int64)
            x = c.take(x, axis, indices)
        else:
            x = _linear(c, x, axis, np.clip(position, 0, before - 1).astype(np.float64))
    return x


def _original(c: Context, out: np.ndarray, scale: np.float32, before: int, after: int, mode: str) -> np.ndarray:
    """Position in the input of each output position, in float32 as ONNX Runtime computes it."""
    one, half = np.float32(1), np.float32(0.5)
    if mode == "asymmetric":
        return out / scale
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and after > 1):
        return (out + half) / scale - half
    if mode == "pytorch_half_pixel":
        return np.zeros_like(out)
    if mode == "tf_half_pixel_for_nn":
        return (out + half) / scale
    if mode == "align_corners":
        return out * np.float32(before - 1) / np.float32(after - 1) if after > 1 else np.zeros_like(out)
    if mode == "half_pixel_symmetric":
        # centre of the output lies on the centre of the input even where the scale does not divide evenly
        adjustment = np.float32(after) / (scale * np.float32(before))
        centre = np.float32(before) / np.float32(2)
        return centre * (one - adjustment) + (out + half) / scale - half
    raise c.refuse(f"coordinate_transformation_mode {mode!r}")


def _linear(c: Context, x: Var, axis: int, position: np.ndarray) -> Var:
    """Interpolation between two neighbours along one axis, as a Dense on that axis."""
    size = x.shape[axis]
    low = np.floor(position).astype(np.int64)
    high = np.minimum(low + 1, size - 1)
    weight = np.zeros((len(position), size))
    rows = np.arange(len(position))
    np.add.at(weight, (rows, low), 1.0 - (position - low))
    np.add.at(weight, (rows, high), position - low)
    perm = [*range(axis), *range(axis + 1, x.rank), axis]
    back = [*range(axis), x.rank - 1, *range(axis, x.rank - 1)]
    return c.transpose(c.dense(c.transpose(x, perm), weight), back)
