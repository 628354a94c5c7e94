"""The process that solves the instances of a list one after the other: imports once, keeps networks it has loaded."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import vnnlib
from verifier.api import load, read_spec, solve, with_proof
from verifier.budget import Budget, memory_limit
from verifier.command import report
from verifier.console import process
from verifier.errors import ProblemError, SecateurError
from verifier.options import Options
from vnnlib import VnnLibError

if TYPE_CHECKING:
    from verifier.graph.onnx_import import Model
    from verifier.result import Result
    from vnnlib import Spec

READY = "ready"

Tell = Callable[["Job", "JobOutcome"], None]
"""Hears what became of a job."""


@dataclass(frozen=True)
class Job:
    """One line of a list: the names as they stand there, the files they mean, and the time limit in seconds.

    `model` is None where the line names several networks; `proof` is where its proof goes, if one is asked for.
    """

    category: str
    onnx: str
    vnnlib: str
    model: Path | None
    spec: Path
    timeout: float | None
    proof: Path | None = None


@dataclass(frozen=True)
class Note:
    """What the results file has no room for: why, what would help, how it was searched and how far, and the shape of
    the network's input where it has only one."""

    message: str = ""
    advice: str = ""
    strategy: str = ""
    boxes: int | None = None
    open_fraction: float | None = None
    input_shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class JobOutcome:
    """What became of a job: a verdict word or `error`, and the text of a witness."""

    result: str
    seconds: float
    note: Note = Note()
    witness: str = ""

    @staticmethod
    def of(result: Result, spec: Spec, model: Model, seconds: float) -> JobOutcome:
        """What a result means for its job."""
        note = Note(
            result.reason,
            report.remedy(result),
            str(result.settings.get("strategy", "")),
            None if "boxes" not in result.counters else int(result.counters["boxes"]),
            result.open_fraction,
            tuple(model.input_shape),
        )
        witness = report.witness_text(result.witness, spec) if result.witness else ""
        return JobOutcome(result.verdict.value, seconds, note, witness)


class Worker(Protocol):
    """What runs in the process. It is pickled once, on its way there."""

    def prepare(self) -> None:
        """Called once in the new process, before the first job: slow imports."""

    def solve(self, job: Job) -> JobOutcome:
        """One job; an exception counts as `error`."""

    @property
    def together(self) -> int:
        """Most jobs of one network that `solve_together` takes at once."""
        return 1

    def solve_together(self, jobs: Sequence[Job], tell: Tell) -> None:
        """Jobs of one network; those that are not told of, or all of them after an exception, are solved one by one."""


class EngineWorker(Worker):
    """Solves jobs with the real engine. `processes` workers share the memory of the machine."""

    CACHED_BYTES = 512 << 20
    TOGETHER = 16

    def __init__(self, options: Options, processes: int = 1) -> None:
        self._options, self._processes = options, processes
        self._models: OrderedDict[Path, Model] = OrderedDict()

    def prepare(self) -> None:
        """Imports what every job needs."""
        process.keep_freed_memory()
        process.wait_without_spinning()
        import verifier.engine  # noqa: F401 (brings everything)

    def solve(self, job: Job) -> JobOutcome:
        """Loads (or reuses) the network, parses the specification and runs the engine."""
        if job.model is None:
            raise ProblemError(f"found several networks, expected 1: {job.onnx[:200]}")
        started = time.monotonic()
        budget = Budget.of(job.timeout, memory_limit(self._options.memory, self._processes))
        spec = read_spec(job.spec)
        model = self._load(job.model)
        if job.proof is None:
            result = solve(model, spec, self._options, budget)
        else:
            files = job.model, job.spec
            result = with_proof(files, job.proof, lambda proof: solve(model, spec, self._options, budget, proof=proof))
        return JobOutcome.of(result, spec, model, time.monotonic() - started)

    @property
    def together(self) -> int:
        """See `Worker`."""
        return self.TOGETHER

    def solve_together(self, jobs: Sequence[Job], tell: Tell) -> None:
        """One search for all of them; a job's seconds are its own and its part of the common steps."""
        from verifier.engine.together import Question, solve_together

        assert jobs[0].model is not None
        started = time.monotonic()
        specs = [read_spec(job.spec) for job in jobs]
        model = self._load(jobs[0].model)
        before = (time.monotonic() - started) / len(jobs)
        left = [None if job.timeout is None else job.timeout - before for job in jobs]
        questions = [Question(vnnlib.normalise(s), seconds) for s, seconds in zip(specs, left, strict=True)]

        def settled(i: int, result: Result) -> None:
            tell(jobs[i], JobOutcome.of(result, specs[i], model, before + result.seconds))

        longest = None if any(s is None for s in left) else sum(s for s in left if s is not None)
        budget = Budget.of(longest, memory_limit(self._options.memory, self._processes))
        solve_together(model, questions, self._options, budget, settled)

    def _load(self, path: Path) -> Model:
        """The network of a file, from the cache if it is there; the least recently used ones make room."""
        if path not in self._models:
            self._models[path] = load(path)
        self._models.move_to_end(path)
        while len(self._models) > 1 and sum(len(model.bytes) for model in self._models.values()) > self.CACHED_BYTES:
            self._models.popitem(last=False)
        return self._models[path]


def serve(channel: Connection, worker: Worker) -> None:
    """Main function of the process: answers each list of jobs on `channel` with a (job, outcome) for every one, the
    moment it is there, until the channel closes. The name of a job alone says that it is solved by itself from now on.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent decides what it means
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    worker.prepare()
    channel.send(READY)
    while True:
        try:
            jobs = channel.recv()
        except EOFError:
            return
        _answer(channel, worker, jobs)


def _answer(channel: Connection, worker: Worker, left: list[Job]) -> None:
    def tell(job: Job, outcome: JobOutcome) -> None:
        left.remove(job)
        channel.send((job, outcome))

    if len(left) > 1:
        with suppress(Exception):  # whatever it was: each is asked alone, and says what is wrong with it
            worker.solve_together(list(left), tell)
    for job in list(left):
        channel.send(job)
        tell(job, _attempt(worker, job))


def _attempt(worker: Worker, job: Job) -> JobOutcome:
    started = time.monotonic()
    try:
        return worker.solve(job)
    except (SecateurError, VnnLibError) as error:
        message = " ".join(str(error).split())
    except Exception as error:  # whatever it was, the other instances go on
        message = f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"
    return JobOutcome("error", time.monotonic() - started, Note(message))


def _die_with_parent() -> None:
    """Ends this process when the parent is gone, also by SIGKILL, and also in the middle of a job."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
