"""The proof of a search over the signs of one hidden layer: its bounds are the checker's own.

The search proposes multipliers. A subproblem whose row is positive with them is a leaf; every other is narrowed to
where the row can be <= 0, box and arguments of its neurons, and goes on from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from verifier.checker import format as fmt
from verifier.checker.prove import Claim, Part, Prover
from verifier.problem.problem import Problem
from verifier.proof.encode import short
from verifier.proof.hints import SPARE
from verifier.proof.parts import OpenParts
from verifier.search.shallow.dual import Nodes
from verifier.search.shallow.form import Clause
from verifier.tolerance import NARROWEST

LEVELS = 255
"""Slopes are bytes."""

COARSE = 17
"""Slopes are multiples of COARSE / LEVELS, which takes fewer bytes and costs no subproblems."""

SHORT, LONG = 2, 7
"""Digits of multipliers: of narrowings, and of leaves."""


class Writer(Protocol):
    """What of a proof's writer is needed here: see `writer.ProofWriter`."""

    prover: Prover
    relus: dict[int, tuple[int, int]]
    tensors: list[int]
    parts: OpenParts

    def number(self, event: fmt.Event, count: int) -> int:
        """The first of `count` nodes that an event makes."""

    def operator(self, neuron: int) -> tuple[int, tuple[int, int]]:
        """Which tensor of the header a neuron of the search belongs to, and (value, first neuron)."""

    def signs(self, entries: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
        """Decided neurons as the checker names them."""

    def taken_apart(self, query: int, clauses: int) -> int:
        """The first of the nodes of a query's clauses."""

    def decided(self, node: int, tensor: int, neuron: int) -> tuple[int, int]:
        """The sides <= 0 and >= 0 of a neuron."""

    def narrowed(self, node: int, claim: Claim, part: Part) -> int:
        """The number of the part that a node is narrowed to by a claim."""

    def leaf(self, node: int, claim: Claim) -> None:
        """A node that is proven by a claim."""

    def commit(self) -> None:
        """The step has happened."""

    def rollback(self) -> None:
        """The step has not happened."""


class OneLayerProof:
    """Writes the splits, narrowings and leaves of such a search."""

    def __init__(self, writer: Writer, problem: Problem) -> None:
        self.writer, self.kept = writer, problem.kept
        self.relus = writer.relus
        self.firsts = np.array([first for _, first in self.relus.values()])
        self.values = [v for v, _ in self.relus.values()]

    def roots(self, query: Tensor, clause: Tensor) -> Tensor:
        """The nodes (B, 1) of every clause of every query, in their order."""
        numbers: list[int] = []
        for q in query.unique_consecutive().tolist():
            count = int((query == q).sum())
            first = self.writer.taken_apart(q, count)
            numbers += range(first, first + count)
            self.writer.parts.put({first + c: Part(q, c) for c in range(count)})
        self.commit()
        assert clause.tolist() == [self._part(n).clause for n in numbers]
        return torch.tensor(numbers, dtype=torch.int64, device=query.device)[:, None]

    def _part(self, node: int) -> Part:
        part = self.writer.parts.get(node)
        assert part is not None
        return part

    def _claims(self, clause: Clause, nodes: Nodes, fresh: bool, digits: int) -> list[Claim]:
        """What the subproblems' multipliers claim: with slopes of their own if `fresh`, otherwise those that they were
        narrowed with; multipliers have so many `digits`."""
        place = clause.neuron.cpu().numpy()
        alpha, beta, weights = (t.double().cpu().numpy() for t in (nodes.alpha, nodes.beta, nodes.weights))
        # a neuron without a sign change on the box is not open for the checker either, but for rounding
        slopes = np.tile(np.where(clause.on.cpu().numpy(), LEVELS, 0).astype(np.uint8), (len(alpha), 1))
        counts = ((nodes.low < 0) & (nodes.high > 0) & (nodes.weights @ clause.gain > 0)).cpu().numpy()
        slopes[:, place] = np.where(counts, np.rint(np.clip(alpha, 0, 1) * (LEVELS // COARSE)) * COARSE, 0)
        where = {int(k): i for i, k in enumerate(place)}
        claims = []
        for b, node in enumerate(nodes.node[:, 0].tolist()):
            part = self._part(node)
            decided = [where[self.firsts[self.values.index(v)] + k] for v, k, _ in part.signs]
            scale = max(NARROWEST, weights[b].max(initial=0.0), beta[b].max(initial=0.0))
            betas = tuple(short(beta[b, decided] / scale, digits).tolist())
            picked = [(k, w) for k, w in enumerate(short(weights[b] / scale).tolist()) if w > 0]
            if len(picked) == 1 and not any(betas):
                picked = [(picked[0][0], 1.0)]
            tables: Mapping[int, np.ndarray] = {
                v: slopes[b, first : first + self.writer.prover.relus[v].size] for v, first in self.relus.values()
            }
            if part.slopes and not fresh:
                tables = part.slopes
            rows = ((0, tuple(picked or [(0, 0.0)])),)
            claims.append(Claim(part, rows, betas if any(betas) else (), tables, fmt.ROOT))
        return claims

    def narrow(self, clause: Clause, nodes: Nodes, fresh: bool) -> tuple[Nodes, Tensor]:
        """The subproblems narrowed as the proof says, with new nodes, and which (B,) it settles."""
        if not len(nodes):
            return nodes, torch.zeros(0, dtype=torch.bool, device=nodes.place.device)
        claims = [replace(c, kind="narrow") for c in self._claims(clause, nodes, fresh, SHORT)]
        margins = self.writer.prover.prove(claims)
        settled = np.array([m.least > SPARE * m.error for m in margins])
        node, place = nodes.node.clone(), clause.neuron.cpu().numpy()
        low, high, lower, upper = (t.cpu().numpy().copy() for t in (nodes.low, nodes.high, nodes.lower, nodes.upper))
        for b, claim in enumerate(claims):
            at, found = int(node[b, 0]), margins[b].part
            if settled[b]:
                self.writer.leaf(at, replace(claim, kind="leaf"))
                continue
            assert found is not None
            node[b, 0] = self.writer.narrowed(at, claim, found)
            box = self.writer.prover.box(found)
            lower[b], upper[b] = np.maximum(lower[b], box[0][self.kept]), np.minimum(upper[b], box[1][self.kept])
            if found.ends:
                sizes = [self.writer.prover.relus[v].size for v in self.values]
                each = [_between(*found.ends[v], size) for v, size in zip(self.values, sizes, strict=True)]
                ends = np.concatenate(each, 1)
                low[b], high[b] = np.fmax(low[b], ends[0, place]), np.fmin(high[b], ends[1, place])
        low, high = np.minimum(low, high), np.maximum(low, high)
        lower, upper = np.minimum(lower, upper), np.maximum(lower, upper)
        new = (torch.from_numpy(t).to(nodes.low) for t in (low, high, lower, upper))
        names = ("low", "high", "lower", "upper")
        mask = torch.from_numpy(settled).to(nodes.place.device)
        if fresh:
            kept = [np.concatenate([c.slopes[v] for v in self.values])[place] / LEVELS for c in claims]
            nodes = replace(nodes, alpha=torch.from_numpy(np.stack(kept)).to(nodes.alpha))
        return replace(nodes, node=node, **dict(zip(names, new, strict=True))), mask

    def leaf(self, clause: Clause, node: Nodes) -> bool:
        """Writes the leaf of one subproblem, if its multipliers prove it."""
        claim = self._claims(clause, node, True, LONG)[0]
        margin = self.writer.prover.prove([claim])[0]
        if not margin.least > SPARE * margin.error:
            return False
        self.writer.leaf(int(node.node[0, 0]), claim)
        return True

    def split(self, clause: Clause, nodes: Nodes, neuron: Tensor) -> Tensor:
        """Decides a neuron of each subproblem: the nodes (2 B, 1), all sides >= 0 first."""
        sides: tuple[list[int], list[int]] = [], []
        for node, k in zip(nodes.node[:, 0].tolist(), clause.neuron[neuron].tolist(), strict=True):
            place = int(np.searchsorted(self.firsts, k, side="right")) - 1
            v, first = self.values[place], int(self.firsts[place])
            part, children = self._part(node), self.writer.decided(node, place, k - first)
            for child, side, out in zip(children, (-1, 1), sides, strict=True):
                self.writer.parts.put({child: replace(part, signs=(*part.signs, (v, k - first, side)))})
                out.append(child)
        return torch.tensor(sides[1] + sides[0], dtype=torch.int64, device=nodes.place.device)[:, None]

    def commit(self) -> None:
        """The step has happened."""
        self.writer.commit()

    def rollback(self) -> None:
        """The step has not happened."""
        self.writer.rollback()


def _between(neuron: np.ndarray, side: np.ndarray, least: np.ndarray, size: int) -> np.ndarray:
    """Intervals (2, `size`) of the neurons whose rows are at least so large."""
    ends, up = np.tile([[-np.inf], [np.inf]], size), side > 0
    ends[0, neuron[up]], ends[1, neuron[~up]] = least[up], -least[~up]
    return ends
