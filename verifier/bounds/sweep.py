"""Bounds of a batch of boxes: a forward sweep for every intermediate value, backward rows where they pay.

One sweep visits the operators once. Before each non-linear operator the interval of its inputs is the intersection of
whatever the method computes: interval arithmetic, the affine form, backward rows for the neurons that are still
unstable. The planes chosen there serve all later backward rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.affine import (
    AffineForm,
    constant_form,
    intersect,
    interval_step,
    linear_step,
    relaxed_form,
)
from verifier.bounds.backward import AtInput, Region, neuron_rows, part_back
from verifier.bounds.centred import Centred
from verifier.bounds.copies import on_copies
from verifier.bounds.inputs import IdentityMap, InputMap
from verifier.bounds.network import Network
from verifier.bounds.products import Products
from verifier.bounds.rounding import Allowance
from verifier.bounds.sizes import size_on
from verifier.bounds.tiles import tiled, tiles
from verifier.budget import OutOfTime, never
from verifier.graph.ir import Shape
from verifier.ops.bilinear import Mul
from verifier.ops.elementwise import magnitude
from verifier.ops.kinds import Interval, LinearOp, Op, Relaxation, RelaxedOp
from verifier.ops.layout import Move
from verifier.ops.patch import Patch

ROW_ELEMENTS = {"cpu": 400_000, "cuda": 64_000_000}
"""What a chunk of backward rows may hold: on a CPU about a core's cache. Larger chunks wait for memory (5x50 network of
ACAS Xu's shape, 512 boxes: 0.25 to 0.5 million elements take less than half the time of 4 million), smaller ones
for the interpreter."""

LARGE_ROWS = {"cpu": 2_000_000, "cuda": 64_000_000}
"""The same where large convolutions are walked through one box at a time: few calls with many rows each."""


PROBE, MANY_ROWS, PAYS = 64, 512, 0.99
"""Of many rows over one value about `PROBE` are tried first, and the rest only where the intervals keep at most this
share of their width. (Large networks of Sign: 1.000 at every layer, where all rows take 230 s and the samples 3 s.)"""


ALL_ROWS = {"cpu": 0, "cuda": 256}
"""Elements of a value up to which all have rows: asking which need them waits for the device. (Chosen by counting
waits; no device has timed it.)"""

WHOLE = 0.9
"""Boxes of which at least this share have rows are walked through together, the others with rows that nobody reads."""


@dataclass(frozen=True)
class Method:
    """Which bounds are computed: `kind` names a method of `bound.METHODS`, and the rest says more of `crown`. `affine`
    needs few free inputs (`attribute`: with the noise in parts per input); `rows` refines unstable neurons by backward
    rows; output rows take `alpha_steps` steps of alpha-CROWN. Without `rigorous` backward rows and zonotopes do not pay
    for rounding, and what the search over neurons proposes counts as proven (forward affine forms pay as ever)."""

    kind: str = "crown"

    affine: bool = True
    attribute: bool = True
    rows: bool = False
    alpha_steps: int = 0
    row_elements: int | None = None  # elements of the temporaries of a chunk of backward rows; None: by device
    rigorous: bool = True

    @property
    def name(self) -> str:
        """The method's name in results."""
        if self.kind != "crown":
            return self.kind
        return ("alpha" if self.alpha_steps else "crown") if self.rows else "forward"


