"""Many problems with few parameters over one shared network, as arrays: what verdict and coverage searches run on.

A member q of a family is a box of parameters p (d,), a map from p to the network's input (see `ImageMaps`), and a
violation over the shared output z (see `conditions`). Members come from problems (the images of one network, nothing is
written to disk) or from one ordinary pair of files (one member per input box).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

import vnnlib
from verifier.attack.replay import Replay
from verifier.bounds.zonotope import MAX_INPUTS, Twin, sweep_zonotope
from verifier.brief import brief
from verifier.errors import ProblemError
from verifier.graph.ir import Graph
from verifier.graph.onnx_import import Model, load_model
from verifier.passes.flatten_io import flatten_io
from verifier.passes.simplify import simplify
from verifier.perturbation.enclosure import ImageMaps
from verifier.problem.assemble import assemble
from verifier.problem.feed import Feed
from verifier.problem.problem import Condition, Rows, append_rows, stack_rows
from verifier.problem.rows import RowTable
from verifier.problem.runtime import Session, compare
from verifier.result import Witness
from verifier.semantic import notes
from verifier.semantic.batch import Query, batch
from verifier.semantic.conditions import CellBounds, Conditions, LinearRows, around
from verifier.semantic.map_conditions import BudgetConditions, WindowConditions
from verifier.semantic.maps import MapBudget, Windows
from verifier.semantic.problem import SemanticProblem


@dataclass(frozen=True, eq=False)
class Family:
    """`image`: the input x (Q, n) as a function of p; `lower`, `upper` (Q, d); all float64 on one device.

    The boxes are the hull of the stated bounds and their nearest float32 numbers, as for files. `names` and `identity`
    (d,) describe the parameters where they are known. `slack` (Q, n): how far x may lie beside that map (inputs of a
    file that are fixed, up to rounding), None where nowhere. `claims`: what is asked of every member,
    in words, where that is known.
    """

    __repr__ = brief

    twin: Twin
    image: ImageMaps
    lower: Tensor
    upper: Tensor
    conditions: Conditions
    judges: tuple[Judge, ...]
    names: tuple[str, ...]
    identity: np.ndarray | None
    titles: tuple[str, ...]
    slack: Tensor | None = None
    claims: tuple[str, ...] = ()

    @property
    def members(self) -> int:
        """Q."""
        return len(self.lower)

    @property
    def inputs(self) -> int:
        """Number of parameters d."""
        return int(self.lower.shape[1])

    @property
    def device(self) -> torch.device:
        """Where the tensors live."""
        return self.lower.device

    def margins(self, p: Tensor, query: Tensor, exact: bool = False) -> Tensor:
        """Least margin (M,) at points, in the network's own arithmetic: <= 0 where the property is violated."""
        return self.span(p, query, 0.0, exact)[0]

    def span(self, p: Tensor, query: Tensor, leeway: float, exact: bool = False) -> tuple[Tensor, Tensor]:
        """Least and largest margin (M,) at points if every output may be off by `leeway`."""
        network = self.twin.exact if exact else self.twin.fast
        z = network.forward(self.image.points(p, query).to(network.dtype)).double()
        return self.conditions.span(z, query, leeway)


