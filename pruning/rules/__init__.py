"""How channels pass through operators: one rule per operator type, looked up by name.

A rule is a function `(walk, index, node)`; it reads the labels of the node's inputs and writes those of its outputs,
records which weight slices go with which channels, and freezes what it cannot carry. `carry` falls back to freezing,
with the operator's name kept for one warning, so an operator nobody thought of can never be cut wrongly.
"""

from __future__ import annotations

from pruning.labels import LabelWalk
from pruning.net import OnnxNode
from pruning.rules import elementwise, layout, linear, pool
from pruning.rules.table import RULES

__all__ = ["RULES", "carry", "elementwise", "layout", "linear", "pool"]


def carry(walk: LabelWalk, index: int, node: OnnxNode) -> None:
    """Apply the rule of one node."""
    rule = RULES.get(node.type) if not node.domain and not node.captures else None
    if rule is not None:
        rule(walk, index, node)
    elif any(walk.axes(name) for name in (*node.inputs, *node.captures)):
        walk.unknown.setdefault(node.type, node.label)
        walk.freeze_inputs(node, f"operator {node.type} has no channel rule")
