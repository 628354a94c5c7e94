"""Rigorous bounds over boxes, with an allowance for every operation (docs/certificates.md has the lemmas).

Forwards, `sweep` encloses every value in an interval and, for few varying inputs, in an affine form

    x  in  centre + sum_j maps_j e_j + [-radius, radius],    e_j in [-1, 1],

whose radius takes up what is not linear and what is rounded. Backwards, `walk` turns a row over some value into a
linear lower bound over the inputs (CROWN, Zhang et al. 2018); for y = W x + c computed rows are off by at most
gamma |row| |W| |x|, so |row| . (gamma |W| |x| + gamma |c|) is taken off. In fractions the allowances are 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from verifier.checker.curves import Curve
from verifier.checker.errors import Unreadable
from verifier.checker.format import FORMS, ROWS, SYMBOLS
from verifier.checker.linear import CHUNK, FLOATS, MOST_NUMBERS, Arithmetic, Array, Gather, Linear, spread_out
from verifier.checker.network import CheckedNetwork

SAFE = 2**33
"""So many units make up for the rounding of a sum of up to 2**30 positive numbers."""

MOST_FORMS = 32
"""This many inputs, the widest, have a map of their own in affine forms."""

Signs = Sequence[Sequence[tuple[int, int, int]]]
"""Per box: (value of the Relu, neuron, side); side 1 says that its argument is >= 0, -1 that it is <= 0."""

Pulls = Mapping[int, Array]
"""By Relu c (B, m): c times the argument of a neuron is <= 0 wherever it keeps its decided sign; 0 for others."""

RowMaker = Callable[[Array], Array]
"""Those of some numbers (P,), when they are asked for: (P, m)."""

KnownEnds = Callable[[int], tuple[Array, Array]] | None
"""An interval of a value that holds as well."""

Cuts = tuple[Array, Array, Array, Array]
"""On boxes (L,), of the arguments z of neurons (L,):  side z >= least,  (L,) each."""


def cuts(found: Sequence[tuple[int, int, int, float]]) -> list[Cuts]:
    """These as arrays."""
    if not found:
        return []
    box, neuron, side, least = map(np.array, zip(*found, strict=True))
    return [(box, neuron, side, least)]


def decided(signs: Signs, v: int) -> list[Cuts]:
    """What signs say of the arguments of operator v."""
    return cuts([(b, k, side, 0) for b, own in enumerate(signs) for at, k, side in own if at == v])


@dataclass(eq=False)
class AffineForms:
    """B affine forms: `centre`, `radius` (B, m), `maps` (B, d, m); intervals are those without maps."""

    centre: Array
    maps: Array
    radius: Array
    arithmetic: Arithmetic = FLOATS

    @staticmethod
    def between(low: Array, high: Array, arithmetic: Arithmetic = FLOATS) -> AffineForms:
        centre = low / 2 + high / 2
        radius = np.maximum(high - centre, centre - low) * (1 + 4 * arithmetic.unit) + arithmetic.tiny
        return AffineForms(centre, arithmetic.zeros(len(low), 0, low.shape[1]), radius, arithmetic)

    @staticmethod
    def joined(argument: Gather, forms: Sequence[AffineForms | None]) -> AffineForms | None:
        """Of what an argument reads, values with these forms; later e_j do not occur in shorter ones."""
        known = {v: form for v in argument.sources if (form := forms[v]) is not None}
        if len(known) < len(argument.sources):
            return None
        if len(known) == 1:
            return known[argument.sources[0]]
        d = max(form.maps.shape[1] for form in known.values())
        room(forms, d, sum(size for _, size in argument.parts))
        maps = {v: np.pad(form.maps, ((0, 0), (0, d - form.maps.shape[1]), (0, 0))) for v, form in known.items()}
        centre, radius = ({v: getattr(form, name) for v, form in known.items()} for name in ("centre", "radius"))
        return AffineForms(argument.join(centre), argument.join(maps), argument.join(radius))

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
        off = self.reach + self.size() * self.arithmetic.gamma(self.maps.shape[1]) + self.arithmetic.tiny
        return self.centre - off, self.centre + off

    def least(self, rows: Array, boxes: Array) -> tuple[Array, Array]:
        """Lower bounds (P,) of rows (P, m) over the value of their `boxes` (P,), and what rounding cost."""
        size, (d, m) = np.abs(rows), self.maps.shape[1:]
        if len(self.maps) == 1:
            spread = np.abs(rows @ self.maps[0].T).sum(1)
        else:
            spread = np.abs(np.matmul(self.maps[boxes], rows[:, :, None])).sum((1, 2))
        error = _dot(size, self.size(), boxes) * (2 * FLOATS.gamma(m + d)) + FLOATS.tiny * (m + d) * 8
        return _dot(rows, self.centre, boxes) - spread - _dot(size, self.radius, boxes) - error, error


def _dot(rows: Array, values: Array, boxes: Array) -> Array:
    """Rows (P, m) times values (B, m), each times those of its box; one box is that of all."""
    return rows @ values[0] if len(values) == 1 else np.einsum("pm,pm->p", rows, values[boxes])


def room(forms: Sequence[AffineForms | None], count: int, size: int) -> None:
    """Whether there is room for `count` more maps of so many numbers.

    Raises:
        Unreadable: they would be too many.
    """
    total = sum(math.prod(f.maps.shape[1:]) for f in forms if f is not None) + count * size
    if total > MOST_NUMBERS:
        raise Unreadable(f"affine forms of {total} numbers for one box, this checker holds at most {MOST_NUMBERS}")


@dataclass(eq=False)
class Enclosures:
    """Intervals of every value over B boxes: `low[v]`, `high[v]`, (B, m); `charge[v]` per unit of |row|; `empty` (B,)
    where the decided signs contradict the bounds, so that the part of the box has no point; `floor` (B,) what
    underflow can take off a walk; `planes[v]` linear bounds of what is not linear: lower slope, lower offset, upper
    slope, upper offset, each (B, m); `forms` are affine forms that are still held; `pulls` of decided neurons help
    every row of their box."""

    network: CheckedNetwork
    low: list[Array] = field(default_factory=list)
    high: list[Array] = field(default_factory=list)
    charge: list[Array] = field(default_factory=list)
    planes: dict[int, tuple[Array, ...]] = field(default_factory=dict)
    empty: Array = field(default_factory=lambda: np.zeros(0, bool))
    floor: Array = field(default_factory=lambda: np.zeros(0))
    forms: list[AffineForms | None] = field(default_factory=list)
    pulls: Pulls = field(default_factory=dict)

    def size(self, v: int) -> Array:
        """Magnitudes of value v."""
        return np.maximum(np.abs(self.low[v]), np.abs(self.high[v]))

    def plane(self, v: int) -> tuple[Array, ...]:
        """`planes[v]`, made when it is first asked for."""
        if v not in self.planes:
            self.planes[v] = self.new_plane(v)
        return self.planes[v]

    def new_plane(self, v: int, alpha: Array | None = None) -> tuple[Array, ...]:
        """`alpha` (B, m) in [0, 1] are lower slopes of a Relu at neurons whose sign is open."""
        op = self.network.nodes[v]
        assert isinstance(op, Curve)
        low, high = self.low[op.source], self.high[op.source]
        lower, upper = op.slopes(low, high)
        if alpha is not None:
            lower = np.where((low < 0) & (high > 0), alpha, lower)
        return lower, op.residual(lower, low, high)[0], upper, op.residual(upper, low, high)[1]

    def clamp(self, v: int, known: Sequence[Cuts]) -> None:
        """Cuts the arguments of operator v at what is known of them."""
        if not known:
            return
        source, (box, neuron, side, least) = self.network.argument(v), map(np.concatenate, zip(*known, strict=True))
        low, high, up = self.low[source].copy(), self.high[source].copy(), side > 0
        np.maximum.at(low, (box[up], neuron[up]), least[up])
        np.minimum.at(high, (box[~up], neuron[~up]), -least[~up])
        crossed = low > high
        self.empty = self.empty | crossed.any(1)
        low[crossed] = high[crossed] = 0
        self.low[source], self.high[source] = low, high

    def put(self, low: Array, high: Array, charge: Array, *others: tuple[Array, Array]) -> None:
        """The next value's interval, met with others that hold as well."""
        for below, above in others:
            low, high = np.maximum(low, below), np.minimum(high, above)
        if others:  # crossed: no point there, any interval is right
            low, high = np.minimum(low, high), np.maximum(low, high)
        self.low.append(low)
        self.high.append(high)
        self.charge.append(charge)

    def then(self, op: Linear) -> Enclosures:
        """These, and the value that an operator makes of them, which is the output now."""
        nodes, sizes = [*self.network.nodes, op], [*self.network.sizes, op.size]
        network = replace(self.network, nodes=nodes, sizes=sizes, output=len(nodes) - 1)
        low, high, charge, forms = ([*own] for own in (self.low, self.high, self.charge, self.forms))
        out = replace(self, network=network, low=low, high=high, charge=charge, forms=forms)
        _linear(out, op, [])
        return out


