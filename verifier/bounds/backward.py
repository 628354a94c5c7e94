"""Backward linear bounds (CROWN: Zhang et al. 2018, Theorem 3.2; for general graphs: Xu et al. 2020).

Rows are lower bounds only: `coefficients` (R, K, *S) over a value and `bias` (R, K) mean

    sum coefficients * value + bias <= what is bounded

for every point of the box of row group R. An upper bound is the lower bound of the negated row, so each rule is
written once. R is either the batch of boxes, or one group per (box, neuron) pair; `owner` (R,) then names the box of
each group.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.ops.affine import Dense
from verifier.ops.kinds import LinearOp, Relaxation, RelaxedOp


def walk_back(
    network: Network,
    slot: int,
    rows: Tensor,
    bias: Tensor,
    relaxations: Mapping[int, Relaxation],
    owner: Tensor | None = None,
    trace: dict[int, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Rows over the value in `slot`, (R, K, *S), as rows over the network input.

    `relaxations[i]` holds the planes of the non-linear operator i, batched over boxes. `trace`, if given, receives
    the rows (R, K, *T) that arrive at the output of each non-linear operator.

    Returns:
        coefficients (R, K, n) and bias (R, K); a bias of NaN or +inf (overflow) is turned into -inf (nothing known).
    """
    pending: dict[int, Tensor] = {slot: rows}
    for i in range(slot - 1, -1, -1):
        if i + 1 not in pending:
            continue
        rows = pending.pop(i + 1)
        op = network.ops[i]
        if isinstance(op, LinearOp):
            parts, bias = _linear_step(op, rows, bias)
        else:
            assert isinstance(op, RelaxedOp)
            if trace is not None:
                trace[i] = rows
            parts, bias = _relaxed_step(op, rows, bias, relaxations[i], owner)
        for source, part in zip(network.sources[i], parts, strict=True):
            pending[source] = pending[source] + part if source in pending else part
    if 0 not in pending:
        coefficients = rows.new_zeros(*bias.shape, network.n)
    else:
        coefficients = pending[0].flatten(2)
    return coefficients, _known_below(bias)


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


def _relaxed_step(
    op: RelaxedOp, rows: Tensor, bias: Tensor, relaxation: Relaxation, owner: Tensor | None
) -> tuple[tuple[Tensor, ...], Tensor]:
    """A positive coefficient takes the lower plane, a negative one the upper plane."""

    def per_group(t: Tensor) -> Tensor:
        return t if owner is None else t.index_select(0, owner)

    negative = rows.clamp(max=0)
    if bool(relaxation.lower_offset.any()):  # Relu's lower planes go through 0
        bias = bias + _against(rows.clamp(min=0), per_group(relaxation.lower_offset))
    bias = bias + _against(negative, per_group(relaxation.upper_offset))
    parts = []
    for index, (low, high) in enumerate(zip(relaxation.lower_slopes, relaxation.upper_slopes, strict=True)):
        # positive * low + negative * high, without forming the positive part
        part = op.spread(rows, index) * per_group(low)[:, None]
        rest, step = op.spread(negative, index), per_group(high - low)[:, None]
        parts.append(torch.addcmul(part, rest, step) if part.requires_grad else part.addcmul_(rest, step))
    return tuple(parts), bias


def _against(rows: Tensor, offset: Tensor) -> Tensor:
    """sum rows * offset over a value: (R, K, *T), (R, *T) -> (R, K); 0 * inf counts as 0 (the plane is not used)."""
    flat, column = rows.flatten(2), offset.flatten(1)
    total = torch.bmm(flat, column[:, :, None])[:, :, 0]
    if torch.isnan(total).any():
        return torch.where(flat == 0, 0.0, flat * column[:, None]).sum(2)
    return total


def concretise(coefficients: Tensor, bias: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Minimum of rows (R, K, n) over boxes (R, n): (R, K); -inf where it is not a finite number."""
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    low = torch.bmm(coefficients, centre[:, :, None]) - torch.bmm(coefficients.abs(), radius[:, :, None])
    return _known_below(low[:, :, 0] + bias)


def neuron_rows(network: Network, slot: int, neurons: Tensor) -> tuple[int, Tensor, Tensor]:
    """Rows that select elements `neurons` (M,) of the value in `slot`: (start slot, rows (M, 1, *S), bias (M, 1)).

    A dense producer is entered by gathering rows of its weight instead of multiplying one-hot rows by it.
    """
    shape = network.shapes[slot]
    if slot > 0:
        op = network.ops[slot - 1]
        if isinstance(op, Dense) and op.params["weight"].shape[0] == _size(shape) and op.inexact() is None:
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
