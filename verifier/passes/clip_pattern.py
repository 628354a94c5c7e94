"""Recognise saturation written with ReLUs, so that it is relaxed once and tightly."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from verifier.graph.ir import Graph, Node
from verifier.passes.rewrite import Rewriter, uniform


def clip_pattern(graph: Graph) -> Graph:
    """Rewrite to Clip, exactly:

    relu(b - s relu(v))    = b - clip(s v, 0, b)      for numbers b >= 0, s > 0
    relu(v) - relu(v - c)  = clip(v, 0, c)            for numbers c >= 0, and its negative
    clip(clip(v, a, b), c, d) = clip(v, clip(a, c, d), clip(b, c, d)), a ReLU being clip(., 0, inf)

    where b, s and c, products and sums of what the file holds, are float64 numbers.
    """
    new = Rewriter(graph)
    for node in graph.nodes:
        if not (_saturation(new, node) or _difference(new, node) or _nested(new, node)):
            new.keep(node)
    return new.done()


def _affine(new: Rewriter, name: str) -> tuple[str, Fraction, Fraction]:
    """(root, s, c) with value = s * root + c, walking back through uniform Scale and Shift."""
    scale, offset = Fraction(1), Fraction(0)
    while True:
        name = new.find(name)
        node = new.maker.get(name)
        if node is None or not node.exact:
            return name, scale, offset
        if node.op == "Scale" and (factor := uniform(node.params["factor"])) is not None:
            scale *= Fraction(factor)
        elif node.op == "Shift" and (shift := uniform(node.params["offset"])) is not None:
            offset += scale * Fraction(shift)
        else:
            return name, scale, offset
        name = node.inputs[0]


def _number(exact: Fraction) -> float | None:
    """`exact` as a float64 number, where it is one."""
    try:
        value = float(exact)
    except OverflowError:
        return None
    return value if Fraction(value) == exact else None


def _range(node: Node | None) -> tuple[float, float] | None:
    """(low, high) where the node clips."""
    if node is not None and node.op == "Relu":
        return 0.0, math.inf
    if node is not None and node.op == "Clip":
        return node.number("min"), node.number("max")
    return None


def _saturation(new: Rewriter, node: Node) -> bool:
    if node.op != "Relu":
        return False
    root, scale, offset = _affine(new, node.inputs[0])
    inner = new.maker.get(root)
    if inner is None or inner.op != "Relu" or scale >= 0 or offset < 0:
        return False
    factor, limit = _number(-scale), _number(offset)
    if factor is None or limit is None:
        return False
    shape = new.shapes[node.output]
    value = inner.inputs[0]
    if factor != 1:
        value = new.add("Scale", [value], shape, node, {"factor": np.array(factor)})
    _clip(new, node, value, 0.0, limit, -1.0, limit)
    return True


def _difference(new: Rewriter, node: Node) -> bool:
    if node.op not in ("Add", "Sub"):
        return False
    sides = [_affine(new, name) for name in node.inputs]
    second = sides[1][1] * (-1 if node.op == "Sub" else 1)
    makers = [maker for root, _, _ in sides if (maker := new.maker.get(root)) is not None and maker.op == "Relu"]
    if len(makers) < 2:
        return False
    if any(offset != 0 for _, _, offset in sides) or sides[0][1] != -second:
        return False
    first, other = (_affine(new, maker.inputs[0]) for maker in makers)
    if first[0] != other[0] or first[1] != other[1]:
        return False
    gap = first[2] - other[2]  # relu(p) - relu(p - gap)
    larger, sign = (makers[0], 1) if gap >= 0 else (makers[1], -1)
    limit, scale = _number(abs(gap)), _number(sign * sides[0][1])
    if limit is None or scale is None:
        return False
    _clip(new, node, larger.inputs[0], 0.0, limit, scale, 0.0)
    return True


def _nested(new: Rewriter, node: Node) -> bool:
    outer = _range(node)
    if outer is None:
        return False
    inner_node = new.maker.get(new.find(node.inputs[0]))
    inner = _range(inner_node)
    if inner is None or inner_node is None:
        return False
    low, high = (min(max(end, outer[0]), outer[1]) for end in inner)
    _clip(new, node, inner_node.inputs[0], low, high, 1.0, 0.0)
    return True


def _clip(new: Rewriter, node: Node, value: str, low: float, high: float, scale: float, offset: float) -> None:
    """Emit node.output = scale * clip(value, low, high) + offset."""
    shape = new.shapes[node.output]
    steps: list[tuple[str, dict[str, np.ndarray], dict[str, float]]] = []
    if low == high:
        constant = np.full(shape, scale * low + offset)
        new.add("Constant", [], shape, node, {"value": constant}, output=node.output)
        return
    if (low, high) == (0.0, math.inf):
        steps.append(("Relu", {}, {}))
    else:
        steps.append(("Clip", {}, {"min": low, "max": high}))
    if scale != 1:
        steps.append(("Scale", {"factor": np.array(scale)}, {}))
    if offset != 0:
        steps.append(("Shift", {"offset": np.array(offset)}, {}))
    for position, (op, params, attrs) in enumerate(steps):
        last = position == len(steps) - 1
        value = new.add(op, [value], shape, node, params, attrs, output=node.output if last else None)
