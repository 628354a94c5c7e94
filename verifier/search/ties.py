"""Boxes on which rounding decides: proven in fractions where the network is small, given up early where nothing helps.

A bound that meets 0 up to rounding does not get better by splitting. Two things can be done about it. A small network
is bounded again in fractions, where a strict row that only touches its limit is impossible; where that takes a slope
between those of a hinge's sides, the box is decided piece by piece. And a box that violates the property throughout,
over the reals, can never be proven; if ONNX Runtime confirms none of its points either, which only rounding can make it
do, there is no answer to be found there, and splitting it would go on until the time is up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verifier.bounds.pieces import MOST_PRODUCTS, Neuron, Pieces, affordable, decide, question
from verifier.bounds.rational import Rational, Refutation, Vector
from verifier.budget import never
from verifier.problem.rows import RowTable
from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch
from verifier.search.settle import row_scale
from verifier.tolerance import TIED

MOST = 64
"""Boxes of a step that are looked at in fractions."""

FIRST = 8
"""The first step at which boxes are decided piece by piece though no bound of theirs meets 0."""

POINTS = 32
"""Points of a box that violates throughout that are tried before it is given up."""

Why = Mapping[int, Refutation | Pieces]
"""Of each clause that the bounds leave possible, what refutes it."""


def ties(boxes: DomainBatch, bounded: Bounded, own: int | None = None) -> Tensor:
    """Boxes (B,) without decided neurons whose bound meets 0 up to rounding; to that of the inputs after the first
    `own`, too, which are not known better than their width."""
    if not len(boxes) or boxes.signs.shape[1]:
        return torch.zeros_like(boxes.query, dtype=torch.bool)
    noise = TIED * row_scale(bounded.coefficients, bounded.constant, boxes.lower, boxes.upper)
    if own is not None:
        width = (boxes.upper - boxes.lower)[:, None, own:]
        noise = noise + 2 * (bounded.coefficients[:, :, own:].abs() * width).sum(2)
    return bounded.value > -noise.masked_fill(~torch.isfinite(bounded.low), 0.0).amax(1)


@dataclass(eq=False)
class Exactly:
    """Boxes looked at in fractions. `written` gives the network in fractions, or None where that cannot be; one piece
    of it costs `products` multiply-adds; no box is begun once `stop()` says so.

    A box on the kink of a tie need not have a bound near 0, however small it is. So at steps 8, 16, 32, .. the boxes
    with the fewest open neurons are decided piece by piece, as many as `pieces.MOST_PRODUCTS` pays for.
    """

    written: Callable[[], Rational | None]
    products: float = float("inf")
    stop: Callable[[], bool] = never
    _steps: int = field(init=False, default=0)

    def due(self) -> bool:
        """Whether a step is one of those; called once a step."""
        self._steps += 1
        return affordable(self.products, 1) and self._steps >= FIRST and self._steps & (self._steps - 1) == 0

    def refutations(
        self, boxes: DomainBatch, bounded: Bounded, table: RowTable, tied: Tensor, due: bool
    ) -> tuple[dict[int, Why], tuple[Tensor, Tensor]]:
        """Why fractions prove some of the boxes that are `tied` (B,), or simple where that is `due`, by their
        positions; and points of others that violate over the reals, as near as float64 comes to them, with their
        queries."""
        close = tied.nonzero()[:, 0].tolist()[:MOST]
        chosen = list(close)
        if due:
            price = self.products * 2.0 ** bounded.unstable.double()
            order = price.argsort(stable=True)
            simple = order[price[order].cumsum(0) <= MOST_PRODUCTS].tolist()
            chosen += sorted(set(simple) - set(chosen))
        rational = self.written() if chosen else None
        found: dict[int, Why] = {}
        points: list[tuple[int, Vector]] = []
        for b in chosen if rational is not None else ():
            if self.stop():
                break
            assert rational is not None
            open_ = (~(bounded.scores[b] > 0)).nonzero()[:, 0].tolist()
            why = self._refuted(
                rational, boxes.select(slice(b, b + 1)), int(bounded.unstable[b]), table, open_, b in close
            )
            if isinstance(why, list):
                points.append((b, why))
            elif why is not None:
                found[b] = why
        at = [[float(v) for v in x] for _, x in points]
        where = boxes.lower.new_tensor(at).reshape(len(at), boxes.lower.shape[1])
        return found, (where, boxes.query[[b for b, _ in points]])

    def _refuted(
        self, rational: Rational, box: DomainBatch, unstable: int, table: RowTable, clauses: list[int], tied: bool
    ) -> Why | Vector | None:
        """Why none of the clauses has a point in the box; or a point of one; None where one is open.

        Planes are for ties: over many layers they cost far more than pieces do, and where neurons are decided they say
        less than these.
        """
        where, query = rational.box(box.lower[0], box.upper[0]), int(box.query[0])
        planes = rational.planes(where) if tied and not box.signs.shape[1] else None
        pieces = not box.points.shape[1] and affordable(self.products, unstable)
        given = neurons(rational, box.signs[0])
        why: dict[int, Refutation | Pieces] = {}
        for clause in clauses:
            one = None if planes is None else rational.refuted(where, planes, table, query, clause, self.stop)
            found = (
                decide(question(rational, where, planes, table, query, clause, given))
                if one is None and pieces
                else one
            )
            if found is None or isinstance(found, list):
                return found
            why[clause] = found
        return why


def neurons(rational: Rational, signs: Tensor) -> dict[Neuron, int]:
    """The decided neurons of a box with entries `signs` (D,), and their sides."""
    found = {}
    for entry in signs.tolist():
        for i, first in rational.network.relus.items():
            if entry and 0 <= abs(entry) - 1 - first < rational.network.size(i + 1):
                found[rational.hinges[i], abs(entry) - 1 - first] = 1 if entry > 0 else -1
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