@dataclass(frozen=True, eq=False)
class Sweep:
    """What is known about a batch of boxes after the forward sweep.

    `pre[i]` intervals of the inputs of the non-linear operator i, `relaxations[i]` its planes, `output` the interval
    of the network's output (B, m), `unstable` (B,) how many neurons are not affine on the box. `reach[i]` tells
    how far each free input moves the inputs of operator i, (B, d, *S) >= 0 (empty without affine forms).
    `means` are the batch's mean counts of unstable neurons, by non-linear operator. `allowance` is what backward rows
    have to pay for rounding (None after a sweep in float32 alone, which proves nothing). `products` are what rows over
    the products of operator i lose together (empty without affine forms).
    """

    pre: dict[int, tuple[Interval, ...]]
    relaxations: dict[int, Relaxation]
    output: Interval
    unstable: Tensor
    reach: dict[int, tuple[Tensor, ...]]
    means: Tensor
    allowance: Allowance | None
    products: dict[int, Products]


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
    enough: Callable[[], bool] = never,
) -> Sweep:
    """Bounds every intermediate value on the parameter boxes (B, d) of queries (B,).

    With `exact`, the same network in float64, this one in float32 (`network.narrowed`) only computes the intervals,
    with every rounding allowed for; planes and costs are those of `exact`, and so is the type of everything in the
    result. With `centred` (of these boxes, whose parameters are the inputs) the rows of intermediate values are its.
    Once `enough()` says so no more rows are computed: what is left keeps the bounds of the forward sweep.

    Raises:
        OutOfTime: `stop()` said so.
    """
    box = Interval(lower, upper) if exact is None else narrow(Interval(lower, upper))
    walk = _Forward(network, box, query, inputs, method, stop, exact, centred, enough)
    output = walk.known(network.walk(walk.start(), walk.step))
    output = Interval(*(t.reshape(-1, network.m).expand(len(query), network.m) for t in output))
    return walk.result(output)


class _Value(NamedTuple):
    """What is known about a value, in one way or both."""

    form: AffineForm | None
    interval: Interval


