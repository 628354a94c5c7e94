"""The cheapest affine forms of a batch of boxes, every rounding error in the radius: d + 1 signed maps, one |W| map.

A value v of box b is

    v = centre[b] + sum_i e_i inputs[i, b] + r,    e in [-1, 1]^d,  |r| <= radius[b]

The relaxations are DeepZ's (Singh et al. 2018), with the noise of every neuron lumped into the radius at once. So a
linear layer costs d + 2 applications, whatever the number of neurons that are not affine, and bounds of a batch cost a
small multiple of inference. `bounds.zonotope`, which keeps the noise apart, costs ten times as much per box and is far
tighter on deep networks. Element-wise work is done in place, in chunks of the batch that stay in the cache.

Precision: inputs and radius are of the fast type, the centre is float64 until its rounding would be small beside the
radius (`SETTLED`), and of the fast type from there on. See `bounds.zonotope` for why, and for the bound of a sum's
error, gamma_n * sum |w| |v|, which must be in the radius before |W| is applied. ReLUs, which have a bound of every |v|
at hand, add it for the layer that reads them; elsewhere an extra step does. `FLOOR` covers underflow and keeps every
spread positive. The result needs no recheck. What overflows becomes NaN, which readers must take for "nothing known".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verifier.bounds.affine import AffineForm, generic_form
from verifier.bounds.cores import cores, on_cores
from verifier.bounds.network import Network
from verifier.bounds.zonotope import Twin, terms_of
from verifier.ops.affine import Dense
from verifier.ops.conv import Conv, ConvTranspose
from verifier.ops.kinds import Interval, LinearOp, Op, RelaxedOp
from verifier.ops.layout import Reshape
from verifier.ops.piecewise import Clip, Relu
from verifier.tolerance import EXACT, FLOOR, ulp
from verifier.tolerance import gamma as sum_error

CHUNK_ELEMENTS = 600_000
"""Elements of the widest value in one chunk of boxes: larger chunks leave the cache, smaller ones wait for torch."""

FEWEST = 16
"""Boxes in a chunk that is made only to give every core one."""

EXACT_BATCH = 16
"""Boxes that one convolution in float64 takes at a time."""

SETTLED = 0.3
"""The centre goes on in the fast type once its next layer's rounding is below this share of the radius, on average."""


