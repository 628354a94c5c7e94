"""Concrete points: the attack before and during the search, the search's own candidates, and their replay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from verifier.attack.campaign import Campaign
from verifier.attack.pgd import clause_loss, row_values
from verifier.budget import Budget
from verifier.engine.on_device import OnDevice
from verifier.engine.strategy import Kind, Strategy
from verifier.options import Options
from verifier.result import Witness
from verifier.search import zonotope
from verifier.search.domains import DomainBatch, whole
from verifier.search.memory import step_bytes

REPLAYS = 8
"""Points at once that are handed to ONNX Runtime, the worst ones."""


LARGE = 1_000_000
"""Multiply-adds of networks that the attack runs in float32: what they cost halves, and what it finds is replayed in
ONNX Runtime as ever."""

JudgePoints = Callable[[np.ndarray, np.ndarray], Witness | None]
"""Runs points (M, n) of queries (M,) in ONNX Runtime: the first that violates the specification."""


class Points:
    """Tests points of one problem."""

    def __init__(self, on: OnDevice, strategy: Strategy, replay: JudgePoints, options: Options, budget: Budget) -> None:
        self.on, self.replay = on, replay
        self.by_grid = strategy.kind is Kind.ZONOTOPE
        generator = torch.Generator(device=on.device).manual_seed(options.seed)
        how, room = options.attack, budget.memory_bytes
        most = (
            None
            if room is None or options.deterministic
            else int(room / step_bytes(on.network.widest, on.network.dtype))
        )
        where = on.float32 if on.network.multiply_adds >= LARGE else on.network, on.inputs, on.table
        self.campaign = Campaign(*where, how.restarts, how.steps, generator, self.replayed, budget.expired, most)

    def first(self) -> Witness | None:
        """The attack before the search."""
        if self.by_grid:
            # with so few inputs the search's own points are as good as a descent, and cost next to nothing
            return self.test(*zonotope.grid(self.on.lower, self.on.upper)) if self.campaign.restarts else None
        return self.campaign.first(whole(self.on.lower, self.on.upper))

    def again(self, boxes: DomainBatch, work: float) -> Witness | None:
        """The attack during the search, which has come to `work` multiply-adds: now and then a round in open boxes."""
        return self.campaign.again(boxes, work)

    def test(self, points: Tensor, query: Tensor) -> Witness | None:
        """Points (M, n) of queries (M,): those that violate in our arithmetic are replayed."""
        return None if len(points) == 0 else self.replayed(points, self.loss(points, query), query)

    def loss(self, points: Tensor, query: Tensor) -> Tensor:
        """By how much (M,) points miss a violation in our arithmetic; <= 0 is one."""
        on = self.on
        return clause_loss(on.table, row_values(on.network, on.inputs, on.table, points, query), query).amin(1)

    def replayed(self, points: Tensor, loss: Tensor, query: Tensor) -> Witness | None:
        """The points that violate in our arithmetic, worst first, replayed in ONNX Runtime."""
        hits = (loss <= 0).nonzero()[:, 0]
        if len(hits) == 0:
            return None
        hits = hits[loss[hits].argsort()[:REPLAYS]]
        return self.replay(points[hits].double().cpu().numpy(), query[hits].cpu().numpy())
