"""Verdicts for many images of one network in one process: one search over boxes of all of them.

The search is that of `search.bab` with other parts: bounds by zonotopes (`bounds.rounded`), boxes cut into as many
parts at once as the bound says it needs, and a member leaves the search when it is settled, not the search when a
member is. It answers what the member's own pair of files would answer: the same set, the same rows, every `sat`
replayed on its own file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from verifier.budget import Budget
from verifier.errors import OptionsError
from verifier.options import Options
from verifier.progress import Progress
from verifier.result import Result, Verdict, Witness
from verifier.semantic.conditions import CellBounds
from verifier.semantic.family import Family, bound_cells, from_studies
from verifier.semantic.study import Study

BATCH = 8
"""Boxes per step on a CPU: each brings a hundred maps of its own, and the large first boxes a thousand."""

DEVICE_BATCH = 1024
POINTS = 5
"""Points per parameter of the first look for counterexamples (corners, edges and inside)."""

MOST_HALVINGS = 4
"""Most halvings of a box at once."""

MAX_DEPTH = 48
REPLAYS = 8
"""Points per step and member that are handed to ONNX Runtime."""


def verify_studies(
    studies: Sequence[Study],
    options: Options,
    budget: Budget,
    progress: Callable[[Progress], None] | None = None,
    *,
    per_image: float | None = None,
) -> list[Result]:
    """One result per study, in order. `per_image` limits the seconds spent on each (its part of the common steps).

    Raises:
        ProblemError: the studies do not share a network (see `family.from_studies`).
        UnsoundError: the imported network and ONNX Runtime disagree.
    """
    family = from_studies(studies, device_of(options.device), options.seed)
    return verify_family(family, budget, progress, per_image=per_image, batch=options.search.batch)


def device_of(name: str) -> torch.device:
    """The device an option names."""
    if name == "cuda" and not torch.cuda.is_available():
        raise OptionsError("device cuda: this PyTorch finds no CUDA device; use --device cpu or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def batch_size(family: Family, given: int | None) -> int:
    """Boxes per step: what was asked for, or what suits the device."""
    return given or (BATCH if family.device.type == "cpu" else DEVICE_BATCH)


@dataclass(frozen=True, eq=False)
class _Boxes:
    """B boxes: `lower`, `upper` (B, d), `query` (B,), `share` (B,) of the member's box, `depth` (B,)."""

    lower: Tensor
    upper: Tensor
    query: Tensor
    share: Tensor
    depth: Tensor

    def __len__(self) -> int:
        return len(self.query)

    def select(self, which: Tensor | slice) -> _Boxes:
        return _Boxes(self.lower[which], self.upper[which], self.query[which], self.share[which], self.depth[which])


def _join(parts: Sequence[_Boxes]) -> _Boxes:
    return (
        parts[0]
        if len(parts) == 1
        else _Boxes(*(torch.cat([getattr(p, n) for p in parts]) for n in ("lower", "upper", "query", "share", "depth")))
    )


@dataclass
class _Tally:
    """What is known about every member so far."""

    seconds: np.ndarray
    boxes: np.ndarray
    open: np.ndarray
    witness: dict[int, Witness] = field(default_factory=dict)
    stuck: set[int] = field(default_factory=set)
    unfinished: set[int] = field(default_factory=set)
    late: set[int] = field(default_factory=set)


def verify_family(
    family: Family,
    budget: Budget,
    progress: Callable[[Progress], None] | None = None,
    *,
    per_image: float | None = None,
    batch: int | None = None,
) -> list[Result]:
    """Verdicts for the members of a family; see `verify_studies`."""
    begin = time.monotonic()
    q = family.members
    tally = _Tally(np.zeros(q), np.zeros(q, np.int64), np.ones(q))
    with torch.no_grad():
        _first_look(family, tally, budget)
        left = [i for i in range(q) if i not in tally.witness]
        stack = [_start(family, torch.tensor(left[::-1], device=family.device))] if left else []
        size = batch_size(family, batch)
        while stack and not budget.expired():
            boxes = _pop(stack, size)
            clock = time.monotonic()
            boxes = boxes.select(_wanted(boxes, tally))
            if len(boxes):
                rest = _step(family, boxes, tally)
                if len(rest):
                    stack.append(rest)
                _charge(boxes, tally, time.monotonic() - clock, per_image)
            if progress is not None:
                progress(_progress(tally, stack, time.monotonic() - begin, budget))
        _leftover(stack, tally)
    return [_result(family, i, tally, budget) for i in range(q)]


def _start(family: Family, members: Tensor) -> _Boxes:
    one = torch.ones(len(members), dtype=torch.float64, device=family.device)
    return _Boxes(family.lower[members], family.upper[members], members, one, torch.zeros_like(members))


