"""What solves the instances of a list in a process of its own: imports once, keeps networks it has loaded."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import vnnlib
from verifier.api import in_order, load, read_spec, solve, with_proof
from verifier.budget import Budget, memory_limit
from verifier.command import report
from verifier.command.ledger import Instance
from verifier.console import process
from verifier.errors import SecateurError
from verifier.executors.executor import Emit, Servant
from verifier.options import Options
from vnnlib import VnnLibError

if TYPE_CHECKING:
    from verifier.graph.onnx_import import Model
    from verifier.result import Result
    from vnnlib import Spec

Tell = Callable[["Job", "JobOutcome"], None]
"""Hears what became of a job."""

Message = int | tuple[int, "JobOutcome"]
"""See `Worker`."""


@dataclass(frozen=True)
class Job(Instance):
    """One line of a list: the names, the files they mean, and the time limit in seconds.

    `model` is None where the line names several networks, which are in `several` by their names; `proof` is where its
    proof goes, if one is asked for.
    """

    model: Path | None
    spec: Path
    timeout: float | None
    proof: Path | None = None
    several: tuple[tuple[str, Path], ...] = ()

    @property
    def models(self) -> tuple[Path, ...]:
        """The files of its networks."""
        return (self.model,) if self.model is not None else tuple(path for _, path in self.several)


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
    """What became of a job: a verdict word or `error`, the text of a witness, a proof that was written elsewhere."""

    result: str
    seconds: float
    note: Note = Note()
    witness: str = ""
    proof: bytes | None = None

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


class Worker(Servant[Sequence[Job]]):
    """What solves jobs of one network in a process, one after the other or together.

    Says (i, outcome) for each, the moment it is there, and i alone when job i is begun by itself.
    """

    def solve(self, job: Job) -> JobOutcome:
        """One job; an exception counts as `error`."""
        raise NotImplementedError

    @property
    def together(self) -> int:
        """Most jobs of one network that `solve_together` takes at once."""
        return 1

    def solve_together(self, jobs: Sequence[Job], tell: Tell) -> None:
        """Jobs of one network; those that are not told of, or all of them after an exception, are solved one by one."""

    def do(self, task: Sequence[Job], emit: Emit) -> None:
        """See `Servant`."""
        left = list(range(len(task)))

        def tell(job: Job, outcome: JobOutcome) -> None:
            i = next(i for i in left if task[i] == job)
            left.remove(i)
            emit((i, outcome))

        if len(task) > 1:
            with suppress(Exception):  # whatever it was: each is asked alone, and says what is wrong with it
                self.solve_together(task, tell)
        for i in list(left):
            emit(i)
            emit((i, _attempt(self, task[i])))

    def files(self, task: Sequence[Job]) -> dict[Path, tuple[Path, ...]]:
        """See `Servant`."""
        from verifier.graph.onnx_import.source import files_of  # onnx; asked only where files travel

        found: dict[Path, tuple[Path, ...]] = {}
        for job in task:
            for path in job.models:
                if path not in found:
                    found[path] = tuple(files_of(path)[1:])
            found[job.spec] = ()
        return found

    def moved(self, task: Sequence[Job], places: Mapping[Path, Path], folder: Path) -> list[Job]:
        """See `Servant`. What is missing where the list is read is missing here, whatever has its name here."""

        def there(path: Path) -> Path:
            return places.get(path, folder / "absent" / path.name)

        return [
            replace(
                job,
                model=None if job.model is None else there(job.model),
                spec=there(job.spec),
                proof=None if job.proof is None else folder / f"{i}.proof",
                several=tuple((name, there(path)) for name, path in job.several),
            )
            for i, job in enumerate(task)
        ]

    def back(self, message: Message, task: Sequence[Job], moved: Sequence[Job]) -> Message:
        """See `Servant`: with the names of the list's own files, and the proof in it."""
        if isinstance(message, int):
            return message
        i, outcome = message
        job, there = task[i], moved[i]
        text = outcome.note.message
        for old, new in zip((*there.models, there.spec), (*job.models, job.spec), strict=True):
            text = text.replace(str(old), str(new))
        proof = there.proof.read_bytes() if there.proof is not None and there.proof.exists() else None
        return i, replace(outcome, note=replace(outcome.note, message=text), proof=proof)


class EngineWorker(Worker):
    """Solves jobs with the real engine. The processes of a machine share its memory."""

    CACHED_BYTES = 512 << 20
    TOGETHER = 16

    def __init__(self, options: Options) -> None:
        self._options, self._beside = options, 1
        self._models: OrderedDict[Path, Model] = OrderedDict()

    def prepare(self, beside: int) -> None:
        """Imports what every job needs."""
        self._beside = beside
        process.keep_freed_memory()
        process.wait_without_spinning()
        import verifier.engine  # noqa: F401 (brings everything)

    def solve(self, job: Job) -> JobOutcome:
        """Loads (or reuses) the network, parses the specification and runs the engine."""
        started = time.monotonic()
        budget = Budget.of(job.timeout, memory_limit(self._options.memory, self._beside))
        spec = read_spec(job.spec)
        model = load(in_order(job.several, spec)) if job.model is None else self._load(job.model)
        if job.proof is None:
            result = solve(model, spec, self._options, budget)
        else:
            files = job.model or job.several, job.spec
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
        budget = Budget.of(longest, memory_limit(self._options.memory, self._beside))
        solve_together(model, questions, self._options, budget, settled)

    def _load(self, path: Path) -> Model:
        """The network of a file, from the cache if it is there; the least recently used ones make room."""
        if path not in self._models:
            self._models[path] = load(path)
        self._models.move_to_end(path)
        while len(self._models) > 1 and sum(len(model.bytes) for model in self._models.values()) > self.CACHED_BYTES:
            self._models.popitem(last=False)
        return self._models[path]


def _attempt(worker: Worker, job: Job) -> JobOutcome:
    started = time.monotonic()
    try:
        return worker.solve(job)
    except (SecateurError, VnnLibError) as error:
        message = " ".join(str(error).split())
    except Exception as error:  # whatever it was, the other instances go on
        message = f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"
    return JobOutcome("error", time.monotonic() - started, Note(message))
