"""Verified rate and certified area at shorter limits: how much of a comparison is the limit's doing.

The search does not look ahead at its limit: what it certified in s seconds it certifies at every limit above s. So one
run tells the rates at all shorter limits, too, and its trace (`row.StudyRow`) the certified areas.
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

    gains: empty for the reference itself and where it shares no seed and image. coverage, coverage_gains: the same of
    the certified share of the rectangle; empty where rows have no trace.
    """

    treatment: Treatment
    limits: tuple[float, ...]
    verified: tuple[Estimate, ...]
    gains: tuple[Estimate, ...]
    coverage: tuple[Estimate, ...] = ()
    coverage_gains: tuple[Estimate, ...] = ()

    @property
    def label(self) -> str:
        """Arm and ratio, for tables."""
        return label(self.treatment)


def rates(
    rows: Sequence[StudyRow], reference: str = REFERENCE, replicates: int = stats.REPLICATES,
    limits: Sequence[float] = (),
) -> list[Rates]:  # fmt: skip
    """Every treatment at `limits`, or at `SHARES` of the rows' own; one limit for all is assumed, as a folder has."""
    if not rows:
        return []
    chosen = tuple(limits) or tuple(share * rows[0].timeout for share in SHARES)
    base = next((t for t in treatments(rows) if t[0] == reference), None)
    return [_rates(rows, t, base if base != t else None, chosen, replicates) for t in treatments(rows)]


def crossing(rates: Rates) -> tuple[float, float] | None:
    """The first two neighbouring limits between which the gain in verified rate turns from above 0 to below."""
    signs = [g.value for g in rates.gains]
    for at in range(len(signs) - 1):
        if signs[at] > 0 > signs[at + 1]:
            return rates.limits[at], rates.limits[at + 1]
    return None


def _rates(
    rows: Sequence[StudyRow], treatment: Treatment, base: Treatment | None, limits: tuple[float, ...], replicates: int
) -> Rates:
    verified, gains, coverage, coverage_gains = [], [], [], []
    paired = base is not None and meet(rows, treatment, base)
    pair = [treatment] if base is None or not paired else [treatment, base]
    traced = all(r.certified_by(limits[0]) is not None for r in rows if (r.arm, r.ratio) in pair)
    for limit in limits:
        within = partial(_within, limit=limit)
        (own,) = samples(rows, [treatment], within)
        verified.append(stats.wilson(int(own.sum()), own.size))
        area = partial(_area, limit=limit)
        if traced:
            coverage.append(stats.bootstrap(stats.mean, *samples(rows, [treatment], area), replicates=replicates))
        if paired:
            both = samples(rows, pair, within)
            gains.append(stats.bootstrap(stats.difference_of_means, *both, replicates=replicates))
        if paired and traced:
            both = samples(rows, pair, area)
            coverage_gains.append(stats.bootstrap(stats.difference_of_means, *both, replicates=replicates))
    return Rates(treatment, limits, tuple(verified), tuple(gains), tuple(coverage), tuple(coverage_gains))


def _area(row: StudyRow, limit: float) -> float:
    found = row.certified_by(limit)
    assert found is not None
    return found


def _within(row: StudyRow, limit: float) -> float:
    return float(row.verified and (limit >= row.timeout or row.seconds <= limit))
