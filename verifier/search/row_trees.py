"""Root intervals that tighten while the search goes on: a tree of splits for each neuron's row.

All subproblems take the intervals of undecided neurons from the root (`relaxed.Ground`), and pay for how loose
those are. So a part of the search's work goes into them: each end of a neuron's argument z, a row z or -z, has a tree
like the search's own. Its worst leaf is split in two, and the least bound of all leaves holds on the whole box.
(alpha,beta-CROWN refines such ends by integer programmes, before its search; here every bound is rigorous, and the
search says which neurons matter.) Rows take turns by what a split promises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from verifier.bounds.affine import intersect
from verifier.bounds.alpha_beta import climb, prove
from verifier.bounds.relaxed import Ground, Parameters, Relaxed, Task
from verifier.ops.kinds import Interval
from verifier.search.neuron_rules import open_splits
from verifier.search.slopes import pack, unpack

STEPS, RATE = 6, (0.3, 0.9)
"""Iterates of a leaf's climb; its first step and decay."""

MOST_LEAVES = 200_000
"""Open leaves of an operator's rows after which these are left as they are."""


class RowProof(Protocol):
    """What of a proof's writer is needed here: see `proof.rows.RowWriter`."""

    def planted(self, i: int, task: Task) -> tuple[Tensor, Tensor]:
        """New trees of the rows over the arguments of operator i that a task asks for: their nodes (M,), and what is
        known of the rows (M,)."""

    def divided(self, node: Tensor, entry: Tensor) -> Tensor:
        """The two nodes each, all first ones, then all second ones, (2 M,), of a neuron's sides, `entry` (2 M,)."""

    def bounded(self, i: int, node: Tensor, exact: Ground, task: Task, best: Parameters) -> Tensor:
        """Bounds (M,) of the rows that hold in the proof on their nodes (M,), -inf where none is better."""

    def climbed(self, exact: Ground, i: int, task: Task, best: Parameters, kept: Tensor) -> Tensor:
        """Bounds (M,) of rows without splits, which the proof's intervals hold from here on, and its narrowings those
        that are `kept` (M,) (`bounds.clipped`)."""

    def tighten(self, i: int, task: Task, least: Tensor) -> None:
        """From here on the proof's intervals are what the trees of these rows say together, `least` (M,)."""


