"""A property of two inputs with a bound that is easy to check."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.unit.search.tables import CPU, domains
from verifier.search import bab
from verifier.search.bab import Ending, SearchLimits
from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch
from verifier.search.halving import Halving
from verifier.search.memory import Memory
from verifier.search.policy import FirstSat, Tally
from verifier.search.ties import Exactly


@dataclass
class Wave:
    """The property "sin(3 x) cos(2 y) > level" on the unit square, bounded by its centre's value and a slope of 5."""

    level: float
    boxes: list[DomainBatch] = field(default_factory=list)
    proven: list[DomainBatch] = field(default_factory=list)

    def value(self, p: Tensor) -> Tensor:
        return torch.sin(3 * p[:, 0]) * torch.cos(2 * p[:, 1]) - self.level

    def bound(self, batch: DomainBatch) -> Bounded:
        self.boxes.append(batch)
        centre, radius = (batch.lower + batch.upper) / 2, (batch.upper - batch.lower) / 2
        low = self.value(centre) - 5 * radius.sum(1)
        alive = (low <= 0).nonzero()[:, 0]
        self.proven.append(batch.select(low > 0))
        rows = low[alive][:, None]
        flat = batch.lower.new_zeros(len(alive), 1, 2)
        zero = torch.zeros(len(alive), dtype=torch.int64)
        width = (batch.upper - batch.lower)[alive]
        return Bounded(alive, rows[:, 0], rows, rows, zero[:, None], flat, rows, zero + 1, width, low, {})

    def try_points(self, points: Tensor, query: Tensor) -> Tensor | None:
        hits = (self.value(points) <= 0).nonzero()[:, 0]
        return points[hits[0]] if len(hits) else None


@dataclass(eq=False, kw_only=True)
class Strategy(Halving):
    """The usual way to work on boxes, with parts that a test can replace; no rows, so that nothing is tied."""

    table: None = None  # only ties read it, and `settle` looks for none
    fractions: Exactly = field(default_factory=lambda: Exactly(lambda: None))
    max_depth: int = 60
    try_points: Callable[[Tensor, Tensor], object | None]
    attack: Callable[[DomainBatch], object | None] = lambda boxes: None
    settle_affine: Callable[[DomainBatch, Bounded], tuple[Tensor, object | None]] = lambda boxes, bounded: (
        torch.ones(len(boxes), dtype=torch.bool),
        None,
    )
    stop: Callable[[], bool] = lambda: False
    report: Callable[[Tally], None] = lambda tally: None
    batch: int = 16
    queries: int = 1
    device: torch.device = CPU
    memory: Memory = field(default_factory=Memory)

    def settle(self, boxes: DomainBatch, known: Bounded, _: object) -> tuple[DomainBatch, Bounded, object | None]:
        keep, found = self.settle_affine(boxes, known)
        return boxes.select(keep), known.select(keep), found


def search(first: DomainBatch, s: Strategy) -> Ending:
    limits = SearchLimits(s.stop, s.report, s.batch, s.device, s.memory)
    return bab.search(first, s, FirstSat(lambda *at: s.try_points(*at), s.attack, s.queries), limits)


def _strategy(wave: Wave, **changes: object) -> Strategy:
    return Strategy(**{"bounds": wave.bound, "try_points": wave.try_points, **changes})  # type: ignore[arg-type]


def _square(count: int = 1) -> DomainBatch:
    low = torch.zeros(count, 2, dtype=torch.float64)
    return domains(low, low + 1, torch.arange(count))


LOWEST = math.cos(2)  # sin(3 x) = 1 at x = pi / 6, cos(2 y) least at y = 1
