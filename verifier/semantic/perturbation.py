"""The semantic parameters: what they do to an image, as a polynomial that is exact in every parameter.

Order of the steps, for an image x (C, H, W) in [0, 1]; only the named parameters take part:

    contrast a           x <- anchor + a (x - anchor)          anchor 0, 0.5, any number, or the image's mean
    gain g_c             x_c <- g_c x_c                        one factor per channel
    brightness b         x <- x + b
    gradient g_x, g_y    x <- x + g_x u + g_y v                u, v from -1/2 (left, top edge) to 1/2
    haze h               x <- (1 - h) x + h colour
    patch opacity o      x <- (1 - o) x + o colour             inside the rectangle of the patch only
    clip                 x <- min(max(x, 0), 1)                unless switched off

Before the clip the result is a polynomial of degree one in each parameter: image = sum over monomials m of p_m * c_m,
with fixed images c_m. Without a monomial of two parameters the map is jointly affine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from verifier.data.frame import check_unit
from verifier.errors import OptionsError

IDENTITY: dict[str, float] = {}
"""Parameter names in the order in which they become inputs X_0, X_1, ..; with the value that changes nothing."""

UNITS: dict[str, str] = {}
"""What the numbers of a parameter mean, for axes."""

MAX_PARAMETERS = 6
SHARES = ("share", "opacity")
"""Units of parameters that stay in [0, 1]."""

Monomial = tuple[int, ...]  # strictly rising indices of parameters; () is the constant


@dataclass(frozen=True)
class Range:
    """One parameter and the closed interval it moves in."""

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.name not in IDENTITY:
            raise OptionsError(f"unknown semantic parameter '{self.name}'; known: {', '.join(IDENTITY)}")
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise OptionsError(f"the range of {self.name} must be finite, found {self.low} to {self.high}")
        if self.low > self.high:
            raise OptionsError(
                f"the range of {self.name} is empty: low {self.low} lies above high {self.high}; swap the two numbers"
            )
        check_unit(self.name, self.low, self.high)
        if UNITS[self.name] in SHARES and (self.low < 0.0 or self.high > 1.0):
            raise OptionsError(f"{self.name} is a share and must stay in [0, 1], found {self.low} to {self.high}")

    @property
    def holds_identity(self) -> bool:
        """Whether the unchanged image lies in the range."""
        return self.low <= IDENTITY[self.name] <= self.high


@dataclass(frozen=True)
class Patch:
    """An occluding rectangle in pixels, x0 <= column < x1 and y0 <= row < y1, and its colour (1 value or C)."""

    x0: int
    y0: int
    x1: int
    y1: int
    colour: tuple[float, ...] = (0.0,)


@dataclass(frozen=True)
class Perturbation:
    """A set of ranges and the constants of the steps. The ranges are kept in the order of `IDENTITY`.

    Raises OptionsError for no or more than six parameters, one given twice, or constants out of range.
    """

    ranges: tuple[Range, ...]
    anchor: float | str = 0.0  # a number or "mean"
    haze_colour: tuple[float, ...] = (0.9,)
    patch: Patch | None = None

    def __post_init__(self) -> None:
        names = [r.name for r in self.ranges]
        if not 1 <= len(names) <= MAX_PARAMETERS:
            raise OptionsError(f"between 1 and {MAX_PARAMETERS} semantic parameters are needed, found {len(names)}")
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise OptionsError(f"semantic parameter given twice: {', '.join(sorted(twice))}")
        object.__setattr__(self, "ranges", tuple(sorted(self.ranges, key=lambda r: list(IDENTITY).index(r.name))))
        if isinstance(self.anchor, str) and self.anchor != "mean":
            raise OptionsError(f"the contrast anchor must be a number or 'mean', found '{self.anchor}'")
        if not isinstance(self.anchor, str) and not 0.0 <= self.anchor <= 1.0:
            raise OptionsError(f"the contrast anchor must lie in [0, 1], found {self.anchor}")
        if "patch" in names and self.patch is None:
            raise OptionsError("parameter patch needs the rectangle of the patch (x0, y0, x1, y1)")
        colours = (*self.haze_colour, *(self.patch.colour if self.patch else ()))
        if not all(0.0 <= c <= 1.0 for c in colours):
            raise OptionsError("colours of haze and patch must lie in [0, 1]")

    @property
    def names(self) -> tuple[str, ...]:
        """Parameter names in input order."""
        return tuple(r.name for r in self.ranges)

    @property
    def box(self) -> np.ndarray:
        """Lower and upper ends, float64 (d, 2)."""
        return np.array([[r.low, r.high] for r in self.ranges])

    @property
    def identity(self) -> np.ndarray:
        """The parameter values that change nothing, float64 (d,)."""
        return np.array([IDENTITY[r.name] for r in self.ranges])


@dataclass(frozen=True, eq=False)
class Polynomial:
    """image(p) = sum over monomials of (product of p_i, i in monomial) * coefficient; all images have one shape."""

    terms: Mapping[Monomial, np.ndarray]

    def plus(self, other: Polynomial) -> Polynomial:
        """Sum of two polynomials."""
        terms = dict(self.terms)
        for monomial, image in other.terms.items():
            terms[monomial] = terms[monomial] + image if monomial in terms else image
        return Polynomial(terms)

    def times(self, parameter: int, factor: np.ndarray | float = 1.0) -> Polynomial:
        """Product with one parameter that does not occur yet, and with a fixed image."""
        return Polynomial({tuple(sorted((*m, parameter))): image * factor for m, image in self.terms.items()})

    def scaled(self, factor: np.ndarray | float) -> Polynomial:
        """Product with a fixed image."""
        return Polynomial({m: image * factor for m, image in self.terms.items()})

    @property
    def products(self) -> tuple[Monomial, ...]:
        """Monomials of two or more parameters whose image is not zero, shortest first."""
        found = [m for m, image in self.terms.items() if len(m) > 1 and np.any(image)]
        return tuple(sorted(found, key=lambda m: (len(m), m)))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The image at one point (d,), before the clip, in float64."""
        return sum(
            (image * float(np.prod(values[list(m)])) for m, image in self.terms.items()),
            start=np.zeros(next(iter(self.terms.values())).shape),
        )


