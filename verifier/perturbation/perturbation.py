"""A perturbation: ranges of some parameters, the constants of their steps, and whether the image is clipped at the end.

The one type that specifications, searches, training and pruning share.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from verifier.console.arguments import Span, span, unknown
from verifier.errors import OptionsError
from verifier.perturbation.polynomial import Given, Monomial, Polynomial
from verifier.perturbation.table import PARAMETERS, known_constants
from verifier.perturbation.text import LEVELS, pieces

MAX_PARAMETERS = 6


@dataclass(frozen=True)
class Range:
    """One parameter and the closed interval it moves in. OptionsError for an unknown one, or one out of its limits."""

    name: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.name not in PARAMETERS:
            raise OptionsError(
                f"{unknown('parameter', self.name, PARAMETERS)}; expected one of {', '.join(PARAMETERS)}"
            )
        PARAMETERS[self.name].check(self.low, self.high)

    @property
    def identity(self) -> float:
        """The value that changes nothing."""
        return PARAMETERS[self.name].identity

    @property
    def holds_identity(self) -> bool:
        """Whether the unchanged image lies in the range."""
        return self.low <= self.identity <= self.high


@dataclass(frozen=True)
class Perturbation:
    """Ranges, kept in the order of `PARAMETERS`; constants by name, those that are left out take their defaults.

    clip: whether values are clipped to [0, 1] at the end.
    Raises OptionsError for no or more than six parameters, one given twice, unknown constants or impossible ones.
    """

    ranges: tuple[Range, ...]
    constants: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    clip: bool = True

    def __post_init__(self) -> None:
        names = [r.name for r in self.ranges]
        if not 1 <= len(names) <= MAX_PARAMETERS:
            raise OptionsError(f"between 1 and {MAX_PARAMETERS} semantic parameters are needed, found {len(names)}")
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise OptionsError(f"semantic parameter given twice: {', '.join(sorted(twice))}")
        order = list(PARAMETERS)
        object.__setattr__(self, "ranges", tuple(sorted(self.ranges, key=lambda r: order.index(r.name))))
        known, given = known_constants(), dict(self.constants)
        for name, value in given.items():
            if name not in known:
                raise OptionsError(f"{unknown('constant', name, known)}; expected one of {', '.join(known)}")
            known[name].check(value)
        object.__setattr__(self, "constants", tuple(sorted(given.items())))
        missing = [c.name for name in names for c in PARAMETERS[name].constants if c.default is None]
        for name in missing:
            if name not in given:
                raise OptionsError(f"--{name.replace('_', '-')} is missing: {known[name].help}")

    @staticmethod
    def of(clip: bool = True, **given: Any) -> Perturbation:
        """`of(contrast=(0.8, 1.2), brightness=(-0.1, 0.1), anchor=0.5)`: ranges and constants by name."""
        ranges = [Range(name, *given.pop(name)) for name in list(given) if name in PARAMETERS]
        return Perturbation(tuple(ranges), given, clip)

    @staticmethod
    def parse(text: str, plane: Mapping[str, Span] | None = None, clip: bool = True) -> Perturbation:
        """From a text such as `contrast=0.8:1.2,brightness=-0.1:0.1,anchor=0.5` or `medium` (see `text.pieces`).

        plane: ranges that are part of the set where the text names no parameter outside it, so that a range of one
        parameter is a line in that plane, and an empty text a point of it.
        """
        levels, named = pieces(text)
        known, constants, ranges = known_constants(), {}, dict[str, Span]()
        for level in levels:
            ranges |= LEVELS[level]
        for name, value in named.items():
            if name in PARAMETERS:
                try:
                    ranges[name] = span(value)
                except argparse.ArgumentTypeError as error:
                    raise OptionsError(f"range {name}: {error}") from None
            elif name in known:
                try:
                    constants[name] = known[name].parse(value)
                except argparse.ArgumentTypeError as error:
                    raise OptionsError(f"--{name.replace('_', '-')}: {error}") from None
            else:
                told = unknown("parameter", name, [*PARAMETERS, *known])
                raise OptionsError(f"{told}; expected one of {', '.join(PARAMETERS)}")
        if plane is not None and ranges.keys() <= plane.keys():
            ranges = {**plane, **ranges}
        return Perturbation(tuple(Range(name, *ends) for name, ends in ranges.items()), constants, clip)

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
        return np.array([r.identity for r in self.ranges])

    @property
    def degenerate(self) -> bool:
        """Whether the set is a single point."""
        return all(r.low == r.high for r in self.ranges)

    def constant(self, name: str) -> Any:
        """The value of a constant."""
        return dict(self.constants).get(name, known_constants()[name].default)

    @property
    def told(self) -> list[str]:
        """Sentences about the constants of its steps."""
        of = [constant for name in self.names for constant in PARAMETERS[name].constants]
        return [text for text in (constant.tell(self.constant(constant.name)) for constant in of) if text]

    def enlarged(self, factor: float) -> Perturbation:
        """Every range `factor` times as wide around its centre, as far as its limits allow."""
        wide = []
        for r in self.ranges:
            middle, half = (r.low + r.high) / 2, factor * (r.high - r.low) / 2
            least, most = PARAMETERS[r.name].limits
            wide.append(Range(r.name, max(least, middle - half), min(most, middle + half)))
        return replace(self, ranges=tuple(wide))

    def grid(self, most: int) -> np.ndarray:
        """Evenly spaced points with both ends, as many per axis as all of them together stay within `most`: (n, d)."""
        side = max(2, int(round(most ** (1 / len(self.ranges)), 9)))
        return _product([np.linspace(low, high, side) for low, high in self.box])

    def uniform(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Random points (count, d)."""
        low, high = self.box.T
        return rng.uniform(low, high, (count, len(low)))


def _product(axes: list[np.ndarray]) -> np.ndarray:
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def expand(perturbation: Perturbation, image: np.ndarray) -> Polynomial:
    """The steps applied to images (..., C, H, W) in [0, 1], as a polynomial with coefficients of their type.

    Raises OptionsError when a step does not fit the image (gain for a missing channel, patch outside, colours).
    """
    defaults = {name: constant.default for name, constant in known_constants().items()}
    given = Given(image, {**defaults, **dict(perturbation.constants)})
    value = Polynomial({(): image})
    for index, name in enumerate(perturbation.names):
        value = PARAMETERS[name].step(value, index, given)
    return value


def apply(perturbation: Perturbation, images: np.ndarray, values: np.ndarray, clip: bool | None = None) -> np.ndarray:
    """The changed images (..., C, H, W) at one point (d,) or a point each (..., d), in the type of the images.

    clip: None does as the perturbation says.
    """
    changed = expand(perturbation, images)(values)
    if perturbation.clip if clip is None else clip:
        np.clip(changed, 0.0, 1.0, out=changed)
    return changed


def describe(perturbation: Perturbation, products: tuple[Monomial, ...]) -> str:
    """One sentence on which case this is: jointly affine, or products of which parameters."""
    parts = ["the parameters"]
    if "gamma" in perturbation.names:
        parts = ["the other parameters", "the powers x^gamma of the pixels (Exp node)"]
    if products:
        named = ", ".join("*".join(perturbation.names[i] for i in m) for m in products)
        parts.append(f"the products {named} (product nodes)")
    jointly = "jointly " if len(parts) == 1 else ""
    return f"before the clip the image is {jointly}affine in {' and '.join(parts)}"
