"""Independent oracles: numpy evaluation of graphs, sampling, corners, convex envelopes, LP and MILP (HiGHS through
scipy).

Nothing here imports the verifier's operators or torch: these functions are what those are compared with.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from fractions import Fraction
from itertools import product

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.signal import convolve
from scipy.special import erf

from verifier.graph.evaluate import evaluate as _evaluate
from verifier.graph.ir import Graph, Node

NETWORKS = int(os.environ.get("SECATEUR_NETWORKS", "0"))
"""Random networks that tests against LP and MILP take instead of their own number (`make exact-verdicts`)."""

Array = np.ndarray
Box = tuple[Array, Array]


# ---------------------------------------------------------------------------------------------------------- functions


def _conv(x: Array, node: Node) -> Array:
    """Cross-correlation of x (1, C, *spatial), written for clarity."""
    weight, attrs = node.params["weight"], node.attrs
    stride, padding, dilation, groups = (attrs[k] for k in ("stride", "padding", "dilation", "groups"))
    rank = len(stride)
    x = np.pad(x, [(0, 0), (0, 0), *((p, p) for p in padding)])
    kernel = np.zeros((*weight.shape[:2], *((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True))))
    kernel[(slice(None), slice(None), *(slice(None, None, d) for d in dilation))] = weight
    flip = (slice(None, None, -1),) * rank
    step = tuple(slice(None, None, s) for s in stride)
    per_in, per_out = weight.shape[1], weight.shape[0] // groups
    maps = []
    for out in range(weight.shape[0]):
        first = (out // per_out) * per_in
        total = sum(convolve(x[0, first + c], kernel[out, c][flip], "valid", "direct") for c in range(per_in))
        maps.append(total[step])
    y = np.stack(maps)[None]
    return y + node.params["bias"].reshape(1, -1, *[1] * rank) if "bias" in node.params else y


def _conv_transpose(x: Array, node: Node) -> Array:
    """Every input element adds its kernel to the output."""
    weight, attrs = node.params["weight"], node.attrs
    names = ("stride", "padding", "dilation", "output_padding", "groups")
    stride, padding, dilation, extra, groups = (attrs[k] for k in names)
    kernel = weight.shape[2:]
    full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(x.shape[2:], stride, kernel, dilation, strict=True)]
    per_in, per_out = weight.shape[0] // groups, weight.shape[1]
    y = np.zeros((1, per_out * groups, *(f + e for f, e in zip(full, extra, strict=True))), x.dtype)
    for c in range(weight.shape[0]):
        first = (c // per_in) * per_out
        for at in np.ndindex(*x.shape[2:]):
            where = tuple(
                slice(i * s, i * s + (k - 1) * d + 1, d)
                for i, s, k, d in zip(at, stride, kernel, dilation, strict=True)
            )
            y[(0, slice(first, first + per_out), *where)] += x[(0, c, *at)] * weight[c]
    y = y[(slice(None), slice(None), *(slice(p, n - p) for p, n in zip(padding, y.shape[2:], strict=True)))]
    return y + node.params["bias"].reshape(1, -1, *[1] * len(stride)) if "bias" in node.params else y


def _dense(x: Array, node: Node) -> Array:
    y = x @ node.params["weight"].T.astype(x.dtype)
    return y + node.params["bias"] if "bias" in node.params else y


def _slice(x: Array, node: Node) -> Array:
    axis, start, stop, step = (int(node.attrs[k]) for k in ("axis", "start", "stop", "step"))
    return x[(slice(None),) * axis + (slice(start, stop, step),)]


def _pad(x: Array, node: Node) -> Array:
    counts = list(zip(node.attrs["before"], node.attrs["after"], strict=True))
    return np.pad(x, counts) if counts else x


def _place(x: Array, node: Node) -> Array:
    axis = node.attrs["axis"]
    largest = x == x.max(axis=axis, keepdims=True)
    places = np.arange(x.shape[axis]).reshape(-1, *[1] * (x.ndim - 1 - axis))
    found: Array = np.where(largest, places, np.nan)
    return np.nanmax(found, axis=axis) if node.attrs["last"] else np.nanmin(found, axis=axis)


def _spline(x: Array, node: Node) -> Array:
    """Slopes and constants of the ramps that have begun are added up first: a sum of ramps cancels where x is large."""
    knots, rise = (np.asarray(node.params[name], x.dtype) for name in ("knots", "rise"))
    begun = x[..., None] > knots
    found: Array = (begun * rise).sum(-1) * x - (begun * (rise * knots)).sum(-1)
    return found


Function = Callable[..., Array]
# op -> function(inputs.., node, output shape) on one point of the IR's own shape, in the dtype of the inputs
FUNCTIONS: dict[str, Function] = {
    "Dense": lambda x, node, shape: _dense(x, node),
    "Conv": lambda x, node, shape: _conv(x, node),
    "ConvTranspose": lambda x, node, shape: _conv_transpose(x, node),
    "Scale": lambda x, node, shape: x * node.params["factor"],
    "Shift": lambda x, node, shape: x + node.params["offset"],
    "Reshape": lambda x, node, shape: x.reshape(shape),
    "Transpose": lambda x, node, shape: x.transpose(node.attrs["perm"]),
    "Slice": lambda x, node, shape: _slice(x, node),
    "Take": lambda x, node, shape: np.take(x, node.params["indices"], axis=node.attrs["axis"]),
    "Expand": lambda x, node, shape: np.broadcast_to(x, shape),
    "Pad": lambda x, node, shape: _pad(x, node),
    "ReduceSum": lambda x, node, shape: x.sum(axis=node.attrs["axes"]),
    "Add": lambda x, y, node, shape: x + y,
    "Sub": lambda x, y, node, shape: x - y,
    "Concat": lambda *xs: np.concatenate(xs[:-2], axis=xs[-2].attrs["axis"]),
    "Constant": lambda node, shape: node.params["value"],
    "Relu": lambda x, node, shape: np.maximum(x, 0),
    "LeakyRelu": lambda x, node, shape: np.where(x < 0, x * np.asarray(node.attrs["alpha"], x.dtype), x),
    "PRelu": lambda x, node, shape: np.where(x < 0, x * node.params["slope"], x),
    "Clip": lambda x, node, shape: np.clip(x, node.attrs["min"], node.attrs["max"]),
    "Spline": lambda x, node, shape: _spline(x, node),
    "Abs": lambda x, node, shape: np.abs(x),
    "Sign": lambda x, node, shape: np.sign(x),
    "Floor": lambda x, node, shape: np.floor(x),
    "Round": lambda x, node, shape: np.rint(x),
    "Within": lambda x, node, shape: np.where((x < node.attrs["min"]) | (x > node.attrs["max"]), np.nan, x),
    "ArgMax": lambda x, node, shape: _place(x, node),
    "Sigmoid": lambda x, node, shape: 1 / (1 + np.exp(-x)),
    "Tanh": lambda x, node, shape: np.tanh(x),
    "Sin": lambda x, node, shape: np.sin(x),
    "Cos": lambda x, node, shape: np.cos(x),
    "Exp": lambda x, node, shape: np.exp(x),
    "Softplus": lambda x, node, shape: np.logaddexp(x, 0),
    "Erf": lambda x, node, shape: erf(x.astype(np.float64)).astype(x.dtype),  # there is none in long double
    "Atan": lambda x, node, shape: np.arctan(x),
    "LogSumExp": lambda x, node, shape: np.logaddexp.reduce(x, axis=node.attrs["axis"]),
    "Log": lambda x, node, shape: np.log(x),
    "Sqrt": lambda x, node, shape: np.sqrt(x),
    "Reciprocal": lambda x, node, shape: 1 / x,
    "Pow": lambda x, node, shape: x ** int(node.attrs["exponent"]),
    "Mul": lambda x, y, node, shape: x * y,
    "ReduceMax": lambda x, node, shape: x.max(axis=node.attrs["axis"]),
}


def apply(node: Node, inputs: list[Array], shape: tuple[int, ...]) -> Array:
    """One node on one point: inputs in the IR's shapes -> output (shape)."""
    with np.errstate(all="ignore"):
        return np.asarray(FUNCTIONS[node.op](*inputs, node, shape)).reshape(shape)