@dataclass(eq=False)
class _Forward:
    """The rules of a sweep, and what it gathers (see `Sweep`)."""

    network: Network
    box: Interval
    query: Tensor
    inputs: InputMap
    method: Method
    stop: Callable[[], bool]
    exact: Network | None
    centred: Centred | None
    enough: Callable[[], bool]

    def __post_init__(self) -> None:
        self.region = Region.of(*self.box)
        rigorous = self.method.rigorous and (self.exact is not None or self.network.dtype == torch.float64)
        self.allowance = Allowance(self.network) if rigorous else None
        self.precise = self.allowance if self.exact is None or not rigorous else Allowance(self.exact)
        kept = (self.allowance,) if self.exact is None else (self.allowance, self.precise)
        self.allowances = [allowance for allowance in kept if allowance is not None]
        self.pre: dict[int, tuple[Interval, ...]] = {}
        self.relaxations: dict[int, Relaxation] = {}
        self.reach: dict[int, tuple[Tensor, ...]] = {}
        self.counts: dict[int, Tensor] = {}
        self.products: dict[int, tuple[AffineForm, ...]] = {}

    def start(self) -> _Value:
        """The boxes themselves."""
        mapped = not isinstance(self.inputs, IdentityMap)
        if self.method.affine or mapped:  # with one generator for each of very many inputs otherwise
            self.first = self.inputs.form(*self.box, self.query, self.method.attribute)
        interval = self.first.interval() if mapped else self.box
        return self._read(0, _Value(self.first if self.method.affine else None, interval))

    def step(self, i: int, op: Op, read: list[_Value]) -> _Value:
        """What is known after operator i.

        Raises:
            OutOfTime: `stop()` said so.
        """
        if self.stop():
            raise OutOfTime
        if isinstance(op, LinearOp):
            return self._read(i + 1, self._linear(i, op, read))
        assert isinstance(op, RelaxedOp)
        return self._read(i + 1, self._relaxed(i, op, read))

    def _read(self, slot: int, value: _Value) -> _Value:
        """Notes what it costs that several operators read a slot."""
        if (self.allowances or self.centred is not None) and self.network.readers(slot) > 1:
            for allowance in self.allowances:
                allowance.readers(slot, magnitude(value.interval))
            if self.centred is not None:
                self.centred.readers(slot, value.interval)
        return value

    def _linear(self, i: int, op: LinearOp, read: list[_Value]) -> _Value:
        forms = [value.form for value in read if value.form is not None]
        given = [value.interval for value in read]
        image = linear_step(op, forms, given)
        if self.allowances:
            reach = [magnitude(x) for x in given] if image.reach is None else image.reach
            for allowance in self.allowances:
                allowance.linear(i, reach, image.size if allowance is self.allowance else None)
        if self.centred is not None:
            self.centred.linear(i, given)
        form = image.form
        if form is None and self.method.affine:
            form = constant_form(op, self.first)
        return _Value(form, image.interval)

    def _relaxed(self, i: int, op: RelaxedOp, read: list[_Value]) -> _Value:
        forms = [value.form for value in read if value.form is not None]
        moves = tuple(form.moves() for form in forms)
        bounds = []
        for k, (slot, value) in enumerate(zip(self.network.sources[i], read, strict=True)):
            bound = self.known(value, moves[k] if moves else None)
            bounds.append(self._refined(i, slot, bound) if self.method.rows else bound)
        self.pre[i] = tuple(bounds)
        if self.allowances:
            reach = [magnitude(x) for x in bounds]
            for allowance in self.allowances:
                allowance.relaxed(i, reach)
        if self.centred is not None:
            self.centred.relaxed(i, bounds)
        self.counts[i] = op.unstable(*bounds).flatten(1).sum(1)
        form = None
        if forms:
            self.reach[i] = moves
            if isinstance(op, Mul):
                self.products[i] = tuple(forms)
            self.relaxations[i], parallel = op.relax_both(*bounds)
            form = relaxed_form(op, forms, bounds, moves, parallel, self.network.finite)
        else:
            self.relaxations[i] = op.relax(*bounds)
        if self.centred is not None:
            self.centred.relax(i, self.relaxations[i])
        return _Value(form, interval_step(op, bounds))

    def known(self, value: _Value, moves: Tensor | None = None) -> Interval:
        """The interval of a value."""
        form, interval = value
        if form is None:
            return interval
        # a form's bound that is no number says nothing; none of its infinities is on the wrong side
        own = form.interval(moves)
        lower, upper = torch.fmax(own.lower, interval.lower), torch.fmin(own.upper, interval.upper)
        return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))

    def _refined(self, i: int, slot: int, bound: Interval) -> Interval:
        """Backward rows for the elements of `slot` on which operator i is not affine; sparse over (box, neuron)."""
        if slot in self.network.sharp or (self.method.affine and not self.relaxations):
            return bound  # exact: an affine form is, as long as all operators are linear
        network, query, centred = self.network, self.query, self.centred

        def walk(first: int, rows: Tensor, bias: Tensor, owner: Tensor | None, part: Patch) -> AtInput:
            found = part_back(network, first, rows, bias, self.relaxations, owner, self.allowance, part)
            mine = query if owner is None else query[owner]
            pulled = self.inputs.pull(found.coefficients, found.bias, mine, found.part)
            identity = isinstance(self.inputs, IdentityMap)
            return AtInput(*pulled, found.part if identity else network.wholes[0])

        start, mask, first = slot, open_elements(network, i, slot, bound), bound
        if slot in network.needed and not (used := network.needed[slot]).full:
            inside = torch.zeros_like(mask[0]).index_fill_(0, used.places.to(mask.device), True)
            mask = mask & inside
        place: Tensor | None = None
        if slot > 0 and isinstance(network.ops[slot - 1], Move):
            start, places = network.origin(slot)
            if start != slot:
                place = places
                mask, first = _at_origin(mask, bound, place, network.shapes[start])
        table = LARGE_ROWS if centred is not None else ROW_ELEMENTS
        elements = self.method.row_elements or size_on(query.device, table)
        if centred is not None:
            box = Region.of(*centred.box)

            def rows_of(mask: Tensor, value: Interval) -> Interval:
                known = centred.deviation(start, value)
                found = intersect_rows(centred.network, start, known, mask, box, elements, self._enough, centred.walk)
                return centred.restored(start, found)

        else:

            def rows_of(mask: Tensor, value: Interval) -> Interval:
                return intersect_rows(network, start, value, mask, self.region, elements, self._enough, walk)

        if mask.shape[1] >= MANY_ROWS:
            sample = _sample(mask)
            found = rows_of(sample, first)
            mask, first = mask & ~sample & _gains(first, found, sample), intersect(found, first)
        found = rows_of(mask, first)
        return intersect(found if place is None else _repeated(found, place, bound), bound)

    def _enough(self) -> bool:
        if self.stop():
            raise OutOfTime
        return self.enough()

    def result(self, output: Interval) -> Sweep:
        """All of it, in the type of `exact` where that is given."""
        exact, every = self.exact, torch.stack([torch.zeros_like(self.query), *self.counts.values()])
        if exact is not None:
            wide = exact.dtype
            self.pre, self.relaxations = _widened(exact, self.pre)
            self.reach = {i: tuple(t.to(wide) for t in moves) for i, moves in self.reach.items()}
            output = Interval(*(t.to(wide) for t in output))
        products = {}
        if self.precise is not None:
            self.precise.output = magnitude(output)
            curved = _curved(self.products)
            products = {i: Products.of(i, forms, self.pre[i], self.precise) for i, forms in curved.items()}
        means = every[1:].double().mean(1)
        return Sweep(self.pre, self.relaxations, output, every.sum(0), self.reach, means, self.precise, products)


