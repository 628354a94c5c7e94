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

from verifier.bounds.bounder import Method
from verifier.bounds.network import Network
from verifier.domains import DomainBatch
from verifier.search.bounding import Bounded

SAMPLE = 24
"""Boxes that are bounded in every way to compare them."""

HOPELESS = 4000.0
"""Predicted cost ratio of rows to cheap bounds above which the rows are not even tried."""

WORTHWHILE = 0.7
"""The cheap bounds go first when they leave less than this share of the boxes open."""

Bound = Callable[[DomainBatch, Method], Bounded]


@dataclass
class Chooser:
    """Bounds batches, alternately measuring which method gets further per second.

    The sample is taken at steps 1, 2, 4, 8, ..: what pays changes as boxes shrink and neurons become stable.
    """

    bound: Bound
    cut: Callable[[DomainBatch, Bounded], DomainBatch]
    method: Method
    fixed: bool
    ratio: Callable[[dict[int, float]], float]
    rows_pay: bool = True
    cheap_first: bool = True
    step: int = 0
    clock: Callable[[], float] = time.perf_counter

    def __call__(self, batch: DomainBatch) -> Bounded:
        """Bounds of a batch: cheap ones for all, rows for what stays open where they pay."""
        self.step += 1
        if self.fixed or not self.method.affine:
            return self.bound(batch, self.method)
        cheap = replace(self.method, rows=False, alpha_steps=0)
        measuring = self.step & (self.step - 1) == 0
        if self.rows_pay and not self.cheap_first and not measuring:
            return self.bound(batch, self.method)
        first = self.bound(batch, cheap)
        if len(first.alive) == 0:
            return first
        if measuring:
            self.cheap_first = len(first.alive) < WORTHWHILE * len(batch)
            self._measure(batch, first, cheap)
        if not self.rows_pay:
            return first
        second = self.bound(batch.select(first.alive), self.method)
        return second.renumbered(first.alive, first.values)

    def _measure(self, batch: DomainBatch, first: Bounded, cheap: Method) -> None:
        chosen = torch.linspace(0, len(first.alive) - 1, min(SAMPLE, len(first.alive))).long().to(first.alive.device)
        sample = batch.select(first.alive[chosen])
        if self.ratio(first.unstable_at) > HOPELESS:
            self.rows_pay = False
            return
        start = self.clock()
        base = self.bound(sample, cheap)
        cheap_time = self.clock() - start
        children = self.cut(sample.select(base.alive), base)
        if len(children) == 0:  # proven meanwhile, or points: nothing else than rows can help those
            self.rows_pay = True
            return
        halves = self.bound(children, cheap)
        start = self.clock()
        tight = self.bound(sample, self.method)
        rows_time = self.clock() - start
        half = len(children) // 2
        least = torch.minimum(halves.values[:half], halves.values[half:])
        gain = _typical(_missing(base.values)) - _typical(_missing(least))
        rise = _typical(_missing(base.values)) - _typical(_missing(tight.values))
        levels = rise / gain if gain > 0 else float("inf") if rise > 0 else 0.0
        self.rows_pay = min(levels, 60.0) * math.log(2) > math.log(max(1.0, rows_time / max(cheap_time, 1e-9)))


def _missing(values: torch.Tensor) -> torch.Tensor:
    """Logarithm of what a bound misses; proven boxes miss next to nothing."""
    return (-values).clamp(min=1e-9).log()


def _typical(values: torch.Tensor) -> float:
    finite = values[torch.isfinite(values)]
    return float(finite.median()) if len(finite) else 0.0


def predicted_ratio(network: Network, unstable: dict[int, float], d: int) -> float:
    """Cost of refining the unstable neurons by rows against one cheap sweep, in multiply-adds.

    `unstable[i]` is the mean number of unstable neurons at operator i. A row costs about one inference up to its
    neuron; a sweep with d generators, attributed noise and intervals costs about 2 d + 4.
    """
    prefix, total = {}, 0.0
    for i, op in enumerate(network.ops):
        prefix[i] = total
        total += op.multiply_adds
    rows = sum(2 * count * prefix[i] for i, count in unstable.items())
    return rows / max(1.0, (2 * d + 4) * total)
