"""What `secateur compare` prints: tables and checks (rich), and one progress line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from pruning.study import goals, headline, words
from pruning.study.analysis import Analysis
from pruning.study.runner import StudyProgress, TellProgress
from pruning.study.summary import label
from pruning.study.tools.scoring import Comparison, Standing
from verifier.progress import StatusLine

if TYPE_CHECKING:
    from rich.console import Console

MAX_LISTED = 20


def print_analysis(analysis: Analysis, console: Console) -> None:
    """The study's tables, its checks and its notes."""
    rows = [
        (
            s.label,
            words.interval(s.coverage, 100),
            words.interval(s.verified, 100),
            words.interval(s.clean_error, 100, decimals=2),
            words.interval(s.seconds),
            words.number(s.boxes.value),
            f"{words.number(s.unstable.value)} ({100 * s.unstable_ratio.value:.1f} %)",
            f"{s.networks} x {s.images}",
        )
        for s in analysis.summaries
    ]
    heads = ("network", "certified %", "verified %", "clean error %", "median s", "boxes", "unstable", "nets x images")
    _table(console, analysis.title, heads, rows)
    pairs = [
        (
            f"{label(c.treatment)} vs {label(c.baseline)}",
            words.interval(c.coverage, 100, sign=True),
            words.interval(c.verified, 100, sign=True),
            words.interval(c.time),
            words.interval(c.clean_error),
            words.p_value(c.holm),
        )
        for c in analysis.effects
    ]
    if pairs:
        columns = (
            "paired, 95 % interval",
            "certified, points",
            "verified, points",
            "time, x",
            "clean error, x",
            "Holm p",
        )
        _table(console, "", columns, pairs)
    if analysis.rates:
        titles = ("verified % at a limit of", *(f"{words.number(limit)} s" for limit in analysis.rates[0].limits))
        shown = [(r.label, *(f"{100 * v.value:.1f}" for v in r.verified)) for r in analysis.rates]
        _table(console, "", titles, shown)
    console.print(headline.sentences(analysis), markup=False, highlight=False, soft_wrap=True)
    for title, checks in (("Success criterion", analysis.criterion), ("Goals", analysis.goals)):
        if checks:
            _checks(console, title, checks)
    for note in analysis.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def print_comparison(comparison: Comparison, console: Console, per_category: bool = True) -> None:
    """Standings per category and overall, contradictions, notes."""
    if per_category and len(comparison.categories) > 1:
        for name, standings in comparison.categories.items():
            _standings(console, f"{name} (limit: {comparison.limits[name]})", standings, "score %")
    title = "overall" if len(comparison.categories) > 1 else next(iter(comparison.categories))
    _standings(console, title, comparison.overall, "score, sum of %")
    for found in comparison.contradictions[:MAX_LISTED]:
        truth = "open" if found.truth.answer is None else f"{found.truth.answer.value} ({found.truth.source})"
        sides = f"sat: {', '.join(found.sat) or '-'}; unsat: {', '.join(found.unsat) or '-'}; taken as {truth}"
        console.print(f"contradiction: {' '.join(found.key[:3])}: {sides}", markup=False, highlight=False)
    more = len(comparison.contradictions) - MAX_LISTED
    if more > 0:
        console.print(f"contradiction: and {more} more (all are in --json)", markup=False, highlight=False)
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False, highlight=False)


@contextmanager
def progress_told(stream: TextIO) -> Iterator[TellProgress]:
    """Tells how far a study is: a line rewritten in place on a terminal, a line every 30 seconds elsewhere."""
    line = StatusLine(stream, elsewhere=30.0)
    try:
        yield lambda progress: line.show(_progress(progress), last=progress.done == progress.total)
    finally:
        line.clear()


def _progress(progress: StudyProgress) -> str:
    parts = [f"{progress.done} of {progress.total} results"]
    if progress.row is not None:
        parts.append(f"image {progress.row.image}, {progress.row.name}: {progress.row.verdict}")
    if progress.seconds_left is not None and progress.done < progress.total:
        parts.append(f"{words.duration(progress.seconds_left)} left")
    return ", ".join(parts)


def _standings(console: Console, title: str, standings: Sequence[Standing], score: str) -> None:
    counts = ("sat", "unsat", "right", "unique", "wrong", "timeout", "error", "other")
    heads = ("tool", *counts, "PAR-2 s", "points", score)
    rows = [
        (
            s.tool, str(s.sat), str(s.unsat), f"{s.right} of {s.instances}", str(s.unique), str(s.wrong),
            str(s.timeout), str(s.error), str(s.other + s.missing), words.number(s.par2), str(s.points),
            f"{s.score:.1f}",
        )
        for s in standings
    ]  # fmt: skip
    _table(console, title, heads, rows)


def _table(console: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, title=title and Text(title), title_justify="left", pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)


def _checks(console: Console, title: str, checks: Sequence[goals.Check]) -> None:
    shown = goals.measured(checks)
    if not shown:
        return
    rows = [(c.what, c.wanted, c.found, c.outcome.value) for c in shown]
    _table(console, f"{title}: {goals.verdict(shown).value}", ("condition", "wanted", "found", "result"), rows)
