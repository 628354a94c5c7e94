"""Remove what changes nothing, and merge neighbours that only move elements."""

from __future__ import annotations

import math

import numpy as np

from verifier.graph.ir import Graph, Node, Shape
from verifier.graph.operators import OPERATORS
from verifier.passes.rewrite import Rewriter


def drop_identity(graph: Graph) -> Graph:
    """Without no-ops and dead nodes; chains of Reshape, Transpose, Slice and Take merged.

    A Slice of a Concat that lies within one part is taken from that part.
    """
    new = Rewriter(graph)
    for node in graph.nodes:
        node = _merged(new, node)
        if node.op != "Opaque" and len(node.inputs) == 1 and _is_identity(node, new.shapes):
            new.alias(node.output, new.find(node.inputs[0]))
        else:
            new.keep(node)
    return new.done()


def _merged(new: Rewriter, node: Node) -> Node:
    """`node` reading past the nodes in front of it where the two together are one node."""
    while len(node.inputs) == 1 and node.op in _MERGES:
        front = new.maker.get(new.find(node.inputs[0]))
        merged = _MERGES[node.op](node, front, new.shapes) if front is not None else None
        if merged is None and front is not None and node.op in ("Slice", "Take"):
            merged = _picked_first(new, node, front)
        if merged is None:
            break
        node = merged
    if node.op == "Transpose" and _keeps_order(new.shapes[node.inputs[0]], node.integers("perm")):
        node = Node("Reshape", node.inputs, node.output, source=node.source)
        return _merged(new, node)
    return node


def _keeps_order(shape: Shape, perm: tuple[int, ...]) -> bool:
    """Whether a transposition moves only axes of size 1."""
    moved = [axis for axis in perm if shape[axis] > 1]
    return moved == sorted(moved)


def _is_identity(node: Node, shapes: dict[str, Shape]) -> bool:
    before, row = shapes[node.inputs[0]], OPERATORS.get(node.op)
    if row is None or before != shapes[node.output]:
        return False
    return row.identity(node, before) if row.identity is not None else row.moves


def _merge_reshape(node: Node, front: Node, shapes: dict[str, Shape]) -> Node | None:
    return Node("Reshape", front.inputs, node.output, source=node.source) if front.op == "Reshape" else None


def _merge_transpose(node: Node, front: Node, shapes: dict[str, Shape]) -> Node | None:
    if front.op != "Transpose":
        return None
    inner = front.integers("perm")
    perm = tuple(inner[axis] for axis in node.integers("perm"))
    return Node("Transpose", front.inputs, node.output, attrs={"perm": perm}, source=node.source)


def picked(node: Node) -> np.ndarray:
    """Positions along its axis that a Slice or Take reads."""
    if node.op == "Take":
        return node.params["indices"]
    return np.arange(node.integer("start"), node.integer("stop"), node.integer("step"))


def _merge_pick(node: Node, front: Node, shapes: dict[str, Shape]) -> Node | None:
    """Slice or Take of a Slice or Take on the same axis, or of a Concat."""
    axis = node.integer("axis")
    if front.op in ("Slice", "Take") and front.integer("axis") == axis:
        return pick(front.inputs[0], node.output, axis, picked(front)[picked(node)], node.source)
    if front.op == "Concat" and front.integer("axis") == axis:
        wanted = picked(node)
        start = 0
        for part in front.inputs:
            stop = start + shapes[part][axis]
            if start <= wanted.min() and wanted.max() < stop:
                return pick(part, node.output, axis, wanted - start, node.source)
            start = stop
    if front.op == "Pad" and not any(_off(front.integers("before"), axis) + _off(front.integers("after"), axis)):
        wanted = picked(node) - front.integers("before")[axis]
        if wanted.min() >= 0 and wanted.max() < shapes[front.inputs[0]][axis]:
            return pick(front.inputs[0], node.output, axis, wanted, node.source)
    return None


def _off(counts: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return (*counts[:axis], *counts[axis + 1 :])


def _picked_first(new: Rewriter, node: Node, front: Node) -> Node | None:
    """Scale and Shift after the picking that follows them, where it leaves less to do."""
    shape, small = new.shapes[front.output], new.shapes[node.output]
    if front.op not in ("Scale", "Shift") or len(front.params) > 1 or math.prod(small) >= math.prod(shape):
        return None
    axis = node.integer("axis")
    (name,) = front.params
    array = front.params[name].reshape((1,) * (len(shape) - front.params[name].ndim) + front.params[name].shape)
    if array.shape[axis] > 1:
        array = np.take(array, picked(node), axis=axis)
    value = new.fresh(node.output, small)
    new.keep(_merged(new, pick(front.inputs[0], value, axis, picked(node), node.source)))
    return Node(front.op, (value,), node.output, {name: array}, source=front.source)


def pick(name: str, output: str, axis: int, positions: np.ndarray, source: str) -> Node:
    """Slice where the positions are an increasing progression, otherwise Take."""
    steps = np.diff(positions)
    if len(positions) == 1 or (steps[0] >= 1 and bool((steps == steps[0]).all())):
        step = int(steps[0]) if len(positions) > 1 else 1
        attrs = {"axis": axis, "start": int(positions[0]), "stop": int(positions[-1]) + 1, "step": step}
        return Node("Slice", (name,), output, attrs=attrs, source=source)
    return Node("Take", (name,), output, {"indices": positions.astype(np.int64)}, {"axis": axis}, source)


_MERGES = {"Reshape": _merge_reshape, "Transpose": _merge_transpose, "Slice": _merge_pick, "Take": _merge_pick}
