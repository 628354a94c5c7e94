"""Criteria: a number per channel, the lowest pruned first. `score` is the door, `CRITERIA` the table."""

from __future__ import annotations

from dataclasses import asdict
from types import MappingProxyType

import numpy as np

from pruning.calibration import Calibration
from pruning.errors import CriterionError
from pruning.groups import Groups
from pruning.options import ScoreOptions
from pruning.scores import certified, gradients, movement, stability, weights
from pruning.scores.base import CRITERIA, Scores, required
from pruning.scores.weights import channel_norm

__all__ = [
    "CRITERIA",
    "Scores",
    "certified",
    "gradients",
    "movement",
    "score_groups",
    "stability",
    "weights",
]


def score_groups(
    groups: Groups, calibration: Calibration | None, name: str, options: ScoreOptions | None = None
) -> Scores:
    """Score every channel. Raises CriterionError for an unknown criterion, DataError for data it cannot use."""
    options = options or ScoreOptions()
    if name not in CRITERIA:
        raise CriterionError(f"unknown criterion '{name}'; expected one of {', '.join(sorted(CRITERIA))}")
    entry = CRITERIA[name]
    if entry.needs:
        calibration = required(calibration, name).fitted(groups.net)
    if calibration is not None and entry.needs in ("range", "bounds"):
        calibration.need_range(f"criterion '{name}'")
    if calibration is not None and entry.needs == "labels":
        calibration.need_labels(f"criterion '{name}'")
    result = entry.function(groups, calibration, options)
    free = result.free
    if free is None:
        free = np.zeros(groups.n, bool)
        if calibration is not None:  # every criterion drops idle channels first, or comparisons would be unfair
            free = movement.idle_channels(groups, calibration.fitted(groups.net))
    settings = {key: value for key, value in asdict(options).items() if not callable(value) and value is not None}
    if calibration is not None:
        settings |= {"images": len(calibration.images), "samples": calibration.samples, "data_seed": calibration.seed}
        settings |= {r.name: (r.low, r.high) for r in calibration.semantic.ranges}
        settings |= dict(calibration.semantic.constants)
    return Scores(
        groups=groups,
        criterion=name,
        formula=entry.formula,
        values=np.where(np.isnan(result.values), np.inf, result.values),
        free=free,
        tie=channel_norm(groups, 2),
        decibel=result.decibel,
        parts=MappingProxyType(dict(result.parts)),
        options=MappingProxyType(settings),
    )
