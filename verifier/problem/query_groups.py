"""Many queries that fix most inputs, each to numbers of its own: problems over what varies, one for each set of free
inputs, in which everything that the other inputs decide is a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from verifier.graph.enclose import Enclosure, between, enclose
from verifier.graph.ir import Graph
from verifier.passes.fuse_affine import multiply_adds
from verifier.passes.partial_evaluation import CutNetwork, partially_evaluated
from verifier.passes.simplify import simplify
from verifier.problem.problem import FixedValues, Problem, columns

MANY = 32
"""Queries from which on it may pay. So many with the same free inputs are a group; all that are left are one more."""

PAYS = 0.5
"""Of the multiply-adds of all queries, at most this share is to be left."""

_CHUNK = 4_000_000  # elements of all values of a graph that are computed at a time


@dataclass(frozen=True, eq=False)
class QueryGroup:
    """Some of a problem's queries, in a problem of their own."""

    problem: Problem
    queries: np.ndarray


def by_free_inputs(problem: Problem, stop: Callable[[], bool]) -> list[QueryGroup]:
    """The queries by the inputs that they let vary, in problems without what the fixed ones decide; none where that
    does not pay, a fixed value is not known to a finite error, or `stop()` says so. Every query is in one of them."""
    if problem.queries < MANY or problem.rows.mixed is not None or problem.graph.opaque:
        return []
    moves = np.zeros(problem.lower.shape, bool)
    q, k = (problem.free >= 0).nonzero()
    moves[q, problem.free[q, k]] = True
    alike, cuts, work = _alike(moves), [], 0
    for queries in alike:
        free = np.flatnonzero(moves[queries].any(0))
        cuts.append(partially_evaluated(problem.graph, free if len(free) else np.zeros(1, np.int64)))
        work += multiply_adds(cuts[-1].rest) * len(queries)
        if work > PAYS * multiply_adds(problem.graph) * problem.queries:
            return []
    groups = []
    for queries, cut in zip(alike, cuts, strict=True):
        group = _group(problem, queries, cut, moves[queries], stop)
        if group is None:
            return []
        groups.append(group)
    return groups


def _alike(moves: np.ndarray) -> list[np.ndarray]:
    """Queries with the same free inputs, (Q, n) in all; the few with others together."""
    _, kind, counts = np.unique(moves, axis=0, return_inverse=True, return_counts=True)
    kind = kind.reshape(-1)
    own = [np.flatnonzero(kind == i) for i in np.argsort(-counts, kind="stable") if counts[i] >= MANY]
    rest = np.flatnonzero(counts[kind] < MANY)
    return [*own, rest] if len(rest) else own


def _group(
    problem: Problem, queries: np.ndarray, cut: CutNetwork, moves: np.ndarray, stop: Callable[[], bool]
) -> QueryGroup | None:
    lower, upper = problem.lower[queries], problem.upper[queries]
    known = _enclosed(cut.fixed, lower, np.where(moves, lower, upper), stop)
    if known is None:
        return None
    constant = {name: x.value[0] for name, x in known.items() if _one_number(x)}
    graph = simplify(cut.joined(constant))
    names = tuple(name for name in cut.fixed.outputs if name not in constant)
    low, high = [lower[:, cut.free]], [upper[:, cut.free]]
    for name in names:
        value, error = (part.reshape(len(queries), -1) for part in known[name])
        low.append(np.where(error > 0, np.nextafter(value - error, -np.inf), value))
        high.append(np.where(error > 0, np.nextafter(value + error, np.inf), value))
    computed = FixedValues(replace(cut.fixed, outputs=names), problem.kept) if names else None
    return QueryGroup(
        Problem(
            graph,
            np.concatenate(low, axis=1),
            np.concatenate(high, axis=1),
            problem.rows.of(queries),
            columns(moves[:, cut.free]),
            problem.base,
            problem.kept[cut.free],
            problem.asked,
            computed,
            problem.first,
        ),
        queries,
    )


def _enclosed(
    fixed: Graph, lower: np.ndarray, upper: np.ndarray, stop: Callable[[], bool]
) -> dict[str, Enclosure] | None:
    """The fixed values of queries (Q, n); None where one is not known, or time is up. No free coordinate reaches them,
    and any number stands for it."""
    (x,) = fixed.inputs
    step = max(1, _CHUNK // sum(fixed.size(name) for name in fixed.shapes))
    found: dict[str, list[Enclosure]] = {name: [] for name in fixed.outputs}
    for start in range(0, len(lower), step):
        part = slice(start, start + step)
        known = enclose(fixed, {x: between(lower[part], upper[part])})
        if stop() or not found.keys() <= known.keys():
            return None
        for name, parts in found.items():
            parts.append(known[name])
    return {name: Enclosure(*map(np.concatenate, zip(*parts, strict=True))) for name, parts in found.items()}


def _one_number(x: Enclosure) -> bool:
    """Whether a value is exact, and the same in all queries."""
    return not x.error.any() and bool((x.value == x.value[:1]).all())
