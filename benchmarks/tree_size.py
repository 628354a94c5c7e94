"""How many subproblems a search over neurons will have looked at when it ends, estimated from a sample of its tree.

    python -m benchmarks.tree_size LIST.csv [LIST.csv ..] --match img9410 [--keep 64] [--cap 60] [--seed 0]

The share that is open says little about what is left: the search goes down to the worst subproblems first, and what is
far from a proof has a tree of thousands below it. So the tree is sampled level by level (Knuth 1975; by strata: Chen
1992). Of a level's children about `--keep` go on, each with a probability that grows with how far its parent is from a
proof, and stands for 1 / probability others of its kind. The expected sum of these weights is the number of
subproblems, whatever the probabilities are; how much it varies is seen by more than one `--seed`. (Large trees are
rather found too small than too large: what is rare and deep is often missed.) For each instance: estimates in all and
by clause, how far down they are known where `--cap` seconds of the processor were not enough, and what a subproblem
takes. A sample proves nothing, and its verdict is not told. A LIST is as in `benchmarks.run`.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

import verifier
from benchmarks.run import read_list
from verifier.budget import Budget
from verifier.options import Options
from verifier.search import bab
from verifier.search.domains import DomainBatch
from verifier.search.queue import OpenSet

GROWTH = 9.0
"""Logarithm of how much larger the tree below the worst subproblem is taken to be than that below an almost proven
one. (`cifar_base_kw` img9410, one clause: equal chances gave 5e4, 4e3 and 2e6 for much the same tree.)"""


def thinned(weight: Tensor, missing: Tensor, keep: int, offset: float) -> tuple[Tensor, Tensor]:
    """Which of N children go on, about `keep`, and their new weights. `weight` (N,) > 0; `missing` (N,) in [0, 1] says
    how far each is from a proof; `offset` is drawn from [0, 1): the sample is systematic, along `missing`."""
    chance = weight * torch.exp(GROWTH * missing)
    sure = torch.zeros_like(chance, dtype=torch.bool)
    share = chance
    while True:  # what would be taken more than once is taken for certain, the rest share what is left
        rest = float(chance[~sure].sum())
        share = torch.where(sure, 1.0, chance * (max(keep - int(sure.sum()), 0) / max(rest, 1e-300)))
        more = ~sure & (share >= 1)
        if not bool(more.any()):
            break
        sure |= more
    order = missing.argsort(stable=True)
    end = share[order].cumsum(0) + offset
    start = torch.cat([end.new_tensor([offset]), end[:-1]])
    index = order[end.floor() > start.floor()]
    return index, weight[index] / share[index]


class SampledSet(OpenSet):
    """An open set that keeps a sample, about `keep`, of each level: `size[c]` is the estimate for clause c so far. What
    a subproblem stands for is its share of its clause times 2 ^ depth."""

    def __init__(self, first: DomainBatch, keep: int, seed: int) -> None:
        if not first.clause.shape[1]:
            raise SystemExit("inputs are split here, not neurons: nothing is estimated")
        super().__init__(replace(first, share=torch.ones_like(first.share)), first.lower.device)
        self.size, self.depth = dict[int, float](), 0
        self._keep, self._worst, self._draw = keep, 0.0, torch.Generator().manual_seed(seed)
        self._add(first.clause, torch.ones(len(first)))

    def push(self, batch: DomainBatch) -> None:
        """Adds a sample of a level's children."""
        if len(batch):
            level = torch.exp2(batch.depth.double())
            weight, missing = batch.share * level, (-batch.score.double()).clamp(min=0)
            self._add(batch.clause, weight)
            self._worst = self._worst or float(missing.max())
            if len(batch) > self._keep:
                offset = float(torch.rand(1, generator=self._draw))
                index, weight = thinned(weight, missing / max(self._worst, 1e-300), self._keep, offset)
                batch = replace(batch.select(index), share=weight / level[index])
            self.depth = int(batch.depth.max())
        super().push(batch)

    def _add(self, clause: Tensor, weight: Tensor) -> None:
        for number, mine in zip(clause[:, 0].tolist(), weight.tolist(), strict=True):
            self.size[number] = self.size.get(number, 0.0) + mine

    def pop(self, size: int, wanted: Tensor | None = None) -> DomainBatch:
        """A level at once."""
        return super().pop(max(len(self), 1), wanted)


class Estimate(NamedTuple):
    """How many subproblems each clause has, from how many that were `seen`; down to which `depth`, and whether that was
    all; `seconds` of the processor."""

    size: dict[int, float]
    seen: int
    depth: int
    ended: bool
    seconds: float

    def __str__(self) -> str:
        largest = sorted(self.size.items(), key=lambda pair: -pair[1])[:5]
        clauses = ", ".join(f"clause {clause} {size:.3g}" for clause, size in largest)
        ended = "" if self.ended else f", down to depth {self.depth} only"
        each = 1000 * self.seconds / max(self.seen, 1)
        return f"{sum(self.size.values()):.3g} ({clauses}){ended}; {self.seen} seen, {each:.0f} ms each"


def estimate(model: Path, spec: Path, keep: int, seed: int, cap: float) -> Estimate:
    """The sizes of a search's trees.

    Raises:
        SystemExit: no neurons are split there.
    """
    start = time.process_time()
    budget = Budget.of(cap, clock=time.process_time)
    opened: list[SampledSet] = []

    def sampled(first: DomainBatch, *rest: object) -> OpenSet:
        opened.append(SampledSet(first, keep, seed))
        return opened[-1]

    with patch.object(bab, "OpenSet", sampled):
        result = verifier.verify(model, spec, Options(timeout=cap), budget=budget)
    if not opened:
        return Estimate({}, 0, 0, result.verdict.value != "timeout", time.process_time() - start)
    seconds, tree = time.process_time() - start, opened[-1]
    return Estimate(tree.size, int(result.counters["boxes"]), tree.depth, not len(tree), seconds)


def main() -> None:
    """A line for each instance, as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", nargs="+", type=Path, metavar="LIST")
    parser.add_argument(
        "--match", nargs="*", default=("",), metavar="TEXT", help="instances with one of these in a name"
    )
    parser.add_argument("--keep", type=int, default=64, metavar="N", help="subproblems of a level that go on")
    parser.add_argument("--cap", type=float, default=60.0, metavar="S", help="limit of processor time")
    parser.add_argument("--seed", type=int, nargs="*", default=[0], help="a sample for each")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for instance in [one for path in args.lists for one in read_list(path)]:
        name = f"{instance.benchmark} {Path(instance.onnx).name.split('.')[0]} {Path(instance.vnnlib).name}"
        if any(text in name for text in args.match):
            for seed in args.seed:
                found = estimate(instance.model, instance.spec, args.keep, seed, args.cap)
                print(f"{name}, seed {seed}: {found}", flush=True)


if __name__ == "__main__":
    main()
