"""Inputs that a specification sets equal, as those of two networks asked about one point: one input instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

import vnnlib
from verifier.errors import ProblemError
from verifier.graph.ir import Graph, Node, unused
from verifier.graph.onnx_import import TensorInfo
from verifier.passes.flatten_io import X
from verifier.problem.problem import Condition


def tied_inputs(spec: vnnlib.NormalForm, infos: Sequence[TensorInfo]) -> np.ndarray | None:
    """For each input (n,) the first one that it equals in every case, most often itself; None where all are different.

    Equal are x_i and x_j of one type where x_i <= x_j and x_j <= x_i are rows of every case: then the network is only
    ever fed one number for both.
    """
    if not len(spec.case_in_rows) or not spec.n_cases:
        return None
    types = np.repeat([info.dtype.num for info in infos], [info.size for info in infos])
    parts = np.split(spec.case_in_rows, spec.case_in_ptr[1:-1])
    at_most: set[tuple[int, int]] = set()
    for r in set.intersection(*(set(part.tolist()) for part in parts)):
        columns, values, rhs, strict = spec.row(r)
        if len(columns) == 2 and rhs == 0 and not strict and values[0] == -values[1]:
            i, j = (int(c) for c in columns)
            at_most.add((i, j) if values[0] > 0 else (j, i))
    first = np.arange(spec.n_inputs)
    for i, j in at_most:
        if (j, i) in at_most and types[i] == types[j]:
            first[first == max(first[i], first[j])] = min(first[i], first[j])
    return None if (first == np.arange(len(first))).all() else first


def tie(
    conditions: Sequence[Condition], clauses_of: list[list[list[int]]], first: np.ndarray
) -> tuple[list[Condition], list[list[list[int]]]]:
    """The conditions over the inputs that stand for others, and the clauses without those that always hold.

    Raises:
        ProblemError: a sum of coefficients is no float64 number.
    """
    result = []
    for condition in conditions:
        sums: dict[int, Fraction] = {}
        for i, value in condition.x:
            place = int(first[i])
            sums[place] = sums.get(place, Fraction(0)) + Fraction(value)
        x = tuple((i, float(value)) for i, value in sorted(sums.items()) if value)
        if any(Fraction(value) != sums[i] for i, value in x):
            raise ProblemError(
                f"equal inputs (X_{x[0][0]} and others): their coefficients in a row have no sum in float64; expected"
                " rows with one of them"
            )
        result.append(replace(condition, x=x))
    held = {k for k, c in enumerate(result) if not c.x and not c.y and (c.rhs > 0 or (c.rhs == 0 and not c.strict))}
    return result, [[[k for k in clause if k not in held] for clause in clauses] for clauses in clauses_of]


def meet(lower: np.ndarray, upper: np.ndarray, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (Q, n) in which inputs that stand for others have the bounds of all of them; the others do not vary."""
    low, high, others = lower.copy(), upper.copy(), np.flatnonzero(first != np.arange(len(first)))
    for i in others:
        low[:, first[i]] = np.maximum(low[:, first[i]], lower[:, i])
        high[:, first[i]] = np.minimum(high[:, first[i]], upper[:, i])
    low[:, others] = high[:, others] = 0.0
    return low, high


def read_first(graph: Graph, first: np.ndarray) -> Graph:
    """The network (with one flat input, as `flatten_io` makes it) that reads x[first] wherever it read x."""
    shapes = dict(graph.shapes)
    name = unused(f"{X}/tied", shapes)
    shapes[name] = shapes[X]
    take = Node("Take", (X,), name, {"indices": first}, {"axis": 0}, "equal inputs")
    nodes = (replace(node, inputs=tuple(name if one == X else one for one in node.inputs)) for node in graph.nodes)
    outputs = tuple(name if one == X else one for one in graph.outputs)
    return Graph(graph.inputs, outputs, (take, *nodes), shapes)