def _pop(stack: list[_Boxes], size: int) -> _Boxes:
    parts, taken = [], 0
    while stack and taken < size:
        top = stack.pop()
        room = size - taken
        if len(top) > room:
            stack.append(top.select(slice(0, len(top) - room)))
            top = top.select(slice(len(top) - room, len(top)))
        parts.append(top)
        taken += len(top)
    return _join(parts)


def _wanted(boxes: _Boxes, tally: _Tally) -> Tensor:
    done = [*tally.witness, *tally.late]
    return ~torch.isin(boxes.query, torch.tensor(done, dtype=torch.int64, device=boxes.query.device))


def _first_look(family: Family, tally: _Tally, budget: Budget) -> None:
    """A coarse grid of points of every member, the most promising ones replayed: finds most counterexamples at once."""
    side = torch.linspace(0, 1, POINTS if family.inputs <= 3 else 2, dtype=torch.float64, device=family.device)
    grid = torch.cartesian_prod(*[side] * family.inputs).reshape(-1, family.inputs)
    for q in range(family.members):
        if budget.expired():
            return
        clock = time.monotonic()
        p = family.lower[q] + grid * (family.upper[q] - family.lower[q])
        _try(family, p, torch.full((len(p),), q, device=family.device), tally)
        tally.seconds[q] += time.monotonic() - clock


def _try(family: Family, points: Tensor, query: Tensor, tally: _Tally) -> None:
    """Points that violate in our arithmetic are replayed on the member's own file."""
    margin = family.margins(points, query)
    hits = (margin <= 0).nonzero()[:, 0]
    for q in query[hits].unique().tolist():
        mine = hits[query[hits] == q]
        mine = mine[margin[mine].argsort()[:REPLAYS]]
        witness = family.judges[q](points[mine].cpu().numpy())
        if witness is not None:
            tally.witness[q] = witness


def _step(family: Family, boxes: _Boxes, tally: _Tally) -> _Boxes:
    """Bounds, settles, tries, clips and splits one batch: the boxes that are still open afterwards."""
    bounds = bound_cells(family, boxes.lower, boxes.upper, boxes.query)
    open_ = (~(bounds.worst > 0)).nonzero()[:, 0]
    boxes, bounds = boxes.select(open_), bounds.select(open_)
    if len(boxes) == 0:
        return boxes
    _try(family, *_suggest(boxes, bounds), tally)
    lower, upper = bounds.clip(boxes.lower, boxes.upper)
    keep = _wanted(boxes, tally) & (lower <= upper).all(1)
    old = (boxes.upper - boxes.lower).clamp(min=1e-300)
    part = ((upper - lower).clamp(min=0) / old).where(boxes.upper > boxes.lower, 1.0).prod(1)
    boxes = _Boxes(lower, upper, boxes.query, boxes.share * part, boxes.depth).select(keep)
    return _split(boxes, halvings(bounds.select(keep), boxes.upper - boxes.lower), tally) if len(boxes) else boxes


def _suggest(boxes: _Boxes, bounds: CellBounds) -> tuple[Tensor, Tensor]:
    """The corner where the linear part of the critical row is least, and the centre."""
    row = bounds.slopes.gather(1, bounds.critical[:, None, None].expand(-1, 1, boxes.lower.shape[1]))[:, 0]
    corner = torch.where(row > 0, boxes.lower, boxes.upper)
    return torch.cat([corner, (boxes.lower + boxes.upper) / 2]), boxes.query.repeat(2)


def halvings(bounds: CellBounds, width: Tensor) -> Tensor:
    """How often to halve each input of B boxes, (B, d): as often as the critical row seems to need.

    Halving every input once divides its noise by about four and its linear part by two. Let m be the row's value at the
    centre, v its linear variation, n its noise: with |m| > v the noise alone has to fall below |m| - v; otherwise the
    sign changes somewhere in the box, and it is split until noise is no longer what decides.
    """
    pick = bounds.critical[:, None]
    noise = bounds.noise.gather(1, pick)[:, 0]
    middle = bounds.middle.gather(1, pick)[:, 0]
    d = width.shape[1]
    swing = bounds.slopes.abs().gather(1, pick[:, :, None].expand(-1, 1, d))[:, 0].sum(1)
    target = torch.where(middle.abs() > swing, middle.abs() - swing, 0.5 * (middle.abs() + swing)).clamp(min=1e-12)
    rounds = torch.log2((noise / target).clamp(min=1.0, max=1e6)) / 2
    count = (rounds * d).ceil().clamp(1, MOST_HALVINGS).nan_to_num(nan=1.0, posinf=MOST_HALVINGS).to(torch.int64)
    # the next halving always goes to the input with the most blame left
    blame = torch.nan_to_num(bounds.blame, nan=0.0, posinf=1e300) * (width > 0) + 1e-300 * width
    result = torch.zeros(len(count), d, dtype=torch.int64, device=width.device)
    for step in range(int(count.max()) if len(count) else 0):
        most = blame.argmax(1, keepdim=True)
        more = (count > step)[:, None]
        result.scatter_add_(1, most, more.to(torch.int64))
        blame = blame.scatter(1, most, blame.gather(1, most) * 0.4)
    return result


