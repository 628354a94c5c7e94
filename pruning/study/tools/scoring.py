"""Counts, PAR-2 and the points of VNN-COMP 2025, per category and overall.

Points: 10 for a right answer, -150 for a wrong one, 0 otherwise (also where the truth is open). The score of a category
is the share of the best tool's points there, in percent, not below 0; the overall score is the sum of these. PAR-2:
mean over all instances of the seconds of a right answer, or twice the limit (a wrong answer is no better than none).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pruning.study.tools.results import ResultWord, RunKey, Tool
from pruning.study.tools.truth import ListedVerdict, ReferenceVerdict, decide

RIGHT, WRONG = 10, -150


@dataclass(frozen=True)
class Standing:
    """One tool in one category (or overall). answered: sat + unsat claimed; right, wrong: by the truth; unique: right
    where no other tool is; score: percent of the best tool's points (overall: their sum over the categories)."""

    tool: str
    instances: int
    sat: int
    unsat: int
    right: int
    wrong: int
    unique: int
    timeout: int
    error: int
    other: int
    missing: int
    par2: float
    points: int
    score: float


@dataclass(frozen=True)
class Contradiction:
    """An instance on which tools answered differently, or against a listed verdict."""

    key: RunKey
    sat: tuple[str, ...]
    unsat: tuple[str, ...]
    truth: ReferenceVerdict


@dataclass(frozen=True)
class Comparison:
    """Everything `compare --results` shows. times: right answers' seconds per tool, rising (the cactus plot)."""

    tools: tuple[str, ...]
    categories: Mapping[str, tuple[Standing, ...]]
    overall: tuple[Standing, ...]
    contradictions: tuple[Contradiction, ...]
    times: Mapping[str, tuple[float, ...]]
    limits: Mapping[str, str]
    notes: tuple[str, ...]


def compare(
    tools: Sequence[Tool],
    known: Mapping[tuple[str, str, str], ListedVerdict] | None = None,
    timeout: float | None = None,
) -> Comparison:
    """Compare result files. known: from `truth.read`; timeout: seconds, for instances whose limit it does not give."""
    known = known or {}
    keys = sorted({key for tool in tools for key in tool.entries})
    truths = {key: decide(tools, key, known) for key in keys}
    groups: dict[str, list[RunKey]] = {}
    for key in keys:
        groups.setdefault(key[0], []).append(key)
    limits, sources = _limits(tools, groups, known, timeout)
    categories = {
        name: _percent([_standing(tool, tools, members, truths, limits) for tool in tools])
        for name, members in groups.items()
    }
    overall = [_standing(tool, tools, keys, truths, limits) for tool in tools]
    sums = [sum(rows[i].score for rows in categories.values()) for i in range(len(tools))]
    return Comparison(
        tuple(tool.name for tool in tools),
        categories,
        tuple(_with_score(s, total) for s, total in zip(overall, sums, strict=True)),
        tuple(_contradictions(tools, truths)),
        {tool.name: _times(tool, truths) for tool in tools},
        sources,
        (*_coverage_of(known, keys), *_notes(tools, keys, truths)),
    )


def _standing(
    tool: Tool,
    tools: Sequence[Tool],
    keys: Sequence[RunKey],
    truths: Mapping[RunKey, ReferenceVerdict],
    limits: Mapping[RunKey, float],
) -> Standing:
    counts = dict.fromkeys(ResultWord, 0)
    right = wrong = unique = missing = 0
    seconds = 0.0
    for key in keys:
        entry, truth = tool.entries.get(key), truths[key].answer
        penalty = 2 * limits[key]
        if entry is None:
            missing += 1
        else:
            counts[entry.answer] += 1
        if entry is None or not entry.answer.solved or truth is None:
            seconds += penalty
        elif entry.answer is truth:
            right += 1
            seconds += entry.seconds
            unique += not any(_right(other, key, truth) for other in tools if other is not tool)
        else:
            wrong += 1
            seconds += penalty
    return Standing(
        tool.name, len(keys), counts[ResultWord.SAT], counts[ResultWord.UNSAT], right, wrong, unique,
        counts[ResultWord.TIMEOUT], counts[ResultWord.ERROR], counts[ResultWord.UNKNOWN], missing, seconds / len(keys),
        RIGHT * right + WRONG * wrong, 0.0,
    )  # fmt: skip


