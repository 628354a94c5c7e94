"""Runs a list of instances in worker processes; survives crashing workers, and a kill of itself.

Every finished instance is a line of the results file at once. Started again with the same files, the run goes on
behind the lines that are there.
"""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import connection, get_context
from pathlib import Path
from types import FrameType
from typing import Any

from verifier.command.ledger import Finished, open_results
from verifier.command.worker import READY, Job, JobOutcome, Note, Tell, Worker, serve
from verifier.errors import ProblemError
from verifier.files.ledger import Ledger
from verifier.files.whole import make_folder, write
from verifier.progress import StatusLine
from vnnlib import read_instances

KILL_AFTER = 10.0
"""Seconds after its time limit at which a worker that has not answered is killed."""
START_LIMIT = 180.0
"""Seconds that a new process may take for its imports."""
_WORDS = ("sat", "unsat", "unknown", "timeout", "error")


@dataclass(frozen=True)
class Outcomes:
    """What a run of a list did: rows of this run, how many of the list were there before, whether a signal ended it,
    and all lines of the results file."""

    rows: tuple[Finished, ...]
    skipped: int
    seconds: float
    stopped: bool = False
    lines: tuple[Finished, ...] = ()

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
        jobs.append(Job(_category(folder), onnx, entry.vnnlib, model, _locate(folder, entry.vnnlib), timeout))
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
class _Slot:
    """One worker process and the jobs that it has not answered; `together` while it searches several at once."""

    process: Any = None
    channel: Any = None
    jobs: list[Job] = field(default_factory=list)
    together: bool = False
    ready: bool = False
    sent: float = 0.0
    kill_at: float = math.inf

    def start(self, worker: Worker) -> None:
        context = get_context("spawn")  # a fork of a process with threads or CUDA may hang
        self.channel, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, worker), daemon=True)
        self.process.start()
        theirs.close()  # so that the death of the worker is the end of the channel
        self.ready, self.sent = False, time.monotonic()
        self.kill_at = self.sent + START_LIMIT

    def assign(self, jobs: list[Job]) -> None:
        self.jobs, self.together = list(jobs), len(jobs) > 1
        if self.ready:
            self.began(jobs)
        with suppress(OSError):  # it died while idle: the end of the channel says so in the next step
            self.channel.send(list(jobs))

    def became_ready(self) -> None:
        self.ready = True
        self.began(self.jobs)

    def began(self, jobs: Sequence[Job]) -> None:
        """The clock of these jobs starts."""
        self.sent = time.monotonic()
        limit = sum(math.inf if job.timeout is None else job.timeout for job in jobs)
        self.kill_at = self.sent + limit + KILL_AFTER

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.channel.close()
            self.process = None


