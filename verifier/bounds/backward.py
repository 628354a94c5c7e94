"""Backward linear bounds (CROWN: Zhang et al. 2018, Theorem 3.2; for general graphs: Xu et al. 2020).

Rows are lower bounds only: `coefficients` (R, K, *S) over a value and `bias` (R, K) mean

    sum coefficients * value + bias <= what is bounded

for every point of the box of row group R. An upper bound is the lower bound of the negated row, so each rule is
written once. R is either the batch of boxes, or one group per (box, neuron) pair; `owner` (R,) then names the box of
each group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.bounds.rounding import SPARE, Allowance, Planes, planes_of
from verifier.ops.affine import Dense
from verifier.ops.kinds import LinearOp, Relaxation, RelaxedOp
from verifier.tolerance import gamma, lost, ulp


def walk_back(
    network: Network,
    slot: int,
    rows: Tensor,
    bias: Tensor,
    relaxations: Mapping[int, Relaxation] | Mapping[int, Planes],
    owner: Tensor | None = None,
    trace: dict[int, Tensor] | None = None,
    allowance: Allowance | None = None,
    added: Mapping[int, Tensor] = MappingProxyType({}),
) -> tuple[Tensor, Tensor]:
    """Rows over the value in `slot`, (R, K, *S), as rows over the network input.

    `relaxations[i]` holds the planes of the non-linear operator i, batched over boxes. `trace`, if given, receives
    the rows (R, K, *T) that arrive at the output of each non-linear operator. `added[i]` (R, K, *S) joins the rows over
    the argument of operator i (multipliers of decided neurons: beta-CROWN, Wang et al. 2021, eq. 8). With `allowance`
    the result is a lower bound over the reals: all that rounding may have cost is off the bias.

    Returns:
        coefficients (R, K, n) and bias (R, K); a bias of NaN or +inf (overflow) is turned into -inf (nothing known).
    """
    pending: dict[int, Tensor] = {slot: rows}
    # what is known so far about the bias, and a second number that is positive where nothing is known any more
    state = torch.stack([bias, torch.zeros_like(bias)], -1)
    for i in range(slot - 1, -1, -1):
        if i + 1 not in pending:
            continue
        rows = pending.pop(i + 1)
        op = network.ops[i]
        if allowance is not None:
            state = _charged(state, rows, allowance.column(i + 1), owner)
        if isinstance(op, LinearOp):
            if (offset := op.offset_column) is not None:
                state = state + rows.flatten(2) @ offset
            if (error := op.error_column) is not None:
                state = state + rows.abs().flatten(2) @ error
            parts = tuple(p.unflatten(0, bias.shape) for p in op.adjoint(rows.flatten(0, 1)))
        else:
            assert isinstance(op, RelaxedOp)
            if trace is not None:
                trace[i] = rows
            given = relaxations[i]
            if isinstance(given, Planes):
                planes = given
            else:
                planes = planes_of(given) if allowance is None else allowance.planes(i, given)
            parts, state = _relaxed_step(op, rows, state, planes if owner is None else planes.of(owner))
            if i in added:
                parts = (parts[0] + added[i], *parts[1:])
                if allowance is not None:
                    state = _charged(state, added[i], allowance.added(i, owner), None)
        for source, part in zip(network.sources[i], parts, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    if 0 not in pending:
        coefficients = rows.new_zeros(*bias.shape, network.n)
    else:
        if allowance is not None:
            state = _charged(state, pending[0], allowance.column(0), owner)
        coefficients = pending[0].flatten(2)
    shift, unknown = state.unbind(-1)
    if allowance is not None:
        shift = shift - _rest(allowance, bias, owner)
    # +inf is an overflow, whatever was added afterwards
    return coefficients, _known_below(shift).masked_fill(unknown != 0, -torch.inf)


def _rest(allowance: Allowance, bias: Tensor, owner: Tensor | None) -> Tensor:
    """What a walk loses beside the costs of its steps: roundings of the bias it started with, (R, K), and underflow, of
    coefficients and of products."""
    network = allowance.network
    elements = 2 * sum(math.prod(shape) for shape in network.shapes)
    total = bias.detach().abs() * (allowance.steps * ulp(bias.dtype)) + lost(elements, bias.dtype)
    if allowance.floor is not None:
        total = total + (allowance.floor if owner is None else allowance.floor.index_select(0, owner))[:, None]
    return total * SPARE


def _known_below(bound: Tensor) -> Tensor:
    """Lower bounds with -inf where they are not numbers."""
    return torch.nan_to_num(bound, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def _charged(state: Tensor, rows: Tensor, column: Tensor | None, owner: Tensor | None) -> Tensor:
    """What is known after each unit of |coefficient| of rows (R, K, *S) has paid its `column` (B or 1, |S|, 2)."""
    if column is None:
        return state
    size = rows.detach().flatten(2).abs()
    if len(column) == 1:
        return state + size @ column[0]
    return state + torch.bmm(size, column if owner is None else column.index_select(0, owner))


def of_groups(planes: Relaxation, owner: Tensor) -> Relaxation:
    """The planes of the boxes that own the groups."""
    return Relaxation(
        tuple(t.index_select(0, owner) for t in planes.lower_slopes),
        planes.lower_offset.index_select(0, owner),
        tuple(t.index_select(0, owner) for t in planes.upper_slopes),
        planes.upper_offset.index_select(0, owner),
    )


def _relaxed_step(op: RelaxedOp, rows: Tensor, state: Tensor, planes: Planes) -> tuple[tuple[Tensor, ...], Tensor]:
    """A positive coefficient takes the lower plane, a negative one the upper plane."""
    positive, negative = rows.clamp(min=0), rows.clamp(max=0).neg()
    paid = torch.bmm(positive.flatten(2), planes.columns[:, 0])
    state = state + torch.baddbmm(paid, negative.flatten(2), planes.columns[:, 1])
    parts = []
    for index, (low, high) in enumerate(planes.slopes):
        part, rest = op.spread(positive, index) * low[:, None], op.spread(negative, index)
        if part.requires_grad:
            parts.append(torch.addcmul(part, rest, high[:, None], value=-1))
        else:
            parts.append(part.addcmul_(rest, high[:, None], value=-1))
    return tuple(parts), state


def concretise(coefficients: Tensor, bias: Tensor, lower: Tensor, upper: Tensor, rigorous: bool = True) -> Tensor:
    """Minimum of rows (R, K, n) over boxes (R, n): (R, K); -inf where it is not a finite number.

    `rigorous` takes off what rounding may have added: gamma_n (|a| . |x| + |bias|), n the inputs.
    """
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    size = coefficients.abs()
    if rigorous:
        n = lower.shape[1]
        radius = radius + 3 * gamma(n, lower.dtype) * torch.maximum(lower.abs(), upper.abs())
        bias = bias - (gamma(1, lower.dtype) * bias.abs() + lost(2 * n, lower.dtype))
    low = torch.bmm(coefficients, centre[:, :, None]) - torch.bmm(size, radius[:, :, None])
    return _known_below(low[:, :, 0] + bias)


def neuron_rows(network: Network, slot: int, neurons: Tensor) -> tuple[int, Tensor, Tensor]:
    """Rows that select elements `neurons` (M,) of the value in `slot`: (start slot, rows (M, 1, *S), bias (M, 1)).

    A dense producer is entered by gathering rows of its weight instead of multiplying one-hot rows by it, unless its
    weights or offsets have been rounded, which is what passing it charges for.
    """
    shape = network.shapes[slot]
    if slot > 0:
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
