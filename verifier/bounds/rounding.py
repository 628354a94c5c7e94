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
4.) What underflow can lose does not scale with |a|; `floor` is one number for a whole walk from any box.

All that a step back does to a row's bias is a product with its coefficients and their positive parts, so costs and
constants travel together as *columns*: what a unit of coefficient adds to the bias. Where a linear operator's value is
read by one element-wise operator alone, its cost and its constant are part of that operator's columns: computed once
per box instead of once per row. Where planes may be infinite (`Network.finite` says not), a second column marks what
leaves a row without a bound (1) or not (0), which spares asking after every product whether 0 * inf has come up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.graph.ir import Shape
from verifier.ops.kinds import LinearOp, Relaxation, RelaxedOp
from verifier.ops.patch import Patch
from verifier.tolerance import gamma, lost, tiny, ulp


class Planes(NamedTuple):
    """The planes of an operator as a walk uses them, for rows (index 0) and for their positive parts (index 1), in one
    tensor `packed` (2, c, B, |T|): one column, or two with marks, and last, where the operator is element-wise, the
    slopes; otherwise those are in `slopes`, (2, B, *S_i) per input. `folded`: the columns hold the charges and the
    constant of the operator that makes the argument as well."""

    packed: Tensor
    slopes: tuple[Tensor, ...] = ()
    folded: bool = False

    def of(self, boxes: Tensor) -> Planes:
        """The planes of the boxes (R,) that own groups of rows."""
        slopes = tuple(t.index_select(1, boxes) for t in self.slopes)
        return Planes(self.packed.index_select(2, boxes), slopes, self.folded)

    def on(self, part: Patch) -> Planes:
        """Those of an element-wise operator for a part of its elements."""
        return Planes(part.select(self.packed), (), self.folded)


def columns(amount: Tensor, marked: bool) -> Tensor:
    """Columns (c, *) of amounts (*): with marks, those that are numbers, and 1 where they are not."""
    if not marked:
        return amount[None]
    clean = torch.nan_to_num(amount, nan=0.0, posinf=0.0, neginf=0.0)
    return torch.stack([clean, (amount != clean).to(amount.dtype)])


def _stacked(op: RelaxedOp, planes: Relaxation) -> Tensor:
    """Upper and lower offsets, and slopes where they are element-wise: (2, 1 or 2, B, |T|)."""
    upper, lower = [planes.upper_offset], [planes.lower_offset]
    if op.elementwise:
        upper, lower = [*upper, *planes.upper_slopes], [*lower, *planes.lower_slopes]
    return torch.stack([t.flatten(1) for t in (*upper, *lower)]).unflatten(0, (2, -1))


def planes_of(op: RelaxedOp, planes: Relaxation, marked: bool) -> Planes:
    """Planes as a walk uses them, without any charge."""
    return _packed(op, _stacked(op, planes), planes, marked)


