"""How subproblems of a network of one hidden layer are worked on: bound, cut, look ahead, split at a neuron's sign."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from verifier.search.bab import SearchMethod, TryPoints
from verifier.search.domains import DomainBatch, join, padded, pick
from verifier.search.policy import Parts
from verifier.search.shallow import dual, leaf
from verifier.search.shallow.dual import DualRows, Nodes, ascend, cut, stiffness
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


@dataclass(frozen=True, eq=False)
class Open:
    """What is known about the open subproblems `alive` (A,) of a batch: their boxes, cut (A, n), the `state` (A, S)
    their children inherit, the bound `value` (A,), the `neuron` (A,) to split (-1: none is open), the `node` in a proof
    (A, 1) or (A, 0), and `points` (M, n) of queries `query` (M,) worth a try."""

    alive: Tensor
    lower: Tensor
    upper: Tensor
    state: Tensor
    value: Tensor
    neuron: Tensor
    node: Tensor
    points: Tensor
    query: Tensor

    def select(self, keep: Tensor) -> Open:
        """The subproblems named by a mask."""
        each = self.alive, self.lower, self.upper, self.state, self.value, self.neuron, self.node
        alive, lower, upper, state, value, neuron, node = pick(each, keep)
        return Open(alive, lower, upper, state, value, neuron, node, self.points, self.query)


def _together(parts: list[Open]) -> Open:
    every = ([getattr(p, f.name) for p in parts] for f in fields(Open))
    return Open(*(torch.cat(padded(same)) for same in every))


class SignRecord(Protocol):
    """What the search tells about its tree: see `proof.one_layer.Signs`."""

    def roots(self, query: Tensor, clause: Tensor) -> Tensor:
        """The nodes (B, 1) of clauses (B,) of queries (B,)."""

    def narrow(self, clause: Clause, nodes: Nodes, fresh: bool) -> tuple[Nodes, Tensor]:
        """The subproblems cut down as the proof can with their multipliers, and which (B,) it settles."""

    def leaf(self, clause: Clause, node: Nodes) -> bool:
        """Whether the multipliers of one subproblem settle it in the proof."""

    def split(self, clause: Clause, nodes: Nodes, neuron: Tensor) -> Tensor:
        """The nodes (2 B, 1) of the sides of `neuron` (B,), all sides >= 0 first."""

    def commit(self) -> None:
        """The step has happened."""

    def rollback(self) -> None:
        """The step has not happened."""


@dataclass(eq=False)
class OneLayer(SearchMethod[Open]):
    """See `bab.SearchMethod`; for networks with one hidden layer; `clauses[q][c]` are the functions of clause c
    of query q on its box. `work` counts multiply-adds so far. With a `record` that decides what is proven."""

    clauses: list[list[Clause]]
    stop: Callable[[], bool]
    record: SignRecord | None = None
    work: float = 0.0

    @property
    def batch(self) -> int:
        """Subproblems per step."""
        every = [c for clauses in self.clauses for c in clauses]
        per_node = max([1, *(max(1, min(AHEAD, c.loose)) * max(1, len(c.lower)) for c in every)])
        return max(8, min(256, ELEMENTS // per_node))

    def roots(self, boxes: DomainBatch) -> DomainBatch:
        """One subproblem for every clause of every box, with nothing decided."""
        parts = []
        for b, q in enumerate(boxes.query.tolist()):
            one = boxes.select(slice(b, b + 1))
            for c, clause in enumerate(self.clauses[q]):
                number = torch.full_like(one.query, c)[:, None]
                part = replace(one, clause=number, share=one.share / len(self.clauses[q]))
                parts.append(_with_state(part, dual.root(clause)))
        first = join(parts) if parts else boxes.select(slice(0, 0))
        if self.record is None:
            return first
        return replace(first, node=self.record.roots(first.query, first.clause.flatten()))

    def bound(self, batch: DomainBatch) -> Open:
        """See `SearchMethod`."""
        found: list[Open] = []
        for clause, index in self._groups(batch):
            nodes = _nodes(clause, batch.select(index), index)
            self.work += 4.0 * ROUNDS * STEPS * len(nodes) * clause.weight.numel()
            query = batch.query[index[:1]]
            if not len(clause.constant):  # a clause without rows is violated everywhere
                centre = (nodes.lower + nodes.upper) / 2
                none, value = torch.full_like(index, -1), centre.new_full((len(index),), -torch.inf)
                found.append(_open(nodes, value, none, centre, query))
                continue
            nodes, rows, points = _bound(clause, nodes, self.stop, self.record)
            neuron, _ = dual.look_ahead(clause, nodes, rows, AHEAD)
            found.append(_open(nodes, rows.value, neuron, points, query))
        return _together(found)

    def points(self, boxes: DomainBatch, known: Open) -> tuple[Tensor, Tensor]:
        """See `SearchMethod`."""
        return known.points, known.query

    def clip(self, boxes: DomainBatch, known: Open) -> tuple[DomainBatch, Open]:
        """The boxes as bounding cut them; shares count signs, not volume."""
        cut_down = replace(boxes, lower=known.lower, upper=known.upper, score=known.value, state=known.state)
        return replace(cut_down, node=known.node), known

    def settle(self, boxes: DomainBatch, known: Open, try_points: TryPoints) -> tuple[DomainBatch, Open, object | None]:
        """Where no neuron is open, a linear program decides."""
        keep = torch.ones_like(known.neuron, dtype=torch.bool)
        for i in (known.neuron < 0).nonzero()[:, 0].tolist():
            one = boxes.select(slice(i, i + 1))
            clause = self._clause(one)
            if not len(clause.constant):
                continue
            relaxed = leaf.relax(clause, _nodes(clause, one, one.query))
            keep[i] = not relaxed.proven
            if self.record is not None and relaxed.nodes is not None:
                keep[i] = not self.record.leaf(clause, relaxed.nodes)
                if bool(keep[i]) and relaxed.proven:  # the slopes in a proof are coarser: one neuron less needs them
                    known.neuron[i] = _steepest(clause, relaxed.nodes)
            if relaxed.open is not None:
                found = try_points(relaxed.open.point, one.query)
                if found is not None:
                    return boxes, known, found
        return boxes.select(keep), known.select(keep), None

    def split(self, batch: DomainBatch, boxes: DomainBatch, known: Open) -> Parts:
        """See `SearchMethod`."""
        usable = known.neuron >= 0
        chosen, neuron, parts, numbers = boxes.select(usable), known.neuron[usable], [], [boxes.query[:0]]
        for clause, index in self._groups(chosen):
            mine = chosen.select(index)
            halves = replace(mine, share=mine.share / 2, depth=mine.depth + 1)
            nodes = _nodes(clause, mine, index)
            children = _with_state(join([halves, halves]), dual.split(nodes, neuron[index]))
            if self.record is not None:
                children = replace(children, node=self.record.split(clause, nodes, neuron[index]))
            parts.append(children)
            numbers.append(clause.neuron[neuron[index]])
        return Parts(join(parts) if parts else chosen, boxes.select(~usable), neurons=torch.cat(numbers))

    def commit(self) -> None:
        """See `SearchMethod`."""
        if self.record is not None:
            self.record.commit()

    def rollback(self) -> None:
        """See `SearchMethod`."""
        if self.record is not None:
            self.record.rollback()

    def _clause(self, one: DomainBatch) -> Clause:
        return self.clauses[int(one.query[0])][int(one.clause[0, 0])]

    def _groups(self, batch: DomainBatch) -> Iterator[tuple[Clause, Tensor]]:
        """The clauses that the subproblems ask for, with their positions."""
        for query, number in torch.stack([batch.query, batch.clause[:, 0]], 1).unique(dim=0).tolist():
            mine = (batch.query == query) & (batch.clause[:, 0] == number)
            yield self.clauses[query][number], mine.nonzero()[:, 0]


STATE = ("low", "high", "sign", "alpha", "beta", "weights")


def _nodes(clause: Clause, boxes: DomainBatch, place: Tensor) -> Nodes:
    """Subproblems of one clause, as the search keeps them."""
    n, k = len(clause.bias), len(clause.constant)
    parts = boxes.state[:, : 5 * n + k].split([n] * 5 + [k], 1)
    where = {"lower": boxes.lower, "upper": boxes.upper, "place": place, "node": boxes.node}
    return Nodes(**where, **dict(zip(STATE, parts, strict=True)))


def _state(nodes: Nodes) -> Tensor:
    return torch.cat([getattr(nodes, name) for name in STATE], 1)


def _with_state(boxes: DomainBatch, nodes: Nodes) -> DomainBatch:
    return replace(boxes, state=_state(nodes))


def _open(nodes: Nodes, value: Tensor, neuron: Tensor, points: Tensor, query: Tensor) -> Open:
    state = _state(nodes)
    query = query.expand(len(points))
    return Open(nodes.place, nodes.lower, nodes.upper, state, value, neuron, nodes.node, points, query)


def _steepest(clause: Clause, node: Nodes) -> int:
    """The open neuron of one subproblem that counts most, -1 where none is open."""
    gain = (node.weights @ clause.gain).abs() * (node.high - node.low)
    gain = torch.where((node.low < 0) & (node.high > 0) & (node.sign == 0), gain, -1.0)[0]
    return int(gain.argmax()) if len(gain) and bool(gain.max() >= 0) else -1


def _bound(
    clause: Clause, nodes: Nodes, stop: Callable[[], bool], record: SignRecord | None = None
) -> tuple[Nodes, DualRows, Tensor]:
    """The subproblems that stay open, cut, and their rows; and points (M, n) worth trying."""
    points: list[Tensor] = []
    for turn in range(ROUNDS):
        fresh = record is None or turn > 0
        nodes, rows = ascend(clause, nodes, STEPS, frozen=not fresh)
        nodes, rows, reached = _relax(clause, nodes, rows, stop)
        points.extend(reached)
        if record is None:
            open_ = ~(rows.value > 0)  # NaN proves nothing
            nodes, rows = nodes.select(open_), rows.select(open_)
            nodes, empty = cut(clause, nodes, rows)
        else:
            nodes, empty = record.narrow(clause, nodes, fresh)
        nodes, rows = nodes.select(~empty), rows.select(~empty)
        if len(nodes) == 0:
            break
    return nodes, rows, torch.cat([rows.x, *points])


def _relax(
    clause: Clause, nodes: Nodes, rows: DualRows, stop: Callable[[], bool]
) -> tuple[Nodes, DualRows, list[Tensor]]:
    """The subproblems, of which stiff ones have the multipliers of their linear programs, their rows (of the value
    +inf where these prove it), and the programs' points (1, n): a row's own point is a corner of the box, which no
    spike is at."""
    stiff, points = (stiffness(clause, nodes, rows) > STIFF) & ~(rows.value > 0), []
    found: dict[int, tuple[Nodes, DualRows]] = {}
    for i in stiff.nonzero()[:, 0].tolist():
        if stop():
            break
        relaxed = leaf.relax(clause, nodes.select(slice(i, i + 1)))
        if relaxed.open is not None:
            points.append(relaxed.open.point)
        better = rows.select(slice(i, i + 1)) if relaxed.open is None else relaxed.open.rows
        if relaxed.proven:
            better = replace(better, value=torch.full_like(better.value, torch.inf))
        if relaxed.nodes is not None and bool(better.value > rows.value[i]):
            found[i] = relaxed.nodes, better
    if found:
        index = torch.tensor(list(found), device=stiff.device)
        better, tighter = (dual.join(list(parts)) for parts in zip(*found.values(), strict=True))
        nodes, rows = nodes.put(index, better), rows.put(index, tighter)
    return nodes, rows, points