@dataclass(frozen=True, eq=False)
class Lumped:
    """`centre`, `radius` (B, *S) and `inputs` (d, B, *S); the radius has room for rounding in sums of `room` products.

    The centre is float64 or of the type of the others. The tensors may be shared with other values, and are written to
    only where `Prepared.owned` says that they are not.
    """

    centre: Tensor
    inputs: Tensor
    radius: Tensor
    room: int = 0

    def spread(self) -> Tensor:
        """A new tensor (B, *S): sum |inputs| + radius but for d + 1 roundings."""
        total = self.inputs[0].abs()
        for part in self.inputs[1:]:
            total.add_(part.abs())
        return total.add_(self.radius)

    def interval(self) -> Interval:
        """An interval around the value, float64."""
        spread = self.spread().double() * (1 + (len(self.inputs) + 4) * ulp(self.radius.dtype))
        centre = self.centre.double()
        spread = spread + 4 * EXACT * (spread + centre.abs())
        return Interval(centre - spread, centre + spread)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A network and what the sweep has to know about each operator.

    `room[i]`: most terms of a sum over operator i's output; `extra[i]`: what operator i adds to the radius, with the
    centre in the fast type and in float64; `owned[i]`: whether operator i may overwrite its argument, which then has a
    radius >= FLOOR, too.
    """

    twin: Twin
    room: tuple[int, ...]
    extra: tuple[tuple[Tensor, Tensor] | None, ...]
    owned: tuple[bool, ...]

    @staticmethod
    def of(twin: Twin) -> Prepared:
        """Reads them off a network."""
        network = twin.fast
        ops, sources = network.ops, network.sources
        room = [0] * len(ops)
        for i in reversed(range(len(ops))):
            op = ops[i]
            needed = (terms_of(op) or room[i]) if isinstance(op, LinearOp) else 0
            for s in sources[i]:
                if s > 0:
                    room[s - 1] = max(room[s - 1], needed)
        owned = tuple(_owned(network, i) for i in range(len(ops)))
        return Prepared(twin, tuple(room), tuple(_extra(op, network) for op in ops), owned)


def _extra(op: object, network: Network) -> tuple[Tensor, Tensor] | None:
    """Rounding of the constant and of its sum, and the floor."""
    if not isinstance(op, LinearOp):
        return None
    offset, terms, error = op.offset(), terms_of(op), op.inexact()
    if offset is None and terms == 0 and error is None:
        return None
    size = torch.zeros(1, dtype=network.dtype, device=network.device) if offset is None else offset.abs()
    own = 0.0 if error is None else error * 1.000001
    fast, exact = (size * ((terms + 8) * unit) + own + FLOOR for unit in (ulp(network.dtype), EXACT))
    return fast, exact


def _owned(network: Network, i: int) -> bool:
    """Whether operator i is the only reader of tensors that were made for it, looking through reshapes."""
    if len(network.sources[i]) != 1:
        return False
    slot = network.sources[i][0]
    while network.readers(slot) == 1:
        if slot == 0 or isinstance(network.ops[slot - 1], Conv | ConvTranspose | Dense):
            return True
        if not isinstance(network.ops[slot - 1], Reshape):
            return False
        slot = network.sources[slot - 1][0]
    return False


def gamma(terms: int, dtype: torch.dtype) -> float:
    """At least the relative error of a sum of `terms` products whose weights were rounded at import and to the type."""
    return sum_error(terms + 8, dtype)


@dataclass(frozen=True, eq=False)
class Source:
    """The sets x = offset[q] + p matrix[:, q] a sweep may start from: `offset` (Q, n), `matrix` (d, Q, n), float64;
    `fast` is the matrix in the fast type, `peak` (Q,) and `slope` (Q, d) are the largest magnitudes in both.
    """

    offset: Tensor
    matrix: Tensor
    fast: Tensor
    peak: Tensor
    slope: Tensor

    @staticmethod
    def of(offset: Tensor, matrix: Tensor, fast: torch.dtype) -> Source:
        """From `offset` (Q, n) and `matrix` (Q, d, n), float64."""
        turned = matrix.transpose(0, 1).contiguous()
        return Source(offset, turned, turned.to(fast), offset.abs().amax(1), matrix.abs().amax(2))

    def form(self, centre: Tensor, radius: Tensor, query: Tensor) -> Lumped:
        """The sets over p in centre +- radius, both (B, d) float64, of queries (B,).

        The centre takes d products and d sums in float64. In the fast type, matrix and radii are rounded once each.
        """
        low, d = self.fast.dtype, len(self.fast)
        if bool((query == query[0]).all()):
            q = query[:1]
            middle = self.offset[q] + centre @ self.matrix[:, q[0]]
            inputs = radius.T.to(low)[:, :, None] * self.fast[:, q]
        else:
            middle = self.offset.index_select(0, query)
            for i in range(d):
                middle.addcmul_(self.matrix[i].index_select(0, query), centre[:, i, None])
            inputs = self.fast.index_select(1, query).mul_(radius.T.to(low)[:, :, None])
        slope = self.slope[query]
        size = (self.peak[query] + (centre.abs() * slope).sum(1)) * (4 * d + 8) * EXACT
        noise = size + (radius * slope).sum(1) * (2 * ulp(low)) + FLOOR
        return Lumped(middle, inputs, noise.to(low)[:, None].repeat(1, middle.shape[1]))


def sweep_lumped(
    given: Prepared,
    source: Source,
    centre: Tensor,
    radius: Tensor,
    query: Tensor,
    unstable: Tensor | None = None,
) -> Lumped:
    """The network's output (B, m) over the parameters centre +- radius, (B, d) float64, of queries (B,).

    Adds the number of neurons that are not affine on each box to `unstable` (B,), where it is given.
    """
    network = given.twin.fast
    size = max(1, CHUNK_ELEMENTS // network.widest) if network.device.type == "cpu" else max(1, len(query))
    if network.device.type == "cpu":
        size = min(size, max(FEWEST, -(-len(query) // cores())))

    def part(at: slice) -> Lumped:  # each part counts in its own elements of `unstable`
        mine = None if unstable is None else unstable[at]
        return _sweep(given, source.form(centre[at], radius[at], query[at]), mine)

    parts = on_cores(part, (slice(i, i + size) for i in range(0, len(query), size)))
    return Lumped(
        torch.cat([p.centre.double() for p in parts]),
        torch.cat([p.inputs for p in parts], 1),
        torch.cat([p.radius for p in parts]),
    )


def _sweep(given: Prepared, first: Lumped, unstable: Tensor | None) -> Lumped:
    network = given.twin.fast

    def step(i: int, op: Op, read: list[Lumped]) -> Lumped:
        exact = given.twin.exact.ops[i]
        if isinstance(op, LinearOp):
            assert isinstance(exact, LinearOp)
            return _linear(op, exact, read, given.extra[i]) if read else _constant(exact, first)
        assert isinstance(exact, RelaxedOp)
        if isinstance(op, Relu):
            return _relu(read[0] if given.owned[i] else _copied(read[0]), given.room[i], unstable)
        if isinstance(op, Clip) and all(map(math.isfinite, op._limits())):
            argument = read[0] if given.owned[i] else _copied(read[0])
            return _clip(argument, *op._limits(), given.room[i], unstable)
        return _generic(exact, read, unstable)

    out = network.walk(first, step)
    batch, m = len(first.centre), network.m
    return Lumped(out.centre.reshape(batch, m), out.inputs.reshape(-1, batch, m), out.radius.reshape(batch, m))


def _copied(form: Lumped) -> Lumped:
    return Lumped(form.centre.clone(), form.inputs.clone(), form.radius + FLOOR)


def _constant(op: LinearOp, first: Lumped) -> Lumped:
    batch, value = len(first.centre), op.forward()[0]
    centre = value.expand(batch, *value.shape)
    inputs = first.inputs.new_zeros(1, 1).expand(len(first.inputs), *centre.shape)
    error = op.inexact()
    own = 0.0 if error is None else error * 1.000001
    return Lumped(centre, inputs, (4 * EXACT * centre.abs() + own + FLOOR).to(first.radius.dtype))


def _linear(op: LinearOp, exact: LinearOp, read: list[Lumped], extra: tuple[Tensor, Tensor] | None) -> Lumped:
    terms = terms_of(op)
    read = _settled(read, terms)
    lead, kind = read[0].inputs.shape[:2], read[0].centre.dtype
    radii = [form.radius if form.room >= terms else _with_rounding(form, terms) for form in read]
    inputs = op.linear(*(form.inputs.flatten(0, 1) for form in read)).unflatten(0, lead)
    precise = kind == torch.float64
    centre = _exactly(exact, read) if precise else op.forward(*(form.centre for form in read))
    radius = op.absolute(*radii)
    if extra is None:
        return Lumped(centre, inputs, radius, min(form.room for form in read))
    radius = radius + extra[1 if precise else 0]
    if terms == 0:
        radius.add_(centre.abs().to(radius.dtype), alpha=ulp(kind))
    return Lumped(centre, inputs, radius)


def _exactly(op: LinearOp, read: list[Lumped]) -> Tensor:
    """The centres, float64. Convolutions unfold them on a CPU: a few at a time stay in the cache."""
    centres = [form.centre for form in read]
    if not isinstance(op, Conv) or centres[0].device.type != "cpu":
        return op.forward(*centres)
    return torch.cat([op.forward(part) for part in centres[0].split(EXACT_BATCH)])


def _settled(read: list[Lumped], terms: int) -> list[Lumped]:
    """The forms with all centres in the fast type, if one of them is already, or if the radii are large enough."""
    fast = read[0].radius.dtype
    precise = [form for form in read if form.centre.dtype != fast]
    if not precise or (len(precise) == len(read) and not all(_drowned(form, terms) for form in read)):
        return read
    return [_narrowed(form, terms) for form in read]


def _drowned(form: Lumped, terms: int) -> bool:
    """Whether the rounding of a sum of `terms` products would be small beside the radius; judged by some elements."""
    if terms == 0:
        return False
    some = slice(None, None, 7)
    centre, radius = (float(t.flatten()[some].abs().mean()) for t in (form.centre, form.radius))
    return gamma(terms, form.radius.dtype) * centre < SETTLED * radius


def _narrowed(form: Lumped, terms: int) -> Lumped:
    fast = form.radius.dtype
    if form.centre.dtype == fast:
        return form
    centre = form.centre.to(fast)
    radius = torch.add(form.radius, centre.abs(), alpha=gamma(terms, fast) + ulp(fast))
    return replace(form, centre=centre, radius=radius)


def _with_rounding(form: Lumped, terms: int) -> Tensor:
    """The radius with room for the rounding of a sum of `terms` products, and of |W| r itself."""
    kind, centre = form.radius.dtype, form.centre.abs()
    radius = torch.add(form.radius, form.spread(), alpha=gamma(terms, kind))
    return radius.add_(centre.to(kind), alpha=1.01 * gamma(terms, centre.dtype))


def _hinge(centre: Tensor, spread: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Slope k and gap q, so that relu(x) lies in k x + k [0, q] on [c - s, c + s], whatever was rounded.

    DeepZ's planes: k = 1 - q / (2 s) cut off at 0, q = max(s - c, 0). A plane k x + [0, 2 h] holds for any k in [0, 1]
    as long as 2 h >= (1 - k) u and 2 h >= -k l; with 2 h = k q = -k l that is so for k >= u / (2 s). So k is biased
    upwards, by more than its rounding where q >= s / 16 (below that k > 0.9, and what is missing is at most
    5 half ulp of s). The bias also lets k be 0 only where c is below the negative of the true s; where q is 0, k is 1.
    """
    gap = torch.sub(spread, centre).clamp_min_(0)
    bias = (d + 48) * ulp(spread.dtype) / 2
    slope = torch.addcdiv(spread.new_ones(()), gap, spread, value=-(0.5 - bias)).clamp_min_(0)
    return slope, gap


