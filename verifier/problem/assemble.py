"""Model + normal form -> `Problem`: fits them to each other, fixes what does not vary, appends the rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

import vnnlib
from verifier.errors import ProblemError
from verifier.graph.ir import Graph
from verifier.graph.onnx_import import Model
from verifier.passes.append_products import append_products
from verifier.passes.flatten_io import flatten_io
from verifier.passes.fold_fixed_inputs import fold_fixed_inputs
from verifier.passes.prune_outputs import prune_outputs
from verifier.passes.simplify import simplify
from verifier.problem.feed import Feed
from verifier.problem.final import through_argmax, through_softmax
from verifier.problem.problem import Asked, Condition, Problem, append_rows, free_inputs, stack_rows, varying
from verifier.problem.tied_inputs import meet, read_first, tie, tied_inputs


def check_fit(model: Model, spec: vnnlib.NormalForm) -> None:
    """Raises:
    ProblemError: the specification speaks of other inputs or outputs than the model has, or of several networks.
    """
    networks = list(dict.fromkeys(t.network for t in spec.input_tensors))
    given = [name for name, _ in model.parts]
    if len(networks) > 1 and networks != given:
        raise ProblemError(
            f"the specification speaks of {len(networks)} networks ({', '.join(networks)}), but"
            f" {len(given) or 1} {'were' if len(given) > 1 else 'was'} given; expected a pair (name, file) for each"
        )
    inputs, outputs = (
        [vnnlib.Layout(one.name, one.shape, one.dtype) for one in infos]
        for infos in (model.input_infos, model.output_infos)
    )
    if why := spec.misfit(inputs, outputs):
        raise ProblemError(f"{why}; is this the right pair of files?")
    if spec.unbounded:
        names = ", ".join(f"X_{i}" for i in spec.unbounded[:5])
        raise ProblemError(
            f"{len(spec.unbounded)} inputs have no finite lower and upper bound ({names}"
            f"{', ..' if len(spec.unbounded) > 5 else ''}); add bounds to the specification"
        )


def empty_set(model: Model, spec: vnnlib.NormalForm) -> str:
    """Why no box of the specification holds a point that the network can be fed; "" where one does."""
    low, high = Feed.of(model.input_infos).real(spec.lower, spec.upper)
    first = tied_inputs(spec, model.input_infos)
    if first is not None:
        low, high = meet(low, high, first)
    crossed = low > high
    if not crossed.any(1).all():
        return ""
    if not len(low):
        return "the input set is empty"
    i = int(crossed[0].argmax())
    given = f"[{spec.lower[0, i]:g}, {spec.upper[0, i]:g}]"
    if low[0, i] == spec.lower[0, i] and high[0, i] == spec.upper[0, i]:
        return f"the input set is empty: input X_{i} is bounded by {given}"
    if first is not None and (first == i).sum() > 1:
        return f"the input set is empty: inputs that X_{i} equals leave it [{low[0, i]:g}, {high[0, i]:g}]"
    return f"the input set is empty: input X_{i} takes whole numbers, and none lies in {given}"


def assemble(model: Model, spec: vnnlib.NormalForm, splines: bool = True) -> Problem:
    """The problem over the inputs that vary. Some case of `spec` has points (see `empty_set`).

    The boxes hold each bound and its nearest number of the input's type, see `Feed`. A case without points asks
    nothing: it keeps its place, with a point for a box and no clause. Of inputs that are equal one is left. `splines`:
    see `simplify`.

    Raises:
        ProblemError: see `check_fit`; or the rows cannot be asked of this network.
    """
    check_fit(model, spec)
    feed = Feed.of(model.input_infos)
    lower, upper = feed.hull(spec.lower, spec.upper)
    real_lower, real_upper = feed.real(spec.lower, spec.upper)
    conditions, clauses_of = _conditions(spec), _clauses(spec)
    first = tied_inputs(spec, model.input_infos)
    if first is not None:
        lower, upper = meet(lower, upper, first)
        real_lower, real_upper = meet(real_lower, real_upper, first)
        conditions, clauses_of = tie(conditions, clauses_of, first)
    empty = np.asarray((lower > upper).any(1))
    for box in (lower, upper, real_lower, real_upper):
        box[empty] = lower[int(empty.argmin())]
    kept = varying(lower, upper)
    base = lower[0].copy()
    position = {int(i): j for j, i in enumerate(kept)}

    clauses_of = [[] if nothing else clauses for clauses, nothing in zip(clauses_of, empty, strict=True)]
    imported, conditions, clauses_of = _without_final(model, spec, conditions, clauses_of)
    graph, conditions, outputs = _only_outputs_read(flatten_io(imported), conditions)
    matrix, rows = stack_rows(conditions, clauses_of, graph.n_outputs, position.get, base, len(kept))
    graph = append_rows(graph, matrix)
    if first is not None:
        graph = read_first(graph, first)
    if not graph.opaque:
        if len(kept) < len(base):
            graph = fold_fixed_inputs(graph, kept, base)
        graph = simplify(graph, splines)
    free = free_inputs(real_lower[:, kept], real_upper[:, kept])
    asked = Asked(imported, outputs, matrix)
    return Problem(graph, lower[:, kept], upper[:, kept], rows, free, base, kept, asked, first=first)


def _only_outputs_read(graph: Graph, conditions: list[Condition]) -> tuple[Graph, list[Condition], np.ndarray]:
    """The network without the outputs that no row speaks of, and what only they need; the rows renumbered; the outputs
    that are left.
    """
    used = sorted({j for condition in conditions for j, _ in condition.y})
    if graph.opaque or not used:
        return graph, conditions, np.arange(graph.n_outputs)
    place = {j: k for k, j in enumerate(used)}
    renumbered = [replace(c, y=tuple((place[j], v) for j, v in c.y)) for c in conditions]
    return prune_outputs(graph, np.array(used)), renumbered, np.array(used)


def _conditions(spec: vnnlib.NormalForm) -> list[Condition]:
    n = spec.n_inputs
    result = []
    for r in range(spec.n_rows):
        columns, values, rhs, strict = spec.row(r)
        pairs = [(int(c), float(v)) for c, v in zip(columns, values, strict=True)]
        result.append(
            Condition(tuple((c - n, v) for c, v in pairs if c >= n), tuple(p for p in pairs if p[0] < n), rhs, strict)
        )
    return result


def _clauses(spec: vnnlib.NormalForm) -> list[list[list[int]]]:
    """Row numbers per query and clause; rows over inputs only hold in every clause of their case."""
    result = []
    for q in range(spec.n_cases):
        shared = spec.case_in_rows[spec.case_in_ptr[q] : spec.case_in_ptr[q + 1]].tolist()
        result.append([spec.clause(k).tolist() + shared for k in range(spec.case_ptr[q], spec.case_ptr[q + 1])])
    return result


def _without_final(
    model: Model, spec: vnnlib.NormalForm, conditions: list[Condition], clauses_of: list[list[list[int]]]
) -> tuple[Graph, list[Condition], list[list[list[int]]]]:
    if spec.products:
        return append_products(flatten_io(model.graph), spec.products), conditions, clauses_of
    final = model.final
    if final is not None and model.graph_logits is not None:
        if final.kind == "softmax" and through_softmax(conditions, final):
            return model.graph_logits, conditions, clauses_of
        if final.kind == "argmax":
            return model.graph_logits, *through_argmax(conditions, clauses_of, final)
    return model.graph, conditions, clauses_of
