"""Affine forms whose radius also holds every rounding error: fast bounds that need no recheck.

The form is the one of `verifier.forms` (centre, one generator per input, one radius), with two precisions. The centre
is kept in float64; generators and radius, which shrink with the box, in float32. A rounding error is an error
relative to the number that is rounded: float32 noise in the generators is 10^-6 of the width of the box, four orders below
the looseness of the relaxation, while in the centre it would be 10^-6 of the value itself, and the absolute weights
of seven layers blow that up to more than the tolerance. So a box costs one inference in float64 and d + 1 in float32.

A sum of n products, in any order, with or without fused multiply-adds, is off by at most gamma_n * sum |w| |v|,
gamma_n = n u / (1 - n u), u half an ulp (Higham 2002, section 3.1; Winograd's and FFT's convolutions are not of that
kind: torch uses neither on a CPU, so on other devices both precisions are float64). That much is added to the radius
before |W| is applied, and each rule below adds what it rounds; constants are generous. Underflow is covered by `FLOOR`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.forward import as_interval, relaxed_form
from verifier.bounds.network import Network, build
from verifier.forms import AffineForm
from verifier.graph.ir import Graph
from verifier.ops.affine import Add, Constant, Dense, Scale, Shift, Sub
from verifier.ops.conv import Conv, ConvTranspose
from verifier.ops.kinds import Interval, LinearOp, RelaxedOp
from verifier.ops.piecewise import Clip, Relu
from verifier.tolerance import ulp

FLOOR = 1e-25
"""Absolute margin of a proof: far above what underflow can lose in a sum of 10^9 terms, far below any real margin."""

MAX_INPUTS = 6
"""Most generators the constants below allow for (sums of d + 2 terms)."""

EXACT = ulp(torch.float64)


@dataclass(frozen=True, eq=False)
class Twin:
    """One graph in two precisions: `exact` float64 for centres, `fast` for generators and radii."""

    exact: Network
    fast: Network

    @staticmethod
    def of(graph: Graph, device: torch.device) -> Twin:
        """Binds the graph; float32 is used on CPUs only."""
        exact = build(graph, torch.float64, device)
        return Twin(exact, build(graph, torch.float32, device) if device.type == "cpu" else exact)


@dataclass(frozen=True, eq=False)
class RoundedForm:
    """v = centre + sum_i e_i maps[i] + r  for every point e in [-1, 1]^d of the box, |r| <= radius, all numbers as stored.

    `centre` (B, *S) float64, `maps` (d, B, *S) and `radius` (B, *S) fast; `spread` (B, *S) fast, at least
    sum |maps| + radius, or None where nobody has computed it.
    """

    centre: Tensor
    maps: Tensor
    radius: Tensor
    spread: Tensor | None = None

    def width(self) -> Tensor:
        """At least sum |G| + r: (B, *S), not to be written to."""
        if self.spread is not None:
            return self.spread
        grow = 1 + 8 * ulp(self.maps.dtype)
        total = self.radius * grow
        for generator in self.maps:
            total.add_(generator.abs(), alpha=grow)
        return total

    def interval(self) -> Interval:
        """An interval around the form, float64."""
        spread = self.width().double()
        spread = spread + 4 * EXACT * (spread + self.centre.abs())
        return Interval(self.centre - spread, self.centre + spread)


def start(offset: Tensor, matrix: Tensor, centre: Tensor, radius: Tensor, fast: torch.dtype) -> RoundedForm:
    """The form of x = offset + matrix p over p in centre +- radius: (B, n), (B, d, n), (B, d), (B, d), all float64."""
    b, d, n = matrix.shape
    middle = offset.clone()
    maps = torch.empty(d, b, n, dtype=fast, device=offset.device)
    size = offset.abs()
    noise = torch.zeros_like(offset)
    for i in range(d):
        row = matrix[:, i]
        middle.addcmul_(row, centre[:, i, None])
        generator = row * radius[:, i, None]
        maps[i] = generator
        size.addcmul_(row.abs(), centre[:, i, None].abs())
        noise.add_(generator.abs_(), alpha=4 * ulp(fast))
    return RoundedForm(middle, maps, noise.add_(size, alpha=32 * EXACT).mul_(1 + 4 * ulp(fast)).to(fast))


def sweep_rounded(
    twin: Twin, first: RoundedForm, watch: Callable[[int, RoundedForm, Tensor], None] | None = None
) -> RoundedForm:
    """The form of the network's output: (B, m).

    `watch(i, form, half)`, if given, sees the argument of each relu i and the half gap of its planes.
    """
    batch, d = len(first.centre), len(first.maps)
    forms: dict[int, RoundedForm] = {0: first}
    network = twin.exact
    for i, (op, fast, sources) in enumerate(zip(network.ops, twin.fast.ops, network.sources, strict=True)):
        given = [forms[s] for s in sources]
        if isinstance(op, LinearOp):
            assert isinstance(fast, LinearOp)
            forms[i + 1] = _linear(op, fast, given) if given else _constant(op, batch, d, first.maps.dtype)
        elif isinstance(op, Relu):
            # only an operator that makes new tensors owns its result: a reshape may share it with other readers
            own = sources[0] > 0 and isinstance(network.ops[sources[0] - 1], Conv | Dense)
            forms[i + 1] = _relu(given[0], own and network.last_use[sources[0]] == i, i, watch)
        elif isinstance(op, Clip):
            forms[i + 1] = _clip(given[0], *op._limits())
        else:
            assert isinstance(op, RelaxedOp)
            forms[i + 1] = _generic(op, given)
        network.release(forms, i)  # type: ignore[arg-type]
    out = forms[network.output]
    return RoundedForm(out.centre.reshape(batch, network.m), out.maps.reshape(d, batch, network.m),
                       out.radius.reshape(batch, network.m))


def _terms(op: LinearOp) -> int:
    """Most terms of one element of the output; 0 where the operator only moves numbers."""
    if isinstance(op, Dense):
        return int(op.params["weight"].shape[1])
    if isinstance(op, Conv):
        return int(op.params["weight"][0].numel())
    if isinstance(op, ConvTranspose):
        return int(op.params["weight"][:, 0].numel())
    if isinstance(op, Scale):
        return 1
    if isinstance(op, Add | Sub):
        return 2
    if isinstance(op, Shift | Constant) or type(op).__module__ == "verifier.ops.layout":
        return 0
    return sum(_numel(shape) for shape in op.in_shapes)


def _numel(shape: tuple[int, ...]) -> int:
    size = 1
    for s in shape:
        size *= s
    return size


def _constant(op: LinearOp, batch: int, d: int, fast: torch.dtype) -> RoundedForm:
    value = op.forward()
    value = value.expand(batch, *value.shape[1:])
    maps = torch.zeros(d, *value.shape, dtype=fast, device=value.device)
    return RoundedForm(value, maps, (4 * EXACT * value.abs()).to(fast))


def _linear(op: LinearOp, fast: LinearOp, given: list[RoundedForm]) -> RoundedForm:
    d, b = given[0].maps.shape[:2]
    centre, offset, terms = op.linear(*(f.centre for f in given)), op.offset(), _terms(op)
    maps = fast.linear(*(f.maps.flatten(0, 1) for f in given)).unflatten(0, (d, b))
    if terms == 0:
        radius, spread = fast.linear(*(f.radius for f in given)), given[0].spread
        if offset is not None:
            centre = centre + offset
            radius = torch.add(radius, centre.abs(), alpha=2 * EXACT)
        moved = fast.linear(spread) if spread is not None and len(given) == 1 and offset is None else None
        return RoundedForm(centre, maps, radius, moved)
    radius = fast.absolute(*(_with_rounding(f, terms) for f in given))
    if offset is not None:
        centre = centre + offset
        radius.add_(centre.abs(), alpha=2 * EXACT)
    return RoundedForm(centre, maps, radius)


def _with_rounding(form: RoundedForm, terms: int) -> Tensor:
    """The radius with room for the rounding of a sum of `terms` products.

    r + gamma (sum |G| + r) + gamma' |c|: the part gamma r is for the rounding of |W| r itself. The terms beyond n are for
    weights rounded to the fast type, for the three roundings of this line, and for gamma_n's denominator.
    """
    gamma, exact = (terms + 8) * ulp(form.maps.dtype) / 2, (terms + 8) * EXACT
    noise = torch.add(form.radius, form.width(), alpha=gamma)
    return noise.add_(form.centre.abs(), alpha=exact)


def _slope(centre: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Slope k and half gap h of DeepZ's planes (Singh et al. 2018) for relu on [c - s, c + s]:

        k x <= relu(x) <= k x + 2 h,    k = (1 + c / s) / 2 in [0, 1],  h = s k (1 - k)

    Any k in [0, 1] keeps the lower plane; the rounding of c (to the fast type), c / s and k costs at most 8 u s above,
    that of h 8 u s more; the caller adds 32 ulp of s. Stable neurons get exactly k = 0 or 1 and h = 0.
    """
    slope = centre.to(spread.dtype).div_(spread).clamp_(-1, 1).mul_(0.5).add_(0.5)
    half = torch.addcmul(slope, slope, slope, value=-1).mul_(spread)
    return slope, half