def _relu(form: Lumped, room: int, unstable: Tensor | None) -> Lumped:
    """In place: relu(x) = k x + k q / 2 +- k q / 2.

    Let m = max(c, s) = c + q. Where k > 0: q <= 2 s, |c + q / 2| <= m, and the new spread is at most 2 s. Rounding
    costs, in units of k s (of k m where the centre is of the fast type): d + 4 half ulp for s and c in q, 5 for the
    bias, d + 3 for a neuron taken for active, 3 for the products with k, 8 for the sums in the radius; and gamma times
    the new magnitudes for the layer that reads the result. Where k = 0 everything is exactly 0.
    """
    centre, inputs, radius, kind = form.centre, form.inputs, form.radius, form.radius.dtype
    fast, spread = centre.to(kind), form.spread()
    slope, gap = _hinge(fast, spread, len(inputs))
    if unstable is not None:
        unstable.add_((gap * slope).flatten(1).count_nonzero(1))
    margin = (len(inputs) + 16) * ulp(kind)
    if centre.dtype == kind:
        margin += 3.1 * gamma(room, kind)
        radius.add_(gap, alpha=0.5 + margin).add_(fast, alpha=margin).mul_(slope)
    else:
        # c >= -s where k > 0, so what its own part may lack is far below the margin on s
        radius.add_(gap, alpha=0.5).add_(spread, alpha=margin + 2.1 * gamma(room, kind))
        radius.add_(fast, alpha=2 * gamma(room, centre.dtype)).mul_(slope)
    centre.add_(gap, alpha=0.5).mul_(slope)
    return Lumped(centre, inputs.mul_(slope), radius, room)


