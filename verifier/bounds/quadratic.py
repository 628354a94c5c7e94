"""Intervals of neurons from all earlier ReLUs together, by a quadratic Lagrangian.

CROWN and its linear programme relax every ReLU y = max(z, 0) alone, as if all could be at their worst place at once.
But the arguments z depend on the same inputs, and in a wide layer most of what each may lose is never lost together.
A semidefinite relaxation sees that (Raghunathan et al. 2018; by its dual: Dathathri et al. 2020). With a symbol for
every input x and for every unstable y, all arguments and the row r that is asked for are affine forms of them, and

    L(x, y) = r - p y - q (y - z) - t (s (z - l) - y) + a (y^2 - y z) - m y (u - y) - d (x - low) (high - x)

(summed over neurons and inputs; s = u / (u - l)) is at most r at the network's points for any p, q, t, a, m, d >= 0:
y^2 = y z there, and what the others multiply is not negative. Where L is convex, its least value over all symbols is a
bound. The inputs' part is diagonal: they are eliminated, and a Cholesky factor of the y-part that is left gives the
least point v, and the gradient as well (Danskin's theorem): the derivative by a multiplier is its own term at v. So the
multipliers climb in the search's precision for a factor of K x K per row and iterate, K the number of unstable neurons.

`prove` takes the multipliers and any v: with g the gradient of L there and c >= 0 such that the quadratic part is at
least -c |y|^2,

    r >= L(v) + min over the symbols' box of  g . (w - v)  -  c max |w_y - v_y|^2,

in float64 with every rounding taken off; c comes from the factor's own residual, so nothing rests on LAPACK.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from verifier.bounds.ascend import Adam
from verifier.bounds.backward import walk_back
from verifier.bounds.relaxed import Ground
from verifier.ops.kinds import Relaxation
from verifier.tolerance import NEARLY_CONVEX, gamma, lost, ulp

STEPS, RATE = 80, (0.3, 0.97)
"""Iterates of a climb, its first step and decay. 256x6 of mnist_fc (property 2), 15 neurons of the second layer: mean
width 18.2 by the linear programme, 10.1 after 80 iterates, 9.7 after 400, 8.9 by sampling."""

EVERY = 5
"""The inputs' multipliers move in every fifth iterate, which alone multiplies by all inputs. (Widths after 100
iterates, 16 neurons of the third layer: 28.8 with 1, 29.0 with 5, 29.9 with 10, in 2.3, 1.1 and 0.9 s.)"""


class Forms(NamedTuple):
    """M affine forms  x . v_x + y . v_y + constant  over the n inputs and the K symbols, (M, n), (M, K), (M,)."""

    x: Tensor
    y: Tensor
    constant: Tensor

    def select(self, index: slice | Tensor) -> Forms:
        """The forms at `index`."""
        return Forms(*(t[index] for t in self))

    def to(self, dtype: torch.dtype) -> Forms:
        """The same in another precision."""
        return Forms(*(t.to(dtype) for t in self))


@dataclass(frozen=True, eq=False)
class ReluSymbols:
    """The symbols before an operator on the box `lower`, `upper` (n,): the arguments `forms` (K) of the unstable
    neurons, each at most `error` (K,) above its form, their ends `low` <= 0 <= `high`, (K,), or (R, K) on R parts of
    the box, and the number `level` (K,) of the operator that each belongs to. One end is 0 where a sign is decided: the
    facts then say that y = z, or that y = 0 and z <= 0, and their multipliers are those of the decision."""

    lower: Tensor
    upper: Tensor
    forms: Forms
    error: Tensor
    low: Tensor
    high: Tensor
    level: Tensor

    def decided(self, signs: Tensor) -> ReluSymbols:
        """Those of R parts of the box, where neurons have the `signs` (R, K), 0 where none is decided."""
        low, high = torch.where(signs > 0, 0.0, self.low), torch.where(signs < 0, 0.0, self.high)
        return replace(self, low=low, high=high)

    def select(self, index: Tensor) -> ReluSymbols:
        """Those of the rows at `index`."""
        if self.low.dim() == 1:
            return self
        return replace(self, low=self.low[index], high=self.high[index])

    @property
    def slope(self) -> Tensor:
        """Of the line through (l, 0) and (u, u), or a little steeper, which is as good an upper bound."""
        return self.high / (self.high - self.low) * (1 + 8 * ulp(self.high.dtype))

    def scaled(self, dtype: torch.dtype) -> ReluSymbols:
        """The same over inputs in [-1, 1], for a climb; not rigorous."""
        one, forms = torch.ones_like(self.lower, dtype=dtype), self.unit(self.forms, dtype)
        low, high = self.low.to(dtype), self.high.to(dtype)
        return ReluSymbols(-one, one, forms, self.error.to(dtype), low, high, self.level)

    def unit(self, forms: Forms, dtype: torch.dtype) -> Forms:
        """Forms over inputs in [-1, 1]."""
        centre, radius = (self.lower + self.upper) / 2, (self.upper - self.lower) / 2
        return Forms(forms.x * radius, forms.y, forms.constant + forms.x @ centre).to(dtype)


class Multipliers(NamedTuple):
    """Of R rows, all >= 0, by the facts that they belong to: (R, K) of y >= 0, y >= z, y <= s (z - l), y^2 = y z and
    y <= u; (R, n) of the inputs' ranges."""

    zero: Tensor
    line: Tensor
    chord: Tensor
    square: Tensor
    top: Tensor
    inputs: Tensor

    def select(self, index: slice | Tensor) -> Multipliers:
        """Those of the rows at `index`."""
        return Multipliers(*(t[index] for t in self))

    def where(self, mask: Tensor, other: Multipliers) -> Multipliers:
        """These where the mask (R,) is set, elsewhere those of `other`."""
        return Multipliers(*(torch.where(mask[:, None], a, b) for a, b in zip(self, other, strict=True)))


