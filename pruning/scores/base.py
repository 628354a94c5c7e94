"""What a criterion returns, and the table of criteria."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from pruning.calibration import Calibration
from pruning.errors import DataError
from pruning.groups import Groups
from pruning.options import ScoreOptions
from verifier.brief import brief


@dataclass(frozen=True, eq=False)
class Scores:
    """One number per channel of `groups`; the lowest are pruned first.

    `free` marks channels that do nothing on the calibration data (inactive or constant): they go before any ranking.
    `tie` breaks ties (L2 importance). `parts` holds what the score was made of, `formula` says how. `decibel` scores
    are compared between layers by differences, others by ratios.
    """

    __repr__ = brief

    groups: Groups
    criterion: str
    formula: str
    values: np.ndarray
    free: np.ndarray
    tie: np.ndarray
    decibel: bool = False
    parts: Mapping[str, np.ndarray] = field(default_factory=lambda: MappingProxyType({}))
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, eq=False)
class RawScores:
    """What a criterion's function computes; `Scores` adds what all criteria share."""

    values: np.ndarray
    free: np.ndarray | None = None
    decibel: bool = False
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)


Function = Callable[[Groups, Calibration | None, ScoreOptions], RawScores]


@dataclass(frozen=True)
class Criterion:
    """A named criterion.

    `needs` is '' (weights only), 'images', 'range' (images and S), 'bounds' (proved bounds over S) or 'labels'.
    `counts_of` names the criterion that says how many channels each layer loses; this one then only says which.
    """

    name: str
    needs: str
    formula: str
    function: Function
    counts_of: str = ""


CRITERIA: dict[str, Criterion] = {}


def criterion(name: str, needs: str, formula: str, counts_of: str = "") -> Callable[[Function], Function]:
    """Register a criterion."""

    def register(function: Function) -> Function:
        CRITERIA[name] = Criterion(name, needs, formula, function, counts_of)
        return function

    return register


def required(calibration: Calibration | None, why: str) -> Calibration:
    """The calibration data, or a DataError naming the criterion."""
    if calibration is None:
        raise DataError(f"criterion '{why}' needs calibration images; give --data")
    return calibration
