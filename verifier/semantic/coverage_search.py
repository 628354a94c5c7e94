"""Certified coverage: which part of a parameter box is proven safe, proven violated, or open. Exact areas, anytime.

The search does not stop at counterexamples. A cell leaves it as *certified* (no violation anywhere in it), as *refuted*
(one clause holds at every point of it; a counterexample marks a point only), or stays *open* at the resolution. Largest
cells first, so the figures improve steadily and any stop is a good one; the state is three lists of cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.single import full_precision
from verifier.brief import brief
from verifier.budget import Budget
from verifier.engine.outcome import progress_of
from verifier.errors import OptionsError, UnsoundError
from verifier.progress import Progress
from verifier.search.bab import SearchLimits, SearchMethod, search
from verifier.search.domains import DomainBatch, whole
from verifier.search.policy import ExactCoverage, Parts, Tally
from verifier.semantic import grid
from verifier.semantic.cells import batch_size, halvings, memory_of
from verifier.semantic.conditions import CellBounds, between
from verifier.semantic.family import Family, bound_cells
from verifier.semantic.grid import Cells
from verifier.tolerance import EXACT, FLOOR, LEEWAY, NARROWEST

OPEN, CERTIFIED, REFUTED = 0, 1, 2
PART_ROUNDS = 14
"""Most halvings of a cell by its linear rows alone."""


@dataclass(frozen=True)
class CoverageLimits:
    """When a member is done: `open_share` of its box left, or `seconds` spent on it; cells are halved up to `depth`
    times.
    """

    open_share: float = 0.01
    seconds: float | None = None
    depth: int = 30

    def __post_init__(self) -> None:
        if not 0 <= self.open_share < 1:
            raise OptionsError(f"the open share to stop at: found {self.open_share:g}, expected 0 <= share < 1")
        if not 1 <= self.depth <= 50:
            raise OptionsError(f"the number of halvings: found {self.depth}, expected 1 to 50")
        if self.seconds is not None and not self.seconds > 0:
            raise OptionsError(f"seconds per image: found {self.seconds:g}, expected a number > 0")


@dataclass(eq=False)
class State:
    """The whole search: every cell with its status (N,), and what each member has cost. Cells of a member tile its
    box. `ended` says why, where the search had to stop for want of memory.
    """

    __repr__ = brief

    cells: Cells
    status: np.ndarray
    seconds: np.ndarray
    boxes: np.ndarray
    ended: str = ""

    @staticmethod
    def new(family: Family) -> State:
        """Nothing known: the undivided boxes, open."""
        q = family.members
        return State(grid.whole(q, family.inputs), np.zeros(q, np.uint8), np.zeros(q), np.zeros(q, np.int64))

    def of(self, status: int) -> Cells:
        """The cells of one status."""
        return self.cells.select(self.status == status)

    def shares(self, status: int) -> np.ndarray:
        """Share of every member's box (Q,): exact, because depths stay below the 53 bits of a float64."""
        mine = self.status == status
        return np.bincount(self.cells.query[mine], np.ldexp(1.0, -self.cells.depth[mine]), minlength=len(self.seconds))