class Least(NamedTuple):
    """The least value (R,) of L, -inf where it is not convex, and its place x (R, n), y (R, K); the arguments z there,
    and `inner` (R, K, K): the products of the forms' x with each other, weighted by 1 / d."""

    value: Tensor
    x: Tensor
    y: Tensor
    z: Tensor
    inner: Tensor


def least(symbols: ReluSymbols, rows: Forms, m: Multipliers, inner: Tensor | None = None) -> Least:
    """Where L is least over all symbols (inputs in [-1, 1]), not rigorous; `inner` if it is known."""
    forms, slope = symbols.forms, symbols.slope
    pull = m.line - m.chord * slope
    by_x = rows.x + pull @ forms.x
    by_y = rows.y + pull @ forms.y - m.zero - m.line + m.chord - m.top * symbols.high - m.square * forms.constant
    constant = rows.constant + (pull * forms.constant + m.chord * slope * symbols.low).sum(1) - m.inputs.sum(1)
    if inner is None:
        inner = (forms.x / m.inputs[:, None]) @ forms.x.T
    factor, failed = torch.linalg.cholesky_ex(_left(symbols, m, inner))
    right = by_y + 0.5 * m.square * ((by_x / m.inputs) @ forms.x.T)
    y = torch.cholesky_solve(-0.5 * right[:, :, None], factor)[:, :, 0]
    x = -0.5 * (by_x - (m.square * y) @ forms.x) / m.inputs
    value = constant + 0.5 * ((by_x * x).sum(1) + (by_y * y).sum(1))
    known = (failed == 0) & torch.isfinite(value)
    z = x @ forms.x.T + y @ forms.y.T + forms.constant
    return Least(torch.where(known, value, -torch.inf), x, y, z, inner)


