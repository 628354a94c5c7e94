"""Blur as a blend: x <- (1 - t) x + t K x, K x the picture averaged over a disc (defocus) or along a line (motion).

Linear in t for a fixed kernel; a blur whose width varies is not. Beyond the edges the outermost pixels are repeated.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from verifier.errors import OptionsError
from verifier.perturbation.table import StepConstant, parameter

if TYPE_CHECKING:
    from verifier.perturbation.polynomial import BlurKernel, Given, Polynomial

LARGEST = 32.0
"""Pixels that a kernel may reach."""


def _number(name: str, default: float, help: str, least: float, most: float) -> StepConstant:
    def check(value: Any) -> None:
        if not least <= value <= most:
            raise OptionsError(f"the {name.replace('_', ' ')} must lie in [{least:g}, {most:g}], found {value}")

    def parse(text: str) -> float:
        try:
            return float(text)
        except ValueError:
            raise OptionsError(f"--{name.replace('_', '-')}: found '{text[:60]}', expected a number") from None

    return StepConstant(name, default, parse, help, "N", check, lambda v: f"The {name.replace('_', ' ')} is {v:g}.")


def disc(radius: float) -> BlurKernel:
    """Equal weights of all pixels whose centres are within `radius` pixels."""
    reach = range(-math.floor(radius), math.floor(radius) + 1)
    inside = [(y, x) for y in reach for x in reach if y * y + x * x <= radius * radius]
    return {place: 1.0 / len(inside) for place in inside}


def line(length: float, angle: float) -> BlurKernel:
    """A line of `length` pixels through the pixel, `angle` degrees from the horizontal, anticlockwise.

    Evenly spaced points of it, at most half a pixel apart, each shared among the four pixels around it.
    """
    count = 2 * math.ceil(length) + 1
    found: BlurKernel = {}
    for i in range(count):
        along = length * (i / (count - 1) - 0.5) if count > 1 else 0.0
        y, x = -along * math.sin(math.radians(angle)), along * math.cos(math.radians(angle))
        row, column = math.floor(y), math.floor(x)
        for place, weight in (
            ((row, column), (row + 1 - y) * (column + 1 - x)), ((row, column + 1), (row + 1 - y) * (x - column)),
            ((row + 1, column), (y - row) * (column + 1 - x)), ((row + 1, column + 1), (y - row) * (x - column)),
        ):  # fmt: skip
            if weight:
                found[place] = found.get(place, 0.0) + weight / count
    return found


def _blend(value: Polynomial, index: int, kernel: BlurKernel, name: str) -> Polynomial:
    return value.plus(value.averaged(kernel, name).plus(value.scaled(-1.0)).times(index))


_DEFOCUS = (_number("defocus_radius", 2.0, "radius of the disc, in pixels", 0.0, LARGEST),)


@parameter("defocus", 0.0, "share", stage=20, limits=(0.0, 1.0), why="it is a share", constants=_DEFOCUS)
def _defocus(value: Polynomial, index: int, given: Given) -> Polynomial:
    return _blend(value, index, disc(given["defocus_radius"]), "defocus")


_MOTION = (
    _number("motion_length", 5.0, "length of the line, in pixels", 0.0, 2 * LARGEST),
    _number("motion_angle", 0.0, "its direction, in degrees from the horizontal", -360.0, 360.0),
)


@parameter("motion", 0.0, "share", stage=20, limits=(0.0, 1.0), why="it is a share", constants=_MOTION)
def _motion(value: Polynomial, index: int, given: Given) -> Polynomial:
    return _blend(value, index, line(given["motion_length"], given["motion_angle"]), "motion")
