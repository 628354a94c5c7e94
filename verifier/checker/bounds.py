"""Rigorous bounds over boxes, in float64 with an allowance for every operation (docs/certificates.md has the lemmas).

Forwards, `sweep` encloses every value in an interval and, for few varying inputs, in an affine form

    x  in  centre + sum_j maps_j e_j + [-radius, radius],    e_j in [-1, 1],

whose radius takes up what is not linear and what is rounded. Backwards, `walk` turns a row over some value into a
linear lower bound over the inputs (CROWN, Zhang et al. 2018); for y = W x + c computed rows are off by at most
gamma |row| |W| |x|, so |row| . (gamma |W| |x| + gamma |c|) is taken off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from verifier.checker.network import Network
from verifier.checker.ops import TINY, UNIT, Array, Curve, Largest, Linear, Piecewise, gamma

SAFE = 1 + 2.0**-20
"""Makes up for the rounding of a sum of up to 2**30 positive numbers."""

MOST_FORMS = 32
"""This many inputs, the widest, have a map of their own in affine forms."""

CHUNK = 1 << 22
"""Elements of one array of rows, at most (larger ones come in parts)."""

Signs = Sequence[Sequence[tuple[int, int, int]]]
"""Per box: (value of the Relu, flat neuron, side); side 1 says that its argument is >= 0, -1 that it is <= 0."""


@dataclass(eq=False)
class Form:
    """B affine forms: `centre`, `radius` (B, *S), `maps` (B, d, *S)."""

    centre: Array
    maps: Array
    radius: Array

    def size(self) -> Array:
        return np.abs(self.centre) + np.abs(self.maps).sum(1) + self.radius

    def interval(self) -> tuple[Array, Array]:
        spread = np.abs(self.maps).sum(1) + self.radius
        room = (np.abs(self.centre) + spread) * gamma(self.maps.shape[1]) + TINY
        return self.centre - spread - room, self.centre + spread + room

    def least(self, rows: Array, owner: Array) -> tuple[Array, Array]:
        """Lower bounds (P,) of rows (P, m) over a flat value, row p of box `owner[p]`, and what rounding cost."""
        centre = np.einsum("pm,pm->p", rows, self.centre[owner])
        spread = np.abs(np.einsum("pm,pdm->pd", rows, self.maps[owner])).sum(1)
        size = np.abs(rows)
        spread = spread + np.einsum("pm,pm->p", size, self.radius[owner])
        terms = rows.shape[1] + self.maps.shape[1]
        error = np.einsum("pm,pm->p", size, self.size()[owner]) * (2 * gamma(terms)) + TINY * terms * 8
        return centre - spread - error, error


@dataclass(eq=False)
class Sweep:
    """Intervals of every value over B boxes: `low[v]`, `high[v]`, (B, *S); `charge[v]` per unit of |row|; `empty` (B,)
    where the decided signs contradict the bounds, so that the part of the box has no point; `floor` (B,) what
    underflow can take off a walk; `form` encloses the last value."""

    network: Network
    low: list[Array] = field(default_factory=list)
    high: list[Array] = field(default_factory=list)
    charge: list[Array | None] = field(default_factory=list)
    empty: Array = field(default_factory=lambda: np.zeros(0, bool))
    floor: Array = field(default_factory=lambda: np.zeros(0))
    form: Form | None = None

    def size(self, v: int) -> Array:
        """Magnitudes of value v."""
        return np.maximum(np.abs(self.low[v]), np.abs(self.high[v]))


def sweep(network: Network, lower: Array, upper: Array, signs: Signs = (), rows: bool = False) -> Sweep:
    """Intervals of all values over the boxes `lower`, `upper` (B, n); `signs` clamp the arguments of decided neurons,
    `rows` asks for backward rows for every argument of a non-linear operator, too."""
    b = len(lower)
    out = Sweep(network, [lower], [upper], [None], np.zeros(b, bool), np.zeros(b))
    width = (upper - lower).max(0, initial=0.0)
    free = np.flatnonzero(width > 0)
    many = len(free) > MOST_FORMS
    if many:  # the rest is noise: the rounding of fixed inputs, say
        free = np.sort(np.argsort(-width, kind="stable")[:MOST_FORMS])
    forms: list[Form | None] = [None if rows and many else _start(lower, upper, free)]
    for v, op in enumerate(network.nodes):
        if op is None:
            continue
        if isinstance(op, Linear):
            _linear(out, forms, op)
            continue
        source = op.sources[0]
        if rows:
            _tighten(out, source)
        if isinstance(op, Curve):
            _clamp(out, source, v, signs)
            _curve(out, forms, op)
        else:
            _largest(out, forms, op)
    out.form = forms[-1]
    return out


def _start(lower: Array, upper: Array, free: Array) -> Form:
    centre = lower / 2 + upper / 2
    radius = np.maximum(upper - centre, centre - lower) * (1 + 4 * UNIT) + TINY
    maps = np.zeros((len(lower), len(free), lower.shape[1]))
    maps[:, np.arange(len(free)), free] = radius[:, free]
    rest = radius.copy()
    rest[:, free] = 0
    return Form(centre, maps, rest)


def _put(out: Sweep, form: Form | None, low: Array, high: Array, charge: Array | None) -> None:
    if form is not None:
        below, above = form.interval()
        low, high = np.maximum(low, below), np.minimum(high, above)
        low, high = np.minimum(low, high), np.maximum(low, high)  # crossed: no point there, any interval is right
    out.low.append(low)
    out.high.append(high)
    out.charge.append(charge)


def _linear(out: Sweep, forms: list[Form | None], op: Linear) -> None:
    parts = [forms[s] for s in op.sources]
    lows, highs = [out.low[s] for s in op.sources], [out.high[s] for s in op.sources]
    form = None
    known = [f for f in parts if f is not None]
    with_forms = len(known) == len(parts)
    sizes = [np.maximum(np.abs(a), np.abs(c)) for a, c in zip(lows, highs, strict=True)]
    if with_forms:
        sizes = [np.maximum(f.size(), s) for f, s in zip(known, sizes, strict=True)]
    unit = gamma(op.terms)
    lost = op.terms * TINY * 8
    charge = op.spread(sizes) * (2.5 * unit) + lost
    if op.offset is not None:
        charge = charge + np.abs(op.offset) * gamma(math.prod(op.shape))
    middles = [a / 2 + c / 2 for a, c in zip(lows, highs, strict=True)]
    halves = [np.maximum(c - m, m - a) * (1 + 4 * UNIT) + TINY for a, c, m in zip(lows, highs, middles, strict=True)]
    middle = op.forward(middles)
    if op.offset is not None:
        middle = middle + op.offset
    half = (op.spread(halves) + charge) * (1 + 8 * UNIT)
    room = (np.abs(middle) + half) * (4 * UNIT)
    if with_forms:
        b, d = known[0].maps.shape[:2]
        flat = [f.maps.reshape(b * d, *f.maps.shape[2:]) for f in known]
        centre = op.forward([f.centre for f in known])
        centre = centre if op.offset is None else centre + op.offset
        maps = op.forward(flat).reshape(b, d, *op.shape) if d else np.zeros((b, 0, *op.shape))
        radius = (op.spread([f.radius for f in known]) + charge + d * lost) * (1 + 8 * UNIT)
        form = Form(centre, maps, radius)
    forms.append(form)
    out.floor = out.floor + sum(s.reshape(len(s), -1).sum(1) for s in sizes) * lost
    _put(out, form, middle - half - room, middle + half + room, charge)


def _clamp(out: Sweep, source: int, v: int, signs: Signs) -> None:
    """Clamps the arguments of decided neurons of operator v at 0."""
    mine = [(b, k, side) for b, decided in enumerate(signs) for at, k, side in decided if at == v]
    if not mine:
        return
    low, high = out.low[source].copy(), out.high[source].copy()
    flat_low, flat_high = low.reshape(len(low), -1), high.reshape(len(high), -1)
    for b, k, side in mine:
        if side > 0:
            flat_low[b, k] = max(flat_low[b, k], 0.0)
        else:
            flat_high[b, k] = min(flat_high[b, k], 0.0)
        if flat_low[b, k] > flat_high[b, k]:
            out.empty[b] = True
            flat_low[b, k] = flat_high[b, k] = 0.0
    out.low[source], out.high[source] = low, high


def _curve(out: Sweep, forms: list[Form | None], op: Curve) -> None:
    source = op.sources[0]
    low, high = out.low[source], out.high[source]
    form = forms[source]
    if form is not None:
        slope = op.slopes(low, high)[1]
        least, most = op.residual(slope, low, high)
        shift = least / 2 + most / 2
        noise = np.maximum(most - shift, shift - least)
        size = form.size()
        room = (np.abs(slope) * size + np.abs(shift) + noise) * (8 * UNIT) + TINY * (4 + form.maps.shape[1])
        exact = (slope == 1) & (least == 0) & (most == 0)
        zero = (slope == 0) & (least == 0) & (most == 0)
        radius = np.where(zero, 0.0, np.abs(slope) * form.radius + np.where(exact, 0.0, noise + room))
        form = Form(slope * form.centre + shift, slope[:, None] * form.maps, radius)
    forms.append(form)
    _put(out, form, *op.range(low, high), None)
    # rows: two products a coefficient
    out.floor = out.floor + out.size(source).reshape(len(low), -1).sum(1) * (8 * TINY)


def _largest(out: Sweep, forms: list[Form | None], op: Largest) -> None:
    source = op.sources[0]
    low, high = out.low[source], out.high[source]
    best, width = _winner(low, high)
    form = forms[source]
    if form is not None:
        centre, radius = (np.take_along_axis(t, best, -1)[..., 0] for t in (form.centre, form.radius))
        maps = np.take_along_axis(form.maps, np.broadcast_to(best[:, None], (*form.maps.shape[:-1], 1)), -1)[..., 0]
        half = width / 2
        radius = radius + half + (np.abs(centre) + half + radius) * (4 * UNIT)
        form = Form(
            centre + half, maps, np.where(width == 0, np.take_along_axis(form.radius, best, -1)[..., 0], radius)
        )
    forms.append(form)
    _put(out, form, low.max(-1), high.max(-1), None)


def _winner(low: Array, high: Array) -> tuple[Array, Array]:
    """The element with the largest lower bound, (.., 1), and by how much the maximum may exceed it (rounded up)."""
    best = low.argmax(-1)[..., None]
    others = high.copy()
    np.put_along_axis(others, best, -np.inf, -1)
    most, own = others.max(-1), np.take_along_axis(low, best, -1)[..., 0]
    with np.errstate(invalid="ignore"):
        over = np.where(most > own, most - own, 0.0)
    return best, np.where(over > 0, over * (1 + 4 * UNIT) + TINY, np.where(np.isnan(most + own), np.nan, 0.0))


def _tighten(out: Sweep, source: int) -> None:
    """Meets the interval of `source` with what backward rows say, element by element where 0 lies inside."""
    shape = out.low[source].shape
    low, high = (t[source].reshape(len(t[source]), -1).copy() for t in (out.low, out.high))
    chunk = max(1, CHUNK // max(math.prod(s) for s in out.network.shapes))
    planes = Planes.of(out, {}, source)
    for side, bound in ((1.0, low), (-1.0, high)):
        boxes, elements = np.nonzero((low < 0) & (high > 0))
        for at in range(0, len(boxes), chunk):
            owner, part = boxes[at : at + chunk], elements[at : at + chunk]
            rows = np.zeros((len(part), low.shape[1]))
            rows[np.arange(len(part)), part] = side
            found = walk(out, planes, rows.reshape(-1, *shape[1:]), owner, source).low * side
            met = np.maximum if side > 0 else np.minimum
            bound[owner, part] = met(bound[owner, part], found)
    out.low[source], out.high[source] = (m(low, high).reshape(shape) for m in (np.minimum, np.maximum))


@dataclass(eq=False)
class Planes:
    """Linear bounds of the non-linear operators: `of[v]` = lower slope, lower offset, upper slope, upper offset, or the
    winner and the width of a maximum; each (B, ..)."""

    of_: dict[int, tuple[Array, ...]]

    @staticmethod
    def of(swept: Sweep, alpha: Mapping[int, Array], until: int | None = None) -> Planes:
        """`alpha[v]` (B, *S) in [0, 1] are lower slopes of the Relu v at neurons whose sign is open; others get the
        default ones."""
        found: dict[int, tuple[Array, ...]] = {}
        for v, op in enumerate(swept.network.nodes):
            if until is not None and v > until:
                break
            if isinstance(op, Linear) or op is None:
                continue
            low, high = swept.low[op.sources[0]], swept.high[op.sources[0]]
            if isinstance(op, Largest):
                found[v] = _winner(low, high)
                continue
            lower, upper = op.slopes(low, high)
            if v in alpha and isinstance(op, Piecewise) and op.is_relu:
                lower = np.where((low < 0) & (high > 0), alpha[v], lower)
            found[v] = lower, op.residual(lower, low, high)[0], upper, op.residual(upper, low, high)[1]
        return Planes(found)


@dataclass(eq=False)
class Walked:
    """Lower bounds `low` (P,) of P rows, what was taken off for rounding in them, `error` (P,), and `coefficients`
    (P, n) of the linear function that it is the minimum of."""

    low: Array
    error: Array
    coefficients: Array


def walk(
    swept: Sweep,
    planes: Planes,
    rows: Array,
    owner: Array,
    start: int,
    inputs: Array | None = None,
    pulls: Mapping[int, Sequence[tuple[int, int, float]]] | None = None,
) -> Walked:
    """Lower bounds of rows (P, *S) over value `start`, plus rows `inputs` (P, n) over the inputs; row p belongs to box
    `owner[p]`. `pulls[v]` lists (p, neuron, c): c times the argument of that neuron of Relu v is added, which is <= 0
    wherever the neuron keeps its decided sign. What rounding costs is taken off; a bound that is not finite is -inf."""
    network = swept.network
    count = len(rows)
    waiting: dict[int, Array] = {start: rows}
    if inputs is not None:
        waiting[0] = inputs
    bias, error = np.zeros(count), swept.floor[owner] * 4

    def take(per_box: Array) -> Array:
        return per_box if len(per_box) == 1 else per_box[owner]

    def dot(a: Array, c: Array) -> Array:
        return np.einsum("ij,ij->i", a.reshape(count, -1), np.broadcast_to(c, a.shape).reshape(count, -1))

    def add(v: int, row: Array) -> None:
        nonlocal error
        if v in waiting:
            error = error + dot(np.abs(waiting[v]) + np.abs(row), take(swept.size(v))) * (2 * UNIT)
            row = waiting[v] + row
        waiting[v] = row

    for v in range(start, 0, -1):
        row = waiting.pop(v, None)
        if row is None:
            continue
        op = network.nodes[v]
        assert op is not None
        if isinstance(op, Linear):
            charge = swept.charge[v]
            assert charge is not None
            error = error + dot(np.abs(row), take(charge))
            if op.offset is not None:
                bias = bias + dot(row, op.offset[None] if op.offset.ndim == len(op.shape) else op.offset)
                error = error + np.abs(bias) * (2 * UNIT)
            for source, part in zip(op.sources, op.adjoint(row), strict=True):
                add(source, part)
            continue
        source = op.sources[0]
        up, down = np.maximum(row, 0), np.minimum(row, 0)
        if isinstance(op, Largest):
            best, width = (take(t) for t in planes.of_[v])
            # max >= x_best; and max <= x_best + width
            back = np.zeros((count, *network.shapes[source]))
            np.put_along_axis(back, np.broadcast_to(best, (*row.shape, 1)), row[..., None], -1)
            offset = down * width
        else:
            lower, below, upper, above = (take(t) for t in planes.of_[v])
            back = up * lower + down * upper
            offset = up * below + down * above
            error = error + dot(np.abs(back), take(swept.size(source))) * (2 * UNIT)
        size = math.prod(op.shape)
        bias = bias + offset.reshape(count, -1).sum(1)
        error = error + np.abs(offset).reshape(count, -1).sum(1) * gamma(size) + np.abs(bias) * (2 * UNIT) + size * TINY
        if pulls and v in pulls:
            flat = back.reshape(count, -1)
            sizes = take(swept.size(source)).reshape(-1, flat.shape[1])
            for p, k, c in pulls[v]:
                flat[p, k] += c
                error[p] += abs(flat[p, k]) * sizes[p if len(sizes) > 1 else 0, k] * (2 * UNIT)
            back = flat.reshape(back.shape)
        add(source, back)
    row = waiting.get(0)
    if row is None:
        row = np.zeros((count, network.inputs))
    low, high = take(swept.low[0]), take(swept.high[0])
    least = np.einsum("ij,ij->i", np.maximum(row, 0), np.broadcast_to(low, row.shape)) + np.einsum(
        "ij,ij->i", np.minimum(row, 0), np.broadcast_to(high, row.shape)
    )
    error = (
        error
        + dot(np.abs(row), take(swept.size(0))) * gamma(row.shape[1])
        + (np.abs(least) + np.abs(bias)) * (4 * UNIT)
    )
    total = least + bias - error * SAFE
    return Walked(np.where(np.isfinite(total), total, -np.inf), error, row)
