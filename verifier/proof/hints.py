"""What a leaf needs so that the checker's own bounds prove it: rows, weights; or where to split it further.

Nothing here has to be right: the checker bounds again whatever is proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from verifier.bounds.bounder import OutOfTime
from verifier.checker.bounds import Planes, Sweep
from verifier.checker.ops import Array
from verifier.checker.prove import Claim, Picked, Prover, Task

STEPS = 24
"""Steps of the ascent over the weights of a clause's rows."""


@dataclass(frozen=True, eq=False)
class Hint:
    """A claim with the rows to take; `holds` whether its bounds prove it with something to spare (so that another
    order of summation cannot change it); `worst` (n,) the coefficients of the row furthest from proven; `neuron` the
    (value of the Relu, number) whose planes are furthest apart, None where no sign is open."""

    claim: Claim
    holds: bool
    worst: Array
    neuron: tuple[int, int] | None


def suggest(prover: Prover, claims: Sequence[Claim], stop: Callable[[], bool]) -> list[Hint]:
    """One hint per claim; rows that a claim brings are tried first.

    Raises:
        OutOfTime: `stop()` said so in the middle.
    """
    found: list[Hint | None] = [None] * len(claims)
    for group in prover.groups(claims):
        if stop():
            raise OutOfTime
        for i, hint in zip(group, _group(prover, [claims[i] for i in group]), strict=True):
            found[i] = hint
    return [h for h in found if h is not None]


def _group(prover: Prover, claims: list[Claim]) -> list[Hint]:
    swept, planes = prover.prepare(claims)
    rows: list[list[Picked]] = [[()] * len(prover.clauses(c.part)) for c in claims]
    spare = np.full(len(claims), np.inf)
    worst = np.zeros((len(claims), prover.network.inputs))
    for b, claim in enumerate(claims):
        if not all(prover.clauses(claim.part)):
            spare[b] = -np.inf  # a clause without rows holds everywhere

    def take(b: int, c: int, picked: Picked, margin: float, coefficients: Array) -> None:
        rows[b][c] = picked
        if margin < spare[b]:
            spare[b], worst[b] = margin, coefficients

    own: list[Task] = [(b, c, p) for b, claim in enumerate(claims) for c, p in enumerate(claim.rows)]
    for (b, c, picked), value in zip(own, _walk(prover, swept, planes, claims, own)[0], strict=True):
        rows[b][c] = picked if value > 0 or swept.empty[b] else ()
    done = {b for b, claim in enumerate(claims) if claim.rows and all(rows[b])}
    tasks: list[Task] = [
        (b, c, ((k, 1.0),))
        for b, claim in enumerate(claims)
        if b not in done
        for c, clause in enumerate(prover.clauses(claim.part))
        for k in range(len(clause))
    ]
    margin, coefficients = _walk(prover, swept, planes, claims, tasks)
    again: list[Task] = []
    mixed: list[tuple[int, int, slice]] = []
    start = 0
    while start < len(tasks):
        b, c, _ = tasks[start]
        size = len(prover.clauses(claims[b].part)[c])
        part = slice(start, start + size)
        best = start + int(margin[part].argmax())
        start += size
        if swept.empty[b]:
            take(b, c, tasks[best][2], np.inf, coefficients[best])
        elif margin[best] > 0 or size == 1:
            take(b, c, tasks[best][2], margin[best], coefficients[best])
        else:
            mixed.append((b, c, part))
    for size in {p.stop - p.start for _, _, p in mixed}:
        same = [m for m in mixed if m[2].stop - m[2].start == size]
        boxes = [prover.box(claims[b].part) for b, _, _ in same]
        low, high = np.stack([x[0] for x in boxes]), np.stack([x[1] for x in boxes])
        found = _mix(np.stack([margin[p] for *_, p in same]), np.stack([coefficients[p] for *_, p in same]), low, high)
        again += [(b, c, picked) for (b, c, _), picked in zip(same, found, strict=True)]
    margin, coefficients = _walk(prover, swept, planes, claims, again)
    for (b, c, picked), value, row in zip(again, margin, coefficients, strict=True):
        take(b, c, picked, value, row)
    return [
        Hint(
            replace(claim, rows=tuple(rows[b])),
            bool(spare[b] > 0),
            worst[b],
            None if spare[b] > 0 else _loosest(prover, swept, b),
        )
        for b, claim in enumerate(claims)
    ]


def _loosest(prover: Prover, swept: Sweep, b: int) -> tuple[int, int] | None:
    found, most = None, 0.0
    for v, op in prover.relus.items():
        low, high = (t[op.sources[0]] for t in (swept.low, swept.high))
        low, high = (t[b if len(t) > 1 else 0].reshape(-1) for t in (low, high))
        gap = np.where((low < 0) & (high > 0), -low * high / np.maximum(high - low, 1e-300), 0.0)
        if gap.max(initial=0.0) > most:
            found, most = (v, int(gap.argmax())), float(gap.max())
    return found


def _walk(prover: Prover, swept: Sweep, planes: Planes, claims: list[Claim], tasks: list[Task]) -> tuple[Array, Array]:
    """Margins, less what was taken off for rounding once more, and coefficients."""
    margins, coefficients = [np.zeros(0)], [np.zeros((0, prover.network.inputs))]
    for part in prover.chunks(tasks):
        margin, walked = prover.walk(swept, planes, claims, part)
        margins.append(margin - walked.error)
        coefficients.append(walked.coefficients)
    return np.concatenate(margins), np.concatenate(coefficients)


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
            found.append(tuple((int(k), float(np.float32(w[k]))) for k in np.flatnonzero(w > 1e-6 * w.max())))
    return found
