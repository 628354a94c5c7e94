"""Values that depend on no input, with a rigorous bound of what rounding made of them.

A value v computed in float64 comes with e >= 0, so that the real value lies in [v - e, v + e], element by element;
e is 0 where nothing was rounded. A sum of n products is off by at most gamma_n sum |w| |x| in any order, gamma_n =
n u / (1 - n u), u = 2**-53 (Higham 2002, section 3.1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from verifier.graph.evaluate import apply, is_exact
from verifier.graph.exact import FUNCTION, ONE, UNIT
from verifier.graph.ir import ROUNDINGS, Graph, Node, Shape
from verifier.graph.operators import OPERATORS

FLOOR = 1e-300  # far above what underflow can lose in a sum of 10**20 terms
_SMALLEST = 1e-130  # a product of two numbers above, times an error, is far from underflow


class Enclosure(NamedTuple):
    """`value` and `error` >= 0, both (M, *S)."""

    value: np.ndarray
    error: np.ndarray

    @property
    def finite(self) -> bool:
        """Whether all of it is finite."""
        return bool(np.isfinite(self.value).all() and np.isfinite(self.error).all())


def between(lower: np.ndarray, upper: np.ndarray) -> Enclosure:
    """What lies between two finite arrays."""
    value = np.clip(lower + (upper - lower) / 2, lower, upper)
    error = np.maximum(upper - value, value - lower)
    return Enclosure(value, np.where(error > 0, np.nextafter(error, np.inf), 0.0))


def exactly(value: np.ndarray) -> Enclosure:
    """A value that is known without error."""
    return Enclosure(value, np.zeros(value.shape))


def enclose(graph: Graph, given: Mapping[str, np.ndarray | Enclosure]) -> dict[str, Enclosure]:
    """All values of the graph whose enclosure is known, from inputs (M, *S) that are exact or enclosed."""
    known = {name: x if isinstance(x, Enclosure) else exactly(np.asarray(x, np.float64)) for name, x in given.items()}
    points = max((len(x.value) for x in known.values()), default=1)
    for node in graph.nodes:
        if all(name in known for name in node.inputs):
            shape = graph.shapes[node.output]
            found = enclose_node(node, [known[name] for name in node.inputs], shape)
            if found is not None:  # a constant is that of every point
                known[node.output] = Enclosure(*(np.broadcast_to(part, (points, *shape)) for part in found))
    return known


def enclose_node(node: Node, xs: Sequence[Enclosure], shape: Shape) -> Enclosure | None:
    """What one node makes of enclosed inputs (M, *S); None where there is no rule, or an element is not finite."""
    if node.op == "Opaque":
        return None
    values = [x.value for x in xs]
    value = apply(node, values, shape)
    careful = OPERATORS[node.op].careful
    if careful is not None and not xs[0].error.any() and node.exact and not is_exact(node, values, value):
        found = careful(node, values[0])
        if found is not None and Enclosure(*found).finite:
            return Enclosure(*found)
    with np.errstate(all="ignore"):
        error = _error(node, xs, values, value, shape)
    if error is None:
        return None
    result = Enclosure(value, np.broadcast_to(error, value.shape))
    return result if result.finite else None


def _error(
    node: Node, xs: Sequence[Enclosure], values: list[np.ndarray], value: np.ndarray, shape: Shape
) -> np.ndarray | None:
    moved = any(x.error.any() for x in xs)
    own = node.params.get("bias_error")
    rounded = not is_exact(node, values, value)
    if not moved and not rounded:
        return np.zeros(value.shape) if own is None else own + np.zeros(value.shape)
    row = OPERATORS[node.op]
    steepness = row.steepness(node.attrs)
    if (row.moves or row.picks) and steepness == 1:  # no further apart than their arguments, and never rounded
        return xs[0].error if row.elementwise else apply(node, [x.error for x in xs], shape)
    terms = row.terms(node, values) if row.terms is not None else 2
    total = np.zeros(value.shape) if own is None else own + np.zeros(value.shape)
    if row.linear:
        if moved:
            total = total + apply(_absolute(node, False), [x.error for x in xs], shape)
        if rounded and (row.elementwise or row.broadcasts):
            total = total + (ONE + float(node.params.get("roundings", 0.0)) * ONE) * np.abs(value)
        elif rounded:
            total = total + (terms + 4 + ROUNDINGS) * UNIT * apply(
                _absolute(node, True), [np.abs(v) for v in values], shape
            )
    elif row.error is not None:
        total = total + row.error(node, values, [x.error for x in xs], value)
    elif row.left is not None:
        slope = np.abs(row.left(node.attrs, node.params))
        total = total + np.maximum(slope, 1.0) * xs[0].error + UNIT * np.abs(value)
    elif row.within_one and steepness is not None and steepness <= 1:
        total = total + np.where(_plain(node, xs[0]), 0.0, xs[0].error + FUNCTION)
    elif row.monotone:
        x, e = values[0], np.nextafter(xs[0].error, np.inf) + UNIT * np.abs(values[0]) if moved else 0.0
        if row.pole is not None and (np.abs(x - row.pole) <= e).any():
            return None
        ends = [apply(node, [x + side * e], shape) for side in (-1, 1)]  # not finite outside the domain
        apart = np.maximum(*(np.abs(end - value) for end in ends)) if moved else 0.0
        own_error = ONE if row.once else FUNCTION
        size = np.maximum(np.abs(value), np.maximum(*map(np.abs, ends)))
        total = total + np.where(_plain(node, xs[0]), 0.0, apart + own_error * size)
    else:
        return None
    return total * (1 + (terms + 8 + ROUNDINGS) * UNIT) + (FLOOR if _tiny(node, xs, value) else 0.0)


def _plain(node: Node, x: Enclosure) -> np.ndarray:
    """Where the function is known without error: sin 0, cos 0, exp 0, log 1 and the like."""
    plain = OPERATORS[node.op].plain
    return (x.value == (np.nan if plain is None else plain)) & (x.error == 0)


def _tiny(node: Node, xs: Sequence[Enclosure], value: np.ndarray) -> bool:
    """Whether a product of two of the numbers, or a function's value, may underflow."""
    arrays = [part for x in xs for part in x] + [*node.params.values(), value]
    return any(bool(((array != 0) & (np.abs(array) < _SMALLEST)).any()) for array in arrays if array.dtype.kind == "f")


def _absolute(node: Node, constant: bool) -> Node:
    """The node with absolute weights; its constant part absolute or left out."""
    params = {n: np.abs(a) for n, a in node.params.items() if n in ("weight", "factor")}
    if constant:
        params |= {n: np.abs(a) for n, a in node.params.items() if n in ("bias", "offset")}
    return Node(OPERATORS[node.op].absolute or node.op, node.inputs, node.output, params, node.attrs)
