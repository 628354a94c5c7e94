"""Forward bounds: intervals, and affine forms over the free inputs.

An affine form of a value v over a box with d free inputs is

    v = c + sum_i e_i G_i + r,    e in [-1, 1]^d,  |r| <= radius

that is, a zonotope whose first d generators are the inputs' and whose other noise is lumped into one radius per element
(an "affine form with error term": de Figueiredo & Stolfi 2004; the ReLU rule is DeepZ's, Singh et al. 2018, with the new
noise symbol put into the radius). Its cost is d + 1 signed applications of each linear map and one with absolute weights.

The radius can be kept in d parts instead of one, each part the noise that one input is to blame for: noise that a
non-linear operator adds is shared out among the inputs in proportion to how much each moves the operator's argument. That costs
d - 1 more applications and tells the search which input to split even where the inputs' linear effects cancel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from verifier.ops.kinds import Interval, LinearOp, Op, Relaxation, RelaxedOp


class AffineForm(NamedTuple):
    """`maps` (B, d + 1, *S): the centre, then d generators; `radius` (B, p, *S) >= 0 in p = 1 or p = d parts."""

    maps: Tensor
    radius: Tensor

    def interval(self) -> Interval:
        """The tightest interval around the form."""
        centre = self.maps[:, 0]
        spread = self.maps[:, 1:].abs().sum(1).add_(self.radius.sum(1))
        return Interval(centre - spread, centre + spread)

    def moves(self) -> Tensor:
        """How far each input moves the value, linearly or by the noise it is to blame for: (B, d, *S)."""
        return self.maps[:, 1:].abs() + (self.radius if self.radius.shape[1] > 1 else 0)


def input_form(lower: Tensor, upper: Tensor, free: Tensor, attribute: bool = False) -> AffineForm:
    """The exact form of a box (B, n): generators for the coordinates `free` (B, d), -1 pads rows with fewer of them.

    The width of all other coordinates (the rounding of fixed inputs) goes into the radius.
    """
    batch, n = lower.shape
    d = free.shape[1]
    maps = lower.new_zeros(batch, d + 1, n)
    # a centre inside the box and a radius that reaches both ends, whatever the rounding of the midpoint
    centre = torch.minimum(torch.maximum(lower + (upper - lower) / 2, lower), upper)
    radius = torch.maximum(upper - centre, centre - lower)
    maps[:, 0] = centre
    index = free.clamp(min=0)
    reach = radius.gather(1, index) * (free >= 0)
    maps[:, 1:].scatter_(2, index[:, :, None], reach[:, :, None])
    noise = lower.new_zeros(batch, d if attribute else 1, n)
    varies = torch.zeros_like(lower).scatter_add(1, index, (free >= 0).to(lower.dtype))
    noise[:, 0] = torch.where(varies > 0, 0.0, radius)
    return AffineForm(maps, noise)


def constant_form(op: LinearOp, like: AffineForm) -> AffineForm:
    """The form of a value that depends on no input, for the boxes of `like`."""
    value = op.forward()
    batch, width, parts = *like.maps.shape[:2], like.radius.shape[1]
    maps = value.new_zeros(batch, width, *value.shape[1:])
    maps[:, 0] = value
    return AffineForm(maps, value.new_zeros(batch, parts, *value.shape[1:]))


def linear_form(op: LinearOp, forms: list[AffineForm]) -> AffineForm:
    """Image of affine forms under a linear operator."""
    lead = forms[0].maps.shape[:2]
    maps = op.linear(*(form.maps.flatten(0, 1) for form in forms)).unflatten(0, lead)
    offset = op.offset()
    if offset is not None:
        if maps.data_ptr() == forms[0].maps.data_ptr():
            maps = maps.clone()
        maps[:, 0] += offset
    noise = op.absolute(*(form.radius.flatten(0, 1) for form in forms))
    return AffineForm(maps, noise.unflatten(0, forms[0].radius.shape[:2]))


def relaxed_form(op: RelaxedOp, forms: list[AffineForm], bounds: list[Interval]) -> AffineForm:
    """Image under a non-linear operator: one slope per input, the gap between the two planes goes into the radius.

    Planes with unequal slopes are first made parallel: with the mean slope s, the residual (slope - s) x is bounded on
    [l, u] at its ends.
    """
    relaxation = op.relax(*bounds, parallel=True)  # type: ignore[call-arg]
    low, high = relaxation.lower_offset, relaxation.upper_offset
    maps: Tensor | None = None
    radius: Tensor | None = None
    for form, bound, a, b in zip(forms, bounds, relaxation.lower_slopes, relaxation.upper_slopes, strict=True):
        slope = a
        if a is not b:
            slope = (a + b) / 2
            low = low + op.collect(torch.minimum((a - slope) * bound.lower, (a - slope) * bound.upper))
            high = high + op.collect(torch.maximum((b - slope) * bound.lower, (b - slope) * bound.upper))
        part = op.collect(form.maps * slope[:, None], lead=2)
        noise = op.collect(form.radius * slope.abs()[:, None], lead=2)
        maps = part if maps is None else maps + part
        radius = noise if radius is None else radius + noise
    assert maps is not None and radius is not None
    # an unbounded plane makes the form useless, not wrong: the centre stays finite and the radius becomes infinite
    gap = (high - low) / 2
    middle = (high + low) / 2
    finite = torch.isfinite(gap) & torch.isfinite(middle)
    maps[:, 0] += torch.where(finite, middle, 0.0)
    gap = torch.where(finite, gap, torch.inf)
    if radius.shape[1] == 1:
        return AffineForm(maps, radius + gap[:, None])
    moves = _shared_moves(op, forms, relaxation)
    total = moves.sum(1, keepdim=True)
    share = torch.where(total > 0, moves / total, 1.0 / moves.shape[1])
    # 1 + d ulp: the shares must add up to at least the whole
    whole = 1 + 4 * moves.shape[1] * torch.finfo(share.dtype).eps
    return AffineForm(maps, radius + torch.nan_to_num(share * gap[:, None], nan=0.0) * whole)


def _shared_moves(op: RelaxedOp, forms: list[AffineForm], planes: Relaxation) -> Tensor:
    """How far each input moves what the operator sees: (B, d, *T)."""
    if len(forms) == 1 and op.in_shapes[0] == op.out_shape:
        return forms[0].moves()
    total = None
    for form, low, high in zip(forms, planes.lower_slopes, planes.upper_slopes, strict=True):
        part = op.collect(form.moves() * (low.abs() + high.abs())[:, None], lead=2)
        total = part if total is None else total + part
    assert total is not None
    return total


def as_interval(bound: Interval) -> Interval:
    """NaN (inf - inf, 0 * inf) means that nothing is known."""
    return Interval(torch.nan_to_num(bound.lower, nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf),
                    torch.nan_to_num(bound.upper, nan=torch.inf, posinf=torch.inf, neginf=-torch.inf))


def intersect(a: Interval, b: Interval) -> Interval:
    """Both hold; rounding may make them cross by an ulp, then the narrower information is widened to a point's hull."""
    lower, upper = torch.maximum(a.lower, b.lower), torch.minimum(a.upper, b.upper)
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


def interval_step(op: Op, bounds: list[Interval]) -> Interval:
    """Interval rule with NaN read as "nothing known"."""
    return as_interval(op.interval(*bounds))
