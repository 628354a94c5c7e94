"""Zonotopes of a batch of boxes, with every rounding error in the radius: tight bounds that need no recheck.

A value v of box b is

    v = core[b, 0] + sum_i e_i core[b, i] + sum of f_j maps[j] over the symbols j that b owns + r,
    e_i, f_j in [-1, 1],  |r| <= radius[b]

The e_i are the d inputs of the box; every neuron that is not affine on the box adds a symbol (DeepZ: Singh et al.
2018), so that its noise can cancel in later layers. Small boxes of few inputs have some hundred such neurons out of ten
thousand, and lumping them into a radius instead costs two orders of magnitude in width on a network of seven layers.
The symbols of all boxes are stacked along one axis, whatever their number, and a new symbol passes its first
convolution or dense layer as a column of the weights.

Precision: centre and inputs are float64; maps and radius, which shrink with the square of the box, float32. A rounding
error is relative to the number that is rounded, and the absolute weights of seven layers, which no cancellation helps,
multiply it by 10^7 on the way: from 10^-6 of the noise that does no harm, from 10^-6 of the value it would drown
everything. A sum of n products, in any order, with or without fused multiply-adds, is off by at most gamma_n * sum |w|
|v|, gamma_n = n u / (1 - n u), u half an ulp (Higham 2002, section 3.1; Winograd's and FFT's convolutions are not of
that kind: torch uses neither on a CPU, so on other devices both precisions are float64). That much is added to the
radius before |W| is applied, and each rule below adds what it rounds; constants are generous. Underflow is covered by
`FLOOR`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.bounds.affine import AffineForm, generic_form
from verifier.bounds.network import Network, build, halved
from verifier.graph.ir import Graph
from verifier.ops.affine import Dense, Scale
from verifier.ops.conv import Conv
from verifier.ops.kinds import Interval, LinearOp, Op, RelaxedOp
from verifier.ops.layout import Reshape
from verifier.ops.piecewise import Clip, Relu
from verifier.tolerance import EXACT, FLOOR, NARROWEST, gamma, ulp

MAX_INPUTS = 6
"""Most inputs the constants below allow for."""

MAP_ELEMENTS = 24_000_000
"""Elements of the largest tensor of maps; noise beyond that goes into the radius, smallest first."""


@dataclass(frozen=True, eq=False)
class Twin:
    """One graph in two precisions: `exact` float64 for centres, `fast` for maps and radii."""

    exact: Network
    fast: Network

    @staticmethod
    def of(graph: Graph, device: torch.device) -> Twin:
        """Binds the graph; float32 is used on CPUs only, where all weights are numbers of it to half an ulp."""
        exact = build(graph, torch.float64, device)
        fast = build(graph, torch.float32, device) if device.type == "cpu" else exact
        return Twin(exact, fast if halved(fast, exact) else exact)


@dataclass(frozen=True, eq=False)
class Fresh:
    """Symbols that still are single neurons: their numbers `ids` (F,), boxes `owner` (F,), flat `neuron` (F,), `half`
    (F,).
    """

    ids: Tensor
    owner: Tensor
    neuron: Tensor
    half: Tensor


@dataclass(frozen=True, eq=False)
class Zonotope:
    """`core` (B, d + 1, *S) float64: centre and inputs; `maps` and `radius` (B, *S) fast.

    The maps come in chunks (M, *S), one for every operator they were born at, with their `ids` (M,) and their `owner`
    (M,), the boxes they belong to. Chunks spare the copy that appending to one tensor would cost in every layer.
    `noise` (B, *S) fast: at least sum |maps| + radius over a box's symbols, or None where nobody has computed it.
    """

    core: Tensor
    maps: tuple[Tensor, ...]
    ids: tuple[Tensor, ...]
    owner: tuple[Tensor, ...]
    radius: Tensor
    noise: Tensor | None = None
    fresh: Fresh | None = None

    @property
    def count(self) -> int:
        """Number of maps M."""
        return sum(len(m) for m in self.maps)

    def lumped(self) -> Tensor:
        """At least sum |maps| + radius: (B, *S), not to be written to."""
        if self.noise is not None:
            return self.noise
        total = self.radius.clone()
        for owner, maps in zip(self.owner, self.maps, strict=True):
            total.index_add_(0, owner, maps.abs())
        if self.fresh is not None:
            total.flatten(1).index_put_((self.fresh.owner, self.fresh.neuron), self.fresh.half, accumulate=True)
        # a sum of at most M positive terms
        return total.mul_(1 + (self.count + 4) * ulp(total.dtype))

    def noises(self) -> tuple[Tensor, Tensor, Tensor]:
        """The symbols' sizes (M, *S) float64, their boxes (M,) and their numbers (M,)."""
        none = torch.zeros(0, dtype=torch.int64, device=self.radius.device)
        owner, ids = (torch.cat([none, *parts]) for parts in (self.owner, self.ids))
        return torch.cat([self.radius[:0], *self.maps]).abs().double(), owner, ids

    def measured(self) -> Zonotope:
        """The same with its noise computed once for all readers."""
        return replace(self, noise=self.lumped())

    def width(self) -> Tensor:
        """At least all that moves around the centre: (B, *S) float64."""
        total = self.lumped().to(torch.float64, copy=True)  # what is known of the noise is not to be written to
        for i in range(1, self.core.shape[1]):
            total.add_(self.core[:, i].abs())
        return total.mul_(1 + 16 * EXACT)

    def interval(self) -> Interval:
        """An interval around the value, float64."""
        spread = self.width()
        spread = spread + 4 * EXACT * (spread + self.core[:, 0].abs())
        return Interval(self.core[:, 0] - spread, self.core[:, 0] + spread)

    def widened(self, by: Tensor) -> Zonotope:
        """The same with a radius that is larger by `by` (B, *S), of any type."""
        up = 1 + 4 * ulp(self.radius.dtype)
        return replace(self, radius=(self.radius + by.to(self.radius.dtype) * up + FLOOR) * up)

    def opened(self) -> Zonotope:
        """The same with every fresh symbol as a map of its own."""
        if self.fresh is None:
            return self
        f = self.fresh
        new = self.radius.new_zeros(len(f.ids), *self.radius.shape[1:])
        new.flatten(1).scatter_(1, f.neuron[:, None], f.half[:, None])
        return self.grown(new, f)

    def grown(self, maps: Tensor, fresh: Fresh) -> Zonotope:
        """The same with one more chunk, the fresh symbols as maps."""
        return replace(
            self, maps=(*self.maps, maps), ids=(*self.ids, fresh.ids), owner=(*self.owner, fresh.owner), fresh=None
        )


