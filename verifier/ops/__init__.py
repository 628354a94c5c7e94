"""Operator rules, one file per family; importing this package fills the registry."""

from verifier.ops import affine, conv, layout, reduce
from verifier.ops.registry import bind, operators

__all__ = ["affine", "bind", "conv", "layout", "operators", "reduce"]
