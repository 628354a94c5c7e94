"""Fog that thickens with the distance: x <- (1 - f d) x + f d colour, d the depth of the scene at a pixel.

The usual model of scattering (Koschmieder 1924) with transmission 1 - f d in the place of exp(-f d), so that it is
linear in the amount f. The depth grows evenly from the bottom of the picture to its top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verifier.console.arguments import numbers
from verifier.errors import OptionsError
from verifier.perturbation.steps import colour
from verifier.perturbation.table import StepConstant, parameter

if TYPE_CHECKING:
    from verifier.perturbation.polynomial import Given, Polynomial


def _check_depth(value: Any) -> None:
    if len(value) != 2 or not all(0.0 <= d <= 1.0 for d in value):
        raise OptionsError(f"the fog depth needs two numbers in [0, 1], at the bottom and at the top, found {value}")


_CONSTANTS = (
    colour("fog_colour", 0.9),
    StepConstant(
        "fog_depth", (0.0, 1.0), numbers, "depth at the bottom and at the top edge, 0 to 1", "BOTTOM,TOP", _check_depth,
        lambda d: f"Fog has depth {d[0]:g} at the bottom and {d[1]:g} at the top of the picture.",
    ),
)  # fmt: skip


@parameter("fog", 0.0, "share", stage=10, limits=(0.0, 1.0), why="it is a share", constants=_CONSTANTS)
def _fog(value: Polynomial, index: int, given: Given) -> Polynomial:
    bottom, top = given["fog_depth"]
    depth = (bottom + top) / 2 - (top - bottom) * given.down
    return value.blended(index, given.colour("fog_colour"), depth.astype(given.image.dtype))
