"""Everything a finished (or growing) study says, computed once: for the terminal, the report and `summary.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pruning.study import goals, limits, row, stats, summary
from pruning.study.errors import ResultsError
from pruning.study.goals import Check
from pruning.study.limits import Rates
from pruning.study.row import StudyRow
from pruning.study.spec import references
from pruning.study.summary import Effect, Summary
from verifier.brief import brief
from verifier.files.whole import write

FOCUS = "usn"


@dataclass(frozen=True)
class Analysis:
    """focus: the arm the study is about; baseline: name of the first network where files were given, else None;
    reference: the arm whose rates at shorter limits are subtracted from those of the others.

    rates: verified rates and certified areas at shorter limits. criterion, goals: empty where files were compared.
    notes: what a reader should know before believing a figure.
    """

    __repr__ = brief

    title: str
    focus: str
    baseline: str | None
    reference: str
    rows: tuple[StudyRow, ...]
    summaries: tuple[Summary, ...]
    effects: tuple[Effect, ...]
    rates: tuple[Rates, ...]
    criterion: tuple[Check, ...]
    goals: tuple[Check, ...]
    notes: tuple[str, ...]
    replicates: int


def of_folder(folder: Path, replicates: int = stats.REPLICATES) -> Analysis:
    """Analyse what a study's folder holds."""
    rows = row.LINES.read(folder / "results.jsonl")
    if not rows:
        raise ResultsError(f"{folder / 'results.jsonl'}: no results yet")
    record = _record(folder / "study.json")
    baseline = record.get("baseline")
    title, focus = str(record.get("name") or folder.resolve().name), str(record.get("focus") or FOCUS)
    found = analyse(rows, title, baseline, replicates, focus, tuple(record.get("limits") or ()))
    return replace(found, notes=(*found.notes, *_given(record)))


def analyse(
    rows: Sequence[StudyRow], title: str, baseline: str | None = None, replicates: int = stats.REPLICATES,
    focus: str = FOCUS, at: Sequence[float] = (),
) -> Analysis:  # fmt: skip
    """Summaries, effects and checks of some rows; baseline: the arm others are held against when files were given;
    focus: the arm it is about; at: limits in seconds at which rates are told.
    """
    summaries = [summary.summarise(rows, t, replicates) for t in summary.treatments(rows)]
    if baseline is not None:
        summaries.sort(key=lambda s: s.arm != baseline)
        effects = summary.against(rows, baseline, replicates)
        checks: tuple[list[Check], list[Check]] = ([], [])
    else:
        arms = {r.arm for r in rows}
        focus = focus if focus in arms else min((r.arm for r in rows if r.ratio is not None), default=focus)
        effects = summary.effects(rows, focus, replicates)
        checks = (goals.criterion(effects, focus), goals.goals(effects, focus))
    reference = baseline or _reference(effects, focus)
    return Analysis(
        title=title,
        focus=focus,
        baseline=baseline,
        reference=reference,
        rows=tuple(rows),
        summaries=tuple(summaries),
        effects=tuple(effects),
        rates=tuple(limits.rates(rows, reference, replicates, at)),
        criterion=tuple(checks[0]),
        goals=tuple(checks[1]),
        notes=tuple(_notes(rows, summaries, baseline is not None)),
        replicates=replicates,
    )


def _reference(effects: Sequence[Effect], focus: str) -> str:
    """The unpruned arm most like the focus that has enough results in common with it."""
    held = {c.baseline[0] for c in effects if c.pairs >= summary.ENOUGH}
    return next((arm for arm in references(focus) if arm in held), limits.REFERENCE)


def save(analysis: Analysis, path: Path) -> None:
    """Every figure with its interval as JSON."""
    value = {
        "title": analysis.title,
        "summaries": [asdict(s) for s in analysis.summaries],
        "effects": [asdict(c) for c in analysis.effects],
        "verified_at_shorter_limits": [asdict(r) for r in analysis.rates],
        "success_criterion": _checks(analysis.criterion),
        "goals": _checks(analysis.goals),
        "notes": analysis.notes,
    }
    write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def _checks(checks: Sequence[Check]) -> dict[str, Any]:
    return {
        "outcome": goals.verdict(checks).value,
        "checks": [asdict(c) | {"outcome": c.outcome.value} for c in checks],
    }


def _notes(rows: Sequence[StudyRow], summaries: Sequence[Summary], files: bool) -> list[str]:
    notes = []
    by_image: dict[int, int] = {}
    for r in rows:
        by_image[r.image] = by_image.get(r.image, 0) + 1
    networks = len({r.name for r in rows})
    short = sum(count < networks for count in by_image.values())
    if short:
        notes.append(
            f"{short} of {len(by_image)} images are not finished for all {networks} networks; a comparison uses the "
            "images that both its sides have."
        )
    if len({r.machine for r in rows}) > 1 or len({r.versions for r in rows}) > 1:
        notes.append("Results come from several machines or versions: times are not comparable across them.")
    seeds = max((s.seeds for s in summaries), default=0)
    if files:
        notes.append("Each network is one training run: the intervals are about the choice of images only.")
    elif seeds < 3:
        notes.append(
            f"{seeds} training seed{'s' if seeds != 1 else ''}: intervals say little about how training varies."
        )
    least = min((s.images for s in summaries), default=0)
    if least < 100:
        seen = 10 * math.sqrt(155 / least)  # the protocol's planning: 155 images for a paired gain of 10 points
        notes.append(f"Only {least} images: gains in verified rate below about {seen:.0f} points will often be missed.")
    return notes


def _given(record: Mapping[str, Any]) -> list[str]:
    dense = record.get("dense")
    if not isinstance(dense, dict) or not dense:
        return []
    named = ", ".join(f"seed {seed}: {Path(str(file)).name}" for seed, file in dense.items())
    return [f"Dense networks that were given, not trained by the study: {named} (hashes in networks/networks.jsonl)."]


def _record(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_bytes())["whole"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise ResultsError(f"{path}: not the record of a study") from None
    return value if isinstance(value, dict) else {}
