"""The search by zonotopes: which problems suit it, and the boxes and points that it starts from."""

from __future__ import annotations

import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.ops.conv import Conv
from verifier.ops.kinds import LinearOp
from verifier.ops.maximum import ReduceMax
from verifier.ops.piecewise import Clip, Relu
from verifier.problem.rows import RowTable
from verifier.search.domains import DomainBatch, join
from verifier.search.halving import Record

BATCH = {"cpu": 8, "cuda": 1024}
"""Boxes per step: each brings a hundred maps of its own, and the large first ones a thousand."""

MOST_INPUTS = 3
MOST_LUMPED = 32
"""Most inputs of affine forms with lumped noise: a box costs 2 + this many times an inference, and more."""

START = 16
"""Boxes to start from: a whole box has thousands of maps, more than all of its 16 parts need to be settled."""

POINTS = 5
"""Points per input of the first look for counterexamples (corners, edges and inside)."""


def suits(network: Network, table: RowTable) -> bool:
    """Whether the problem is one that zonotopes are made for: few inputs, convolutions, and no non-linear
    operators but Relu, Clip and the maxima of pooling."""
    plain = all(isinstance(op, LinearOp | Relu | Clip | ReduceMax) for op in network.ops)
    deep = any(isinstance(op, Conv) for op in network.ops)
    return plain and deep and network.n <= MOST_INPUTS and table.mixed is None and network.dtype == torch.float64


def halved(boxes: DomainBatch, record: Record | None = None) -> DomainBatch:
    """The boxes halved across each input in turn until there are `START`, or no input can be halved any more; `record`
    writes the splits to a proof."""
    n, stuck = boxes.lower.shape[1], 0
    turn = 0
    while len(boxes) < START and stuck < n:
        low, high = boxes.lower[:, turn], boxes.upper[:, turn]
        middle = low + (high - low) / 2
        thick = (middle > low) & (middle < high)
        stuck = 0 if bool(thick.any()) else stuck + 1
        index = torch.full((int(thick.sum()),), turn, dtype=torch.int64, device=low.device)
        cut, at = boxes.select(thick), middle[thick]
        halves = cut.split(index, at)
        boxes = join([boxes.select(~thick), halves if record is None else record.inputs(cut, index, at, halves)])
        turn = (turn + 1) % n
    return boxes


def grid(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """A coarse grid of points of every query's box (Q, n), and their queries."""
    q, n = lower.shape
    side = torch.linspace(0, 1, POINTS, dtype=lower.dtype, device=lower.device)
    share = torch.cartesian_prod(*[side] * n).reshape(-1, n)
    points = torch.minimum(lower[:, None] + share * (upper - lower)[:, None], upper[:, None])
    return points.flatten(0, 1), torch.arange(q, device=lower.device).repeat_interleave(len(share))


def lumps(network: Network, table: RowTable) -> bool:
    """Whether forms with lumped noise can be used: the cost of a step grows with the number of inputs."""
    return network.n <= MOST_LUMPED and table.mixed is None and network.dtype == torch.float64
