"""The proof of a coverage map: a tree whose leaves are its certified cells, each bounded by the checker's own code."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from verifier.budget import OutOfTime
from verifier.checker import format as fmt
from verifier.checker.linear import Linear
from verifier.checker.prove import Claim, Part
from verifier.errors import ProofError
from verifier.proof.hints import suggest
from verifier.proof.writer import ProofWriter
from verifier.semantic.family import Family
from verifier.semantic.grid import Cells

BATCH = 256
"""Cells that are bounded together."""

DEEPER = 4
"""Halvings of a cell that the checker's bounds do not certify as a whole; what is left then is not in the proof."""

Ranges = dict[int, tuple[float, float]]


def write(
    path: str | os.PathLike[str],
    model: str | os.PathLike[str],
    spec: str | os.PathLike[str],
    family: Family,
    cells: Cells,
    stop: Callable[[], bool],
    member: int | None = None,
) -> Fraction:
    """Writes the proof of the certified `cells` of a family that was read from these files, or of its one `member` that
    these files say; the mean share of the boxes that it covers. Where it is stopped there is no file.

    Raises:
        ProofError: the checker does not know the network, or reads other boxes from the specification.
        OutputError: the file cannot be written.
    """
    writer = ProofWriter(path, model, spec)
    try:
        writer.header(kind=fmt.MAP)
        found = _Map(writer, family, cells, stop, member).run()
        writer.finish()
    except OutOfTime:
        raise ProofError("the run was stopped: there is no proof of the map") from None
    finally:
        writer.discard()
    return found


class _Map:
    def __init__(
        self, writer: ProofWriter, family: Family, cells: Cells, stop: Callable[[], bool], member: int | None
    ) -> None:
        self.writer, self.cells, self.stop = writer, cells, stop
        self.members = np.arange(family.members) if member is None else np.array([member])
        form = writer.prover.queries.form
        self.free = np.flatnonzero((form.upper > form.lower).any(0))
        self.lower, self.upper = family.lower.cpu().numpy(), family.upper.cpu().numpy()
        nodes = writer.prover.network.nodes
        deep = any(isinstance(op, Linear) and op.positions > 1 and op.weight.shape[1] > 1 for op in nodes)
        self.kinds = (fmt.SYMBOLS,) if deep else (fmt.FORMS, fmt.ROWS)

    def run(self) -> Fraction:
        queries, covered = self.writer.prover.queries, Fraction(0)
        for q in range(len(queries)):
            own = queries.lower[q, self.free], queries.upper[q, self.free]
            mine = self.members if self.lower.shape[1] == len(self.free) else self.members[:0]
            same = (
                mine[(self.lower[mine] == own[0]).all(1) & (self.upper[mine] == own[1]).all(1)] if len(mine) else mine
            )
            if not len(same):
                raise ProofError("no proof can be written: the checker reads other boxes from the specification")
            leaves = self._tree(q, np.flatnonzero(self.cells.query == same[0]), own)
            for at in range(0, len(leaves), BATCH):
                covered += self._prove(q, leaves[at : at + BATCH], DEEPER)
                self.writer.commit()
        return covered / max(1, len(queries))

    def _tree(self, q: int, mine: np.ndarray, ends: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, Ranges]]:
        """Splits a query's box until every node is a cell or holds none: the nodes of the cells, and where they lie."""
        cells, d = self.cells, len(self.free)
        leaves: list[tuple[int, Ranges]] = []
        box = {int(j): (float(low), float(high)) for j, low, high in zip(self.free, *ends, strict=True)}
        stack = [(q, np.zeros(d, np.int64), box, mine)]
        while stack:
            node, level, box, mine = stack.pop()
            deeper = cells.level[mine].astype(np.int64) - level
            if len(mine) == 1 and not deeper.any():
                leaves.append((node, box))
            ways = np.flatnonzero((deeper > 0).all(0))
            if not len(mine) or not len(ways):
                continue
            i = int(ways[0])
            after = level + (np.arange(d) == i)
            shift = deeper[:, i] - 1
            index = cells.index[mine, i].astype(np.int64) >> shift
            edge = int(index[0] | 1) / 2.0 ** int(after[i])
            j, low, high = int(self.free[i]), ends[0][i], ends[1][i]
            at = float(np.clip(low + edge * (high - low), *box[j]))
            for side, child in zip((0, 1), self.writer.halves(node, j, at), strict=True):
                half = (box[j][0], at) if side == 0 else (at, box[j][1])
                stack.append((child, after, {**box, j: half}, mine[(index & 1) == side]))
        return leaves

    def _part(self, q: int, box: Ranges) -> Part:
        ends = self.writer.prover.box(Part(q))
        for j, (low, high) in box.items():
            ends[0][j], ends[1][j] = low, high
        return self.writer.prover.cut(Part(q), ends)

    def _prove(self, q: int, nodes: list[tuple[int, Ranges]], deeper: int) -> Fraction:
        """Writes the leaves that hold, and halves the others; the share of the query's box that they cover."""
        if not nodes:
            return Fraction(0)
        covered, open_ = Fraction(0), list(range(len(nodes)))
        claims = [Claim(self._part(q, box), ()) for _, box in nodes]
        for kind in self.kinds:
            tried = [Claim(claims[i].part, (), intervals=kind) for i in open_]
            missed = []
            for i, hint in zip(open_, suggest(self.writer.prover, tried, self.stop), strict=True):
                if hint.holds:
                    self.writer.leaf(nodes[i][0], hint.claim)
                    covered += self.writer.prover.share(hint.claim.part)
                else:
                    missed.append(i)
            open_ = missed
        parts = []
        for i in open_ if deeper else ():
            node, box = nodes[i]
            whole = {j: self.writer.prover.queries.upper[q, j] - self.writer.prover.queries.lower[q, j] for j in box}
            j = max(box, key=lambda j: (box[j][1] - box[j][0]) / whole[j] if whole[j] else 0.0)
            at = box[j][0] / 2 + box[j][1] / 2
            if box[j][0] < at < box[j][1]:
                first, second = self.writer.halves(node, j, at)
                parts += [(first, {**box, j: (box[j][0], at)}), (second, {**box, j: (at, box[j][1])})]
        return covered + self._prove(q, parts, deeper - 1)
