"""What a leaf needs so that the checker's own bounds prove it: rows, weights; or where to split it further.

Nothing here has to be right: the checker bounds again whatever is proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from verifier.budget import OutOfTime
from verifier.checker.bounds import Enclosures, bound_rows, unit_rows
from verifier.checker.errors import Unreadable
from verifier.checker.format import ROOT, Picked
from verifier.checker.linear import Array, Linear
from verifier.checker.prove import Claim, ClauseTask, Part, Prover
from verifier.errors import ProofError
from verifier.proof.encode import short
from verifier.search.linear_program import exclude

STEPS = 24
"""Steps of the ascent over the weights of a clause's rows."""

WORTH = 0.8
"""A box is clipped where at most this share of its volume is left: a clip costs the checker as much as a leaf."""

SURE = 1024
"""A row clips a box where its least value is so many times what was taken off it for rounding."""

SPARE = 1e3
"""The margin of a leaf on a narrowed part is so many times what was taken off it for rounding: the checker that reads
may sum in another order from the first narrowing on."""

MOST_ROWS = 512
"""Rows and decided neurons of the largest linear program."""


@dataclass(frozen=True, eq=False)
class Hint:
    """A claim with the rows to take; `holds` whether its bounds prove it with something to spare (so that another
    order of summation cannot change it); `worst` (n,) the coefficients of the row furthest from proven; `neuron` the
    (value of the Relu, number) whose planes are furthest apart, None where no sign is open; `clip` a claim that
    narrows the part where it does not hold, and to what, None where that is not worth it."""

    claim: Claim
    holds: bool
    worst: Array
    neuron: tuple[int, int] | None
    clip: tuple[Claim, Part] | None = None


def suggest(prover: Prover, claims: Sequence[Claim], stop: Callable[[], bool]) -> list[Hint]:
    """One hint per claim; rows that a claim brings are tried first.

    Raises:
        OutOfTime: `stop()` said so in the middle.
        ProofError: the network is too large for the checker's bounds.
    """
    found: list[Hint | None] = [None] * len(claims)
    for group in prover.groups(claims):
        if stop():
            raise OutOfTime
        try:
            hints = _Group(prover, [claims[i] for i in group]).hints()
        except Unreadable as error:
            raise ProofError(f"no proof can be written: {error}; run without --proof") from None
        for i, hint in zip(group, hints, strict=True):
            found[i] = hint
    return [h for h in found if h is not None]


