"""The search of one clause: bound, cut, try points, look ahead, split; depth first, many subproblems at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from verifier.search.shallow import leaf
from verifier.search.shallow.dual import Nodes, Rows, ascend, cut, join, look_ahead, root, split, stiffness
from verifier.search.shallow.form import Clause

STEPS = 10
"""Steps of multiplier ascent: children start from their parent's multipliers."""

ROUNDS = 2
"""How often a subproblem is bounded and cut before it is split."""

AHEAD = 64
"""Neurons looked at ahead per subproblem."""

STIFF = 10.0
"""`stiffness` from which a subproblem is bounded by its linear program as well. (Networks that were trained stay below
1, random ones mostly below 2; a spike of width 1e-3 has 1e3 to 1e5.)"""

ELEMENTS = 500_000
"""Elements of the largest temporary: about a core's cache."""


@dataclass
class Counts:
    """What the search has done: subproblems bounded, steps, subproblems open, the share of the tree that is settled
    and the smallest bound of the last step."""

    nodes: int = 0
    steps: int = 0
    open: int = 0
    settled: float = 0.0
    lower: float = -float("inf")


@dataclass(frozen=True)
class End:
    """`found` is what the point test returned; otherwise `open_share` of the tree is open: 0 means proven. `stuck`
    subproblems could not be decided in float64; `out_of_time` if the search was stopped."""

    found: object | None
    open_share: float
    stuck: int = 0
    out_of_time: bool = False


def search(
    clause: Clause,
    try_points: Callable[[Tensor], object | None],
    stop: Callable[[], bool],
    report: Callable[[Counts], None],
) -> End:
    """Whether a point of the box violates the clause: `try_points` gets candidates (M, n) and returns a witness."""
    counts = Counts(open=1)
    if len(clause.constant) == 0:  # a clause without rows is violated everywhere
        found = try_points(((clause.lower + clause.upper) / 2)[None])
        return End(found, 1.0, stuck=1)
    stack, stuck, stuck_share = [root(clause)], 0, 0.0
    per_node = max(1, min(AHEAD, clause.loose)) * max(1, len(clause.lower))
    batch = max(8, min(256, ELEMENTS // per_node))
    while stack:
        if stop():
            rest = sum(float(nodes.share.sum()) for nodes in stack)
            return End(None, min(1.0, rest + stuck_share), stuck, out_of_time=True)
        nodes = _pop(stack, batch)
        counts.nodes += len(nodes)
        counts.steps += 1
        before = float(nodes.share.sum())
        nodes, rows, points = _bound(clause, nodes, stop)
        found = _try(clause, points, try_points)
        if found is not None:
            return End(found, 1.0)
        neuron, _ = look_ahead(clause, nodes, rows, AHEAD)
        for i in (neuron < 0).nonzero()[:, 0].tolist():
            relaxed = leaf.relax(clause, nodes.select(slice(i, i + 1)))
            if relaxed.proven:
                continue
            found = None if relaxed.open is None else try_points(relaxed.open.point)
            if found is not None:
                return End(found, 1.0)
            stuck += 1
            stuck_share += float(nodes.share[i])
        usable = neuron >= 0
        if bool(usable.any()):
            stack.append(split(nodes.select(usable), neuron[usable]))
            counts.lower = float(rows.value[usable].min())
        counts.settled += before - float(nodes.share[usable].sum())
        counts.open = sum(len(part) for part in stack)
        report(counts)
    return End(None, stuck_share, stuck)


def _pop(stack: list[Nodes], count: int) -> Nodes:
    """The last `count` subproblems."""
    parts = []
    while stack and count > 0:
        last = stack.pop()
        if len(last) > count:
            stack.append(last.select(slice(0, len(last) - count)))
            last = last.select(slice(len(last) - count, None))
        parts.append(last)
        count -= len(last)
    return join(parts)


def _bound(clause: Clause, nodes: Nodes, stop: Callable[[], bool]) -> tuple[Nodes, Rows, Tensor]:
    """The subproblems that stay open, cut, and their rows; and points (M, n) worth trying."""
    points: list[Tensor] = []
    for _ in range(ROUNDS):
        nodes, rows = ascend(clause, nodes, STEPS)
        open_ = ~(rows.value > 0)  # NaN proves nothing
        nodes, rows = nodes.select(open_), rows.select(open_)
        nodes, rows, reached = _relax(clause, nodes, rows, stop)
        points.extend(reached)
        nodes, empty = cut(clause, nodes, rows)
        nodes, rows = nodes.select(~empty), rows.select(~empty)
        if len(nodes) == 0:
            break
    return nodes, rows, torch.cat([rows.x, *points])


def _relax(clause: Clause, nodes: Nodes, rows: Rows, stop: Callable[[], bool]) -> tuple[Nodes, Rows, list[Tensor]]:
    """The subproblems that stay open when the stiff ones are bounded by their linear programs, their rows, and the
    programs' points (1, n): a row's own point is a corner of the box, which no spike is at."""
    stiff = stiffness(clause, nodes, rows) > STIFF
    keep, points = torch.ones_like(stiff), []
    found: dict[int, tuple[Nodes, Rows]] = {}
    for i in stiff.nonzero()[:, 0].tolist():
        if stop():
            break
        relaxed = leaf.relax(clause, nodes.select(slice(i, i + 1)))
        keep[i] = not relaxed.proven
        if relaxed.open is not None:
            points.append(relaxed.open.point)
            if bool(relaxed.open.rows.value > rows.value[i]):
                found[i] = relaxed.open.nodes, relaxed.open.rows
    if found:
        index = torch.tensor(list(found), device=keep.device)
        better, tighter = (join(list(parts)) for parts in zip(*found.values(), strict=True))
        nodes, rows = nodes.put(index, better), rows.put(index, tighter)
    return nodes.select(keep), rows.select(keep), points


def _try(clause: Clause, x: Tensor, try_points: Callable[[Tensor], object | None]) -> object | None:
    """The points (B, n) that violate the clause in our arithmetic, worst first."""
    if len(x) == 0:
        return None
    worst = clause.values(x).amax(1)
    hits = (worst <= 0).nonzero()[:, 0]
    return None if len(hits) == 0 else try_points(x[hits[worst[hits].argsort()[:8]]])
