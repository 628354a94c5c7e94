"""Every operator with random attributes and constants, by families: what `operators` chains."""

from benchmarks.fuzz.makers import elementwise, layout, linear, normalise, quantised, reduce, windows
from benchmarks.fuzz.makers.table import KINDS, MAKERS, Shape, Value

FAMILIES = (elementwise, layout, linear, normalise, quantised, reduce, windows)
"""Each enters its operators in `MAKERS`."""

__all__ = ["FAMILIES", "KINDS", "MAKERS", "Shape", "Value"]
