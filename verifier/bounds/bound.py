"""The one call between a search and bounds: `bound(setting, boxes, method) -> Bounds`.

Whatever the method, the result is the same: lower bounds of the property's rows, linear functions that are such bounds,
and for whoever splits boxes how much of a bound's looseness each input is to blame for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.bounds.adjustable import plane_gap
from verifier.bounds.affine import blamed_moves
from verifier.bounds.alpha import tighten
from verifier.bounds.backward import concretise, walk_back
from verifier.bounds.centred import Centred, deviating
from verifier.bounds.copies import on_copies
from verifier.bounds.inputs import IdentityMap, InputMap, centre_radius
from verifier.bounds.lumped import Prepared, Source, sweep_lumped
from verifier.bounds.network import Network
from verifier.bounds.sizes import size_on
from verifier.bounds.sweep import LARGE_ROWS, Method, Sweep, narrow, sweep
from verifier.bounds.zonotope import Twin, start, sweep_zonotope
from verifier.budget import OutOfTime, never
from verifier.graph.ir import Graph
from verifier.ops.kinds import Interval, Relaxation, RelaxedOp
from verifier.options import BOUND_METHODS
from verifier.problem.rows import AskedRows, RowTable
from verifier.tolerance import EXACT, FLOOR, NARROWEST, subtract_down


@dataclass(frozen=True, eq=False)
class Setting:
    """What is bounded: the rows of `table` over the outputs of `network`, which is `graph` in float64. With `single`,
    the same in float32 (`network.narrowed`), intervals of intermediate values are computed there, all rounding allowed
    for, where a call has at least `many` boxes."""

    graph: Graph
    network: Network
    table: RowTable
    inputs: InputMap
    single: Network | None = None
    many: int = 0

    @cached_property
    def twin(self) -> Twin:
        """The network in the two precisions of zonotopes."""
        return Twin.of(self.graph, self.network.device)

    @cached_property
    def deviating(self) -> Network | None:
        """The network for rows about the centres of boxes, None where they do not pay or do not hold: convolutions of
        float64 take five times as long on a CPU; elsewhere those of float32 may not be plain sums."""
        conv = any(op.node.op.startswith("Conv") for op in self.network.ops)
        own = isinstance(self.inputs, IdentityMap) and self.network.dtype == torch.float64
        return deviating(self.network, self.graph) if conv and own and self.network.device.type == "cpu" else None

    @cached_property
    def prepared(self) -> Prepared:
        """The same for forms with one radius."""
        return Prepared.of(self.twin)


class Boxes(Protocol):
    """B boxes `lower`, `upper` (B, n) of parameters, and their queries (B,)."""

    @property
    def lower(self) -> Tensor: ...  # noqa: D102
    @property
    def upper(self) -> Tensor: ...  # noqa: D102
    @property
    def query(self) -> Tensor: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class Bounds:
    """Over the reals: all rounding is allowed for.

    `forward` (B, K) are lower bounds of  row - rhs  for all rows of the table; `alive` (A,) the boxes with a clause
    that these leave possible, `column` (A, K') the rows of such clauses, and for those `low` (A, K') lower bounds,
    `coefficients` (A, K', n) and `constant` (A, K') linear functions below row - rhs. `unstable` (B,) counts neurons
    that are not affine, `unstable_at[i]` is their mean number at operator i. `blame` tells of one row (A,) per box how
    much of its looseness is due to each input (A, n), in the units of the row.
    """

    forward: Tensor
    alive: Tensor
    column: Tensor
    low: Tensor
    coefficients: Tensor
    constant: Tensor
    unstable: Tensor
    unstable_at: dict[int, float]
    blame: Callable[[Tensor], Tensor]


Arrived = Callable[[Tensor], dict[int, Tensor]]
"""One row (A,) of each box as it is where it arrives at non-linear operators: (A, |S|) by operator."""

OUTPUT_ELEMENTS = {"cpu": 16_000_000, "cuda": 64_000_000}
"""What rows over the output may hold, of all boxes, to be walked back at once; more go in parts of `LARGE_ROWS`. (A
thousand rows of a network whose largest value has a million elements take 8 GB for each of several temporaries.
Parts of 2 million elements take less time than parts of 16: 4.4 s against 5.2 s for 60 rows of 262 144, on a CPU.)"""

Turn = Callable[[], Callable[[], bool]]
"""Called where a kind of rows begins: the question whether it has taken its share of the time."""

BoundMethod = Callable[[Setting, Boxes, Method, Callable[[], bool]], Bounds]
Registered = TypeVar("Registered", bound=BoundMethod)

CROWN = "crown"
"""The method whose rows may take turns with the clock."""

METHODS: dict[str, BoundMethod] = {}
"""Every bound method by the word for `Method.kind`."""


def bound_method(name: str, offered: bool = True) -> Callable[[Registered], Registered]:
    """Registers a bound method: `Method(kind=name)` computes it and, where it is `offered`, `bounds.method: name` asks
    for it."""

    def register(function: Registered) -> Registered:
        METHODS[name] = function
        if offered and name not in BOUND_METHODS:
            BOUND_METHODS.append(name)
        return function

    return register


def bound(
    setting: Setting,
    boxes: Boxes,
    method: Method,
    stop: Callable[[], bool] = never,
    turn: Turn = lambda: never,
) -> Bounds:
    """Bounds of the rows of every box. Rows that `turn` leaves no time for are left out: of intermediate values (see
    `sweep`), then of the output, whose linear functions are constants there, the bounds of the forward sweep.

    Raises:
        OutOfTime: `stop()` said so in the middle.
    """
    if method.kind == CROWN:
        return _crown(setting, boxes, method, stop, turn)
    return METHODS[method.kind](setting, boxes, method, stop)


FINEST = 2.0**-8
"""How much of its width a free input of a box may gain by being rounded to float32, for bounds to be computed there."""


def _fits_single(boxes: Boxes, inputs: InputMap) -> bool:
    """Whether float32 tells the ends of all boxes apart; a box too small for it is one where rounding decides."""
    low, high = narrow(Interval(boxes.lower, boxes.upper))
    width = boxes.upper - boxes.lower
    grown = (high.double() - low.double()) - width > FINEST * width
    columns = inputs.columns(boxes.query)
    return not bool((grown.gather(1, columns.clamp(min=0)) & (columns >= 0)).any())


@bound_method(CROWN)
def _crown(
    setting: Setting, boxes: Boxes, method: Method, stop: Callable[[], bool], turn: Turn = lambda: never
) -> Bounds:
    """Forward sweep, then backward rows for what it leaves open."""
    network, table, inputs = setting.network, setting.table, setting.inputs
    single = setting.single if len(boxes.query) >= setting.many else None
    single = single if single is not None and _fits_single(boxes, inputs) else None
    swept, exact = (network, None) if single is None else (single, network)
    around = setting.deviating if method.rows and single is None else None
    centred = None if around is None else Centred(network, around, boxes.lower, boxes.upper)
    known = sweep(swept, boxes.lower, boxes.upper, boxes.query, inputs, method, stop, exact, centred, turn())
    asked = table.at(boxes.query)
    forward = _forward_rows(table, asked, known, boxes)
    scores = asked.scores(forward)
    alive, rows_each, means = _possible(asked, scores, known.means)
    owner = None if len(alive) == len(scores) else alive
    lower, upper, query = boxes.lower, boxes.upper, boxes.query
    if owner is not None:
        asked, (lower, upper, query, scores) = (
            asked.select(alive),
            (t.index_select(0, alive) for t in (lower, upper, query, scores)),
        )
    column = _needed(asked, scores).to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :rows_each]
    row = asked.row.gather(1, column)
    mixed = None if table.mixed is None else table.mixed[row]
    walked = _Rows(network, inputs, known, owner, alive, (lower, upper, query), method.alpha_steps, stop, turn())
    rhs = asked.rhs.gather(1, column)
    least = subtract_down(forward.index_select(0, alive).gather(1, column), -rhs.masked_fill(torch.isinf(rhs), 0.0))
    coefficients, bias, trace = walked.below(row, mixed, least)
    low = subtract_down(concretise(coefficients, bias, lower, upper), rhs).masked_fill(torch.isinf(rhs), -torch.inf)
    return Bounds(
        forward,
        alive,
        column,
        low,
        coefficients,
        subtract_down(bias, rhs),
        known.unstable,
        dict(zip(known.pre, means, strict=True)),
        partial(_blame, network, known, trace, owner, inputs.columns(query), coefficients.shape[2]),
    )


@dataclass(frozen=True, eq=False)
class _Rows:
    """Rows over the output, walked back on the open boxes (A, d), (A, d), (A,) of a sweep: those at `alive` (A,), which
    `owner` is too where it is not all of them."""

    network: Network
    inputs: InputMap
    known: Sweep
    owner: Tensor | None
    alive: Tensor
    boxes: tuple[Tensor, Tensor, Tensor]
    alpha_steps: int
    stop: Callable[[], bool]
    enough: Callable[[], bool]

    def below(self, row: Tensor, mixed: Tensor | None, least: Tensor) -> tuple[Tensor, Tensor, Arrived]:
        """Linear functions (A, K, d), (A, K) below outputs `row` (A, K), with `mixed` (A, K, d), and what one row of
        each box is where it arrives at non-linear operators. So many rows at a time as there is room for; those that
        `enough` leaves no time for are the constants `least` (A, K), which are known to be below.

        Raises:
            OutOfTime: `stop()` said so between two parts.
        """
        size = len(row) * (self.network.neurons if self.alpha_steps else self.network.widest)
        if size * row.shape[1] <= size_on(row.device, OUTPUT_ELEMENTS):
            trace: dict[int, Tensor] = {}
            return *self._walked(row, mixed, trace), partial(_picked, trace)
        chunk = max(1, size_on(row.device, LARGE_ROWS) // size)

        def part(first: int) -> tuple[Tensor, Tensor] | None:
            if first and self.stop():
                raise OutOfTime
            if first and self.enough():
                return None
            columns = slice(first, first + chunk)
            return self._walked(row[:, columns], None if mixed is None else mixed[:, columns], None)

        firsts = range(0, row.shape[1], chunk)
        bias, coefficients = least.clone(), least.new_zeros(*least.shape, self.boxes[0].shape[1])
        for first, found in zip(firsts, on_copies(part, firsts), strict=True):
            if found is not None:
                coefficients[:, first : first + chunk], bias[:, first : first + chunk] = found
        return coefficients, bias, partial(self._again, row)

    def _walked(self, row: Tensor, mixed: Tensor | None, trace: dict[int, Tensor] | None) -> tuple[Tensor, Tensor]:
        lower, upper, query = self.boxes
        rows, first = self._started(row)
        coefficients, bias = self.inputs.pull(*self._back(rows, first, trace), query)
        if mixed is not None:
            coefficients = coefficients + mixed
        if self.alpha_steps and len(row):
            where = lower, upper, query, self.inputs
            coefficients, bias = tighten(
                self.network,
                *where,
                self.known,
                rows,
                first,
                self.alpha_steps,
                self.stop,
                owner=self.alive,
                extra=mixed,
            )
        return coefficients, bias

    def _started(self, row: Tensor) -> tuple[Tensor, Tensor]:
        network = self.network
        rows = torch.zeros(*row.shape, network.m, dtype=network.dtype, device=network.device)
        rows = rows.scatter_(2, row[:, :, None], 1.0).reshape(*row.shape, *network.shapes[network.output])
        return rows, rows.new_zeros(row.shape)

    def _back(self, rows: Tensor, bias: Tensor, trace: dict[int, Tensor] | None) -> tuple[Tensor, Tensor]:
        network, known = self.network, self.known
        how = known.relaxations, self.owner, trace, known.allowance
        return walk_back(network, network.output, rows, bias, *how, products=known.products)

    def _again(self, row: Tensor, critical: Tensor) -> dict[int, Tensor]:
        """`_picked` of one row (A,) of each box, which is walked back once more: all of them are too large to keep."""
        trace: dict[int, Tensor] = {}
        self._back(*self._started(row.gather(1, critical[:, None])), trace)
        return _picked(trace, torch.zeros_like(critical))


def _picked(trace: dict[int, Tensor], critical: Tensor) -> dict[int, Tensor]:
    """Of rows (A, K, *S) over the outputs of operators the one at `critical` (A,) of each box: (A, |S|)."""
    flat = {i: rows.flatten(2) for i, rows in trace.items()}
    return {i: t.gather(1, critical[:, None, None].expand(-1, 1, t.shape[2]))[:, 0] for i, t in flat.items()}


def _forward_rows(table: RowTable, asked: AskedRows, known: Sweep, boxes: Boxes) -> Tensor:
    """Lower bounds of row - rhs (B, K) from the forward sweep alone."""
    low = known.output.lower.gather(1, asked.row)
    if table.mixed is not None:
        low = subtract_down(low, -concretise(table.mixed[asked.row], torch.zeros_like(low), boxes.lower, boxes.upper))
    low = subtract_down(low, asked.rhs).masked_fill_(torch.isinf(asked.rhs), -torch.inf)
    return torch.nan_to_num(low, nan=-torch.inf, neginf=-torch.inf)


def _needed(asked: AskedRows, scores: Tensor) -> Tensor:
    """The rows (B, K) of clauses that are still possible."""
    closed = F.pad(scores, (0, 1), value=torch.inf) > 0
    return ~closed.gather(1, asked.clause) & (asked.rhs.abs() < torch.inf)


def _possible(asked: AskedRows, scores: Tensor, unstable: Tensor) -> tuple[Tensor, int, list[float]]:
    """The boxes (A,) with a clause that is still possible, the most rows of one, and `unstable` as numbers: all that is
    read back of a forward sweep."""
    possible = ~(scores.amin(1) > 0)  # NaN proves nothing
    most = _needed(asked, scores).sum(1).amax()[None] if len(scores) else scores.new_zeros(1)
    told = torch.cat([possible.double(), most.double(), unstable]).cpu().numpy()
    alive = torch.from_numpy(np.flatnonzero(told[: len(scores)])).to(scores.device)
    count, *numbers = told[len(scores) :].tolist()
    return alive, max(1, int(count)), numbers


def _blame(
    network: Network,
    known: Sweep,
    arrived: Arrived,
    owner: Tensor | None,
    columns: Tensor,
    n: int,
    critical: Tensor,
) -> Tensor:
    """Every neuron that is not affine costs a row about |coefficient at the neuron| x the largest gap between its
    planes; how much each input moves the neuron's argument says whose doing that is."""
    total = torch.zeros(len(critical), n, dtype=network.dtype, device=network.device)
    if not known.reach:
        return total

    def mine(t: Tensor) -> Tensor:
        return t if owner is None else t.index_select(0, owner)

    columns = columns[:, : next(iter(known.reach.values()))[0].shape[1]]  # as many as the forms have generators
    caused = columns.new_zeros(*columns.shape, 1, dtype=network.dtype)
    rows = arrived(critical)
    for op, indices in _grouped(network, rows):
        planes = _relaxations([known.relaxations[i] for i in indices])
        bounds = tuple(map(_intervals, zip(*(known.pre[i] for i in indices), strict=True)))
        loss = torch.cat([rows[i] for i in indices], 1).abs_() * mine(plane_gap(op, planes, bounds).flatten(1))
        moves = [mine(blamed_moves(op, known.pre[i], known.reach[i])).flatten(2) for i in indices]
        share = loss / torch.cat([t.sum(1) for t in moves], 1).clamp_(min=torch.finfo(loss.dtype).tiny)
        share = torch.nan_to_num(share, nan=0.0, posinf=0.0)[:, :, None]
        for t, part in zip(moves, share.split([t.shape[2] for t in moves], 1), strict=True):
            caused = torch.baddbmm(caused, t, part)
    return total.scatter_add(1, columns.clamp(min=0), caused[:, :, 0] * (columns >= 0))


