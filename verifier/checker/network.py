"""From an ONNX file to the checker's operators: its own reader, of the original file.

Constants are only moved, never computed with, so every stored weight enters the bounds as the number in the file. A
batch dimension without a size counts as 1.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from verifier.checker.curves import AnyOperator, Largest, Piecewise, Sigmoid, Square
from verifier.checker.errors import Unreadable
from verifier.checker.linear import Arrange, Arranged, Conv, Dense, Shape
from vnnlib import Limits, VnnLibError
from vnnlib.source import read_file

MOST_BYTES = 1 << 30
MOST_ELEMENTS = 1 << 26

OPSETS = range(7, 29)
"""Versions of the standard; in older ones sums and products line up in other ways."""

ATTRIBUTES = {
    "AveragePool": "auto_pad ceil_mode count_include_pad dilations kernel_shape pads strides",
    "BatchNormalization": "epsilon momentum spatial training_mode",
    "Cast": "to",
    "Clip": "max min",
    "Concat": "axis",
    "Constant": "value value_float value_floats value_int value_ints",
    "Conv": "auto_pad dilations group kernel_shape pads strides",
    "Dropout": "ratio seed",
    "Flatten": "axis",
    "Gemm": "alpha beta transA transB",
    "LeakyRelu": "alpha",
    "MaxPool": "auto_pad ceil_mode dilations kernel_shape pads storage_order strides",
    "Reshape": "allowzero",
    "Slice": "axes ends starts",
    "Squeeze": "axes",
    "Transpose": "perm",
    "Unsqueeze": "axes",
}
"""What the operators' rules know of; others are refused, as they may change what an operator computes."""

_Value = int | np.ndarray  # the number of a computed value, or a constant


@dataclass
class CheckedNetwork:
    """`nodes[v]` makes value v from earlier ones (`nodes[0]` is None: the flat input (n,)); `output` is the flat output
    (m,); `shapes[v]` without the batch axis; `tensors` are the values of the ONNX tensors by name; `dtypes` says the
    numpy type of every input coordinate."""

    nodes: list[AnyOperator | None]
    shapes: list[tuple[int, ...]]
    output: int
    tensors: dict[str, int]
    dtypes: list[tuple[int, np.dtype]]
    digest: bytes

    @property
    def inputs(self) -> int:
        return self.shapes[0][0]

    @property
    def outputs(self) -> int:
        return self.shapes[self.output][0]

    def argument(self, v: int) -> int:
        """The value that operator v reads first."""
        node = self.nodes[v]
        assert node is not None  # value 0 alone is made by none
        return node.sources[0]


def read_bytes(path: str | Path) -> bytes:
    """A file, unpacked if it is gzipped (decided by content); PATH.gz where PATH does not exist.

    Raises:
        Unreadable: no such file, damaged, or larger than 1 GiB.
    """
    try:
        return bytes(read_file(path, Limits(max_bytes=MOST_BYTES))[0])
    except VnnLibError as error:
        raise Unreadable(str(error)) from None


def read_network(path: str | Path) -> CheckedNetwork:
    """Reads an ONNX file.

    Raises:
        Unreadable: the file is damaged, or the network has an operator that this checker does not know.
    """
    data = read_bytes(path)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        network = _Reader(model).read()
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}") from None
    except Exception as error:  # protobuf and numpy raise anything on damaged files
        raise Unreadable(f"{path}: not a usable ONNX model: {type(error).__name__}: {error}") from None
    network.digest = hashlib.sha256(data).digest()
    return network


