"""Looking for counterexamples in rounds, each as long as the work that it is given.

Effort is counted in multiply-adds, not in seconds: what is found does not depend on how busy the machine is. The first
round comes before any bound. The search may take so long for its first step that nothing else would ever be tried;
later rounds come when the search has done so much that all rounds together stay a fixed share of its work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.attack.pgd import PointMap, pgd, sample
from verifier.bounds.network import Network
from verifier.problem.rows import RowTable
from verifier.result import Witness
from verifier.search.domains import DomainBatch

CALL = 100_000
"""What starting one operator on a batch costs, in multiply-adds: for small networks more than the numbers do. Each
point of the batch adds a hundredth of that to its products: numbers are drawn, rows picked, losses sorted."""

FIRST = 250_000_000
"""Multiply-adds of the first round."""

SOLID = 500
"""Inferences of the first round where that is more, for `HEAVY` multiply-adds at most: a few gradient descents."""

HEAVY = 20_000_000_000

FEW = 20
"""Inferences of the first round where even that is more: of the largest networks a single short descent."""

SHARE = 0.2
"""Most work of all rounds together, as a share of what the search has done."""

SAMPLED = 0.3
"""Share of a round that goes into random points; gradient descent starts from the best of them."""

MOST_POINTS = 65536
"""Most random points of a round."""

MOST_ELEMENTS = 8_000_000
"""Most numbers in the random points of a round."""

PIECE = 1_000_000_000
"""Multiply-adds between two looks at the clock, unless a single point costs more."""


@dataclass(frozen=True, eq=False)
class _Found:
    """Points (M, n), the positions of their boxes (M,), and their losses for every clause (M, C)."""

    points: Tensor
    box: Tensor
    loss: Tensor


class Campaign:
    """All rounds of one run.

    `replay` gets points (M, n), their losses (M,) and queries (M,), and returns a witness if one of them is; `stop`
    says whether time is up; at most `most` points are run at once; `restarts` and `steps` are those of gradient
    descent. `spent` counts the multiply-adds so far.
    """

    def __init__(
        self,
        network: Network,
        inputs: PointMap,
        table: RowTable,
        restarts: int,
        steps: int,
        generator: torch.Generator,
        replay: Callable[[Tensor, Tensor, Tensor], Witness | None],
        stop: Callable[[], bool],
        most: int | None = None,
    ) -> None:
        self.network, self.inputs, self.table = network, inputs, table
        self.restarts, self.steps, self.generator = restarts, steps, generator
        self.replay, self.stop = replay, stop
        self.call = float(CALL * len(network.ops))
        self.point = network.multiply_adds + (self.call + CALL) / 100 + 20.0 * network.n
        self.most = MOST_POINTS if most is None else max(1, min(most, MOST_POINTS))
        self.spent = 0.0
        self.descents = 0
        self.reached = table.rhs.new_full((len(table.rhs), table.most), torch.inf)

    def first(self, boxes: DomainBatch) -> Witness | None:
        """The round before the search."""
        return self._round(boxes, self._least())

    def again(self, boxes: DomainBatch, work: float) -> Witness | None:
        """The next round, in the first boxes given, if the search has done enough `work` (multiply-adds) for it."""
        allowed = SHARE * work - self.spent
        return self._round(boxes, allowed) if allowed >= max(self.spent, self._least()) else None

    def _least(self) -> float:
        return max(FIRST, min(SOLID * self.point, HEAVY), FEW * self.point)

    def _round(self, boxes: DomainBatch, allowed: float) -> Witness | None:
        """Random points, then gradient descent from the best of them, for about `allowed` multiply-adds."""
        if self.restarts == 0 or len(boxes) == 0:
            return None
        end = self.spent + allowed
        found, witness = self._sample(boxes, SAMPLED * allowed)
        if found is None or witness is not None:
            return witness
        order = found.loss.amin(1).argsort()
        used = 0
        while witness is None and self.spent < end and not self.stop():
            left = end - self.spent
            steps = int(max(2.0, min(self.steps, left / (2 * (self.call + self.point)))))
            room = left / steps - 2 * self.call
            # as many at once as it takes for the calls not to be what costs, and no more than restarts otherwise
            most = min(self.most, max(self.restarts, int(self.call / self.point)))
            piece = max(1, int(PIECE / (2 * self.point)))
            count = int(min(max(1.0, room / (2 * self.point)), most, piece))
            witness = self._descend(boxes, found, order, used, count, steps)
            used += count
        return witness

    def _sample(self, boxes: DomainBatch, allowed: float) -> tuple[_Found | None, Witness | None]:
        """Random points of the boxes, as many as `allowed` multiply-adds pay for; those that violate are replayed."""
        count = int(min(max(1.0, allowed / self.point), self.most, max(1.0, MOST_ELEMENTS / self.network.n)))
        parts = []
        witness = None
        while count > 0 and witness is None and not self.stop():
            size = min(count, max(1, int(PIECE / self.point)))
            chosen = torch.arange(size, device=boxes.query.device) % len(boxes)
            if size < len(boxes):
                chosen = torch.randperm(len(boxes), generator=self.generator, device=boxes.query.device)[:size]
            where = boxes.lower[chosen], boxes.upper[chosen], boxes.query[chosen]
            points, loss = sample(self.network, self.inputs, self.table, *where, self.generator)
            self.spent += self.call + size * self.point
            witness = self.replay(points, loss.amin(1), where[2])
            parts.append((points, chosen, loss))
            count -= size
        return _Found(*map(torch.cat, zip(*parts, strict=True))) if parts else None, witness

    def _descend(
        self, boxes: DomainBatch, found: _Found, order: Tensor, used: int, count: int, steps: int
    ) -> Witness | None:
        """Descends from `count` points for `steps` steps: half are the best that no descent has started from, half any.

        (The best ones can all sit on one plateau.) A third of each aim at the clause that is nearest, a third at the
        one that earlier descents came closest to, the others at any.
        """
        device = order.device
        any_ = torch.randint(len(order), (count // 2,), generator=self.generator, device=device)
        first = (torch.arange(count - count // 2, device=device) + (used + 1) // 2) % len(order)
        start = torch.cat([order[first], any_])
        box, loss = found.box[start], found.loss[start]
        query = boxes.query[box]
        clauses = self.table.clauses[query].clamp(min=1)
        drawn = torch.rand(len(start), generator=self.generator, device=device)
        other = (drawn * clauses).long().clamp(max=self.table.most - 1)
        turn = (torch.arange(len(start), device=device) // 2 + self.descents) % 3
        aim = torch.where(turn == 0, loss.argmin(1), other)
        aim = torch.where((turn == 1) & self.reached[query].isfinite().any(1), self.reached[query].argmin(1), aim)
        self.descents += 1
        witness: list[Witness] = []

        def enough(points: Tensor, losses: Tensor) -> bool:
            seen = self.replay(points, losses, query)
            witness.extend([] if seen is None else [seen])
            return seen is not None

        _, lowest, runs = pgd(
            self.network,
            self.inputs,
            self.table,
            found.points[start],
            boxes.lower[box],
            boxes.upper[box],
            query,
            aim,
            steps,
            self.stop,
            enough,
        )
        self.reached.scatter_reduce_(0, query[:, None].expand_as(lowest), lowest, "amin")
        self.spent += max(1, runs) * 2 * (self.call + count * self.point)
        return witness[0] if witness else None
