"""Which images a report shows: chosen by rule, so nobody can pick the flattering ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pruning.study import details
from pruning.study.analysis import Analysis
from pruning.study.details import Details
from pruning.study.row import StudyRow
from pruning.study.spec import references

HEADLINE_RATIO = 0.75
WORST = 6


@dataclass(frozen=True)
class BeforeAfter:
    """One image before and after; why it was chosen."""

    why: str
    before: StudyRow
    after: StudyRow


def pairs(analysis: Analysis) -> list[BeforeAfter]:
    """The images that gained most, the median and lost most, for the first seed of the headline ratio."""
    before, after = _before(analysis), _after(analysis)
    if before is None or after is None or before == after:
        return []
    held = {r.image: r for r in analysis.rows if r.name == before}
    both = [(held[r.image], r) for r in analysis.rows if r.name == after and r.image in held]
    both.sort(key=lambda pair: (pair[1].certified - pair[0].certified, pair[0].image))
    chosen = {"largest gain": both[-1:], "median image": both[len(both) // 2 :][:1], "largest loss": both[:1]}
    result: list[BeforeAfter] = []
    for why, found in chosen.items():
        for b, a in found:
            if all(a.image != p.after.image for p in result) and not (
                why == "largest loss" and a.certified >= b.certified
            ):
                result.append(BeforeAfter(why, b, a))
    return result


def worst(analysis: Analysis, folder: Path) -> list[tuple[StudyRow, Details]]:
    """The images with the largest refuted area of the network after pruning (the smallest of the given ones, or the
    only one) that have a counterexample to draw.
    """
    after = _after(analysis)
    rows = [r for r in analysis.rows if r.name == after and r.verdict == "refuted"]
    rows.sort(key=lambda r: (-r.refuted, r.certified, r.image))
    found = []
    for r in rows:
        held = details.load(folder, r.name, r.image)
        if held is not None and held.witness is not None:
            found.append((r, held))
        if len(found) == WORST:
            break
    return found


def _before(analysis: Analysis) -> str | None:
    if analysis.baseline is not None:
        return next((r.name for r in analysis.rows if r.arm == analysis.baseline), None)
    for arm in (analysis.reference, *references(analysis.focus)):
        rows = [r for r in analysis.rows if r.arm == arm]
        if rows:
            return min(rows, key=lambda r: (r.seed, r.name)).name
    return None


def _after(analysis: Analysis) -> str | None:
    if analysis.baseline is not None:
        others = [r for r in analysis.rows if r.arm != analysis.baseline] or analysis.rows  # or the only network
        return min(others, key=lambda r: r.parameters).name
    rows = [r for r in analysis.rows if r.arm == analysis.focus and r.ratio is not None]
    if not rows:
        return None
    ratios = sorted({r.ratio for r in rows if r.ratio is not None})
    ratio = max((x for x in ratios if x <= HEADLINE_RATIO), default=ratios[0])
    return min((r for r in rows if r.ratio == ratio), key=lambda r: (r.seed, r.draw)).name