def _grouped(network: Network, indices: Iterable[int]) -> list[tuple[RelaxedOp, list[int]]]:
    """The operators, those together of which every element depends on one element alone."""
    ops = {i: op for i in indices if isinstance(op := network.ops[i], RelaxedOp)}
    together = [i for i, op in ops.items() if op.elementwise]
    alone = [(op, [i]) for i, op in ops.items() if not op.elementwise]
    return [*alone, (ops[together[0]], together)] if together else alone


def _intervals(bounds: Sequence[Interval]) -> Interval:
    """Intervals (B, *S) side by side; one alone as it is."""
    return (
        bounds[0]
        if len(bounds) == 1
        else Interval(*(torch.cat([t.flatten(1) for t in ends], 1) for ends in zip(*bounds, strict=True)))
    )


def _relaxations(planes: Sequence[Relaxation]) -> Relaxation:
    """The same of planes of one argument."""
    if len(planes) == 1:
        return planes[0]
    fields = zip(*((p.lower_slopes[0], p.lower_offset, p.upper_slopes[0], p.upper_offset) for p in planes), strict=True)
    low, below, high, above = (torch.cat([t.flatten(1) for t in field], 1) for field in fields)
    return Relaxation((low,), below, (high,), above)


@bound_method("zonotope", offered=False)
def _zonotope(setting: Setting, boxes: Boxes, method: Method, stop: Callable[[], bool]) -> Bounds:
    """Zonotopes with a symbol per neuron, on boxes whose inputs are the network's own."""
    b, n = boxes.lower.shape
    centre, radius = _around(boxes)
    eye = torch.eye(n, dtype=centre.dtype, device=centre.device).expand(b, n, n)
    first = start(torch.zeros_like(centre), eye, centre, radius, setting.twin.fast.dtype)
    out, symbols, unstable = sweep_zonotope(setting.twin, first, rigorous=method.rigorous)
    rest, owner, ids = out.noises()
    noise = out.radius.double().index_add_(0, owner, rest) * (1 + (len(rest) + 4) * EXACT)

    def due(row: Tensor) -> Tensor:
        """How much of the noise of output `row` (B, 1) is due to each input: (B, n)."""
        at_row = rest.gather(1, row[owner])
        return centre.new_zeros(b, n).index_add(0, owner, at_row * symbols.share().to(at_row)[ids])

    return _from_forms(setting.table, boxes, (centre, radius), out.core.transpose(0, 1), noise, unstable, due)


