"""Backward rows in float32 about the centre of each box: as rigorous as those in float64, and several times as fast.

What rounding may cost a row is relative to the magnitudes of the values that it passes (`rounding`), which for the
activations of a network are many times the widths of their intervals: in float32 that eats the bound. So rows are
taken over deviations from values c_s that are fixed for each box and slot, the network's values at the centre of the
box, computed in float64. For y = W x + b and y = f(x),

    y - c_y = W (x - c_x) + e,     |e| <= 2 gamma (|W| |c_x| + |b|) in float64,
    y - c_y >= s (x - c_x) + (s c_x + t - c_y)     for every plane  f(x) >= s x + t,

whatever the numbers c are. Offsets are gone from the linear operators, those of the planes are as small as the gaps
between planes and functions, and rounding is relative to deviations. The rest is `rounding` and `backward` unchanged.
(PyTorch's convolutions of float32 on CPUs are sums of products; on other devices they may not be.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from verifier.bounds.backward import AtInput, part_back
from verifier.bounds.network import OFFSETS, Network, build, halved
from verifier.bounds.rounding import Allowance, times
from verifier.graph.ir import Graph
from verifier.ops.elementwise import magnitude
from verifier.ops.kinds import Interval, LinearOp, Relaxation, RelaxedOp
from verifier.ops.patch import Patch
from verifier.tolerance import gamma, lost, tiny


class Centred:
    """Rows over deviations from the values at the centres of B boxes. Filled by the sweep that computes the intervals,
    operator by operator, as an `Allowance` is. `single` is what `deviating` makes of `exact`."""

    def __init__(self, exact: Network, single: Network, lower: Tensor, upper: Tensor) -> None:
        self.exact, self.network = exact, single
        self.allowance = Allowance(single)
        self.centre: dict[int, Tensor] = {0: (lower + upper) / 2}
        self.relaxations: dict[int, Relaxation] = {}
        self.box = self.deviation(0, Interval(lower, upper))

    def linear(self, i: int, xs: list[Interval]) -> None:
        """Notes the centre of what the linear operator i makes, and what a step back through it costs."""
        op = self.exact.ops[i]
        assert isinstance(op, LinearOp)
        sources = self.exact.sources[i]
        centres = [self.centre[s] for s in sources]
        value = op.forward(*centres)
        self.centre[i + 1] = value if sources else value.expand(len(self.centre[0]), *value.shape[1:])
        offset, error = op.offset(), op.inexact()
        size = torch.zeros_like(self.centre[i + 1]) if offset is None else offset.abs().expand_as(self.centre[i + 1])
        if sources:
            size = size + op.absolute(*(c.abs() for c in centres))
        residual = size * (2 * gamma(op.terms + 2, size.dtype)) + lost(op.terms, size.dtype)
        self.allowance.linear(i, [magnitude(self.deviation(s, x)) for s, x in zip(sources, xs, strict=True)])
        cost, known = _up(residual if error is None else residual + error), self.allowance.costs.get(i + 1)
        self.allowance.costs[i + 1] = cost if known is None else known + cost

    def relaxed(self, i: int, xs: list[Interval]) -> None:
        """Notes the centre of what the non-linear operator i makes, and the reach of its arguments."""
        sources = self.exact.sources[i]
        self.centre[i + 1] = self.exact.ops[i].forward(*(self.centre[s] for s in sources))
        self.allowance.relaxed(i, [magnitude(self.deviation(s, x)) for s, x in zip(sources, xs, strict=True)])

    def readers(self, slot: int, value: Interval) -> None:
        """Notes what the sum over the readers of a slot costs."""
        self.allowance.readers(slot, magnitude(self.deviation(slot, value)))

    def relax(self, i: int, planes: Relaxation) -> None:
        """The planes of operator i, about the centre."""
        op = self.exact.ops[i]
        assert isinstance(op, RelaxedOp)
        centres = [self.centre[s] for s in self.exact.sources[i]]
        value = self.centre[i + 1]

        def below(slopes: tuple[Tensor, ...], offset: Tensor, value: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
            """Slopes in float32, and the largest offset in float32 that leaves the plane below."""
            single = tuple(s.float() for s in slopes)
            shift, size = offset - value, offset.abs() + value.abs()
            for wide, s, c, reach in zip(slopes, single, centres, self.allowance.sizes[i], strict=True):
                shift = shift + op.collect(times(wide, c)) - op.collect(times(wide - s.double(), reach.double()).abs())
                size = size + op.collect(times(wide, c).abs() + times(wide - s.double(), reach.double()).abs())
            return single, -_up(-shift + size * gamma(_terms(op), size.dtype) + tiny(size.dtype))

        lower_slopes, lower_offset = below(planes.lower_slopes, planes.lower_offset, value)
        upper_slopes, upper_offset = below(tuple(-s for s in planes.upper_slopes), -planes.upper_offset, -value)
        self.relaxations[i] = Relaxation(lower_slopes, lower_offset, tuple(-s for s in upper_slopes), -upper_offset)

    def walk(self, slot: int, rows: Tensor, bias: Tensor, owner: Tensor | None, part: Patch) -> AtInput:
        """Rows over deviations in a part of `slot` (R, K, *shape) of the boxes `owner` (R,), None for all, as rows over
        those of the input."""
        return part_back(self.network, slot, rows, bias, self.relaxations, owner, self.allowance, part)

    def restored(self, slot: int, found: Interval) -> Interval:
        """Bounds of deviations in `slot` as bounds of the value, in float64."""
        inf = torch.full_like(self.centre[slot], torch.inf)
        low = torch.nextafter(self.centre[slot] + found.lower.double(), -inf)
        high = torch.nextafter(self.centre[slot] + found.upper.double(), inf)
        return Interval(
            low.nan_to_num(nan=-torch.inf, neginf=-torch.inf), high.nan_to_num(nan=torch.inf, posinf=torch.inf)
        )

    def deviation(self, slot: int, x: Interval) -> Interval:
        """An interval of the value in `slot` as one of its deviation, in float32."""
        centre = self.centre[slot]
        return Interval(-_up(centre - x.lower), _up(x.upper - centre))


def deviating(exact: Network, graph: Graph) -> Network | None:
    """The network of `graph` in float32 without its constants, for rows over deviations; None where a weight is none in
    float32."""
    single = build(graph, torch.float32, exact.device)
    if not halved(single, exact):
        return None
    for op in single.ops:
        if not isinstance(op, LinearOp):
            continue
        op.weights_rounded = True  # some are; and rows that start at an element pass the operator, which has a cost
        for name in ("bias", "bias_error"):
            op.params.pop(name, None)
        for name in OFFSETS:
            if name in op.params:
                op.params[name] = torch.zeros_like(op.params[name])
    return single


def _terms(op: RelaxedOp) -> int:
    return 4 + sum(math.prod(shape) for shape in op.in_shapes)


def _up(x: Tensor) -> Tensor:
    """Float64 numbers that have been rounded once, in float32 and at least as large; +inf where they are none."""
    single = x.float().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return torch.nextafter(single, torch.full_like(single, torch.inf)) + tiny(torch.float32)