def _clip(form: Lumped, low: float, high: float, room: int, unstable: Tensor | None) -> Lumped:
    """In place: elements that surely stay between the kinks are left as they are, the others go through `_cut`."""
    centre, radius, kind = form.centre, form.radius, form.radius.dtype
    spread, size = form.spread(), abs(low) + abs(high)
    inner = (high - low) / 2 * (1 - 64 * ulp(kind)) - 8 * ulp(kind) * size
    index = ((centre.to(kind) - (low + high) / 2).abs_().add_(spread).view(-1) > inner).nonzero()[:, 0]
    flat = centre.view(-1), form.inputs.flatten(1), radius.view(-1)
    *new, bent = _cut(flat[0][index], flat[1][:, index], flat[2][index], low, high, room)
    if unstable is not None:
        unstable.index_add_(0, index // (len(spread.view(-1)) // len(spread)), bent)
    # between the kinks |c| <= size
    radius.add_(spread, alpha=1.1 * gamma(room, kind)).add_(2 * gamma(room, centre.dtype) * size)
    for old, part, axis in zip(flat, new, (0, 1, 0), strict=True):
        old.index_copy_(axis, index, part)
    return replace(form, room=room)


def _cut(
    centre: Tensor, inputs: Tensor, radius: Tensor, low: float, high: float, room: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """clip(x) = low + high - x + relu(x - low) - relu(high - x) on elements (E,), (d, E), each relu by `_hinge`.

    Where [l, u] holds at most one of the kinks, as almost everywhere on small boxes, these are the best planes.
    Computed in float64 and rounded to the types given, with room for the next layer. The last tensor (E,) is 1 where
    the result is not affine.
    """
    c, g, r = centre.double(), inputs.double(), radius.double()
    d, size = len(g), c.abs() + (abs(low) + abs(high))
    spread = g.abs().sum(0) + r
    up, lift = _hinge(c - low, spread, d)
    down, drop = _hinge(high - c, spread, d)
    slope, lift, drop = up + down - 1, up * lift, down * drop
    c = low + high - c + up * (c - low) - down * (high - c) + (lift - drop) / 2
    g, r = g * slope, r * slope.abs() + (lift + drop) / 2 + (d + 64) * EXACT * (size + 3 * spread)
    noise, kind = g.abs().sum(0) + r, radius.dtype
    r = r + (1.1 * gamma(room, kind) + 4 * ulp(kind)) * noise
    r = r + (1.1 * gamma(room, centre.dtype) + 2 * ulp(centre.dtype)) * (c.abs() + size)
    return c.to(centre.dtype), g.to(kind), r.to(kind), (~(lift + drop == 0)).to(torch.int64)


def _generic(op: RelaxedOp, read: list[Lumped], unstable: Tensor | None) -> Lumped:
    """Any other non-linear operator by its own planes in float64."""
    low = read[0].radius.dtype
    forms = [
        AffineForm(
            torch.cat([f.centre[:, None].double(), f.inputs.transpose(0, 1).double()], 1), f.radius.double()[:, None]
        )
        for f in read
    ]
    result, bent = generic_form(op, forms)
    if unstable is not None:
        unstable.add_(bent)
    inputs = result.maps[:, 1:].transpose(0, 1)
    radius = (result.radius[:, 0] + inputs.abs().sum(0) * (2 * ulp(low))) * (1 + 4 * ulp(low)) + FLOOR
    radius = torch.nan_to_num(radius, nan=torch.inf, posinf=torch.inf)
    return Lumped(result.maps[:, 0].contiguous(), inputs.to(low).contiguous(), radius.to(low))