def _relu(
    form: RoundedForm, last: bool, number: int, watch: Callable[[int, RoundedForm, Tensor], None] | None
) -> RoundedForm:
    """`last`: nobody else reads the argument, so its tensors may be overwritten."""
    eps = ulp(form.maps.dtype)
    spread = form.width().clamp_min(FLOOR)
    slope, half = _slope(form.centre, spread)
    if watch is not None:
        watch(number, form, half)
    if last:
        maps, radius, centre = form.maps.mul_(slope), form.radius.mul_(slope), form.centre.mul_(slope)
    else:
        maps, radius, centre = form.maps * slope, form.radius * slope, form.centre * slope
    centre.add_(half)
    width = torch.addcmul(half, slope, spread)
    rounding = spread.mul_(32 * eps).add_(centre.abs(), alpha=8 * EXACT)
    radius.add_(half).add_(rounding)
    return RoundedForm(centre, maps, radius, width.add_(rounding, alpha=2))  # sum |G| + r <= k s + h + rounding


def _clip(form: RoundedForm, low: float, high: float) -> RoundedForm:
    """clip(x) = low + relu(x - low) - relu(x - high), each relu with its own planes.

    Where [l, u] holds at most one of the kinks, as almost everywhere on small boxes, these are the best planes.
    """
    eps = ulp(form.maps.dtype)
    spread = form.width().clamp_min(FLOOR)
    up, lift = _slope(form.centre - low, spread)
    down, drop = _slope(form.centre - high, spread)
    slope = up - down
    maps = form.maps * slope
    centre = form.centre * (up.double() - down)  # the difference is exact in float64, in the fast type it may not be
    centre.add_(lift).sub_(drop).add_(down, alpha=high).add_(up.double().mul_(-1).add_(1), alpha=low)
    error = 16 * EXACT * (abs(low) + abs(high))
    radius = form.radius.mul(slope).add_(lift).add_(drop).add_(spread, alpha=64 * eps)
    return RoundedForm(centre, maps, radius.add_(form.centre.abs(), alpha=16 * EXACT).add_(error))


