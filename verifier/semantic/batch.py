"""The same study for many images of one network without files: one network, and arrays per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import onnx

from verifier.brief import brief
from verifier.errors import ProblemError
from verifier.semantic import composite
from verifier.semantic.rows import Rows
from verifier.semantic.study import Study


@dataclass(frozen=True, eq=False)
class Query:
    """One image. The flat network input is x = offset + matrix @ p for parameters p in the box.

    offset (n,), matrix (n, d), box (d, 2): float64; the numbers of offset and matrix are exactly the weights that the
    study's own file stores. rows: the property over the shared network's flat output, an OR of clauses that are ANDs
    of rows C y <= rhs (violation); `rows.dense()` is C (R, n_out), `rows.rhs` (R,), `rows.clause` (R,).
    study: the problem it came from, for pictures and for replaying a counterexample.
    """

    __repr__ = brief

    offset: np.ndarray
    matrix: np.ndarray
    box: np.ndarray
    rows: Rows
    study: Study


class Batch(NamedTuple):
    """model: the ONNX network all queries share, input `flat` (1, n); queries: one per study, in order."""

    model: onnx.ModelProto
    queries: list[Query]


def batch(studies: Sequence[Study]) -> Batch:
    """Queries for studies of one network that agree in clip and in the kind of property.

    The shared network takes the image before the clip (and the targets, for Budget and coupled Pose, whose rows speak
    about |y - t|), so everything that differs between images is in the arrays. Raises ProblemError when the studies
    do not share a network, or when one of them multiplies two parameters: a product is not an affine input map.
    """
    if not studies:
        raise ProblemError("a batch study needs at least one image")
    first = studies[0]
    distance = first.compiled.tail is not None
    for number, study in enumerate(studies):
        if study.network is not first.network:
            raise ProblemError(f"study {number} uses another network object than study 0; load the network once")
        if study.clip != first.clip or (study.compiled.tail is not None) != distance:
            raise ProblemError(f"study {number} differs from study 0 in its clip or its kind of property")
        if study.input_map.products:
            raise ProblemError(f"study {number} multiplies two parameters; such studies run from files only")
    model = composite.with_image(first.network, first.clip, distance, "\n".join(first.summary[-2:]))
    return Batch(model, [_query(study, distance) for study in studies])


def _query(study: Study, distance: bool) -> Query:
    offset, matrix, rows = study.input_map.offset, study.input_map.matrix, study.compiled.rows
    tail = study.compiled.tail
    if distance and tail is not None:
        offset = np.concatenate([offset, tail.centre])
        matrix = np.concatenate([matrix, np.zeros((len(tail.centre), matrix.shape[1]))])
        rows = _through(rows, tail.matrix)
    return Query(offset, matrix, study.perturbation.box, rows, study)


def _through(rows: Rows, matrix: np.ndarray) -> Rows:
    """Rows over z = M v become rows over v."""
    dense = rows.dense() @ matrix
    row, column = np.nonzero(dense)
    return Rows(matrix.shape[1], rows.clause, rows.rhs, row, column, dense[row, column])