class _Group:
    """Claims that are bounded together. `margin` are those of the rows found so far, (claim, clause) each."""

    def __init__(self, prover: Prover, claims: list[Claim]) -> None:
        self.prover, self.claims = prover, claims
        self.swept = prover.prepare(claims)
        self.rows: list[list[Picked]] = [[()] * len(prover.clauses(c.part)) for c in claims]
        self.spare = np.full(len(claims), np.inf)
        self.worst = np.zeros((len(claims), prover.network.inputs))
        self.clips: dict[int, tuple[Claim, Part]] = {}
        self.cost = np.array([SPARE if c.part.ends else 1.0 for c in claims])
        for b, claim in enumerate(claims):
            if not all(prover.clauses(claim.part)):
                self.spare[b] = -np.inf  # a clause without rows holds everywhere

    def hints(self) -> list[Hint]:
        done = self._own()
        kinds: dict[tuple[int, ...], list[int]] = {}
        for b, claim in enumerate(self.claims):
            if b not in done:
                kinds.setdefault(tuple(len(c) for c in self.prover.clauses(claim.part)), []).append(b)
        for sizes, boxes in kinds.items():
            if all(sizes):
                self._single(sizes, np.array(boxes))
        nodes = enumerate(self.prover.network.nodes)
        linear = all(op is None or isinstance(op, Linear) or v in self.prover.relus for v, op in nodes)
        loosest = [None if s > 0 else _loosest(self.prover, self.swept, b) for b, s in enumerate(self.spare)]
        for b, neuron in enumerate(loosest):
            if neuron is None and linear and not self.spare[b] > 0:
                self._program(b)
        return [
            Hint(
                replace(claim, rows=tuple(enumerate(self.rows[b]))),
                bool(self.spare[b] > 0),
                self.worst[b],
                loosest[b],
                self.clips.get(b),
            )
            for b, claim in enumerate(self.claims)
        ]

    def _take(self, b: int, c: int, picked: Picked, margin: float, coefficients: Array) -> None:
        self.rows[b][c] = picked
        if margin < self.spare[b]:
            self.spare[b], self.worst[b] = margin, coefficients

    def _own(self) -> set[int]:
        """Tries the rows that the claims bring: which claims are done."""
        own: list[ClauseTask] = [(b, c, p) for b, claim in enumerate(self.claims) for c, p in claim.rows]
        for (b, c, picked), value in zip(own, self._walk(own)[0], strict=True):
            self.rows[b][c] = picked if value > 0 or self.swept.empty[b] else ()
        return {b for b, claim in enumerate(self.claims) if claim.rows and all(self.rows[b])}

    def _single(self, sizes: tuple[int, ...], boxes: Array) -> None:
        """Every row of every clause by itself, then combinations; `boxes` have clauses of these sizes."""
        tasks: list[ClauseTask] = [
            (int(b), c, ((k, 1.0),)) for b in boxes for c, n in enumerate(sizes) for k in range(n)
        ]
        walked = self.prover.walk(self.swept, self.claims, tasks)
        least, error, rows = (t.reshape(len(boxes), sum(sizes), *t.shape[1:]) for t in walked)
        margin = least - error * self.cost[boxes, None]
        margin[self.swept.empty[boxes]] = np.inf
        low, high = self.swept.low[0][boxes], self.swept.high[0][boxes]
        mixed: dict[int, list[tuple[int, int, int]]] = {}
        for c, first in enumerate(np.cumsum((0, *sizes[:-1]))):
            part = slice(first, first + sizes[c])
            best = margin[:, part].argmax(1)
            plain = (margin[:, part].max(1) > 0) | (sizes[c] == 1)
            for i in np.flatnonzero(plain):
                k = first + best[i]
                self._take(int(boxes[i]), c, ((int(best[i]), 1.0),), margin[i, k], rows[i, k])
            mixed.setdefault(sizes[c], []).extend((int(i), c, int(first)) for i in np.flatnonzero(~plain))
        again: list[ClauseTask] = []
        for size, entries in mixed.items():  # clauses of one size in one ascent: groups can be of a single box
            at = np.array(entries, np.int64).reshape(-1, 3)
            box, clause, k = at[:, 0], at[:, 1], at[:, 2:] + np.arange(size)
            found = _mix(margin[box[:, None], k], rows[box[:, None], k], low[box], high[box])
            again += zip(boxes[box].tolist(), clause.tolist(), found, strict=True)
        for (b, c, picked), value, row in zip(again, *self._walk(again), strict=True):
            self._take(b, c, picked, value, row)
        open_ = np.flatnonzero(
            [not self.spare[b] > 0 and not self.claims[b].slopes and self.claims[b].intervals != ROOT for b in boxes]
        )
        # where rounding matters to what is left, another order of summation leaves another box
        sure = np.where(np.abs(least) > SURE * error, margin, -np.inf)
        for k, used in _clipped(sizes, sure[open_], rows[open_], low[open_], high[open_]):
            b, clause = int(boxes[open_[k]]), np.repeat(np.arange(len(sizes)), sizes)[used]
            picks = zip(clause.tolist(), (used - np.cumsum((0, *sizes))[clause]).tolist(), strict=True)
            claim = replace(self.claims[b], rows=tuple((c, ((r, 1.0),)) for c, r in picks), kind="narrow")
            own = least[open_[k], used], rows[open_[k], used]  # as the checker sees it
            self.clips[b] = claim, self.prover.narrowed(self.swept, b, claim, clause, *own)

    def _program(self, b: int) -> None:
        """Asks a linear program for the multipliers of all rows and decided neurons of claim b, on whose part no Relu
        is open: the rows are linear functions there, so what it cannot exclude is a violation (but for rounding)."""
        claim = replace(self.claims[b], beta=(), slopes=self.claims[b].part.slopes)
        clauses = self.prover.clauses(claim.part)
        signs = claim.part.signs if len(clauses) == 1 else ()  # their multipliers belong to the leaf, not to a clause
        count = max(map(len, clauses), default=0) + len(signs)
        if not all(clauses) or not 2 <= count <= MOST_ROWS:
            return
        low, high = self.swept.low[0][b], self.swept.high[0][b]
        sides = [self._side(b, *sign) for sign in signs]
        picks, betas = [], [0.0] * len(claim.part.signs)
        for c, clause in enumerate(clauses):
            margin, _, rows = self._as(b, claim, [(c, ((k, 1.0),)) for k in range(len(clause))])
            least = np.r_[margin, [m for m, _ in sides]]
            rows = np.r_[rows, np.reshape([r for _, r in sides], (-1, rows.shape[1]))]
            constant = least - np.minimum(rows * low, rows * high).sum(1)
            if not np.isfinite(constant).all():
                return
            _, weights = exclude(rows, constant, low, high)
            if weights is None:
                return
            scaled = short(weights / weights.max()).tolist()
            picked = tuple((k, scaled[k]) for k in range(len(clause)) if scaled[k] > 0)
            picks.append((c, picked or ((0, 0.0),)))
            if signs:
                betas = scaled[len(clause) :]
        proposed = replace(claim, beta=tuple(betas) if any(betas) else ())
        margin, error, _ = self._as(b, proposed, picks)
        margin = margin - error * self.cost[b]
        if (margin > 0).all():
            self.claims[b], self.spare[b] = proposed, float(margin.min())
            self.rows[b] = [picked for _, picked in picks]
            self.clips.pop(b, None)

    def _as(self, b: int, claim: Claim, picks: Sequence[tuple[int, Picked]]) -> tuple[Array, Array, Array]:
        """What the prover finds for (clause, rows) of claim b if it were `claim`."""
        claims = [*self.claims[:b], claim, *self.claims[b + 1 :]]
        return self.prover.walk(self.swept, claims, [(b, c, picked) for c, picked in picks])

    def _side(self, b: int, v: int, neuron: int, side: int) -> tuple[float, Array]:
        """The least value on part b of  -side z, z the argument of a decided neuron, and its coefficients (n,)."""
        op = self.prover.network.nodes[v]
        assert op is not None
        row = unit_rows(np.array([neuron]), -side, op.size)
        found = bound_rows(self.swept, np.array([b]), row, op.source, linear=True)
        return float(found.low[0]), found.coefficients[0]

    def _walk(self, tasks: list[ClauseTask]) -> tuple[Array, Array]:
        """Margins, less what was taken off for rounding once more, and coefficients."""
        margin, error, coefficients = self.prover.walk(self.swept, self.claims, tasks)
        return margin - error * self.cost[[b for b, _, _ in tasks]], coefficients


