"""Every operator with random attributes and constants, by families: what `operators` chains."""

from benchmarks.fuzz.makers import elementwise, layout, linear, normalise, quantised, reduce, windows  # noqa: F401
from benchmarks.fuzz.makers.table import KINDS, MAKERS, Shape, Value

__all__ = ["KINDS", "MAKERS", "Shape", "Value"]
