"""Workers for the list runner without an engine; what a job does is in its names."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verifier.command.worker import Job, JobOutcome, Note, Tell, Worker
from verifier.errors import ModelError


@dataclass
class FakeWorker(Worker):
    """`log` collects a line per started process and job, `pause` makes every job take that long."""

    log: Path
    pause: float = 0.0

    def prepare(self, beside: int) -> None:
        self._note("process")
        with self.log.with_name("pids").open("a") as stream:
            stream.write(f"{os.getpid()}\n")

    def solve(self, job: Job) -> JobOutcome:
        self._note(job.vnnlib)
        time.sleep(self.pause)
        match job.onnx:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "exit":
                os._exit(3)
            case "hang":
                time.sleep(3600)
            case "raise":
                raise RuntimeError("two\nlines")
            case "refuse":
                raise ModelError("not a network")
            case "sat":
                return JobOutcome("sat", 0.25, Note("found"), "((X_0 1.0)\n (Y_0 2.0))\n")
        return JobOutcome("unsat", 0.5, Note("proven"))

    def _note(self, text: str) -> None:
        with self.log.open("a") as stream:
            stream.write(text + "\n")


@dataclass
class TogetherWorker(FakeWorker):
    """Takes four jobs of a network at once, and tells of the first before it does what `then` says."""

    then: str = "crash"

    @property
    def together(self) -> int:
        return 4

    def solve_together(self, jobs: Sequence[Job], tell: Tell) -> None:
        self._note(f"together {len(jobs)}")
        tell(jobs[0], JobOutcome("sat", 0.1, Note("found"), "((X_0 1.0)\n (Y_0 2.0))\n"))
        match self.then:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hang":
                time.sleep(3600)
            case "raise":
                raise MemoryError
            case "all":
                for job in jobs[1:]:
                    tell(job, JobOutcome("unsat", 0.1))


@dataclass
class BrokenWorker(Worker):
    """Dies before it is ready."""

    def prepare(self, beside: int) -> None:
        os._exit(7)

    def solve(self, job: Job) -> JobOutcome:
        raise AssertionError("never ready")


def jobs(*names: str, timeout: float = 60.0) -> list[Job]:
    return [Job("cat", onnx, f"p{i}.vnnlib", Path(onnx), Path(f"p{i}"), timeout) for i, onnx in enumerate(names)]