def expand(perturbation: Perturbation, image: np.ndarray) -> Polynomial:
    """The steps applied to an image (C, H, W) in [0, 1], as a polynomial with float64 coefficients (C, H, W).

    Raises OptionsError when a step does not fit the image (gain for a missing channel, patch outside, colours).
    """
    x = image.astype(np.float64)
    index = {name: i for i, name in enumerate(perturbation.names)}
    value = Polynomial({(): x})
    for name, step in _STEPS.items():
        if name in index:
            value = step(value, index[name], perturbation, x)
    return value


def apply(perturbation: Perturbation, image: np.ndarray, values: np.ndarray, clip: bool = True) -> np.ndarray:
    """The changed image at one parameter point, float64 (C, H, W)."""
    changed = expand(perturbation, image)(np.asarray(values, dtype=np.float64))
    return np.clip(changed, 0.0, 1.0) if clip else changed


Step = Callable[[Polynomial, int, Perturbation, np.ndarray], Polynomial]
"""The image so far, the parameter's index, the constants of the steps, the unchanged image (C, H, W) -> the image."""

_STEPS: dict[str, Step] = {}


def parameter(name: str, identity: float, unit: str) -> Callable[[Step], Step]:
    """Registers a parameter by its step, behind those that are there; `identity` is the value that changes nothing.

    Commands get an option of that name. The step has to be linear in the parameter (`Polynomial.times`).
    """

    def register(step: Step) -> Step:
        IDENTITY[name], UNITS[name], _STEPS[name] = identity, unit, step
        return step

    return register


@parameter("contrast", 1.0, "factor")
def _contrast(value: Polynomial, index: int, given: Perturbation, x: np.ndarray) -> Polynomial:
    anchor = float(x.mean()) if isinstance(given.anchor, str) else given.anchor
    if not anchor:
        return value.times(index)
    grey = Polynomial({(): np.full_like(x, anchor)})
    return value.plus(grey.scaled(-1.0)).times(index).plus(grey)


