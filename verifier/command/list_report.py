"""The report of a list: one page with every instance, what settled when, what stayed open and why, and witnesses."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import vnnlib
from verifier.api import read_spec
from verifier.command import witness_picture
from verifier.command.ledger import Finished
from verifier.command.witness_picture import Pictured
from verifier.command.worker import Job, JobOutcome, Note
from verifier.files.whole import write
from verifier.page import cactus
from verifier.page.render import render
from verifier.page.style import Drawn
from verifier.page.table import Table

SHOWN = 24
"""Witnesses on the page; the folder of --witnesses holds all."""

LONGEST = 1500
"""Characters of a witness that are shown."""

CURVES = 10
"""Families with a curve of their own; with more there is one for all."""

MAX_PAGE = 1 << 28
"""Bytes of a page that is read back."""

_WORDS = ("unsat", "sat", "unknown", "timeout", "error", "not run")
_SETTLED = ("sat", "unsat")
_NOTES = re.compile(r'<script type="application/json" id="notes">(.*?)</script>', re.DOTALL)

LineKey = tuple[str, str, str]


@dataclass(frozen=True)
class ListRow:
    """A line of the list: `result` is a verdict word, `error` or `not run`, `seconds` are None for the last."""

    job: Job
    family: str
    result: str
    seconds: float | None
    note: Note

    @property
    def name(self) -> str:
        """Network and specification."""
        return f"{self.job.onnx} {self.job.vnnlib}"

    @property
    def time(self) -> str:
        """The seconds, for a table."""
        return "" if self.seconds is None else f"{self.seconds:.2f}"


@dataclass(frozen=True)
class Shown:
    """A witness: its text, cut to what a page can hold, and pictures where the input is an image."""

    name: str
    text: str
    pictured: Pictured | None


class Report:
    """Collects what the results file has no room for while a list runs (`heard`), and writes the page at the end.

    `path` may be a page that an earlier run of the list wrote: what is said there of instances that are not run again
    is kept. `earlier` finds the text of an earlier witness.
    """

    def __init__(
        self, path: Path, jobs: Sequence[Job], earlier: Callable[[Job], str | None] = lambda job: None
    ) -> None:
        self._path, self._jobs, self._earlier = path, jobs, earlier
        self._notes = _read_notes(path)
        self._witness: dict[LineKey, str] = {}

    def heard(self, job: Job, outcome: JobOutcome) -> None:
        """What became of a job."""
        self._notes[job.key] = outcome.note
        if outcome.witness and len(self._witness) < SHOWN:
            self._witness[job.key] = outcome.witness

    def write(
        self, finished: Sequence[Finished], settings: Mapping[str, object], facts: Sequence[tuple[str, str]]
    ) -> None:
        """The page, of the lines that are finished; the rest of the list is `not run`.

        Raises:
            OutputError: it cannot be written.
        """
        rows = self._rows(finished)
        write(self._path, self.page(rows, settings, facts), "the report")

    def page(self, rows: Sequence[ListRow], settings: Mapping[str, object], facts: Sequence[tuple[str, str]]) -> str:
        """The page as text."""
        counts = Counter(row.result for row in rows)
        return render(
            "instances.html",
            title=self._jobs[0].category,
            headline=headline(counts, len(rows)),
            stopped=counts["not run"],
            facts=facts,
            rows=rows,
            words=[word for word in _WORDS if counts[word]],
            families=list(dict.fromkeys(row.family for row in rows)),
            family_table=family_table(rows),
            cactus=draw_cactus(rows),
            open=left_open(rows),
            witnesses=[shown for row in rows if (shown := self._shown(row))][:SHOWN],
            sat=counts["sat"],
            settings=settings_table(settings),
            notes=[[*key, asdict(note)] for key, note in self._notes.items()],
        )

    def _rows(self, finished: Sequence[Finished]) -> list[ListRow]:
        waiting: dict[LineKey, list[Finished]] = {}
        for line in finished:
            waiting.setdefault(line.key, []).append(line)
        rows = []
        for job, family in zip(self._jobs, families(self._jobs), strict=True):
            lines = waiting.get(job.key)
            if lines:
                line = lines.pop(0)
                rows.append(ListRow(job, family, line.result, line.seconds, self._notes.get(job.key, Note())))
            else:
                rows.append(ListRow(job, family, "not run", None, Note()))
        return rows

    def _shown(self, row: ListRow) -> Shown | None:
        if row.result != "sat":
            return None
        job = row.job
        text = self._witness.get(job.key) or self._earlier(job)
        if text is None:
            return None
        return Shown(row.name, cut(text), pictured(text, job.spec, row.note.input_shape))


def settings_table(settings: Mapping[str, object]) -> Table:
    """Options by name."""
    rows = ((name, "-" if value is None else str(value)) for name, value in settings.items())
    return Table(("option", "value"), tuple(rows))


def cut(text: str) -> str:
    """A witness as far as a page has room for it."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n... ({len(text):,} characters in all)"


