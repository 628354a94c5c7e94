"""Runs a list of instances where an executor does; survives crashing workers, and a kill of itself.

Every finished instance is a line of the results file at once. Started again with the same files, the run goes on
behind the lines that are there.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from verifier.command.ledger import Finished, open_results
from verifier.command.worker import Job, JobOutcome, Note, Tell
from verifier.errors import OutputError, ProblemError
from verifier.executors.executor import Began, Done, Executor, Failed, Lost, Said, TaskEvent
from verifier.files.ledger import Ledger
from verifier.files.whole import make_folder, write
from verifier.progress import StatusLine
from vnnlib import parse_networks, read_instances

KILL_AFTER = 10.0
"""Seconds after its time limit at which a worker that has not answered is killed."""
_WORDS = ("sat", "unsat", "unknown", "timeout", "error")


@dataclass(frozen=True)
class Outcomes:
    """What a run of a list did: rows of this run, how many of the list were there before, whether a signal ended it,
    all lines of the results file, and where it ran (nothing where nothing was left to do)."""

    rows: tuple[Finished, ...]
    skipped: int
    seconds: float
    stopped: bool = False
    lines: tuple[Finished, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()

    @property
    def errors(self) -> int:
        """Instances without a verdict."""
        return sum(row.result == "error" for row in self.rows)

    def table(self) -> str:
        """A line per category with counts and times, for people."""
        lines: list[tuple[str, ...]] = [("category", *_WORDS, "median s", "max s", "sum s")]
        for category in dict.fromkeys(row.category for row in self.rows):
            rows = [row for row in self.rows if row.category == category]
            times = sorted(row.seconds for row in rows)
            counts = Counter(row.result for row in rows)
            spread = (times[len(times) // 2], times[-1], sum(times))
            lines.append((category, *(str(counts[word]) for word in _WORDS), *(f"{value:.2f}" for value in spread)))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            line[0].ljust(widths[0]) + "".join(f"  {cell:>{w}}" for cell, w in zip(line[1:], widths[1:], strict=True))
            for line in lines
        ]
        done = f"{len(self.rows)} instances in {self.seconds:.1f} s"
        text.append(done + (f", {self.skipped} were done before" if self.skipped else ""))
        if self.stopped:
            text.append("stopped; the same command goes on from here")
        return "\n".join(text)


def read_list(path: str | os.PathLike[str], cap: float | None = None) -> list[Job]:
    """The jobs of an instances.csv; paths are relative to its folder, `cap` limits every time limit.

    Raises:
        vnnlib.VnnLibError: the file cannot be read or a line is malformed.
        ProblemError: the list is empty.
    """
    folder = Path(path).absolute().parent
    jobs = []
    for entry in read_instances(path):
        timeout = entry.timeout if cap is None else min(entry.timeout, cap)
        single = len(entry.networks) == 1
        onnx = entry.networks[0][1] if single else repr(list(entry.networks))
        model = _locate(folder, onnx) if single else None
        several = () if single else tuple((name, _locate(folder, path)) for name, path in entry.networks)
        spec = _locate(folder, entry.vnnlib)
        jobs.append(Job(_category(folder), onnx, entry.vnnlib, model, spec, timeout, several=several))
    if not jobs:
        raise ProblemError(f"{path}: found no instances, expected lines model,spec,timeout")
    return jobs


def _category(folder: Path) -> str:
    """The benchmark's name: the folder of the list, or the one above where that only names a VNN-LIB version."""
    return folder.parent.name if re.fullmatch(r"\d\.\d", folder.name) else folder.name


def _locate(folder: Path, name: str) -> Path:
    """The file that a list means: as named, or with `.gz`; a file that is missing is reported by its reader."""
    path = folder / name
    packed = path.with_name(path.name + ".gz")
    return packed if not path.exists() and packed.exists() else path


@dataclass
class _Group:
    """Jobs that an executor was given as one task: their places in it and whether each has its line; `together` while
    several are searched at once."""

    jobs: tuple[Job, ...]
    kill_at: float
    given: float = field(default_factory=time.monotonic)
    began: float | None = None
    together: bool = False
    told: set[int] = field(default_factory=set)

    @property
    def left(self) -> list[int]:
        """Those without a line."""
        return [i for i in range(len(self.jobs)) if i not in self.told]

    def start(self, places: Sequence[int]) -> None:
        """The clock of these jobs starts."""
        self.began, self.together = time.monotonic(), len(places) > 1
        limits = (self.jobs[i].timeout for i in places)
        self.kill_at = self.began + sum(math.inf if limit is None else limit for limit in limits) + KILL_AFTER


