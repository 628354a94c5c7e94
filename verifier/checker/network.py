"""From an ONNX file to the checker's operators: its own reader, of the original file.

A tensor is an array of constants, or of the numbers of computed elements, so that what only moves elements is no
operator. Constants are only moved, never computed with, so every stored weight enters the bounds as the number in the
file. A batch dimension without a size counts as 1.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partialmethod
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from onnx import numpy_helper

from verifier.checker.curves import AnyOperator, Relu, Sigmoid, Square
from verifier.checker.errors import Unreadable
from verifier.checker.linear import FLOATS, FRACTIONS, Arithmetic, Array, Gather, Linear
from vnnlib import Limits, VnnLibError
from vnnlib.source import read_file

MOST_BYTES = 1 << 30
MOST_ELEMENTS = 1 << 26

MOST_PRODUCTS = 1 << 17
"""Multiply-adds of the largest network that is walked in fractions."""

OPSETS = range(7, 29)
"""Versions of the standard; in older ones sums and products line up in other ways."""

EPSILON = float(np.float32(1e-5))
"""Of a BatchNormalization that names none."""

LEAST_FACTOR = 1e-290
"""Of a BatchNormalization: far from where quotients lose digits."""

FEW = 32
"""A matrix with at most one nonzero number in so many, in every column, is multiplied by gathering these."""

CONSTANTS = {
    "Clip": "min max",
    "Dropout": "ratio training_mode",
    "Pow": "exponent",
    "Reshape": "shape",
    "Slice": "starts ends axes steps",
    "Squeeze": "axes",
    "Unsqueeze": "axes",
}
"""Inputs after the first that are constants: given to a rule by name, as they are attributes in older versions."""

USUAL = {"ceil_mode": 0, "spatial": 1, "storage_order": 0, "training_mode": 0}
"""What of these is otherwise is refused, of any operator."""

UNUSED = ("momentum", "ratio", "seed")
"""What only training reads."""


def _reshape(x: Array, *, shape: Array, allowzero: int = 0) -> Array:
    return x.reshape([x.shape[i] if d == 0 and not allowzero else d for i, d in enumerate(shape.tolist())])


def _slice(x: Array, *, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Array:
    """Ends below 0 count from the end, ends outside are moved to it: as Python has it, but that going backwards a start
    before the first element is that element."""
    place, count = [slice(None)] * x.ndim, len(starts)
    axes, steps = range(count) if axes is None else axes, [1] * count if steps is None else steps
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        first = max(int(start), -x.shape[axis]) if step < 0 else int(start)
        place[axis] = slice(first, int(end), int(step))
    return x[tuple(place)]


MOVES: dict[str, Callable[..., Array]] = {
    "Concat": lambda *xs, axis: np.concatenate(xs, axis),
    "Dropout": lambda x, /: x,
    "Flatten": lambda x, /, *, axis=1: x.reshape(math.prod(x.shape[:axis]), -1),
    "Identity": lambda x, /: x,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": lambda x, /, *, axes=(): x.squeeze(tuple(axes) if len(axes) else None),
    "Transpose": lambda x, /, *, perm=None: x.transpose(perm or range(x.ndim)[::-1]),
    "Unsqueeze": lambda x, /, *, axes: np.expand_dims(x, tuple(axes)),
}
"""Operators that only move elements: of a value their numbers, of a constant these."""


@dataclass(frozen=True)
class Computed:
    """A tensor of computed elements: their numbers, counted over all values one after the other."""

    ids: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ids.shape


Tensor = Computed | Array


@dataclass
class CheckedNetwork:
    """`nodes[v]` makes value v from earlier ones (`nodes[0]` is None: the flat input); `output` is the flat output;
    `sizes[v]` are numbers of elements; `tensors` the values by name, of an ONNX tensor where they are one; `dtypes`
    says the numpy type of so many input coordinates, `parts` the elements of each output tensor; numbers are those of
    `arithmetic`."""

    nodes: list[AnyOperator | None]
    sizes: list[int]
    output: int
    tensors: dict[str, int]
    dtypes: list[tuple[int, np.dtype]]
    parts: list[int]
    digest: str = ""
    arithmetic: Arithmetic = FLOATS

    @property
    def inputs(self) -> int:
        return self.sizes[0]

    @property
    def outputs(self) -> int:
        return self.sizes[self.output]

    def argument(self, v: int) -> int:
        """The value that operator v reads first."""
        node = self.nodes[v]
        assert node is not None  # value 0 alone is made by none
        return node.source

    def in_fractions(self) -> CheckedNetwork:
        """The same in fractions.

        Raises:
            Unreadable: it is too large, or has operators or coefficients that are not exact.
        """
        nodes = list(self.nodes)
        if sum(op.size * op.weight.shape[2] for op in nodes if isinstance(op, Linear)) > MOST_PRODUCTS:
            raise Unreadable("the network is too large for fractions")
        for v, op in enumerate(nodes):
            if isinstance(op, Linear) and not op.inexact:
                nodes[v] = replace(op, weight=FRACTIONS.of(op.weight), offset=FRACTIONS.of(op.offset))
            elif isinstance(op, Relu):
                nodes[v] = replace(op, arithmetic=FRACTIONS)
            elif op is not None:
                raise Unreadable(f"node '{op.name}' is not known in fractions, or has a rounded coefficient")
        return replace(self, nodes=nodes, arithmetic=FRACTIONS)


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
        network = _Reader().read(model)
    except Unreadable as error:
        raise Unreadable(f"{path}: {error}") from None
    except Exception as error:  # protobuf and numpy raise anything on damaged files
        raise Unreadable(f"{path}: not a usable ONNX model: {type(error).__name__}: {error}") from None
    return replace(network, digest=hashlib.sha256(data).hexdigest())


class _Reader:
    """Reads one model. The rule for an operator stands in `MOVES` or is the method of its name: it takes the
    inputs, and by name the attributes that are known (others are refused: they may change what it computes)."""

    def __init__(self) -> None:
        self.values: dict[str, Tensor] = {}
        self.nodes: list[AnyOperator | None] = [None]
        self.firsts: list[int] = [0, 0]  # of each value's elements, and of the next one's
        self.whole = np.zeros(0, bool)  # which inputs are whole numbers
        self.name = ""

    def read(self, model: onnx.ModelProto) -> CheckedNetwork:
        graph = model.graph
        opset = max([o.version for o in model.opset_import if o.domain in ("", "ai.onnx")], default=0)
        if not opset or not graph.output:
            raise Unreadable("no ONNX model, or one without outputs")
        if opset not in OPSETS or model.functions:
            raise Unreadable(f"opset {opset}, or functions of its own; known are opsets 7 to 28 without")
        for tensor in graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                raise Unreadable(f"weight '{tensor.name}' lies in another file; this checker reads one file")
            self.name_value(tensor.name, _finite(numpy_helper.to_array(tensor), tensor.name))
        dtypes = []
        for info in (i for i in graph.input if i.name not in self.values):
            shape, at = _declared(info), self.firsts[1]
            self.firsts[1] += math.prod(shape)
            self.name_value(info.name, Computed(np.arange(at, self.firsts[1]).reshape(shape)))
            kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type))
            dtypes.append((math.prod(shape), kind))
            self.whole = np.append(self.whole, np.full(math.prod(shape), kind.kind != "f"))
        for node in graph.node:
            self.step(node)
        ids = [_computed(self.values.get(info.name)).ids.reshape(-1) for info in graph.output]
        whole = self.gather(np.concatenate(ids))
        output = whole.value
        if output <= 0:
            self.name = "output"
            self.add(Linear, whole, whole.size, np.ones((1, 1, 1)))
            output = len(self.nodes) - 1
        parts = {name: self.gather(x.ids.reshape(-1)) for name, x in self.values.items() if isinstance(x, Computed)}
        tensors = {name: v for name, part in parts.items() if (v := part.value) >= 0}
        inner = set(range(1, len(self.nodes))) - set(tensors.values())  # the Relus of a Clip, say
        tensors = {**{f"value {v}": v for v in inner}, **tensors}
        return CheckedNetwork(self.nodes, np.diff(self.firsts).tolist(), output, tensors, dtypes, [*map(len, ids)])

    def step(self, node: onnx.NodeProto) -> None:
        self.name = node.name or (node.output[0] if node.output else "?")
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        rule = MOVES.get(kind) or getattr(self, f"op_{kind.lower()}", None)
        if rule is None:
            raise Unreadable(f"this checker does not know operator {kind} (node '{self.name}')")
        for x in node.input:
            if x and x not in self.values:
                raise Unreadable(f"node '{self.name}' reads '{x}', which nothing before it makes")
        if any(node.output[1:]) and kind not in ("Dropout", "BatchNormalization"):
            raise Unreadable(f"node '{self.name}' ({kind}) has several outputs")
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        xs = [self.values[x] if x else None for x in node.input]
        try:
            if kind in CONSTANTS:
                named = zip(CONSTANTS[kind].split(), xs[1:], strict=False)
                attributes |= {name: _constant(x) for name, x in named if x is not None}
                xs = xs[: max(1, len(xs) - len(CONSTANTS[kind].split()))]
            for name, usual in USUAL.items():
                if np.any(attributes.pop(name, usual) != usual):
                    raise Unreadable(f"{name} other than {usual}")
            attributes = {name: value for name, value in attributes.items() if name not in UNUSED}
            if kind in MOVES and any(isinstance(x, Computed) for x in xs):
                result: Tensor = Computed(np.asarray(rule(*(_computed(x).ids for x in xs), **attributes)))
            else:
                result = rule(*(map(_constant, xs) if kind in MOVES else xs), **attributes)
        except (Unreadable, TypeError, ValueError, IndexError) as error:  # also attributes that the rule does not know
            raise Unreadable(f"node '{self.name}' ({kind}): {error}") from None
        self.name_value(node.output[0], result)

    def name_value(self, name: str, value: Tensor) -> None:
        """The tensor of this name, which has no other."""
        if name in self.values:
            raise Unreadable(f"two tensors are called '{name}'")
        self.values[name] = value

    def operand(self, ids: Array) -> Gather:
        """The same as `gather`, for arithmetic over the reals: in a type of whole numbers sums and products wrap."""
        inputs = ids[(ids >= 0) & (ids < len(self.whole))]
        if self.whole[inputs].any():
            raise Unreadable("arithmetic of whole numbers; they may be moved, or cast to a floating-point type")
        return self.gather(ids)

    def gather(self, ids: Array) -> Gather:
        """Elements (size,) as an argument; -1 stands for a 0."""
        _bounded(ids.size)
        if not (ids >= 0).any():
            raise Unreadable("an argument without elements")
        owner, firsts = np.searchsorted(self.firsts[1:], ids, side="right"), np.array(self.firsts)
        used, first = np.unique(owner[ids >= 0], return_index=True)
        used = used[np.argsort(first)]  # in the order in which they occur
        sizes = (firsts[1:] - firsts[:-1])[used]
        moved = np.zeros(len(firsts), np.int64)
        moved[used] = np.cumsum(sizes) - sizes - firsts[used]
        index = np.where(ids < 0, sizes.sum(), ids + moved[owner])
        return Gather(tuple(zip(used.tolist(), sizes.tolist(), strict=True)), index)

    def add(
        self, kind: Callable[..., Any], x: Gather, shape: int | Sequence[int], *numbers: Any, **more: Any
    ) -> Computed:
        """A new operator: its result."""
        size, first = int(np.prod(shape)), self.firsts[-1]
        _bounded(size)
        self.nodes.append(kind(x, size, self.name, *numbers, **more))
        self.firsts.append(first + size)
        return Computed(np.arange(first, first + size).reshape(shape))

    def combine(self, xs: Sequence[Computed], factors: Sequence[Any], offset: Any = 0.0, **more: Any) -> Computed:
        """A sum of multiples, and of a constant, element by element."""
        shape = np.broadcast_shapes(*(np.shape(t) for t in (*xs, *factors, offset)))
        ids = np.concatenate([np.broadcast_to(x.ids, shape).reshape(-1) for x in xs])
        if any(np.size(f) > 1 for f in factors):
            weight = np.stack([np.broadcast_to(f, shape).reshape(-1) for f in factors], -1)
        else:
            weight = np.array([[float(np.reshape(f, ())) for f in factors]])
        weight = _finite(weight[:, None], self.name)
        offset = np.broadcast_to(offset, shape).reshape(-1) if np.any(offset) else np.zeros(1)
        return self.add(Linear, self.operand(ids), shape, weight, offset=offset, **more)

    def curve(self, kind: Callable[..., Any], x: Any, **more: Any) -> Computed:
        """A function of every element: of one value, as it is."""
        ids = _computed(x).ids
        argument = self.operand(ids.reshape(-1))
        if argument.value < 0:
            argument = self.gather(self.combine([Computed(ids)], [1.0]).ids.reshape(-1))
        return self.add(kind, argument, ids.shape, **more)

    # casts and constants

    def op_cast(self, x: Tensor, *, to: int) -> Tensor:
        """To a floating-point type a value over the reals stays what it is, a whole number as well; a constant is
        rounded."""
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(to))
        if kind.kind != "f":
            raise Unreadable(f"a cast to {kind}")
        if not isinstance(x, Computed):
            return _finite(_constant(x).astype(kind), self.name)
        argument = self.gather(x.ids.reshape(-1))
        whole = 0 in argument.sources and self.whole.any()
        return self.add(Linear, argument, x.shape, np.ones((1, 1, 1))) if whole else x

    def op_constant(self, **value: Any) -> Array:
        ((name, number),) = value.items()
        if name == "value":
            return _finite(numpy_helper.to_array(number), self.name)
        kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
        return _finite(np.asarray(number, kinds[name]), self.name)

    # sums and products

    def sum(self, sign: float, x: Tensor, y: Tensor, /) -> Computed:
        """x + sign y."""
        if isinstance(x, Computed) and isinstance(y, Computed):
            return self.combine([x, y], [1.0, sign])
        if isinstance(x, Computed):
            return self.combine([x], [1.0], sign * _numbers(y))
        return self.combine([_computed(y)], [sign], _numbers(x))

    op_add = partialmethod(sum, 1.0)
    op_sub = partialmethod(sum, -1.0)

    def op_neg(self, x: Tensor) -> Computed:
        return self.combine([_computed(x)], [-1.0])

    def op_mul(self, x: Tensor, y: Tensor) -> Computed:
        x, y = (x, y) if isinstance(x, Computed) else (y, x)
        if not isinstance(y, Computed):
            return self.combine([_computed(x)], [_numbers(y)])
        if np.array_equal(_computed(x).ids, y.ids):
            return self.curve(Square, x)
        # x y = ((x + y)^2 - (x - y)^2) / 4, over the reals
        squares = [self.curve(Square, self.sum(sign, x, y)) for sign in (1.0, -1.0)]
        return self.combine(squares, [0.25, -0.25])

    def op_pow(self, x: Tensor, *, exponent: Array) -> Computed:
        if exponent.size != 1 or exponent.reshape(()) != 2:
            raise Unreadable("a power other than 2 is not known to this checker")
        ids = _computed(x).ids
        return self.curve(Square, Computed(ids.reshape(np.broadcast_shapes(ids.shape, exponent.shape))))

    def op_div(self, x: Tensor, divisor: Any) -> Computed:
        if (np.abs(_numbers(divisor)) < 1e-300).any():
            raise Unreadable("division by 0, or nearly")
        return self.combine([_computed(x)], [1.0 / _numbers(divisor)], inexact=1)

    def op_matmul(self, x: Tensor, y: Tensor) -> Computed:
        if isinstance(y, Computed) and len(y.shape) in (1, 2) and np.ndim(_numbers(x)) == 2:  # W y = (y^T W^T)^T
            return Computed(self.op_matmul(Computed(y.ids.T), _numbers(x).T).ids.T)
        ids, weight = _computed(x).ids, _numbers(y)
        if weight.ndim not in (1, 2) or ids.shape[-1:] != weight.shape[:1]:
            raise Unreadable(f"a value of shape {ids.shape} does not fit a matrix {weight.shape}")
        shape, matrix = (*ids.shape[:-1], *weight.shape[1:]), weight.reshape(len(weight), -1)
        count = int((matrix != 0).sum(0).max(initial=0))
        if 0 < count * FEW <= len(matrix):  # nonzero numbers first
            index = np.argsort(matrix == 0, 0, kind="stable")[:count]
            values = np.take_along_axis(matrix, index, 0)
            wide = (*ids.shape[:-1], matrix.shape[1])
            parts = [Computed(ids[..., i].reshape(shape)) for i in index]
            return self.combine(parts, [np.broadcast_to(v, wide).reshape(shape) for v in values])
        rows = ids.reshape(-1, len(matrix)).T
        product = self.add(Linear, self.operand(rows.reshape(-1)), (matrix.shape[1], rows.shape[1]), matrix.T[None])
        return Computed(product.ids.T.reshape(shape))

    def op_gemm(self, *xs: Any, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> Computed:
        x, y, z = xs if len(xs) == 3 else (*xs, None)
        x = Computed(_computed(x).ids.T) if transA else x
        product = self.op_matmul(x, _numbers(y).T if transB else y)
        if alpha != 1:
            product = self.combine([product], [float(alpha)])
        if z is None or beta == 0:
            return product
        if beta != 1:
            raise Unreadable("beta other than 0 or 1 is not supported")
        return self.op_add(product, z)

    def op_batchnormalization(self, x: Tensor, *given: Any, epsilon: float = EPSILON) -> Computed:
        shape = (1, -1, *(1,) * (len(x.shape) - 2))
        scale, bias, mean, variance = (_numbers(t).reshape(shape) for t in given)
        if (variance + epsilon <= 0).any():
            raise Unreadable("a variance that is not positive")
        # x - mean, then a factor with three roundings (sum, root, quotient), then the bias
        centred, factor = self.op_add(x, -mean), scale / np.sqrt(variance + epsilon)
        if ((scale != 0) & (np.abs(factor) < LEAST_FACTOR)).any():
            raise Unreadable(f"a factor below {LEAST_FACTOR}, whose rounding is more than relative")
        return self.combine([centred], [factor], bias, inexact=4)

    # windows over a picture

    def op_conv(self, x: Tensor, weight: Any, bias: Any = None, /, *, group: int = 1, **window: Any) -> Computed:
        picture, weight = _picture(x), _numbers(weight)
        o, per, *kernel = weight.shape
        if per * group != len(picture) or o % group:
            raise Unreadable(f"{len(picture)} channels do not fit weights {weight.shape} in {group} groups")
        if list(window.get("kernel_shape", kernel)) != kernel:
            raise Unreadable(f"a kernel of {window['kernel_shape']} for weights {weight.shape}")
        under = _windows(picture, **{**window, "kernel_shape": kernel})
        grid = under.shape[3:]
        ids = under.reshape(group, -1, *grid).swapaxes(0, 1).reshape(-1)
        offset = np.zeros(1) if bias is None else np.repeat(_numbers(bias), math.prod(grid))
        weight = weight.reshape(group, o // group, -1)
        return self.add(Linear, self.operand(ids), (1, o, *grid), weight, offset=offset)

    def op_averagepool(self, x: Tensor, *, count_include_pad: int = 0, **window: Any) -> Computed:
        picture, kernel = _picture(x), window["kernel_shape"]
        if not count_include_pad and (_windows(picture, **window) < 0).any():
            raise Unreadable("padding that is not counted")
        shares = np.full((len(picture), 1, *kernel), 1.0 / math.prod(kernel))
        mean = self.op_conv(x, shares, group=len(picture), **window)
        self.nodes[-1] = replace(cast(Linear, self.nodes[-1]), inexact=1)
        return mean

    def op_globalaveragepool(self, x: Tensor) -> Computed:
        return self.op_averagepool(x, kernel_shape=list(_picture(x).shape[1:]))

    def op_maxpool(self, x: Tensor, **window: Any) -> Computed:
        under = _windows(_picture(x), **window)
        under = under.reshape(len(under), -1, *under.shape[3:]).transpose(0, 2, 3, 1)[None]
        # a window at the border takes one of its own elements twice, which changes no maximum
        most = under.max(-1, keepdims=True)
        if (most < 0).any():
            raise Unreadable("a window without any element")
        return self.largest(Computed(np.where(under < 0, most, under)))

    def largest(self, x: Computed) -> Computed:
        """The maximum over the last axis: max(a, b) = b + relu(a - b), pair by pair."""
        while (count := x.shape[-1]) > 1:
            a, b = (Computed(t) for t in np.split(x.ids[..., : count // 2 * 2], 2, -1))
            over = self.curve(Relu, self.combine([a, b], [1.0, -1.0]))
            top = self.combine([a, b, over], [0.0, 1.0, 1.0], largest=True)
            x = Computed(np.concatenate([top.ids, x.ids[..., count // 2 * 2 :]], -1))
        return Computed(x.ids[..., 0])

    # functions

    def op_relu(self, x: Tensor) -> Computed:
        return self.curve(Relu, x)

    def op_leakyrelu(self, x: Tensor, *, alpha: float = float(np.float32(0.01))) -> Computed:
        if not 0 <= alpha <= 1:
            raise Unreadable(f"a slope of {alpha}, expected one in [0, 1]")
        return self.curve(Relu, x, leak=float(alpha))

    def op_clip(self, x: Tensor, *, min: Any = -math.inf, max: Any = math.inf) -> Tensor:
        ends = float(np.reshape(min, ())), float(np.reshape(max, ()))
        if not ends[0] <= ends[1]:
            raise Unreadable(f"limits {ends}")
        for sign, end in zip((1.0, -1.0), ends, strict=True):  # end + relu(x - end), then end - relu(end - x)
            if math.isfinite(end):
                x = self.curve(Relu, self.combine([_computed(x)], [sign], np.array(-sign * end)))
                x = self.combine([x], [sign], np.array(end))
        return x

    def op_sigmoid(self, x: Tensor) -> Computed:
        return self.curve(Sigmoid, x)

    def op_tanh(self, x: Tensor) -> Computed:
        return self.combine([self.curve(Sigmoid, self.combine([_computed(x)], [2.0]))], [2.0], np.array(-1.0))


def _windows(
    picture: Array,
    kernel_shape: Any,
    auto_pad: bytes = b"",
    pads: Any = (0,) * 4,
    strides: Any = (1, 1),
    dilations: Any = (1, 1),
) -> Array:
    """What lies under the windows over a picture (C, H, W), -1 for its padding: (C, h, w, H', W')."""
    size, reach = picture.shape[1:], [d * (k - 1) + 1 for k, d in zip(kernel_shape, dilations, strict=True)]
    kind = auto_pad.decode()
    if kind in ("SAME_UPPER", "SAME_LOWER"):
        if max(dilations) > 1:
            raise Unreadable(f"auto_pad {kind} with dilations, which runtimes read in several ways")
        total = [max(0, (-(-n // s) - 1) * s + r - n) for n, s, r in zip(size, strides, reach, strict=True)]
        less, more = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = (*less, *more) if kind == "SAME_UPPER" else (*more, *less)
    elif kind not in ("NOTSET", "", "VALID"):
        raise Unreadable(f"auto_pad {kind}")
    top, left, bottom, right = (0, 0, 0, 0) if kind == "VALID" else pads
    wide = size[0] + top + bottom, size[1] + left + right
    if min(wide[0] - reach[0], wide[1] - reach[1], top, left, bottom, right) < 0 or min(*strides, *dilations) < 1:
        raise Unreadable("an empty or cropping window")
    _bounded(len(picture) * math.prod(wide))
    padded = np.pad(picture, ((0, 0), (top, bottom), (left, right)), constant_values=-1)
    under = np.lib.stride_tricks.sliding_window_view(padded, reach, (1, 2))
    under = under[:, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]].transpose(0, 3, 4, 1, 2)
    _bounded(under.size)
    return under


def _picture(x: Tensor) -> Array:
    """The numbers of the elements (C, H, W)."""
    ids = _computed(x).ids
    if ids.ndim != 4 or len(ids) != 1:
        raise Unreadable("only two-dimensional windows over one picture are known to this checker")
    return ids[0]


def _declared(info: onnx.ValueInfoProto) -> tuple[int, ...]:
    dims = [d.dim_value if d.HasField("dim_value") else 0 for d in info.type.tensor_type.shape.dim]
    shape = tuple(1 if i == 0 and d <= 0 else d for i, d in enumerate(dims))
    if any(d <= 0 for d in shape) or math.prod(shape) > MOST_ELEMENTS:
        raise Unreadable(f"input '{info.name}' has no usable shape: {dims}")
    return shape


def _bounded(size: int) -> None:
    if size > MOST_ELEMENTS:
        raise Unreadable(f"{size} elements, this checker takes at most {MOST_ELEMENTS}")


def _finite(array: Array, name: str) -> Array:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Unreadable(f"constant '{name}' holds NaN or infinity")
    return array


def _computed(x: Any) -> Computed:
    if not isinstance(x, Computed):
        raise Unreadable("a constant where a computed value is expected")
    return x


def _constant(x: Any) -> Array:
    if not isinstance(x, np.ndarray):
        raise Unreadable("a computed value where a constant is expected")
    return x


def _numbers(x: Any) -> Array:
    """A constant in float64, which holds every number of the smaller types."""
    x = _constant(x)
    if x.dtype not in (np.float16, np.float32, np.float64):
        raise Unreadable(f"numbers of type {x.dtype}")
    return x.astype(np.float64)
