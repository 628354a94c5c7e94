"""The last word on a counterexample: ONNX Runtime on the original file, the original specification, no tolerance.

A bound that no number of the input's type meets from inside (a float32 input fixed to 0.1, say) is read as its nearest
number of the type, as a competition's checker does; every other bound is respected as the real number in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

import vnnlib
from verifier.graph.onnx_import import Model
from verifier.problem.feed import Box, Feed
from verifier.problem.runtime import Session
from verifier.result import Witness

Holds = Callable[[np.ndarray, np.ndarray], bool]
Widen = Callable[[np.ndarray], np.ndarray]


class Replay:
    """Snaps candidate points to numbers the model can be fed, strictly inside the box, and replays them."""

    def __init__(self, feed: Feed, box: Box, holds: Holds, full: Widen, session: Session, first: int = 0) -> None:
        """`box`: the real bounds (N, n_full) of every case; `holds`: whether an input violates the property with its
        output; `full`: full inputs of points; `first`: the query of the problem that is case 0, where a problem has
        several specifications.
        """
        self._feed, self._box, self._holds, self._full, self._session = feed, box, holds, full, session
        self._first = first
        self.tried = 0

    @staticmethod
    def of(model: Model, spec: vnnlib.NormalForm, full: Widen, session: Session, first: int = 0) -> Replay:
        """For the cases of a specification."""
        feed = Feed.of(model.input_infos)
        low, high = feed.hull(spec.lower, spec.upper)
        judge = replace(spec, lower=low, upper=high)
        infos = model.output_infos
        whole = np.repeat([info.dtype.kind in "iu" for info in infos], [info.size for info in infos])

        def holds(x: np.ndarray, y: np.ndarray) -> bool:  # float64 may have rounded larger whole numbers
            return bool((np.abs(y[whole]) < 2.0**53).all()) and judge.holds(x, y)

        return Replay(feed, (spec.lower, spec.upper), holds, full, session, first)

    def of_group(self, full: Widen, queries: np.ndarray) -> Replay:
        """For some of the queries (of the one specification), by their places among them."""
        low, high = (end[queries] for end in self._box)
        return Replay(self._feed, (low, high), self._holds, full, self._session)

    def snap(self, p: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Points (M, n) of queries (M,) as full inputs (M, n_full) that lie inside the original real bounds; see
        `Feed.snap`.
        """
        case = query - self._first
        return self._feed.snap(self._full(p), *(end[case] for end in self._box))

    def __call__(self, p: np.ndarray, query: np.ndarray) -> Witness | None:
        """The first of the points (M, n) that violates the property, or None."""
        if len(p) == 0:
            return None
        x = self.snap(p, query)
        y = self._session.run(x)
        self.tried += len(x)
        for point, value in zip(x, y, strict=True):
            if np.isfinite(value).all() and self._holds(point, value):
                alone = self._session.run(point[None])[0]  # as a checker will run it; batches may round otherwise
                if np.isfinite(alone).all() and self._holds(point, alone):
                    return Witness(point.astype(np.float64), alone.astype(np.float64))
        return None
