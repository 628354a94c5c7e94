"""The changed image as a polynomial of degree one in each parameter: the sum over monomials m of p_m * c_m.

The c_m are fixed images. Without a monomial of two parameters the image is jointly affine in the parameters. One
parameter may be an exponent instead (gamma): in its monomials the power x^gamma of every pixel stands in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from verifier.errors import OptionsError

Monomial = tuple[int, ...]  # strictly rising indices of parameters; () is the constant
BlurKernel = dict[tuple[int, int], float]
"""Weights by how many rows and columns a pixel lies below and to the right."""

BLACK = -1e4
"""Stands for ln 0: its power is below 10^-200 for every gamma that is allowed."""

STRAY = 1e-6
"""So far outside [0, 1] a pixel may lie by rounding alone."""


@dataclass(frozen=True, eq=False)
class Polynomial:
    """image(p) = sum over monomials of (product of p_i, i in monomial) * coefficient, (..., C, H, W) each.

    power: the parameter that is an exponent, and the image (..., C, H, W) in [0, 1] whose power it is.
    """

    terms: Mapping[Monomial, np.ndarray]
    power: tuple[int, np.ndarray] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the image."""
        images = [*self.terms.values(), *(() if self.power is None else self.power[1:])]
        return np.broadcast_shapes(*(image.shape for image in images))

    def plus(self, other: Polynomial) -> Polynomial:
        """Sum of two polynomials."""
        terms = dict(self.terms)
        for monomial, image in other.terms.items():
            terms[monomial] = terms[monomial] + image if monomial in terms else image
        return Polynomial(terms, self.power or other.power)

    def times(self, parameter: int, factor: np.ndarray | float = 1.0) -> Polynomial:
        """Product with one parameter that does not occur yet, and with a fixed image."""
        terms = self.scaled(factor).terms
        return replace(self, terms={tuple(sorted((*m, parameter))): image for m, image in terms.items()})

    def scaled(self, factor: np.ndarray | float) -> Polynomial:
        """Product with a fixed image."""
        if isinstance(factor, float) and factor == 1.0:
            return self
        return replace(self, terms={m: image * factor for m, image in self.terms.items()})

    def blended(self, parameter: int, target: Polynomial, share: np.ndarray | float = 1.0) -> Polynomial:
        """x + p * share * (target - x): the convex blend of x and a fixed image, with weight p * share."""
        return self.plus(self.scaled(-1.0).plus(target).times(parameter, share))

    def averaged(self, kernel: BlurKernel, name: str) -> Polynomial:
        """The weighted mean of shifted images, edges repeated. OptionsError, naming the parameter, for a power."""
        if self.power is not None:
            raise OptionsError(
                f"{name} cannot go with gamma, as it averages pixels whose powers move differently; drop one"
            )
        reach = max(max(abs(y), abs(x)) for y, x in kernel)
        height, width = self.shape[-2:]
        terms = {}
        for monomial, image in self.terms.items():
            if image.shape[-2:] == (1, 1):
                terms[monomial] = image  # the same everywhere
                continue
            whole = np.broadcast_to(image, np.broadcast_shapes(image.shape, (1, height, width)))
            wide = np.pad(whole, [(0, 0)] * (whole.ndim - 2) + [(reach, reach)] * 2, mode="edge")
            terms[monomial] = sum(
                (
                    np.asarray(weight, image.dtype) * wide[..., reach + y :, reach + x :][..., :height, :width]
                    for (y, x), weight in kernel.items()
                ),
                start=np.zeros((), image.dtype),
            )
        return replace(self, terms=terms)

    @property
    def products(self) -> tuple[Monomial, ...]:
        """Monomials of two or more parameters whose image is not zero, shortest first."""
        found = [m for m, image in self.terms.items() if len(m) > 1 and np.any(image)]
        return tuple(sorted(found, key=lambda m: (len(m), m)))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The image (..., C, H, W) at points (..., d), before the clip, in the type of the coefficients."""
        plain, powered = self.split()
        if self.power is None:
            return _sum(plain, values)
        index, base = self.power
        exponent = np.asarray(values, base.dtype)[..., index][..., None, None, None]
        power = _sum(powered, values) * np.power(base, exponent)
        return power + _sum(plain, values) if plain else power

    def split(self) -> tuple[dict[Monomial, np.ndarray], dict[Monomial, np.ndarray]]:
        """The terms without the power, and the factors of the power."""
        index = -1 if self.power is None else self.power[0]
        plain = {m: image for m, image in self.terms.items() if index not in m}
        return plain, {_without(m, index): image for m, image in self.terms.items() if index in m}

    def flat(self, parameters: int, arrange: Callable[[np.ndarray], np.ndarray]) -> ImageMap:
        """The coefficients of one image (C, H, W) as vectors; `arrange` makes a vector of an image."""

        def vector(monomial: Monomial) -> np.ndarray:
            return arrange(np.broadcast_to(self.terms.get(monomial, np.zeros(())), self.shape))

        monomials = (*((i,) for i in range(parameters)), *self.products)
        image = ImageMap(vector(()), np.stack([vector(m) for m in monomials], axis=1), monomials)
        if self.power is None:
            return image
        index, base = self.power
        logs = np.where(base > 0, np.log(np.maximum(base, np.finfo(base.dtype).tiny)), BLACK)
        return replace(image, power=index, logs=arrange(np.broadcast_to(logs, self.shape)))


def _sum(terms: Mapping[Monomial, np.ndarray], values: np.ndarray) -> np.ndarray:
    """The sum of the terms at points (..., d)."""
    total = np.zeros(())
    for number, (monomial, image) in enumerate(terms.items()):
        part = image * np.asarray(feature(values, monomial), image.dtype)[..., None, None, None]
        if not number:
            total = part
        elif np.broadcast_shapes(total.shape, part.shape) == total.shape:
            total += part
        else:
            total = total + part
    return total


def _without(monomial: Monomial, index: int) -> Monomial:
    return tuple(i for i in monomial if i != index)


@dataclass(frozen=True, eq=False)
class ImageMap:
    """One changed image as a vector: offset + matrix @ features, features being the products of the `monomials` (F).

    offset (n,), matrix (n, F). The first d monomials are the parameters themselves. In those with the parameter
    `power`, exp(p * logs) stands in its place, another number for each entry: logs (n,).
    """

    offset: np.ndarray
    matrix: np.ndarray
    monomials: tuple[Monomial, ...]
    power: int | None = None
    logs: np.ndarray | None = None

    @property
    def products(self) -> tuple[Monomial, ...]:
        """The monomials of two or more parameters."""
        return tuple(m for m in self.monomials if len(m) > 1)

    def followed_by(self, fixed: np.ndarray) -> ImageMap:
        """The same with more entries that do not vary."""
        more = np.zeros((len(fixed), len(self.monomials)))
        return replace(
            self,
            offset=np.concatenate([self.offset, fixed]),
            matrix=np.concatenate([self.matrix, more]),
            logs=None if self.logs is None else np.concatenate([self.logs, np.zeros(len(fixed))]),
        )

    def layer(self, powered: bool) -> tuple[np.ndarray, np.ndarray, tuple[Monomial, ...]]:
        """Offset (n,), matrix (n, F') and monomials (F') of the part without the power, or of its factor."""
        chosen = [k for k, m in enumerate(self.monomials) if (self.power in m) == powered]
        monomials = [self.monomials[k] for k in chosen]
        matrix, offset = self.matrix[:, chosen], np.zeros_like(self.offset) if powered else self.offset
        if powered and self.power is not None:
            offset = offset + matrix[:, monomials.index((self.power,))]
            matrix = np.delete(matrix, monomials.index((self.power,)), axis=1)
            monomials = [_without(m, self.power) for m in monomials if m != (self.power,)]
        return offset, matrix, tuple(monomials)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """The vector at one point (d,), float64."""
        parts = []
        for powered in (False, True):
            offset, matrix, monomials = self.layer(powered)
            parts.append(offset + matrix @ np.array([feature(values, m) for m in monomials]).reshape(-1))
        if self.power is None or self.logs is None:
            return parts[0]
        return np.asarray(parts[0] + parts[1] * np.exp(values[self.power] * self.logs))


def feature(values: np.ndarray, monomial: Monomial) -> np.ndarray:
    """The product of the parameters of a monomial at points (..., d): (...)."""
    return np.asarray(np.prod(np.asarray(values, np.float64)[..., list(monomial)], axis=-1))


@dataclass(frozen=True, eq=False)
class Given:
    """What a step may read: the unchanged `image` (..., C, H, W), and constants by name.

    Everything it makes broadcasts against the image and has its type.
    """

    image: np.ndarray
    constants: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """A constant."""
        return self.constants[name]

    def constant(self, value: np.ndarray | float) -> Polynomial:
        """A fixed image, or a number for all pixels, as a polynomial."""
        found = np.asarray(value, self.image.dtype)
        return Polynomial({(): found.reshape((1,) * (3 - found.ndim) + found.shape)})

    def power(self, index: int) -> Polynomial:
        """The power of every pixel, with parameter `index` as its exponent. OptionsError if one is not in [0, 1]."""
        low, high = float(self.image.min()), float(self.image.max())
        if low < -STRAY or high > 1 + STRAY:
            raise OptionsError(f"gamma needs pixels in [0, 1], and these go from {low:.4g} to {high:.4g}")
        ones = self.constant(1.0).terms[()]
        return Polynomial({(index,): ones}, (index, np.clip(self.image, 0.0, 1.0)))

    @cached_property
    def mean(self) -> np.ndarray:
        """The mean of every image, (..., 1, 1, 1)."""
        return self.image.mean((-3, -2, -1), dtype=np.float64, keepdims=True)

    @property
    def across(self) -> np.ndarray:
        """From -1/2 at the left edge to 1/2 at the right one, at pixel centres: (W,)."""
        return _ramp(self.image.shape[-1])

    @property
    def down(self) -> np.ndarray:
        """From -1/2 at the top edge to 1/2 at the bottom, at pixel centres: (H, 1)."""
        return _ramp(self.image.shape[-2])[:, None]

    def channel(self, number: int, name: str) -> np.ndarray:
        """1 in this channel, 0 in the others: (C, 1, 1). OptionsError, naming the parameter, if there is no such."""
        channels = self.image.shape[-3]
        if number >= channels:
            raise OptionsError(f"{name} needs {number + 1} channels, the image has {channels}")
        return (np.arange(channels)[:, None, None] == number).astype(self.image.dtype)

    def colour(self, name: str) -> Polynomial:
        """A constant that is a colour, as an image. OptionsError if it does not fit the channels."""
        found, channels = self.constants[name], self.image.shape[-3]
        if len(found) not in (1, channels):
            raise OptionsError(
                f"the {name.replace('_', ' ')} has {len(found)} values, the image has {channels} channels"
            )
        return self.constant(np.array(found)[:, None, None])

    def rectangle(self, box: tuple[float, ...] | None, name: str) -> np.ndarray:
        """1 inside the rectangle x0 <= column < x1, y0 <= row < y1, 0 outside: (H, W). OptionsError if it leaves it."""
        if box is None:
            raise OptionsError(f"parameter {name} needs the rectangle of the {name}: --{name}-box X0,Y0,X1,Y1")
        height, width = self.image.shape[-2:]
        x0, y0, x1, y1 = (int(v) for v in box)
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise OptionsError(f"the {name} {x0},{y0},{x1},{y1} is empty or leaves the {width}x{height} image")
        mask = np.zeros((height, width), self.image.dtype)
        mask[y0:y1, x0:x1] = 1.0
        return mask


def _ramp(n: int) -> np.ndarray:
    """Pixel centres from -1/2 to 1/2 over the frame."""
    return (np.arange(n) + 0.5) / n - 0.5
