"""The proof of intervals that tighten: trees of rows, whose bounds are the checker's own.

The search proposes splits, slopes and multipliers (`search.row_trees`, `bounds.refine`); what the checker's code makes
of them is what the search goes on with.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.relaxed import Ground, Parameters, Relaxed, Task
from verifier.checker import format as fmt
from verifier.checker.prove import FIRST, Claim, Part, TreeRow
from verifier.proof.encode import short
from verifier.proof.one_layer import LEVELS, Writer
from verifier.tolerance import NARROWEST, WRITTEN

DIGITS = 8
"""Of a bound."""

NOWHERE = 1e300
"""The bound of a row where there is no point."""


class RowWriter:
    """Writes trees of rows. What a step of the search writes here stays, whatever becomes of that step."""

    def __init__(self, writer: Writer) -> None:
        self.writer, self.prover = writer, writer.prover
        self._known: dict[tuple[int, int, int, int], TreeRow] = {}

    def _rows(self, i: int, task: Task) -> list[TreeRow]:
        coefficients, value = task.rows[:, 0], self.writer.relus[i][0]
        neuron = coefficients.abs().argmax(1, keepdim=True)
        side = coefficients.gather(1, neuron)[:, 0].sign().int()
        rows = zip(task.query.tolist(), neuron[:, 0].tolist(), side.tolist(), strict=True)
        return [self._known.setdefault((q, value, k, s), TreeRow(q, value, k, s)) for q, k, s in rows]

    def planted(self, i: int, task: Task) -> tuple[Tensor, Tensor]:
        """See `search.row_trees.RowProof`."""
        rows, tensor = self._rows(i, task), self.writer.tensors.index(self.writer.relus[i][0])
        nodes = [self.writer.number(fmt.RowTree(r.query, tensor, r.neuron, int(r.side < 0)), 1) for r in rows]
        self.writer.commit()
        return torch.tensor(nodes).to(task.query), task.lower.new_tensor([self._least(r) for r in rows])

    def _least(self, row: TreeRow) -> float:
        """What is known below a row on the whole box of its query."""
        whole, source = self.prover.root(row.query), self.prover.network.argument(row.value)
        return float(whole.low[source][0, row.neuron] if row.side > 0 else -whole.high[source][0, row.neuron])

    def divided(self, node: Tensor, entry: Tensor) -> Tensor:
        """See `search.row_trees.RowProof`."""
        sides: tuple[list[int], list[int]] = [], []
        for at, k in zip(node.tolist(), (entry[len(node) :] - 1).tolist(), strict=True):
            place, (_, first) = self.writer.operator(k)
            for side, child in zip(sides, self.writer.decided(at, place, k - first), strict=True):
                side.append(child)
        return torch.tensor(sides[0] + sides[1]).to(node)

    def bounded(
        self, i: int, node: Tensor, exact: Ground, task: Task, best: Parameters, kept: Tensor | None = None
    ) -> Tensor:
        """See `search.row_trees.RowProof`; lines of rows that are `kept` (M,)."""
        lined = [False] * len(task) if kept is None else kept.tolist()
        slopes = {
            self.writer.relus[k][0]: np.rint(a.cpu().numpy() * LEVELS).astype(np.uint8).reshape(len(task), -1)
            for k, a in Relaxed(exact, task).used(best.to(torch.float64)).items()
        }
        claims, beta = [], np.maximum(0.0, best.beta.double().cpu().numpy())
        for b, (row, signs) in enumerate(zip(self._rows(i, task), task.signs.tolist(), strict=True)):
            own = tuple(short(beta[b, [d for d, e in enumerate(signs) if e]]).tolist())
            part = Part(row.query, signs=self.writer.signs(signs), row=row)
            tables = {v: t[b] for v, t in slopes.items()}
            kind = "line" if lined[b] else "bound"
            claims.append(Claim(part, FIRST, own if any(own) else (), tables, fmt.ROOT, kind))
        margins = self.prover.prove(claims)
        least = np.array([min(m.least, NOWHERE) - m.error for m in margins])
        least = short(least - np.abs(least) * WRITTEN - NARROWEST, DIGITS)
        for at, claim, margin, c in zip(node.tolist(), claims, margins, least.tolist(), strict=True):
            if np.isfinite(c):
                claim = replace(claim, least=c)
                self.writer.leaf(at, claim)
                if claim.kind == "line":
                    self.prover.keep(claim, margin)
        return torch.from_numpy(np.nan_to_num(least, nan=-np.inf)).to(task.lower)

    def tighten(self, i: int, task: Task, least: Tensor) -> None:
        """See `search.row_trees.RowProof`."""
        self.writer.number(fmt.Tighten(), 0)
        self.writer.commit()
        self.prover.tighten(dict(zip(self._rows(i, task), least.tolist(), strict=True)))

    def climbed(self, exact: Ground, i: int, task: Task, best: Parameters, kept: Tensor) -> Tensor:
        """See `search.row_trees.RowProof`."""
        node, known = self.planted(i, task)
        least = torch.maximum(self.bounded(i, node, exact, task, best, kept), known)
        self.tighten(i, task, least)
        return least
