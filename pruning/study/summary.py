"""From rows to figures with intervals: one summary per treatment, one effect per pair of treatments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pruning.study import stats
from pruning.study.row import StudyRow
from pruning.study.stats import Estimate

Treatment = tuple[str, float | None]
"""(arm, ratio): the networks that differ only in seed and draw."""

Field = Callable[[StudyRow], float]

ENOUGH = 6
"""Pairs of results below which the first screen says nothing: with five no exact paired test comes out below 5 %."""


@dataclass(frozen=True)
class Summary:
    """One treatment. Means: coverage, refuted, clean_error (shares); median: seconds, boxes; rates: verified (Wilson).

    par2: mean seconds with an image that stayed open counted as twice its limit. Sizes are means over its networks.
    """

    arm: str
    ratio: float | None
    networks: int
    images: int
    seeds: int
    coverage: Estimate
    refuted: Estimate
    verified: Estimate
    clean_error: Estimate
    seconds: Estimate
    par2: Estimate
    boxes: Estimate
    unstable: Estimate
    unstable_ratio: Estimate
    parameters: float
    macs: float
    nonlinear: float

    @property
    def label(self) -> str:
        """Arm and ratio, for tables."""
        return label((self.arm, self.ratio))


@dataclass(frozen=True)
class Effect:
    """Treatment against baseline on the same seeds and images.

    coverage, verified: differences (shares); time: ratio of median seconds; clean_error: ratio of means. mcnemar: exact
    p-value on verified or not, draw 0 of each; holm: the same, adjusted for all effects of one ratio.
    """

    treatment: Treatment
    baseline: Treatment
    pairs: int
    coverage: Estimate
    verified: Estimate
    time: Estimate
    clean_error: Estimate
    mcnemar: float
    holm: float


def label(treatment: Treatment) -> str:
    """Arm and ratio, for tables."""
    arm, ratio = treatment
    return arm if ratio is None else f"{arm} {ratio:.0%}"


def treatments(rows: Iterable[StudyRow]) -> list[Treatment]:
    """All treatments, in the order in which arms first appear by name, unpruned ones first, ratios rising."""
    found = {(r.arm, r.ratio) for r in rows}
    return sorted(found, key=lambda t: (t[1] is not None, t[0], t[1] or 0.0))


def samples(rows: Sequence[StudyRow], wanted: Sequence[Treatment], field: Field) -> list[np.ndarray]:
    """Values (S, D, N) for each treatment over the seeds and images that every network of all of them has finished.

    Raises ValueError where they have none in common. Draws are those that exist for every seed of a treatment.
    """
    tables = [_by_network(rows, t) for t in wanted]
    seeds = sorted(set.intersection(*({seed for seed, _ in table} for table in tables)))
    chosen = []
    for table in tables:
        draws = [d for d in sorted({d for _, d in table}) if all((seed, d) in table for seed in seeds)]
        chosen.append([[table[seed, d] for d in draws] for seed in seeds])
    cells = [cell for per_seed in chosen for per_draw in per_seed for cell in per_draw]
    images = sorted(set.intersection(*(set(cell) for cell in cells))) if cells else []
    if not images:
        raise ValueError(f"{' and '.join(label(t) for t in wanted)} have no finished seed and image in common")
    return [np.array([[[field(c[i]) for i in images] for c in per] for per in table], float) for table in chosen]


def summarise(rows: Sequence[StudyRow], treatment: Treatment, replicates: int = stats.REPLICATES) -> Summary:
    """Every figure of one treatment."""

    rows = [r for r in rows if (r.arm, r.ratio) == treatment]

    def of(field: Field, statistic: Callable[[np.ndarray], np.ndarray] = stats.mean) -> Estimate:
        return stats.bootstrap(statistic, samples(rows, [treatment], field)[0], replicates=replicates)

    verified = samples(rows, [treatment], lambda r: float(r.verified))[0]
    own = {r.name: r for r in rows}.values()
    return Summary(
        *treatment,
        networks=len(own),
        images=verified.shape[2],
        seeds=verified.shape[0],
        coverage=of(lambda r: r.certified),
        refuted=of(lambda r: r.refuted),
        verified=stats.wilson(int(verified.sum()), verified.size),
        clean_error=of(lambda r: r.clean_error),
        seconds=of(lambda r: r.seconds, stats.median),
        par2=of(penalised),
        boxes=of(lambda r: r.boxes, stats.median),
        unstable=of(lambda r: r.unstable),
        unstable_ratio=of(lambda r: r.unstable_ratio),
        parameters=sum(r.parameters for r in own) / len(own),
        macs=sum(r.macs for r in own) / len(own),
        nonlinear=sum(r.nonlinear for r in own) / len(own),
    )


def penalised(row: StudyRow) -> float:
    """PAR-2 seconds of one result: an image left open counts as twice the limit."""
    return 2 * row.timeout if row.verdict == "open" else row.seconds


def effect(
    rows: Sequence[StudyRow], treatment: Treatment, baseline: Treatment, replicates: int = stats.REPLICATES
) -> Effect:
    """Treatment against baseline; `holm` equals `mcnemar` until it is adjusted."""

    rows = [r for r in rows if (r.arm, r.ratio) in (treatment, baseline)]

    def of(field: Field, statistic: Callable[..., np.ndarray]) -> Estimate:
        a, b = samples(rows, [treatment, baseline], field)
        return stats.bootstrap(statistic, a, b, replicates=replicates)

    a, b = samples(rows, [treatment, baseline], lambda r: float(r.verified))
    only_a, only_b = int((a[:, 0] > b[:, 0]).sum()), int((a[:, 0] < b[:, 0]).sum())
    p = stats.mcnemar(only_a, only_b)
    return Effect(
        treatment,
        baseline,
        pairs=a.shape[0] * a.shape[2],
        coverage=of(lambda r: r.certified, stats.difference_of_means),
        verified=of(lambda r: float(r.verified), stats.difference_of_means),
        time=of(lambda r: r.seconds, stats.ratio_of_medians),
        clean_error=of(lambda r: r.clean_error, stats.ratio_of_means),
        mcnemar=p,
        holm=p,
    )


def effects(rows: Sequence[StudyRow], focus: str, replicates: int = stats.REPLICATES) -> list[Effect]:
    """The focus arm against every other one: the unpruned, and those of the same ratio. Holm within each ratio."""
    known = treatments(rows)
    result: list[Effect] = []
    for treatment in (t for t in known if t[0] == focus):
        others = [t for t in known if t[0] != focus and (t[1] is None or t[1] == treatment[1])]
        family = [effect(rows, treatment, other, replicates) for other in others if meet(rows, treatment, other)]
        result += _adjusted(family)
    return result


def against(rows: Sequence[StudyRow], baseline: str, replicates: int = stats.REPLICATES) -> list[Effect]:
    """Every other treatment against the (first) treatment of one arm; Holm over all of them."""
    known = treatments(rows)
    first = next((t for t in known if t[0] == baseline), None)
    if first is None:
        return []
    return _adjusted([effect(rows, t, first, replicates) for t in known if t != first and meet(rows, t, first)])


def _adjusted(family: list[Effect]) -> list[Effect]:
    adjusted = stats.holm([c.mcnemar for c in family])
    return [replace(c, holm=p) for c, p in zip(family, adjusted, strict=True)]


def meet(rows: Sequence[StudyRow], a: Treatment, b: Treatment) -> bool:
    """Whether two treatments share a finished seed and image."""
    try:
        samples(rows, [a, b], lambda _: 0.0)
    except ValueError:
        return False
    return True


def _by_network(rows: Sequence[StudyRow], treatment: Treatment) -> dict[tuple[int, int], dict[int, StudyRow]]:
    table: dict[tuple[int, int], dict[int, StudyRow]] = {}
    for row in rows:
        if (row.arm, row.ratio) == treatment:
            table.setdefault((row.seed, row.draw), {})[row.image] = row
    return table