def _right(tool: Tool, key: RunKey, truth: ResultWord) -> bool:
    return key in tool.entries and tool.entries[key].answer is truth


def _percent(rows: list[Standing]) -> tuple[Standing, ...]:
    best = max(row.points for row in rows)
    return tuple(_with_score(row, 100 * row.points / best if best > 0 else 0.0) for row in rows)


def _with_score(row: Standing, score: float) -> Standing:
    return replace(row, score=max(0.0, score))


def _limits(
    tools: Sequence[Tool],
    groups: Mapping[str, Sequence[RunKey]],
    known: Mapping[tuple[str, str, str], ListedVerdict],
    timeout: float | None,
) -> tuple[dict[RunKey, float], dict[str, str]]:
    """Time limit per instance, and per category in words where it comes from."""
    limits, sources = {}, {}
    for name, members in groups.items():
        longest = max(t.entries[k].seconds for t in tools for k in members if k in t.entries)
        fallback = longest if timeout is None else timeout
        listed = {k: known[k[:3]].timeout for k in members if k[:3] in known}
        for key in members:
            limits[key] = listed.get(key) or fallback
        stated = sum(bool(v) for v in listed.values())
        rest = (
            "" if stated == len(members) else f"--timeout {timeout:g}" if timeout else f"longest run, {longest:.1f} s"
        )
        sources[name] = " and ".join(filter(None, ("the list" if stated else "", rest)))
    return limits, sources


def _contradictions(tools: Sequence[Tool], truths: Mapping[RunKey, ReferenceVerdict]) -> list[Contradiction]:
    found = []
    for key, truth in truths.items():
        said = {a: tuple(t.name for t in tools if _right(t, key, a)) for a in (ResultWord.SAT, ResultWord.UNSAT)}
        against = truth.answer is not None and any(names for a, names in said.items() if a is not truth.answer)
        if all(said.values()) or against:
            found.append(Contradiction(key, said[ResultWord.SAT], said[ResultWord.UNSAT], truth))
    return found


def _times(tool: Tool, truths: Mapping[RunKey, ReferenceVerdict]) -> tuple[float, ...]:
    good = (e.seconds for key, e in tool.entries.items() if e.answer.solved and e.answer is truths[key].answer)
    return tuple(sorted(good))


def _coverage_of(known: Mapping[tuple[str, str, str], ListedVerdict], keys: Sequence[RunKey]) -> list[str]:
    """How many instances a given list knows: paths that are spelled differently would go unnoticed otherwise."""
    if not known:
        return []
    there = sum(key[:3] in known for key in keys)
    told = sum(key[:3] in known and known[key[:3]].answer is not None for key in keys)
    return [f"the list names {there} of these {len(keys)} instances and gives a verdict for {told}"]


def _notes(tools: Sequence[Tool], keys: Sequence[RunKey], truths: Mapping[RunKey, ReferenceVerdict]) -> list[str]:
    notes = []
    for tool in tools:
        absent = sum(key not in tool.entries for key in keys)
        if absent:
            notes.append(f"{tool.name}: {absent} of {len(keys)} instances are not in its file and count as unsolved")
        if tool.strange:
            words = ", ".join(repr(word) for word in tool.strange[:5])
            notes.append(f"{tool.name}: result words outside the competition's table count as unknown: {words}")
    guessed = sum(t.source == "majority" for t in truths.values())
    if guessed:
        notes.append(f"the truth of {guessed} contradicted instances is a guess by majority; replay their witnesses")
    return notes
