"""A graph bound to a dtype and a device: the operator objects in order, and the concrete forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from verifier.errors import ModelError
from verifier.graph.ir import Graph, Shape
from verifier.ops import bind
from verifier.ops.affine import Dense
from verifier.ops.kinds import LinearOp, Op, RelaxedOp
from verifier.ops.layout import Move
from verifier.ops.patch import Patch, Tiling
from verifier.passes.lift_scalars import lift_scalars
from verifier.tolerance import ulp

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Network:
    """Operators in topological order over numbered slots: slot 0 is the input x (n,), slot i + 1 `ops[i]`'s output.

    `sources[i]` are the slots that `ops[i]` reads, `last_use[s]` the last operator that reads slot s, `output` the
    slot of the result y (m,).
    """

    ops: tuple[Op, ...]
    sources: tuple[tuple[int, ...], ...]
    last_use: tuple[int, ...]
    output: int
    n: int
    m: int
    shapes: tuple[Shape, ...]
    dtype: torch.dtype
    device: torch.device

    @cached_property
    def relaxed(self) -> tuple[int, ...]:
        """Indices of the non-linear operators."""
        return tuple(i for i, op in enumerate(self.ops) if isinstance(op, RelaxedOp))

    @cached_property
    def multiply_adds(self) -> int:
        """Of one inference."""
        return sum(op.multiply_adds for op in self.ops)

    @property
    def neurons(self) -> int:
        """Elements that enter non-linear operators."""
        return sum(_numel(self.shapes[s]) for i in self.relaxed for s in self.sources[i])

    @cached_property
    def relus(self) -> dict[int, int]:
        """Number of the first neuron of each ReLU operator, by operator index; neurons are numbered through."""
        first, result = 0, {}
        for i in self.relaxed:
            if self.ops[i].node.op == "Relu":
                result[i] = first
                first += _numel(self.shapes[i + 1])
        return result

    def size(self, slot: int) -> int:
        """Elements of the value in a slot."""
        return _numel(self.shapes[slot])

    @cached_property
    def arguments(self) -> dict[tuple[int, int], int]:
        """Number of the first element of argument k of every non-linear operator i: those of ReLUs as in `relus`, then
        all others. A value that several of these others read has one number."""
        result = {(i, 0): first for i, first in self.relus.items()}
        count = sum(_numel(self.shapes[i + 1]) for i in self.relus)
        known: dict[int, int] = {}
        for i in self.relaxed:
            for k, slot in enumerate(self.sources[i] if i not in self.relus else ()):
                if slot not in known:
                    known[slot] = count
                    count += _numel(self.shapes[slot])
                result[i, k] = known[slot]
        return result

    @cached_property
    def finite(self) -> bool:
        """Whether all bounds are finite on finite boxes (but for overflow, which then makes a row useless)."""
        return all(op.finite for op in self.ops if isinstance(op, RelaxedOp))

    def producer(self, i: int) -> LinearOp | None:
        """The linear operator that makes the argument of the element-wise operator i and of no other, if there is."""
        op, (slot, *others) = self.ops[i], self.sources[i]
        if others or not isinstance(op, RelaxedOp) or not op.elementwise or slot == 0 or self.readers(slot) > 1:
            return None
        made_by = self.ops[slot - 1]
        return made_by if isinstance(made_by, LinearOp) and made_by.inexact() is None else None

    @cached_property
    def sharp(self) -> frozenset[int]:
        """Slots whose values interval arithmetic bounds exactly (but for rounding) on any box of inputs: linear
        operators alone make them, and none of these adds up values that may depend on the same input."""
        # each element depends on: at most one input, and no two on the same; inputs that are added up only once; others
        constant, own, once, unknown = 3, 2, 1, 0
        kinds = [own]
        for op, sources in zip(self.ops, self.sources, strict=True):
            varying = [kinds[s] for s in sources if kinds[s] != constant]
            several = len(varying) > 1
            if not isinstance(op, LinearOp):
                kinds.append(unknown)
            elif op.terms > (0 if several else 1):
                kinds.append(once if varying == [own] else unknown if varying else constant)
            else:
                kinds.append(min([*varying, once if several or op.adjoint_terms > 1 else constant]))
        return frozenset(slot for slot, kind in enumerate(kinds) if kind != unknown)

    def origin(self, slot: int) -> tuple[int, Tensor]:
        """The slot whose elements `slot` repeats, by operators that only move or copy them, and the place there of each
        element (size,), -1 for a constant 0."""
        moves = []
        while slot > 0 and isinstance(op := self.ops[slot - 1], Move) and len(self.sources[slot - 1]) == 1:
            moves.append(op)
            slot = self.sources[slot - 1][0]
        place = torch.arange(1, self.size(slot) + 1, device=self.device).view(1, *self.shapes[slot])
        for op in reversed(moves):
            place = op.linear(place)
        return slot, place.flatten() - 1

    @cached_property
    def wholes(self) -> tuple[Patch, ...]:
        """All of the value in each slot, as a part of it."""
        return tuple(map(Patch.of_all, self.shapes))

    @cached_property
    def tilings(self) -> dict[int, list[Tiling]]:
        """What `tiles` has found out about values, by slot."""
        return {}

    def reached(self, slot: int, part: Patch) -> dict[int, Patch]:
        """The parts of all values that rows over a part of the value in `slot` reach."""
        found = {slot: part}
        for i in range(slot - 1, -1, -1):
            if i + 1 not in found:
                continue
            part, op = found[i + 1], self.ops[i]
            parts: Sequence[Patch]
            if isinstance(op, LinearOp):
                row = torch.zeros(1, *part.shape, dtype=self.dtype, device=self.device)
                through = op.through(row, part)
                parts = op.wholes if through is None else [own for _, own in through]
            else:
                assert isinstance(op, RelaxedOp)
                parts = [part] if op.elementwise else [self.wholes[s] for s in self.sources[i]]
            for source, own in zip(self.sources[i], parts, strict=True):
                found[source] = own.union(found[source]) if source in found else own
        return found

    @cached_property
    def needed(self) -> dict[int, Patch]:
        """The parts of all values that the network's result depends on."""
        return self.reached(self.output, self.wholes[self.output])

    @cached_property
    def widest(self) -> int:
        """Elements of the largest value."""
        return max(_numel(shape) for shape in self.shapes)

    def walk(self, start: T, step: Callable[[int, Op, list[T]], T], slot: int | None = None) -> T:
        """The one forward walk: what there is in `slot` (None: the output), with `start` in slot 0; `step(i, op, read)`
        makes what operator i leaves of what it reads. What no later operator reads is dropped."""
        end = self.output if slot is None else slot
        values: dict[int, T] = {0: start}
        for i, op in enumerate(self.ops if slot is None else self.ops[:slot]):
            values[i + 1] = step(i, op, [values[s] for s in self.sources[i]])
            for s in self.sources[i]:
                if self.last_use[s] == i and s != end:
                    values.pop(s, None)
        return values[end]

    def forward(self, x: Tensor, slot: int | None = None) -> Tensor:
        """Concrete values in `slot` (None: the output): (M, n) -> (M, *S)."""

        def step(_: int, op: Op, xs: list[Tensor]) -> Tensor:
            return op.forward(*xs) if xs else op.forward().expand(len(x), *op.out_shape)

        return self.walk(x, step, slot)

    def readers(self, slot: int) -> int:
        """How often a slot is read; the network's result counts as read once more."""
        return self._readers[slot]

    @cached_property
    def _readers(self) -> tuple[int, ...]:
        counts = [0] * len(self.shapes)
        for slot in (self.output, *(s for read in self.sources for s in read)):
            counts[slot] += 1
        return tuple(counts)


