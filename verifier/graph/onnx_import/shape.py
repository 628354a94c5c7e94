"""Operators that only rename positions: reshapes, transposes, copies."""

from __future__ import annotations

import math

import numpy as np
import onnx

from verifier.graph.onnx_import.context import Context, Operand, Var, elements
from verifier.graph.onnx_import.logic import converted
from verifier.graph.onnx_import.registry import lowers


@lowers("Identity")
def identity(c: Context) -> Operand:
    """The input itself."""
    return c.value(0)


@lowers("Dropout", since=7)
def dropout(c: Context) -> Operand | tuple[Operand, ...]:
    """Inference form: the input itself. ONNX Runtime's mask is empty before opset 12, and numbers before 10."""
    if c.has(2) and c.const(2, "training_mode").any():
        raise c.refuse("training mode; export the model in evaluation mode")
    x = c.value(0)
    mask = np.full(x.shape, c.opset >= 12, dtype=bool if c.opset >= 10 else np.float64)
    return (x, mask) if c.n_outputs > 1 else x


@lowers("Cast", "CastLike")
def cast(c: Context) -> Operand:
    """To a floating-point type the real number stays; to whole numbers it is rounded towards 0."""
    x = c.x()
    target = onnx.helper.tensor_dtype_to_np_dtype(int(c.attr("to", 1))) if c.op == "Cast" else c.value(1).dtype
    dtype = np.dtype(target)
    if dtype.kind not in "fiub" or (dtype.kind == "f" and dtype.itemsize < 2):  # 8 bits: no rounding to look past
        raise c.refuse(f"conversion of a value to {dtype}")
    return converted(c, x, dtype)


@lowers("Reshape", since=5)
def reshape(c: Context) -> Operand:
    """0 copies a dimension (unless allowzero), -1 is what is left."""
    x = c.x()
    target = [int(size) for size in c.const(1, "shape").reshape(-1)]
    return c.reshape(x, resolve_shape(c, x.shape, target))


