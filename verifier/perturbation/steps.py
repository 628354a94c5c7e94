"""What the parameters do to an image x (C, H, W) in [0, 1], in the order of their stages; only those named take part.

contrast a           x <- anchor + a (x - anchor)          anchor 0, 0.5, any number, or the image's mean
gain g_c             x_c <- g_c x_c                        one factor per channel
brightness b         x <- x + b
gradient g_x, g_y    x <- x + g_x u + g_y v                u, v from -1/2 (left, top edge) to 1/2
haze h               x <- (1 - h) x + h colour
patch opacity o      x <- (1 - o) x + o colour             inside the rectangle of the patch only
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verifier.console.arguments import numbers
from verifier.errors import OptionsError
from verifier.perturbation.table import GREY_LEVELS, Step, StepConstant, parameter

if TYPE_CHECKING:
    from verifier.perturbation.polynomial import Given, Polynomial


def _check_anchor(value: Any) -> None:
    if isinstance(value, str) and value != "mean":
        raise OptionsError(f"the contrast anchor must be a number or 'mean', found '{value}'")
    if not isinstance(value, str) and not 0.0 <= value <= 1.0:
        raise OptionsError(f"the contrast anchor must lie in [0, 1], found {value}")


def _anchor(text: str) -> float | str:
    try:
        return "mean" if text == "mean" else float(text)
    except ValueError:
        raise OptionsError(f"--anchor is a number or 'mean', found '{text}'") from None


def colour(name: str, default: float) -> StepConstant:
    """A constant that is a colour: one value, or one for each channel."""

    def check(value: Any) -> None:
        if not all(0.0 <= c <= 1.0 for c in value):
            raise OptionsError(f"the {name.replace('_', ' ')} must lie in [0, 1], found {value}")

    return StepConstant(name, (default,), numbers, "one value or one per channel", "VALUE[,..]", check)


def _kept(value: Any) -> str:
    fixed = "mean grey level of the image" if isinstance(value, str) else f"grey level {value:g}"
    return f"Contrast keeps the {fixed} fixed."


_ANCHOR = StepConstant("anchor", 0.0, _anchor, "grey level that stays: a number or mean", "GREY", _check_anchor, _kept)


@parameter("contrast", 1.0, "factor", stage=30, pointwise=True, constants=(_ANCHOR,))
def _contrast(value: Polynomial, index: int, given: Given) -> Polynomial:
    anchor = given["anchor"]
    if not anchor:
        return value.times(index)
    grey = given.constant(given.mean if anchor == "mean" else anchor)
    return value.plus(grey.scaled(-1.0)).times(index).plus(grey)


def _gain(channel: int) -> Step:
    def step(value: Polynomial, index: int, given: Given) -> Polynomial:
        mine = given.channel(channel, f"gain_{channel}")
        return value.scaled(1.0 - mine).plus(value.times(index, mine))

    return step


for _channel in range(3):
    parameter(f"gain_{_channel}", 1.0, "factor", stage=40)(_gain(_channel))


@parameter("brightness", 0.0, "added, 1 = white", stage=50, limits=(-1.0, 1.0), why=GREY_LEVELS, pointwise=True)
def _brightness(value: Polynomial, index: int, given: Given) -> Polynomial:
    return value.plus(given.constant(1.0).times(index))


@parameter("gradient_x", 0.0, "added from left to right, 1 = white", stage=60, limits=(-2.0, 2.0), why=GREY_LEVELS)
def _gradient_x(value: Polynomial, index: int, given: Given) -> Polynomial:
    return value.plus(given.constant(given.across).times(index))


@parameter("gradient_y", 0.0, "added from top to bottom, 1 = white", stage=60, limits=(-2.0, 2.0), why=GREY_LEVELS)
def _gradient_y(value: Polynomial, index: int, given: Given) -> Polynomial:
    return value.plus(given.constant(given.down).times(index))


@parameter(
    "haze", 0.0, "share", stage=70, limits=(0.0, 1.0), why="it is a share", constants=(colour("haze_colour", 0.9),)
)
def _haze(value: Polynomial, index: int, given: Given) -> Polynomial:
    return value.blended(index, given.colour("haze_colour"))


def _check_box(value: Any) -> None:
    if len(value) != 4 or any(v != int(v) for v in value):
        raise OptionsError(f"--patch-box needs four whole numbers X0,Y0,X1,Y1, found {value}")


_PATCH = (
    StepConstant("patch_box", None, numbers, "rectangle of the patch, in pixels", "X0,Y0,X1,Y1", _check_box),
    colour("patch_colour", 0.0),
)


@parameter("patch", 0.0, "opacity", stage=80, limits=(0.0, 1.0), why="it is a share", constants=_PATCH)
def _patch(value: Polynomial, index: int, given: Given) -> Polynomial:
    return value.blended(index, given.colour("patch_colour"), given.rectangle(given["patch_box"], "patch"))