@dataclass
class _Run:
    """The state of a running list; `run_list` explains it."""

    ledger: Ledger[Finished]
    worker: Worker
    pending: deque[Job]
    slots: list[_Slot]
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

    def step(self) -> None:
        """Hands out jobs, waits a moment, collects what has come."""
        for slot in self.slots:
            if not slot.jobs and self.pending:
                if slot.process is None:
                    slot.start(self.worker)
                slot.assign(self._next())
        busy = {slot.channel: slot for slot in self.slots if slot.jobs}
        for channel in connection.wait(list(busy), timeout=0.2):
            self._collect(busy[channel])
        now = time.monotonic()
        for slot in busy.values():
            if slot.jobs and now > slot.kill_at:
                word = "timeout" if slot.ready else "error"
                self._end(
                    slot, word, "killed: no answer after the time limit" if slot.ready else "imports took too long"
                )
        self.line.show(self._bar())

    def _next(self) -> list[Job]:
        """The next job, and others of its network as far as the worker takes them and no process goes without work."""
        first = self.pending.popleft()
        most = min(self.worker.together, -(-(len(self.pending) + 1) // len(self.slots)))
        if first in self.alone or first.model is None or first.proof is not None:
            return [first]  # a proof is about one pair of files
        jobs = [first]
        for job in list(self.pending):
            if len(jobs) < most and job.model == first.model and job not in self.alone and job not in jobs:
                jobs.append(job)
                self.pending.remove(job)
        return jobs

    def _collect(self, slot: _Slot) -> None:
        try:
            message = slot.channel.recv()
        except (EOFError, OSError):
            slot.process.join(5)
            self._end(slot, "error", f"the worker process died ({_exit_text(slot.process.exitcode)})")
            return
        if message == READY:
            slot.became_ready()
        elif isinstance(message, Job):
            slot.together = False
            slot.began([message])
        else:
            self._record(slot, *message)

    def _end(self, slot: _Slot, word: str, why: str) -> None:
        """The worker is dead or has to be; its job gets `word`, and the next job a new process. Jobs that were searched
        together are tried again one by one, and so are those that waited behind the one."""
        slot.kill()
        first, *waiting = slot.jobs
        if slot.together:
            waiting = slot.jobs
        self.alone.update(waiting)
        self.pending.extendleft(reversed(waiting))
        slot.jobs = [] if slot.together else [first]
        if slot.jobs:
            self._record(slot, first, JobOutcome(word, time.monotonic() - slot.sent, Note(why)))

    def _record(self, slot: _Slot, job: Job, outcome: JobOutcome) -> None:
        slot.jobs.remove(job)
        if not slot.jobs:
            slot.kill_at = math.inf
        if outcome.witness and self.witnesses is not None:  # before its line: a line promises the file
            write(self.witnesses / self.witness_names[job.onnx, job.vnnlib], outcome.witness, "the witness")
        row = Finished(job.category, job.onnx, job.vnnlib, outcome.result, outcome.seconds)
        self.ledger.append(row)
        self.rows.append(row)
        self.heard(job, outcome)
        if self.talk > 1 or (self.talk and outcome.result == "error"):
            self.line.print(
                f"{outcome.result:8}{outcome.seconds:8.2f} s  {job.onnx} {job.vnnlib}  {outcome.note.message}"
            )

    def _bar(self) -> str:
        done, width = self.total - len(self.pending) - sum(len(slot.jobs) for slot in self.slots), 24
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
    processes: int,
    worker: Worker,
    *,
    witnesses: str | os.PathLike[str] | None = None,
    proofs: str | os.PathLike[str] | None = None,
    talk: int = 0,
    heard: Tell = unheard,
) -> Outcomes:
    """Runs `jobs` in `processes` workers and appends a line to `results` for each.

    A worker that dies gives its instance `error`, one that does not answer `KILL_AFTER` seconds after the time limit is
    killed and gives it `timeout`; both are replaced. SIGINT and SIGTERM end the run; what was running has no line and
    is run again next time. `witnesses` is the folder for counterexample files, `proofs` that for proofs. `talk`: 0
    nothing, 1 progress bar and errors, 2 also a line for every instance. `heard` hears of every job that has its line.

    Raises:
        OutputError: a results or witness file cannot be written.
    """
    folder = None if witnesses is None else Path(witnesses)
    with open_results(results) as ledger:
        if folder is not None:
            make_folder(folder, what="the folder for witnesses")
        if proofs is not None:
            make_folder(Path(proofs), what="the folder for proofs")
            names = file_names(jobs, "proof")
            jobs = [
                replace(job, proof=Path(proofs) / names[job.onnx, job.vnnlib]) if job.model is not None else job
                for job in jobs
            ]
        pending = _still_to_do(jobs, ledger)
        slots = [_Slot() for _ in range(min(processes, len(pending)))]
        line = StatusLine(sys.stderr)
        line.enabled = line.enabled and talk > 0
        names = file_names(jobs, "counterexample")
        run = _Run(ledger, worker, pending, slots, folder, names, talk, line, len(pending), heard)
        skipped = len(jobs) - len(pending)
        with _threads_shared(processes), _stop_on_signal(run):
            try:
                while not run.stopped and (run.pending or any(slot.jobs for slot in slots)):
                    run.step()
            finally:
                line.clear()
                for slot in slots:
                    slot.kill()
        return Outcomes(tuple(run.rows), skipped, time.monotonic() - run.started, run.stopped, tuple(ledger.rows))


def file_names(jobs: Sequence[Job], suffix: str) -> dict[tuple[str, str], str]:
    """File names of counterexamples, or proofs, by (onnx, vnnlib), as VNN-COMP forms them from the two file names.

    Where these are the same for several instances (files of one name in several folders), the folders are part of the
    name, so that no file takes the place of another.
    """
    pairs = dict.fromkeys((job.onnx, job.vnnlib) for job in jobs if job.model is not None)
    short = Counter((_stem(onnx), _stem(vnnlib)) for onnx, vnnlib in pairs)
    names = {}
    for onnx, vnnlib in pairs:
        parts = _stem(onnx), _stem(vnnlib)
        if short[parts] > 1:
            parts = _flat_stem(onnx), _flat_stem(vnnlib)
        names[onnx, vnnlib] = f"{parts[0]}_{parts[1]}.{suffix}"
    return names


def _still_to_do(jobs: Sequence[Job], ledger: Ledger[Finished]) -> deque[Job]:
    """The jobs without a line; a job that stands twice in the list needs two lines."""
    done = Counter(row.key for row in ledger.rows)
    pending: deque[Job] = deque()
    for job in jobs:
        key = (job.category, job.onnx, job.vnnlib)
        if done[key] > 0:
            done[key] -= 1
        else:
            pending.append(job)
    return pending


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


@contextmanager
def _threads_shared(processes: int) -> Iterator[None]:
    """Workers started inside divide the cores among them, unless the user has said otherwise."""
    if processes == 1 or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // processes))
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        try:
            return f"{signal.Signals(-code).name}{', perhaps out of memory' if code == -signal.SIGKILL else ''}"
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def _flat_stem(name: str) -> str:
    """The stem with the folders in front, joined by underscores."""
    return "_".join([*(part for part in Path(name).parent.parts if part not in (".", "..", "/")), _stem(name)])


def _stem(name: str) -> str:
    """File name without folder, `.gz` and its own suffix, as VNN-COMP names counterexample files."""
    return Path(Path(name).name.removesuffix(".gz")).stem
