"""Backward linear bounds (CROWN: Zhang et al. 2018, Theorem 3.2; for general graphs: Xu et al. 2020).

Rows are lower bounds only: `coefficients` (R, K, *S) over a value and `bias` (R, K) mean

    sum coefficients * value + bias <= what is bounded

for every point of the box of row group R. An upper bound is the lower bound of the negated row, so each rule is
written once. R is either the batch of boxes, or one group per (box, neuron) pair; `owner` (R,) then names the box of
each group.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.bounds.rounding import Allowance
from verifier.ops.affine import Dense
from verifier.ops.kinds import LinearOp, Relaxation, RelaxedOp
from verifier.tolerance import gamma, lost, ulp


def walk_back(
    network: Network,
    slot: int,
    rows: Tensor,
    bias: Tensor,
    relaxations: Mapping[int, Relaxation],
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
    charges: list[Tensor] = []
    peak = bias.abs()
    for i in range(slot - 1, -1, -1):
        if i + 1 not in pending:
            continue
        rows = pending.pop(i + 1)
        op = network.ops[i]
        if allowance is not None and (charge := allowance.charge(i + 1, rows, owner)) is not None:
            charges.append(charge)
        if isinstance(op, LinearOp):
            parts, bias = _linear_step(op, rows, bias)
        else:
            assert isinstance(op, RelaxedOp)
            if trace is not None:
                trace[i] = rows
            planes = relaxations[i] if owner is None else of_groups(relaxations[i], owner)
            if allowance is not None:
                sizes = tuple(t if owner is None else t.index_select(0, owner) for t in allowance.sizes[i])
                charges.append(allowance.relaxed_charge(i, rows, planes, sizes))
            parts, bias = _relaxed_step(op, rows, bias, planes)
            if i in added:
                parts = (parts[0] + added[i], *parts[1:])
                if allowance is not None:
                    charges.append(allowance.added_charge(added[i], sizes[0]))
        if allowance is not None:
            peak = torch.maximum(peak, bias.abs())
        for source, part in zip(network.sources[i], parts, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    if 0 not in pending:
        coefficients = rows.new_zeros(*bias.shape, network.n)
    else:
        if allowance is not None and (charge := allowance.charge(0, pending[0], owner)) is not None:
            charges.append(charge)
        coefficients = pending[0].flatten(2)
    if allowance is not None:
        bias = bias - _total(allowance, charges, peak, owner)
    return coefficients, _known_below(bias)


def _total(allowance: Allowance, charges: list[Tensor], peak: Tensor, owner: Tensor | None) -> Tensor:
    """All charges of a walk, and the rounding of the running bias: an ulp of its peak a step. The hundredth is for the
    rounding of the charges themselves, which are sums of positive terms."""
    steps = 4 + 2 * len(allowance.network.ops)
    total = peak * (steps * ulp(peak.dtype))
    for charge in charges:
        total = total + charge
    if allowance.floor is not None:
        total = total + (allowance.floor if owner is None else allowance.floor[owner])[:, None]
    return total * 1.01


def _known_below(bound: Tensor) -> Tensor:
    """Lower bounds with -inf where they are not numbers. +inf is an overflow, whatever was added afterwards."""
    return torch.nan_to_num(bound, nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf)


def _linear_step(op: LinearOp, rows: Tensor, bias: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    offset = op.offset()
    if offset is not None:
        flat = offset.expand(op.out_shape).reshape(-1)
        bias = bias + rows.flatten(2) @ flat
    error = op.inexact()
    if error is not None:
        bias = bias - rows.abs().flatten(2) @ error.expand(op.out_shape).reshape(-1)
    parts = op.adjoint(rows.flatten(0, 1))
    return tuple(p.unflatten(0, bias.shape) for p in parts), bias


def of_groups(planes: Relaxation, owner: Tensor) -> Relaxation:
    """The planes of the boxes that own the groups."""
    return Relaxation(
        tuple(t.index_select(0, owner) for t in planes.lower_slopes),
        planes.lower_offset.index_select(0, owner),
        tuple(t.index_select(0, owner) for t in planes.upper_slopes),
        planes.upper_offset.index_select(0, owner),
    )


def _relaxed_step(op: RelaxedOp, rows: Tensor, bias: Tensor, planes: Relaxation) -> tuple[tuple[Tensor, ...], Tensor]:
    """A positive coefficient takes the lower plane, a negative one the upper plane."""
    negative = rows.clamp(max=0)
    if bool(planes.lower_offset.any()):  # Relu's lower planes go through 0
        bias = bias + _against(rows.clamp(min=0), planes.lower_offset)
    bias = bias + _against(negative, planes.upper_offset)
    parts = []
    for index, (low, high) in enumerate(zip(planes.lower_slopes, planes.upper_slopes, strict=True)):
        # positive * low + negative * high, without forming the positive part
        part = op.spread(rows, index) * low[:, None]
        rest, step = op.spread(negative, index), (high - low)[:, None]
        parts.append(torch.addcmul(part, rest, step) if part.requires_grad else part.addcmul_(rest, step))
    return tuple(parts), bias


def _against(rows: Tensor, offset: Tensor) -> Tensor:
    """sum rows * offset over a value: (R, K, *T), (R, *T) -> (R, K); 0 * inf counts as 0 (the plane is not used)."""
    flat, column = rows.flatten(2), offset.flatten(1)
    total = torch.bmm(flat, column[:, :, None])[:, :, 0]
    if torch.isnan(total).any():
        return torch.where(flat == 0, 0.0, flat * column[:, None]).sum(2)
    return total


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

    A dense producer is entered by gathering rows of its weight instead of multiplying one-hot rows by it.
    """
    shape = network.shapes[slot]
    if slot > 0:
        op = network.ops[slot - 1]
        if isinstance(op, Dense) and op.params["weight"].shape[0] == _size(shape) and op.exact:
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