def evaluate(graph: Graph, x: Array) -> Array:
    """The network at points x (M, n) -> (M, m); one input and one output, in the dtype of x."""
    return np.stack([evaluate_all(graph, point)[graph.outputs[0]].ravel() for point in x])


def evaluate_all(graph: Graph, x: Array) -> dict[str, Array]:
    """Every value of the network at one point x (n,)."""
    values = {graph.inputs[0]: x.reshape(graph.shapes[graph.inputs[0]])}
    for node in graph:
        values[node.output] = apply(node, [values[name] for name in node.inputs], graph.shapes[node.output])
    return values


# ----------------------------------------------------------------------------------------------------------- sampling


def corners(lower: Array, upper: Array) -> Array:
    """All corners of a box: (n,), (n,) -> (2**n, n)."""
    return np.array(list(product(*zip(lower, upper, strict=True))))


def sample(lower: Array, upper: Array, count: int, rng: np.random.Generator, special: tuple[float, ...] = ()) -> Array:
    """Points of boxes of any shape: (count, *shape) in long double, exactly inside.

    Both ends and the middle first; the others mix, per element, ends, `special` values that lie inside and uniform
    points.
    """
    low, high = lower.astype(np.longdouble), upper.astype(np.longdouble)
    shape = (count, *low.shape)
    uniform = low + rng.random(shape) * (high - low)
    choices = [np.broadcast_to(low, shape), np.broadcast_to(high, shape), uniform, uniform]
    choices += [np.broadcast_to(np.clip(np.longdouble(value), low, high), shape) for value in special]
    mixed = np.choose(rng.integers(len(choices), size=shape), choices)
    mixed[0], mixed[1], mixed[2] = low, high, low / 2 + high / 2
    return np.clip(mixed, low, high)


