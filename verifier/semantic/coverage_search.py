"""Certified coverage: which part of a parameter box is proven safe, proven violated, or open. Exact areas, anytime.

The search does not stop at counterexamples. A cell leaves it as *certified* (no violation anywhere in it), as *refuted*
(one clause holds at every point of it; a counterexample marks a point only), or stays *open* at the resolution. Largest
cells first, so the figures improve steadily and any stop is a good one; the state is three lists of cells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.rounded import EXACT as _EPS
from verifier.bounds.rounded import FLOOR
from verifier.brief import brief
from verifier.budget import Budget
from verifier.errors import UnsoundError
from verifier.semantic import grid
from verifier.semantic.conditions import CellBounds, between
from verifier.semantic.family import Family, bound_cells
from verifier.semantic.grid import Cells
from verifier.semantic.many import batch_size, halvings

OPEN, CERTIFIED, REFUTED = 0, 1, 2
PART_ROUNDS = 14
"""Most halvings of a cell by its linear rows alone."""


@dataclass(frozen=True)
class Limits:
    """When a member is done: `open_share` of its box left, or `seconds` spent on it; cells are halved up to `depth`
    times.
    """

    open_share: float = 0.01
    seconds: float | None = None
    depth: int = 30

    def __post_init__(self) -> None:
        from verifier.errors import OptionsError

        if not 0 <= self.open_share < 1:
            raise OptionsError(f"the open share to stop at: found {self.open_share:g}, expected 0 <= share < 1")
        if not 1 <= self.depth <= 50:
            raise OptionsError(f"the number of halvings: found {self.depth}, expected 1 to 50")
        if self.seconds is not None and not self.seconds > 0:
            raise OptionsError(f"seconds per image: found {self.seconds:g}, expected a number > 0")


@dataclass(eq=False)
class State:
    """The whole search: every cell with its status (N,), and what each member has cost. Cells of a member tile its
    box.
    """

    __repr__ = brief

    cells: Cells
    status: np.ndarray
    seconds: np.ndarray
    boxes: np.ndarray

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


def cover(
    family: Family,
    limits: Limits,
    budget: Budget,
    state: State | None = None,
    save: Callable[[State], None] | None = None,
    progress: Callable[[np.ndarray, int], None] | None = None,
    batch: int | None = None,
    save_every: float = 10.0,
) -> State:
    """Runs until every member has reached a limit or the budget is used up; `state` goes on from an earlier run.

    The result does not depend on where a run was interrupted. `save` is called every `save_every` seconds and at the
    end, `progress` after every step with the open share of every member and the number of boxes bounded so far.
    """
    state = state or State.new(family)
    open_ = _Open(state)
    size, saved = batch_size(family, batch), time.monotonic()
    with torch.no_grad():
        while not budget.expired():
            active = _active(state, open_, limits)
            cells = open_.pop(size, active, limits.depth)
            if len(cells) == 0:
                break
            clock = time.monotonic()
            _step(family, cells, open_, limits.depth)
            count = np.bincount(cells.query, minlength=family.members)
            state.boxes = state.boxes + count
            state.seconds = state.seconds + (time.monotonic() - clock) * count / len(cells)
            if progress is not None:
                progress(open_.share, int(state.boxes.sum()))
            if save is not None and time.monotonic() - saved > save_every:
                save(open_.state(state))
                saved = time.monotonic()
    state = open_.state(state)
    if save is not None:
        save(state)
    return state


class _Open:
    """Open cells by depth, settled cells in lists, and the open share of every member."""

    def __init__(self, state: State) -> None:
        waiting = state.of(OPEN)
        self.levels: dict[int, list[Cells]] = {}
        self.settled: list[tuple[Cells, int]] = [(state.of(s), s) for s in (CERTIFIED, REFUTED)]
        self.share = state.shares(OPEN)
        self.inputs = state.cells.level.shape[1]
        self.push(waiting)

    def push(self, cells: Cells) -> None:
        depth = cells.depth
        for level in np.unique(depth).tolist():
            self.levels.setdefault(level, []).append(cells.select(depth == level))

    def settle(self, cells: Cells, status: int) -> None:
        if len(cells):
            self.settled.append((cells, status))
            np.subtract.at(self.share, cells.query, np.ldexp(1.0, -cells.depth))

    def pop(self, size: int, members: np.ndarray, depth: int) -> Cells:
        """The first `size` open cells of active members on the shallowest level that has any; the rest keeps its
        order.
        """
        for level in sorted(self.levels):
            if level >= depth:
                break
            cells = grid.join(self.levels[level])
            wanted = np.flatnonzero(members[cells.query])
            if len(wanted) == 0:
                self.levels[level] = [cells]
                continue
            taken = wanted[:size]
            rest = np.ones(len(cells), bool)
            rest[taken] = False
            self.levels[level] = [cells.select(rest)]
            return cells.select(taken)
        return grid.whole(0, self.inputs)

    def state(self, old: State) -> State:
        """Everything as one list: certified, refuted, open by level."""
        parts = [(cells, status) for cells, status in self.settled if len(cells)]
        parts += [(cells, OPEN) for level in sorted(self.levels) for cells in self.levels[level] if len(cells)]
        cells = grid.join([c for c, _ in parts])
        status = np.concatenate([np.full(len(c), s, np.uint8) for c, s in parts])
        return State(cells, status, old.seconds, old.boxes)


def _active(state: State, open_: _Open, limits: Limits) -> np.ndarray:
    active = open_.share > limits.open_share
    return active if limits.seconds is None else active & (state.seconds < limits.seconds)


def _step(family: Family, cells: Cells, open_: _Open, depth: int) -> None:
    lower, upper = cells.corners(family.lower.cpu().numpy(), family.upper.cpu().numpy())
    at = [torch.from_numpy(a).to(family.device) for a in (lower, upper, cells.query.astype(np.int64))]
    bounds = bound_cells(family, *at)
    certified, refuted = (bounds.worst > 0).cpu().numpy(), (bounds.reached < 0).cpu().numpy()
    if (certified & refuted).any():
        raise UnsoundError("a cell was found to be both free of violations and full of them; please report this")
    open_.settle(cells.select(certified), CERTIFIED)
    open_.settle(cells.select(refuted), REFUTED)
    rest = ~(certified | refuted)
    if rest.any():
        mine, keep = cells.select(rest), torch.from_numpy(rest).to(family.device)
        settle_parts(family, mine, bounds.select(keep), open_.settle, open_.push, depth)


def settle_parts(
    family: Family,
    cells: Cells,
    bounds: CellBounds,
    settle: Callable[[Cells, int], None],
    push: Callable[[Cells], None],
    depth: int,
) -> None:
    """What the linear rows of open cells say about their parts, without bounding those anew.

    A cell that a boundary runs through is halved across the steepest input, again and again, for as long as the linear
    part of its critical row varies by more than the noise; parts that are settled by then leave, the others are pushed.
    Cells in which noise decides are cut as often as they seem to need.
    """
    lower, upper = (torch.from_numpy(a) for a in cells.corners(family.lower.cpu().numpy(), family.upper.cpu().numpy()))
    width = (upper - lower).to(family.device)
    bounds = bounds.to(torch.device("cpu"))
    centre, radius = (lower + upper) / 2, ((upper - lower) / 2).clamp(min=1e-300)
    part, parent = cells, torch.arange(len(cells))
    steep, noise = _steep(bounds, torch.ones_like(radius), parent, bounds.critical)
    noisy = (steep.sum(1) <= noise) | torch.from_numpy(cells.depth >= depth)
    if noisy.any():
        here = noisy.numpy()
        count = halvings(bounds.select(noisy), width.cpu()[noisy]).numpy()
        push(cells.select(here).split(_allowed(count, cells.select(here), depth)))
    part, parent, steep = part.select(~noisy.numpy()), parent[~noisy], steep[~noisy]
    for _ in range(PART_ROUNDS):
        if len(part) == 0:
            return
        part, parent = _halves(part, steep.argmax(1).numpy()), parent.repeat(2)
        low, high = (torch.from_numpy(a) for a in part.corners(family.lower.cpu().numpy(), family.upper.cpu().numpy()))
        pad = 16 * _EPS * (low.abs() + high.abs() + centre[parent].abs()) / radius[parent] + 8 * _EPS
        middle = ((low + high) / 2 - centre[parent]) / radius[parent]
        reach = (high - low) / (2 * radius[parent]) + pad
        certified, refuted, critical = _linear_verdict(bounds, middle, reach, parent)
        settle(part.select(certified.numpy()), CERTIFIED)
        settle(part.select(refuted.numpy()), REFUTED)
        steep, noise = _steep(bounds, reach, parent, critical)
        more = (steep.sum(1) > noise) & torch.from_numpy(part.depth < depth)
        left = ~(certified | refuted)
        push(part.select((left & ~more).numpy()))
        keep = left & more
        part, parent, steep = part.select(keep.numpy()), parent[keep], steep[keep]
    push(part)


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
    rounding = 16 * _EPS * (bounds.middle[parent].abs() + bounds.slopes[parent].abs().sum(2) + swing) + FLOOR
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
    least, most = _spans(family, points, q, 1e-9 * family.conditions.scale(q))
    wrong, margin = (most < 0, most) if status == CERTIFIED else (least > 0, least)
    if wrong.any():
        _contradiction(family, q, points[wrong][0], margin[wrong][0], status)
    if status == CERTIFIED:
        close = points[np.argsort(least)[:4]]
        if family.judges[q](close) is not None and (_spans(family, close, q, 1e-3)[0] > 0).all():
            _contradiction(family, q, close[0], float(least.min()), status)


def _spans(family: Family, points: np.ndarray, q: int, leeway: float) -> tuple[np.ndarray, np.ndarray]:
    """`Family.span` in float64 at points (M, d) of one member."""
    found = []
    with torch.no_grad():
        for p in torch.from_numpy(points).to(family.device).split(256):
            found.append(family.span(p, torch.full((len(p),), q, device=family.device), leeway, exact=True))
    least, most = (torch.cat(part).cpu().numpy() for part in zip(*found, strict=True))
    return least, most


def _contradiction(family: Family, q: int, point: np.ndarray, margin: float, status: int) -> None:
    kind, found = ("certified", "a violation") if status == CERTIFIED else ("refuted", "no violation")
    at = ", ".join(f"{n} {v:.9g}" for n, v in zip(family.names, point, strict=True))
    raise UnsoundError(
        f"{family.titles[q]}: {found} (margin {margin:.3g}) inside a {kind} cell, at {at}; please report this"
    )
