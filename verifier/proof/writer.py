"""The proof of a run, written while it searches: see docs/certificates.md for the file.

The search says which subproblems it splits and which it takes for proven. Those are bounded again here by the
checker's own code, so that what is written is accepted; what does not hold is split further. Events of a step reach the
file when the step has happened (`commit`), the file gets its name when the whole proof is there.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from verifier.bounds.network import Network
from verifier.bounds.pieces import PieceQuestion, Pieces, PieceSplit, decide, exclude
from verifier.bounds.rational import MOST_PRODUCTS, ExactLinear, Refutation
from verifier.checker import format as fmt
from verifier.checker.bounds import MOST_FORMS, Enclosures, bound_rows
from verifier.checker.check import check_witness
from verifier.checker.curves import Relu
from verifier.checker.errors import Rejected, Unreadable
from verifier.checker.linear import Linear, fractions
from verifier.checker.network import read_network
from verifier.checker.prove import Claim, Part, Prover
from verifier.checker.query import read_queries
from verifier.errors import OutputError, ProofError
from verifier.files.whole import Whole
from verifier.problem.problem import Problem
from verifier.proof.encode import begin, encode, encode_header, encode_witness, short
from verifier.proof.hints import Hint, suggest
from verifier.proof.one_layer import LEVELS, OneLayerProof
from verifier.proof.parts import OpenParts
from verifier.proof.rows import RowWriter
from verifier.search.domains import DomainBatch
from verifier.search.neurons import FoundWith
from verifier.search.ties import Why

OFTEN = 0.3
"""Share of the settled boxes that needed backward rows from which open ones are clipped by such rows as well."""


class _Unwritable(Exception):
    """Something that is true, but not in the form of a proof."""


@dataclass(frozen=True, eq=False)
class _Decided:
    """A neuron of a Relu of the header, and what proves its sides <= 0 and >= 0."""

    tensor: int
    neuron: int
    below: Claim | _Decided
    above: Claim | _Decided


class ProofWriter:
    """Writes one proof file.

    Raises (when made):
        ProofError: the checker does not know this network or specification.
        OutputError: the file cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], model: str | os.PathLike[str], spec: str | os.PathLike[str]
    ) -> None:
        self.path = Path(path)
        try:
            network = read_network(Path(model))
            queries = read_queries(Path(spec), network)
        except Unreadable as error:
            raise ProofError(f"no proof can be written: {error}; run without --proof") from None
        self.prover = Prover(network, queries)
        self.leaves = self.splits = 0
        self._next = len(queries)
        self._pending: list[bytes] = []
        self._state = (0, 0, self._next)
        self.relus: dict[int, tuple[int, int]] = {}
        self.tensors: list[int] = []
        self.parts = OpenParts()
        self._opens: dict[int, dict[int, np.ndarray]] = {}
        self._needed, self._clips = 0.0, True
        self._file = Whole(self.path, "the proof")
        self._lines = begin(self._file.stream)

    def begin(
        self,
        problem: Problem,
        network: Network,
        stop: Callable[[], bool],
        found: Callable[[], tuple[FoundWith, Tensor, FoundWith]] | None,
        rows: bool = False,
        neurons: bool = False,
    ) -> None:
        """Fits the proof to the problem that is searched; `found` gives the slopes and multipliers of the last batch
        where neurons are split, and of what was clipped those before, `rows` says whether the search bounds neurons by
        backward rows (otherwise by zonotopes), `neurons` whether neurons are split by a search that keeps its
        multipliers itself.

        Raises:
            ProofError: boxes or neurons of the search are not those of the files.
        """
        queries = self.prover.queries
        neurons = neurons or found is not None
        self._found, self._stop, self._rows = found, stop, rows
        self._place = {int(j): i for i, j in enumerate(problem.kept)}
        self.kept = problem.kept
        asked = np.array([q for q in range(len(queries)) if queries.clauses[q]], np.int64)
        own = queries.lower[asked][:, self.kept], queries.upper[asked][:, self.kept]
        if len(queries) != problem.queries or not (
            np.array_equal(own[0], problem.lower[asked]) and np.array_equal(own[1], problem.upper[asked])
        ):
            raise ProofError("no proof can be written: the checker reads other boxes from the specification")
        free = int((queries.form.upper[asked] > queries.form.lower[asked]).sum(1).max(initial=0))
        if free > MOST_FORMS and not neurons:
            raise ProofError(
                f"no proof can be written for {free} varying inputs and a network whose neurons are not split "
                f"(at most {MOST_FORMS} without)"
            )
        names = []
        self._small = network.multiply_adds <= MOST_PRODUCTS
        if neurons or self._small:  # exact leaves name slopes
            for i, first in network.relus.items():
                name = network.ops[i].node.output
                v = self.prover.network.tensors.get(name, -1)
                op = self.prover.network.nodes[v] if v > 0 else None
                size = math.prod(network.shapes[i + 1])
                if not isinstance(op, Relu) or op.leak or op.size != size:
                    if not neurons:
                        continue
                    raise ProofError(f"no proof can be written: the Relu '{name}' of the search is not one of the file")
                self.relus[i] = (v, first)
                names.append(name)
        self.tensors = [v for v, _ in self.relus.values()]
        if self._small and not neurons:  # the search may have merged neurons that a tie has to be decided by
            others = {v: name for name, v in self.prover.network.tensors.items() if v in self.prover.relus}
            others = {v: name for v, name in others.items() if v not in self.tensors}
            self.tensors, names = [*self.tensors, *others], [*names, *others.values()]
        self.header(tuple(names))

    def one_layer(self, problem: Problem, network: Network, stop: Callable[[], bool]) -> OneLayerProof:
        """Fits the proof to a search over the signs of the one hidden layer, and what that search tells it to."""
        self.begin(problem, network, stop, None, neurons=True)
        return OneLayerProof(self, problem)

    def rows(self) -> RowWriter:
        """What is told of intervals that tighten."""
        return RowWriter(self)

    def header(self, tensors: tuple[str, ...] = (), kind: str = fmt.TREE) -> None:
        """The beginning of a tree (or map); `tensors` are the ONNX names whose neurons may be split."""
        digests = self.prover.network.digest, self.prover.queries.digest
        header = fmt.Header(*digests, f"secateur {_version()}", kind, tensors)
        self._lines.write(encode_header(header))

    # what the search says

    def clauses(self, boxes: DomainBatch, parts: DomainBatch) -> DomainBatch:
        """`parts` are the clauses of `boxes`, one after the other."""
        events = [fmt.ClauseSplit(n) for n in boxes.node[:, 0].tolist()]
        parts = self._split(parts, events, torch.arange(len(parts)))
        self.commit()  # it belongs to no step
        return parts

    def inputs(self, boxes: DomainBatch, dimension: Tensor, at: Tensor, children: DomainBatch) -> DomainBatch:
        """Box b is cut at `at[b]`: the children are all lower halves, then all upper halves."""
        events = [
            fmt.InputSplit(n, int(self.kept[j]), x)
            for n, j, x in zip(boxes.node[:, 0].tolist(), dimension.tolist(), at.tolist(), strict=True)
        ]
        return self._split(children, events, _alternating(len(boxes)))

    def halves(self, node: int, coordinate: int, at: float) -> tuple[int, int]:
        """Cuts one node: the numbers of its lower and its upper half."""
        self.parts.take([node])
        return self.number(fmt.InputSplit(node, coordinate, at), 2), self._next - 1

    def decided(self, node: int, tensor: int, neuron: int) -> tuple[int, int]:
        """Decides a neuron of one node: the numbers of its sides <= 0 and >= 0."""
        self.parts.take([node])
        return self.number(fmt.NeuronSplit(node, tensor, neuron), 2), self._next - 1

    def taken_apart(self, query: int, clauses: int) -> int:
        """The number of the first of a query's clauses."""
        return self.number(fmt.ClauseSplit(query), clauses)

    def narrowed(self, node: int, claim: Claim, part: Part) -> int:
        """The number of the part that a node is narrowed to by a claim."""
        found = self.number(self._leaf(node, claim), 1)
        self.parts.take([node])
        self.parts.put({found: part})
        return found

    def number(self, event: fmt.Event, count: int) -> int:
        """The number of the first of `count` nodes that an event makes."""
        self._pending.append(encode(event))
        self.splits += 1
        self._next += count
        return self._next - count

    def neurons(self, boxes: DomainBatch, neuron: Tensor, children: DomainBatch) -> DomainBatch:
        """Neuron `neuron[b]` is decided: the children are all sides <= 0, then all sides >= 0."""
        events = []
        for n, k in zip(boxes.node[:, 0].tolist(), neuron.tolist(), strict=True):
            place, (_, first) = self.operator(k)
            events.append(fmt.NeuronSplit(n, place, k - first))
        return self._split(children, events, _alternating(len(boxes)))

    def operator(self, neuron: int) -> tuple[int, tuple[int, int]]:
        """Which tensor of the header a neuron of the search belongs to, and (value, first neuron)."""
        found = 0, (0, 0)
        for place, (v, first) in enumerate(self.relus.values()):
            if first <= neuron:
                found = place, (v, first)
        return found

    def _split(self, children: DomainBatch, events: Sequence[fmt.Split], order: Tensor) -> DomainBatch:
        """The children with their numbers: child i is number `order[i]` of those made here."""
        self._pending += [encode(e) for e in events]
        self.splits += len(events)
        for i, event in enumerate(events):
            part = self.parts.get(event.node)
            if part is not None:  # what it was narrowed to holds for both sides
                self.parts.take([event.node])
                self.parts.put({self._next + 2 * i: part, self._next + 2 * i + 1: part})
        children = replace(children, node=(order.to(children.node.device) + self._next)[:, None])
        self._next += len(children)
        return children

    def settle(self, batch: DomainBatch, settled: Tensor) -> tuple[Tensor, DomainBatch, Tensor, Tensor]:
        """Writes the leaves of a batch, and clips what is open where inputs are split: a mask (B,) of what is open, the
        clipped batch, how promising each input is for splitting it, and the neuron to split instead (-1: none)."""
        count, n = batch.lower.shape
        neurons = self._found is not None
        found, before = None, batch.upper - batch.lower
        if self._found is not None:
            found, narrowed, wider = self._found()  # of the whole batch, so once
            batch = self._narrow(batch, narrowed, wider)
        asked = settled.nonzero()[:, 0].tolist() if neurons or not self._rows else list(range(count))
        open_, neuron = torch.ones(count, dtype=torch.bool), torch.full((count,), -1)
        worst = torch.zeros(count, n, dtype=torch.float64)
        lower, upper, node = batch.lower.double().cpu().clone(), batch.upper.double().cpu().clone(), batch.node.cpu()
        hints = self._hints([self._claim(batch, b, found) for b in asked], settled[asked].tolist())
        first, node = dict(self.relus.values()), node.clone()
        for b, hint in zip(asked, hints, strict=True):
            if hint.holds:
                open_[b] = False
                self.leaf(int(node[b, 0]), hint.claim)
                continue
            if settled[b] and self._strict(hint.claim.part) and self.tie(batch.select(slice(b, b + 1)), {}):
                open_[b] = False  # the search's own bound met the limit
                continue
            worst[b] = torch.from_numpy(hint.worst[self.kept])
            if neurons and hint.neuron is not None and hint.neuron[0] in first:
                neuron[b] = first[hint.neuron[0]] + hint.neuron[1]
            if hint.clip is not None and not neurons:
                claim, left = hint.clip
                node[b, 0] = self.number(self._leaf(int(node[b, 0]), claim), 1)
                low, high = (torch.from_numpy(t[self.kept]) for t in self.prover.box(left))
                lower[b], upper[b] = torch.maximum(lower[b], low), torch.minimum(upper[b], high)
        lower, upper, node, open_, neuron = (t.to(batch.lower.device) for t in (lower, upper, node, open_, neuron))
        part = torch.where(before > 0, (upper - lower) / before.clamp(min=torch.finfo(torch.float64).tiny), 1.0).prod(1)
        clipped = replace(batch, lower=lower, upper=upper, share=batch.share * part, node=node)
        width = upper - lower
        scores = worst.to(width).abs() * width + width * torch.finfo(torch.float64).tiny
        return open_, clipped, scores, neuron

    def _narrow(self, batch: DomainBatch, clipped: Tensor, before: FoundWith) -> DomainBatch:
        """Narrows what the search `clipped` (C,) with the bounds from `before`, on the checker's own lines."""
        few = batch.select(clipped)
        claims = [replace(self._claim(few, b, before), kind="narrow") for b in range(len(few))]
        lower, upper, node = few.lower.clone(), few.upper.clone(), few.node.clone()
        for b, (claim, margin) in enumerate(zip(claims, self.prover.prove(claims), strict=True)):
            if margin.part is None or margin.part.ends is claim.part.ends:
                continue
            node[b, 0] = self.narrowed(int(node[b, 0]), claim, margin.part)
            low, high = (torch.from_numpy(t[self.kept]).to(lower) for t in self.prover.box(margin.part))
            lower[b], upper[b] = torch.maximum(lower[b], low), torch.minimum(upper[b], high)
        whole = (batch.lower, lower), (batch.upper, upper), (batch.node, node)
        moved = [all_.index_copy(0, clipped, new) for all_, new in whole]
        return replace(batch, lower=moved[0], upper=moved[1], node=moved[2])

    def _hints(self, claims: list[Claim], settled: list[bool]) -> list[Hint]:
        """Hints for the claims; where the cheap intervals are not enough, the next better ones are tried: for all
        where many of the settled boxes needed them the last time."""
        rows = self._rows and self._found is None
        if not rows and self._found is None:
            return suggest(self.prover, [replace(c, intervals=fmt.SYMBOLS) for c in claims], self._stop)
        hints = suggest(self.prover, claims, self._stop)
        again = [i for i, h in enumerate(hints) if not h.holds and claims[i].slopes]  # the default slopes may do
        for i, hint in zip(
            again,
            suggest(self.prover, [replace(claims[i], slopes=claims[i].part.slopes) for i in again], self._stop),
            strict=True,
        ):
            hints[i] = hint if hint.holds else hints[i]
        missed = [i for i, h in enumerate(hints) if settled[i] and not h.holds]
        if any(settled):
            self._needed = len(missed) / sum(settled)
        tried = [i for i, h in enumerate(hints) if not h.holds and not settled[i] and self._needed > OFTEN]
        tried = tried if self._clips else tried[:1]  # rows for what stays open are for clips alone
        open_ = sorted([*missed, *tried]) if rows else []
        better = suggest(self.prover, [replace(claims[i], intervals=fmt.ROWS) for i in open_], self._stop)
        for i, hint in zip(open_, better, strict=True):
            hints[i] = hint
        if rows and tried:
            self._clips = any(hints[i].clip is not None for i in tried)
        return hints

    def _claim(self, boxes: DomainBatch, b: int, last: FoundWith | None = None) -> Claim:
        """What may be claimed of box b, with what `last` says it was proven with."""
        query = int(boxes.query[b])
        whole = self.parts.get(int(boxes.node[b, 0]))
        whole = whole or Part(query, int(boxes.clause[b, 0]) if boxes.clause.shape[1] else -1)
        lower, upper = boxes.lower[b].double().cpu().numpy(), boxes.upper[b].double().cpu().numpy()
        ends = self.prover.box(whole)
        if (lower != ends[0][self.kept]).any() or (upper != ends[1][self.kept]).any():
            ends[0][self.kept], ends[1][self.kept] = lower, upper
            whole = self.prover.cut(whole, ends)
        part = replace(whole, signs=self.signs(boxes.signs[b].tolist()))
        if last is None:
            return Claim(part, (), slopes=part.slopes)
        found, used = last
        columns = [d for d, e in enumerate(boxes.signs[b].tolist()) if e]
        beta = tuple(short(np.maximum(0.0, found.beta[b, columns].double().cpu().numpy())).tolist())
        slopes = {
            self.relus[i][0]: np.rint(a[b].cpu().numpy() * LEVELS).astype(np.uint8).reshape(-1) for i, a in used.items()
        }
        weights = short(found.weight[b].cpu().numpy()).tolist()[: len(self.prover.clauses(part)[0])]
        picked = tuple((k, w) for k, w in enumerate(weights) if w > 0)
        return Claim(part, ((0, picked),) if picked else (), beta, slopes, fmt.ROOT)

    def signs(self, entries: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
        """Decided neurons as the checker names them."""
        found = []
        for k, side in ((abs(e) - 1, 1 if e > 0 else -1) for e in entries if e):
            _, (v, first) = self.operator(k)
            found.append((v, k - first, side))
        return tuple(found)

    def leaf(self, node: int, claim: Claim) -> None:
        """A node that is proven by the claim."""
        self.parts.take([node])
        self._pending.append(encode(self._leaf(node, claim)))
        self.leaves += 1

    def tie(self, box: DomainBatch, why: Why) -> bool:
        """Writes the leaves of one box, in which fractions refute the clauses of `why` (others: their rows one by one),
        if the checker agrees."""
        whole = self._claim(box, 0).part
        parts = [replace(whole, clause=c) for c in range(len(self.prover.clauses(whole)))]
        parts = [whole] if whole.clause >= 0 else parts
        found: list[Claim | _Decided] = []
        try:
            for part in parts:
                known = why.get(part.clause)
                asked = [Claim(part, (), slopes=part.slopes)] if len(parts) > 1 else []
                claims = [h.claim for h in suggest(self.prover, asked, self._stop) if h.holds]
                rows = len(self.prover.clauses(part)[0])
                tried = self._exact(part, known) if isinstance(known, Refutation) else self._by_row(part, rows)
                claims += [t for t in tried if not claims and self.prover.prove([t])[0].least > 0][:1]
                found.append(claims[0] if claims else self._pieces(part, self._piecewise(part)))
        except (Unreadable, _Unwritable):  # too large for fractions, say
            return False
        node = int(box.node[0, 0])
        first = self.number(fmt.ClauseSplit(node), len(found)) if len(found) > 1 else node
        for c, one in enumerate(found):
            self._decide(first + c, one)
        return True

    def _piecewise(self, part: Part) -> Pieces:
        """The clause of a part decided piece by piece, with the neurons of the file: those of the search may be fewer.

        Raises:
            _Unwritable: it is not refuted, or takes too many pieces.
            Unreadable: the network cannot be walked in fractions.
        """
        queries, network, _ = self.prover.queries, self.prover.network, self.prover.in_fractions()
        steps: list[ExactLinear | Fraction] = []
        for op in network.nodes[1:]:
            if isinstance(op, Relu):
                steps.append(Fraction(op.leak))
                continue
            assert isinstance(op, Linear)
            parts = [part for _, part, _ in op.argument.give(fractions(op.adjoint(np.eye(op.size))[0]))]
            entries = tuple([[(k, row[k]) for k in np.flatnonzero(row).tolist()] for row in part] for part in parts)
            offset = fractions(np.broadcast_to(op.offset, op.size)).tolist()
            steps.append(ExactLinear(entries, offset, [Fraction(0)] * op.size))
        rows = []
        for r in self.prover.clauses(part)[0]:
            own = fractions(queries.inputs[r]).tolist() or [Fraction(0)] * network.inputs
            sides = fractions(queries.outputs[r]).tolist(), own
            rows.append(((*sides, Fraction(queries.rhs[r])), bool(queries.form.row_strict[r])))
        box = list(zip(*(fractions(t) for t in self.prover.box(part)), strict=True))
        sources = [op.argument.sources for op in network.nodes if op is not None]
        given = {(v - 1, neuron): side for v, neuron, side in part.signs}
        found = decide(PieceQuestion(steps, sources, network.output, box, rows, given))
        if found is None or isinstance(found, list):
            raise _Unwritable
        return found

    def _pieces(self, part: Part, why: Pieces) -> Claim | _Decided:
        """What refutes a clause piece by piece, as the checker proves it: on pieces that are `why` these, with
        multipliers for what it makes of the rows there.

        Raises:
            _Unwritable: it does not, or its multipliers are no float64 numbers.
        """
        if isinstance(why, PieceSplit):
            v, neuron = why.neuron[0] + 1, why.neuron[1]
            if v not in self.tensors:
                raise _Unwritable
            below, above = (
                self._pieces(replace(part, signs=(*part.signs, (v, neuron, side))), piece)
                for side, piece in ((-1, why.below), (1, why.above))
            )
            return _Decided(self.tensors.index(v), neuron, below, above)
        weights = self._multipliers(part)
        whole = math.lcm(*(w.denominator for w in weights))  # they may be scaled together
        if any(w * whole != Fraction(float(w * whole)) for w in weights):
            raise _Unwritable
        scaled, count = [float(w * whole) for w in weights], len(weights) - len(part.signs)
        picked = tuple((k, w) for k, w in enumerate(scaled[:count]) if w) or ((0, 0.0),)
        beta = tuple(scaled[count:]) if any(scaled[count:]) else ()
        claim = Claim(part, ((0, picked),), beta, part.slopes, kind="exact")
        if not self.prover.prove([claim])[0].least > 0:
            raise _Unwritable
        return claim

    def _multipliers(self, part: Part) -> list[Fraction]:
        """Of the rows of a part's only clause and its decided neurons, so that their combination, as the checker bounds
        it, refutes the clause.

        Raises:
            _Unwritable: there are none.
        """
        exact, plain = self.prover.in_fractions(), Claim(part, (), slopes=part.slopes, kind="exact")
        swept, (clause,) = exact.prepare([plain], self.prover.prepare([plain])), self.prover.clauses(part)
        box = swept.low[0][0], swept.high[0][0]

        def forms(swept: Enclosures, rows: np.ndarray, start: int) -> list[list[Fraction]]:
            """Linear functions of the inputs below rows: coefficients, and last the constant."""
            found = bound_rows(swept, np.zeros(len(rows), np.int64), fractions(rows).__getitem__, start, linear=True)
            least = np.minimum(found.coefficients * box[0], found.coefficients * box[1]).sum(1)
            return [[*row, c] for row, c in zip(found.coefficients.tolist(), (found.low - least).tolist(), strict=True)]

        if swept.empty[0]:
            return [Fraction(0)] * (len(clause) + len(part.signs))
        network, queries = self.prover.network, self.prover.queries
        asked = swept.then(exact.asked(np.array(clause)))
        own = forms(asked, np.eye(len(clause)), asked.network.output)
        constraints = [(form, bool(queries.form.row_strict[r])) for form, r in zip(own, clause, strict=True)]
        for v, neuron, side in part.signs:
            unit = -side * (np.arange(self.prover.relus[v].size) == neuron)[None].astype(np.float64)
            constraints.append((forms(swept, unit, network.argument(v))[0], False))
        _, weights = exclude(constraints, list(zip(*(t.tolist() for t in box), strict=True)))
        if weights is None:
            raise _Unwritable
        return weights

    def _decide(self, node: int, found: Claim | _Decided) -> None:
        if isinstance(found, Claim):
            self.leaf(node, found)
            return
        first = self.number(fmt.NeuronSplit(node, found.tensor, found.neuron), 2)
        self._decide(first, found.below)
        self._decide(first + 1, found.above)

    def _strict(self, part: Part) -> bool:
        """Whether every clause has a strict row, and the network is one that fractions can be for."""
        strict = self.prover.queries.form.row_strict
        return self._small and not part.signs and all(any(strict[r] for r in c) for c in self.prover.clauses(part))

    def _exact(self, part: Part, why: Refutation) -> list[Claim]:
        known = ((v, why.slopes[i]) for i, (v, _) in self.relus.items() if i in why.slopes)
        slopes = {v: np.array([LEVELS * (s == 1) for s in own], np.uint8) for v, own in known}
        slopes = {v: slopes.get(v, np.zeros(self.prover.relus[v].size, np.uint8)) for v in self.tensors}
        return [Claim(part, ((0, tuple((k, 1.0) for k in why.rows)),), slopes=slopes, kind="exact")]

    def _by_row(self, part: Part, rows: int) -> list[Claim]:
        """Each row by itself, with slopes of 0 or as they are best for one neuron."""
        zero = {v: np.zeros(self.prover.relus[v].size, np.uint8) for v in self.tensors}
        return [
            Claim(part, ((0, ((k, 1.0),)),), slopes=slopes, kind="exact")
            for slopes in (zero, part.slopes)
            for k in range(rows)
        ]

    def _leaf(self, node: int, claim: Claim) -> fmt.Leaf:
        tables: tuple[np.ndarray, ...] = ()
        if claim.slopes and claim.slopes is not claim.part.slopes:
            none = {v: np.zeros(self.prover.relus[v].size, np.uint8) for v in self.tensors}
            tables = tuple({**none, **claim.slopes}[v] for v in self.tensors)
            if claim.intervals == fmt.ROOT:  # of other neurons the checker takes no slope, and zeros are short
                open_ = self._open(claim.part.query)
                tables = tuple(np.where(open_[v], t, 0) for v, t in zip(self.tensors, tables, strict=True))
        return fmt.Leaf(node, claim.rows, claim.beta, tables, claim.intervals, claim.kind, claim.least)

    def _open(self, query: int) -> dict[int, np.ndarray]:
        """Which neurons of each Relu may have either sign on a query's box, as the checker sees it."""
        if query not in self._opens:
            whole = self.prover.root(query)
            ends = {v: self.prover.relus[v].source for v in self.tensors}
            self._opens[query] = {v: (whole.low[s][0] < 0) & (whole.high[s][0] > 0) for v, s in ends.items()}
        return self._opens[query]

    # how it ends

    def commit(self) -> None:
        """The step has happened.

        Raises:
            OutputError: the disk is full, say.
        """
        try:
            self._lines.writelines(self._pending)
        except OSError as error:
            self.discard()
            raise OutputError(f"{self.path}: cannot write the proof: {error.strerror}") from None
        self._pending.clear()
        self.parts.commit()
        self._state = self.leaves, self.splits, self._next

    def rollback(self) -> None:
        """The step has not happened: its boxes will be looked at again."""
        self._pending.clear()
        self.parts.rollback()
        self.leaves, self.splits, self._next = self._state

    def finish(self) -> None:
        """The proof of an `unsat` is complete."""
        self._pending.append(encode(fmt.End(self.splits, self.leaves)))
        self._keep()

    def _keep(self) -> None:
        self.commit()
        try:
            self._lines.close()
        except OSError as error:
            self.discard()
            raise OutputError(f"{self.path}: cannot write the proof: {error.strerror}") from None
        self._file.keep()

    def witness(self, x: np.ndarray) -> str:
        """The proof of a `sat` is its witness, or the point of the exact box that is nearest to it (a float32 number
        next to a bound may lie outside of it). Says why where the checker would not accept that: no file then."""
        network, queries = self.prover.network, self.prover.queries
        form, why = queries.form, ""
        inside = np.clip(x, form.lower, form.upper)
        nearest = inside[int(np.abs(inside - x).max(1).argmin())]
        for point in (x, nearest):
            try:
                check_witness(network, queries, point)
            except Rejected as error:
                why = why or str(error)
            else:
                break
        else:
            self.discard()
            return why
        header = fmt.Header(network.digest, queries.digest, f"secateur {_version()}", fmt.WITNESS, ())
        self._lines.close()
        self._file.stream.seek(0)
        self._file.stream.truncate()
        self._lines = begin(self._file.stream)
        self._pending = [encode_header(header), encode_witness(point)]
        self._keep()
        return ""

    def discard(self) -> None:
        """Leaves nothing behind."""
        with suppress(OSError):  # what it cannot write is not wanted
            self._lines.close()
        self._file.discard()


def _alternating(count: int) -> Tensor:
    """Numbers of 2 B children that stand as B first ones, then B second ones: 0, 2, 4, .., 1, 3, 5, .."""
    first = torch.arange(count) * 2
    return torch.cat([first, first + 1])


def _version() -> str:
    try:
        return version("secateur")
    except PackageNotFoundError:
        return "(source tree)"
