"""Rigorous bounds over boxes, in float64 with an allowance for every operation (docs/certificates.md has the lemmas).

Forwards, `sweep` encloses every value in an interval and, for few varying inputs, in an affine form

    x  in  centre + sum_j maps_j e_j + [-radius, radius],    e_j in [-1, 1],

whose radius takes up what is not linear and what is rounded. Backwards, `walk` turns a row over some value into a
linear lower bound over the inputs (CROWN, Zhang et al. 2018); for y = W x + c computed rows are off by at most
gamma |row| |W| |x|, so |row| . (gamma |W| |x| + gamma |c|) is taken off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from verifier.checker.curves import Curve, Largest, Piecewise
from verifier.checker.errors import Unreadable
from verifier.checker.linear import TINY, UNIT, Array, Linear, Shape, gamma, spread_out
from verifier.checker.network import CheckedNetwork

SAFE = 1 + 2.0**-20
"""Makes up for the rounding of a sum of up to 2**30 positive numbers."""

MOST_FORMS = 32
"""This many inputs, the widest, have a map of their own in affine forms."""

MOST_NUMBERS = 1 << 27
"""Numbers in the maps of the affine forms that are held for one box at a time, at most."""

CHUNK = 1 << 17
"""Elements of one array of rows, at most (larger ones come in parts); about what a core's cache holds."""

Signs = Sequence[Sequence[tuple[int, int, int]]]
"""Per box: (value of the Relu, flat neuron, side); side 1 says that its argument is >= 0, -1 that it is <= 0."""