def _clipped(
    sizes: tuple[int, ...], margin: Array, rows: Array, low: Array, high: Array
) -> Iterator[tuple[int, Array]]:
    """The boxes (B, n) that are worth clipping: position, and the rows that it needs.

    Row k of a box has the minimum `margin` (B, K) and the coefficients `rows` (B, K, n): where that is negative, a
    violation lies within  -margin / |coefficient|  of the end where the minimum is (domain clipping, as in the search).
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        reach = np.maximum(-margin, 0)[:, :, None] / np.abs(rows)
        reach = np.where(np.isfinite(reach), reach, np.inf)
        top, bottom = (
            np.where(rows > 0, low[:, None] + reach, np.inf),
            np.where(rows < 0, high[:, None] - reach, -np.inf),
        )
    never = (margin > 0)[:, :, None]
    top, bottom = np.where(never, -np.inf, top), np.where(never, np.inf, bottom)
    firsts = np.cumsum((0, *sizes[:-1]))
    # per clause its best row, over all clauses the hull
    most = np.minimum(np.minimum.reduceat(top, firsts, 1).max(1), high)
    least = np.maximum(np.maximum.reduceat(bottom, firsts, 1).min(1), low)
    width = high - low
    left = np.where(width > 0, (most - least) / np.where(width > 0, width, 1), 1.0)
    worth = (left > 0).all(1) & (left.prod(1) <= WORTH)
    for b in np.flatnonzero(worth):
        used: set[int] = set()
        for order, cut in ((top[b], most[b] < high[b]), (-bottom[b], least[b] > low[b])):
            for first, size in zip(firsts, sizes, strict=True):
                used.update((first + order[first : first + size][:, cut].argmin(0)).tolist())
        yield int(b), np.array(sorted(used), np.int64)


def _loosest(prover: Prover, swept: Enclosures, b: int) -> tuple[int, int] | None:
    found, most = None, 0.0
    for v, op in prover.relus.items():
        low, high = (t[op.source][b if len(t[op.source]) > 1 else 0] for t in (swept.low, swept.high))
        gap = np.where((low < 0) & (high > 0), -low * high / np.maximum(high - low, 1e-300), 0.0)
        if gap.max(initial=0.0) > most:
            found, most = (v, int(gap.argmax())), float(gap.max())
    return found


def _mix(margin: Array, rows: Array, low: Array, high: Array) -> list[Picked]:
    """Weights for which the combination's minimum over the box is large: subgradient ascent over the simplex.

    Row k of box b is  rows[b, k] . x + constant, with minimum `margin[b, k]` over the box.
    """
    lowest = np.einsum("bkn,bn->bk", np.maximum(rows, 0), low) + np.einsum("bkn,bn->bk", np.minimum(rows, 0), high)
    constant = np.nan_to_num(margin - lowest, nan=-1e300, neginf=-1e300)
    weights = np.full(margin.shape, 1.0 / margin.shape[1])
    best, value = weights.copy(), np.full(len(margin), -np.inf)
    for step in range(STEPS):
        at = np.where(np.einsum("bk,bkn->bn", weights, rows) > 0, low, high)
        values = np.einsum("bkn,bn->bk", rows, at) + constant
        now = (weights * values).sum(1)
        better = now > value
        best[better], value[better] = weights[better], now[better]
        spread = values - now[:, None]
        scale = np.maximum(np.abs(spread).max(1, keepdims=True), 1e-300)
        weights = weights * np.exp(spread * (1.5 / (1 + 0.3 * step)) / scale)
        weights = weights / weights.sum(1, keepdims=True)
    found: list[Picked] = []
    for own, w, v in zip(margin, best, value, strict=True):
        if own.max() >= v:
            found.append(((int(own.argmax()), 1.0),))
        else:
            places = np.flatnonzero(w > 1e-6 * w.max())
            found.append(tuple(zip(places.tolist(), short(w[places]).tolist(), strict=True)))
    return found