# ---------------------------------------------------------------------------------------------------- one dimension


def envelope_at_centre(x: Array, y: Array) -> float:
    """Largest value at the centre of [x[0], x[-1]] of a line below all points (x, y): their lower convex hull there."""
    hull: list[int] = []
    for i, (xi, yi) in enumerate(points := list(zip(x.tolist(), y.tolist(), strict=True))):  # quicker than elements
        while len(hull) > 1:
            (xa, ya), (xb, yb) = points[hull[-2]], points[hull[-1]]
            if (yb - ya) * (xi - xa) < (yi - ya) * (xb - xa):
                break
            hull.pop()
        hull.append(i)
    return float(np.interp((x[0] + x[-1]) / 2, x[hull], y[hull]))


def parallel_gap(x: Array, y: Array) -> float:
    """Smallest distance of two parallel lines that enclose all points (x, y): a linear programme."""
    one = np.ones_like(x)
    rows = np.concatenate([np.stack([x, one, 0 * one], 1), np.stack([-x, 0 * one, -one], 1)])
    result = linprog([0, -1, 1], rows, np.concatenate([y, -y]), bounds=(None, None))
    assert result.status == 0, result.message
    return float(result.fun)


# ------------------------------------------------------------------------------------------------- LP and MILP


def linear_map(node: Node, in_shapes: list[tuple[int, ...]], out_shape: tuple[int, ...]) -> tuple[list[Array], Array]:
    """Matrices (T, S_i) per input and the constant (T,) of a linear node, from unit vectors."""
    zeros = [np.zeros(shape) for shape in in_shapes]
    constant = apply(node, zeros, out_shape).ravel()
    matrices = []
    for i, shape in enumerate(in_shapes):
        columns = []
        for unit in np.eye(int(np.prod(shape))):
            inputs = [*zeros[:i], unit.reshape(shape), *zeros[i + 1 :]]
            columns.append(apply(node, inputs, out_shape).ravel() - constant)
        matrices.append(np.stack(columns, 1))
    return matrices, constant


