"""The bounding step of the search by zonotopes (`bounds.rounded`): for few inputs and convolutional networks.

And the same step by zonotopes whose noise is lumped (`bounds.lumped`), for whoever asks for it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verifier.bounds.inputs import centre_radius
from verifier.bounds.lumped import Prepared, Source, sweep_lumped
from verifier.bounds.network import Network
from verifier.bounds.rounded import EXACT, FLOOR, Twin, start, sweep_rounded
from verifier.ops.conv import Conv
from verifier.ops.kinds import LinearOp
from verifier.ops.maximum import ReduceMax
from verifier.ops.piecewise import Clip, Relu
from verifier.problem.rows import RowTable
from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch, join
from verifier.search.halving import Record

BATCH = 8
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


def bound_zonotope(twin: Twin, table: RowTable, batch: DomainBatch) -> Bounded:
    """Bounds of all rows on boxes whose inputs are the network's own."""
    b, n = batch.lower.shape
    centre, radius = _around(batch)
    eye = torch.eye(n, dtype=centre.dtype, device=centre.device).expand(b, n, n)
    out, symbols, unstable = sweep_rounded(twin, start(torch.zeros_like(centre), eye, centre, radius, twin.fast.dtype))
    rest = torch.cat([out.radius[:0], *out.maps]).abs().double()
    owner, ids = (torch.cat([batch.query[:0], *parts]) for parts in (out.owner, out.ids))
    noise = out.radius.double().index_add_(0, owner, rest) * (1 + (len(rest) + 4) * EXACT)

    def blame(row: Tensor) -> Tensor:
        """How much of the noise of output `row` (B, 1) is due to each input: (B, n)."""
        at_row = rest.gather(1, row[owner])
        return centre.new_zeros(b, n).index_add(0, owner, at_row * symbols.share().to(at_row)[ids])

    return _bounded(table, batch, (centre, radius), out.core.transpose(0, 1), noise, unstable, blame)


def bound_lumped(prepared: Prepared, table: RowTable, batch: DomainBatch) -> Bounded:
    """The same by the cheapest affine forms; noise is blamed on the inputs by their widths."""
    n = batch.lower.shape[1]
    centre, radius = _around(batch)
    eye = torch.eye(n, dtype=centre.dtype, device=centre.device)[None]
    source = Source.of(torch.zeros_like(eye[:, 0]), eye, prepared.twin.fast.dtype)
    unstable = torch.zeros_like(batch.query)
    out = sweep_lumped(prepared, source, centre, radius, torch.zeros_like(batch.query), unstable)
    values = torch.cat([out.centre[None], out.inputs.double()])
    noise, part = out.radius.double(), radius / radius.sum(1, keepdim=True)
    return _bounded(table, batch, (centre, radius), values, noise, unstable, lambda row: noise.gather(1, row) * part)


def lumps(network: Network, table: RowTable) -> bool:
    """Whether `bound_lumped` can be used: the cost of a step grows with the number of inputs."""
    return network.n <= MOST_LUMPED and table.mixed is None and network.dtype == torch.float64


def _around(batch: DomainBatch) -> tuple[Tensor, Tensor]:
    centre, radius = centre_radius(batch.lower, batch.upper)
    return centre, (radius * (1 + 4 * EXACT)).clamp(min=1e-300)


def _bounded(
    table: RowTable,
    batch: DomainBatch,
    box: tuple[Tensor, Tensor],
    values: Tensor,
    noises: Tensor,
    unstable: Tensor,
    blame_noise: Callable[[Tensor], Tensor],
) -> Bounded:
    """From the outputs values[0] + sum_i e_i values[1 + i] within `noises`, (1 + n, B, m) and (B, m), float64."""
    (centre, radius), n = box, batch.lower.shape[1]
    row, rhs, clause = table.row[batch.query], table.rhs[batch.query], table.clause[batch.query]
    slopes = values[1:].gather(2, row[None].expand(n, -1, -1)).permute(1, 2, 0)
    noise, value = noises.gather(1, row), values[0].gather(1, row)
    spread = slopes.abs().sum(2) + noise
    coefficients = slopes / radius[:, None]
    shift = torch.bmm(coefficients, centre[:, :, None])[:, :, 0]
    finite = torch.where(torch.isinf(rhs), 0.0, rhs.abs())
    margin = 16 * EXACT * (value.abs() + spread + shift.abs() + finite) + FLOOR
    low = torch.nan_to_num(value - spread - rhs - margin, nan=-torch.inf)
    scores = table.clause_scores(low, batch.query)
    worst = scores.amin(1)
    critical = low.masked_fill(clause != scores.argmin(1)[:, None], -torch.inf).argmax(1, keepdim=True)
    blame = slopes.abs().gather(1, critical[:, :, None].expand(-1, 1, n))[:, 0] + blame_noise(row.gather(1, critical))
    blame = torch.nan_to_num(blame, nan=0.0) * (batch.upper > batch.lower)
    keep = (~(worst > 0)).nonzero()[:, 0]
    constant = value - shift - noise - rhs - margin
    return Bounded(
        alive=keep,
        value=worst[keep],
        scores=scores[keep],
        low=low[keep],
        clause=clause[keep],
        coefficients=coefficients[keep],
        constant=constant[keep],
        unstable=unstable[keep],
        branch=blame[keep],
        values=worst,
        unstable_at={},
    )
