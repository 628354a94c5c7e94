"""Recognise a function of one variable written with ReLUs, so that it is relaxed once and tightly."""

from __future__ import annotations

import numpy as np

from verifier.graph.ir import Graph, Node
from verifier.passes.rewrite import Rewriter, use_counts

MOST_KNOTS = 256
"""Every bound looks at all knots."""

LARGEST = 1e30
"""Values at knots beyond it stay ReLUs: float32 has to hold them."""


def spline_pattern(graph: Graph) -> Graph:
    """Rewrite to Spline, exactly:  x repeated K times along its last axis, sum_k w_k relu(x - t_k) + b."""
    new, counts = Rewriter(graph), use_counts(graph)
    for node in graph.nodes:
        found = _ramps(new, node, counts)
        if found is None:
            new.keep(node)
            continue
        value, knots = found
        shape, bias = new.shapes[node.output], node.params.get("bias")
        params = {"knots": knots, "rise": node.params["weight"][0].copy()}
        value = new.add("Spline", [value], shape, node, params, output=node.output if bias is None else None)
        if bias is not None:
            new.add("Shift", [value], shape, node, {"offset": bias}, output=node.output)
    return new.done()


def _ramps(new: Rewriter, node: Node, counts: dict[str, int]) -> tuple[str, np.ndarray] | None:
    """(x, t) where `node` is a Dense with one output over relu(x - t), x (.., 1), that nothing else reads."""
    if node.op != "Dense" or not node.exact or node.params["weight"].shape[0] != 1:
        return None
    chain, name = [], node.inputs[0]
    for op in ("Relu", "Shift", "Expand"):
        step = new.maker.get(new.find(name))
        if step is None or step.op != op or not step.exact or counts.get(step.output) != 1:
            return None
        chain.append(step)
        name = step.inputs[0]
    before, after = new.shapes[name], new.shapes[chain[-1].output]
    offset = np.asarray(chain[1].params["offset"])
    if before != (*after[:-1], 1) or offset.size not in (1, after[-1]):  # one knot for all, or one each
        return None
    knots = np.broadcast_to(0.0 - offset.reshape(-1), after[-1:]).copy()
    size = (1 + np.abs(knots).max()) * np.abs(node.params["weight"]).sum()
    return (name, knots) if len(knots) <= MOST_KNOTS and size <= LARGEST else None
