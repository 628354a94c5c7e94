"""Which input to split, or which neuron.

The score of an input has two parts, both in units of the bounded row: how much the linear row itself varies along it
(slope times width), and how much of the relaxation's looseness it is responsible for. The second part is what makes the
difference on deep networks: every neuron that is not affine on the box costs the bound about

    |row coefficient at the neuron| x (largest gap between its two planes),

and the affine form of the neuron's input says which share of its interval each input causes. (A slope-times-width score
alone needs 30 times the boxes on ACAS Xu property 1, network 3_8; trying every input and keeping the best split
needs as many boxes as this score, at the price of bounding all candidates.)
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from verifier.bounds.bound import Bounds
from verifier.options import BRANCHING_RULES
from verifier.search.domains import DomainBatch

BranchingRule = Callable[[Bounds, DomainBatch, Tensor], Tensor]
"""(bounds, open boxes (A,), column of the critical row of each (A,)) -> a score of every input (A, n): the largest is
split. A score may be anything: a bad one costs boxes, never a verdict."""

RULES: dict[str, BranchingRule] = {}
"""Every rule by the word for `search.branching`."""


def branching_rule(name: str) -> Callable[[BranchingRule], BranchingRule]:
    """Registers a rule, for `search.branching: name`."""

    def register(function: BranchingRule) -> BranchingRule:
        RULES[name] = function
        if name not in BRANCHING_RULES:
            BRANCHING_RULES.append(name)
        return function

    return register


@branching_rule("widest")
def widest(known: Bounds, boxes: DomainBatch, critical: Tensor) -> Tensor:
    """The width of each input: the longest edge is halved."""
    return boxes.upper - boxes.lower


@branching_rule("smear")
def smear(known: Bounds, boxes: DomainBatch, critical: Tensor) -> Tensor:
    """How much the critical row varies along each input, its slope times the width (Kearfott 1996; ReluVal, Wang et al.
    2018)."""
    width = boxes.upper - boxes.lower
    row = known.coefficients.gather(1, critical[:, None, None].expand(-1, 1, width.shape[1]))[:, 0]
    return row.abs() * width


@branching_rule("auto")
def losses(known: Bounds, boxes: DomainBatch, critical: Tensor) -> Tensor:
    """`smear`, and how much of the row's looseness each input is to blame for."""
    return smear(known, boxes, critical) + known.blame(critical)


def split_scores(known: Bounds, boxes: DomainBatch, clause: Tensor, scores: Tensor, rule: str = "auto") -> Tensor:
    """Score (A, n) of splitting each input of the open boxes by the best row of the worst clause, 0 for inputs without
    width. `clause` (A, K') names the rows' clauses, `scores` (A, C) are the bounds of the clauses."""
    worst = scores.argmin(1) if len(scores) else scores.new_zeros(0, dtype=torch.int64)
    critical = known.low.masked_fill(clause != worst[:, None], -torch.inf).argmax(1)
    score = RULES[rule](known, boxes, critical)
    score = torch.nan_to_num(score, nan=0.0, posinf=torch.finfo(score.dtype).max)
    return torch.where(boxes.upper > boxes.lower, score, 0.0)
