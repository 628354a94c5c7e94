"""Replace whole affine regions by one Dense where that is no more work."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from verifier.graph.evaluate import evaluate
from verifier.graph.ir import Graph, Node, Shape
from verifier.passes.rewrite import Rewriter

LINEAR = frozenset({
    "Dense", "Conv", "ConvTranspose", "Scale", "Shift", "Reshape", "Transpose", "Slice", "Take", "Expand", "Pad",
    "ReduceSum", "Add", "Sub", "Concat", "Constant",
})  # fmt: skip
_MIXES = frozenset({"Dense", "Conv", "ConvTranspose", "ReduceSum", "Add", "Sub"})  # combine several elements into one
_COMPUTES = _MIXES | {"Scale", "Shift"}
# A region with this few inputs becomes one Dense even where that costs more multiplications: with d inputs it is d
# columns, and everything downstream (forward forms, LP rows) sees one exact affine map instead of a chain of roundings.
_FEW_INPUTS = 64
_GROWTH, _CHEAP = 4, 2**16  # by how much more at most, and below how many multiplications it never matters
_LARGEST = 4_000_000  # elements of a weight that may be made
_LONGEST = 4_000_000_000  # multiply-adds that multiplying out a region may take (about a second)
_CHUNK = 2_000_000  # elements of an intermediate value while a region is being multiplied out


@dataclass(frozen=True)
class _Region:
    """The affine nodes behind one value, and the one value (or none) that all of them start from."""

    source: str | None
    nodes: tuple[Node, ...]


def fuse_affine(graph: Graph) -> Graph:
    """One Dense (between Reshapes) per maximal affine region with a single source, where

    source size x output size <= multiply-adds of the region's own nodes, or the source has at most 64 elements and the
    work grows little. Regions that only move elements, and regions that are one Dense already, stay.
    """
    makers = {node.output: node for node in graph.nodes}
    order = {node.output: position for position, node in enumerate(graph.nodes)}
    ends = _ends(graph, makers)
    new = Rewriter(graph)
    for node in graph.nodes:
        region = _region(makers, order, node.output) if node.output in ends else None
        if region is not None and _worthwhile(graph, region, node.output):
            _emit(new, graph, region, node)
        else:
            new.keep(node)
    return new.done()


def _ends(graph: Graph, makers: dict[str, Node]) -> set[str]:
    """Values made by an affine node and read by another kind of node, or by nobody in the graph."""
    read = {name for node in graph.nodes if node.op not in LINEAR for name in node.inputs}
    return {name for name in (*graph.outputs, *read) if name in makers and makers[name].op in LINEAR - {"Constant"}}


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
        if node is None or node.op not in LINEAR:
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


def _emit(new: Rewriter, graph: Graph, region: _Region, end: Node) -> None:
    assert region.source is not None
    weight, bias = multiplied_out(graph, region.source, region.nodes, end.output)
    rows, columns = weight.shape
    source = ", ".join(dict.fromkeys(node.source for node in region.nodes if node.source))
    like = Node("Dense", (), end.output, source=source)
    shape = graph.shapes[end.output]
    if not weight.any():
        new.add("Constant", [], shape, like, {"value": bias.reshape(shape)}, output=end.output)
        return
    value = new.reshape(new.find(region.source), (columns,), like)
    params = {"weight": weight, "bias": bias} if bias.any() else {"weight": weight}
    if shape == (rows,):
        new.add("Dense", [value], (rows,), like, params, output=end.output)
        return
    value = new.add("Dense", [value], (rows,), like, params)
    new.reshape(value, shape, like, output=end.output)


def multiplied_out(graph: Graph, source: str, nodes: tuple[Node, ...], end: str) -> tuple[np.ndarray, np.ndarray]:
    """(weight, bias) of the affine map from `source` to `end`, both flattened: the nodes applied to unit vectors
    without their offsets, and once to zero with them.
    """
    shapes = {source: graph.shapes[source], **{node.output: graph.shapes[node.output] for node in nodes}}
    shape, rows, columns = shapes[source], graph.size(end), graph.size(source)
    whole = Graph((source,), (end,), nodes, shapes)
    bias = evaluate(whole, {source: np.zeros((1, *shape))})[end].reshape(rows)
    linear = Graph((source,), (end,), tuple(_homogeneous(node) for node in nodes), shapes)
    largest = max(math.prod(shapes[node.output]) * _window(node) for node in nodes)
    step = max(1, _CHUNK // largest)
    weight = np.empty((rows, columns))
    for start in range(0, columns, step):
        stop = min(columns, start + step)
        units = np.zeros((stop - start, columns))
        units[np.arange(stop - start), np.arange(start, stop)] = 1.0
        weight[:, start:stop] = evaluate(linear, {source: units.reshape(-1, *shape)})[end].reshape(-1, rows).T
    return weight, np.array(bias)


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