def _widened(
    exact: Network, pre: dict[int, tuple[Interval, ...]]
) -> tuple[dict[int, tuple[Interval, ...]], dict[int, Relaxation]]:
    """The arguments' intervals in the type of `exact`, and its planes there; of all ReLUs at once."""
    relus = list(exact.relus)
    wide = {i: tuple(Interval(*(t.to(exact.dtype) for t in x)) for x in pre[i]) for i in pre if i not in exact.relus}
    planes = {i: op.relax(*wide[i]) for i in wide if isinstance(op := exact.ops[i], RelaxedOp)}
    if relus:
        op, shapes = exact.ops[relus[0]], [pre[i][0].lower.shape for i in relus]
        assert isinstance(op, RelaxedOp)
        every = [
            torch.cat([t.flatten(1) for t in ends], 1).to(exact.dtype)
            for ends in zip(*(pre[i][0] for i in relus), strict=True)
        ]
        found = op.relax(Interval(*every))
        fields = found.lower_slopes[0], found.lower_offset, found.upper_slopes[0], found.upper_offset

        def parts(t: Tensor) -> list[Tensor]:
            return [p.view(s) for p, s in zip(t.split([s[1:].numel() for s in shapes], 1), shapes, strict=True)]

        wide.update({i: (Interval(*ends),) for i, *ends in zip(relus, *map(parts, every), strict=True)})
        for i, low, below, high, above in zip(relus, *map(parts, fields), strict=True):
            planes[i] = Relaxation((low,), below, (high,), above)
    return {i: wide[i] for i in pre}, planes


def _curved(products: dict[int, tuple[AffineForm, ...]]) -> dict[int, tuple[AffineForm, ...]]:
    """The products without those of which a factor is the same on all of each box: McCormick's planes lose next to
    nothing there."""
    if not products:
        return products
    moved = [torch.stack([(form.maps[:, 1:] != 0).any() for form in forms]).all() for forms in products.values()]
    return {i: products[i] for i, kept in zip(products, torch.stack(moved).tolist(), strict=True) if kept}


def narrow(bound: Interval) -> Interval:
    """An interval in float32, rounded outwards."""
    lower, upper = bound.lower.float(), bound.upper.float()
    inf = torch.full((), torch.inf, device=lower.device)
    return Interval(
        torch.where(lower.double() > bound.lower, torch.nextafter(lower, -inf), lower),
        torch.where(upper.double() < bound.upper, torch.nextafter(upper, inf), upper),
    )


def open_elements(network: Network, i: int, slot: int, bound: Interval) -> Tensor:
    """The elements (B, size) of the value in `slot` whose bounds matter to operator i: where it is not affine."""
    op = network.ops[i]
    assert isinstance(op, RelaxedOp)
    if len(network.sources[i]) == 1 and op.in_shapes[0] == op.out_shape:
        return op.unstable(bound).flatten(1)
    return (bound.upper > bound.lower).flatten(1)