def _generic(op: RelaxedOp, given: list[RoundedForm]) -> RoundedForm:
    """Any other non-linear operator by its own planes in float64, which are sound for the outward interval they get."""
    fast = given[0].maps.dtype
    bounds = [as_interval(form.interval()) for form in given]
    plain = [AffineForm(torch.cat([f.centre[None], f.maps.double()]).transpose(0, 1), f.radius.double()[:, None]) for f in given]
    planes = op.relax(*bounds, parallel=True)  # type: ignore[call-arg]
    result = relaxed_form(op, plain, bounds)
    total = planes.lower_offset.abs() + planes.upper_offset.abs()
    for bound, low, high in zip(bounds, planes.lower_slopes, planes.upper_slopes, strict=True):
        total = total + op.collect((low.abs() + high.abs()) * torch.maximum(bound.lower.abs(), bound.upper.abs()))
    terms = max(_numel(shape) for shape in op.in_shapes) / max(1, _numel(op.out_shape)) + 8
    noise = result.radius[:, 0] + 16 * terms * EXACT * total
    noise = noise + 4 * ulp(fast) * (result.maps[:, 1:].abs().sum(1) + noise)
    noise = torch.nan_to_num(noise, nan=torch.inf, posinf=torch.inf)
    maps = result.maps[:, 1:].transpose(0, 1).to(fast).contiguous()
    return RoundedForm(result.maps[:, 0].contiguous(), maps, noise.to(fast))
