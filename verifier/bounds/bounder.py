"""Bounds of a batch of boxes: a forward sweep for every intermediate value, backward rows where they pay.

One sweep visits the operators once. Before each non-linear operator the interval of its inputs is the intersection of
whatever the method computes: interval arithmetic, the affine form, backward rows for the neurons that are still
unstable. The planes chosen there serve all later backward rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.bounds.backward import Region, neuron_rows, walk_back
from verifier.bounds.centred import Centred
from verifier.bounds.forms import AffineForm
from verifier.bounds.forward import (
    as_interval,
    constant_form,
    intersect,
    interval_step,
    linear_step,
    relaxed_form,
)
from verifier.bounds.inputs import IdentityMap, InputMap
from verifier.bounds.network import Network
from verifier.bounds.rounding import Allowance
from verifier.ops.elementwise import magnitude
from verifier.ops.kinds import Interval, LinearOp, Relaxation, RelaxedOp

ROW_ELEMENTS = {"cpu": 400_000, "cuda": 64_000_000}
"""What a chunk of backward rows may hold: on a CPU about a core's cache. Larger chunks wait for memory (5x50 network of
ACAS Xu's shape, 512 boxes: 0.25 to 0.5 million elements take less than half the time of 4 million), smaller ones
for the interpreter."""


@dataclass(frozen=True)
class Method:
    """Which bounds are computed. `affine` needs few free inputs (`attribute`: with the noise in parts per input);
    `rows` refines unstable neurons by backward rows; output rows take `alpha_steps` steps of alpha-CROWN."""

    interval: bool = True
    affine: bool = True
    attribute: bool = True
    rows: bool = False
    alpha_steps: int = 0
    row_elements: int | None = None  # elements of the temporaries of a chunk of backward rows; None: by device

    @property
    def name(self) -> str:
        """The method's name in results."""
        return ("alpha" if self.alpha_steps else "crown") if self.rows else "forward"


@dataclass(frozen=True, eq=False)
class Sweep:
    """What is known about a batch of boxes after the forward sweep.

    `pre[i]` intervals of the inputs of the non-linear operator i, `relaxations[i]` its planes, `output` the interval
    of the network's output (B, m), `unstable` (B,) how many neurons are not affine on the box. `reach[i]` tells
    how far each free input moves the inputs of operator i, (B, d, *S) >= 0 (empty without affine forms).
    `unstable_at[i]` is the batch's mean count of unstable neurons at operator i. `allowance` is what backward rows have
    to pay for rounding (None after a sweep in float32 alone, which proves nothing).
    """

    pre: dict[int, tuple[Interval, ...]]
    relaxations: dict[int, Relaxation]
    output: Interval
    unstable: Tensor
    reach: dict[int, tuple[Tensor, ...]]
    unstable_at: dict[int, float]
    allowance: Allowance | None


class OutOfTime(Exception):
    """The budget ran out in the middle of a step; nothing that was computed may be used."""


def never() -> bool:
    """The stop test of an unlimited budget."""
    return False