def _gain(channel: int) -> Step:
    def step(value: Polynomial, index: int, given: Perturbation, x: np.ndarray) -> Polynomial:
        if channel >= len(x):
            raise OptionsError(f"gain_{channel} needs {channel + 1} channels, the image has {len(x)}")
        mine = np.zeros((len(x), 1, 1))
        mine[channel] = 1.0
        return value.scaled(1.0 - mine).plus(value.times(index, mine))

    return step


for _channel in range(3):
    parameter(f"gain_{_channel}", 1.0, "factor")(_gain(_channel))


@parameter("brightness", 0.0, "added, 1 = white")
def _brightness(value: Polynomial, index: int, given: Perturbation, x: np.ndarray) -> Polynomial:
    return value.plus(Polynomial({(index,): np.ones_like(x)}))


@parameter("gradient_x", 0.0, "added from left to right, 1 = white")
def _gradient_x(value: Polynomial, index: int, given: Perturbation, x: np.ndarray) -> Polynomial:
    return value.plus(Polynomial({(index,): np.array(np.broadcast_to(_ramp(x.shape[2]), x.shape))}))


@parameter("gradient_y", 0.0, "added from top to bottom, 1 = white")
def _gradient_y(value: Polynomial, index: int, given: Perturbation, x: np.ndarray) -> Polynomial:
    return value.plus(Polynomial({(index,): np.array(np.broadcast_to(_ramp(x.shape[1])[:, None], x.shape))}))


@parameter("haze", 0.0, "share")
def _haze(value: Polynomial, index: int, given: Perturbation, x: np.ndarray) -> Polynomial:
    return _blend(value, index, np.ones_like(x), _colour(given.haze_colour, len(x), "haze"))


@parameter("patch", 0.0, "opacity")
def _patch(value: Polynomial, index: int, given: Perturbation, x: np.ndarray) -> Polynomial:
    assert given.patch is not None  # checked by Perturbation
    return _blend(value, index, _mask(given.patch, x.shape), _colour(given.patch.colour, len(x), "patch"))


def _ramp(n: int) -> np.ndarray:
    """Pixel centres from -1/2 to 1/2 over the frame."""
    return (np.arange(n) + 0.5) / n - 0.5


def _blend(value: Polynomial, parameter: int, mask: np.ndarray, colour: np.ndarray) -> Polynomial:
    """x + p * mask * (colour - x), the convex blend of x and colour with weight p inside the mask."""
    towards = value.scaled(-1.0).plus(Polynomial({(): np.broadcast_to(colour, mask.shape)}))
    return value.plus(towards.times(parameter, mask))


def _colour(colour: Sequence[float], channels: int, what: str) -> np.ndarray:
    if len(colour) not in (1, channels):
        raise OptionsError(f"the colour of the {what} has {len(colour)} values, the image has {channels} channels")
    return np.broadcast_to(np.array(colour, dtype=np.float64)[:, None, None], (channels, 1, 1))


def _mask(patch: Patch, shape: tuple[int, ...]) -> np.ndarray:
    _, height, width = shape
    if not (0 <= patch.x0 < patch.x1 <= width and 0 <= patch.y0 < patch.y1 <= height):
        raise OptionsError(
            f"the patch {patch.x0},{patch.y0},{patch.x1},{patch.y1} is empty or leaves the {width}x{height} image"
        )
    mask = np.zeros(shape)
    mask[:, patch.y0 : patch.y1, patch.x0 : patch.x1] = 1.0
    return mask


def describe(perturbation: Perturbation, products: tuple[Monomial, ...]) -> str:
    """One sentence on which case this is: jointly affine, or products of which parameters."""
    if not products:
        return "before the clip the image is jointly affine in the parameters"
    named = ", ".join("*".join(perturbation.names[i] for i in m) for m in products)
    return f"before the clip the image is affine in the parameters and the products {named} (product nodes)"
