"""Replace whole affine regions by one Dense where that is no more work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from verifier.graph.enclose import enclose
from verifier.graph.evaluate import evaluate, is_exact
from verifier.graph.ir import Graph, Node, Shape
from verifier.graph.operators import OPERATORS
from verifier.passes.fold_constants import constant_params
from verifier.passes.rewrite import Rewriter

LINEAR = frozenset(name for name, row in OPERATORS.items() if row.linear)
_COMPUTES = frozenset(name for name in LINEAR if not OPERATORS[name].moves) - {"Constant"}
_MIXES = frozenset(name for name in _COMPUTES if not OPERATORS[name].elementwise)  # combine several elements into one
# A region with this few inputs becomes one Dense even where that costs more multiplications: with d inputs it is d
# columns, and everything downstream (forward forms, LP rows) sees one exact affine map instead of a chain of roundings.
_FEW_INPUTS = 64
_GROWTH, _CHEAP = 4, 2**16  # by how much more at most, and below how many multiplications it never matters
_LARGEST = 4_000_000  # elements of a weight that may be made
_LONGEST = 4_000_000_000  # multiply-adds that multiplying out a region may take (about a second)
_CHUNK = 2_000_000  # elements of an intermediate value while a region is being multiplied out
_SAVING = 4  # by how much less work at least, where the offset is rounded: every bound gets wider by that
_FRACTIONS = 30_000  # multiply-adds of a region that is multiplied out in fractions, a tenth of a second


_Product = tuple[np.ndarray, np.ndarray, np.ndarray]  # weight (n, k), bias (n,), bound (n,) of the bias's error


@dataclass(frozen=True)
class _Region:
    """The affine nodes behind one value, and the one value (or none) that all of them start from."""

    source: str | None
    nodes: tuple[Node, ...]


def fuse_affine(graph: Graph) -> Graph:
    """One Dense (between Reshapes) per maximal affine region with a single source, where

    source size x output size <= multiply-adds of the region's own nodes, or the source has at most 64 elements and the
    work grows little. Regions that only move elements, and regions that are one Dense already, stay, and so do those
    whose weights would have to be rounded: the Dense is the same function over the reals. Offsets that are rounded
    (fixed inputs seen through a convolution) get a bound of that, where the Dense is far less work.
    """
    makers = {node.output: node for node in graph.nodes}
    order = {node.output: position for position, node in enumerate(graph.nodes)}
    found = {}
    for end in _ends(graph, makers):
        # where the last node of a chain would be rounded (a BatchNormalization), what is in front of it may be fused
        name: str | None = end
        while name is not None and name not in found:
            region = _region(makers, order, name)
            product = _product(graph, region, name) if region is not None else None
            if region is not None and product is not None:
                found[name] = (region, product)
                break
            node = makers[name]
            front = node.inputs[0] if len(node.inputs) == 1 and node.op in ("Scale", "Shift", "Reshape") else None
            name = front if front in makers and _multiplies_out(makers[front]) else None
    new = Rewriter(graph)
    for node in graph.nodes:
        if node.output in found:
            _emit(new, graph, *found[node.output], node)
        else:
            new.keep(node)
    return new.done()


def _ends(graph: Graph, makers: dict[str, Node]) -> list[str]:
    """Values made by an affine node and read by another kind of node, or by nobody in the graph."""
    read = {name for node in graph.nodes if not _multiplies_out(node) for name in node.inputs}.union(graph.outputs)
    return [name for name, node in makers.items() if name in read and _multiplies_out(node) and node.op != "Constant"]


def _multiplies_out(node: Node) -> bool:
    """Whether the node is affine with weights that are the real numbers: sums of rounded ones may cancel."""
    return node.op in LINEAR and "roundings" not in node.params


def _region(makers: Mapping[str, Node], order: Mapping[str, int], end: str) -> _Region | None:
    """All affine nodes behind `end`; None where they start from more than one value."""
    seen: set[str] = set()
    found: list[Node] = []
    sources: set[str] = set()
    stack = [end]
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        node = makers.get(name)
        if node is None or not _multiplies_out(node):
            sources.add(name)
            if len(sources) > 1:
                return None
            continue
        found.append(node)
        stack.extend(node.inputs)
    found.sort(key=lambda node: order[node.output])
    return _Region(next(iter(sources), None), tuple(found))


def _worthwhile(graph: Graph, region: _Region, end: str) -> bool:
    if region.source is None:
        return False  # fold_constants does it
    if not any(node.op in _COMPUTES and node.op != "Shift" for node in region.nodes) or _is_dense(region):
        return False
    rows, columns = graph.size(end), graph.size(region.source)
    if rows * columns > _LARGEST:
        return False
    if columns * sum(_cost(node, graph.shapes) for node in region.nodes) > _LONGEST:
        return False
    cost = sum(_cost(node, graph.shapes) for node in _own(graph, region, end))
    if columns <= _FEW_INPUTS and any(node.op in _MIXES for node in region.nodes):
        return rows * columns <= max(_CHEAP, _GROWTH * cost)
    return rows * columns <= cost


def _own(graph: Graph, region: _Region, end: str) -> list[Node]:
    """The nodes of the region that nothing else needs."""
    inside = {node.output for node in region.nodes}
    shared = {name for node in graph.nodes if node.output not in inside for name in node.inputs}
    shared.update(graph.outputs)
    return [node for node in region.nodes if node.output == end or node.output not in shared]


def _is_dense(region: _Region) -> bool:
    """Whether the region is already one Dense on a vector, at most reshaped before and after."""
    others = [node for node in region.nodes if node.op != "Reshape"]
    return len(others) == 1 and others[0].op == "Dense"


def multiply_adds(graph: Graph) -> int:
    """Of one run of the graph's affine nodes, an addition counted as one."""
    return sum(_cost(node, graph.shapes) for node in graph.nodes)