def sweep(
    network: Network,
    lower: Tensor,
    upper: Tensor,
    query: Tensor,
    inputs: InputMap,
    method: Method,
    stop: Callable[[], bool] = never,
    exact: Network | None = None,
    centred: Centred | None = None,
) -> Sweep:
    """Bounds every intermediate value on the parameter boxes (B, d) of queries (B,).

    With `exact`, the same network in float64, this one in float32 (`network.narrowed`) only computes the intervals,
    with every rounding allowed for; planes and costs are those of `exact`, and so is the type of everything in the
    result. With `centred` (of these boxes, whose parameters are the inputs) the rows of intermediate values are its.

    Raises:
        OutOfTime: `stop()` said so.
    """
    batch = lower.shape[0]
    if exact is not None:
        lower, upper = narrow(Interval(lower, upper))
    region = Region.of(lower, upper)
    allowance = Allowance(network) if exact is not None or network.dtype == torch.float64 else None
    precise = allowance if exact is None else Allowance(exact)
    books: list[Allowance | Centred] = [book for book in (allowance, precise, centred) if book is not None]
    if allowance is precise and allowance is not None:
        books = books[1:]
    forms: dict[int, AffineForm] = {}
    intervals: dict[int, Interval] = {}
    if method.affine or not isinstance(inputs, IdentityMap):
        forms[0] = start = inputs.form(lower, upper, query, method.attribute)
    plain = method.interval or not method.affine
    if plain:
        intervals[0] = Interval(lower, upper) if isinstance(inputs, IdentityMap) else start.interval()
    if books and network.readers(0) > 1:
        first = intervals[0] if plain else start.interval()
        for book in books:
            book.readers(0, first)
    if not method.affine:
        forms.clear()
    pre: dict[int, tuple[Interval, ...]] = {}
    relaxations: dict[int, Relaxation] = {}
    reach: dict[int, tuple[Tensor, ...]] = {}
    counts: dict[int, Tensor] = {}
    for i, (op, sources) in enumerate(zip(network.ops, network.sources, strict=True)):
        if stop():
            raise OutOfTime
        out = i + 1
        if isinstance(op, LinearOp):
            given = [intervals[s] for s in sources] if plain else []
            image = linear_step(op, [forms[s] for s in sources] if method.affine else [], given)
            if books and not given and sources:
                given = [_known(forms[s], None) for s in sources]
            for book in books:
                book.linear(i, given, *([image.size] if book is allowance else []))
            if method.affine:
                forms[out] = image.form if image.form is not None else constant_form(op, start)
            if plain:
                intervals[out] = image.interval or interval_step(op, [])
        else:
            assert isinstance(op, RelaxedOp)
            bounds = []
            moves = tuple(forms[s].moves() for s in sources) if method.affine else ()
            for k, s in enumerate(sources):
                bound = _known(forms.get(s), intervals.get(s), moves[k] if moves else None)
                if method.rows:
                    where = region, query, inputs
                    bound = _refine(network, i, s, bound, relaxations, where, method, stop, allowance, centred)
                bounds.append(bound)
            pre[i] = tuple(bounds)
            for book in books:
                book.relaxed(i, bounds)
            counts[i] = op.unstable(*bounds).flatten(1).sum(1)
            if method.affine:
                reach[i] = moves
                relaxations[i], parallel = op.relax_both(*bounds)
                forms[out] = relaxed_form(op, [forms[s] for s in sources], bounds, moves, parallel, network.finite)
            else:
                relaxations[i] = op.relax(*bounds)
            if centred is not None:
                centred.relax(i, relaxations[i])
            if plain:
                intervals[out] = interval_step(op, bounds)
        if books and network.readers(out) > 1:
            value = intervals[out] if plain else _known(forms[out], None)
            for book in books:
                book.readers(out, value)
        network.release(forms, i)
        network.release(intervals, i)
    output = _known(forms.get(network.output), intervals.get(network.output))
    output = Interval(*(t.reshape(-1, network.m).expand(batch, network.m) for t in output))
    every = torch.stack([torch.zeros_like(query), *counts.values()])
    means = dict(zip(counts, every[1:].double().mean(1).tolist(), strict=True))
    if exact is not None:
        pre = {i: tuple(_widened(bound, exact.dtype) for bound in bounds) for i, bounds in pre.items()}
        relaxations = {i: op.relax(*pre[i]) for i, op in enumerate(exact.ops) if isinstance(op, RelaxedOp)}
        reach = {i: tuple(t.to(exact.dtype) for t in moves) for i, moves in reach.items()}
        output = _widened(output, exact.dtype)
    if precise is not None:
        precise.output = magnitude(output)
    return Sweep(pre, relaxations, output, every.sum(0), reach, means, precise)


def narrow(bound: Interval) -> Interval:
    """An interval in float32, rounded outwards."""
    lower, upper = bound.lower.float(), bound.upper.float()
    inf = torch.full((), torch.inf, device=lower.device)
    return Interval(
        torch.where(lower.double() > bound.lower, torch.nextafter(lower, -inf), lower),
        torch.where(upper.double() < bound.upper, torch.nextafter(upper, inf), upper),
    )


def _widened(bound: Interval, dtype: torch.dtype) -> Interval:
    return Interval(bound.lower.to(dtype), bound.upper.to(dtype))


def _known(form: AffineForm | None, interval: Interval | None, moves: Tensor | None = None) -> Interval:
    if form is None:
        assert interval is not None
        return interval
    known = as_interval(form.interval(moves))
    return known if interval is None else intersect(known, interval)