def sweep(
    network: CheckedNetwork, lower: Array, upper: Array, signs: Signs = (), kind: str = FORMS, known: KnownEnds = None
) -> Enclosures:
    """Intervals of all values over the boxes `lower`, `upper` (B, n); `signs` clamp the arguments of decided neurons.
    By affine forms; of the `kind` "rows" by backward rows for every argument of a non-linear operator, too; of
    "symbols" with an e_j of its own for every neuron that is not linear, instead of a part of the radius (one box
    only)."""
    b, numbers = len(lower), network.arithmetic
    floor = numbers.zeros(b) + network.inputs * 8 * numbers.tiny
    out = Enclosures(network, [lower], [upper], [floor], empty=np.zeros(b, bool), floor=floor)
    width = (upper - lower).max(0, initial=0)
    free = np.count_nonzero(width > 0)
    widest = np.sort(np.argsort(-width, kind="stable")[: min(free, MOST_FORMS)])  # others: of fixed inputs' rounding
    out.forms.append(None if numbers.exact or (kind == ROWS and free > MOST_FORMS) else _start(lower, upper, widest))
    curved = False
    last = {s: v for v, op in enumerate(network.nodes) if op is not None for s in op.argument.sources}
    for v, op in enumerate(network.nodes):
        if op is None:
            continue
        met = [] if known is None else [known(v)]
        if isinstance(op, Linear):
            _linear(out, op, met)
        else:
            if kind == ROWS and (curved or out.forms[op.source] is None):  # forms are exact up to the first curve
                _tighten(out, op.source)
            curved = True
            out.clamp(v, decided(signs, v))
            _curve(out, op, kind == SYMBOLS, met)
        for s in op.argument.sources:
            if last[s] == v and s not in (0, network.output):  # no later operator reads it
                out.forms[s] = None
    return out


