"""The parsed specification: declarations, expression trees, and walking them without recursion."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from vnnlib.limits import Limits

if TYPE_CHECKING:
    from vnnlib.form import NormalForm
    from vnnlib.source import LineTable

_T = TypeVar("_T")

FLOAT_TYPES = frozenset(
    [
        "real",
        "float16",
        "float32",
        "float64",
        "bfloat16",
        "float8e4m3fn",
        "float8e4m3fnuz",
        "float8e5m2",
        "float8e5m2fnuz",
        "float8e8m0",
        "float4e2m1",
    ]
)
SIGNED_TYPES = frozenset(["int4", "int8", "int16", "int32", "int64"])
UNSIGNED_TYPES = frozenset(["uint4", "uint8", "uint16", "uint32", "uint64"])
OTHER_TYPES = frozenset(["complex64", "complex128", "bool", "string"])
ALL_TYPES = FLOAT_TYPES | SIGNED_TYPES | UNSIGNED_TYPES | OTHER_TYPES


@dataclass(frozen=True)
class TensorDecl:
    """One declared tensor. `kind` is "input", "hidden" or "output"; shape `()` is a scalar.

    `node` names the graph node of a hidden tensor; `initialized` is the 2.1 option of an input; `line` is where the
    declaration stands (0 if it was built).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    kind: str
    node: str = ""
    initialized: bool = False
    line: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class NetworkDecl:
    """One declared network; `equivalence` is None or ("equal-to" | "isomorphic-to", other network's name)."""

    name: str
    equivalence: tuple[str, str] | None
    inputs: tuple[TensorDecl, ...]
    hidden: tuple[TensorDecl, ...]
    outputs: tuple[TensorDecl, ...]

    @property
    def tensors(self) -> tuple[TensorDecl, ...]:
        """All tensors in declaration order: inputs, hidden, outputs."""
        return self.inputs + self.hidden + self.outputs


@dataclass(frozen=True, eq=False)
class Num:
    """A number as written. `at` is the byte offset in the source."""

    __slots__ = ("at", "text")
    text: str
    at: int


@dataclass(frozen=True, eq=False)
class Variable:
    """Element `element` (row-major) of `spec.tensors[tensor]`."""

    __slots__ = ("at", "element", "tensor")
    tensor: int
    element: int
    at: int


@dataclass(frozen=True, eq=False)
class Application:
    """An application: `op` is one of and or <= >= < > == != + - *."""

    __slots__ = ("args", "at", "op")
    op: str
    args: tuple[Any, ...]
    at: int


Term = Num | Variable | Application
RELATIONS = frozenset(("<=", ">=", "<", ">", "==", "!="))


def postorder(root: Term) -> Iterator[Term]:
    """Yield every node of a tree after its operands, with an explicit stack (any depth)."""
    stack: list[tuple[Term, bool]] = [(root, False)]
    while stack:
        node, ready = stack.pop()
        if ready or not isinstance(node, Application):
            yield node
            continue
        stack.append((node, True))
        stack.extend((arg, False) for arg in reversed(node.args))


def fold(root: Term, leaf: Callable[[Num | Variable], _T], combine: Callable[[Application, list[_T]], _T]) -> _T:
    """The value of a tree of any depth: `leaf` of its leaves, `combine` of an application and its operands' values."""
    stack: list[_T] = []
    for node in postorder(root):
        if isinstance(node, Application):
            count = len(node.args)
            operands = stack[-count:]
            del stack[-count:]
            stack.append(combine(node, operands))
        else:
            stack.append(leaf(node))
    return stack[0]


@dataclass(frozen=True, eq=False)
class Spec:
    """A parsed query: sat means that some input makes all `assertions` true.

    On the general path `assertions` holds one tree per assertion. On the fast path, and for built specifications,
    `assertions` is empty and `form` is the normal form that was read directly. `header` are the comment lines before
    the first command, which the writer repeats. `warnings` are one-line messages of things accepted although they are
    not quite right.
    """

    version: str
    networks: tuple[NetworkDecl, ...]
    assertions: tuple[Term, ...] = ()
    warnings: tuple[str, ...] = ()
    name: str = "<built>"
    header: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    form: NormalForm | None = None
    lines: LineTable | None = None

    @cached_property
    def tensors(self) -> tuple[TensorDecl, ...]:
        """All tensors of all networks in declaration order."""
        return tuple(t for network in self.networks for t in network.tensors)

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """First column of each tensor in the joint vector: all inputs, then all outputs, then all hidden."""
        starts, at = [0] * len(self.tensors), 0
        for kind in ("input", "output", "hidden"):
            for number, tensor in enumerate(self.tensors):
                if tensor.kind == kind:
                    starts[number], at = at, at + tensor.size
        return tuple(starts)

    def size(self, kind: str) -> int:
        """Number of elements of all tensors of this kind."""
        return sum(t.size for t in self.tensors if t.kind == kind)

    def position(self, at: int) -> tuple[int, int]:
        """Line and column of a node's offset `at`, or (0, 0) where the text is not known."""
        return (0, 0) if self.lines is None or at < 0 else self.lines.position(at)

    def evaluate(self, values: Mapping[str, Any]) -> bool:
        """Say whether the assertions hold, exactly, for `values` (tensor name to array or nested lists).

        Numbers count as the exact rationals that are written; array elements as the exact values of their floats. Works
        for nonlinear trees too. Raises KeyError for a missing tensor that an assertion uses.
        """
        flat = {k: np.asarray(v).reshape(-1) for k, v in values.items()}
        if self.form is not None:
            pick = [np.concatenate([flat[s.name] for s in group] or [np.zeros(0)]) for group in self.form.slices]
            return self.form.holds(*pick)
        return all(_evaluate(tree, self.tensors, flat) for tree in self.assertions)

    def __repr__(self) -> str:
        tensors = ", ".join(f"{t.name}{list(t.shape)}" for t in self.tensors[:8])
        held = f"{len(self.assertions)} assertions" if self.form is None else repr(self.form)
        return f"Spec({self.name}, version {self.version}: {tensors}; {held})"


def _evaluate(root: Term, tensors: tuple[TensorDecl, ...], flat: Mapping[str, np.ndarray]) -> bool:
    """Evaluate one boolean tree in exact arithmetic."""

    def leaf(node: Num | Variable) -> Any:
        if isinstance(node, Num):
            return Fraction(node.text)
        return Fraction(float(flat[tensors[node.tensor].name][node.element]))

    return bool(fold(root, leaf, lambda node, operands: _apply(node.op, operands)))


_OPERATORS: Mapping[str, Callable[[list[Any]], Any]] = {"and": all, "or": any, "+": sum, "*": prod}
_COMPARISONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt, "==": operator.eq}


def _apply(op: str, args: list[Any]) -> Any:
    """Apply one operator to evaluated operands."""
    if op == "-":
        return -args[0] if len(args) == 1 else args[0] - sum(args[1:])
    if op in _OPERATORS:
        return _OPERATORS[op](args)
    return _COMPARISONS.get(op, operator.ne)(*args)