def _left(symbols: ReluSymbols, m: Multipliers, inner: Tensor) -> Tensor:
    """The quadratic part over y that is left where the inputs are eliminated, (R, K, K): its Schur complement, of which
    only the lower triangle is filled (a form reads the symbols of earlier levels alone)."""
    matrix = torch.addcmul(symbols.forms.y, inner, m.square[:, None], value=0.5).mul_(-0.5 * m.square[:, :, None])
    matrix.diagonal(dim1=1, dim2=2).add_(m.square + m.top)
    return matrix


def start(symbols: ReluSymbols, rows: Forms) -> tuple[Multipliers, Tensor]:
    """CROWN's multipliers, with `square` as large as L stays convex with and the others moved so that its least point
    is CROWN's own; and the usual size (R, K) of a row's coefficient at each neuron."""
    forms, slope, high = symbols.forms, symbols.slope, symbols.high
    levels = [(symbols.level == level).nonzero()[:, 0] for level in symbols.level.unique()]
    keep = (high > -symbols.low).to(high.dtype)
    none = torch.zeros_like(rows.y)
    zero, line, chord, at = _absorbed(symbols, rows, levels, keep, none, none)
    x = -(rows.x + (line - chord * slope) @ forms.x).sign()
    y, z = torch.zeros_like(at), torch.zeros_like(at)
    for k in levels:
        z[:, k] = x @ forms.x[k].T + y @ forms.y[k].T + forms.constant[k]
        y[:, k] = torch.where(at[:, k] > 0, keep[..., k] * z[:, k], slope[..., k] * (z[:, k] - symbols.low[..., k]))
    size = at.abs() + 0.05 * at.abs().mean(1, keepdim=True)
    square = size / (high - symbols.low)
    order = torch.cat([torch.full((len(k),), float(place)) for place, k in enumerate(levels)]).to(square)
    less = square.new_ones(len(square), 1)
    for _ in range(30):  # a later neuron's square is made up for by those of the earlier ones that it reads
        trial = square * less**order
        mixed = 1.5 * trial[:, :, None] * forms.y
        unit = trial.rsqrt()
        matrix = unit[:, :, None] * (torch.diag_embed(trial) - 0.5 * (mixed + mixed.transpose(1, 2))) * unit[:, None]
        failed = torch.linalg.cholesky_ex(matrix)[1] != 0
        if not bool(failed.any()):
            break
        less = torch.where(failed[:, None], 0.5 * less, less)
    square = square * less**order
    found, open_ = None, torch.ones(len(square), dtype=torch.bool, device=square.device)
    for _ in range(40):
        zero, line, chord, _ = _absorbed(symbols, rows, levels, keep, square, square * (2 * y - z), y)
        by_x = rows.x + (line - chord * slope - square * y) @ forms.x
        inputs = (-0.5 * by_x * x).clamp(min=0) + 0.02 * by_x.abs().mean(1, keepdim=True) + torch.finfo(by_x.dtype).tiny
        trial_ = Multipliers(zero, line, chord, square, torch.zeros_like(square), inputs)
        found = trial_ if found is None else trial_.where(open_, found)
        open_ = open_ & least(symbols, rows, trial_).value.isneginf()
        if not bool(open_.any()):
            break
        square = torch.where(open_[:, None], 0.5 * square, square)
    assert found is not None
    return found, size


