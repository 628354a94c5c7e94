"""Parser, normal form and writer for VNN-LIB 1.0 and 2.0; standard library and numpy only.

    spec = vnnlib.load("property.vnnlib.gz")    # either version, gzipped or not
    form = vnnlib.normalise(spec)               # boxes, linear rows, clauses
    text = vnnlib.dumps(vnnlib.build(cases, input_shape=[1, 5], output_shape=[1, 2]))

A query asks for a counterexample: `sat` means that some input satisfies the assertions.
"""

import importlib
from typing import TYPE_CHECKING, Any

from vnnlib.errors import VnnLibError, VnnLibSemanticError, VnnLibSyntaxError, VnnLibUnsupported
from vnnlib.form import Layout, NormalForm, TensorSlice, joined
from vnnlib.implied import with_implied_bounds
from vnnlib.limits import Limits
from vnnlib.normalise import classify, normalise
from vnnlib.reading import load, loads
from vnnlib.rounding import float32_hull, float32_inside, float_hull, float_inside
from vnnlib.spec import NetworkDecl, Spec, TensorDecl

if TYPE_CHECKING:
    from vnnlib.builder import Case, Row, build
    from vnnlib.instances import InstanceRow, parse_networks, read_instances
    from vnnlib.witness import format_witness_v1, format_witness_v2, parse_witness
    from vnnlib.writer import dumps

__all__ = [
    "Case",
    "InstanceRow",
    "Layout",
    "Limits",
    "NetworkDecl",
    "NormalForm",
    "Row",
    "Spec",
    "TensorDecl",
    "TensorSlice",
    "VnnLibError",
    "VnnLibSemanticError",
    "VnnLibSyntaxError",
    "VnnLibUnsupported",
    "build",
    "classify",
    "dumps",
    "float32_hull",
    "float32_inside",
    "float_hull",
    "float_inside",
    "format_witness_v1",
    "format_witness_v2",
    "joined",
    "load",
    "loads",
    "normalise",
    "parse_networks",
    "parse_witness",
    "read_instances",
    "with_implied_bounds",
]

_LAZY = {
    "vnnlib.builder": ("Case", "Row", "build"),
    "vnnlib.instances": ("InstanceRow", "parse_networks", "read_instances"),
    "vnnlib.witness": ("format_witness_v1", "format_witness_v2", "parse_witness"),
    "vnnlib.writer": ("dumps",),
}  # fmt: skip
_HOME = {name: module for module, names in _LAZY.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import writers and lists on first use; reading a specification does not need them."""
    if name not in _HOME:
        raise AttributeError(f"module 'vnnlib' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value