def _start(lower: Array, upper: Array, free: Array) -> AffineForms:
    form = AffineForms.between(lower, upper)
    form.maps = np.zeros((len(lower), len(free), lower.shape[1]))
    form.maps[:, np.arange(len(free)), free] = form.radius[:, free]
    form.radius[:, free] = 0
    return form


def _linear(out: Enclosures, op: Linear, met: list[tuple[Array, Array]]) -> None:
    numbers, form = out.network.arithmetic, AffineForms.joined(op.argument, out.forms)
    low, high = op.argument.join(out.low), op.argument.join(out.high)
    size = np.maximum(np.abs(low), np.abs(high))
    if form is not None:
        size = np.maximum(size, form.size())
        room(out.forms, form.maps.shape[1], op.size)
    lost = op.terms * numbers.tiny * 8
    charge = op.apply(size, op.magnitude) * (5 * numbers.gamma(op.terms) / 2) + lost
    charge = charge + np.abs(op.offset) * numbers.gamma(op.size)
    # every step of a walk loses less than 8 tiny a number that it reads or makes, and products of it a number's size
    out.floor = out.floor + size.sum(1) * (lost * op.argument.repeats) + (op.size + op.argument.size) * 8 * numbers.tiny
    image = None if form is None else _image(op, form, charge + form.maps.shape[1] * lost)
    out.forms.append(image)
    if image is not None:
        met = [*met, image.interval()]
    if op.largest:
        least, most = (op.argument.pick(t)[:, : 2 * op.size].reshape(len(t), 2, -1).max(1) for t in (low, high))
        met = [*met, (least, most)]
    out.put(*_image(op, AffineForms.between(low, high, numbers), charge).interval(), charge, *met)