@dataclass(frozen=True, eq=False)
class Judge:
    """ONNX Runtime on the member's own file: the last word on its counterexamples. Built when first asked.

    `rest`: the inputs of a file of which only the `columns` vary; `parameters`: these inputs of the network's.
    """

    make: Callable[[], Replay]
    case: int = 0
    rest: np.ndarray | None = None
    columns: np.ndarray | None = None
    parameters: Callable[[np.ndarray], np.ndarray] = np.asarray

    @cached_property
    def replay(self) -> Replay:
        """Built when first asked."""
        return self.make()

    def __call__(self, points: np.ndarray) -> Witness | None:
        """The first of the points (M, d) that violates the member's own specification in its own file."""
        return self.replay(*self._asked(points))

    def fed(self, points: np.ndarray) -> np.ndarray:
        """The points (M, d) as the network is fed them: numbers of its inputs' types."""
        x = self.replay.snap(*self._asked(points))
        return x if self.columns is None else self.parameters(x)[:, self.columns]

    def _asked(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        full = points
        if self.rest is not None:
            full = np.repeat(self.rest[None], len(points), axis=0)
            full[:, self.columns] = points
        return full, np.full(len(points), self.case, np.int64)


def _own(problem: SemanticProblem) -> Replay:
    """The problem's own network and specification; of heatmaps, the property itself, which needs no rows."""
    model, maps = load_model(problem.model().SerializeToString()), problem.compiled.maps
    if maps is None:
        return Replay.of(model, vnnlib.normalise(vnnlib.loads(problem.spec())), np.asarray, Session(model))
    box, feed = problem.perturbation.box.T[:, None], Feed.of(model.input_infos)
    return Replay(feed, (box[0], box[1]), lambda _, value: bool(maps.violated(value)), np.asarray, Session(model))


def from_problems(problems: Sequence[SemanticProblem], device: torch.device, seed: int = 0) -> Family:
    """The problems as one family; the shared network is compared with ONNX Runtime on random images of theirs.

    Raises:
        ProblemError: the problems do not share a network, a kind of property, or the number of parameters.
        UnsoundError: the imported network and ONNX Runtime disagree.
    """
    shared, queries = batch(problems)
    names = queries[0].problem.perturbation.names
    for number, query in enumerate(queries):
        if query.problem.perturbation.names != names:
            raise ProblemError(f"problem {number} has other parameters than problem 0; a family shares them")
    _check_inputs(len(names))
    model = load_model(shared.SerializeToString())
    _compare(model, queries, seed)
    graph, conditions = _conditions(flatten_io(model.graph), queries, device)
    box = np.stack([q.box for q in queries])
    low, high = Feed.of(model.input_infos).hull(box[:, :, 0], box[:, :, 1])
    return Family(
        Twin.of(simplify(graph), device),
        ImageMaps.of([q.image for q in queries], device),
        _tensor(low, device),
        _tensor(high, device),
        conditions,
        tuple(Judge(partial(_own, q.problem)) for q in queries),
        names,
        queries[0].problem.perturbation.identity,
        tuple(f"image {i}" for i in range(len(queries))),
        claims=tuple(q.problem.claim for q in queries),
    )


def from_files(
    model: Model,
    form: vnnlib.NormalForm,
    device: torch.device,
    seed: int = 0,
    most: int = MAX_INPUTS,
    header: Sequence[str] = (),
) -> Family:
    """A pair of files as a family: one member per different input box; cases with the same box are joined by OR.

    `header`: comment lines of the specification; what `secateur spec` wrote there gives inputs their names.
    Inputs that the specification fixes do not vary; the width that rounding to float32 gives them is `slack`.

    Raises:
        ProblemError: model and specification do not fit, or rows speak about inputs, or more than `most` inputs vary.
        UnsoundError: the imported network and ONNX Runtime disagree.
    """
    if form.n_cases == 0:
        raise ProblemError("the input set of the specification is empty: there is nothing to cover")
    _check_inputs(max(1, int((form.upper > form.lower).any(0).sum())), most)
    problem = assemble(model, form)
    if problem.graph.opaque:
        raise ProblemError(f"node '{problem.graph.opaque[0].source}' has no bound rule, so nothing can be certified")
    if problem.rows.mixed is not None:
        raise ProblemError(
            "the specification mixes inputs and outputs in one row; coverage needs rows over outputs only"
        )
    session = Session(model)
    replay = Replay.of(model, form, problem.full, session)
    rng = np.random.default_rng(seed)
    p = problem.lower[0] + (problem.upper[0] - problem.lower[0]) * rng.random((3, problem.lower.shape[1]))
    compare(model, model.graph, replay.snap(p, np.zeros(3, np.int64)))
    first, rows = _join_cases(problem.lower, problem.upper, problem.rows)
    lower, upper = problem.lower[first], problem.upper[first]
    columns = np.unique(problem.free[problem.free >= 0])
    columns = columns if len(columns) else np.zeros(1, np.int64)
    offset = lower + (upper - lower) / 2  # rounded, so that one end may be farther away than half of the width
    slack = np.where(upper > lower, np.nextafter(np.maximum(upper - offset, offset - lower), np.inf), 0.0)
    offset[:, columns] = slack[:, columns] = 0.0
    said, inputs = notes.of_files(model, header), [int(i) for i in problem.kept[columns]]
    identity = said.identity(inputs)
    matrix = np.zeros((len(columns), lower.shape[1]))
    matrix[np.arange(len(columns)), columns] = 1.0
    return Family(
        Twin.of(problem.graph, device),
        ImageMaps(
            _tensor(offset, device),
            _tensor(np.repeat(matrix[None], len(first), 0), device),
            tuple((i,) for i in range(len(columns))),
        ),
        _tensor(lower[:, columns], device),
        _tensor(upper[:, columns], device),
        LinearRows(RowTable.from_rows(rows, torch.float64, device)),
        tuple(
            Judge(lambda: replay, int(i), row, columns, problem.parameters)
            for i, row in zip(first, offset, strict=True)
        ),
        tuple(said.name(i) for i in inputs),
        None if identity is None else np.array(identity),
        tuple(f"box {i}" for i in range(len(first))),
        _tensor(slack, device) if slack.any() else None,
        (said.claim,) * len(first),
    )


def _check_inputs(d: int, most: int = MAX_INPUTS) -> None:
    if d > most:
        raise ProblemError(
            f"{d} inputs vary, coverage is made for at most {most}; fix the others, or ask for a verdict"
        )


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64)).to(device)