def _cost(node: Node, shapes: Mapping[str, Shape]) -> int:
    """Multiply-adds (an addition counts as one)."""
    out = math.prod(shapes[node.output])
    match node.op:
        case "Dense":
            return out * node.params["weight"].shape[1]
        case "Conv":
            return out * math.prod(node.params["weight"].shape[1:])
        case "ConvTranspose":
            return math.prod(shapes[node.inputs[0]]) * math.prod(node.params["weight"].shape[1:])
        case "ReduceSum":
            return math.prod(shapes[node.inputs[0]])
        case "Scale" | "Shift" | "Add" | "Sub":
            return out
    return 0


def _product(graph: Graph, region: _Region, end: str) -> _Product | None:
    """The region multiplied out, where that is worth it and possible."""
    if region.source is None or not _worthwhile(graph, region, end):
        return None
    product = multiplied_out(graph, region.source, region.nodes, end)
    if product is None:
        return None
    work = sum(_cost(node, graph.shapes) for node in region.nodes)
    return None if product[2].any() and _SAVING * product[0].size > work else product


def _emit(new: Rewriter, graph: Graph, region: _Region, product: _Product, end: Node) -> None:
    assert region.source is not None
    weight, bias, error = product
    rows, columns = weight.shape
    source = ", ".join(dict.fromkeys(node.source for node in region.nodes if node.source))
    like = Node("Dense", (), end.output, source=source)
    shape = graph.shapes[end.output]
    if not weight.any():
        new.add(
            "Constant",
            [],
            shape,
            like,
            constant_params(bias.reshape(shape), error.reshape(shape)),
            output=end.output,
        )
        return
    value = new.reshape(new.find(region.source), (columns,), like)
    params = {"weight": weight, "bias": bias} if bias.any() else {"weight": weight}
    params = {**params, "bias_error": error} if error.any() else params
    if shape == (rows,):
        new.add("Dense", [value], (rows,), like, params, output=end.output)
        return
    value = new.add("Dense", [value], (rows,), like, params)
    new.reshape(value, shape, like, output=end.output)