def _image(op: Linear, form: AffineForms, charge: Array) -> AffineForms:
    """What an operator makes of a form; `charge` is what rounding costs."""
    b, d, m = form.maps.shape
    centre = op.apply(form.centre, op.weight) + op.offset
    maps = op.apply(form.maps.reshape(b * d, m), op.weight) if d else form.maps
    radius = (op.apply(form.radius, op.magnitude) + charge) * (1 + 8 * form.arithmetic.unit)
    return AffineForms(centre, maps.reshape(b, d, op.size), radius, form.arithmetic)


def _curve(out: Enclosures, op: Curve, symbols: bool, met: list[tuple[Array, Array]]) -> None:
    low, high, form, numbers = out.low[op.source], out.high[op.source], out.forms[op.source], out.network.arithmetic
    if form is not None:
        count, new = form.maps.shape[1], np.zeros(0, np.int64)
        room(out.forms, count, op.size)
        slope = op.slopes(low, high)[1]
        least, most = op.residual(slope, low, high)
        shift = least / 2 + most / 2
        noise = np.maximum(most - shift, shift - least)
        off = (np.abs(slope) * form.size() + np.abs(shift) + noise) * (8 * numbers.unit) + numbers.tiny * (4 + count)
        straight = (least == 0) & (most == 0)
        exact, zero = straight & (slope == 1), straight & (slope == 0)
        if symbols:
            count = max(f.maps.shape[1] for f in out.forms if f is not None)
            new = np.flatnonzero(np.isfinite(noise) & (noise > 0) & ~exact & ~zero)
        room(out.forms, count + len(new), op.size)
        maps = np.zeros((len(low), count + len(new), op.size))
        np.multiply(slope[:, None], form.maps, out=maps[:, : form.maps.shape[1]])
        maps[:, count + np.arange(len(new)), new] = noise[:, new]
        noise[:, new] = 0
        radius = np.where(zero, 0.0, np.abs(slope) * form.radius + np.where(exact, 0.0, noise + off))
        form = AffineForms(slope * form.centre + shift, maps, radius)
        met = [*met, form.interval()]
    out.forms.append(form)
    out.put(*op.range(low, high), out.floor, *met)  # of linear operators alone the charge is asked for
    # rows: two products a coefficient
    out.floor = out.floor + (out.size(op.source).sum(1) + 2 * op.size) * (8 * numbers.tiny)


def _tighten(out: Enclosures, source: int) -> None:
    """Meets the interval of `source` with what backward rows say, element by element where 0 lies inside."""
    low, high = out.low[source].copy(), out.high[source].copy()
    boxes, elements = np.nonzero((low < 0) & (high > 0))
    for side, bound, met in ((1.0, low, np.maximum), (-1.0, high, np.minimum)):
        found = bound_rows(out, boxes, unit_rows(elements, side, low.shape[1]), source).low * side
        bound[boxes, elements] = met(bound[boxes, elements], found)
    out.low[source], out.high[source] = np.minimum(low, high), np.maximum(low, high)


def unit_rows(elements: Array, side: float | Array, size: int) -> RowMaker:
    """Rows that are `side` at one of the `elements` (P,) each."""
    sides = np.broadcast_to(np.asarray(side, np.float64), elements.shape)
    return lambda part: sides[part, None] * (elements[part, None] == np.arange(size))


class RowBounds(NamedTuple):
    """Lower bounds `low` of rows, what was taken off for rounding in them, `error`, and `coefficients` (.., n) of the
    linear function that it is the minimum of (where something cheaper was enough for a target: of any)."""

    low: Array
    error: Array
    coefficients: Array


