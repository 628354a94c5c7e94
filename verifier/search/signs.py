"""What decided neuron signs add to a bound: linear rows over the inputs, and multipliers for them.

Inside a subproblem where neuron k is decided to be <= 0, the linear lower bound of its argument z_k is <= 0 as well
(and that of
-z_k where it is >= 0). So every decided neuron gives one row s . p + t <= 0, and for any multipliers beta >= 0

    min over the box of  (row + sum_d beta_d s_d)

is a lower bound of the row on the subproblem: the Lagrangian of the split constraints, as in beta-CROWN (Wang et al.
2021, eq. 8), with the constraints walked back to the input first. For a network with one hidden layer the two are the
same; for a deeper one this is weaker and cheaper.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verifier.bounds.backward import concretise, neuron_rows, walk_back
from verifier.bounds.bounder import OutOfTime, Sweep
from verifier.bounds.inputs import InputMap
from verifier.bounds.network import Network
from verifier.ops.kinds import Interval
from verifier.search.domains import DomainBatch
from verifier.search.settle import row_scale
from verifier.tolerance import gamma

STEPS = 24
"""Steps of multiplier ascent. Every iterate is a valid bound; more steps only tighten."""

FEW_STEPS = 8
"""The same for the intervals of many neurons, where each is worth less."""

TIGHTENED = 80
"""Neurons per subproblem whose intervals are recomputed under the decided signs: those that cost the bound most."""


def sign_rows(
    network: Network, known: Sweep, boxes: DomainBatch, alive: Tensor, inputs: InputMap
) -> tuple[Tensor, Tensor]:
    """Rows that hold (<= 0) in the subproblems: coefficients (B, D, n) and constants (B, D); 0 and -inf in padding.

    `alive` (B,) are the positions of the boxes in the batch that was swept.
    """
    if not boxes.signs.shape[1]:
        return boxes.lower.new_zeros(len(boxes), 0, boxes.lower.shape[1]), boxes.lower.new_zeros(len(boxes), 0)
    side = -boxes.signs.sign()  # z >= 0 is -z <= 0
    return _argument_rows(network, known, boxes, alive, inputs, boxes.signs.abs() - 1, side)


def _argument_rows(
    network: Network, known: Sweep, boxes: DomainBatch, alive: Tensor, inputs: InputMap, neurons: Tensor, side: Tensor
) -> tuple[Tensor, Tensor]:
    """Linear lower bounds of side * z for the arguments z of ReLU neurons (B, D): coefficients (B, D, n), constants
    (B, D).

    `side` (B, D) is 1 or -1, or 0 in padding, where the result is 0 and -inf.
    """
    b, d = neurons.shape
    coefficients = torch.zeros(b, d, boxes.lower.shape[1], dtype=network.dtype, device=network.device)
    constants = coefficients.new_full((b, d), -torch.inf)
    for i, first in network.relus.items():
        size = known.pre[i][0].lower.shape[1:].numel()  # of a batch that may be empty
        index = neurons - first
        box, column = ((side != 0) & (index >= 0) & (index < size)).nonzero(as_tuple=True)
        if len(box) == 0:
            continue
        sign = side[box, column].to(network.dtype)
        start, rows, bias = neuron_rows(network, network.sources[i][0], index[box, column])
        rows = rows * sign.view(-1, *([1] * (rows.dim() - 1)))
        at_input = walk_back(
            network, start, rows, bias * sign[:, None], known.relaxations, alive[box], allowance=known.allowance
        )
        row, constant = inputs.pull(*at_input, boxes.query[box])
        coefficients[box, column] = row[:, 0]
        constants[box, column] = constant[:, 0]
    return coefficients, constants


def tightened(
    network: Network,
    known: Sweep,
    batch: DomainBatch,
    alive: Tensor,
    inputs: InputMap,
    losses: dict[int, Tensor],
    signs: Tensor,
    shift: Tensor,
    stop: Callable[[], bool],
) -> dict[int, Interval]:
    """Intervals of ReLU arguments under the decided signs, by operator, for the whole batch (infinite where not
    computed).

    Deciding a neuron cuts a half-space off the box, which moves the range of every other neuron; without this a
    subproblem keeps the intervals of the whole box and neuron splitting gets nowhere on shallow networks. `losses[i]`
    (B, neurons) say which neurons cost most.
    """
    boxes = batch.select(alive)
    all_losses = torch.cat([losses[i] for i in network.relus if i in losses], 1)
    numbers = torch.cat(
        [
            first + torch.arange(losses[i].shape[1], device=shift.device)
            for i, first in network.relus.items()
            if i in losses
        ]
    )
    value, index = all_losses.topk(min(TIGHTENED, all_losses.shape[1]), 1)
    neurons, side = numbers[index], (value > 0).to(torch.int64)
    up = _argument_rows(network, known, boxes, alive, inputs, neurons, side)
    down = _argument_rows(network, known, boxes, alive, inputs, neurons, -side)
    rows, constants = (torch.cat(pair, 1) for pair in zip(up, down, strict=True))
    rows, constants = with_signs(rows, constants, signs, shift, boxes.lower, boxes.upper, stop, FEW_STEPS)
    low = concretise(rows, constants, boxes.lower, boxes.upper)
    count = neurons.shape[1]
    result = {}
    for i, first in network.relus.items():
        bound = known.pre[i][0]
        flat = bound.lower.flatten(1).shape
        inside = (side > 0) & (neurons >= first) & (neurons < first + flat[1])
        column = torch.where(inside, neurons - first, flat[1])
        lower = low.new_full((flat[0], flat[1] + 1), -torch.inf)
        upper = low.new_full((flat[0], flat[1] + 1), torch.inf)
        lower[alive] = lower[alive].scatter(1, column, low[:, :count])
        upper[alive] = upper[alive].scatter(1, column, -low[:, count:])
        result[i] = Interval(lower[:, :-1].reshape(bound.lower.shape), upper[:, :-1].reshape(bound.lower.shape))
    return result


def with_signs(
    coefficients: Tensor,
    constant: Tensor,
    signs: Tensor,
    shift: Tensor,
    lower: Tensor,
    upper: Tensor,
    stop: Callable[[], bool],
    steps: int = STEPS,
) -> tuple[Tensor, Tensor]:
    """Rows (B, K, n), (B, K) raised by the best multipliers found for the sign rows (B, D, n), (B, D).

    Raises:
        OutOfTime: `stop()` said so between two steps.
    """
    used = torch.isfinite(shift)
    if signs.shape[1] == 0 or not bool(used.any()):
        return coefficients, constant
    centre, radius = (lower + upper) / 2, (upper - lower) / 2
    # in units of each sign row's own variation over the box, so that one step size serves all
    size = torch.einsum("bdn,bn->bd", signs.abs(), radius).clamp(min=torch.finfo(signs.dtype).tiny)
    unit = torch.where(used[:, :, None], signs / size[:, :, None], 0.0)
    offset = torch.where(used, shift / size, 0.0)
    spread = torch.einsum("bkn,bn->bk", coefficients.abs(), radius)
    beta = torch.zeros(*constant.shape, signs.shape[1], dtype=signs.dtype, device=signs.device)
    best, best_beta = torch.full_like(constant, -torch.inf), beta
    first, second = torch.zeros_like(beta), torch.zeros_like(beta)
    for step in range(1, steps + 1):
        if stop():
            raise OutOfTime
        row = coefficients + torch.einsum("bkd,bdn->bkn", beta, unit)
        total = constant + torch.einsum("bkd,bd->bk", beta, offset)
        low = torch.einsum("bkn,bn->bk", row, centre) + total - torch.einsum("bkn,bn->bk", row.abs(), radius)
        better = low > best
        best = torch.where(better, low, best)
        best_beta = torch.where(better[:, :, None], beta, best_beta)
        if step == steps:
            break
        least = centre[:, None] - radius[:, None] * row.sign()
        slope = torch.einsum("bdn,bkn->bkd", unit, least) + offset[:, None]
        first, second = 0.8 * first + 0.2 * slope, 0.95 * second + 0.05 * slope * slope  # Adam, Kingma & Ba 2015
        corrected = (first / (1 - 0.8**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-12)
        beta = (beta + (0.3 * 0.1 ** (step / steps)) * spread[:, :, None] * corrected).clamp(min=0)
    # rounding of the two sums below; a unit row was rounded by its division and multiplies its multiplier
    scale = row_scale(unit, offset, lower, upper)
    total = torch.einsum("bkd,bd->bk", best_beta, scale) + row_scale(coefficients, constant, lower, upper)
    return (
        coefficients + torch.einsum("bkd,bdn->bkn", best_beta, unit),
        constant
        + torch.einsum("bkd,bd->bk", best_beta, offset)
        - 3 * gamma(signs.shape[1] + lower.shape[1], constant.dtype) * total,
    )
