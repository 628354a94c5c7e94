"""The same problem for many images of one network without files: one network, and arrays per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx

from verifier.brief import brief
from verifier.errors import ProblemError
from verifier.perturbation.polynomial import ImageMap
from verifier.semantic import composite
from verifier.semantic.problem import SemanticProblem
from verifier.semantic.rows import SparseRows


@dataclass(frozen=True, eq=False)
class Query:
    """One image. The flat network input is `image(p)` = offset + matrix @ features for parameters p in the box (d, 2).

    The numbers of its offset and matrix are exactly the weights that the problem's own file stores; the features are
    the parameters, and products of them where some multiply (see `ImageMap`). rows: the property over the shared
    network's flat output, an OR of clauses that are ANDs of rows C y <= rhs (violation); `rows.dense()` is C
    (R, n_out), `rows.rhs` (R,), `rows.clause` (R,). problem: the problem it came from, for pictures and for replaying
    a counterexample.
    """

    __repr__ = brief

    image: ImageMap
    box: np.ndarray
    rows: SparseRows
    problem: SemanticProblem


class Batch(NamedTuple):
    """model: the ONNX network all queries share, input `flat` (1, n); queries: one per problem, in order."""

    model: onnx.ModelProto
    queries: list[Query]


def batch(problems: Sequence[SemanticProblem]) -> Batch:
    """Queries for problems of one network that agree in clip and in the kind of property.

    The shared network takes the image before the clip (and the targets, for Budget and coupled Pose, whose rows speak
    about |y - t|), so everything that differs between images is in the arrays. Raises ProblemError when the problems
    do not share a network.
    """
    if not problems:
        raise ProblemError("a batch needs at least one image")
    first = problems[0]
    distance = first.compiled.tail is not None
    for number, problem in enumerate(problems):
        if problem.network is not first.network:
            raise ProblemError(f"problem {number} uses another network object than problem 0; load the network once")
        if problem.clip != first.clip or (problem.compiled.tail is not None) != distance:
            raise ProblemError(f"problem {number} differs from problem 0 in its clip or its kind of property")
    model = composite.with_image(first.network, first.clip, distance, "\n".join(first.summary[-2:]))
    return Batch(model, [_query(problem, distance) for problem in problems])


def _query(problem: SemanticProblem, distance: bool) -> Query:
    image, rows, tail = problem.input_map, problem.compiled.rows, problem.compiled.tail
    if distance and tail is not None:
        image, rows = image.followed_by(tail.centre), _through(rows, tail.matrix)
    return Query(image, problem.perturbation.box, rows, problem)


def _through(rows: SparseRows, matrix: np.ndarray) -> SparseRows:
    """Rows over z = M v become rows over v."""
    dense = rows.dense() @ matrix
    row, column = np.nonzero(dense)
    return SparseRows(matrix.shape[1], rows.clause, rows.rhs, row, column, dense[row, column])