@dataclass
class _Reader:
    model: onnx.ModelProto
    values: dict[str, _Value] = field(default_factory=dict)
    nodes: list[AnyOperator | None] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)

    def read(self) -> CheckedNetwork:
        graph = self.model.graph
        self.opset = max([o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx")], default=0)
        if not self.opset or not graph.output:
            raise Unreadable("no ONNX model, or one without outputs")
        if self.opset not in OPSETS or self.model.functions:
            raise Unreadable(f"opset {self.opset}, or functions of its own; known are opsets 7 to 28 without")
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise Unreadable(f"weight '{tensor.name}' lies in another file; this checker reads one file")
            self.values[tensor.name] = _finite(numpy_helper.to_array(tensor), tensor.name)
        inputs = [i for i in graph.input if i.name not in self.values]
        shapes = [_declared(i) for i in inputs]
        sizes = [math.prod(shape) for shape in shapes]
        self.nodes.append(None)
        self.shapes.append((sum(sizes),))
        at = 0
        for info, shape, size in zip(inputs, shapes, sizes, strict=True):
            self.values[info.name] = self.arrange(info.name, shape, (0,), (np.arange(at, at + size),))
            at += size
        for node in graph.node:
            if node.domain not in ("", "ai.onnx"):
                raise Unreadable(f"this checker does not know operator {node.domain}.{node.op_type}")
            self.step(node)
        parts = []
        for info in graph.output:
            value = self.values.get(info.name)
            if not isinstance(value, int):
                raise Unreadable(f"output '{info.name}' is a constant or is missing")
            parts.append(_value(self.moved(info.name, value, np.ravel)))
        output = parts[0] if len(parts) == 1 else self.joined("", parts, 0)
        tensors = {name: v for name, v in self.values.items() if isinstance(v, int)}
        kinds = [np.dtype(onnx.helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type)) for i in inputs]
        return CheckedNetwork(self.nodes, self.shapes, output, tensors, list(zip(sizes, kinds, strict=True)), b"")

    def step(self, node: onnx.NodeProto) -> None:
        name = node.name or (node.output[0] if node.output else "?")
        rule = getattr(self, f"op_{node.op_type.lower()}", None)
        if rule is None:
            raise Unreadable(f"this checker does not know operator {node.op_type} (node '{name}')")
        for x in node.input:
            if x and x not in self.values:
                raise Unreadable(f"node '{name}' reads '{x}', which nothing before it makes")
        extra = [o for o in node.output[1:] if o]
        if extra and node.op_type not in ("Dropout", "BatchNormalization"):
            raise Unreadable(f"node '{name}' ({node.op_type}) has several outputs")
        xs = [self.values[x] if x else None for x in node.input]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        unknown = attributes.keys() - ATTRIBUTES.get(node.op_type, "").split()
        if unknown:
            raise Unreadable(
                f"node '{name}' ({node.op_type}) has attributes {sorted(unknown)}, unknown to this checker"
            )
        try:
            result = rule(name, xs, attributes)
        except Unreadable as error:
            raise Unreadable(f"node '{name}' ({node.op_type}): {error}") from None
        self.values[node.output[0]] = result

    def add(self, node: AnyOperator) -> int:
        _bounded(node.shape)
        self.nodes.append(node)
        self.shapes.append(node.shape)
        return len(self.nodes) - 1

    def arrange(self, name: str, shape: Shape, sources: tuple[int, ...], *parts: tuple, **more: Any) -> int:
        """A sum of values, each with (index, factor, place): see `Arranged`."""
        whole = [Arranged(self.shapes[s], *p) for s, p in zip(sources, parts, strict=True)]
        return self.add(Arrange(sources, tuple(shape), name, tuple(whole), **more))

    def moved(self, name: str, x: _Value, move: Any) -> _Value:
        """An operation that only moves elements, of a constant or a value."""
        if isinstance(x, np.ndarray):
            return np.asarray(move(x))
        index = np.asarray(move(np.arange(math.prod(self.shapes[x])).reshape(self.shapes[x])))
        _bounded(index.shape)
        return self.arrange(name, index.shape, (x,), (index.reshape(-1),))

    def spread_to(self, x: int, shape: Shape, name: str) -> int:
        return x if self.shapes[x] == shape else _value(self.moved(name, x, lambda t: np.broadcast_to(t, shape)))

    # operators that move elements

    def op_identity(self, name: str, xs: list, a: dict) -> _Value:
        return xs[0]

    def op_dropout(self, name: str, xs: list, a: dict) -> _Value:
        if len(xs) > 2 and xs[2] is not None and bool(np.any(_constant(xs[2]))):
            raise Unreadable("training mode")
        return xs[0]

    def op_cast(self, name: str, xs: list, a: dict) -> _Value:
        """To a floating-point type a value over the reals stays what it is; a constant is rounded."""
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(a["to"]))
        if kind.kind != "f":
            raise Unreadable(f"a cast to {kind}")
        return xs[0] if isinstance(xs[0], int) else _finite(_constant(xs[0]).astype(kind), name)

    def op_constant(self, name: str, xs: list, a: dict) -> _Value:
        if "value" in a:
            return _finite(numpy_helper.to_array(a["value"]), name)
        kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        for key, kind in kinds.items():
            if key in a:
                return _finite(np.asarray(a[key], kind), name)
        raise Unreadable("a constant that is no number")

    def op_reshape(self, name: str, xs: list, a: dict) -> _Value:
        def reshaped(t: np.ndarray) -> np.ndarray:
            target = [int(d) for d in _constant(xs[1])]
            return t.reshape([t.shape[i] if d == 0 and not a.get("allowzero", 0) else d for i, d in enumerate(target)])

        return self.moved(name, xs[0], reshaped)

    def op_flatten(self, name: str, xs: list, a: dict) -> _Value:
        def flat(t: np.ndarray) -> np.ndarray:
            axis = a.get("axis", 1) + (t.ndim if a.get("axis", 1) < 0 else 0)
            return t.reshape(math.prod(t.shape[:axis]), -1)

        return self.moved(name, xs[0], flat)

    def op_transpose(self, name: str, xs: list, a: dict) -> _Value:
        return self.moved(name, xs[0], lambda t: t.transpose(a.get("perm") or tuple(range(t.ndim))[::-1]))

    def op_squeeze(self, name: str, xs: list, a: dict) -> _Value:
        axes = a.get("axes") or _numbers_at(xs, 1)
        return self.moved(name, xs[0], lambda t: t.squeeze(tuple(axes) if axes else None))

    def op_unsqueeze(self, name: str, xs: list, a: dict) -> _Value:
        axes = tuple(a.get("axes") or _numbers_at(xs, 1) or ())
        return self.moved(name, xs[0], lambda t: np.expand_dims(t, axes))

    def op_slice(self, name: str, xs: list, a: dict) -> _Value:
        keys = ("starts", "ends", "axes", "steps")
        starts, ends, axes, steps = (a.get(key, _numbers_at(xs, k + 1)) for k, key in enumerate(keys))
        if starts is None or ends is None:
            raise Unreadable("no starts or no ends")
        axes = list(range(len(starts))) if axes is None else axes
        steps = [1] * len(starts) if steps is None else steps

        def cut(t: np.ndarray) -> np.ndarray:
            place: list[slice] = [slice(None)] * t.ndim
            for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
                size = t.shape[axis]
                if step == 0:
                    raise Unreadable("a step of 0")
                start, end = (v + size if v < 0 else v for v in (start, end))
                if step > 0:
                    place[axis] = slice(min(max(start, 0), size), min(max(end, 0), size), step)
                else:
                    start, end = min(max(start, 0), size - 1), min(max(end, -1), size - 1)
                    place[axis] = slice(start, None if end < 0 else end, step)
            return t[tuple(place)]

        return self.moved(name, xs[0], cut)

    def op_concat(self, name: str, xs: list, a: dict) -> _Value:
        if all(isinstance(x, np.ndarray) for x in xs):
            return np.concatenate(xs, a["axis"])
        if any(isinstance(x, np.ndarray) for x in xs):
            raise Unreadable("constants beside values are not supported")
        return self.joined(name, xs, a["axis"])

    def joined(self, name: str, xs: list[int], axis: int) -> int:
        """Values one after the other along an axis."""
        ids, at = [], 0
        for x in xs:
            ids.append(at + np.arange(math.prod(self.shapes[x])).reshape(self.shapes[x]))
            at += ids[-1].size
        whole = np.concatenate(ids, axis)
        order = np.argsort(whole, None)  # where each element went
        places = np.split(order, np.cumsum([i.size for i in ids])[:-1])
        return self.arrange(name, whole.shape, tuple(xs), *((None, None, place) for place in places))

    # sums and products

    def op_add(self, name: str, xs: list, a: dict, sign: float = 1.0) -> _Value:
        x, y = xs
        signs = None, None if sign == 1 else np.array(sign)
        if isinstance(x, int) and isinstance(y, int):
            shape = np.broadcast_shapes(self.shapes[x], self.shapes[y])
            sources = self.spread_to(x, shape, name), self.spread_to(y, shape, name)
            return self.arrange(name, shape, sources, *((None, factor) for factor in signs))
        value, constant, factor = (x, sign * _numbers(y), None) if isinstance(x, int) else (y, _numbers(x), signs[1])
        shape = np.broadcast_shapes(self.shapes[_value(value)], constant.shape)
        offset = _full(constant, shape)
        return self.arrange(name, shape, (self.spread_to(value, shape, name),), (None, factor), offset=offset)

    def op_sub(self, name: str, xs: list, a: dict) -> _Value:
        return self.op_add(name, xs, a, -1.0)

    def op_neg(self, name: str, xs: list, a: dict) -> _Value:
        return self.scaled(name, xs[0], np.array(-1.0))

    def scaled(self, name: str, x: _Value, factor: np.ndarray, inexact: int = 0) -> int:
        """A value times a constant that is the result of so many roundings."""
        shape = np.broadcast_shapes(self.shapes[_value(x)], _finite(factor, name).shape)
        flat = factor.reshape(()) if factor.size == 1 else np.broadcast_to(factor, shape).reshape(-1)
        source = self.spread_to(_value(x), shape, name)
        return self.arrange(name, shape, (source,), (None, flat), inexact=inexact)

    def op_mul(self, name: str, xs: list, a: dict) -> _Value:
        x, y = xs if isinstance(xs[0], int) else xs[::-1]
        return self.product(name, x, y) if isinstance(y, int) else self.scaled(name, x, _numbers(y))

    def product(self, name: str, x: _Value, y: _Value) -> int:
        """x y = ((x + y)^2 - (x - y)^2) / 4, over the reals."""
        if x == y:
            return self.add(Square((_value(x),), self.shapes[_value(x)], name))
        sides = [_value(self.op_add(name, [x, y], {}, sign)) for sign in (1.0, -1.0)]
        squares = [self.add(Square((side,), self.shapes[side], name)) for side in sides]
        return self.scaled(name, self.op_sub(name, squares, {}), np.array(0.25))

    def op_pow(self, name: str, xs: list, a: dict) -> _Value:
        if _constant(xs[1]).size != 1 or _constant(xs[1]).reshape(()) != 2:
            raise Unreadable("a power other than 2 is not known to this checker")
        return self.product(name, xs[0], xs[0])

    def op_div(self, name: str, xs: list, a: dict) -> _Value:
        divisor = _numbers(xs[1])
        if (np.abs(divisor) < 1e-300).any():
            raise Unreadable("division by 0, or nearly")
        return self.scaled(name, xs[0], 1.0 / divisor, 1)

    def op_matmul(self, name: str, xs: list, a: dict) -> _Value:
        x, weight = xs
        if isinstance(x, np.ndarray) and isinstance(weight, int) and x.ndim == 2 and len(self.shapes[weight]) in (1, 2):
            # W x = (x^T W^T)^T
            turned = self.op_matmul(name, [self.moved(name, weight, np.transpose), x.T], a)
            return self.moved(name, turned, np.transpose)
        weight = _numbers(weight)
        if weight.ndim not in (1, 2):
            raise Unreadable("only value x constant matrix is known to this checker")
        matrix = weight.reshape(len(weight), -1)
        if self.shapes[_value(x)][-1:] != matrix.shape[:1]:
            raise Unreadable(f"a value of shape {self.shapes[_value(x)]} does not fit a matrix {weight.shape}")
        dense = self.add(Dense((_value(x),), (*self.shapes[_value(x)][:-1], matrix.shape[1]), name, matrix))
        return dense if weight.ndim == 2 else self.moved(name, dense, lambda t: t[..., 0])

    def op_gemm(self, name: str, xs: list, a: dict) -> _Value:
        x = self.moved(name, _value(xs[0]), np.transpose) if a.get("transA", 0) else xs[0]
        weight = np.ascontiguousarray(_numbers(xs[1]).T) if a.get("transB", 0) else xs[1]
        product = self.op_matmul(name, [x, weight], {})
        if a.get("alpha", 1.0) != 1.0:
            product = self.scaled(name, product, np.array(float(a["alpha"])))
        if len(xs) < 3 or xs[2] is None or a.get("beta", 1.0) == 0.0:
            return product
        if a.get("beta", 1.0) != 1.0:
            raise Unreadable("beta other than 0 or 1 is not supported")
        return self.op_add(name, [product, xs[2]], {})

    def op_conv(self, name: str, xs: list, a: dict) -> _Value:
        conv = self.convolution(name, xs[0], _numbers(xs[1]), a, a.get("group", 1))
        if len(xs) > 2 and xs[2] is not None:
            offset = _numbers(xs[2]).reshape(1, -1, 1, 1)
            node = self.nodes[conv]
            assert isinstance(node, Conv)
            node.offset = np.broadcast_to(offset, self.shapes[conv])
        return conv

    def convolution(self, name: str, x: _Value, weight: np.ndarray, a: dict, groups: int, inexact: int = 0) -> int:
        shape = self.picture(x)
        o, per, h, w = weight.shape
        if per * groups != shape[1] or o % groups:
            raise Unreadable(f"{shape[1]} channels do not fit weights {weight.shape} in {groups} groups")
        if tuple(a.get("kernel_shape", (h, w))) != (h, w):
            raise Unreadable(f"a kernel of {a['kernel_shape']} for weights {weight.shape}")
        pads, strides, dilations, grid = self.grid(a, shape[2:], (h, w))
        conv = Conv((_value(x),), (1, o, *grid), name, weight, shape, pads, strides, dilations, groups, inexact=inexact)
        return self.add(conv)

    def picture(self, x: _Value) -> Shape:
        """(1, C, H, W)"""
        shape = self.shapes[_value(x)]
        if len(shape) != 4 or shape[0] != 1:
            raise Unreadable("only two-dimensional windows over one picture are known to this checker")
        return shape

    def grid(self, a: dict, size: Shape, kernel: Shape) -> tuple[Any, Any, Any, tuple[int, int]]:
        """Pads, strides and dilations of windows over a picture, and how many windows there are, (H', W')."""
        strides, dilations = tuple(a.get("strides", (1, 1))), tuple(a.get("dilations", (1, 1)))
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
        kind, pads = a.get("auto_pad", b"NOTSET").decode(), tuple(a.get("pads", (0, 0, 0, 0)))
        if kind in ("SAME_UPPER", "SAME_LOWER"):
            total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(size, strides, reach, strict=True)]
            less, more = [t // 2 for t in total], [t - t // 2 for t in total]
            pads = (*less, *more) if kind == "SAME_UPPER" else (*more, *less)
        elif kind not in ("NOTSET", "", "VALID"):
            raise Unreadable(f"auto_pad {kind}")
        pads = (0, 0, 0, 0) if kind == "VALID" else pads
        room = [size[k] + pads[k] + pads[k + 2] - reach[k] for k in (0, 1)]
        if min(room) < 0 or min(pads) < 0 or min(*strides, *dilations) < 1:
            raise Unreadable("an empty or cropping window")
        return pads, strides, dilations, (room[0] // strides[0] + 1, room[1] // strides[1] + 1)

    def op_batchnormalization(self, name: str, xs: list, a: dict) -> _Value:
        scale, bias, mean, variance = (_numbers(t) for t in xs[1:5])
        if a.get("training_mode", 0) or not a.get("spatial", 1) or (variance + a.get("epsilon", 1e-5) <= 0).any():
            raise Unreadable("training mode, per-activation statistics, or a variance that is not positive")
        shape = (1, -1, *(1,) * (len(self.shapes[_value(xs[0])]) - 2))
        # x - mean, then a factor with three roundings (sum, root, quotient), then the bias
        centred = self.op_add(name, [xs[0], -mean.reshape(shape)], {})
        factor = scale / np.sqrt(variance + a.get("epsilon", float(np.float32(1e-5))))
        return self.op_add(name, [self.scaled(name, centred, factor.reshape(shape), 4), bias.reshape(shape)], {})

    # pooling

    def op_maxpool(self, name: str, xs: list, a: dict) -> _Value:
        _, c, height, width = self.picture(xs[0])
        if a.get("ceil_mode", 0) or a.get("storage_order", 0):
            raise Unreadable("ceil_mode and storage_order are not known")
        pads, strides, dilations, (high, wide) = self.grid(a, (height, width), tuple(a["kernel_shape"]))
        # (H', W', k): the element under each place of a window, and whether it lies in the picture
        i, j = (
            (np.arange(n)[:, None] * strides[k] - pads[k] + np.arange(a["kernel_shape"][k]) * dilations[k])
            for k, n in enumerate((high, wide))
        )
        row, column = i[:, None, :, None], j[None, :, None, :]
        inside = ((row >= 0) & (row < height) & (column >= 0) & (column < width)).reshape(high, wide, -1)
        if not inside.any(-1).all():
            raise Unreadable("a window without any element")
        flat = (np.clip(row, 0, height - 1) * width + np.clip(column, 0, width - 1)).reshape(high, wide, -1)
        # a window at the border takes one of its own elements twice, which changes no maximum
        flat = np.where(inside, flat, np.take_along_axis(flat, inside.argmax(-1)[..., None], -1))
        index = (np.arange(c)[:, None, None, None] * height * width + flat)[None]
        parts = self.arrange(name, index.shape, (_value(xs[0]),), (index.reshape(-1),))
        return self.add(Largest((parts,), index.shape[:-1], name))

    def op_averagepool(self, name: str, xs: list, a: dict) -> _Value:
        _, c, height, width = self.picture(xs[0])
        kernel = tuple(a["kernel_shape"])
        pads, *_ = self.grid(a, (height, width), kernel)
        if a.get("ceil_mode", 0) or (any(pads) and not a.get("count_include_pad", 0)):
            raise Unreadable("ceil_mode, or padding that is not counted")
        return self.convolution(name, xs[0], np.full((c, 1, *kernel), 1.0 / math.prod(kernel)), a, c, 1)

    def op_globalaveragepool(self, name: str, xs: list, a: dict) -> _Value:
        return self.op_averagepool(name, xs, {"kernel_shape": self.picture(xs[0])[2:]})

    # functions

    def curve(self, name: str, x: _Value, **parts: float) -> int:
        return self.add(Piecewise((_value(x),), self.shapes[_value(x)], name, **parts))

    def op_relu(self, name: str, xs: list, a: dict) -> _Value:
        return self.curve(name, xs[0])

    def op_leakyrelu(self, name: str, xs: list, a: dict) -> _Value:
        leak = float(a.get("alpha", np.float32(0.01)))
        if not 0 <= leak <= 1:
            raise Unreadable(f"a slope of {leak}, expected one in [0, 1]")
        return self.curve(name, xs[0], leak=leak)

    def op_clip(self, name: str, xs: list, a: dict) -> _Value:
        ends = [float(a.get("min", -math.inf)), float(a.get("max", math.inf))]
        for k in (1, 2):
            if len(xs) > k and xs[k] is not None:
                ends[k - 1] = float(_constant(xs[k]).reshape(()))
        if not ends[0] <= ends[1]:
            raise Unreadable(f"limits {ends}")
        return self.curve(name, xs[0], floor=ends[0], ceiling=ends[1])

    def op_sigmoid(self, name: str, xs: list, a: dict) -> _Value:
        return self.add(Sigmoid((_value(xs[0]),), self.shapes[_value(xs[0])], name))

    def op_tanh(self, name: str, xs: list, a: dict) -> _Value:
        twice = self.scaled(name, xs[0], np.array(2.0))
        return self.op_add(name, [self.scaled(name, self.op_sigmoid(name, [twice], a), np.array(2.0)), -np.ones(1)], {})


def _declared(info: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in info.type.tensor_type.shape.dim]
    shape = tuple(1 if i == 0 and d <= 0 else d for i, d in enumerate(dims))
    if any(d <= 0 for d in shape) or math.prod(shape) > MOST_ELEMENTS:
        raise Unreadable(f"input '{info.name}' has no usable shape: {dims}")
    return shape


def _bounded(shape: Shape) -> None:
    if math.prod(shape) > MOST_ELEMENTS:
        raise Unreadable(f"{math.prod(shape)} elements, this checker takes at most {MOST_ELEMENTS}")


def _finite(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Unreadable(f"constant '{name}' holds NaN or infinity")
    return array


def _numbers(x: Any) -> np.ndarray:
    """A constant in float64, which holds every number of the smaller types."""
    x = _constant(x)
    if x.dtype not in (np.float16, np.float32, np.float64):
        raise Unreadable(f"numbers of type {x.dtype}")
    return x.astype(np.float64)


def _constant(x: Any) -> np.ndarray:
    if not isinstance(x, np.ndarray):
        raise Unreadable("a computed value where a constant is expected")
    return x


def _numbers_at(xs: list, k: int) -> list[int] | None:
    """The whole numbers of constant input k, None where there is none."""
    return [int(i) for i in _constant(xs[k])] if len(xs) > k and xs[k] is not None else None


def _value(x: Any) -> int:
    if not isinstance(x, int):
        raise Unreadable("a constant where a computed value is expected")
    return x


def _full(constant: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