@dataclass(frozen=True, eq=False)
class NeuronRows:
    """M rows over the argument of a ReLU operator: of the loose neuron at `column` (M,) of query `query` (M,), with
    `side` (M,) 0 for z and 1 for -z."""

    query: Tensor
    side: Tensor
    column: Tensor

    @staticmethod
    def of(index: Tensor, loose: int) -> NeuronRows:
        """From flat indices into (Q, 2, `loose`)."""
        return NeuronRows(index // (2 * loose), index // loose % 2, index % loose)

    def select(self, index: Tensor) -> NeuronRows:
        """The rows at `index`."""
        return NeuronRows(self.query[index], self.side[index], self.column[index])


@dataclass(frozen=True, eq=False)
class Trees:
    """The trees of one operator's rows: `place` (Q, 2, U) the number of a row's tree (-1: none yet), `splits` (T,) how
    often each was split (inf: nothing is left to split), `done` (T,) the least bound of its closed leaves, `alpha`
    (T, A) packed slopes to start from. Open leaves: `tree` (P,), `signs` (P, D), `beta` (P, D), `value` (P,), `node`
    (P,) in a proof, if one is written."""

    place: Tensor
    splits: Tensor
    done: Tensor
    alpha: Tensor
    tree: Tensor
    signs: Tensor
    beta: Tensor
    value: Tensor
    node: Tensor

    def worst(self, number: Tensor) -> Tensor:
        """The open leaf with the least bound of each tree in `number` (M,), -1 where none is left."""
        least = torch.full_like(self.done, torch.inf).scatter_reduce(0, self.tree, self.value, "amin")
        lowest = (self.value == least[self.tree]).nonzero()[:, 0]
        first = torch.full_like(self.done, -1, dtype=torch.int64)
        return first.scatter_reduce(0, self.tree[lowest], lowest, "amax")[number]

    def least(self, number: Tensor) -> Tensor:
        """What the leaves of each tree in `number` (M,) say together; -inf where none has a point."""
        least = self.done.scatter_reduce(0, self.tree, self.value, "amin")[number]
        return least.masked_fill(torch.isposinf(least), -torch.inf)

    def spent(self, number: Tensor) -> Trees:
        """With trees marked in which nothing can be split."""
        return replace(self, splits=self.splits.index_fill(0, number, torch.inf))

    def grown(self, number: Tensor, leaf: Tensor, signs: Tensor, best: Parameters, low: Tensor, node: Tensor) -> Trees:
        """With each `leaf` (M,) replaced by two, (2 M,) each: all first ones, then all second ones. One with a positive
        bound is closed: a neuron with one sign is affine, and no more is asked of its row."""
        half = len(leaf) // 2
        keep = torch.ones_like(self.tree, dtype=torch.bool).index_fill(0, leaf, False).nonzero()[:, 0]
        open_, closed = (~(low > 0)).nonzero()[:, 0], (low > 0).nonzero()[:, 0]
        wide = max(self.signs.shape[1], signs.shape[1])

        def joined(old: Tensor, new: Tensor) -> Tensor:
            return torch.cat([F.pad(t, (0, wide - t.shape[1])) for t in (old[keep], new[open_])])

        return replace(
            self,
            splits=self.splits.index_add(0, number[:half], torch.ones_like(low[:half])),
            done=self.done.scatter_reduce(0, number[closed], low[closed], "amin"),
            alpha=self.alpha.index_copy(0, number[:half], pack(best)[:half]),
            tree=torch.cat([self.tree[keep], number[open_]]),
            signs=joined(self.signs, signs),
            beta=joined(self.beta, best.beta.float()),
            value=torch.cat([self.value[keep], low[open_]]),
            node=torch.cat([self.node[keep], node[open_]]),
        )


@dataclass(eq=False)
class RowTrees:
    """The trees of all rows over the boxes `lower`, `upper` (Q, n), float64; at most `rows` are split at once. What
    they find is written to the `proof`, if there is one, whose bounds they then are."""

    lower: Tensor
    upper: Tensor
    rows: int
    proof: RowProof | None = None
    trees: dict[int, Trees] = field(default_factory=dict)

    def step(
        self, exact: Ground, fast: Ground, weight: Mapping[int, Tensor], stop: Callable[[], bool]
    ) -> tuple[Ground, float]:
        """The ground after some rows of one operator have been split once more, and the multiply-adds of that (0: there
        are none to split).

        `weight[i]` (Q, U) >= 0 says what a unit of the upper planes' offsets costs at the loose neurons of ReLU
        operator i. Both grounds have the same `loose` neurons, and no operator but ReLUs is split.
        """
        best: tuple[float, int, Tensor] | None = None
        for i, w in weight.items():
            trees = self.trees.get(i)
            if trees is not None and len(trees.tree) > MOST_LEAVES:
                continue
            gain, index = self._gain(exact, i, w).flatten().topk(min(self.rows, 2 * w.numel()))
            total = float(gain.sum()) / _price(exact, i)
            if total > 0 and (best is None or total > best[0]):
                best = total, i, index[gain > 0]
        if best is None:
            return exact, 0.0
        _, i, index = best
        return self._split(exact, fast, i, index, stop), _price(exact, i) * len(index)

    def _gain(self, exact: Ground, i: int, weight: Tensor) -> Tensor:
        """What splitting each row once more promises (Q, 2, U): how much the offset -u l / (u - l) moves with this end,
        times the width, and less with every split before."""
        low, high = (t.flatten(1).index_select(1, exact.loose[i]) for t in exact.pre[i][0])
        width = (high - low).clamp(min=torch.finfo(low.dtype).tiny)
        gain = torch.stack([(high / width).square(), (low / width).square()], 1) * (weight * width)[:, None]
        gain = torch.where(((low < 0) & (high > 0))[:, None], gain, 0.0)
        trees = self.trees.get(i)
        if trees is not None:
            gain = gain / (1 + F.pad(trees.splits, (0, 1))[trees.place])
        return torch.nan_to_num(gain, nan=0.0, posinf=0.0)

    def _split(self, exact: Ground, fast: Ground, i: int, index: Tensor, stop: Callable[[], bool]) -> Ground:
        trees, rows = self._planted(exact, fast, i, index), NeuronRows.of(index, len(exact.loose[i]))
        number = trees.place.flatten()[index]
        leaf = trees.worst(number)
        self.trees[i] = trees = trees.spent(number[leaf < 0])
        has = (leaf >= 0).nonzero()[:, 0]
        rows, number, leaf = rows.select(has), number[has], leaf[has]
        task = self._task(exact, i, rows)
        parent = replace(task, signs=trees.signs[leaf])
        relaxed = Relaxed(fast, parent.to(fast.network.dtype))
        default = relaxed.default()
        p = replace(default, alpha=unpack(trees.alpha[number], default), beta=trees.beta[leaf].to(default.beta))
        walked = relaxed.walk(p)
        splits, numbers = open_splits(relaxed, p, walked, relaxed.values(p, walked)[0])
        score, column = F.pad(splits.loss, (0, 1)).max(1)
        self.trees[i] = trees = trees.spent(number[score <= 0])
        usable = (score > 0).nonzero()[:, 0]
        if not len(usable):
            return exact
        both = usable.repeat(2)
        entry = numbers[column[both]] + 1
        entry[: len(usable)] *= -1
        child = replace(task.select(both), signs=torch.cat([parent.signs[both], entry[:, None]], 1))
        start = p.select(both)
        start = replace(start, beta=F.pad(start.beta, (0, 1)))
        best, _, _ = climb(fast, child.to(fast.network.dtype), start, STEPS, stop, RATE)
        node = trees.node[leaf[both]]
        if self.proof is None:
            low, _, _, _ = prove(exact, child, best)
        else:
            node = self.proof.divided(trees.node[leaf[usable]], entry)
            low = self.proof.bounded(i, node, exact, child, best)
        low = torch.maximum(torch.nan_to_num(low, nan=-torch.inf, posinf=torch.inf), trees.value[leaf[both]])
        trees = trees.grown(number[both], leaf[both], child.signs, best, low, node)
        least = trees.least(number)
        found = _tightened(exact, i, rows, least)
        if self.proof is not None:  # from here on it holds what the trees are
            self.proof.tighten(i, task, least)
        self.trees[i] = trees
        return found

    def _planted(self, exact: Ground, fast: Ground, i: int, index: Tensor) -> Trees:
        """With a tree for each row at `index`: a new one is a single leaf that knows what the ground does."""
        trees, loose = self.trees.get(i), exact.loose[i]
        if trees is None:
            place = torch.full((len(self.lower), 2, len(loose)), -1, dtype=torch.int64, device=loose.device)
            real, none = self.lower.new_zeros(0), loose.new_zeros(0)
            alpha = torch.zeros(0, 0, dtype=torch.uint8, device=loose.device)
            trees = Trees(place, real, real, alpha, none, none.view(0, 0), real.view(0, 0).float(), real, none)
        new = index[trees.place.flatten()[index] < 0]
        if not len(new):
            return trees
        rows, count = NeuronRows.of(new, len(loose)), len(trees.splits)
        low, high = (t.flatten(1)[rows.query, loose[rows.column]] for t in exact.pre[i][0])
        task = self._task(exact, i, rows)
        alpha = pack(Relaxed(fast, task.to(fast.network.dtype)).default())
        node, value = new, torch.where(rows.side == 0, low, -high)
        if self.proof is not None:
            node, value = self.proof.planted(i, task)
        number = torch.arange(count, count + len(new), device=new.device)
        more = (0, len(new))
        return Trees(
            trees.place.flatten().index_copy(0, new, number).view_as(trees.place),
            F.pad(trees.splits, more),
            F.pad(trees.done, more, value=torch.inf),
            torch.cat([trees.alpha, alpha]) if count else alpha,
            torch.cat([trees.tree, number]),
            F.pad(trees.signs, (0, 0, *more)),
            F.pad(trees.beta, (0, 0, *more)),
            torch.cat([trees.value, value]),
            torch.cat([trees.node, node]),
        )

    def _task(self, exact: Ground, i: int, rows: NeuronRows) -> Task:
        """The rows, with nothing decided."""
        slot, count = exact.network.sources[i][0], len(rows.query)
        coefficients = self.lower.new_zeros(count, 1, exact.network.size(slot))
        neuron = exact.loose[i][rows.column]
        coefficients.scatter_(2, neuron[:, None, None], (1 - 2 * rows.side).to(self.lower)[:, None, None])
        signs, points = rows.query.new_zeros(count, 0), self.lower.new_zeros(count, 0)
        rhs = self.lower.new_zeros(count, 1)
        box = self.lower[rows.query], self.upper[rows.query]
        return Task(*box, rows.query, signs, points, coefficients, rhs, None, slot)


def _price(exact: Ground, i: int) -> float:
    """Multiply-adds of one split: its leaf is walked back and forth, so is each child in every iterate; a walk in
    float64 costs two."""
    before = sum(op.multiply_adds for op in exact.network.ops[:i])
    return float(before) * (2 + 2 * (2 * STEPS + 1 + 2))


def _tightened(exact: Ground, i: int, rows: NeuronRows, least: Tensor) -> Ground:
    """With the lower bounds `least` (M,) of the rows."""
    x = exact.pre[i][0]
    low, high = (t.flatten(1).clone() for t in x)
    for side, end, sign in ((0, low, 1), (1, high, -1)):
        mine = (rows.side == side).nonzero()[:, 0]
        at = rows.query[mine], exact.loose[i][rows.column[mine]]
        end[at] = sign * torch.maximum(sign * end[at], least[mine])
    found = intersect(Interval(low.view_as(x.lower), high.view_as(x.lower)), x)
    return replace(exact, pre={**exact.pre, i: (found,)})