def _refine(
    network: Network,
    i: int,
    slot: int,
    bound: Interval,
    relaxations: dict[int, Relaxation],
    where: tuple[Region, Tensor, InputMap],
    method: Method,
    stop: Callable[[], bool],
    allowance: Allowance | None,
    centred: Centred | None,
) -> Interval:
    """Backward rows for the elements of `slot` on which operator i is not affine; sparse over (box, neuron) pairs."""
    if not relaxations:
        return bound  # only linear operators so far: the forward bounds are exact
    region, query, inputs = where

    def walk(first: int, rows: Tensor, bias: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
        at_input = walk_back(network, first, rows, bias, relaxations, owner, allowance=allowance)
        return inputs.pull(*at_input, query[owner])

    mask = open_elements(network, i, slot, bound)
    elements = method.row_elements or ROW_ELEMENTS.get(query.device.type, ROW_ELEMENTS["cpu"])
    chunk = max(1, elements // (4 * network.widest))
    if centred is not None:
        known, box = centred.deviation(slot, bound), Region.of(*centred.box)
        found = intersect_rows(centred.network, slot, known, mask, box, chunk, stop, centred.walk)
        return intersect(centred.restored(slot, found), bound)
    return intersect_rows(network, slot, bound, mask, region, chunk, stop, walk)


def open_elements(network: Network, i: int, slot: int, bound: Interval) -> Tensor:
    """The elements (B, size) of the value in `slot` whose bounds matter to operator i: where it is not affine."""
    op = network.ops[i]
    assert isinstance(op, RelaxedOp)
    if len(network.sources[i]) == 1 and op.in_shapes[0] == op.out_shape:
        return op.unstable(bound).flatten(1)
    return (bound.upper > bound.lower).flatten(1)


Walk = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def intersect_rows(
    network: Network,
    slot: int,
    bound: Interval,
    mask: Tensor,
    region: Region,
    chunk: int,
    stop: Callable[[], bool],
    walk: Walk,
) -> Interval:
    """`bound` intersected with backward rows for the elements in `mask` (B, size), `chunk` elements at a time.

    `walk(slot, rows, bias, owner)` takes rows (R, K, *S) from a slot to the parameters of the boxes `owner` (R,).

    Raises:
        OutOfTime: `stop()` said so between two chunks.
    """
    counts = mask.sum(1)
    order = counts.argsort(descending=True)
    sizes = [size for size in counts.index_select(0, order).tolist() if size > 0]
    if not sizes:
        return bound
    # boxes with about equally many rows side by side; the padding repeats elements that are not in the mask
    order = order[: len(sizes)]
    wanted = mask.index_select(0, order).to(torch.int8).sort(dim=1, descending=True, stable=True)
    low, high = (t.flatten(1).index_select(0, order) for t in bound)
    regions = region.select(order)
    start = 0
    while start < len(sizes):
        end = min(len(sizes), start + max(1, chunk // sizes[start]))
        for first in range(0, sizes[start], chunk):
            if stop():
                raise OutOfTime
            part = slice(start, end), slice(first, min(first + chunk, sizes[start]))
            picked, spare = wanted.indices[part], wanted.values[part] == 0
            found = _bound_elements(network, slot, order[start:end], picked, regions.part(start, end), walk)
            low[start:end].scatter_reduce_(1, picked, found.lower.masked_fill(spare, -torch.inf), "amax")
            high[start:end].scatter_reduce_(1, picked, found.upper.masked_fill(spare, torch.inf), "amin")
        start = end
    shape = bound.lower.shape
    lower, upper = (
        t.flatten(1).index_copy(0, order, new).view(shape) for t, new in zip(bound, (low, high), strict=True)
    )
    return intersect(Interval(lower, upper), bound)


def _bound_elements(network: Network, slot: int, owner: Tensor, picked: Tensor, region: Region, walk: Walk) -> Interval:
    """Backward bounds of elements `picked` (R, K) of the value in `slot` on the boxes `owner` (R,): (R, K) each."""
    count = picked.shape[1]
    first, rows, bias = neuron_rows(network, slot, torch.cat([picked, picked], 1).flatten())
    rows, bias = rows.reshape(len(owner), 2 * count, *rows.shape[2:]), bias.view(len(owner), 2 * count)
    rows[:, count:].neg_()
    bias[:, count:].neg_()
    lower, upper = region.least(*walk(first, rows, bias, owner)).split(count, 1)
    return Interval(lower, upper.neg())