@dataclass(eq=False)
class AffineForms:
    """B affine forms: `centre`, `radius` (B, *S), `maps` (B, d, *S); intervals are those without maps."""

    centre: Array
    maps: Array
    radius: Array

    @staticmethod
    def between(low: Array, high: Array) -> AffineForms:
        centre = low / 2 + high / 2
        radius = np.maximum(high - centre, centre - low) * (1 + 4 * UNIT) + TINY
        return AffineForms(centre, np.zeros((len(low), 0, *low.shape[1:])), radius)

    def padded(self, count: int) -> AffineForms:
        """The same over more e_j: later ones do not occur in it."""
        b, d, *shape = self.maps.shape
        if d == count:
            return self
        return AffineForms(self.centre, np.concatenate([self.maps, np.zeros((b, count - d, *shape))], 1), self.radius)

    @cached_property
    def reach(self) -> Array:
        """sum_j |maps_j| + radius, rounded."""
        total, step = self.radius, max(1, CHUNK // max(1, self.radius.size))
        for at in range(0, self.maps.shape[1], step):
            total = total + np.abs(self.maps[:, at : at + step]).sum(1)
        return total

    def size(self) -> Array:
        return np.abs(self.centre) + self.reach

    def interval(self) -> tuple[Array, Array]:
        room = self.size() * gamma(self.maps.shape[1]) + TINY
        return self.centre - self.reach - room, self.centre + self.reach + room

    def least(self, rows: Array, boxes: Array) -> tuple[Array, Array]:
        """Lower bounds (B, K) of rows (B, K, m) over a flat value of `boxes` (B,), and what rounding cost."""
        size, (d, m) = np.abs(rows), self.maps.shape[1:]
        centre = _dot(rows, self.centre[boxes])
        spread = np.abs(np.matmul(rows, self.maps[boxes].swapaxes(1, 2))).sum(2) + _dot(size, self.radius[boxes])
        error = _dot(size, self.size()[boxes]) * (2 * gamma(m + d)) + TINY * (m + d) * 8
        return centre - spread - error, error


def _dot(rows: Array, values: Array) -> Array:
    """Rows (B, K, m) times values (B, m)."""
    return np.matmul(rows, values[:, :, None])[:, :, 0]


@dataclass(eq=False)
class Enclosures:
    """Intervals of every value over B boxes: `low[v]`, `high[v]`, (B, *S); `charge[v]` per unit of |row|; `empty` (B,)
    where the decided signs contradict the bounds, so that the part of the box has no point; `floor` (B,) what
    underflow can take off a walk; `planes[v]` linear bounds of what is not linear: lower slope, lower offset, upper
    slope, upper offset, or the winner and the width of a maximum, each (B, ..); `form` encloses the output."""

    network: CheckedNetwork
    low: list[Array] = field(default_factory=list)
    high: list[Array] = field(default_factory=list)
    charge: list[Array | None] = field(default_factory=list)
    planes: dict[int, tuple[Array, ...]] = field(default_factory=dict)
    empty: Array = field(default_factory=lambda: np.zeros(0, bool))
    floor: Array = field(default_factory=lambda: np.zeros(0))
    form: AffineForms | None = None

    def size(self, v: int) -> Array:
        """Magnitudes of value v."""
        return np.maximum(np.abs(self.low[v]), np.abs(self.high[v]))

    def plane(self, v: int) -> tuple[Array, ...]:
        """`planes[v]`, made when it is first asked for."""
        if v not in self.planes:
            self.planes[v] = self.new_plane(v)
        return self.planes[v]

    def new_plane(self, v: int, alpha: Array | None = None) -> tuple[Array, ...]:
        """`alpha` (B, *S) in [0, 1] are lower slopes of a Relu at neurons whose sign is open."""
        op = self.network.nodes[v]
        assert isinstance(op, Curve | Largest)
        low, high = self.low[op.sources[0]], self.high[op.sources[0]]
        if isinstance(op, Largest):
            return _winner(low, high)
        lower, upper = op.slopes(low, high)
        if alpha is not None and isinstance(op, Piecewise) and op.is_relu:
            lower = np.where((low < 0) & (high > 0), alpha, lower)
        return lower, op.residual(lower, low, high)[0], upper, op.residual(upper, low, high)[1]

    def clamp(self, v: int, signs: Signs, ends: Sequence[tuple[Array, Array] | None] = ()) -> None:
        """Cuts the arguments of operator v at 0 where neurons of it are decided, and at the `ends` of each box."""
        source = self.network.argument(v)
        mine = [(b, k, side) for b, decided in enumerate(signs) for at, k, side in decided if at == v]
        if not mine and not any(ends):
            return
        flat = [t[source].reshape(len(self.empty), -1).copy() for t in (self.low, self.high)]
        for b, own in enumerate(ends):
            if own is not None:
                flat[0][b], flat[1][b] = np.maximum(flat[0][b], own[0]), np.minimum(flat[1][b], own[1])
        for b, k, side in mine:
            end, met = (flat[0], max) if side > 0 else (flat[1], min)
            end[b, k] = met(end[b, k], 0.0)
        crossed = flat[0] > flat[1]
        self.empty = self.empty | crossed.any(1)
        flat[0][crossed] = flat[1][crossed] = 0.0
        self.low[source], self.high[source] = (t.reshape(self.low[source].shape) for t in flat)


def sweep(
    network: CheckedNetwork, lower: Array, upper: Array, signs: Signs = (), rows: bool = False, symbols: bool = False
) -> Enclosures:
    """Intervals of all values over the boxes `lower`, `upper` (B, n); `signs` clamp the arguments of decided neurons,
    `rows` asks for backward rows for every argument of a non-linear operator, too, `symbols` for an e_j of its own for
    every neuron that is not linear, instead of a part of the radius (one box only)."""
    b = len(lower)
    # every step of a walk loses less than 8 TINY a number that it reads or makes
    numbers = sum(math.prod(network.shapes[i]) for v, op in enumerate(network.nodes) if op for i in (v, *op.sources))
    floor = np.full(b, (numbers + network.inputs) * 8 * TINY)
    out = Enclosures(network, [lower], [upper], [None], empty=np.zeros(b, bool), floor=floor)
    width = (upper - lower).max(0, initial=0.0)
    free = np.flatnonzero(width > 0)
    many = len(free) > MOST_FORMS
    if many:  # the rest is noise: the rounding of fixed inputs, say
        free = np.sort(np.argsort(-width, kind="stable")[:MOST_FORMS])
    forms: list[AffineForms | None] = [None if rows and many else _start(lower, upper, free)]
    curved = False
    last = {s: v for v, op in enumerate(network.nodes) if op is not None for s in op.sources}
    for v, op in enumerate(network.nodes):
        if op is None:
            continue
        if isinstance(op, Linear):
            _linear(out, forms, op)
        else:
            source = op.sources[0]
            if rows and (curved or forms[source] is None):  # affine forms are exact up to the first curve
                _tighten(out, source)
            curved = True
            if isinstance(op, Curve):
                out.clamp(v, signs)
                _curve(out, forms, op, symbols)
            else:
                _largest(out, forms, op)
        for s in op.sources:
            if last[s] == v and s != network.output:  # no later operator reads it
                forms[s] = None
    out.form = forms[network.output]
    return out


def _start(lower: Array, upper: Array, free: Array) -> AffineForms:
    form = AffineForms.between(lower, upper)
    form.maps = np.zeros((len(lower), len(free), lower.shape[1]))
    form.maps[:, np.arange(len(free)), free] = form.radius[:, free]
    form.radius[:, free] = 0
    return form


def _reserve(forms: Sequence[AffineForms | None], count: int, shapes: Sequence[Shape]) -> None:
    """Room for `count` more maps of each of the `shapes`.

    Raises:
        Unreadable: they would be too many.
    """
    held = sum(math.prod(f.maps.shape[1:]) for f in forms if f is not None)
    total = held + count * sum(math.prod(s) for s in shapes)
    if total > MOST_NUMBERS:
        raise Unreadable(
            f"affine forms of {total} numbers for one box, this checker holds at most {MOST_NUMBERS}: the network is "
            "too large for intervals of this kind"
        )


def _put(out: Enclosures, form: AffineForms | None, low: Array, high: Array, charge: Array | None = None) -> None:
    if form is not None:
        below, above = form.interval()
        low, high = np.maximum(low, below), np.minimum(high, above)
        low, high = np.minimum(low, high), np.maximum(low, high)  # crossed: no point there, any interval is right
    out.low.append(low)
    out.high.append(high)
    out.charge.append(charge)


def _linear(out: Enclosures, forms: list[AffineForms | None], op: Linear) -> None:
    parts = [forms[s] for s in op.sources]
    intervals = [AffineForms.between(out.low[s], out.high[s]) for s in op.sources]
    known = [f for f in parts if f is not None]
    with_forms = len(known) == len(parts)
    sizes = [out.size(s) for s in op.sources]
    if with_forms:
        sizes = [np.maximum(f.size(), s) for f, s in zip(known, sizes, strict=True)]
    lost = op.terms * TINY * 8
    charge = op.spread(sizes) * (2.5 * gamma(op.terms)) + lost
    if op.offset is not None:
        charge = charge + np.abs(op.offset) * gamma(math.prod(op.shape))
    form = None
    if with_forms:
        most = max(f.maps.shape[1] for f in known)
        _reserve(forms, most, [op.shape, *(f.centre.shape[1:] for f in known)])
        form = _image(op, [f.padded(most) for f in known], charge + most * lost)
    forms.append(form)
    out.floor = out.floor + sum(s.reshape(len(s), -1).sum(1) for s in sizes) * lost
    _put(out, form, *_image(op, intervals, charge).interval(), charge)


def _image(op: Linear, forms: Sequence[AffineForms], charge: Array) -> AffineForms:
    """What an operator makes of forms over the same e_j; `charge` is what rounding costs."""
    b, d = forms[0].maps.shape[:2]
    centre = op.forward([f.centre for f in forms])
    centre = centre if op.offset is None else centre + op.offset
    maps = np.zeros((b, 0, *op.shape))
    if d:
        maps = op.forward([f.maps.reshape(b * d, *f.maps.shape[2:]) for f in forms]).reshape(b, d, *op.shape)
    return AffineForms(centre, maps, (op.spread([f.radius for f in forms]) + charge) * (1 + 8 * UNIT))


def _curve(out: Enclosures, forms: list[AffineForms | None], op: Curve, symbols: bool) -> None:
    source = op.sources[0]
    low, high = out.low[source], out.high[source]
    form = forms[source]
    if form is not None:
        count = form.maps.shape[1]
        _reserve(forms, count, [op.shape])
        slope = op.slopes(low, high)[1]
        least, most = op.residual(slope, low, high)
        shift = least / 2 + most / 2
        noise = np.maximum(most - shift, shift - least)
        room = (np.abs(slope) * form.size() + np.abs(shift) + noise) * (8 * UNIT) + TINY * (4 + count)
        straight = (least == 0) & (most == 0)
        exact, zero = straight & (slope == 1), straight & (slope == 0)
        if symbols:
            known = max(f.maps.shape[1] for f in forms if f is not None)
            new = np.flatnonzero(np.isfinite(noise) & (noise > 0) & ~exact & ~zero)
            _reserve(forms, known + len(new), [op.shape])
            maps = np.zeros((1, known + len(new), *op.shape))
            maps.reshape(-1, noise.size)[known + np.arange(len(new)), new] = noise.reshape(-1)[new]
            np.multiply(slope, form.maps[0], out=maps[0, :count])
            noise = np.where(np.isfinite(noise), 0.0, noise)
        else:
            maps = slope[:, None] * form.maps
        radius = np.where(zero, 0.0, np.abs(slope) * form.radius + np.where(exact, 0.0, noise + room))
        form = AffineForms(slope * form.centre + shift, maps, radius)
    forms.append(form)
    _put(out, form, *op.range(low, high))
    # rows: two products a coefficient
    out.floor = out.floor + out.size(source).reshape(len(low), -1).sum(1) * (8 * TINY)


def _largest(out: Enclosures, forms: list[AffineForms | None], op: Largest) -> None:
    low, high = out.low[op.sources[0]], out.high[op.sources[0]]
    best, width = _winner(low, high)
    form = forms[op.sources[0]]
    if form is not None:
        centre, own = (np.take_along_axis(t, best, -1)[..., 0] for t in (form.centre, form.radius))
        maps = np.take_along_axis(form.maps, np.broadcast_to(best[:, None], (*form.maps.shape[:-1], 1)), -1)[..., 0]
        radius = own + width / 2
        radius = np.where(width == 0, own, radius + (np.abs(centre) + width / 2 + radius) * (4 * UNIT))
        form = AffineForms(centre + width / 2, maps, radius)
    forms.append(form)
    _put(out, form, low.max(-1), high.max(-1))


def _winner(low: Array, high: Array) -> tuple[Array, Array]:
    """The element with the largest lower bound, (.., 1), and by how much the maximum may exceed it (rounded up)."""
    best = low.argmax(-1)[..., None]
    others = high.copy()
    np.put_along_axis(others, best, -np.inf, -1)
    most, own = others.max(-1), np.take_along_axis(low, best, -1)[..., 0]
    with np.errstate(invalid="ignore"):
        over = np.where(most > own, most - own, 0.0)
    return best, np.where(over > 0, over * (1 + 4 * UNIT) + TINY, np.where(np.isnan(most + own), np.nan, 0.0))


def _tighten(out: Enclosures, source: int) -> None:
    """Meets the interval of `source` with what backward rows say, element by element where 0 lies inside."""
    shape = out.low[source].shape
    low, high = (t[source].reshape(len(t[source]), -1).copy() for t in (out.low, out.high))
    boxes, elements = np.nonzero((low < 0) & (high > 0))
    for side, bound, met in ((1.0, low, np.maximum), (-1.0, high, np.minimum)):
        found = bound_rows(out, boxes, unit_rows(elements, side), source).low * side
        bound[boxes, elements] = met(bound[boxes, elements], found)
    out.low[source], out.high[source] = (m(low, high).reshape(shape) for m in (np.minimum, np.maximum))


RowWriter = Callable[[Array, Array, Array], None]
"""Writes rows `part` (p,) to the places `at` (p,) of an array of zeros (.., size of the value)."""


def unit_rows(elements: Array, side: float) -> RowWriter:
    """Rows that are `side` at one of the `elements` (P,) each."""

    def write(out: Array, at: Array, part: Array) -> None:
        out[at, elements[part]] = side

    return write


def dense_rows(rows: Array) -> RowWriter:
    """The rows (P, size)."""

    def write(out: Array, at: Array, part: Array) -> None:
        out[at] = rows[part]

    return write


@dataclass(eq=False)
class RowBounds:
    """Lower bounds `low` of rows, what was taken off for rounding in them, `error`, and `coefficients` (.., n) of the
    linear function that it is the minimum of (0 where something cheaper was enough)."""

    low: Array
    error: Array
    coefficients: Array


Pulls = Mapping[int, Mapping[int, Sequence[tuple[int, float]]]]
"""By Relu and box: (neuron, c), c times the argument of that neuron is <= 0 wherever it keeps its decided sign."""


def bound_rows(
    swept: Enclosures,
    owner: Array,
    rows: RowWriter,
    start: int,
    *,
    inputs: Array | None = None,
    pulls: Pulls | None = None,
    target: Array | None = None,
    linear: bool = False,
) -> RowBounds:
    """Lower bounds of P `rows` over value `start`, each on its box `owner` (P,) of the sweep. `inputs` (P, n) are rows
    over the inputs that are added. With `pulls` every row is helped by the decided neurons of its box. What exceeds its
    `target` with something to spare is not walked any further. Coefficients are kept with `linear`."""
    count, network = len(owner), swept.network
    low, error = np.full(count, -np.inf), np.zeros(count)
    coefficients = np.zeros((count if linear else 0, network.inputs))
    for boxes, index in packs(owner, max(16, CHUNK // max(math.prod(s) for s in network.shapes))):
        mine = index >= 0
        part, extra, goal = index[mine], None, np.full(index.shape, -np.inf)
        goal[mine] = np.inf if target is None else target[part]
        laid = np.zeros((index.size, math.prod(network.shapes[start])))
        rows(laid, np.flatnonzero(mine), part)
        laid = laid.reshape(*index.shape, -1)
        if inputs is not None:
            extra = np.zeros((*index.shape, network.inputs))
            extra[mine] = inputs[part]
        if swept.form is not None and start == network.output:  # the output's own form may be enough
            one, off = swept.form.least(laid, boxes)
            enough = (one - off > goal) & (True if extra is None else ~extra.any(2))
            known = index[mine & enough]
            low[known], error[known] = one[mine & enough], off[mine & enough]
            mine &= ~enough
        rest = np.flatnonzero(mine.any(1))
        if len(rest):
            if len(rest) < len(boxes):
                boxes, laid, goal = boxes[rest], laid[rest], goal[rest]
                extra = None if extra is None else extra[rest]
            found = walk(swept, boxes, laid, start, extra, pulls, goal)
            part, mine = index[mine], mine[rest]
            low[part], error[part] = found.low[mine], found.error[mine]
            if linear:
                coefficients[part] = found.coefficients[mine]
    return RowBounds(low, error, coefficients)


def packs(owner: Array, most: int) -> Iterator[tuple[Array, Array]]:
    """Rows of boxes `owner` (P,) in batches of at most `most`: boxes (B,) and the numbers of their rows (B, K), -1
    where a box has fewer."""
    order = np.argsort(owner, kind="stable")
    _, first, count = np.unique(owner[order], return_index=True, return_counts=True)
    # a box with more rows than fit comes in several parts
    runs = [(f + at, min(most, c - at)) for f, c in zip(first, count, strict=True) for at in range(0, c, most)]
    runs.sort(key=lambda run: -run[1])
    while runs:
        width = int(runs[0][1])
        mine, runs = runs[: max(1, most // width)], runs[max(1, most // width) :]
        start, size = (np.array([run[i] for run in mine])[:, None] for i in (0, 1))
        place = np.arange(width)[None]
        index = np.where(place < size, order[np.minimum(start + place, len(order) - 1)], -1)
        yield owner[index[:, 0]], index


def walk(
    swept: Enclosures,
    boxes: Array,
    rows: Array,
    start: int,
    inputs: Array | None = None,
    pulls: Pulls | None = None,
    goal: Array | float = math.inf,
) -> RowBounds:
    """Lower bounds of rows (B, K, size) over value `start`, plus rows `inputs` (B, K, n) over the inputs, on the boxes
    `boxes` (B,) of the sweep. Where intervals of the first value that a non-linear operator makes are enough for the
    `goal`, the bound is from them. What rounding costs is taken off; a bound that is not finite is -inf."""
    network = swept.network
    count = rows.shape[:2]
    live = np.flatnonzero(rows.any((0, 1)))  # rows stand over few elements where layers hang together by few weights
    waiting: dict[int, tuple[Array, Array | None]] = {start: (rows, None)}
    if 2 * len(live) < rows.shape[2]:
        waiting[start] = rows[:, :, live], live
    if inputs is not None:
        waiting[0] = inputs, None
    bias, error = np.zeros(count), np.repeat(swept.floor[boxes][:, None] * 4, count[1], 1)

    at: Array | None = None

    def take(per_box: Array) -> Array:
        """(B or 1, size), at the elements that the row stands over."""
        mine = per_box if len(per_box) == 1 else per_box[boxes]
        mine = mine.reshape(len(mine), -1)
        return mine if at is None else mine[:, at]

    def reach(v: int) -> Array:
        return np.maximum(np.abs(take(swept.low[v])), np.abs(take(swept.high[v])))

    def least(v: int, row: Array) -> tuple[Array, Array]:
        """The least value of row and bias over the interval of value v, and what rounding costs."""
        low = _dot(np.maximum(row, 0), take(swept.low[v])) + _dot(np.minimum(row, 0), take(swept.high[v]))
        lost = error + _dot(np.abs(row), reach(v)) * gamma(row.shape[2])
        lost = lost + (np.abs(low) + np.abs(bias)) * (4 * UNIT)
        total = low + bias - lost * SAFE
        return np.where(np.isfinite(total), total, -np.inf), lost

    def whole(v: int, row: Array, at: Array | None) -> Array:
        return spread_out(row, at, math.prod(network.shapes[v]))

    def add(v: int, row: Array, where: Array | None) -> None:
        nonlocal error, at
        if v in waiting:
            row, other, where, at = whole(v, row, where), whole(v, *waiting[v]), None, None
            error = error + _dot(np.abs(other) + np.abs(row), reach(v)) * (2 * UNIT)
            row = other + row
        waiting[v] = row, where

    early: Array | None = None
    for v in range(start, 0, -1):
        if v not in waiting:
            continue
        row, at = waiting.pop(v)
        op = network.nodes[v]
        assert op is not None
        if at is not None and (isinstance(op, Largest) or (pulls and v in pulls)):
            row, at = whole(v, row, at), None
        size = np.abs(row)
        if isinstance(op, Linear):
            charge = swept.charge[v]
            assert charge is not None
            error = error + _dot(size, take(charge))
            if op.offset is not None:
                bias = bias + row @ take(np.broadcast_to(op.offset, (1, *op.shape)))[0]
                error = error + np.abs(bias) * (2 * UNIT)
            parts = op.adjoint_at(row.reshape(math.prod(count), row.shape[2]), at)
            for source, (part, where) in zip(op.sources, parts, strict=True):
                add(source, part.reshape(*count, -1), where)
            continue
        if early is None:
            early = least(v, row)[0] if not waiting else np.full(count, -np.inf)
        source = op.sources[0]
        up, down = np.maximum(row, 0), np.minimum(row, 0)
        terms = row.shape[2]
        if isinstance(op, Largest):
            best, width = swept.plane(v)
            # max >= x_best; and max <= x_best + width
            back = np.zeros((*count, terms, network.shapes[source][-1]))
            place = np.broadcast_to(take(best)[:, None, :, None], (*row.shape, 1))
            np.put_along_axis(back, place, row[..., None], -1)
            back, shift, worst = back.reshape(*count, -1), _dot(down, take(width)), take(width)
        else:
            lower, below, upper, above = (take(t) for t in swept.plane(v))
            shift, worst = _dot(up, below) + _dot(down, above), np.maximum(np.abs(below), np.abs(above))
            slope = np.maximum(np.abs(lower), np.abs(upper))
            error = error + _dot(size, slope * reach(source) * (2 * UNIT))
            up *= lower[:, None]
            down *= upper[:, None]
            back = np.add(up, down, out=up)
        bias = bias + shift
        error = error + _dot(size, worst) * gamma(terms) + np.abs(bias) * (2 * UNIT) + terms * TINY
        if pulls and v in pulls:
            sizes = reach(source)
            for b, box in enumerate(boxes.tolist()):
                for neuron, c in pulls[v].get(box, ()):
                    back[b, :, neuron] += c
                    error[b] += np.abs(back[b, :, neuron]) * sizes[b if len(sizes) > 1 else 0, neuron] * (2 * UNIT)
        add(source, back, at)
    row, at = waiting.get(0, (np.zeros((*count, 0)), np.zeros(0, np.int64)))
    row, at = whole(0, row, at), None
    low, error = least(0, row)
    if early is not None:
        enough = early - error > goal
    if early is not None and enough.any():
        low, row = np.where(enough, early, low), np.where(enough[:, :, None], 0.0, row)
    return RowBounds(low, error, row)