def pictured(text: str, spec: Path | vnnlib.Spec, shape: tuple[int, ...]) -> Pictured | None:
    """The pictures of a witness's text, where the input is an image."""
    if not witness_picture.is_image(shape):
        return None
    try:
        found = read_spec(spec)
        values = list(vnnlib.parse_witness(text, found).values())
        return witness_picture.draw(np.asarray(values[0], float).ravel(), vnnlib.normalise(found), shape)
    except (vnnlib.VnnLibError, OSError):  # the file is another one by now; the text of the witness is there still
        return None


def families(jobs: Sequence[Job]) -> list[str]:
    """The part of its name that each job is counted under: the folder of the network where there are several, else the
    network, else the folder of the specification, else the list."""
    ways: tuple[Callable[[Job], str], ...] = (
        lambda job: Path(job.onnx).parts[0] if len(Path(job.onnx).parts) > 1 else "",
        lambda job: Path(job.onnx.removesuffix(".gz")).stem,
        lambda job: Path(job.vnnlib).parent.name,
    )
    for way in ways:
        names = [way(job) for job in jobs]
        if len(set(names)) > 1:
            return [name or "." for name in names]
    return [job.category for job in jobs]


def headline(counts: Mapping[str, int], total: int) -> str:
    """How many are settled."""
    done = counts["sat"] + counts["unsat"]
    text = f"{done:,} of {total:,} settled: {counts['unsat']:,} unsat, {counts['sat']:,} sat"
    still = [f"{counts[word]:,} {word}" for word in _WORDS if word not in _SETTLED and counts[word]]
    return f"{text}; {', '.join(still)}." if still else f"{text}."


def family_table(rows: Sequence[ListRow]) -> Table:
    """Counts and times of every family."""
    lines = []
    for family in dict.fromkeys(row.family for row in rows):
        mine = [row for row in rows if row.family == family]
        counts = Counter(row.result for row in mine)
        times = [row.seconds for row in mine if row.seconds is not None]
        spread = (f"{np.median(times):.2f}", f"{max(times):.2f}", f"{sum(times):.2f}") if times else ("", "", "")
        lines.append((family, *(str(counts[word]) for word in _WORDS), *spread))
    return Table(("family", *_WORDS, "median s", "max s", "sum s"), tuple(lines))


def draw_cactus(rows: Sequence[ListRow]) -> Drawn | None:
    """How many are settled within how many seconds, by family where these are few; None where nothing is settled."""
    names = list(dict.fromkeys(row.family for row in rows))
    groups = {name: [row for row in rows if row.family == name] for name in names}
    if len(names) > CURVES:
        groups = {"all": list(rows)}
    times = {
        name: [row.seconds for row in mine if row.result in _SETTLED and row.seconds is not None]
        for name, mine in groups.items()
    }
    if not any(times.values()):
        return None
    totals = {name: len(mine) for name, mine in groups.items()}
    return cactus.draw(times, totals, "cactus", "Settled in time", "instances", False)


def left_open(rows: Sequence[ListRow]) -> list[tuple[str, str, list[ListRow]]]:
    """Reasons, the advice that goes with them, and the instances, of what ran and has no answer; most frequent
    first."""
    groups: dict[tuple[str, str], list[ListRow]] = {}
    for row in rows:
        if row.result not in (*_SETTLED, "not run"):
            reason = row.note.message or "the run that found this kept no reason"
            groups.setdefault((f"{row.result}: {reason}", row.note.advice), []).append(row)
    return [(*key, mine) for key, mine in sorted(groups.items(), key=lambda item: -len(item[1]))]


def _read_notes(path: Path) -> dict[LineKey, Note]:
    """The notes of a page that `Report` wrote; none of any other file."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_PAGE:
            return {}
        found = _NOTES.search(path.read_text(encoding="utf-8", errors="replace"))
        entries = json.loads(found[1]) if found else []
        return {(str(c), str(o), str(v)): _note(values) for c, o, v, values in entries}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _note(values: Mapping[str, object]) -> Note:
    """A note of plain data; TypeError or ValueError for anything else."""
    boxes, share, shape = values["boxes"], values["open_fraction"], values["input_shape"]
    if not isinstance(shape, list):
        raise ValueError("no shape")
    return Note(
        str(values["message"]),
        str(values["advice"]),
        str(values["strategy"]),
        None if boxes is None else int(str(boxes)),
        None if share is None else float(str(share)),
        tuple(int(size) for size in shape),
    )
