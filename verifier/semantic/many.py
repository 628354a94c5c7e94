"""Verdicts for many images of one network in one process: one search over boxes of all of them.

It answers what the member's own pair of files would answer: the same set, the same rows, every `sat` replayed on its
own file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.attack.campaign import Campaign
from verifier.bounds.single import full_precision
from verifier.budget import Budget
from verifier.engine.on_device import device_of
from verifier.engine.outcome import progress_of
from verifier.options import Options, refuse_unused
from verifier.progress import Progress
from verifier.result import Result, Witness
from verifier.search.bab import SearchLimits, search
from verifier.search.choose import Cost
from verifier.search.domains import DomainBatch, whole
from verifier.search.policy import Tally, VerdictPerQuery
from verifier.semantic.cells import Verdicts, batch_size, memory_of
from verifier.semantic.conditions import LinearRows
from verifier.semantic.family import Family, from_problems
from verifier.semantic.problem import SemanticProblem

POINTS = 5
"""Points per parameter of the first look for counterexamples (corners, edges and inside)."""

OPTIONS = Options()

REPLAYS = 8
"""Points per step and member that are handed to ONNX Runtime."""


def verify_problems(
    problems: Sequence[SemanticProblem],
    options: Options,
    budget: Budget,
    progress: Callable[[Progress], None] | None = None,
    *,
    per_image: float | None = None,
) -> list[Result]:
    """One result per problem, in order. `per_image` limits the seconds spent on each (its part of the common steps).

    Raises:
        ProblemError: the problems do not share a network (see `family.from_problems`).
        UnsoundError: the imported network and ONNX Runtime disagree.
    """
    used = ("device", "seed", "search.batch", "attack.restarts", "attack.steps")
    refuse_unused(options, used, "a search of many images (limits are the budget's)")
    family = from_problems(problems, device_of(options.device), options.seed)
    return verify_family(family, budget, progress, per_image=per_image, options=options)


@full_precision()
def verify_family(
    family: Family,
    budget: Budget,
    progress: Callable[[Progress], None] | None = None,
    *,
    per_image: float | None = None,
    options: Options = OPTIONS,
) -> list[Result]:
    """Verdicts for the members of a family; see `verify_problems`."""
    begin = time.monotonic()

    def test(points: Tensor, query: Tensor) -> dict[int, Witness]:
        return _violations(family, points, query)

    def report(tally: Tally) -> None:
        if attack is not None:
            attack.boxes = tally.boxes
        if progress is not None:
            progress(progress_of(tally, time.monotonic() - begin, budget))

    limit = torch.full((family.members,), torch.inf if per_image is None else per_image, dtype=torch.float64)
    policy = VerdictPerQuery(test, family.members, limit, family.device)
    attack = FamilyAttack.of(family, options, budget)
    if attack is not None:
        policy.strike = attack
    memory = memory_of(family, budget.memory_bytes)
    with torch.no_grad():
        _first_look(family, policy, budget)
        # the first member comes out first
        first = whole(family.lower, family.upper).select(torch.arange(family.members - 1, -1, -1, device=family.device))
        policy.begin(first)
        limits = SearchLimits(budget.expired, report, batch_size(family, options.search.batch), family.device, memory)
        ending = search(first, Verdicts(family), policy, limits)
    open_ = policy.finish(ending.rest, memory.reason if ending.no_room else budget.stopped)
    return [_result(family, policy, q, float(open_[q])) for q in range(family.members)]


@dataclass(frozen=True)
class _Images:
    """A family's images as the attack wants them (`pgd.PointMap`)."""

    family: Family

    def point(self, p: Tensor, query: Tensor) -> Tensor:
        return self.family.image.points(p, query)


@dataclass(eq=False)
class FamilyAttack:
    """The gradient campaign in open boxes of members whose conditions are rows; it is paid by what the search has done,
    `boxes` of `each` multiply-adds (a bound of them: noise symbols are not counted)."""

    family: Family
    each: float
    boxes: int = 0

    @staticmethod
    def of(family: Family, options: Options, budget: Budget) -> FamilyAttack | None:
        """None where there is nothing to descend on (heatmaps), or no attack is wanted."""
        if not isinstance(family.conditions, LinearRows) or options.attack.restarts == 0:
            return None
        network, generator = family.twin.exact, torch.Generator(family.device).manual_seed(options.seed)
        attack = FamilyAttack(family, Cost(network, family.inputs).sweep())
        where = network, _Images(family), family.conditions.table
        how = options.attack.restarts, options.attack.steps
        attack.campaign = Campaign(*where, *how, generator, attack.replay, budget.expired)
        return attack

    def __post_init__(self) -> None:
        self.campaign: Campaign
        self.found: dict[int, Witness] = {}

    def __call__(self, boxes: DomainBatch) -> dict[int, Witness]:
        """What a round in these boxes finds, by member; no round before the search has done enough."""
        self.found = {}
        with torch.enable_grad():
            self.campaign.again(boxes, self.each * self.boxes)
        return self.found

    def replay(self, points: Tensor, loss: Tensor, query: Tensor) -> Witness | None:
        """The points (M, d) that violate in our arithmetic, on the member's own file."""
        hits = (loss <= 0).nonzero()[:, 0]
        found = _violations(self.family, points[hits].detach(), query[hits]) if len(hits) else {}
        self.found = {**found, **self.found}
        return next(iter(found.values()), None)


def _first_look(family: Family, policy: VerdictPerQuery, budget: Budget) -> None:
    """A coarse grid of points of every member, the most promising ones replayed: finds most counterexamples at once."""
    side = torch.linspace(0, 1, POINTS if family.inputs <= 3 else 2, dtype=torch.float64, device=family.device)
    grid = torch.cartesian_prod(*[side] * family.inputs).reshape(-1, family.inputs)
    for q in range(family.members):
        if budget.expired():
            return
        clock = time.monotonic()
        p = family.lower[q] + grid * (family.upper[q] - family.lower[q])
        policy.try_points(p, torch.full((len(p),), q, device=family.device))
        policy.seconds[q] += time.monotonic() - clock


def _violations(family: Family, points: Tensor, query: Tensor) -> dict[int, Witness]:
    """Points that violate in our arithmetic are replayed on the member's own file."""
    found: dict[int, Witness] = {}
    margin = family.margins(points, query)
    hits = (margin <= 0).nonzero()[:, 0]
    for q in query[hits].unique().tolist():
        mine = hits[query[hits] == q]
        mine = mine[margin[mine].argsort()[:REPLAYS]]
        witness = family.judges[q](points[mine].cpu().numpy())
        if witness is not None:
            found[q] = witness
    return found


def _result(family: Family, policy: VerdictPerQuery, q: int, open_share: float) -> Result:
    verdict, reason = policy.verdicts[q]
    return Result(
        verdict,
        reason,
        policy.witness.get(q),
        seconds=float(policy.seconds[q]),
        counters={"boxes": int(policy.boxes[q])},
        open_fraction=0.0 if verdict.settled else None if q in policy.stuck else open_share,
        settings={"method": "zonotope", "free_inputs": family.inputs, "device": str(family.device)},
    )