class Symbols:
    """The noise symbols of one sweep: how many there are, and how far each input moved the neuron they come from."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self.inputs, self.count = inputs, 0
        self.moves: list[Tensor] = [torch.zeros(0, inputs, dtype=torch.float64, device=device)]

    def add(self, owner: Tensor, neuron: Tensor, half: Tensor, form: Zonotope) -> Fresh:
        """New symbols for neurons of `form`."""
        ids = torch.arange(self.count, self.count + len(owner), device=owner.device)
        self.count += len(owner)
        self.moves.append(form.core[:, 1:].flatten(2)[owner, :, neuron].abs())
        return Fresh(ids, owner, neuron, half)

    def share(self) -> Tensor:
        """Part of each neuron's movement that is due to each input: (symbols, d), rows sum to 1."""
        moves = torch.cat(self.moves)
        return moves / moves.sum(1, keepdim=True).clamp(min=NARROWEST)


def start(offset: Tensor, matrix: Tensor, centre: Tensor, radius: Tensor, fast: torch.dtype) -> Zonotope:
    """The set x = offset + p matrix over p in centre +- radius: (B, n), (B, d, n), (B, d), (B, d), all float64."""
    core = torch.cat([(offset + torch.bmm(centre[:, None], matrix)[:, 0])[:, None], matrix * radius[:, :, None]], 1)
    size = offset.abs() + torch.bmm((centre.abs() + radius)[:, None], matrix.abs())[:, 0]
    return Zonotope(core, (), (), (), (32 * EXACT * size).add_(FLOOR).to(fast))