@bound_method("lumped")
def _lumped(setting: Setting, boxes: Boxes, method: Method, stop: Callable[[], bool]) -> Bounds:
    """The same by the cheapest affine forms; noise is blamed on the inputs by their widths."""
    n = boxes.lower.shape[1]
    centre, radius = _around(boxes)
    eye = torch.eye(n, dtype=centre.dtype, device=centre.device)[None]
    source = Source.of(torch.zeros_like(eye[:, 0]), eye, setting.twin.fast.dtype)
    unstable = torch.zeros_like(boxes.query)
    out = sweep_lumped(setting.prepared, source, centre, radius, torch.zeros_like(boxes.query), unstable)
    values = torch.cat([out.centre[None], out.inputs.double()])
    noise, part = out.radius.double(), radius / radius.sum(1, keepdim=True)

    def due(row: Tensor) -> Tensor:
        return noise.gather(1, row) * part

    return _from_forms(setting.table, boxes, (centre, radius), values, noise, unstable, due)


def _around(boxes: Boxes) -> tuple[Tensor, Tensor]:
    centre, radius = centre_radius(boxes.lower, boxes.upper)
    return centre, (radius * (1 + 4 * EXACT)).clamp(min=NARROWEST)


def _from_forms(
    table: RowTable,
    boxes: Boxes,
    box: tuple[Tensor, Tensor],
    values: Tensor,
    noises: Tensor,
    unstable: Tensor,
    due: Callable[[Tensor], Tensor],
) -> Bounds:
    """From the outputs values[0] + sum_i e_i values[1 + i] within `noises`, (1 + n, B, m) and (B, m), float64."""
    (centre, radius), n = box, boxes.lower.shape[1]
    row, rhs = table.row[boxes.query], table.rhs[boxes.query]
    slopes = values[1:].gather(2, row[None].expand(n, -1, -1)).permute(1, 2, 0)
    noise, value = noises.gather(1, row), values[0].gather(1, row)
    spread = slopes.abs().sum(2) + noise
    coefficients = slopes / radius[:, None]
    shift = torch.bmm(coefficients, centre[:, :, None])[:, :, 0]
    # of a box far from 0 the parts of the shift are many times the spread, and may cancel
    moved = torch.bmm(coefficients.abs(), centre.abs()[:, :, None])[:, :, 0]
    finite = torch.where(torch.isinf(rhs), 0.0, rhs.abs())
    unit = (16 + n) * EXACT
    margin = unit * (value.abs() + spread + finite) + FLOOR
    low = torch.nan_to_num(value - spread - rhs - margin, nan=-torch.inf)
    alive = (~(table.at(boxes.query).scores(low).amin(1) > 0)).nonzero()[:, 0]

    def blame(critical: Tensor) -> Tensor:
        every = critical.new_zeros(len(row)).index_copy(0, alive, critical)[:, None]
        return 2 * due(row.gather(1, every)).index_select(0, alive)  # noise is on both sides

    constant = value - shift - noise - rhs - (margin + unit * moved)
    column = torch.arange(row.shape[1], device=row.device).expand(len(alive), -1)
    known, rows, shifts = (t.index_select(0, alive) for t in (low, coefficients, constant))
    return Bounds(low, alive, column, known, rows, shifts, unstable, {}, blame)
