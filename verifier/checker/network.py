"""From an ONNX file to the checker's operators: its own reader, of the original file.

Constants are only moved, never computed with, so every stored weight enters the bounds as the number in the file. A
batch dimension without a size counts as 1.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from verifier.checker.errors import Unreadable
from verifier.checker.ops import (
    Affine,
    AnyOperator,
    Concat,
    Conv,
    Dense,
    Largest,
    Piecewise,
    Sigmoid,
    Square,
    Take,
    Total,
)

MOST_BYTES = 1 << 30
MOST_ELEMENTS = 1 << 26

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


def read_bytes(path: str | Path) -> bytes:
    """A file, unpacked if it is gzipped (decided by content); PATH.gz where PATH does not exist.

    Raises:
        Unreadable: no such file, damaged, or larger than 1 GiB.
    """
    path = Path(path)
    if not path.exists():
        path = path.with_name(path.name + ".gz")
    try:
        with path.open("rb") as stream:
            data = stream.read(MOST_BYTES + 1)
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
                data = packed.read(MOST_BYTES + 1)
    except (OSError, EOFError) as error:
        raise Unreadable(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except Exception as error:  # zlib.error
        raise Unreadable(f"{path}: damaged gzip data: {error}") from None
    if len(data) > MOST_BYTES:
        raise Unreadable(f"{path}: more than {MOST_BYTES} bytes")
    return data


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
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise Unreadable(f"weight '{tensor.name}' lies in another file; this checker reads one file")
            self.values[tensor.name] = _finite(numpy_helper.to_array(tensor), tensor.name)
        inputs = [i for i in graph.input if i.name not in self.values]
        shapes = [_declared(i) for i in inputs]
        sizes = [math.prod(shape) for shape in shapes]
        self.nodes.append(None)
        self.shapes.append((sum(sizes),))
        at, tensors = 0, {}
        dtypes = []
        for info, shape, size in zip(inputs, shapes, sizes, strict=True):
            index = np.arange(at, at + size)
            at += size
            self.values[info.name] = self.take(index, shape, 0, info.name)
            dtypes.append((size, np.dtype(onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))))
        for node in graph.node:
            if node.domain not in ("", "ai.onnx"):
                raise Unreadable(f"this checker does not know operator {node.domain}.{node.op_type}")
            self.step(node)
        parts = []
        for info in graph.output:
            value = self.values.get(info.name)
            if not isinstance(value, int):
                raise Unreadable(f"output '{info.name}' is a constant or is missing")
            size = math.prod(self.shapes[value])
            parts.append(self.take(np.arange(size), (size,), value, info.name))
        lengths = tuple(self.shapes[p][0] for p in parts)
        output = parts[0] if len(parts) == 1 else self.add(Concat(tuple(parts), (sum(lengths),), "", 0, lengths))
        tensors = {name: v for name, v in self.values.items() if isinstance(v, int)}
        return CheckedNetwork(self.nodes, self.shapes, output, tensors, dtypes, b"")

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
        try:
            result = rule(name, xs, attributes)
        except Unreadable as error:
            raise Unreadable(f"node '{name}' ({node.op_type}): {error}") from None
        if not isinstance(result, np.ndarray) and math.prod(self.shapes[result]) > MOST_ELEMENTS:
            raise Unreadable(f"node '{name}' makes more than {MOST_ELEMENTS} elements")
        self.values[node.output[0]] = result

    def add(self, node: AnyOperator) -> int:
        self.nodes.append(node)
        self.shapes.append(node.shape)
        return len(self.nodes) - 1

    def take(self, index: np.ndarray, shape: tuple[int, ...], source: int, name: str) -> int:
        return self.add(Take((source,), tuple(shape), name, index=index, source_shape=self.shapes[source]))

    def moved(self, name: str, x: _Value, move: Any) -> _Value:
        """An operation that only moves elements, of a constant or a value."""
        if isinstance(x, np.ndarray):
            return np.asarray(move(x))
        index = np.asarray(move(np.arange(math.prod(self.shapes[x])).reshape(self.shapes[x])))
        return self.take(index, index.shape, x, name)

    def spread_to(self, x: int, shape: tuple[int, ...], name: str) -> int:
        return x if self.shapes[x] == shape else int(self.moved(name, x, lambda t: np.broadcast_to(t, shape)))  # type: ignore[arg-type]

    # operators that move elements

    def op_identity(self, name: str, xs: list, a: dict) -> _Value:
        return xs[0]

    def op_dropout(self, name: str, xs: list, a: dict) -> _Value:
        if len(xs) > 2 and xs[2] is not None and bool(np.any(_constant(xs[2]))):
            raise Unreadable("training mode")
        return xs[0]

    def op_constant(self, name: str, xs: list, a: dict) -> _Value:
        if "value" in a:
            return _finite(numpy_helper.to_array(a["value"]), name)
        kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        for key, kind in kinds.items():
            if key in a:
                return _finite(np.asarray(a[key], kind), name)
        raise Unreadable("a constant that is no number")

    def op_reshape(self, name: str, xs: list, a: dict) -> _Value:
        target = [int(d) for d in _constant(xs[1])]
        shape = xs[0].shape if isinstance(xs[0], np.ndarray) else self.shapes[xs[0]]
        if not a.get("allowzero", 0):
            target = [shape[i] if d == 0 else d for i, d in enumerate(target)]
        return self.moved(name, xs[0], lambda t: t.reshape(target))

    def op_flatten(self, name: str, xs: list, a: dict) -> _Value:
        def flat(t: np.ndarray) -> np.ndarray:
            axis = a.get("axis", 1) % (t.ndim + 1) if a.get("axis", 1) < 0 else a.get("axis", 1)
            return t.reshape(math.prod(t.shape[:axis]), -1)

        return self.moved(name, xs[0], flat)

    def op_transpose(self, name: str, xs: list, a: dict) -> _Value:
        return self.moved(name, xs[0], lambda t: t.transpose(a.get("perm") or tuple(range(t.ndim))[::-1]))

    def op_squeeze(self, name: str, xs: list, a: dict) -> _Value:
        axes = a.get("axes") or ([int(i) for i in _constant(xs[1])] if len(xs) > 1 else None)
        return self.moved(name, xs[0], lambda t: t.squeeze(None if axes is None else tuple(axes)))

    def op_unsqueeze(self, name: str, xs: list, a: dict) -> _Value:
        axes = tuple(a.get("axes") or [int(i) for i in _constant(xs[1])])
        return self.moved(name, xs[0], lambda t: np.expand_dims(t, axes))

    def op_slice(self, name: str, xs: list, a: dict) -> _Value:
        if "starts" in a:
            starts, ends, axes, steps = a["starts"], a["ends"], a.get("axes"), None
        else:
            starts, ends, axes, steps = (
                [int(i) for i in _constant(xs[k])] if len(xs) > k and xs[k] is not None else None for k in range(1, 5)
            )
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
        shapes = [self.shapes[x] for x in xs]
        axis = a["axis"] % len(shapes[0])
        if any(s[:axis] + s[axis + 1 :] != shapes[0][:axis] + shapes[0][axis + 1 :] for s in shapes):
            raise Unreadable(f"shapes {shapes} do not fit")
        lengths = tuple(s[axis] for s in shapes)
        shape = (*shapes[0][:axis], sum(lengths), *shapes[0][axis + 1 :])
        return self.add(Concat(tuple(xs), shape, name, axis, lengths))

    # sums and products

    def op_add(self, name: str, xs: list, a: dict, sign: float = 1.0) -> _Value:
        x, y = xs
        if isinstance(x, int) and isinstance(y, int):
            shape = np.broadcast_shapes(self.shapes[x], self.shapes[y])
            sources = self.spread_to(x, shape, name), self.spread_to(y, shape, name)
            return self.add(Total(sources, shape, name, (1.0, sign)))
        value, constant, factor = (x, sign * _numbers(y), 1.0) if isinstance(x, int) else (y, _numbers(x), sign)
        if not isinstance(value, int):
            raise Unreadable("a sum of two constants is not computed here")
        shape = np.broadcast_shapes(self.shapes[value], constant.shape)
        scale = None if factor == 1 else np.full((1,) * len(shape), factor)
        return self.add(Affine((self.spread_to(value, shape, name),), shape, name, scale, _full(constant, shape)))

    def op_sub(self, name: str, xs: list, a: dict) -> _Value:
        return self.op_add(name, xs, a, -1.0)

    def op_neg(self, name: str, xs: list, a: dict) -> _Value:
        return self.scaled(name, _value(xs[0]), np.array(-1.0), 1)

    def scaled(self, name: str, x: int, factor: np.ndarray, terms: int) -> int:
        _finite(factor, name)
        shape = np.broadcast_shapes(self.shapes[x], factor.shape)
        return self.add(Affine((self.spread_to(x, shape, name),), shape, name, _full(factor, shape), None, terms))

    def op_mul(self, name: str, xs: list, a: dict) -> _Value:
        x, y = xs if isinstance(xs[0], int) else xs[::-1]
        if isinstance(x, int) and isinstance(y, int):
            return self.product(name, x, y)
        return self.scaled(name, _value(x), _numbers(y), 1)

    def product(self, name: str, x: int, y: int) -> int:
        """x y = ((x + y)^2 - (x - y)^2) / 4, over the reals."""
        if x == y:
            return self.add(Square((x,), self.shapes[x], name))
        shape = np.broadcast_shapes(self.shapes[x], self.shapes[y])
        sources = self.spread_to(x, shape, name), self.spread_to(y, shape, name)
        sides = [self.add(Total(sources, shape, name, (1.0, sign))) for sign in (1.0, -1.0)]
        squares = tuple(self.add(Square((side,), shape, name)) for side in sides)
        return self.scaled(name, self.add(Total(squares, shape, name, (1.0, -1.0))), np.array(0.25), 1)

    def op_pow(self, name: str, xs: list, a: dict) -> _Value:
        if _constant(xs[1]).size != 1 or _constant(xs[1]).reshape(()) != 2:
            raise Unreadable("a power other than 2 is not known to this checker")
        return self.product(name, _value(xs[0]), _value(xs[0]))

    def op_div(self, name: str, xs: list, a: dict) -> _Value:
        if isinstance(xs[1], int):
            raise Unreadable("a quotient by a value is not known to this checker")
        divisor = _numbers(xs[1])
        if (np.abs(divisor) < 1e-300).any():
            raise Unreadable("division by 0, or nearly")
        return self.scaled(name, _value(xs[0]), 1.0 / divisor, 2)  # one rounding in the reciprocal

    def op_matmul(self, name: str, xs: list, a: dict) -> _Value:
        x, weight = xs
        if isinstance(x, np.ndarray) and isinstance(weight, int) and x.ndim == 2 and len(self.shapes[weight]) in (1, 2):
            # W x = (x^T W^T)^T
            turned = self.op_matmul(name, [self.moved(name, weight, lambda t: t.T), x.T], a)
            return self.moved(name, turned, lambda t: t.T)
        if not isinstance(x, int) or not isinstance(weight, np.ndarray) or weight.ndim not in (1, 2):
            raise Unreadable("only value x constant matrix is known to this checker")
        weight = _numbers(weight)
        if weight.ndim == 1:
            dense = self.add(Dense((x,), (*self.shapes[x][:-1], 1), name, weight[:, None]))
            return self.moved(name, dense, lambda t: t[..., 0])
        return self.add(Dense((x,), (*self.shapes[x][:-1], weight.shape[1]), name, weight))

    def op_gemm(self, name: str, xs: list, a: dict) -> _Value:
        weight = _numbers(_constant(xs[1]))
        weight = weight.T if a.get("transB", 0) else weight
        x = int(self.moved(name, xs[0], lambda t: t.T)) if a.get("transA", 0) else _value(xs[0])  # type: ignore[arg-type]
        shape = (*self.shapes[x][:-1], weight.shape[1])
        dense = self.add(Dense((x,), shape, name, np.ascontiguousarray(weight)))
        if a.get("alpha", 1.0) != 1.0:
            dense = self.scaled(name, dense, np.array(float(a["alpha"])), 1)
        if len(xs) < 3 or xs[2] is None or a.get("beta", 1.0) == 0.0:
            return dense
        if a.get("beta", 1.0) != 1.0:
            raise Unreadable("beta other than 0 or 1 is not supported")
        return self.op_add(name, [dense, xs[2]], {})

    def op_conv(self, name: str, xs: list, a: dict) -> _Value:
        x, weight = _value(xs[0]), _numbers(_constant(xs[1]))
        bias = None if len(xs) < 3 or xs[2] is None else _numbers(_constant(xs[2]))
        shape = self.shapes[x]
        if weight.ndim != 4 or len(shape) != 4 or shape[0] != 1:
            raise Unreadable("only two-dimensional convolutions of one picture are known to this checker")
        return self.convolution(name, x, weight, bias, a, a.get("group", 1), 0)

    def convolution(
        self, name: str, x: int, weight: np.ndarray, bias: np.ndarray | None, a: dict, groups: int, inexact: int
    ) -> int:
        _, c, height, width = self.shapes[x]
        o, per, h, w = weight.shape
        if per * groups != c or o % groups:
            raise Unreadable(f"{c} channels do not fit weights {weight.shape} in {groups} groups")
        pads, strides, dilations, grid = self.grid(a, (height, width), (h, w))
        out = (1, o, *grid)
        offset = None if bias is None else np.broadcast_to(bias.reshape(1, o, 1, 1), out)
        return self.add(
            Conv((x,), out, name, weight, self.shapes[x], pads, strides, dilations, groups, offset, inexact)
        )

    def grid(self, a: dict, size: tuple, kernel: tuple) -> tuple[Any, Any, Any, tuple[int, int]]:
        """Pads, strides and dilations of windows over a picture, and how many windows there are, (H', W')."""
        strides, dilations = tuple(a.get("strides", (1, 1))), tuple(a.get("dilations", (1, 1)))
        pads = self.pads(a, size, kernel, strides, dilations)
        room = [size[k] + pads[k] + pads[k + 2] - dilations[k] * (kernel[k] - 1) - 1 for k in (0, 1)]
        if min(room) < 0 or min(pads) < 0:
            raise Unreadable("an empty or cropping window")
        return pads, strides, dilations, (room[0] // strides[0] + 1, room[1] // strides[1] + 1)

    def pads(self, a: dict, size: tuple, kernel: tuple, strides: tuple, dilations: tuple) -> tuple[int, int, int, int]:
        kind = a.get("auto_pad", b"NOTSET").decode()
        if kind in ("NOTSET", ""):
            return tuple(a.get("pads", (0, 0, 0, 0)))
        if kind == "VALID":
            return 0, 0, 0, 0
        if kind not in ("SAME_UPPER", "SAME_LOWER"):
            raise Unreadable(f"auto_pad {kind}")
        begin, end = [], []
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
            total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
            less, more = total // 2, total - total // 2
            begin.append(less if kind == "SAME_UPPER" else more)
            end.append(more if kind == "SAME_UPPER" else less)
        return (*begin, *end)  # type: ignore[return-value]

    def op_batchnormalization(self, name: str, xs: list, a: dict) -> _Value:
        x, (scale, bias, mean, variance) = _value(xs[0]), (_numbers(_constant(t)) for t in xs[1:5])
        if a.get("training_mode", 0) or not a.get("spatial", 1) or (variance + a.get("epsilon", 1e-5) <= 0).any():
            raise Unreadable("training mode, per-activation statistics, or a variance that is not positive")
        shape = (1, -1, *(1,) * (len(self.shapes[x]) - 2))
        # x - mean, then a factor with three roundings (sum, root, quotient), then the bias
        centred = self.op_add(name, [x, -mean.reshape(shape)], {})
        factor = scale / np.sqrt(variance + a.get("epsilon", float(np.float32(1e-5))))
        scaled = self.scaled(name, _value(centred), factor.reshape(shape), 5)
        return self.op_add(name, [scaled, bias.reshape(shape)], {})

    # pooling

    def windows(self, name: str, x: int, a: dict) -> tuple[np.ndarray, np.ndarray]:
        """Indices (1, C, H', W', k) of the elements under each window, and which of them lie in the picture."""
        if len(self.shapes[x]) != 4 or a.get("ceil_mode", 0) or a.get("storage_order", 0):
            raise Unreadable("only two-dimensional pooling without ceil_mode and storage_order is known")
        _, c, height, width = self.shapes[x]
        kernel = tuple(a["kernel_shape"])
        pads, strides, dilations, (high, wide) = self.grid(a, (height, width), kernel)
        i = np.arange(high)[:, None] * strides[0] - pads[0] + np.arange(kernel[0]) * dilations[0]
        j = np.arange(wide)[:, None] * strides[1] - pads[1] + np.arange(kernel[1]) * dilations[1]
        row, column = i[:, None, :, None], j[None, :, None, :]
        inside = ((row >= 0) & (row < height) & (column >= 0) & (column < width)).reshape(high, wide, -1)
        flat = (np.clip(row, 0, height - 1) * width + np.clip(column, 0, width - 1)).reshape(high, wide, -1)
        index = np.arange(c)[:, None, None, None] * height * width + flat
        return index[None], np.broadcast_to(inside, index.shape)[None]

    def op_maxpool(self, name: str, xs: list, a: dict) -> _Value:
        x = _value(xs[0])
        index, inside = self.windows(name, x, a)
        if not inside.any(-1).all():
            raise Unreadable("a window without any element")
        # a window at the border takes one of its own elements twice, which changes no maximum
        own = np.take_along_axis(index, inside.argmax(-1)[..., None], -1)
        parts = self.take(np.where(inside, index, own), index.shape, x, name)
        return self.add(Largest((parts,), index.shape[:-1], name))

    def op_averagepool(self, name: str, xs: list, a: dict) -> _Value:
        x = _value(xs[0])
        _, inside = self.windows(name, x, a)
        if not inside.all() and not a.get("count_include_pad", 0):
            raise Unreadable("padding that is not counted")
        h, w = a["kernel_shape"]
        weight = np.full((self.shapes[x][1], 1, h, w), 1.0 / (h * w))
        return self.convolution(name, x, weight, None, a, self.shapes[x][1], 1)

    def op_globalaveragepool(self, name: str, xs: list, a: dict) -> _Value:
        x = _value(xs[0])
        if len(self.shapes[x]) != 4:
            raise Unreadable("only two-dimensional pooling is known")
        return self.op_averagepool(name, xs, {"kernel_shape": self.shapes[x][2:]})

    # functions

    def curve(self, name: str, x: Any, **parts: float) -> int:
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
        twice = self.scaled(name, _value(xs[0]), np.array(2.0), 1)
        return self.op_add(
            name, [self.scaled(name, _value(self.op_sigmoid(name, [twice], a)), np.array(2.0), 1), -np.ones(1)], {}
        )  # type: ignore[arg-type]


def _declared(info: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in info.type.tensor_type.shape.dim]
    shape = tuple(1 if i == 0 and d <= 0 else d for i, d in enumerate(dims))
    if any(d <= 0 for d in shape) or math.prod(shape) > MOST_ELEMENTS:
        raise Unreadable(f"input '{info.name}' has no usable shape: {dims}")
    return shape


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


def _value(x: Any) -> int:
    if not isinstance(x, int):
        raise Unreadable("a constant where a computed value is expected")
    return x


def _full(constant: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return constant.reshape((1,) * (len(shape) - constant.ndim) + constant.shape)