def resolve_shape(c: Context, shape: tuple[int, ...], target: list[int]) -> tuple[int, ...]:
    """The target shape of a Reshape in full."""
    if not c.flag("allowzero", False):
        if any(size == 0 and axis >= len(shape) for axis, size in enumerate(target)):
            raise c.wrong(f"Reshape to {target} copies a dimension that {shape} does not have")
        target = [shape[axis] if size == 0 else size for axis, size in enumerate(target)]
    total = elements(shape)
    if target.count(-1) == 1:
        known = math.prod(size for size in target if size != -1)
        if known and total % known == 0:
            target = [total // known if size == -1 else size for size in target]
    if min(target, default=1) < 0 or math.prod(target) != total:
        raise c.wrong(f"Reshape of {shape} to {target} (symbolic dimensions count as 1)")
    return tuple(target)


@lowers("Flatten")
def flatten(c: Context) -> Operand:
    """To a matrix, split at `axis`."""
    x = c.x()
    axis = int(c.attr("axis", 1))
    if not -x.rank <= axis <= x.rank:
        raise c.wrong(f"axis {axis} is out of range for {x.rank} axes")
    axis = axis + x.rank if axis < 0 else axis
    return c.reshape(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


@lowers("Squeeze")
def squeeze(c: Context) -> Operand:
    """Drop axes of size 1."""
    x = c.x()
    given = c.ints(1, "axes")
    axes = c.axes(given, x.rank) if given else [a for a, size in enumerate(x.shape) if size == 1]
    if any(x.shape[axis] != 1 for axis in axes):
        raise c.wrong(f"Squeeze of axes {list(axes)} of shape {x.shape}")
    return c.reshape(x, [size for axis, size in enumerate(x.shape) if axis not in axes])


@lowers("Unsqueeze")
def unsqueeze(c: Context) -> Operand:
    """Insert axes of size 1."""
    x = c.x()
    given = c.ints(1, "axes")
    if given is None:
        raise c.wrong("axes are missing")
    axes = c.axes(given, x.rank + len(given))
    sizes = iter(x.shape)
    return c.reshape(x, [1 if axis in axes else next(sizes) for axis in range(x.rank + len(given))])


@lowers("Transpose")
def transpose(c: Context) -> Operand:
    """Axis permutation, reversed by default."""
    x = c.x()
    perm = [int(axis) for axis in c.attr("perm", range(x.rank - 1, -1, -1))]
    if sorted(perm) != list(range(x.rank)):
        raise c.wrong(f"perm {perm} for {x.rank} axes")
    return c.transpose(x, perm)


@lowers("Expand", since=8)
def expand(c: Context) -> Operand:
    """Two-way broadcasting to a shape."""
    x = c.x()
    target = [int(size) for size in c.const(1, "shape").reshape(-1)]
    c.guard(target)
    return c.broadcast(x, np.broadcast_shapes(x.shape, tuple(target)))


@lowers("Tile", since=6)
def tile(c: Context) -> Operand:
    """Repetition of the whole along every axis."""
    x = c.x()
    repeats = [int(count) for count in c.const(1, "repeats").reshape(-1)]
    if len(repeats) != x.rank or min(repeats, default=0) < 0:
        raise c.wrong(f"repeats {repeats} for shape {x.shape}")
    if 0 in repeats:
        return np.zeros([size * count for size, count in zip(x.shape, repeats, strict=True)])
    for axis, count in enumerate(repeats):
        c.guard((*x.shape[:axis], x.shape[axis] * count, *x.shape[axis + 1 :]))
        x = c.take(x, axis, np.tile(np.arange(x.shape[axis]), count)) if count > 1 else x
    return x


@lowers("DepthToSpace")
def depth_to_space(c: Context) -> Operand:
    """Channels to blocks of pixels."""
    x, block = c.x(), int(c.attr("blocksize", 1))
    batch, channels, height, width = _image(c, x)
    if block < 1 or channels % block**2:
        raise c.wrong(f"blocksize {block} for {channels} channels")
    depth = channels // block**2
    if c.attr("mode", "DCR") == "DCR":
        y = c.transpose(c.reshape(x, (batch, block, block, depth, height, width)), (0, 3, 4, 1, 5, 2))
    else:
        y = c.transpose(c.reshape(x, (batch, depth, block, block, height, width)), (0, 1, 4, 2, 5, 3))
    return c.reshape(y, (batch, depth, height * block, width * block))


@lowers("SpaceToDepth")
def space_to_depth(c: Context) -> Operand:
    """Blocks of pixels to channels."""
    x, block = c.x(), int(c.attr("blocksize", 1))
    batch, channels, height, width = _image(c, x)
    if block < 1 or height % block or width % block:
        raise c.wrong(f"blocksize {block} for an image of {height} x {width}")
    y = c.reshape(x, (batch, channels, height // block, block, width // block, block))
    deep = c.attr("mode", "DCR") == "DCR"
    y = c.transpose(y, (0, 3, 5, 1, 2, 4) if deep else (0, 1, 3, 5, 2, 4))
    return c.reshape(y, (batch, channels * block**2, height // block, width // block))


def _image(c: Context, x: Var) -> tuple[int, int, int, int]:
    if x.rank != 4:
        raise c.wrong(f"expected 4 axes, found {x.rank}")
    return x.shape[0], x.shape[1], x.shape[2], x.shape[3]


@lowers("Shape")
def shape_of(c: Context) -> Operand:
    """Static: symbolic dimensions count as 1."""
    shape = c.value(0).shape
    start, end = c.attr("start", 0), c.attr("end", None)
    return np.asarray(shape[slice(start, end)], dtype=np.int64)


@lowers("Size")
def size_of(c: Context) -> Operand:
    """Number of elements."""
    return np.asarray(elements(c.value(0).shape), dtype=np.int64)
