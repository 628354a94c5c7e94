"""The last check before a pruned network leaves: it must compute what the masked network computes.

The masked network keeps all shapes and only zeroes the weights that read removed channels, so it needs none of the
index maps that the cut relies on. Both run in ONNX Runtime on random points; a mistake in an index map shows there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pruning import onnx_io, runtime
from pruning.errors import WrongNetwork
from pruning.net import Net
from verifier.errors import ModelError

POINTS = 16
TOLERANCE = {"float16": 5e-2, "float32": 1e-5}
"""Share of the largest output that may differ, by type of the output: sums run in another order. What differs more is
computed again in float64."""
TOLERANCE_64 = 1e-9
AGAIN = 4  # points that are computed again at most


@dataclass(frozen=True)
class Agreement:
    """Largest difference of any output over `points` random points, and the largest output there."""

    points: int
    difference: float
    largest: float

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Agreement | None:
        """What the record of a pruned model holds, if it was checked."""
        return cls(*record["check"].values()) if "check" in record else None

    def record(self) -> dict[str, float | int]:
        """For the JSON beside a model."""
        return {
            "points": self.points,
            "largest_difference_to_masked_network": self.difference,
            "largest_output": self.largest,
        }

    def __str__(self) -> str:
        return (
            f"checked: pruned and masked network differ by at most {self.difference:.3g} on {self.points} random "
            f"points (outputs up to {self.largest:.4g})"
        )


def agreement(pruned: Net, masked: Net) -> Agreement:
    """Run both networks on the same random points, half uniform in [0, 1], half normal.

    Where the batch axis is symbolic and the masked network takes several points at once, they are compared so as well.
    Raises WrongNetwork if they differ by more than rounding, or if one of them cannot be run.
    """
    try:
        runners = [runtime.Runner(onnx_io.to_bytes(net)) for net in (pruned, masked)]
        points = list(_points(masked, runners[1]))
        worst = largest = 0.0
        doubtful = []
        for feeds in points:
            difference, size, fine = _compare(*(run(feeds) for run in runners))
            worst, largest = max(worst, difference), max(largest, size)
            if not fine:
                doubtful.append(feeds)
        together = _batch(masked, points, runners[1])
        if together is not None:
            feeds, expected = together
            difference, _, fine = _compare(runners[0](feeds), expected)
            worst = max(worst, difference)
            if not fine and not doubtful:
                doubtful.append(feeds)
    except ModelError as error:
        raise WrongNetwork(f"the pruned network cannot be checked, nothing is written: {error}") from error
    for feeds in doubtful[:AGAIN]:
        if not _agree_in_double(pruned, masked, feeds):
            raise WrongNetwork(
                f"the pruned network differs from the masked one by {worst:.6g} on random points (outputs up to "
                f"{largest:.6g}), so it is wrong and nothing is written; please report this model"
            )
    return Agreement(len(points), worst, largest)


def _points(net: Net, runner: runtime.Runner) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    for number in range(POINTS):
        feeds = {}
        for name in net.inputs:
            kind = np.dtype(runner.inputs[name])
            shape = net.shapes[name]
            if kind.kind in "biu":
                feeds[name] = rng.integers(0, 2, shape).astype(kind)
            else:
                feeds[name] = (rng.uniform(0, 1, shape) if number < POINTS // 2 else rng.normal(size=shape)).astype(
                    kind
                )
        yield feeds


def _batch(
    masked: Net, points: list[dict[str, np.ndarray]], run: runtime.Runner
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]] | None:
    if not masked.batched or any(not masked.shapes[name] for name in masked.inputs):
        return None
    feeds = {name: np.concatenate([point[name] for point in points[:3]]) for name in masked.inputs}
    try:
        return feeds, run(feeds)
    except ModelError:
        return None  # a symbolic batch axis that means nothing


def _compare(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> tuple[float, float, bool]:
    """Largest difference, largest output, and whether all differences are within the tolerance of the type."""
    worst, largest, fine = 0.0, 0.0, True
    for name, value in want.items():
        if got[name].shape != value.shape:
            return np.inf, largest, False
        a, b = (np.asarray(part, np.float64) for part in (got[name], value))
        with np.errstate(invalid="ignore"):
            apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
        difference = float(np.nan_to_num(apart, nan=np.inf, posinf=np.inf).max(initial=0.0))
        size = float(np.abs(b).max(initial=0.0, where=np.isfinite(b)))
        worst, largest = max(worst, difference), max(largest, size)
        fine = fine and difference <= TOLERANCE.get(value.dtype.name, TOLERANCE_64) * size
    return worst, largest, fine


def _agree_in_double(pruned: Net, masked: Net, feeds: dict[str, np.ndarray]) -> bool:
    try:
        got, want = (onnx_io.evaluate64(net, feeds) for net in (pruned, masked))
    except Exception:  # the reference implementation raises many types, and what it cannot run stays refuted
        return False
    _, largest, _ = _compare(want, want)
    difference, _, _ = _compare(got, want)
    return difference <= TOLERANCE_64 * largest