def _sample(mask: Tensor) -> Tensor:
    """Of each row of a mask (B, size) with at least `MANY_ROWS` elements every so manieth, and all of the others."""
    rank = mask.cumsum(1)
    count = rank[:, -1:]
    stride = torch.where(count >= MANY_ROWS, count // PROBE, 1)
    return mask & (rank % stride == 0)


def _gains(before: Interval, after: Interval, sample: Tensor) -> Tensor:
    """The boxes (B, 1) whose sampled elements (B, size) lost at least `1 - PAYS` of their width, on average."""
    old, new = ((x.upper - x.lower).flatten(1) for x in (before, after))
    kept = torch.nan_to_num(new / old, nan=1.0, posinf=1.0)
    mean = torch.where(sample, kept, 0.0).sum(1, keepdim=True) / sample.sum(1, keepdim=True).clamp(min=1)
    return mean <= PAYS


def _at_origin(mask: Tensor, bound: Interval, place: Tensor, shape: Shape) -> tuple[Tensor, Interval]:
    """A mask (B, size) and the interval of a value as those of the value (B, *shape) whose elements it repeats, element
    e that at `place[e]`, -1 for none."""
    used = (place >= 0).nonzero()[:, 0]
    at = place[used].expand(len(mask), -1)
    count = math.prod(shape)

    def gathered(t: Tensor, start: float | bool, how: str) -> Tensor:
        return t.new_full((len(t), count), start).scatter_reduce_(1, at, t.flatten(1)[:, used], how)

    first = Interval(gathered(bound.lower, -torch.inf, "amax"), gathered(bound.upper, torch.inf, "amin"))
    wanted = gathered(mask.to(torch.uint8), 0, "amax").bool()
    return wanted, Interval(*(t.view(-1, *shape) for t in first))


def _repeated(first: Interval, place: Tensor, bound: Interval) -> Interval:
    """The way back: elements at `place`, in the shape of `bound` and its own where there is none."""
    return Interval(
        *(
            torch.where(place < 0, own.flatten(1), t.flatten(1)[:, place]).view_as(own)
            for t, own in zip(first, bound, strict=True)
        )
    )


Walk = Callable[[int, Tensor, Tensor, Tensor | None, Patch], AtInput]


def intersect_rows(
    network: Network,
    slot: int,
    bound: Interval,
    mask: Tensor,
    region: Region,
    elements: int,
    enough: Callable[[], bool],
    walk: Walk,
) -> Interval:
    """`bound` of the value in `slot` intersected with backward rows for its elements in `mask` (B, size), as many at a
    time as have `elements` elements, until `enough()` says so.

    `walk(slot, rows, bias, owner, part)` takes rows (R, K, *shape) over a part of a value to the parameters of the
    boxes `owner` (R,), None for all.
    """
    tiling = tiles(network, slot, int(mask.sum()) if tiled(network, slot) else 1, elements)
    chunk = tiling.chunk(elements)
    if tiling.parts[0].full:
        return _intersect_part(network, slot, bound, mask, region, chunk, enough, walk, tiling.parts[0])
    whole = [t.flatten(1) for t in bound]  # parts may be views of it: what is written to is another tensor
    lower, upper = (t.clone() for t in whole)

    def tile(part: Patch) -> Interval | None:
        if enough():
            return None
        own = Interval(*map(part.select, whole))
        found = _intersect_part(network, slot, own, part.select(mask), region, chunk, enough, walk, part)
        return None if found is own else found

    for part, found in zip(tiling.parts, on_copies(tile, tiling.parts), strict=True):
        if found is not None:
            for t, new in zip((lower, upper), found, strict=True):
                t.index_copy_(1, part.places.to(mask.device), new)
    return Interval(lower.view_as(bound.lower), upper.view_as(bound.upper))


def _intersect_part(
    network: Network,
    slot: int,
    bound: Interval,
    mask: Tensor,
    region: Region,
    chunk: int,
    enough: Callable[[], bool],
    walk: Walk,
    part: Patch,
) -> Interval:
    """`intersect_rows` for a part of the value, which `bound` and `mask` are of, `chunk` elements at a time."""
    most = mask.shape[1]
    if most <= size_on(mask.device, ALL_ROWS) and len(mask) * most <= chunk:
        picked = torch.arange(most, device=mask.device).expand(len(mask), -1)
        return bound if enough() else _intersect_all(network, slot, bound, picked, None, region, walk, part)
    counts = mask.sum(1)
    sizes = sorted((size for size in counts.tolist() if size > 0), reverse=True)
    if not sizes:
        return bound
    if len(mask) * sizes[0] <= chunk and len(sizes) >= WHOLE * len(mask):
        wanted = mask.to(torch.int8).sort(dim=1, descending=True, stable=True)
        picked, spare = wanted.indices[:, : sizes[0]], wanted.values[:, : sizes[0]] == 0
        return bound if enough() else _intersect_all(network, slot, bound, picked, spare, region, walk, part)
    # boxes with about equally many rows side by side; the padding repeats elements that are not in the mask
    order = counts.argsort(descending=True)[: len(sizes)]
    wanted = mask.index_select(0, order).to(torch.int8).sort(dim=1, descending=True, stable=True)
    spare = wanted.values == 0
    both = torch.stack([bound.lower.flatten(1), -bound.upper.flatten(1)], 1)  # lower bounds of z and of -z
    best, regions = both.index_select(0, order), region.select(order)
    blocks, start = [], 0
    while start < len(sizes):
        end = min(len(sizes), start + max(1, chunk // sizes[start]))
        blocks += [(start, end, slice(k, min(k + chunk, sizes[start]))) for k in range(0, sizes[start], chunk)]
        start = end

    def least(block: tuple[int, int, slice]) -> Tensor | None:
        first, last, columns = block
        if enough():
            return None
        picked, owner = wanted.indices[first:last, columns], order[first:last]
        found = _both_sides(network, slot, owner, picked, regions.slice(first, last), walk, part)
        return found.masked_fill(spare[first:last, None, columns], -torch.inf)

    for (first, last, columns), found in zip(blocks, on_copies(least, blocks), strict=True):
        if found is not None:
            picked = wanted.indices[first:last, None, columns].expand_as(found)
            best[first:last].scatter_reduce_(2, picked, found, "amax")
    lower, upper = both.index_copy(0, order, best).view(-1, 2, *bound.lower.shape[1:]).unbind(1)
    upper = upper.neg()
    # rounding may make them cross by an ulp where nothing is proven (float32): a point's hull then
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


def _intersect_all(
    network: Network,
    slot: int,
    bound: Interval,
    picked: Tensor,
    spare: Tensor | None,
    region: Region,
    walk: Walk,
    part: Patch,
) -> Interval:
    """`_intersect_part` of all boxes in one walk for elements `picked` (B, K), but for those that are `spare`."""
    found = _both_sides(network, slot, None, picked, region, walk, part)
    if spare is not None:
        found = found.masked_fill_(spare[:, None], -torch.inf)
    lower = bound.lower.flatten(1).scatter_reduce(1, picked, found[:, 0], "amax").view_as(bound.lower)
    upper = bound.upper.flatten(1).scatter_reduce(1, picked, found[:, 1].neg(), "amin").view_as(bound.upper)
    return Interval(torch.minimum(lower, upper), torch.maximum(lower, upper))


def _both_sides(
    network: Network, slot: int, owner: Tensor | None, picked: Tensor, region: Region, walk: Walk, part: Patch
) -> Tensor:
    """Backward lower bounds of elements `picked` (R, K) of a part of the value in `slot` on the boxes `owner` (R,),
    None for all, and of their negatives: (R, 2, K)."""
    count = picked.shape[1]
    twice = torch.cat([picked, picked], 1)
    first, rows, bias = neuron_rows(network, slot, twice.flatten(), part)
    rows, bias = rows.reshape(*twice.shape, *rows.shape[2:]), bias.view(twice.shape)
    rows[:, count:].neg_()
    bias[:, count:].neg_()
    found = walk(first, rows, bias, owner, part if first == slot else network.wholes[first])
    return region.on(found.part).least(found.coefficients, found.bias).unflatten(1, (2, count))