def bound_rows(
    swept: Enclosures, owner: Array, rows: RowMaker, start: int, target: Array | None = None, linear: bool = False
) -> RowBounds:
    """Lower bounds of P rows over value `start`, each on its box `owner` (P,) of the sweep. What exceeds its `target`
    with something to spare is not walked any further. Coefficients are kept with `linear`."""
    count, network = len(owner), swept.network
    low, error = network.arithmetic.zeros(count) - math.inf, network.arithmetic.zeros(count)
    coefficients = network.arithmetic.zeros(count if linear else 0, network.inputs)
    goal = np.full(count, math.inf) if target is None else target
    step, form = max(16, CHUNK // max(network.sizes)), swept.forms[start]
    for part in (np.arange(at, min(count, at + step)) for at in range(0, count, step)):
        laid = rows(part)
        if target is not None and form is not None:  # the value's own form may be enough
            low[part], error[part] = form.least(laid, owner[part])
            rest = ~(low[part] - error[part] > goal[part])
            part, laid = part[rest], laid[rest]
        if len(part):
            found = walk(swept, owner[part], laid, start, goal[part])
            low[part], error[part] = found.low, found.error
            if linear:
                coefficients[part] = found.coefficients
    return RowBounds(low, error, coefficients)


def walk(swept: Enclosures, boxes: Array, rows: Array, start: int, goal: Array | float = math.inf) -> RowBounds:
    """Lower bounds of rows (P, m) over value `start` on the boxes `boxes` (P,) of the sweep. Where intervals of the
    first value that a non-linear operator makes are enough for the `goal`, the bound is from them. What rounding costs
    is taken off; a bound that is not finite is -inf."""
    network, numbers = swept.network, swept.network.arithmetic
    live = np.flatnonzero(rows.any(0))  # rows stand over few elements where layers hang together by few weights
    at = live if 2 * len(live) < rows.shape[1] else None
    waiting: dict[int, tuple[Array, Array | None]] = {start: (rows if at is None else rows[:, at], at)}
    bias, error = numbers.zeros(len(rows)), swept.floor[boxes] * 4
    one, two = numbers.unit, 2 * numbers.unit

    def own(values: Array) -> Array:
        """Those of the elements that the row stands over."""
        return values if at is None else values[:, at]

    def dot(row: Array, values: Array) -> Array:
        return _dot(row, values, boxes)

    def reach(v: int) -> Array:
        return np.maximum(np.abs(own(swept.low[v])), np.abs(own(swept.high[v])))

    def least(v: int, row: Array) -> tuple[Array, Array]:
        """The least value of row and bias over the interval of value v, and what rounding costs."""
        low = dot(np.maximum(row, 0), own(swept.low[v])) + dot(np.minimum(row, 0), own(swept.high[v]))
        lost = error + dot(np.abs(row), reach(v)) * numbers.gamma(row.shape[1])
        lost = lost + (np.abs(low) + np.abs(bias)) * (4 * one)
        total = low + bias - lost * (1 + SAFE * one)
        return np.where(np.abs(total) < math.inf, total, -math.inf), lost

    early: Array | None = None
    for v in range(start, 0, -1):
        op = network.nodes[v]
        if v not in waiting or op is None:
            continue
        row, at = waiting.pop(v)
        if v in swept.pulls:
            row, at = spread_out(row, at, op.size), None
        size = np.abs(row)
        if isinstance(op, Linear):
            error = error + dot(size, own(swept.charge[v]))
            bias = bias + row @ own(np.broadcast_to(op.offset, (1, op.size)))[0]
            error = error + np.abs(bias) * two
            back, at = op.adjoint(row, at)
        else:
            if early is None:
                early = least(v, row)[0] if not waiting else numbers.zeros(len(row)) - math.inf
            lower, below, upper, above = map(own, swept.plane(v))
            up, down, sizes = np.maximum(row, 0), np.minimum(row, 0), reach(op.source)
            bias = bias + dot(up, below) + dot(down, above)
            slope, worst = (np.maximum(np.abs(a), np.abs(b)) for a, b in ((lower, upper), (below, above)))
            error = error + dot(size, slope * sizes * two) + np.abs(bias) * two
            error = error + dot(size, worst) * numbers.gamma(op.size) + op.size * numbers.tiny
            up *= lower if len(lower) == 1 else lower[boxes]
            down *= upper if len(upper) == 1 else upper[boxes]
            back = np.add(up, down, out=up)
            if v in swept.pulls:
                pull = swept.pulls[v][boxes]
                back = back + pull
                error = error + dot(np.where(pull == 0, 0, np.abs(back)), sizes) * two
        for s, part, where in op.argument.give(back, at):
            if s in waiting:
                other, part = (spread_out(*t, network.sizes[s]) for t in (waiting[s], (part, where)))
                error = error + dot(np.abs(other) + np.abs(part), swept.size(s)) * two
                part, where = other + part, None
            waiting[s] = part, where
    row = spread_out(*waiting.get(0, (numbers.zeros(len(rows), network.inputs), None)), network.inputs)
    at = None
    low, error = least(0, row)
    if early is not None:
        low = np.where(early - error > goal, early, low)
    return RowBounds(low, error, row)