def _compare(model: Model, queries: Sequence[Query], seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = []
    for i in rng.integers(len(queries), size=3):
        query = queries[i]
        p = query.box[:, 0] + (query.box[:, 1] - query.box[:, 0]) * rng.random(len(query.box))
        points.append(query.image(p))
    compare(model, model.graph, np.stack(points))


def _conditions(graph: Graph, queries: Sequence[Query], device: torch.device) -> tuple[Graph, Conditions]:
    """The network whose outputs the violations speak about, and the violations."""
    maps = [query.problem.compiled.maps for query in queries]
    windows = [m for m in maps if isinstance(m, Windows)]
    budgets = [m for m in maps if isinstance(m, MapBudget)]
    if len(windows) == len(maps):
        return graph, WindowConditions.of(windows, device)
    if len(budgets) == len(maps):
        return graph, BudgetConditions.of(budgets, device)
    if windows or budgets:
        raise ProblemError("the problems ask different kinds of questions about heatmaps; a family shares one")
    matrix, rows = _stack(queries, graph.n_outputs)
    return append_rows(graph, matrix), LinearRows(RowTable.from_rows(rows, torch.float64, device))


def _stack(queries: Sequence[Query], n_outputs: int) -> tuple[np.ndarray, Rows]:
    """Different coefficient rows once, right-hand sides per member."""
    conditions: list[Condition] = []
    clauses_of: list[list[list[int]]] = []
    for query in queries:
        rows = query.rows
        entries: list[list[tuple[int, float]]] = [[] for _ in range(rows.count)]
        for r, c, v in zip(rows.entry_row.tolist(), rows.entry_column.tolist(), rows.entry_value.tolist(), strict=True):
            entries[r].append((c, v))
        clauses: list[list[int]] = [[] for _ in range(rows.clauses)]
        for r, c in enumerate(rows.clause.tolist()):
            clauses[c].append(len(conditions))
            conditions.append(Condition(tuple(sorted(entries[r])), (), float(rows.rhs[r]), False))
        clauses_of.append(clauses)
    return stack_rows(conditions, clauses_of, n_outputs, lambda _: None, np.zeros(0), 0)


def _join_cases(lower: np.ndarray, upper: np.ndarray, rows: Rows) -> tuple[np.ndarray, Rows]:
    """First case of every different box, and the rows of all cases with that box, their clauses one after the other."""
    boxes, first, member = np.unique(np.hstack([lower, upper]), axis=0, return_index=True, return_inverse=True)
    parts = [np.flatnonzero(member.reshape(-1) == q) for q in range(len(boxes))]
    counts = np.array([rows.clauses[cases].sum() for cases in parts], np.int64)
    width = max(len(cases) for cases in parts) * rows.row.shape[1]
    row, rhs = np.zeros((len(parts), width), np.int64), np.full((len(parts), width), np.inf)
    clause, strict = np.repeat(counts[:, None], width, 1), np.zeros((len(parts), width), bool)
    for q, cases in enumerate(parts):
        k, before = 0, 0
        for case in cases:
            real = rows.clause[case] < rows.clauses[case]
            end = k + int(real.sum())
            row[q, k:end], rhs[q, k:end] = rows.row[case][real], rows.rhs[case][real]
            clause[q, k:end], strict[q, k:end] = rows.clause[case][real] + before, rows.strict[case][real]
            k, before = end, before + int(rows.clauses[case])
    return first, Rows(row, rhs, clause, strict, counts, None)


def bound_cells(family: Family, lower: Tensor, upper: Tensor, query: Tensor) -> CellBounds:
    """Bounds of all rows on parameter boxes (B, d), float64, of members (B,); nothing here has to be rechecked."""
    centre, radius = around(lower, upper)
    first, moves = family.image.zonotope(centre, radius, query, family.twin.fast.dtype)
    if family.slack is not None:
        first = first.widened(family.slack[query])
    return family.conditions.bound(*sweep_zonotope(family.twin, first, moves), query)