def relu_inputs(graph: Graph, lower: Array, upper: Array) -> dict[str, Box]:
    """Interval bounds of the input of every Relu and ReduceMax, by value name, each (size,): plain interval
    arithmetic."""
    bounds: dict[str, Box] = {graph.inputs[0]: (lower, upper)}
    found: dict[str, Box] = {}
    for node in graph:
        if node.op == "Relu":
            low, high = found[node.inputs[0]] = bounds[node.inputs[0]]
            bounds[node.output] = np.maximum(low, 0), np.maximum(high, 0)
            continue
        if node.op == "ReduceMax":
            low, high = found[node.inputs[0]] = bounds[node.inputs[0]]
            groups = competitors(graph, node)
            bounds[node.output] = low[groups].max(1), high[groups].max(1)
            continue
        matrices, constant = linear_map(node, [graph.shapes[n] for n in node.inputs], graph.shapes[node.output])
        pairs = [bounds[name] for name in node.inputs]
        centre = constant + sum((m @ (low + high) / 2 for m, (low, high) in zip(matrices, pairs, strict=True)), 0.0)
        radius = sum((np.abs(m) @ (high - low) / 2 for m, (low, high) in zip(matrices, pairs, strict=True)), 0.0)
        bounds[node.output] = centre - radius, centre + radius
    return found


def competitors(graph: Graph, node: Node) -> Array:
    """The elements (T, k) of the input of a ReduceMax of which each element of its output is the largest."""
    shape = graph.shapes[node.inputs[0]]
    places = np.arange(graph.size(node.inputs[0])).reshape(shape)
    return np.moveaxis(places, node.attrs["axis"], -1).reshape(-1, shape[node.attrs["axis"]])


def _programme(
    graph: Graph, lower: Array, upper: Array, pre: Mapping[str, Box]
) -> tuple[LinearConstraint, Bounds, Array, dict[str, slice]]:
    """The network as linear constraints over all its values and one indicator per element that enters a Relu or
    ReduceMax.

    Relu with bounds l < 0 < u and indicator d: y >= 0, y >= x, y <= u d, y <= x - l (1 - d). With d in [0, 1] the
    projection on (x, y) is the triangle; with d in {0, 1} it is the function. The largest of x_k, whose bounds are l_k
    and u_k: y >= x_k, y <= x_k + (max u - l_k) (1 - d_k), the sum of all d_k is 1.
    """
    where: dict[str, slice] = {}
    size = 0
    for name in (graph.inputs[0], *(node.output for node in graph)):
        where[name] = slice(size, size + graph.size(name))
        size += graph.size(name)
    bent = [node for node in graph if node.op in ("Relu", "ReduceMax")]
    for node in bent:
        where["indicator of " + node.output] = slice(size, size + graph.size(node.inputs[0]))
        size += graph.size(node.inputs[0])
    low, high = np.full(size, -np.inf), np.full(size, np.inf)
    low[where[graph.inputs[0]]], high[where[graph.inputs[0]]] = lower, upper
    rows: list[Array] = []
    below: list[Array] = []
    above: list[Array] = []

    def add(parts: list[tuple[str, Array]], lo: Array | float, hi: Array | float) -> None:
        block = np.zeros((parts[0][1].shape[0], size))
        for name, matrix in parts:
            block[:, where[name]] += matrix
        rows.append(block)
        below.append(np.broadcast_to(lo, len(block)))
        above.append(np.broadcast_to(hi, len(block)))

    for node in graph:
        eye = np.eye(graph.size(node.output))
        if node.op == "ReduceMax":
            source, switch = node.inputs[0], "indicator of " + node.output
            lo, hi = pre[source]
            groups = competitors(graph, node)
            low[where[switch]], high[where[switch]] = 0, 1
            every = np.eye(graph.size(source))
            for mine in groups.T:
                room = hi[groups].max(1) - lo[mine]
                add([(node.output, eye), (source, -every[mine])], 0, np.inf)
                add([(node.output, eye), (source, -every[mine]), (switch, room[:, None] * every[mine])], -np.inf, room)
            add([(switch, every[groups].sum(1))], 1, 1)
            continue
        if node.op != "Relu":
            matrices, constant = linear_map(node, [graph.shapes[n] for n in node.inputs], graph.shapes[node.output])
            parts = [(name, -m) for name, m in zip(node.inputs, matrices, strict=True)]
            add([(node.output, eye), *parts], constant, constant)
            continue
        source, switch = node.inputs[0], "indicator of " + node.output
        lo, hi = pre[source]
        stable_on, stable_off = lo >= 0, hi <= 0
        low[where[switch]], high[where[switch]] = np.where(stable_on, 1, 0), np.where(stable_off & ~stable_on, 0, 1)
        low[where[node.output]] = 0
        big, small = np.maximum(hi, 0), np.minimum(lo, 0)
        add([(node.output, eye), (source, -eye)], 0, np.inf)
        add([(node.output, eye), (switch, -np.diag(big))], -np.inf, 0)
        add([(node.output, eye), (source, -eye), (switch, -np.diag(small))], -np.inf, -small)
    integer = np.zeros(size)
    for node in bent:
        integer[where["indicator of " + node.output]] = 1
    constraint = LinearConstraint(np.concatenate(rows), np.concatenate(below), np.concatenate(above))
    return constraint, Bounds(low, high), integer, where


