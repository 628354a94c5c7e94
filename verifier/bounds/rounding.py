"""What rounding can take off a backward row, so that the row holds over the reals.

A walk goes from rows over an operator's output y to rows over its input x. Over the reals, for y = W x + c,

    a . y = (a W) . x + a . c;

computed, `a W` is off by at most gamma_m |a| |W| per coefficient (m terms; `tolerance.gamma`), which on the box moves
the row by at most gamma_m |a| . (|W| |x|), and `a . c` is off by at most gamma_t |a| . |c|, t the elements of y. So one
vector per box and operator,

    cost = gamma_m |W| |x| + gamma_t |c|,      |x| the magnitudes of the interval known for x,

bounds all of it: the row pays |a| . cost, one product, instead of a walk with absolute weights. Relaxations are of the
same kind (`relaxed_cost`), and where several operators read a value, the sum of their rows costs 2 ulp of |value| a
reader. (Running error analysis: Higham 2002, section 3.3; for DeepPoly by intervals instead: Singh et al. 2019, section
4.) What underflow can lose does not scale with |a|; `floor` is one number per box for a whole walk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.ops.elementwise import magnitude
from verifier.ops.kinds import Interval, LinearOp, Relaxation, RelaxedOp
from verifier.tolerance import gamma, lost, ulp


@dataclass(eq=False)
class Allowance:
    """Costs by slot, (B, *S) per unit of |coefficient|; magnitudes of the arguments of non-linear operators, (B, *S_i)
    by operator; what underflow may lose on a walk, `floor` (B,); magnitudes of the network's output, (B, m). Filled by
    the sweep that computes the intervals.
    """

    network: Network
    costs: dict[int, Tensor] = field(default_factory=dict)
    sizes: dict[int, tuple[Tensor, ...]] = field(default_factory=dict)
    floor: Tensor | None = None
    output: Tensor | None = None

    def linear(self, i: int, xs: list[Interval]) -> None:
        """Notes what a step back through the linear operator i costs, with its inputs in `xs`."""
        op = self.network.ops[i]
        assert isinstance(op, LinearOp)
        sizes = [magnitude(x) for x in xs]
        cost = None
        if op.adjoint_terms and xs:
            cost = op.absolute(*sizes) * gamma(op.adjoint_terms + op.terms, self.network.dtype)
            self._underflow(op.adjoint_terms, sizes)
        for constant in (op.offset(), op.inexact()):
            if constant is not None:
                size = constant.abs().expand(op.out_shape) * gamma(math.prod(op.out_shape), self.network.dtype)
                cost = size[None] if cost is None else cost + size
        self._note(i + 1, cost)

    def relaxed(self, i: int, xs: list[Interval]) -> None:
        """Notes the magnitudes of the arguments of the non-linear operator i."""
        self.sizes[i] = tuple(magnitude(x) for x in xs)
        self._underflow(4, list(self.sizes[i]))

    def readers(self, slot: int, value: Interval) -> None:
        """Notes what the sum over the readers of a slot costs."""
        count = self.network.readers(slot)
        if count > 1:
            cost = magnitude(value) * (count * ulp(self.network.dtype))
            self.costs[slot] = self.costs[slot] + cost if slot in self.costs else cost

    def of(self, boxes: Tensor) -> Allowance:
        """The same for groups of rows that belong to the boxes (R,)."""
        return Allowance(
            self.network,
            {slot: cost if len(cost) == 1 else cost.index_select(0, boxes) for slot, cost in self.costs.items()},
            {i: tuple(t.index_select(0, boxes) for t in sizes) for i, sizes in self.sizes.items()},
            None if self.floor is None else self.floor.index_select(0, boxes),
            None if self.output is None else self.output.index_select(0, boxes),
        )

    def charge(self, slot: int, rows: Tensor, owner: Tensor | None) -> Tensor | None:
        """What the operator that makes `slot` takes off rows (R, K, *S): (R, K)."""
        cost = self.costs.get(slot)
        return None if cost is None else _times(rows, cost if len(cost) == 1 else _pick(cost, owner))

    def relaxed_charge(self, i: int, rows: Tensor, planes: Relaxation, sizes: tuple[Tensor, ...]) -> Tensor:
        """What the planes of operator i take off rows (R, K, *T); planes and sizes belong to the R groups."""
        op = self.network.ops[i]
        assert isinstance(op, RelaxedOp)
        unit = ulp(self.network.dtype)
        offsets = torch.maximum(planes.lower_offset.abs(), planes.upper_offset.abs())
        cost = offsets * gamma(math.prod(op.out_shape), self.network.dtype)
        for low, high, size in zip(planes.lower_slopes, planes.upper_slopes, sizes, strict=True):
            cost = cost + op.collect(times(low.abs() + high.abs(), size)) * (8 * unit)
        return _times(rows, cost)

    def added_charge(self, rows: Tensor, size: Tensor) -> Tensor:
        """What adding rows (R, K, *S) over an argument of magnitude (R, *S) costs."""
        return _times(rows, size * (2 * ulp(size.dtype)))

    def _note(self, slot: int, cost: Tensor | None) -> None:
        if cost is not None:
            self.costs[slot] = cost

    def _underflow(self, terms: int, sizes: list[Tensor]) -> None:
        for size in sizes:
            # an element without bounds has a coefficient of exactly 0, or its charge is infinite anyway
            few = torch.nan_to_num(size.flatten(1), nan=0.0, posinf=0.0).sum(1) * lost(terms, size.dtype)
            self.floor = few if self.floor is None else self.floor + few


def times(slope: Tensor, size: Tensor) -> Tensor:
    """slope * size; a slope of 0 takes nothing of an unbounded value."""
    return torch.where(slope == 0, 0.0, slope * size)


def _pick(t: Tensor, owner: Tensor | None) -> Tensor:
    return t if owner is None else t.index_select(0, owner)


def _times(rows: Tensor, cost: Tensor) -> Tensor:
    """sum |rows| * cost over a value: (R, K, *S), (R or 1, *S) -> (R, K); a coefficient of 0 costs nothing."""
    flat, column = rows.detach().flatten(2).abs(), cost.detach().flatten(1)
    if len(column) == 1:
        total = flat @ column[0]
    else:
        total = torch.bmm(flat, column[:, :, None])[:, :, 0]
    if torch.isnan(total).any():
        return torch.where(flat == 0, 0.0, flat * column[:, None]).sum(2)
    return total
