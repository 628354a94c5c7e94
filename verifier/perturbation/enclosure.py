"""Images over boxes of parameters: zonotopes that hold for every point of the box, every rounding included.

Let c and r be centre and radius of a box and v = p - c. A product of parameters F is a polynomial in v,

    F = sum over subsets S of its parameters of (product of c_j, j not in S)(product of v_i, i in S)

and the power of a pixel x with L = ln x, in the parameter g with its own c, r, v, is by Taylor's theorem

    exp(g L) = exp(c L) sum_k (L v)^k / k! + rest,   k <= ORDER,   |rest| <= max exp(g L) (|L| r)^(ORDER+1) / (ORDER+1)!

So an image is a sum of coefficient images times products of v. Those of degree one are the generators of the inputs. Of
each of the others the product is one number, the same for all pixels: a noise symbol that is shared by the whole image,
in [-1, 1] after division by the radii (an even power of one v: in [0, 1], so half of it goes to the centre). As noise
of each pixel by itself it would be useless: the absolute weights of seven layers multiply that by 10^7. Only the rest
of the power is such noise; where |L| r is large, the power is between its ends, and nothing more is said.

What the numbers are off by in floating point is bounded by a multiple of the unit roundoff times the magnitudes that
were added (Higham 2002, section 3.1), and goes into the same noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.zonotope import Zonotope, start
from verifier.brief import brief
from verifier.perturbation.polynomial import ImageMap, Monomial
from verifier.tolerance import FLOOR, FUNCTION_ULPS, tiny, ulp

ORDER = 5
"""Of the expansion of a power."""

FARTHEST = 1.0
"""Largest |L| r that is expanded."""

_EPS = ulp(torch.float64)
CellProduct = tuple[Monomial, int]
"""A product of v: which parameters, and which power of the exponent."""


@dataclass(frozen=True, eq=False)
class ImageMaps:
    """Vectors x (n,) as polynomials in parameters p (d,), of Q members: `offset` (Q, n), `matrix` (Q, F, n), a row for
    every one of the `monomials`, the first d of which are the parameters; float64 on one device. `power` and `logs`
    (Q, n): see `ImageMap`.
    """

    __repr__ = brief

    offset: Tensor
    matrix: Tensor
    monomials: tuple[Monomial, ...]
    power: int | None = None
    logs: Tensor | None = None

    @staticmethod
    def of(images: Sequence[ImageMap], device: torch.device) -> ImageMaps:
        """Those of some images with the same parameters; a monomial that one of them lacks is zero there."""
        known = dict.fromkeys(m for image in images for m in image.monomials)
        monomials = tuple(sorted(known, key=lambda m: (len(m), m)))
        matrix = np.zeros((len(images), len(monomials), len(images[0].offset)))
        for held, image in zip(matrix, images, strict=True):
            held[[monomials.index(m) for m in image.monomials]] = image.matrix.T
        logs = [image.logs for image in images if image.logs is not None]
        offsets = np.stack([image.offset for image in images])
        return ImageMaps(
            torch.from_numpy(offsets).to(device),
            torch.from_numpy(matrix).to(device),
            monomials,
            images[0].power,
            torch.from_numpy(np.stack(logs)).to(device) if logs else None,
        )

    @property
    def affine(self) -> bool:
        """Whether no parameters multiply, and none is an exponent."""
        return self.power is None and all(len(m) == 1 for m in self.monomials)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Everything the images depend on, for a fingerprint."""
        return (self.offset, self.matrix) if self.logs is None else (self.offset, self.matrix, self.logs)

    def points(self, p: Tensor, query: Tensor) -> Tensor:
        """The vectors (M, n) at points (M, d) of members (M,), float64."""
        features = torch.stack([p[:, self._factors(m)].prod(1) for m in self.monomials], 1)
        matrix = self.matrix[query]
        powered = [k for k, m in enumerate(self.monomials) if self.power in m]
        if powered and self.logs is not None and self.power is not None:
            matrix[:, powered] *= torch.exp(p[:, self.power, None] * self.logs[query])[:, None]
        return self.offset[query] + torch.bmm(features[:, None], matrix)[:, 0]

    def _factors(self, monomial: Monomial) -> list[int]:
        """The parameters of a monomial, without the exponent."""
        return [i for i in monomial if i != self.power]

    def zonotope(
        self, centre: Tensor, radius: Tensor, query: Tensor, fast: torch.dtype
    ) -> tuple[Zonotope, Tensor | None]:
        """The images over boxes centre +- radius (B, d) of members (B,), maps and noise in the type `fast`.

        Also how much each input moves each of its symbols, (symbols, d), for `sweep_zonotope`; None without any.
        """
        if self.affine:
            return start(self.offset[query], self.matrix[query], centre, radius, fast), None
        cell = self.over(centre, radius, query)
        (batch, count, n), d = cell.shared.shape, centre.shape[1]
        core = torch.cat([cell.value[:, None], cell.slopes * radius[:, :, None]], 1)
        eps = ulp(fast)
        slack = cell.slack * (1 + 4 * _EPS) + 2 * eps * cell.shared.abs().sum(1)
        noise = (slack + FLOOR).to(fast) * (1 + 4 * eps)
        form = Zonotope(core, (), (), (), noise)
        if not count:
            return form, None
        owner = torch.arange(batch, device=core.device).repeat_interleave(count)
        ids = torch.arange(batch * count, device=core.device)
        form = Zonotope(core, (cell.shared.reshape(-1, n).to(fast),), (ids,), (owner,), noise)
        moves = [
            [float(i in chosen or (degree > 0 and i == self.power)) for i in range(d)]
            for chosen, degree in cell.symbols
        ]
        return form, core.new_tensor(moves).repeat(batch, 1)

    def over(self, centre: Tensor, radius: Tensor, query: Tensor) -> Cell:
        """The images over boxes centre +- radius (B, d), of members (B,)."""
        d, images = centre.shape[1], self.matrix[query]
        power = None
        if self.power is not None and self.logs is not None:
            power = _power(self.logs[query], centre[:, self.power, None], radius[:, self.power, None])
        offset = self.offset[query]
        parts: dict[CellProduct, Tensor] = {((), 0): offset}
        slack, size = torch.zeros_like(offset), offset.abs()
        reach = (centre.abs() + radius) * (1 + 4 * _EPS)
        for k, monomial in enumerate(self.monomials):
            index = self._factors(monomial)
            most = reach[:, index].prod(1)[:, None] * images[:, k].abs() * (1 + 16 * _EPS)
            series = [torch.ones_like(offset)]
            if self.power in monomial:
                assert power is not None
                series = power.series
                slack += most * power.rest
                most = most * power.size
            size += most
            for chosen in (s for count in range(len(index) + 1) for s in combinations(index, count)):
                others = [j for j in index if j not in chosen]
                fixed = centre[:, others].prod(1)[:, None] * images[:, k]
                for degree, factor in enumerate(series):
                    part = fixed * factor
                    parts[chosen, degree] = parts[chosen, degree] + part if (chosen, degree) in parts else part
        slopes = torch.zeros(len(offset), d, offset.shape[1], dtype=offset.dtype, device=offset.device)
        value, shared, symbols = parts.pop(((), 0)), [], []
        for (chosen, degree), part in parts.items():
            if len(chosen) + degree == 1:
                slopes[:, chosen[0] if chosen else self.power] = part
                continue
            wide = radius[:, list(chosen)].prod(1)
            if degree:
                wide = wide * radius[:, self.power] ** degree
            part = part * wide[:, None]
            if not chosen and degree % 2 == 0:
                part = part / 2
                value = value + part
            shared.append(part)
            symbols.append((chosen, degree))
        held = torch.stack(shared, 1) if shared else offset.new_zeros(len(offset), 0, offset.shape[1])
        rounding = 32 * (len(self.monomials) + ORDER + 8) * _EPS * size
        return Cell(value, slopes, held, tuple(symbols), slack * (1 + 64 * _EPS) + rounding)

    def linear(self, centre: Tensor, radius: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Offset (B, n) and matrix (B, d, n) of the affine part; what products leave is not in it."""
        if self.affine:
            return self.offset[query], self.matrix[query]
        cell = self.over(centre, radius, query)
        return cell.value - (cell.slopes * centre[:, :, None]).sum(1), cell.slopes


class Cell(NamedTuple):
    """x = `value` (B, n) + v `slopes` (B, d, n) + sum of e_j `shared` (B, S, n) +- `slack` (B, n), e_j in [-1, 1].

    v is the distance from the centre. `symbols`: the products of v that the e_j stand for, divided by those of the
    radii (an even power of the exponent by itself: twice that, minus 1).
    """

    value: Tensor
    slopes: Tensor
    shared: Tensor
    symbols: tuple[CellProduct, ...]
    slack: Tensor


class _Power(NamedTuple):
    """exp(g L) = sum of `series` (B, n) times v^k, +- `rest` (B, n); `size` is at least sum |series| r^k + rest."""

    series: list[Tensor]
    rest: Tensor
    size: Tensor


def _power(logs: Tensor, centre: Tensor, radius: Tensor) -> _Power:
    """logs (B, n); centre, radius (B, 1)."""
    steps = logs * radius
    first, last = torch.exp(logs * (centre - radius)), torch.exp(logs * (centre + radius))
    most, least = torch.maximum(first, last), torch.minimum(first, last)
    near = steps.abs() <= FARTHEST
    middle = torch.where(near, torch.exp(logs * centre), (most + least) / 2)
    series, term = [middle], middle
    for k in range(1, ORDER + 1):
        term = torch.where(near, term * logs / k, 0.0)
        series.append(term)
    rest = torch.where(near, most * steps.abs() ** (ORDER + 1) / math.factorial(ORDER + 1), (most - least) / 2)
    # each exponential is off by its own error and that of its exponent, which is at most that of |L| (c + r)
    exponent = logs.abs() * (centre + radius) + FUNCTION_ULPS + ORDER + 8
    error = 8 * exponent * _EPS * most * math.exp(FARTHEST)
    size = most * math.exp(FARTHEST) + rest
    return _Power(series, rest * (1 + 64 * _EPS) + error + 4 * tiny(torch.float64), size)
