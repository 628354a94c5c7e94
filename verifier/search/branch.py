"""Which input to split, or which neuron.

The score of an input has two parts, both in units of the bounded row: how much the linear row itself varies along it
(slope times width), and how much of the relaxation's looseness it is responsible for. The second part is what makes the
difference on deep networks: every neuron that is not affine on the box costs the bound about

    |row coefficient at the neuron| x (largest gap between its two planes),

and the affine form of the neuron's input says which share of its interval each input causes. (A slope-times-width score
alone needs 30 times the boxes on ACAS Xu property 1, network 3_8; trying every input and keeping the best split
needs as many boxes as this score, at the price of bounding all candidates.)
"""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.bounder import Sweep
from verifier.bounds.forward import blamed_moves
from verifier.bounds.inputs import InputMap
from verifier.bounds.network import Network
from verifier.ops.kinds import Interval, Relaxation, RelaxedOp
from verifier.search.domains import DomainBatch


def split_scores(
    network: Network,
    known: Sweep,
    trace: dict[int, Tensor],
    boxes: DomainBatch,
    inputs: InputMap,
    alive: Tensor,
    low: Tensor,
    clause: Tensor,
    scores: Tensor,
    coefficients: Tensor,
) -> Tensor:
    """Score (B, n) of splitting each input of the boxes, 0 for inputs without width."""
    picked = _critical_row(low, clause, scores)
    width = boxes.upper - boxes.lower
    row = coefficients.gather(1, picked[:, None, None].expand(-1, 1, coefficients.shape[2]))[:, 0]
    score = row.abs() * width
    if known.reach:
        blame = _blame(network, known, _losses(network, known, trace, alive, picked), alive)
        columns = inputs.columns(boxes.query)
        score = score.scatter_add(1, columns.clamp(min=0), blame * (columns >= 0))
    score = torch.nan_to_num(score, nan=0.0, posinf=torch.finfo(score.dtype).max)
    return torch.where(width > 0, score, 0.0)


def _critical_row(low: Tensor, clause: Tensor, scores: Tensor) -> Tensor:
    """The best row of the worst clause: (B,) column into the walked rows."""
    worst = scores.argmin(1) if len(scores) else scores.new_zeros(0, dtype=torch.int64)
    return low.masked_fill(clause != worst[:, None], -torch.inf).argmax(1)


def _losses(
    network: Network, known: Sweep, trace: dict[int, Tensor], alive: Tensor, picked: Tensor
) -> dict[int, Tensor]:
    """What each neuron's relaxation costs the critical row, about: (B, neurons) per non-linear operator."""
    every = len(alive) == len(known.unstable)
    result = {}
    for i, rows in trace.items():
        op = network.ops[i]
        assert isinstance(op, RelaxedOp)
        at_neuron = rows.flatten(2)
        at_neuron = at_neuron.gather(1, picked[:, None, None].expand(-1, 1, at_neuron.shape[2]))[:, 0].abs()
        gap = _gap(op, known.relaxations[i], known.pre[i]).flatten(1)
        result[i] = at_neuron * (gap if every else gap[alive])
    return result


def _blame(network: Network, known: Sweep, losses: dict[int, Tensor], alive: Tensor) -> Tensor:
    """Looseness caused by each free input: (B, d)."""
    d = next(iter(known.reach.values()))[0].shape[1]
    total = torch.zeros(len(alive), d, dtype=network.dtype, device=network.device)
    every = len(alive) == len(known.unstable)
    for i, loss in losses.items():
        op = network.ops[i]
        assert isinstance(op, RelaxedOp)
        moves = blamed_moves(op, known.pre[i], known.reach[i])
        moves = (moves if every else moves[alive]).flatten(2)
        share = loss / moves.sum(1).clamp(min=torch.finfo(loss.dtype).tiny)
        total += torch.bmm(moves, torch.nan_to_num(share, nan=0.0, posinf=0.0)[:, :, None])[:, :, 0]
    return total


def _gap(op: RelaxedOp, planes: Relaxation, pre: tuple[Interval, ...]) -> Tensor:
    """Largest distance between the two planes on the box: (B, *T)."""
    gap = planes.upper_offset - planes.lower_offset
    for low, high, x in zip(planes.lower_slopes, planes.upper_slopes, pre, strict=True):
        slope = high - low
        gap = gap + op.collect(torch.maximum(slope * x.lower, slope * x.upper))
    return torch.nan_to_num(gap, nan=0.0, posinf=0.0, neginf=0.0).clamp(min=0)
