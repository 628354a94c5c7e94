"""Verified rate at shorter limits: how much of a comparison is the limit's doing.

The search does not look ahead at its limit: what it certified in s seconds it certifies at every limit above s. So one
study tells the rates at all shorter limits, too. Certified area at a shorter limit is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pruning.study import stats
from pruning.study.row import StudyRow
from pruning.study.stats import Estimate
from pruning.study.summary import Treatment, label, meet, samples, treatments

SHARES = (0.1, 0.2, 0.5, 1.0)
REFERENCE = "dense+ft"


@dataclass(frozen=True)
class Rates:
    """One treatment: its verified rate at each limit (seconds), and what that is above the reference, paired.

    gains: empty for the reference itself and where it shares no seed and image.
    """

    treatment: Treatment
    limits: tuple[float, ...]
    verified: tuple[Estimate, ...]
    gains: tuple[Estimate, ...]

    @property
    def label(self) -> str:
        """Arm and ratio, for tables."""
        return label(self.treatment)


def rates(rows: Sequence[StudyRow], reference: str = REFERENCE, replicates: int = stats.REPLICATES) -> list[Rates]:
    """Every treatment at `SHARES` of the limit of the rows; one limit for all rows is assumed, as a folder has."""
    if not rows:
        return []
    limits = tuple(share * rows[0].timeout for share in SHARES)
    base = next((t for t in treatments(rows) if t[0] == reference), None)
    return [_rates(rows, t, base if base != t else None, limits, replicates) for t in treatments(rows)]


def _rates(
    rows: Sequence[StudyRow], treatment: Treatment, base: Treatment | None, limits: tuple[float, ...], replicates: int
) -> Rates:
    verified, gains = [], []
    for limit in limits:
        within = partial(_within, limit=limit)
        (own,) = samples(rows, [treatment], within)
        verified.append(stats.wilson(int(own.sum()), own.size))
        if base is not None and meet(rows, treatment, base):
            pair = samples(rows, [treatment, base], within)
            gains.append(stats.bootstrap(stats.difference_of_means, *pair, replicates=replicates))
    return Rates(treatment, limits, tuple(verified), tuple(gains))


def _within(row: StudyRow, limit: float) -> float:
    return float(row.verified and (limit >= row.timeout or row.seconds <= limit))