def sweep_zonotope(
    twin: Twin, first: Zonotope, moves: Tensor | None = None, rigorous: bool = True
) -> tuple[Zonotope, Symbols, Tensor]:
    """The network's output as zonotopes (B, m), the symbols used, and the number (B,) of neurons not affine on the
    box. `moves` (M, d): how far each input moves each of the symbols that `first` has already. `rigorous`: linear
    operators and ReLUs pay for rounding.
    """
    batch, width = first.core.shape[:2]
    symbols = Symbols(width - 1, first.core.device)
    if moves is not None:
        symbols.count = len(moves)
        symbols.moves.append(moves)
    unstable = torch.zeros(batch, dtype=torch.int64, device=first.core.device)
    network = twin.exact

    def step(i: int, op: Op, given: list[Zonotope]) -> Zonotope:
        if isinstance(op, LinearOp):
            fast = twin.fast.ops[i]
            assert isinstance(fast, LinearOp)
            return _linear(op, fast, given, rigorous) if given else _constant(op, first)
        if isinstance(op, Relu):
            # only an operator that makes new tensors owns its result: a reshape may share it with other readers
            source = network.sources[i][0]
            own = source > 0 and isinstance(network.ops[source - 1], Conv | Dense)
            return _relu(
                given[0].opened().measured(), own and network.last_use[source] == i, symbols, unstable, rigorous
            )
        if isinstance(op, Clip):
            return _clip(given[0].opened().measured(), *op._limits(), symbols, unstable)
        assert isinstance(op, RelaxedOp)
        return _generic(op, given, unstable)

    out = network.walk(first, step).opened()
    flat = replace(
        out,
        core=out.core.reshape(batch, width, network.m),
        maps=tuple(m.reshape(-1, network.m) for m in out.maps),
        radius=out.radius.reshape(batch, network.m),
        noise=None,
    )
    return flat, symbols, unstable


def terms_of(op: LinearOp) -> int:
    """Most terms of one element of the output; 0 only where the operator moves numbers as they are: a power of two
    rounds nothing, but it moves what `FLOOR` has to be larger than."""
    return max(op.terms, isinstance(op, Scale))


def _constant(op: LinearOp, first: Zonotope) -> Zonotope:
    value = op.forward()
    core = first.core.new_zeros(*first.core.shape[:2], *value.shape[1:])
    core[:, 0] = value
    return Zonotope(core, (), (), (), _inexact(op, 4 * EXACT * core[:, 0].abs()).to(first.radius.dtype))


def _inexact(op: LinearOp, radius: Tensor) -> Tensor:
    """The radius (float64) with the operator's own error, and room for rounding the sum to another type."""
    error = op.inexact()
    return (radius + FLOOR if error is None else radius + error + FLOOR) * (1 + 2 * ulp(torch.float32))


def _aligned(given: list[Zonotope]) -> list[Zonotope]:
    """The same values over one common list of symbols."""
    if len(given) == 1:
        return given
    given = [f.opened() for f in given]
    if all(len(f.ids) == len(given[0].ids) and all(map(torch.equal, f.ids, given[0].ids)) for f in given[1:]):
        return given
    ids, back = torch.cat([i for f in given for i in f.ids]).unique(return_inverse=True)
    owner = torch.empty_like(ids)
    owner[back] = torch.cat([o for f in given for o in f.owner])
    result = []
    for f in given:
        maps = f.radius.new_zeros(len(ids), *f.radius.shape[1:])
        for i, chunk in zip(f.ids, f.maps, strict=True):
            maps[torch.searchsorted(ids, i)] = chunk
        result.append(replace(f, maps=(maps,), ids=(ids,), owner=(owner,)))
    return result


