"""From operator name to rule: a visible table, filled by decorators in the files of this folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from verifier.errors import UnsupportedOperator
from verifier.graph.ir import Node, Shape
from verifier.ops.kinds import Op

_TABLE: dict[str, type[Op]] = {}


def register(name: str) -> Callable[[type[Op]], type[Op]]:
    """Class decorator: this class holds the rules of the IR operator `name`."""

    def enter(cls: type[Op]) -> type[Op]:
        if name in _TABLE:
            raise ValueError(f"operator {name} registered twice: {_TABLE[name].__name__} and {cls.__name__}")
        _TABLE[name] = cls
        return cls

    return enter


def operators() -> Mapping[str, type[Op]]:
    """Every registered operator, by IR name."""
    return dict(sorted(_TABLE.items()))


def bind(node: Node, shapes: Mapping[str, Shape], dtype: torch.dtype, device: torch.device) -> Op:
    """The operator object of `node`.

    Raises:
        UnsupportedOperator: the table has no entry for `node.op`.
    """
    cls = _TABLE.get(node.op)
    if cls is None:
        op, opset = str(node.attrs.get("op_type", node.op)), node.attrs.get("opset", 0)
        assert isinstance(opset, int)
        raise UnsupportedOperator(node.source or node.output, op, opset, "no bound rule")
    return cls(node, shapes, dtype, device)
