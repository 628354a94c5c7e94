"""What a criterion returns, and the table of criteria."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from pruning.calibration import Calibration
from pruning.errors import CriterionError, DataError
from pruning.groups import Groups
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


@dataclass(frozen=True)
class Options:
    """Settings of the criteria; the formulas say which one reads which.

    `mask_ratio` is the share that the inner masks of `refill` and `hydra` take; use the ratio that will be pruned.
    """

    seed: int = 0
    stability_exponent: int = 0
    aggregate: str = "mean"
    join: str = "mean"
    bias: str = "shift"
    cells: int = 4
    mask_ratio: float = 0.5
    batches: int = 8
    batch_size: int = 32
    interval_oracle: Callable[..., Any] | None = None
    slope_oracle: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        choices = {"aggregate": ("mean", "q90"), "join": ("mean", "min"), "bias": ("shift", "centred")}
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise CriterionError(f"{name} = {getattr(self, name)!r}; expected one of {', '.join(allowed)}")
        if self.stability_exponent not in (0, 1):
            raise CriterionError(f"stability exponent {self.stability_exponent}; expected 0 or 1")


@dataclass(frozen=True, eq=False)
class Result:
    """What a criterion's function computes; `Scores` adds what all criteria share."""

    values: np.ndarray
    free: np.ndarray | None = None
    decibel: bool = False
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)


Function = Callable[[Groups, Calibration | None, Options], Result]


@dataclass(frozen=True)
class Criterion:
    """A named criterion: `needs` is '' (weights only), 'images', 'range' (images and S) or 'labels'."""

    name: str
    needs: str
    formula: str
    function: Function


CRITERIA: dict[str, Criterion] = {}


def criterion(name: str, needs: str, formula: str) -> Callable[[Function], Function]:
    """Register a criterion."""

    def register(function: Function) -> Function:
        CRITERIA[name] = Criterion(name, needs, formula, function)
        return function

    return register


def required(calibration: Calibration | None, why: str) -> Calibration:
    """The calibration data, or a DataError naming the criterion."""
    if calibration is None:
        raise DataError(f"criterion '{why}' needs calibration images; give --data")
    return calibration
