"""Affine forms: a value as an affine function of the free inputs plus bounded noise.

An affine form of a value v over a box with d free inputs is

    v = c + sum_i e_i G_i + r,    e in [-1, 1]^d,  |r| <= radius

that is, a zonotope whose first d generators are the inputs' and whose other noise is lumped into one radius per element
(an "affine form with error term": de Figueiredo & Stolfi 2004; the ReLU rule is DeepZ's, Singh et al. 2018, with the
new noise symbol put into the radius). Its cost is d + 1 signed applications of each linear map and one with absolute
weights.

The radius can be kept in d parts instead of one, each part the noise that one input is to blame for: noise that a
non-linear operator adds is shared out among the inputs in proportion to how much each moves the operator's argument.
That costs d - 1 more applications and tells the search which input to split even where the inputs' linear effects
cancel.

The rules below take intervals along. `verifier.bounds.zonotope` keeps the other noise apart by symbols,
`verifier.bounds.lumped` is the form with one radius in mixed precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.rounding import times
from verifier.ops.elementwise import magnitude
from verifier.ops.kinds import Interval, LinearOp, Op, Relaxation, RelaxedOp
from verifier.tolerance import gamma, lost, tiny, ulp


class AffineForm(NamedTuple):
    """`maps` (B, d + 1, *S): the centre, then d generators; `radius` (B, p, *S) >= 0 in p = 1 or p = d parts."""

    maps: Tensor
    radius: Tensor

    def interval(self, moves: Tensor | None = None) -> Interval:
        """An interval around the form, the rounding of its own sums included; `moves` as `moves()` has it."""
        centre, spread = self.maps[:, 0], self.spread(moves)
        # a value that nothing moves keeps its exact bounds
        rounding = centre.abs().add_(spread).mul_(spread.sign())
        spread.add_(rounding, alpha=4 * ulp(spread.dtype))
        return Interval(centre - spread, centre + spread)

    def spread(self, moves: Tensor | None = None) -> Tensor:
        """At least how far the value can be from the centre: (B, *S)."""
        parts = self.maps.shape[1] + self.radius.shape[1]
        total = (self.moves() if moves is None else moves).sum(1)
        if self.radius.shape[1] == 1:
            total.add_(self.radius[:, 0])
        return total.mul_(1 + parts * ulp(self.maps.dtype))

    def moves(self) -> Tensor:
        """How far each input moves the value, linearly or by the noise it is to blame for: (B, d, *S)."""
        moves = self.maps[:, 1:].abs()
        return moves.add_(self.radius) if self.radius.shape[1] > 1 else moves


def constant_form(op: LinearOp, like: AffineForm) -> AffineForm:
    """The form of a value that depends on no input, for the boxes of `like`."""
    value = op.forward()
    batch, width, parts = *like.maps.shape[:2], like.radius.shape[1]
    maps = value.new_zeros(batch, width, *value.shape[1:])
    maps[:, 0] = value
    radius = value.new_zeros(batch, parts, *value.shape[1:])
    error = op.inexact()
    if error is not None:
        radius[:, 0] = error
    return AffineForm(maps, radius)


class Image(NamedTuple):
    """A value as an interval and, where that is asked for, as an affine form; `size` (B, *T) is at least |W| |x|
    for a linear operator that sums, and `reach` at least |x| for each of its inputs (None otherwise)."""

    form: AffineForm | None
    interval: Interval
    size: Tensor | None = None
    reach: list[Tensor] | None = None


def linear_step(op: LinearOp, forms: list[AffineForm], intervals: list[Interval]) -> Image:
    """Image of intervals, and of affine forms of the same values where there are any, under a linear operator, with all
    rounding in the radii."""
    if op.terms and type(op).interval is LinearOp.interval:
        return _summed(op, forms, intervals)
    return Image(_linear_form(op, forms) if forms else None, interval_step(op, intervals))


def _summed(op: LinearOp, forms: list[AffineForm], intervals: list[Interval]) -> Image:
    """All centres and generators in one product with W, all radii and magnitudes in one with |W|.

    A sum of n products is off by at most gamma_n |W| |maps|: that much goes into the radius before |W| is applied,
    3 gamma_n (|centre| + spread) with what rounding does to |W| applied to the radius itself; for an interval
    3 gamma_n |x| (`LinearOp.interval`).
    """
    signed, noise, reach = [], [], []
    dtype = intervals[0].lower.dtype
    unit, parts, width = gamma(op.terms, dtype), 0, 0
    for k, (lower, upper) in enumerate(intervals):
        centres, spreads = torch.lerp(lower, upper, 0.5)[:, None], (upper - lower).div_(2)[:, None]
        if forms:
            width, parts = forms[k].maps.shape[1], forms[k].radius.shape[1]
            centres, spreads = torch.cat([forms[k].maps, centres], 1), torch.cat([forms[k].radius, spreads], 1)
        size = centres.abs()
        signed.append(centres)
        if parts > 1:  # one part or radius beside each generator and the interval's centre
            moves = size[:, 1:].add_(spreads)
            spreads = torch.add(spreads, moves, alpha=3 * unit * (1 + (width + 2 * parts) * ulp(dtype)))
            spreads[:, 0].add_(size[:, 0], alpha=3 * unit)
            reach.append(moves[:, -1].clone())  # it is kept: not all of `moves`
        else:
            reach.append(size[:, -1] + spreads[:, -1])
            spreads[:, -1].add_(reach[-1], alpha=3 * unit)
            if forms:
                _charge(spreads[:, :parts], forms[k], unit)
        noise.append(torch.cat([spreads, reach[-1][:, None]], 1))
    lead, spare = signed[0].shape[:2], noise[0].shape[:2]
    y = op.linear(*(t.flatten(0, 1) for t in signed)).unflatten(0, lead)
    if y.data_ptr() == signed[0].data_ptr():
        y = y.clone()
    z = op.absolute(*(t.flatten(0, 1) for t in noise)).unflatten(0, spare)
    offset, error = op.offset(), op.inexact()
    centres = y[:, :: max(1, width)]  # of the form, of the interval
    if offset is not None:
        centres += offset
    radii_of = z[:, : parts + 1 : max(1, parts)]
    radii_of.add_(centres.abs().mul_(unit).add_(3 * lost(op.terms, dtype)))
    if error is not None:
        radii_of += error
    centre, radius = y[:, width], z[:, parts] * (1 + 4 * ulp(dtype))
    interval = as_interval(Interval(centre - radius, centre + radius))
    return Image(AffineForm(y[:, :width], z[:, :parts]) if forms else None, interval, z[:, -1], reach)


def _linear_form(op: LinearOp, forms: list[AffineForm]) -> AffineForm:
    """Image of affine forms under any linear operator."""
    lead = forms[0].maps.shape[:2]
    maps = op.linear(*(form.maps.flatten(0, 1) for form in forms)).unflatten(0, lead)
    offset, dtype = op.offset(), maps.dtype
    if offset is not None:
        if maps.data_ptr() == forms[0].maps.data_ptr():
            maps = maps.clone()
        maps[:, 0] += offset
    radii = [form.radius for form in forms]
    if op.terms:
        radii = [radius.clone() for radius in radii]
        for form, radius in zip(forms, radii, strict=True):
            _charge(radius, form, gamma(op.terms, dtype))
    noise = op.absolute(*(radius.flatten(0, 1) for radius in radii)).unflatten(0, forms[0].radius.shape[:2])
    if offset is not None or op.terms:
        noise = _plus(noise, maps[:, 0].abs().mul_(2 * ulp(dtype)).add_(3 * lost(op.terms, dtype)))
    error = op.inexact()
    return AffineForm(maps, noise if error is None else _plus(noise, error))


def _charge(radius: Tensor, form: AffineForm, unit: float) -> None:
    """Adds at least 3 unit (|centre| + spread) to the radius (B, p, *S), in place: each part by what its input moves,
    so that one that moves nothing is to blame for nothing, and the first by the centre."""
    if radius.shape[1] > 1:
        room = form.maps.shape[1] + 2 * radius.shape[1]  # roundings of `spread` and of the sum over the parts
        radius.add_(form.moves(), alpha=3 * unit * (1 + room * ulp(radius.dtype)))
        radius[:, 0].add_(form.maps[:, 0].abs(), alpha=3 * unit)
    else:
        radius[:, 0].add_(form.maps[:, 0].abs().add_(form.spread()), alpha=3 * unit)


def _plus(radius: Tensor, more: Tensor) -> Tensor:
    """The radius (B, p, *S) with `more` (B, *S) in its first part."""
    radius = radius.clone()
    radius[:, 0] += more
    return radius


def relaxed_form(
    op: RelaxedOp,
    forms: list[AffineForm],
    bounds: list[Interval],
    moves: tuple[Tensor, ...],
    relaxation: Relaxation,
    finite: bool = False,
) -> AffineForm:
    """Image under a non-linear operator: one slope per input, the gap between the two planes of `relaxation` (its
    parallel ones) goes into the radius, and so does all rounding.

    Planes with unequal slopes are first made parallel: with the mean slope s, the residual (slope - s) x is bounded on
    [l, u] at its ends. `moves` are the forms' own (`AffineForm.moves`). `finite` says that no bound is infinite, but by
    overflow.
    """
    if finite and op.elementwise and relaxation.lower_slopes[0] is relaxation.upper_slopes[0]:
        return _scaled(forms[0], relaxation, moves)
    low, high = relaxation.lower_offset, relaxation.upper_offset
    maps: Tensor | None = None
    radius: Tensor | None = None
    for form, bound, a, b in zip(forms, bounds, relaxation.lower_slopes, relaxation.upper_slopes, strict=True):
        slope = a
        if a is not b:
            slope = (a + b) / 2
            low = low + op.collect(torch.minimum(times(a - slope, bound.lower), times(a - slope, bound.upper)))
            high = high + op.collect(torch.maximum(times(b - slope, bound.lower), times(b - slope, bound.upper)))
        part = op.collect(form.maps * slope[:, None], lead=2)
        noise = op.collect(times(slope.abs()[:, None], form.radius), lead=2)
        maps = part if maps is None else maps + part
        radius = noise if radius is None else radius + noise
    assert maps is not None and radius is not None
    # an unbounded plane makes the form useless, not wrong: the centre stays finite and the radius becomes infinite
    gap = (high - low) / 2
    middle = (high + low) / 2
    gap = gap + _rounding(op, forms, bounds, relaxation)
    usable = (gap + middle.abs()).isfinite()
    maps[:, 0] += torch.where(usable, middle, 0.0)
    gap = torch.where(usable, gap, torch.inf)
    if radius.shape[1] == 1:
        return AffineForm(maps, radius + gap[:, None])
    return AffineForm(maps, _blamed(radius, gap, blamed_moves(op, bounds, moves)))


def generic_form(op: RelaxedOp, forms: list[AffineForm]) -> tuple[AffineForm, Tensor]:
    """Image of forms with one radius under any non-linear operator by its own parallel planes, and the number (B,) of
    elements that are not affine."""
    bounds = [as_interval(form.interval()) for form in forms]
    planes = op.relax(*bounds, parallel=True)
    return relaxed_form(op, forms, bounds, (), planes), op.unstable(*bounds).flatten(1).sum(1)


def _scaled(form: AffineForm, planes: Relaxation, moves: tuple[Tensor, ...]) -> AffineForm:
    """The form times a slope, between two offsets, as `relaxed_form` has it."""
    (slope,), low, _, high = planes
    size, dtype, parts = slope.abs(), form.maps.dtype, form.radius.shape[1]
    spread, rounding = form.spread(moves[0] if moves else None), 4 * gamma(1 + parts, dtype)
    middle, gap = (high + low).div_(2), (high - low).div_(2)
    # 2 |slope| (|centre| + spread) + |low| + |high|, which is at most 2 (|middle| + |half the gap|)
    total = (spread + form.maps[:, 0].abs()).mul_(size).add_(middle.abs()).add_(gap)
    gap.add_(total, alpha=2 * rounding).add_(lost(1, dtype))
    maps = form.maps * slope[:, None]
    maps[:, 0] += middle
    radius = form.radius * size[:, None]
    if parts == 1:
        return AffineForm(maps, radius.add_(gap[:, None]))
    # each part its share of the gap, and the same of what nothing moves
    least = math.sqrt(tiny(dtype))
    rate = gap.mul_(1 + 16 * (parts + 1) * ulp(dtype)).div_(spread.add_(parts * least))
    return AffineForm(maps, radius.addcmul_(moves[0] + least, rate[:, None]))


def _rounding(op: RelaxedOp, forms: list[AffineForm], bounds: list[Interval], planes: Relaxation) -> Tensor:
    """What the sums of `relaxed_form` may be off by: (B, *T)."""
    total = planes.lower_offset.abs() + planes.upper_offset.abs()
    for form, bound, low, high in zip(forms, bounds, planes.lower_slopes, planes.upper_slopes, strict=True):
        size = torch.maximum(magnitude(bound), form.maps[:, 0].abs() + form.spread())
        total = total + op.collect(times(low.abs() + high.abs(), size))
    terms = sum(math.prod(shape) for shape in op.in_shapes) / max(1, math.prod(op.out_shape))
    return total.mul_(4 * gamma(terms + forms[0].radius.shape[1], total.dtype)).add_(lost(terms, total.dtype))


def _blamed(radius: Tensor, gap: Tensor, moves: Tensor) -> Tensor:
    """The gap (B, *T) added to the parts (B, d, *T) in proportion to how much each input moves the operator."""
    parts = moves.shape[1]
    total = moves.sum(1)
    rate = gap / total
    # no input moves it, or a quotient is no usable number: equal shares (of an infinite gap, too)
    usable = (rate + total).isfinite() & (total >= torch.finfo(total.dtype).tiny)
    # 1 + d ulp: the shares must add up to at least the whole
    whole = 1 + 4 * parts * torch.finfo(gap.dtype).eps
    rate = torch.where(usable, rate, 0.0) * whole
    rest = torch.where(usable, 0.0, gap * (whole / parts))
    return torch.addcmul(radius + rest[:, None], torch.where(usable[:, None], moves, 0.0), rate[:, None])


def blamed_moves(op: RelaxedOp, bounds: Sequence[Interval], moves: Sequence[Tensor]) -> Tensor:
    """How far each input moves what the operator sees, weighted by what that costs: (B, d, *T).

    Not by the planes' slopes: those of a product are 0 where a factor is centred at 0, and an input that nothing is
    blamed on is never split.
    """
    if len(moves) == 1 and op.in_shapes[0] == op.out_shape:
        return moves[0]
    total = None
    for part, weight in zip(moves, op.sensitivity(*bounds), strict=True):
        part = op.collect(part * torch.where(weight.isfinite(), weight, 1.0)[:, None], lead=2)
        total = part if total is None else total + part
    assert total is not None
    return total


def as_interval(bound: Interval) -> Interval:
    """NaN (inf - inf, 0 * inf) means that nothing is known; so does an infinity on the wrong side, an overflow."""
    inf = torch.inf
    return Interval(
        torch.nan_to_num(bound.lower, nan=-inf, posinf=-inf, neginf=-inf),
        torch.nan_to_num(bound.upper, nan=inf, posinf=inf, neginf=inf),
    )


def intersect(a: Interval, b: Interval) -> Interval:
    """Both hold; rounding may make them cross by an ulp, then the narrower information is widened to a point's hull."""
    lower, upper = torch.maximum(a.lower, b.lower), torch.minimum(a.upper, b.upper)
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


def interval_step(op: Op, bounds: list[Interval]) -> Interval:
    """Interval rule with NaN read as "nothing known"."""
    return as_interval(op.interval(*bounds))
