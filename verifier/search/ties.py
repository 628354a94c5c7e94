"""Boxes on which rounding decides: proven in fractions where the network is small, given up early where nothing helps.

A bound that meets 0 up to rounding does not get better by splitting. Two things can be done about it. A small network
is bounded again in fractions, where a strict row that only touches its limit is impossible. And a box that violates the
property throughout, over the reals, can never be proven; if ONNX Runtime confirms none of its points either, which only
rounding can make it do, there is no answer to be found there, and splitting it would go on until the time is up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verifier.bounds.rational import Rational, Refutation
from verifier.problem.rows import RowTable
from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch
from verifier.search.settle import row_scale
from verifier.tolerance import TIED

MOST = 64
"""Boxes of a step that are looked at in fractions."""

POINTS = 32
"""Points of a box that violates throughout that are tried before it is given up."""


def ties(boxes: DomainBatch, bounded: Bounded) -> Tensor:
    """Boxes (B,) without decided neurons whose bound meets 0 up to rounding."""
    if not len(boxes) or boxes.signs.shape[1]:
        return torch.zeros_like(boxes.query, dtype=torch.bool)
    scale = row_scale(bounded.coefficients, bounded.constant, boxes.lower, boxes.upper)
    return bounded.value > -TIED * scale.masked_fill(~torch.isfinite(bounded.low), 0.0).amax(1)


def settle_ties(
    boxes: DomainBatch, bounded: Bounded, fractions: Callable[[], Rational | None], table: RowTable
) -> Tensor:
    """Which boxes (B,) fractions prove: every clause that the bounds leave possible is impossible."""
    proven = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.lower.device)
    proven[list(refutations(boxes, bounded, fractions, table))] = True
    return proven


def refutations(
    boxes: DomainBatch, bounded: Bounded, fractions: Callable[[], Rational | None], table: RowTable
) -> dict[int, dict[int, Refutation]]:
    """Why fractions prove these boxes: of each the clauses that the bounds leave possible."""
    close = ties(boxes, bounded).nonzero()[:, 0].tolist()
    rational = fractions() if close else None
    found: dict[int, dict[int, Refutation]] = {}
    for b in close[:MOST] if rational is not None else ():
        open_ = (~(bounded.scores[b] > 0)).nonzero()[:, 0].tolist()
        why: dict[int, Refutation] = {}
        for c in open_:
            assert rational is not None
            one = rational.refuted(boxes.lower[b], boxes.upper[b], table, int(boxes.query[b]), c)
            if one is None:
                break
            why[c] = one
        if len(why) == len(open_):
            found[b] = why
    return found


def hopeless(
    boxes: DomainBatch, bounded: Bounded, table: RowTable, try_points: Callable[[Tensor, Tensor], object | None]
) -> tuple[Tensor, object | None]:
    """Which boxes (B,) violate throughout over the reals though no point of them is confirmed; or what the point test
    found.

    The rows have to be exact on the box (no neuron is unstable), all those of one clause, and their largest value
    must not exceed 0.
    """
    none = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.lower.device)
    exact = (bounded.unstable == 0) & (boxes.depth > 0)
    if not bool(exact.any()) or boxes.signs.shape[1]:
        return none, None
    centre, radius = (boxes.lower + boxes.upper) / 2, (boxes.upper - boxes.lower) / 2
    top = torch.einsum("bkn,bn->bk", bounded.coefficients, centre) + bounded.constant
    top = top + torch.einsum("bkn,bn->bk", bounded.coefficients.abs(), radius)
    known = torch.isfinite(bounded.low)
    most = bounded.scores.shape[1]
    # a clause holds throughout where all of its rows do and none of them is missing here
    holds = torch.where(known, (top <= 0).double(), 1.0)
    index = bounded.clause.clamp(max=most)
    all_hold = holds.new_ones(len(boxes), most + 1).scatter_reduce(1, index, holds, "amin")[:, :most]
    here = holds.new_zeros(len(boxes), most + 1).scatter_add(1, index, known.double())[:, :most]
    asked = (table.clause[boxes.query][:, None] == torch.arange(most, device=index.device)[None, :, None]).double()
    asked = (asked * torch.isfinite(table.rhs[boxes.query])[:, None]).sum(2)
    lost = exact & ((all_hold > 0) & (here == asked) & (asked > 0)).any(1)
    where = lost.nonzero()[:, 0]
    if not len(where):
        return none, None
    share = torch.linspace(0, 1, POINTS, dtype=boxes.lower.dtype, device=boxes.lower.device)
    # a diagonal and a face diagonal: values of every input between the ends, for any number of inputs
    shares = torch.stack([share.roll(7 * j) for j in range(boxes.lower.shape[1])], 1)
    points = boxes.lower[where][:, None] + shares * (boxes.upper - boxes.lower)[where][:, None]
    found = try_points(points.flatten(0, 1), boxes.query[where].repeat_interleave(POINTS))
    return lost, found
