"""Backward linear bounds (CROWN: Zhang et al. 2018, Theorem 3.2; for general graphs: Xu et al. 2020).

Rows are lower bounds only: `coefficients` (R, K, *S) over a value and `bias` (R, K) mean

    sum coefficients * value + bias <= what is bounded

for every point of the box of row group R. An upper bound is the lower bound of the negated row, so each rule is
written once. R is either the batch of boxes, or one group per (box, neuron) pair; `owner` (R,) then names the box of
each group.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.bounds.products import Products
from verifier.bounds.rounding import SPARE, Allowance, Planes, planes_of
from verifier.ops.affine import Dense
from verifier.ops.kinds import LinearOp, Op, Relaxation, RelaxedOp
from verifier.ops.patch import Patch
from verifier.tolerance import gamma, lost, ulp


@dataclass
class Kinks:
    """The planes of a ReLU operator without what rounding costs: slopes and offsets (2, B, *S) of the `lower` and of
    the `upper` plane; those that a walk of one row per box `picked` (2, B, *S)."""

    lower: Tensor
    upper: Tensor
    picked: Tensor | None = None

    def step(self, rows: Tensor, extra: Tensor | None) -> Tensor:
        """Rows (B, 1, *S) one operator further back, and `extra` added to them there."""
        self.picked = torch.where(rows[:, 0] < 0, self.upper, self.lower)
        slope = self.picked[0, :, None]
        return rows * slope if extra is None else torch.addcmul(extra, rows, slope)

    def owed(self, rows: Tensor) -> Tensor:
        """What that adds to their bias: (B, 1)."""
        assert self.picked is not None
        return torch.bmm(rows.flatten(2), self.picked[1].flatten(1)[:, :, None])[:, :, 0]

    def value(self, x: Tensor) -> Tensor:
        """The value (B, *S) at x on the planes that were picked, lower ones where no row came by."""
        slope, offset = self.lower if self.picked is None else self.picked
        return torch.addcmul(offset, x, slope)


Added = Mapping[tuple[int, int], tuple[Tensor, Tensor | None]]
"""Rows over arguments of non-linear operators, and what comes with them to the bias."""


def walk_back(
    network: Network,
    slot: int,
    rows: Tensor | Mapping[int, Tensor],
    bias: Tensor,
    relaxations: Mapping[int, Relaxation] | Mapping[int, Relaxation | Kinks],
    owner: Tensor | None = None,
    trace: dict[int, Tensor] | None = None,
    allowance: Allowance | None = None,
    added: Added = MappingProxyType({}),
    products: Mapping[int, Products] = MappingProxyType({}),
) -> tuple[Tensor, Tensor]:
    """Rows over the value in `slot`, (R, K, *S), as rows over the network input.

    With several, `rows[s]` over the value in each slot s up to `slot`, it is their sum that is bounded.
    `relaxations[i]` holds the planes of the non-linear operator i, batched over boxes. `trace`, if given, receives
    the rows (R, K, *T) that arrive at the output of each non-linear operator. `added[i, k]`, rows (R, K, *S) and what
    comes with them to the bias (R, K) or None, joins the rows over argument k of operator i (multipliers of decided
    neurons: beta-CROWN, Wang et al. 2021, eq. 8). `products` offers rows over the products of operator i planes that
    lose less together (with an `allowance`). With `allowance` the result is a lower bound over the reals: all that
    rounding may have cost is off the bias.

    Returns:
        coefficients (R, K, n) and bias (R, K); a bias of NaN or +inf (overflow) is turned into -inf (nothing known).
    """
    coefficients, shift, _ = _walk(network, slot, rows, bias, relaxations, owner, trace, allowance, added, products)
    assert shift is not None
    return coefficients, shift


class AtInput(NamedTuple):
    """Rows over the network input: coefficients (R, K, m) of a `part` of it, outside of which they are 0, and bias
    (R, K)."""

    coefficients: Tensor
    bias: Tensor
    part: Patch


def part_back(
    network: Network,
    slot: int,
    rows: Tensor,
    bias: Tensor,
    relaxations: Mapping[int, Relaxation],
    owner: Tensor | None,
    allowance: Allowance | None,
    part: Patch,
) -> AtInput:
    """`walk_back` of rows (R, K, *shape) over a part of the value in `slot`, through the parts of earlier values that
    they reach: of pictures their receptive fields."""
    found, shift, part = _walk(network, slot, rows, bias, relaxations, owner, None, allowance, {}, {}, part)
    assert shift is not None
    return AtInput(found, shift, part)


def slopes_back(
    network: Network,
    slot: int,
    rows: Mapping[int, Tensor],
    relaxations: Mapping[int, Kinks],
    trace: dict[int, Tensor],
    added: Added,
) -> Tensor:
    """The coefficients (R, K, n) alone of `walk_back`, where all non-linear operators are ReLUs."""
    return _walk(network, slot, rows, None, relaxations, None, trace, None, added, {})[0]


def _walk(
    network: Network,
    slot: int,
    rows: Tensor | Mapping[int, Tensor],
    bias: Tensor | None,
    relaxations: Mapping[int, Relaxation] | Mapping[int, Kinks] | Mapping[int, Relaxation | Kinks],
    owner: Tensor | None,
    trace: dict[int, Tensor] | None,
    allowance: Allowance | None,
    added: Added,
    products: Mapping[int, Products],
    part: Patch | None = None,
) -> tuple[Tensor, Tensor | None, Patch]:
    pending: dict[int, tuple[Tensor, Patch]] = (
        {s: (given, network.wholes[s]) for s, given in rows.items()}
        if isinstance(rows, Mapping)
        else {slot: (rows, part or network.wholes[slot])}
    )
    lead = next(iter(pending.values()))[0].shape[:2]
    marked = not network.finite
    state = None if bias is None else torch.stack([bias, torch.zeros_like(bias)]) if marked else bias[None]
    paid: set[int] = set()  # slots whose charges and constants are part of the columns of the operator that reads them
    for i in range(slot - 1, -1, -1):
        if i + 1 not in pending:
            continue
        rows, part = pending.pop(i + 1)
        op = network.ops[i]
        if isinstance(op, RelaxedOp) and not op.elementwise:
            rows, part = part.everywhere(rows), network.wholes[i + 1]
        if state is not None and i + 1 not in paid:
            state = _passed(op, rows, state, None if allowance is None else allowance.column(i + 1), owner, part)
        if isinstance(op, LinearOp):
            for source, (own, reached) in zip(network.sources[i], op.adjoint_on(rows.flatten(0, 1), part), strict=True):
                _arrive(pending, source, own.unflatten(0, lead), reached)
            continue
        assert isinstance(op, RelaxedOp)
        if trace is not None:
            trace[i] = rows
        given = relaxations[i]
        folded = False
        if isinstance(given, Kinks):
            assert owner is None and allowance is None
            extra, shift = added.get((i, 0), (None, None))
            parts: tuple[Tensor, ...] = (given.step(rows, extra),)
            if state is not None:
                state = _plus(state, given.owed(rows) if shift is None else given.owed(rows) + shift)
        else:
            assert state is not None
            planes = planes_of(op, given, marked) if allowance is None else allowance.planes(i, given)
            if not part.full:
                planes = planes.on(part)
            if owner is not None:
                planes = planes.of(owner)
            parts, owed = _relaxed_step(op, rows, planes)
            if i in products:
                assert allowance is not None
                parts, owed = _together(op, rows, parts, owed, products[i].select(owner), allowance)
            state, folded = state + owed, planes.folded
            source = network.sources[i][0]
            if folded:
                paid.add(source)
            for k in range(len(parts)):
                if (i, k) not in added:
                    continue
                extra, shift = added[i, k]
                parts = (*parts[:k], parts[k] + extra, *parts[k + 1 :])
                if allowance is not None:
                    state = _charged(state, extra.abs(), allowance.added(i, k), owner, part)
                if shift is not None:
                    state = _plus(state, shift if allowance is None else shift - shift.abs() * allowance.shifted)
                if folded:
                    column = None if allowance is None else allowance.column(source)
                    state = _passed(network.ops[source - 1], extra, state, column, owner, part)
        elsewhere = () if op.elementwise else tuple(network.wholes[source] for source in network.sources[i])
        for source, own, reached in zip(network.sources[i], parts, elsewhere or (part,), strict=True):
            _arrive(pending, source, own, reached)
    if 0 not in pending:
        part = network.wholes[0]
        coefficients = torch.zeros(*lead, network.n, dtype=network.dtype, device=network.device)
    else:
        coefficients, part = pending[0]
        if state is not None and allowance is not None and (column := allowance.column(0)) is not None:
            state = _charged(state, coefficients.abs(), column, owner, part)
        coefficients = coefficients.flatten(2)
    if state is None or bias is None:
        return coefficients, None, part
    shift = state[0]
    if allowance is not None:
        # roundings of the bias that the walk started with, and underflow, of coefficients and of products
        rest = torch.add(allowance.floor, bias.detach().abs(), alpha=SPARE * allowance.steps * ulp(bias.dtype))
        shift = shift - rest
    # +inf is an overflow, whatever was added afterwards
    shift = _known_below(shift)
    return coefficients, shift.masked_fill(state[1] != 0, -torch.inf) if marked else shift, part


def _arrive(pending: dict[int, tuple[Tensor, Patch]], slot: int, rows: Tensor, part: Patch) -> None:
    """Adds rows (R, K, *shape) over a part of the value in `slot` to those that are there."""
    if slot in pending:
        known, before = pending[slot]
        outer = part.union(before)
        rows, part = before.within(outer, known) + part.within(outer, rows), outer
    pending[slot] = rows, part


def linear_head(network: Network, slot: int, rows: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """Rows (B, J, *S) over the value in `slot` as rows over the values that non-linear operators and the input make, by
    slot, and what that adds to their bias (B, J): linear operators alone, without what rounding costs."""
    pending, found, bias = {slot: rows}, {}, rows.new_zeros(rows.shape[:2])
    for i in range(slot - 1, -1, -1):
        if i + 1 not in pending:
            continue
        rows, op = pending.pop(i + 1), network.ops[i]
        if not isinstance(op, LinearOp):
            found[i + 1] = rows
            continue
        if op.offset_column is not None:
            bias = bias + rows.flatten(2) @ op.offset_column
        for source, part in zip(network.sources[i], op.adjoint(rows.flatten(0, 1)), strict=True):
            part = part.unflatten(0, rows.shape[:2])
            pending[source] = pending[source] + part if source in pending else part
    return {**found, **pending}, bias


def _known_below(bound: Tensor) -> Tensor:
    """Lower bounds with -inf where they are not numbers."""
    return torch.nan_to_num(bound, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def _plus(state: Tensor, amount: Tensor) -> Tensor:
    """What is known (1 or 2, R, K), with an amount (R, K) more in the bias."""
    return state + amount if len(state) == 1 else torch.cat([state[:1] + amount, state[1:]])


WIDE = 512
"""Elements of a value from which on rows are charged by a matrix product: 3 to 9 times as quick (float64, 22 to 300
rows of 2 048 to 12 288), and a quarter slower for thousands of boxes with 5 rows of 50."""


def _charged(state: Tensor, size: Tensor, column: Tensor, owner: Tensor | None, part: Patch) -> Tensor:
    """What is known after rows of magnitudes `size` (R, K, *shape) over a part of a value have paid `column` (c, B or
    1, |S|) for each unit."""
    rows, column = size.detach().flatten(2), part.select(column)
    if owner is not None and column.shape[1] > 1:
        column = column.index_select(1, owner)
    if rows.shape[2] < WIDE:
        return state + (rows * column[:, :, None]).sum(-1)
    if column.shape[1] == 1:
        return state + (rows @ column[:, 0].t()).movedim(2, 0)
    return state + torch.bmm(rows, column.permute(1, 2, 0)).movedim(2, 0)


def _passed(op: Op, rows: Tensor, state: Tensor, column: Tensor | None, owner: Tensor | None, part: Patch) -> Tensor:
    """What is known after rows (R, K, *shape) over a part of the operator's value have taken its constant, and paid its
    `column`."""
    constant, error = (op.offset_column, op.error_column) if isinstance(op, LinearOp) else (None, None)
    if constant is not None:
        state = _plus(state, rows.flatten(2) @ part.select(constant))
    if error is not None:
        state = _plus(state, rows.abs().flatten(2) @ part.select(error))
    return state if column is None else _charged(state, rows.abs(), column, owner, part)


def of_groups(planes: Relaxation, owner: Tensor) -> Relaxation:
    """The planes of the boxes that own the groups."""
    return Relaxation(
        tuple(t.index_select(0, owner) for t in planes.lower_slopes),
        planes.lower_offset.index_select(0, owner),
        tuple(t.index_select(0, owner) for t in planes.upper_slopes),
        planes.upper_offset.index_select(0, owner),
    )


def _relaxed_step(op: RelaxedOp, rows: Tensor, planes: Planes) -> tuple[tuple[Tensor, ...], Tensor]:
    """Rows over the output, (R, K, *T), as rows over the inputs, and what that adds to the bias, (c, R, K).

    A positive coefficient takes the lower plane, a negative one the upper plane: with p the positive part of a row,
    upper . row + (lower - upper) . p.
    """
    positive = rows.clamp(min=0)
    every, more = planes.packed[:, :, :, None]
    both = (rows.flatten(2) * every).addcmul_(positive.flatten(2), more)
    if not planes.slopes:
        return (both[-1].view(rows.shape),), both[:-1].sum(-1)
    parts = tuple(
        (op.spread(rows, index) * upper[:, None]).addcmul_(op.spread(positive, index), change[:, None])
        for index, (upper, change) in enumerate(planes.slopes)
    )
    return parts, both.sum(-1)


def _together(
    op: RelaxedOp, rows: Tensor, parts: tuple[Tensor, ...], owed: Tensor, products: Products, allowance: Allowance
) -> tuple[tuple[Tensor, ...], Tensor]:
    """What `_relaxed_step` makes of rows (R, K, *T) over products, by their tangent planes where these lose less."""
    flat = rows.flatten(2)
    least = products.least(flat)
    better = products.better(flat, least)
    touching, touched = _relaxed_step(op, rows, products.planes)
    touched = torch.cat([touched[:1] + (least + least * allowance.shifted), touched[1:]])
    lead = better.view(*better.shape, *[1] * (rows.dim() - 2))
    parts = tuple(torch.where(lead, mine, part) for mine, part in zip(touching, parts, strict=True))
    return parts, torch.where(better, touched, owed)


class Region(NamedTuple):
    """Boxes (R, n) as centres and radii, and radii that what rounding adds to a minimum over them is part of."""

    centre: Tensor
    radius: Tensor
    wide: Tensor

    @staticmethod
    def of(lower: Tensor, upper: Tensor) -> Region:
        """From the ends (R, n)."""
        centre, radius = (lower + upper) / 2, (upper - lower) / 2
        unit = 3 * gamma(lower.shape[1], lower.dtype)
        return Region(centre, radius, torch.maximum(lower.abs(), upper.abs()).mul_(unit).add_(radius))

    def select(self, index: Tensor) -> Region:
        """The boxes at `index`."""
        return Region(*(t.index_select(0, index) for t in self))

    def slice(self, start: int, end: int) -> Region:
        """The boxes from `start` to `end`."""
        return Region(*(t[start:end] for t in self))

    def on(self, part: Patch) -> Region:
        """The boxes of the inputs of a part alone."""
        return Region(*(part.select(t) for t in self))

    def least(self, coefficients: Tensor, bias: Tensor, rigorous: bool = True) -> Tensor:
        """Minimum of rows (R, K, n), (R, K) over the boxes: (R, K); -inf where it is not a finite number.

        `rigorous` takes off what rounding may have added: gamma_n (|a| . |x| + |bias|), n the inputs.
        """
        n, dtype, start = self.centre.shape[1], bias.dtype, bias
        if rigorous:
            start = torch.sub(bias, bias.abs(), alpha=2 * gamma(2 * n, dtype))
        low = torch.baddbmm(start[:, :, None], coefficients, self.centre[:, :, None])
        low = torch.baddbmm(low, coefficients.abs(), (self.wide if rigorous else self.radius)[:, :, None], alpha=-1)
        return _known_below(low[:, :, 0] - lost(2 * n, dtype) if rigorous else low[:, :, 0])


def concretise(coefficients: Tensor, bias: Tensor, lower: Tensor, upper: Tensor, rigorous: bool = True) -> Tensor:
    """Minimum of rows (R, K, n) over boxes (R, n): (R, K); see `Region.least`."""
    return Region.of(lower, upper).least(coefficients, bias, rigorous)


def neuron_rows(network: Network, slot: int, neurons: Tensor, part: Patch | None = None) -> tuple[int, Tensor, Tensor]:
    """Rows that select elements `neurons` (M,) of the value in `slot`, or of a part of it that is not all, by rows over
    that part: (start slot, rows (M, 1, *S), bias (M, 1)).

    A dense producer is entered by gathering rows of its weight instead of multiplying one-hot rows by it, unless its
    weights or offsets have been rounded, which is what passing it charges for.
    """
    shape = network.shapes[slot] if part is None else part.shape
    if slot > 0 and (part is None or part.full):
        op = network.ops[slot - 1]
        exact = isinstance(op, LinearOp) and op.exact and not op.weights_rounded
        if isinstance(op, Dense) and op.params["weight"].shape[0] == _size(shape) and exact:
            rows = op.params["weight"].index_select(0, neurons)
            bias = op.params.get("bias")
            start = rows.new_zeros(len(neurons)) if bias is None else bias.index_select(0, neurons)
            source = network.sources[slot - 1][0]
            return source, rows.reshape(len(neurons), 1, *network.shapes[source]), start[:, None]
    rows = torch.zeros(len(neurons), _size(shape), dtype=network.dtype, device=network.device)
    rows.scatter_(1, neurons[:, None], 1.0)
    return slot, rows.reshape(len(neurons), 1, *shape), rows.new_zeros(len(neurons), 1)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for s in shape:
        size *= s
    return size