def multiplied_out(graph: Graph, source: str, nodes: tuple[Node, ...], end: str) -> _Product | None:
    """(weight, bias, error) of the affine map from `source` to `end`, flattened: the nodes applied to unit vectors
    without their offsets, and once to zero with them. The weight is exact, the bias to within `error`; None where
    float64 does not hold the weight.

    Where a number is rounded on the way, a small region is multiplied out in fractions: it may cancel again.
    """
    shapes = {source: graph.shapes[source], **{node.output: graph.shapes[node.output] for node in nodes}}
    shape, rows, columns = shapes[source], graph.size(end), graph.size(source)
    whole = Graph((source,), (end,), nodes, shapes)
    linear = Graph((source,), (end,), tuple(_homogeneous(node) for node in nodes), shapes)
    at_zero = enclose(whole, {source: np.zeros((1, *shape))}).get(end)
    if at_zero is None or at_zero.error.any():
        exact = _in_fractions(whole, linear)
        if exact is not None or at_zero is None:
            return exact
    bias, error = (part.reshape(rows) for part in at_zero)
    largest = max(math.prod(shapes[node.output]) * _window(node) for node in nodes)
    step = max(1, _CHUNK // largest)
    weight = np.empty((rows, columns))
    for start in range(0, columns, step):
        stop = min(columns, start + step)
        units = np.zeros((stop - start, columns))
        units[np.arange(stop - start), np.arange(start, stop)] = 1.0
        values = evaluate(linear, {source: units.reshape(-1, *shape)})
        if not all(is_exact(node, [values[name] for name in node.inputs], values[node.output]) for node in linear):
            return _in_fractions(whole, linear)
        weight[:, start:stop] = values[end].reshape(-1, rows).T
    return weight, np.array(bias), np.array(error)


def _in_fractions(whole: Graph, linear: Graph) -> _Product | None:
    (source,), (end,) = whole.inputs, whole.outputs
    columns = whole.size(source)
    if any("bias_error" in node.params for node in whole.nodes):
        return None
    if columns * sum(_cost(node, whole.shapes) for node in whole.nodes) > _FRACTIONS:
        return None
    units = np.eye(columns, dtype=np.int64).astype(object).reshape(columns, *whole.shapes[source])
    results = []
    for graph, points in ((linear, units), (whole, 0 * units[:1])):
        nodes = tuple(
            Node(node.op, node.inputs, node.output, {n: _fractions(a) for n, a in node.params.items()}, node.attrs)
            for node in graph.nodes
        )
        exact = evaluate(Graph((source,), (end,), nodes, graph.shapes), {source: points}, object)[end]
        try:
            rounded = exact.astype(np.float64)
        except OverflowError:
            return None
        if not np.isfinite(rounded).all() or not (_fractions(rounded) == exact).all():
            return None
        results.append(rounded.reshape(len(points), -1))
    return np.ascontiguousarray(results[0].T), results[1][0], np.zeros(whole.size(end))


def _fractions(array: np.ndarray) -> np.ndarray:
    """Real numbers as fractions; indices as they are."""
    if array.dtype.kind != "f":
        return array
    result = np.empty(array.shape, dtype=object)
    result.reshape(-1)[:] = [Fraction(value) for value in array.reshape(-1).tolist()]
    return result


def _window(node: Node) -> int:
    return int(np.prod(node.params["weight"].shape[1:])) if node.op == "Conv" else 1


def _homogeneous(node: Node) -> Node:
    """The node without its constant part."""
    match node.op:
        case "Dense" | "Conv" | "ConvTranspose":
            return Node(node.op, node.inputs, node.output, {"weight": node.params["weight"]}, node.attrs)
        case "Shift":
            return Node("Reshape", node.inputs, node.output)
        case "Constant":
            return Node("Constant", (), node.output, {"value": np.zeros(node.params["value"].shape)})
    return node