def _linear(op: LinearOp, fast: LinearOp, given: list[Zonotope], rigorous: bool) -> Zonotope:
    columns = _columns(fast, given[0]) if len(given) == 1 and given[0].fresh is not None else None
    keep_fresh = isinstance(op, Reshape) and len(given) == 1
    if columns is None and not keep_fresh:
        given = _aligned([f.opened() for f in given])
    x = given[0]
    offset, terms = op.offset(), terms_of(op)
    if offset is None and op.inexact() is not None:
        offset = x.core.new_zeros(())
    core = op.linear(*(f.core.flatten(0, 1) for f in given)).unflatten(0, x.core.shape[:2])
    maps = tuple(fast.linear(*chunks) for chunks in zip(*(f.maps for f in given), strict=True))
    noise = None
    if terms == 0:
        radius = fast.linear(*(f.radius for f in given))
        if x.noise is not None and len(given) == 1:
            noise = fast.linear(x.noise)
    else:
        radius = fast.absolute(*(_with_rounding(f, terms) if rigorous else f.radius for f in given))
        radius = radius.add_(FLOOR) if rigorous else radius
    if offset is not None:
        core = torch.cat([(core[:, 0] + offset)[:, None], core[:, 1:]], 1) if terms == 0 else _shifted(core, offset)
        radius, noise = radius + _inexact(op, 4 * EXACT * core[:, 0].abs()).to(radius.dtype), None
    result = Zonotope(core, maps, x.ids, x.owner, radius, noise, x.fresh if keep_fresh else None)
    return result if columns is None or x.fresh is None else result.grown(columns, x.fresh)


def _shifted(core: Tensor, offset: Tensor) -> Tensor:
    """The centre plus a constant, in place: `core` is the operator's own result."""
    core[:, 0] += offset
    return core


def _with_rounding(form: Zonotope, terms: int) -> Tensor:
    """The radius with room for the rounding of a sum of `terms` products.

    r + gamma (sum |maps| + r) + gamma' (|c| + sum |inputs|): the part gamma r is for the rounding of |W| r itself. The
    terms beyond n are for weights rounded at import and to the fast type, the roundings of this line, and gamma_n's
    denominator.
    """
    noise = torch.add(form.radius, form.lumped(), alpha=gamma(terms, form.radius.dtype))
    for i in range(form.core.shape[1]):
        noise.add_(form.core[:, i].abs(), alpha=2 * gamma(terms, torch.float64))
    return noise


def _columns(op: LinearOp, form: Zonotope) -> Tensor | None:
    """What a linear operator makes of the fresh symbols, without applying it to maps that are zero but for one
    neuron.
    """
    fresh = form.fresh
    assert fresh is not None
    if isinstance(op, Dense) and op.in_shapes[0][0] == 1 and len(op.in_shapes[0]) == 2:
        return (op.params["weight"].T[fresh.neuron] * fresh.half[:, None])[:, None]
    if isinstance(op, Conv) and op._spatial == 2 and op._groups == 1 and op.in_shapes[0][0] == 1:
        return _convolved(op, fresh)
    return None


def _convolved(op: Conv, fresh: Fresh) -> Tensor:
    weight, (_, _, rows, columns) = op.params["weight"], op.in_shapes[0]
    channel = fresh.neuron // (rows * columns)
    y, x = fresh.neuron // columns % rows, fresh.neuron % columns
    out = weight.new_zeros(len(fresh.ids), *op.out_shape)
    (stride_y, stride_x), (pad_y, pad_x), (step_y, step_x) = (op._ints(k) for k in ("stride", "padding", "dilation"))
    for a in range(weight.shape[2]):
        for b in range(weight.shape[3]):
            up, left = y + pad_y - a * step_y, x + pad_x - b * step_x
            row, column = up // stride_y, left // stride_x
            hit = (row >= 0) & (row < op.out_shape[2]) & (column >= 0) & (column < op.out_shape[3])
            hit = (hit & (row * stride_y == up) & (column * stride_x == left)).nonzero()[:, 0]
            value = weight[:, channel[hit], a, b].T * fresh.half[hit, None]
            out[hit, 0, :, row[hit], column[hit]] = value
    return out