def _packed(op: RelaxedOp, both: Tensor, planes: Relaxation, marked: bool, folded: bool = False) -> Planes:
    """From what `_stacked` makes, which is overwritten: with the positive part p of a row and its negative part
    n = row - p,  upper . n + lower . p  =  upper . row + (lower - upper) . p."""
    if marked:  # a mark counts whatever the sign
        clean, mark = columns(both[:, :1], True)
        both = torch.cat([clean, torch.cat([-mark[:1], mark[1:]]), both[:, 1:]], 1)
    both[1].sub_(both[0])
    if op.elementwise:
        return Planes(both, (), folded)
    slopes = zip(planes.upper_slopes, planes.lower_slopes, strict=True)
    return Planes(both, tuple(torch.stack([high, low - high]) for high, low in slopes), folded)


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
    _floor: tuple[int, Tensor] | None = None
    _columns: dict[int, Tensor] = field(default_factory=dict)
    _loads: dict[int, Tensor] = field(default_factory=dict)
    _planes: dict[int, tuple[Relaxation, Planes]] = field(default_factory=dict)

    @property
    def floor(self) -> Tensor:
        """What underflow may lose on a walk from anywhere, of coefficients and of products, on any box: (1,)."""
        done, total = self._floor or (0, self._own)
        if done < len(self._read):
            terms = max(terms for terms, _ in self._read[done:])
            every = torch.cat([size for _, size in self._read[done:]], 1)
            # an element without bounds has a coefficient of exactly 0, or its charge is infinite anyway
            few = torch.nan_to_num(every, nan=0.0, posinf=0.0).sum(1).amax(0, keepdim=True)
            total = total + few.mul_(SPARE * lost(terms, every.dtype))
        self._floor = len(self._read), total
        return total

    @property
    def _own(self) -> Tensor:
        network = self.network
        elements = 2 * sum(math.prod(shape) for shape in network.shapes)
        return torch.full((1,), SPARE * lost(elements, network.dtype), dtype=network.dtype, device=network.device)

    @property
    def steps(self) -> int:
        """Additions to the bias of a row on a walk, at most."""
        every, relus = len(self.network.arguments), len(self.network.relus)
        return 4 + 3 * len(self.network.ops) + (2 * every if every > relus else 0)

    def linear(self, i: int, reach: list[Tensor], size: Tensor | None = None) -> None:
        """Notes what a step back through the linear operator i costs, its inputs' magnitudes being at most `reach`;
        `size` is |W| |x|, if that is known."""
        op = self.network.ops[i]
        assert isinstance(op, LinearOp)
        cost = None
        if op.adjoint_terms and reach:
            sizes = [x.to(self.network.dtype) for x in reach]
            cost = (op.absolute(*sizes) if size is None else size) * gamma(
                op.adjoint_terms + op.terms, self.network.dtype
            )
            self._read += [(op.adjoint_terms, size.flatten(1)) for size in sizes]
        if op.constant_size is not None:
            unit = self._sum(op.out_shape)
            cost = op.constant_size * unit if cost is None else torch.add(cost, op.constant_size, alpha=unit)
        if cost is not None:
            self.costs[i + 1] = cost

    def _sum(self, shape: Shape) -> float:
        """Relative error of the products of a row and of its positive part with constants (16 half ulp of the larger
        one), of their sum, and of its being part of the bias in up to `steps` additions, each of which may be off by
        half an ulp of all that has come together."""
        return gamma(math.prod(shape) + 16 + 2 * self.steps, self.network.dtype)

    def relaxed(self, i: int, reach: list[Tensor]) -> None:
        """Notes the magnitudes of the arguments of the non-linear operator i."""
        self.sizes[i] = tuple(x.to(self.network.dtype) for x in reach)
        self._read += [(4, size.flatten(1)) for size in self.sizes[i]]

    def readers(self, slot: int, reach: Tensor) -> None:
        """Notes what the sum over the readers of a slot costs."""
        count = self.network.readers(slot)
        if count > 1:
            cost = reach.to(self.network.dtype) * (count * ulp(self.network.dtype))
            self.costs[slot] = self.costs[slot] + cost if slot in self.costs else cost

    def of(self, boxes: Tensor) -> Allowance:
        """The same for groups of rows that belong to the boxes (R,)."""
        return Allowance(
            self.network,
            {slot: cost if len(cost) == 1 else cost.index_select(0, boxes) for slot, cost in self.costs.items()},
            {i: tuple(t.index_select(0, boxes) for t in sizes) for i, sizes in self.sizes.items()},
            None if self.output is None else self.output.index_select(0, boxes),
            _floor=(0, self.floor),
        )

    def column(self, slot: int) -> Tensor | None:
        """What the operator that makes `slot` takes off a row, per unit of |coefficient|: (c, B or 1, |S|), or None."""
        cost = self.costs.get(slot)
        if cost is None:
            return None
        if slot not in self._columns:
            self._columns[slot] = columns(self._charge(slot, cost).flatten(1).neg_(), not self.network.finite)
        return self._columns[slot]

    def _charge(self, slot: int, cost: Tensor) -> Tensor:
        return cost * (SPARE + self._sum(self.network.shapes[slot]))

    def planes(self, i: int, planes: Relaxation) -> Planes:
        """`charged`, kept for the next walk with the same planes."""
        known = self._planes.get(i)
        if known is None or known[0] is not planes:
            known = self._planes[i] = planes, self.charged(i, planes)
        return known[1]

    def charged(self, i: int, planes: Relaxation) -> Planes:
        """The planes of operator i, with what they cost."""
        op = self.network.ops[i]
        assert isinstance(op, RelaxedOp)
        producer, marked, spare = self.network.producer(i), not self.network.finite, SPARE + self._sum(op.out_shape)
        both = _stacked(op, planes)
        size = both.detach().abs().amax(0)
        # tiny: what offsets and slopes of denormal intervals have lost to underflow
        cost = size[0] * (self._sum(op.out_shape) * spare) + SPARE * tiny(self.network.dtype)
        unit = 8 * ulp(self.network.dtype) * spare
        if op.elementwise:
            cost = cost + times(size[1], self._load(i, 2 * unit), exact=marked)
            if producer is not None and producer.offset_column is not None:
                both[:, 0].addcmul_(both[:, 1], producer.offset_column)
        else:
            for low, high, reach in zip(planes.lower_slopes, planes.upper_slopes, self.sizes[i], strict=True):
                cost = cost + op.collect(times(low.abs() + high.abs(), reach)).flatten(1).detach() * unit
        both[0, 0].add_(cost)
        both[1, 0].sub_(cost)
        return _packed(op, both, planes, marked, producer is not None)

    def _load(self, i: int, unit: float) -> Tensor:
        """What a row over the argument of the element-wise operator i pays per unit of |coefficient|, (B, |S|): the
        products with its slopes, and the charges of the operator that makes it, if they are folded."""
        if i not in self._loads:
            load, slot = self.sizes[i][0] * unit, self.network.sources[i][0]
            if self.network.producer(i) is not None and slot in self.costs:
                load = load + self._charge(slot, self.costs[slot])
            self._loads[i] = load.flatten(1)
        return self._loads[i]

    @property
    def shifted(self) -> float:
        """What adding a constant to the bias costs per unit of it: its part in all additions that follow."""
        return SPARE * self.steps * ulp(self.network.dtype)

    def added(self, i: int, k: int) -> Tensor:
        """What adding a row over argument k of operator i costs per unit of |coefficient|: (c, B, |S|)."""
        size = self.sizes[i][k]
        return columns(size.flatten(1) * (-2 * SPARE * ulp(size.dtype)), not self.network.finite)


SPARE = 1.01
"""Costs are sums of positive terms that have been rounded themselves, and so are their products with coefficients."""


def times(slope: Tensor, size: Tensor, exact: bool = True) -> Tensor:
    """slope * size; a slope of 0 takes nothing of an unbounded value (`exact`: there may be some)."""
    if not exact:
        return slope * size
    return (slope * size).masked_fill_(slope == 0, 0.0)
