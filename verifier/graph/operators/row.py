"""What an operator is, said once: every pass, the checks, the reference values and pruning read it here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verifier.graph.ir import Node, Shape

ValueRule = Callable[..., np.ndarray]
"""(node, params, shape, *xs) -> the value: params in the type of xs, xs (M, *S_i) each, shape = (M, *T)."""


@dataclass(frozen=True)
class Traits:
    """What holds of an operator of ONNX or of the IR; whatever is not known stays at its default.

    `elementwise`: one input, result of its shape. `broadcasts`: element-wise over several inputs that broadcast.
    `moves`: elements change places (repeats and added zeros included), none is computed. `increasing`: the result does
    not fall where an input rises. `lipschitz` L: |f(x + e) - f(x)| <= L |e| for an element-wise operator, and
    <= L f(|e|) for any other one. `left(attrs, params)`: the slope below 0 of a function that is the identity above.
    `whole`: its lowering is right for whole numbers too. Where a trait depends on the attributes, it is a function of
    them.
    """

    elementwise: bool = False
    broadcasts: bool = False
    linear: bool = False
    moves: bool = False
    increasing: bool | Callable[[Mapping[str, Any]], bool] = False
    lipschitz: float | Callable[[Mapping[str, Any]], float] | None = None
    left: Callable[[Mapping[str, Any], Mapping[str, np.ndarray]], float | np.ndarray] | None = None
    whole: bool = False

    @property
    def bends(self) -> bool:
        """Whether it is a non-linear function of one input, element by element."""
        return self.elementwise and not self.linear

    def rises(self, attrs: Mapping[str, Any]) -> bool:
        """`increasing` for these attributes."""
        return self.increasing(attrs) if callable(self.increasing) else self.increasing or self.moves

    def steepness(self, attrs: Mapping[str, Any]) -> float | None:
        """`lipschitz` for these attributes; None where it is not known or unbounded."""
        if callable(self.lipschitz):
            return self.lipschitz(attrs)
        return 1.0 if self.lipschitz is None and self.moves else self.lipschitz


def need(condition: bool, what: str) -> None:
    """Raises ValueError(what) unless `condition`."""
    if not condition:
        raise ValueError(what)


def same(node: Node, shape: Shape, *others: Shape) -> Shape:
    """The shape of an operator that keeps it: all inputs agree, and no parameter enlarges them."""
    need(all(other == shape for other in others), "inputs differ in shape")
    for array in node.params.values():
        need(np.broadcast_shapes(array.shape, shape) == shape, "a parameter enlarges the input")
    return shape


@dataclass(frozen=True, kw_only=True)
class Operator(Traits):
    """A row: an operator of the IR (`graph.ir`).

    `inputs`: how many, None for one or more. `shape(node, *S)` is the shape T of the result and raises where attributes
    and parameters do not fit; with `fits`, T is stored in the graph, and `fits(S, T)` tells whether it may be.
    `needs`, `may`: names of parameters. `picks`: every element of the result is an element of the input, or a number
    that float64 holds; nothing is rounded. `once`: its value is rounded correctly, once; otherwise numpy's function is
    trusted to `enclose.FUNCTION`. `within_one`: |f| <= 1. `plain`: an argument at which the value is known exactly.
    `as_is`: ONNX has it under the same name, without attributes.
    `inner`: ONNX has no operator of that name. `monotone`: rising, or falling, on intervals where it is defined.
    `shared`: its parameters are those of the function, not of single elements.
    `drops_axis`: a reduction along attrs axis. `steps`: constant but for jumps.

    How its value is rounded: `exact(node, xs, y)` whether y (M, *T) is the real number of xs (M, *S) (None: known only
    of what moves or picks). `error(node, xs, errors, y)` bounds |y - real value| for errors of xs and its own, where no
    trait says it. `terms(node, xs)`: most numbers that one element adds up (None: 2). `careful(node, x)`: a value of an
    exact x with a smaller error, and that. `pole`: where a monotone function jumps to infinity. `absolute`: the
    operator that it is with absolute weights, if another. `identity(node, S)`: whether it is the identity, given that
    the result has the input's shape (None: if it moves).
    """

    name: str
    value: ValueRule
    inputs: int | None = 1
    shape: Callable[..., Shape] = same
    fits: Callable[[Shape, Shape], bool] | None = None
    needs: Sequence[str] = ()
    may: Sequence[str] = ()
    attrs: Sequence[str] = ()
    picks: bool = False
    once: bool = False
    within_one: bool = False
    plain: float | None = None
    monotone: bool = False
    shared: bool = False
    drops_axis: bool = False
    steps: bool = False
    as_is: bool = False
    inner: bool = False
    exact: Callable[[Node, Sequence[np.ndarray], np.ndarray], bool] | None = None
    error: Callable[[Node, Sequence[np.ndarray], Sequence[np.ndarray], np.ndarray], np.ndarray] | None = None
    terms: Callable[[Node, Sequence[np.ndarray]], int] | None = None
    careful: Callable[[Node, np.ndarray], tuple[np.ndarray, np.ndarray] | None] | None = None
    pole: float | None = None
    absolute: str = ""
    identity: Callable[[Node, Shape], bool] | None = None


OPERATORS: dict[str, Operator] = {}
"""Every operator of the IR that can be evaluated, by name."""


def declare(name: str, value: ValueRule, **fields: Any) -> None:
    """Enter a row into the table."""
    if name in OPERATORS:
        raise ValueError(f"operator {name} is declared twice")
    OPERATORS[name] = Operator(name=name, value=value, **fields)


def axis_of(node: Node, shape: Shape) -> int:
    """The attribute `axis`, within the rank."""
    axis = node.integer("axis")
    need(0 <= axis < len(shape), f"axis {axis}")
    return axis


def without_axis(node: Node, shape: Shape) -> Shape:
    """The shape after a reduction along the attribute `axis`, which is dropped."""
    axis = axis_of(node, shape)
    return (*shape[:axis], *shape[axis + 1 :])


def same_size(before: Shape, after: Shape) -> bool:
    """Whether both shapes hold as many elements."""
    return math.prod(before) == math.prod(after)
