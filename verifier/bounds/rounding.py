"""What rounding can take off a backward row, so that the row holds over the reals.

A walk goes from rows over an operator's output y to rows over its input x. Over the reals, for y = W x + c,

    a . y = (a W) . x + a . c;

computed, `a W` is off by at most gamma_m |a| |W| per coefficient (m terms; `tolerance.gamma`), which on the box moves
the row by at most gamma_m |a| . (|W| |x|), and `a . c` is off by at most gamma_t |a| . |c|, t the elements of y. So one
vector per box and operator,

    cost = gamma_m |W| |x| + gamma_t |c|,      |x| the magnitudes of the interval known for x,

bounds all of it: the row pays |a| . cost, one product, instead of a walk with absolute weights. Relaxations are of the
same kind (`Allowance.planes`), and where several operators read a value, the sum of their rows costs 2 ulp of |value| a
reader. (Running error analysis: Higham 2002, section 3.3; for DeepPoly by intervals instead: Singh et al. 2019, section
4.) What underflow can lose does not scale with |a|; `floor` is one number per box for a whole walk.

All that a step back does to a row's bias is a product with its coefficients, so costs and constants travel together as
*columns*: pairs of what a unit of coefficient adds to the bias, and whether it leaves the row without a bound (1) or
not (0). The second half spares asking after every product whether 0 * inf has come up, for which a device would stop.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.graph.ir import Shape
from verifier.ops.elementwise import magnitude
from verifier.ops.kinds import Interval, LinearOp, Relaxation, RelaxedOp
from verifier.tolerance import gamma, lost, ulp


class Planes(NamedTuple):
    """The planes of an operator as a walk uses them: `columns` (B, 2, |T|, 2) for the positive parts of the rows and
    for the absolute values of their negative parts; per input the lower and the upper slopes, (B, *S_i) each."""

    columns: Tensor
    slopes: tuple[tuple[Tensor, Tensor], ...]

    def of(self, boxes: Tensor) -> Planes:
        """The planes of the boxes (R,) that own groups of rows."""
        slopes = tuple((low.index_select(0, boxes), high.index_select(0, boxes)) for low, high in self.slopes)
        return Planes(self.columns.index_select(0, boxes), slopes)


def columns(amount: Tensor) -> Tensor:
    """Pairs (*, 2) of amounts (*): those that are numbers, and a mark where they are not."""
    clean = torch.nan_to_num(amount, nan=0.0, posinf=0.0, neginf=0.0)
    return torch.stack([clean, (amount != clean).to(amount.dtype)], -1)


def planes_of(planes: Relaxation, cost: Tensor | None = None) -> Planes:
    """Planes as a walk uses them; `cost` (B, *T) is taken off whatever the sign of the coefficient."""
    offsets = torch.stack([planes.lower_offset, -planes.upper_offset], 1)
    if cost is not None:
        offsets = offsets - cost[:, None]
    return Planes(columns(offsets.flatten(2)), tuple(zip(planes.lower_slopes, planes.upper_slopes, strict=True)))


@dataclass(eq=False)
class Allowance:
    """Costs by slot, (B or 1, *S) per unit of |coefficient|; magnitudes of the arguments of non-linear operators,
    (B, *S_i) by operator; those of the arguments of all operators, with the terms of a product with each; magnitudes of
    the network's output, (B, m). Filled by the sweep that computes the intervals.
    """

    network: Network
    costs: dict[int, Tensor] = field(default_factory=dict)
    sizes: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    output: Tensor | None = None
    _read: list[tuple[int, Tensor]] = field(default_factory=list)
    _floor: tuple[int, Tensor | None] = (0, None)
    _columns: dict[int, Tensor] = field(default_factory=dict)
    _planes: dict[int, tuple[Relaxation, Planes]] = field(default_factory=dict)

    @property
    def floor(self) -> Tensor | None:
        """What underflow may lose on a walk from anywhere: (B,), None before anything has been noted."""
        done, total = self._floor
        if done < len(self._read):
            terms = max(terms for terms, _ in self._read[done:])
            every = torch.cat([size for _, size in self._read[done:]], 1)
            # an element without bounds has a coefficient of exactly 0, or its charge is infinite anyway
            few = torch.nan_to_num(every, nan=0.0, posinf=0.0).sum(1) * lost(terms, every.dtype)
            self._floor = len(self._read), few if total is None else total + few
        return self._floor[1]

    @property
    def steps(self) -> int:
        """Additions to the bias of a row on a walk, at most."""
        return 4 + 3 * len(self.network.ops)

    def linear(self, i: int, xs: list[Interval]) -> None:
        """Notes what a step back through the linear operator i costs, with its inputs in `xs`."""
        op = self.network.ops[i]
        assert isinstance(op, LinearOp)
        cost = None
        if op.adjoint_terms and xs:
            sizes = [self._magnitude(x) for x in xs]
            cost = op.absolute(*sizes) * gamma(op.adjoint_terms + op.terms, self.network.dtype)
            self._read += [(op.adjoint_terms, size.flatten(1)) for size in sizes]
        for constant in (op.offset(), op.inexact()):
            if constant is not None:
                cost = self._of_constant(i, constant) if cost is None else cost + self._of_constant(i, constant)
        if cost is not None:
            self.costs[i + 1] = cost

    def _magnitude(self, x: Interval) -> Tensor:
        return magnitude(x).to(self.network.dtype)

    def _of_constant(self, i: int, constant: Tensor) -> Tensor:
        op = self.network.ops[i]
        return (constant.abs().expand(op.out_shape) * self._sum(op.out_shape))[None]

    def _sum(self, shape: Shape) -> float:
        """Relative error of the product of a row over a value with a constant, and of its being part of the bias in
        up to `steps` additions, each of which may be off by half an ulp of all that has come together."""
        return gamma(2 * math.prod(shape) + 2 * self.steps, self.network.dtype)

    def relaxed(self, i: int, xs: list[Interval]) -> None:
        """Notes the magnitudes of the arguments of the non-linear operator i."""
        self.sizes[i] = tuple(self._magnitude(x) for x in xs)
        self._read += [(4, size.flatten(1)) for size in self.sizes[i]]

    def readers(self, slot: int, value: Interval) -> None:
        """Notes what the sum over the readers of a slot costs."""
        count = self.network.readers(slot)
        if count > 1:
            cost = self._magnitude(value) * (count * ulp(self.network.dtype))
            self.costs[slot] = self.costs[slot] + cost if slot in self.costs else cost

    def of(self, boxes: Tensor) -> Allowance:
        """The same for groups of rows that belong to the boxes (R,)."""
        floor = self.floor
        return Allowance(
            self.network,
            {slot: cost if len(cost) == 1 else cost.index_select(0, boxes) for slot, cost in self.costs.items()},
            {i: tuple(t.index_select(0, boxes) for t in sizes) for i, sizes in self.sizes.items()},
            None if self.output is None else self.output.index_select(0, boxes),
            _floor=(0, None if floor is None else floor.index_select(0, boxes)),
        )

    def column(self, slot: int) -> Tensor | None:
        """What the operator that makes `slot` takes off a row, per unit of |coefficient|: (B or 1, |S|, 2), or None."""
        cost = self.costs.get(slot)
        if cost is None:
            return None
        if slot not in self._columns:
            self._columns[slot] = columns(cost.flatten(1) * -(SPARE + self._sum(self.network.shapes[slot])))
        return self._columns[slot]

    def planes(self, i: int, planes: Relaxation) -> Planes:
        """The planes of operator i, with what they cost; kept for the next walk with the same planes."""
        known = self._planes.get(i)
        if known is None or known[0] is not planes:
            op = self.network.ops[i]
            assert isinstance(op, RelaxedOp)
            cost = torch.maximum(planes.lower_offset.abs(), planes.upper_offset.abs()) * self._sum(op.out_shape)
            for low, high, size in zip(planes.lower_slopes, planes.upper_slopes, self.sizes[i], strict=True):
                cost = cost + op.collect(times(low.abs() + high.abs(), size)) * (8 * ulp(self.network.dtype))
            known = self._planes[i] = planes, planes_of(planes, cost.detach() * (SPARE + self._sum(op.out_shape)))
        return known[1]

    def added(self, i: int, boxes: Tensor | None) -> Tensor:
        """What adding a row over the argument of operator i costs per unit of |coefficient|: (R, |S|, 2)."""
        size = self.sizes[i][0] if boxes is None else self.sizes[i][0].index_select(0, boxes)
        return columns(size.flatten(1) * (-2 * SPARE * ulp(size.dtype)))


SPARE = 1.01
"""Costs are sums of positive terms that have been rounded themselves, and so are their products with coefficients."""


def times(slope: Tensor, size: Tensor) -> Tensor:
    """slope * size; a slope of 0 takes nothing of an unbounded value."""
    return torch.where(slope == 0, 0.0, slope * size)