def _absorbed(
    symbols: ReluSymbols,
    rows: Forms,
    levels: list[Tensor],
    keep: Tensor,
    square: Tensor,
    added: Tensor,
    y: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The linear multipliers zero, line and chord that leave no coefficient at any neuron, and those coefficients,
    where squares have `added` to them: from the last level back to the first."""
    slope = symbols.slope
    at, pull = rows.y + added, torch.zeros_like(rows.y)
    for k in reversed(levels):
        at[:, k] = at[:, k] + pull @ symbols.forms.y[:, k]
        pull[:, k] = torch.where(at[:, k] > 0, at[:, k] * keep[..., k], at[:, k] * slope[..., k])
        if y is not None:
            pull[:, k] = pull[:, k] - square[:, k] * y[:, k]
    up = at.clamp(min=0)
    return up * (1 - keep), up * keep, (-at).clamp(min=0), at


class JointClimbed(NamedTuple):
    """The `best` multipliers found for R rows, the least values `value` (R,) of L there, the usual size (R, K) of a
    row's coefficient at each neuron, and how many `iterates` that took, over all rows."""

    best: Multipliers
    value: Tensor
    size: Tensor
    iterates: int


def climb(
    symbols: ReluSymbols,
    rows: Forms,
    stop: Callable[[], bool],
    first: tuple[Multipliers, Tensor] | None = None,
    steps: int = STEPS,
    begin: float = RATE[0],
    sign: bool = False,
) -> JointClimbed:
    """The best multipliers that so many iterates find for each row, from `first` (see `start`) and with steps of size
    `begin`; symbols and rows `scaled`. Where only the `sign` is asked for, rows that are positive leave."""
    now, whole_size = start(symbols, rows) if first is None else first
    size = whole_size
    best, value = now, rows.constant.new_full((len(rows.constant),), -torch.inf)
    adam, inner, kept = Adam((0.9, 0.99)), None, None
    rate = rows.constant.new_full((len(value), 1), begin)
    index, whole = torch.arange(len(value), device=value.device), None
    iterates = 0
    for step in range(steps):
        if sign and inner is None and step:  # where the inputs' multipliers have moved there is nothing more to carry
            keep = (~(value > 0)).nonzero()[:, 0]
            if not len(keep):
                break
            if len(keep) <= 0.75 * len(index):
                whole = _put(whole, index, best, value)
                index, symbols, rows = index[keep], symbols.select(keep), rows.select(keep)
                now, best = now.select(keep), best.select(keep)
                value, size, rate = value[keep], size[keep], rate[keep]
                kept = None if kept is None else kept[keep]
                adam.select(keep)
        found = least(symbols, rows, now, inner)
        iterates += len(index)
        inner = found.inner
        better = found.value > value
        value = torch.maximum(value, found.value)
        best = now.where(better, best)
        kept = inner if kept is None else torch.where(better[:, None, None], inner, kept)
        if step + 1 == steps or stop():
            break
        # not convex any more, or thrown far back by a pole: halfway back to the best, in smaller steps
        fine = torch.isfinite(found.value) & (found.value >= value - 0.5 * (value.abs() + 1))
        x, y, z = found.x, found.y, found.z
        gradients = {
            "zero": -y,
            "line": z - y,
            "chord": y - symbols.slope * (z - symbols.low),
            "square": now.square * (y * y - y * z),
            "top": y * (y - symbols.high),
            "inputs": now.inputs * (x * x - 1),
        }
        clean = {name: torch.where(fine[:, None], g, 0.0) for name, g in gradients.items()}
        moves = adam.step(clean)
        rate = torch.where(fine[:, None], rate, 0.9 * rate)
        far, moving = rate * RATE[1] ** step, step % EVERY == 0
        plain = [
            (t + 2 * far * size * moves[name]).clamp(min=0)
            for name, t in (("zero", now.zero), ("line", now.line), ("chord", now.chord))
        ]
        moved = Multipliers(
            plain[0],
            plain[1],
            plain[2],
            now.square * torch.exp(2 * far * moves["square"].clamp(-2, 2)),
            (now.top + far * now.square * moves["top"]).clamp(min=0),
            now.inputs * torch.exp(6 * far * moves["inputs"].clamp(-2, 2)) if moving else now.inputs,
        )
        halfway = Multipliers(*(0.5 * (a + b) for a, b in zip(best, now, strict=True)))
        halfway = halfway._replace(square=(best.square * now.square).sqrt(), inputs=best.inputs)
        now = moved.where(fine, halfway)
        inner = None if moving else torch.where(fine[:, None, None], inner, kept)
    best, value = _put(whole, index, best, value)
    return JointClimbed(best, value, whole_size, iterates)


def _put(
    whole: tuple[Multipliers, Tensor] | None, index: Tensor, best: Multipliers, value: Tensor
) -> tuple[Multipliers, Tensor]:
    """Multipliers and values at the places `index` of the `whole` (None: they are all)."""
    if whole is None:
        return best, value
    parts = (old.index_copy(0, index, new) for old, new in zip(whole[0], best, strict=True))
    return Multipliers(*parts), whole[1].index_copy(0, index, value)


def prove(symbols: ReluSymbols, rows: Forms, multipliers: Multipliers) -> Tensor:
    """Rigorous lower bounds (R,) of rows over the symbols, in float64 at fixed multipliers >= 0 that may be rounded to
    anything (of inputs in [-1, 1]; those of inputs without width are not used); -inf where they prove nothing."""
    free = (symbols.upper > symbols.lower).nonzero()[:, 0]
    if not len(free):
        return rows.constant.new_full((len(rows.constant),), -torch.inf)
    found = None
    for more in (NEARLY_CONVEX, 100 * NEARLY_CONVEX, 10_000 * NEARLY_CONVEX):
        m = Multipliers(*(t.to(torch.float64).clamp(min=0) for t in multipliers))
        m = m._replace(top=m.top + more * m.square, inputs=m.inputs * (1 + more))
        low = _proven(symbols, rows, m, free)
        found = low if found is None else torch.maximum(found, low)
        if not bool(found.isneginf().any()):
            break
    assert found is not None
    return found


def _proven(symbols: ReluSymbols, rows: Forms, m: Multipliers, free: Tensor) -> Tensor:
    forms, error, low, high, slope = symbols.forms, symbols.error, symbols.low, symbols.high, symbols.slope
    n, k, dtype = len(symbols.lower), len(symbols.level), torch.float64
    unit, outward = gamma(n + k + 64, dtype), 1 + gamma(n + k + 64, dtype)
    lower, upper = symbols.lower, symbols.upper
    radius = (upper - lower) / 2
    d = torch.zeros_like(m.inputs)
    d[:, free] = (m.inputs[:, free] / radius[free].square()).clamp(min=torch.finfo(dtype).tiny)
    # x is eliminated: S = own - a A D^-1 A^T a / 4, and what S~ misses of it by rounding
    weighted = forms.x[:, free] / d[:, None, free]
    inner = weighted @ forms.x[:, free].T
    matrix = _left(symbols, m, inner)
    matrix = matrix.tril() + matrix.tril(-1).transpose(1, 2)
    mixed = m.square[:, :, None] * forms.y
    missed = 0.25 * (m.square.square() * inner.diagonal(dim1=1, dim2=2)).sum(1) + mixed.flatten(1).norm(dim=1)
    missed = 2 * unit * (missed + (m.square + m.top).amax(1))
    trace = matrix.diagonal(dim1=1, dim2=2).abs().sum(1)
    shift = missed + 2 * gamma(k + 64, dtype) * trace
    factor, failed = torch.linalg.cholesky_ex(matrix + torch.diag_embed(shift[:, None].expand(-1, k)))
    residual = (factor @ factor.transpose(1, 2) - matrix).flatten(1).norm(dim=1)
    size = factor.flatten(1).square().sum(1) + matrix.flatten(1).norm(dim=1)
    below = (residual * outward + 2 * gamma(k * k + 64, dtype) * (size + residual) + missed) * outward
    # any place does; this one is where L is least, but for rounding
    pull = m.line - m.chord * slope
    by_x = rows.x + pull @ forms.x - d * (lower + upper)
    by_y = rows.y + pull @ forms.y - m.zero - m.line + m.chord - m.top * high - m.square * forms.constant
    fixed = torch.where(radius > 0, 0.0, lower).expand_as(by_x)
    by_y = by_y - m.square * (fixed @ forms.x.T)
    by_free = by_x[:, free]
    right = by_y + 0.5 * m.square * ((by_free / d[:, free]) @ forms.x[:, free].T)
    y = torch.cholesky_solve(-0.5 * right[:, :, None], factor)[:, :, 0]
    x = fixed.clone()
    y = torch.nan_to_num(y).clamp(-1e100, 1e100)
    # a fixed input has to stay where it is: the quadratic part is bounded over the others
    x[:, free] = (-0.5 * (by_free - (m.square * y) @ forms.x[:, free]) / d[:, free]).nan_to_num().clamp(-1e100, 1e100)
    # L there, each sum with the magnitudes that its rounding is relative to
    z = x @ forms.x.T + y @ forms.y.T + forms.constant
    z_size = x.abs() @ forms.x.abs().T + y.abs() @ forms.y.abs().T + forms.constant.abs()
    row = (rows.x * x).sum(1) + (rows.y * y).sum(1) + rows.constant
    row_size = (rows.x * x).abs().sum(1) + (rows.y * y).abs().sum(1) + rows.constant.abs()
    parts = m.zero * y + m.line * (y - z) + m.chord * (slope * (z - low) - y) - m.square * y * (y - z)
    parts = parts + m.top * y * (high - y)
    at_z = m.line + m.chord * slope + m.square * y.abs()
    parts_size = (m.zero + m.line + m.chord + m.square * y.abs() + m.top * (high + y.abs())) * y.abs()
    parts_size = parts_size + at_z * z_size - m.chord * slope * low
    # a difference of two numbers is rounded relative to itself
    past, left = x - lower, upper - x
    ranges = d * past * left
    ranges_size = ranges.abs()
    value = row - parts.sum(1) - ranges.sum(1)
    value_size = row_size + parts_size.sum(1) + ranges_size.sum(1)
    # the gradient there, and the least that moving along it can bring on the box
    turn = pull - m.square * y
    g_x = rows.x + turn @ forms.x + d * (past - left)
    x_size = rows.x.abs() + at_z @ forms.x.abs() + d * (past.abs() + left.abs())
    g_y = rows.y + turn @ forms.y - m.zero - m.line + m.chord + m.square * (2 * y - z) - m.top * (high - 2 * y)
    y_size = rows.y.abs() + at_z @ forms.y.abs() + m.zero + m.line + m.chord
    y_size = y_size + m.square * (2 * y.abs() + z_size) + m.top * (high + 2 * y.abs())
    fall, fall_size = _falls(g_x, x_size, x, lower, upper)
    more, more_size = _falls(g_y, y_size, y, torch.zeros_like(high), high)
    reach = torch.maximum(y.abs(), (high - y).abs()).square().sum(1)
    form = ((m.chord * slope + m.square * high) * error).sum(1)
    rest = (below * reach + form) * (1 + 2 * unit)
    size = value_size + fall_size + more_size + rest
    sizes = (x_size, y_size, z_size, parts_size, ranges_size, d, reach[:, None], *m)
    largest = torch.stack([t.abs().amax(1) for t in sizes]).amax(0) + forms.x.abs().amax() + forms.y.abs().amax()
    underflow = lost((n + k + 8) * (k + 8), dtype) * (1 + largest + size).pow(6)
    found = value + fall + more - rest - 4 * unit * size - underflow
    good = (failed == 0) & torch.isfinite(found) & torch.isfinite(below) & torch.isfinite(size)
    good = good & (forms.y.triu() == 0).all()  # or half of the matrix would not say what the other half is
    return torch.where(good, found, -torch.inf)


def _falls(g: Tensor, size: Tensor, at: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The sum over symbols of the least of g (w - at), lower <= w <= upper, (R,), and what its rounding is relative to,
    that of g (relative to `size`) included."""
    down, up = g * (lower - at), g * (upper - at)
    far = torch.maximum((lower - at).abs(), (upper - at).abs())
    return torch.minimum(down, up).sum(1), (size * far).sum(1)


def symbols_before(ground: Ground, i: int, query: int, lower: Tensor, upper: Tensor) -> ReluSymbols | None:
    """The symbols of the unstable neurons before operator i on the box `lower`, `upper` (n,); None where there are
    none."""
    network, before = ground.network, [k for k in ground.network.relus if k < i]
    places = {k: _unstable(ground, k, query) for k in before}
    level = torch.cat([torch.full_like(place, k) for k, place in places.items()]) if places else None
    if level is None or not len(level):
        return None
    found = []
    for k, place in places.items():
        if len(place):
            slot = network.sources[k][0]
            found.append(forms_of(ground, slot, query, level, both_sides(ground, slot, place)))
    ends = [tuple(t[query].flatten()[place] for t in ground.pre[k][0]) for k, place in places.items()]
    low, high = (torch.cat(t) for t in zip(*ends, strict=True))
    # -z from a walk of its own says how far z may be above its form
    below = Forms(*(torch.cat([t[: len(t) // 2] for t in parts]) for parts in zip(*found, strict=True)))
    above = Forms(*(torch.cat([t[len(t) // 2 :] for t in parts]) for parts in zip(*found, strict=True)))
    reach = torch.maximum(lower.abs(), upper.abs())
    off = (below.x + above.x).abs() @ reach + (below.y + above.y).abs() @ high
    n, k = below.x.shape[1], len(high)
    error = (off - (below.constant + above.constant)).clamp(min=0) + 2 * gamma(n + k + 8, torch.float64) * off
    error = error + lost(n + k, torch.float64) * (1 + reach.sum() + high.sum())
    error = error + 8 * ulp(torch.float64) * (below.constant.abs() + above.constant.abs() + off)
    return ReluSymbols(lower, upper, below, error, low, high, level)


def forms_of(ground: Ground, slot: int, query: int, level: Tensor, rows: Tensor) -> Forms:
    """Forms over the symbols at operators `level` (K,) that `rows` (R, size) over the value in `slot` are not below."""
    network, allowance = ground.network, ground.allowance
    assert allowance is not None
    planes: dict[int, Relaxation] = {}
    trace: dict[int, Tensor] = {}
    for k in network.relus:
        if k < slot:
            x = ground.pre[k][0].lower[query : query + 1]
            slope, zero = (x >= 0).to(x.dtype), torch.zeros_like(x)  # a row ends at symbols; inactive neurons are 0
            planes[k] = Relaxation((slope,), zero, (slope,), zero)
    first = rows.view(1, len(rows), *network.shapes[slot])
    index = torch.tensor([query], device=network.device)
    bias = first.new_zeros(1, len(rows))
    x, constant = walk_back(network, slot, first, bias, planes, trace=trace, allowance=allowance.of(index))
    y = first.new_zeros(len(rows), len(level))
    for k, at in trace.items():
        y[:, level == k] = at[0].flatten(1)[:, _unstable(ground, k, query)]
    return Forms(x[0], y, constant[0])


def both_sides(ground: Ground, slot: int, neuron: Tensor) -> Tensor:
    """Rows z, then rows -z, of the elements `neuron` (M,) of the value in `slot`: (2 M, size)."""
    network = ground.network
    rows = torch.zeros(2, len(neuron), network.size(slot), dtype=network.dtype, device=network.device)
    rows[0].scatter_(1, neuron[:, None], 1.0)
    rows[1].scatter_(1, neuron[:, None], -1.0)
    return rows.flatten(0, 1)


def _unstable(ground: Ground, k: int, query: int) -> Tensor:
    low, high = (t[query].flatten() for t in ground.pre[k][0])
    return (~(low >= 0) & ~(high <= 0)).nonzero()[:, 0]  # what is not a number proves nothing
