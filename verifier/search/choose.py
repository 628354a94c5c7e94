"""Cheap bounds for many boxes or tight bounds for few: decided by measuring both on a sample of the open boxes.

Splitting a box once costs two cheap bounds and shrinks what is missing (minus the bound) by some factor g; backward
rows for the intermediate neurons shrink it by some factor h at once. So the rows are worth log h / log g levels of
splitting, that is 2^(log h / log g) cheap boxes, and pay when that is more than they cost. Where the cheap bounds
prove many boxes by themselves, only the others see the rows.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from verifier.bounds.network import Network
from verifier.bounds.sweep import Method
from verifier.search.bounding import Bounded
from verifier.search.domains import DomainBatch
from verifier.tolerance import LEEWAY

SAMPLE = 24
"""Boxes that are bounded in every way to compare them. Halves are as many again, in calls about the same price."""

HOPELESS = 4000.0
"""Predicted cost ratio of rows to cheap bounds above which the rows are not even tried."""

WORTHWHILE = 0.7
"""The cheap bounds go first when they leave less than this share of the boxes open."""

BoundBoxes = Callable[[DomainBatch, Method], Bounded]


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of bounds, about: those of a network whose affine forms have `free` generators."""

    network: Network
    free: int

    def sweep(self, affine: bool = True) -> float:
        """One forward sweep of a box: generators, attributed noise and intervals, or intervals alone."""
        return (2 * self.free + 4 if affine else 4) * self.network.multiply_adds

    def rows(self, unstable: dict[int, float]) -> float:
        """Rows of a box for its `unstable[i]` neurons at operator i: two each, of about one inference up to there."""
        before, total = 0.0, 0.0
        for i, op in enumerate(self.network.ops):
            total += 2 * unstable.get(i, 0.0) * before
            before += op.multiply_adds
        return total

    def ratio(self, unstable: dict[int, float]) -> float:
        """Rows for the unstable neurons against one cheap sweep."""
        return self.rows(unstable) / max(1.0, self.sweep())

    def of(self, method: Method, boxes: int, bounded: Bounded) -> float:
        """What bounding a batch came to; rows of the result count once more for each step that moves their planes."""
        inference = self.network.multiply_adds
        each = self.sweep(method.affine) + (self.rows(bounded.unstable_at) if method.rows else 0.0)
        return boxes * each + len(bounded.alive) * bounded.low.shape[1] * (1 + 3 * method.alpha_steps) * inference


@dataclass
class Chooser:
    """Bounds batches, alternately measuring which method gets further per second.

    The sample is taken at steps 1, 4, 16, 64, ..: what pays changes as boxes shrink and neurons become stable. `work`
    counts the multiply-adds of all bounds so far, about.
    """

    bound: BoundBoxes
    cut: Callable[[DomainBatch, Bounded], DomainBatch]
    method: Method
    fixed: bool
    cost: Cost
    rows_pay: bool = True
    cheap_first: bool = True
    step: int = 0
    work: float = 0.0
    clock: Callable[[], float] = time.perf_counter

    def __call__(self, batch: DomainBatch) -> Bounded:
        """Bounds of a batch: cheap ones for all, rows for what stays open where they pay."""
        self.step += 1
        if self.fixed or not self.method.affine:
            return self._bounds(batch, self.method)
        cheap = replace(self.method, rows=False, alpha_steps=0)
        measuring = self.step & (self.step - 1) == 0 and self.step.bit_length() % 2 == 1
        if self.rows_pay and not self.cheap_first and not measuring:
            return self._bounds(batch, self.method)
        first = self._bounds(batch, cheap)
        if len(first.alive) == 0:
            return first
        tight = None
        if measuring:
            self.cheap_first = len(first.alive) < WORTHWHILE * len(batch)
            tight = self._measure(batch, first, cheap)
        if tight is None:
            if not self.rows_pay:
                return first
            tight = self._bounds(batch.select(first.alive), self.method)
        return tight.renumbered(first.alive, first.values)

    def learned(self) -> None:
        """See `beside.Sharing`: what is measured in one process may be otherwise in another."""

    def learn(self, learned: None) -> None:
        """See `beside.Sharing`."""

    def _bounds(self, batch: DomainBatch, method: Method) -> Bounded:
        bounded = self.bound(batch, method)
        self.work += self.cost.of(method, len(batch), bounded)
        return bounded

    def _measure(self, batch: DomainBatch, first: Bounded, cheap: Method) -> Bounded | None:
        """Decides whether rows pay; returns the bounds with rows where the sample is all that `first` left open."""
        if self.cost.ratio(first.unstable_at) > HOPELESS:
            self.rows_pay = False
            return None
        count = min(SAMPLE, len(first.alive))
        chosen = torch.linspace(0, len(first.alive) - 1, count).long().to(first.alive.device)
        base = first.select(chosen)
        sample = batch.select(base.alive)
        children = self.cut(sample, base)
        if len(children) == 0:  # points: nothing else than rows can help those
            self.rows_pay = True
            return None
        start = self.clock()
        halves = self._bounds(children, cheap)
        cheap_time = self.clock() - start
        start = self.clock()
        tight = self._bounds(sample, self.method)
        rows_time = self.clock() - start
        half = len(children) // 2
        least = torch.minimum(halves.values[:half], halves.values[half:])
        gain = _typical(_missing(base.value)) - _typical(_missing(least))
        rise = _typical(_missing(base.value)) - _typical(_missing(tight.values))
        levels = rise / gain if gain > 0 else float("inf") if rise > 0 else 0.0
        self.rows_pay = min(levels, 60.0) * math.log(2) > math.log(max(1.0, rows_time / max(cheap_time, LEEWAY)))
        return tight if count == len(first.alive) else None


def _missing(values: torch.Tensor) -> torch.Tensor:
    """Logarithm of what a bound misses; proven boxes miss next to nothing."""
    return (-values).clamp(min=LEEWAY).log()


def _typical(values: torch.Tensor) -> float:
    finite = values[torch.isfinite(values)]
    return float(finite.median()) if len(finite) else 0.0