def minimise(
    graph: Graph, lower: Array, upper: Array, rows: Array, exact: bool, pre: Mapping[str, Box] | None = None
) -> Array:
    """Minimum of rows @ y over a box for a network of linear nodes, Relu and ReduceMax: (K, m) -> (K,).

    exact: mixed-integer programme, the true minimum up to about 1e-6. Otherwise the triangle relaxation with the
    bounds `pre` of what enters every Relu and ReduceMax (by value name; interval arithmetic if not given).
    """
    pre = relu_inputs(graph, lower, upper) if pre is None else pre
    constraint, bounds, integer, where = _programme(graph, lower, upper, pre)
    values = []
    for row in rows:
        cost = np.zeros(len(integer))
        cost[where[graph.outputs[0]]] = row
        options = {"mip_rel_gap": 0.0}
        result = milp(
            cost, integrality=integer if exact else None, bounds=bounds, constraints=constraint, options=options
        )
        assert result.status == 0, result.message
        values.append(result.fun)
    return np.array(values)


def fractions(array: np.ndarray) -> np.ndarray:
    """The same real numbers as exact ones; integers as they are."""
    if array.dtype.kind != "f":
        return array
    return np.vectorize(Fraction, otypes=[object])(array) if array.size else array.astype(object)


def exactly(graph: Graph, points: np.ndarray) -> np.ndarray:
    """The output over the reals at points (M, n): the reference evaluator of the graph on Fraction objects."""
    values = {graph.inputs[0]: fractions(points)}
    for n in graph.nodes:
        node = Node(n.op, n.inputs, n.output, {k: fractions(a) for k, a in n.params.items()}, n.attrs)
        one = Graph(n.inputs, (n.output,), (node,), {name: graph.shapes[name] for name in (*n.inputs, n.output)})
        found = _evaluate(one, {name: values[name] for name in n.inputs}, object)[n.output]
        if not n.inputs:
            found = np.repeat(found, len(points), axis=0)
        values[n.output] = np.vectorize(Fraction, otypes=[object])(found)  # limits of a Clip are floats
    return values[graph.outputs[0]]
