"""The table from ONNX operator type to channel rule."""

from __future__ import annotations

from collections.abc import Callable

from pruning.labels import LabelWalk
from pruning.net import OnnxNode

Rule = Callable[[LabelWalk, int, OnnxNode], None]
RULES: dict[str, Rule] = {}


def rule(*types: str) -> Callable[[Rule], Rule]:
    """Register a rule for some operator types."""

    def register(function: Rule) -> Rule:
        for kind in types:
            RULES[kind] = function
        return function

    return register