def narrowed(exact: Network, graph: Graph) -> Network | None:
    """The network of `graph` in float32, with bounds that hold for the `exact` float64 one as well.

    Weights and constants that have to be rounded carry what that is off by. None where another number would have to be
    rounded, or where a device may compute convolutions by other than plain sums (cuDNN does, in float32).
    """
    single = build(graph, torch.float32, exact.device)
    for op, wide in zip(single.ops, exact.ops, strict=True):
        if exact.device.type != "cpu" and wide.node.op.startswith("Conv"):
            return None
        if any(isinstance(value, float) and value != float(np.float32(value)) for value in wide.node.attrs.values()):
            return None
        for name, value in wide.params.items():
            off = (op.params[name].to(value.dtype) - value).abs()
            if name == "bias_error" or not bool((off != 0).any()):
                continue
            if name == "weight" and isinstance(op, Dense) and bool((off <= value.abs() * HALF).all()):
                op.weights_rounded = True
                continue
            if name not in OFFSETS or not bool(off.isfinite().all()):
                return None
            total = off + wide.params.get("bias_error", 0.0)
            op.params["bias_error"] = torch.nextafter(total.float(), torch.tensor(torch.inf, device=off.device))
    return single


def halved(single: Network, exact: Network) -> bool:
    """Whether `single`, the network `exact` in float32, has all of its weights to half an ulp: one that underflows or
    overflows there has no relative error that a sum of products could pay for. Constants that are added do not count.
    """
    for op, wide in zip(single.ops, exact.ops, strict=True):
        for name, value in wide.params.items():
            if value.is_floating_point() and name not in (*OFFSETS, "bias_error", "roundings"):
                off = (op.params[name].to(value.dtype) - value).abs()
                if not bool((off <= value.abs() * HALF).all()):
                    return False
    return True


HALF = ulp(torch.float32) / 2
OFFSETS = ("bias", "offset", "value")
"""Parameters that are nothing but a constant that is added."""


def _numel(shape: Sequence[int]) -> int:
    size = 1
    for s in shape:
        size *= s
    return size


def build(graph: Graph, dtype: torch.dtype, device: torch.device) -> Network:
    """Binds `graph` (one input of shape (n,), one output of shape (m,)) to a dtype and a device.

    Raises:
        ModelError: the graph has several inputs or outputs.
        UnsupportedOperator: a node has no rule.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise ModelError("expected a graph with one flat input and one flat output (run passes.flatten_io first)")
    graph = lift_scalars(graph)
    slots = {graph.inputs[0]: 0}
    ops: list[Op] = []
    sources: list[tuple[int, ...]] = []
    shapes: list[Shape] = [graph.shapes[graph.inputs[0]]]
    for node in graph:
        ops.append(bind(node, graph.shapes, dtype, device))
        sources.append(tuple(slots[name] for name in node.inputs))
        slots[node.output] = len(ops)
        shapes.append(graph.shapes[node.output])
    output = slots[graph.outputs[0]]
    last_use = [-1] * (len(ops) + 1)
    for i, read in enumerate(sources):
        for s in read:
            last_use[s] = i
    last_use[output] = len(ops)
    return Network(
        tuple(ops),
        tuple(sources),
        tuple(last_use),
        output,
        _numel(shapes[0]),
        _numel(shapes[output]),
        tuple(shapes),
        dtype,
        device,
    )