@full_precision()
def cover(
    family: Family,
    limits: CoverageLimits,
    budget: Budget,
    state: State | None = None,
    save: Callable[[State], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
    batch: int | None = None,
    save_every: float = 10.0,
) -> State:
    """Runs until every member has reached a limit or the budget is used up; `state` goes on from an earlier run.

    The result does not depend on where a run was interrupted. `save` is called every `save_every` seconds and at the
    end, `progress` after every step. Where memory runs out, what is known by then is the answer.
    """
    state = state or State.new(family)
    began = saved = time.monotonic()
    policy = ExactCoverage(
        torch.from_numpy(state.shares(OPEN)),
        limits.open_share,
        limits.seconds,
        torch.from_numpy(state.seconds.copy()),
        torch.from_numpy(state.boxes.copy()),
    )
    before = [(state.of(status), status) for status in (CERTIFIED, REFUTED)]
    known = float(state.shares(CERTIFIED).mean())

    def now(rest: DomainBatch | None) -> State:
        parts = [*before, (cells_of(policy.certified), CERTIFIED), (cells_of(policy.refuted), REFUTED)]
        parts += [] if rest is None else [(cells_of([rest]), OPEN)]
        kept = [(cells, np.full(len(cells), status, np.uint8)) for cells, status in parts if len(cells)]
        cells, status = zip(*kept, strict=True)
        return State(grid.join(cells), np.concatenate(status), policy.seconds.numpy(), policy.boxes.numpy())

    def report(tally: Tally) -> None:
        if progress is not None:
            tally = replace(tally, boxes=int(policy.boxes.sum()))
            certified = known + policy.certified_share
            progress(replace(progress_of(tally, time.monotonic() - began, budget), certified=certified))

    def checkpoint(tally: Tally, rest: Callable[[], DomainBatch | None]) -> None:
        nonlocal saved
        if save is not None and time.monotonic() - saved > save_every:
            save(now(rest()))
            saved = time.monotonic()

    memory = memory_of(family, budget.memory_bytes)
    how = SearchLimits(
        budget.expired, report, batch_size(family, batch), family.device, memory, limits.depth, checkpoint=checkpoint
    )
    with torch.no_grad():
        ending = search(boxes_of(family, state.of(OPEN)), Areas(family, limits.depth), policy, how)
    state = replace(now(ending.rest), ended=memory.reason if ending.no_room else "")
    if save is not None:
        save(state)
    return state


def boxes_of(family: Family, cells: Cells) -> DomainBatch:
    """Cells as boxes of the search."""
    device, query = family.device, torch.from_numpy(cells.query.astype(np.int64))
    lower, upper = cells.corners(family.lower.cpu().numpy(), family.upper.cpu().numpy())
    depth = torch.from_numpy(cells.depth)
    return replace(
        whole(torch.from_numpy(lower), torch.from_numpy(upper)),
        query=query,
        share=torch.from_numpy(np.ldexp(1.0, -cells.depth)),
        depth=depth,
        cell=torch.from_numpy(np.concatenate([cells.level, cells.index], 1).astype(np.int32)),
    ).to(device)


def cells_of(parts: Sequence[DomainBatch]) -> Cells:
    """Boxes of the search as cells."""
    if not parts:
        return grid.whole(0, 1)
    query = torch.cat([p.query for p in parts]).cpu().numpy().astype(np.int32)
    cell = torch.cat([p.cell for p in parts]).cpu().numpy()
    d = cell.shape[1] // 2
    return Cells(query, cell[:, :d].astype(np.int8), cell[:, d:])


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known about a batch of cells; `alive` are those that are neither certified nor refuted."""

    bounds: CellBounds
    certified: Tensor
    refuted: Tensor

    @property
    def alive(self) -> Tensor:
        """See `bab.Known`."""
        return (~(self.certified | self.refuted)).nonzero()[:, 0]


@dataclass(eq=False)
class Areas(SearchMethod[_Known]):
    """See `bab.SearchMethod`: a search for exact areas. Cells are never clipped, and halved where they are."""

    family: Family
    depth: int

    def bound(self, batch: DomainBatch) -> _Known:
        """Raises UnsoundError if a cell is both."""
        bounds = bound_cells(self.family, batch.lower, batch.upper, batch.query)
        certified, refuted = bounds.worst > 0, bounds.reached < 0
        if bool((certified & refuted).any()):
            raise UnsoundError("a cell was found to be both free of violations and full of them; please report this")
        return _Known(bounds, certified, refuted)

    def split(self, batch: DomainBatch, boxes: DomainBatch, known: _Known) -> Parts:
        """See `settle_parts`."""
        parts: dict[int, list[Cells]] = {
            OPEN: [],
            CERTIFIED: [cells_of([batch.select(known.certified)])],
            REFUTED: [cells_of([batch.select(known.refuted)])],
        }
        if len(boxes):
            settle_parts(self.family, cells_of([boxes]), known.bounds.select(known.alive), parts, self.depth)
        open_, certified, refuted = (
            boxes_of(self.family, grid.join(parts[status])) if parts[status] else boxes.select(slice(0, 0))
            for status in (OPEN, CERTIFIED, REFUTED)
        )
        return Parts(open_, boxes.select(slice(0, 0)), certified, refuted)


def settle_parts(
    family: Family,
    cells: Cells,
    bounds: CellBounds,
    parts: dict[int, list[Cells]],
    depth: int,
) -> None:
    """What the linear rows of open cells say about their parts, without bounding those anew; adds to `parts` by status.

    A cell that a boundary runs through is halved across the steepest input, again and again, for as long as the linear
    part of its critical row varies by more than the noise; parts that are settled by then leave, the others stay open.
    Cells in which noise decides are cut as often as they seem to need.
    """
    lower, upper = (torch.from_numpy(a) for a in cells.corners(family.lower.cpu().numpy(), family.upper.cpu().numpy()))
    width = (upper - lower).to(family.device)
    bounds = bounds.to(torch.device("cpu"))
    centre, radius = (lower + upper) / 2, ((upper - lower) / 2).clamp(min=NARROWEST)
    part, parent = cells, torch.arange(len(cells))
    steep, noise = _steep(bounds, torch.ones_like(radius), parent, bounds.critical)
    noisy = (steep.sum(1) <= noise) | torch.from_numpy(cells.depth >= depth)
    if noisy.any():
        here = noisy.numpy()
        count = halvings(bounds.select(noisy), width.cpu()[noisy]).numpy()
        parts[OPEN].append(cells.select(here).split(_allowed(count, cells.select(here), depth)))
    part, parent, steep = part.select(~noisy.numpy()), parent[~noisy], steep[~noisy]
    for _ in range(PART_ROUNDS):
        if len(part) == 0:
            return
        part, parent = _halves(part, steep.argmax(1).numpy()), parent.repeat(2)
        low, high = (torch.from_numpy(a) for a in part.corners(family.lower.cpu().numpy(), family.upper.cpu().numpy()))
        pad = 16 * EXACT * (low.abs() + high.abs() + centre[parent].abs()) / radius[parent] + 8 * EXACT
        middle = ((low + high) / 2 - centre[parent]) / radius[parent]
        reach = (high - low) / (2 * radius[parent]) + pad
        certified, refuted, critical = _linear_verdict(bounds, middle, reach, parent)
        parts[CERTIFIED].append(part.select(certified.numpy()))
        parts[REFUTED].append(part.select(refuted.numpy()))
        steep, noise = _steep(bounds, reach, parent, critical)
        more = (steep.sum(1) > noise) & torch.from_numpy(part.depth < depth)
        left = ~(certified | refuted)
        parts[OPEN].append(part.select((left & ~more).numpy()))
        keep = left & more
        part, parent, steep = part.select(keep.numpy()), parent[keep], steep[keep]
    parts[OPEN].append(part)


def _steep(bounds: CellBounds, reach: Tensor, parent: Tensor, critical: Tensor) -> tuple[Tensor, Tensor]:
    """How much the linear part of the critical row varies along each input, (P, d), and its noise (P,)."""
    return bounds.slopes[parent, critical].abs() * reach, bounds.noise[parent, critical]


def _halves(cells: Cells, dimension: np.ndarray) -> Cells:
    """Both halves of every cell: first all lower, then all upper ones."""
    each = np.arange(len(cells))
    level, index = cells.level.copy(), cells.index.copy()
    level[each, dimension] += 1
    index[each, dimension] *= 2
    upper = index.copy()
    upper[each, dimension] += 1
    return grid.join([Cells(cells.query, level, index), Cells(cells.query, level.copy(), upper)])


def _linear_verdict(bounds: CellBounds, middle: Tensor, reach: Tensor, parent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Certified and refuted parts, and the row that decides on each.

    `middle` +- `reach` (P, d): the parts in units of their parents' radii.
    """
    slopes = bounds.slopes[parent]
    value = bounds.middle[parent] + torch.bmm(slopes, middle[:, :, None])[:, :, 0]
    swing = torch.bmm(slopes.abs(), reach[:, :, None])[:, :, 0] + bounds.noise[parent]
    rounding = 16 * EXACT * (bounds.middle[parent].abs() + bounds.slopes[parent].abs().sum(2) + swing) + FLOOR
    low, high = between(value, swing + rounding)
    worst, reached = bounds.settled(low, high, parent)
    return worst > 0, reached < 0, bounds.decisive(low, high, parent)


def _allowed(count: np.ndarray, cells: Cells, depth: int) -> np.ndarray:
    """At least one halving, and none beyond the depth or the finest level of an input."""
    count = np.minimum(count, grid.MAX_LEVEL - cells.level)
    for i in range(count.shape[1]):
        room = depth - cells.depth - np.delete(count, i, 1).sum(1)
        count[:, i] = np.minimum(count[:, i], np.maximum(room, 0))
    stuck = count.sum(1) == 0
    count[stuck, cells.level[stuck].argmin(1)] = 1
    return count


def audit(family: Family, state: State, samples: int, seed: int = 0) -> None:
    """Looks for a contradiction: `samples` random points per member inside certified cells, as many inside refuted
    ones.

    The points are evaluated in float64; those closest to a violation also by ONNX Runtime on the member's own file.

    Raises:
        UnsoundError: a point of a certified cell violates the property, or one of a refuted cell does not.
    """
    rng = np.random.default_rng(seed)
    for status in (CERTIFIED, REFUTED):
        cells = state.of(status)
        order = np.argsort(cells.query, kind="stable")
        cells = cells.select(order)
        ends = np.searchsorted(cells.query, np.arange(family.members + 1))
        for q in range(family.members):
            mine = cells.select(slice(ends[q], ends[q + 1]))
            if len(mine):
                _audit_member(family, mine, status, samples, rng)


def _audit_member(family: Family, cells: Cells, status: int, samples: int, rng: np.random.Generator) -> None:
    q = int(cells.query[0])
    weight = np.ldexp(1.0, -cells.depth)
    # half of the points anywhere, half at corners of cells, where bounds are attained
    pick = cells.select(rng.choice(len(cells), samples, p=weight / weight.sum()))
    lower, upper = pick.corners(family.lower.cpu().numpy(), family.upper.cpu().numpy())
    share = rng.random(lower.shape)
    share[: samples // 2] = np.round(share[: samples // 2])
    points = lower + share * (upper - lower)
    # the bounds are over exact reals, these margins carry float64 rounding
    least, most = _spans(family, points, q, LEEWAY * family.conditions.scale(q))
    wrong, margin = (most < 0, most) if status == CERTIFIED else (least > 0, least)
    if wrong.any():
        _contradiction(family, q, points[wrong][0], margin[wrong][0], status)
    if status == CERTIFIED:
        close = family.judges[q].fed(points[np.argsort(least)[:4]])
        if family.judges[q](close) is not None and (_clear(family, close, q) > 0).all():
            _contradiction(family, q, close[0], float(least.min()), status)


def _clear(family: Family, points: np.ndarray, q: int) -> np.ndarray:
    """What is left of the margins (M,) beyond what ONNX Runtime's float32 may add or take: a thousandth, and 32 times
    what float32 does here, as where networks are compared (see `problem.runtime.compare`)."""
    least, _ = _spans(family, points, q, 1e-3 * family.conditions.scale(q))
    rough, fine = (_spans(family, points, q, 0.0, exact)[0] for exact in (False, True))
    return least - 32 * np.abs(rough - fine)


def _spans(
    family: Family, points: np.ndarray, q: int, leeway: float, exact: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """`Family.span` at points (M, d) of one member, in float64 unless `exact` is False."""
    found = []
    with torch.no_grad():
        for p in torch.from_numpy(points).to(family.device).split(256):
            found.append(family.span(p, torch.full((len(p),), q, device=family.device), leeway, exact))
    least, most = (torch.cat(part).cpu().numpy() for part in zip(*found, strict=True))
    return least, most


def _contradiction(family: Family, q: int, point: np.ndarray, margin: float, status: int) -> None:
    kind, found = ("certified", "a violation") if status == CERTIFIED else ("refuted", "no violation")
    at = ", ".join(f"{n} {v:.9g}" for n, v in zip(family.names, point, strict=True))
    raise UnsoundError(
        f"{family.titles[q]}: {found} (margin {margin:.3g}) inside a {kind} cell, at {at}; please report this"
    )
