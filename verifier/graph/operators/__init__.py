"""The table of operators: one row each, in the files of this folder; importing the package fills it."""

from verifier.graph.operators import affine, functions, layout
from verifier.graph.operators.composed import known, traits
from verifier.graph.operators.row import OPERATORS, Operator, Traits, declare

__all__ = [
    "OPERATORS",
    "Operator",
    "Traits",
    "affine",
    "declare",
    "functions",
    "known",
    "layout",
    "traits",
]