def _split(boxes: _Boxes, count: Tensor, tally: _Tally) -> _Boxes:
    """Halves the boxes; those that have become too thin for that are given up."""
    for _ in range(int(count.max())):
        for i in range(count.shape[1]):
            due = (count[:, i] > 0).nonzero()[:, 0]
            if len(due) == 0:
                continue
            boxes, count = _halve(boxes, count, due, i, tally)
    return boxes


def _halve(boxes: _Boxes, count: Tensor, due: Tensor, i: int, tally: _Tally) -> tuple[_Boxes, Tensor]:
    rest = torch.ones(len(boxes), dtype=torch.bool, device=due.device)
    rest[due] = False
    mine, counts = boxes.select(due), count[due].clone()
    counts[:, i] -= 1
    middle = mine.lower[:, i] + (mine.upper[:, i] - mine.lower[:, i]) / 2
    thin = ~((middle > mine.lower[:, i]) & (middle < mine.upper[:, i])) | (mine.depth >= MAX_DEPTH)
    tally.stuck.update(mine.query[thin].tolist())
    mine, counts, middle = mine.select(~thin), counts[~thin], middle[~thin]
    low, high = mine.upper.clone(), mine.lower.clone()
    low[:, i], high[:, i] = middle, middle
    halves = [
        _Boxes(a, b, mine.query, mine.share / 2, mine.depth + 1) for a, b in ((mine.lower, low), (high, mine.upper))
    ]
    return _join([boxes.select(rest), *halves]), torch.cat([count[rest], counts, counts])


def _charge(boxes: _Boxes, tally: _Tally, seconds: float, limit: float | None) -> None:
    """A step's time is shared out among the members in it, by boxes."""
    count = np.bincount(boxes.query.cpu().numpy(), minlength=len(tally.boxes))
    tally.boxes += count
    tally.seconds += seconds * count / count.sum()
    if limit is not None:
        tally.late.update(
            i for i in np.flatnonzero((tally.seconds > limit) & (count > 0)).tolist() if i not in tally.witness
        )


def _leftover(stack: list[_Boxes], tally: _Tally) -> None:
    """What is still open, per member. A box counts as open whatever its share: clipping can leave it without area."""
    tally.open[:] = 0
    for boxes in stack:
        tally.unfinished.update(boxes.query.tolist())
        np.add.at(tally.open, boxes.query.cpu().numpy(), boxes.share.cpu().numpy())


def _progress(tally: _Tally, stack: list[_Boxes], seconds: float, budget: Budget) -> Progress:
    waiting = sum(len(b) for b in stack)
    busy = len(torch.cat([b.query for b in stack]).unique()) if stack else 0
    return Progress(
        boxes=int(tally.boxes.sum()),
        open_boxes=waiting,
        seconds=seconds,
        settled=1 - busy / len(tally.boxes),
        remaining=budget.remaining(),
    )


def _result(family: Family, q: int, tally: _Tally, budget: Budget) -> Result:
    verdict, reason = _verdict(q, tally, budget)
    settled = verdict in (Verdict.SAT, Verdict.UNSAT)
    return Result(
        verdict,
        reason,
        tally.witness.get(q),
        seconds=float(tally.seconds[q]),
        counters={"boxes": int(tally.boxes[q])},
        open_fraction=None if q in tally.stuck else 0.0 if settled else float(tally.open[q]),
        settings={"method": "zonotope", "free_inputs": family.inputs, "device": str(family.device)},
    )


def _verdict(q: int, tally: _Tally, budget: Budget) -> tuple[Verdict, str]:
    if q in tally.witness:
        return Verdict.SAT, "a point of the search violates the property"
    if q in tally.late:
        return Verdict.TIMEOUT, "the time limit of the image was reached"
    if q in tally.unfinished:
        return (Verdict.UNKNOWN, budget.stopped) if budget.stopped else (Verdict.TIMEOUT, "the time limit was reached")
    if q in tally.stuck:
        return Verdict.UNKNOWN, "some boxes cannot be split any further: rounding decides there"
    return Verdict.UNSAT, "every box is proven"