@dataclass
class _Run:
    """The state of a running list; `run_list` explains it."""

    ledger: Ledger[Finished]
    executor: Executor[Sequence[Job]]
    most: int
    pending: deque[Job]
    witnesses: Path | None
    witness_names: dict[tuple[str, str], str]
    talk: int
    line: StatusLine
    total: int
    heard: Tell
    started: float = field(default_factory=time.monotonic)
    rows: list[Finished] = field(default_factory=list)
    stopped: bool = False
    alone: set[Job] = field(default_factory=set)
    lost: Counter[Job] = field(default_factory=Counter)
    running: dict[int, _Group] = field(default_factory=dict)

    def step(self) -> None:
        """Hands out jobs, waits a moment, collects what has come."""
        while self.pending and len(self.running) < self.executor.width():
            jobs = self._next()
            number = self.executor.give(jobs)
            self.running[number] = _Group(tuple(jobs), time.monotonic() + self.executor.start_limit)
        for number, event in self.executor.wait(0.2):
            self._collect(number, event)
        now = time.monotonic()
        for number, group in list(self.running.items()):
            if now > group.kill_at:
                self.executor.kill(number)
                if group.began is None:
                    self._end(number, "error", "imports took too long", retries=0)
                else:
                    self._end(number, "timeout", "killed: no answer after the time limit", retries=0)
        self.line.show(self._bar())

    def _next(self) -> list[Job]:
        """The next job, and others of its network as far as the worker takes them and no process goes without work."""
        first = self.pending.popleft()
        most = min(self.most, -(-(len(self.pending) + 1) // min(self.executor.width(), self.total)))
        if first in self.alone or first.model is None or first.proof is not None:
            return [first]  # a proof is about one pair of files
        jobs = [first]
        for job in list(self.pending):
            if len(jobs) < most and job.model == first.model and job not in self.alone and job not in jobs:
                jobs.append(job)
                self.pending.remove(job)
        return jobs

    def _collect(self, number: int, event: TaskEvent) -> None:
        group = self.running[number]
        match event:
            case Began():
                group.start(group.left)
            case Said((place, outcome)):
                group.told.add(place)
                self._record(group.jobs[place], outcome)
            case Said(place):
                group.start([place])
            case Done() if not group.left:
                del self.running[number]
            case Done():
                self._end(number, "error", "the worker ended without an answer", retries=0)
            case Failed(error):  # nothing about a job: those are answers
                raise error
            case Lost(why):
                self._end(number, "error", why, self.executor.retries)

    def _end(self, number: int, word: str, why: str, retries: int) -> None:
        """A group ended before its time. Jobs that were searched together are tried again one by one, and so are those
        that waited behind the one; that one has `retries` more, then it gets `word`."""
        group = self.running.pop(number)
        jobs = [group.jobs[i] for i in group.left]
        running = jobs if group.together else jobs[:1]
        self.lost.update(running)
        if not group.together:
            for job in running:
                if self.lost[job] > retries:
                    jobs.remove(job)
                    seconds = time.monotonic() - (group.given if group.began is None else group.began)
                    self._record(job, JobOutcome(word, seconds, Note(why)))
        if jobs and self.talk:
            self.line.print(f"{why}: {len(jobs)} instances are tried again, one by one")
        self.alone.update(jobs)
        self.pending.extendleft(reversed(jobs))

    def _record(self, job: Job, outcome: JobOutcome) -> None:
        if outcome.proof is not None and job.proof is not None:  # before its line: a line promises the files
            write(job.proof, outcome.proof, "the proof")
        if outcome.witness and self.witnesses is not None:
            write(self.witnesses / self.witness_names[job.onnx, job.vnnlib], outcome.witness, "the witness")
        row = Finished(*job.key, outcome.result, outcome.seconds)
        self.ledger.append(row)
        self.rows.append(row)
        self.heard(job, outcome)
        if self.talk > 1 or (self.talk and outcome.result == "error"):
            self.line.print(
                f"{outcome.result:8}{outcome.seconds:8.2f} s  {job.onnx} {job.vnnlib}  {outcome.note.message}"
            )

    def _bar(self) -> str:
        done, width = self.total - len(self.pending) - sum(len(group.left) for group in self.running.values()), 24
        filled = width * done // max(1, self.total)
        counts = Counter(row.result for row in self.rows)
        words = "  ".join(f"{word} {counts[word]}" for word in _WORDS if counts[word])
        elapsed = int(time.monotonic() - self.started)
        return (
            f"[{'#' * filled}{'.' * (width - filled)}] {done}/{self.total}  {words}  {elapsed // 60}:{elapsed % 60:02d}"
        )


def unheard(job: Job, outcome: JobOutcome) -> None:
    """Nobody asks."""


def run_list(
    jobs: Sequence[Job],
    results: str | os.PathLike[str],
    executor: Executor[Sequence[Job]],
    *,
    most: int = 1,
    witnesses: str | os.PathLike[str] | None = None,
    proofs: str | os.PathLike[str] | None = None,
    talk: int = 0,
    heard: Tell = unheard,
) -> Outcomes:
    """Runs `jobs` in groups of one network, of at most `most`, and appends a line to `results` for each.

    A worker that dies gives its instance `error`, where the executor allows no retry or the retry died as well; one
    that does not answer `KILL_AFTER` seconds after the time limit is killed and gives it `timeout`. SIGINT and SIGTERM
    end the run; what was running has no line and is run again next time. `witnesses` is the folder for counterexample
    files, `proofs` that for proofs. `talk`: 0 nothing, 1 progress bar and errors, 2 also a line for every instance.
    `heard` hears of every job that has its line.

    Raises:
        OutputError: a results or witness file cannot be written, or a file was changed since the results were.
    """
    folder = None if witnesses is None else Path(witnesses)
    written = Path(results).stat().st_mtime if Path(results).exists() else math.inf
    with open_results(results) as ledger:
        if folder is not None:
            make_folder(folder, what="the folder for witnesses")
        if proofs is not None:
            make_folder(Path(proofs), what="the folder for proofs")
            names = file_names(jobs, "proof")
            jobs = [replace(job, proof=Path(proofs) / names[job.onnx, job.vnnlib]) for job in jobs]
        pending = _still_to_do(jobs, ledger)
        _refuse_changed(results, written, set(jobs).difference(pending))
        line = StatusLine(sys.stderr)
        line.enabled = line.enabled and talk > 0
        names = file_names(jobs, "counterexample")
        skipped = len(jobs) - len(pending)
        facts: list[tuple[str, str]] = []
        with executor if pending else nullcontext():
            facts += executor.facts() if pending else []
            run = _Run(ledger, executor, most, pending, folder, names, talk, line, len(pending), heard)
            with _stop_on_signal(run):
                try:
                    while not run.stopped and (run.pending or run.running):
                        run.step()
                finally:
                    line.clear()
        seconds = time.monotonic() - run.started
        return Outcomes(tuple(run.rows), skipped, seconds, run.stopped, tuple(ledger.rows), tuple(facts))


def file_names(jobs: Sequence[Job], suffix: str) -> dict[tuple[str, str], str]:
    """File names of counterexamples, or proofs, by (onnx, vnnlib), as VNN-COMP forms them from the two file names.

    Where these are the same for several instances (files of one name in several folders), the folders are part of the
    name, and where that is not enough a part of a hash, so that no file takes the place of another.
    """
    pairs = dict.fromkeys((job.onnx, job.vnnlib) for job in jobs)
    short = Counter((_stem(onnx), _stem(vnnlib)) for onnx, vnnlib in pairs)
    names = {}
    for onnx, vnnlib in pairs:
        parts = _stem(onnx), _stem(vnnlib)
        if short[parts] > 1:
            parts = _flat_stem(onnx), _flat_stem(vnnlib)
        names[onnx, vnnlib] = f"{parts[0]}_{parts[1]}"
    same = Counter(names.values())  # a_b and c, a and b_c; ../a and a
    for pair, name in names.items():
        tail = f"_{hashlib.sha256(repr(pair).encode()).hexdigest()[:16]}" if same[name] > 1 else ""
        names[pair] = f"{name}{tail}.{suffix}"
    return names


def _still_to_do(jobs: Sequence[Job], ledger: Ledger[Finished]) -> deque[Job]:
    """The jobs without a line; a job that stands twice in the list needs two lines."""
    done = Counter(row.key for row in ledger.rows)
    pending: deque[Job] = deque()
    for job in jobs:
        if done[job.key] > 0:
            done[job.key] -= 1
        else:
            pending.append(job)
    return pending


def _refuse_changed(results: str | os.PathLike[str], written: float, done: Set[Job]) -> None:
    """Raises OutputError where a file was changed after the results `written` last: a line says only names."""
    for path in sorted({path for job in done for path in (*job.models, job.spec)}):
        with suppress(OSError):  # a file that is gone is no other one
            if path.stat().st_mtime > written:
                raise OutputError(
                    f"{results}: has a line about {path}, which was changed since; delete the lines that are not about"
                    " today's files, or `touch` the results where nothing has changed"
                )


@contextmanager
def _stop_on_signal(run: _Run) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        run.stopped = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _flat_stem(name: str) -> str:
    """The stem with the folders in front, joined by underscores."""
    if name.startswith("["):
        return "-".join(_flat_stem(path) for _, path in parse_networks(name))
    return "_".join([*(part for part in Path(name).parent.parts if part not in (".", "..", "/")), _stem(name)])


def _stem(name: str) -> str:
    """File name without folder, `.gz` and its own suffix, as VNN-COMP names counterexample files; of several, all."""
    if name.startswith("["):
        return "-".join(_stem(path) for _, path in parse_networks(name))
    return Path(Path(name).name.removesuffix(".gz")).stem
