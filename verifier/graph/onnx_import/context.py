"""What a lowering function sees: one ONNX node with its inputs resolved, and a builder to emit IR nodes with.

A value is either a numpy array (a constant, known exactly; floats always float64) or a `Var`: it depends on the
network's inputs, or it is a constant that had to be rounded, a Constant node with its `bias_error`
(`GraphBuilder.inexact`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verifier.errors import ModelError, UnsupportedOperator
from verifier.graph.check import all_finite
from verifier.graph.exact import quotient, roundings
from verifier.graph.ir import Attribute, Node, Shape
from verifier.graph.onnx_import.model import ModelLimits
from verifier.graph.operators import OPERATORS


@dataclass(frozen=True)
class Var:
    """A value of the graph under construction. `opaque`: it depends on an Opaque node, its shape is a guess."""

    name: str
    shape: Shape
    dtype: np.dtype
    opaque: bool = False

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return elements(self.shape)

    @property
    def real(self) -> bool:
        """Floating-point, so that arithmetic on it means arithmetic on reals."""
        return self.dtype.kind == "f"


Operand = np.ndarray | Var


_REARRANGES = frozenset(name for name, row in OPERATORS.items() if row.moves and row.inputs == 1) - {"Pad"}
_TRACED = 2**20  # elements of a value whose origin is looked for


def elements(shape: Iterable[int]) -> int:
    """Product of `shape` in exact integers."""
    total = 1
    for size in shape:
        total *= int(size)
    return total


def rounding_params(roundings: float) -> dict[str, np.ndarray]:
    """The parameter that says by how many roundings weights are off; none where they are exact."""
    return {"roundings": np.array(float(roundings))} if roundings else {}


class GraphBuilder:
    """Collects the IR nodes of a graph; every helper returns the Var of its result and skips what changes nothing."""

    def __init__(self, limits: ModelLimits) -> None:
        self.limits = limits
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {}
        self.source = ""
        self.base = ""
        self.inexact: dict[str, Node] = {}  # constants that had to be rounded, by name
        self.half = False  # whether some value is float16
        self._start = 0

    def begin(self, source: str, base: str) -> None:
        """Start the nodes of one ONNX node: `source` for messages, `base` for fresh names."""
        self.source, self.base, self._start = source, base, len(self.nodes)

    def add_input(self, name: str, shape: Shape, dtype: np.dtype) -> Var:
        """Declare a graph input."""
        self.guard(shape)
        self.shapes[name] = shape
        self.half |= bool(dtype == np.float16)
        return Var(name, shape, dtype)

    def guard(self, shape: Sequence[int]) -> Shape:
        """`shape` as a tuple of ints, refused where it is too large."""
        result = tuple(int(size) for size in shape)
        if any(size < 0 for size in result) or elements(result) > self.limits.elements:
            raise ModelError(
                f"{self.source}: a tensor of shape {result} exceeds the limit of {self.limits.elements} elements"
            )
        return result

    def fresh(self) -> str:
        """An unused value name."""
        count = len(self.nodes) - self._start
        name = f"{self.base}/#{count}"
        while name in self.shapes:
            count += 1
            name = f"{self.base}/#{count}"
        return name

    def emit(
        self,
        op: str,
        inputs: Sequence[Var],
        shape: Sequence[int],
        params: Mapping[str, np.ndarray] | None = None,
        attrs: Mapping[str, Attribute] | None = None,
        dtype: np.dtype | None = None,
    ) -> Var:
        """Append a node and return its output."""
        shape = self.guard(shape)
        checked = {name: self._param(array) for name, array in (params or {}).items()}
        node = Node(op, tuple(x.name for x in inputs), self.fresh(), checked, dict(attrs or {}), self.source)
        if len(self.nodes) >= self.limits.nodes:
            raise ModelError(f"{self.source}: more than {self.limits.nodes} nodes")
        self.nodes.append(node)
        self.shapes[node.output] = shape
        if dtype is None:
            dtype = inputs[0].dtype if inputs else np.dtype(np.float64)
        self.half |= bool(dtype == np.float16)
        return Var(node.output, shape, dtype, op == "Opaque" or any(x.opaque for x in inputs))

    def rename(self, var: Var, name: str) -> Var:
        """Give `var` the ONNX name `name` where its node was emitted since `begin` and the name is free."""
        if name in self.shapes or not name:
            return var
        for index in range(len(self.nodes) - 1, self._start - 1, -1):
            if self.nodes[index].output == var.name:
                self.nodes[index] = replace(self.nodes[index], output=name)
                for later in range(index + 1, len(self.nodes)):
                    if var.name in self.nodes[later].inputs:
                        inputs = tuple(name if one == var.name else one for one in self.nodes[later].inputs)
                        self.nodes[later] = replace(self.nodes[later], inputs=inputs)
                self.shapes[name] = self.shapes.pop(var.name)
                if var.name in self.inexact:
                    del self.inexact[var.name]
                    self.inexact[name] = self.nodes[index]
                return replace(var, name=name)
        return var

    def _param(self, array: np.ndarray) -> np.ndarray:
        if array.dtype.kind == "i":
            return np.ascontiguousarray(array, dtype=np.int64)
        result = np.asarray(array, dtype=np.float64)
        if not all_finite(result):
            raise ModelError(
                f"{self.source}: a parameter is NaN or infinite; the network is not a function on the reals"
            )
        return result

    # -- element movement ---------------------------------------------------------------------------------------------

    def reshape(self, x: Var, shape: Sequence[int]) -> Var:
        """Row-major reshape."""
        shape = tuple(int(size) for size in shape)
        return x if shape == x.shape else self.emit("Reshape", [x], shape)

    def transpose(self, x: Var, perm: Sequence[int]) -> Var:
        """Axis permutation."""
        perm = tuple(int(axis) for axis in perm)
        if perm == tuple(range(x.rank)):
            return x
        return self.emit("Transpose", [x], [x.shape[axis] for axis in perm], attrs={"perm": perm})

    def slice(self, x: Var, axis: int, start: int, stop: int, step: int = 1) -> Var:
        """x[start:stop:step] along `axis`; 0 <= start < stop <= size, step >= 1."""
        if (start, stop, step) == (0, x.shape[axis], 1):
            return x
        shape = list(x.shape)
        shape[axis] = len(range(start, stop, step))
        return self.emit("Slice", [x], shape, attrs={"axis": axis, "start": start, "stop": stop, "step": step})

    def slice_to(self, x: Var, shape: Sequence[int]) -> Var:
        """The first shape[axis] elements along every axis."""
        for axis, size in enumerate(shape):
            x = self.slice(x, axis, 0, int(size))
        return x

    def take(self, x: Var, axis: int, indices: np.ndarray) -> Var:
        """x[indices] along `axis` (a Slice where the indices are an increasing progression); at least one index."""
        indices = np.asarray(indices, dtype=np.int64)
        steps = np.diff(indices)
        if len(indices) == 1 or (steps[0] >= 1 and (steps == steps[0]).all()):
            step = int(steps[0]) if len(indices) > 1 else 1
            return self.slice(x, axis, int(indices[0]), int(indices[-1]) + 1, step)
        shape = list(x.shape)
        shape[axis] = len(indices)
        return self.emit("Take", [x], shape, {"indices": indices}, {"axis": axis})

    def broadcast(self, x: Var, shape: Sequence[int]) -> Var:
        """numpy broadcasting of `x` to `shape`."""
        shape = self.guard(shape)
        x = self.reshape(x, (1,) * (len(shape) - x.rank) + x.shape)
        return x if x.shape == shape else self.emit("Expand", [x], shape)

    def pad(self, x: Var, before: Sequence[int], after: Sequence[int]) -> Var:
        """Zeros around `x` (one count per axis); negative counts cut."""
        kept = [size + min(0, b) + min(0, a) for size, b, a in zip(x.shape, before, after, strict=True)]
        if min(kept, default=1) < 1:  # everything is cut away, and only zeros are left
            return self.constant(np.zeros([s + b + a for s, b, a in zip(x.shape, before, after, strict=True)]))
        for axis, (b, a) in enumerate(zip(before, after, strict=True)):
            if b < 0 or a < 0:
                x = self.slice(x, axis, max(0, -b), x.shape[axis] - max(0, -a))
        before = tuple(max(0, int(b)) for b in before)
        after = tuple(max(0, int(a)) for a in after)
        if not any(before) and not any(after):
            return x
        shape = [size + b + a for size, b, a in zip(x.shape, before, after, strict=True)]
        return self.emit("Pad", [x], shape, attrs={"before": before, "after": after})

    def concat(self, xs: Sequence[Var], axis: int) -> Var:
        """Concatenation along `axis`."""
        if len(xs) == 1:
            return xs[0]
        shape = list(xs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in xs)
        return self.emit("Concat", xs, shape, attrs={"axis": axis})

    # -- arithmetic ---------------------------------------------------------------------------------------------------

    def var(self, value: Operand) -> Var:
        """A value of the graph: of a constant a Constant node."""
        return value if isinstance(value, Var) else self.constant(value)

    def numbers(self, value: np.ndarray | float) -> np.ndarray:
        """Constants as float64.

        Raises:
            ModelError: one is a whole number that float64 does not hold.
        """
        array = np.asarray(value)
        if array.dtype.kind in "iu" and array.dtype.itemsize == 8 and ((array > 2**53) | (array < -(2**53))).any():
            raise ModelError(f"{self.source}: computes with whole numbers beyond 2^53, which float64 does not hold")
        return array.astype(np.float64, copy=False)

    def constant(self, value: np.ndarray) -> Var:
        """A Constant node."""
        return self.emit("Constant", [], np.shape(value), {"value": self.numbers(value)})

    def rounded(self, value: np.ndarray, error: np.ndarray) -> Var:
        """A constant known to within `error` >= 0 (of its shape)."""
        y = self.emit("Constant", [], value.shape, {"value": np.array(value), "bias_error": np.array(error)})
        self.inexact[y.name] = self.nodes[-1]
        return y

    def quotient(self, x: np.ndarray | float, y: np.ndarray | float) -> tuple[np.ndarray, float]:
        """x / y and by how many roundings it may be off, as `scale` takes them."""
        try:
            return quotient(np.asarray(x), np.asarray(y))
        except OverflowError as error:
            raise ModelError(f"{self.source}: {error}, beyond what float64 holds") from None

    def scale(self, x: Var, factor: np.ndarray | float, roundings: float = 0.0) -> Var:
        """x * factor; x is enlarged where the factor is larger. `roundings`: see `graph.ir`."""
        factor = self.numbers(factor)
        x = self.broadcast(x, np.broadcast_shapes(x.shape, factor.shape))
        if (factor == 1).all() and not roundings:
            return x
        return self.emit("Scale", [x], x.shape, {"factor": factor, **rounding_params(roundings)})

    def shift(self, x: Var, offset: np.ndarray | float, error: np.ndarray | None = None) -> Var:
        """x + offset; x is enlarged where the offset is larger. `error`: how far the offset may be off."""
        offset = self.numbers(offset)
        x = self.broadcast(x, np.broadcast_shapes(x.shape, offset.shape))
        if error is not None and error.any():
            return self.emit("Shift", [x], x.shape, {"offset": offset, "bias_error": error})
        return x if (offset == 0).all() else self.emit("Shift", [x], x.shape, {"offset": offset})

    def dense(self, x: Var, weight: np.ndarray, bias: np.ndarray | None = None, roundings: float = 0.0) -> Var:
        """x @ weight.T + bias on the last axis. `roundings`: see `graph.ir`."""
        params = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        params |= rounding_params(roundings)
        return self.emit("Dense", [x], (*x.shape[:-1], weight.shape[0]), params)

    def reduce_sum(self, x: Var, axes: Sequence[int]) -> Var:
        """Sum over `axes`, which are dropped."""
        if not axes:
            return x
        shape = [size for axis, size in enumerate(x.shape) if axis not in axes]
        return self.emit("ReduceSum", [x], shape, attrs={"axes": tuple(sorted(axes))})

    def log_sum_exp(self, x: Var, axis: int) -> Var:
        """log of the sum of exp along `axis`, which is dropped."""
        return self.emit("LogSumExp", [x], (*x.shape[:axis], *x.shape[axis + 1 :]), attrs={"axis": axis})

    def binary(self, op: str, x: Var, y: Var) -> Var:
        """Add, Sub or Mul of two values, broadcast against each other."""
        shape = np.broadcast_shapes(x.shape, y.shape)
        return self.emit(op, [self.broadcast(x, shape), self.broadcast(y, shape)], shape)

    def product(self, x: Var, y: Var) -> Var:
        """x * y, broadcast against each other; where both are one and the same element, its square."""
        shape = self.guard(np.broadcast_shapes(x.shape, y.shape))
        if elements(shape) > _TRACED:
            return self.binary("Mul", x, y)
        (root, left), (other, right) = self._traced(x), self._traced(y)
        if root.name != other.name:
            return self.binary("Mul", x, y)
        pairs = np.stack(np.broadcast_arrays(left, right)).reshape(2, -1)
        pairs = np.sort(pairs, 0)
        distinct, back = np.unique(pairs, axis=1, return_inverse=True)
        same = distinct[0] == distinct[1]
        if not same.any():
            return self.binary("Mul", x, y)
        flat = self.reshape(root, (elements(root.shape),))
        parts = [self.unary("Pow", self.take(flat, 0, distinct[0, same]), exponent=2)]
        if not same.all():
            parts.append(self.binary("Mul", *(self.take(flat, 0, one[~same]) for one in distinct)))
        place = np.empty(len(same), np.int64)
        place[np.concatenate([np.flatnonzero(same), np.flatnonzero(~same)])] = np.arange(len(same))
        return self.reshape(self.take(self.concat(parts, 0), 0, place[back.reshape(-1)]), shape)

    def _traced(self, x: Var) -> tuple[Var, np.ndarray]:
        """The value that x only rearranges, and the position in it of each element of x."""
        makers = {node.output: node for node in self.nodes}
        chain: list[Node] = []
        name = x.name
        while name in makers and makers[name].op in _REARRANGES:
            chain.append(makers[name])
            name = makers[name].inputs[0]
        shape = self.shapes[name]
        if elements(shape) > _TRACED:
            return x, np.arange(elements(x.shape)).reshape(x.shape)
        at = np.arange(elements(shape)).reshape(shape)
        for node in reversed(chain):
            at = OPERATORS[node.op].value(node, node.params, (1, *self.shapes[node.output]), at[None])[0]
        return replace(x, name=name, shape=shape), at

    def unary(self, op: str, x: Var, **attrs: Attribute) -> Var:
        """An element-wise operator."""
        return self.emit(op, [x], x.shape, attrs=attrs)

    def clip(self, x: Var, low: float, high: float) -> Var:
        """min(max(x, low), high)."""
        if low > high:  # ONNX applies the maximum last
            return self.constant(np.full(x.shape, high))
        if low == high:
            return self.constant(np.full(x.shape, low))
        if low == -np.inf and high == np.inf:
            return x
        if low == 0 and high == np.inf:
            return self.unary("Relu", x)
        return self.unary("Clip", x, min=float(low), max=float(high))


class Context(GraphBuilder):
    """Never instantiated by a lowering: the one builder of an import, looking at one ONNX node at a time."""

    op: str
    opset: int
    inputs: tuple[Operand | None, ...]
    n_outputs: int
    declared: Shape | None
    arrays: dict[str, np.ndarray] | None  # where elements of constants are only moved: those, as they are, by name
    _attributes: Mapping[str, Any]
    _asked: set[str]
    _node_name: str

    def look_at(
        self,
        op: str,
        opset: int,
        name: str,
        inputs: Sequence[Operand | None],
        n_outputs: int,
        attributes: Mapping[str, Any],
        declared: Shape | None,
    ) -> None:
        """Make `op` the current node; `declared` is the shape the file gives for its first output, if any."""
        self.op, self.opset, self._node_name = op, opset, name
        self.inputs, self.n_outputs, self._attributes, self.declared = tuple(inputs), n_outputs, attributes, declared
        self.arrays, self._asked = None, set()

    def refuse(self, why: str) -> UnsupportedOperator:
        """The error that refuses the current node."""
        return UnsupportedOperator(self._node_name, self.op, self.opset, why)

    def wrong(self, why: str) -> ModelError:
        """The error that calls the current node invalid."""
        return ModelError(f"{self.source}: {why}")

    @property
    def attributes(self) -> Mapping[str, Any]:
        """All attributes that the file gives, strings decoded."""
        self._asked.update(self._attributes)
        return self._attributes

    @property
    def unread(self) -> set[str]:
        """Attributes that the file gives and nobody has asked for."""
        return set(self._attributes) - self._asked

    def attr(self, name: str, default: Any = None) -> Any:
        """The attribute `name`, strings decoded, or `default`: a float32 number, as attributes are."""
        self._asked.add(name)
        default = float(np.float32(default)) if isinstance(default, float) else default
        return self._attributes.get(name, default)

    def flag(self, name: str, default: bool) -> bool:
        """The attribute `name`, which is 0 or 1: of other numbers implementations make what they like."""
        value = self.attr(name, int(default))
        if value not in (0, 1):
            raise self.wrong(f"{name} = {value!r}, expected 0 or 1")
        return bool(value)

    def has(self, index: int) -> bool:
        """Whether the optional input `index` is given."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def value(self, index: int) -> Operand:
        """Input `index`, constant or not."""
        if not self.has(index):
            raise self.wrong(f"input {index} is missing")
        result = self.inputs[index]
        assert result is not None
        return result

    def x(self, index: int = 0) -> Var:
        """Input `index` as a graph value (a constant becomes a Constant node)."""
        value = self.value(index)
        if isinstance(value, Var) or self.arrays is None:
            return self.var(value)
        name = self.fresh()
        self.shapes[name], self.arrays[name] = value.shape, value
        return Var(name, value.shape, value.dtype)

    def const(self, index: int, what: str) -> np.ndarray:
        """Input `index`, which has to be constant; `what` names it in the error."""
        value = self.value(index)
        if isinstance(value, Var):
            if value.name in self.inexact:
                raise self.refuse(f"its {what} is computed from constants and had to be rounded")
            raise self.refuse(f"its {what} must be constant, but depends on the network's input")
        return value

    def weight(self, index: int, what: str) -> tuple[np.ndarray, float]:
        """Input `index` as `const`, also where it is off by a few roundings, and by how many."""
        found = self.known(self.value(index))
        return found if found is not None else (self.const(index, what), 0.0)

    def plus(self, x: Var, y: Var) -> Var:
        """x + y, also where one of them is a constant that had to be rounded."""
        if x.name in self.inexact:
            x, y = y, x
        node = self.inexact.get(y.name)
        if node is None or x.name in self.inexact:
            return self.binary("Add", x, y)
        return self.shift(x, node.params["value"], node.params["bias_error"])

    def known(self, value: Operand) -> tuple[np.ndarray, float] | None:
        """A constant and by how many roundings it is off; None where that is too many, or it depends on an input."""
        if isinstance(value, np.ndarray):
            return value, 0.0
        node = self.inexact.get(value.name)
        off = None if node is None else roundings(node.params["value"], node.params["bias_error"])
        return None if node is None or off is None else (node.params["value"], off)

    def ints(self, index: int, name: str) -> list[int] | None:
        """A list of integers given as input `index` or as attribute `name`; None where absent."""
        if self.has(index):
            return [int(one) for one in self.const(index, name).reshape(-1)]
        value = self.attr(name)
        if value is None:
            return None
        return [int(value)] if isinstance(value, int) else [int(one) for one in value]

    def scalar(self, index: int, name: str, default: float) -> float:
        """A number given as input `index` or attribute `name`."""
        if self.has(index):
            value = self.const(index, name)
            if value.size != 1:
                raise self.wrong(f"{name} has {value.size} elements, expected 1")
            return float(value.reshape(()))
        return float(self.attr(name, default))

    def axis(self, axis: int, rank: int) -> int:
        """`axis` made non-negative."""
        if not -rank <= axis < max(rank, 1):
            raise self.wrong(f"axis {axis} is out of range for {rank} axes")
        return axis + rank if axis < 0 else axis

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """`axes` made non-negative, sorted and checked to be distinct."""
        result = tuple(sorted(self.axis(axis, rank) for axis in axes))
        if len(set(result)) != len(result):
            raise self.wrong(f"repeated axis in {list(axes)}")
        return result