def _slope(centre: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Slope k and half gap h of DeepZ's planes (Singh et al. 2018) for relu on [c - s, c + s]:

        k x <= relu(x) <= k x + 2 h,    k = (1 + c / s) / 2 in [0, 1],  h = s k (1 - k)

    Any k in [0, 1] keeps the lower plane; the rounding of c / s and k costs at most 8 u s above, that of h 8 u s more;
    the caller adds 32 ulp of s. Stable neurons get exactly k = 0 or 1 and h = 0.
    """
    slope = torch.div(centre, spread).clamp_(-1, 1).mul_(0.5).add_(0.5)
    half = torch.addcmul(slope, slope, slope, value=-1).mul_(spread)
    return slope, half


def _scaled(
    form: Zonotope, slope: Tensor, half: Tensor, exact_noise: Tensor, last: bool, symbols: Symbols, unstable: Tensor
) -> Zonotope:
    """The form times `slope`, (B, *S) float64 in [0, 1], plus new noise of size `half`; `exact_noise` is rounding so
    far.

    The core is multiplied in float64; slopes are rounded to the fast type for the maps, an error of u sum |maps|.
    """
    eps, fast = ulp(form.radius.dtype), form.radius.dtype
    rough, up = slope.to(fast), half.mul(1 + 2 * eps).to(fast)
    lumped = form.lumped()
    rounding = torch.add(exact_noise.to(fast).mul_(1 + 2 * eps).add_(FLOOR), lumped, alpha=16 * eps)
    radius = torch.addcmul(rounding, form.radius, rough)
    noise = torch.addcmul(up + rounding, lumped, rough).mul_(1 + 8 * eps)
    fresh = _new_symbols(up, form, radius, symbols, unstable)
    core = form.core.mul_(slope[:, None]) if last else form.core * slope[:, None]
    per_map = [rough.index_select(0, owner) for owner in form.owner]
    maps = tuple(m.mul_(k) if last else k.mul_(m) for m, k in zip(form.maps, per_map, strict=True))
    return Zonotope(core, maps, form.ids, form.owner, radius, noise, fresh)


def _new_symbols(half: Tensor, form: Zonotope, radius: Tensor, symbols: Symbols, unstable: Tensor) -> Fresh | None:
    """Fresh symbols for the gaps `half` (B, *S); what does not fit is added to `radius`."""
    flat = half.flatten(1)
    owner, neuron = flat.nonzero(as_tuple=True)
    unstable += torch.bincount(owner, minlength=len(unstable))
    room = max(0, MAP_ELEMENTS // flat.shape[1] - form.count)
    if len(owner) > room:
        order = flat[owner, neuron].argsort(descending=True)
        lumped, kept = order[room:], order[:room].sort().values
        radius.flatten(1).index_put_(
            (owner[lumped], neuron[lumped]), flat[owner[lumped], neuron[lumped]], accumulate=True
        )
        owner, neuron = owner[kept], neuron[kept]
    if len(owner) == 0:
        return None
    return symbols.add(owner, neuron, flat[owner, neuron], form)


def _relu(form: Zonotope, last: bool, symbols: Symbols, unstable: Tensor, rigorous: bool) -> Zonotope:
    """`last`: nobody else reads the argument, so its tensors may be overwritten."""
    spread = form.width().clamp_min_(FLOOR)
    slope, half = _slope(form.core[:, 0], spread)
    rounding = spread.mul_(64 * EXACT)
    if rigorous:
        rounding.add_(form.core[:, 0].abs(), alpha=8 * EXACT)
    result = _scaled(form, slope, half, rounding, last, symbols, unstable)
    result.core[:, 0] += half
    return result


def _clip(form: Zonotope, low: float, high: float, symbols: Symbols, unstable: Tensor) -> Zonotope:
    """clip(x) = low + relu(x - low) - relu(x - high), each relu with its own planes, one symbol for both.

    Where [l, u] holds at most one of the kinks, as almost everywhere on small boxes, these are the best planes.
    """
    centre, spread = form.core[:, 0], form.width().clamp_min_(FLOOR)
    up, lift = _slope(centre - low, spread)
    down, drop = _slope(centre - high, spread)
    rounding = (spread + centre.abs() + abs(low) + abs(high)).mul_(64 * EXACT)
    result = _scaled(form, up - down, lift + drop, rounding, False, symbols, unstable)
    result.core[:, 0] += lift - drop + down * high + (1 - up) * low
    return result


def _generic(op: RelaxedOp, given: list[Zonotope], unstable: Tensor) -> Zonotope:
    """Any other non-linear operator by its own planes in float64; noise symbols are lumped."""
    fast = given[0].radius.dtype
    result, bent = generic_form(op, [AffineForm(f.core, f.lumped().double()[:, None]) for f in given])
    unstable += bent
    radius = torch.nan_to_num(result.radius[:, 0] * (1 + 4 * ulp(fast)) + FLOOR, nan=torch.inf, posinf=torch.inf)
    return Zonotope(result.maps, (), (), (), radius.to(fast))
